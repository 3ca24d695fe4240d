//! `teslamate-backup list`: the backups, or the runs.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::backup::history::returned;
use crate::backup::session::{Session, clusters};
use crate::cli::Env;
use crate::cli::report::{self, Report};
use crate::error::{Context, Error, Kind, Result};
use crate::ledger::{HexId, Purpose, Run, RunKind, RunStatus, Snapshot};

/// What to list.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Show what was done when, the newest first, instead of the backups
    #[arg(long)]
    pub runs: bool,
    /// Show at most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
}

/// Lists them. Needs no password: the ledger knows, and the repository's directory shows what is missing.
pub async fn run(args: &Args, env: &Env) -> Result<Report> {
    let session = Session::begin(env, None)?;
    if args.runs {
        return runs(&session.ledger.runs(args.limit)?);
    }
    let backups = session.ledger.list()?;
    let missing: BTreeSet<i64> = match session.presence().await {
        Ok(presence) => {
            if !presence.returned.is_empty() {
                let ids: Vec<HexId> = presence.returned.iter().map(|noted| noted.facts.id.clone()).collect();
                env.reporter.warn(&format!("{}; the next backup or `forget` notes that", returned(&ids)));
            }
            warn_of_unknown(env, &session, presence.unknown.len())?;
            presence.missing.iter().map(|noted| noted.sequence).collect()
        }
        // Nothing was ever there, so nothing is missing.
        Err(_) if session.ledger.repository_id()?.is_none() => BTreeSet::new(),
        Err(error) if backups.is_empty() => return Err(error),
        Err(error) => {
            env.reporter.warn(&format!("the ledger alone was looked at: {error}"));
            BTreeSet::new()
        }
    };
    if backups.is_empty() {
        session.refuse_lost_ledger().await?;
    }
    if let Some(hold) = session.ledger.hold()? {
        let since = hold.since.format("%F %T UTC");
        env.reporter
            .warn(&format!("nothing is removed since {since}, until `teslamate-backup forget --accept`: {}", hold.why));
    }
    let shown = &backups[backups.len().saturating_sub(args.limit)..];
    describe(shown, backups.len() - shown.len(), &missing)
}

/// By name alone a backup is not told from a pending snapshot, which a backup under way has.
fn warn_of_unknown(env: &Env, session: &Session<'_>, count: usize) -> Result<()> {
    let is_under_way = |run: &Run| run.status == RunStatus::Running && run.kind != RunKind::Check;
    if count > 0 && !session.ledger.runs(8)?.iter().any(is_under_way) {
        let snapshots = if count == 1 { "a snapshot".to_owned() } else { format!("{count} snapshots") };
        env.reporter.warn(&format!(
            "the repository holds {snapshots} that the ledger does not know (another program's, or the ledger \
             was set back): `teslamate-backup check` names backups among them"
        ));
    }
    Ok(())
}

fn describe(backups: &[Snapshot], hidden: usize, missing: &BTreeSet<i64>) -> Result<Report> {
    let mut header = vec!["id", "time (UTC)", "size", "added", "rows", "took", "tags", "schema", "verified (UTC)"];
    let mut rows: Vec<Vec<String>> = backups.iter().map(|noted| row(noted, missing)).collect();
    if clusters(backups).len() > 1 {
        header.extend(["host", "cluster"]);
        for (row, noted) in rows.iter_mut().zip(backups) {
            row.extend([&noted.facts.host, &noted.facts.cluster].map(|text| text.clone().unwrap_or_default()));
        }
    }
    let mut lines = vec![if rows.is_empty() { "no backups yet".to_owned() } else { report::table(&header, &rows) }];
    if hidden > 0 {
        lines.push(format!("{hidden} older ones are not shown (--limit)"));
    }
    let values = serde_json::to_value(backups).context(Kind::Verify, "the ledger cannot be shown")?;
    let mut report = Report::new(lines.join("\n"), json!({ "backups": values, "older": hidden, "missing": [] }));
    let gone: Vec<&Snapshot> = backups.iter().filter(|noted| missing.contains(&noted.sequence)).collect();
    if !gone.is_empty() {
        report.json["missing"] = gone.iter().map(|noted| json!(noted.facts.id)).collect::<Vec<Value>>().into();
        let ids: Vec<&str> = gone.iter().map(|noted| noted.facts.id.as_str()).collect();
        report.failure = Some(
            Error::new(Kind::Verify, "backups are missing from the repository")
                .with("backups", ids.join("\n"))
                .hint("If they were removed on purpose, `teslamate-backup delete ID` takes them out of the ledger."),
        );
    }
    Ok(report)
}

fn row(noted: &Snapshot, missing: &BTreeSet<i64>) -> Vec<String> {
    let facts = &noted.facts;
    vec![
        facts.id.short().to_owned(),
        time(facts.time),
        report::bytes(facts.size),
        report::bytes(facts.added),
        report::count(facts.rows),
        report::seconds(Duration::from_millis(facts.duration_ms)),
        tags(noted, missing.contains(&noted.sequence)),
        facts.schema_version.map(|version| version.to_string()).unwrap_or_default(),
        noted.verified_at.map(time).unwrap_or_default(),
    ]
}

fn tags(noted: &Snapshot, is_missing: bool) -> String {
    let mut tags = Vec::new();
    if is_missing {
        tags.push("MISSING");
    }
    if noted.pinned {
        tags.push("pinned");
    }
    if noted.facts.purpose != Purpose::Regular {
        tags.push(noted.facts.purpose.word());
    }
    tags.join(",")
}

fn time(time: DateTime<Utc>) -> String {
    time.format("%F %T").to_string()
}

fn runs(runs: &[Run]) -> Result<Report> {
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            let took = run.finished.map(|end| (end - run.started).to_std().unwrap_or_default());
            let bytes = |count: Option<u64>| count.map(report::bytes).unwrap_or_default();
            let first_line = run.error.as_ref().and_then(|error| error.lines().next()).unwrap_or_default();
            vec![
                run.id.to_string(),
                run.kind.to_string(),
                run.status.to_string(),
                time(run.started),
                took.map(report::seconds).unwrap_or_default(),
                bytes(run.bytes_read),
                bytes(run.bytes_added),
                run.snapshot.as_ref().map(|id| id.short().to_owned()).unwrap_or_default(),
                first_line.to_owned(),
            ]
        })
        .collect();
    let header = ["run", "kind", "status", "started (UTC)", "took", "read", "added", "backup", "error"];
    let text = if rows.is_empty() { "no runs yet".to_owned() } else { report::table(&header, &rows) };
    let values = serde_json::to_value(runs).context(Kind::Verify, "the ledger cannot be shown")?;
    Ok(Report::new(text, json!({ "runs": values })))
}
