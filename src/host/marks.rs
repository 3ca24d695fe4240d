//! Small files that say something to the next run, each with a lock that ends with the process that made it.
//!
//! Such a file counts only if it is one that another account could not have made. Links are not followed, nothing is
//! waited for, and every step is below the one directory that was opened: nobody can put another into its place meanwhile.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::path;

/// More than any unit's name.
const LONGEST: u64 = 4096;

/// Attempts to make a file that somebody else is taking away in the same moment.
const ATTEMPTS: u32 = 100;

/// One of them: where it is, and what is in it.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    dir: PathBuf,
    name: String,
    content: String,
}

impl Mark {
    pub(super) fn new(dir: PathBuf, name: String, content: &str) -> Self {
        Self { dir, name, content: content.to_owned() }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    pub(super) fn exists(&self) -> bool {
        self.directory().is_ok_and(|directory| fs::statat(directory, &self.name, AtFlags::SYMLINK_NOFOLLOW).is_ok())
    }

    /// A file of our own account, with this content.
    pub(super) fn is_ours(&self) -> bool {
        self.read().is_some_and(|text| self.content.is_empty() || text.trim() == self.content)
    }

    /// Content of the file, if it belongs to our own account.
    pub(super) fn read(&self) -> Option<String> {
        let mut text = String::new();
        self.open().ok()??.take(LONGEST).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Whether the process that made it lives.
    pub(super) fn is_held(&self) -> bool {
        let is_locked = |file: File| lock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK);
        self.open().ok().flatten().is_some_and(is_locked)
    }

    /// It is there, and its process does not live, as far as can be seen.
    pub(super) fn is_left(&self) -> bool {
        self.exists() && !self.is_held()
    }

    /// Makes it, and locks it for as long as the answer lives.
    pub(super) fn make(&self) -> std::io::Result<File> {
        let directory = self.directory()?;
        let partial = self.partial();
        let _ = fs::unlinkat(&directory, &partial, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(fs::openat(&directory, &partial, flags, Mode::RUSR | Mode::WUSR)?);
        lock(&file, FlockOperation::NonBlockingLockExclusive)?;
        writeln!(file, "{}", self.content)?;
        file.sync_all()?;
        fs::renameat(&directory, &partial, &directory, &self.name)?;
        fs::fsync(&directory)?;
        Ok(file)
    }

    /// Makes it empty, or joins those who hold it already.
    pub(super) fn make_shared(&self) -> std::io::Result<File> {
        let directory = self.directory()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        for _ in 0..ATTEMPTS {
            let file = fs::openat(&directory, &self.name, flags, Mode::RUSR | Mode::WUSR)?;
            let own = fs::fstat(&file)?;
            if !is_own(&own) {
                // Left from a time when others could write there: it would never go away again.
                fs::unlinkat(&directory, &self.name, AtFlags::empty())?;
                continue;
            }
            let is_locked = lock(&file, FlockOperation::NonBlockingLockShared).is_ok();
            // Between the two calls it may have been taken away.
            let found = fs::statat(&directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
            let is_it = found.is_ok_and(|found| (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino));
            if is_locked && is_it {
                return Ok(File::from(file));
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Err(Errno::AGAIN.into())
    }

    /// Takes it away unless somebody holds it; whether there is none any more.
    pub(super) fn remove_if_free(&self) -> bool {
        if !self.exists() {
            return true;
        }
        let Some(file) = self.open().ok().flatten() else { return false };
        let is_free = lock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        is_free && self.unlink().is_ok()
    }

    /// Takes it away. What is there by its name and is not ours is left alone.
    pub(super) fn remove(&self) -> std::io::Result<()> {
        match self.unlink() {
            Err(cause) if self.is_ours() => Err(cause),
            _ => Ok(()),
        }
    }

    /// Removes the unfinished file of a process that was killed.
    pub(super) fn remove_partial(&self) {
        let Ok(directory) = self.directory() else { return };
        let _ = fs::unlinkat(directory, self.partial(), AtFlags::empty());
    }

    fn directory(&self) -> std::io::Result<OwnedFd> {
        Ok(path::open(&self.dir, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC)?)
    }

    fn open(&self) -> std::io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::openat(self.directory()?, &self.name, flags, Mode::empty())?;
        Ok(is_own(&fs::fstat(&file)?).then(|| File::from(file)))
    }

    fn unlink(&self) -> std::io::Result<()> {
        Ok(fs::unlinkat(self.directory()?, &self.name, AtFlags::empty())?)
    }

    fn partial(&self) -> String {
        format!(".{}.partial", self.name)
    }
}

/// A regular file of our own account, which nobody else has by a second name.
fn is_own(found: &fs::Stat) -> bool {
    let is_regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    is_regular && found.st_uid == rustix::process::geteuid().as_raw() && found.st_nlink == 1
}

fn lock(file: &impl std::os::fd::AsFd, how: FlockOperation) -> Result<(), Errno> {
    fs::flock(file, how)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(dir: &tempfile::TempDir, content: &str) -> Mark {
        Mark::new(dir.path().to_owned(), "mark".to_owned(), content)
    }

    #[test]
    fn k2_a_mark_is_held_for_as_long_as_its_process_lives() {
        let dir = tempfile::tempdir().unwrap();
        let note = mark(&dir, "a.service");
        assert!(!note.is_ours() && !note.is_held() && note.remove_if_free());
        let held = note.make().unwrap();
        assert!(note.is_ours() && note.is_held() && !note.remove_if_free());
        assert!(!mark(&dir, "b.service").is_ours());
        drop(held);
        assert!(note.is_ours() && !note.is_held());
        // One that a run before left is replaced.
        let held = note.make().unwrap();
        assert!(note.is_held());
        drop(held);
        assert!(note.remove_if_free() && !note.exists());

        let shared = mark(&dir, "");
        let (one, other) = (shared.make_shared().unwrap(), shared.make_shared().unwrap());
        drop(one);
        assert!(shared.is_held() && !shared.remove_if_free());
        drop(other);
        assert!(shared.remove_if_free() && !shared.exists());
    }

    #[test]
    fn k11_what_another_account_could_have_put_there_is_no_mark() {
        let dir = tempfile::tempdir().unwrap();
        let note = mark(&dir, "a.service");
        let path = note.path();
        let is_none = |note: &Mark| !note.is_ours() && !note.is_held() && note.remove().is_ok();
        std::fs::create_dir(&path).unwrap();
        assert!(is_none(&note) && note.exists() && note.make().is_err());
        std::fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(!note.is_ours() && !note.is_held());
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(is_none(&note));
        // A second name: somebody else keeps the file.
        std::fs::write(dir.path().join("other"), "a.service\n").unwrap();
        std::fs::hard_link(dir.path().join("other"), &path).unwrap();
        assert!(!note.is_ours());
    }
}
