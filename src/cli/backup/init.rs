//! `teslamate-backup init` and `rebuild`: a new repository; a new ledger for an old one.

use std::collections::{BTreeMap, BTreeSet};

use chrono::Utc;
use serde_json::json;

use super::end_with_report;
use crate::backup::hex;
use crate::backup::session::{Access, Session};
use crate::cli::Env;
use crate::cli::report::Report;
use crate::error::{Context, Error, Kind, Result};
use crate::ledger::{self, Facts, Ledger, RunKind, RunStatus, Snapshot};
use crate::repository::copy::init_copy;
use crate::repository::{self, Handle, Location};
use crate::retention::is_from_future;

/// Whether to begin anew.
#[derive(clap::Args, Debug)]
pub struct Anew {
    /// Set the present ledger aside, with the repository that it knows (it stays as ledger.sqlite.TIME)
    #[arg(long)]
    pub new_ledger: bool,
}

/// Records of the ledger that was renamed.
#[derive(Default)]
struct Before {
    known: Vec<Snapshot>,
    cluster: Option<String>,
}

impl Anew {
    /// Before the ledger is opened: SQLite must find it where it will be.
    ///
    /// Gives the backups that it knew, and the cluster that was the present one.
    fn set_aside(&self, env: &Env) -> Result<Before> {
        let path = env.settings.state_dir.join(ledger::FILE_NAME);
        if !self.new_ledger || !path.exists() {
            return Ok(Before::default());
        }
        // Opened once more, and closed: a run that is at work has it, and says so.
        let (running, before) = {
            let ledger = Ledger::open(&env.settings.state_dir)?;
            (ledger.runs(20)?, Before { known: ledger.list()?, cluster: ledger.cluster()? })
        };
        if let Some(run) = running.iter().find(|run| run.status == RunStatus::Running) {
            return Err(Error::new(Kind::Busy, "another run is at work")
                .with("run", format!("{} {}, process {}", run.kind, run.id, run.pid))
                .with("state", "the ledger was left as it is"));
        }
        let aside = path.with_extension(format!("sqlite.{}", chrono::Utc::now().format("%Y%m%dT%H%M%SZ")));
        std::fs::rename(&path, &aside).context(Kind::Store, format!("cannot rename {}", path.display()))?;
        env.reporter.info(&format!("the ledger that was there is {} now", aside.display()));
        Ok(before)
    }
}

/// Makes the repository, or says that it is there.
pub async fn init(args: &Anew, env: Env) -> Result<Report> {
    args.set_aside(&env)?;
    let mut session = Session::begin(&env, Some(RunKind::Init))?;
    let result = make(&env, &mut session).await;
    session.end(result)
}

async fn make(env: &Env, session: &mut Session<'_>) -> Result<Report> {
    let is_absent = session.is_absent().await?;
    if is_absent {
        // Where there was one before, a new one in its place would hide that it is gone.
        session.ledger.check_repository(None)?;
        session.init().await?;
    }
    let handle = session.open(Access::Add).await?;
    let made = if is_absent { "made" } else { "there already" };
    let mut text = format!("repository {} at {}: {made}\n", handle.id().short(), handle.location());
    let copies = copies(env, session, &handle).await?;
    for location in &copies {
        text = format!("{text}copy at {location}: made\n");
    }
    text.push_str("Keep its password in a second place too: without it, nobody can open a backup.");
    let json = json!({
        "repository": handle.id().to_string(), "location": handle.location().to_string(), "made": is_absent,
        "copies_made": copies,
    });
    Ok(Report::new(text, json))
}

/// Makes the copies that `copy` never makes by itself, those behind a network, where there are none.
async fn copies(env: &Env, session: &Session<'_>, source: &Handle) -> Result<Vec<String>> {
    let mut made = Vec::new();
    for settings in &env.settings.copies {
        let location = Location::parse(&settings.location)?;
        if !matches!(location, Location::Network(_)) {
            continue;
        }
        let (settings, source) = (settings.clone(), source.clone());
        let making = session.on_thread(move || {
            let is_absent = repository::is_absent(&settings)?;
            if is_absent {
                init_copy(&settings, &source)?;
            }
            Ok(is_absent)
        });
        if making.await.map_err(|error| error.with("copy", &location))? {
            made.push(location.to_string());
        }
    }
    Ok(made)
}

/// Fills a ledger that knows no backup from the repository, by the backups' own times.
pub async fn rebuild(args: &Anew, env: Env) -> Result<Report> {
    let before = args.set_aside(&env)?;
    let mut session = Session::begin(&env, Some(RunKind::Rebuild))?;
    let result = fill(&env, &mut session, &before).await;
    end_with_report(session, result)
}

async fn fill(env: &Env, session: &mut Session<'_>, before: &Before) -> Result<Report> {
    let handle = session.open(Access::Read).await?;
    let listing = session.listed(&handle).await?;
    let database = &env.settings.database.name;
    let mut adopted = Vec::new();
    let mut left = Vec::new();
    for found in &listing.snapshots {
        if found.label == *database {
            adopted.push(session.describe(&handle, found).await?);
        } else {
            left.push(format!("{} of \"{}\" on {}", found.id.short(), found.label, found.host));
        }
    }
    session.ledger.adopt(&hex(handle.id())?, &adopted)?;
    let marks = match keep_marks(session, &before.known)? {
        0 => {
            if !adopted.is_empty() {
                env.reporter.warn(
                    "pins are not known any more: before the next `forget`, pin again what has to stay \
                     (`teslamate-backup pin ID`)",
                );
            }
            "which were pinned or verified is lost".to_owned()
        }
        kept => format!("pins and verifications of {kept} of them are those of the ledger before"),
    };
    let ahead = adopted.iter().filter(|facts| is_from_future(facts.time, Utc::now()));
    let ahead: Vec<String> =
        ahead.map(|facts| format!("{} of {}", facts.id.short(), facts.time.format("%F %T UTC"))).collect();
    if !ahead.is_empty() {
        env.reporter.warn(&format!(
            "backups lie in the future: the clock was wrong when they were taken, or it is behind now. The order is that of \
             their times, so the newest may not be the latest:\n{}",
            ahead.join("\n")
        ));
    }
    let mut lines = vec![format!(
        "the ledger knows {} backups of \"{database}\" again, the newest is the latest; {marks}",
        adopted.len()
    )];
    if let Some(cluster) = &before.cluster {
        session.ledger.set_cluster(cluster)?;
    }
    lines.extend(by_cluster(&adopted));
    lines.extend(left.iter().map(|line| format!("left alone: {line}")));
    let unreadable: Vec<String> =
        listing.unreadable.iter().map(|(id, error)| format!("{}: {}", id.short(), error.message())).collect();
    let ids: Vec<&str> = adopted.iter().map(|facts| facts.id.as_str()).collect();
    let mut report = Report::new(lines.join("\n"), json!({ "backups": ids, "left": left, "unreadable": unreadable }));
    if !unreadable.is_empty() {
        report.failure = Some(
            Error::new(Kind::Verify, "backups in the repository cannot be read")
                .with("backups", unreadable.join("\n"))
                .with("state", "the ledger was filled with the others"),
        );
    }
    Ok(report)
}

/// Takes over marks of the same backups that only the previous ledger had: pins and verifications. Gives the number of
/// backups.
fn keep_marks(session: &mut Session<'_>, before: &[Snapshot]) -> Result<usize> {
    let mut kept = 0;
    for noted in session.ledger.list()? {
        let id = &noted.facts.id;
        let Some(known) = before.iter().find(|known| known.facts.id == *id) else { continue };
        kept += 1;
        if known.pinned {
            session.ledger.pin(id)?;
        }
        if let Some(time) = known.verified_at {
            session.ledger.mark_verified(id, time)?;
        }
    }
    Ok(kept)
}

/// Where they come from, if from several clusters: `latest` means the present one's.
fn by_cluster(adopted: &[Facts]) -> Vec<String> {
    let mut clusters: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for facts in adopted {
        let from = (facts.host.as_deref().unwrap_or_default(), facts.cluster.as_deref().unwrap_or_default());
        *clusters.entry(from).or_default() += 1;
    }
    let distinct: BTreeSet<&str> = clusters.keys().map(|(_, cluster)| *cluster).collect();
    if distinct.len() < 2 {
        return Vec::new();
    }
    clusters.iter().map(|((host, cluster), count)| format!("{count} of host {host}, cluster {cluster}")).collect()
}
