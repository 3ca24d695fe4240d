//! Refusal of event triggers that fire when the temporary tables are made.

use tokio_postgres::Client;

use super::UNTOUCHED;
use crate::database::connect::QueryContext;
use crate::database::ident;
use crate::error::{Error, Kind, Result};

/// Refuses event triggers that fire for replication too (`ENABLE ALWAYS` or `REPLICA`) at the one definition that the
/// session makes, `CREATE TABLE AS`: their function may write into the live database. Since PostgreSQL 17 a superuser's
/// session has them off (`event_triggers`).
pub(super) async fn refuse(client: &Client) -> Result<()> {
    let sql = "SELECT evtname::text, evtenabled::text FROM pg_event_trigger \
               WHERE evtenabled IN ('A', 'R') AND evtevent IN ('ddl_command_start', 'ddl_command_end') \
                 AND (evttags IS NULL OR 'CREATE TABLE AS' = ANY (evttags)) \
                 AND coalesce(current_setting('event_triggers', true), 'on') <> 'off' ORDER BY evtname";
    let rows = client.query(sql, &[]).await.query_context("cannot look for event triggers")?;
    if rows.is_empty() {
        return Ok(());
    }
    let (mut found, mut alter, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for row in &rows {
        let (name, state): (&str, &str) = (row.get(0), row.get(1));
        let word = if state == "A" { "ALWAYS" } else { "REPLICA" };
        found.push(format!("{name} (ENABLE {word})"));
        alter.push(format!("ALTER EVENT TRIGGER {} ENABLE;", ident(name)));
        back.push(format!("ALTER EVENT TRIGGER {} ENABLE {word};", ident(name)));
    }
    Err(Error::new(Kind::Refused, "an event trigger would fire when the rows are loaded beside the live ones")
        .with("event triggers", found.join("\n"))
        .with("state", UNTOUCHED)
        .hint(format!("In the live database, as a superuser: {} Afterwards: {}", alter.join(" "), back.join(" ")))
        .hint("Or load the backup beside the live database with --into NAME, and take the rows from there."))
}
