//! Refusal of tables that belong to an extension.

use tokio_postgres::Client;

use super::UNTOUCHED;
use crate::database::connect::QueryContext;
use crate::error::{Error, Kind, Result};
use crate::restore::Policy;
use crate::restore::stored::Stored;

/// Rows of an extension's own tables are among the definitions of a backup, as `pg_dump` has them.
pub(super) async fn refuse(client: &Client, stored: &Stored, policy: &Policy) -> Result<()> {
    let sql = "SELECT format('%s.%s', n.nspname, c.relname), e.extname::text FROM pg_class c \
               JOIN pg_namespace n ON n.oid = c.relnamespace \
               JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' \
               JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid \
               WHERE c.relkind IN ('r', 'p') AND ($1::text[] && ARRAY[c.relname::text, n.nspname || '.' || c.relname]) ORDER BY 1";
    let rows = client.query(sql, &[&policy.tables]).await.query_context("cannot look for tables of extensions")?;
    if rows.is_empty() {
        return Ok(());
    }
    let tables: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let lines: Vec<String> = rows
        .iter()
        .map(|row| format!("{}, of the extension \"{}\"", row.get::<_, &str>(0), row.get::<_, &str>(1)))
        .collect();
    let options: Vec<String> = tables.iter().map(|table| format!("--table {table}")).collect();
    Err(Error::new(Kind::Refused, "rows of tables that belong to an extension are not replaced")
        .with("tables", lines.join("\n"))
        .with("state", UNTOUCHED)
        .hint(format!(
            "Those that the backup has are in its schema.dump. Load them beside the live database, and take them from \
             there: teslamate-restore {} --into NAME {}",
            stored.noted.facts.id.short(),
            options.join(" ")
        )))
}
