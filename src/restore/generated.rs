//! Stored generated columns whose expression calls a function of the database's own.
//!
//! No dump holds their values: they are computed while rows are loaded. A function that PostgreSQL is told to be immutable may read another
//! table all the same, and finds it empty if that one is loaded later. So these columns are computed again when all rows are there, and what
//! differs is written. Triggers and rules of the table are disabled meanwhile, in the same transaction. Not here: rows that are put back into
//! the live database (`rows_only/computed.rs`).

use tokio_postgres::Client;

use crate::database::connect::{QueryContext, chain};
use crate::database::literal;
use crate::database::{Connector, Setting};
use crate::error::Result;
use crate::progress::Reporter;

/// Dependencies of a column's expression, by `pg_depend`.
const OF_EXPRESSION: &str = "(d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid \
                              OR d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = a.attnum)";

/// The columns, each with its expression and a column that this reads.
const COLUMNS: &str = "\
    SELECT format('%I.%I', n.nspname, c.relname), quote_ident(a.attname), pg_get_expr(e.adbin, e.adrelid), \
           (SELECT min(quote_ident(b.attname)) FROM pg_depend d JOIN pg_attribute b ON b.attrelid = c.oid AND b.attnum = d.refobjsubid \
            WHERE OF_EXPRESSION AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND b.attnum NOT IN (0, a.attnum)) \
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_attrdef e ON e.adrelid = c.oid AND e.adnum = a.attnum \
    WHERE a.attgenerated = 's' AND NOT a.attisdropped AND c.relkind = 'r' \
          AND EXISTS (SELECT FROM pg_depend d WHERE OF_EXPRESSION AND d.refobjid >= 16384 \
                      AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) \
                      AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = d.refclassid AND x.objid = d.refobjid AND x.deptype = 'e')) \
    ORDER BY c.oid, a.attnum";

/// Query for the columns of a whole database: table and name, quoted, expression, and a column that this reads.
pub(super) fn columns_query() -> String {
    COLUMNS.replace("OF_EXPRESSION", OF_EXPRESSION)
}

/// Statements that disable a table's triggers and rules for UPDATE, and those that give each its state back.
const TRIGGERS: &str = "\
    SELECT format('ALTER TABLE ONLY %s DISABLE %s %I', $1, kind, name), \
           format('ALTER TABLE ONLY %s ENABLE %s%s %I', $1, CASE state WHEN 'A' THEN 'ALWAYS ' WHEN 'R' THEN 'REPLICA ' ELSE '' END, kind, name) \
    FROM (SELECT tgrelid, 'TRIGGER', tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal \
          UNION ALL SELECT ev_class, 'RULE', rulename, ev_enabled FROM pg_rewrite WHERE ev_type = '2') AS t (relation, kind, name, state) \
    WHERE relation = to_regclass($1) AND state <> 'D' ORDER BY 1";

struct Column {
    /// Quoted, with its schema.
    table: String,
    /// Quoted.
    name: String,
    expression: String,
    /// A column whose UPDATE makes the server compute this one.
    base: Option<String>,
    /// Rows that were written.
    rows: u64,
}

/// Computes the columns of a loaded database again, writes what differs, and says so.
///
/// # Errors
/// Those of the connection. What a function of the database refuses is a warning: the load did not meet it.
pub async fn compute_again(
    connector: &Connector,
    database: &str,
    application: &[Setting],
    reporter: &Reporter,
) -> Result<()> {
    let client = connector.connect_to_load(database, application).await?;
    let path = "SET search_path = pg_catalog";
    client.batch_execute(path).await.query_context("cannot prepare a session to compute columns")?;
    let rows = client.query(&columns_query(), &[]).await.query_context("cannot look for generated columns")?;
    let mut columns: Vec<Column> = rows
        .iter()
        .map(|row| Column { table: row.get(0), name: row.get(1), expression: row.get(2), base: row.get(3), rows: 0 })
        .collect();
    // A function may read another one of these columns.
    for _ in 0..columns.len() {
        let mut written = 0;
        for column in &mut columns {
            let rows = write(&client, column, reporter).await?;
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
    if columns.iter().any(|column| column.rows > 0) {
        refresh(&client, reporter).await?;
    }
    Ok(())
}

/// Writes the rows in which the column is another one than its expression says now. Returns how many there were.
async fn write(client: &Client, column: &Column, reporter: &Reporter) -> Result<u64> {
    let Column { table, name, expression, base, .. } = column;
    let differs = format!("({expression})::text IS DISTINCT FROM {name}::text");
    let begin = "BEGIN; SET LOCAL row_security = off";
    client.batch_execute(begin).await.query_context("cannot begin a transaction")?;
    let done = match client.query_one(&format!("SELECT count(*) FROM ONLY {table} WHERE {differs}"), &[]).await {
        Ok(row) if row.get::<_, i64>(0) == 0 => Ok(0),
        Ok(row) => {
            if let Some(base) = base {
                update(client, table, base, &differs).await
            } else {
                reporter.warn(&format!(
                    "{} rows of {table}: the generated column {name} is not what {expression} says now; it reads no column, so no \
                     UPDATE computes it again",
                    row.get::<_, i64>(0)
                ));
                Ok(0)
            }
        }
        Err(cause) => Err(cause),
    };
    let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = client.batch_execute(end).await;
    match done.and_then(|rows| ended.map(|()| rows)) {
        Err(cause) if cause.as_db_error().is_some() => {
            reporter.warn(&format!(
                "the generated column {name} of {table} could not be computed again after the load: {}",
                chain(&cause)
            ));
            Ok(0)
        }
        rows => rows.query_context(format!("cannot compute {name} of {table}")),
    }
}

async fn update(
    client: &Client,
    table: &str,
    base: &str,
    differs: &str,
) -> std::result::Result<u64, tokio_postgres::Error> {
    let triggers = client.query(&TRIGGERS.replace("$1", &format!("{}::text", literal(table))), &[]).await?;
    for trigger in &triggers {
        client.batch_execute(trigger.get(0)).await?;
    }
    // The server computes a stored column when one that it reads is written.
    let rows = client.execute(&format!("UPDATE ONLY {table} SET {base} = {base} WHERE {differs}"), &[]).await?;
    client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
    for trigger in &triggers {
        client.batch_execute(trigger.get(1)).await?;
    }
    Ok(rows)
}

/// Materialized views were computed by the load, from the columns as they were then. They are made in the order of their dependencies.
async fn refresh(client: &Client, reporter: &Reporter) -> Result<()> {
    let sql = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind = 'm' AND c.relispopulated AND c.oid >= 16384 ORDER BY c.oid";
    for row in client.query(sql, &[]).await.query_context("cannot look for materialized views")? {
        let view: String = row.get(0);
        match client.batch_execute(&format!("REFRESH MATERIALIZED VIEW {view}")).await {
            Err(cause) if cause.as_db_error().is_some() => reporter.warn(&format!(
                "{view} could not be refreshed after generated columns were computed again: {}",
                chain(&cause)
            )),
            done => done.query_context("cannot refresh a materialized view")?,
        }
    }
    Ok(())
}
