//! Subscriptions of a database that is replaced: they stay in it, disabled.
//!
//! A subscription belongs to its database by the database's number, so a rename takes it along, and its worker would go
//! on to take changes out of the publisher's slot, for a database that is no longer live. So it is disabled right after
//! the swap; after a restore that was killed in between, by the next command that recovers. Its slot stays. In the new live database the subscription is disabled, too, until somebody enables it.

use tokio_postgres::Client;

use super::{Session, previous};
use crate::database::connect::QueryContext;
use crate::database::ident;
use crate::env::Env;
use crate::error::Result;

/// The subscriptions of a database that have a slot, with whether each is enabled. Some roles may not read them: then none are listed.
async fn list(client: &Client, database: &str) -> Vec<(String, bool)> {
    let sql = "SELECT s.subname::text, s.subenabled FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid \
               WHERE d.datname = $1 AND s.subslotname IS NOT NULL ORDER BY 1";
    let rows = client.query(sql, &[&database]).await.unwrap_or_default();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Disables the subscriptions of a database that was replaced. A failure is a warning with the command to type.
async fn disable_all(env: &Env, client: &Client, previous: &str) {
    let reporter = &env.reporter;
    for (name, _) in list(client, previous).await.into_iter().filter(|(_, is_enabled)| *is_enabled) {
        let statement = format!("ALTER SUBSCRIPTION {} DISABLE", ident(&name));
        match disable(env, previous, &statement).await {
            Ok(()) => reporter.warn(&format!(
                "subscription \"{name}\" of \"{previous}\" was disabled: that database is not live any more"
            )),
            Err(error) => reporter.warn(&format!(
                "subscription \"{name}\" of \"{previous}\" still takes changes from its publisher: {error}; type \
                 there: {statement};"
            )),
        }
    }
}

async fn disable(env: &Env, database: &str, statement: &str) -> Result<()> {
    let client = env.connector.connect_to(database).await?;
    let both = format!("SET lock_timeout = '10s'; {statement}");
    client.batch_execute(&both).await.query_context("cannot disable the subscription")
}

/// Disables the subscriptions of previous databases that are enabled: a restore was killed after its swap, before it could. The caller holds
/// the lock, so no restore is at that point now.
pub async fn disable_left_over(env: &Env, client: &Client) {
    let live = &env.settings.database.name;
    // One query of shared catalogs where there are none, as almost always.
    let sql = "SELECT DISTINCT d.datname::text FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid \
               WHERE s.subenabled AND s.subslotname IS NOT NULL AND d.datname <> $1";
    let rows = client.query(sql, &[live]).await.unwrap_or_default();
    if rows.is_empty() {
        return;
    }
    let enabled: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    // A database that only has such a name is somebody's.
    for found in previous::all(client, live).await.unwrap_or_default() {
        if found.mark.is_some() && enabled.contains(&found.name) {
            disable_all(env, client, &found.name).await;
        }
    }
}

impl Session<'_> {
    /// Disables the subscriptions of a database that was just replaced.
    pub(super) async fn disable_subscriptions(&self, previous: &str) {
        disable_all(self.env, self.client(), previous).await;
    }

    /// After an undo: says which subscriptions of the live database are disabled, and how to go on.
    pub(super) async fn tell_disabled_subscriptions(&self) {
        let live = self.live_name();
        for (name, _) in list(self.client(), live).await.into_iter().filter(|(_, is_enabled)| !is_enabled) {
            self.env.reporter.warn(&format!(
                "subscription \"{name}\" is disabled. In \"{live}\": ALTER SUBSCRIPTION {} ENABLE; goes on where its \
                 slot at the publisher is: changes that another database took from the slot meanwhile are not sent again",
                ident(&name)
            ));
        }
    }
}
