//! Repairs the index where files of the repository were lost, so that the next backup stores anew what is missing.
//!
//! Content is compared with the index before it is stored: whatever that names is not stored again. So a pack that is missing or
//! cut must not be named there any more, or every later backup would lack the same content. Three things are done, each
//! in an order that may be killed anywhere:
//!
//! - An index file that is damaged is replaced by the headers of the packs that no other index names. Nothing is lost.
//! - A pack that is missing or has another size is taken out of the index. The blobs of it that are still good are put
//!   into a new pack before.
//! - Packs that no index names, because an index file is missing, are put into a new index ([`adopt`]).
//!
//! No file of a pack is removed. Backups that lack something afterwards are whole again once a backup stored it anew.

use std::collections::{BTreeMap, BTreeSet};

use rustic_core::{FileType, WriteBackend};
use serde_json::Value;

use super::id::{Id, path_of};
use super::snapshots::is_published;
use super::vault::{Index, Place, damaged};
use super::{Handle, guard, pack_header, tree};
use crate::error::{Error, Kind, Result};
use crate::progress::Meter;

/// Repairs of an index.
#[derive(Clone, Debug, Default)]
pub struct Repaired {
    /// Packs that were taken out of the index, by their files, each with the reason.
    pub lost: BTreeMap<Id, String>,
    /// Damaged index files that were replaced.
    pub indexes: BTreeSet<Id>,
}

impl Repaired {
    /// Whether nothing had to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.indexes.is_empty()
    }
}

/// Takes damaged index files and lost packs out of the index. For a caller that holds a lock that excludes others who write.
///
/// Adds the bytes that it reads to `meter`.
///
/// # Errors
/// [`Kind::Store`] if something cannot be read or written: the index describes all that it did before then.
pub fn repair(handle: &Handle, meter: &Meter) -> Result<Repaired> {
    let indexes = replace_damaged(handle, meter)?;
    let index = handle.vault.index()?;
    let mut lost = BTreeMap::new();
    let mut saved = Vec::new();
    for id in misfits(&index, &handle.vault.list(FileType::Pack)?).into_keys() {
        meter.check()?;
        // A listing may be short or late: the file itself decides.
        match handle.vault.raw(FileType::Pack, id) {
            Ok(raw) if Id::of(&raw) == id => {}
            Ok(raw) => {
                saved.extend(save_good_blobs(handle, &index, id, &raw)?);
                lost.insert(id, format!("has {} bytes instead of {}", raw.len(), index.size(id)));
            }
            Err(error) if error.kind() == Kind::Verify => _ = lost.insert(id, "is missing".to_owned()),
            Err(error) => return Err(error),
        }
    }
    if !saved.is_empty() {
        write_index(handle, &pack_header::index_of(&saved))?;
    }
    if !lost.is_empty() {
        drop_packs(handle, &lost)?;
    }
    Ok(Repaired { lost, indexes })
}

/// Packs that are missing, or have another size than the index says, each with the reason.
pub(super) fn misfits(index: &Index, present: &BTreeMap<Id, u64>) -> BTreeMap<Id, String> {
    let misfit = |id: &Id, size: u32| match present.get(id) {
        None => Some("is missing".to_owned()),
        Some(found) if *found != u64::from(size) => Some(format!("has {found} bytes instead of {size}")),
        Some(_) => None,
    };
    index.packs.iter().filter_map(|(id, pack)| Some((*id, misfit(id, pack.size)?))).collect()
}

/// Puts the blobs of a damaged pack that are still what they were into a new one.
fn save_good_blobs(handle: &Handle, index: &Index, id: Id, raw: &[u8]) -> Result<Option<(Id, Vec<Place>)>> {
    let places = index.packs.get(&id).map_or(&[][..], |pack| &pack.blobs);
    let good: Vec<Place> = places.iter().filter(|place| handle.vault.blob_in(place, raw).is_some()).copied().collect();
    save_blobs(handle, id, raw, &good)
}

/// Puts these blobs of a pack into a new one.
fn save_blobs(handle: &Handle, id: Id, raw: &[u8], places: &[Place]) -> Result<Option<(Id, Vec<Place>)>> {
    let bytes = |place: &Place| {
        let start = usize::try_from(place.offset).ok()?;
        raw.get(start..start.checked_add(usize::try_from(place.length).ok()?)?)
    };
    let good: Vec<_> = places.iter().filter_map(|place| Some((*place, bytes(place)?))).collect();
    write_pack(handle, id, &good)
}

/// Writes a pack of these blobs, with their encrypted bytes, in the place of another one; nothing without blobs.
///
/// # Errors
/// [`Kind::Store`] if it cannot be written, or reads back differently.
pub(super) fn write_pack(handle: &Handle, old: Id, blobs: &[(Place, &[u8])]) -> Result<Option<(Id, Vec<Place>)>> {
    if blobs.is_empty() {
        return Ok(None);
    }
    let vault = &handle.vault;
    let failed = || format!("cannot write what is left of {}", path_of(FileType::Pack, old));
    let assembled = pack_header::assemble(vault, blobs);
    let (bytes, places) = assembled.map_err(|cause| Error::new(Kind::Store, failed()).with("cause", cause))?;
    let new = Id::of(&bytes);
    guard::run("writing a pack", Kind::Store, || {
        vault.store.write_bytes(FileType::Pack, &new.rustic(), false, bytes.into())
    })?;
    if Id::of(&vault.raw(FileType::Pack, new)?) != new {
        return Err(Error::new(Kind::Store, failed()).with("cause", "it reads back differently"));
    }
    Ok(Some((new, places)))
}

/// Replaces index files that are damaged by what the headers of their packs say.
///
/// # Errors
/// As [`repair`].
pub fn replace_damaged(handle: &Handle, meter: &Meter) -> Result<BTreeSet<Id>> {
    let (vault, mut bad) = (&handle.vault, BTreeSet::new());
    for id in vault.list(FileType::Index)?.into_keys() {
        // Read twice: it is removed for what was read.
        let read = || vault.read_index(id, &mut Index::default());
        match read().or_else(|_| read()) {
            Err(error) if error.kind() == Kind::Verify => _ = bad.insert(id),
            read => read?,
        }
    }
    if bad.is_empty() {
        return Ok(bad);
    }
    adopt(handle, &bad, meter)?;
    for id in &bad {
        let what = format!("removing {}", path_of(FileType::Index, *id));
        guard::run(&what, Kind::Store, || vault.store.remove(FileType::Index, &id.rustic(), false))?;
    }
    Ok(bad)
}

/// Puts packs that no index names, `besides` index files that cannot be read, into a new index; what is good in a damaged
/// one goes into a new pack. Gives their number.
///
/// # Errors
/// As [`repair`].
pub fn adopt(handle: &Handle, besides: &BTreeSet<Id>, meter: &Meter) -> Result<usize> {
    let (vault, mut index) = (&handle.vault, Index::default());
    for id in vault.list(FileType::Index)?.into_keys().filter(|id| !besides.contains(id)) {
        vault.read_index(id, &mut index)?;
    }
    let present = vault.list(FileType::Pack)?;
    let unnamed: Vec<(Id, u64)> = present.into_iter().filter(|(id, _)| !index.packs.contains_key(id)).collect();
    meter.begin("reading packs that no index names", unnamed.iter().map(|(_, size)| size).sum());
    let mut found = Vec::new();
    for (id, _) in unnamed {
        meter.check()?;
        let raw = match vault.raw(FileType::Pack, id) {
            Err(error) if error.kind() == Kind::Verify => continue,
            raw => raw?,
        };
        meter.add(raw.len() as u64);
        let mut places = pack_header::read(vault, id, &raw).unwrap_or_default();
        let all = places.len();
        places.retain(|place| vault.blob_in(place, &raw).is_some());
        if Id::of(&raw) == id && places.len() == all && all > 0 {
            found.push((id, places));
            continue;
        }
        // What another pack has needs no rescue, not even from the same damaged one in the run before.
        places.retain(|place| if place.is_tree { index.tree(place.blob) } else { index.data(place.blob) }.is_none());
        found.extend(save_blobs(handle, id, &raw, &places)?);
    }
    if !found.is_empty() {
        write_index(handle, &pack_header::index_of(&found))?;
    }
    Ok(found.len())
}

/// Published backups that lack something, by the index and the listing of packs, each with the first reason.
///
/// # Errors
/// [`Kind::Verify`] if an index is damaged; [`Kind::Store`] if something cannot be read.
pub fn incomplete(handle: &Handle) -> Result<BTreeMap<Id, String>> {
    let index = handle.vault.index()?;
    let lost = misfits(&index, &handle.vault.list(FileType::Pack)?);
    let (files, _) = handle.vault.snapshots()?;
    let mut found = BTreeMap::new();
    for (id, file) in files.iter().filter(|(_, file)| is_published(file)) {
        if let Some(why) = lacks(handle, &index, &lost, Id::from(&*file.tree))? {
            found.insert(*id, why);
        }
    }
    Ok(found)
}

/// The first thing that a backup with this list of files lacks.
fn lacks(handle: &Handle, index: &Index, lost: &BTreeMap<Id, String>, root: Id) -> Result<Option<String>> {
    let forest = match tree::walk(&handle.vault, index, root) {
        Err(error) if error.kind() == Kind::Verify => return Ok(Some(error.message().to_owned())),
        forest => forest?,
    };
    if let Some((path, _)) = forest.files.iter().find(|(_, leaf)| !leaf.missing.is_empty()) {
        return Ok(Some(format!("a part of {path} is in no index")));
    }
    let mut places = forest.files.values().flat_map(|leaf| &leaf.content).chain(&forest.trees);
    let lost = places.find_map(|place| lost.get_key_value(&place.pack));
    Ok(lost.map(|(id, why)| format!("{} {why}", path_of(FileType::Pack, *id))))
}

/// Writes every index that names one of these packs anew without them, then removes the old one.
///
/// # Errors
/// As [`repair`], and [`Kind::Verify`] if an index is damaged.
pub(super) fn drop_packs(handle: &Handle, packs: &BTreeMap<Id, String>) -> Result<()> {
    let vault = &handle.vault;
    for id in vault.list(FileType::Index)?.into_keys() {
        let path = path_of(FileType::Index, id);
        let mut json: Value = serde_json::from_slice(&vault.file(FileType::Index, id)?)
            .map_err(|error| damaged(&path, &error.to_string()))?;
        let mut names_one = false;
        for list in ["packs", "packs_to_delete"] {
            let Some(named) = json.get_mut(list).and_then(|named| named.as_array_mut()) else { continue };
            let before = named.len();
            named.retain(|pack| {
                let id = pack["id"].as_str().and_then(|id| id.parse::<Id>().ok());
                !id.is_some_and(|id| packs.contains_key(&id))
            });
            names_one |= named.len() < before;
        }
        if !names_one {
            continue;
        }
        write_index(handle, &json)?;
        let what = format!("removing {path}");
        guard::run(&what, Kind::Store, || vault.store.remove(FileType::Index, &id.rustic(), false))?;
    }
    Ok(())
}

/// Adds an index file.
///
/// # Errors
/// [`Kind::Store`] if it cannot be written.
pub(super) fn write_index(handle: &Handle, json: &Value) -> Result<()> {
    let vault = &handle.vault;
    let sealed = vault
        .seal(json.to_string().as_bytes())
        .map_err(|cause| Error::new(Kind::Store, "cannot write an index anew").with("cause", cause))?;
    let new = Id::of(&sealed);
    guard::run("writing an index", Kind::Store, || {
        vault.store.write_bytes(FileType::Index, &new.rustic(), false, sealed.into())
    })
}
