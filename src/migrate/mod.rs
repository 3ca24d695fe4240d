//! Migrations, guarded: what runs before the application starts.
//!
//! The recipe is [`run`]: wait for the server, compare what the release has with what the database has, and where they
//! are equal, be done. Otherwise a backup first, then the application's own migration, then a second look. The steps
//! stand beside it. Whatever is wrong keeps the application from being started: it would meet tables that it does not know.

pub mod compare;
pub mod eval;
pub mod memory;
pub mod rehearse;
pub mod release;
pub mod requirement;
pub mod roll_back;
mod unused_backup;
pub mod way_back;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::backup;
use crate::backup::run::{LOCK_WAIT, Wanted};
use crate::database::connect::{QueryContext, server_version};
use crate::database::lock::{Lock, Purpose};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::ledger::{self, HexId, RunKind};
use crate::progress::Meter;
use crate::service::State;
use compare::{Comparison, Migration};
use release::Release;
use unused_backup::UnusedBackup;

/// How long a backup that is under way is waited for, before tables are changed beneath it.
const BUSY_WAIT: Duration = Duration::from_mins(10);

/// What a run did.
#[derive(Debug)]
pub struct Migrated {
    /// What the release has.
    pub release: Release,
    /// The comparison before.
    pub before: Comparison,
    /// The migrations that were run, with the time that each took, where the application said so.
    pub run: Vec<(Migration, Option<Duration>)>,
    /// The backup that was taken before.
    pub backup: Option<HexId>,
    /// All of it, the waiting too.
    pub duration: Duration,
}

/// The configured release.
///
/// # Errors
/// [`Kind::Usage`] if none is configured; what [`Release::of`] says.
pub fn release(env: &Env) -> Result<Release> {
    let Some(executable) = &env.settings.service.executable else {
        return Err(Error::new(Kind::Usage, "it is not known which release of the application is to be started")
            .with("state", "nothing was changed")
            .hint("Set `service.executable` to its start script, `bin/teslamate` in its package."));
    };
    Release::of(executable)
}

/// Waits for the server, no longer than `migrations.wait` says.
///
/// # Errors
/// [`Kind::Source`] if it does not come up; at once, if it answers and does not let us in.
pub async fn wait(env: &Env) -> Result<Client> {
    let limit = Duration::from_secs(env.settings.migrations.wait.into());
    let meter = Meter::new("waiting for the server");
    let connector = env.connector.for_questions();
    let waiting = connector.connect_when_up(limit, &meter);
    let client = env.reporter.show(&meter, env.interrupt.guard(Box::pin(waiting))).await;
    client.map_err(|error| error.or_state("nothing was changed"))
}

/// Runs what is pending. What failed before is only tried `again` if that is said.
///
/// # Errors
/// [`Kind::Refused`] if the server is too old for the release, or the database newer than it; [`Kind::Busy`] if a restore
/// is at work; what taking a backup says, if one is required; [`Kind::Attention`] if the application failed to change the
/// tables, with the way back.
pub async fn run(env: &Env, again: bool) -> Result<Migrated> {
    let started = Instant::now();
    let release = release(env)?;
    let client = wait(env).await?;
    requirement::check(&release, server_version(&client).await?)?;
    let before = Comparison::read(&client, &release).await?;
    before.refuse_newer(&release)?;
    let mut migrated = Migrated { release, before, run: Vec::new(), backup: None, duration: Duration::ZERO };
    if migrated.before.pending.is_empty() {
        memory::forget(env);
    } else {
        drop(client);
        run_pending(env, &mut migrated, again).await?;
    }
    migrated.duration = started.elapsed();
    Ok(migrated)
}

async fn run_pending(env: &Env, migrated: &mut Migrated, again: bool) -> Result<()> {
    refuse_beside_the_application(env).await?;
    let lock = lock(env).await?;
    // While the lock was waited for, somebody else may have run them, or put another database here.
    let client = env.connector.for_questions().connect().await?;
    migrated.before = Comparison::read(&client, &migrated.release).await?;
    migrated.before.refuse_newer(&migrated.release)?;
    if migrated.before.pending.is_empty() {
        return Ok(());
    }
    if !again {
        memory::refuse_again(env, &migrated.release)?;
    }
    let invalid = invalid_indexes(&client).await?;
    let unused = UnusedBackup::find(env, &client).await;
    drop(client);
    let backup = if let Some(unused) = unused {
        env.reporter.info(&format!("nothing was written since backup {}: it is not taken again", unused.id().short()));
        Some(unused)
    } else {
        let comment = format!("before {}", names(&migrated.before.pending));
        back_up(env, &migrated.before, &comment, &lock).await?
    };
    migrated.backup = backup.as_ref().map(|backup| backup.id().clone());
    match carry_out(env, migrated, &invalid).await {
        Ok(run) => {
            migrated.run = run;
            memory::forget(env);
            Ok(())
        }
        Err(error) => {
            if let (Kind::Refused, Some(backup)) = (error.kind(), &backup) {
                backup.note(env);
            }
            Err(Box::pin(way_back::take(env, migrated, lock, error)).await)
        }
    }
}

/// Migrations by hand, while the application runs: it would meet tables that it does not know. As a step of its start
/// this process is in its control group.
async fn refuse_beside_the_application(env: &Env) -> Result<()> {
    let unit = &env.settings.service.unit;
    // Commands cannot be asked; and what starts the application may well be what runs this.
    if env.settings.service.stop.is_some() {
        return Ok(());
    }
    if env.host.is_part_of_service().await? {
        return Ok(());
    }
    match env.host.service_state().await? {
        State::Inactive | State::Missing => return Ok(()),
        // Between two starts, as after a migration that failed: the next one waits until this run has ended.
        State::Waiting | State::Ending => {
            for warning in env.host.stop_service().await? {
                env.reporter.warn(&warning);
            }
            return Ok(());
        }
        State::Active => {}
    }
    Err(Error::new(Kind::Refused, format!("{unit} is running, and would meet tables that it does not know"))
        .with("state", "nothing was changed")
        .hint(format!("systemctl stop {unit}; then again; or systemctl restart {unit}, which migrates by itself")))
}

/// The lock that backups take: tables are not changed while one reads them.
async fn lock(env: &Env) -> Result<Lock> {
    let meter = Meter::new("waiting for another run to end");
    let waiting = Lock::take_in_turn(&env.connector, Purpose::Backup, BUSY_WAIT, &meter);
    env.reporter.show(&meter, env.interrupt.guard(Box::pin(waiting))).await
}

/// A backup with what is about to be done in its comment. There is none where there is nothing to lose.
async fn back_up(env: &Env, comparison: &Comparison, comment: &str, lock: &Lock) -> Result<Option<UnusedBackup>> {
    if comparison.is_empty {
        env.reporter.info("the database is empty: there is nothing to back up");
        return Ok(None);
    }
    let is_required = env.settings.migrations.require_backup;
    if env.settings.repository.is_none() && !is_required {
        env.reporter
            .warn("no repository is configured: migrating without a backup (migrations.require_backup = false)");
        return Ok(None);
    }
    match backup(env, comment, lock).await {
        Ok(taken) => Ok(Some(taken)),
        Err(error) if !is_required && !matches!(error.kind(), Kind::Signal(_)) => {
            env.reporter.warn(&format!("migrating without a backup (migrations.require_backup = false): {error}"));
            Ok(None)
        }
        Err(error) => Err(error
            .with("while", format!("taking a backup {comment}"))
            .with("state", "no migration was run, the application is not started")
            .hint("Put the cause right and begin again.")
            .hint("To go on without a backup: `migrations.require_backup = false` (services.glovebox.migrations.requireBackup).")),
    }
}

async fn backup(env: &Env, comment: &str, lock: &Lock) -> Result<UnusedBackup> {
    let wanted = Wanted {
        full_read: false,
        lock_wait: LOCK_WAIT,
        purpose: ledger::Purpose::BeforeMigration,
        comment: Some(comment.to_owned()),
    };
    let mut session = backup::session::Session::begin(env, Some(RunKind::Backup))?;
    let taken = backup::run::take_locked(env, &mut session, &wanted, lock).await;
    Ok(UnusedBackup::of(env, &session.end(taken)?))
}

/// Has the application run them, and looks whether they are recorded.
async fn carry_out(env: &Env, migrated: &Migrated, invalid: &[String]) -> Result<Vec<(Migration, Option<Duration>)>> {
    let database = env.connector.database_name();
    let pending = &migrated.before.pending;
    env.reporter.step(&format!("running {}", names(pending))).await;
    let said = apply(env, &migrated.release, database, &migrated.before).await?;
    let client = wait(env).await?;
    let after = Comparison::read(&client, &migrated.release).await?;
    all_recorded(&after, Kind::Attention)?;
    let now = invalid_indexes(&client).await?;
    for index in now.iter().filter(|index| !invalid.contains(index)) {
        env.reporter
            .warn(&format!("the migrations left an index that is not valid: REINDEX INDEX CONCURRENTLY {index}"));
    }
    Ok(after
        .applied
        .into_iter()
        .filter(|applied| pending.iter().any(|pending| pending.version == applied.version))
        .map(|applied| {
            let took = said.get(&applied.version).copied();
            (applied, took)
        })
        .collect())
}

/// The application's own migration of a database, and how long each version took, where it said so.
///
/// # Errors
/// As [`eval::eval`]; [`Kind::Refused`] if it ended before a migration had begun, with the database as it was `before`.
pub async fn apply(
    env: &Env,
    release: &Release,
    database: &str,
    before: &Comparison,
) -> Result<BTreeMap<i64, Duration>> {
    let meter: Arc<Meter> = Meter::new("running migrations");
    let working = eval::eval(env, &release.executable, eval::MIGRATE, database, &meter);
    match env.reporter.show(&meter, Box::pin(working)).await {
        Ok(heard) => Ok(heard.durations),
        Err(failed) => Err(judged(env, release, database, before, failed).await),
    }
}

/// Tells a migration that failed from an application that could not begin, for want of a cookie, a certificate or a server.
async fn judged(env: &Env, release: &Release, database: &str, before: &Comparison, failed: eval::Failed) -> Error {
    let eval::Failed { error, began } = failed;
    if began || error.kind() != Kind::Attention {
        return error;
    }
    // The cause may be a server that restarts; where the wait ends with an error, the connection after it tells.
    let _ = wait(env).await;
    let after = async { Comparison::read(&env.connector.connect_to(database).await?, release).await };
    if !after.await.is_ok_and(|after| after == *before) {
        return error;
    }
    error
        .escalate(Kind::Refused)
        .with("while", "the application ended before a migration had begun")
        .with("state", "no migration had begun and none was recorded: the database is as it was")
}

/// An application that says it is done, and is not: a failure of this kind.
///
/// # Errors
/// Then.
pub fn all_recorded(after: &Comparison, kind: Kind) -> Result<()> {
    if after.pending.is_empty() {
        return Ok(());
    }
    Err(Error::new(kind, "the application ended without an error, but not all migrations are recorded")
        .with("still pending", names(&after.pending)))
}

/// A `CREATE INDEX CONCURRENTLY` that was cut off leaves one that nobody uses and everybody maintains.
async fn invalid_indexes(client: &Client) -> Result<Vec<String>> {
    let sql = "SELECT indexrelid::pg_catalog.regclass::text FROM pg_catalog.pg_index WHERE NOT indisvalid ORDER BY 1";
    let rows = client.query(sql, &[]).await.query_context("cannot look at the indexes")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// `3 migrations: 20190330150000 create_cars, …`
#[must_use]
pub fn names(migrations: &[Migration]) -> String {
    let shown: Vec<String> = migrations
        .iter()
        .map(|migration| match &migration.name {
            Some(name) => format!("{} {name}", migration.version),
            None => migration.version.to_string(),
        })
        .collect();
    let word = if migrations.len() == 1 { "migration" } else { "migrations" };
    format!("{} {word}: {}", migrations.len(), shown.join(", "))
}
