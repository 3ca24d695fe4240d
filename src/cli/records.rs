//! What the four maintenance commands print: for people and for programs, side by side (`docs/maintenance.md`).

use serde_json::{Map, Value, json};

use super::report::{Report, count, table};
use crate::progress::Reporter;
use crate::teslamate::close::Closed;
use crate::teslamate::open::Open;
use crate::teslamate::outcome::{Effects, Outcome, Status};
use crate::teslamate::rows::Change;
use crate::teslamate::{Record, age};

/// The report of a closing.
#[must_use]
pub fn closed(record: Record, dry_run: bool, closed: Closed, reporter: &Reporter) -> Report {
    let mut report = outcomes(record, dry_run, closed.outcomes, reporter);
    if let Value::Object(fields) = &mut report.json {
        fields.insert("via".into(), closed.via.into());
        fields.insert("why".into(), closed.why.into());
    }
    report
}

/// The report of any work on records. The first failure decides the exit code; the others are told before it.
#[must_use]
pub fn outcomes(record: Record, dry_run: bool, mut outcomes: Vec<Outcome>, reporter: &Reporter) -> Report {
    let results: Vec<Value> = outcomes.iter().map(|outcome| as_json(outcome, dry_run)).collect();
    let mut lines: Vec<String> = match outcomes.as_slice() {
        // All there is to say about it follows on standard error.
        [Outcome { failure: Some(_), .. }] => Vec::new(),
        several => several.iter().map(|outcome| as_text(record, outcome, dry_run)).collect(),
    };
    if outcomes.is_empty() {
        lines.push(format!("no {} is open", record.noun()));
    }
    if dry_run && !lines.is_empty() {
        lines.push("dry run: nothing was changed".into());
    }
    let mut failures = outcomes.iter_mut().filter_map(|outcome| outcome.failure.take());
    let failure = failures.next();
    for other in failures {
        reporter.error(&other.to_string());
    }
    let json = json!({ "record": record.noun(), "dry_run": dry_run, "results": results });
    Report { text: lines.join("\n"), json, failure }
}

fn as_text(record: Record, outcome: &Outcome, dry_run: bool) -> String {
    let noun = record.noun();
    let mut lines = vec![match &outcome.failure {
        Some(error) => format!("{noun} {}: {}: {}", outcome.id, outcome.status.sentence(), error.message()),
        None => format!("{noun} {}{}: {}", outcome.id, whose(outcome), outcome.status.sentence()),
    }];
    match outcome.status {
        Status::Deleted | Status::WouldDelete | Status::Restored => {
            let facts: Vec<Vec<String>> = outcome
                .row
                .iter()
                .filter_map(|change| Some(vec![change.column.clone(), change.before.clone().or(change.after.clone())?]))
                .collect();
            if dry_run && !facts.is_empty() {
                lines.extend(table(&["column", "value"], &facts).lines().map(|line| format!("  {line}")));
            }
        }
        _ => {
            let shown = outcome.row.iter().chain(&outcome.elsewhere).filter(|change| dry_run || change.changed());
            let cells: Vec<Vec<String>> = shown.map(|change| cells(change, dry_run)).collect();
            if cells.is_empty() && outcome.failure.is_none() && !outcome.row.is_empty() {
                lines.push("  every column has the value that it had".into());
            } else if !cells.is_empty() {
                let rendered = table(&["column", "old", "new"], &cells);
                lines.extend(rendered.lines().map(|line| format!("  {line}")));
            }
        }
    }
    if let Some(effects) = &outcome.effects {
        lines.extend(effect_lines(record, outcome.status, effects).into_iter().map(|line| format!("  {line}")));
    }
    if let Some(path) = &outcome.saved {
        lines.push(format!("  its rows are saved in {}", path.display()));
        if outcome.notes.is_empty() {
            lines.push(format!("  to put them back: teslamate-delete-{noun} --undo {}", path.display()));
        }
    }
    lines.extend(outcome.notes.iter().map(|note| format!("  note: {note}")));
    lines.join("\n")
}

fn whose(outcome: &Outcome) -> String {
    match (&outcome.car_id, &outcome.start_date) {
        (Some(car), Some(start)) => format!(" (car {car}, started {start} UTC)"),
        _ => String::new(),
    }
}

/// `*` marks what changes where every column is shown.
fn cells(change: &Change, dry_run: bool) -> Vec<String> {
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "null".into());
    let mark = if dry_run && change.changed() { " *" } else { "" };
    vec![change.column.clone(), shown(&change.before), format!("{}{mark}", shown(&change.after))]
}

fn effect_lines(record: Record, status: Status, effects: &Effects) -> Vec<String> {
    let Effects { positions, charges_on_positions, readings } = *effects;
    match (record, status) {
        (Record::Drive, Status::Restored) => vec![format!("positions linked to it again: {}", count(positions))],
        (Record::Charge, Status::Restored) => vec![format!("readings put back: {}", count(readings))],
        (Record::Drive, _) => {
            let mut lines = vec![format!("positions that stay, without a drive: {}", count(positions))];
            if charges_on_positions > 0 {
                lines.push(format!("of these carry a charge, which stays: {}", count(charges_on_positions)));
            }
            lines
        }
        (Record::Charge, _) => {
            vec![format!("readings that go with it: {}", count(readings)), "the car's efficiency stays as it is".into()]
        }
    }
}

fn as_json(outcome: &Outcome, dry_run: bool) -> Value {
    let mut fields = Map::new();
    fields.insert("id".into(), outcome.id.into());
    fields.insert("status".into(), outcome.status.word().into());
    let number = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<i64>().ok());
    if outcome.car_id.is_some() {
        fields.insert("car_id".into(), json!(number(&outcome.car_id)));
    }
    let pairs = |keep: &dyn Fn(&Change) -> bool| -> Map<String, Value> {
        let all = outcome.row.iter().chain(&outcome.elsewhere).filter(|change| keep(change));
        all.map(|change| {
            (
                change.column.clone(),
                json!([value(change, change.before.as_deref()), value(change, change.after.as_deref())]),
            )
        })
        .collect()
    };
    match outcome.status {
        Status::Deleted | Status::WouldDelete | Status::Restored => {
            let row = outcome.row.iter().map(|change| {
                let side = change.before.as_deref().or(change.after.as_deref());
                (change.column.clone(), value(change, side))
            });
            fields.insert("row".into(), row.collect::<Map<_, _>>().into());
        }
        Status::Failed | Status::Untried | Status::Absent => {}
        _ => {
            fields.insert("changes".into(), pairs(&Change::changed).into());
            if dry_run {
                fields.insert("columns".into(), pairs(&|_| true).into());
            }
        }
    }
    if let Some(effects) = outcome.effects {
        fields.insert("positions".into(), effects.positions.into());
        fields.insert("charges_on_positions".into(), effects.charges_on_positions.into());
        fields.insert("readings".into(), effects.readings.into());
    }
    if let Some(path) = &outcome.saved {
        fields.insert("saved".into(), path.display().to_string().into());
    }
    fields.insert("notes".into(), json!(outcome.notes));
    if let Some(Value::Object(failure)) = outcome.failure.as_ref().map(crate::error::Error::to_json) {
        fields.extend(failure);
    }
    fields.into()
}

/// Numbers as numbers where JSON has them: NaN and infinity stay text, as does what has more digits than a double.
fn value(change: &Change, text: Option<&str>) -> Value {
    let Some(text) = text else { return Value::Null };
    match serde_json::from_str(text) {
        Ok(number) if change.numeric && text.len() <= 17 => Value::Number(number),
        _ => Value::String(text.to_owned()),
    }
}

/// The report of `--list`.
#[must_use]
pub fn list(record: Record, open: &[Open]) -> Report {
    let noun = record.noun();
    let results: Vec<Value> = open.iter().map(open_as_json).collect();
    let json = json!({ "record": noun, "open": results });
    if open.is_empty() {
        return Report::new(format!("no {noun} is open"), json);
    }
    let mut header =
        vec![noun, "car", "started (UTC)", "age", "last position (UTC)", "latitude", "longitude", "odometer"];
    if record == Record::Charge {
        header[4] = "position (UTC)";
        header.push("last reading (UTC)");
    }
    let rows: Vec<Vec<String>> = open.iter().map(|open| open_as_cells(record, open)).collect();
    Report::new(table(&header, &rows), json)
}

fn open_as_cells(record: Record, open: &Open) -> Vec<String> {
    let car = match &open.car_name {
        Some(name) => format!("{} {name}", open.car_id),
        None => open.car_id.to_string(),
    };
    let none = || "none".to_owned();
    let mut cells = vec![open.id.to_string(), car, open.start_date.clone(), age::shown(open.age_seconds)];
    match &open.last_position {
        Some(position) => cells.extend([
            position.date.clone(),
            position.latitude.clone(),
            position.longitude.clone(),
            position.odometer.clone().unwrap_or_else(none),
        ]),
        None => cells.extend([none(), String::new(), String::new(), String::new()]),
    }
    if record == Record::Charge {
        cells.push(open.last_reading.clone().unwrap_or_else(none));
    }
    cells
}

fn open_as_json(open: &Open) -> Value {
    let number = |text: &str| text.parse::<f64>().ok();
    let position = open.last_position.as_ref().map(|position| {
        json!({
            "date": position.date,
            "latitude": number(&position.latitude),
            "longitude": number(&position.longitude),
            "odometer": position.odometer.as_deref().and_then(number),
        })
    });
    json!({
        "id": open.id,
        "car": { "id": open.car_id, "name": open.car_name },
        "start_date": open.start_date,
        "age_seconds": open.age_seconds,
        "last_position": position,
        "last_reading": open.last_reading,
    })
}
