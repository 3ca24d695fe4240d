//! Verifies a copy before more is put into it, and drops damaged packs whose blobs the source still has.
//!
//! A copy that is made now leans on packs that were written long ago, like a backup does. So all of them have to be
//! there with their sizes, and a share is read again each time. What is damaged and can be written anew is dropped from
//! the copy's index; [`super::copy::copy`] writes it again then, for the backups that were copied before, too. Killed in
//! between, the next copy goes on.

use std::collections::{BTreeMap, BTreeSet};

use rustic_core::{FileType, WriteBackend};

use super::id::{Id, path_of};
use super::snapshots::{self, is_published};
use super::vault::{Index, Place};
use super::{Handle, check, guard, repair, tree};
use crate::error::{Error, Kind, Result};
use crate::progress::Meter;

/// Findings in a copy.
#[derive(Debug, Default)]
pub struct Looked {
    /// Packs of these that are what they were.
    pub whole: BTreeSet<Id>,
    /// Packs that are not, by their files, each with what is wrong. No index names them any more.
    pub dropped: BTreeMap<Id, String>,
    /// Whether backups that were copied before may lack something now.
    pub(super) is_odd: bool,
}

/// The packs that the copy's index knows.
///
/// # Errors
/// [`Kind::Verify`] if an index is damaged, [`Kind::Store`] if it cannot be read.
pub fn packs(target: &Handle) -> Result<BTreeSet<Id>> {
    Ok(target.vault.index()?.packs.into_keys().collect())
}

/// Looks whether every pack is there with its size, and reads `due` of them. For a caller that holds the copy's lock.
///
/// # Errors
/// [`Kind::Verify`] if one is damaged that holds something which the source has not: nothing was changed then.
pub fn look(source: &Handle, target: &Handle, due: &BTreeSet<Id>, meter: &Meter) -> Result<Looked> {
    let index = target.vault.index()?;
    let present = target.vault.list(FileType::Pack)?;
    let mut faults = repair::misfits(&index, &present);
    let mut whole = BTreeSet::new();
    meter.begin("reading the copy back", due.iter().filter_map(|id| present.get(id)).sum());
    for id in due.iter().filter(|id| index.packs.contains_key(id)) {
        if faults.contains_key(id) {
            continue;
        }
        match check::rotten(target, &BTreeSet::from([*id]), meter)? {
            Some(finding) => _ = faults.insert(*id, finding.what),
            None => _ = whole.insert(*id),
        }
    }
    let unnamed = present.keys().any(|id| !index.packs.contains_key(id));
    let is_odd = unnamed || !faults.is_empty();
    if !faults.is_empty() {
        refuse_loss(source, target, &index, &faults)?;
        repair::drop_packs(target, &faults)?;
    }
    Ok(Looked { whole, dropped: faults, is_odd })
}

/// Removes the files of packs that were dropped, once what they held was written anew.
///
/// # Errors
/// [`Kind::Store`] if one cannot be removed: nothing leans on it.
pub fn remove_dropped(target: &Handle, looked: &Looked) -> Result<()> {
    let present = target.vault.list(FileType::Pack)?;
    for id in looked.dropped.keys().filter(|id| present.contains_key(id)) {
        let what = format!("removing {}", path_of(FileType::Pack, *id));
        guard::run(&what, Kind::Store, || target.vault.store.remove(FileType::Pack, &id.rustic(), false))?;
    }
    Ok(())
}

/// Gives the key file that the copy was opened with its right name again, if one of its bytes changed and it opens all the
/// same: restic refuses it under the old one.
///
/// # Errors
/// [`Kind::Store`] if it cannot be written; the old file is there then.
pub fn rename_key(target: &Handle) -> Result<bool> {
    let raw = target.vault.raw(FileType::Key, target.key)?;
    let right = Id::of(&raw);
    if right == target.key {
        return Ok(false);
    }
    let store = &target.vault.store;
    let bytes = raw.to_vec();
    guard::run("writing a key", Kind::Store, || {
        store.write_bytes(FileType::Key, &right.rustic(), false, bytes.into())
    })?;
    guard::run("removing a key", Kind::Store, || store.remove(FileType::Key, &target.key.rustic(), false))?;
    Ok(true)
}

/// Removes snapshot files that cannot be read. For a caller that has copied every backup of the repository: one of them
/// is what such a file was, as long as the repository had it.
///
/// # Errors
/// [`Kind::Store`] if one cannot be removed.
pub fn remove_unreadable_snapshots(target: &Handle) -> Result<usize> {
    let (_, faults) = target.vault.snapshots()?;
    let mut removed = 0;
    for (id, _) in faults.iter().filter(|(_, error)| error.kind() == Kind::Verify) {
        // Read twice: it is removed for what was read.
        if target.vault.snapshot(*id).is_err_and(|error| error.kind() == Kind::Verify) {
            snapshots::remove(target, *id)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Fails if the source lacks blobs of damaged packs that a backup in the copy needs.
fn refuse_loss(source: &Handle, target: &Handle, index: &Index, faults: &BTreeMap<Id, String>) -> Result<()> {
    let there = source.vault.index()?;
    let has = |place: &Place| {
        let found = if place.is_tree { there.tree(place.blob) } else { there.data(place.blob) };
        found.is_some()
    };
    let (files, _) = target.vault.snapshots()?;
    let mut lost = Vec::new();
    for (id, file) in files.iter().filter(|(_, file)| is_published(file)) {
        let root = Id::from(&*file.tree);
        let is_safe = match tree::walk(&target.vault, index, root) {
            Ok(forest) => {
                let places = forest.files.values().flat_map(|leaf| &leaf.content).chain(&forest.trees);
                places.filter(|place| faults.contains_key(&place.pack)).all(has)
            }
            // Its list of files is what is damaged: the same one in the source leads to all of it.
            Err(_) => there.tree(root).is_some(),
        };
        if !is_safe {
            lost.push(id.short());
        }
    }
    let Some((pack, what)) = faults.first_key_value().filter(|_| !lost.is_empty()) else { return Ok(()) };
    let path = path_of(FileType::Pack, *pack);
    Err(Error::new(Kind::Verify, "a pack of the copy is damaged, and the repository cannot mend it")
        .with("file", &path)
        .with("cause", what)
        .with("backups", lost.join(", "))
        .with("state", "nothing was copied there; the copies that are not named can be restored")
        .hint(format!("Take it out, then copy again: restic repair packs {pack}"))
        .hint("docs/repository.md, \"A damaged pack\", shows how."))
}
