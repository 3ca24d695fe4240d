//! A `pg_dump` or a server that misbehaves in the middle of a backup; what is retried, and what never is.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::dumps::{Case, FORMATS, load};
use crate::support::probe::{self, Random, eventually, pg_dump_of, runs, signal};
use crate::support::server::Options;
use crate::support::{Outcome, Server};

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
    // Among the rows, as `2>&1` puts it there. sed stays alive for as long as pg_dump writes.
    case.fake_pg_dump(server, "$REAL \"$@\" | sed '/^COPY public.cars /a pg_dump: last built-in OID is 16383'");
    case.fails(case.backup("b.sql"), 12, &["is not a row: it is a message of pg_dump"]);
}

/// Starts a backup and stops its `pg_dump` while it copies the table `noise`.
fn stopped_in_mid_copy(server: &Server, case: &Case, name: &str) -> (std::process::Child, u32, u32) {
    let copying = "FROM pg_stat_activity WHERE query LIKE 'COPY public.noise%' AND state = 'active'";
    for _ in 0..10 {
        let child = case.backup(name).spawn();
        let pg_dump = pg_dump_of(child.id());
        // Asked within the server, which is quicker than any program from outside.
        let wait = format!(
            "DO $$ DECLARE n int := 0; BEGIN WHILE NOT EXISTS (SELECT {copying}) AND n < 2000 LOOP \
             PERFORM pg_stat_clear_snapshot(); PERFORM pg_sleep(0.003); n := n + 1; END LOOP; END $$"
        );
        server.query("postgres", &wait);
        signal(pg_dump, Signal::SIGSTOP);
        probe::sleep_ms(50);
        if let Ok(backend) = server.query("postgres", &format!("SELECT pid {copying}")).parse() {
            return (child, pg_dump, backend);
        }
        signal(pg_dump, Signal::SIGCONT);
        assert!(child.wait_with_output().unwrap().status.success());
        fs::remove_file(case.path(name)).unwrap();
    }
    panic!("the copy was always over too soon");
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
        let (child, pg_dump, backend) = stopped_in_mid_copy(&server, &case, name);
        if number % 2 == 0 {
            signal(backend, Signal::SIGKILL);
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
    // The first attempt writes more than a whole dump, in any format, before it fails.
    let much =
        "printf -- '--\\n-- PostgreSQL database dump\\n--\\n'; head -c 1500000 /dev/urandom | base64 | sed 's/^/-- /'";
    let once = format!(
        "{noted}; [ -e '{0}' ] || {{ : > '{0}'; {much}; {gone}; }}; exec $REAL \"$@\"",
        case.site.path("failed").display()
    );
    for name in FORMATS {
        let _ = fs::remove_file(case.site.path("failed"));
        case.fake_pg_dump(server, &once);
        let outcome = case.backup(name).outcome().expect(0).says("once more");
        assert_eq!(calls(&case), 2);
        // Nothing of the first attempt is in the file.
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
    // What went to a pipe cannot be taken back; as long as nothing did, it begins again.
    for (script, expected) in [(format!("{noted}; {much}; {gone}"), 1), (format!("{noted}; {gone}"), 2)] {
        case.fake_pg_dump(server, &script);
        case.site.command("teslamate-backup").arg("-").outcome().expect(12);
        assert_eq!(calls(&case), expected);
    }
}

#[test]
fn r10_tables_made_and_dropped_all_the_time_never_make_a_wrong_file() {
    let server = Server::shared();
    let database = server.teslamate("churn");
    let case = Case::new(server, &database);
    let before = server.content(&database);
    let script = case.site.path("churn.sql");
    let text: String =
        (0..30_000).map(|n| format!("CREATE TABLE churn_{n} (id int PRIMARY KEY);\nDROP TABLE churn_{n};\n")).collect();
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
fn programs_that_cannot_be_used_are_refused_before_anything_is_read() {
    let server = Server::shared();
    let database = server.teslamate("programs");
    let case = Case::new(server, &database);
    case.fake_pg_dump(server, "exit 1");
    let dir = case.site.path("tools");
    fs::remove_file(dir.join("pg_restore")).unwrap();
    case.fails(case.backup("a.sql"), 10, &["there is no pg_restore beside pg_dump", "database.tools"]);
    fs::write(dir.join("pg_dump"), "#!/bin/sh\necho not a version\n").unwrap();
    case.fails(case.backup("a.sql"), 10, &["does not tell its version", "not a version"]);
    fs::remove_file(dir.join("pg_dump")).unwrap();
    case.fails(case.backup("a.sql"), 10, &["there is no pg_dump in", "database.tools"]);
}

#[test]
fn r13_another_encoding_is_dumped_as_utf8() {
    let server = Server::shared();
    let database = server.fresh_name("latin");
    server.query("postgres", &format!("CREATE DATABASE {database} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"));
    server.query(&database, r"CREATE TABLE t (x text); INSERT INTO t VALUES (U&'Gr\00F6\00DFe')");
    let case = Case::new(server, &database);
    case.backup("a.sql").outcome().expect(0);
    assert!(fs::read_to_string(case.path("a.sql")).unwrap().contains("\nGröße\n"));
    assert_eq!(server.query(&load(server, &case.path("a.sql")), "SELECT x FROM t"), "Größe");
}

#[test]
fn memory_does_not_grow_with_tables_or_values() {
    let server = Server::shared();
    let database = server.fresh_name("large");
    server.create_teslamate(&database, 300_000);
    server.query(&database, "CREATE TABLE wide AS SELECT decode(repeat('00ff5c0a', 13107200), 'hex') AS bytes");
    let case = Case::new(server, &database);
    // The text's way, and that of an archive.
    for name in ["a.sql.zst", "a.dump"] {
        let child = case.backup(name).spawn();
        let mut most = 0;
        eventually(120, "the backup ends", || {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kilobytes: u64 = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
            most = most.max(kilobytes);
            !runs(child.id())
        });
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        eprintln!("{name}: {} MB at most", most / 1024);
        assert!((1..200 * 1024).contains(&most), "{name}: {most} kB");
        fs::remove_file(case.path(name)).unwrap();
    }
    server.query("postgres", &format!("DROP DATABASE {database}"));
}
