//! Drives and charges as short texts: what goes in, and which columns come out.
//!
//! A line is a position or a reading: `+600 o=110 i=290` comes 600 seconds after 2024-05-01 08:00:00 UTC and has these
//! values; what is not named is null, or the default of [`Kind`]. Lines are separated by `|` and inserted in the order
//! in which they stand. `+0..5400/360 kw=11` stands for 16 lines, one every 360 seconds. An expectation is a list of
//! `column=value`, where `+600` is a time and `#2` the id of the second line; numbers are compared as numbers.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::{DateTime, Duration, Utc};

use super::server::Server;

/// What a letter stands for.
pub struct Letters {
    /// The table of the lines.
    pub table: &'static str,
    /// The column that names the record.
    pub parent: &'static str,
    /// Letters and columns.
    pub columns: &'static [(&'static str, &'static str)],
    /// Values of columns that are not named, as SQL.
    pub defaults: &'static [(&'static str, &'static str)],
}

/// Positions of a drive.
pub const POSITIONS: Letters = Letters {
    table: "positions",
    parent: "drive_id",
    columns: &[
        ("o", "odometer"),
        ("i", "ideal_battery_range_km"),
        ("r", "rated_battery_range_km"),
        ("s", "speed"),
        ("p", "power"),
        ("e", "elevation"),
        ("t", "outside_temp"),
        ("c", "inside_temp"),
        ("lat", "latitude"),
        ("lon", "longitude"),
    ],
    defaults: &[("latitude", "10"), ("longitude", "10"), ("car_id", "1")],
};

/// Readings of a charge.
pub const READINGS: Letters = Letters {
    table: "charges",
    parent: "charging_process_id",
    columns: &[
        ("a", "charge_energy_added"),
        ("kw", "charger_power"),
        ("i", "ideal_battery_range_km"),
        ("r", "rated_battery_range_km"),
        ("l", "battery_level"),
        ("t", "outside_temp"),
        ("ph", "charger_phases"),
        ("A", "charger_actual_current"),
        ("V", "charger_voltage"),
        ("type", "fast_charger_type"),
    ],
    defaults: &[("charge_energy_added", "0"), ("charger_power", "0"), ("ideal_battery_range_km", "300")],
};

/// The SQL literal of a time that is so many seconds after the beginning.
pub fn time(seconds: f64) -> String {
    format!("(timestamp '2024-05-01 08:00:00' + interval '{seconds} s')")
}

/// The same as JSON writes it.
pub fn time_text(seconds: f64) -> String {
    let start: DateTime<Utc> = "2024-05-01T08:00:00Z".parse().expect("a time");
    #[allow(clippy::cast_possible_truncation)]
    let at = start + Duration::microseconds((seconds * 1e6).round() as i64);
    let text = at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The lines of a text, each with its second and its values.
fn lines(text: &str) -> Vec<(f64, BTreeMap<&str, &str>)> {
    let mut lines = Vec::new();
    for line in text.split('|').map(str::trim).filter(|line| !line.is_empty()) {
        let (when, values) = line.split_once(' ').unwrap_or((line, ""));
        let values: BTreeMap<&str, &str> =
            values.split_whitespace().map(|pair| pair.split_once('=').expect("letter=value")).collect();
        let when = when.strip_prefix('+').expect("a time begins with +");
        let number = |text: &str| text.parse::<f64>().expect("a number of seconds");
        let Some((from, rest)) = when.split_once("..") else {
            lines.push((number(when), values));
            continue;
        };
        let (to, step) = rest.split_once('/').expect("from..to/step");
        let mut at = number(from);
        while at <= number(to) {
            lines.push((at, values.clone()));
            at += number(step);
        }
    }
    lines
}

/// The statements that insert the lines of record `id`; line `n` gets the id `id * 1000 + n`.
pub fn insert(letters: &Letters, id: i32, text: &str) -> String {
    let mut sql = String::new();
    for (at, (seconds, values)) in lines(text).into_iter().enumerate() {
        let mut columns: BTreeMap<&str, String> =
            letters.defaults.iter().map(|(column, value)| (*column, (*value).to_owned())).collect();
        columns.insert("id", (id * 1000 + i32::try_from(at).expect("few lines") + 1).to_string());
        columns.insert(letters.parent, id.to_string());
        columns.insert("date", time(seconds));
        for (letter, value) in values {
            let known = letters.columns.iter().find(|(known, _)| *known == letter);
            let (_, column) = known.unwrap_or_else(|| panic!("unknown letter {letter}"));
            columns.insert(column, format!("'{value}'"));
        }
        let names: Vec<&str> = columns.keys().copied().collect();
        let values: Vec<&str> = columns.values().map(String::as_str).collect();
        let _ = writeln!(sql, "INSERT INTO {} ({}) VALUES ({});", letters.table, names.join(", "), values.join(", "));
    }
    sql
}

/// `a=1 b=+600` as `, a = 1, b = time`: assignments for an UPDATE or INSERT. Text values are quoted by the caller.
pub fn assignments(text: &str) -> Vec<(String, String)> {
    text.split_whitespace()
        .map(|pair| {
            let (column, value) = pair.split_once('=').expect("column=value");
            let value = match value.strip_prefix('+') {
                Some(seconds) => time(seconds.parse().expect("seconds")),
                None => value.to_owned(),
            };
            (column.to_owned(), value)
        })
        .collect()
}

/// Every row of a table, by id, as column to text (`null` for null).
pub fn rows(server: &Server, database: &str, table: &str) -> BTreeMap<i32, BTreeMap<String, String>> {
    let sql = format!(
        "SELECT t.id || ' ' || j.key || ' ' || coalesce(j.value, 'null') \
                       FROM {table} t, jsonb_each_text(to_jsonb(t)) j"
    );
    let mut rows: BTreeMap<i32, BTreeMap<String, String>> = BTreeMap::new();
    for line in server.query(database, &sql).lines() {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().expect("three words").to_owned();
        let (id, column, value) = (word().parse().expect("an id"), word(), word());
        rows.entry(id).or_default().insert(column, value);
    }
    rows
}

/// What of an expectation is not so, as sentences.
pub fn differences(id: i32, expected: &str, row: &BTreeMap<String, String>) -> Vec<String> {
    expected
        .split_whitespace()
        .filter_map(|pair| {
            let (column, wanted) = pair.split_once('=').expect("column=value");
            let found = row.get(column).map_or("no such column", String::as_str);
            let wanted = match (wanted.strip_prefix('+'), wanted.strip_prefix('#')) {
                (Some(seconds), _) => time_text(seconds.parse().expect("seconds")),
                (_, Some(line)) => (id * 1000 + line.parse::<i32>().expect("a line")).to_string(),
                _ => wanted.to_owned(),
            };
            let numbers = (wanted.parse::<f64>(), found.parse::<f64>());
            let same = match numbers {
                // Exactly: the same digits were meant.
                #[allow(clippy::float_cmp)]
                (Ok(wanted), Ok(found)) => wanted == found,
                _ => wanted == found,
            };
            (!same).then(|| format!("{column} is {found}, not {wanted}"))
        })
        .collect()
}

/// Runs SQL of any length.
pub fn run_sql(server: &Server, database: &str, sql: &str) {
    let file = tempfile::Builder::new().suffix(".sql").tempfile().expect("a file");
    std::fs::write(file.path(), sql).expect("written");
    server.run_file(database, file.path(), &[]);
}

/// Fails with the name of every case that is not as expected.
#[track_caller]
pub fn verdict(subject: &str, count: usize, failures: &[String]) {
    assert!(failures.is_empty(), "{} of {count} {subject} failed:\n{}", failures.len(), failures.join("\n"));
}
