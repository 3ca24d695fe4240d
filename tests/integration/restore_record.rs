//! One drive or charge of a backup back into the live database: `teslamate-restore --drive`, `--charge`.

use std::fs;

use super::support::{Outcome, Server, Site};

/// An installation with a backup of the shared database.
fn site(hint: &str) -> (&'static Server, Site) {
    let server = Server::shared();
    let database = server.teslamate(hint);
    (server, with_backup(server, &database))
}

fn with_backup(server: &Server, database: &str) -> Site {
    let site = Site::with_repository(server, database);
    site.run("teslamate-backup", &["init"]).expect(0);
    site.run("teslamate-backup", &[]).expect(0);
    site
}

fn restore(site: &Site, arguments: &[&str]) -> Outcome {
    site.run("teslamate-restore", &[&["latest", "--yes"], arguments].concat())
}

/// The newest file for undoing.
fn undo_file(site: &Site) -> String {
    let names = site.files("state/put-back");
    format!("state/put-back/{}", names.last().expect("a file"))
}

/// A drive that has positions, an address and a geofence of its own, for each of which nothing else has any use.
fn own_drive(server: &Server, database: &str) -> String {
    server.query(
        database,
        "WITH a AS (INSERT INTO addresses (display_name, osm_id, osm_type, raw, inserted_at, updated_at) \
                    VALUES ('Nowhere 1', 4711, 'way', '{\"a\": [1, 2.50]}', now(), now()) RETURNING id), \
              g AS (INSERT INTO geofences (name, latitude, longitude, inserted_at, updated_at) \
                    VALUES ('Nowhere', 1, 2, now(), now()) RETURNING id) \
         UPDATE drives SET start_address_id = a.id, end_geofence_id = g.id, distance = 'NaN', start_km = 0.1::float8 + 0.2::float8 \
         FROM a, g WHERE drives.id = 2",
    );
    "2".to_owned()
}

#[test]
fn a_hundred_random_drives_and_charges_come_back_as_a_restore_beside_shows_them() {
    let server = Server::shared();
    let database = "restore_record_random";
    server.create_teslamate(database, 120_000);
    let site = with_backup(server, database);
    let beside = format!("{database}_beside");
    site.run("teslamate-restore", &["latest", "--into", &beside]).expect(0);
    assert_eq!(server.content(&beside), server.content(database));
    // The application goes on.
    server.query(
        database,
        "INSERT INTO positions (date, latitude, longitude, car_id) SELECT now(), 1, 2, 1 FROM generate_series(1, 50); \
         UPDATE cars SET name = 'Later' WHERE id = 1",
    );
    let before = server.content(database);
    let seed = format!("{:?}", std::time::SystemTime::now());
    let random = |table: &str, number: u32| {
        let sql = format!(
            "SELECT string_agg(id::text, ',') FROM (SELECT id FROM {table} ORDER BY md5(id || $${seed}$$) LIMIT {number}) x"
        );
        server.query(database, &sql)
    };
    let (drives, charges) = (random("drives", 60), random("charging_processes", 40));
    // Half of them by hand, positions and all; a position at which a charge stands cannot go.
    server.query(
        database,
        &format!(
            "DELETE FROM charging_processes WHERE id IN ({charges}); \
             DELETE FROM positions p WHERE drive_id IN ({drives}) AND drive_id % 2 = 0 \
               AND NOT EXISTS (SELECT FROM charging_processes c WHERE c.position_id = p.id); \
             DELETE FROM drives WHERE id IN ({drives})"
        ),
    );
    assert_ne!(server.content(database), before);
    let flags = |name: &str, ids: &str| -> Vec<String> { ids.split(',').map(|id| format!("--{name}={id}")).collect() };
    let all = [flags("drive", &drives), flags("charge", &charges)].concat();
    assert_eq!(all.len(), 100, "seed {seed}");
    // The first one by one, the others together.
    let (single, together) = all.split_at(3);
    for one in single {
        restore(&site, &[one]).expect(0);
    }
    let together: Vec<&str> = together.iter().map(String::as_str).collect();
    let done = restore(&site, &[&together[..], &["--json"]].concat()).expect(0).json();
    assert_eq!(done["records"].as_array().map(Vec::len), Some(97));
    assert_eq!(server.content(database), before, "seed {seed}");
}

#[test]
fn a_drive_comes_back_with_what_it_refers_to_and_undoing_takes_exactly_that_away() {
    let (server, site) = site("record_undo");
    let database = &site.database;
    own_drive(server, database);
    site.run("teslamate-backup", &[]).expect(0);
    let before = server.content(database);
    server.query(
        database,
        "DELETE FROM positions p WHERE drive_id = 2 AND id % 3 = 0 AND NOT EXISTS (SELECT FROM charging_processes c WHERE c.position_id = p.id); \
         DELETE FROM drives WHERE id = 2; DELETE FROM addresses WHERE osm_id = 4711; DELETE FROM geofences WHERE name = 'Nowhere'",
    );
    let without = server.content(database);

    let dry = restore(&site, &["--drive", "2", "--dry-run"]).expect(0);
    for words in [
        "drive 2 (car",
        "would be put back",
        "rows of addresses: 1",
        "rows of geofences: 1",
        "rows of positions: ",
        "belong to a drive again",
        "nothing was changed",
    ] {
        assert!(dry.text().contains(words), "{words}: {}", dry.text());
    }
    assert_eq!(server.content(database), without);
    assert!(!site.path("state/put-back").exists());

    let done = restore(&site, &["--drive", "2"]).expect(0);
    assert!(done.text().contains("--undo-record"), "{}", done.text());
    assert_eq!(server.content(database), before);
    let file = undo_file(&site);
    let undone = site.run("teslamate-restore", &["--undo-record", &file]).expect(0);
    assert!(undone.text().contains("drive 2: taken away again"), "{}", undone.text());
    assert_eq!(server.content(database), without);
    site.run("teslamate-restore", &["--undo-record", &file]).expect(10).says("there is nothing to undo");
    // And forward once more.
    restore(&site, &["--drive", "2"]).expect(0);
    assert_eq!(server.content(database), before);

    // Somebody has begun to use the address, and changed the drive.
    let file = undo_file(&site);
    server.query(
        database,
        "UPDATE drives SET end_address_id = (SELECT id FROM addresses WHERE osm_id = 4711) WHERE id = 3",
    );
    server.query(database, "UPDATE drives SET distance = 1 WHERE id = 2");
    let used = server.content(database);
    site.run("teslamate-restore", &["--undo-record", &file])
        .expect(10)
        .says("drive 2 was changed since it was put back");
    assert_eq!(server.content(database), used);
    server.query(database, "UPDATE drives SET distance = 'NaN' WHERE id = 2");
    let undone = site.run("teslamate-restore", &["--undo-record", &file]).expect(0);
    assert!(undone.text().contains("rows of addresses that stay"), "{}", undone.text());
    assert_eq!(server.query(database, "SELECT count(*) FROM addresses WHERE osm_id = 4711"), "1");
    assert_eq!(server.query(database, "SELECT end_address_id IS NOT NULL FROM drives WHERE id = 3"), "t");
}

#[test]
fn a_charge_comes_back_with_its_readings_and_ids_go_on_behind_it() {
    let (server, site) = site("record_charge");
    let database = &site.database;
    let before = server.content(database);
    let last = server.query(database, "SELECT max(id) FROM charging_processes");
    server.query(
        database,
        &format!(
            "DELETE FROM charging_processes WHERE id = {last}; \
             SELECT setval('charging_processes_id_seq', 1), setval('charges_id_seq', 1)"
        ),
    );
    restore(&site, &["--charge", &last]).expect(0);
    assert_eq!(server.content(database), before);
    let next = "SELECT nextval('charging_processes_id_seq') > (SELECT max(id) FROM charging_processes), \
                nextval('charges_id_seq') > (SELECT max(id) FROM charges)";
    assert_eq!(server.query(database, next), "t|t");
    site.run("teslamate-restore", &["--undo-record", &undo_file(&site)]).expect(0);
    assert_eq!(
        server.query(database, &format!("SELECT count(*) FROM charges WHERE charging_process_id = {last}")),
        "0"
    );
}

#[test]
fn a_record_that_is_there_or_an_id_of_another_is_refused_and_nothing_changes() {
    let (server, site) = site("record_taken");
    let database = &site.database;
    let refused = |arguments: &[&str], code: i32, words: &str| {
        let before = server.content(database);
        restore(&site, arguments).expect(code).says(words).says("nothing was changed");
        assert_eq!(server.content(database), before, "{words}");
        assert!(!site.path("state/put-back").exists(), "{words}");
    };
    refused(&["--drive", "2"], 10, "drive 2 is in the live database");
    refused(&["--drive", "99999"], 10, "has no drive 99999");
    refused(&["--charge", "99999"], 10, "has no charge 99999");
    server.query(database, "UPDATE drives SET start_date = start_date + interval '1 year' WHERE id = 2");
    refused(&["--drive", "2"], 10, "the id of drive 2 belongs to another drive by now");
    let position = server.query(database, "SELECT min(id) FROM positions WHERE drive_id = 3");
    server.query(
        database,
        &format!("DELETE FROM drives WHERE id = 3; UPDATE positions SET date = now() WHERE id = {position}"),
    );
    refused(&["--drive", "3"], 10, "have ids that belong to other rows by now");
    let position = server.query(database, "SELECT max(id) FROM positions WHERE drive_id = 4");
    server.query(
        database,
        &format!("DELETE FROM drives WHERE id = 4; UPDATE positions SET drive_id = 5 WHERE id = {position}"),
    );
    refused(&["--drive", "4"], 10, "1 positions belong to another drive by now, such as drive 5");
    // One that cannot come back keeps the others from it, too.
    server.query(database, "DELETE FROM drives WHERE id = 6");
    refused(&["--drive", "6", "--drive", "4"], 10, "belong to another drive");
    // A trigger that alters what is written.
    server.query(
        database,
        "CREATE FUNCTION alter_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.distance := 1; RETURN NEW; END $$; \
         CREATE TRIGGER alter_it BEFORE INSERT ON drives FOR EACH ROW EXECUTE FUNCTION alter_it()",
    );
    refused(&["--drive", "6"], 14, "rows of public.drives would not come back as they were");
    server.query(database, "DROP TRIGGER alter_it ON drives; ALTER TABLE drives ALTER COLUMN speed_max TYPE integer");
    refused(&["--drive", "6"], 10, "column speed_max of public.drives is another one now");
    server.query(database, "ALTER TABLE drives ALTER COLUMN speed_max TYPE smallint; ALTER TABLE drives ADD COLUMN added integer DEFAULT 7");
    restore(&site, &["--drive", "6"]).expect(0);
    assert_eq!(server.query(database, "SELECT added FROM drives WHERE id = 6"), "7");
}

#[test]
fn records_need_a_backup_a_confirmation_and_a_place_for_the_undo_file() {
    let (server, site) = site("record_asked");
    let database = &site.database;
    server.query(database, "DELETE FROM drives WHERE id = 2");
    let before = server.content(database);
    site.run("teslamate-restore", &["latest", "--drive", "2"]).expect(2).says("--yes");
    fs::write(site.path("a.sql"), "SELECT 1;\n").unwrap();
    site.run("teslamate-restore", &["a.sql", "--drive", "2", "--yes"]).expect(2).says("--into NAME");
    site.run("teslamate-restore", &["latest", "--drive", "2", "--drill"]).expect(2);
    site.run("teslamate-restore", &["latest", "--dry-run"]).expect(2).says("--drive");
    for id in ["0", "-1", "2;", "x"] {
        site.run("teslamate-restore", &["latest", "--yes", &format!("--drive={id}")]).expect(2);
    }
    fs::write(site.path("state/put-back"), "in the way").unwrap();
    restore(&site, &["--drive", "2"]).expect(13).says("nothing was put back");
    assert_eq!(server.content(database), before);
    fs::remove_file(site.path("state/put-back")).unwrap();
    restore(&site, &["--drive", "2"]).expect(0);
    let file = site.path(&undo_file(&site));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\"drives\"", "\"drivez\"", 1)).unwrap();
    let shown = file.display().to_string();
    site.run("teslamate-restore", &["--undo-record", &shown]).expect(14).says("is damaged");
}
