//! Proof that a table whose file has no blocks is empty.
//!
//! `pg_relation_size` takes a file that is missing for one of no bytes, and a table whose rows an extension keeps
//! elsewhere may have an empty file. So such a table is read, which fails for the one and finds the rows of the other.

use futures_util::TryStreamExt;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::catalog::Table;
use crate::database::connect::QueryContext;
use crate::error::Result;

/// Reads every table that seems to be empty. One that has rows is to be read as a whole.
///
/// # Errors
/// [`Kind::Source`](crate::error::Kind::Source) if one cannot be read. Let pass are empty tables that the role may not read,
/// or of which a policy keeps it; unlogged ones of a standby are not looked at.
pub async fn prove(client: &Client, tables: &mut [Table]) -> Result<()> {
    let failed = "cannot read a table that seems to be empty";
    let row = client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await.query_context(failed)?;
    let is_standby: bool = row.get(0);
    client.batch_execute("SAVEPOINT empty").await.query_context(failed)?;
    // A standby has no file of an unlogged table.
    let is_here = |table: &&mut Table| table.blocks == 0 && (table.logged || !is_standby);
    for table in tables.iter_mut().filter(is_here) {
        let cause = match has_rows(client, &format!("COPY {} TO STDOUT", table.copy_source())).await {
            Ok(false) => continue,
            Ok(true) => {
                // Any number of blocks stands for all of them.
                (table.blocks, table.read_whole) = (1, true);
                continue;
            }
            Err(cause) => cause,
        };
        if cause.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
            return Err(cause).query_context(format!("cannot read table {}", table.qualified()));
        }
        client.batch_execute("ROLLBACK TO SAVEPOINT empty").await.query_context(failed)?;
    }
    client.batch_execute("RELEASE SAVEPOINT empty").await.query_context(failed)
}

async fn has_rows(client: &Client, statement: &str) -> std::result::Result<bool, tokio_postgres::Error> {
    let mut rows = std::pin::pin!(client.copy_out(statement).await?);
    let mut found = false;
    while rows.try_next().await?.is_some() {
        found = true;
    }
    Ok(found)
}
