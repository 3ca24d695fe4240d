//! `teslamate-backup check`: verifies the repository and compares it with the ledger, or verifies a copy.

mod check_copies;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use chrono::Utc;
use serde_json::json;

use super::end_with_report;
use crate::backup::hex;
use crate::backup::history::{Presence, returned};
use crate::backup::session::{Access, Session};
use crate::cli::Env;
use crate::cli::report::{self, Report};
use crate::error::{Error, Kind, Result};
use crate::ledger::{HexId, RunKind, Snapshot};
use crate::repository::check::{self as checking, Finding, Reads};
use crate::repository::{Handle, Id};

/// How thoroughly.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Read every byte, also of packs that no backup needs
    #[arg(long)]
    pub read_data: bool,
    /// Read every byte of one in N packs, those that were read longest ago: N such checks read all
    #[arg(long, value_name = "N", conflicts_with = "read_data", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub read_part: Option<u32>,
    /// Check this copy instead of the repository, by its location; `all` for every configured copy (repeatable)
    #[arg(long = "copy", value_name = "LOCATION")]
    pub copies: Vec<String>,
}

struct Checked {
    found: checking::Report,
    missing: Vec<Snapshot>,
    known: usize,
    bytes: u64,
}

/// Checks it. With `--read-data`, backups that are whole are noted as verified.
pub async fn run(args: &Args, env: Env) -> Result<Report> {
    let mut session = Session::begin(&env, Some(RunKind::Check))?;
    if !args.copies.is_empty() {
        let result = check_copies::run(args, &env, &mut session).await;
        return end_with_report(session, result);
    }
    let result = check(args, &env, &mut session).await;
    session.figures.bytes_read = result.as_ref().ok().map(|checked| checked.bytes);
    end_with_report(session, result.map(|checked| describe(&checked, args)))
}

async fn check(args: &Args, env: &Env, session: &mut Session<'_>) -> Result<Checked> {
    let handle = session.open(Access::Read).await?;
    if session.ledger.list()?.is_empty() {
        session.refuse_lost_ledger().await?;
    }
    let presence = session.presence().await?;
    let missing = presence.missing.clone();
    tell_differences(env, session, &handle, &presence).await?;
    env.reporter.step("checking the repository").await;
    let reads = reads(args, session, &handle).await?;
    let (meter, checked) = (session.meter.clone(), handle.clone());
    let (found, reads) = session
        .on_thread(move || checking::check_reading(&checked, &reads, &meter).map(|found| (found, reads)))
        .await?;
    let known = session.ledger.list()?;
    note_read(session, &reads, &found)?;
    if reads == Reads::All {
        let now = Utc::now();
        let damaged = |noted: &Snapshot| {
            let id = noted.facts.id.as_str();
            let found = found.findings.iter().filter(|finding| finding.is_damage);
            // A finding that concerns no backup in particular may concern any.
            found.into_iter().any(|finding| {
                finding.snapshots.is_empty() || finding.snapshots.iter().any(|damaged| damaged.to_string() == id)
            })
        };
        for noted in &known {
            if !missing.contains(noted) && !damaged(noted) {
                session.ledger.mark_verified(&noted.facts.id, now)?;
            }
        }
    }
    let bytes = session.meter.bytes.load(std::sync::atomic::Ordering::Relaxed);
    Ok(Checked { found, missing, known: known.len(), bytes })
}

/// Packs to read, from the flags.
async fn reads(args: &Args, session: &Session<'_>, handle: &Handle) -> Result<Reads> {
    Ok(match args.read_part {
        Some(share) => Reads::Some(longest_ago(session, handle, share).await?),
        None if args.read_data => Reads::All,
        None => Reads::None,
    })
}

/// Whose turn it was, if they were read in turn.
fn note_read(session: &mut Session<'_>, reads: &Reads, found: &checking::Report) -> Result<()> {
    let Reads::Some(packs) = reads else { return Ok(()) };
    let damaged = |id: &Id| found.findings.iter().any(|finding| finding.file.ends_with(&id.to_string()));
    let read: Vec<HexId> = packs.iter().filter(|id| !damaged(id)).map(|id| hex(*id)).collect::<Result<_>>()?;
    session.ledger.note_read_back(&read, Utc::now())
}

/// Says what is in the repository and, as far as the ledger knows, should not be.
async fn tell_differences(env: &Env, session: &Session<'_>, handle: &Handle, presence: &Presence) -> Result<()> {
    if !presence.returned.is_empty() {
        let ids: Vec<HexId> = presence.returned.iter().map(|noted| noted.facts.id.clone()).collect();
        env.reporter.warn(&returned(&ids));
    }
    if presence.unknown.is_empty() {
        return Ok(());
    }
    // By name alone, a pending one and another program's look the same.
    for found in session.listed(handle).await?.snapshots.iter().filter(|found| presence.unknown.contains(&found.id)) {
        env.reporter.warn(&format!("the backup {} is not in the ledger", found.id.short()));
    }
    Ok(())
}

/// One in so many packs.
async fn longest_ago(session: &Session<'_>, handle: &Handle, share: u32) -> Result<BTreeSet<Id>> {
    let handle = handle.clone();
    let all = session.on_thread(move || checking::packs(&handle)).await?;
    let all: Vec<HexId> = all.into_iter().map(hex).collect::<Result<_>>()?;
    let share = usize::try_from(share).ok().and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN);
    session.ledger.oldest_read_back(&all, share)?.iter().map(|id| id.as_str().parse()).collect()
}

fn describe(checked: &Checked, args: &Args) -> Report {
    let Checked { found, missing, known, bytes } = checked;
    let mut lines: Vec<String> = found.findings.iter().map(sentence).collect();
    lines.extend(missing.iter().map(|noted| format!("backup {} is missing", noted.facts.id.short())));
    let looked = if args.read_data || args.read_part.is_some() {
        format!("{} in {} packs were read", report::bytes(*bytes), found.packs_read)
    } else {
        "the structure was looked at; --read-data reads every byte".to_owned()
    };
    let mut damaged: Vec<String> =
        found.findings.iter().flat_map(|finding| &finding.snapshots).map(Id::short).collect();
    damaged.extend(missing.iter().map(|noted| noted.facts.id.short().to_owned()));
    damaged.sort();
    damaged.dedup();
    let is_whole = found.is_whole() && missing.is_empty();
    if is_whole {
        lines.push(format!("{known} backups are whole: {looked}"));
    }
    let findings: Vec<serde_json::Value> = found
        .findings
        .iter()
        .map(|finding| {
            let snapshots: Vec<String> = finding.snapshots.iter().map(ToString::to_string).collect();
            json!({ "file": finding.file, "what": finding.what, "backups": snapshots, "damage": finding.is_damage })
        })
        .collect();
    let json = json!({
        "whole": is_whole,
        "backups": known,
        "damaged": damaged,
        "findings": findings,
        "missing": missing.iter().map(|noted| noted.facts.id.as_str()).collect::<Vec<_>>(),
        "read_data": args.read_data,
        "read_part": args.read_part,
        "packs_read": found.packs_read,
        "bytes_read": bytes,
    });
    let mut report = Report::new(lines.join("\n"), json);
    if !is_whole {
        report.failure = Some(
            Error::new(Kind::Verify, "the repository is damaged")
                .with(
                    "backups",
                    if damaged.is_empty() { "no backup is affected".to_owned() } else { damaged.join(", ") },
                )
                .with("checked", looked)
                .with("state", "nothing was changed; backups that are not named can be restored")
                .hint("Take a backup: teslamate-backup --full-read. What is missing or cut is stored anew, if the database still has it.")
                .hint("For a file with other bytes, see docs/repository.md, \"A damaged pack\".")
                .hint("Delete backups that are damaged after that: teslamate-backup delete ID"),
        );
    }
    report
}

fn sentence(finding: &Finding) -> String {
    let word = if finding.is_damage { "damaged" } else { "untidy" };
    let ids: Vec<String> = finding.snapshots.iter().map(Id::short).collect();
    let concerned = if ids.is_empty() { String::new() } else { format!(" (needed by {})", ids.join(", ")) };
    let file = if finding.file.is_empty() { "repository" } else { &finding.file };
    format!("{word}: {file} {}{concerned}", finding.what)
}
