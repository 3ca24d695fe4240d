//! What is given to be stored: entries, one after the other, each with its exact size.
//!
//! The storage library leaves out an item whose reading fails and saves the rest as a backup. So every failure is
//! kept here, in a journal that fails the run, and everything that is read is counted and hashed on its way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use rustic_core::jiff::{Span, Timestamp};
use rustic_core::repofile::{Metadata, Node, NodeType};
use rustic_core::{ErrorKind, ReadSource, ReadSourceEntry, ReadSourceOpen, RusticError, RusticResult};
use sha2::{Digest as _, Sha256};
use twox_hash::xxhash3_128::Hasher;

use super::id::Id;
use super::store::Journal;
use super::tree::{Leaf, components};
use crate::error::{Error, Kind, Result};

/// One file to be stored.
#[derive(Debug)]
pub struct Entry {
    /// Relative, with `/` between components, none of which is empty, `.` or `..`. Entries come in the order of
    /// their components' bytes; directories are made for them.
    pub path: String,
    /// Permission bits, as in 0o600.
    pub mode: u32,
    /// The time of last change. Moved by a nanosecond where it would be the parent's: see [`Body::Reused`], whose
    /// own time is the parent's in any case.
    pub mtime: DateTime<Utc>,
    /// Whose it is, where that matters.
    pub owner: Option<Owner>,
    /// Its content.
    pub body: Body,
}

/// Whose a file is.
#[derive(Clone, Debug, Default)]
pub struct Owner {
    /// By number.
    pub uid: u32,
    /// Its group, by number.
    pub gid: u32,
    /// By name.
    pub user: Option<String>,
    /// Its group, by name.
    pub group: Option<String>,
}

/// The content of an [`Entry`].
#[derive(Debug)]
pub enum Body {
    /// In memory.
    Bytes(Vec<u8>),
    /// In a file, from its present position.
    File {
        /// Open for reading.
        file: File,
        /// Bytes from here to its end.
        size: u64,
    },
    /// As in the parent snapshot, at the same path: not read at all. The run fails if the parent has no such file
    /// of this size, or not all of its content.
    Reused {
        /// Bytes.
        size: u64,
    },
}

/// Entries in order. The first `Err` fails the run with that very error.
pub trait Feed: Iterator<Item = Result<Entry>> + Send + 'static {}

impl<T: Iterator<Item = Result<Entry>> + Send + 'static> Feed for T {}

/// What was fed under a path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fed {
    pub(super) size: u64,
    pub(super) fresh: bool,
    /// Of what was read, once all of it was.
    pub(super) digest: Option<Digest>,
}

/// Hashes of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest {
    /// The SHA-256: the id of the blob, if the file is stored as one.
    pub(super) id: Id,
    /// XXH3 of 128 bits, to be compared with what is read back. A blob carries a code that nobody without the key can
    /// forge, so this has only mistakes to find, and costs a tenth.
    pub(super) quick: u128,
}

/// What a run has fed so far.
pub(super) type Intake = Arc<Mutex<BTreeMap<String, Fed>>>;

/// A feed as the storage library wants it.
pub(super) struct Source {
    tap: Mutex<Option<Tap>>,
}

impl Source {
    pub(super) fn new(
        feed: impl Feed,
        parent: BTreeMap<String, Leaf>,
        journal: &Arc<Journal>,
        intake: &Intake,
    ) -> Self {
        let tap = Tap {
            feed: Box::new(feed),
            parent,
            journal: Arc::clone(journal),
            intake: Arc::clone(intake),
            previous: None,
        };
        Self { tap: Mutex::new(Some(tap)) }
    }
}

impl ReadSource for Source {
    type Open = Opener;
    type Iter = Tap;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Tap {
        // Asked for once. A second time there is nothing left, which the comparison with the tree would notice.
        self.tap.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(|| Tap {
            feed: Box::new(std::iter::empty()),
            parent: BTreeMap::new(),
            journal: Arc::default(),
            intake: Intake::default(),
            previous: None,
        })
    }
}

/// The feed's entries on their way to the library.
pub(super) struct Tap {
    feed: Box<dyn Iterator<Item = Result<Entry>> + Send>,
    parent: BTreeMap<String, Leaf>,
    journal: Arc<Journal>,
    intake: Intake,
    previous: Option<String>,
}

impl Iterator for Tap {
    type Item = RusticResult<ReadSourceEntry<Opener>>;

    fn next(&mut self) -> Option<Self::Item> {
        // After a failure nothing more is read: the run has no use for it.
        if self.journal.failed() {
            return None;
        }
        // A panic of the feed would leave the library's threads waiting for each other.
        let next = catch_unwind(AssertUnwindSafe(|| self.feed.next()));
        let next = next.unwrap_or_else(|_| Some(Err(Error::new(Kind::Source, "what gives the files gave up"))));
        match next?.and_then(|entry| self.accept(entry)) {
            Ok(entry) => Some(Ok(entry)),
            Err(error) => {
                self.journal.fail(error);
                None
            }
        }
    }
}

impl Tap {
    fn accept(&mut self, entry: Entry) -> Result<ReadSourceEntry<Opener>> {
        let Entry { path, mode, mtime, owner, body } = entry;
        self.require_order(&path)?;
        let size = match &body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File { size, .. } | Body::Reused { size } => *size,
        };
        let mtime = self.time(&path, size, mtime, &body)?;
        let fresh = !matches!(body, Body::Reused { .. });
        self.intake
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path.clone(), Fed { size, fresh, digest: None });
        let name = path.rsplit('/').next().unwrap_or_default();
        let mut meta = Metadata { mode: Some(mode & 0o7777), mtime: Some(mtime), size, ..Metadata::default() };
        if let Some(Owner { uid, gid, user, group }) = owner {
            (meta.uid, meta.gid, meta.user, meta.group) = (Some(uid), Some(gid), user, group);
        }
        let node = Node::new_node(name.as_ref(), NodeType::File, meta);
        let open = Opener {
            path: path.clone(),
            size,
            body,
            journal: Arc::clone(&self.journal),
            intake: Arc::clone(&self.intake),
        };
        self.previous = Some(path.clone());
        Ok(ReadSourceEntry { path: PathBuf::from(path), node, open: Some(open) })
    }

    /// The library looks its parent's entries up with a cursor that only moves forward.
    fn require_order(&self, path: &str) -> Result<()> {
        let wrong = |why: &str| {
            Error::new(Kind::Store, format!("cannot store a file as `{}`", path.escape_debug())).with("cause", why)
        };
        let parts = components(path).ok_or_else(|| wrong("not a plain relative path"))?;
        let Some(previous) = self.previous.as_deref().and_then(components) else { return Ok(()) };
        if parts <= previous {
            return Err(wrong("it comes out of order, or twice"));
        }
        if parts.starts_with(&previous) {
            return Err(wrong("there is a file where its directory would be"));
        }
        Ok(())
    }

    /// The library takes an entry for unchanged, and does not read it, if path, size and time are the parent's: true
    /// of every reused entry, and never of another.
    fn time(&self, path: &str, size: u64, mtime: DateTime<Utc>, body: &Body) -> Result<Timestamp> {
        let parent = self.parent.get(path);
        if !matches!(body, Body::Reused { .. }) {
            let nanoseconds = i32::try_from(mtime.timestamp_subsec_nanos().min(999_999_999)).unwrap_or(0);
            let time = Timestamp::new(mtime.timestamp(), nanoseconds).map_err(|error| {
                Error::new(Kind::Store, format!("{path} has an impossible time")).with("cause", error)
            })?;
            let taken = parent.is_some_and(|parent| parent.mtime == Some(time));
            return Ok(if taken { time.saturating_add(Span::new().nanoseconds(1)).unwrap_or(time) } else { time });
        }
        let cannot = |why: String| {
            Error::new(Kind::Verify, format!("{path} cannot be reused from the parent snapshot"))
                .with("cause", why)
                .with("state", "no backup was saved")
                .hint("Take the backup again and read everything: `teslamate-backup --full-read`.")
        };
        let parent = parent.ok_or_else(|| cannot("it is not there".to_owned()))?;
        if parent.size != size || (parent.missing.is_empty() && parent.content_size() != size) {
            return Err(cannot(format!("it has {} bytes there, not {size}", parent.size)));
        }
        if !parent.missing.is_empty() {
            return Err(cannot(format!("{} of its blobs are in no index", parent.missing.len())));
        }
        parent.mtime.ok_or_else(|| cannot("it has no time there".to_owned()))
    }
}

/// Opens an entry for the library.
pub(super) struct Opener {
    path: String,
    size: u64,
    body: Body,
    journal: Arc<Journal>,
    intake: Intake,
}

impl ReadSourceOpen for Opener {
    type Reader = Counted;

    fn open(self) -> RusticResult<Counted> {
        let Self { path, size, body, journal, intake } = self;
        let inner: Box<dyn Read + Send> = match body {
            Body::Bytes(bytes) => Box::new(Cursor::new(bytes)),
            Body::File { file, .. } => Box::new(file),
            Body::Reused { .. } => {
                let message = format!("{path} was to be reused from the parent snapshot, which does not have it whole");
                journal.fail(Error::new(Kind::Verify, message.clone()).with("state", "no backup was saved"));
                return Err(RusticError::new(ErrorKind::Verification, message));
            }
        };
        Ok(Counted { inner, path, size, read: 0, hash: Sha256::new(), quick: Hasher::new(), journal, intake })
    }
}

/// Counts and hashes what the library reads.
pub(super) struct Counted {
    inner: Box<dyn Read + Send>,
    path: String,
    size: u64,
    read: u64,
    hash: Sha256,
    quick: Hasher,
    journal: Arc<Journal>,
    intake: Intake,
}

impl Counted {
    fn fail(&self, why: String) -> std::io::Error {
        let Self { path, .. } = self;
        let error = Error::new(Kind::Source, format!("reading {path} failed")).with("cause", &why);
        self.journal.fail(error.with("state", "no backup was saved"));
        std::io::Error::other(why)
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                done => break done,
            }
        };
        let count = match count {
            Err(error) => return Err(self.fail(error.to_string())),
            Ok(count) => count,
        };
        self.read += count as u64;
        if self.read > self.size {
            return Err(self.fail(format!("it has more than the {} bytes that it should have", self.size)));
        }
        if count > 0 {
            let bytes = buffer.get(..count).unwrap_or_default();
            self.hash.update(bytes);
            self.quick.write(bytes);
        } else if !buffer.is_empty() {
            if self.read < self.size {
                return Err(self.fail(format!("it ended after {} of {} bytes", self.read, self.size)));
            }
            let id = Id::from(<[u8; 32]>::from(std::mem::take(&mut self.hash).finalize()));
            let digest = Digest { id, quick: self.quick.finish_128() };
            let mut intake = self.intake.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(fed) = intake.get_mut(&self.path)
                && fed.digest.is_none()
            {
                fed.digest = Some(digest);
            }
        }
        Ok(count)
    }
}
