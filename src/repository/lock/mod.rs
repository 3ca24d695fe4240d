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
//! flock says nothing to restic, nor to another machine that has the directory mounted. For them [`Lock::announce`]
//! puts a lock of restic's kind into `locks/` (`signs`), and looks for theirs.
//!
//! Source: flock(2); restic's `doc/design.rst`, "Locks".

mod holders;
mod signs;
#[cfg(test)]
mod tests;

use std::fs::{File, TryLockError};

use super::{Handle, Location, probe};
use crate::error::{Context, Error, Kind, Result};

pub(super) use signs::refuse;

/// A held lock. It ends with this value.
#[derive(Debug)]
pub struct Lock {
    location: Location,
    exclusive: bool,
    sign: Option<signs::Sign>,
    /// Their locks end when they are closed, after the sign is gone.
    _files: Vec<File>,
}

impl Lock {
    /// For work that adds or reads: checks, restores, copies.
    ///
    /// # Errors
    /// [`Kind::Busy`] naming who holds it, without waiting; [`Kind::Refused`] if there is no repository.
    pub fn shared(location: &Location) -> Result<Self> {
        Self::take(location, false, false)
    }

    /// For a backup: shared, and one at a time.
    ///
    /// # Errors
    /// As [`shared`](Self::shared).
    pub fn backup(location: &Location) -> Result<Self> {
        Self::take(location, false, true)
    }

    /// For work that removes something: forget, prune, delete, keys.
    ///
    /// # Errors
    /// As [`shared`](Self::shared).
    pub fn exclusive(location: &Location) -> Result<Self> {
        Self::take(location, true, false)
    }

    fn take(location: &Location, exclusive: bool, backup: bool) -> Result<Self> {
        let root = location.directory()?;
        // Where there is no repository, this says why.
        probe(root)?;
        let whole = File::open(root).context(Kind::Refused, format!("cannot open {}", root.display()))?;
        lock(&whole, exclusive, &format!("the repository at {location} is in use"))?;
        let mut files = vec![whole];
        if backup {
            let path = root.join("snapshots");
            let snapshots = File::open(&path).context(Kind::Refused, format!("cannot open {}", path.display()))?;
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
            self.sign = Some(signs::Sign::put_up(handle, self.exclusive)?);
        }
        Ok(())
    }
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
