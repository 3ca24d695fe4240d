//! Opening a path that root was told, where others may have put links on the way.
//!
//! Root may open everything. So a link that another account made must not decide what root opens: it could lead to a file
//! that the account itself may not read or replace. Links of root are followed. Whoever is not root gets no more from a
//! link than without it. What a configuration file says is done with root's rights, so it must be root's alone.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use nix::unistd::User;
use rustix::fs::{self, CWD, FileType, Mode, OFlags, Stat, StatVfsMountFlags};
use rustix::io::Errno;
use zeroize::Zeroize;

use crate::bounded;
use crate::text::shell_word;

/// Descriptors of this process by name, as a shell passes them (`--config <(…)`).
const HANDED_OVER: [&str; 3] = ["/dev/fd", "/dev/stdin", "/proc/self/fd"];

/// As many links as Linux follows.
const LINKS: usize = 40;

/// Why a path was not opened.
#[derive(Debug)]
pub enum Closed {
    /// A link of this account stands there.
    Link(PathBuf, u32),
    /// The system says so.
    System(Errno),
}

/// A file, or a directory on the way to it, that others than root may change.
#[derive(Debug)]
pub struct NotOfRootAlone {
    path: PathBuf,
    who: String,
}

impl std::error::Error for NotOfRootAlone {}

impl std::fmt::Display for NotOfRootAlone {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}, and root does what this file says", self.path.display(), self.who)
    }
}

impl From<Closed> for std::io::Error {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Link(link, uid) => Self::other(format!(
                "{} is a link that another account made (uid {uid}), and root follows its own links only",
                link.display()
            )),
            Closed::System(cause) => cause.into(),
        }
    }
}

impl From<Errno> for Closed {
    fn from(cause: Errno) -> Self {
        Self::System(cause)
    }
}

/// Opens the path with these flags, through links of root alone if the caller is root.
///
/// # Errors
/// [`Closed::Link`] if the caller is root and another account's link is on the way; what the system says.
pub fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Closed> {
    if !rustix::process::geteuid().is_root() {
        return Ok(fs::open(path, flags, Mode::empty())?);
    }
    open_through_links_of(path, flags, 0, &|_, _| Ok(()))
}

/// Opens a file of settings or a key to read. Root is neither made to wait for one nor to read without end: what is there
/// may be another account's, and must be a regular file, unless it is a pipe that the caller handed over.
///
/// # Errors
/// Those of [`open`]; another kind of file.
pub fn open_file(path: &Path) -> std::io::Result<File> {
    open_file_that(path, &|_, _| Ok(()))
}

/// [`open_file`], for a file that says what root is to do: root opens none that another account may change, or exchange
/// in a directory on the way.
///
/// # Errors
/// Those of [`open_file`]; [`NotOfRootAlone`] as the cause.
pub fn open_file_of_root(path: &Path) -> std::io::Result<File> {
    open_file_that(&std::path::absolute(path)?, &|path, status| match who_may_change(status) {
        Some(_) if is_in_sealed_store(path) => Ok(()),
        Some(who) => Err(std::io::Error::other(NotOfRootAlone { path: path.to_owned(), who })),
        None => Ok(()),
    })
}

fn open_file_that(path: &Path, judge: &Judge<std::io::Error>) -> std::io::Result<File> {
    let is_handed_over = HANDED_OVER.iter().any(|own| path.starts_with(own));
    if is_handed_over || !rustix::process::geteuid().is_root() {
        return File::open(path);
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = open_through_links_of(path, flags, 0, judge)?;
    match FileType::from_raw_mode(fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        _ => Err(std::io::Error::other("it is no regular file")),
    }
}

/// Reads a whole file of at most `limit` bytes: of its size at once, since growing leaves copies of secrets behind.
///
/// # Errors
/// Those of reading; [`InvalidData`](std::io::ErrorKind::InvalidData) if the file is longer.
pub fn read_small(file: &File, limit: u64) -> std::io::Result<Vec<u8>> {
    let size = usize::try_from(file.metadata()?.len().min(limit)).unwrap_or_default();
    let mut bytes = Vec::with_capacity(size + 1);
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        bytes.zeroize();
        return Err(bounded::too_long("the file", limit));
    }
    Ok(bytes)
}

/// The command by which root makes a directory that the account of this process cannot make, or gives it one that is there.
#[must_use]
pub fn command_to_make(directory: &Path) -> String {
    let shown = shell_word(&directory.display().to_string());
    let account = User::from_uid(nix::unistd::geteuid()).ok().flatten().filter(|user| !user.uid.is_root());
    let owner = account.map(|user| format!(" -o {}", user.name)).unwrap_or_default();
    format!("install -d -m 0700{owner} {shown}")
}

/// Who may change what has this status beside root, in words. In a directory with the sticky bit, entries of root are safe.
fn who_may_change(status: &Stat) -> Option<String> {
    let is_sticky = FileType::from_raw_mode(status.st_mode) == FileType::Directory && status.st_mode & 0o1000 != 0;
    let may = |bit: u32| status.st_mode & bit != 0 && !is_sticky;
    match (status.st_uid, status.st_gid) {
        (0, _) if may(0o002) => Some("may be changed by every account".to_owned()),
        (0, gid) if may(0o020) && gid != 0 => Some(format!("may be changed by a group (gid {gid})")),
        (0, _) => None,
        (uid, _) => Some(format!("belongs to another account (uid {uid})")),
    }
}

/// Whether a path lies in Nix's store, and that is mounted to be read only, as NixOS mounts it. A virtual machine or a container
/// that shares the store of another machine shows it as belonging to an account that is nobody here.
fn is_in_sealed_store(path: &Path) -> bool {
    const STORE: &str = "/nix/store";
    let is_sealed = || fs::statvfs(STORE).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    path.starts_with(STORE) && is_sealed()
}

/// Judges a directory on the way, or the file itself; not the links, whose owner is judged always.
type Judge<E> = dyn Fn(&Path, &Stat) -> Result<(), E>;

/// Goes step by step, so that nothing can be put in the place of what was looked at.
fn open_through_links_of<E: From<Closed>>(
    path: &Path,
    flags: OFlags,
    trusted: u32,
    judge: &Judge<E>,
) -> Result<OwnedFd, E> {
    let system = |cause: Errno| E::from(Closed::System(cause));
    let (mut at, mut left, mut shown) = (None::<OwnedFd>, VecDeque::new(), PathBuf::new());
    prepend(&mut left, path);
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match &at {
            Some(at) => fs::openat(at, &name, step, Mode::empty()),
            None => fs::openat(CWD, &name, step, Mode::empty()),
        }
        .map_err(system)?;
        let status = fs::fstat(&found).map_err(system)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::Symlink {
            shown.push(&name);
            judge(&shown, &status)?;
            at = Some(found);
            continue;
        }
        if status.st_uid != trusted {
            return Err(Closed::Link(shown.join(&name), status.st_uid).into());
        }
        links += 1;
        if links > LINKS {
            return Err(system(Errno::LOOP));
        }
        let target = fs::readlinkat(&found, "", Vec::new()).map_err(system)?.into_bytes();
        let target = PathBuf::from(OsString::from_vec(target));
        if target.is_absolute() {
            (at, shown) = (None, PathBuf::new());
        }
        prepend(&mut left, &target);
    }
    // The very file that was found, opened for what it is wanted for.
    let found = at.ok_or_else(|| system(Errno::NOENT))?;
    let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
    fs::open(own, flags.difference(OFlags::NOFOLLOW), Mode::empty()).map_err(system)
}

fn prepend(left: &mut VecDeque<OsString>, path: &Path) {
    let names = path.components().map(|component| match component {
        Component::RootDir => OsStr::new("/"),
        component => component.as_os_str(),
    });
    for name in names.collect::<Vec<_>>().into_iter().rev() {
        left.push_front(name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};

    use super::*;

    fn read(path: &Path, trusted: u32) -> Result<String, Closed> {
        let mut text = String::new();
        let file = open_through_links_of::<Closed>(path, OFlags::RDONLY | OFlags::CLOEXEC, trusted, &|_, _| Ok(()))?;
        std::fs::File::from(file).read_to_string(&mut text).unwrap();
        Ok(text)
    }

    #[test]
    fn k18_links_of_others_lead_root_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("real")).unwrap();
        std::fs::write(path("real/file"), "secret").unwrap();
        symlink(path("real/file"), path("absolute")).unwrap();
        symlink("real/file", path("relative")).unwrap();
        symlink("real", path("directory")).unwrap();
        symlink("loop", path("loop")).unwrap();
        let own = rustix::process::geteuid().as_raw();
        for name in ["real/file", "absolute", "relative", "directory/file", "real/../directory/./file"] {
            assert_eq!(read(&path(name), own).unwrap(), "secret", "{name}");
            let others = read(&path(name), own + 1);
            match name {
                "real/file" => assert_eq!(others.unwrap(), "secret"),
                _ => assert!(matches!(others, Err(Closed::Link(_, uid)) if uid == own), "{name}"),
            }
        }
        assert!(matches!(read(&path("loop"), own), Err(Closed::System(Errno::LOOP))));
        assert!(matches!(read(&path("absent"), own), Err(Closed::System(Errno::NOENT))));
        if own == 0 {
            lchown(path("directory"), Some(65_534), Some(65_534)).unwrap();
            match open(&path("directory/file"), OFlags::RDONLY | OFlags::CLOEXEC) {
                Err(Closed::Link(shown, 65_534)) => assert_eq!(shown, path("directory")),
                other => panic!("{other:?}"),
            }
        }
    }
}
