//! The staging database: made, dropped, and cleaned up after a run that was killed.
//!
//! A staging database carries a comment that says so until the moment it goes live. What carries it while nobody
//! holds the lock was left behind by a killed run.

use tokio_postgres::Client;

use super::names;
use super::properties::Properties;
use crate::database::connect::QueryContext;
use crate::database::{Connector, ident, literal};
use crate::error::{Error, Kind, Result};

/// All databases of the server.
pub async fn databases(client: &Client) -> Result<Vec<String>> {
    let rows = client.query("SELECT datname FROM pg_database", &[]).await.query_context("cannot list the databases")?;
    Ok(rows.iter().map(|row| row.get::<_, &str>(0).to_owned()).collect())
}

fn mark(live: &str) -> String {
    format!("glovebox is loading a replacement for database {live} here")
}

/// A limit of connections that nobody else gives: it marks what was made and has no comment yet.
const UNMARKED_LIMIT: i32 = 1_971_032;

/// Makes an empty database for the replacement of `live`.
pub async fn create(client: &Client, live: &str, name: &str, properties: &Properties) -> Result<()> {
    client
        .batch_execute(&format!("{} CONNECTION LIMIT {UNMARKED_LIMIT}", properties.create_statement(name)))
        .await
        .query_context("cannot make a new database")
        .map_err(|error| error.with("state", "the live database was not touched"))?;
    mark_again(client, name, live).await?;
    let limit = format!("ALTER DATABASE {} CONNECTION LIMIT -1", ident(name));
    client.batch_execute(&limit).await.query_context("cannot mark the new database")
}

/// Marks a database that was given its name as one that goes: if this run is killed, the next one drops it.
pub async fn mark_again(client: &Client, name: &str, live: &str) -> Result<()> {
    let comment = format!("COMMENT ON DATABASE {} IS {}", ident(name), literal(&mark(live)));
    client.batch_execute(&comment).await.query_context("cannot mark the new database")
}

/// Drops a database, ending the sessions in it.
pub async fn drop_database(client: &Client, name: &str) -> Result<()> {
    let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", ident(name));
    client.batch_execute(&statement).await.query_context(format!("cannot drop database \"{name}\""))
}

/// Drops what a killed run left behind. The caller holds the lock, so nobody is at work on it. Returns the names.
pub async fn sweep(client: &Client, connector: &Connector, live: &str) -> Result<Vec<String>> {
    let rows = client
        .query(
            "SELECT datname, shobj_description(oid, 'pg_database'), datconnlimit FROM pg_database WHERE datname <> $1",
            &[&live],
        )
        .await
        .query_context("cannot list the databases")?;
    let mut dropped = Vec::new();
    for row in rows {
        let (name, comment, limit): (String, Option<String>, i32) = (row.get(0), row.get(1), row.get(2));
        // Somebody may have given it another name to keep it.
        if !names::is_reserved(&name) {
            continue;
        }
        let marked = comment.as_deref() == Some(mark(live).as_str());
        // Killed between making and marking it: then its limit is ours, and nothing is in it.
        let unmarked = comment.is_none() && limit == UNMARKED_LIMIT;
        if marked || (unmarked && is_empty(connector, &name).await?) {
            drop_database(client, &name).await?;
            dropped.push(name);
        }
    }
    Ok(dropped)
}

async fn is_empty(connector: &Connector, name: &str) -> Result<bool> {
    let client = connector.connect_to(name).await?;
    let row = client
        .query_one(
            "SELECT NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')",
            &[],
        )
        .await
        .query_context(format!("cannot look into database \"{name}\""))?;
    Ok(row.get(0))
}

/// Adds to a failure what became of the staging database, which is dropped.
pub async fn abandon(client: &Client, name: &str, error: Error) -> Error {
    match drop_database(client, name).await {
        Ok(()) => error.or_state("the live database and its service are as they were, the new database was dropped"),
        Err(_) if error.kind() == Kind::Attention => error,
        Err(cause) => error
            .or_state(format!("the live database and its service are as they were, database \"{name}\" is left"))
            .with("cause", cause.message())
            .hint("The next run of teslamate-restore drops it."),
    }
}
