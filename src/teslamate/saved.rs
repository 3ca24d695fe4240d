//! The file that rows go to before they are deleted.
//!
//! It lies in the state directory under `deleted/` (`document.rs`), with every value in the server's own exact text
//! (`rows.rs`).

use std::os::fd::OwnedFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Record;
use super::document::{self, Form, Saved};
use super::rows::Rows;
#[cfg(doc)]
use crate::error::Kind;
use crate::error::Result;

const FORM: Form = Form {
    format: "glovebox deleted record",
    version: 1,
    directory: "deleted",
    called: "a file of deleted rows",
    hint: "Name one that a deletion wrote: they lie in the state directory under deleted/.",
};

/// Rows of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Its name, in schema `public`.
    pub table: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// The values, as the server writes them.
    pub rows: Vec<Vec<Option<String>>>,
}

impl Table {
    /// Rows of this table.
    #[must_use]
    pub fn new(table: &str, rows: Rows) -> Self {
        Self { table: table.to_owned(), columns: rows.columns, rows: rows.rows }
    }
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// The version of the program that wrote it.
    pub tool: String,
    /// Drive or charge.
    pub record: Record,
    /// Its id.
    pub id: i32,
    /// When it was written, UTC.
    pub saved_at: String,
    /// The database's name.
    pub database: String,
    /// The cluster's identifier, where it could be read.
    pub system_identifier: Option<String>,
    /// The record's own row.
    pub row: Table,
    /// The readings of a charge.
    pub readings: Option<Table>,
    /// The positions of a drive, whose `drive_id` became null.
    pub positions: Vec<i32>,
}

/// Writes the rows into the state directory; when it returns, they are on the disk.
///
/// # Errors
/// [`Kind::Store`] if that cannot be done.
pub fn write(content: &Content, state_dir: &Path) -> Result<Saved> {
    let (noun, id) = (content.record.noun(), content.id);
    let name = format!("{noun}-{id}");
    document::write(&FORM, state_dir, &name, content)
        .map_err(|error| error.with("state", format!("{noun} {id} was not deleted: its rows could not be saved first")))
}

/// Reads a file for the binary of this record.
///
/// # Errors
/// [`Kind::Verify`] if it is anything but a whole file of this kind, version and record.
pub fn read(input: OwnedFd, shown: &Path, record: Record) -> Result<Content> {
    let content: Content = document::read(&FORM, input, shown)?;
    let wrong = |what: &str| document::wrong(shown, what);
    if content.record != record {
        let other = content.record.noun();
        return Err(wrong(&format!("holds a {other}, not a {}", record.noun()))
            .hint(format!("teslamate-delete-{other} --undo {}", shown.display())));
    }
    if content.row.table != record.table() || content.row.rows.len() != 1 || !has_shape(&content) {
        return Err(wrong("does not hold what its name promises"));
    }
    Ok(content)
}

/// Whether every row has a value for each column, and readings are readings.
fn has_shape(content: &Content) -> bool {
    let even = |table: &Table| table.rows.iter().all(|row| row.len() == table.columns.len());
    let readings = content.readings.as_ref();
    even(&content.row) && readings.is_none_or(|readings| readings.table == "charges" && even(readings))
}
