//! The last state of a database that a restore replaced: in a backup, to its last row, before anything drops it.
//!
//! The safety backup is taken before the load; what the application writes from then until the swap is in the previous
//! database alone. How much was ever written into a database, its statistics tell: a backup whose manifest names the
//! same numbers holds all of it. Otherwise another one is taken, of the previous database, under the name of the live one.

use super::Session;
use crate::backup;
use crate::backup::run::{LOCK_WAIT, Wanted};
use crate::backup::session::Access;
use crate::env::Env;
use crate::error::Result;
use crate::ledger::{Purpose, RunKind};
use crate::repository::{Handle, Id, read};
use crate::tables::facts::Written;

/// The newest backups among which one of the last state is looked for.
const LOOKED_AT: usize = 8;

impl Session<'_> {
    /// Makes sure that a backup holds the last state of a previous database.
    ///
    /// # Errors
    /// If it does not: then that database must not be dropped.
    pub(super) async fn secure(&self, name: &str) -> Result<()> {
        let env = self.env;
        if self.is_in_a_backup(name).await? {
            return Ok(());
        }
        env.reporter.step(&format!("backing up \"{name}\", which was written to after its last backup")).await;
        let other = Env { connector: env.connector.for_previous(name), ..env.without_files() };
        let wanted = Wanted {
            full_read: false,
            lock_wait: LOCK_WAIT,
            purpose: Purpose::Safety,
            comment: Some(format!("last state of {name}, before it was dropped")),
        };
        // Part of the restore: whether the live database can be backed up, this does not tell (`forget` asks for that).
        let mut session = backup::session::Session::begin_anyway(&other, RunKind::Restore, true)?;
        let taken = Box::pin(backup::run::take_locked(&other, &mut session, &wanted, &self.lock)).await;
        let taken = session.end(taken)?;
        env.reporter.info(&format!("the last state of \"{name}\" is in backup {}", taken.noted.facts.id.short()));
        Ok(())
    }

    async fn is_in_a_backup(&self, name: &str) -> Result<bool> {
        let env = self.env;
        let client = env.connector.connect_to(name).await?;
        let Some(written) = Written::read(&client).await? else { return Ok(false) };
        drop(client);
        let mut session = backup::session::Session::begin(env, None)?;
        if session.ledger.repository_id()?.is_none() {
            return Ok(false);
        }
        let handle = session.open(Access::Read).await?;
        let mut known = session.ledger.list()?;
        known.reverse();
        for noted in known.into_iter().take(LOOKED_AT) {
            let handle: Handle = handle.clone();
            let manifest = session.on_thread(move || {
                let id: Id = noted.facts.id.as_str().parse()?;
                backup::session::manifest(&read::open(&handle, id)?, &noted)
            });
            // One that cannot be read proves nothing.
            if manifest.await.is_ok_and(|manifest| manifest.facts.written.as_ref() == Some(&written)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
