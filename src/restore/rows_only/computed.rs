//! Values that functions of the database's own computed while rows came in: stored generated columns, and entries of indexes.
//!
//! A function that PostgreSQL is told to be immutable may read another table all the same. While rows come in, that one may be
//! empty, or still have the rows from before. So when all rows are in, these columns are computed again, and these indexes are
//! made again. What cannot be made again is named; the rows of the backup are there all the same.

use tokio_postgres::Client;

use super::LOCK_WAIT;
use super::incoming::Incoming;
use crate::database::connect::{QueryContext, chain};
use crate::error::Result;
use crate::restore::generated;

/// The indexes of these tables whose expression or predicate calls a function of the database's own.
const INDEXES: &str = "\
    SELECT format('%I.%I', n.nspname, c.relname) \
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE i.indrelid = ANY ($1) AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL) \
          AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid \
                      AND d.refobjid >= 16384 AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) \
                      AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = d.refclassid AND x.objid = d.refobjid AND x.deptype = 'e')) \
    ORDER BY 1";

/// Columns and indexes that are to be made again.
pub(super) struct Computed<'a> {
    columns: Vec<Column<'a>>,
    /// Quoted, with the schema.
    indexes: Vec<String>,
}

struct Column<'a> {
    table: &'a Incoming,
    /// Quoted.
    name: String,
    expression: String,
    /// Rows that were written.
    rows: u64,
}

impl<'a> Computed<'a> {
    /// Looks for them. The names in the expressions are found by a `search_path` that has `pg_catalog` alone.
    pub(super) async fn find(client: &Client, staged: &'a [Incoming]) -> Result<Self> {
        let oids: Vec<u32> = staged.iter().map(|table| table.oid).collect();
        let sql = format!(
            "SELECT to_regclass(g.tab)::oid, g.col, g.expression FROM ({}) AS g (tab, col, expression) \
             WHERE to_regclass(g.tab) = ANY ($1)",
            generated::columns_query()
        );
        let rows = client.query(&sql, &[&oids]).await.query_context("cannot look for generated columns")?;
        let column = |row: &tokio_postgres::Row| {
            let table = staged.iter().find(|table| table.oid == row.get::<_, u32>(0))?;
            Some(Column { table, name: row.get(1), expression: row.get(2), rows: 0 })
        };
        let columns = rows.iter().filter_map(column).collect();
        let rows = client.query(INDEXES, &[&oids]).await.query_context("cannot look for indexes of functions")?;
        Ok(Self { columns, indexes: rows.iter().map(|row| row.get(0)).collect() })
    }

    /// Makes them again. Returns sentences about what was done, and about what could not be.
    pub(super) async fn make_again(&mut self, client: &Client) -> Result<Vec<String>> {
        let mut told = Vec::new();
        // A function may read another one of these columns.
        for _ in 0..self.columns.len() {
            let mut written = 0;
            let mut failed = Vec::new();
            for column in &mut self.columns {
                match attempt(client, &column.statement()).await? {
                    Ok(rows) => {
                        column.rows = column.rows.max(rows);
                        written += rows;
                    }
                    Err(cause) => failed.push(format!(
                        "the generated column {} of {} could not be computed again when all rows were in, and may not be what its \
                         expression says: {cause}",
                        column.name, column.table.name
                    )),
                }
            }
            if written == 0 {
                told = failed;
                break;
            }
            told = failed;
        }
        for Column { table, name, rows, .. } in self.columns.iter().filter(|column| column.rows > 0) {
            told.push(format!(
                "{rows} rows of {}: the generated column {name} was computed again when all rows were in, as its function reads \
                 other rows; it may differ from the values that were stored before",
                table.name
            ));
        }
        for index in &self.indexes {
            // Readers that planned a query hold it until their transaction ends.
            let reindex =
                format!("SET LOCAL lock_timeout = '{LOCK_WAIT}'; REINDEX INDEX {index}; SET LOCAL lock_timeout = 0");
            if let Err(cause) = attempt(client, &reindex).await? {
                told.push(format!(
                    "the index {index} calls a function of the database's own and could not be made again: it may find other rows \
                     than there are, if that function reads a table; REINDEX INDEX {index} makes it again: {cause}"
                ));
            }
        }
        Ok(told)
    }
}

impl Column<'_> {
    /// Writes the rows again in which the column is another one than its expression says now. They are removed and inserted, since
    /// no UPDATE touches an identity that is always generated.
    fn statement(&self) -> String {
        let Self { name, expression, table: Incoming { name: table, columns, .. }, .. } = self;
        let differs = generated::differs(expression, name);
        // A list without columns is no SQL.
        if columns.is_empty() {
            return format!(
                "WITH gone AS (DELETE FROM ONLY {table} WHERE {differs} RETURNING 1) INSERT INTO {table} SELECT FROM gone"
            );
        }
        format!(
            "WITH gone AS (DELETE FROM ONLY {table} WHERE {differs} RETURNING {columns}) \
             INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM gone"
        )
    }
}

/// Executes statements that may fail without harm, and returns how many rows the last one wrote, or the server's words.
async fn attempt(client: &Client, statements: &str) -> Result<std::result::Result<u64, String>> {
    let failed = "cannot compute again what functions compute";
    client.batch_execute("SAVEPOINT computing").await.query_context(failed)?;
    let done = rows_written(client, statements).await;
    match done {
        Ok(rows) => {
            client.batch_execute("RELEASE SAVEPOINT computing").await.query_context(failed)?;
            Ok(Ok(rows))
        }
        Err(cause) if cause.as_db_error().is_some() => {
            client
                .batch_execute("ROLLBACK TO SAVEPOINT computing; RELEASE SAVEPOINT computing")
                .await
                .query_context(failed)?;
            Ok(Err(chain(&cause)))
        }
        Err(cause) => Err(cause).query_context(failed),
    }
}

async fn rows_written(client: &Client, statements: &str) -> std::result::Result<u64, tokio_postgres::Error> {
    use tokio_postgres::SimpleQueryMessage;
    let messages = client.simple_query(statements).await?;
    let counted = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
        _ => None,
    });
    Ok(counted.last().unwrap_or(0))
}
