//! The swap: one transaction, a second of downtime, an undo, and a service that runs afterwards.

use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Server, Site};

/// A database with a dump of it, `a.dump`, after which drives were lost.
fn lossy(hint: &str) -> (&'static Server, Site, String) {
    let server = Server::shared();
    let database = server.teslamate(hint);
    let site = Site::new(server, &database);
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    server.query(&database, "UPDATE positions SET drive_id = NULL; DELETE FROM drives");
    (server, site, database)
}

fn drives(server: &Server, database: &str) -> String {
    server.query(database, "SELECT count(*) > 0 FROM drives")
}

#[test]
fn the_service_is_stopped_for_the_swap_alone_and_runs_again() {
    let (server, site, database) = lossy("service");
    let outcome = site.run("teslamate-restore", &["--yes", "--json", "a.dump"]).expect(0);
    let json = outcome.json();
    let calls = site.systemctl.calls();
    let verbs: Vec<&str> = calls.iter().map(|(_, verb)| verb.as_str()).collect();
    assert_eq!(verbs, ["stop", "start"]);
    assert!(json["downtime_seconds"].as_f64().unwrap() <= json["seconds"].as_f64().unwrap());
    assert_eq!(site.systemctl.state(), "active");
    assert_eq!(site.files("state"), Vec::<String>::new(), "a note was left");
    assert_eq!(drives(server, &database), "t");
    assert!(json["previous"].as_str().unwrap().starts_with(&format!("{database}_before_")));
}

#[test]
fn a_service_that_was_not_running_stays_so() {
    for state in ["inactive", "missing"] {
        let (server, site, database) = lossy("stopped");
        fs::write(site.systemctl.dir().join("state"), state).unwrap();
        site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0);
        assert_eq!(site.systemctl.state(), state);
        assert_eq!(site.systemctl.calls(), []);
        assert_eq!(drives(server, &database), "t");
    }
}

#[test]
fn r75_a_service_that_does_not_stop_is_put_back_and_nothing_is_swapped() {
    let (server, site, database) = lossy("nostop");
    site.systemctl.fail("stop");
    site.run("teslamate-restore", &["--yes", "a.dump"]).expect(10).says("Job for teslamate.service failed");
    assert_eq!(site.systemctl.state(), "active");
    assert_eq!(drives(server, &database), "f");
    assert_eq!(server.databases(&format!("{database}_")), Vec::<String>::new());
}

#[test]
fn r75_a_service_that_does_not_start_is_an_alarm_with_the_command() {
    let (server, site, database) = lossy("nostart");
    site.systemctl.fail("start");
    let outcome = site.run("teslamate-restore", &["--yes", "a.dump"]).expect(15).says("does not start again");
    assert!(outcome.stderr.contains("systemctl start teslamate.service"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("teslamate-restore --undo"), "{}", outcome.stderr);
    assert_eq!(drives(server, &database), "t", "the swap took place, and the message says so");
    // The way back works although the application does not start on what is there.
    site.run("teslamate-restore", &["--undo", "--yes"]).expect(15).says("does not start again");
    assert_eq!(drives(server, &database), "f", "what was live before is live again");
    // The next run of a restore command tries again.
    fs::remove_file(site.systemctl.dir().join("fail-start")).unwrap();
    site.run("teslamate-restore", &["--drill", "a.dump"]).expect(0).says("had left stopped");
    assert_eq!(site.systemctl.state(), "active");
}

#[test]
fn commands_instead_of_systemd_stop_and_start_the_service() {
    let (server, site, _) = lossy("commands");
    let log = site.path("state/log");
    site.configure(
        &format!("port = {}", server.port()),
        &format!(
            "[service]\nstop = [\"/bin/sh\", \"-c\", \"echo stop $USER >> {0}\"]\nstart = [\"/bin/sh\", \"-c\", \"echo start >> {0}\"]",
            log.display()
        ),
    );
    site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0);
    assert_eq!(fs::read_to_string(&log).unwrap().replace(' ', ""), "stop\nstart\n");
    assert_eq!(site.systemctl.calls(), []);
}

#[test]
fn r69_clients_that_reconnect_at_once_do_not_prevent_the_swap() {
    let (server, site, database) = lossy("clients");
    let stop = Arc::new(AtomicBool::new(false));
    let (answered, reconnected) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut psql = server.tool("psql");
            psql.args([
                "-X",
                "-A",
                "-t",
                "-d",
                &database,
                "-c",
                "SELECT count(*) FROM cars",
                "-c",
                "SELECT pg_sleep(30)",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
            let (stop, answered, reconnected) = (stop.clone(), answered.clone(), reconnected.clone());
            std::thread::spawn(move || {
                // Bounded by time in any case: the loop ends with the test, or after a minute.
                let give_up = Instant::now() + Duration::from_mins(1);
                while !stop.load(Ordering::Relaxed) && Instant::now() < give_up {
                    let mut child = psql.spawn().expect("psql starts");
                    answered.fetch_add(1, Ordering::Relaxed);
                    while child.try_wait().unwrap().is_none() {
                        if stop.load(Ordering::Relaxed) {
                            child.kill().unwrap();
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    reconnected.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let outcome = site.run("teslamate-restore", &["--yes", "--json", "a.dump"]);
    let ended = reconnected.load(Ordering::Relaxed);
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    let outcome = outcome.expect(0);
    assert!(answered.load(Ordering::Relaxed) > 8 && ended >= 8, "no client was ever ended: the test proved nothing");
    assert_eq!(drives(server, &database), "t");
    assert!(outcome.json()["downtime_seconds"].as_f64().unwrap() < 60.0);
}

#[test]
fn r72_what_is_bound_to_the_database_is_found_before_the_service_is_stopped() {
    let (server, site, database) = lossy("bound");
    server.query(
        &database,
        "BEGIN; INSERT INTO updates (start_date, car_id) VALUES (now(), 1); PREPARE TRANSACTION 'left behind'",
    );
    site.run("teslamate-restore", &["--yes", "a.dump"]).expect(10).says("prepared transaction 'left behind'");
    assert_eq!(site.systemctl.calls(), []);
    assert_eq!(server.databases(&format!("{database}_")), Vec::<String>::new());
    server.query(&database, "ROLLBACK PREPARED 'left behind'");
    site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0);
}

#[test]
fn r16_properties_of_the_database_survive() {
    let server = Server::shared();
    let database = server.fresh_name("prop's \"erties");
    let quoted = format!("\"{}\"", database.replace('"', "\"\""));
    server.teslamate("unused");
    let space = tempfile::Builder::new().prefix("glovebox-space-").tempdir_in(server.dir()).unwrap();
    if crate::support::server::is_root() {
        let user = nix::unistd::User::from_name("postgres").unwrap().unwrap();
        nix::unistd::chown(space.path(), Some(user.uid), Some(user.gid)).unwrap();
    }
    for sql in [
        format!("CREATE TABLESPACE side LOCATION '{}'", space.path().display()),
        "CREATE ROLE owner_of_it".into(),
        "CREATE ROLE \"Grafana reader\" LOGIN".into(),
        format!(
            "CREATE DATABASE {quoted} OWNER owner_of_it TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8' \
             TABLESPACE side CONNECTION LIMIT 33"
        ),
        format!("COMMENT ON DATABASE {quoted} IS 'it''s mine'"),
        format!("REVOKE ALL ON DATABASE {quoted} FROM PUBLIC"),
        format!("GRANT CONNECT, TEMPORARY ON DATABASE {quoted} TO \"Grafana reader\" WITH GRANT OPTION"),
        format!("ALTER DATABASE {quoted} SET TimeZone TO 'Europe/Berlin'"),
        format!("ALTER DATABASE {quoted} SET search_path TO \"$user\", public, \"odd, name\""),
        format!("ALTER ROLE \"Grafana reader\" IN DATABASE {quoted} SET statement_timeout TO '30s'"),
        format!("ALTER DATABASE {quoted} SET custom.setting TO 'a=b ''c'''"),
    ] {
        server.query("postgres", &sql);
    }
    let schema = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/teslamate/schema.sql");
    server.run_file(&database, &schema, &[]);
    let literal = database.replace('\'', "''");
    let properties = || {
        server.query(
            "postgres",
            &format!(
                "SELECT to_jsonb(d) - 'oid' - 'datfrozenxid' - 'datminmxid' - 'datacl', \
                 (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(d.datacl) a), \
                 shobj_description(d.oid, 'pg_database'), \
                 (SELECT string_agg(format('%s %s', setrole, setconfig), ';' ORDER BY setrole) FROM pg_db_role_setting \
                   WHERE setdatabase = d.oid) FROM pg_database d WHERE datname = '{literal}'"
            ),
        )
    };
    let before = properties();
    assert!(before.contains("it's mine") && before.contains("Europe/Berlin"), "{before}");
    let site = Site::new(server, &database);
    for name in ["a.dump", "a.sql"] {
        site.run("teslamate-backup", &[name]).expect(0);
        site.run("teslamate-restore", &["--yes", "--allow-other", name]).expect(0);
        assert_eq!(properties(), before, "{name}");
    }
    // And back: what comes back by an undo is what was there.
    site.run("teslamate-restore", &["--yes", "--undo"]).expect(0);
    assert_eq!(properties(), before);
}

#[test]
fn r74_undo_brings_the_previous_database_back_and_can_be_undone() {
    let (server, site, database) = lossy("undo");
    let lost = server.content(&database);
    site.run("teslamate-restore", &["--yes", "--undo"]).expect(10).says("no earlier database");
    site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0);
    let restored = server.content(&database);
    assert_ne!(lost, restored);
    site.run("teslamate-restore", &["--yes", "--undo"]).expect(0);
    assert_eq!(server.content(&database), lost);
    let json = site.run("teslamate-restore", &["--yes", "--undo", "--json"]).expect(0).json();
    assert_eq!(server.content(&database), restored);
    assert_eq!(json["undone"], true);
    let verbs: Vec<String> = site.systemctl.calls().into_iter().map(|(_, verb)| verb).collect();
    assert_eq!(verbs, ["stop", "start", "stop", "start", "stop", "start"]);
    assert_eq!(server.databases(&format!("{database}_")).len(), 1);
}

#[test]
fn as_many_previous_databases_are_kept_as_the_settings_say() {
    let (server, site, database) = lossy("keep");
    // Names that only look like ours are left alone.
    let others = [format!("{database}_before_christmas"), format!("{database}_before_20260101_0000000")];
    for other in &others {
        server.query("postgres", &format!("CREATE DATABASE {other}"));
    }
    let previous = || {
        let all = server.databases(&format!("{database}_"));
        all.into_iter().filter(|name| !others.contains(name)).collect::<Vec<_>>()
    };
    for _ in 0..3 {
        site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0);
    }
    assert_eq!(previous().len(), 1, "the default is 1");
    site.configure(&format!("port = {}", server.port()), "restore.keep_previous = 3");
    let first = previous();
    for _ in 0..3 {
        site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0);
    }
    let kept = previous();
    assert_eq!(kept.len(), 3);
    assert!(!kept.contains(&first[0]), "the oldest goes first");
    assert_eq!(server.databases(&format!("{database}_before_")).len(), 5, "what is not ours stays");
}

#[test]
fn a_restore_asks_for_the_name_and_needs_yes_without_a_terminal() {
    let (server, site, database) = lossy("ask");
    site.run("teslamate-restore", &["a.dump"]).expect(2).says("only replaced with --yes").says("not touched");
    assert_eq!(drives(server, &database), "f");
    let answered = |answer: &str| site.on_terminal("teslamate-restore", "a.dump").answer(answer);
    let (code, shown) = answered("teslamate");
    assert_eq!(code, Some(10), "{shown}");
    assert_eq!(drives(server, &database), "f");
    let (code, shown) = answered(&database);
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(drives(server, &database), "t");
}

#[test]
fn r81_a_second_run_is_told_who_holds_the_lock() {
    let (server, site, database) = lossy("lock");
    // A restore that waits for its standard input holds nothing yet; one that loads does.
    fs::write(site.systemctl.dir().join("slow-stop"), "3").unwrap();
    let mut first = site.command("teslamate-restore").args(&["--yes", "-v", "a.dump"]).spawn();
    let give_up = Instant::now() + Duration::from_secs(20);
    while site.systemctl.calls().is_empty() {
        assert!(Instant::now() < give_up, "the first run never stopped the service");
        std::thread::sleep(Duration::from_millis(20));
    }
    for (binary, arguments) in [
        ("teslamate-restore", &["--drill", "a.dump"][..]),
        ("teslamate-restore", &["--yes", "--undo"]),
        ("teslamate-backup", &["b.dump"]),
    ] {
        let outcome = site.run(binary, arguments).expect(11).says("another run is at work");
        assert!(outcome.stderr.contains(&format!("teslamate-restore pid {}", first.id())), "{}", outcome.stderr);
    }
    assert!(!site.path("b.dump").exists());
    assert!(first.wait().unwrap().success());
    assert_eq!(drives(server, &database), "t");
}

#[test]
fn r83_a_signal_before_the_swap_cleans_up_within_seconds() {
    let (server, site, database) = lossy("signal");
    let before = server.content(&database);
    for (round, signal) in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].iter().cycle().take(12).enumerate() {
        let child = site.command("teslamate-restore").args(&["--yes", "a.dump"]).spawn();
        std::thread::sleep(Duration::from_millis(20 + 25 * round as u64));
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        // It may have ended already; then it is as if the signal had never come.
        let _ = kill(pid, *signal);
        let sent = Instant::now();
        let output = child.wait_with_output().unwrap();
        assert!(sent.elapsed() < Duration::from_secs(10));
        let words = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => {
                // Too late, or within the swap, which is not cut short.
                site.run("teslamate-restore", &["--yes", "--undo"]).expect(0);
                let left = server.databases(&format!("{database}_before_"));
                server.query("postgres", &format!("DROP DATABASE {}", left[0]));
            }
            // It came before the program listened; then nothing was begun, nor said.
            None => {
                use std::os::unix::process::ExitStatusExt;
                assert_eq!((output.status.signal(), &*words), (Some(*signal as i32), ""));
            }
            code => assert_eq!(code, Some(128 + *signal as i32), "{words}"),
        }
        assert_eq!(server.content(&database), before, "{signal}: {words}");
        assert_eq!(server.databases(&format!("{database}_")), Vec::<String>::new(), "{signal}: {words}");
        assert_eq!(site.systemctl.state(), "active");
    }
}

#[test]
fn a_server_that_goes_away_while_loading_costs_nothing() {
    let server = Server::start(crate::support::server::Options::default());
    server.create_teslamate("gone", 20_000);
    let site = Site::new(&server, "gone");
    site.run("teslamate-backup", &["a.sql"]).expect(0);
    let before = server.content("gone");
    let child = site.command("teslamate-restore").args(&["--yes", "a.sql"]).spawn();
    let give_up = Instant::now() + Duration::from_secs(20);
    // The loading session is one of psql; the server loses it as it would lose power to one process.
    let ended = loop {
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname LIKE 'gone_restore_%' AND query LIKE 'COPY%'";
        if server.query("postgres", sql) != "0" {
            break true;
        }
        if Instant::now() > give_up {
            break false;
        }
    };
    let output = child.wait_with_output().unwrap();
    assert!(ended, "the load was never seen: the test proved nothing");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(12), "{words}");
    assert_eq!(server.content("gone"), before);
    assert_eq!(server.databases("gone_"), Vec::<String>::new());
    assert_eq!(site.systemctl.calls(), []);
}

#[test]
fn what_went_live_outlives_a_crash_of_the_server_whatever_the_roles_settings() {
    let options = crate::support::server::Options {
        config: vec!["wal_writer_delay = 10s".to_owned(), "wal_writer_flush_after = 1GB".to_owned()],
        ..Default::default()
    };
    let mut server = Server::start(options);
    server.create_teslamate("crash", 20_000);
    let site = Site::new(&server, "crash");
    for (file, arguments) in [("a.sql", &["--yes"][..]), ("a.dump", &["--yes"]), ("a.dump", &["--into", "beside"])] {
        site.run("teslamate-backup", &["--force", file]).expect(0);
        let before = server.content("crash");
        server.query("crash", "ALTER ROLE teslamate SET synchronous_commit = off; DELETE FROM states");
        site.run("teslamate-restore", &[arguments, &[file]].concat()).expect(0);
        server.stop("immediate");
        server.boot();
        let restored = if arguments.len() > 1 { "beside" } else { "crash" };
        assert_eq!(server.content(restored), before, "{file} {arguments:?}");
    }
}

#[test]
fn a_live_database_that_takes_no_connection_is_a_reason_to_restore() {
    let (server, site, database) = lossy("broken");
    server.query("postgres", &format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false"));
    let outcome = site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0).says("cannot be looked into");
    assert!(outcome.stderr.contains("not currently accepting connections"), "{}", outcome.stderr);
    assert_eq!(drives(server, &database), "t");
}
