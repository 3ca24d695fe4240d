//! Verifies a copy before more is put into it, and replaces damaged packs.
//!
//! A copy that is made now leans on packs that were written long ago, like a backup does. So all of them have to be
//! there with their sizes, and a share is read again each time. What a damaged one held is written anew, from what is
//! left of it or from the source, before it is taken out of the copy's index: also for backups that are in the copy alone.
//! Killed in between, the next copy goes on.

use std::collections::{BTreeMap, BTreeSet};

use rustic_core::{FileType, WriteBackend};

use super::id::{Id, path_of};
use super::snapshots::{self, is_published};
use super::vault::{Index, Place};
use super::{Handle, check, guard, pack_header, repair, tree};
use crate::error::{Error, Kind, Result};
use crate::progress::Meter;

/// Findings in a copy.
#[derive(Debug, Default)]
pub struct Looked {
    /// Packs of these that are what they were.
    pub whole: BTreeSet<Id>,
    /// Packs that are not, by their files, each with what is wrong. No index names them any more.
    pub dropped: BTreeMap<Id, String>,
    /// Backups in the copy that leaned on them.
    pub concerned: usize,
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
    let mut faults = BTreeMap::new();
    for (id, what) in repair::misfits(&index, &present) {
        // A listing may be short or late: the file itself decides.
        match target.vault.raw(FileType::Pack, id) {
            Ok(raw) if Id::of(&raw) == id => {}
            Err(error) if error.kind() != Kind::Verify => return Err(error),
            _ => _ = faults.insert(id, what),
        }
    }
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
    let concerned = if faults.is_empty() { 0 } else { replace(source, target, &index, &faults)? };
    Ok(Looked { whole, dropped: faults, concerned, is_odd })
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

/// Removes snapshot files that cannot be read, if there are not more of them than backups that were copied although
/// they had been before: these are what such files were. One more may be a backup that only the copy has.
///
/// # Errors
/// [`Kind::Store`] if one cannot be removed.
///
/// Gives the number of those that were removed, and those that stay.
pub fn remove_unreadable_snapshots(target: &Handle, copied_again: usize) -> Result<(usize, Vec<Id>)> {
    let (_, faults) = target.vault.snapshots()?;
    let mut removed = 0;
    if faults.len() > copied_again {
        return Ok((0, faults.into_iter().map(|(id, _)| id).collect()));
    }
    for (id, _) in faults.iter().filter(|(_, error)| error.kind() == Kind::Verify) {
        // Read twice: it is removed for what was read.
        if target.vault.snapshot(*id).is_err_and(|error| error.kind() == Kind::Verify) {
            snapshots::remove(target, *id)?;
            removed += 1;
        }
    }
    Ok((removed, Vec::new()))
}

/// Blobs of a damaged pack that can be had: encrypted for the copy, each with its new place.
type Rescued = Vec<(Place, Vec<u8>)>;

/// Rescues the content of a damaged pack of a copy that no other pack of it has: from what is left of it, else from the source. Also gives the blobs that
/// neither has.
fn rescue(
    source: (&Handle, &Index),
    target: &Handle,
    index: &Index,
    id: Id,
    faults: &BTreeMap<Id, String>,
) -> Result<(Rescued, Vec<Place>)> {
    let raw = match target.vault.raw(FileType::Pack, id) {
        Err(error) if error.kind() == Kind::Verify => None,
        raw => Some(raw?),
    };
    let (mut rescued, mut lost) = (Rescued::new(), Vec::new());
    let find = |index: &Index, place: &Place| {
        if place.is_tree { index.tree(place.blob) } else { index.data(place.blob) }
    };
    for place in index.packs.get(&id).map_or(&[][..], |pack| &pack.blobs) {
        let is_elsewhere = find(index, place).is_some_and(|other| !faults.contains_key(&other.pack));
        if is_elsewhere {
            continue;
        }
        let left = raw.as_ref().filter(|raw| target.vault.blob_in(place, raw).is_some());
        if let Some(raw) = left {
            // It was read there just now.
            let start = usize::try_from(place.offset).unwrap_or(usize::MAX);
            let length = usize::try_from(place.length).unwrap_or(0);
            rescued.push((*place, raw.iter().skip(start).take(length).copied().collect()));
            continue;
        }
        let plain = match find(source.1, place).map(|there| source.0.vault.blob(&there)) {
            Some(Ok(plain)) => plain,
            Some(Err(error)) if error.kind() != Kind::Verify => return Err(error),
            _ => {
                lost.push(*place);
                continue;
            }
        };
        let failed = || format!("cannot write anew what {} held", path_of(FileType::Pack, id));
        let sealed =
            target.vault.seal(&plain).map_err(|cause| Error::new(Kind::Store, failed()).with("cause", cause))?;
        let size = |bytes: &[u8]| {
            u32::try_from(bytes.len()).map_err(|cause| Error::new(Kind::Store, failed()).with("cause", cause))
        };
        rescued.push((Place { length: size(&sealed)?, size: size(&plain)?, compressed: false, ..*place }, sealed));
    }
    Ok((rescued, lost))
}

/// Writes anew what damaged packs held, then takes them out of the index. Gives the number of backups that lean on them.
fn replace(source: &Handle, target: &Handle, index: &Index, faults: &BTreeMap<Id, String>) -> Result<usize> {
    let here = source.vault.index()?;
    let mut lost = BTreeSet::new();
    for id in faults.keys() {
        let (_, gone) = rescue((source, &here), target, index, *id, faults)?;
        lost.extend(gone.iter().map(|place| (place.is_tree, place.blob)));
    }
    let concerned = refuse_loss(target, index, faults, &lost)?;
    let mut written = Vec::new();
    for id in faults.keys() {
        let (rescued, _) = rescue((source, &here), target, index, *id, faults)?;
        let blobs: Vec<(Place, &[u8])> = rescued.iter().map(|(place, sealed)| (*place, sealed.as_slice())).collect();
        written.extend(repair::write_pack(target, *id, &blobs)?);
    }
    if !written.is_empty() {
        repair::write_index(target, &pack_header::index_of(&written))?;
    }
    repair::drop_packs(target, faults)?;
    Ok(concerned)
}

/// Fails if a backup in the copy needs one of the blobs that are `lost`. Gives the number of those that need a damaged pack.
fn refuse_loss(
    target: &Handle,
    index: &Index,
    faults: &BTreeMap<Id, String>,
    lost: &BTreeSet<(bool, Id)>,
) -> Result<usize> {
    let (files, _) = target.vault.snapshots()?;
    let (mut concerned, mut harmed) = (0, Vec::new());
    for (id, file) in files.iter().filter(|(_, file)| is_published(file)) {
        let (leans, lacks) = match tree::walk(&target.vault, index, Id::from(&*file.tree)) {
            Ok(forest) => {
                let places = forest.files.values().flat_map(|leaf| &leaf.content).chain(&forest.trees);
                let damaged: Vec<&Place> = places.filter(|place| faults.contains_key(&place.pack)).collect();
                (!damaged.is_empty(), damaged.iter().any(|place| lost.contains(&(place.is_tree, place.blob))))
            }
            // Its list of files is in a damaged pack. Which of them is not known.
            Err(_) => (true, lost.iter().any(|(is_tree, _)| *is_tree)),
        };
        concerned += usize::from(leans);
        if lacks {
            harmed.push(id.short());
        }
    }
    let Some((pack, what)) = faults.first_key_value().filter(|_| !harmed.is_empty()) else { return Ok(concerned) };
    let path = path_of(FileType::Pack, *pack);
    Err(Error::new(Kind::Verify, "a pack of the copy is damaged, and the repository cannot mend it")
        .with("file", &path)
        .with("cause", what)
        .with("backups", harmed.join(", "))
        .with("state", "nothing was copied there; the copies that are not named can be restored")
        .hint(format!("Take it out, then copy again: restic repair packs {pack}"))
        .hint("docs/repository.md, \"A damaged pack\", shows how."))
}
