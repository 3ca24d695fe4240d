//! The report of a restore or a drill.

use serde_json::json;

use super::{Destination, Env, Report, Restored, Source, Stored, report};

/// Rows, checks and times, for people and as JSON.
pub(super) fn describe(
    env: &Env,
    source: &Source,
    stored: Option<&Stored>,
    destination: &Destination,
    restored: &Restored,
) -> Report {
    let verified = &restored.verified;
    let rows: Vec<Vec<String>> =
        verified.rows.iter().map(|(table, rows)| vec![table.to_string(), report::count(*rows)]).collect();
    let mut lines = Vec::new();
    if !rows.is_empty() {
        lines.push(report::table(&["table", "rows"], &rows));
    }
    lines.extend(verified.checks.iter().map(|check| format!("ok: {check}")));
    let database = &env.settings.database.name;
    let (word, sentence) = match destination {
        Destination::Live => ("live", format!("database \"{database}\" is now what {} holds", source.name)),
        Destination::Beside(name) => ("into", format!("database \"{name}\" is what {} holds", source.name)),
        Destination::Drill if restored.in_private => {
            ("drill", format!("{} can be restored: drilled in a private server; nothing was changed", source.name))
        }
        Destination::Drill => ("drill", format!("{} can be restored; nothing was changed", source.name)),
    };
    lines.push(sentence);
    if !restored.migrated.is_empty() {
        lines.push(format!("before that, the application ran {}", crate::migrate::names(&restored.migrated)));
    }
    if let Some(id) = &restored.safety_backup {
        lines.push(format!("before that, the live database was backed up as {}", id.short()));
    }
    if let Some(previous) = &restored.previous {
        lines.push(format!("the one before is \"{previous}\"; teslamate-restore --undo brings it back"));
    }
    lines.extend(restored.dropped.iter().map(|name| format!("dropped \"{name}\", from an earlier restore")));
    let mut times = format!("{} in all", report::seconds(restored.duration));
    if let Some(downtime) = restored.downtime {
        times = format!("{times}, downtime {}", report::seconds(downtime));
    }
    lines.push(times);
    let json = json!({
        "mode": word,
        "source": source.name,
        "format": if stored.is_some() { "backup" } else { source.format.word() },
        "backup": stored.map(|stored| &stored.noted.facts.id),
        "safety_backup": restored.safety_backup,
        "database": match destination { Destination::Beside(name) => name, _ => database },
        "tables": verified.rows.iter().map(|(table, rows)| (table.to_string(), *rows)).collect::<std::collections::BTreeMap<_, _>>(),
        "rows": verified.rows.values().sum::<u64>(),
        "checks": verified.checks,
        "remarks": verified.remarks,
        "migrated": restored.migrated,
        "previous": restored.previous,
        "dropped": restored.dropped,
        "private_server": restored.in_private,
        "seconds": restored.duration.as_secs_f64(),
        "load_seconds": restored.load.as_secs_f64(),
        "downtime_seconds": restored.downtime.map(|downtime| downtime.as_secs_f64()),
    });
    Report::new(lines.join("\n"), json)
}
