//! Waiting for others, and not at the same time as others.

use std::time::{Duration, Instant};

use crate::support::Server;
use crate::support::dumps::{Case, FORMATS};
use crate::support::probe::pg_dump_of;
use crate::support::server::Options;

#[test]
fn r08_a_locked_table_is_waited_for_and_its_holder_named() {
    let server = Server::shared();
    let database = server.teslamate("locked");
    let case = Case::new(server, &database);
    let holder = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
    for name in FORMATS {
        let started = Instant::now();
        let words = ["a table was locked for more than 1 s", "holder:", "pid ", "psql", "cars"];
        case.fails(case.backup(name).args(&["--lock-wait", "1"]), 11, &words);
        assert!(started.elapsed() < Duration::from_secs(5), "{name}: {:?}", started.elapsed());
    }
    // A lock that goes in time is only a delay.
    let child = case.backup("a.sql").spawn();
    pg_dump_of(child.id());
    drop(holder);
    assert!(child.wait_with_output().unwrap().status.success());
}

#[test]
fn r81_a_second_run_names_the_first() {
    let server = Server::shared();
    let database = server.teslamate("two_runs");
    let case = Case::new(server, &database);
    let lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
    let first = case.backup("first.sql").spawn();
    pg_dump_of(first.id());
    let pid = format!("teslamate-backup pid {}", first.id());
    for name in FORMATS {
        case.fails(case.backup(name), 11, &["another run is at work on database", "holder:", &pid, "Try again"]);
    }
    // Another database is another matter.
    let other = server.teslamate("two_runs_other");
    Case::new(server, &other).backup("other.sql").outcome().expect(0);
    drop(lock);
    assert!(first.wait_with_output().unwrap().status.success());
    case.backup("second.sql").outcome().expect(0);
}

#[test]
fn k4_words_of_a_server_in_another_language_are_recognised() {
    let server = Server::start(Options { language: Some("de"), ..Options::default() });
    server.create_teslamate("german", 600);
    let words = server.tool("psql").args(["-d", "german", "-c", "SELECT 1/0"]).output().unwrap();
    if !String::from_utf8_lossy(&words.stderr).contains("FEHLER") {
        println!("SKIPPED: this server has no German messages");
        return;
    }
    let case = Case::new(&server, "german");
    let _holder = server.hold("german", "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
    for name in FORMATS {
        let words = ["a table was locked for more than 1 s", "holder:"];
        case.fails(case.backup(name).args(&["--lock-wait", "1"]), 11, &words);
    }
}
