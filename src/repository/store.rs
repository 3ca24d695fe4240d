//! The files of the repository, between the storage library and its backend.
//!
//! Adds what the backend leaves out: a listing that fails instead of being short, directories synced after a file
//! was put in, the true cause of the first failed write, and the names of all files that a run wrote. While a run
//! has failed, no snapshot is saved. A run that removes files has [`Rules`].
//!
//! Behind a network the last three are all there is to add: `remote` lists strictly, and has no directories to sync.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustic_core::{BytesList, ErrorKind, FileType, ReadBackend, RusticError, RusticResult, WriteBackend};

use super::id::{Id, path_of};
use super::location::Location;
use super::remote::{Files, Remote};
use super::{guard, making};
use crate::error::{Error, Kind, Result};

/// Whether the run with this journal may remove this file now.
pub(super) type Judge = dyn Fn(&Journal, FileType, Id) -> Result<()> + Send + Sync;

/// What the library may see and do in a run that removes files.
pub(super) struct Rules {
    /// Packs that are none of its business: it does not see them.
    pub(super) hidden: BTreeSet<Id>,
    /// Asked before each removal, by several threads.
    pub(super) judge: Box<Judge>,
}

/// What a run has done so far.
#[derive(Default)]
pub(super) struct Journal {
    failure: Mutex<Option<Error>>,
    written: Mutex<Written>,
    rules: OnceLock<Rules>,
}

/// The files that a run wrote.
#[derive(Clone, Default)]
pub(super) struct Written {
    /// Packs and their sizes in bytes.
    pub(super) packs: BTreeMap<Id, u64>,
    /// Indexes, in order.
    pub(super) indexes: Vec<Id>,
    /// Snapshots, in order.
    pub(super) snapshots: Vec<Id>,
    /// Keys, in order.
    pub(super) keys: Vec<Id>,
}

impl Journal {
    /// Keeps the first cause; all later ones follow from it.
    pub(super) fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    pub(super) fn failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn take_failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// To be called once, before the run.
    pub(super) fn set_rules(&self, rules: Rules) {
        // A second set would be a mistake in the code: the first one stays.
        let _ = self.rules.set(rules);
    }

    pub(super) fn written(&self) -> Written {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where the files lie.
#[derive(Clone)]
pub(super) enum Place {
    /// In this directory.
    Directory(PathBuf),
    /// Behind a network.
    Remote(Arc<dyn Remote>),
}

/// A backend that keeps a [`Journal`].
#[derive(Clone)]
pub(super) struct Store {
    inner: Arc<dyn WriteBackend>,
    pub(super) place: Place,
    journal: Arc<Journal>,
}

impl Store {
    pub(super) fn new(inner: Arc<dyn WriteBackend>, root: &Path) -> Self {
        Self { inner, place: Place::Directory(root.to_path_buf()), journal: Arc::default() }
    }

    /// Over a place that is no directory.
    pub(super) fn over(remote: Arc<dyn Remote>, location: &Location) -> Self {
        let inner = Arc::new(Files::new(Arc::clone(&remote), location));
        Self { inner, place: Place::Remote(remote), journal: Arc::default() }
    }

    /// Whether a failure may be the network's: it says nothing of what is there then.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self.place, Place::Remote(_))
    }

    /// The same files with a journal of its own.
    pub(super) fn with_journal(&self, journal: &Arc<Journal>) -> Self {
        Self { journal: Arc::clone(journal), ..self.clone() }
    }

    /// `config` is only ever written by who makes the repository: its key is the only one then.
    fn refuse_unless_alone(&self) -> RusticResult<()> {
        let keys = self.inner.list_with_size(FileType::Key)?;
        let own = self.journal.written().keys;
        let is_alone = keys.len() == own.len() && keys.iter().all(|(id, _)| own.contains(&Id::from(id)));
        if is_alone && self.inner.list_with_size(FileType::Config)?.is_empty() {
            return Ok(());
        }
        let error = making::in_use("another run is making a repository in the same place");
        let text = error.message().to_owned();
        self.journal.fail(error);
        Err(RusticError::new(ErrorKind::Backend, text))
    }

    fn sync_parent(&self, kind: FileType, id: Id) -> std::io::Result<()> {
        let Place::Directory(root) = &self.place else { return Ok(()) };
        let path = root.join(path_of(kind, id));
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Store").field("location", &self.inner.location()).finish_non_exhaustive()
    }
}

impl ReadBackend for Store {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(rustic_core::Id, u32)>> {
        if kind == FileType::Config {
            return self.inner.list_with_size(kind);
        }
        let mut found = Vec::new();
        if let Place::Directory(root) = &self.place {
            let directory = root.join(kind.dirname());
            list(&directory, kind == FileType::Pack, &mut found).map_err(|cause| {
                RusticError::with_source(ErrorKind::Backend, "cannot list {path}", cause)
                    .attach_context("path", directory.display().to_string())
            })?;
        } else {
            found = self.inner.list_with_size(kind)?;
        }
        if let Some(rules) = self.journal.rules.get().filter(|_| kind == FileType::Pack) {
            found.retain(|(id, _)| !rules.hidden.contains(&Id::from(id)));
        }
        Ok(found)
    }

    fn read_full(&self, kind: FileType, id: &rustic_core::Id) -> RusticResult<bytes::Bytes> {
        self.inner.read_full(kind, id)
    }

    fn read_partial(
        &self,
        kind: FileType,
        id: &rustic_core::Id,
        cacheable: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<bytes::Bytes> {
        self.inner.read_partial(kind, id, cacheable, offset, length)
    }

    fn warmup_path(&self, kind: FileType, id: &rustic_core::Id) -> String {
        self.inner.warmup_path(kind, id)
    }
}

/// Every file below with an id for a name. Other names, such as temporary files, are passed over.
fn list(directory: &Path, deeper: bool, found: &mut Vec<(rustic_core::Id, u32)>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if deeper {
                list(&entry.path(), false, found)?;
            }
            continue;
        }
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<Id>().ok()) else { continue };
        let size = match entry.metadata() {
            // It went while the list was made: a pending snapshot whose backup was published.
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => continue,
            metadata => metadata?.len(),
        };
        // A file that no repository can hold is damaged: it must be seen, not left out.
        found.push((id.rustic(), u32::try_from(size).unwrap_or(u32::MAX)));
    }
    Ok(())
}

impl WriteBackend for Store {
    fn create(&self) -> RusticResult<()> {
        self.inner.create()
    }

    fn write_bytes(
        &self,
        kind: FileType,
        id: &rustic_core::Id,
        cacheable: bool,
        content: BytesList,
    ) -> RusticResult<()> {
        // Over a network each further write would wait for an answer that does not come.
        if (kind == FileType::Snapshot || self.is_remote()) && self.journal.failed() {
            return Err(RusticError::new(ErrorKind::Backend, "the run has failed: its snapshot is not saved"));
        }
        if kind == FileType::Config {
            self.refuse_unless_alone()?;
        }
        let (own, size) = (Id::from(id), content.size() as u64);
        let what = format!("writing {}", path_of(kind, own));
        let result = self.inner.write_bytes(kind, id, cacheable, content);
        let result = result.and_then(|()| {
            // The backend syncs the file and renames it: the new name is durable only with its directory.
            self.sync_parent(kind, own).map_err(|cause| {
                RusticError::with_source(ErrorKind::Backend, "cannot sync the directory of {path}", cause)
                    .attach_context("path", path_of(kind, own))
            })
        });
        if let Err(error) = &result {
            self.journal.fail(guard::convert(&what, Kind::Store, error));
        } else {
            let mut written = self.journal.written.lock().unwrap_or_else(PoisonError::into_inner);
            match kind {
                FileType::Pack => _ = written.packs.insert(own, size),
                FileType::Index => written.indexes.push(own),
                FileType::Snapshot => written.snapshots.push(own),
                FileType::Key => written.keys.push(own),
                FileType::Config => {}
            }
        }
        result
    }

    fn remove(&self, kind: FileType, id: &rustic_core::Id, cacheable: bool) -> RusticResult<()> {
        let own = Id::from(id);
        if let Some(rules) = self.journal.rules.get()
            && let Err(error) = (rules.judge)(&self.journal, kind, own)
        {
            let text = error.message().to_owned();
            self.journal.fail(error);
            return Err(RusticError::new(ErrorKind::Backend, text));
        }
        self.inner.remove(kind, id, cacheable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::testing::Fixture;

    #[test]
    fn a_failed_run_saves_no_snapshot_but_a_good_one_does() {
        let fixture = Fixture::new();
        let journal = Arc::<Journal>::default();
        let store = fixture.open().vault.store.with_journal(&journal);
        let write = |content: &str| {
            let id = Id::of(content.as_bytes()).rustic();
            store.write_bytes(FileType::Snapshot, &id, false, content.as_bytes().to_vec().into())
        };
        assert!(write("good").is_ok());
        journal.fail(Error::new(Kind::Source, "the first"));
        assert!(write("bad").is_err());
        journal.fail(Error::new(Kind::Store, "the second"));
        assert_eq!(journal.take_failure().unwrap().message(), "the first");
        assert_eq!(journal.written().snapshots, [Id::of(b"good")]);
    }
}
