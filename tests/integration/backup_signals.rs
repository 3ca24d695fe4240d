//! Signals and death: nothing is left behind, neither a file nor a process nor a session.

use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::support::dumps::{Case, FORMATS};
use crate::support::probe::{self, Random, descendants, eventually, listing, partials, pg_dump_of, runs, signal};
use crate::support::{Outcome, Server};

const SIGNALS: [(Signal, i32); 3] = [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)];

fn ended(child: Child) -> Outcome {
    use std::os::unix::process::ExitStatusExt;
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code(),
        signal: output.status.signal(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn sessions(server: &Server, database: &str) -> String {
    let ours = "application_name LIKE 'teslamate-backup%'";
    server.query("postgres", &format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND {ours}"))
}

#[test]
fn r83_a_signal_while_pg_dump_works_ends_it_within_ten_seconds() {
    let server = Server::shared();
    let database = server.teslamate("signal");
    let case = Case::new(server, &database);
    for (number, (kind, code)) in SIGNALS.into_iter().cycle().take(12).enumerate() {
        let name = FORMATS[number % 4];
        let lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
        let child = case
            .backup(name)
            .with(|command| {
                use std::os::unix::process::CommandExt;
                command.process_group(0);
            })
            .spawn();
        let pg_dump = pg_dump_of(child.id());
        let started = Instant::now();
        match number / 3 {
            // As a terminal or a service manager does it: the children get it too.
            0 | 1 => {
                let group = Pid::from_raw(i32::try_from(child.id()).unwrap());
                nix::sys::signal::killpg(group, kind).unwrap();
            }
            // The same, and the child hears it first.
            2 => {
                signal(pg_dump, kind);
                probe::sleep_ms(10);
                signal(child.id(), kind);
            }
            _ => signal(child.id(), kind),
        }
        let outcome = ended(child);
        assert!(started.elapsed() < Duration::from_secs(10), "{kind}: {:?}", started.elapsed());
        let none = std::collections::BTreeMap::new();
        case.failed(outcome, code, &[&format!("stopped by {kind}")], &none);
        eventually(2, "pg_dump ends", || !runs(pg_dump));
        drop(lock);
        eventually(10, "the sessions end", || sessions(server, &database) == "0");
    }
}

#[test]
fn r83_a_signal_at_any_time_leaves_all_or_nothing() {
    let server = Server::shared();
    let database = server.teslamate("signals");
    let case = Case::new(server, &database);
    let mut random = Random::new("r83");
    let mut stopped = 0;
    for (number, (kind, code)) in SIGNALS.into_iter().cycle().take(45).enumerate() {
        let name = format!("{number}.{}", ["sql", "sql.gz", "sql.zst", "dump"][number % 4]);
        let child = case.backup(&name).spawn();
        probe::sleep_ms(random.below(350));
        let children = descendants(child.id());
        signal(child.id(), kind);
        let started = Instant::now();
        let outcome = ended(child);
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(partials(&case.out).is_empty(), "{kind}: {:?}\n{}", listing(&case.out), outcome.stderr);
        if case.path(&name).exists() {
            // It came after the end: the run says so too, or was ended when all was done.
            assert!(matches!((outcome.code, outcome.signal), (Some(0), None)), "{outcome:?}");
        } else if outcome.code.is_some() {
            assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
            assert!(outcome.stderr.contains("state:"), "{}", outcome.stderr);
            stopped += 1;
        } else {
            // It came before the program could listen, so nothing was begun.
            assert_eq!(outcome.signal, Some(kind as i32), "{outcome:?}");
            assert_eq!(outcome.stderr, "");
        }
        for (pid, name) in children {
            eventually(2, &format!("{name} ends"), || !runs(pid));
        }
    }
    assert!(stopped >= 5, "only {stopped} runs were stopped: the test proved nothing");
    eventually(10, "the sessions end", || sessions(server, &database) == "0");
}

#[test]
fn a_signal_that_the_caller_ignores_stays_ignored() {
    let server = Server::shared();
    let database = server.teslamate("nohup");
    let case = Case::new(server, &database);
    let lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
    let nohup = std::process::Command::new("nohup");
    let child = case.site.under(nohup, "teslamate-backup").arg(case.path("a.sql")).spawn();
    pg_dump_of(child.id());
    signal(child.id(), Signal::SIGHUP);
    probe::sleep_ms(300);
    assert!(runs(child.id()), "nohup keeps it alive");
    drop(lock);
    assert_eq!(ended(child).expect(0).signal, None);
    assert_eq!(listing(&case.out).len(), 1);
}

#[test]
fn r84_nothing_outlives_a_killed_run() {
    let server = Server::shared();
    let database = server.teslamate("killed");
    let case = Case::new(server, &database);
    for name in FORMATS {
        let lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
        let child = case.backup(name).spawn();
        let pg_dump = pg_dump_of(child.id());
        eventually(10, "its session begins", || sessions(server, &database) != "0");
        let children = descendants(child.id());
        signal(child.id(), Signal::SIGKILL);
        assert_eq!(ended(child).signal, Some(9));
        for (pid, name) in children {
            eventually(5, &format!("{name} ends with its parent"), || !runs(pid));
        }
        assert!(!runs(pg_dump) && !case.path(name).exists());
        drop(lock);
        eventually(10, "the sessions end", || sessions(server, &database) == "0");
    }
    // The lock against a second run went with the process, and the next run needs no help.
    case.backup("a.sql").outcome().expect(0);
    assert!(partials(&case.out).is_empty());
}
