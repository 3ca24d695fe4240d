//! One advisory lock per database: who may do what at the same time.
//!
//! Two locks, both held by a session on the maintenance database, so that they never keep the database itself from
//! being renamed and end with the process, however it ends:
//!
//! | run | `swap` | `backup` |
//! |---|---|---|
//! | restore, undo | exclusive | - |
//! | backup | shared | exclusive |
//! | close, delete | shared | - |
//!
//! A restore excludes everything; a drive can be closed while a long backup runs.
//!
//! A role that may enter its own database only takes them there: not for a restore, which has to rename it. Advisory
//! locks of two databases do not know of each other, so whoever has taken one looks for the same one everywhere.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::Connector;
use super::connect::QueryContext;
use crate::error::{Error, Kind, Result};
use crate::process;
use crate::progress::Meter;

/// How long the session of a process that is gone is waited for.
const GHOST_WAIT: Duration = Duration::from_secs(30);

/// Between two attempts to take a lock in turn.
const PAUSE: Duration = Duration::from_secs(1);

/// What a run is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Replace the database.
    Restore,
    /// Read all of it.
    Backup,
    /// Change a few rows.
    Maintenance,
}

/// A held lock. It ends with this value.
pub struct Lock {
    client: Client,
}

impl Lock {
    /// Takes the lock, or names who holds it ([`Kind::Busy`]). A run that is at work is not waited for.
    pub async fn take(connector: &Connector, purpose: Purpose) -> Result<Self> {
        let client = match purpose {
            Purpose::Restore => connector.connect_maintenance().await?,
            Purpose::Backup | Purpose::Maintenance => connector.connect_maintenance_or_own().await?,
        };
        let modes: &[(&str, bool)] = match purpose {
            Purpose::Restore => &[("swap", true)],
            Purpose::Backup => &[("swap", false), ("backup", true)],
            Purpose::Maintenance => &[("swap", false)],
        };
        for (which, exclusive) in modes {
            take_one(&client, connector, which, *exclusive).await?;
        }
        Ok(Self { client })
    }

    /// The same, and waits no longer than `limit` for a run that is at work.
    pub async fn take_in_turn(connector: &Connector, purpose: Purpose, limit: Duration, meter: &Meter) -> Result<Self> {
        let give_up = Instant::now() + limit;
        loop {
            match Self::take(connector, purpose).await {
                Err(error) if error.kind() == Kind::Busy && Instant::now() < give_up => {
                    // It ends by itself: as good as progress.
                    meter.rows.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                taken => return taken,
            }
        }
    }

    /// Gives it up now: another session of this process may take it at once.
    ///
    /// # Errors
    /// [`Kind::Source`] if the session is gone, and the lock with it.
    pub async fn release(self) -> Result<()> {
        self.client.query_one("SELECT pg_advisory_unlock_all()", &[]).await.query_context("cannot release the lock")?;
        Ok(())
    }

    /// Lets others change rows, and back up, while no second restore may begin: for a restore that has done its swap.
    ///
    /// # Errors
    /// [`Kind::Source`] if the session is gone.
    pub async fn share_swap(&self, connector: &Connector) -> Result<()> {
        let key = format!("glovebox:swap:{}", connector.database_name());
        // A session is never in its own way.
        for function in ["pg_advisory_lock_shared", "pg_advisory_unlock"] {
            let sql = format!("SELECT {function}(hashtextextended($1, 0))");
            self.client.query_one(&sql, &[&key]).await.query_context("cannot let others go on")?;
        }
        Ok(())
    }

    /// The session on the maintenance database that holds the lock.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }
}

async fn take_one(client: &Client, connector: &Connector, which: &str, exclusive: bool) -> Result<()> {
    let name = connector.database_name();
    let key = format!("glovebox:{which}:{name}");
    let function = if exclusive { "pg_try_advisory_lock" } else { "pg_try_advisory_lock_shared" };
    let give_up = Instant::now() + GHOST_WAIT;
    loop {
        let taken: bool = client
            .query_one(&format!("SELECT {function}(hashtextextended($1, 0))"), &[&key])
            .await
            .query_context("cannot ask for the lock")?
            .get(0);
        // Its own database keeps the others out; one that was taken in another database has to be looked for.
        let holders = holders(client, &key, exclusive).await?;
        if taken && holders.is_empty() {
            return Ok(());
        }
        if taken {
            let undo = if exclusive { "pg_advisory_unlock" } else { "pg_advisory_unlock_shared" };
            let sql = format!("SELECT {undo}(hashtextextended($1, 0))");
            client.query_one(&sql, &[&key]).await.query_context("cannot give the lock back")?;
        }
        if Instant::now() > give_up || holders.iter().any(|holder| holder.is_at_work(connector)) {
            let shown: Vec<String> = holders.into_iter().map(|holder| holder.shown).collect();
            return Err(Error::new(Kind::Busy, format!("another run is at work on database \"{name}\""))
                .with("holder", shown.join("\n"))
                .with("state", "nothing was read, nothing was changed")
                .hint("Try again when it has ended."));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

struct Holder {
    application_name: String,
    shown: String,
}

impl Holder {
    /// A session outlives a process that was killed until the server has done what it was at; that is waited for.
    fn is_at_work(&self, connector: &Connector) -> bool {
        let pid = self.application_name.rsplit_once(" pid ").map(|(_, pid)| pid);
        let gone = |pid: &str| pid.parse::<u32>().is_ok_and(process::is_gone);
        !(connector.is_local() && pid.is_some_and(gone))
    }
}

/// The sessions that hold the lock in any database, and that an exclusive or a shared holder cannot work beside.
async fn holders(client: &Client, key: &str, exclusive: bool) -> Result<Vec<Holder>> {
    // A bigint key is split over classid and objid (documentation of pg_locks).
    let rows = client
        .query(
            "SELECT a.application_name, coalesce(host(a.client_addr), 'this machine'), \
                    to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') \
             FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
             WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.pid <> pg_backend_pid() \
               AND ((l.classid::bigint << 32) | l.objid::bigint) = hashtextextended($1, 0) \
               AND ($2 OR l.mode = 'ExclusiveLock') \
             ORDER BY a.backend_start",
            &[&key, &exclusive],
        )
        .await
        .query_context("cannot ask who holds the lock")?;
    Ok(rows
        .iter()
        .map(|row| {
            let (application_name, host, since): (String, String, String) = (row.get(0), row.get(1), row.get(2));
            Holder { shown: format!("{application_name} on {host}, connected since {since} UTC"), application_name }
        })
        .collect())
}
