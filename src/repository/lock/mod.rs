//! Who may do what in a repository at the same time.
//!
//! On one machine flock(2) decides, on the repository's own directory: it ends with the process, however that ends,
//! and it is the same lock for everyone whatever the state directory. Backups, checks, restores and copies share it;
//! what removes something has it alone. Of backups there is one at a time: a second lock, on `snapshots`.
//!
//! | work | repository | `snapshots` |
//! |---|---|---|
//! | backup | shared | exclusive |
//! | check, restore, copy | shared | - |
//! | forget, prune, delete, keys | exclusive | - |
//!
//! A repository that is no directory of this machine has two files for that, `<sha256 of its location>.lock` and
//! `.backup.lock` in `locks` of the state directory, which all runs for it on this machine share.
//!
//! flock says nothing to restic, nor to another machine that has the directory mounted. For them [`Lock::announce`]
//! puts a lock of restic's kind into `locks/` (`signs`), and looks for theirs.
//!
//! Source: flock(2); restic's `doc/design.rst`, "Locks".

mod holders;
mod remote;
mod signs;
#[cfg(test)]
mod tests;

use std::fs::{File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::id::Id;
use super::store::Place;
use super::vault::Vault;
use super::{Handle, Location, probe_directory};
use crate::error::{Context, Error, Kind, Result};
use crate::settings;

/// Fails if somebody else holds a lock of restic's kind that excludes this work. Stale ones of our own do not count.
///
/// # Errors
/// [`Kind::Busy`], naming the lock and who holds it; [`Kind::Refused`] or [`Kind::Store`] if `locks` cannot be read.
pub(super) fn refuse(vault: &Vault, location: &Location, exclusive: bool) -> Result<()> {
    match &vault.store.place {
        Place::Directory(root) => signs::refuse(vault, root, exclusive),
        Place::Remote(remote) => remote::refuse(vault, &**remote, location, exclusive),
    }
}

/// A lock of restic's kind that is ours. It is taken down with this value.
#[derive(Debug)]
enum Sign {
    Directory { _sign: signs::Sign },
    Remote { _sign: remote::Sign },
}

/// A held lock. It ends with this value.
#[derive(Debug)]
pub struct Lock {
    location: Location,
    exclusive: bool,
    sign: Option<Sign>,
    /// Their locks end when they are closed, after the sign is gone.
    _files: Vec<File>,
}

impl Lock {
    /// For work that adds or reads: checks, restores, copies.
    ///
    /// # Errors
    /// [`Kind::Busy`] naming who holds it, without waiting; [`Kind::Refused`] if there is no repository. Nothing is asked
    /// of a network location: whether there is one shows when it is opened.
    pub fn shared(settings: &settings::Repository) -> Result<Self> {
        Self::take(settings, false, false)
    }

    /// For a backup: shared, and one at a time.
    ///
    /// # Errors
    /// As [`shared`](Self::shared).
    pub fn backup(settings: &settings::Repository) -> Result<Self> {
        Self::take(settings, false, true)
    }

    /// For work that removes something: forget, prune, delete, keys.
    ///
    /// # Errors
    /// As [`shared`](Self::shared).
    pub fn exclusive(settings: &settings::Repository) -> Result<Self> {
        Self::take(settings, true, false)
    }

    fn take(settings: &settings::Repository, exclusive: bool, backup: bool) -> Result<Self> {
        let location = &Location::parse(&settings.location)?;
        let own = |part: &str| own_file(&settings.lock_dir, location, part);
        let whole = match location {
            Location::Network(_) => own("")?,
            Location::Directory(root) => {
                // Where there is no repository, this says why.
                probe_directory(root)?;
                File::open(root).context(Kind::Refused, format!("cannot open {}", root.display()))?
            }
        };
        lock(&whole, exclusive, &format!("the repository at {location} is in use"))?;
        let mut files = vec![whole];
        if backup {
            let snapshots = match location {
                Location::Network(_) => own(".backup")?,
                Location::Directory(root) => {
                    let path = root.join("snapshots");
                    File::open(&path).context(Kind::Refused, format!("cannot open {}", path.display()))?
                }
            };
            lock(&snapshots, true, &format!("another backup into the repository at {location} is under way"))?;
            files.push(snapshots);
        }
        Ok(Self { location: location.clone(), exclusive, sign: None, _files: files })
    }

    /// Shows the lock to restic and to other machines, for as long as it is held, and looks whether they hold one
    /// that excludes this work. To be called once the repository is open: what lies in `locks/` is encrypted.
    ///
    /// # Errors
    /// [`Kind::Busy`] naming who holds a lock; [`Kind::Store`] if ours cannot be written, for example where the
    /// repository is mounted read-only: whoever only reads may go on.
    pub fn announce(&mut self, handle: &Handle) -> Result<()> {
        if handle.location() != &self.location {
            let message = format!("the lock of {} is not one of {}", self.location, handle.location());
            return Err(Error::new(Kind::Refused, message));
        }
        if self.sign.is_none() {
            self.sign = Some(match &handle.vault.store.place {
                Place::Directory(root) => Sign::Directory { _sign: signs::Sign::put_up(handle, root, self.exclusive)? },
                Place::Remote(remote) => Sign::Remote { _sign: remote::Sign::put_up(handle, remote, self.exclusive)? },
            });
        }
        Ok(())
    }
}

/// A file to lock for a location that is none of this machine. It stays: who removes it would lock another one.
fn own_file(directory: &Path, location: &Location, part: &str) -> Result<File> {
    let Location::Network(text) = location else {
        return Err(Error::new(Kind::Refused, "a directory is locked itself"));
    };
    // Two spellings of one place are two files; for those there are the locks of restic's kind.
    let path = directory.join(format!("{}{part}.lock", Id::of(text.as_bytes())));
    let opened = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .and_then(|()| File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path));
    opened
        .context(Kind::Refused, format!("cannot open {}", path.display()))
        .map_err(|error| error.with("state", "nothing was touched"))
}

fn lock(file: &File, exclusive: bool, message: &str) -> Result<()> {
    let taken = if exclusive { file.try_lock() } else { file.try_lock_shared() };
    match taken {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::new(Kind::Busy, message)
            .with("holder", holders::of(file).join("\n"))
            .with("state", "nothing was touched")
            .hint("Try again when it has ended.")),
        Err(TryLockError::Error(cause)) => {
            Err(Error::new(Kind::Store, "the repository cannot be locked").with("cause", cause))
        }
    }
}
