//! The staging database: made, dropped, and cleaned up after a run that was killed.
//!
//! A staging database carries a comment that says so until the moment it goes live. What carries it while nobody
//! holds the lock was left behind by a killed run.

use tokio_postgres::Client;

use super::load::role;
use super::names::{self, Role};
use crate::database::connect::QueryContext;
use crate::database::{Connector, Properties, bytes_of, ident, literal, text_of};
use crate::error::{Error, Kind, Result};

/// All databases of the server.
pub async fn databases(client: &Client) -> Result<Vec<String>> {
    let sql = format!("SELECT {} FROM pg_database", bytes_of("datname"));
    let rows = client.query(&sql, &[]).await.query_context("cannot list the databases")?;
    Ok(rows.iter().map(|row| text_of(row.get(0))).collect())
}

fn mark(live: &str) -> String {
    format!("glovebox is loading a replacement for database {live} here")
}

/// Makes an empty database for the replacement of `live`.
///
/// # Errors
/// Those of connecting to it, before it is created: `pg_hba.conf` may let the role into some databases only.
pub async fn create(
    client: &Client,
    connector: &Connector,
    live: &str,
    name: &str,
    properties: &Properties,
    server: u32,
) -> Result<()> {
    connector.connect_if_present(name).await?;
    let untouched = |error: Error| error.with("state", "the live database was not touched");
    client
        .batch_execute(&format!("{} ALLOW_CONNECTIONS false", properties.create_statement(name, server)))
        .await
        .query_context("cannot make a new database")
        .map_err(untouched)?;
    // Open to its owner alone, and to superusers, until it gets the privileges of the live one.
    let open = format!(
        "BEGIN; REVOKE ALL ON DATABASE {0} FROM PUBLIC; {1}; ALTER DATABASE {0} ALLOW_CONNECTIONS true; COMMIT",
        ident(name),
        mark_statement(name, live)
    );
    let opened = client.batch_execute(&open).await.query_context("cannot close the new database to others");
    if opened.is_err() {
        // The transaction has to end before the database can be dropped.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    opened.map_err(untouched)
}

fn mark_statement(name: &str, live: &str) -> String {
    format!("COMMENT ON DATABASE {} IS {}", ident(name), literal(&mark(live)))
}

/// Marks a database that was given its name as one that goes: if this run is killed, the next one drops it.
pub async fn mark_again(client: &Client, name: &str, live: &str) -> Result<()> {
    client.batch_execute(&mark_statement(name, live)).await.query_context("cannot mark the new database")
}

/// Drops a database, ending the sessions in it. Subscriptions are detached first: the replication slots that they name
/// stay, since they may be those of another database.
pub async fn drop_database(client: &Client, connector: &Connector, name: &str) -> Result<()> {
    detach(client, connector, name).await?;
    let template = "SELECT FROM pg_database WHERE datname = $1 AND datistemplate";
    if client.query_opt(template, &[&name]).await.query_context("cannot look for the database")?.is_some() {
        let statement = format!("ALTER DATABASE {} IS_TEMPLATE false", ident(name));
        client.batch_execute(&statement).await.query_context(format!("cannot drop database \"{name}\""))?;
    }
    client.batch_execute(&drop_statement(name)).await.query_context(format!("cannot drop database \"{name}\""))
}

/// Drops a database, ending the sessions in it.
pub(super) fn drop_statement(name: &str) -> String {
    format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", ident(name))
}

async fn detach(client: &Client, connector: &Connector, name: &str) -> Result<()> {
    let sql =
        "SELECT s.subname::text FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = $1";
    let rows = client.query(sql, &[&name]).await.query_context("cannot look for subscriptions")?;
    if rows.is_empty() {
        return Ok(());
    }
    let inside = connector.connect_to(name).await?;
    for row in rows {
        let subscription = ident(row.get(0));
        for statement in
            ["ALTER SUBSCRIPTION {} DISABLE", "ALTER SUBSCRIPTION {} SET (slot_name = NONE)", "DROP SUBSCRIPTION {}"]
        {
            let statement = statement.replace("{}", &subscription);
            inside
                .batch_execute(&statement)
                .await
                .query_context(format!("cannot detach subscription {subscription}"))?;
        }
    }
    Ok(())
}

/// Result of sweeping.
#[derive(Debug, Default)]
pub struct Swept {
    /// Databases that were dropped.
    pub dropped: Vec<String>,
    /// Those that are still there, each with the reason.
    pub left: Vec<(String, String)>,
}

/// Drops what a killed run left behind. The caller holds the lock, so nobody is at work on it. One that cannot be dropped
/// is in nobody's way.
pub async fn sweep(client: &Client, connector: &Connector, live: &str) -> Result<Swept> {
    let (name, comment) = (bytes_of("datname"), bytes_of("shobj_description(oid, 'pg_database')"));
    let sql = format!("SELECT {name}, {comment}, datallowconn FROM pg_database WHERE datname <> $1");
    let rows = client.query(&sql, &[&live]).await.query_context("cannot list the databases")?;
    let mut swept = Swept::default();
    for row in rows {
        let (name, takes_connections) = (text_of(row.get(0)), row.get::<_, bool>(2));
        let comment = row.get::<_, Option<&[u8]>>(1).map(text_of);
        // Somebody may have given it another name to keep it.
        if !names::is_reserved(&name) {
            continue;
        }
        let marked = comment.as_deref() == Some(mark(live).as_str());
        // Killed between making and marking it: it takes no connections then, and so nothing is in it.
        let unmarked = comment.is_none() && names::time_of(&name, live, Role::Staging).is_some();
        if marked || (unmarked && !takes_connections) {
            match drop_database(client, connector, &name).await {
                Ok(()) => swept.dropped.push(name),
                Err(error) if client.is_closed() => return Err(error),
                Err(error) => swept.left.push((name, error.detail("cause").unwrap_or_default().to_owned())),
            }
        }
    }
    Ok(swept)
}

/// Adds to a failure what became of the staging database, which is dropped.
pub async fn abandon(client: &Client, connector: &Connector, name: &str, error: Error) -> Error {
    match drop_database(client, connector, name).await {
        Ok(()) => {
            role::sweep(client, connector.database_name()).await;
            error.or_state("the live database and its service are as they were, the new database was dropped")
        }
        Err(_) if error.kind() == Kind::Attention => error,
        Err(cause) => error
            .or_state(format!("the live database and its service are as they were, database \"{name}\" is left"))
            .with("cause", cause.message())
            .hint("The next run of teslamate-restore drops it, if its role may.")
            .hint(format!("As a superuser: {}", drop_statement(name))),
    }
}
