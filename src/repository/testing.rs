//! Real repositories in temporary directories, for tests.
//!
//! Deriving a key takes a third of a second by design. The repository is therefore made once for all tests, gets a key
//! file with the lowest cost, and is copied.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use aes256ctr_poly1305aes::aead::Aead;
use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key, Nonce};
use chrono::{DateTime, Utc};
use rustic_core::repofile::KeyFile;
use rustic_core::{BytesList, FileType, ReadBackend, RusticResult, WriteBackend};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::archive::{Archived, Request, archive, read_back};
use super::feed::{Body, Entry};
use super::store::Store;
use super::vault::Vault;
use super::{Handle, Id, snapshots};
use crate::error::Result;
use crate::progress::Meter;
use crate::settings;

pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// Tests that call the storage library hear each other's failures, so each is alone.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A repository of its own. Gone when it is dropped.
pub(crate) struct Fixture {
    directory: TempDir,
    pub(crate) settings: settings::Repository,
    _alone: MutexGuard<'static, ()>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let alone = alone();
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path(), PASSWORD);
        copy(template(), Path::new(&settings.location));
        Self { directory, settings, _alone: alone }
    }

    /// A second one beside it, as [`copy::init_copy`](super::copy::init_copy) makes it.
    pub(crate) fn second(&self) -> settings::Repository {
        let directory = self.directory.path().join("second");
        std::fs::create_dir(&directory).unwrap();
        let settings = settings(&directory, PASSWORD);
        std::fs::create_dir(&settings.location).unwrap();
        super::copy::init_copy(&settings, &self.open()).unwrap();
        settings
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("repository")
    }

    pub(crate) fn open(&self) -> Handle {
        super::open(&self.settings).unwrap()
    }

    /// With something that happens before a file is read, and something that is done to what is written.
    pub(crate) fn open_hooked(
        &self,
        before_read: impl Fn(FileType) + Send + Sync + 'static,
        written: impl Fn(FileType, Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
    ) -> Handle {
        hooked(&self.root(), &self.open(), before_read, written)
    }

    /// On a failing disk: of each pack of data that is written, one bit is another.
    pub(crate) fn open_rotting(&self) -> Handle {
        self.open_hooked(|_| {}, rot)
    }

    /// Every file of the repository.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.root(), &mut found);
        found.sort();
        found
    }

    /// Takes and publishes a backup.
    pub(crate) fn backup(&self, entries: Vec<Entry>, parent: Option<Id>) -> Id {
        let handle = self.open();
        let archived = store(&handle, entries, parent).unwrap();
        read_back(&handle, &archived, &Meter::default()).unwrap();
        snapshots::publish(&handle, &archived).unwrap().snapshot.id
    }
}

/// Flips a bit of a pack of data: damage in a list of files would show at once.
pub(crate) fn rot(kind: FileType, mut bytes: Vec<u8>) -> Vec<u8> {
    if kind == FileType::Pack && bytes.len() > 100_000 {
        bytes[40] ^= 1;
    }
    bytes
}

/// The repository in this directory with hooks, see [`Fixture::open_hooked`].
pub(crate) fn hooked(
    root: &Path,
    handle: &Handle,
    before_read: impl Fn(FileType) + Send + Sync + 'static,
    written: impl Fn(FileType, Vec<u8>) -> Vec<u8> + Send + Sync + 'static,
) -> Handle {
    let options = rustic_backend::BackendOptions::default().repository(root.to_str().unwrap().to_owned());
    let inner = options.to_backends().unwrap().repository();
    let hooked = Hooked { inner, before_read: Box::new(before_read), written: Box::new(written) };
    let key = [&handle.master.encrypt[..], &handle.master.mac.k[..], &handle.master.mac.r[..]].concat();
    let vault = Vault::new(Store::new(Arc::new(hooked), root), Zeroizing::new(key));
    Handle { vault, ..handle.clone() }
}

type BeforeRead = dyn Fn(FileType) + Send + Sync;
type Written = dyn Fn(FileType, Vec<u8>) -> Vec<u8> + Send + Sync;

/// Files with hooks.
struct Hooked {
    inner: Arc<dyn WriteBackend>,
    before_read: Box<BeforeRead>,
    written: Box<Written>,
}

impl fmt::Debug for Hooked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Hooked")
    }
}

impl ReadBackend for Hooked {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(rustic_core::Id, u32)>> {
        self.inner.list_with_size(kind)
    }

    fn read_full(&self, kind: FileType, id: &rustic_core::Id) -> RusticResult<bytes::Bytes> {
        (self.before_read)(kind);
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
        (self.before_read)(kind);
        self.inner.read_partial(kind, id, cacheable, offset, length)
    }

    fn warmup_path(&self, kind: FileType, id: &rustic_core::Id) -> String {
        self.inner.warmup_path(kind, id)
    }
}

impl WriteBackend for Hooked {
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
        let content = (self.written)(kind, content.into_vec().concat());
        self.inner.write_bytes(kind, id, cacheable, content.into())
    }

    fn remove(&self, kind: FileType, id: &rustic_core::Id, cacheable: bool) -> RusticResult<()> {
        self.inner.remove(kind, id, cacheable)
    }
}

pub(crate) fn settings(directory: &Path, password: &str) -> settings::Repository {
    let password_file = directory.join("password");
    // Another process of the same test may be killed in the middle of writing it again.
    if !password_file.exists() {
        std::fs::write(&password_file, password).unwrap();
    }
    let location = directory.join("repository").to_str().unwrap().to_owned();
    settings::Repository { location, password_file, ..Default::default() }
}

pub(crate) fn request(parent: Option<Id>) -> Request {
    Request {
        parent,
        tags: vec!["hourly".into()],
        host: "box".into(),
        label: "teslamate".into(),
        description: Some("a test".into()),
        time: time(0),
    }
}

pub(crate) fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + seconds, 5).unwrap()
}

pub(crate) fn store(handle: &Handle, entries: Vec<Entry>, parent: Option<Id>) -> Result<Archived> {
    archive(handle, entries.into_iter().map(Ok), &request(parent))
}

pub(crate) fn bytes(path: &str, content: impl Into<Vec<u8>>) -> Entry {
    Entry { path: path.into(), mode: 0o640, mtime: time(1), owner: None, body: Body::Bytes(content.into()) }
}

pub(crate) fn reused(path: &str, size: u64) -> Entry {
    Entry { path: path.into(), mode: 0o640, mtime: time(99), owner: None, body: Body::Reused { size } }
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// An empty repository with a cheap key. Its directory lasts as long as the process.
fn template() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path(), PASSWORD);
        let handle = super::init(&settings, 3).unwrap();
        let keys = directory.path().join("repository/keys");
        let costly = std::fs::read_dir(&keys).unwrap().next().unwrap().unwrap().path();
        let mut file: KeyFile = serde_json::from_slice(&std::fs::read(&costly).unwrap()).unwrap();
        file.n = 2;
        let (encrypt, k, r) = file.kdf_key(&PASSWORD).unwrap().to_keys();
        let key = [encrypt, k, r].concat();
        let nonce = noise(7, 16);
        let json = serde_json::to_vec(&handle.master).unwrap();
        let sealed = Aes256CtrPoly1305Aes::new(Key::from_slice(&key)).encrypt(Nonce::from_slice(&nonce), &*json);
        file.data = [nonce, sealed.unwrap()].concat();
        let cheap = serde_json::to_vec(&file).unwrap();
        std::fs::write(keys.join(Id::of(&cheap).to_string()), &cheap).unwrap();
        std::fs::remove_file(costly).unwrap();
        directory
    });
    ROOT.get_or_init(|| made.path().join("repository"))
}

/// Seals bytes as a file of the repository.
pub(crate) fn seal(handle: &Handle, plain: &[u8]) -> Vec<u8> {
    let key = [&handle.master.encrypt[..], &handle.master.mac.k[..], &handle.master.mac.r[..]].concat();
    let nonce = noise(8, 16);
    let sealed = Aes256CtrPoly1305Aes::new(Key::from_slice(&key)).encrypt(Nonce::from_slice(&nonce), plain);
    [nonce, sealed.unwrap()].concat()
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}
