//! Reading files and blobs of the repository back: decrypted, decompressed, and compared with their names.
//!
//! The storage library checks the message authentication code of what it reads, not that the file or the blob is
//! the one that was asked for. Two packs that were swapped would pass. Here every byte is hashed against the id that
//! names it, so what comes out is what went in, or an [`Error`] that names the file.
//!
//! Source: restic's `doc/design.rst`, "Repository Format".

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use aes256ctr_poly1305aes::aead::Aead;
use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key, Nonce};
use rustic_core::repofile::{BlobType, IndexFile, SnapshotFile};
use rustic_core::{FileType, ReadBackend};
use zeroize::Zeroizing;

use super::guard;
use super::id::{Id, path_of};
use super::limits::{BLOB, TREE, longest_content};
use super::store::Store;
use crate::bounded::decompressed;
use crate::error::{Error, Kind, Result};

/// Bytes of nonce and code around what is encrypted.
const OVERHEAD: u32 = 32;
/// Marks a compressed file of the repository.
const COMPRESSED: u8 = 2;

/// Where a blob lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) blob: Id,
    pub(super) pack: Id,
    pub(super) offset: u32,
    pub(super) length: u32,
    /// Bytes of content.
    pub(super) size: u32,
    pub(super) compressed: bool,
    pub(super) is_tree: bool,
}

#[cfg(test)]
impl Place {
    /// Of a blob that lies nowhere.
    pub(super) fn sample(blob: Id, size: u32) -> Self {
        Self { blob, pack: blob, offset: 0, length: size, size, compressed: false, is_tree: false }
    }
}

/// One pack, as an index describes it.
#[derive(Clone, Debug)]
pub(super) struct Pack {
    /// Bytes of its file.
    pub(super) size: u32,
    /// Whether it is marked to be removed: it is still there, but nothing may lean on it.
    pub(super) leaving: bool,
    pub(super) blobs: Vec<Place>,
}

/// All indexes together.
#[derive(Default)]
pub(super) struct Index {
    pub(super) packs: BTreeMap<Id, Pack>,
    blobs: HashMap<(bool, Id), Place>,
}

impl Index {
    pub(super) fn data(&self, id: Id) -> Option<Place> {
        self.blobs.get(&(false, id)).copied()
    }

    pub(super) fn tree(&self, id: Id) -> Option<Place> {
        self.blobs.get(&(true, id)).copied()
    }

    /// Bytes of a pack's file; 0 for one that is not known.
    pub(super) fn size(&self, pack: Id) -> u32 {
        self.packs.get(&pack).map_or(0, |pack| pack.size)
    }

    /// Finds blobs in marked packs too, where no other pack has them: they still lie there, and a prune that found
    /// them needed would take the mark away again.
    pub(super) fn including_marked(mut self) -> Self {
        for place in self.packs.values().filter(|pack| pack.leaving).flat_map(|pack| &pack.blobs) {
            self.blobs.entry((place.is_tree, place.blob)).or_insert(*place);
        }
        self
    }

    fn add(&mut self, file: IndexFile) {
        let leaving = file.packs_to_delete.into_iter().map(|pack| (pack, true));
        for (pack, leaving) in file.packs.into_iter().map(|pack| (pack, false)).chain(leaving) {
            let id = Id::from(&*pack.id);
            let size = pack.pack_size();
            let place = |blob: &rustic_core::repofile::IndexBlob| Place {
                blob: Id::from(&*blob.id),
                pack: id,
                offset: blob.location.offset,
                length: blob.location.length,
                size: blob
                    .location
                    .uncompressed_length
                    .map_or(blob.location.length.saturating_sub(OVERHEAD), std::num::NonZero::get),
                compressed: blob.location.uncompressed_length.is_some(),
                is_tree: blob.tpe == BlobType::Tree,
            };
            let blobs: Vec<_> = pack.blobs.iter().map(place).collect();
            if !leaving {
                self.blobs.extend(blobs.iter().map(|place| ((place.is_tree, place.blob), *place)));
            }
            // A pack may be listed twice while indexes are rewritten: it leaves only if every list says so.
            let known = self.packs.entry(id).or_insert(Pack { size, leaving, blobs });
            known.leaving &= leaving;
        }
    }
}

/// All snapshot files: those that can be read, and why the others cannot.
pub(super) type Snapshots = (BTreeMap<Id, SnapshotFile>, Vec<(Id, Error)>);

/// The repository's master key, and what it opens. `Debug` is left out on purpose.
pub(super) struct Vault {
    pub(super) store: Store,
    key: Zeroizing<Vec<u8>>,
}

impl Vault {
    /// `key` has 64 bytes: encryption key, `k` and `r` of the code.
    pub(super) fn new(store: Store, key: Zeroizing<Vec<u8>>) -> Arc<Self> {
        Arc::new(Self { store, key })
    }

    /// Whether this is the master key, 64 bytes.
    pub(super) fn has_key(&self, key: &[u8]) -> bool {
        *self.key == key
    }

    /// The bytes of a whole file, as they lie there.
    pub(super) fn raw(&self, kind: FileType, id: Id) -> Result<bytes::Bytes> {
        let path = path_of(kind, id);
        self.store.read_full(kind, &id.rustic()).map_err(|error| match guard::io_kind(&error) {
            // Longer than any such file is. Behind a network it may be the answer of somebody else, which says nothing of
            // the file.
            Some(std::io::ErrorKind::InvalidData) if !self.store.is_remote() => damaged(&path, &guard::words(&error)),
            _ => unreadable(&path, &error),
        })
    }

    /// A whole file, decrypted; its bytes are those that its name promises.
    pub(super) fn file(&self, kind: FileType, id: Id) -> Result<Vec<u8>> {
        let path = path_of(kind, id);
        let raw = self.raw(kind, id)?;
        if kind != FileType::Config && Id::of(&raw) != id {
            return Err(damaged(&path, "its bytes are not those that its name promises"));
        }
        let plain = decrypt(&self.key, &raw).ok_or_else(|| damaged(&path, "it cannot be decrypted"))?;
        match plain.split_first() {
            Some((&COMPRESSED, packed)) => decompressed(packed, longest_content(&path))
                .map_err(|cause| damaged(&path, &format!("it cannot be decompressed: {cause}"))),
            _ => Ok(plain),
        }
    }

    /// Content of a lock, a kind of file that the library does not know; nothing if it was altered.
    pub(super) fn open_file(&self, raw: &[u8]) -> Option<Vec<u8>> {
        let plain = decrypt(&self.key, raw)?;
        match plain.split_first() {
            Some((&COMPRESSED, packed)) => decompressed(packed, longest_content("locks")).ok(),
            _ => Some(plain),
        }
    }

    /// Decrypts these bytes; nothing if they were altered.
    pub(super) fn decrypt(&self, raw: &[u8]) -> Option<Vec<u8>> {
        decrypt(&self.key, raw)
    }

    /// Encrypts a file of the repository, with a nonce that is used once.
    pub(super) fn seal(&self, plain: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut nonce = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut nonce)?;
        let sealed = Aes256CtrPoly1305Aes::new(Key::from_slice(&self.key)).encrypt(Nonce::from_slice(&nonce), plain);
        let sealed = sealed.map_err(|_| std::io::Error::other("it cannot be encrypted"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// The blob's content.
    pub(super) fn blob(&self, place: &Place) -> Result<Vec<u8>> {
        let plain = self.plain(place)?;
        if Id::of(&plain) == place.blob { Ok(plain) } else { Err(other_blob(place)) }
    }

    /// The same, not compared with its id: whoever asks knows what it should be.
    pub(super) fn plain(&self, place: &Place) -> Result<Vec<u8>> {
        let raw = self
            .store
            .read_partial(FileType::Pack, &place.pack.rustic(), false, place.offset, place.length)
            .map_err(|error| unreadable(&path_of(FileType::Pack, place.pack), &error))?;
        self.open_blob(place, &raw).ok_or_else(|| other_blob(place))
    }

    /// The blob's content from a whole pack in memory; nothing if it is not what it should be.
    pub(super) fn blob_in(&self, place: &Place, pack: &[u8]) -> Option<Vec<u8>> {
        let start = usize::try_from(place.offset).ok()?;
        let end = start.checked_add(usize::try_from(place.length).ok()?)?;
        self.open_blob(place, pack.get(start..end)?).filter(|plain| Id::of(plain) == place.blob)
    }

    fn open_blob(&self, place: &Place, raw: &[u8]) -> Option<Vec<u8>> {
        let mut plain = decrypt(&self.key, raw)?;
        if place.size > if place.is_tree { TREE } else { BLOB } {
            return None;
        }
        if place.compressed {
            plain = zstd::bulk::decompress(&plain, usize::try_from(place.size).ok()?).ok()?;
        }
        (u64::from(place.size) == plain.len() as u64).then_some(plain)
    }

    /// Names and sizes of all files of a kind.
    pub(super) fn list(&self, kind: FileType) -> Result<BTreeMap<Id, u64>> {
        let what = format!("listing {}", kind.dirname());
        let listed = guard::run(&what, Kind::Store, || self.store.list_with_size(kind))?;
        Ok(listed.into_iter().map(|(id, size)| (Id::from(&id), u64::from(size))).collect())
    }

    /// All indexes; one that cannot be read is a failure.
    pub(super) fn index(&self) -> Result<Index> {
        match self.index_once() {
            // A backup that repairs the index replaces files of it: what takes their place is read then.
            Err(error) if error.kind() == Kind::Verify => self.index_once(),
            read => read,
        }
    }

    fn index_once(&self) -> Result<Index> {
        let mut index = Index::default();
        for id in self.list(FileType::Index)?.into_keys() {
            self.read_index(id, &mut index).map_err(|error| match error.kind() {
                Kind::Verify => error.hint("The next backup, or `copy` for a copy, writes it anew from the packs."),
                _ => error,
            })?;
        }
        Ok(index)
    }

    /// Adds one index file.
    pub(super) fn read_index(&self, id: Id, index: &mut Index) -> Result<()> {
        let bytes = self.file(FileType::Index, id)?;
        let file = serde_json::from_slice(&bytes)
            .map_err(|error| damaged(&path_of(FileType::Index, id), &error.to_string()))?;
        index.add(file);
        Ok(())
    }

    /// All snapshot files: those that can be read, and why the others cannot.
    ///
    /// One that is gone when it is to be read is neither: a pending snapshot goes when its backup is published or
    /// given up, and a backup may be under way.
    pub(super) fn snapshots(&self) -> Result<Snapshots> {
        let (mut files, mut faults) = (BTreeMap::new(), Vec::new());
        for id in self.list(FileType::Snapshot)?.into_keys() {
            match self.snapshot(id) {
                Ok(file) => _ = files.insert(id, file),
                Err(error) => faults.push((id, error)),
            }
        }
        if !faults.is_empty() {
            let left = self.list(FileType::Snapshot)?;
            faults.retain(|(id, _)| left.contains_key(id));
        }
        Ok((files, faults))
    }

    /// One snapshot file.
    pub(super) fn snapshot(&self, id: Id) -> Result<SnapshotFile> {
        let bytes = self.file(FileType::Snapshot, id)?;
        serde_json::from_slice(&bytes).map_err(|error| damaged(&path_of(FileType::Snapshot, id), &error.to_string()))
    }
}

/// What is encrypted with `key` (64 bytes) in restic's way; nothing if it was altered.
pub(super) fn decrypt(key: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    let (nonce, data) = data.split_at_checked(16)?;
    if key.len() != 64 {
        return None;
    }
    Aes256CtrPoly1305Aes::new(Key::from_slice(key)).decrypt(Nonce::from_slice(nonce), data).ok()
}

fn other_blob(place: &Place) -> Error {
    let path = path_of(FileType::Pack, place.pack);
    damaged(&path, "a part of it is not what was stored").with("blob", place.blob)
}

pub(super) fn damaged(path: &str, cause: &str) -> Error {
    Error::new(Kind::Verify, format!("{path} is damaged")).with("cause", cause)
}

fn unreadable(path: &str, error: &rustic_core::RusticError) -> Error {
    match guard::io_kind(error) {
        Some(std::io::ErrorKind::NotFound) => Error::new(Kind::Verify, format!("{path} is missing")),
        Some(std::io::ErrorKind::UnexpectedEof) => damaged(path, "it is shorter than it was"),
        _ => Error::new(Kind::Store, format!("cannot read {path}")).with("cause", guard::words(error)),
    }
}
