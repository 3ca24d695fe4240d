//! `teslamate-backup forget` and `delete`: gives backups up, by the retention or by name, then prunes.

use std::collections::{BTreeMap, BTreeSet};

use chrono::Utc;
use serde_json::{Value, json};

use crate::backup::hex;
use crate::backup::session::{Access, Session};
use crate::cli::Env;
use crate::cli::report::{self, Report};
use crate::error::{Error, Kind, Result};
use crate::ledger::{HexId, RunKind, RunStatus, Snapshot};
use crate::repository::prune::{Packs, Pruned, prune};
use crate::repository::repair::{adopt, incomplete};
use crate::repository::{Handle, Id, snapshots};
use crate::retention::{self, Decision};

/// Whether to do it.
#[derive(clap::Args, Debug)]
pub struct Forget {
    /// Show what would stay and what would go, and why
    #[arg(long)]
    pub dry_run: bool,
    /// Also while backups fail, for example since the disk is full
    #[arg(long)]
    pub force: bool,
    /// Agree that the ledger and the repository are what they should be, after one of them was set back
    #[arg(long)]
    pub accept: bool,
}

/// What to give up.
#[derive(clap::Args, Debug)]
pub struct Delete {
    /// The begin of an id, 4 digits or more (repeatable)
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Applies the retention.
pub async fn forget(args: &Forget, env: Env) -> Result<Report> {
    let mut session = Session::begin(&env, (!args.dry_run).then_some(RunKind::Forget))?;
    let result = apply(args, &env, &mut session).await;
    session.end(result)
}

async fn apply(args: &Forget, env: &Env, session: &mut Session<'_>) -> Result<Report> {
    let frozen = if args.force { Ok(()) } else { refuse_after_failure(session) };
    let handle = if args.dry_run {
        let held = if args.accept { Ok(()) } else { refuse_while_held(session) };
        for error in [frozen, held].into_iter().filter_map(Result::err) {
            env.reporter.warn(&format!("as things are, nothing would be removed: {error}"));
        }
        None
    } else {
        frozen?;
        let handle = session.open(Access::Remove).await?;
        let agreed = session.ledger.list()?.len();
        session.reconcile(&handle).await?;
        compare(session, &handle, &session.ledger.list()?).await?;
        // What is found now nobody has agreed to yet.
        if !args.accept || session.ledger.list()?.len() > agreed {
            refuse_while_held(session)?;
        }
        session.ledger.end_hold()?;
        Some(handle)
    };
    let known = session.ledger.list()?;
    let mut decisions = retention::decide(&known, &env.settings.retention, Utc::now())?;
    let mut damaged = BTreeMap::new();
    if let Some(handle) = &handle
        && decisions.iter().any(|decision| !decision.keeps())
    {
        damaged = find_damaged(session, handle).await?;
    }
    let whole: Vec<Snapshot> = known.iter().filter(|noted| !is_among(noted, &damaged)).cloned().collect();
    if whole.len() < known.len() {
        keep_whole(&mut decisions, retention::decide(&whole, &env.settings.retention, Utc::now())?);
    }
    let going: Vec<Snapshot> =
        decisions.iter().filter(|decision| !decision.keeps()).map(|decision| decision.snapshot.clone()).collect();
    let mut report = describe(&decisions);
    report.json["dry_run"] = args.dry_run.into();
    let Some(handle) = handle else {
        report.text.push_str("\ndry run: nothing was removed");
        return Ok(report);
    };
    give_up(session, &handle, &going).await?;
    damaged.retain(|id, _| !going.iter().any(|noted| noted.facts.id.as_str() == id.to_string()));
    if !damaged.is_empty() {
        report.failure = Some(not_pruned(&damaged));
        return Ok(report);
    }
    match prune_now(env, session, &handle).await {
        Ok(pruned) => add_pruned(&mut report, &pruned),
        Err(error) if matches!(error.kind(), Kind::Signal(_)) => return Err(error),
        Err(error) => match find_damaged(session, &handle).await {
            Ok(damaged) if !damaged.is_empty() => report.failure = Some(not_pruned(&damaged)),
            // What it lacked may have come back.
            Ok(_) => add_pruned(&mut report, &prune_now(env, session, &handle).await?),
            Err(_) => return Err(error),
        },
    }
    Ok(report)
}

/// The backups that lack something. What they lack may have come back, and is put into the index again before.
async fn find_damaged(session: &Session<'_>, handle: &Handle) -> Result<BTreeMap<Id, String>> {
    let (handle, meter) = (handle.clone(), session.meter.clone());
    let find = move || match incomplete(&handle)? {
        found if !found.is_empty() && adopt(&handle, &BTreeSet::new(), &meter)? > 0 => incomplete(&handle),
        found => Ok(found),
    };
    session.on_thread(find).await
}

fn is_among(noted: &Snapshot, damaged: &BTreeMap<Id, String>) -> bool {
    damaged.keys().any(|id| id.to_string() == noted.facts.id.as_str())
}

/// Of what a damaged backup would push out, keeps what the policy keeps without the damaged ones.
fn keep_whole(decisions: &mut [Decision<'_>], among_whole: Vec<Decision<'_>>) {
    for kept in among_whole.into_iter().filter(Decision::keeps) {
        let same = decisions.iter_mut().find(|decision| decision.snapshot.facts.id == kept.snapshot.facts.id);
        if let Some(decision) = same.filter(|decision| !decision.keeps()) {
            decision.reasons = kept.reasons;
        }
    }
}

/// Where a part of a backup is lost, nobody can tell what else belongs to it.
fn not_pruned(damaged: &BTreeMap<Id, String>) -> Error {
    let ids: Vec<String> = damaged.keys().map(Id::short).collect();
    Error::new(Kind::Verify, "backups lack something: no space was freed")
        .with("backups", ids.join(", "))
        .with("cause", damaged.values().next().map_or("", String::as_str))
        .with("state", "backups that the retention policy does not keep are removed; their packs are as they were")
        .hint("Store anew what the database still has: teslamate-backup --full-read")
        .hint("Then delete those that still lack something (`teslamate-backup check`): teslamate-backup delete ID")
}

/// While backups fail, the old ones are all there is.
fn refuse_after_failure(session: &Session<'_>) -> Result<()> {
    let runs = session.ledger.runs(1000)?;
    let tells = |status| !matches!(status, RunStatus::Running | RunStatus::Stopped);
    let last = runs.iter().find(|run| run.kind == RunKind::Backup && tells(run.status));
    match last {
        Some(run) if run.status != RunStatus::Succeeded => Err(Error::new(
            Kind::Refused,
            format!("the last backup {}: nothing is removed until one succeeds", run.status),
        )
        .with("started", run.started.format("%F %T UTC"))
        .with("error", run.error.as_deref().unwrap_or_default())
        .with("state", "every backup is as it was")
        .hint("Take one with `teslamate-backup`.")
        .hint("If backups fail since the disk is full: teslamate-backup forget --force")),
        _ => Ok(()),
    }
}

/// After the ledger or the repository was set back, nobody but a person knows what has to stay.
fn refuse_while_held(session: &Session<'_>) -> Result<()> {
    let Some(hold) = session.ledger.hold()? else { return Ok(()) };
    Err(Error::new(Kind::Refused, "the ledger and the repository had different histories: nothing is removed")
        .with("found", hold.why)
        .with("since", hold.since.format("%F %T UTC"))
        .with("state", "every backup is as it was")
        .hint("See what there is with `teslamate-backup list`, and pin what has to stay: pins may have been lost.")
        .hint("Then let the retention act again: teslamate-backup forget --accept"))
}

/// The repository must hold exactly what the ledger knows, or one of them is wrong.
async fn compare(session: &Session<'_>, handle: &Handle, known: &[Snapshot]) -> Result<()> {
    let state = "every backup is as it was";
    let missing = session.missing().await?;
    if let Some(first) = missing.first() {
        return Err(Error::new(
            Kind::Verify,
            format!("backup {} is missing from the repository", first.facts.id.short()),
        )
        .with("state", state)
        .with("missing", format!("{} of {} backups", missing.len(), known.len()))
        .hint("`teslamate-backup list` shows all that are missing; `teslamate-backup delete ID` gives one up.")
        .hint("If an older state of the repository is to stay: teslamate-backup rebuild --new-ledger"));
    }
    let listing = session.listed(handle).await?;
    if let Some((id, error)) = listing.unreadable.first() {
        return Err(error.clone().with("snapshot", id.short()).with("state", state).hint(format!(
            "Put it back from a copy of the repository, or give it up: teslamate-backup delete {}",
            id.short()
        )));
    }
    let ids: BTreeSet<&str> = known.iter().map(|noted| noted.facts.id.as_str()).collect();
    match listing.snapshots.iter().find(|found| !ids.contains(found.id.to_string().as_str())) {
        None => Ok(()),
        Some(found) => Err(Error::new(
            Kind::Refused,
            format!("the repository holds backup {}, which the ledger does not know", found.id.short()),
        )
        .with("found", format!("\"{}\" on {}, {}", found.label, found.host, found.time.format("%F %T UTC")))
        .with("state", state)
        .hint(format!("If nobody needs it: teslamate-backup delete {}", found.id.short()))),
    }
}

/// First in the ledger, then in the repository: killed in between, the next run finishes it.
async fn give_up(session: &mut Session<'_>, handle: &Handle, going: &[Snapshot]) -> Result<()> {
    let ids: Vec<HexId> = going.iter().map(|noted| noted.facts.id.clone()).collect();
    session.ledger.mark_deleted(&ids, Utc::now())?;
    let listing = session.listed(handle).await?;
    let damaged = listing.unreadable.iter().map(|(id, _)| *id);
    let present: BTreeSet<Id> = listing.snapshots.iter().map(|found| found.id).chain(damaged).collect();
    for id in &ids {
        let id: Id = id.as_str().parse()?;
        if present.contains(&id) {
            let handle = handle.clone();
            session.on_thread(move || snapshots::delete(&handle, id)).await?;
        }
    }
    session.ledger.note_removed(&ids)
}

async fn prune_now(env: &Env, session: &mut Session<'_>, handle: &Handle) -> Result<Pruned> {
    env.reporter.step("pruning the repository").await;
    let expected: BTreeSet<Id> =
        session.ledger.list()?.iter().map(|noted| noted.facts.id.as_str().parse()).collect::<Result<_>>()?;
    let (handle, meter) = (handle.clone(), session.meter.clone());
    let pruned = session.on_thread(move || prune(&handle, &expected, Utc::now(), &meter)).await?;
    let gone: Vec<HexId> = pruned.deleted.ids.iter().map(|id| hex(*id)).collect::<Result<_>>()?;
    session.ledger.forget_packs(&gone)?;
    let read: Vec<HexId> = pruned.written.ids.iter().map(|id| hex(*id)).collect::<Result<_>>()?;
    session.ledger.note_read_back(&read, Utc::now())?;
    Ok(pruned)
}

fn describe(decisions: &[Decision<'_>]) -> Report {
    let rows: Vec<Vec<String>> = decisions
        .iter()
        .map(|decision| {
            let facts = &decision.snapshot.facts;
            let reasons: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
            let word = if decision.keeps() { "keep" } else { "remove" };
            vec![
                word.to_owned(),
                facts.id.short().to_owned(),
                facts.time.format("%F %T").to_string(),
                reasons.join(", "),
            ]
        })
        .collect();
    let kept = decisions.iter().filter(|decision| decision.keeps()).count();
    let table = report::table(&["", "id", "time (UTC)", "because"], &rows);
    let list = |keeps: bool| -> Vec<Value> {
        let chosen = decisions.iter().filter(|decision| decision.keeps() == keeps);
        let reasons = |decision: &Decision<'_>| decision.reasons.iter().map(ToString::to_string).collect::<Vec<_>>();
        chosen.map(|decision| json!({ "id": decision.snapshot.facts.id, "reasons": reasons(decision) })).collect()
    };
    let text = format!("{table}\n{kept} stay, {} go", decisions.len() - kept);
    Report::new(text, json!({ "kept": list(true), "removed": list(false) }))
}

fn add_pruned(report: &mut Report, pruned: &Pruned) {
    let count = |packs: &Packs| format!("{} packs ({})", packs.ids.len(), report::bytes(packs.bytes));
    report.text = format!(
        "{}\ndeleted {}, marked {} to be deleted in a day or later, rewrote {}",
        report.text,
        count(&pruned.deleted),
        count(&pruned.marked),
        count(&pruned.repacked)
    );
    let figures = |packs: &Packs| json!({ "packs": packs.ids.len(), "bytes": packs.bytes });
    report.json["pruned"] = json!({
        "deleted": figures(&pruned.deleted),
        "marked": figures(&pruned.marked),
        "repacked": figures(&pruned.repacked),
        "waiting": figures(&pruned.waiting),
    });
}

/// Gives single backups up.
pub async fn delete(args: &Delete, env: Env) -> Result<Report> {
    let mut session = Session::begin(&env, Some(RunKind::Delete))?;
    let result = remove(args, &env, &mut session).await;
    session.end(result)
}

async fn confirm(args: &Delete, env: &Env, what: &str) -> Result<()> {
    if args.yes {
        return Ok(());
    }
    let state = "every backup is as it was";
    let question = format!("This deletes for good: {what}\nType `delete` to go on: ");
    match env.interrupt.guard(env.host.ask(&question)).await? {
        Some(answer) if answer == "delete" => Ok(()),
        Some(_) => Err(Error::new(Kind::Refused, "nothing was deleted").with("state", state)),
        None => Err(Error::new(Kind::Usage, "backups are only deleted with --yes where there is no terminal")
            .with("state", state)
            .hint("Add --yes.")),
    }
}

/// A backup that is in the repository and not in the ledger: another database's, or one that a rebuild left alone. If
/// these digits name none either, it is as the ledger said.
async fn remove_unknown(
    args: &Delete,
    env: &Env,
    session: &mut Session<'_>,
    digits: &str,
    refusal: Error,
) -> Result<Report> {
    let known = session.ledger.list_all()?;
    let handle = session.open(Access::Remove).await?;
    let is_unknown = |found: &snapshots::Snapshot| {
        let id = found.id.to_string();
        digits.len() >= 4 && found.id.starts_with(digits) && !known.iter().any(|noted| noted.facts.id.as_str() == id)
    };
    let found: Vec<_> = session.listed(&handle).await?.snapshots.into_iter().filter(is_unknown).collect();
    let [found] = found.as_slice() else { return Err(refusal) };
    let what = format!("{} of \"{}\" on {}, not in the ledger", found.id.short(), found.label, found.host);
    confirm(args, env, &what).await?;
    let id = found.id;
    session.on_thread(move || snapshots::delete(&handle, id)).await?;
    Ok(Report::new(format!("backup {} is deleted", id.short()), json!({ "deleted": [id.to_string()] })))
}

async fn remove(args: &Delete, env: &Env, session: &mut Session<'_>) -> Result<Report> {
    let state = "every backup is as it was";
    if let [id] = args.ids.as_slice()
        && let Err(refusal) = session.meant(id)
        && refusal.kind() == Kind::Refused
    {
        return remove_unknown(args, env, session, id, refusal).await;
    }
    let going = args.ids.iter().map(|id| session.meant(id)).collect::<Result<Vec<_>>>()?;
    if let Some(pinned) = going.iter().find(|noted| noted.pinned) {
        let id = pinned.facts.id.short();
        return Err(Error::new(Kind::Refused, format!("backup {id} is pinned"))
            .with("state", state)
            .hint(format!("If it is meant nevertheless: teslamate-backup unpin {id}")));
    }
    let shown: Vec<String> = going
        .iter()
        .map(|noted| format!("{} of {}", noted.facts.id.short(), noted.facts.time.format("%F %T UTC")))
        .collect();
    confirm(args, env, &shown.join(", ")).await?;
    let handle = session.open(Access::Remove).await?;
    give_up(session, &handle, &going).await?;
    let lines: Vec<String> =
        going.iter().map(|noted| format!("backup {} is deleted", noted.facts.id.short())).collect();
    let ids: Vec<&str> = going.iter().map(|noted| noted.facts.id.as_str()).collect();
    let text = format!("{}\nwhat it alone needed is removed by the next `teslamate-backup forget`", lines.join("\n"));
    Ok(Report::new(text, json!({ "deleted": ids })))
}
