//! Going back on a machine in a bad state: little room on the disk, a state directory that takes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::server::{Options, is_root};
use crate::support::{Outcome, Server, Site};

/// A mounted file system that is gone when this value is.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn tmpfs(on: &Path, options: &str) -> Self {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(on).status().unwrap();
        assert!(status.success());
        Self(on.to_owned())
    }

    fn read_only(directory: &Path) -> Self {
        assert!(Command::new("mount").arg("--bind").arg(directory).arg(directory).status().unwrap().success());
        let mounted = Self(directory.to_owned());
        let status = Command::new("mount").args(["-o", "remount,bind,ro"]).arg(directory).status().unwrap();
        assert!(status.success());
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn skipped() -> bool {
    if !is_root() {
        println!("SKIPPED: mounting a small file system needs root");
    }
    !is_root()
}

/// A server on a small disk with a database of about 100 MB, and an installation with a backup and two dumps of it.
struct Small {
    // In this order: the server ends before its disk goes.
    server: Server,
    site: Site,
    disk: Mounted,
    _dir: tempfile::TempDir,
}

impl Small {
    fn new(megabytes: u32) -> Self {
        let dir = tempfile::Builder::new().prefix("glovebox-disk-").tempdir().unwrap();
        let disk = Mounted::tmpfs(dir.path(), &format!("size={megabytes}m,mode=0777"));
        let server = Server::start(Options { base: Some(dir.path().to_owned()), ..Options::default() });
        server.create_teslamate("small", 600);
        server.query(
            "small",
            "CREATE TABLE ballast AS SELECT i AS id, md5(i::text) || md5((-i)::text) AS note FROM generate_series(1, 700000) i; \
             ALTER TABLE ballast ADD PRIMARY KEY (id)",
        );
        let site = Site::with_repository(&server, "small");
        site.run("teslamate-backup", &[]).expect(0);
        site.run("teslamate-backup", &["a.sql.zst"]).expect(0);
        site.run("teslamate-backup", &["a.dump"]).expect(0);
        server.query("postgres", "CHECKPOINT");
        Self { server, site, disk, _dir: dir }
    }

    fn free(&self) -> u64 {
        let system = rustix::fs::statvfs(&self.disk.0).unwrap();
        (system.f_bavail * system.f_frsize) >> 20
    }

    /// Leaves so many MiB free.
    fn fill_up_to(&self, free: u64) {
        let size = self.free().saturating_sub(free) << 20;
        let path = self.disk.0.join("ballast");
        fs::write(path, vec![0; usize::try_from(size).unwrap()]).unwrap();
    }
}

fn needed(outcome: &Outcome) -> String {
    let line = outcome.stderr.lines().find(|line| line.trim_start().starts_with("needed:"));
    line.unwrap_or_else(|| panic!("{}", outcome.stderr)).trim().to_owned()
}

#[test]
fn k14_a_load_is_stopped_before_the_server_runs_out_of_space() {
    if skipped() {
        return;
    }
    let small = Small::new(700);
    let (server, site) = (&small.server, &small.site);
    small.fill_up_to(120);
    let before = server.content("small");
    for source in ["latest", "./a.sql.zst", "./a.dump"] {
        let refused = site.run("teslamate-restore", &[source, "--drill"]).expect(10).says("no room for");
        assert!(needed(&refused).contains("for the write-ahead log"), "{}", refused.stderr);
        assert!(refused.stderr.contains("--ignore-free-space"), "{}", refused.stderr);
        let stopped = site.run("teslamate-restore", &[source, "--drill", "--ignore-free-space"]).expect(13);
        assert!(stopped.stderr.contains("room runs out"), "{source}: {}", stopped.stderr);
        assert_eq!(server.query("postgres", "SELECT 1"), "1");
        assert_eq!(server.databases("small_"), Vec::<String>::new(), "{source}");
        let log = fs::read_to_string(server.dir().join("log")).unwrap();
        assert!(!log.contains("PANIC") && !log.contains("No space left"), "{source}: {log}");
    }
    assert_eq!(server.content("small"), before);
    assert!(site.systemctl.calls().iter().all(|(_, verb)| verb == "cat"), "{:?}", site.systemctl.calls());
}

#[test]
fn k14_a_load_with_little_room_for_the_log_succeeds_with_checkpoints() {
    if skipped() {
        return;
    }
    let small = Small::new(900);
    // Enough for the copy and a short log, and less than for the copy and all of its log.
    small.fill_up_to(350);
    let outcome = small.site.run("teslamate-restore", &["latest", "--drill"]).expect(0);
    let log = fs::read_to_string(small.server.dir().join("log")).unwrap();
    assert!(!log.contains("PANIC") && !log.contains("No space left"), "{}: {log}", outcome.stderr);
}

#[test]
fn k14_a_backup_needs_the_same_room_with_and_without_a_live_database() {
    if skipped() {
        return;
    }
    let small = Small::new(900);
    let (server, site) = (&small.server, &small.site);
    site.run("teslamate-restore", &["latest", "--yes", "--no-safety-backup"]).expect(0);
    let previous = server.databases("small_before_").remove(0);
    small.fill_up_to(100);
    let live = site.run("teslamate-restore", &["latest", "--yes"]).expect(10);
    for words in ["--undo", &format!("DROP DATABASE \"{previous}\";"), "grow the file system"] {
        assert!(live.stderr.contains(words), "{words}: {}", live.stderr);
    }
    server.query("postgres", "ALTER DATABASE small RENAME TO small_aside");
    let gone = site.run("teslamate-restore", &["latest", "--yes"]).expect(10);
    assert_eq!(needed(&live), needed(&gone));
    server.query("postgres", "DROP DATABASE small_aside");
    server.query("postgres", &format!("DROP DATABASE {previous}"));
    server.query("postgres", "CHECKPOINT");
    fs::remove_file(small.disk.0.join("ballast")).unwrap();
    site.run("teslamate-restore", &["latest", "--yes"]).expect(0);
    assert_eq!(server.query("small", "SELECT count(*) FROM ballast"), "700000");
}

#[test]
fn k14_a_slot_that_keeps_the_log_is_counted_and_named() {
    if skipped() {
        return;
    }
    let small = Small::new(900);
    small.server.query("postgres", "SELECT pg_create_physical_replication_slot('left', true)");
    small.fill_up_to(150);
    let outcome = small.site.run("teslamate-restore", &["latest", "--drill"]).expect(10);
    assert!(outcome.stderr.contains("pg_replication_slots"), "{}", outcome.stderr);
}

/// Restores in every way, and undoes; the state directory is as it is.
fn go_back_in_every_way(server: &Server, site: &Site, before: &std::collections::BTreeMap<String, String>) {
    let dump = fs::read(site.path("a.sql")).unwrap();
    for arguments in [
        &["./a.sql", "--yes"][..],
        &["latest", "--drill"],
        &["latest", "--yes"],
        &["./a.dump", "--drill"],
        &["latest", "--data-only", "--table", "cars", "--yes"],
    ] {
        server.query(&site.database, "UPDATE cars SET name = 'wrong'");
        let outcome = site.run("teslamate-restore", arguments).expect(0);
        if !arguments.contains(&"--drill") {
            assert_eq!(&server.content(&site.database), before, "{arguments:?}: {}", outcome.stderr);
        }
    }
    site.command("teslamate-restore").args(&["-", "--drill"]).input(dump).outcome().expect(0);
    server.query(&site.database, "UPDATE cars SET name = 'wrong'");
    site.run("teslamate-restore", &["latest", "--yes"]).expect(0);
    site.run("teslamate-restore", &["--undo", "--yes"]).expect(0);
    assert_eq!(server.query(&site.database, "SELECT DISTINCT name FROM cars"), "wrong");
}

/// An installation with a backup and two dumps; the service does not run.
fn with_dumps(server: &Server, hint: &str) -> Site {
    let site = Site::with_repository(server, &server.teslamate(hint));
    fs::write(site.systemctl.dir().join("state"), "inactive").unwrap();
    site.run("teslamate-backup", &[]).expect(0);
    for file in ["a.sql", "a.dump"] {
        site.run("teslamate-backup", &[file]).expect(0);
    }
    site
}

#[test]
fn k14_a_read_only_state_directory_does_not_keep_from_going_back() {
    if skipped() {
        return;
    }
    let server = Server::shared();
    let site = with_dumps(server, "readonly");
    let before = server.content(&site.database);
    {
        let _mounted = Mounted::read_only(&site.state_dir());
        site.run("teslamate-restore", &["latest", "--drill"]).expect(0).says("this run is not noted in the ledger");
        go_back_in_every_way(server, &site, &before);
    }
    // What was put into the repository meanwhile is found by the next backup.
    let outcome = site.run("teslamate-backup", &[]).expect(0);
    assert!(site.backups().len() > 2, "{}", outcome.stderr);
}

#[test]
fn k14_a_full_or_missing_state_directory_does_not_keep_from_going_back() {
    if skipped() {
        return;
    }
    let server = Server::shared();
    for (hint, options) in [("full", "size=64k,mode=0777"), ("empty", "size=4k,ro")] {
        let site = with_dumps(server, hint);
        let before = server.content(&site.database);
        let _mounted = Mounted::tmpfs(&site.state_dir(), options);
        let _ = fs::write(site.path("state/ballast"), vec![0; 1 << 20]);
        go_back_in_every_way(server, &site, &before);
    }
}

#[test]
fn k14_a_damaged_ledger_does_not_keep_from_going_back() {
    let server = Server::shared();
    let site = with_dumps(server, "damaged");
    let before = server.content(&site.database);
    fs::write(site.path("state/ledger.sqlite"), "this is no ledger").unwrap();
    go_back_in_every_way(server, &site, &before);
    assert_eq!(fs::read_to_string(site.path("state/ledger.sqlite")).unwrap(), "this is no ledger", "it is left alone");
}

#[test]
fn k14_a_read_only_repository_can_be_restored_from() {
    if skipped() {
        return;
    }
    let server = Server::shared();
    let site = with_dumps(server, "readrepo");
    let before = server.content(&site.database);
    server.query(&site.database, "UPDATE cars SET name = 'wrong'");
    let _mounted = Mounted::read_only(&site.repository());
    site.run("teslamate-restore", &["latest", "--drill"]).expect(0);
    site.run("teslamate-restore", &["latest", "--yes", "--no-safety-backup"]).expect(0);
    assert_eq!(server.content(&site.database), before);
}
