//! Locks of restic's kind behind a network.
//!
//! There is no flock on them, so a lock that a killed run left is told by its process: gone from this machine, or not
//! heard of for as long as restic waits. What another machine left stays, as with restic: only a person can say.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use nix::unistd::Pid;

use super::super::id::Id;
use super::super::remote::{Remote, failed};
use super::super::vault::Vault;
use super::super::{Handle, Location};
use super::signs::{Content, Found, RENEWAL, conflict};
use crate::error::{Context, Error, Kind, Result};

/// How long a lock counts that nobody renews, in minutes. As restic.
const STALE: TimeDelta = TimeDelta::minutes(30);

/// How long the end of a run waits for a renewal that is under way.
const PATIENCE: Duration = Duration::from_secs(2);

/// Fails if somebody else holds a lock that excludes this work.
pub(super) fn refuse(vault: &Vault, remote: &dyn Remote, location: &Location, exclusive: bool) -> Result<()> {
    conflict(&look(vault, remote, location, false)?, &location.to_string(), exclusive)
}

/// All locks but those of this process and stale ones of our own, which can be removed on the way.
fn look(vault: &Vault, remote: &dyn Remote, location: &Location, remove_stale: bool) -> Result<Vec<Found>> {
    use std::io::ErrorKind::NotFound;
    let named = match remote.list("locks") {
        Err(cause) if cause.kind() == NotFound => return Ok(Vec::new()),
        named => named.map_err(|cause| failed(location, &cause))?,
    };
    let mut found = Vec::new();
    for (name, _) in named {
        let path = format!("locks/{name}");
        let raw = match remote.read(&path, None) {
            // Taken away meanwhile, it is no lock any more.
            Err(cause) if cause.kind() == NotFound => continue,
            raw => raw.map_err(|cause| failed(location, &cause))?,
        };
        let content = vault.open_file(&raw).and_then(|plain| serde_json::from_slice::<Content>(&plain).ok());
        let content = content.filter(|_| name == Id::of(&raw).to_string());
        if let Some(ours) = content.as_ref().filter(|content| content.is_ours()) {
            if ours.pid == Pid::this().as_raw() {
                continue;
            }
            if ours.has_ended() || Utc::now().signed_duration_since(ours.time) > STALE {
                if remove_stale {
                    // Somebody else may have been faster.
                    let _ = remote.remove(&path);
                }
                continue;
            }
        }
        found.push(Found { name, content });
    }
    Ok(found)
}

/// Our own sign. It is taken down with this value.
pub(super) struct Sign {
    remote: Arc<dyn Remote>,
    /// The path of the file.
    current: Arc<Mutex<String>>,
    /// Ends the thread when it is dropped.
    stop: Option<Sender<()>>,
    renewal: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Sign {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sign").field("current", &self.current).finish_non_exhaustive()
    }
}

impl Sign {
    /// Writes our lock, and keeps it fresh.
    pub(super) fn put_up(handle: &Handle, remote: &Arc<dyn Remote>, exclusive: bool) -> Result<Self> {
        Self::renewed_every(handle, remote, exclusive, RENEWAL)
    }

    fn renewed_every(handle: &Handle, remote: &Arc<dyn Remote>, exclusive: bool, period: Duration) -> Result<Self> {
        let (vault, location) = (Arc::clone(&handle.vault), handle.location.clone());
        look(&vault, &**remote, &location, true)?;
        refuse(&vault, &**remote, &location, exclusive)?;
        let current = Arc::new(Mutex::new(post(&vault, &**remote, &location, exclusive)?));
        let (stop, stopped) = mpsc::channel::<()>();
        let mut sign =
            Self { remote: Arc::clone(remote), current: Arc::clone(&current), stop: Some(stop), renewal: None };
        // Two that wrote at the same moment see each other now, and at least one of them gives way.
        refuse(&vault, &**remote, &location, exclusive)?;
        let remote = Arc::clone(remote);
        let renewal = std::thread::Builder::new().name("lock".to_owned()).spawn(move || {
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                // What cannot be renewed now can be the next time; restic waits for 30 minutes.
                let Ok(fresh) = post(&vault, &*remote, &location, exclusive) else { continue };
                let old = std::mem::replace(&mut *current.lock().unwrap_or_else(PoisonError::into_inner), fresh);
                let _ = remote.remove(&old);
            }
        });
        sign.renewal = Some(renewal.context(Kind::Store, "cannot start a thread")?);
        Ok(sign)
    }
}

impl Drop for Sign {
    fn drop(&mut self) {
        drop(self.stop.take());
        let Some(thread) = self.renewal.take() else { return self.take_down() };
        // Asleep it ends at once. One that waits for an answer must not hold up the end of the run.
        let begun = Instant::now();
        while !thread.is_finished() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.take_down();
    }
}

impl Sign {
    fn take_down(&self) {
        // If this fails, the next run of ours takes it away: its process is gone then.
        let _ = self.remote.remove(&self.current.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Writes a lock, and gives its path.
fn post(vault: &Vault, remote: &dyn Remote, location: &Location, exclusive: bool) -> Result<String> {
    let write = || {
        let sealed = vault.seal(&serde_json::to_vec(&Content::now(exclusive))?)?;
        let path = format!("locks/{}", Id::of(&sealed));
        remote.write(&path, sealed.into()).map(|()| path)
    };
    write().map_err(|cause: std::io::Error| {
        Error::new(Kind::Store, format!("cannot write a lock into the repository at {location}"))
            .with("cause", cause)
            .with("state", "nothing was touched")
    })
}
