//! Words of `--table`, and the tables that they mean.

use std::collections::BTreeSet;

use crate::dump::Contents;
use crate::dump::contents::TableName;
use crate::error::{Error, Kind, Result};
use crate::restore::Policy;
use crate::tables::catalog::Table;

/// Chooses, from all tables that there are, those that somebody means who says `words`.
///
/// # Errors
/// [`Kind::Refused`] if the words mean two names: `a.b` may be the table "b" of the schema "a", and the table "a.b" of another one;
/// `a.b.c` the table "c" of the schema "a.b", and "b.c" of "a". A name alone means the tables of that name in all schemas.
pub fn called<'t>(words: &str, tables: impl IntoIterator<Item = &'t TableName>) -> Result<BTreeSet<&'t TableName>> {
    let called: BTreeSet<&TableName> = tables.into_iter().filter(|table| table.is_called(words)).collect();
    if called.len() < 2 || called.iter().all(|table| table.is_named(words)) {
        return Ok(called);
    }
    let options: Vec<String> = called.iter().map(|table| format!("--table '{}'", table.quoted())).collect();
    Err(Error::new(Kind::Refused, format!("\"{words}\" means more than one table"))
        .hint(format!("Write schema and name in quotes of their own: {}", options.join(" or "))))
}

/// A warning for each name without a schema that tables have, and a view in another schema.
#[must_use]
pub fn views_beside(contents: &Contents, policy: &Policy) -> Vec<String> {
    let meant = |words: &&String| contents.tables().find(|table| table.is_named(words));
    let warning = |words: &String| Some(beside(words, &contents.view_called(words)?, meant(&words)?));
    policy.tables.iter().filter_map(warning).collect()
}

/// The sentence about a view of the same name as a table.
pub(super) fn beside(words: &str, view: &str, table: &TableName) -> String {
    format!("{view}, which has no rows of its own: --table {words} takes {table}")
}

/// The name of a table of a backup.
#[must_use]
pub fn name_of(table: &Table) -> TableName {
    TableName { schema: table.schema.clone(), name: table.name.clone() }
}
