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
/// or of which a policy keeps it, and unlogged ones of a standby, which has nothing of them.
pub async fn prove(client: &Client, tables: &mut [Table]) -> Result<()> {
    let failed = "cannot read a table that seems to be empty";
    client.batch_execute("SAVEPOINT empty").await.query_context(failed)?;
    for table in tables.iter_mut().filter(|table| table.blocks == 0) {
        let cause = match has_rows(client, &format!("COPY {} TO STDOUT", table.copy_source())).await {
            Ok(false) => continue,
            Ok(true) => {
                // Any number of blocks stands for all of them.
                (table.blocks, table.read_whole) = (1, true);
                continue;
            }
            Err(cause) => cause,
        };
        let is_elsewhere = !table.logged && cause.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED);
        if !is_elsewhere && cause.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
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
