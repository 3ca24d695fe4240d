//! A `pg_dump`, a server or a database that fails: nothing is left, and the child's own words are in the message.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;

use super::{Case, FORMATS, load};
use crate::support::probe::{self, Random, descendant, eventually, signal};
use crate::support::server::{Options, bin_dir, is_root};
use crate::support::{Outcome, Server};

#[test]
fn r01_no_connection_leaves_no_file_and_the_old_one_as_it_was() {
    let server = Server::shared();
    let database = server.teslamate("connect");
    let case = Case::new(server, &database);
    fs::write(case.path("a.sql"), "a good backup").unwrap();
    case.site.configure("port = 1", "");
    for name in FORMATS {
        case.fails(case.backup(name).arg("--force"), 12, &["no server listens at", "nothing was read"]);
    }
    case.site.configure(&format!("port = {}", server.port()), "");
    case.fails(case.backup("b.sql").arg("--dbname=absent"), 12, &["there is no database \"absent\""]);
}

#[test]
fn r02_a_pg_dump_that_dies_after_any_number_of_bytes_leaves_no_file() {
    let server = Server::shared();
    let database = server.teslamate("dies");
    let case = Case::new(server, &database);
    let (text, archive) = (case.site.path("real.sql"), case.site.path("real.dump"));
    server.pg_dump(&database, &text, &[]);
    server.pg_dump(&database, &archive, &["-Fc"]);
    let mut random = Random::new("r02");
    for number in 0..40 {
        let name = FORMATS[number % 4];
        let real = if name.ends_with(".dump") { &archive } else { &text };
        let size = fs::metadata(real).unwrap().len();
        // None, all, and anything between; ends with an error, a signal, or both words and an error.
        let bytes = [0, size, random.below(size), random.below(size)][(number / 4) % 4];
        let (end, words) = [
            ("exit 3", "exit status: 3"),
            ("kill -9 $$", "signal: 9"),
            ("echo 'pg_dump: error: it broke' >&2; exit 1", "pg_dump: error: it broke"),
        ][number % 3];
        case.fake_pg_dump(server, &format!("head -c {bytes} '{}'; {end}", real.display()));
        case.fails(case.backup(name), 12, &["pg_dump failed", words]);
    }
}

#[test]
fn r02_a_pg_dump_that_ends_well_without_the_end_of_the_dump_leaves_no_file() {
    let server = Server::shared();
    let database = server.teslamate("no_end");
    let case = Case::new(server, &database);
    let (text, archive) = (case.site.path("real.sql"), case.site.path("real.dump"));
    server.pg_dump(&database, &text, &[]);
    server.pg_dump(&database, &archive, &["-Fc"]);
    let mut random = Random::new("r02");
    for number in 0..12 {
        let name = FORMATS[number % 4];
        let (real, code, words) = if name.ends_with(".dump") {
            (&archive, 14, "the archive is cut or changed")
        } else {
            (&text, 12, "pg_dump ended, but what it wrote cannot be used")
        };
        // The last line but one is the end marker; an archive ends with the offsets of its tables.
        let bytes = random.below(fs::metadata(real).unwrap().len() - 200);
        case.fake_pg_dump(server, &format!("head -c {bytes} '{}'", real.display()));
        case.fails(case.backup(name), code, &[words]);
    }
    case.fake_pg_dump(server, ":");
    case.fails(case.backup("a.sql"), 12, &["is not the begin of a dump"]);
    case.fake_pg_dump(server, &format!("cat '{}'; echo 'SELECT 1;'", text.display()));
    case.fails(case.backup("a.sql"), 12, &["comes after the end of the dump"]);
}

#[test]
fn r04_an_error_in_words_counts_whatever_the_exit_status_says() {
    let server = Server::shared();
    let database = server.teslamate("words");
    let case = Case::new(server, &database);
    for name in FORMATS {
        case.fake_pg_dump(server, "$REAL \"$@\"; echo 'pg_dump: error: something was left out' >&2; exit 0");
        case.fails(case.backup(name), 12, &["pg_dump: error: something was left out"]);
        case.fake_pg_dump(server, "$REAL \"$@\"; echo 'pg_dump: warning: nothing that matters' >&2; exit 0");
        case.backup(name).outcome().expect(0);
    }
    let message = "echo 'pg_dump: last built-in OID is 16383'";
    case.fake_pg_dump(server, &format!("$REAL \"$@\" | awk '{{print}} /^COPY public.cars/ {{system(\"{message}\")}}'"));
    let message = "echo \"pg_dump: last built-in OID is 16383\"";
    case.fake_pg_dump(server, &format!("$REAL \"$@\" | while IFS= read -r line; do printf '%s\\n' \"$line\"; case $line in 'COPY public.cars '*) {message};; esac; done"));
    case.fails(case.backup("b.sql"), 12, &["is not a row: it is a message of pg_dump"]);
}

#[test]
fn r03_a_server_that_dies_in_mid_copy_leaves_no_file() {
    let mut server = Server::start(Options::default());
    server.create_teslamate("teslamate", 500);
    server.query(
        "teslamate",
        "CREATE TABLE noise AS SELECT i, repeat(sha256(i::text::bytea)::text, 400) AS t FROM generate_series(1, 2000) i",
    );
    let before = server.content("teslamate");
    for (number, name) in FORMATS.into_iter().enumerate() {
        let case = Case::new(&server, "teslamate");
        let child = case.backup(name).spawn();
        let pg_dump = descendant(child.id(), "pg_dump");
        let copying = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'COPY public.noise%' AND state = 'active'";
        let mut backend = String::new();
        eventually(20, "pg_dump copies the table", || {
            backend = server.query("postgres", copying);
            !backend.is_empty()
        });
        signal(pg_dump, Signal::SIGSTOP);
        probe::sleep_ms(50);
        assert_eq!(server.query("postgres", copying), backend, "the copy was over too soon: the test proved nothing");
        if number % 2 == 0 {
            signal(backend.parse().unwrap(), Signal::SIGKILL);
        } else {
            server.stop("immediate");
        }
        signal(pg_dump, Signal::SIGCONT);
        let output = child.wait_with_output().unwrap();
        let outcome = Outcome {
            code: output.status.code(),
            signal: None,
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        let none = std::collections::BTreeMap::new();
        let outcome = case.failed(outcome, 12, &["pg_dump failed", "noise"], &none);
        let words = ["server closed the connection", "terminating connection", "crash of another server process"];
        assert!(words.iter().any(|words| outcome.stderr.contains(words)), "{}", outcome.stderr);
        if number % 2 == 1 {
            server.boot();
        }
        eventually(20, "the server recovers", || {
            server.tool("psql").args(["-XAtqc", "SELECT 1", "postgres"]).output().unwrap().status.success()
        });
        assert_eq!(server.content("teslamate"), before);
    }
}

#[test]
fn r07_a_role_that_may_not_read_everything_gets_no_backup_at_all() {
    let server = Server::shared();
    let database = server.teslamate("rights");
    server.query(
        &database,
        "CREATE ROLE rights_reader LOGIN; GRANT USAGE ON SCHEMA private TO rights_reader; \
         GRANT SELECT ON ALL TABLES IN SCHEMA public, private TO rights_reader; \
         GRANT SELECT ON ALL SEQUENCES IN SCHEMA public, private TO rights_reader",
    );
    let case = Case::new(server, &database);
    let config = fs::read_to_string(case.site.config()).unwrap();
    case.site.write_config(&config.replace("user = \"teslamate\"", "user = \"rights_reader\""));
    case.backup("allowed.sql").outcome().expect(0);
    server.query(&database, "REVOKE SELECT ON geofences FROM rights_reader");
    for name in FORMATS {
        case.fails(case.backup(name), 12, &["permission denied for table geofences"]);
    }
    server.query(&database, "GRANT SELECT ON geofences TO rights_reader; ALTER TABLE cars ENABLE ROW LEVEL SECURITY");
    for name in FORMATS {
        case.fails(case.backup(name), 12, &["row-level security", "\"cars\"", "BYPASSRLS"]);
    }
}

/// Calls of the fake `pg_dump` that were noted.
fn calls(case: &Case) -> usize {
    let text = fs::read_to_string(case.site.path("calls")).unwrap_or_default();
    let _ = fs::remove_file(case.site.path("calls"));
    text.lines().count()
}

#[test]
fn r10_a_table_that_vanishes_costs_one_more_attempt_and_never_a_wrong_file() {
    let server = Server::shared();
    let database = server.teslamate("vanishes");
    let case = Case::new(server, &database);
    let before = server.content(&database);
    let gone = "echo 'pg_dump: error: query failed: ERROR:  relation \"public.gone\" does not exist' >&2; exit 1";
    let noted = format!("echo >> '{}'", case.site.path("calls").display());
    let once = format!(
        "{noted}; [ -s '{0}' ] || {{ echo > '{0}'; $REAL \"$@\"; $REAL \"$@\"; {gone}; }}; exec $REAL \"$@\"",
        case.site.path("failed").display()
    );
    for name in FORMATS {
        let _ = fs::remove_file(case.site.path("failed"));
        case.fake_pg_dump(server, &once);
        let outcome = case.backup(name).outcome().expect(0).says("once more");
        assert_eq!(calls(&case), 2);
        // Nothing of the first attempt, which was longer, is in the file.
        assert!(outcome.text().contains(&probe::sha256(&case.path(name))));
        assert_eq!(server.content(&load(server, &case.path(name))), before, "{name}");
        fs::remove_file(case.path(name)).unwrap();
        let _ = fs::remove_file(case.path(name).with_extension("unpacked"));

        case.fake_pg_dump(server, &format!("{noted}; $REAL \"$@\"; {gone}"));
        case.fails(case.backup(name), 12, &["relation \"public.gone\" does not exist"]);
        assert_eq!(calls(&case), 2, "one more attempt, not more");
        case.fake_pg_dump(server, &format!("{noted}; echo 'pg_dump: error: something else' >&2; exit 1"));
        case.fails(case.backup(name), 12, &["something else"]);
        assert_eq!(calls(&case), 1, "nothing else is tried again");
    }
    // What went to a pipe cannot be taken back.
    case.fake_pg_dump(server, &format!("{noted}; {gone}"));
    case.site.command("teslamate-backup").arg("-").outcome().expect(12);
    assert_eq!(calls(&case), 1);
}

#[test]
fn r10_tables_made_and_dropped_all_the_time_never_make_a_wrong_file() {
    let server = Server::shared();
    let database = server.teslamate("churn");
    let case = Case::new(server, &database);
    let before = server.content(&database);
    let script = case.site.path("churn.sql");
    let text: String = (0..30_000).map(|n| format!("CREATE TABLE churn_{n} (id int PRIMARY KEY);\nDROP TABLE churn_{n};\n")).collect();
    fs::write(&script, text).unwrap();
    let mut churn = server.tool("psql").args(["-X", "-q", "-d", &database, "-f"]).arg(&script).spawn().unwrap();
    let mut whole = 0;
    for number in 0..16 {
        let name = format!("{number}.{}", ["sql", "dump", "sql.gz", "sql.zst"][number % 4]);
        let outcome = case.backup(&name).outcome();
        assert!(matches!(outcome.code, Some(0 | 12)), "{:?}: {}", outcome.code, outcome.stderr);
        assert_eq!(outcome.code == Some(0), case.path(&name).exists(), "{}", outcome.stderr);
        if outcome.code == Some(0) && number % 4 < 2 {
            whole += 1;
            let mut content = server.content(&load(server, &case.path(&name)));
            content.retain(|table, _| !table.starts_with("public.churn_"));
            assert_eq!(content, before, "{name}");
        }
    }
    assert!(churn.try_wait().unwrap().is_none(), "the tables stopped changing: the test proved nothing");
    churn.kill().unwrap();
    churn.wait().unwrap();
    assert!(whole > 0);
    assert!(probe::partials(&case.out).is_empty());
}

#[test]
fn r11_a_damaged_page_is_named_and_leaves_no_file() {
    use std::os::unix::fs::FileExt;
    let mut server = Server::start(Options { initdb: vec!["--data-checksums"], ..Options::default() });
    server.create_teslamate("teslamate", 1000);
    let file = server.data().join(server.query("teslamate", "CHECKPOINT; SELECT pg_relation_filepath('positions')"));
    server.stop("fast");
    let heap = fs::OpenOptions::new().write(true).open(&file).unwrap();
    heap.write_all_at(&[0x5a; 4096], 3 * 8192 + 100).unwrap();
    server.boot();
    let case = Case::new(&server, "teslamate");
    fs::write(case.path("kept.sql"), "a good backup").unwrap();
    for name in FORMATS {
        case.fails(case.backup(name), 12, &["positions", "invalid page in block 3", "pg_amcheck", "keep every backup"]);
    }
}

/// PostgreSQL 17 in the tree of `tests/host/build`, or why not.
struct Newer {
    dir: tempfile::TempDir,
}

const HOST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host");

impl Newer {
    fn start() -> Option<Self> {
        if !is_root() {
            eprintln!("SKIPPED: a server of version 17 (its tree needs root)");
            return None;
        }
        if std::env::var_os("GLOVEBOX_SKIP_HOST").is_some_and(|value| value == "1") {
            eprintln!("SKIPPED: a server of version 17 (GLOVEBOX_SKIP_HOST=1)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let started = Command::new(format!("{HOST}/pg17-server"))
            .arg("start")
            .arg(dir.path())
            .args(["--owner", &std::process::id().to_string()])
            .output()
            .unwrap();
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        Some(Self { dir })
    }

    fn psql(&self, sql: &str) {
        let output = Command::new(bin_dir().join("psql"))
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"])
            .arg(self.dir.path().join("socket"))
            .args(["-c", sql, "postgres"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The directory of version 17's client programs.
    fn tools(&self) -> PathBuf {
        let dir = self.dir.path().join("tools17");
        let made = Command::new(format!("{HOST}/pg17-tools")).arg(&dir).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        dir
    }
}

impl Drop for Newer {
    fn drop(&mut self) {
        let _ = Command::new(format!("{HOST}/pg17-server")).arg("stop").arg(self.dir.path()).output();
    }
}

#[test]
fn r05_r06_the_client_of_the_servers_own_version_is_chosen_and_an_older_one_refused() {
    let Some(newer) = Newer::start() else { return };
    newer.psql("CREATE TABLE t AS SELECT 1 AS x");
    let server = Server::shared();
    let (tools17, tools15) = (newer.tools(), bin_dir());
    let case = Case::new(server, "postgres");
    let config = |more: &str| {
        case.site.write_config(&format!(
            "state_dir = {:?}\n[database]\nname = \"postgres\"\nuser = \"postgres\"\nos_user = \"root\"\nsocket_dir = {:?}\n{more}\n",
            case.site.state_dir(),
            newer.dir.path().join("socket")
        ));
    };
    let major = server.major();
    assert!(major < 17, "the machine's own server is to be the older one");
    config(&format!("tools = {tools15:?}"));
    for name in FORMATS {
        let words = [&format!("pg_dump {major}."), "cannot read a server of version 17.", "database.tools", "NixOS"];
        case.fails(case.backup(name), 10, &words.map(|words| words as &str));
    }
    let written_by = |name: &str| {
        let text = fs::read_to_string(case.path(name)).unwrap();
        text.lines().find_map(|line| line.strip_prefix("-- Dumped by pg_dump version ")).unwrap().to_owned()
    };
    let path = format!("{}:{}:/usr/bin:/bin", tools17.display(), tools15.display());
    config("");
    case.backup("seventeen.sql").env("PATH", &path).outcome().expect(0);
    assert!(written_by("seventeen.sql").starts_with("17."));
    case.backup("seventeen.dump").env("PATH", &path).outcome().expect(0);
    // The same directories, and the older server: its own client again, although a newer one comes first.
    case.site.write_config(&format!(
        "state_dir = {:?}\n[database]\nname = \"postgres\"\nuser = \"postgres\"\nos_user = \"root\"\nsocket_dir = {:?}\n",
        case.site.state_dir(),
        server.dir()
    ));
    case.backup("own.sql").env("PATH", &path).outcome().expect(0);
    assert!(written_by("own.sql").starts_with(&format!("{major}.")));
}

#[test]
fn programs_that_cannot_be_used_are_refused_before_anything_is_read() {
    let server = Server::shared();
    let database = server.teslamate("programs");
    let case = Case::new(server, &database);
    case.fake_pg_dump(server, "exit 1");
    let dir = case.site.path("tools");
    fs::remove_file(dir.join("psql")).unwrap();
    case.fails(case.backup("a.sql"), 10, &["there is no psql beside pg_dump", "database.tools"]);
    fs::write(dir.join("pg_dump"), "#!/bin/sh\necho not a version\n").unwrap();
    case.fails(case.backup("a.sql"), 10, &["does not tell its version", "not a version"]);
    fs::remove_file(dir.join("pg_dump")).unwrap();
    case.fails(case.backup("a.sql"), 10, &["there is no pg_dump in", "database.tools"]);
}
