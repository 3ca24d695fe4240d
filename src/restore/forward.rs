//! Bringing a restored database to the present release of the application, before it goes live.
//!
//! Otherwise the application would migrate it at its start, with the old database put aside already: what fails there, fails
//! after the swap.

use super::{Destination, Policy};
use crate::dump::Contents;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::migrate::compare::{Comparison, Migration};
use crate::migrate::release::Release;
use crate::migrate::{all_recorded, apply, names};

const UNTOUCHED: &str = "the live database and its service were not touched";

/// The release that the restored database is for, where that is known and the database is to be used as it comes out.
///
/// # Errors
/// [`Kind::Refused`] if the dump is of a newer release than that.
pub fn release(env: &Env, contents: &Contents, destination: &Destination, policy: &Policy) -> Result<Option<Release>> {
    let is_meant = *destination == Destination::Live && !policy.partial && !policy.as_it_was;
    let (Some(newest), Some(executable), true) =
        (contents.newest_migration, env.settings.service.executable.as_ref(), is_meant)
    else {
        return Ok(None);
    };
    let release = match Release::of(executable) {
        Ok(release) => release,
        Err(error) => {
            env.reporter.warn(&format!("migrations are left to the application's next start: {}", error.message()));
            return Ok(None);
        }
    };
    if newest > release.newest() && !policy.allow_newer {
        return Err(Error::new(Kind::Refused, "the dump was made by a newer release of the application")
            .with("dump", format!("schema version {newest}"))
            .with("application", format!("{}, up to {}", release.called(), release.newest()))
            .with("state", UNTOUCHED)
            .hint("Upgrade the application first, then restore; or repeat it with --allow-newer."));
    }
    Ok(Some(release))
}

/// Has the application run what is pending in the staging database.
///
/// # Errors
/// [`Kind::Verify`] if that fails, or leaves something pending.
pub async fn bring(env: &Env, release: &Release, staging: &str) -> Result<Vec<Migration>> {
    let look = async || Comparison::read(&env.connector.connect_to(staging).await?, release).await;
    let before = look().await?;
    if before.pending.is_empty() {
        return Ok(Vec::new());
    }
    env.reporter.step(&format!("running {}, before it goes live", names(&before.pending))).await;
    let hint = "See what is in it with --into NAME; --as-it-was leaves its migrations to the application's next start.";
    apply(env, release, staging, &before).await.map_err(|error| match error.kind() {
        // What was changed is a staging database.
        Kind::Attention => error.escalate(Kind::Verify).with("while", "migrating the restored database").hint(hint),
        // It did not get to them, which says nothing of the database.
        Kind::Refused => error.with("state", UNTOUCHED),
        _ => error,
    })?;
    let after = look().await?;
    all_recorded(&after, Kind::Verify).map_err(|error| error.hint(hint))?;
    Ok(before.pending)
}
