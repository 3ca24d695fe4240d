//! Closing drives in the database, sentence by sentence of `docs/closing.md`; expected values are worked out by hand.
//!
//! All cases share a database and are closed by one run of the real binary, so a case is a few lines here.

use std::fmt::Write as _;

use super::support::cases::{POSITIONS, assignments, differences, insert, rows, run_sql, time, verdict};
use super::support::{Server, Site};

/// A drive: its name, its positions, what its row holds before, and what it holds afterwards.
struct Case(&'static str, &'static str, &'static str, &'static str);

/// Drives that are closed. Fences: see [`FENCES`].
const KEPT: &[Case] = &[
    // The whole of an ordinary one.
    Case(
        "everything comes from the positions",
        "+0 o=100 i=300 r=290 s=0 p=-5 e=40 t=20 c=21 | +300 o=104 i=296 r=286 s=90 p=50 e=60 t=21 c=21 \
         | +600 o=110 i=290 r=280 s=30 p=-20 e=55 t=22 c=24",
        "",
        "start_date=+0 end_date=+600 start_position_id=#1 end_position_id=#3 start_km=100 end_km=110 distance=10 \
         duration_min=10 outside_temp_avg=21.0 inside_temp_avg=22.0 speed_max=90 power_max=50 power_min=-20 \
         start_ideal_range_km=300 end_ideal_range_km=290 start_rated_range_km=290 end_rated_range_km=280 ascent=20 \
         descent=5 car_id=1 start_address_id=null end_address_id=null start_geofence_id=null end_geofence_id=null",
    ),
    Case(
        "two bare positions leave null what has no value",
        "+0 o=100 i=300 | +600 o=110 i=290",
        "",
        "distance=10 outside_temp_avg=null inside_temp_avg=null speed_max=null power_max=null power_min=null \
         start_rated_range_km=null end_rated_range_km=null ascent=0 descent=0",
    ),
    Case(
        "first and last go by date, never by id",
        "+600 o=110 i=290 | +0 o=100 i=300",
        "",
        "start_date=+0 end_date=+600 start_position_id=#2 end_position_id=#1 start_km=100 end_km=110 distance=10 \
         start_ideal_range_km=300 end_ideal_range_km=290",
    ),
    Case(
        "closed already: recomputed and overwritten, also with null",
        "+0 o=100 i=300 | +600 o=110 i=290",
        "start_date=+50 end_date=+55 start_km=1 end_km=2 distance=42 duration_min=99 outside_temp_avg=9.9 \
         inside_temp_avg=9.9 speed_max=99 power_max=99 power_min=-99 start_ideal_range_km=1 end_ideal_range_km=2 \
         start_rated_range_km=3 end_rated_range_km=4 ascent=77 descent=88",
        "start_date=+0 end_date=+600 start_km=100 end_km=110 distance=10 duration_min=10 outside_temp_avg=null \
         inside_temp_avg=null speed_max=null power_max=null power_min=null start_ideal_range_km=300 \
         end_ideal_range_km=290 start_rated_range_km=null end_rated_range_km=null ascent=0 descent=0",
    ),
    Case(
        "addresses stay as they are",
        "+0 o=100 i=300 | +600 o=110 i=290",
        "start_address_id=1 end_address_id=2",
        "start_address_id=1 end_address_id=2",
    ),
    Case("the car never changes", "+0 o=100 i=300 | +600 o=110 i=290", "car_id=2", "car_id=2"),
    // Distance.
    Case(
        "only the ends make the distance",
        "+0 o=100 i=300 | +9 o=500 | +600 o=110 i=290",
        "",
        "distance=10 end_km=110",
    ),
    Case(
        "the distance is float8, to the last bit",
        "+0 o=18444.18 i=300 | +600 o=18457.513333 i=290",
        "",
        "distance=13.333332999998674 start_km=18444.18 end_km=18457.513333",
    ),
    Case(
        "no odometer at the start: no distance, and no deletion",
        "+0 i=300 | +60 o=105 i=299 | +600 o=110 i=290",
        "distance=42 start_km=7",
        "start_km=null end_km=110 distance=null start_date=+0 start_ideal_range_km=299",
    ),
    Case(
        "no odometer at the end: no distance, and no deletion",
        "+0 o=100 i=300 | +60 o=105 i=299 | +600 i=290",
        "",
        "start_km=100 end_km=null distance=null end_date=+600 end_ideal_range_km=299",
    ),
    Case("an odometer of zero is a value", "+0 o=0 i=300 | +600 o=5 i=290", "", "start_km=0 distance=5"),
    Case("exactly 0.01 km is a drive", "+0 o=0 i=300 | +600 o=0.01 i=290", "", "distance=0.01"),
    Case("two positions are enough", "+0 o=1 i=300 | +1 o=2 i=300", "", "distance=1 duration_min=0"),
    // Complete positions.
    Case(
        "ranges come from the first and last complete position, the rest from all",
        "+0 o=100 | +60 o=101 i=300 r=280 | +540 o=109 i=292 r=272 | +600 o=110",
        "",
        "start_date=+0 end_date=+600 start_km=100 end_km=110 start_ideal_range_km=300 end_ideal_range_km=292 \
         start_rated_range_km=280 end_rated_range_km=272 start_position_id=#1 end_position_id=#4",
    ),
    Case(
        "a range without an odometer is not complete",
        "+0 i=310 r=300 | +60 o=101 i=300 r=280 | +600 o=110 i=290 r=270 | +660 i=200 r=100",
        "",
        "start_ideal_range_km=300 end_ideal_range_km=290 start_rated_range_km=280 end_rated_range_km=270 distance=null",
    ),
    Case(
        "a rated range without an ideal one does not make a position complete",
        "+0 o=100 r=300 | +60 o=101 i=300 | +600 o=110 i=290 r=270",
        "",
        "start_ideal_range_km=300 start_rated_range_km=null end_rated_range_km=270",
    ),
    Case(
        "one complete position is the first and the last",
        "+0 o=100 | +60 o=101 i=300 r=280 | +600 o=110",
        "",
        "start_ideal_range_km=300 end_ideal_range_km=300 start_rated_range_km=280 end_rated_range_km=280 distance=10",
    ),
    Case(
        "a range of zero is a value",
        "+0 o=100 i=0 | +600 o=110 i=0",
        "",
        "start_ideal_range_km=0 end_ideal_range_km=0",
    ),
    Case(
        "the rated range may be null at the end",
        "+0 o=100 i=300 r=290 | +300 o=105 i=295 r=285 | +600 o=110 i=290",
        "",
        "start_rated_range_km=290 end_rated_range_km=null",
    ),
    // Duration.
    Case("29 s are 0 minutes", "+0 o=100 i=300 | +29 o=110 i=290", "", "duration_min=0"),
    Case("29.999 s are 0 minutes", "+0 o=100 i=300 | +29.999 o=110 i=290", "", "duration_min=0"),
    Case("30 s are 1 minute", "+0 o=100 i=300 | +30 o=110 i=290", "", "duration_min=1"),
    Case("89 s are 1 minute", "+0 o=100 i=300 | +89 o=110 i=290", "", "duration_min=1"),
    Case("150 s are 3 minutes, half up and not to even", "+0 o=100 i=300 | +150 o=110 i=290", "", "duration_min=3"),
    Case("149.999 s are 2 minutes", "+0 o=100 i=300 | +149.999 o=110 i=290", "", "duration_min=2"),
    Case(
        "a fraction of a second stays in the dates",
        "+0.25 o=1 i=300 | +60.125 o=9 i=290",
        "",
        "start_date=+0.25 end_date=+60.125",
    ),
    Case("32767 minutes fit", "+0 o=100 i=300 | +1966020 o=110 i=290", "", "duration_min=32767"),
    Case("32767.49 minutes fit", "+0 o=100 i=300 | +1966049 o=110 i=290", "", "duration_min=32767"),
    // Temperatures.
    Case(
        "missing temperatures do not count",
        "+0 o=1 i=300 t=20 | +9 o=2 i=299 | +20 o=9 i=298 t=21",
        "",
        "outside_temp_avg=20.5",
    ),
    Case(
        "20.25 degrees are 20.3",
        "+0 o=1 i=300 t=20.2 c=20.2 | +20 o=9 i=298 t=20.3 c=20.3",
        "",
        "outside_temp_avg=20.3 inside_temp_avg=20.3",
    ),
    Case(
        "-20.05 degrees are -20.1, away from zero",
        "+0 o=1 i=300 t=-20.0 c=-20.0 | +20 o=9 i=298 t=-20.1 c=-20.1",
        "",
        "outside_temp_avg=-20.1 inside_temp_avg=-20.1",
    ),
    Case(
        "10.333 degrees are 10.3",
        "+0 o=1 i=300 t=10 | +9 o=2 t=10 | +20 o=9 i=298 t=11",
        "",
        "outside_temp_avg=10.3",
    ),
    Case(
        "the mean is plain, not by time",
        "+0 o=1 i=300 t=10 c=0 | +1 o=2 t=10 c=0 | +600 o=9 i=298 t=40 c=30",
        "",
        "outside_temp_avg=20 inside_temp_avg=10",
    ),
    Case("zero degrees are a value", "+0 o=1 i=300 t=0 | +600 o=9 i=298 t=10", "", "outside_temp_avg=5"),
    // Extremes.
    Case(
        "extremes ignore what is missing",
        "+0 o=1 i=300 s=50 | +9 o=2 p=-60 | +20 o=9 i=298 p=200",
        "",
        "speed_max=50 power_max=200 power_min=-60",
    ),
    Case(
        "a speed and power of zero are values",
        "+0 o=1 i=300 s=0 p=0 | +20 o=9 i=298 s=0 p=0",
        "speed_max=7",
        "speed_max=0 power_max=0 power_min=0",
    ),
    Case(
        "power may be negative throughout",
        "+0 o=1 i=300 p=-30 | +20 o=9 i=298 p=-10",
        "",
        "power_max=-10 power_min=-30",
    ),
    // Elevation.
    Case(
        "rises and falls are summed apart",
        "+0 o=1 i=300 e=100 | +9 o=2 e=150 | +12 o=3 e=120 | +20 o=9 i=298 e=125",
        "",
        "ascent=55 descent=30",
    ),
    Case(
        "positions without elevation are passed over",
        "+0 o=1 i=300 e=100 | +9 o=2 | +20 o=9 i=298 e=130",
        "",
        "ascent=30 descent=0",
    ),
    Case("elevations go by date", "+20 o=9 i=298 e=130 | +9 o=2 e=90 | +0 o=1 i=300 e=100", "", "ascent=40 descent=10"),
    Case(
        "one elevation is neither a rise nor a fall",
        "+0 o=1 i=300 e=100 | +20 o=9 i=298",
        "ascent=5 descent=5",
        "ascent=0 descent=0",
    ),
    Case("level ground", "+0 o=1 i=300 e=7 | +20 o=9 i=298 e=7", "", "ascent=0 descent=0"),
    Case("below the sea", "+0 o=1 i=300 e=-50 | +9 o=2 e=-20 | +20 o=9 i=298 e=-400", "", "ascent=30 descent=380"),
    Case("a rise of 32767 stays", "+0 o=1 i=300 e=0 | +20 o=9 i=298 e=32767", "", "ascent=32767 descent=0"),
    Case(
        "a rise of 32768 becomes 0, the fall beside it stays",
        "+0 o=1 i=300 e=0 | +9 o=2 e=32767 | +12 o=3 e=32766 | +20 o=9 i=298 e=32767",
        "",
        "ascent=0 descent=1",
    ),
    Case("a fall of 32767 stays", "+0 o=1 i=300 e=32767 | +20 o=9 i=298 e=0", "", "ascent=0 descent=32767"),
    Case(
        "a fall of 32768 becomes 0, the rise beside it stays",
        "+0 o=1 i=300 e=32767 | +9 o=2 e=0 | +12 o=3 e=1 | +20 o=9 i=298 e=0",
        "",
        "ascent=1 descent=0",
    ),
    Case(
        "a single rise beyond a smallint becomes 0",
        "+0 o=1 i=300 e=-30000 | +20 o=9 i=298 e=30000",
        "",
        "ascent=0 descent=0",
    ),
    // Geofences.
    Case(
        "a fence at the start, none at the end",
        "+0 o=1 i=300 lat=40 lon=20 | +20 o=9 i=298",
        "",
        "start_geofence_id=91 end_geofence_id=null",
    ),
    Case(
        "a fence at the end, none at the start",
        "+0 o=1 i=300 | +20 o=9 i=298 lat=40 lon=20",
        "",
        "start_geofence_id=null end_geofence_id=91",
    ),
    Case(
        "of two fences the one with the nearer centre, 22 m against 33 m",
        "+0 o=1 i=300 lat=40.0002 lon=20 | +20 o=9 i=298 lat=40.0004 lon=20",
        "",
        "start_geofence_id=91 end_geofence_id=92",
    ),
    Case(
        "the nearer centre counts only if its own radius reaches",
        "+0 o=1 i=300 lat=42.0002 lon=20 | +20 o=9 i=298",
        "",
        "start_geofence_id=95",
    ),
    Case(
        "99.97 m are within a radius of 100 m",
        "+0 o=1 i=300 lat=41.000898 lon=20 | +20 o=9 i=298",
        "",
        "start_geofence_id=93",
    ),
    Case(
        "100.08 m on earthdistance's sphere are not, though 99.96 m on the usual one",
        "+0 o=1 i=300 lat=41.000899 lon=20 | +20 o=9 i=298",
        "",
        "start_geofence_id=null",
    ),
    Case(
        "the radius itself is outside: nothing is less than 0 m away",
        "+0 o=1 i=300 lat=43 lon=20 | +20 o=9 i=298",
        "",
        "start_geofence_id=null",
    ),
    Case(
        "no fence found: the columns are left as they are",
        "+0 o=1 i=300 | +20 o=9 i=298",
        "start_geofence_id=93 end_geofence_id=92",
        "start_geofence_id=93 end_geofence_id=92",
    ),
    Case(
        "a fence found takes the place of another",
        "+0 o=1 i=300 lat=40 lon=20 | +20 o=9 i=298",
        "start_geofence_id=93 end_geofence_id=92",
        "start_geofence_id=91 end_geofence_id=92",
    ),
    Case(
        "fences go by the first and last position, complete or not",
        "+0 o=1 lat=40 lon=20 | +9 o=2 i=300 | +20 o=9 lat=40.0005 lon=20",
        "",
        "start_geofence_id=91 end_geofence_id=92",
    ),
];

/// Drives that closing deletes, with the words of the reason.
const DELETED: &[Case] = &[
    Case("no positions", "", "", "no positions"),
    Case("closed long ago, and its positions are gone", "", "end_date=+600 distance=10", "no positions"),
    Case("one position", "+0 o=100 i=300", "", "only one position"),
    Case("no position is complete", "+0 o=100 | +60 i=300 | +600 o=110", "", "none of its positions"),
    Case("no position is complete, and no odometer is known", "+0 i=300 | +600 i=290", "", "none of its positions"),
    Case("it stood still", "+0 o=100 i=300 | +600 o=100 i=290", "", "0 km"),
    Case("less than 0.01 km", "+0 o=0 i=300 | +600 o=0.009999 i=290", "", "0.009999 km"),
    Case("it went backwards", "+0 o=110 i=300 | +600 o=100 i=290", "", "-10 km"),
    Case("it went backwards, and was closed already", "+0 o=110 i=300 | +600 o=100 i=290", "end_date=+600", "-10 km"),
];

/// Drives that can neither be closed nor deleted, with the words of the refusal.
const REFUSED: &[Case] = &[
    Case("32768 minutes do not fit", "+0 o=100 i=300 | +1966080 o=110 i=290", "", "32768 minutes"),
    Case("32767.5 minutes do not fit", "+0 o=100 i=300 | +1966050 o=110 i=290", "", "32768 minutes"),
];

/// 91 and 92 overlap, their centres 56 m apart; 94 is near but too small; 96 has no extent.
const FENCES: &str = "INSERT INTO geofences (id, name, latitude, longitude, radius, inserted_at, updated_at) VALUES \
    (91, 'a', 40, 20, 100, now(), now()), (92, 'b', 40.0005, 20, 200, now(), now()), \
    (93, 'c', 41, 20, 100, now(), now()), (94, 'd', 42, 20, 10, now(), now()), \
    (95, 'e', 42.0010, 20, 200, now(), now()), (96, 'f', 43, 20, 0, now(), now());";

const FIRST: i32 = 1001;

fn id_of(at: usize) -> i32 {
    FIRST + i32::try_from(at).expect("few cases")
}

/// A database with these drives, numbered from [`FIRST`].
fn database(hint: &str, cases: &[Case]) -> (&'static Server, String, Site) {
    let server = Server::shared();
    let database = server.teslamate(hint);
    let mut sql = FENCES.to_owned();
    for (at, Case(_, positions, before, _)) in cases.iter().enumerate() {
        let id = id_of(at);
        let _ = writeln!(sql, "INSERT INTO drives (id, start_date, car_id) VALUES ({id}, {}, 1);", time(-60.0));
        for (column, value) in assignments(before) {
            let _ = writeln!(sql, "UPDATE drives SET {column} = {value} WHERE id = {id};");
        }
        sql += &insert(&POSITIONS, id, positions);
    }
    run_sql(server, &database, &sql);
    let site = Site::new(server, &database);
    (server, database, site)
}

fn ids(cases: &[Case]) -> Vec<String> {
    (0..cases.len()).map(|at| id_of(at).to_string()).collect()
}

#[test]
fn drives_are_closed_as_the_application_closes_them() {
    let (server, database, site) = database("close_drive", KEPT);
    let ids = ids(KEPT);
    let mut arguments = vec!["--via", "sql", "--json"];
    arguments.extend(ids.iter().map(String::as_str));
    let before = rows(server, &database, "drives");
    let closed = site.run("teslamate-close-drive", &arguments).expect(0);

    let after = rows(server, &database, "drives");
    let mut failures = Vec::new();
    for (at, Case(name, _, columns, expected)) in KEPT.iter().enumerate() {
        let id = id_of(at);
        let mut wrong = differences(id, expected, &after[&id]);
        let was_closed = columns.contains("end_date=");
        let word = if was_closed { "recomputed" } else { "closed" };
        let result = &closed.json()["results"][at];
        if result["status"] != word || result["id"] != id {
            wrong.push(format!("reported as {result}, not as {word}"));
        }
        if result["changes"]["end_date"][1].is_null() {
            wrong.push(format!("the change of end_date is not reported: {result}"));
        }
        failures.extend(wrong.iter().map(|wrong| format!("{name}: {wrong}")));
    }
    for (id, row) in before.iter().filter(|(id, _)| **id < FIRST) {
        if after[id] != *row {
            failures.push(format!("drive {id} was not to be touched"));
        }
    }
    verdict("drives", KEPT.len(), &failures);

    // A second time changes nothing: closing is a function of the positions.
    site.run("teslamate-close-drive", &arguments).expect(0);
    assert_eq!(rows(server, &database, "drives"), after);
}

#[test]
fn what_the_fixtures_computed_by_themselves_is_what_closing_computes() {
    let server = Server::shared();
    let database = server.teslamate("close_again");
    let site = Site::new(server, &database);
    let before = server.content(&database);
    for (binary, table) in [("teslamate-close-drive", "drives"), ("teslamate-close-charge", "charging_processes")] {
        let ids = server.query(&database, &format!("SELECT id FROM {table} WHERE end_date IS NOT NULL"));
        let mut arguments = vec!["--via", "sql"];
        arguments.extend(ids.lines());
        assert!(arguments.len() > 10, "{table}: {ids}");
        let outcome = site.run(binary, &arguments).expect(0);
        assert!(outcome.text().contains("every column has the value that it had"), "{}", outcome.text());
    }
    assert_eq!(server.content(&database), before);
}

#[test]
fn r89_drives_that_are_none_are_deleted_only_if_that_is_allowed() {
    let (server, database, site) = database("close_none", DELETED);
    let ids = ids(DELETED);
    let before = server.content(&database);
    let mut arguments = vec!["--via", "sql", "--json"];
    arguments.extend(ids.iter().map(String::as_str));

    let refused = site.run("teslamate-close-drive", &arguments).expect(10).says("--allow-delete 1001");
    assert_eq!(server.content(&database), before, "refused, and yet something changed");
    assert!(!site.path("state/deleted").exists());
    let dry = site.command("teslamate-close-drive").args(&arguments).arg("--dry-run").outcome().expect(0);
    assert_eq!(server.content(&database), before, "a dry run changed something");
    let positions: i64 = server.query(&database, "SELECT count(*) FROM positions").parse().unwrap();

    let deleted = site.command("teslamate-close-drive").args(&arguments).arg("--allow-delete").outcome().expect(0);
    let after = rows(server, &database, "drives");
    let mut failures = Vec::new();
    for (at, Case(name, lines, _, reason)) in DELETED.iter().enumerate() {
        let (no, would, did) =
            (&refused.json()["results"][at], &dry.json()["results"][at], &deleted.json()["results"][at]);
        let says = |value: &serde_json::Value| value.to_string().contains(reason);
        if no["status"] != "failed" || no["error"]["exit_code"] != 10 || !says(no) {
            failures.push(format!("{name}: refused as {no}"));
        }
        if would["status"] != "would_delete" || !says(would) {
            failures.push(format!("{name}: foreseen as {would}"));
        }
        let count = lines.split('|').filter(|line| !line.trim().is_empty()).count();
        if did["status"] != "deleted" || did["positions"] != count || !did["saved"].is_string() {
            failures.push(format!("{name}: deleted as {did}"));
        }
        if after.contains_key(&id_of(at)) {
            failures.push(format!("{name}: is still there"));
        }
    }
    verdict("drives that are none", DELETED.len(), &failures);
    let unlinked = server.query(&database, "SELECT count(*) FROM positions WHERE id > 1000000 AND drive_id IS NULL");
    assert_eq!(unlinked, "14", "the positions stay, without a drive");
    assert_eq!(server.query(&database, "SELECT count(*) FROM positions").parse::<i64>().unwrap(), positions);

    // Every one of them comes back.
    for name in site.files("state/deleted") {
        site.run("teslamate-delete-drive", &["--undo", &format!("state/deleted/{name}")]).expect(0);
    }
    assert_eq!(server.content(&database), before);
}

#[test]
fn drives_that_do_not_fit_their_columns_are_refused_and_do_not_stop_the_others() {
    let (server, database, site) = database("close_refused", REFUSED);
    let before = server.content(&database);
    for (at, Case(name, _, _, words)) in REFUSED.iter().enumerate() {
        let outcome = site.run("teslamate-close-drive", &["--via", "sql", &id_of(at).to_string()]);
        assert!(outcome.stderr.contains(words) && outcome.stderr.contains("duration_min"), "{name}: {outcome:?}");
        outcome.expect(10);
    }
    assert_eq!(server.content(&database), before);

    let open = server.query(&database, "SELECT min(id) FROM drives WHERE end_date IS NULL");
    let outcome = site.run("teslamate-close-drive", &["--via", "sql", "--json", "1001", &open, "999999", "1002"]);
    let words: Vec<_> = (0..4).map(|at| outcome.json()["results"][at]["status"].as_str().unwrap().to_owned()).collect();
    assert_eq!(words, ["failed", "closed", "failed", "failed"]);
    outcome.expect(10).says("1001 would last").says("there is no drive 999999");
}

#[test]
fn there_must_be_exactly_one_row_of_settings() {
    let server = Server::shared();
    let database = server.teslamate("settings_row");
    let site = Site::new(server, &database);
    for change in [
        "DELETE FROM settings",
        "INSERT INTO settings (inserted_at, updated_at) SELECT now(), now() FROM generate_series(1, 2)",
    ] {
        server.query(&database, change);
        let before = server.content(&database);
        for binary in ["teslamate-close-drive", "teslamate-close-charge"] {
            site.run(binary, &["--via", "sql", "--all-open"]).expect(10).says("public.settings has");
        }
        assert_eq!(server.content(&database), before);
    }
}

#[test]
fn r89_a_drive_that_gets_positions_while_a_person_is_thinking_is_not_deleted() {
    let (server, database, site) = database("thinking", &[Case("", "+0 o=100 i=300", "", "")]);
    let mut session = site.on_terminal("teslamate-close-drive", "--via=sql 1001");
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'teslamate-close-drive%' \
                     AND state = 'idle' AND query = 'ROLLBACK' AND datname = ";
    while server.query("postgres", &format!("{connected}'{database}'")) != "1" {
        assert!(std::time::Instant::now() < give_up, "it did not ask");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let more = insert(&POSITIONS, 1002, "+60 o=105 i=299").replace("1002, ", "1001, ");
    run_sql(server, &database, &more);
    let before = server.content(&database);
    let (code, shown) = session.answer("yes");
    assert!(code == Some(11) && shown.contains("further positions meanwhile"), "{code:?}: {shown}");
    assert_eq!(server.content(&database), before);
    // Once more: a drive now.
    site.run("teslamate-close-drive", &["--via=sql", "1001"]).expect(0);
}
