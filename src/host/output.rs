//! A file that exists only if it is whole: written under another name, synced, then renamed.
//!
//! The temporary file lies in the same directory, is made with mode 0600 and never followed through a link. It holds
//! a lock for as long as its writer lives, so that what a killed run left behind can be told from a run that is at
//! work, and be removed by the next one.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::path::{self, Closed};

/// An output file that is not there yet.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    directory: OwnedFd,
    name: OsString,
    temporary: OsString,
    file: File,
    replace: bool,
    published: bool,
}

impl OutputFile {
    /// Prepares `path`. With `replace`, a regular file of that name may be there and is replaced in the end.
    ///
    /// # Errors
    /// [`Kind::Refused`] if something is there already, or is no regular file; [`Kind::Store`] if the directory
    /// cannot be written.
    pub fn create(path: &Path, replace: bool) -> Result<Self> {
        let name = path.file_name().filter(|_| !path.as_os_str().as_bytes().ends_with(b"/")).ok_or_else(|| {
            Error::new(Kind::Usage, format!("{} names no file", path.display()))
                .with("state", "nothing was read, nothing was written")
                .hint("Name a file, for example teslamate.sql.zst.")
        })?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = path::open(parent, flags).map_err(|cause| match cause {
            Closed::Link(link, uid) => of_another(&link, uid).with("state", "nothing was read, nothing was written"),
            Closed::System(cause) => {
                Error::new(Kind::Store, format!("cannot write into the directory {}", parent.display()))
                    .with("cause", cause)
                    .with("state", "nothing was read, nothing was written")
                    .hint("Name a file in an existing directory that you may write.")
            }
        })?;
        check_target(&directory, name, path, replace)?;
        sweep(&directory, name);
        let temporary = temporary_name(name);
        let file = make_temporary(&directory, &temporary)
            .context(Kind::Store, format!("cannot write into the directory {}", parent.display()))
            .map_err(|error| error.with("state", "nothing was read, nothing was written"))?;
        let (name, path) = (name.to_owned(), path.to_owned());
        Ok(Self { path, directory, name, temporary, file: file.into(), replace, published: false })
    }

    /// Where the file will be.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor to write to.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Syncs the file, gives it its name and syncs the directory: from here on it is there, whole.
    pub fn publish(&mut self) -> Result<()> {
        let failed = || format!("cannot finish {}", self.path.display());
        self.file.sync_all().context(Kind::Store, failed())?;
        let flags = if self.replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        if self.replace {
            check_target(&self.directory, &self.name, &self.path, true)?;
        }
        match fs::renameat_with(&self.directory, &self.temporary, &self.directory, &self.name, flags) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(already_there(&self.path)),
            // Some file systems (NFS, older FUSE) cannot rename without replacing: a link does not replace either.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                let from = (&self.directory, self.temporary.as_os_str());
                fs::linkat(from.0, from.1, &self.directory, &self.name, AtFlags::empty()).map_err(|cause| {
                    if cause == Errno::EXIST {
                        already_there(&self.path)
                    } else {
                        Error::new(Kind::Store, failed()).with("cause", cause)
                    }
                })?;
                let _ = fs::unlinkat(&self.directory, &self.temporary, AtFlags::empty());
            }
            Err(cause) => return Err(Error::new(Kind::Store, failed()).with("cause", cause)),
        }
        self.published = true;
        fs::fsync(&self.directory).context(Kind::Store, failed())
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if !self.published {
            // A file that cannot be removed is removed by the next run, which finds it unlocked.
            let _ = fs::unlinkat(&self.directory, &self.temporary, AtFlags::empty());
        }
    }
}

fn check_target(directory: &OwnedFd, name: &std::ffi::OsStr, path: &Path, replace: bool) -> Result<()> {
    let refused = |what: &str| {
        Error::new(Kind::Refused, format!("{} is {what}, not a regular file", path.display()))
            .with("state", "nothing was read, nothing was written")
            .hint("Name another file; to write into a pipe, use `-` and redirect.")
    };
    match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(cause) => Err(Error::new(Kind::Store, format!("cannot look at {}", path.display())).with("cause", cause)),
        Ok(found) => match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile if replace => Ok(()),
            FileType::RegularFile => Err(already_there(path)),
            FileType::Directory => Err(refused("a directory")),
            FileType::Symlink => Err(refused("a symbolic link")),
            FileType::Fifo => Err(refused("a named pipe")),
            _ => Err(refused("a device or socket")),
        },
    }
}

fn already_there(path: &Path) -> Error {
    Error::new(Kind::Refused, format!("{} exists already", path.display()))
        .with("state", "the file is as it was, nothing was read")
        .hint("Name another file ({time} in the name stands for the time), or replace it with --force.")
}

const MARK: &str = ".partial.";

fn temporary_name(name: &std::ffi::OsStr) -> OsString {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut temporary = OsString::from(".");
    // The whole must fit into NAME_MAX (255 bytes); a name that long is cut, the pid keeps it unique.
    let kept = &name.as_bytes()[..name.len().min(180)];
    temporary.push(std::ffi::OsStr::from_bytes(kept));
    temporary.push(format!("{MARK}{}.{}", std::process::id(), boot.trim().get(..8).unwrap_or("0")));
    temporary
}

/// Makes the temporary file and locks it.
///
/// Between the two, a run that sweeps may take it for a left-over, lock it and remove it: then it is made again.
pub(super) fn make_temporary(directory: &OwnedFd, temporary: &std::ffi::OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        let file = fs::openat(directory, temporary, flags, Mode::RUSR | Mode::WUSR)?;
        // Where there are no locks (some network file systems), nothing is ever swept either.
        if fs::flock(&file, FlockOperation::LockExclusive).is_err() || fs::fstat(&file)?.st_nlink > 0 {
            return Ok(file);
        }
    }
}

/// Removes what killed runs left in this directory: temporary files that no living process holds locked.
///
/// With `{time}` in the name no later run ever has the same one, so those for other files are swept too, as far as
/// they are certainly ours: named as we name them, and made by the same account.
fn sweep(directory: &OwnedFd, name: &std::ffi::OsStr) {
    let Ok(entries) = fs::Dir::read_from(directory) else { return };
    let mut prefix = b".".to_vec();
    prefix.extend_from_slice(&name.as_bytes()[..name.len().min(180)]);
    prefix.extend_from_slice(MARK.as_bytes());
    let us = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let for_this = entry.file_name().to_bytes().starts_with(&prefix);
        if !for_this && !is_temporary_name(entry.file_name().to_bytes()) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = fs::openat(directory, entry.file_name(), flags, Mode::empty()) else { continue };
        let Ok(found) = fs::fstat(&file) else { continue };
        let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        if is_file
            && (for_this || found.st_uid == us)
            && fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = fs::unlinkat(directory, entry.file_name(), AtFlags::empty());
        }
    }
}

/// Whether [`temporary_name`] made this: `.NAME.partial.PID.BOOT`.
fn is_temporary_name(name: &[u8]) -> bool {
    let Some(at) = memchr::memmem::rfind(name, MARK.as_bytes()) else { return false };
    let mut parts = name[at + MARK.len()..].split(|byte| *byte == b'.');
    let (pid, boot, more) = (parts.next(), parts.next(), parts.next());
    name.starts_with(b".")
        && at > 1
        && pid.is_some_and(|pid| !pid.is_empty() && pid.iter().all(u8::is_ascii_digit))
        && boot.is_some_and(|boot| boot.len() == 8 && boot.iter().all(u8::is_ascii_hexdigit))
        && more.is_none()
}

/// Opens a file to read, or a directory, with the caller's own rights.
pub fn open_input(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    path::open(path, flags).map_err(|cause| {
        let cause = match cause {
            Closed::Link(link, uid) => {
                return of_another(&link, uid).with("state", "the live database was not touched");
            }
            Closed::System(cause) => cause,
        };
        let error = Error::new(Kind::Refused, format!("cannot open {}", path.display()))
            .with("cause", cause)
            .with("state", "the live database was not touched");
        match std::io::Error::from(cause).kind() {
            ErrorKind::NotFound => error.hint("Check the path; `ls` shows what is there."),
            _ => error,
        }
    })
}

/// A link that root does not follow.
fn of_another(link: &Path, uid: u32) -> Error {
    Error::new(Kind::Refused, format!("{} is a link that another account made (uid {uid})", link.display()))
        .with("cause", "root follows its own links only: this one could lead to a file that its maker may not use")
        .hint("Name what it points to (`readlink -f` shows it), or run it as that account.")
}

/// Opens the files of an input that is a directory; for anything else there are none.
///
/// The name is looked up in the opened directory, so nothing can be put in its place in between. Links and
/// subdirectories are left out: an archive of `pg_dump` has none.
pub fn open_members(input: &OwnedFd, path: &Path) -> Result<Vec<(String, OwnedFd)>> {
    let unreadable = || format!("cannot read {}", path.display());
    let status = fs::fstat(input).context(Kind::Refused, unreadable())?;
    if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
        // The descriptor was opened without waiting for a writer; reading has to wait for one.
        let flags = fs::fcntl_getfl(input).context(Kind::Refused, unreadable())?;
        fs::fcntl_setfl(input, flags.difference(OFlags::NONBLOCK)).context(Kind::Refused, unreadable())?;
        return Ok(Vec::new());
    }
    let mut members = Vec::new();
    for entry in fs::Dir::read_from(input).context(Kind::Refused, unreadable())? {
        let entry = entry.context(Kind::Refused, unreadable())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || !matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown) {
            continue;
        }
        // A FIFO that somebody put there meanwhile must not make anybody wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let unreadable = || format!("cannot read {}/{name}", path.display());
        let file = fs::openat(input, entry.file_name(), flags, Mode::empty()).context(Kind::Refused, unreadable())?;
        let kind = FileType::from_raw_mode(fs::fstat(&file).context(Kind::Refused, unreadable())?.st_mode);
        if kind != FileType::RegularFile {
            continue;
        }
        members.push((name, file));
        // An archive of pg_dump has a file per table; anything larger is some other directory.
        if members.len() > MEMBERS_LIMIT {
            return Err(Error::new(Kind::Refused, format!("{} holds more files than any archive", path.display()))
                .with("state", "the live database was not touched"));
        }
    }
    members.sort_by(|left, right| left.0.cmp(&right.0));
    Ok(members)
}

/// More tables than any installation has, and fewer than the descriptors that a process may hold.
const MEMBERS_LIMIT: usize = 800;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r21_only_our_own_names_are_taken_for_left_overs() {
        assert!(is_temporary_name(temporary_name("a.partial.b.sql".as_ref()).as_bytes()));
        for other in [
            ".partial.1.0123abcd",
            "a.partial.1.0123abcd",
            ".a.partial.1",
            ".a.partial.1.0123abcd.x",
            ".a.partial..0123abcd",
            ".a.partial.1.0123abc",
            ".a.partial.x.0123abcd",
        ] {
            assert!(!is_temporary_name(other.as_bytes()), "{other}");
        }
    }
}
