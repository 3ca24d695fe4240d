//! A booted systemd host, from the tree of `tests/host/build`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Whether these tests are left out, said aloud.
pub fn is_left_out(what: &str) -> bool {
    let left_out = std::env::var_os("TEST_SKIP_HOST").is_some_and(|value| value == "1");
    if left_out {
        eprintln!("SKIPPED: {what} (TEST_SKIP_HOST=1)");
    }
    left_out
}

/// The host, gone when dropped.
pub struct Host {
    script: PathBuf,
    dir: TempDir,
    options: Vec<String>,
}

impl Host {
    /// Boots it, with these options of `systemd-nspawn`, such as `--bind=FROM:TO`.
    #[track_caller]
    pub fn start(options: &[String]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/host");
        // On a disk: an overlay's written part may be large.
        let host = Self { script, dir: tempfile::tempdir().unwrap(), options: options.to_vec() };
        host.boot();
        host
    }

    /// Boots it again, as it was left.
    #[track_caller]
    pub fn boot(&self) {
        let mut start = self.command("start");
        start.args(["--owner", &std::process::id().to_string()]).args(&self.options);
        let done = start.output().unwrap();
        assert!(
            done.status.success(),
            "no systemd host: {}provide it, as root, with: tests/host/build (or leave this out with TEST_SKIP_HOST=1)",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    /// A power cut.
    #[track_caller]
    pub fn cut_power(&self) {
        assert!(self.command("kill").status().unwrap().success());
    }

    /// A script of bash, run inside as root.
    pub fn run(&self, script: &str) -> Output {
        self.command("exec").args(["bash", "-c", script]).output().unwrap()
    }

    /// The same for one that must succeed; what it printed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(script);
        let (text, words) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}\n{text}\n{words}");
        text.trim_end().to_owned()
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.script);
        command.arg(verb).arg(self.dir.path()).stdin(Stdio::null());
        command
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Nothing in it is kept, so a power cut is as good as a shutdown, and faster.
        let _ = self.command("kill").status();
    }
}
