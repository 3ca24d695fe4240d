//! Directory of a private server: made, locked while its run lives, and removed.
//!
//! The lock is on the outer directory, which the server cannot open; the server's own files are in one inside it. The
//! server ends with the run that started it, so a directory without a lock belongs to nobody.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::error::{Context, Error, Kind, Result};

const PREFIX: &str = "drill-";

/// Link to the directory of the socket, for whoever removes what a run that was killed has left.
const SOCKET: &str = "socket";

/// Longest path of a socket without the byte that ends it. Source: unix(7), `sun_path`.
const LONGEST_SOCKET: usize = 107;

/// A directory for one private server.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    /// Where the path of the directory is too long for a socket.
    socket: Option<TempDir>,
    lock: File,
}

impl Place {
    /// Makes one below the state directory, closed to other accounts.
    pub(super) fn make(state_dir: &Path) -> Result<Self> {
        let failed = || format!("cannot make a directory in {}", state_dir.display());
        // Another run may take one away that is not locked yet.
        for _ in 0..3 {
            let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(state_dir).context(Kind::Store, failed())?;
            let Some(lock) = locked(made.path()) else { continue };
            let mut place = Self { dir: made.keep(), socket: None, lock };
            fs::create_dir(place.server()).context(Kind::Store, failed())?;
            if place.server().join(".s.PGSQL.5432").as_os_str().as_bytes().len() > LONGEST_SOCKET {
                let failed = "cannot make a directory for a socket";
                let other = tempfile::Builder::new().prefix("glovebox-").tempdir().context(Kind::Store, failed)?;
                symlink(other.path(), place.dir.join(SOCKET)).context(Kind::Store, failed)?;
                place.socket = Some(other);
            }
            return Ok(place);
        }
        Err(Error::new(Kind::Store, failed()).with("cause", "another run removes it"))
    }

    /// The whole of it.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory that the server may write into.
    pub(super) fn server(&self) -> PathBuf {
        self.dir.join("server")
    }

    /// The directory of its socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.socket.as_ref().map_or_else(|| self.server(), |dir| dir.path().to_owned())
    }

    /// Removes it, with a word of why if that fails.
    pub(super) fn remove(&self) -> std::result::Result<(), String> {
        remove(&self.dir).map_err(|cause| format!("{} cannot be removed: {cause}", self.dir.display()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The next run tries again.
        let _ = self.remove();
        let _ = self.lock.unlock();
    }
}

/// Removes the directories of runs that were killed, and returns them.
pub(super) fn sweep(state_dir: &Path) -> Vec<PathBuf> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(state_dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_ours = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes())
            // Not of a link's target.
            && entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw());
        let lock = if is_ours { locked(&path) } else { None };
        if let (Some(_), Ok(socket)) = (&lock, fs::read_link(path.join(SOCKET))) {
            // The link is the account's own, as the directory is; the system empties the temporary directory otherwise.
            let _ = fs::remove_dir_all(socket);
        }
        if lock.is_some() && remove(&path).is_ok() {
            removed.push(path);
        }
    }
    removed
}

/// The directory's lock; `None` if somebody has it, or the directory is gone.
fn locked(dir: &Path) -> Option<File> {
    let file = File::from(
        rustix::fs::open(
            dir,
            rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .ok()?,
    );
    file.try_lock().ok()?;
    let is_there = fs::symlink_metadata(dir).ok()?.ino() == file.metadata().ok()?.ino();
    is_there.then_some(file)
}

/// Removes a directory, in which processes that are just ending may still be at work.
fn remove(dir: &Path) -> std::io::Result<()> {
    let mut attempts = 20;
    loop {
        match fs::remove_dir_all(dir) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(_) if attempts > 0 => {
                attempts -= 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_elsewhere_goes_with_the_directory_of_a_killed_run() {
        let state = tempfile::tempdir().unwrap();
        let deep = state.path().join("a".repeat(LONGEST_SOCKET));
        fs::create_dir(&deep).unwrap();
        let place = Place::make(&deep).unwrap();
        let socket = place.socket();
        fs::write(socket.join(".s.PGSQL.5432.lock"), "").unwrap();
        assert!(sweep(&deep).is_empty(), "its run lives");
        assert!(socket.is_dir());
        // The kernel unlocks what a process had locked that was killed.
        place.lock.unlock().unwrap();
        assert_eq!(sweep(&deep), [place.dir()]);
        assert!(!socket.exists());
    }
}
