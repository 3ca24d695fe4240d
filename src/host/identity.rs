//! Private copies of SSH's identity files, for an account that may not read the files themselves.
//!
//! A key is root's alone as a rule, and ssh, which reads it, runs as the account that does the work. It takes no key from
//! a descriptor; so for as long as a run lasts, there is a copy below `/run/glovebox` that is this account's alone. The
//! run holds a lock on it: a copy without one was left by a run that was killed, and goes with the next.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, metadata};
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use nix::unistd::{User, getgrouplist};
use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags};
use zeroize::Zeroizing;

use super::output::make_temporary;
use super::run_dir::{self, RUN_DIR};
use crate::error::{Context, Error, Kind, Result};
use crate::path;
use crate::settings::{Repository, Settings};

/// What the names of all copies begin with.
const PREFIX: &str = "identity.";

/// What ssh adds to a key's path, and looks for there.
const CERTIFICATE: &str = "-cert.pub";

/// More than any key or certificate has, in bytes.
const LONGEST: u64 = 1 << 20;

/// The copies of a run. They go with this value.
#[derive(Debug, Default)]
pub struct Identities {
    paths: BTreeMap<String, String>,
    /// Where they are, and their names with what holds their locks.
    copies: Option<(OwnedFd, Vec<(String, File)>)>,
}

impl Identities {
    /// Copies every configured identity file that the account could not read by itself, with the certificate beside it if
    /// there is one. Removes what killed runs left.
    ///
    /// # Errors
    /// [`Kind::Usage`] if there is no such file, [`Kind::Refused`] if it cannot be copied; what was copied before stays.
    pub fn copy(&mut self, settings: &Settings, account: &str) -> Result<()> {
        sweep();
        let wanted: BTreeSet<&str> =
            settings.repository.iter().chain(&settings.copies).filter_map(identity_file).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let unknown = || format!("the account \"{account}\" cannot be looked up");
        let user = User::from_name(account).context(Kind::Refused, unknown())?;
        let user = user.ok_or_else(|| Error::new(Kind::Refused, unknown()))?;
        for path in wanted.into_iter().filter(|path| !can_read(&user, Path::new(path))) {
            let key = match path::open_file(Path::new(path)) {
                Ok(key) => key,
                // Root is refused by file systems of other machines alone, which may let the account.
                Err(cause) if cause.kind() == ErrorKind::PermissionDenied => continue,
                Err(cause) => {
                    return Err(Error::new(Kind::Usage, format!("cannot read the identity file {path}"))
                        .with("cause", cause)
                        .with("state", "nothing was read, nothing was written")
                        .hint("Name an existing file in the option `identity_file`, or leave it out."));
                }
            };
            let failed = || format!("cannot hand a copy of the identity file {path} to \"{account}\"");
            if self.copies.is_none() {
                let opened = run_dir::open().map_err(|unusable| {
                    unusable.refuse(failed()).with("state", "nothing was read, nothing was written")
                })?;
                self.copies = Some((opened, Vec::new()));
            }
            self.hand_over(path, &key, &user).map_err(|cause| {
                Error::new(Kind::Refused, failed())
                    .with("cause", cause)
                    .with("directory", RUN_DIR)
                    .with("state", "nothing was read, nothing was written")
                    .hint(format!("Let root write into {RUN_DIR}, or let \"{account}\" read the file."))
            })?;
        }
        Ok(())
    }

    /// From the configured paths to those of the copies.
    #[must_use]
    pub fn paths(&self) -> BTreeMap<String, String> {
        self.paths.clone()
    }

    fn hand_over(&mut self, path: &str, key: &File, user: &User) -> std::io::Result<()> {
        let Some((directory, copies)) = &mut self.copies else { return Ok(()) };
        let mut copy = |name: &str, source: &File| -> std::io::Result<()> {
            let content = Zeroizing::new(path::read_small(source, LONGEST)?);
            copies.push((name.to_owned(), make_temporary(directory, name.as_ref())?.into()));
            let Some((_, file)) = copies.last_mut() else { return Ok(()) };
            file.write_all(&content)?;
            fchown(file, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        };
        // ssh names the path where the key is no good: the original is recognised by its name.
        let plain = |letter: &char| letter.is_ascii_alphanumeric() || "-_.".contains(*letter);
        let shown: String = path.rsplit('/').next().unwrap_or_default().chars().filter(plain).take(60).collect();
        let name = format!("{PREFIX}{}.{}.{shown}", std::process::id(), self.paths.len());
        copy(&name, key)?;
        match path::open_file(Path::new(&format!("{path}{CERTIFICATE}"))) {
            Ok(certificate) => copy(&format!("{name}{CERTIFICATE}"), &certificate)?,
            Err(cause) if cause.kind() == ErrorKind::NotFound => {}
            Err(cause) => return Err(cause),
        }
        self.paths.insert(path.to_owned(), format!("{RUN_DIR}/{name}"));
        Ok(())
    }
}

impl Drop for Identities {
    fn drop(&mut self) {
        let Some((directory, copies)) = self.copies.take() else { return };
        for (name, _) in &copies {
            // One that cannot be removed is removed by the next run, which finds it unlocked.
            let _ = fs::unlinkat(&directory, name, AtFlags::empty());
        }
    }
}

/// The identity file of a repository behind SSH. With `~`, `%` or `$` in its path it is for ssh to find: what they stand
/// for is the account's own.
fn identity_file(repository: &Repository) -> Option<&str> {
    let path = repository.options.get("identity_file")?;
    let is_plain = path.starts_with('/') && !path.contains(['%', '$']);
    (is_plain && repository.location.starts_with("sftp:")).then_some(path)
}

/// Whether the modes of the file, and of the directories on the way to it, let the account read it. Where something else
/// forbids it, ssh says so.
fn can_read(user: &User, path: &Path) -> bool {
    let groups = std::ffi::CString::new(user.name.as_str()).ok().and_then(|name| getgrouplist(&name, user.gid).ok());
    let groups = groups.unwrap_or_default();
    let may = |path: &Path, bit: u32| {
        metadata(path).is_ok_and(|found| {
            let is_in_group = groups.iter().any(|group| group.as_raw() == found.gid());
            let class = if found.uid() == user.uid.as_raw() { 6 } else { u32::from(is_in_group) * 3 };
            found.mode() >> class & bit == bit
        })
    };
    // A link's own directory counts as well as that of the file.
    let is_open = |path: &Path| may(path, 4) && path.ancestors().skip(1).all(|directory| may(directory, 1));
    is_open(path) && path.canonicalize().is_ok_and(|path| is_open(&path))
}

/// Removes the copies that no living run holds.
fn sweep() {
    let Ok(Some(directory)) = run_dir::open_present() else { return };
    let Ok(entries) = fs::Dir::read_from(&directory) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_bytes().starts_with(PREFIX.as_bytes())) {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = fs::openat(&directory, entry.file_name(), flags, Mode::empty()) else { continue };
        if fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::unlinkat(&directory, entry.file_name(), AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_what_is_behind_ssh_and_named_plainly_is_copied() {
        let named = |location: &str, path: &str| {
            let options = BTreeMap::from([("identity_file".to_owned(), path.to_owned())]);
            let repository = Repository { location: location.to_owned(), options, ..Repository::default() };
            identity_file(&repository).is_some()
        };
        assert!(named("sftp:host:/x", "/etc/key") && !named("/srv/x", "/etc/key"));
        for path in ["~/.ssh/key", "key", "/home/%u/key", "${HOME}/key", "/run/${ID}/key", ""] {
            assert!(!named("sftp:host:/x", path), "{path}");
        }
    }

    #[test]
    fn a_file_is_readable_if_it_and_every_directory_on_the_way_are() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let (closed, key, link) = (dir.path().join("closed"), dir.path().join("closed/key"), dir.path().join("link"));
        std::fs::create_dir(&closed).unwrap();
        std::fs::write(&key, "").unwrap();
        std::os::unix::fs::symlink(&key, &link).unwrap();
        let own = User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
        // No file is this account's, by its own number or that of a group.
        let other = User { name: "nobody-like-this".into(), uid: 99_999.into(), gid: 99_999.into(), ..own.clone() };
        for (directory, of_closed, of_key, is_readable) in [
            (0o755, 0o755, 0o644, true),
            (0o755, 0o755, 0o600, false),
            (0o755, 0o700, 0o644, false),
            (0o700, 0o755, 0o644, false),
        ] {
            mode(dir.path(), directory);
            mode(&closed, of_closed);
            mode(&key, of_key);
            for path in [&key, &link] {
                assert_eq!(can_read(&other, path), is_readable, "{directory:o} {of_closed:o} {of_key:o}");
                assert!(can_read(&own, path));
            }
        }
        assert!(!can_read(&own, &dir.path().join("absent")));
    }
}
