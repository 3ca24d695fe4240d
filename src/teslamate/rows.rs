//! A row as text, exactly, and what changed in it.
//!
//! The server's own text form of a value loses nothing in a session that pins how it is written (`session.rs`): it is
//! what `pg_dump` relies on, for NaN, infinity, every bit of a `float8` and `bytea`. So rows are read in the simple
//! protocol, which transfers nothing else.

use tokio_postgres::{SimpleQueryMessage, Transaction};

use super::catalog::Catalog;
use super::session::Explain;
use crate::error::Result;

/// The rows of one table as text: names, and a value or null for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The columns' names.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Option<String>>>,
}

impl Rows {
    /// Reads what a query returns. It must hold no text from outside: the simple protocol has no parameters.
    pub async fn read(transaction: &Transaction<'_>, query: &str, what: &str) -> Result<Self> {
        let mut result = Self::default();
        for message in transaction.simple_query(query).await.explain(format!("cannot read {what}"))? {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    result.columns = columns.iter().map(|column| column.name().to_owned()).collect();
                }
                SimpleQueryMessage::Row(row) => {
                    result.rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
                }
                _ => {}
            }
        }
        Ok(result)
    }

    /// The value of a column in the first row; `None` if it is null or there is no such row or column.
    #[must_use]
    pub fn first(&self, column: &str) -> Option<&str> {
        let at = self.columns.iter().position(|name| name == column)?;
        self.rows.first()?.get(at)?.as_deref()
    }
}

/// A column before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name, with the table's in front where that is not the record's own.
    pub column: String,
    /// The value before.
    pub before: Option<String>,
    /// The value after.
    pub after: Option<String>,
    /// Whether the column holds numbers.
    pub numeric: bool,
}

impl Change {
    /// Whether the two differ.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.before != self.after
    }
}

/// Every column of one row, before and after. A row that is not there (any more) counts as null throughout.
#[must_use]
pub fn compare(catalog: &Catalog, table: &str, before: &Rows, after: &Rows) -> Vec<Change> {
    let names = if before.columns.is_empty() { &after.columns } else { &before.columns };
    let value = |rows: &Rows, name: &str| rows.first(name).map(str::to_owned);
    names
        .iter()
        .map(|name| Change {
            column: name.clone(),
            before: value(before, name),
            after: value(after, name),
            numeric: catalog.is_numeric(table, name),
        })
        .collect()
}
