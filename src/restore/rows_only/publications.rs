//! Tables of which the server removes no row, since a publication would have to send what is removed.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::UNTOUCHED;
use super::incoming::{Incoming, numbers};
use crate::database::connect::{QueryContext, chain};
use crate::error::{Error, Kind, Result};

/// Finds the tables of which the server removes no row: a publication sends what is removed, and the table has no
/// replica identity to send. New rows may come in all the same.
///
/// # Errors
/// [`Kind::Refused`] naming all tables of which a row would have to go.
pub(super) async fn refuse_removals(client: &Client, staged: &mut [Incoming]) -> Result<()> {
    let failed = "cannot look for publications";
    let sql = "SELECT EXISTS (SELECT FROM pg_publication WHERE pubdelete OR pubupdate)";
    if !client.query_one(sql, &[]).await.query_context(failed)?.get::<_, bool>(0) {
        return Ok(());
    }
    for incoming in staged.iter_mut() {
        // The server's own judgement: it is made before the first row is looked at.
        let sql = format!("EXPLAIN DELETE FROM ONLY {}", incoming.name);
        match client.batch_execute(&sql).await {
            // The second: a column that a filter uses, or that is not in the publication's list.
            Err(cause)
                if [SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, SqlState::INVALID_COLUMN_REFERENCE]
                    .iter()
                    .any(|code| cause.code() == Some(code)) =>
            {
                incoming.is_append_only = Some(chain(&cause));
            }
            done => done.query_context(failed)?,
        }
    }
    nothing_to_remove(client, staged).await
}

/// Refuses rows that would have to go from a table of which none can.
pub(super) async fn nothing_to_remove(client: &Client, staged: &[Incoming]) -> Result<()> {
    let tables: Vec<&Incoming> = staged.iter().filter(|incoming| incoming.is_append_only.is_some()).collect();
    let queries: Vec<String> = tables.iter().map(|incoming| incoming.differing()).collect();
    let rows = numbers(client, &queries, "cannot compare the rows").await?;
    let (mut found, mut alter) = (Vec::new(), Vec::new());
    for (incoming, rows) in tables.iter().zip(rows).filter(|(_, rows)| *rows > 0) {
        found.push(format!("{}: {rows} rows; {}", incoming.name, incoming.is_append_only.as_deref().unwrap_or("")));
        alter.push(format!("ALTER TABLE {} REPLICA IDENTITY FULL;", incoming.name));
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, "rows have to go from tables whose publication does not let them")
        .with("tables", found.join("\n"))
        .with("state", UNTOUCHED)
        .hint(format!(
            "In the live database: {} DEFAULT in the place of FULL, or what there was, sets it back afterwards.",
            alter.join(" ")
        ))
        .hint(
            "If it is for a publication with a list of columns: take the table out of it (ALTER PUBLICATION … DROP TABLE), and add it again \
             afterwards.",
        ))
}
