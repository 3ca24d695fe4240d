//! Directories that root makes for the account that does the work.
//!
//! Root does so only where nobody else can put something else into their place while it does: in a directory that
//! belongs to root up to `/`, and by descriptors that follow no link. Everywhere else the account makes them itself,
//! with its own rights, once root's are given up.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use nix::unistd::User;
use rustix::fs::{self, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::error::{Context, Kind, Result};

const OPEN: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Parts of a path, links followed, after which it is given up: a loop has no end.
const MOST_PARTS: usize = 256;

/// Makes a missing directory and hands it to an account, where only root may write; else does nothing.
///
/// # Errors
/// [`Kind::Refused`] if it was made and cannot be handed over.
pub fn make_for(dir: &Path, with_parents: bool, account: &str) -> Result<()> {
    let Some(present) = dir.ancestors().skip(1).find(|above| above.exists()) else { return Ok(()) };
    let Ok(missing) = dir.strip_prefix(present) else { return Ok(()) };
    let names: Vec<&OsStr> = missing.iter().collect();
    if names.len() > 1 && !with_parents {
        return Ok(());
    }
    let opened = resolve(present).ok().and_then(|present| fs::open(&present, OPEN, Mode::empty()).ok());
    let Some(mut above) = opened else { return Ok(()) };
    for (number, name) in names.iter().enumerate() {
        let is_last = number + 1 == names.len();
        let made = fs::mkdirat(&above, *name, Mode::RWXU).and_then(|()| fs::openat(&above, *name, OPEN, Mode::empty()));
        // Not every run needs it; the one that does says so.
        let Ok(made) = made else { return Ok(()) };
        if is_last {
            let user = User::from_name(account).ok().flatten();
            let (user, group) =
                user.map(|user| (Uid::from_raw(user.uid.as_raw()), Gid::from_raw(user.gid.as_raw()))).unzip();
            fs::fchown(&made, user, group)
                .context(Kind::Refused, format!("cannot hand {} to \"{account}\"", dir.display()))?;
        } else {
            // The account has to pass.
            fs::fchmod(&made, Mode::from_raw_mode(0o755))
                .context(Kind::Refused, format!("cannot let \"{account}\" into a directory above {}", dir.display()))?;
        }
        above = made;
    }
    Ok(())
}

/// A part of a path that others than root can exchange for something else.
#[derive(Debug)]
pub(super) struct Exposed {
    path: PathBuf,
    owner: u32,
}

impl Exposed {
    /// Command that mends it.
    pub(super) fn mended_by(&self) -> String {
        let command = if self.owner == 0 { "chmod go-w" } else { "chown -h root:" };
        format!("{command} {}", self.path.display())
    }
}

impl std::fmt::Display for Exposed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        match self.owner {
            0 => write!(f, "others than root may write into {path}"),
            owner => write!(f, "{path} belongs to another account (uid {owner})"),
        }
    }
}

/// Why root does not go to a directory.
#[derive(Debug)]
pub(super) enum Unresolved {
    /// Others can exchange a part of its path.
    Exposed(Exposed),
    /// The system says so.
    System(Errno),
}

/// The directory without links on the way, if nobody but root can put something into the place of any part of it.
///
/// Links are followed one by one: one that another account made could lead where it may not go itself.
pub(super) fn resolve(path: &Path) -> std::result::Result<PathBuf, Unresolved> {
    if !path.is_absolute() {
        return Err(Unresolved::System(Errno::INVAL));
    }
    let parts = |path: &Path| path.iter().map(OsStr::to_owned).collect::<Vec<_>>();
    let mut left: VecDeque<OsString> = parts(path).into();
    let mut resolved = PathBuf::new();
    for _ in 0..MOST_PARTS {
        let Some(part) = left.pop_front() else { return Ok(resolved) };
        if part == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&part);
        let found = fs::lstat(&next).map_err(Unresolved::System)?;
        let is_link = FileType::from_raw_mode(found.st_mode) == FileType::Symlink;
        // In a directory with the sticky bit (`/tmp`), others cannot move what is root's.
        let is_open = found.st_mode & 0o022 != 0 && found.st_mode & 0o1000 == 0;
        if found.st_uid != 0 || (is_open && !is_link) {
            return Err(Unresolved::Exposed(Exposed { path: next, owner: found.st_uid }));
        }
        if is_link {
            let target = std::fs::read_link(&next).map_err(|_| Unresolved::System(Errno::NOENT))?;
            for part in parts(&target).into_iter().rev() {
                left.push_front(part);
            }
        } else {
            resolved = next;
        }
    }
    Err(Unresolved::System(Errno::LOOP))
}
