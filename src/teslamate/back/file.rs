//! The file that says what was put back, for undoing.

use std::os::fd::OwnedFd;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::write::Put;
use crate::error::Result;
use crate::teslamate::document::{self, Form, Saved};
use crate::teslamate::saved::Table;

const FORM: Form = Form {
    format: "glovebox records put back",
    version: 1,
    directory: "put-back",
    called: "a file of records that were put back",
    hint: "Name one that `teslamate-restore --drive` or `--charge` wrote: they lie in the state directory under put-back/.",
};

/// Where the rows come from, and where they were put.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Origin {
    /// The backup's id.
    pub(super) backup: String,
    /// The live database's name.
    pub(super) database: String,
    /// The cluster's identifier, where it could be read.
    pub(super) system_identifier: Option<String>,
}

/// Content of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content {
    /// The version of the program that wrote it.
    pub(super) tool: String,
    /// When it was written, UTC.
    pub(super) written_at: String,
    pub(super) origin: Origin,
    /// Ids of the drives.
    pub(super) drives: Vec<i32>,
    /// Ids of the charges.
    pub(super) charges: Vec<i32>,
    /// The rows that were put back, as the server writes them.
    pub(super) rows: Vec<Table>,
    /// Positions that were there, each with the drive that it got again.
    pub(super) linked: Vec<(i32, i32)>,
}

/// Writes it into the state directory; when it returns, it is on the disk.
pub(super) fn write(origin: Origin, put: Put, state_dir: &Path) -> Result<Saved> {
    let Put { wanted, rows, linked } = put;
    let name = match (wanted.drives.as_slice(), wanted.charges.as_slice()) {
        ([id], []) => format!("drive-{id}"),
        ([], [id]) => format!("charge-{id}"),
        _ => "records".to_owned(),
    };
    let content = Content {
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        written_at: chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        origin,
        drives: wanted.drives,
        charges: wanted.charges,
        rows,
        linked,
    };
    document::write(&FORM, state_dir, &name, &content)
        .map_err(|error| error.with("state", "nothing was put back: the file for undoing could not be written first"))
}

/// Reads one.
///
/// # Errors
/// [`Kind::Verify`](crate::error::Kind::Verify) if it is anything but a whole file of this kind.
pub(super) fn read(input: OwnedFd, shown: &Path) -> Result<Content> {
    let content: Content = document::read(&FORM, input, shown)?;
    let known = |table: &Table| {
        super::TABLES.iter().any(|known| known.name == table.table)
            && table.columns.iter().any(|name| name == "id")
            && table.rows.iter().all(|row| row.len() == table.columns.len())
    };
    if content.rows.iter().all(known) {
        Ok(content)
    } else {
        Err(document::wrong(shown, "does not hold what its name promises"))
    }
}
