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
    let backup = backup.map(|backup| backup.id().clone());
    let meter = Meter::new("undoing migrations");
    let expression = eval::roll_back(version);
    let work = eval::eval(env, &release.executable, &expression, env.connector.database_name(), &meter);
    let mut began = true;
    let worked = async {
        env.reporter.show(&meter, Box::pin(work)).await.map_err(|failed| {
            began = failed.began;
            failed.error
        })?;
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
    if let Err(error) = worked.await {
        let left = left(env, &release, version).await;
        drop(lock);
        return Err(failed(error, began, &undone, left.as_deref(), backup.as_ref()));
    }
    drop(lock);
    Ok(RolledBack { undone, backup, duration: started.elapsed() })
}

/// The migrations that were to be undone and are still applied; `None` if that cannot be read.
async fn left(env: &Env, release: &Release, version: i64) -> Option<Vec<Migration>> {
    let client = env.connector.connect().await.ok()?;
    let mut after = Comparison::read(&client, release).await.ok()?.applied;
    after.retain(|migration| migration.version >= version);
    Some(after)
}

/// The failure, with what is so now, and the way back where something was changed.
fn failed(error: Error, began: bool, meant: &[Migration], left: Option<&[Migration]>, backup: Option<&HexId>) -> Error {
    let is_untouched = !began && left.is_some_and(|left| left.len() == meant.len());
    let state = match left {
        None => "it is not known what was undone".to_owned(),
        Some(_) if is_untouched => UNTOUCHED.to_owned(),
        Some([]) => format!("recorded as undone: {}", names(meant)),
        Some(left) => format!("{} of {} undone; still applied: {}", meant.len() - left.len(), meant.len(), names(left)),
    };
    let error = error.with("state", state);
    if matches!(error.kind(), Kind::Signal(_)) {
        return error.hint("See what `teslamate-migrate status` says.");
    }
    if is_untouched {
        return error.escalate(Kind::Refused).hint("Put the cause right, and repeat the command.");
    }
    let error = error.escalate(Kind::Attention);
    match backup {
        Some(id) => error
            .with("backup", format!("{}, from before", id.short()))
            .hint(format!("To have everything back as it was: teslamate-restore {}", id.short())),
        None => error,
    }
}
