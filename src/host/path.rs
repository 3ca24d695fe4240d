//! Opening a path that root was told, where others may have put links on the way.
//!
//! Root may open everything. So a link that another account made must not decide what root opens: it could lead to a file
//! that the account itself may not read or replace. Links of root are followed. Whoever is not root gets no more from a
//! link than without it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

/// As many links as Linux follows.
const LINKS: usize = 40;

/// Why a path was not opened.
#[derive(Debug)]
pub(super) enum Closed {
    /// A link of this account stands there.
    Link(PathBuf, u32),
    /// The system says so.
    System(Errno),
}

impl From<Errno> for Closed {
    fn from(cause: Errno) -> Self {
        Self::System(cause)
    }
}

/// Opens the path with these flags, through links of root alone if the caller is root.
pub(super) fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Closed> {
    if !rustix::process::geteuid().is_root() {
        return Ok(fs::open(path, flags, Mode::empty())?);
    }
    open_through_links_of(path, flags, 0)
}

/// Goes step by step, so that nothing can be put in the place of what was looked at.
fn open_through_links_of(path: &Path, flags: OFlags, trusted: u32) -> Result<OwnedFd, Closed> {
    let (mut at, mut left, mut shown) = (None::<OwnedFd>, VecDeque::new(), PathBuf::new());
    prepend(&mut left, path);
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match &at {
            Some(at) => fs::openat(at, &name, step, Mode::empty())?,
            None => fs::openat(CWD, &name, step, Mode::empty())?,
        };
        let status = fs::fstat(&found)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::Symlink {
            shown.push(&name);
            at = Some(found);
            continue;
        }
        if status.st_uid != trusted {
            return Err(Closed::Link(shown.join(&name), status.st_uid));
        }
        links += 1;
        if links > LINKS {
            return Err(Errno::LOOP.into());
        }
        let target = fs::readlinkat(&found, "", Vec::new())?.into_bytes();
        let target = PathBuf::from(OsString::from_vec(target));
        if target.is_absolute() {
            (at, shown) = (None, PathBuf::new());
        }
        prepend(&mut left, &target);
    }
    // The very file that was found, opened for what it is wanted for.
    let found = at.ok_or(Errno::NOENT)?;
    let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
    Ok(fs::open(own, flags.difference(OFlags::NOFOLLOW), Mode::empty())?)
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
    use std::io::Read;
    use std::os::unix::fs::{lchown, symlink};

    use super::*;

    fn read(path: &Path, trusted: u32) -> Result<String, Closed> {
        let mut text = String::new();
        let file = open_through_links_of(path, OFlags::RDONLY | OFlags::CLOEXEC, trusted)?;
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
