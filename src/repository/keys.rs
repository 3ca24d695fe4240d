//! From a password to the master key, through the key files.
//!
//! The storage library gives up at the first key file that it cannot parse; here all of them are tried, and the
//! message tells a wrong password from a damaged file as far as that is possible.
//!
//! Each password has a key file of its own, and all of them hold the same master key: adding and removing one touches
//! no backup. A removed password opens what lies in the repository from then on no more; who copied its key file
//! before still can.

use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use nix::unistd::{User, geteuid, gethostname};
use rustic_core::repofile::{KeyFile, MasterKey};
use rustic_core::{FileType, KeyOptions, ReadBackend, WriteBackend};
use zeroize::Zeroizing;

use super::id::{Id, path_of};
use super::limits::{KEYS, too_many_keys};
use super::store::Store;
use super::vault::{damaged, decrypt};
use super::{Handle, guard, password};
use crate::error::{Error, Kind, Result};
use crate::settings::Secret;

/// The most memory in bytes that a key file may ask for: a damaged one must not end the process.
const MOST_MEMORY: u64 = 1 << 30;

/// The most work, which is memory as often as it is gone through: half a minute on a slow machine. restic's own have 2 GiB
/// at most.
const MOST_WORK: u64 = 8 << 30;

/// The master key in both forms that are needed.
pub(super) struct Opened {
    /// The key file that the password opened.
    pub(super) id: Id,
    /// For the storage library.
    pub(super) master: MasterKey,
    /// For our own reading: 64 bytes.
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

/// Finds the key file that the password opens.
///
/// # Errors
/// [`Kind::Refused`]: no key file, or none that this password opens. Names every key file. [`Kind::Store`]: they cannot
/// be reached now.
pub(super) fn open(store: &Store, password: &Secret) -> Result<Opened> {
    let kind = if store.is_remote() { Kind::Store } else { Kind::Refused };
    let listed = guard::run("listing keys", kind, || store.list_with_size(FileType::Key))?;
    let mut ids: Vec<Id> = listed.iter().map(|(id, _)| Id::from(id)).collect();
    ids.sort_unstable();
    if ids.is_empty() {
        return Err(Error::new(Kind::Refused, "the repository has no key file").with("directory", "keys"));
    }
    if ids.len() > KEYS {
        return Err(
            Error::new(Kind::Refused, "the repository has too many keys").with("cause", too_many_keys(ids.len()))
        );
    }
    let mut faults = Vec::new();
    for id in &ids {
        let path = path_of(FileType::Key, *id);
        let raw = match store.read_full(FileType::Key, &id.rustic()) {
            Ok(raw) => raw,
            // No word of the password then: nobody has tried it.
            Err(error) if store.is_remote() => return Err(guard::convert(&format!("reading {path}"), kind, &error)),
            Err(error) => {
                faults.push(format!("{path}: {}", guard::words(&error)));
                continue;
            }
        };
        if let Some((master, bytes)) = try_file(&raw, password) {
            return Ok(Opened { id: *id, master, bytes });
        }
        if Id::of(&raw) != *id {
            faults.push(format!("{path}: damaged, its bytes are not those that its name promises"));
        }
    }
    let names: Vec<_> = ids.iter().map(|id| path_of(FileType::Key, *id)).collect();
    let message = if faults.is_empty() {
        "wrong password: it opens no key of the repository"
    } else {
        "wrong password or damaged key file: no key of the repository could be opened"
    };
    let error = Error::new(Kind::Refused, message).with("keys", names.join("\n")).with("damaged", faults.join("\n"));
    if faults.is_empty() {
        return Err(error
            .hint("Set `repository.password_file` to a file with the password that it was made with, or with one of another key.")
            .hint(
                "Without any password nobody can read it. Then begin a new repository: set `repository.location` to an empty \
                 directory, and `teslamate-backup init`; keep a copy of its password on another machine.",
            ));
    }
    Err(error
        .hint("If the password is right, put `keys/` back from a backup of that disk, or use another key's password.")
        .hint("A copy is made anew by `teslamate-backup copy`, in an empty directory: move this one away."))
}

fn try_file(raw: &[u8], password: &Secret) -> Option<(MasterKey, Zeroizing<Vec<u8>>)> {
    let file: KeyFile = serde_json::from_slice(raw).ok()?;
    let memory = u64::from(file.n).checked_mul(u64::from(file.r))?.checked_mul(128)?;
    let plausible = file.kdf == "scrypt"
        && file.n.is_power_of_two()
        && file.n > 1
        && (1..=MOST_MEMORY).contains(&memory)
        && (1..=64).contains(&file.p)
        && memory.saturating_mul(u64::from(file.p)) <= MOST_WORK;
    if !plausible {
        return None;
    }
    let derived =
        guard::hear("deriving a key", Kind::Refused, || file.kdf_key(&password.expose())).ok()?.result.ok()?;
    let derived = Zeroizing::new(join(derived.to_keys()));
    let json = Zeroizing::new(decrypt(&derived, &file.data)?);
    let master: MasterKey = serde_json::from_slice(&json).ok()?;
    let bytes = Zeroizing::new([&master.encrypt[..], &master.mac.k[..], &master.mac.r[..]].concat());
    (bytes.len() == 64).then_some((master, bytes))
}

fn join((encrypt, k, r): (Vec<u8>, Vec<u8>, Vec<u8>)) -> Vec<u8> {
    [encrypt, k, r].concat()
}

/// A key file, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its id.
    pub id: Id,
    /// When it was made, if it says so.
    pub created: Option<DateTime<Utc>>,
    /// The machine that it was made on, if it says so.
    pub host: Option<String>,
    /// The account that made it, if it says so.
    pub user: Option<String>,
    /// Whether the repository was opened with it.
    pub in_use: bool,
    /// Why it opens nothing, if it is damaged.
    pub damaged: Option<String>,
}

/// All key files, by id.
///
/// # Errors
/// [`Kind::Store`] if they cannot be listed or read. A damaged one is listed.
pub fn list(handle: &Handle) -> Result<Vec<Key>> {
    let mut keys = Vec::new();
    for id in handle.vault.list(FileType::Key)?.into_keys() {
        let raw = handle.vault.raw(FileType::Key, id)?;
        let file = serde_json::from_slice::<KeyFile>(&raw);
        let damaged = match &file {
            _ if Id::of(&raw) != id => Some("its bytes are not those that its name promises".to_owned()),
            Err(error) => Some(error.to_string()),
            Ok(_) => None,
        };
        let file = file.ok();
        let created = file.as_ref().and_then(|file| file.created.as_ref());
        keys.push(Key {
            id,
            created: created.and_then(|time| DateTime::from_timestamp(time.timestamp().as_second(), 0)),
            host: file.as_ref().and_then(|file| file.hostname.clone()),
            user: file.and_then(|file| file.username),
            in_use: id == handle.key,
            damaged,
        });
    }
    Ok(keys)
}

/// Adds a key for the password in this file of these bytes, and proves that it opens the repository. Gives its id.
///
/// # Errors
/// [`Kind::Refused`] if the password would not do for a new repository, or opens it already; [`Kind::Store`] if the
/// key cannot be written; [`Kind::Verify`] if it does not open the repository: it is removed again then.
pub fn add(handle: &Handle, password_file: &Path, bytes: &[u8]) -> Result<Id> {
    let password = password::fit_for_new(password_file, bytes)?;
    let state = "the keys are as they were";
    for id in handle.vault.list(FileType::Key)?.into_keys() {
        if try_file(&handle.vault.raw(FileType::Key, id)?, &password).is_some() {
            return Err(Error::new(Kind::Refused, "this password opens the repository already")
                .with("key", id)
                .with("file", password_file.display())
                .with("state", state));
        }
    }
    let mut options = KeyOptions::default().with_created(true);
    options.hostname = gethostname().ok().map(|name| name.to_string_lossy().into_owned());
    options.username = User::from_uid(geteuid()).ok().flatten().map(|user| user.name);
    let library = handle.library(&Arc::default())?;
    let added = guard::run("adding a key", Kind::Store, || library.add_key(password.expose(), &options));
    let id = Id::from(&*added.map_err(|error| error.or_state(state))?);
    let proved = handle.vault.raw(FileType::Key, id).and_then(|raw| match try_file(&raw, &password) {
        Some((_, bytes)) if Id::of(&raw) == id && handle.vault.has_key(&bytes) => Ok(id),
        _ => Err(damaged(&path_of(FileType::Key, id), "it does not open the repository")),
    });
    proved.map_err(|error| match delete(handle, id) {
        Ok(()) => error.with("state", state),
        Err(second) => error.with("left", second.message()),
    })
}

/// Removes a key: its password opens the repository no more.
///
/// # Errors
/// [`Kind::Refused`] if there is no such key, if it is the last one, or the one that the repository was opened with:
/// what is left would be a repository that this caller cannot open. [`Kind::Verify`] if the one in use is missing or
/// damaged, so that it could not open the repository again; [`Kind::Store`] if the file cannot be removed.
pub fn remove(handle: &Handle, id: Id) -> Result<()> {
    let refused = |message: String| Error::new(Kind::Refused, message).with("state", "no key was removed");
    let keys = list(handle)?;
    let Some(key) = keys.iter().find(|key| key.id == id) else {
        return Err(
            refused(format!("there is no key {id}")).hint("`teslamate-backup key list` shows the keys that there are.")
        );
    };
    if keys.len() == 1 {
        return Err(refused(format!("{id} is the last key: without it nobody can open the repository"))
            .hint("Add another one first: `teslamate-backup key add`."));
    }
    if key.in_use {
        return Err(refused(format!("{id} is the key in use"))
            .hint("Put the password of another key into `repository.password_file`, then remove this one."));
    }
    if !keys.iter().any(|key| key.in_use && key.damaged.is_none()) {
        return Err(damaged(&path_of(FileType::Key, handle.key), "it is the key in use, and is missing or altered")
            .with("state", "no key was removed"));
    }
    delete(handle, id)
}

fn delete(handle: &Handle, id: Id) -> Result<()> {
    let what = format!("removing {}", path_of(FileType::Key, id));
    guard::run(&what, Kind::Store, || handle.vault.store.remove(FileType::Key, &id.rustic(), false))
}
