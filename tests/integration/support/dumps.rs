//! An installation with a directory for its dumps, and what a failure has to leave alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::binary::{Outcome, Run, Site};
use super::probe::{self, listing};
use super::server::{Server, conninfo};

/// The four ways to write a dump.
pub const FORMATS: [&str; 4] = ["a.sql", "a.sql.gz", "a.sql.zst", "a.dump"];

/// An installation with a directory `out` for its dumps.
pub struct Case {
    pub site: Site,
    pub out: PathBuf,
}

impl Case {
    pub fn new(server: &Server, database: &str) -> Self {
        let site = Site::new(server, database);
        let out = site.path("out");
        fs::create_dir(&out).unwrap();
        Self { site, out }
    }

    /// The backup to `out/NAME`.
    pub fn backup(&self, name: &str) -> Run {
        self.site.command("teslamate-backup").arg(format!("out/{name}"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    /// Uses this script for `pg_dump`.
    pub fn fake_pg_dump(&self, server: &Server, script: &str) {
        let tools = probe::tools(&self.site.path(""), script);
        self.site.configure(&format!("port = {}\ntools = {tools:?}", server.port()), "");
    }

    /// Runs a backup that must fail, and looks at all that a failure has to leave alone.
    #[track_caller]
    pub fn fails(&self, run: Run, code: i32, words: &[&str]) -> Outcome {
        let before = listing(&self.out);
        let outcome = run.outcome();
        self.failed(outcome, code, words, &before)
    }

    #[track_caller]
    pub fn failed(&self, outcome: Outcome, code: i32, words: &[&str], before: &BTreeMap<String, String>) -> Outcome {
        let outcome = outcome.expect(code);
        for words in words {
            assert!(outcome.stderr.contains(words), "not said: {words}\nstderr: {}", outcome.stderr);
        }
        assert!(outcome.stderr.contains("state:"), "the state is not said\nstderr: {}", outcome.stderr);
        assert_eq!(outcome.text(), "", "standard output of a failure");
        assert_eq!(&listing(&self.out), before, "the directory of the dump\nstderr: {}", outcome.stderr);
        outcome
    }
}

/// Loads a dump into a new database with stock tools alone, and returns the database's name.
#[track_caller]
pub fn load(server: &Server, dump: &Path) -> String {
    let database = server.fresh_name("loaded");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    let name = dump.to_string_lossy();
    let mut command = if name.ends_with(".dump") {
        server.tool("pg_restore")
    } else {
        let mut psql = server.tool("psql");
        psql.args(["-X", "-q", "-1", "-v", "ON_ERROR_STOP=1"]);
        psql
    };
    command.args(["-d", &conninfo(&database)]);
    if name.ends_with(".dump") {
        command.arg("--exit-on-error").arg(dump);
    } else {
        let (program, package) = match name.rsplit('.').next() {
            Some("gz") => ("gunzip", "gzip"),
            Some("zst") => ("zstd", "zstd"),
            _ => ("cat", "coreutils"),
        };
        let mut unpack = Command::new(probe::need(program, package));
        if program != "cat" {
            unpack.args(["-d", "-c"]);
        }
        let text = unpack.arg(dump).output().unwrap();
        assert!(text.status.success(), "{program}: {}", String::from_utf8_lossy(&text.stderr));
        let plain = dump.with_extension("unpacked");
        fs::write(&plain, text.stdout).unwrap();
        command.arg("-f").arg(plain);
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}: {}", dump.display(), String::from_utf8_lossy(&output.stderr));
    database
}
