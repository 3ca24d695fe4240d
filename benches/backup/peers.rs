//! The stock tools that dump: `pg_dump` into restic, and into a directory.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::backups::Tool;
use crate::common::{self, Sample};
use crate::scene::{LIVE, Scene};

/// The directory of the last [`Directory`], to be restored from.
pub const DIRECTORY: &str = "directory";

/// Runs a command for what it prints.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// Removes a directory that may be there.
pub fn clear(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// `pg_dump | restic backup --stdin`, with restic's defaults.
pub struct Restic;

impl Restic {
    pub fn new() -> Self {
        Self
    }

    fn command(scene: &Scene) -> Command {
        let mut restic = scene.tool("restic");
        restic
            .env("RESTIC_REPOSITORY", scene.path("restic"))
            .env("RESTIC_PASSWORD", "a password of some length")
            .env("RESTIC_CACHE_DIR", scene.path("restic-cache"));
        restic
    }

    fn snapshots(scene: &Scene) -> Result<Vec<Value>> {
        Ok(serde_json::from_slice(&output(Self::command(scene).args(["snapshots", "--json"]))?)?)
    }
}

impl Tool for Restic {
    fn name(&self) -> &str {
        super::report::RESTIC
    }

    fn renew(&mut self, scene: &Scene) -> Result<()> {
        clear(&scene.path("restic"))?;
        clear(&scene.path("restic-cache"))?;
        output(Self::command(scene).arg("init")).map(drop)
    }

    fn back_up(&mut self, scene: &Scene) -> Result<Sample> {
        let begin = Instant::now();
        let mut dump = scene.tool("pg_dump").args(["-d", LIVE]).stdout(Stdio::piped()).spawn()?;
        let rows = dump.stdout.take().context("no pipe")?;
        let mut restic = Self::command(scene);
        restic.args(["backup", "--quiet", "--stdin", "--stdin-filename", "teslamate.sql"]).stdin(rows);
        let stored = output(&mut restic);
        // Without a reader it ends as well.
        drop(restic);
        let dumped = dump.wait()?;
        let seconds = begin.elapsed().as_secs_f64();
        stored?;
        ensure!(dumped.success(), "pg_dump: {dumped}");
        let snapshots = Self::snapshots(scene)?;
        let summary = &snapshots.last().context("no snapshot")?["summary"];
        let number = |name: &str| summary[name].as_u64();
        let (read, bytes) = (number("total_bytes_processed"), number("data_added_packed"));
        Ok(Sample { seconds, read, bytes, ..Sample::default() })
    }

    fn is_done(&self, scene: &Scene, backups: u32) -> Result<()> {
        let listed = Self::snapshots(scene)?.len();
        ensure!(listed == usize::try_from(backups)?, "restic lists {listed} snapshots, not {backups}");
        Ok(())
    }
}

/// `pg_dump -Fd -j2`, which makes the whole dump anew each time.
pub struct Directory;

impl Tool for Directory {
    fn name(&self) -> &'static str {
        "pg_dump -Fd -j2 --compress=zstd"
    }

    fn adds(&self) -> bool {
        false
    }

    fn renew(&mut self, scene: &Scene) -> Result<()> {
        clear(&scene.path(DIRECTORY))
    }

    fn back_up(&mut self, scene: &Scene) -> Result<Sample> {
        let path = scene.path(DIRECTORY);
        let mut dump = scene.tool("pg_dump");
        dump.args(["-d", LIVE, "-Fd", "-j2", "--compress=zstd", "-f"]).arg(&path);
        let seconds = common::time(&mut dump)?;
        let files = fs::read_dir(path)?.map(|file| Ok(file?.metadata()?.len()));
        Ok(Sample { seconds, bytes: Some(files.sum::<Result<u64>>()?), ..Sample::default() })
    }

    fn is_done(&self, scene: &Scene, _backups: u32) -> Result<()> {
        output(scene.tool("pg_restore").arg("-l").arg(scene.path(DIRECTORY))).map(drop)
    }
}
