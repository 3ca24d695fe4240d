//! Deleting drives and charges, the file that their rows go to first, and putting them back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::support::server::{Options, is_root};
use super::support::{Outcome, Server, Site};

fn site(hint: &str) -> (&'static Server, Site) {
    let server = Server::shared();
    let database = server.teslamate(hint);
    (server, Site::new(server, &database))
}

/// The file in the state directory that begins like this.
fn saved(site: &Site, prefix: &str) -> String {
    let names: Vec<String> = site.files("state/deleted").into_iter().filter(|name| name.starts_with(prefix)).collect();
    assert_eq!(names.len(), 1, "{prefix}: {names:?}");
    format!("state/deleted/{}", names[0])
}

fn undo(site: &Site, record: &str, file: &str) -> Outcome {
    site.run(&format!("teslamate-delete-{record}"), &["--undo", file])
}

#[test]
fn r96_a_deleted_drive_comes_back_exactly() {
    let (server, site) = site("delete_drive");
    let database = &site.database;
    // Values that JSON numbers or a plain cast would not carry.
    server.query(
        database,
        "UPDATE drives SET distance = 'NaN', start_km = 'Infinity', end_km = 0.1::float8 + 0.2::float8, \
         outside_temp_avg = -0.1, end_date = '2024-01-01 00:00:00.123456' WHERE id = 2",
    );
    let before = server.content(database);
    let positions = server.query(database, "SELECT count(*) FROM positions WHERE drive_id = 2");

    let dry = site.run("teslamate-delete-drive", &["--dry-run", "2"]).expect(0);
    assert!(dry.text().contains("would be deleted") && dry.text().contains(&positions), "{}", dry.text());
    assert_eq!(server.content(database), before);
    assert!(!site.path("state/deleted").exists(), "a dry run saves nothing");

    let done = site.run("teslamate-delete-drive", &["--json", "2"]).expect(0);
    let result = &done.json()["results"][0];
    assert_eq!((&result["status"], &result["id"]), (&"deleted".into(), &2.into()));
    assert_eq!(result["positions"].to_string(), positions);
    assert_eq!(result["row"]["distance"], "NaN");
    let after = server.content(database);
    let changed: Vec<&String> = before.keys().filter(|table| before[*table] != after[*table]).collect();
    assert_eq!(changed, ["public.drives", "public.positions"]);
    assert_eq!(server.query(database, "SELECT count(*) FROM positions WHERE drive_id = 2"), "0");

    let file = saved(&site, "drive-2-");
    let mode = |path: &str| fs::metadata(site.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode("state/deleted")), (0o600, 0o700));
    let said = undo(&site, "drive", &file).expect(0);
    assert!(said.text().contains("is kept") && site.path(&file).exists(), "{}", said.text());
    assert_eq!(server.content(database), before);

    undo(&site, "drive", &file).expect(10).says("its id is in use");
    assert_eq!(server.content(database), before);
}

#[test]
fn r96_a_deleted_charge_comes_back_with_its_readings() {
    let (server, site) = site("delete_charge");
    let database = &site.database;
    server.query(database, r"UPDATE charges SET fast_charger_brand = E'it''s \\ a\ttab\n☕ \'; DROP TABLE cars' WHERE charging_process_id = 3");
    let before = server.content(database);
    let readings = server.query(database, "SELECT count(*) FROM charges WHERE charging_process_id = 3");
    let done = site.run("teslamate-delete-charge", &["3"]).expect(0);
    assert!(done.text().contains(&format!("readings that go with it: {readings}")), "{}", done.text());
    let after = server.content(database);
    let changed: Vec<&String> = before.keys().filter(|table| before[*table] != after[*table]).collect();
    assert_eq!(changed, ["public.charges", "public.charging_processes"], "efficiency and position stay");
    undo(&site, "charge", &saved(&site, "charge-3-")).expect(0);
    assert_eq!(server.content(database), before);
}

#[test]
fn a_drive_whose_positions_carry_a_charge_says_so_and_leaves_it() {
    let (server, site) = site("carrying");
    let database = &site.database;
    server.query(
        database,
        "UPDATE charging_processes SET position_id = (SELECT max(id) FROM positions WHERE drive_id = 3) WHERE id = 1",
    );
    let charges = server.content(database)["public.charging_processes"].clone();
    let done = site.run("teslamate-delete-drive", &["3"]).expect(0);
    assert!(done.text().contains("carry a charge, which stays: 1"), "{}", done.text());
    assert_eq!(server.content(database)["public.charging_processes"], charges);
}

#[test]
fn r90_what_does_not_exist_is_a_warning_and_repeated_ids_count_once() {
    let (server, site) = site("absent");
    let before = server.content(&site.database);
    for binary in ["teslamate-delete-drive", "teslamate-delete-charge"] {
        let outcome = site.run(binary, &["999999", "--json"]).expect(0).says("does not exist");
        assert_eq!(outcome.json()["results"][0]["status"], "absent");
    }
    assert_eq!(server.content(&site.database), before);
    let outcome = site.run("teslamate-delete-drive", &["--json", "2", "999999", "2", "3"]).expect(0);
    let results = outcome.json()["results"].as_array().unwrap().clone();
    let words: Vec<_> = results.iter().map(|result| (result["id"].as_i64(), result["status"].as_str())).collect();
    assert_eq!(words, [(Some(2), Some("deleted")), (Some(999_999), Some("absent")), (Some(3), Some("deleted"))]);
}

#[test]
fn r90_an_open_record_is_refused_while_the_service_runs() {
    for (record, table) in [("drive", "drives"), ("charge", "charging_processes")] {
        let (server, site) = site("open_record");
        let binary = format!("teslamate-delete-{record}");
        let id = server.query(&site.database, &format!("SELECT id FROM {table} WHERE end_date IS NULL"));
        let before = server.content(&site.database);
        let refused =
            site.run(&binary, &[&id]).expect(10).says("is still open").says("systemctl stop teslamate.service");
        assert!(refused.stderr.contains(&format!("teslamate-close-{record} {id}")), "{}", refused.stderr);
        assert_eq!(server.content(&site.database), before);
        site.run(&binary, &["--force-open", &id]).expect(0);
        undo(&site, record, &saved(&site, record)).expect(0);
        assert_eq!(server.content(&site.database), before);
        fs::write(site.systemctl.dir().join("state"), "inactive").unwrap();
        site.run(&binary, &[&id]).expect(0);
    }
}

#[test]
fn undoing_leaves_positions_that_belong_to_another_drive_by_now() {
    let (server, site) = site("relink");
    let database = &site.database;
    site.run("teslamate-delete-drive", &["2"]).expect(0);
    let file = saved(&site, "drive-2-");
    let json: serde_json::Value = serde_json::from_slice(&fs::read(site.path(&file)).unwrap()).unwrap();
    let positions = json["content"]["positions"].as_array().unwrap();
    let (stolen, gone) = (&positions[3], &positions[4]);
    server.query(database, &format!("UPDATE positions SET drive_id = 3 WHERE id = {stolen}"));
    server.query(database, &format!("DELETE FROM positions WHERE id = {gone}"));
    let outcome = undo(&site, "drive", &file).expect(0);
    assert!(outcome.text().contains(&format!("2 of the {} positions", positions.len())), "{}", outcome.text());
    assert_eq!(server.query(database, &format!("SELECT drive_id FROM positions WHERE id = {stolen}")), "3");
    let linked = server.query(database, "SELECT count(*) FROM positions WHERE drive_id = 2");
    assert_eq!(linked, (positions.len() - 2).to_string());
}

#[test]
fn a_column_that_is_gone_refuses_and_one_that_is_new_gets_its_default() {
    let (server, site) = site("columns");
    let database = &site.database;
    site.run("teslamate-delete-drive", &["2"]).expect(0);
    let file = saved(&site, "drive-2-");
    server.query(database, "ALTER TABLE drives ADD COLUMN note text DEFAULT 'new', ADD COLUMN km int GENERATED ALWAYS AS (duration_min * 2) STORED");
    undo(&site, "drive", &file).expect(0);
    assert_eq!(server.query(database, "SELECT note, km = duration_min * 2 FROM drives WHERE id = 2"), "new|t");
    // With a generated column in the file.
    fs::remove_file(site.path(&file)).unwrap();
    site.run("teslamate-delete-drive", &["2"]).expect(0);
    let file = saved(&site, "drive-2-");
    undo(&site, "drive", &file).expect(0);
    site.run("teslamate-delete-drive", &["2"]).expect(0);
    server.query(database, "ALTER TABLE drives DROP COLUMN note");
    undo(&site, "drive", &file).expect(10).says("no longer has the column note");
    assert_eq!(server.query(database, "SELECT count(*) FROM drives WHERE id = 2"), "0");
}

#[test]
fn a_file_that_is_not_whole_or_not_ours_changes_nothing() {
    let (server, site) = site("bad_files");
    site.run("teslamate-delete-drive", &["2"]).expect(0);
    let before = server.content(&site.database);
    let good = fs::read_to_string(site.path(&saved(&site, "drive-2-"))).unwrap();
    let id = good.find("\"id\": 2").expect("its id");
    let cases: &[(&str, String, i32, &str)] = &[
        ("empty", String::new(), 14, "damaged"),
        ("cut", good[..good.len() / 2].to_owned(), 14, "damaged"),
        ("another id", format!("{}3{}", &good[..id + 6], &good[id + 7..]), 14, "checksum"),
        ("a changed value", good.replacen("2024-", "2023-", 3), 14, "checksum"),
        ("one field more", good.replacen("\"tool\"", "\"extra\": 1, \"tool\"", 1), 14, "damaged"),
        ("another version", good.replacen("\"version\": 1", "\"version\": 2", 1), 14, "format version 2"),
        ("no version", good.replacen("\"version\": 1,", "", 1), 14, "format version null"),
        ("another kind of JSON", "{\"a\": 1}".to_owned(), 14, "not a file of deleted rows"),
        ("not JSON", "PGDMP".to_owned(), 14, "damaged or no JSON"),
    ];
    for (name, text, code, words) in cases {
        fs::write(site.path("file.json"), text).unwrap();
        let outcome = undo(&site, "drive", "file.json");
        assert!(outcome.code == Some(*code) && outcome.stderr.contains(words), "{name}: {outcome:?}");
    }
    fs::write(site.path("file.json"), &good).unwrap();
    undo(&site, "charge", "file.json").expect(14).says("holds a drive, not a charge");
    undo(&site, "drive", "missing.json").expect(10).says("cannot open missing.json");
    undo(&site, "drive", "state").expect(10);
    assert_eq!(server.content(&site.database), before);
    // The same bytes through a pipe are as good as a file.
    site.command("teslamate-delete-drive").args(&["--undo", "-"]).input(good).outcome().expect(0);
}

#[test]
fn rows_that_cannot_be_saved_are_not_deleted() {
    let (server, site) = site("unsaved");
    let before = server.content(&site.database);
    fs::write(site.path("state/deleted"), "in the way").unwrap();
    site.run("teslamate-delete-drive", &["2"]).expect(13).says("was not deleted: its rows could not be saved");
    assert_eq!(server.content(&site.database), before);
}

#[test]
fn a_deletion_that_fails_at_the_commit_leaves_no_file() {
    let (server, site) = site("late_failure");
    server.query(&site.database, "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$; \
        CREATE CONSTRAINT TRIGGER late AFTER DELETE ON drives DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION no()");
    let before = server.content(&site.database);
    site.run("teslamate-delete-drive", &["2"]).expect(12).says("not today").says("nothing was changed");
    assert_eq!(server.content(&site.database), before);
    assert!(site.files("state/deleted").is_empty());
}

#[test]
fn rows_of_other_tables_that_refer_to_the_record_refuse_its_deletion() {
    let (server, site) = site("addon");
    server.query(&site.database, "CREATE TABLE \"my notes\" (\"the drive\" int REFERENCES drives ON DELETE CASCADE, note text); INSERT INTO \"my notes\" VALUES (2, 'x')");
    let before = server.content(&site.database);
    site.run("teslamate-delete-drive", &["2"]).expect(10).says("referred to by 1 rows of public.my notes");
    assert_eq!(server.content(&site.database), before);
    site.run("teslamate-delete-drive", &["3"]).expect(0);
}

#[track_caller]
fn wait_for(mut arrived: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !arrived() {
        assert!(Instant::now() < give_up, "it did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the file is there: from then on the process is between saving and the end of its commit.
fn wait_for_file(site: &Site) {
    let is_saved = |name: &String| name.starts_with("drive-");
    wait_for(|| site.path("state/deleted").exists() && site.files("state/deleted").iter().any(is_saved));
}

#[test]
fn killed_between_the_file_and_the_commit_nothing_is_lost() {
    let (server, site) = site("killed");
    let database = &site.database;
    server.query(database, "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3); RETURN NULL; END $$; \
        CREATE CONSTRAINT TRIGGER late AFTER DELETE ON drives DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()");
    let before = server.content(database);
    // As if the commit had never arrived: the session that may be in it is ended.
    let mut child = site.command("teslamate-delete-drive").arg("2").spawn();
    wait_for_file(&site);
    child.kill().unwrap();
    child.wait().unwrap();
    let sessions =
        format!("FROM pg_stat_activity WHERE datname = '{database}' AND application_name LIKE 'teslamate-delete%'");
    server.query("postgres", &format!("SELECT pg_terminate_backend(pid) {sessions}"));
    wait_for(|| server.query("postgres", &format!("SELECT count(*) {sessions}")) == "0");
    assert_eq!(server.content(database), before);
    let file = saved(&site, "drive-2-");
    undo(&site, "drive", &file).expect(10).says("its id is in use");
    fs::remove_file(site.path(&file)).unwrap();

    // As if it had: the server goes on alone.
    let mut child = site.command("teslamate-delete-drive").arg("2").spawn();
    wait_for(|| server.query("postgres", &format!("SELECT count(*) {sessions} AND wait_event = 'PgSleep'")) == "1");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for(|| server.query(database, "SELECT count(*) FROM drives WHERE id = 2") == "0");
    server.query(database, "DROP FUNCTION slow CASCADE");
    undo(&site, "drive", &saved(&site, "drive-2-")).expect(0);
    assert_eq!(server.content(database), before);
}

#[test]
fn a_terminal_is_asked_and_only_y_yes_or_the_id_is_a_yes() {
    let (server, site) = site("asked");
    let before = server.content(&site.database);
    let ask = |answer: &str| site.on_terminal("teslamate-delete-drive", "2").answer(answer);
    for answer in ["", "no", "yesterday", "3"] {
        let (code, shown) = ask(answer);
        assert_eq!(code, Some(10), "{answer}: {shown}");
        assert!(shown.contains("positions stay") && shown.contains("was not confirmed"), "{shown}");
        assert_eq!(server.content(&site.database), before);
    }
    for answer in ["yes", "y", "2"] {
        assert_eq!(ask(answer).0, Some(0), "{answer}");
        undo(&site, "drive", &saved(&site, "drive-2-")).expect(0);
        fs::remove_dir_all(site.path("state/deleted")).unwrap();
    }
}

#[test]
fn root_may_undo_from_a_file_that_the_database_user_cannot_see() {
    if !is_root() {
        eprintln!("skipped: only root can give up its rights");
        return;
    }
    let (server, site) = site("worker");
    let text = fs::read_to_string(site.config()).unwrap().replace("os_user = \"root\"", "os_user = \"postgres\"");
    site.write_config(&text);
    let user = nix::unistd::User::from_name("postgres").unwrap().unwrap();
    nix::unistd::chown(&site.state_dir(), Some(user.uid), Some(user.gid)).unwrap();
    let before = server.content(&site.database);
    site.run("teslamate-delete-drive", &["2"]).expect(0);
    let hidden = site.path("hidden");
    fs::create_dir(&hidden).unwrap();
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o700)).unwrap();
    fs::rename(site.path(&saved(&site, "drive-2-")), hidden.join("drive.json")).unwrap();
    undo(&site, "drive", "hidden/drive.json").expect(0);
    assert_eq!(server.content(&site.database), before);
}

#[test]
fn a_connection_that_breaks_in_the_commit_leaves_the_file_and_says_what_is_not_known() {
    let mut server = Server::start(Options::default());
    server.create_teslamate("broken", 500);
    let site = Site::new(&server, "broken");
    server.query(
        "broken",
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER late AFTER DELETE ON drives DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION slow()",
    );
    let before = server.content("broken");
    let child = site.command("teslamate-delete-drive").arg("2").spawn();
    let session = "SELECT pid FROM pg_stat_activity WHERE datname = 'broken' AND wait_event = 'PgSleep'";
    wait_for(|| !server.query("postgres", session).is_empty());
    let pid = server.query("postgres", session).parse().unwrap();
    // Without a word, as when the machine of the server loses power.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(15), "{stderr}");
    let file = saved(&site, "drive-2-");
    assert!(stderr.contains("is not known") && stderr.contains(&file), "{stderr}");
    server.stop("immediate");
    server.boot();
    assert_eq!(server.content("broken"), before);
    undo(&site, "drive", &file).expect(10).says("its id is in use");
}
