//! What the four maintenance commands have in common: ids, lists, locks, and the words for what goes wrong.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::support::server::conninfo;
use super::support::{Server, Site};

const BINARIES: [&str; 4] =
    ["teslamate-close-drive", "teslamate-close-charge", "teslamate-delete-drive", "teslamate-delete-charge"];

fn site(hint: &str) -> (&'static Server, Site) {
    let server = Server::shared();
    let database = server.teslamate(hint);
    (server, Site::new(server, &database))
}

#[test]
fn r90_an_id_is_digits_that_fit_the_column_and_nothing_else() {
    let site = Site::new(Server::shared(), "no such database: nothing may be read");
    for binary in BINARIES {
        for id in
            ["0", "-1", "2147483648", "9223372036854775808", "1 or 1=1", "1.0", " 1", "1 ", "+1", "1;", "0x1", "", "١"]
        {
            let outcome = site.run(binary, &["--", id]);
            assert!(outcome.code == Some(2) && outcome.stderr.contains("whole number from 1"), "{id:?}: {outcome:?}");
            assert!(site.run(binary, &[id]).code == Some(2), "{binary} {id:?}");
            // A bad one among good ones stops all of them.
            site.run(binary, &["1", "--", id]).expect(2);
        }
        site.run(binary, &[]).expect(2);
        site.run(binary, &["2147483647"]).expect(12).says("there is no database");
    }
    for arguments in [
        ["--list", "5"],
        ["--all-open", "5"],
        ["--list", "--all-open"],
        ["--older-than=1d", "5"],
        ["--all-open", "--older-than=1y"],
        ["--via=magic", "5"],
    ] {
        site.run("teslamate-close-drive", &arguments).expect(2);
    }
    site.run("teslamate-close-charge", &["--allow-delete", "5"]).expect(2);
    site.run("teslamate-delete-drive", &["--undo", "x.json", "5"]).expect(2);
}

#[test]
fn r90_closing_what_does_not_exist_is_an_error() {
    let (server, site) = site("close_absent");
    let before = server.content(&site.database);
    for record in ["drive", "charge"] {
        for way in ["--via=sql", "--dry-run"] {
            let outcome = site.run(&format!("teslamate-close-{record}"), &[way, "999999"]);
            outcome.expect(10).says(&format!("there is no {record} 999999")).says("nothing was changed").says("--list");
        }
    }
    assert_eq!(server.content(&site.database), before);
}

#[test]
fn the_list_shows_what_is_open() {
    let (server, site) = site("list");
    let database = &site.database;
    let id = server.query(database, "SELECT id FROM drives WHERE end_date IS NULL");
    server.query(
        database,
        "INSERT INTO drives (id, start_date, car_id) VALUES (7001, now() AT TIME ZONE 'UTC' - interval '90 min', 2)",
    );
    let listed = site.run("teslamate-close-drive", &["--list"]).expect(0);
    for words in ["Rote Zora", "1 h 30 min", "none", "odometer", &id] {
        assert!(listed.text().contains(words), "not listed: {words}\n{}", listed.text());
    }
    let json = site.run("teslamate-close-drive", &["--list", "--json"]).expect(0).json();
    let (old, new) = (&json["open"][0], &json["open"][1]);
    assert_eq!(old["id"].to_string(), id);
    assert_eq!(old["car"], serde_json::json!({ "id": 1, "name": "Rote Zora" }));
    let last = "SELECT date, latitude::float8, odometer FROM positions WHERE drive_id = $1 ORDER BY date DESC LIMIT 1";
    let last = server.query(database, &last.replace("$1", &id));
    let shown = &old["last_position"];
    assert_eq!(format!("{}|{}|{}", shown["date"].as_str().unwrap(), shown["latitude"], shown["odometer"]), last);
    assert!(new["last_position"].is_null() && (5395..5460).contains(&new["age_seconds"].as_i64().unwrap()), "{new}");

    let json = site.run("teslamate-close-charge", &["--list", "--json"]).expect(0).json();
    assert!(json["open"][0]["last_reading"].is_string() && json["open"][0]["last_position"].is_object(), "{json}");
    site.run("teslamate-close-charge", &["--via=sql", "--all-open"]).expect(0);
    assert_eq!(site.run("teslamate-close-charge", &["--list"]).expect(0).text().trim(), "no charge is open");
    assert_eq!(
        site.run("teslamate-close-charge", &["--via=sql", "--all-open"]).expect(0).text().trim(),
        "no charge is open"
    );
}

#[test]
fn all_open_closes_every_one_that_is_old_enough() {
    let (server, site) = site("all_open");
    let database = &site.database;
    server.query(database, "INSERT INTO drives (id, start_date, car_id) VALUES \
        (7001, now() AT TIME ZONE 'UTC' - interval '25 hours', 2), (7002, now() AT TIME ZONE 'UTC' - interval '23 hours', 2)");
    let open = || server.query(database, "SELECT count(*) FROM drives WHERE end_date IS NULL");
    assert_eq!(open(), "3");
    // The old one of the fixtures is closed; 7001 is none and is refused; 7002 is too young.
    let outcome = site.run("teslamate-close-drive", &["--via=sql", "--all-open", "--older-than", "1d", "--json"]);
    assert_eq!(outcome.json()["results"].as_array().unwrap().len(), 2);
    outcome.expect(10).says("closing drive 7001 would delete it");
    assert_eq!(open(), "2");
    site.run("teslamate-close-drive", &["--via=sql", "--all-open", "--allow-delete"]).expect(0);
    assert_eq!(open(), "0");
}

#[test]
fn a_database_of_something_else_is_refused_by_what_is_missing() {
    let server = Server::shared();
    let name = server.fresh_name("not_teslamate");
    server.query("postgres", &format!("CREATE DATABASE {name}"));
    let other = Site::new(server, &name);
    let (_, site) = site("old_teslamate");
    server.query(&site.database, "ALTER TABLE charges RENAME COLUMN charger_phases TO phases");
    for binary in BINARIES {
        other.run(binary, &["1"]).expect(10).says("is not one of TeslaMate's: table public.car_settings is missing");
        site.run(binary, &["1"]).expect(10).says("column public.charges.charger_phases is missing");
    }
}

#[test]
fn without_earthdistance_a_drive_is_refused() {
    let (server, site) = site("no_earth");
    server.query(&site.database, "DROP EXTENSION earthdistance CASCADE");
    let before = server.content(&site.database);
    site.run("teslamate-close-drive", &["--via=sql", "2"]).expect(10).says("CREATE EXTENSION earthdistance");
    assert_eq!(server.content(&site.database), before);
    site.run("teslamate-close-charge", &["--via=sql", "2"]).expect(0);
}

/// A psql session that does this and then sleeps; it is ended when the test ends.
struct Sleeper(Child);

impl Sleeper {
    fn start(server: &Server, database: &str, sql: &str, waits_for: &str) -> Self {
        let child = server
            .tool("psql")
            .args(["-X", "-q", "-d", &conninfo(database), "-c", &format!("BEGIN; {sql}; SELECT pg_sleep(60)")])
            .stdout(Stdio::null())
            .spawn()
            .expect("psql runs");
        let give_up = Instant::now() + Duration::from_secs(10);
        while server.query("postgres", waits_for) != "1" {
            assert!(Instant::now() < give_up, "the session did not begin to sleep");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self(child)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_row_that_another_session_holds_is_busy_and_the_others_go_on() {
    let (server, site) = site("held");
    let database = &site.database;
    let before = server.content(database);
    let sleeping =
        format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'");
    let hold = "SELECT FROM drives WHERE id = 2 FOR UPDATE; SELECT FROM charging_processes WHERE id = 2 FOR UPDATE";
    let _held = Sleeper::start(server, database, hold, &sleeping);
    let started = Instant::now();
    let outcome = site.run("teslamate-close-drive", &["--via=sql", "--json", "2", "3"]);
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    assert_eq!(outcome.json()["results"][1]["status"], "recomputed");
    outcome.expect(11).says("lock timeout").says("Try again");
    site.run("teslamate-delete-charge", &["2"]).expect(11);
    assert_eq!(server.content(database), before);
    assert!(!site.path("state/deleted").exists());
}

#[test]
fn a_signal_while_waiting_stops_all_the_rest() {
    let (server, site) = site("signal");
    let database = &site.database;
    let sleeping =
        format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'");
    let _held = Sleeper::start(server, database, "SELECT FROM drives WHERE id = 2 FOR UPDATE", &sleeping);
    let child = site.command("teslamate-close-drive").args(&["--via=sql", "--json", "2", "3"]).spawn();
    let waiting =
        format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event_type = 'Lock'");
    let give_up = Instant::now() + Duration::from_secs(4);
    while server.query("postgres", &waiting) != "1" {
        assert!(Instant::now() < give_up, "it did not wait for the lock");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["results"][0]["status"], &json["results"][1]["status"]), (&"failed".into(), &"untried".into()));
}

#[test]
fn a_restore_under_way_keeps_everything_out() {
    let (server, site) = site("locked");
    let database = &site.database;
    let key = format!("hashtextextended('glovebox:swap:{database}', 0)");
    let held = format!(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock' \
                        AND ((classid::bigint << 32) | objid::bigint) = {key}"
    );
    let _held = Sleeper::start(server, "postgres", &format!("SELECT pg_advisory_lock({key})"), &held);
    for (binary, arguments) in BINARIES.iter().zip([["--list"], ["--dry-run"], ["2"], ["2"]]) {
        let arguments = if arguments == ["--dry-run"] { vec!["--dry-run", "2"] } else { arguments.to_vec() };
        site.run(binary, &arguments).expect(11).says("another run is at work").says("psql on this machine");
    }
}

#[test]
fn a_failure_is_told_on_standard_error_and_the_first_one_decides() {
    let (_, site) = site("failures");
    let outcome = site.run("teslamate-close-drive", &["--via=sql", "999998", "2", "999999"]);
    assert!(
        outcome.text().contains("drive 2 ") && outcome.text().contains("drive 999999: failed"),
        "{}",
        outcome.text()
    );
    let lines: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("there is no drive")).collect();
    assert_eq!(lines.len(), 2, "{}", outcome.stderr);
    assert!(lines[1].contains("999998"), "the first failure is the last word: {}", outcome.stderr);
    outcome.expect(10);
    let outcome = site.run("teslamate-close-drive", &["--via=sql", "--json", "999998"]).expect(10);
    let json = outcome.json();
    assert_eq!(json["error"]["message"], "there is no drive 999998");
    assert_eq!(json["results"][0]["error"]["kind"], "refused");
    assert_eq!((json["via"].as_str(), json["why"].as_str()), (Some("sql"), Some("--via sql")));
}
