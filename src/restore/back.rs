//! Putting a backup back in the place of the live database, for a program that runs before the service does.

use super::stored::Stored;
use super::{Destination, Policy, Restored, Session};
use crate::backup;
use crate::env::Env;
use crate::error::Result;
use crate::ledger::RunKind;

/// Restores the backup of this id. The database that it replaces is kept, as after any restore; it is not backed up, and
/// the service, which is about to start, is neither stopped nor started.
///
/// # Errors
/// What opening it, and [`Session::restore`], say.
pub async fn put_back(env: &Env, id: &str) -> Result<Restored> {
    let mut noted = backup::session::Session::begin_anyway(env, RunKind::Restore, false)?;
    let result = async {
        // First the lock, for which a backup that has just begun is waited for; then nothing comes in between.
        let session = Session::begin_before_service(env).await?;
        noted.fill_stand_in().await?;
        let wanted = noted.meant(id)?;
        let (stored, source) = Stored::from_repository(env, &mut noted, wanted).await?;
        let policy =
            Policy { jobs: Policy::default_jobs(), no_safety_backup: true, as_it_was: true, ..Policy::default() };
        Box::pin(session.restore(&source, Some(&stored), &Destination::Live, &policy)).await
    };
    let result = Box::pin(result).await;
    noted.end(result)
}
