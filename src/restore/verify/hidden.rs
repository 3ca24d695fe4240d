//! Rows that are hidden from the owner of a table: by policies that hold for it, too (`FORCE ROW LEVEL SECURITY`), or since it took the
//! right to read them from itself.

use tokio_postgres::{Client, Error};

/// Whether policies hide rows of a table from this role. `table` is quoted, with its schema.
pub(super) async fn are_active(client: &Client, table: &str) -> Result<bool, Error> {
    let sql = "SELECT c.relrowsecurity AND row_security_active(c.oid) FROM pg_class c WHERE c.oid = to_regclass($1)";
    Ok(client.query_opt(sql, &[&table]).await?.is_some_and(|row| row.get(0)))
}

/// Begins a transaction in which they do not hold; its ROLLBACK gives them back. False, without a transaction, where only
/// the owner may do that and the role does not act for them.
pub(super) async fn lift(client: &Client, table: &str) -> Result<bool, Error> {
    let sql = format!("SET LOCAL row_security = off; ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY");
    begin(client, &sql).await
}

/// Begins a transaction in which the role may read the table. False, without a transaction, where it may not allow itself to.
pub(super) async fn allow(client: &Client, table: &str) -> Result<bool, Error> {
    begin(client, &format!("GRANT SELECT ON {table} TO CURRENT_USER")).await
}

async fn begin(client: &Client, sql: &str) -> Result<bool, Error> {
    match client.batch_execute(&format!("BEGIN; {sql}")).await {
        Ok(()) => Ok(true),
        Err(cause) if cause.as_db_error().is_none() => Err(cause),
        Err(_) => client.batch_execute("ROLLBACK").await.map(|()| false),
    }
}
