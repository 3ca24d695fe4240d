//! Making a repository, by one run alone: two that put their keys into one place leave something that neither opens.
//!
//! On one machine flock(2) on the directory decides. Everywhere, also behind a network and between machines, a run
//! writes its key first and looks whether it is the only one before it writes `config` ([`super::store`]). Of two that
//! see each other both take their key away; each tries again after a while, and finds the other's repository then.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustic_core::{FileType, RusticResult, WriteBackend};

use super::store::Journal;
use super::{Handle, Location, backend, guard, library, open, refuse_unless_empty};
use crate::error::{Error, Kind, Result};
use crate::path::command_to_make;
use crate::settings;

/// How often it is tried where others try, too.
const ATTEMPTS: u64 = 5;

/// The library's repository, not made yet.
type Unmade = rustic_core::Repository<()>;

/// Makes it, where there is nothing.
///
/// # Errors
/// [`Kind::Busy`] if another run is making one there; what [`refuse_unless_empty`] says.
pub(super) fn make<T>(
    settings: &settings::Repository,
    location: &Location,
    work: impl Fn(Unmade) -> RusticResult<T>,
) -> Result<Handle> {
    let _alone = match location {
        Location::Directory(root) => alone(root, location)?,
        Location::Network(_) => None,
    };
    let mut attempt = 0;
    loop {
        refuse_unless_empty(location, settings)?;
        let Err(error) = attempt_once(settings, location, &work) else { return open(settings) };
        attempt += 1;
        if error.kind() != Kind::Busy || attempt == ATTEMPTS {
            return Err(error.with("location", location));
        }
        // Two that are in step would meet for ever.
        std::thread::sleep(Duration::from_millis(200 * attempt + u64::from(std::process::id() % 61) * 20));
    }
}

fn attempt_once<T>(
    settings: &settings::Repository,
    location: &Location,
    work: impl Fn(Unmade) -> RusticResult<T>,
) -> Result<()> {
    let journal = Arc::<Journal>::default();
    let store = backend(location, settings)?.with_journal(&journal);
    let made = guard::run("making a repository", Kind::Store, || work(library(store.clone())?).map(drop));
    let Some(error) = journal.take_failure().or(made.err()) else { return Ok(()) };
    // A key without a repository opens nothing, and would keep others from making theirs.
    Err(journal.written().keys.into_iter().fold(error, |error, id| {
        match guard::run("removing the key", Kind::Store, || store.remove(FileType::Key, &id.rustic(), false)) {
            Ok(()) => error,
            Err(second) => error.with("left", second.message()),
        }
    }))
}

/// Holds the directory while a repository is made in it. Where that cannot be done, as on some network file systems, the
/// look before `config` has to do.
fn alone(root: &Path, location: &Location) -> Result<Option<File>> {
    match std::fs::create_dir_all(root) {
        Err(cause) if cause.kind() == std::io::ErrorKind::PermissionDenied && !root.exists() => {
            return Err(Error::new(Kind::Refused, format!("cannot make the directory {}", root.display()))
                .with("cause", cause)
                .with("state", "no repository was made")
                .hint(format!("Make it as root, for this account: `{}`", command_to_make(root))));
        }
        // What else is wrong with it, making the repository says.
        _ => {}
    }
    let Ok(directory) = File::open(root) else { return Ok(None) };
    match directory.try_lock() {
        Ok(()) => Ok(Some(directory)),
        Err(TryLockError::WouldBlock) => {
            Err(in_use(&format!("another run uses or makes the repository at {location}")))
        }
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Somebody else makes a repository in the same place.
pub(super) fn in_use(message: &str) -> Error {
    Error::new(Kind::Busy, message)
        .with("state", "no repository was made by this run")
        .hint("Try again when it has ended. Each database needs a `repository.location` of its own.")
}
