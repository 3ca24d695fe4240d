//! `teslamate-backup copy`: every backup into every configured copy, only what is missing there.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use serde_json::{Value, json};

use super::end_with_report;
use crate::backup::session::{Access, Session};
use crate::backup::{SHARE, hex};
use crate::cli::Env;
use crate::cli::report::{self, Report};
use crate::error::{Error, Kind, Result};
use crate::ledger::{HexId, RunKind, RunStatus};
use crate::repository::copy::{Copied, copy, init_copy};
use crate::repository::lock::Lock;
use crate::repository::{self, Handle, Id, Location, mend, repair, snapshots};
use crate::settings;

/// How thoroughly.
#[derive(clap::Args, Debug)]
pub struct Copy {
    /// First read every byte of the copies, and write anew what is damaged there
    #[arg(long)]
    pub read_data: bool,
    /// Go on with the copy at LOCATION for good, though it holds backups of another repository
    #[arg(long, value_name = "LOCATION")]
    pub accept: Vec<String>,
}

/// Copies. One copy that fails does not keep the others from being made.
pub async fn run(args: &Copy, env: Env) -> Result<Report> {
    let mut session = Session::begin(&env, Some(RunKind::Copy))?;
    let result = copy_all(args, &env, &mut session).await;
    end_with_report(session, result)
}

async fn copy_all(args: &Copy, env: &Env, session: &mut Session<'_>) -> Result<Report> {
    if env.settings.copies.is_empty() {
        return Err(Error::new(Kind::Usage, "no copy is configured")
            .with("state", "nothing was copied")
            .hint("Add [[copies]] with `location` and `password_file` to the configuration."));
    }
    super::refuse_unknown_copies(&args.accept, &env.settings.copies, "nothing was copied")?;
    let source = session.open(Access::Read).await?;
    // One that is gone is no reason to leave the others uncopied.
    let missing = session.missing().await?;
    let there: Vec<_> = session.ledger.list()?.into_iter().filter(|noted| !missing.contains(noted)).collect();
    let ids: Vec<Id> = there.iter().map(|noted| noted.facts.id.as_str().parse()).collect::<Result<_>>()?;
    let runs = session.ledger.runs(1000)?;
    let last = runs.iter().find(|run| run.kind == RunKind::Copy && run.status == RunStatus::Succeeded);
    // Those that the last run which succeeded has copied.
    let before: BTreeSet<Id> = there
        .iter()
        .zip(&ids)
        .filter(|(noted, _)| last.is_some_and(|run| noted.facts.time < run.started))
        .map(|(_, id)| *id)
        .collect();
    let mut report = Report::new(String::new(), json!({}));
    let (mut lines, mut documents, mut added) = (Vec::new(), Vec::new(), 0);
    for settings in &env.settings.copies {
        let location = Location::parse(&settings.location)?;
        env.reporter.step(&format!("copying to {location}")).await;
        match copy_to(args, session, &source, settings, &ids, &before).await {
            Ok(Done { copied, mended, dropped, files, unreadable }) => {
                if files > 0 {
                    let what = format!("{files} damaged files of indexes, snapshots and keys were replaced");
                    env.reporter.warn(&format!("{location}: {what}; look at that disk"));
                }
                added += copied.bytes_stored;
                if dropped > 0 {
                    let what = format!("{dropped} damaged packs were written anew, for {mended} backups");
                    env.reporter.warn(&format!("{location}: {what}; look at that disk"));
                }
                if !unreadable.is_empty() {
                    let ids: Vec<String> = unreadable.iter().map(ToString::to_string).collect();
                    env.reporter.warn(&format!(
                        "{location}: snapshot files that cannot be read, and may be backups that are nowhere else: {}; put \
                         them back from a backup of that disk, or remove them",
                        ids.join(", ")
                    ));
                }
                lines.push(format!(
                    "{location}: {} backups copied, {} were there, added {}",
                    copied.copied.len(),
                    copied.present.len(),
                    report::bytes(copied.bytes_stored)
                ));
                documents.push(document(&location, Ok((&copied, mended))));
            }
            Err(error) if matches!(error.kind(), Kind::Signal(_)) => return Err(error),
            Err(error) => {
                let error = error.with("copy", &location);
                documents.push(document(&location, Err(&error)));
                // The first decides the exit code; all are told.
                if report.failure.is_none() {
                    report.failure = Some(error);
                } else {
                    env.reporter.error(&error.to_string());
                }
            }
        }
    }
    if let Some(lost) = missing.first().filter(|_| report.failure.is_none()) {
        let what = format!("backup {} is missing from the repository", lost.facts.id.short());
        report.failure =
            Some(Error::new(Kind::Verify, what).with("state", "the others were copied").hint(
                "`teslamate-backup list` shows all that are missing; `teslamate-backup delete ID` gives one up.",
            ));
    }
    session.figures.bytes_added = Some(added);
    report.text = lines.join("\n");
    report.json = json!({ "copies": documents });
    Ok(report)
}

/// Result of one copy.
struct Done {
    copied: Copied,
    /// Backups that leaned on damaged packs.
    mended: usize,
    /// Packs that were written anew.
    dropped: usize,
    /// Damaged files of indexes, snapshots and keys that were replaced.
    files: usize,
    /// Snapshot files that cannot be read, and may be backups that only the copy has.
    unreadable: Vec<Id>,
}

async fn copy_to(
    args: &Copy,
    session: &mut Session<'_>,
    source: &Handle,
    settings: &settings::Repository,
    ids: &[Id],
    before: &BTreeSet<Id>,
) -> Result<Done> {
    let is_accepted = args.accept.contains(&settings.location);
    let belonging = session.belonging(&Location::parse(&settings.location)?, is_accepted)?;
    let (from, settings, reading) = (source.clone(), settings.clone(), session.meter.clone());
    let judging = belonging.clone();
    let opening = move || {
        let target = if repository::may_be_made(&settings)? { Some(init_copy(&settings, &from)?) } else { None };
        let lock = Lock::backup(&settings)?;
        let target = match target {
            Some(target) => target,
            None => repository::open(&settings)?,
        };
        judging.judge(&target)?;
        Ok((target, lock))
    };
    let (target, mut lock) = session.on_thread(opening).await?;
    session.bind_copy(&belonging, &target)?;
    let preparing = move || {
        lock.announce(&target)?;
        snapshots::sweep_pending(&target, std::time::SystemTime::now())?;
        let indexes = repair::replace_damaged(&target, &reading)?.len();
        let files = indexes + usize::from(mend::rename_key(&target)?);
        let packs = mend::packs(&target)?;
        Ok((target, lock, packs, files))
    };
    let (target, lock, packs, files) = session.on_thread(preparing).await?;
    // What a copy leans on is read again in turn, as for a backup. The id of a pack is given once in the world.
    let packs = packs.into_iter().map(hex).collect::<Result<Vec<_>>>()?;
    let share = if args.read_data { NonZeroUsize::MIN } else { SHARE };
    let due = session.ledger.oldest_read_back(&packs, share)?;
    let due: BTreeSet<Id> = due.iter().map(|id| id.as_str().parse()).collect::<Result<_>>()?;
    let (from, to, meter) = (source.clone(), target.clone(), session.meter.clone());
    let looked = session.on_thread(move || mend::look(&from, &to, &due, &meter)).await?;
    note_read_back(session, &looked.whole)?;
    let (from, ids, before, meter) = (source.clone(), ids.to_vec(), before.clone(), session.meter.clone());
    let work = move || {
        mend::remove_dropped(&target, &looked)?;
        let copied = copy(&from, &target, &ids, &looked, &meter)?;
        let again = copied.copied.iter().filter(|pair| before.contains(&pair.source)).count();
        let (removed, unreadable) = mend::remove_unreadable_snapshots(&target, again)?;
        drop(lock);
        let mended = looked.concerned.max(copied.mended.len());
        Ok(Done { copied, mended, dropped: looked.dropped.len(), files: files + removed, unreadable })
    };
    let done = session.on_thread(work).await?;
    note_read_back(session, &done.copied.packs_written)?;
    Ok(done)
}

fn note_read_back(session: &mut Session<'_>, packs: &BTreeSet<Id>) -> Result<()> {
    let read: Vec<HexId> = packs.iter().map(|id| hex(*id)).collect::<Result<_>>()?;
    session.ledger.note_read_back(&read, chrono::Utc::now())
}

fn document(location: &Location, copied: std::result::Result<(&Copied, usize), &Error>) -> Value {
    match copied {
        Ok((copied, mended)) => {
            let pairs: Vec<Value> = copied
                .copied
                .iter()
                .map(|pair| json!({ "backup": pair.source.to_string(), "copy": pair.target.to_string() }))
                .collect();
            json!({
                "location": location.to_string(), "copied": pairs, "present": copied.present.len(),
                "mended": mended,
                "bytes_added": copied.bytes_stored,
            })
        }
        Err(error) => json!({ "location": location.to_string(), "failed": error.message() }),
    }
}
