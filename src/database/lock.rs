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

use tokio_postgres::Client;

use super::Connector;
use super::connect::QueryContext;
use crate::error::{Error, Kind, Result};

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
    /// Takes the lock or names who holds it ([`Kind::Busy`]); never waits.
    pub async fn take(connector: &Connector, purpose: Purpose) -> Result<Self> {
        let client = connector.connect_maintenance().await?;
        let name = connector.database_name();
        let modes: &[(&str, bool)] = match purpose {
            Purpose::Restore => &[("swap", true)],
            Purpose::Backup => &[("swap", false), ("backup", true)],
            Purpose::Maintenance => &[("swap", false)],
        };
        for (which, exclusive) in modes {
            let key = format!("glovebox:{which}:{name}");
            let function = if *exclusive { "pg_try_advisory_lock" } else { "pg_try_advisory_lock_shared" };
            let taken: bool = client
                .query_one(&format!("SELECT {function}(hashtextextended($1, 0))"), &[&key])
                .await
                .query_context("cannot ask for the lock")?
                .get(0);
            if !taken {
                let holder = holder(&client, &key).await?;
                return Err(Error::new(Kind::Busy, format!("another run is at work on database \"{name}\""))
                    .with("holder", holder)
                    .with("state", "nothing was read, nothing was changed")
                    .hint("Try again when it has ended."));
            }
        }
        Ok(Self { client })
    }

    /// The session on the maintenance database that holds the lock.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }
}

async fn holder(client: &Client, key: &str) -> Result<String> {
    // A bigint key is split over classid and objid (documentation of pg_locks).
    let rows = client
        .query(
            "SELECT a.application_name, coalesce(host(a.client_addr), 'this machine'), \
                    to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') \
             FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
             WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.pid <> pg_backend_pid() \
               AND ((l.classid::bigint << 32) | l.objid::bigint) = hashtextextended($1, 0) \
             ORDER BY a.backend_start",
            &[&key],
        )
        .await
        .query_context("cannot ask who holds the lock")?;
    let names: Vec<String> = rows
        .iter()
        .map(|row| {
            let (program, host, since): (String, String, String) = (row.get(0), row.get(1), row.get(2));
            format!("{program} on {host}, connected since {since} UTC")
        })
        .collect();
    Ok(if names.is_empty() { "a run that has just ended".into() } else { names.join("\n") })
}
