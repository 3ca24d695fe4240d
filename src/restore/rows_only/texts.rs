//! Values of the backup as texts, where the type that takes them may not keep them as they are.
//!
//! A domain or a range may stand on another type than at the backup: `numeric(10,1)` takes `1.25` and makes `1.3` of it,
//! without an error. Columns of such types come in as texts first; then every value is written again by its type, and
//! has to be the text that it was.

use tokio_postgres::Client;

use super::UNTOUCHED;
use super::incoming::value_refused;
use super::shapes::{Doubt, Shape};
use crate::database::connect::QueryContext;
use crate::database::ident;
use crate::error::{Error, Kind, Result};
use crate::tables::catalog::Table;
use crate::tables::manifest::TableEntry;
use crate::tables::types::CopyFormat;

/// A temporary table that takes the rows of one table before their own one.
pub(super) struct Texts {
    /// Of the live database, quoted.
    table: String,
    /// The temporary table.
    pub(super) name: String,
    doubtful: Vec<Doubt>,
    /// `"a", "b"`
    columns: String,
    /// These columns again, each that is a text with the cast to its type.
    typed: String,
    /// The casts of the columns that are texts.
    casts: Vec<String>,
}

impl Texts {
    /// Makes the temporary table, if there is a doubt about a column.
    pub(super) async fn make(
        client: &Client,
        entry: &TableEntry,
        number: usize,
        shape: &Shape,
    ) -> Result<Option<Self>> {
        let table = &entry.table;
        // In the binary form there are no types that anybody made.
        if shape.doubtful.is_empty() || entry.rows == 0 || table.format != CopyFormat::Text {
            return Ok(None);
        }
        let is_doubtful = |column: &str| shape.doubtful.iter().any(|doubt| doubt.column == column);
        let cast = |column: &str| {
            let typed = shape.types.iter().find(|(found, _)| found == column).map_or("text", |(_, typed)| typed);
            format!("{}::{typed}", ident(column))
        };
        let each = |of: &dyn Fn(&str) -> String| {
            table.columns.iter().map(|column| of(&column.name)).collect::<Vec<_>>().join(", ")
        };
        let made = each(&|column| {
            if is_doubtful(column) {
                format!("NULL::text AS {}", ident(column))
            } else {
                format!("{} AS {}", cast(column), ident(column))
            }
        });
        let (qualified, name) = (table.qualified(), format!("glovebox_texts_{number}"));
        let create =
            format!("CREATE TEMPORARY TABLE {name} USING heap AS SELECT {made} FROM ONLY {qualified} WITH NO DATA");
        client.batch_execute(&create).await.query_context(format!("cannot make a temporary table for {qualified}"))?;
        Ok(Some(Self {
            table: qualified,
            name: format!("pg_temp.{name}"),
            casts: shape.doubtful.iter().map(|doubt| cast(&doubt.column)).collect(),
            doubtful: shape.doubtful.clone(),
            columns: table.column_list(),
            typed: each(&|column| if is_doubtful(column) { cast(column) } else { ident(column) }),
        }))
    }

    /// The target of COPY.
    pub(super) fn target(&self, table: &Table) -> String {
        format!("{} ({})", self.name, table.column_list())
    }

    /// Puts the rows into the table that they are for. Returns a line for each column of which values become other ones.
    pub(super) async fn move_to(&self, client: &Client, staged: &str) -> Result<Vec<String>> {
        let mut changed = Vec::new();
        for (doubt, cast) in self.doubtful.iter().zip(&self.casts) {
            changed.extend(self.changed(client, doubt, cast).await?);
        }
        if changed.is_empty() {
            let Self { name, columns, typed, .. } = self;
            let sql = format!("INSERT INTO {staged} ({columns}) SELECT {typed} FROM {name}; DROP TABLE {name}");
            client.batch_execute(&sql).await.map_err(|cause| value_refused(&self.table, &cause))?;
        }
        Ok(changed)
    }

    async fn changed(&self, client: &Client, doubt: &Doubt, cast: &str) -> Result<Option<String>> {
        let (Self { table, name, .. }, column) = (self, ident(&doubt.column));
        // `format` shows the value as its type writes it, whatever casts to text there are.
        let sql = format!(
            "SELECT count(*) OVER (), v, n FROM (SELECT {column} AS v, pg_catalog.format('%s', {cast}) AS n FROM {name} \
             WHERE {column} IS NOT NULL) AS s WHERE n COLLATE \"C\" <> v COLLATE \"C\" LIMIT 1"
        );
        let row = client.query_opt(&sql, &[]).await.map_err(|cause| value_refused(table, &cause))?;
        let Some(row) = row else { return Ok(None) };
        let (rows, value, other): (i64, &str, &str) = (row.get(0), row.get(1), row.get(2));
        Ok(Some(format!(
            "{table}, column {}: {rows} rows, such as {}, which would become {}; live: {}; backup: {}",
            doubt.column,
            shortened(value),
            shortened(other),
            doubt.live,
            doubt.backup
        )))
    }
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().nth(LONGEST).is_some() {
        text.chars().take(LONGEST).chain(['…']).collect()
    } else {
        text.to_owned()
    }
}

/// Refuses values that would become other ones.
pub(super) fn refusal(changed: &[String]) -> Error {
    Error::new(Kind::Refused, "values of the backup would become other ones: types of the live database differ")
        .with("columns", changed.join("\n"))
        .with("state", UNTOUCHED)
        .hint("Load the backup beside the live database with --into NAME, and take the rows from there.")
}
