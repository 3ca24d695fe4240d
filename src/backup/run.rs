//! A whole backup run: lock, repository, client programs, [`Backup::take`](super::Backup::take).

use std::time::Duration;

use super::session::{Access, Session};
use super::{Backup, Taken, extra, surroundings};
use crate::database::connect::server_version;
use crate::database::lock::{self, Lock};
use crate::database::tools::Tools;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Purpose, Snapshot as Noted};
use crate::repository::{Handle, Location};
use crate::tables::surroundings::Surroundings;
use crate::tables::unchanged;

/// How long a locked table is waited for, unless the command line says otherwise.
pub const LOCK_WAIT: Duration = Duration::from_mins(1);

/// What is wanted of a backup.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Read everything, and say what would have been reused wrongly.
    pub full_read: bool,
    /// How long a locked table is waited for.
    pub lock_wait: Duration,
    /// What it is taken for.
    pub purpose: Purpose,
    /// A sentence for people.
    pub comment: Option<String>,
}

/// Takes a backup into the configured repository, and holds the database's lock meanwhile.
///
/// # Errors
/// [`Kind::Busy`] if another run is at work; what [`Session::open`] and [`Backup::take`] say.
pub async fn take(env: &Env, session: &mut Session<'_>, wanted: &Wanted) -> Result<Taken> {
    let lock = env.interrupt.guard(Lock::take(&env.connector, lock::Purpose::Backup)).await?;
    take_locked(env, session, wanted, &lock).await
}

/// The same for a caller that holds a lock that excludes other backups.
pub async fn take_locked(env: &Env, session: &mut Session<'_>, wanted: &Wanted, lock: &Lock) -> Result<Taken> {
    let taken = Box::pin(take_into(env, session, wanted, lock)).await;
    taken.map_err(|error| explain(env, error).or_state("no backup was made; those before it are as they were"))
}

async fn take_into(env: &Env, session: &mut Session<'_>, wanted: &Wanted, lock: &Lock) -> Result<Taken> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
    let backup = Backup {
        connector: &env.connector,
        interrupt: &env.interrupt,
        jobs: usize::try_from(env.settings.backup.jobs).ok().filter(|jobs| *jobs > 0).unwrap_or(cpus),
        chunk_blocks: env.settings.backup.chunk_blocks,
        lock_wait: wanted.lock_wait,
        full_read: wanted.full_read,
        temporary: crate::scratch::directory(&env.settings.state_dir),
        host: nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        purpose: wanted.purpose,
        comment: wanted.comment.clone(),
        extra: extra::read_all(env.extra_files()?)?,
        surroundings: around(env, wanted.purpose).await,
    };
    let meter = session.meter.clone();
    let server = env.interrupt.guard(server_version(lock.client())).await?;
    let tools = Tools::find(&env.connector, env.settings.database.tools.as_deref(), server);
    let tools = env.interrupt.guard(Box::pin(tools)).await?;
    env.reporter.step(&format!("backing up database \"{}\"", env.settings.database.name)).await;
    let preparing = env.interrupt.guard(Box::pin(backup.prepare(&tools, &meter)));
    let (prepared, (repository, missing)) = if session.ledger.repository_id()?.is_some() {
        // Deriving the key from the password takes as long as a small backup: both at once.
        tokio::try_join!(preparing, Box::pin(open(session)))?
    } else {
        // A repository is made as a whole, or not begun.
        let prepared = preparing.await?;
        (prepared, open(session).await?)
    };
    for warning in &prepared.warnings {
        env.reporter.warn(warning);
    }
    let taking = Box::pin(backup.take(&mut session.ledger, &repository, prepared, missing.clone(), &meter));
    let taken = match env.reporter.show(&meter, taking).await {
        Err(error) if unchanged::is_change(&error) => {
            let what = error.detail("changed").unwrap_or_default().replace('\n', ", ");
            env.reporter.warn(&format!("{}: once more, from the start ({what})", error.message()));
            let prepared = env.interrupt.guard(Box::pin(backup.prepare(&tools, &meter))).await?;
            let taking = Box::pin(backup.take(&mut session.ledger, &repository, prepared, missing, &meter));
            env.reporter.show(&meter, taking).await?
        }
        taken => taken?,
    };
    if let Some(warning) = taken.mended.warning() {
        env.reporter.warn(&warning);
    }
    session.figures.bytes_read = Some(taken.bytes_read);
    session.figures.bytes_added = Some(taken.bytes_stored);
    session.figures.snapshot = Some(taken.noted.facts.id.clone());
    Ok(taken)
}

/// The system around the database. Before migrations, the release that is configured is not the one that wrote the rows.
async fn around(env: &Env, purpose: Purpose) -> Surroundings {
    let mut around = surroundings::look(&env.settings).await;
    if purpose == Purpose::BeforeMigration {
        around.release = None;
    }
    around
}

async fn open(session: &mut Session<'_>) -> Result<(Handle, Vec<Noted>)> {
    let repository = session.open(Access::Add).await?;
    let missing = session.reconcile(&repository).await?;
    Ok((repository, missing))
}

/// Where writing failed: which repository, and how much room there is.
fn explain(env: &Env, error: Error) -> Error {
    // A failure with a place of its own says so itself.
    let is_repositorys = error.kind() == Kind::Store && error.detail("while").is_none();
    let Some(settings) = env.settings.repository.as_ref().filter(|_| is_repositorys) else { return error };
    let Ok(location) = Location::parse(&settings.location) else { return error };
    let error = error.with("repository", &location);
    match &location {
        Location::Directory(path) => match rustix::fs::statvfs(path) {
            Ok(system) => {
                let free = indicatif::BinaryBytes(system.f_bavail.saturating_mul(system.f_frsize));
                error.with("free", format!("{free} on its file system"))
            }
            Err(_) => error,
        },
        Location::Network(_) => error,
    }
}
