//! Words of `--table`, and the tables that they mean.

use std::collections::BTreeSet;

use crate::dump::contents::TableName;
use crate::error::{Error, Kind, Result};
use crate::tables::catalog::Table;

/// Chooses, from all tables that there are, those that somebody means who says `words`.
///
/// # Errors
/// [`Kind::Refused`] if the words mean two names: `a.b` may be the table "b" of the schema "a", and the table "a.b" of another one.
pub fn called<'t>(words: &str, tables: impl IntoIterator<Item = &'t TableName>) -> Result<BTreeSet<&'t TableName>> {
    let called: BTreeSet<&TableName> = tables.into_iter().filter(|table| table.is_called(words)).collect();
    if !called.iter().any(|table| table.name == words) || called.iter().all(|table| table.name == words) {
        return Ok(called);
    }
    let options: Vec<String> = called.iter().map(|table| format!("--table '{}'", table.quoted())).collect();
    Err(Error::new(Kind::Refused, format!("\"{words}\" means more than one table"))
        .hint(format!("Write schema and name in quotes of their own: {}", options.join(" or "))))
}

/// The name of a table of a backup.
#[must_use]
pub fn name_of(table: &Table) -> TableName {
    TableName { schema: table.schema.clone(), name: table.name.clone() }
}
