//! What failed is not tried again by itself: a service manager starts the service anew every few seconds, and each time a
//! backup would be taken, and the tables changed half-way, until the disk is full.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::release::Release;
use super::{eval, way_back};
use crate::bounded;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::ledger::HexId;

/// In the state directory.
const FILE: &str = "migration-failed.json";

/// A failure, and what it was of.
#[derive(Debug, Serialize, Deserialize)]
struct Failure {
    release: Option<String>,
    newest: i64,
    at: DateTime<Utc>,
    message: String,
    backup: Option<String>,
}

fn path(env: &Env) -> PathBuf {
    env.settings.state_dir.join(FILE)
}

/// The longest file of this kind, in bytes: an error message and a few words.
const LONGEST: u64 = 256 * 1024;

/// Refuses what has failed before: the same release, up to the same migration.
///
/// # Errors
/// [`Kind::Refused`] then, with what was said at the time.
pub fn refuse_again(env: &Env, release: &Release) -> Result<()> {
    let Ok(text) = bounded::file(&path(env), LONGEST) else { return Ok(()) };
    // One that cannot be read is from another release of ours, and no reason to keep anything from starting.
    let Ok(failure) = serde_json::from_slice::<Failure>(&text) else { return Ok(()) };
    if failure.release != release.version || failure.newest != release.newest() {
        return Ok(());
    }
    let error = Error::new(
        Kind::Refused,
        format!("the migrations of {} failed, and are not tried again by themselves", release.called()),
    )
    .with("failed", failure.at.format("%F %T UTC"))
    .with("cause", failure.message)
    .with("state", "nothing was changed now; the application is not started")
    .hint("When the cause is put right: teslamate-migrate run --again, then start the application.");
    let back = failure.backup.map(|id| way_back::commands(env, &id)).into_iter().flatten();
    Err(back.fold(error, Error::hint))
}

/// Remembers it. Where that cannot be written, it is tried again, which is the lesser evil.
pub fn note(env: &Env, release: &Release, error: &Error, backup: Option<&HexId>) {
    let first = error.detail(eval::FIRST_ERRORS).and_then(|lines| lines.lines().next());
    let failure = Failure {
        release: release.version.clone(),
        newest: release.newest(),
        at: Utc::now(),
        message: match first {
            Some(line) => format!("{}: {line}", error.message()),
            None => error.message().to_owned(),
        },
        backup: backup.map(|id| id.short().to_owned()),
    };
    let written = serde_json::to_vec(&failure).map_err(std::io::Error::other);
    if let Err(cause) = written.and_then(|bytes| std::fs::write(path(env), bytes)) {
        env.reporter.warn(&format!("the failure is not remembered: {}: {cause}", path(env).display()));
    }
}

/// It has worked, or is to be tried again.
pub fn forget(env: &Env) {
    let _ = std::fs::remove_file(path(env));
}
