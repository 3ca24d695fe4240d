//! Policies for rows that hold for the owner of a table, too (`FORCE ROW LEVEL SECURITY`): they hide rows from a count.

use tokio_postgres::{Client, Error};

/// Whether policies hide rows of a table from this role. `table` is quoted, with its schema.
pub(super) async fn are_active(client: &Client, table: &str) -> Result<bool, Error> {
    let sql = "SELECT c.relrowsecurity AND row_security_active(c.oid) FROM pg_class c WHERE c.oid = to_regclass($1)";
    Ok(client.query_opt(sql, &[&table]).await?.is_some_and(|row| row.get(0)))
}

/// Begins a transaction in which they do not hold; its ROLLBACK gives them back. False, without a transaction, where only
/// the owner may do that and the role does not act for them.
pub(super) async fn lift(client: &Client, table: &str) -> Result<bool, Error> {
    let sql = format!("BEGIN; SET LOCAL row_security = off; ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY");
    match client.batch_execute(&sql).await {
        Ok(()) => Ok(true),
        Err(cause) if cause.as_db_error().is_none() => Err(cause),
        Err(_) => client.batch_execute("ROLLBACK").await.map(|()| false),
    }
}
