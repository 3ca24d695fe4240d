//! `--drive` and `--charge`: a record of a backup back into the live database.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use super::Args;
use crate::backup::session;
use crate::cli::Env;
use crate::cli::report::{self, Report};
use crate::error::{Error, Kind, Result};
use crate::ledger::RunKind;
use crate::restore::stored::{Stored, called};
use crate::restore::{Destination, Policy};
use crate::teslamate::Record;
use crate::teslamate::back::{self, Back, Found, Outlook, Wanted};

const UNCHANGED: &str = "nothing was changed";

/// Puts the records back, or shows what would be.
pub(super) async fn put_back(args: &Args, env: &Env) -> Result<Report> {
    if args.backup().is_none() {
        return Err(Error::new(Kind::Usage, "--drive and --charge take their rows from a backup, not from a file")
            .with("state", UNCHANGED)
            .hint("Load the file beside the live database with --into NAME, and take the rows from there."));
    }
    // Looking at something is no run.
    let mut noted = if args.dry_run {
        session::Session::begin(env, None)?
    } else {
        session::Session::begin_anyway(env, RunKind::Restore, false)?
    };
    let result = Box::pin(work(args, env, &mut noted)).await.map_err(|error| error.or_state(UNCHANGED));
    if args.dry_run { result } else { noted.end(result) }
}

async fn work(args: &Args, env: &Env, noted: &mut session::Session<'_>) -> Result<Report> {
    let started = Instant::now();
    noted.fill_stand_in().await?;
    noted.learn_cluster().await?;
    let snapshot = noted.meant(args.backup().unwrap_or_default())?;
    let (stored, _) = Stored::from_repository(env, noted, snapshot).await?;
    let policy = Policy { allow_other: args.allow_other, ..Policy::default() };
    stored.is_of(&env.settings.database.name, &Destination::Live, &policy)?;
    let client = env.interrupt.guard(env.connector.connect()).await?;
    stored.is_of_cluster(env, &client, true, &policy).await?;
    drop(client);
    let mut back = Back::stage(env, &stored, Wanted::new(&args.drives, &args.charges)).await?;
    let outlook = back.look().await?;
    if args.dry_run {
        return Ok(describe(env, &stored, &outlook, None, started));
    }
    confirm(env, args.yes, &stored, &outlook).await?;
    let (outlook, file) = back.put().await?;
    Ok(describe(env, &stored, &outlook, Some(&file), started))
}

async fn confirm(env: &Env, yes: bool, stored: &Stored, outlook: &Outlook) -> Result<()> {
    if yes {
        return Ok(());
    }
    let database = &env.settings.database.name;
    let question = format!(
        "{}\nThis puts it into database \"{database}\" on {}, from {}; no other row changes.\nType yes to go on: ",
        lines(outlook, false).join("\n"),
        env.connector.server(),
        called(&stored.noted)
    );
    match env.interrupt.guard(env.host.ask(&question)).await? {
        Some(answer) if ["y", "yes"].contains(&answer.trim()) => Ok(()),
        Some(_) => Err(Error::new(Kind::Refused, "it was not confirmed")),
        None => Err(Error::new(Kind::Usage, "records are only put back with --yes where there is no terminal")
            .hint("Add --yes; or look first with --dry-run.")),
    }
}

fn describe(env: &Env, stored: &Stored, outlook: &Outlook, file: Option<&Path>, started: Instant) -> Report {
    let mut text = lines(outlook, file.is_some());
    text.push(format!("from {}", called(&stored.noted)));
    for found in outlook.records.iter().filter(|found| found.is_open) {
        let noun = found.record.noun();
        text.push(format!(
            "{noun} {} was open in the backup: teslamate-close-{noun} {} finishes it",
            found.id, found.id
        ));
    }
    match file {
        Some(file) => {
            text.push(format!("to take it away again: teslamate-restore --undo-record {}", file.display()));
            text.push(format!("{} in all", report::seconds(started.elapsed())));
        }
        None => text.push("dry run: nothing was changed".to_owned()),
    }
    let records: Vec<_> = outlook.records.iter().map(as_json).collect();
    let json = json!({
        "mode": "records",
        "dry_run": file.is_none(),
        "database": env.settings.database.name,
        "backup": stored.noted.facts.id,
        "records": records,
        "rows": outlook.rows,
        "positions_linked": outlook.linked,
        "undo_file": file,
        "seconds": started.elapsed().as_secs_f64(),
    });
    Report::new(text.join("\n"), json)
}

fn as_json(found: &Found) -> serde_json::Value {
    json!({
        "record": found.record.noun(),
        "id": found.id,
        "car_id": found.car_id,
        "start_date": found.start_date,
        "open": found.is_open,
    })
}

fn lines(outlook: &Outlook, is_done: bool) -> Vec<String> {
    let done = if is_done { "put back" } else { "would be put back" };
    let mut lines: Vec<String> = outlook
        .records
        .iter()
        .map(|found| {
            let unknown = || "?".to_owned();
            let car = found.car_id.clone().unwrap_or_else(unknown);
            let start = found.start_date.clone().unwrap_or_else(unknown);
            format!("{} {} (car {car}, started {start} UTC): {done}", found.record.noun(), found.id)
        })
        .collect();
    let others =
        outlook.rows.iter().filter(|(table, _)| ![Record::Drive.table(), Record::Charge.table()].contains(table));
    lines.extend(others.map(|(table, rows)| format!("  rows of {table}: {}", report::count(*rows))));
    if outlook.linked > 0 {
        let count = report::count(outlook.linked);
        lines.push(format!("  positions that are there and belong to a drive again: {count}"));
    }
    lines
}

/// Takes away again what was put back.
pub(super) async fn undo(mut env: Env, file: &Path) -> Result<Report> {
    let input = env.opened.input.take().ok_or_else(|| Error::new(Kind::Usage, "no file was opened"))?;
    let undone = back::undo(&env, input, file).await.map_err(|error| error.or_state(UNCHANGED))?;
    let mut text = Vec::new();
    for (noun, ids) in [("drive", &undone.drives), ("charge", &undone.charges)] {
        text.extend(ids.iter().map(|id| format!("{noun} {id}: taken away again")));
    }
    for (table, rows) in undone.removed.iter().filter(|(_, rows)| **rows > 0) {
        text.push(format!("  rows of {table}: {}", report::count(*rows)));
    }
    if undone.unlinked > 0 {
        text.push(format!("  positions that stay, without a drive: {}", report::count(undone.unlinked)));
    }
    for (table, rows) in &undone.kept {
        text.push(format!(
            "  rows of {table} that stay, since others refer to them or they were changed: {}",
            report::count(*rows)
        ));
    }
    text.push(format!("{} is kept", file.display()));
    let json = json!({
        "mode": "records",
        "undone": true,
        "database": env.settings.database.name,
        "drives": undone.drives,
        "charges": undone.charges,
        "removed": undone.removed,
        "kept": undone.kept,
        "positions_unlinked": undone.unlinked,
    });
    Ok(Report::new(text.join("\n"), json))
}
