//! PostgreSQL 17, 18 and 19 from the trees of `tests/host/build`, beside the machine's own server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Site;

/// A server of one of them, in a directory of its own; it ends with the test.
pub struct TreeServer {
    major: u32,
    dir: tempfile::TempDir,
}

/// PostgreSQL 17, which comes with the host: see [`TreeServer::start`].
pub type Server17 = TreeServer;

fn host(script: &str, major: u32) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host").join(script));
    command.arg(major.to_string());
    command
}

impl TreeServer {
    /// PostgreSQL 17.
    pub fn start(settings: &[&str]) -> Option<Self> {
        Self::of(17, settings)
    }

    /// A server of this major version; `None`, said aloud, where these tests are left out or Debian does not have it.
    pub fn of(major: u32, settings: &[&str]) -> Option<Self> {
        if std::env::var_os("TEST_SKIP_HOST").is_some() {
            println!("SKIPPED: TEST_SKIP_HOST is set, so there is no PostgreSQL {major}");
            return None;
        }
        let dir = tempfile::Builder::new().prefix(&format!("gb{major}-")).tempdir().unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let output = host("pg-tools", major).arg(dir.path().join("tools")).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        if major > 17 && words.contains("no tree in") {
            println!("SKIPPED: {}", words.trim());
            return None;
        }
        assert!(output.status.success(), "{words}");
        let server = Self { major, dir };
        server.start_again(settings);
        Some(server)
    }

    /// Ends every process of it at once, and starts it again.
    pub fn crash(&self, settings: &[&str]) {
        self.with_files(settings, "true");
    }

    /// Keeps its files as they are at this moment, as a snapshot of the file system does.
    pub fn save(&self, settings: &[&str]) {
        self.with_files(settings, "rm -rf saved && cp -a data saved");
    }

    /// Sets it back to what was saved.
    pub fn set_back(&self, settings: &[&str]) {
        self.with_files(settings, "rm -rf data && cp -a saved data");
    }

    fn with_files(&self, settings: &[&str], script: &str) {
        let dir = self.dir.path();
        assert!(host("pg-server", self.major).arg("kill").arg(dir).status().unwrap().success());
        // Until its parent has collected it, the dead server's number counts as that of a running one.
        for lock in ["data/postmaster.pid", "socket/.s.PGSQL.5432.lock"] {
            fs::remove_file(dir.join(lock)).unwrap();
        }
        assert!(Command::new("sh").args(["-c", script]).current_dir(dir).status().unwrap().success());
        self.start_again(settings);
    }

    fn start_again(&self, settings: &[&str]) {
        let owner = std::process::id().to_string();
        let mut start = host("pg-server", self.major);
        let output =
            start.arg("start").arg(self.dir.path()).args(["--owner", &owner]).args(flags(settings)).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "provide it, as root, with tests/host/build: {words}");
    }

    /// Runs a program in the tree, as its server's account, with the server's directory at `/mnt`.
    pub fn run(&self, command: &[&str]) -> std::process::Output {
        host("pg-server", self.major).arg("run").arg(self.dir.path()).args(command).output().unwrap()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// One of the client programs, connected as the superuser `postgres`.
    pub fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(self.tools().join(program));
        command.env("PGHOST", self.socket()).env("PGUSER", "postgres").env("LC_ALL", "C.UTF-8");
        command
    }

    pub fn tools(&self) -> PathBuf {
        self.dir.path().join("tools")
    }

    #[track_caller]
    pub fn query(&self, database: &str, sql: &str) -> String {
        let output = self
            .tool("psql")
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// An installation with a database of TeslaMate on this server.
    pub fn site(&self, tools: Option<&Path>) -> Site {
        let site = Site::at(&self.socket(), 5432, "teslamate");
        let tools = tools.map_or_else(String::new, |dir| format!("tools = {:?}\n", dir.display().to_string()));
        let text = format!(
            "state_dir = {:?}\n[database]\nname = \"teslamate\"\nuser = \"postgres\"\nos_user = \"root\"\nsocket_dir = {:?}\n{tools}",
            site.state_dir().display().to_string(),
            self.socket().display().to_string()
        );
        site.write_config(&text);
        site
    }

    /// A database `teslamate` with 2,000 positions.
    pub fn make_teslamate(&self) {
        self.query("postgres", "CREATE ROLE teslamate SUPERUSER LOGIN");
        self.fill_teslamate(2000);
    }

    /// The same for a server that has the role already, with this many positions.
    pub fn fill_teslamate(&self, positions: u32) {
        self.query("postgres", "CREATE DATABASE teslamate OWNER teslamate");
        for file in ["schema.sql", "data.sql"] {
            let output = self
                .tool("psql")
                .env("PGUSER", "teslamate")
                .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", &format!("positions={positions}"), "-d", "teslamate"])
                .arg("-f")
                .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/teslamate").join(file))
                .output()
                .unwrap();
            assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

impl Drop for TreeServer {
    fn drop(&mut self) {
        let _ = host("pg-server", self.major).arg("stop").arg(self.dir.path()).output();
    }
}

/// Settings as `postgres` takes them.
fn flags<'a>(settings: &'a [&str]) -> Vec<&'a str> {
    settings.iter().flat_map(|setting| ["-c", setting]).collect()
}
