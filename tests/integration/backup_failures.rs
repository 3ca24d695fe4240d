//! `teslamate-backup FILE` on a bad day: no file, no temporary file, the cause in its own words, the right exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::server::{Options, bin_dir, is_root};
use crate::support::{Outcome, Run, Server, Site};

const FORMATS: [&str; 4] = ["out/a.sql", "out/a.sql.gz", "out/a.sql.zst", "out/a.dump"];

fn site_on(server: &Server, database: &str) -> Site {
    let site = Site::new(server, database);
    fs::create_dir(site.path("out")).unwrap();
    site
}

fn site(hint: &str) -> (&'static Server, Site, String) {
    let server = Server::shared();
    let database = server.teslamate(hint);
    (server, site_on(server, &database), database)
}

/// Fails the test unless it ended with this code and these words, and no file of any kind was left.
#[track_caller]
fn left_nothing(site: &Site, outcome: Outcome, code: i32, words: &str) {
    let outcome = outcome.expect(code).says(words);
    assert!(outcome.stderr.contains("state: "), "no state is said: {}", outcome.stderr);
    assert_eq!(site.files("out"), Vec::<String>::new(), "{}", outcome.stderr);
}

/// A `pg_dump` that does something else first; the other programs are the real ones.
fn fake_pg_dump(site: &Site, body: &str) -> Run {
    let tools = site.path("tools");
    fs::create_dir_all(&tools).unwrap();
    for program in ["pg_dump", "pg_restore", "psql"] {
        let real = bin_dir().join(program);
        let body = if program == "pg_dump" { body } else { "" };
        let script = format!(
            "#!/bin/bash\n[ \"$1\" = --version ] && exec {0} --version\nreal={0}\n{body}\nexec {0} \"$@\"\n",
            real.display()
        );
        fs::write(tools.join(program), script).unwrap();
        fs::set_permissions(tools.join(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    site.command("teslamate-backup").env("GLOVEBOX_DATABASE_TOOLS", &tools)
}

#[test]
fn r01_a_server_that_cannot_be_reached_leaves_nothing() {
    let (_, site, _) = site("unreachable");
    for name in FORMATS {
        let run = site.command("teslamate-backup").env("DATABASE_PORT", "5999").arg(name);
        left_nothing(&site, run.outcome(), 12, "no server listens at");
        let run = site.command("teslamate-backup").env("DATABASE_NAME", "nothing_here").arg(name);
        left_nothing(&site, run.outcome(), 12, "there is no database \"nothing_here\"");
    }
}

#[test]
fn r02_a_pg_dump_that_dies_half_way_leaves_nothing() {
    let (_, site, _) = site("dies");
    for (ending, words) in [("exit 3", "exit status: 3"), ("kill -9 $$", "signal: 9"), ("kill -SEGV $$", "signal: 11")]
    {
        for bytes in [0, 1, 500, 40_000] {
            for name in FORMATS {
                let run = fake_pg_dump(&site, &format!("$real \"$@\" 2>/dev/null | head -c {bytes}; {ending}"));
                left_nothing(&site, run.arg(name).outcome(), 12, words);
            }
        }
    }
}

#[test]
fn r02_a_pg_dump_that_ends_well_without_the_end_leaves_nothing() {
    let (_, site, _) = site("noend");
    for name in FORMATS {
        let run = fake_pg_dump(&site, "$real \"$@\" 2>/dev/null | head -c 30000; exit 0");
        let outcome = run.arg(name).outcome();
        assert!(matches!(outcome.code, Some(12 | 14)), "{outcome:?}");
        assert_eq!(site.files("out"), Vec::<String>::new());
    }
}

#[test]
fn r04_an_error_of_pg_dump_counts_even_if_it_ends_with_0() {
    let (_, site, _) = site("liar");
    let run = fake_pg_dump(&site, "$real \"$@\"; echo 'pg_dump: error: something was left out' >&2; exit 0");
    left_nothing(&site, run.arg("out/a.sql").outcome(), 12, "something was left out");
}

#[test]
fn r03_a_session_or_server_that_goes_away_leaves_nothing() {
    let server = Server::start(Options::default());
    server.create_teslamate("away", 30_000);
    let site = site_on(&server, "away");
    // A lock holds pg_dump up in the middle of its work.
    let mut holder = server
        .tool("psql")
        .args(["-X", "-d", "away", "-c", "BEGIN; LOCK TABLE updates; SELECT pg_sleep(60)"])
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(400));
    for (name, sql) in [
        (
            "out/a.sql",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'teslamate-backup%' AND query LIKE 'LOCK TABLE%'",
        ),
        (
            "out/a.dump",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'teslamate-backup%' AND query LIKE 'LOCK TABLE%'",
        ),
    ] {
        let child = site.command("teslamate-backup").arg(name).spawn();
        let give_up = Instant::now() + Duration::from_secs(20);
        while server.query("postgres", sql).is_empty() {
            assert!(Instant::now() < give_up, "pg_dump was never seen waiting");
        }
        let output = child.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(12), "{words}");
        assert!(words.contains("terminating connection"), "{words}");
        assert_eq!(site.files("out"), Vec::<String>::new());
    }
    let child = site.command("teslamate-backup").arg("out/a.sql").spawn();
    std::thread::sleep(Duration::from_millis(700));
    server.stop("immediate");
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(12), "{words}");
    assert_eq!(site.files("out"), Vec::<String>::new());
    let _ = holder.wait();
}

#[test]
fn r07_a_role_that_may_not_read_everything_backs_nothing_up() {
    let (server, site, database) = site("rights");
    let role = format!("reader_{database}");
    server.query(
        &database,
        &format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA private TO {role}; \
             GRANT SELECT ON ALL TABLES IN SCHEMA public, private TO {role}; \
             GRANT SELECT ON ALL SEQUENCES IN SCHEMA public, private TO {role}; REVOKE SELECT ON drives FROM {role}"
        ),
    );
    let run = || site.command("teslamate-backup").env("DATABASE_USER", &role);
    for name in FORMATS {
        left_nothing(&site, run().arg(name).outcome(), 12, "permission denied for table drives");
    }
    server.query(&database, &format!("GRANT SELECT ON drives TO {role}; ALTER TABLE cars ENABLE ROW LEVEL SECURITY"));
    left_nothing(&site, run().arg("out/a.sql").outcome(), 12, "row-level security");
}

#[test]
fn r08_a_locked_table_is_not_waited_for_for_ever_and_its_holder_is_named() {
    let (server, site, database) = site("locked");
    let mut holder = server
        .tool("psql")
        .env("PGAPPNAME", "a long migration")
        .args(["-X", "-d", &database, "-c", "BEGIN; LOCK TABLE positions; SELECT pg_sleep(8)"])
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let outcome = site.run("teslamate-backup", &["--lock-wait", "1", "out/a.sql"]);
    assert!(outcome.stderr.contains("a long migration") && outcome.stderr.contains("positions"), "{}", outcome.stderr);
    left_nothing(&site, outcome, 11, "a table was locked for more than 1 s");
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn r10_tables_that_come_and_go_never_make_a_wrong_file() {
    let (server, site, database) = site("ddl");
    let sql =
        "SELECT 'CREATE TABLE t' || n || ' AS SELECT 1', 'DROP TABLE t' || n FROM generate_series(1, 4000) n \\gexec\n";
    fs::write(site.path("ddl.sql"), sql).unwrap();
    let mut busy =
        server.tool("psql").args(["-X", "-q", "-d", &database, "-f"]).arg(site.path("ddl.sql")).spawn().unwrap();
    for number in 0..8 {
        let name = format!("out/{number}.sql");
        let outcome = site.run("teslamate-backup", &[&name]);
        match outcome.code {
            Some(0) => drop(site.run("teslamate-restore", &["--drill", &name]).expect(0)),
            code => {
                assert_eq!(code, Some(12), "{outcome:?}");
                assert!(!site.path(&name).exists());
            }
        }
    }
    busy.kill().unwrap();
    busy.wait().unwrap();
}

#[test]
fn r11_a_damaged_page_stops_the_backup_and_is_named() {
    let mut server = Server::start(Options { initdb: vec!["--data-checksums"], ..Options::default() });
    server.create_teslamate("damaged", 3000);
    let path = server.query("damaged", "CHECKPOINT; SELECT pg_relation_filepath('positions')");
    server.stop("fast");
    let file = server.data().join(path);
    let mut bytes = fs::read(&file).unwrap();
    bytes[8192 + 100..8192 + 4000].fill(0x55);
    fs::write(&file, bytes).unwrap();
    server.boot();
    let site = site_on(&server, "damaged");
    for name in ["out/a.sql", "out/a.dump"] {
        let outcome = site.run("teslamate-backup", &[name]);
        assert!(outcome.stderr.contains("pg_amcheck") && outcome.stderr.contains("positions"), "{}", outcome.stderr);
        left_nothing(&site, outcome, 12, "invalid page in block 1");
    }
}

#[test]
fn r13_a_database_of_unknown_encoding_is_refused() {
    let server = Server::shared();
    let name = server.fresh_name("ascii");
    server.query(
        "postgres",
        &format!(
            "CREATE DATABASE {name} OWNER teslamate TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
        ),
    );
    let site = site_on(server, &name);
    left_nothing(&site, site.run("teslamate-backup", &["out/a.sql"]), 10, "SQL_ASCII");
}

/// A small file system in the installation's `out`, gone with this value.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn new(site: &Site, size: &str) -> Option<Self> {
        if !is_root() {
            println!("SKIPPED: mounting a small file system needs root");
            return None;
        }
        let path = site.path("out");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path).status();
        assert!(status.unwrap().success());
        Some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn r18_a_full_disk_leaves_nothing_and_the_next_run_works() {
    let (_, site, _) = site("full");
    for name in FORMATS {
        let Some(disk) = SmallDisk::new(&site, "60k") else { return };
        left_nothing(&site, site.run("teslamate-backup", &[name]), 13, "No space left on device");
        drop(disk);
        site.run("teslamate-backup", &[name]).expect(0);
        fs::remove_file(site.path(name)).unwrap();
    }
}

#[test]
fn r18_a_limit_on_file_size_leaves_nothing() {
    let (_, site, _) = site("limit");
    for name in ["out/a.sql", "out/a.sql.zst"] {
        let binary = crate::support::binary::path_of("teslamate-backup");
        let line = format!("ulimit -f 20; exec {} --config {} {name}", binary.display(), site.config().display());
        let output = Command::new("/bin/bash").args(["-c", &line]).current_dir(site.path("")).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(13), "{words}");
        assert!(words.contains("File too large"), "{words}");
        assert_eq!(site.files("out"), Vec::<String>::new());
    }
}

#[test]
fn r21_what_killed_runs_leave_is_removed_by_the_next_one_and_no_more() {
    let (_, site, _) = site("killed");
    fs::write(site.path("out/.a.sql.partial"), "not ours").unwrap();
    let mut left = 0;
    for round in 0..20_u64 {
        let mut child = site.command("teslamate-backup").arg("out/a.sql").spawn();
        std::thread::sleep(Duration::from_millis(10 + 6 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!site.path("out/a.sql").exists() || round > 10, "whole or absent");
        let _ = fs::remove_file(site.path("out/a.sql"));
        left = left.max(site.files("out").len());
    }
    assert!(left > 1, "no run was killed while it wrote: the test proved nothing");
    // One that is at work keeps its file.
    site.run("teslamate-backup", &["out/a.sql"]).expect(0);
    assert_eq!(site.files("out"), [".a.sql.partial", "a.sql"]);
}

#[test]
fn r22_the_file_is_synced_before_it_gets_its_name_and_the_directory_after() {
    let (_, site, _) = site("fsync");
    let binary = crate::support::binary::path_of("teslamate-backup");
    let output = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o"])
        .arg(site.path("trace"))
        .arg(binary)
        .arg("--config")
        .arg(site.config())
        .arg("out/a.sql")
        .current_dir(site.path(""))
        .output()
        .expect("strace is missing: install it (Debian: apt-get install strace)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let trace = fs::read_to_string(site.path("trace")).unwrap();
    let at = |what: &dyn Fn(&str) -> bool| trace.lines().position(what).unwrap_or_else(|| panic!("{trace}"));
    let file = at(&|line| line.contains("fsync(") && line.contains(".a.sql.partial."));
    let rename = at(&|line| line.contains("renameat2(") && line.contains("RENAME_NOREPLACE"));
    let directory = at(&|line| line.contains("fsync(") && line.contains("/out>"));
    assert!(file < rename && rename < directory, "{trace}");
}

#[test]
fn r23_flipped_bits_in_a_zst_are_all_found_before_anything_is_loaded() {
    let (server, site, database) = site("bits");
    site.run("teslamate-backup", &["out/a.sql.zst"]).expect(0);
    let bytes = fs::read(site.path("out/a.sql.zst")).unwrap();
    let mut harmless = 0;
    for number in 0..100_usize {
        let mut flipped = bytes.clone();
        let at = bytes.len() * number / 100;
        flipped[at] ^= 1 << (number % 8);
        fs::write(site.path("flipped"), flipped).unwrap();
        let outcome = site.run("teslamate-restore", &["--drill", "flipped"]);
        if outcome.code == Some(0) {
            // Some bits of the format mean nothing: then the text is the same.
            let text = |name: &str| {
                Command::new("zstd")
                    .args(["-dc"])
                    .stdin(fs::File::open(site.path(name)).unwrap())
                    .output()
                    .unwrap()
                    .stdout
            };
            assert_eq!(text("flipped"), text("out/a.sql.zst"), "byte {at}");
            harmless += 1;
            continue;
        }
        assert!(matches!(outcome.code, Some(10 | 14)), "byte {at}: {outcome:?}");
        assert!(!outcome.stderr.contains("loading"), "byte {at} was only found while loading: {}", outcome.stderr);
    }
    assert!(harmless < 10, "{harmless} of 100 flips were not seen");
    assert_eq!(server.databases(&format!("{database}_")), Vec::<String>::new());
}

#[test]
fn r83_a_signal_at_any_time_leaves_nothing_and_says_which() {
    let (server, site, database) = site("signals");
    for (round, signal) in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].iter().cycle().take(18).enumerate() {
        let name = FORMATS[round % 4];
        let child = site.command("teslamate-backup").arg(name).spawn();
        std::thread::sleep(Duration::from_millis(30 + 8 * round as u64));
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let _ = kill(pid, *signal);
        let sent = Instant::now();
        let output = child.wait_with_output().unwrap();
        assert!(sent.elapsed() < Duration::from_secs(10));
        if output.status.code() == Some(0) {
            fs::remove_file(site.path(name)).unwrap();
        } else {
            let words = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(128 + *signal as i32), "{words}");
            assert!(words.contains(&format!("stopped by {signal}")), "{words}");
        }
        assert_eq!(site.files("out"), Vec::<String>::new());
    }
    no_session_is_left(server, &database);
}

#[track_caller]
fn no_session_is_left(server: &Server, database: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND application_name LIKE 'teslamate-%'"
    );
    let give_up = Instant::now() + Duration::from_secs(10);
    while server.query("postgres", &sql) != "0" {
        assert!(Instant::now() < give_up, "a child is still at work");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn r84_a_killed_run_takes_its_pg_dump_along() {
    let (server, site, database) = site("orphan");
    let mut holder = server
        .tool("psql")
        .args(["-X", "-d", &database, "-c", "BEGIN; LOCK TABLE cars; SELECT pg_sleep(3)"])
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(400));
    let mut child = site.command("teslamate-backup").arg("out/a.sql").spawn();
    std::thread::sleep(Duration::from_millis(700));
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND query LIKE 'LOCK TABLE%' AND application_name LIKE 'teslamate-%'"
    );
    assert_eq!(server.query("postgres", &waiting), "1", "pg_dump is not waiting: the test proves nothing");
    child.kill().unwrap();
    child.wait().unwrap();
    holder.wait().unwrap();
    no_session_is_left(server, &database);
}

#[test]
fn r81_two_backups_at_once_are_one_too_many() {
    let (server, site, database) = site("twice");
    let mut holder = server
        .tool("psql")
        .args(["-X", "-d", &database, "-c", "BEGIN; LOCK TABLE cars; SELECT pg_sleep(3)"])
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(400));
    let first = site.command("teslamate-backup").arg("out/a.sql").spawn();
    std::thread::sleep(Duration::from_millis(700));
    let outcome = site.run("teslamate-backup", &["out/b.sql"]).expect(11);
    assert!(outcome.stderr.contains(&format!("teslamate-backup pid {}", first.id())), "{}", outcome.stderr);
    assert!(first.wait_with_output().unwrap().status.success());
    holder.wait().unwrap();
    assert_eq!(site.files("out"), ["a.sql"]);
}
