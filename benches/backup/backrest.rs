//! pgBackRest, beside the server in its tree and as its account.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::backups::Tool;
use crate::common::Sample;
use crate::peers::{clear, output};
use crate::scene::Scene;

/// Its own advice: what is small goes into one file, and of a large file what changed is stored.
pub const TUNED: &str = "compress-type=zst\ncompress-level=3\nrepo1-bundle=y\nrepo1-block=y\n";

/// What it writes, in the server's directory, since that is what it sees.
fn directory(server: &Path) -> PathBuf {
    server.join("pgbackrest")
}

/// Makes the place for it, with the script that the server archives with.
pub fn install(server: &Path) -> Result<()> {
    let (dir, data) = (directory(server), fs::metadata(server.join("data"))?);
    fs::create_dir(&dir)?;
    chown(&dir, Some(data.uid()), Some(data.gid()))?;
    archive(server, None)
}

/// Archives WAL into the repository of this name, or nowhere: what others write is none of pgBackRest's work, and what it
/// does meanwhile would slow them down.
fn archive(server: &Path, into: Option<&str>) -> Result<()> {
    let script = into.map_or_else(String::new, |name| {
        format!("exec /usr/bin/pgbackrest --config=/mnt/pgbackrest/{name}.conf --stanza=bench archive-push \"$1\"\n")
    });
    let dir = directory(server);
    fs::write(dir.join("archive.new"), script)?;
    fs::rename(dir.join("archive.new"), dir.join("archive"))?;
    Ok(())
}

/// Its full backup first, its incremental one later.
pub struct BackRest {
    /// What its configuration and its repository are called.
    key: &'static str,
    title: &'static str,
    is_first: bool,
}

impl BackRest {
    /// With these lines in its configuration.
    pub fn new(scene: &Scene, key: &'static str, title: &'static str, lines: &str) -> Result<Self> {
        let config = format!(
            "[global]\nrepo1-path=/mnt/pgbackrest/{key}\nrepo1-retention-full=9\nprocess-max=2\nstart-fast=y\n\
             lock-path=/tmp/pgbackrest\nlog-level-file=off\nlog-level-console=warn\n{lines}\
             [bench]\npg1-path=/mnt/data\npg1-socket-path=/mnt/socket\npg1-user=postgres\n"
        );
        fs::write(directory(&scene.server_dir()).join(format!("{key}.conf")), config)?;
        Ok(Self { key, title, is_first: true })
    }

    fn command(&self, scene: &Scene) -> Command {
        let mut command = scene.beside("/usr/bin/pgbackrest");
        command.arg(format!("--config=/mnt/pgbackrest/{}.conf", self.key)).arg("--stanza=bench");
        command
    }

    fn info(&self, scene: &Scene) -> Result<Vec<Value>> {
        let info: Value = serde_json::from_slice(&output(self.command(scene).args(["info", "--output=json"]))?)?;
        info[0]["backup"].as_array().cloned().context("pgbackrest info lists no backups")
    }
}

impl Tool for BackRest {
    fn name(&self) -> &'static str {
        self.title
    }

    fn renew(&mut self, scene: &Scene) -> Result<()> {
        clear(&directory(&scene.server_dir()).join(self.key))?;
        self.is_first = true;
        output(self.command(scene).arg("stanza-create"))?;
        self.prepare(scene)
    }

    /// A backup waits for the WAL segment before its own first one to be in the archive: here it is.
    fn prepare(&mut self, scene: &Scene) -> Result<()> {
        archive(&scene.server_dir(), Some(self.key))?;
        output(self.command(scene).arg("check")).map(drop)
    }

    fn back_up(&mut self, scene: &Scene) -> Result<Sample> {
        let kind = if self.is_first { "full" } else { "incr" };
        let begin = Instant::now();
        output(self.command(scene).arg("backup").arg(format!("--type={kind}")))?;
        let seconds = begin.elapsed().as_secs_f64();
        archive(&scene.server_dir(), None)?;
        self.is_first = false;
        let backups = self.info(scene)?;
        let made = backups.last().context("no backup")?;
        ensure!(made["type"] == kind, "pgBackRest made a backup of another kind: {made}");
        let (read, bytes) = (made["info"]["delta"].as_u64(), made["info"]["repository"]["delta"].as_u64());
        Ok(Sample { seconds, read, bytes, ..Sample::default() })
    }

    fn is_done(&self, scene: &Scene, backups: u32) -> Result<()> {
        let listed = self.info(scene)?.len();
        ensure!(listed == usize::try_from(backups)?, "pgBackRest lists {listed} backups, not {backups}");
        Ok(())
    }
}
