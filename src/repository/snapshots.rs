//! Snapshots: listing, publishing, deleting, and sweeping what killed runs left.
//!
//! A backup is a snapshot with our tag and without `pending`. Others, whether pending or of another program, are not
//! shown and not touched.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use rustic_core::repofile::{SnapshotFile, StringList};
use rustic_core::{FileType, WriteBackend};

use super::archive::Archived;
use super::id::{Id, path_of};
use super::store::{Journal, Place};
use super::vault::damaged;
use super::{Handle, guard, remote};
use crate::error::{Error, Kind, Result};

/// The tag of every backup.
pub const TAG: &str = "glovebox";
/// The tag of a snapshot that is not published yet.
pub const PENDING: &str = "pending";
/// What a snapshot says of the program that made it.
pub(super) const PROGRAM: &str = concat!("glovebox ", env!("CARGO_PKG_VERSION"));

/// How old a temporary file has to be before it is a leftover.
const STALE: Duration = Duration::from_hours(24);

/// A published backup, as a list shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Its id.
    pub id: Id,
    /// When it was taken.
    pub time: DateTime<Utc>,
    /// Its tags, ours left out.
    pub tags: Vec<String>,
    /// The machine that took it.
    pub host: String,
    /// One word.
    pub label: String,
    /// A sentence.
    pub description: Option<String>,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes that it added to the repository, compressed.
    pub bytes_added: u64,
}

/// All backups, and the files that hid whether they are ones.
#[derive(Debug, Default)]
pub struct Listing {
    /// By time, the oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Snapshot files that cannot be read, each with the reason ([`Kind::Verify`], or [`Kind::Store`]).
    pub unreadable: Vec<(Id, Error)>,
}

/// Lists the published backups.
///
/// # Errors
/// [`Kind::Store`] if the files cannot be listed: a short list is never given for a whole one.
pub fn list(handle: &Handle) -> Result<Listing> {
    let (files, unreadable) = handle.vault.snapshots()?;
    let mut listing = Listing { snapshots: Vec::new(), unreadable };
    for (id, file) in files.iter().filter(|(_, file)| is_published(file)) {
        listing.snapshots.push(describe(*id, file)?);
    }
    listing.snapshots.sort_by_key(|snapshot| (snapshot.time, snapshot.id));
    Ok(listing)
}

/// One published backup.
///
/// # Errors
/// [`Kind::Verify`] if it is missing or damaged, [`Kind::Refused`] if it is not a published backup.
pub fn get(handle: &Handle, id: Id) -> Result<Snapshot> {
    let file = handle.vault.snapshot(id)?;
    if is_published(&file) {
        return describe(id, &file);
    }
    Err(Error::new(Kind::Refused, format!("the snapshot {} is not a published backup", id.short())))
}

/// What publishing gave.
#[derive(Debug)]
pub struct Published {
    /// The backup.
    pub snapshot: Snapshot,
    /// Why the pending snapshot is still there, if it is. It is not listed; the next sweep removes it.
    pub leftover: Option<Error>,
}

/// Makes a backup of a pending snapshot: saves it under our tag, reads that file back, removes the pending one.
///
/// # Errors
/// [`Kind::Store`] or [`Kind::Verify`]; nothing is published then, and the pending snapshot is still there.
pub fn publish(handle: &Handle, archived: &Archived) -> Result<Published> {
    let mut file = archived.snapshot.clone();
    file.original = None;
    publish_as(handle, archived.pending, file)
}

/// The same for a snapshot that was changed since it was saved as `pending`.
pub(super) fn publish_as(handle: &Handle, pending: Id, mut file: SnapshotFile) -> Result<Published> {
    file.tags = tagged(&file, TAG)?;
    let (journal, expected) = (Arc::<Journal>::default(), file.tree);
    let library = handle.library(&journal)?;
    let saved = guard::run("publishing the backup", Kind::Store, || library.save_snapshots(vec![file]));
    let id = match (journal.take_failure(), saved, journal.written().snapshots.as_slice()) {
        (Some(error), ..) | (None, Err(error), _) => return Err(error.or_state("this backup was not published")),
        (None, Ok(()), [id]) => *id,
        (None, Ok(()), _) => return Err(Error::new(Kind::Store, "publishing the backup saved no snapshot")),
    };
    let stored = handle.vault.snapshot(id)?;
    if stored.tree != expected || !is_published(&stored) {
        return Err(damaged(&path_of(FileType::Snapshot, id), "it is not what was published"));
    }
    Ok(Published { snapshot: describe(id, &stored)?, leftover: remove(handle, pending).err() })
}

/// The snapshot's tags with this one instead of ours: it is published with one, and pending with the other.
pub(super) fn tagged(file: &SnapshotFile, tag: &str) -> Result<StringList> {
    let others = file.tags.iter().map(String::as_str).filter(|known| ![TAG, PENDING].contains(known));
    let tags: Vec<&str> = others.chain([tag]).collect();
    let tags = tags.join(",").parse::<StringList>();
    tags.map_err(|error| Error::new(Kind::Store, "cannot tag the backup").with("cause", error))
}

/// Takes back a pending snapshot that is not to be published. Its packs stay until the next prune.
///
/// # Errors
/// [`Kind::Store`] if its file cannot be removed; it is not listed all the same.
pub fn discard(handle: &Handle, archived: &Archived) -> Result<()> {
    remove(handle, archived.pending)
}

/// Deletes a published backup, also one whose snapshot file is damaged. Its packs stay until the next prune.
///
/// # Errors
/// [`Kind::Refused`] if it is not a published backup, and [`Kind::Store`] if its file cannot be removed.
pub fn delete(handle: &Handle, id: Id) -> Result<()> {
    match get(handle, id) {
        Err(error) if error.kind() != Kind::Verify => Err(error),
        _ => remove(handle, id),
    }
}

/// What a sweep removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Pending snapshots of runs that did not end.
    pub snapshots: Vec<Id>,
    /// Temporary files, older than 24 hours, of writes that did not end.
    pub files: Vec<PathBuf>,
}

/// Removes what killed runs left. Only for a caller that holds the lock: a run under way looks the same.
///
/// # Errors
/// [`Kind::Store`] if something cannot be listed or removed.
pub fn sweep_pending(handle: &Handle, now: SystemTime) -> Result<Swept> {
    let mut swept = Swept::default();
    for id in handle.vault.list(FileType::Snapshot)?.into_keys() {
        // An unreadable one stays: it may be a backup.
        let Ok(file) = handle.vault.snapshot(id) else { continue };
        if file.tags.contains(PENDING) && !file.tags.contains(TAG) && file.program_version.starts_with(TAG) {
            remove(handle, id)?;
            swept.snapshots.push(id);
        }
    }
    let root = match &handle.vault.store.place {
        Place::Directory(root) => root,
        Place::Remote(remote) => {
            let before = now.checked_sub(STALE).unwrap_or(SystemTime::UNIX_EPOCH);
            let left = remote.sweep(before).map_err(|cause| remote::failed(&handle.location, &cause))?;
            swept.files.extend(left.into_iter().map(PathBuf::from));
            return Ok(swept);
        }
    };
    for kind in [FileType::Pack, FileType::Index, FileType::Snapshot, FileType::Key] {
        let directory = root.join(kind.dirname());
        sweep_files(&directory, now, &mut swept.files).map_err(|cause| {
            Error::new(Kind::Store, format!("cannot sweep {}", directory.display())).with("cause", cause)
        })?;
    }
    Ok(swept)
}

/// The backend writes `<id>-tmp-` and renames it.
fn sweep_files(directory: &Path, now: SystemTime, removed: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type()?.is_dir() {
            sweep_files(&path, now, removed)?;
            continue;
        }
        let id = name.to_str().and_then(|name| name.split_once("-tmp-")).map(|(id, _)| id.parse::<Id>().is_ok());
        let age = now.duration_since(entry.metadata()?.modified()?).unwrap_or_default();
        if id == Some(true) && age > STALE {
            std::fs::remove_file(&path)?;
            removed.push(path);
        }
    }
    Ok(())
}

pub(super) fn remove(handle: &Handle, id: Id) -> Result<()> {
    let what = format!("removing {}", path_of(FileType::Snapshot, id));
    guard::run(&what, Kind::Store, || handle.vault.store.remove(FileType::Snapshot, &id.rustic(), false))
}

pub(super) fn is_published(file: &SnapshotFile) -> bool {
    file.tags.contains(TAG) && !file.tags.contains(PENDING)
}

pub(super) fn describe(id: Id, file: &SnapshotFile) -> Result<Snapshot> {
    let time = file.time.timestamp();
    let nanoseconds = u32::try_from(time.subsec_nanosecond()).unwrap_or(0);
    let time = DateTime::from_timestamp(time.as_second(), nanoseconds)
        .ok_or_else(|| damaged(&path_of(FileType::Snapshot, id), "its time is impossible"))?;
    let summary = file.summary.as_ref();
    Ok(Snapshot {
        id,
        time,
        tags: file.tags.iter().filter(|tag| *tag != TAG).cloned().collect(),
        host: file.hostname.clone(),
        label: file.label.clone(),
        description: file.description.clone(),
        bytes: summary.map_or(0, |summary| summary.total_bytes_processed),
        bytes_added: summary.map_or(0, |summary| summary.data_added_packed),
    })
}
