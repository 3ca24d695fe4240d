//! `teslamate-backup` into a repository on a bad day: nothing is listed that is not a backup, what was there stays,
//! and the next backup succeeds.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::probe::{Random, eventually, signal};
use crate::support::server::{Options, bin_dir, is_root};
use crate::support::tree_server::Server17;
use crate::support::{Outcome, Server, Site};

/// Names of everything in a directory of the repository.
fn names(site: &Site, directory: &str) -> BTreeSet<String> {
    fs::read_dir(site.repository().join(directory))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Fails the test unless the run ended so, and left the backups that were there and no other.
#[track_caller]
fn left_as_it_was(site: &Site, before: &[String], outcome: Outcome, code: i32, words: &str) {
    let outcome = outcome.expect(code).says(words);
    assert!(outcome.stderr.contains("state: "), "no state is said: {}", outcome.stderr);
    assert_eq!(site.backups(), before, "{}", outcome.stderr);
    let snapshots: BTreeSet<String> = before.iter().cloned().collect();
    assert_eq!(names(site, "snapshots"), snapshots, "{}", outcome.stderr);
}

fn finish(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code(),
        signal: std::os::unix::process::ExitStatusExt::signal(&output.status),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn r07_a_table_that_may_not_be_read_fails_the_backup_by_name() {
    let server = Server::shared();
    let database = server.fresh_name("rights");
    server.query("postgres", &format!("CREATE DATABASE {database}"));
    server.query("postgres", &format!("CREATE ROLE {database}_reader LOGIN"));
    server.query(
        &database,
        &format!(
            "CREATE TABLE open (i int); CREATE TABLE closed (i int); INSERT INTO closed VALUES (1); \
             GRANT SELECT ON open TO {database}_reader"
        ),
    );
    let site = Site::with_repository(server, &database);
    let run = || site.command("teslamate-backup").env("DATABASE_USER", format!("{database}_reader")).outcome();
    left_as_it_was(&site, &[], run(), 12, "permission denied for table closed");
    server.query(
        &database,
        &format!("GRANT SELECT ON closed TO {database}_reader; ALTER TABLE closed ENABLE ROW LEVEL SECURITY"),
    );
    left_as_it_was(&site, &[], run(), 12, "row-level security policy for table \"closed\"");
}

#[test]
fn r09_a_table_is_not_altered_while_a_backup_reads_it() {
    let (server, site) = slow();
    let child = site.command("teslamate-backup").spawn();
    stop_in_the_middle(&server, &child);
    let altered = std::thread::spawn({
        let connection = (server.dir().to_owned(), server.port());
        move || {
            let (dir, port) = connection;
            let mut psql = Command::new(bin_dir().join("psql"));
            psql.args(["-X", "-q", "-U", "postgres", "-d", "teslamate", "-h"]).arg(dir).args(["-p", &port.to_string()]);
            psql.args(["-c", "ALTER TABLE zlong ADD COLUMN late int DEFAULT 7", "-c", "DROP TABLE zlong"]);
            psql.status().unwrap().success()
        }
    });
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'ALTER TABLE zlong%' AND wait_event_type = 'Lock'";
    eventually(20, "the change waits", || server.query("postgres", waiting) == "1");
    signal(child.id(), Signal::SIGCONT);
    finish(child).expect(0);
    assert!(altered.join().unwrap());
    let shown = site.run("teslamate-backup", &["show", "latest"]).expect(0).text();
    assert!(shown.contains("public.zlong") && shown.contains("150,000"), "{shown}");
}

#[test]
fn r10_a_change_of_the_schema_that_comes_in_between_makes_a_backup_begin_again() {
    let server = Server::shared();
    let database = server.teslamate("between");
    let site = Site::with_repository(server, &database);
    server.query(&database, "CREATE TABLE a (i int); INSERT INTO a SELECT generate_series(1, 100)");
    // Tables are locked in the order of their names: the backup has `a` and waits for `updates`.
    let blocker = server.hold(&database, "LOCK TABLE updates IN ACCESS EXCLUSIVE MODE");
    let backup = site.command("teslamate-backup").spawn();
    let waiting = |table: &str| {
        let count = format!("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass");
        eventually(20, "somebody waits", || server.query(&database, &count) == "1");
    };
    waiting("updates");
    let change = std::thread::spawn({
        let database = database.clone();
        move || Server::shared().query(&database, "ALTER TABLE a ADD COLUMN late int DEFAULT 7")
    });
    waiting("a");
    drop(blocker);
    finish(backup).expect(0);
    change.join().unwrap();
    let shown = site.run("teslamate-backup", &["show", "latest", "--json"]).expect(0).json();
    let tables = shown["manifest"]["tables"].as_array().unwrap();
    let found = tables.iter().find(|table| table["name"] == "a").unwrap();
    assert_eq!(found["columns"].as_array().unwrap().len(), 2, "rows and definitions are of one moment");
}

#[test]
fn r08_a_table_that_stays_locked_is_told_with_its_name() {
    let server = Server::shared();
    let database = server.teslamate("held");
    let site = Site::with_repository(server, &database);
    let _blocker = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
    let run = site.run("teslamate-backup", &["--lock-wait", "1"]);
    left_as_it_was(&site, &[], run, 11, "cannot lock table \"public\".\"cars\"");
}

/// A server of its own, with a table that takes a while to read.
fn slow() -> (Server, Site) {
    let server = Server::start(Options::default());
    server.create_teslamate("teslamate", 3000);
    server.query(
        "teslamate",
        "CREATE TABLE zlong AS SELECT i, repeat(md5(i::text), 20) AS t FROM generate_series(1, 150000) i",
    );
    let site = Site::with_repository(&server, "teslamate");
    (server, site)
}

/// A session that copies the last table, or proves its name between two of its chunks.
const READING: &str = "application_name LIKE 'teslamate-backup%' AND query LIKE '%zlong%'";

/// Stops the process while the last table is being copied, so that what comes next meets it there on a busy machine too.
fn stop_in_the_middle(server: &Server, child: &Child) {
    let copying = format!("SELECT count(*) FROM pg_stat_activity WHERE {READING} AND query LIKE 'COPY%'");
    eventually(30, "rows are copied", || server.query("postgres", &copying) != "0");
    signal(child.id(), Signal::SIGSTOP);
    let reading = format!("SELECT count(*) FROM pg_stat_activity WHERE {READING}");
    assert_ne!(server.query("postgres", &reading), "0", "the table was read before the process was stopped");
}

#[test]
fn r03_a_server_that_goes_down_or_a_session_that_is_cut_leaves_no_backup_and_the_next_one_succeeds() {
    let (mut server, site) = slow();
    site.run("teslamate-backup", &[]).expect(0);
    let before = site.backups();

    let child = site.command("teslamate-backup").spawn();
    stop_in_the_middle(&server, &child);
    server.query("postgres", &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {READING}"));
    signal(child.id(), Signal::SIGCONT);
    left_as_it_was(&site, &before, finish(child), 12, "cannot read table \"public\".\"zlong\"");

    let child = site.command("teslamate-backup").spawn();
    stop_in_the_middle(&server, &child);
    server.stop("immediate");
    signal(child.id(), Signal::SIGCONT);
    left_as_it_was(&site, &before, finish(child), 12, "cannot read table");
    server.boot();
    site.run("teslamate-backup", &[]).expect(0);
    assert_eq!(site.backups().len(), 2);
    site.run("teslamate-backup", &["check", "--read-data"]).expect(0);
}

#[test]
fn a_signal_ends_a_backup_and_leaves_no_pending_snapshot() {
    let (server, site) = slow();
    for (sent, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let child = site.command("teslamate-backup").spawn();
        stop_in_the_middle(&server, &child);
        let started = Instant::now();
        signal(child.id(), sent);
        signal(child.id(), Signal::SIGCONT);
        left_as_it_was(&site, &[], finish(child), code, "stopped by SIG");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    let runs = site.run("teslamate-backup", &["list", "--runs", "--json"]).expect(0).json();
    assert!(runs["runs"].as_array().unwrap().iter().all(|run| run["status"] == "stopped"), "{runs}");
    site.run("teslamate-backup", &[]).expect(0);
}

/// Fifty times: the repository opens and is whole, nothing partial is listed, the next backup succeeds.
#[test]
fn r42_killed_anywhere_a_backup_leaves_nothing_that_is_listed() {
    let server = Server::shared();
    let database = server.teslamate("killed");
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    let mut random = Random::new("r42_killed_anywhere");
    let change = |round: u64| {
        server.query(&database, &format!("UPDATE positions SET odometer = odometer + 1 WHERE id % 7 = {}", round % 7));
    };
    change(0);
    // The shortest of a few: the machine may be busy with something else.
    let timed = |round| {
        change(round);
        let started = Instant::now();
        site.run("teslamate-backup", &[]).expect(0);
        started.elapsed()
    };
    let mut whole = (1..4).map(timed).min().unwrap();
    let (mut killed, mut ended, mut died) = (0, 0, 0);
    for round in 0..50_u32 {
        change(round.into());
        let known: Vec<String> = site.backups();
        let mut child = site.command("teslamate-backup").spawn();
        // Spread over the run, with some play.
        let jitter = Duration::from_millis(random.below(20));
        let started = Instant::now();
        std::thread::sleep(whole.mul_f64(0.95) * round / 50 + jitter);
        let _ = child.kill();
        let outcome = finish(child);
        let listed = site.backups();
        if outcome.signal == Some(9) {
            killed += 1;
        } else {
            ended += 1;
            whole = whole.min(started.elapsed());
        }
        // It had ended, or had nothing left to do but to say so; or noted one before it, which had been killed there.
        assert!(listed.starts_with(&known), "round {round}: {known:?}, then {listed:?}");
        assert!(listed.len() <= known.len() + 2, "round {round}: {known:?}, then {listed:?}");
        site.run("teslamate-backup", &["check"]).expect(0);
        if round % 10 == 9 {
            // The next one finds what was finished but not noted, and removes what was not finished.
            site.run("teslamate-backup", &[]).expect(0);
            let mut snapshots = names(&site, "snapshots");
            // What was killed while it wrote a file left one without a name, which goes when it is a day old.
            snapshots.retain(|name| !name.ends_with("-tmp-"));
            assert_eq!(snapshots, site.backups().into_iter().collect::<BTreeSet<_>>(), "round {round}");
            let runs = site.run("teslamate-backup", &["list", "--runs", "--json"]).expect(0).json();
            let runs = runs["runs"].as_array().unwrap();
            assert!(runs.iter().all(|run| run["status"] != "running"), "a run that died is shown as such: {runs:?}");
            died = runs.iter().filter(|run| run["status"] == "died").count();
        }
    }
    println!("{killed} killed, {ended} had ended, {died} of the last 50 runs are noted as died");
    assert!(killed >= 35 && died > 0, "only {killed} were killed before they ended: the test proved too little");
    site.run("teslamate-backup", &["check", "--read-data"]).expect(0);
    let copy = server.fresh_name("killed_copy");
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-restore", &["latest", "--into", &copy]).expect(0);
    assert_eq!(server.content(&copy), server.content(&database));
}

#[test]
fn r29_a_full_disk_leaves_no_backup_and_room_lets_the_next_one_succeed() {
    if !is_root() {
        println!("SKIPPED: mounting a small file system needs root");
        return;
    }
    let (_server, site) = slow();
    fs::create_dir(site.repository()).unwrap();
    let mount = |options: &str| {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(site.repository());
        assert!(mount.status().unwrap().success());
    };
    mount("size=3m,mode=0777");
    let _unmount = Unmount(site.repository());
    let outcome = site.run("teslamate-backup", &[]);
    let outcome = outcome.expect(13).says("No space left on device").says("free: ");
    assert!(outcome.stderr.contains("no backup was saved"), "{}", outcome.stderr);
    assert!(site.backups().is_empty() && names(&site, "snapshots").is_empty());
    mount("remount,size=200m");
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-backup", &["check", "--read-data"]).expect(0);
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn two_backups_at_once_are_one_too_many() {
    let (server, site) = slow();
    let child = site.command("teslamate-backup").spawn();
    stop_in_the_middle(&server, &child);
    site.run("teslamate-backup", &[]).expect(11).says("another run is at work");
    signal(child.id(), Signal::SIGCONT);
    finish(child).expect(0);
    assert_eq!(site.backups().len(), 1);
}

#[test]
fn r34_a_backup_that_leans_on_a_rotten_pack_is_not_published() {
    let server = Server::shared();
    let database = server.teslamate("rotten");
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    let before = site.backups();
    for directory in fs::read_dir(site.repository().join("data")).unwrap().flatten() {
        for pack in fs::read_dir(directory.path()).unwrap().flatten() {
            let mut bytes = fs::read(pack.path()).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            fs::set_permissions(pack.path(), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            fs::write(pack.path(), bytes).unwrap();
        }
    }
    left_as_it_was(&site, &before, site.run("teslamate-backup", &[]), 14, "damaged");
    site.run("teslamate-backup", &["check", "--read-data"]).expect(14).says(&before[0][..8]);
}

/// As docs/repository.md, "A damaged pack", has it: the real restic takes out what is rotten, and backups go on.
#[test]
fn r34_what_is_rotten_is_taken_out_and_backups_go_on() {
    let Some(tools) = Server17::start(&[]) else { return };
    let server = Server::shared();
    let database = server.teslamate("mended");
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    // The largest pack is the one with rows.
    let mut packs = Vec::new();
    for directory in fs::read_dir(site.repository().join("data")).unwrap().flatten() {
        packs.extend(fs::read_dir(directory.path()).unwrap().flatten().map(|entry| entry.path()));
    }
    let pack = packs.into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[1000] ^= 4;
    fs::set_permissions(&pack, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&pack, bytes).unwrap();
    let name = pack.file_name().unwrap().to_str().unwrap();
    site.run("teslamate-backup", &["check", "--read-data"]).expect(14);
    let mut restic = Command::new(tools.tools().join("restic"));
    restic.arg("-r").arg(site.repository()).arg("--password-file").arg(site.path("password"));
    let output = restic.args(["--no-cache", "repair", "packs", name]).current_dir(site.path("")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    site.run("teslamate-backup", &["--full-read"]);
    site.run("teslamate-backup", &["--full-read"]).expect(0);
    site.run("teslamate-backup", &["check", "--read-data"]).expect(0);
    for id in site.backups() {
        let copy = server.fresh_name("mended_copy");
        site.run("teslamate-restore", &[&id, "--into", &copy]).expect(0);
        assert_eq!(server.content(&copy), server.content(&database), "the older one is whole again too");
    }
}
