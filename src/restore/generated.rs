//! Stored generated columns whose expression calls a function of the database's own.
//!
//! No dump holds their values: they are computed while rows are loaded. A function that PostgreSQL is told to be immutable may read another
//! table all the same, and finds it empty if that one is loaded later. So these columns are computed again when all rows are there, and what
//! differs is written. That is done before indexes, triggers, rules and publications are made, which depend on the values or would act.
//! Not here: rows that are put back into the live database (`rows_only/computed.rs`).

use std::collections::BTreeSet;

use tokio_postgres::{Client, Row};

use crate::database::connect::{QueryContext, chain};
use crate::error::Result;
use crate::progress::Reporter;

/// Dependencies of a column's expression, by `pg_depend`.
const OF_EXPRESSION: &str = "(d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid \
                              OR d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = a.attnum)";

/// The columns, each with its expression, of the column's type, and with a column to write that the expression reads, if there is one
/// that may be written.
const COLUMNS: &str = "\
    SELECT format('%I.%I', n.nspname, c.relname), quote_ident(a.attname), \
           format('(%s)::%s', pg_get_expr(e.adbin, e.adrelid), format_type(a.atttypid, a.atttypmod)), b.name \
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_attrdef e ON e.adrelid = c.oid AND e.adnum = a.attnum \
         LEFT JOIN LATERAL (SELECT quote_ident(b.attname) AS name FROM pg_attribute b \
             WHERE b.attrelid = c.oid AND b.attnum > 0 AND NOT b.attisdropped AND b.attgenerated = '' AND b.attidentity <> 'a' \
                   AND EXISTS (SELECT FROM pg_depend d WHERE OF_EXPRESSION AND d.refclassid = 'pg_class'::regclass \
                               AND d.refobjid = c.oid AND d.refobjsubid = b.attnum) \
             ORDER BY b.attnum LIMIT 1) AS b ON true \
    WHERE a.attgenerated = 's' AND NOT a.attisdropped AND c.relkind = 'r' \
          AND EXISTS (SELECT FROM pg_depend d WHERE OF_EXPRESSION AND d.refobjid >= 16384 \
                      AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) \
                      AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = d.refclassid AND x.objid = d.refobjid AND x.deptype = 'e')) \
    ORDER BY c.oid, a.attnum";

/// Query for the columns of a whole database: table and name, quoted, and expression come first.
pub(super) fn columns_query() -> String {
    COLUMNS.replace("OF_EXPRESSION", OF_EXPRESSION)
}

/// Condition on a row whose column is not what the expression says now, by its bytes: types need no operator, and no setting rounds the
/// values.
pub(super) fn differs(expression: &str, name: &str) -> String {
    format!("pg_catalog.record_image_ne(ROW({expression}), ROW({name}))")
}

/// A trigger before each row's update, which does nothing: with one, the server computes all generated columns, also those that read
/// nothing of what is written. Source: `ExecInitStoredGenerated` in PostgreSQL's `nodeModifyTable.c`.
const TOUCH: &str =
    "CREATE FUNCTION pg_temp.glovebox_touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'";

struct Column {
    /// Quoted, with its schema.
    table: String,
    /// Quoted.
    name: String,
    expression: String,
    /// A column whose UPDATE makes the server compute this one, quoted.
    base: Option<String>,
    /// Rows that were written.
    rows: u64,
}

impl Column {
    fn of(row: &Row) -> Self {
        Self { table: row.get(0), name: row.get(1), expression: row.get(2), base: row.get(3), rows: 0 }
    }
}

/// Computes the columns again in a database whose rows are loaded and whose indexes and triggers are not made yet, writes what differs,
/// and says so. The session has the settings of the application.
///
/// # Errors
/// Those of the connection. What a function of the database refuses is a warning: the load did not meet it.
pub async fn compute_again(client: &Client, reporter: &Reporter) -> Result<()> {
    let path = "SET search_path = pg_catalog";
    client.batch_execute(path).await.query_context("cannot prepare a session to compute columns")?;
    let rows = client.query(&columns_query(), &[]).await.query_context("cannot look for generated columns")?;
    let mut columns: Vec<Column> = rows.iter().map(Column::of).collect();
    let mut failed = BTreeSet::new();
    // A function may read another one of these columns.
    for _ in 0..columns.len() {
        let mut written = 0;
        for column in &mut columns {
            let rows = write(client, column, reporter, &mut failed).await?;
            column.rows = column.rows.max(rows);
            written += rows;
        }
        if written == 0 {
            break;
        }
    }
    for Column { table, name, rows, .. } in columns.iter().filter(|column| column.rows > 0) {
        reporter.warn(&format!(
            "{rows} rows of {table}: the generated column {name} was computed again after the load, as its function reads rows that were \
             loaded later; it may differ from the values that the source had stored"
        ));
    }
    Ok(())
}

/// Writes the rows in which the column is another one than its expression says now. Returns how many there were.
async fn write(
    client: &Client,
    column: &Column,
    reporter: &Reporter,
    failed: &mut BTreeSet<(String, String)>,
) -> Result<u64> {
    let Column { table, name, expression, .. } = column;
    let differs = differs(expression, name);
    let begin = "BEGIN; SET LOCAL row_security = off";
    client.batch_execute(begin).await.query_context("cannot begin a transaction")?;
    let counted = client.query_one(&format!("SELECT count(*) FROM ONLY {table} WHERE {differs}"), &[]).await;
    let done = match counted {
        Ok(row) if row.get::<_, i64>(0) > 0 => update(client, column, &differs).await,
        counted => counted.map(|_| 0),
    };
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = client.batch_execute(end).await;
    match done.and_then(|rows| ended.map(|()| rows)) {
        Err(cause) if cause.as_db_error().is_some() => {
            if failed.insert((table.clone(), name.clone())) {
                reporter.warn(&format!(
                    "the generated column {name} of {table} could not be computed again after the load, and may differ from what the source \
                     had stored: {}",
                    chain(&cause)
                ));
            }
            Ok(0)
        }
        rows => rows.query_context(format!("cannot compute {name} of {table}")),
    }
}

async fn update(client: &Client, column: &Column, differs: &str) -> std::result::Result<u64, tokio_postgres::Error> {
    let Column { table, name, base, .. } = column;
    if let Some(base) = base {
        return client.execute(&format!("UPDATE ONLY {table} SET {base} = {base} WHERE {differs}"), &[]).await;
    }
    client.batch_execute(TOUCH).await?;
    let trigger = "CREATE TRIGGER glovebox_touch BEFORE UPDATE ON";
    client.batch_execute(&format!("{trigger} {table} FOR EACH ROW EXECUTE FUNCTION pg_temp.glovebox_touch()")).await?;
    // The only value that a generated column may be given.
    let rows = client.execute(&format!("UPDATE ONLY {table} SET {name} = DEFAULT WHERE {differs}"), &[]).await?;
    client.batch_execute("DROP FUNCTION pg_temp.glovebox_touch() CASCADE").await?;
    Ok(rows)
}
