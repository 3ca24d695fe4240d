//! The encrypted store of backups, in restic's format.
//!
//! It knows files, snapshots and packs; it knows nothing of PostgreSQL. The storage library (rustic) writes; what it
//! wrote is read back by our own code, which compares every byte with the id that names it.
//!
//! | module | does |
//! |---|---|
//! | [`lock`] | who may do what at the same time, for us and for restic |
//! | [`location`] | directory or URL, shown without secrets |
//! | `password`, [`keys`] | from the password's file to the master key, with a message per cause; more passwords |
//! | `guard` | makes one failure of what the library returns, logs or panics with |
//! | `store` | the files: strict listings, synced directories, a journal of what a run wrote |
//! | `directory` | the same in a directory, within these limits |
//! | `limits` | the most that is taken from a storage |
//! | `remote`, `network` | the same files behind a network: what is there, what is refused, what cannot be reached |
//! | `vault`, `tree` | reading files, blobs and trees back, compared with their ids |
//! | [`feed`] | what is given to be stored, and what of it was read |
//! | [`archive`] | stores a feed as a pending snapshot, compares it, reads it back |
//! | [`snapshots`] | lists, publishes, deletes; sweeps what killed runs left |
//! | [`read`] | files of a snapshot, as a restore needs them |
//! | [`check`] | structure, and every byte of every pack |
//! | `making` | a new repository, by one run alone |
//! | [`copy`], [`mend`] | backups into another repository, proved there |
//! | [`repair`], `pack_header` | the index again what the packs are, after some were lost |
//! | [`prune`] | removes what no snapshot needs, a day after it was marked |
//!
//! All of it blocks: call it on a thread that may.

pub mod archive;
pub mod check;
pub mod copy;
mod directory;
pub mod feed;
mod guard;
pub mod id;
pub mod keys;
mod limits;
pub mod location;
pub mod lock;
mod making;
pub mod mend;
pub mod mistake;
#[cfg(feature = "network")]
mod network;
mod pack_header;
mod password;
pub mod prune;
pub mod read;
mod remote;
pub mod repair;
pub mod snapshots;
mod store;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tree;
mod unfinished;
mod vault;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustic_backend::BackendOptions;
use rustic_core::repofile::Chunker;
use rustic_core::repofile::{ConfigFile, MasterKey};
use rustic_core::{
    ConfigOptions, Credentials, FileType, KeyOptions, OpenStatus, ReadBackend, RepositoryBackends, RepositoryOptions,
};

pub use id::Id;
pub use location::Location;
pub use mistake::mistakes;

use self::directory::Directory;
use self::store::{Journal, Store};
use self::vault::Vault;
use crate::error::{Context, Error, Kind, Result};
use crate::settings;

/// The newest format that is understood, as restic numbers it.
const NEWEST_FORMAT: u32 = 2;

/// An open repository. Cheap to clone; may be used by several threads. Its `Debug` shows no secret.
#[derive(Clone)]
pub struct Handle {
    location: Location,
    id: Id,
    /// The key file that it was opened with.
    key: Id,
    master: MasterKey,
    vault: Arc<Vault>,
}

impl Handle {
    /// What tells this repository from every other, for the whole of its life.
    #[must_use]
    pub fn id(&self) -> Id {
        self.id
    }

    /// Where it lies.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The library's view of it, with a journal for what it writes.
    fn library(&self, journal: &Arc<Journal>) -> Result<rustic_core::Repository<OpenStatus>> {
        let store = self.vault.store.with_journal(journal);
        guard::run("opening the repository", Kind::Store, || {
            library(store)?.open(&Credentials::Masterkey(self.master.clone()))
        })
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { location, id, .. } = self;
        formatter.debug_struct("Handle").field("location", location).field("id", id).finish_non_exhaustive()
    }
}

/// Makes a new repository in a directory that is missing or empty, or at a network location without any file of one;
/// `compression` is zstd's level, 1 to 22.
///
/// # Errors
/// [`Kind::Refused`] if there is anything in it, if access is denied, or if the password is empty, shorter than 20 characters
/// or such that restic would read it differently; [`Kind::Busy`] if another run is making one there; [`Kind::Store`] if
/// writing fails or the place cannot be reached.
pub fn init(settings: &settings::Repository, compression: u32) -> Result<Handle> {
    let location = Location::parse(&settings.location)?;
    let password = password::read_for_new(settings)?;
    // A pack is held in memory until it is written, and up to six are on their way: 8 MiB each keeps that below
    // 50 MiB. By default packs are 32 MiB and grow with the repository.
    let mut options = ConfigOptions::default();
    let bytes = |error| Error::new(Kind::Store, "a size of packs is not understood").with("cause", error);
    options.set_datapack_size = Some("8MiB".parse().map_err(bytes)?);
    options.set_datapack_growfactor = Some(0);
    options.set_treepack_size = Some("4MiB".parse().map_err(bytes)?);
    options.set_treepack_growfactor = Some(0);
    // Files are cut where they were read from the database: a change in one part of a table changes its own file and no
    // other, so looking for cuts in the content would find little that is the same, for a sixth of the time.
    options.set_chunker = Some(Chunker::FixedSize);
    options.set_chunk_size = Some("4MiB".parse().map_err(bytes)?);
    // Everything that is written is read back from where it lies before it counts.
    options.set_extra_verify = Some(false);
    options.set_compression = i32::try_from(compression).ok();
    making::make(settings, &location, |library| {
        library.init(&Credentials::password(password.expose()), &KeyOptions::default().with_created(true), &options)
    })
}

/// Opens a repository to write into it. Never makes one.
///
/// # Errors
/// [`Kind::Refused`]: there is none, it cannot be read, the password is wrong or a key file damaged, its format is
/// newer; [`Kind::Busy`]: restic holds a lock that excludes writing; [`Kind::Verify`]: its `config` is damaged;
/// [`Kind::Store`]: a place behind a network cannot be reached.
pub fn open(settings: &settings::Repository) -> Result<Handle> {
    open_as(settings, true)
}

/// Opens a repository to read from it, even if a lock of restic was left there.
///
/// # Errors
/// As [`open`], but for the lock.
pub fn open_to_read(settings: &settings::Repository) -> Result<Handle> {
    open_as(settings, false)
}

fn open_as(settings: &settings::Repository, to_write: bool) -> Result<Handle> {
    let location = Location::parse(&settings.location)?;
    let password = password::read(settings)?;
    probe(&location, settings)?;
    let store = backend(&location, settings)?;
    let located = |error: Error| error.with("location", &location).or_state("nothing was touched");
    let keys::Opened { id: key, master, bytes } = keys::open(&store, &password).map_err(located)?;
    let vault = Vault::new(store, bytes);
    if to_write {
        // restic locks what it works on; the storage library does not look.
        lock::refuse(&vault, &location, false)?;
    }
    let config = vault.file(FileType::Config, Id::from([0; 32])).map_err(|error| match error.kind() {
        Kind::Verify => located(error)
            .hint("Put `config` back from a backup of that disk: it never changes.")
            .hint("A copy is made anew by `teslamate-backup copy`, in an empty directory: move this one away."),
        _ => located(error),
    })?;
    let config: ConfigFile =
        serde_json::from_slice(&config).map_err(|error| located(vault::damaged("config", &error.to_string())))?;
    if !(1..=NEWEST_FORMAT).contains(&config.version) {
        let version = config.version;
        let message = format!("the repository has format {version}, this build understands up to {NEWEST_FORMAT}");
        return Err(located(Error::new(Kind::Refused, message)).hint("Use the newer program that wrote it."));
    }
    let id = Id::from(&*config.id);
    Ok(Handle { location: location.clone(), id, key, master, vault })
}

/// The library's repository over these files. Its cache would be trusted without a hash, so there is none.
fn library(store: Store) -> rustic_core::RusticResult<rustic_core::Repository<()>> {
    let mut options = RepositoryOptions::default();
    options.no_cache = true;
    rustic_core::Repository::new(&options, &RepositoryBackends::new(Arc::new(store), None))
}

fn backend(location: &Location, settings: &settings::Repository) -> Result<Store> {
    let Location::Directory(root) = location else {
        return Ok(Store::over(remote::reach(settings)?, location));
    };
    if let Some(first) = mistake::of_directory(location, settings).into_iter().next() {
        return Err(first.into());
    }
    let options = BackendOptions::default().repository(root.to_string_lossy().into_owned());
    let backends = guard::run("opening the storage", Kind::Refused, || options.to_backends())?;
    Ok(Store::new(Directory::new(backends.repository(), root), root))
}

/// Says why there is no repository to open: the library says "no config file" whatever the reason.
fn probe(location: &Location, settings: &settings::Repository) -> Result<()> {
    match location {
        Location::Directory(root) => probe_directory(root),
        Location::Network(_) => remote::probe(&*remote::reach(settings)?, location),
    }
}

fn probe_directory(root: &Path) -> Result<()> {
    let refused = |message: String| Error::new(Kind::Refused, message).with("state", "nothing was touched");
    let unreadable = |path: &Path, cause: &std::io::Error| {
        refused(format!("cannot read the repository at {}", root.display()))
            .with("path", path.display())
            .with("cause", cause)
            .hint("Look at its owner and mode, and whether its file system is mounted.")
    };
    let none = |why: &str| {
        refused(format!("no repository at {}", root.display()))
            .with("cause", why)
            .hint("If it was there before, mount its file system; if not, make it with `teslamate-backup init`.")
    };
    match std::fs::read_dir(root) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Err(none("there is no such directory")),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotADirectory => return Err(none("this is no directory")),
        Err(cause) => return Err(unreadable(root, &cause)),
        Ok(mut entries) => {
            if entries.next().is_none() {
                return Err(none("the directory is empty"));
            }
        }
    }
    let config = root.join("config");
    match std::fs::File::open(&config) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Err(none("it has no file `config`")),
        Err(cause) => return Err(unreadable(&config, &cause)),
        Ok(_) => {}
    }
    for kind in [FileType::Key, FileType::Snapshot, FileType::Index, FileType::Pack] {
        let directory = root.join(kind.dirname());
        std::fs::read_dir(&directory).map_err(|cause| unreadable(&directory, &cause))?;
    }
    Ok(())
}

/// Whether there is nothing where the repository should be: a directory that is missing or empty, or in which an `init`
/// was killed; at a network location, no `config` and no other file of a repository. Blocks: such a location is asked.
///
/// # Errors
/// [`Kind::Usage`] for a location that is none, [`Kind::Refused`] if it cannot be looked at, [`Kind::Store`] if it
/// cannot be reached: that is not the same as being absent.
pub fn is_absent(settings: &settings::Repository) -> Result<bool> {
    let location = Location::parse(&settings.location)?;
    let root = match &location {
        Location::Directory(root) => root,
        Location::Network(_) => {
            return Ok(remote::anything(&*remote::reach(settings)?, &location)?.is_none());
        }
    };
    match std::fs::read_dir(root) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(cause) => Err(Error::new(Kind::Refused, format!("cannot look into {}", root.display()))
            .with("cause", cause)
            .with("state", "nothing was touched")),
        Ok(mut entries) => {
            let is_empty = entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lost+found"));
            Ok(is_empty || unfinished::is_left(root).unwrap_or(false))
        }
    }
}

/// Whether a backup, or a copy, may make the repository by itself: where a directory is missing or empty, though a copy
/// is made in an empty one only ([`copy::init_copy`]). At a network location only somebody who says so makes one: what
/// looks absent there may be the wrong bucket, or a disk that the server has not mounted.
///
/// # Errors
/// As [`is_absent`].
pub fn may_be_made(settings: &settings::Repository) -> Result<bool> {
    match Location::parse(&settings.location)? {
        Location::Directory(_) => is_absent(settings),
        Location::Network(_) => Ok(false),
    }
}

/// The names of all snapshot files, published or not. Needs no password.
///
/// # Errors
/// [`Kind::Refused`] if there is no repository, or it cannot be read; [`Kind::Store`] if it cannot be reached.
pub fn present(settings: &settings::Repository) -> Result<BTreeSet<Id>> {
    let location = Location::parse(&settings.location)?;
    probe(&location, settings)?;
    let store = backend(&location, settings)?;
    let kind = if store.is_remote() { Kind::Store } else { Kind::Refused };
    let listed = guard::run("listing snapshots", kind, || store.list_with_size(FileType::Snapshot))?;
    Ok(listed.iter().map(|(id, _)| Id::from(id)).collect())
}

fn refuse_unless_empty(location: &Location, settings: &settings::Repository) -> Result<()> {
    let refused = |message: String| Error::new(Kind::Refused, message).with("state", "nothing was touched");
    let Location::Directory(root) = location else {
        return match remote::anything(&*remote::reach(settings)?, location)? {
            None => Ok(()),
            Some(found) => {
                let message = format!("{location} is not empty: no repository is made there");
                let left = "If that is all there is, and no other run makes a repository there, an `init` was killed: \
                            remove that file, then try again.";
                Err(refused(message)
                    .with("hint", if found.starts_with("keys/") { left } else { "" })
                    .with("found", found))
            }
        };
    };
    if unfinished::is_left(root).unwrap_or(false) {
        return unfinished::clear(root)
            .context(Kind::Store, format!("cannot clear away what a killed `init` left in {}", root.display()));
    }
    match std::fs::read_dir(root) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(refused(format!("cannot look into {}", root.display())).with("cause", cause)),
        Ok(entries) => {
            // A second key and config beside the first would hide every backup that is there.
            for entry in entries {
                let entry = entry
                    .map_err(|cause| refused(format!("cannot look into {}", root.display())).with("cause", cause))?;
                if entry.file_name() != "lost+found" {
                    return Err(refused(format!("{} is not empty: no repository is made there", root.display()))
                        .with("found", entry.file_name().display()));
                }
            }
            Ok(())
        }
    }
}
