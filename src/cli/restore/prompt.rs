//! Summary that is shown before the live database changes: ages, rows, and losses.

use std::time::SystemTime;

use chrono::{DateTime, Utc};

use crate::cli::Env;
use crate::cli::report;
use crate::ledger::Snapshot;
use crate::restore::Policy;
use crate::restore::outlook::{Outlook, age, described};
use crate::restore::previous::{self, Previous};
use crate::restore::rows_only::Loaded;
use crate::restore::stored::{Stored, called};

/// The source, with its age.
fn source(name: &str, wanted: Option<&Snapshot>) -> String {
    let now = Utc::now();
    if let Some(noted) = wanted {
        return format!("{} ({}, {} rows)", called(noted), age(noted.facts.time, now), report::count(noted.facts.rows));
    }
    let written = std::fs::metadata(name).and_then(|metadata| metadata.modified());
    let Ok(written) = written.map(|time: SystemTime| DateTime::<Utc>::from(time)) else { return name.to_owned() };
    format!("{name} (written at {}, {})", written.format("%F %T UTC"), age(written, now))
}

/// Before a backup or a dump goes live.
pub(super) async fn restore(env: &Env, name: &str, wanted: Option<&Snapshot>) -> String {
    let database = &env.settings.database.name;
    let mut lines = vec![format!(
        "This replaces database \"{database}\" on {} by {}.",
        env.connector.server(),
        source(name, wanted)
    )];
    let is_there = exists(env, database).await;
    match Outlook::of(&env.connector, database).await {
        None if !is_there => lines.push("There is no database of this name now.".to_owned()),
        None => lines.push("The present one cannot be looked into; it is kept.".to_owned()),
        Some(live) => {
            lines.push(format!(
                "The present one is kept: teslamate-restore --undo brings it back. It has {}.",
                described(Some(&live))
            ));
        }
    }
    lines.extend(dropped(env, is_there).await);
    lines.join("\n")
}

async fn exists(env: &Env, database: &str) -> bool {
    let Ok(client) = env.connector.for_questions().connect_maintenance().await else { return true };
    let found = client.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&database]).await;
    !matches!(found, Ok(None))
}

/// The previous databases that a restore drops, since there are too many together with the one that is replaced, if
/// there is one.
async fn dropped(env: &Env, is_there: bool) -> Vec<String> {
    let database = &env.settings.database.name;
    let Ok(client) = env.connector.for_questions().connect_maintenance().await else { return Vec::new() };
    let found = previous::all(&client, database).await.unwrap_or_default();
    let ours: Vec<_> = found.iter().filter_map(|found| Some((&found.name, found.mark.as_ref()?))).collect();
    let keep = usize::try_from(env.settings.keep_previous).unwrap_or(usize::MAX);
    let fate = if env.settings.repository.is_none() {
        "What it holds is in no backup, since no repository is configured: restore.keep_previous keeps more of them."
    } else {
        "Its last state is in a backup by then; else it is kept."
    };
    let mut lines = Vec::new();
    for (name, mark) in &ours[..(ours.len() + usize::from(is_there)).saturating_sub(keep).min(ours.len())] {
        let outlook = Outlook::of(&env.connector, name).await;
        lines.push(format!(
            "\"{name}\" of an earlier restore ({}: {}) is dropped afterwards. {fate}",
            age(mark.replaced, Utc::now()),
            described(outlook.as_ref())
        ));
    }
    lines
}

/// Before rows are replaced in the live database.
pub(super) fn rows(env: &Env, stored: &Stored, loaded: &Loaded<'_>, policy: &Policy) -> String {
    let database = &env.settings.database.name;
    let noted = &stored.noted;
    let table: Vec<Vec<String>> = loaded
        .before
        .iter()
        .map(|before| {
            let numbers = [before.live, before.backup, before.surplus].map(report::count);
            [vec![before.name.clone()], numbers.to_vec()].concat()
        })
        .collect();
    let surplus: u64 = loaded.before.iter().map(|before| before.surplus).sum();
    let kept = if policy.no_safety_backup {
        "They are in no backup that is taken now (--no-safety-backup)."
    } else {
        "The backup that is taken first has them."
    };
    let lost = if surplus == 0 {
        "No row is removed that the backup does not have.".to_owned()
    } else {
        format!("{} rows that the backup does not have are removed. {kept}", report::count(surplus))
    };
    format!(
        "This replaces rows in database \"{database}\" on {} by those of {} ({}).\n{}\n{lost}",
        env.connector.server(),
        called(noted),
        age(noted.facts.time, Utc::now()),
        report::table(&["table", "live", "backup", "only live"], &table)
    )
}

/// Before a previous database goes live again.
pub(super) async fn undo(env: &Env, previous: &Previous, was_replaced_by_live: bool) -> String {
    let (database, name) = (&env.settings.database.name, &previous.name);
    let (back, live) = (Outlook::of(&env.connector, name).await, Outlook::of(&env.connector, database).await);
    let mut lines =
        vec![format!("This makes \"{name}\" the database \"{database}\" again. It has {}.", described(back.as_ref()))];
    match &previous.mark {
        Some(mark) => lines.push(format!(
            "It was replaced at {} ({}).",
            mark.replaced.format("%F %T UTC"),
            age(mark.replaced, Utc::now()).replace("old", "ago")
        )),
        None => lines.push("No restore is known to have replaced it.".to_owned()),
    }
    if !was_replaced_by_live {
        lines.push("The present one is not the one that replaced it.".to_owned());
    }
    if live.is_some() {
        lines.push(format!(
            "The present one is kept, with what was written into it. It has {}.",
            described(live.as_ref())
        ));
    }
    lines.join("\n")
}
