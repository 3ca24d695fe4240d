//! After a migration that failed: what there is to do, or the doing of it.

use super::{Migrated, compare::Comparison, memory};
use crate::database::lock::Lock;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::restore::back::put_back;
use crate::settings::OnFailure;

/// Adds to the failure how to get back; with `migrations.on_failure = "restore"` that is done here, and said.
///
/// The lock is held until what failed is remembered, and then for as long as nothing else needs it.
pub async fn take(env: &Env, migrated: &Migrated, lock: Lock, error: Error) -> Error {
    let named = migrated.backup.as_ref().map_or_else(String::new, |id| format!("{}, from before", id.short()));
    match error.kind() {
        // A signal is no verdict on the migrations: the next start goes on.
        Kind::Signal(_) => {
            return error
                .with("backup", named)
                .with("state", "the migrations were cut short; the next start goes on with them");
        }
        // Nothing was changed, so that the next start may try again.
        Kind::Refused => {
            return error
                .with("backup", named)
                .hint("Put the cause right. The next start tries again, and so does `teslamate-migrate run`.");
        }
        _ => {}
    }
    memory::note(env, &migrated.release, &error, migrated.backup.as_ref());
    let Some(id) = &migrated.backup else {
        return error
            .escalate(Kind::Attention)
            .with("state", "there is no backup from before; the application is not started")
            .hint("What failed is above. What was migrated so far is shown by `teslamate-migrate status`.");
    };
    let short = id.short();
    let by_hand = |error: Error, state: &str| {
        let error = error
            .escalate(Kind::Attention)
            .with("backup", format!("{short}, from before the migrations"))
            .with("state", state);
        commands(env, short).into_iter().fold(error, Error::hint)
    };
    if env.settings.migrations.on_failure == OnFailure::Stop {
        return by_hand(error, "the database is what the migrations left; the application is not started");
    }
    // A restore needs all of it.
    drop(lock);
    env.reporter.error(&format!("going back to backup {short}: {}", error.message()));
    match back(env, migrated, id.as_str()).await {
        Ok(pending) => {
            // There is nothing left to go back from.
            memory::note(env, &migrated.release, &error, None);
            error
            .escalate(Kind::Attention)
            .with("backup", format!("{short}, from before the migrations"))
            .with("state", format!("the database is what it was before ({pending}); the application is not started"))
            .hint(
                "Start the release from before; `teslamate-migrate rehearse` tries the new one's migrations on a copy.",
            )
        }
        Err(second) if matches!(second.kind(), Kind::Signal(_)) => second
            .with("backup", format!("{short}, from before the migrations"))
            .with("state", "going back was cut short; the application is not started")
            .hint(command(env, short)),
        Err(second) => {
            let second = second.to_string();
            by_hand(error, "going back failed as well; the application is not started").with("going back", second)
        }
    }
}

/// How to go back to this backup by hand.
pub(super) fn commands(env: &Env, id: &str) -> [String; 2] {
    [
        format!("Go back: {}", command(env, id)),
        "Then start the release from before; on NixOS `nixos-rebuild switch --rollback` does.".to_owned(),
    ]
}

/// The present release would run what failed on the restored database again, and its unit may be about to start.
fn command(env: &Env, id: &str) -> String {
    let restore = format!("teslamate-restore {id} --as-it-was");
    if env.settings.service.stop.is_some() {
        return restore;
    }
    format!("systemctl stop {}; {restore}", env.settings.service.unit)
}

/// Restores, and looks at the result as at any start.
async fn back(env: &Env, migrated: &Migrated, id: &str) -> Result<String> {
    put_back(env, id).await?;
    let client = env.connector.connect().await?;
    let after = Comparison::read(&client, &migrated.release).await?;
    if after == migrated.before {
        return Ok(super::names(&after.pending) + " pending again");
    }
    Err(Error::new(Kind::Verify, "after going back, other migrations are recorded than before")
        .with("before", super::names(&migrated.before.applied))
        .with("now", super::names(&after.applied)))
}
