//! The files of a snapshot, as a restore needs them.
//!
//! Everything that is read was compared with the id that names it, blob by blob: a reader gives what was stored, or
//! fails; it never gives other bytes. Memory: one blob for each reader, 4 MiB in repositories that we made.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use rustic_core::FileType;

use super::Handle;
use super::id::{Id, path_of};
use super::snapshots::{self, Snapshot};
use super::tree::{self, Leaf};
use super::vault::{Index, Place, Vault};
use crate::error::{Context, Error, Kind, Result};

/// A file in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its path, with `/` between components.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
}

/// A snapshot, opened for reading. May be used by several threads.
pub struct Contents {
    vault: Arc<Vault>,
    snapshot: Snapshot,
    files: BTreeMap<String, Leaf>,
    /// Every pack that is needed, with the size that the index says.
    packs: BTreeMap<Id, u64>,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Contents").field("snapshot", &self.snapshot.id).finish_non_exhaustive()
    }
}

/// Opens a published backup.
///
/// # Errors
/// [`Kind::Verify`] if the snapshot, an index or a list of files is missing or damaged; [`Kind::Refused`] if it is not
/// a published backup.
pub fn open(handle: &Handle, id: Id) -> Result<Contents> {
    snapshots::get(handle, id)?;
    open_any(handle, id)
}

/// The same for one that need not be published.
pub(super) fn open_any(handle: &Handle, id: Id) -> Result<Contents> {
    let file = handle.vault.snapshot(id)?;
    let snapshot = snapshots::describe(id, &file)?;
    let index = handle.vault.index()?;
    let forest =
        tree::walk(&handle.vault, &index, Id::from(&*file.tree)).map_err(|error| error.with("snapshot", id.short()))?;
    let packs = needed_packs(&index, forest.files.values().flat_map(|leaf| &leaf.content).chain(&forest.trees));
    Ok(Contents { vault: Arc::clone(&handle.vault), snapshot, files: forest.files, packs })
}

pub(super) fn needed_packs<'a>(index: &Index, places: impl Iterator<Item = &'a Place>) -> BTreeMap<Id, u64> {
    places.map(|place| (place.pack, index.packs.get(&place.pack).map_or(0, |pack| u64::from(pack.size)))).collect()
}

impl Contents {
    /// What a list shows of it.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Its files, by path.
    pub fn files(&self) -> impl Iterator<Item = FileInfo> + '_ {
        self.files.iter().map(|(path, leaf)| FileInfo { path: path.clone(), size: leaf.size, mode: leaf.mode })
    }

    /// Whether every part of its files is in an index.
    #[must_use]
    pub fn is_indexed(&self) -> bool {
        self.files.values().all(|leaf| leaf.missing.is_empty())
    }

    /// The packs that it needs.
    pub fn packs(&self) -> impl Iterator<Item = Id> + '_ {
        self.packs.keys().copied()
    }

    /// Makes sure, without reading content, that all of it can be there: every blob is in an index, every file has
    /// the size that it should have, and every pack lies there with the size that the index says.
    ///
    /// # Errors
    /// [`Kind::Verify`] naming the first file or pack that is not so, and how many more.
    pub fn blobs_present(&self) -> Result<()> {
        let mut faults = Vec::new();
        for (path, leaf) in &self.files {
            if let Err(error) = whole(path, leaf) {
                faults.push(format!("{}: {}", error.message(), error.detail("cause").unwrap_or_default()));
            }
        }
        let present = self.vault.list(FileType::Pack)?;
        for (id, size) in &self.packs {
            let path = path_of(FileType::Pack, *id);
            match present.get(id) {
                None => faults.push(format!("{path} is missing")),
                Some(found) if found != size => faults.push(format!("{path} has {found} bytes instead of {size}")),
                Some(_) => {}
            }
        }
        let Some(first) = faults.first() else { return Ok(()) };
        let id = self.snapshot.id.short();
        Err(Error::new(Kind::Verify, format!("the backup {id} is not whole"))
            .with("cause", first)
            .with("more", if faults.len() > 1 { format!("{} more", faults.len() - 1) } else { String::new() })
            .hint("Look at the whole repository with `teslamate-backup check --read-data`."))
    }

    /// A reader of one file.
    ///
    /// # Errors
    /// [`Kind::Refused`] if there is no such file, [`Kind::Verify`] if the index does not know all of it.
    pub fn reader(&self, path: &str) -> Result<FileReader> {
        let leaf = self.files.get(path).ok_or_else(|| {
            Error::new(Kind::Refused, format!("the backup {} has no file {path}", self.snapshot.id.short()))
        })?;
        whole(path, leaf)?;
        Ok(FileReader {
            vault: Arc::clone(&self.vault),
            path: path.to_owned(),
            rest: leaf.content.iter().copied().collect(),
            blob: Vec::new(),
            position: 0,
        })
    }

    /// A copy of a file, in one without a name in this directory, at its begin. It may be long.
    ///
    /// # Errors
    /// As [`Contents::reader`]; [`Kind::Store`] if the copy cannot be written.
    pub fn extract(&self, path: &str, directory: &Path) -> Result<File> {
        let failed = || format!("cannot write a temporary file in {}", directory.display());
        let mut file = tempfile::tempfile_in(directory).context(Kind::Store, failed())?;
        let mut reader = self.reader(path)?;
        while let Some(blob) = reader.next_blob()? {
            file.write_all(&blob).context(Kind::Store, failed())?;
        }
        file.rewind().context(Kind::Store, failed())?;
        Ok(file)
    }

    /// A small file, whole.
    ///
    /// # Errors
    /// As [`Contents::reader`], and [`Kind::Verify`] if it has more than `limit` bytes.
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let mut reader = self.reader(path)?;
        let size = self.files.get(path).map_or(0, |leaf| leaf.size);
        if size > limit {
            return Err(Error::new(Kind::Verify, format!("{path} has {size} bytes, more than {limit}")));
        }
        let mut bytes = Vec::new();
        while let Some(blob) = reader.next_blob()? {
            bytes.extend_from_slice(&blob);
        }
        Ok(bytes)
    }
}

fn whole(path: &str, leaf: &Leaf) -> Result<()> {
    let cause = match leaf.missing.first() {
        Some(blob) => format!("its blob {} is in no index", blob.short()),
        None if leaf.content_size() != leaf.size => {
            format!("{} of its {} bytes are there", leaf.content_size(), leaf.size)
        }
        None => return Ok(()),
    };
    Err(Error::new(Kind::Verify, format!("{path} is not whole in the repository")).with("cause", cause))
}

/// Reads one file, blob by blob. As [`Read`] it carries our [`Error`] inside of the I/O error.
pub struct FileReader {
    vault: Arc<Vault>,
    path: String,
    rest: VecDeque<Place>,
    blob: Vec<u8>,
    position: usize,
}

impl std::fmt::Debug for FileReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FileReader").field("path", &self.path).finish_non_exhaustive()
    }
}

impl FileReader {
    /// The next part of the file, 4 MiB at most in repositories that we made; nothing at its end.
    ///
    /// # Errors
    /// [`Kind::Verify`] if what lies there is not what was stored, [`Kind::Store`] if it cannot be read.
    pub fn next_blob(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(place) = self.rest.pop_front() else { return Ok(None) };
        self.vault.blob(&place).map(Some).map_err(|error| error.with("while", format!("reading {}", self.path)))
    }
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.position == self.blob.len() {
            match self.next_blob() {
                Ok(Some(blob)) => (self.blob, self.position) = (blob, 0),
                Ok(None) => return Ok(0),
                Err(error) => {
                    // A reader that failed once never goes on behind the gap.
                    self.rest.clear();
                    return Err(std::io::Error::other(error));
                }
            }
        }
        let count = self.blob.get(self.position..).unwrap_or_default().read(buffer)?;
        self.position += count;
        Ok(count)
    }
}
