//! Stores a feed as a snapshot, and makes sure that it is what was fed.
//!
//! The recipe: [`archive`] saves it under the tag `pending` and compares the finished tree with what was fed;
//! [`read_back`] reads the new files again and compares their hashes; [`super::snapshots::publish`] makes it a
//! backup. Whoever lists backups sees none of it before that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, Utc};
use rustic_core::jiff::{Timestamp, tz::TimeZone};
use rustic_core::repofile::SnapshotFile;
use rustic_core::{BackupOptions, ParentOptions, SnapshotOptions};
use twox_hash::xxhash3_128::Hasher;

use super::feed::{Digest, Fed, Feed, Intake, Source};
use super::id::Id;
use super::snapshots::{self, PENDING, PROGRAM};
use super::store::Journal;
use super::tree::{self, Forest, Leaf};
use super::vault::Place;
use super::{Handle, guard};
use crate::error::{Error, Kind, Result};
use crate::progress::Meter;

/// What was read: for each path the hash of what was fed, and where it was stored.
type Fresh = BTreeMap<String, (Digest, Vec<Place>)>;

/// How a snapshot is to be saved.
#[derive(Clone, Debug)]
pub struct Request {
    /// The snapshot that [`super::feed::Body::Reused`] entries are taken from; without one everything is read.
    pub parent: Option<Id>,
    /// Tags beside our own. A tag has no comma.
    pub tags: Vec<String>,
    /// The machine's name.
    pub host: String,
    /// One word for lists.
    pub label: String,
    /// A sentence for people.
    pub description: Option<String>,
    /// The time of the backup.
    pub time: DateTime<Utc>,
}

/// A snapshot that is saved but not published.
#[derive(Debug)]
pub struct Archived {
    /// The pending snapshot.
    pub pending: Id,
    /// Files in it.
    pub files: u64,
    /// Bytes of content in it.
    pub bytes: u64,
    /// Files that were read, not reused.
    pub files_read: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Bytes that were new to the repository, before compression.
    pub bytes_added: u64,
    /// Bytes of the packs that were written.
    pub bytes_stored: u64,
    /// The packs that this run wrote.
    pub packs_written: BTreeSet<Id>,
    /// The older packs that this snapshot needs too.
    pub packs_leaned_on: BTreeSet<Id>,
    pub(super) snapshot: SnapshotFile,
    fresh: Fresh,
}

/// Stores everything that `feed` gives, in its order, as a pending snapshot.
///
/// # Errors
/// The first thing that went wrong, with its own kind: an `Err` of the feed as it is; [`Kind::Source`] for a reader
/// that fails or has another size; [`Kind::Store`] for a write that fails; [`Kind::Verify`] for an entry that cannot
/// be reused, and for a finished tree that is not what was fed. No snapshot is left then.
pub fn archive(handle: &Handle, feed: impl Feed, request: &Request) -> Result<Archived> {
    let parent = match request.parent {
        None => BTreeMap::new(),
        Some(id) => {
            let index = handle.vault.index()?;
            let snapshot = handle.vault.snapshot(id).map_err(|error| error.with("while", "reading the parent"))?;
            tree::walk(&handle.vault, &index, Id::from(&*snapshot.tree))?.files
        }
    };
    let (journal, intake) = (Arc::<Journal>::default(), Intake::default());
    let source = Source::new(feed, parent, &journal, &intake);
    let saved = save(handle, &source, request, &journal);
    // The feed may own readers of a database: they end before anything else is looked at.
    drop(source);
    let result = match (journal.take_failure(), saved) {
        (Some(first), _) => Err(first),
        (None, Err(error)) => Err(error),
        (None, Ok(snapshot)) => finish(handle, &snapshot, request, &journal, &intake),
    };
    result.map_err(|error| undo(handle, &journal, error))
}

fn save(handle: &Handle, source: &Source, request: &Request, journal: &Arc<Journal>) -> Result<SnapshotFile> {
    let library = handle.library(journal)?;
    let library = guard::run("reading the index", Kind::Store, || library.to_indexed_ids())?;
    let mut options = BackupOptions::default();
    options.no_scan = true;
    // Never a parent of the library's own choice: it would take the newest of this host, and reuse from it.
    options.parent_opts = match request.parent {
        Some(id) => ParentOptions::default().parents(vec![id.to_string()]).ignore_ctime(true),
        None => ParentOptions::default().force(true),
    };
    guard::run("storing", Kind::Store, || {
        let mut snapshot = snapshot_options(request)?.to_snapshot()?;
        PROGRAM.clone_into(&mut snapshot.program_version);
        library.archive(&options, source, snapshot, &[PathBuf::from("/")])
    })
}

fn snapshot_options(request: &Request) -> rustic_core::RusticResult<SnapshotOptions> {
    let nanoseconds = i32::try_from(request.time.timestamp_subsec_nanos().min(999_999_999)).unwrap_or(0);
    let time = Timestamp::new(request.time.timestamp(), nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut options = SnapshotOptions::default();
    options.host = Some(request.host.clone());
    options.label = Some(request.label.clone());
    options.description.clone_from(&request.description);
    options.time = Some(time.to_zoned(TimeZone::UTC));
    // By default the whole command line would be kept in the snapshot.
    options.command = Some(PROGRAM.to_owned());
    request.tags.iter().map(String::as_str).chain([PENDING]).try_fold(options, SnapshotOptions::add_tags)
}

fn finish(
    handle: &Handle,
    snapshot: &SnapshotFile,
    request: &Request,
    journal: &Journal,
    intake: &Intake,
) -> Result<Archived> {
    let written = journal.written();
    let pending = match written.snapshots.as_slice() {
        [one] => *one,
        other => {
            return Err(Error::new(Kind::Store, format!("storing saved {} snapshots instead of one", other.len())));
        }
    };
    if snapshot.parent.map(|id| Id::from(&*id)) != request.parent {
        return Err(Error::new(Kind::Store, "the storage library took another parent than it was told"));
    }
    let index = handle.vault.index()?;
    let stored = handle.vault.snapshot(pending)?;
    let forest = tree::walk(&handle.vault, &index, Id::from(&*stored.tree))?;
    let fed = std::mem::take(&mut *intake.lock().unwrap_or_else(PoisonError::into_inner));
    let fresh = compare(&fed, &forest)?;
    let sum = |wanted: &dyn Fn(&Fed) -> bool| fed.values().filter(|fed| wanted(fed)).map(|fed| fed.size).sum();
    let needed: BTreeSet<Id> =
        forest.files.values().flat_map(|leaf| &leaf.content).chain(&forest.trees).map(|place| place.pack).collect();
    let packs_written: BTreeSet<Id> = written.packs.keys().copied().collect();
    Ok(Archived {
        pending,
        files: fed.len() as u64,
        bytes: sum(&|_| true),
        files_read: fed.values().filter(|fed| fed.fresh).count() as u64,
        bytes_read: sum(&|fed| fed.fresh),
        bytes_added: snapshot.summary.as_ref().map_or(0, |summary| summary.data_added),
        bytes_stored: written.packs.values().sum(),
        packs_leaned_on: needed.difference(&packs_written).copied().collect(),
        packs_written,
        snapshot: stored,
        fresh,
    })
}

/// Compares, entry by entry, what is stored with what was fed.
fn compare(fed: &BTreeMap<String, Fed>, forest: &Forest) -> Result<Fresh> {
    let wrong = |path: &str, why: String| {
        Err(Error::new(Kind::Verify, format!("{path} was not stored as it was read"))
            .with("cause", why)
            .with("state", "no backup was saved"))
    };
    if let Some(path) = forest.files.keys().find(|path| !fed.contains_key(*path)) {
        return wrong(path, "it is stored, but was not given".to_owned());
    }
    let mut fresh = Fresh::new();
    for (path, fed) in fed {
        let Some(leaf) = forest.files.get(path) else { return wrong(path, "it is not there".to_owned()) };
        if !leaf.missing.is_empty() {
            return wrong(path, format!("{} of its blobs are in no index", leaf.missing.len()));
        }
        if leaf.size != fed.size || leaf.content_size() != fed.size {
            return wrong(path, format!("{} of {} bytes are there", leaf.content_size(), fed.size));
        }
        match (fed.fresh, fed.digest, leaf.content.as_slice()) {
            (false, ..) => {}
            (true, None, _) => return wrong(path, "it was not read to its end".to_owned()),
            (true, Some(digest), [whole]) if whole.blob != digest.id => {
                return wrong(path, format!("its blob is {} instead of {}", whole.blob.short(), digest.id.short()));
            }
            (true, Some(digest), _) => _ = fresh.insert(path.clone(), (digest, leaf.content.clone())),
        }
    }
    Ok(fresh)
}

/// Those of these paths that hold something else than in `other`, a published backup, or are not in it at all.
///
/// # Errors
/// [`Kind::Verify`] if a list of files is missing or damaged.
pub fn differing(handle: &Handle, archived: &Archived, other: Id, paths: &[String]) -> Result<Vec<String>> {
    let index = handle.vault.index()?;
    let forest = |root| tree::walk(&handle.vault, &index, root);
    let here = forest(Id::from(&*archived.snapshot.tree))?.files;
    let there = forest(Id::from(&*handle.vault.snapshot(other)?.tree))?.files;
    // The same bytes are always cut in the same places, so their blobs are the same.
    let blobs = |files: &BTreeMap<String, Leaf>, path: &String| {
        files.get(path).map(|leaf| leaf.content.iter().map(|place| place.blob).collect::<Vec<_>>())
    };
    Ok(paths.iter().filter(|path| blobs(&here, path) != blobs(&there, path)).cloned().collect())
}

/// Takes the pending snapshot away again.
fn undo(handle: &Handle, journal: &Journal, error: Error) -> Error {
    let error = error.or_state("no backup was saved");
    journal.written().snapshots.into_iter().fold(error, |error, id| match snapshots::remove(handle, id) {
        Ok(()) => error,
        Err(second) => error.with("left", format!("the unlisted snapshot {}: {}", id.short(), second.message())),
    })
}

/// Reads every file that was stored afresh once more, on as many threads as there are CPUs, and compares its hash with
/// that of what was fed.
///
/// Adds the bytes that it read to `meter`. The caller decides what becomes of the pending snapshot:
/// [`super::snapshots::discard`].
///
/// # Errors
/// [`Kind::Verify`] naming the file of the snapshot, and the pack where there is one to blame.
pub fn read_back(handle: &Handle, archived: &Archived, meter: &Meter) -> Result<()> {
    let files: Vec<_> = archived.fresh.iter().collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((path, (digest, content))) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = read_back_file(handle, path, *digest, content, meter) {
                // The others need not go on.
                next.store(files.len(), Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    };
    // More of them would hold more blobs in memory, and wait for the disk.
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(4);
    std::thread::scope(|scope| {
        let started: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let gave_up = || Error::new(Kind::Verify, "reading back gave up");
        started.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(gave_up())))
    })
}

fn read_back_file(handle: &Handle, path: &str, digest: Digest, content: &[Place], meter: &Meter) -> Result<()> {
    let mut hash = Hasher::new();
    for place in content {
        meter.check()?;
        // The id of the only blob was compared with what was fed; if there are more, each is compared here.
        let blob = if content.len() == 1 { handle.vault.plain(place) } else { handle.vault.blob(place) };
        let blob = blob.map_err(|error| {
            error.with("while", format!("reading back {path}")).or_state("this backup was not published")
        })?;
        hash.write(&blob);
        meter.add(blob.len() as u64);
    }
    if hash.finish_128() == digest.quick {
        return Ok(());
    }
    Err(Error::new(Kind::Verify, format!("{path} reads back differently from what was stored"))
        .with("state", "this backup was not published"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forest(files: &[(&str, u64)]) -> Forest {
        let leaf = |size| Leaf { size, mode: 0o600, mtime: None, content: Vec::new(), missing: Vec::new() };
        let files = files.iter().map(|(path, size)| ((*path).to_owned(), leaf(*size))).collect();
        Forest { files, trees: Vec::new() }
    }

    fn fed(path: &str, size: u64, is_read: bool) -> BTreeMap<String, Fed> {
        let digest = is_read.then(|| Digest { id: Id::of(b""), quick: 0 });
        BTreeMap::from([(path.to_owned(), Fed { size, fresh: true, digest })])
    }

    #[test]
    fn r27_a_tree_that_is_not_what_was_fed_is_told_by_the_path() {
        let right = fed("a", 0, true);
        assert_eq!(compare(&right, &forest(&[("a", 0)])).unwrap().len(), 1);
        let mut torn = forest(&[("a", 0)]);
        torn.files.values_mut().for_each(|leaf| leaf.missing.push(Id::of(b"")));
        let mut other = forest(&[("a", 1)]);
        other.files.values_mut().for_each(|leaf| leaf.content.push(Place::sample(Id::of(b"b"), 1)));
        for (fed, forest, words) in [
            (right.clone(), forest(&[]), "it is not there"),
            (right.clone(), forest(&[("a", 0), ("b", 0)]), "was not given"),
            (right.clone(), forest(&[("a", 1)]), "0 of 0 bytes"),
            (fed("a", 5, true), forest(&[("a", 5)]), "0 of 5 bytes"),
            (fed("a", 0, false), forest(&[("a", 0)]), "not read to its end"),
            (right, torn, "in no index"),
            (fed("a", 1, true), other, "its blob is 3e23e816 instead of e3b0c442"),
        ] {
            let error = compare(&fed, &forest).unwrap_err();
            assert!(error.kind() == Kind::Verify && error.to_string().contains(words), "{error}");
        }
    }
}
