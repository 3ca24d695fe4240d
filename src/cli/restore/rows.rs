//! The report of `--data-only`.

use std::collections::BTreeMap;

use serde_json::json;

use crate::cli::Env;
use crate::cli::report::{self, Report};
use crate::restore::rows_only::Replaced;
use crate::restore::stored::{Stored, called};

/// Reports the replaced rows, the removed rows, and the steps that are left to do.
pub(super) fn describe(env: &Env, stored: &Stored, replaced: &Replaced) -> Report {
    let rows: Vec<Vec<String>> =
        replaced.tables.iter().map(|(table, rows)| vec![table.clone(), report::count(*rows)]).collect();
    let mut lines = vec![report::table(&["table", "rows"], &rows)];
    lines.push(format!("ok: {} foreign keys hold", replaced.keys));
    lines.push(format!("these tables now hold the rows of {}", called(&stored.noted)));
    lines.extend(replaced.removed.iter().map(|(table, rows)| {
        format!("removed from {table}: {} rows that the backup did not have", report::count(*rows))
    }));
    if let Some(id) = &replaced.safety_backup {
        lines.push(format!("before that, the live database was backed up as {}", id.short()));
    }
    if !replaced.left.is_empty() {
        lines.push(format!("not touched: {}", replaced.left.join(", ")));
    }
    lines.extend(
        replaced
            .stale_views
            .iter()
            .map(|view| format!("shows the rows from before: REFRESH MATERIALIZED VIEW {view};")),
    );
    lines.push(format!("{} in all", report::seconds(replaced.duration)));
    let json = json!({
        "mode": "data-only",
        "database": env.settings.database.name,
        "backup": stored.noted.facts.id,
        "safety_backup": replaced.safety_backup,
        "tables": replaced.tables.iter().cloned().collect::<BTreeMap<_, _>>(),
        "removed": replaced.removed.iter().cloned().collect::<BTreeMap<_, _>>(),
        "foreign_keys": replaced.keys,
        "not_touched": replaced.left,
        "stale_views": replaced.stale_views,
        "seconds": replaced.duration.as_secs_f64(),
    });
    Report::new(lines.join("\n"), json)
}
