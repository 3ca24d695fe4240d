//! Locks of restic's kind: files in `locks/` that say who is at work.
//!
//! Like every file there they are encrypted and named by their SHA-256. restic takes one that was not renewed for
//! 30 minutes, or whose process is gone from its machine, for stale. Ours are renewed every 5 minutes, and say in a
//! field of their own, which restic passes over, that they are ours: such a file is also flocked for as long as it
//! counts. So one that a killed run left is told without asking whether a number is still the same process.
//!
//! Our host's name is not written as restic would write it: to see whether the process of a lock still lives,
//! `restic unlock` on the same host sends it SIGHUP, and that ends a backup. With another name it goes by the time.
//!
//! Source: restic's `doc/design.rst`, "Locks", and `internal/restic/lock.go`.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use chrono::{DateTime, Utc};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, User, getegid, geteuid, gethostname};
use serde::{Deserialize, Serialize};

use super::super::Handle;
use super::super::id::Id;
use super::super::limits::longest;
use super::super::snapshots::PROGRAM;
use super::super::vault::Vault;
use crate::error::{Context, Error, Kind, Result};

/// How often a lock is renewed. As restic.
pub(super) const RENEWAL: Duration = Duration::from_mins(5);

/// How old a file has to be that nobody finished writing.
const LEFT_OVER: Duration = Duration::from_hours(1);

/// What is in such a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Content {
    pub(super) time: DateTime<Utc>,
    pub(super) exclusive: bool,
    hostname: String,
    username: String,
    pub(super) pid: i32,
    uid: u32,
    gid: u32,
    /// Not restic's: tells that it is ours.
    program: String,
}

impl Default for Content {
    fn default() -> Self {
        let text = String::new;
        let time = DateTime::UNIX_EPOCH;
        Self { time, exclusive: true, hostname: text(), username: text(), pid: 0, uid: 0, gid: 0, program: text() }
    }
}

impl Content {
    pub(super) fn now(exclusive: bool) -> Self {
        let (uid, gid) = (geteuid(), getegid());
        Self {
            time: Utc::now(),
            exclusive,
            hostname: our_hostname(),
            username: User::from_uid(uid).ok().flatten().map(|user| user.name).unwrap_or_default(),
            pid: Pid::this().as_raw(),
            uid: uid.as_raw(),
            gid: gid.as_raw(),
            program: PROGRAM.to_owned(),
        }
    }

    pub(super) fn is_ours(&self) -> bool {
        self.program.starts_with("glovebox ") && self.hostname == our_hostname()
    }

    /// Whether no process here has its number; for one of this machine.
    pub(super) fn has_ended(&self) -> bool {
        kill(Pid::from_raw(self.pid), None) == Err(Errno::ESRCH)
    }

    /// For a person: who, where, since when.
    pub(super) fn shown(&self) -> String {
        let Self { username, hostname, pid, .. } = self;
        let program = if self.program.is_empty() { "restic" } else { &self.program };
        let gone = self.hostname == this_host() && self.has_ended();
        let ended = if gone { ", which has ended" } else { "" };
        format!("{program} of {username} on {hostname} (pid {pid}{ended}), at {}", self.time.format("%F %T UTC"))
    }
}

fn this_host() -> String {
    gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn our_hostname() -> String {
    format!("{} (glovebox)", this_host())
}

/// A lock that somebody else's work left in the directory.
pub(super) struct Found {
    pub(super) name: String,
    /// Nothing if it cannot be read: it may say anything.
    pub(super) content: Option<Content>,
}

/// The refusal that the first of these locks demands which excludes the work.
pub(super) fn conflict(found: &[Found], place: &str, exclusive: bool) -> Result<()> {
    let conflict =
        found.iter().find(|found| exclusive || found.content.as_ref().is_none_or(|content| content.exclusive));
    let Some(Found { name, content }) = conflict else { return Ok(()) };
    let holder = content.as_ref().map_or_else(|| "not known: the lock cannot be read".to_owned(), Content::shown);
    Err(Error::new(Kind::Busy, format!("another program is at work in the repository at {place}"))
        .with("lock", format!("locks/{name}"))
        .with("holder", holder)
        .with("state", "nothing was touched")
        .hint("Try again when it has ended.")
        .hint(format!("If it has ended without taking its lock away: `restic -r {place} unlock`.")))
}

/// Our own sign. It is taken down with this value.
#[derive(Debug)]
pub(super) struct Sign {
    current: Arc<Mutex<Posted>>,
    /// Ends the thread when it is dropped.
    stop: Option<Sender<()>>,
    renewal: Option<JoinHandle<()>>,
}

/// The file, and the descriptor that keeps it flocked.
#[derive(Debug)]
struct Posted {
    path: PathBuf,
    _file: File,
}

/// Fails if somebody else holds a lock that excludes this work. Stale ones of our own do not count.
///
/// # Errors
/// [`Kind::Busy`], naming the lock and who holds it; [`Kind::Refused`] if the directory cannot be read.
pub(super) fn refuse(vault: &Vault, root: &Path, exclusive: bool) -> Result<()> {
    conflict(&look(vault, root, false)?, &root.display().to_string(), exclusive)
}

/// All locks but those of this process and stale ones of our own, which can be removed on the way.
fn look(vault: &Vault, root: &Path, remove_stale: bool) -> Result<Vec<Found>> {
    let directory = root.join("locks");
    let failed = |cause: std::io::Error| {
        Error::new(Kind::Refused, format!("cannot look into {}", directory.display()))
            .with("cause", cause)
            .with("state", "nothing was touched")
    };
    let entries = match std::fs::read_dir(&directory) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if name.contains("-tmp-") {
            // Half written, by one who is at it or was killed: no lock, and not to be touched while it is young.
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            if remove_stale && modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > LEFT_OVER)) {
                let _ = std::fs::remove_file(&path);
            }
            continue;
        }
        // Taken away meanwhile, it is no lock any more.
        let Some(raw) = read(&path).map_err(failed)? else { continue };
        let content = vault.open_file(&raw).and_then(|plain| serde_json::from_slice::<Content>(&plain).ok());
        let content = content.filter(|_| name == Id::of(&raw).to_string());
        let ours = content.as_ref().is_some_and(Content::is_ours);
        if ours && !is_flocked(&path) {
            if remove_stale {
                // Somebody else may have been faster.
                let _ = std::fs::remove_file(&path);
            }
            continue;
        }
        let this_process = ours && content.as_ref().is_some_and(|content| content.pid == Pid::this().as_raw());
        if !this_process {
            found.push(Found { name, content });
        }
    }
    Ok(found)
}

fn read(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    match crate::bounded::file(path, longest("locks")) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // restic's locks have mode 0400: of another account it can be seen, not read.
        Err(cause) if cause.kind() == std::io::ErrorKind::PermissionDenied => Ok(Some(Vec::new())),
        read => read.map(Some),
    }
}

/// Whether a process keeps this file flocked; in doubt it does.
fn is_flocked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock_shared().is_err())
}

impl Sign {
    /// Writes our lock, and keeps it fresh.
    pub(super) fn put_up(handle: &Handle, root: &Path, exclusive: bool) -> Result<Self> {
        Self::renewed_every(handle, root, exclusive, RENEWAL)
    }

    pub(super) fn renewed_every(handle: &Handle, root: &Path, exclusive: bool, period: Duration) -> Result<Self> {
        let root = root.to_path_buf();
        let vault = Arc::clone(&handle.vault);
        look(&vault, &root, true)?;
        refuse(&vault, &root, exclusive)?;
        let current = Arc::new(Mutex::new(post(&vault, &root, exclusive)?));
        let (stop, stopped) = mpsc::channel::<()>();
        let mut sign = Self { current: Arc::clone(&current), stop: Some(stop), renewal: None };
        // Two that wrote at the same moment see each other now, and at least one of them gives way.
        refuse(&vault, &root, exclusive)?;
        let renewal = std::thread::Builder::new().name("lock".to_owned()).spawn(move || {
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                // What cannot be renewed now can be the next time; restic waits for 30 minutes.
                let Ok(fresh) = post(&vault, &root, exclusive) else { continue };
                let old = std::mem::replace(&mut *current.lock().unwrap_or_else(PoisonError::into_inner), fresh);
                let _ = std::fs::remove_file(&old.path);
            }
        });
        sign.renewal = Some(renewal.context(Kind::Store, "cannot start a thread")?);
        Ok(sign)
    }
}

impl Drop for Sign {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.renewal.take() {
            let _ = thread.join();
        }
        // If this fails, the next run of ours takes it away: nobody has it flocked then.
        let _ = std::fs::remove_file(&self.current.lock().unwrap_or_else(PoisonError::into_inner).path);
    }
}

/// Writes a lock; it is there as a whole, and flocked, or not at all.
fn post(vault: &Vault, root: &Path, exclusive: bool) -> Result<Posted> {
    let write = || {
        let directory = root.join("locks");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let sealed = vault.seal(&serde_json::to_vec(&Content::now(exclusive))?)?;
        let path = directory.join(Id::of(&sealed).to_string());
        let temporary = directory.join(format!("{}-tmp-", Id::of(&sealed)));
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let renamed = file
            .try_lock()
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(&sealed))
            .and_then(|()| std::fs::rename(&temporary, &path));
        if renamed.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        // Not synced: after a power cut nobody is at work here.
        renamed.map(|()| Posted { path, _file: file })
    };
    write().map_err(|cause: std::io::Error| {
        Error::new(Kind::Store, format!("cannot write a lock into {}", root.join("locks").display()))
            .with("cause", cause)
            .with("state", "nothing was touched")
    })
}
