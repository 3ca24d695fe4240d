//! Undoing migrations, through the application: `TeslaMate.Release.rollback`.

use std::time::{Duration, Instant};

use super::compare::{Comparison, Migration};
use super::release::Release;
use super::{back_up, eval, lock, names, refuse_beside_the_application, release};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::ledger::HexId;
use crate::progress::Meter;

/// What is true before anything is done.
pub const UNTOUCHED: &str = "nothing was changed";

/// What is to be undone.
#[derive(Debug)]
pub struct Planned {
    release: Release,
    version: i64,
    comparison: Comparison,
    /// The migrations, the oldest first.
    pub undone: Vec<Migration>,
}

/// What was undone.
#[derive(Debug)]
pub struct RolledBack {
    /// The migrations, the oldest first.
    pub undone: Vec<Migration>,
    /// The backup that was taken before.
    pub backup: Option<HexId>,
    /// All of it.
    pub duration: Duration,
}

/// Looks at what undoing this version means: it, and all that came after it.
///
/// # Errors
/// [`Kind::Refused`] if it is not applied, if the release does not have it, or if the service runs.
pub async fn plan(env: &Env, version: i64) -> Result<Planned> {
    let release = release(env)?;
    let client = env.connector.connect().await?;
    let comparison = Comparison::read(&client, &release).await?;
    comparison.refuse_newer(&release)?;
    if !comparison.applied.iter().any(|migration| migration.version == version) {
        let what =
            if release.migrations.contains_key(&version) { "is not applied" } else { "is unknown to the release" };
        return Err(Error::new(Kind::Refused, format!("migration {version} {what}"))
            .with("state", UNTOUCHED)
            .hint("`teslamate-migrate history` shows what is applied."));
    }
    let undone = comparison.applied.iter().filter(|migration| migration.version >= version).cloned().collect();
    refuse_beside_the_application(env).await?;
    Ok(Planned { release, version, comparison, undone })
}

/// Backs up, and has the application undo them.
///
/// # Errors
/// What taking a backup says; [`Kind::Attention`] if the application failed, with the way back.
pub async fn carry_out(env: &Env, planned: Planned) -> Result<RolledBack> {
    let started = Instant::now();
    let lock = lock(env).await?;
    refuse_beside_the_application(env).await?;
    let Planned { release, version, comparison, undone } = planned;
    let backup = back_up(env, &comparison, &format!("before undoing {}", names(&undone)), &lock).await?;
    let meter = Meter::new("undoing migrations");
    let expression = eval::roll_back(version);
    let work = eval::eval(env, &release.executable, &expression, env.connector.database_name(), &meter);
    let worked = async {
        env.reporter.show(&meter, Box::pin(work)).await?;
        let client = env.connector.connect().await?;
        let after = Comparison::read(&client, &release).await?;
        match after.applied.iter().find(|migration| migration.version >= version) {
            None => Ok(()),
            Some(left) => {
                Err(Error::new(Kind::Attention, "the application ended without an error, but not all is undone")
                    .with("still applied", left.version))
            }
        }
    };
    let worked = worked.await;
    drop(lock);
    worked.map_err(|error: Error| match &backup {
        _ if matches!(error.kind(), Kind::Signal(_)) => {
            error.with("state", "the undoing was cut short: see what `status` says")
        }
        Some(id) => error
            .escalate(Kind::Attention)
            .with("backup", format!("{}, from before", id.short()))
            .hint(format!("teslamate-restore {}", id.short())),
        None => error.escalate(Kind::Attention),
    })?;
    Ok(RolledBack { undone, backup, duration: started.elapsed() })
}
