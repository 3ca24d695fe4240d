//! `/run/glovebox`, where root leaves what lasts as long as a run, or until a boot: marks about the service, copies of keys.
//!
//! Everybody may look into it, and root alone may write: what is in it counts as root's word. Where others may write,
//! nothing is read there, and nothing begins that needs it.

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::directory::{self, Exposed};
use crate::error::{Error, Kind};

/// The directory.
pub(super) const RUN_DIR: &str = "/run/glovebox";

/// Why [`RUN_DIR`] cannot be used.
#[derive(Debug)]
pub(super) enum Unusable {
    /// Others than root could write there, or put something into its place.
    Exposed {
        /// How.
        why: String,
        /// Command that mends it.
        mended_by: String,
    },
    /// The system says so.
    System(std::io::Error),
}

impl Unusable {
    /// The failure of a command that needs the directory.
    pub(super) fn refuse(&self, message: impl Into<String>) -> Error {
        let error = Error::new(Kind::Refused, message);
        match self {
            Self::Exposed { why, mended_by } => {
                error.with("cause", why).hint(format!("Put it right with `{mended_by}`, and repeat the command."))
            }
            Self::System(cause) => error.with("cause", format!("{RUN_DIR}: {cause}")),
        }
    }

    pub(super) fn is_exposed(&self) -> bool {
        matches!(self, Self::Exposed { .. })
    }
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exposed { why, mended_by } => write!(f, "{why}: `{mended_by}` puts it right"),
            Self::System(cause) => write!(f, "{RUN_DIR}: {cause}"),
        }
    }
}

impl From<Errno> for Unusable {
    fn from(cause: Errno) -> Self {
        Self::System(cause.into())
    }
}

impl From<Exposed> for Unusable {
    fn from(exposed: Exposed) -> Self {
        Self::Exposed { why: exposed.to_string(), mended_by: exposed.mended_by() }
    }
}

/// Opens it, made if it is missing.
pub(super) fn open() -> Result<OwnedFd, Unusable> {
    open_at(Path::new(RUN_DIR))
}

/// Opens it if it is there.
pub(super) fn open_present() -> Result<Option<OwnedFd>, Unusable> {
    match fs::lstat(RUN_DIR) {
        Err(Errno::NOENT) => Ok(None),
        _ => open().map(Some),
    }
}

fn open_at(path: &Path) -> Result<OwnedFd, Unusable> {
    let parent = directory::resolve(path.parent().unwrap_or(Path::new("/")));
    let place = match parent {
        Ok(parent) => parent.join(path.file_name().unwrap_or_default()),
        Err(directory::Unresolved::Exposed(exposed)) => return Err(exposed.into()),
        Err(directory::Unresolved::System(cause)) => return Err(cause.into()),
    };
    match std::fs::DirBuilder::new().mode(0o755).create(&place) {
        Err(cause) if cause.kind() != std::io::ErrorKind::AlreadyExists => return Err(Unusable::System(cause)),
        _ => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match fs::openat(CWD, &place, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(exposed(&place, None)),
        opened => opened?,
    };
    let found = fs::fstat(&opened)?;
    if found.st_uid != 0 || found.st_mode & 0o022 != 0 {
        return Err(exposed(&place, Some(&found)));
    }
    // Made under our umask, it lets nobody else in.
    if found.st_mode & 0o755 != 0o755 {
        fs::fchmod(&opened, Mode::from_raw_mode(0o755))?;
    }
    Ok(opened)
}

/// All that others put into it goes with it: its rights alone would make that root's word.
fn exposed(place: &PathBuf, found: Option<&fs::Stat>) -> Unusable {
    let shown = place.display();
    let why = match found {
        None => match fs::lstat(place).map(|found| FileType::from_raw_mode(found.st_mode)) {
            Ok(FileType::Symlink) => format!("{shown} is a link"),
            _ => format!("{shown} is no directory"),
        },
        Some(found) if found.st_uid != 0 => format!("{shown} belongs to another account (uid {})", found.st_uid),
        Some(_) => format!("others than root may write into {shown}"),
    };
    Unusable::Exposed { why, mended_by: format!("rm -rf {shown}") }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn k18_a_directory_that_others_can_write_is_refused_with_the_command() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = |words: &str| match open_at(&path) {
            Err(Unusable::Exposed { why, mended_by }) => {
                assert!(why.contains(words), "{why}");
                // What it says is all that is wanted.
                assert!(std::process::Command::new("sh").args(["-c", &mended_by]).status().unwrap().success());
                let opened = fs::fstat(open_at(&path).unwrap()).unwrap();
                assert_eq!((opened.st_uid, opened.st_mode & 0o7777), (0, 0o755), "{words}");
            }
            other => panic!("{words}: {other:?}"),
        };
        open_at(&path).unwrap();
        chown(&path, Some(65_534), None).unwrap();
        refused("belongs to another account (uid 65534)");
        mode(&path, 0o775);
        refused("others than root may write into");
        mode(&path, 0o757);
        refused("others than root may write into");
        std::fs::remove_dir(&path).unwrap();
        symlink("/etc", &path).unwrap();
        refused("is a link");
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        refused("is no directory");
        mode(dir.path(), 0o777);
        refused("others than root may write into");
        chown(dir.path(), Some(65_534), None).unwrap();
        refused("belongs to another account (uid 65534)");
    }
}
