//! `teslamate-backup`: a backup into the repository; the flags, the report.

use std::time::Duration;

use serde_json::json;

use crate::backup::Taken;
use crate::backup::run::{Wanted, take};
use crate::backup::session::Session;
use crate::cli::Env;
use crate::cli::report::{self, Report};
use crate::error::{Error, Kind, Result};
use crate::ledger::{Purpose, RunKind};

/// What concerns a backup into the repository alone.
#[derive(clap::Args, Debug)]
#[group(id = "taking")]
pub struct Args {
    /// Read everything, and fail if change detection would have missed something
    #[arg(long, conflicts_with = "file")]
    pub full_read: bool,
    /// A sentence to find the backup by
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    pub comment: Option<String>,
}

/// Takes it.
pub async fn run(args: &Args, lock_wait: Duration, env: Env) -> Result<Report> {
    let wanted =
        Wanted { full_read: args.full_read, lock_wait, purpose: Purpose::Regular, comment: args.comment.clone() };
    let mut session = Session::begin(&env, Some(RunKind::Backup))?;
    let result = take(&env, &mut session, &wanted).await;
    let taken = session.end(result)?;
    let mut report = describe(&env, &taken);
    report.failure = failure(&taken);
    Ok(report)
}

/// What is wrong although this backup is there.
fn failure(taken: &Taken) -> Option<Error> {
    let state = format!("backup {} was taken and is whole", taken.noted.facts.id.short());
    if !taken.wrongly_unchanged.is_empty() {
        let what = "change detection would have missed changes: backups since the last --full-read may hold old rows";
        return Some(
            Error::new(Kind::Verify, what)
                .with("chunks", taken.wrongly_unchanged.join("\n"))
                .with("state", state)
                .hint("Take backups with --full-read, and report this with the server's version and settings."),
        );
    }
    if let Some(lost) = taken.missing.first() {
        let id = lost.facts.id.short();
        let state = match &taken.manifest.read_all {
            Some(why) => format!("{state}; it read everything: {why}"),
            None => state,
        };
        return Some(
            Error::new(Kind::Verify, format!("backup {id} is missing from the repository"))
                .with("missing", format!("{} in all", taken.missing.len()))
                .with("state", state)
                .hint("`teslamate-backup list` shows all that are missing; `teslamate-backup delete ID` gives one up.")
                .hint("If an older state of the repository is to stay: teslamate-backup rebuild --new-ledger"),
        );
    }
    taken.parent_fault.as_ref().map(|fault| {
        fault
            .clone()
            .with("state", format!("{state}; it read everything, without that damaged one"))
            .hint("See which backups are concerned with `teslamate-backup check --read-data`.")
    })
}

fn describe(env: &Env, taken: &Taken) -> Report {
    let facts = &taken.noted.facts;
    let took = Duration::from_millis(facts.duration_ms);
    let chunks = |count: usize| report::count(count as u64);
    let mut text = format!(
        "backup {} of \"{}\": {} rows, {}\nread {} in {} chunks, reused {}, added {}, {}",
        facts.id.short(),
        env.settings.database.name,
        report::count(facts.rows),
        report::bytes(facts.size),
        report::bytes(taken.bytes_read),
        chunks(taken.chunks_read),
        chunks(taken.chunks_reused),
        report::bytes(taken.bytes_stored),
        report::seconds(took),
    );
    if let Some(why) = &taken.manifest.read_all {
        text = format!("{text}\neverything was read: {why}");
    }
    let json = json!({
        "snapshot": facts.id,
        "database": env.settings.database.name,
        "time": facts.time,
        "seconds": took.as_secs_f64(),
        "size": facts.size,
        "rows": facts.rows,
        "bytes_read": taken.bytes_read,
        "bytes_added": taken.bytes_stored,
        "chunks_read": taken.chunks_read,
        "chunks_reused": taken.chunks_reused,
        "read_all": taken.manifest.read_all,
        "lost_packs": taken.mended.repaired.lost.keys().map(ToString::to_string).collect::<Vec<_>>(),
        "damaged": taken.mended.damaged.keys().map(ToString::to_string).collect::<Vec<_>>(),
        "purpose": facts.purpose,
        "schema_version": facts.schema_version,
    });
    Report::new(text, json)
}
