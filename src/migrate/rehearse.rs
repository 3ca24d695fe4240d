//! The pending migrations on a copy of the database, beside the live one: whether they work, and how long they take.

use std::time::{Duration, Instant};

use super::compare::{Comparison, Migration};
use super::release::Release;
use super::{all_recorded, apply, names, release, requirement};
use crate::backup;
use crate::backup::run::{LOCK_WAIT, Wanted};
use crate::database::connect::server_version;
use crate::env::Env;
use crate::error::{Kind, Result};
use crate::ledger::{HexId, Purpose, RunKind, Snapshot};
use crate::restore::names::{Role, fresh};
use crate::restore::stored::Stored;
use crate::restore::{Destination, Policy, Session, staging};

/// What was tried.
#[derive(Debug)]
pub struct Rehearsed {
    /// The backup that the copy was made of, taken for this.
    pub backup: HexId,
    /// The migrations, with the time that each took, where the application said so.
    pub run: Vec<(Migration, Option<Duration>)>,
    /// Making the copy.
    pub copying: Duration,
    /// The application's part.
    pub migrating: Duration,
}

const UNTOUCHED: &str = "the live database and its service were not touched";

/// Takes a backup, loads it beside the live database, has the application migrate that, and drops it again.
///
/// `None` if nothing is pending.
///
/// # Errors
/// [`Kind::Verify`] if the migrations fail on the copy; what backups and restores say.
pub async fn rehearse(env: &Env, jobs: u32) -> Result<Option<Rehearsed>> {
    let release = release(env)?;
    let client = super::wait(env).await?;
    requirement::check(&release, server_version(&client).await?)?;
    let before = Comparison::read(&client, &release).await?;
    before.refuse_newer(&release)?;
    drop(client);
    if before.pending.is_empty() {
        return Ok(None);
    }
    let started = Instant::now();
    let mut noted = backup::session::Session::begin(env, Some(RunKind::Backup))?;
    let wanted = Wanted {
        full_read: false,
        lock_wait: LOCK_WAIT,
        purpose: Purpose::Regular,
        comment: Some(format!("to rehearse {}", names(&before.pending))),
    };
    let taken = Box::pin(backup::run::take(env, &mut noted, &wanted)).await;
    let taken = noted.end(taken).map_err(|error| error.or_state(UNTOUCHED))?;

    let mut noted = backup::session::Session::begin(env, Some(RunKind::Drill))?;
    let id = taken.noted.facts.id.clone();
    let tried = Box::pin(on_a_copy(env, &mut noted, taken.noted, &release, &before, jobs)).await;
    let tried = noted.end(tried.map_err(|error| error.or_state(UNTOUCHED)));
    tried.map(|(run, migrating, copied)| Some(Rehearsed { backup: id, run, copying: copied - started, migrating }))
}

/// Makes the copy, tries them on it, and drops it; also when the copy was made.
async fn on_a_copy(
    env: &Env,
    noted: &mut backup::session::Session<'_>,
    wanted: Snapshot,
    release: &Release,
    before: &Comparison,
    jobs: u32,
) -> Result<(Vec<(Migration, Option<Duration>)>, Duration, Instant)> {
    let (stored, source) = Stored::from_repository(env, noted, wanted).await?;
    let session = Session::begin(env).await?;
    let databases = staging::databases(session.client()).await?;
    let copy = fresh(env.connector.database_name(), Role::Staging, chrono::Utc::now(), &databases);
    let policy = Policy { jobs, no_safety_backup: true, as_it_was: true, ..Policy::default() };
    let beside = Destination::Beside(copy.clone());
    Box::pin(session.restore(&source, Some(&stored), &beside, &policy)).await?;
    let copied = Instant::now();
    let tried = async {
        staging::mark_again(session.client(), &copy, env.connector.database_name()).await?;
        try_on(env, release, &copy, before).await
    };
    let tried = Box::pin(tried).await;
    match (tried, staging::drop_database(session.client(), &env.connector, &copy).await) {
        (Ok((run, migrating)), Ok(())) => Ok((run, migrating, copied)),
        (Err(error), Ok(())) | (Ok(_), Err(error)) => Err(error),
        (Err(error), Err(second)) => Err(error.with("left", format!("\"{copy}\": {}", second.message()))),
    }
}

type Tried = (Vec<(Migration, Option<Duration>)>, Duration);

async fn try_on(env: &Env, release: &Release, copy: &str, before: &Comparison) -> Result<Tried> {
    env.reporter.step(&format!("running {} on a copy", names(&before.pending))).await;
    let started = Instant::now();
    let said = apply(env, release, copy, before).await.map_err(|error| match error.kind() {
        // Only a copy was changed, and that is gone.
        Kind::Attention => error
            .escalate(Kind::Verify)
            .with("while", "the migrations fail on a copy")
            .with("state", UNTOUCHED)
            .hint("Stay with the present release of the application, and report this to its authors."),
        Kind::Refused => error.with("state", UNTOUCHED),
        _ => error,
    })?;
    let client = env.connector.for_questions().connect_to(copy).await?;
    let after = Comparison::read(&client, release).await?;
    all_recorded(&after, Kind::Verify)?;
    let run = before.pending.iter().map(|migration| (migration.clone(), said.get(&migration.version).copied()));
    Ok((run.collect(), started.elapsed()))
}
