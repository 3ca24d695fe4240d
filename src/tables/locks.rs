//! Locks tables as `pg_dump` does, with ACCESS SHARE, and knows how many locks the server has room for.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::unchanged;
use crate::database::connect::{QueryContext, chain};
use crate::error::{Error, Result};

/// Locks these tables, each given by its quoted name, until the transaction ends: all at once if nobody is in the way, else one by one, so that
/// the one that stays locked is named.
pub async fn take(client: &Client, tables: &[String]) -> Result<()> {
    if try_all(client, tables).await? {
        return Ok(());
    }
    for table in tables {
        let sql = format!("LOCK TABLE ONLY {table} IN ACCESS SHARE MODE");
        match client.batch_execute(&sql).await {
            Err(cause) if is_missing(&cause) => return Err(vanished(&format!("table {table}"), &cause)),
            done => done.query_context(format!("cannot lock table {table}"))?,
        }
    }
    Ok(())
}

/// Locks all of them without waiting, or none.
///
/// # Errors
/// [`unchanged::is_change`] if one does not exist any more.
pub async fn try_all(client: &Client, tables: &[String]) -> Result<bool> {
    let Some(lock) = statement(tables) else { return Ok(true) };
    let failed = "cannot lock the tables";
    match client.batch_execute(&format!("SAVEPOINT locks; {lock} NOWAIT; RELEASE SAVEPOINT locks")).await {
        Ok(()) => Ok(true),
        Err(cause) if is_missing(&cause) => Err(vanished("a table", &cause)),
        Err(cause) if cause.as_db_error().is_some() => {
            client.batch_execute("ROLLBACK TO SAVEPOINT locks").await.query_context(failed)?;
            Ok(false)
        }
        Err(cause) => Err(cause).query_context(failed),
    }
}

/// `LOCK TABLE ONLY … IN ACCESS SHARE MODE`, if there is a table.
#[must_use]
pub fn statement(tables: &[String]) -> Option<String> {
    let names: Vec<String> = tables.iter().map(|table| format!("ONLY {table}")).collect();
    (!names.is_empty()).then(|| format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", ")))
}

/// How many sessions may lock so many tables without taking more than half of the server's room from everybody else.
///
/// The server has room for twice as many locks as it can lock objects: `max_locks_per_transaction` for each session that it allows.
pub async fn room_for(client: &Client, tables: usize) -> Result<usize> {
    let sql = "SELECT current_setting('max_locks_per_transaction')::bigint \
                      * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)";
    let row = client.query_one(sql, &[]).await.query_context("cannot read the server's settings")?;
    Ok(usize::try_from(row.get::<_, i64>(0)).unwrap_or(0) / tables.max(1))
}

/// The server's table of locks is full.
#[must_use]
pub fn is_full(cause: &tokio_postgres::Error) -> bool {
    cause.code() == Some(&SqlState::OUT_OF_MEMORY)
}

fn vanished(table: &str, cause: &tokio_postgres::Error) -> Error {
    unchanged::error(format!("{table} was dropped or renamed while the backup began"), chain(cause))
}

fn is_missing(cause: &tokio_postgres::Error) -> bool {
    matches!(cause.code(), Some(code) if [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME, SqlState::WRONG_OBJECT_TYPE].contains(code))
}
