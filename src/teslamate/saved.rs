//! The file that rows go to before they are deleted.
//!
//! JSON, so that a person can read it, with every value in the server's own exact text (`rows.rs`). It lies in the
//! state directory under `deleted/`, mode 0600, and is whole, synced and named before the deletion is committed. A
//! SHA-256 over the content tells a damaged file.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Record;
use super::rows::Rows;
use crate::error::{Context, Error, Kind, Result};
use crate::host::OutputFile;

const FORMAT: &str = "glovebox deleted record";
const VERSION: u64 = 1;

/// More than any charge or drive needs: ten million positions.
const SIZE_LIMIT: u64 = 128 * 1024 * 1024;

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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    version: u64,
    sha256: String,
    content: Content,
}

fn digest(content: &Content) -> Result<String> {
    let bytes = serde_json::to_vec(content).context(Kind::Store, "cannot write the saved rows as JSON")?;
    Ok(Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}")))
}

/// A saved file that is removed again unless it is kept.
#[derive(Debug)]
pub struct Saved {
    path: PathBuf,
    kept: bool,
}

impl Saved {
    /// Writes the rows into the state directory; when it returns, they are on the disk.
    pub fn write(content: &Content, state_dir: &Path) -> Result<Self> {
        let dir = state_dir.join("deleted");
        let (noun, id) = (content.record.noun(), content.id);
        let unsaved = |error: Error| {
            error.with("state", format!("{noun} {id} was not deleted: its rows could not be saved first")).hint(
                format!("See to it that this account can write into {}, or set `state_dir`.", state_dir.display()),
            )
        };
        make_dir(&dir, state_dir).map_err(unsaved)?;
        let time = chrono::Utc::now().format("%Y%m%dT%H%M%S%.3fZ");
        let path = dir.join(format!("{noun}-{id}-{time}.json"));
        let document = Document {
            format: FORMAT.to_owned(),
            version: VERSION,
            sha256: digest(content)?,
            content: content.clone(),
        };
        let mut bytes = serde_json::to_vec_pretty(&document).context(Kind::Store, "cannot write the rows as JSON")?;
        bytes.push(b'\n');
        let mut output = OutputFile::create(&path, false).map_err(unsaved)?;
        let mut file: &File = output.file();
        file.write_all(&bytes).context(Kind::Store, format!("cannot write {}", path.display())).map_err(unsaved)?;
        // From the rename on, the file is to go again if the deletion fails, even if the directory cannot be synced.
        let saved = Self { path, kept: false };
        output.publish().map_err(unsaved)?;
        Ok(saved)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The rows are gone from the database, or may be: the file stays.
    #[must_use]
    pub fn keep(mut self) -> PathBuf {
        self.kept = true;
        std::mem::take(&mut self.path)
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        if !self.kept {
            // If it cannot be removed, it is of no harm: undoing refuses while the record exists.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn make_dir(dir: &Path, state_dir: &Path) -> Result<()> {
    let failed = || format!("cannot make the directory {}", dir.display());
    match std::fs::create_dir(dir) {
        Ok(()) => File::open(state_dir).and_then(|parent| parent.sync_all()).context(Kind::Store, failed()),
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(cause) => Err(Error::new(Kind::Store, failed()).with("cause", cause)),
    }
}

/// Reads a file for the binary of this record.
///
/// # Errors
/// [`Kind::Verify`] if it is anything but a whole file of this kind, version and record.
pub fn read(input: OwnedFd, shown: &Path, record: Record) -> Result<Content> {
    let wrong = |what: &str| {
        Error::new(Kind::Verify, format!("{} {what}", shown.display())).with("state", "nothing was changed")
    };
    let mut bytes = Vec::new();
    File::from(input)
        .take(SIZE_LIMIT + 1)
        .read_to_end(&mut bytes)
        .context(Kind::Refused, format!("cannot read {}", shown.display()))
        .map_err(|error| error.with("state", "nothing was changed"))?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(wrong("is too large for a file of deleted rows"));
    }
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|cause| wrong("is damaged or no JSON").with("cause", cause))?;
    if value.get("format").and_then(|format| format.as_str()) != Some(FORMAT) {
        return Err(wrong("is not a file of deleted rows")
            .hint("Name one that a deletion wrote: they lie in the state directory under deleted/."));
    }
    let version = value.get("version").cloned().unwrap_or_default();
    if version.as_u64() != Some(VERSION) {
        return Err(wrong(&format!("has format version {version}; this program reads version {VERSION}"))
            .hint("Use the version of Glovebox that wrote it."));
    }
    let document: Document = serde_json::from_value(value).map_err(|cause| wrong("is damaged").with("cause", cause))?;
    let content = document.content;
    if digest(&content)? != document.sha256 {
        return Err(wrong("is damaged: its content does not have the checksum that it was written with"));
    }
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
