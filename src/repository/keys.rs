//! From a password to the master key, through the key files.
//!
//! The storage library gives up at the first key file that it cannot parse; here all of them are tried, and the
//! message tells a wrong password from a damaged file as far as that is possible.

use rustic_core::repofile::{KeyFile, MasterKey};
use rustic_core::{FileType, ReadBackend};
use zeroize::Zeroizing;

use super::guard;
use super::id::{Id, path_of};
use super::store::Store;
use super::vault::decrypt;
use crate::error::{Error, Kind, Result};
use crate::settings::Secret;

/// The most memory in bytes that a key file may ask for: a damaged one must not end the process.
const MOST_MEMORY: u64 = 1 << 30;

/// The master key in both forms that are needed.
pub(super) struct Opened {
    /// For the storage library.
    pub(super) master: MasterKey,
    /// For our own reading: 64 bytes.
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

/// Finds the key file that the password opens.
///
/// # Errors
/// [`Kind::Refused`]: no key file, or none that this password opens. Names every key file.
pub(super) fn open(store: &Store, password: &Secret) -> Result<Opened> {
    let listed = guard::run("listing keys", Kind::Refused, || store.list_with_size(FileType::Key))?;
    let mut ids: Vec<Id> = listed.iter().map(|(id, _)| Id::from(id)).collect();
    ids.sort_unstable();
    if ids.is_empty() {
        return Err(Error::new(Kind::Refused, "the repository has no key file").with("directory", "keys"));
    }
    let mut faults = Vec::new();
    for id in &ids {
        let path = path_of(FileType::Key, *id);
        let raw = match store.read_full(FileType::Key, &id.rustic()) {
            Ok(raw) => raw,
            Err(error) => {
                faults.push(format!("{path}: {}", guard::words(&error)));
                continue;
            }
        };
        if let Some(opened) = try_file(&raw, password) {
            return Ok(opened);
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
    Err(Error::new(Kind::Refused, message).with("keys", names.join("\n")).with("damaged", faults.join("\n")))
}

fn try_file(raw: &[u8], password: &Secret) -> Option<Opened> {
    let file: KeyFile = serde_json::from_slice(raw).ok()?;
    let memory = u64::from(file.n).checked_mul(u64::from(file.r))?.checked_mul(128)?;
    let plausible = file.kdf == "scrypt"
        && file.n.is_power_of_two()
        && file.n > 1
        && (1..=MOST_MEMORY).contains(&memory)
        && (1..=64).contains(&file.p);
    if !plausible {
        return None;
    }
    let derived =
        guard::hear("deriving a key", Kind::Refused, || file.kdf_key(&password.expose())).ok()?.result.ok()?;
    let derived = Zeroizing::new(join(derived.to_keys()));
    let json = Zeroizing::new(decrypt(&derived, &file.data)?);
    let master: MasterKey = serde_json::from_slice(&json).ok()?;
    let bytes = Zeroizing::new([&master.encrypt[..], &master.mac.k[..], &master.mac.r[..]].concat());
    (bytes.len() == 64).then_some(Opened { master, bytes })
}

fn join((encrypt, k, r): (Vec<u8>, Vec<u8>, Vec<u8>)) -> Vec<u8> {
    [encrypt, k, r].concat()
}
