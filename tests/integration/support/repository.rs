//! An installation with a repository, and the real restic.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use super::binary::Site;
use super::probe::need;
use super::server::Server;

pub const PASSWORD: &str = "a password of some length";

/// What `[repository]` says of an installation's own, in `repository` beside its configuration.
pub fn section(site: &Site) -> String {
    fs::write(site.path("password"), format!("{PASSWORD}\n")).unwrap();
    format!("[repository]\nlocation = {:?}\npassword_file = {:?}\n", site.path("repository"), site.path("password"))
}

impl Site {
    /// An installation with a repository that is not made yet. Chunks are small, so that there are several.
    pub fn with_repository(server: &Server, database: &str) -> Self {
        let site = Self::new(server, database);
        let section = section(&site);
        site.configure(&format!("port = {}\n[backup]\nchunk_blocks = 16\n{section}", server.port()), "");
        site
    }

    pub fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    /// The ids of the backups that are listed, the oldest first.
    #[track_caller]
    pub fn backups(&self) -> Vec<String> {
        let listed = self.run("teslamate-backup", &["list", "--json"]).expect(0).json();
        listed["backups"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Runs the real restic on the repository.
    pub fn restic(&self, arguments: &[&str]) -> Output {
        let mut restic = Command::new(need("restic", "restic"));
        restic.arg("-r").arg(self.repository()).arg("--password-file").arg(self.path("password")).arg("--no-cache");
        restic.args(arguments).output().unwrap()
    }
}
