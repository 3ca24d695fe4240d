//! The promise that a service that was running is running afterwards, whatever happens between.
//!
//! Before the service is stopped, a note is left in the state directory; it goes when the service runs again. A run
//! that finds the note of a killed run starts the service. The note only ever concerns the configured unit: the state
//! directory belongs to an unprivileged account, and root starts nothing that it names.

use std::io::Write;
use std::path::PathBuf;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{RUN_DIR, run_dir};
use crate::error::{Context, Error, Kind, Result};
use crate::service::{State, Unit};
use crate::settings::Settings;

/// The note's name in the state directory.
const NOTE: &str = "service-stopped";

/// Its name while it is written.
const TEMPORARY_NOTE: &str = ".service-stopped.partial";

/// Stops the service and sees to it that it is started again.
#[derive(Debug)]
pub struct ServiceGuard {
    unit: Unit,
    state_dir: PathBuf,
    stopped: bool,
    /// Whether the hold file is this run's.
    holds: bool,
}

impl ServiceGuard {
    /// For the unit of these settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self { unit: Unit::new(&settings.service), state_dir: settings.state_dir.clone(), stopped: false, holds: false }
    }

    /// Whether the service runs.
    pub async fn state(&self) -> Result<State> {
        self.unit.state().await
    }

    /// Stops the service if it runs, and keeps it from being started until [`ServiceGuard::start`]. If it does not stop, it
    /// is started again.
    pub async fn stop(&mut self) -> Result<()> {
        self.hold();
        if self.unit.state().await? != State::Active {
            // Stopped by an earlier run, and did not start again on what that one left: it is to run on what this one does.
            self.stopped = self.has_note();
            return Ok(());
        }
        self.write_note()?;
        self.stopped = true;
        if let Err(error) = self.unit.stop().await {
            let name = self.unit.name().to_owned();
            return Err(match self.start().await {
                Ok(()) => error.with("state", format!("the live database was not touched, {name} was started again")),
                Err(_) => error
                    .escalate(Kind::Attention)
                    .with("state", format!("the live database was not touched, {name} may be stopped"))
                    .hint(format!("systemctl start {name}")),
            });
        }
        Ok(())
    }

    /// Starts the service if it was running before [`ServiceGuard::stop`].
    pub async fn start(&mut self) -> Result<()> {
        self.release();
        if !self.stopped {
            return Ok(());
        }
        // One attempt: a unit that does not start now will not start in a loop either, and says why in its journal.
        self.stopped = false;
        let name = self.unit.name().to_owned();
        self.unit.start().await.map_err(|error| {
            let message = format!("{name} was stopped and does not start again");
            Error::new(Kind::Attention, message)
                .with("cause", error.to_string())
                .hint(format!("systemctl start {name}"))
                .hint(format!("See why with `journalctl -u {name} -n 50`."))
        })?;
        self.remove_note()
    }

    /// Starts the service if a run that was killed left it stopped. Answers whether there was a note of one.
    pub async fn recover(&mut self) -> Result<bool> {
        // Killed while it was written: the service was not stopped yet.
        let _ = std::fs::remove_file(self.state_dir.join(TEMPORARY_NOTE));
        // Whoever calls this holds the lock, so nobody else is exchanging the database.
        let _ = std::fs::remove_file(self.hold_path());
        if !self.has_note() {
            return Ok(false);
        }
        self.stopped = true;
        self.start().await?;
        Ok(true)
    }

    /// The application must not come up while its database is being exchanged, whoever starts it: its unit has
    /// `ConditionPathExists=!` with this path. Masking would not do, since NixOS has its units where a mask does not reach.
    fn hold_path(&self) -> PathBuf {
        PathBuf::from(RUN_DIR).join(format!("{}.hold", self.unit.name()))
    }

    /// Where only root may write; anybody else stops the service in another way, and has nothing to hold it with.
    fn hold(&mut self) {
        self.holds = true;
        let _ = run_dir();
        let _ = std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(self.hold_path());
    }

    /// Only what this run holds: another one may be exchanging the database right now.
    fn release(&mut self) {
        if std::mem::take(&mut self.holds) {
            let _ = std::fs::remove_file(self.hold_path());
        }
    }

    fn has_note(&self) -> bool {
        std::fs::read_to_string(self.state_dir.join(NOTE)).is_ok_and(|note| note.trim() == self.unit.name())
    }

    fn write_note(&self) -> Result<()> {
        let failed = || format!("cannot write into the state directory {}", self.state_dir.display());
        let write = || -> std::io::Result<()> {
            let directory = fs::open(&self.state_dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            // One name is enough: whoever gets here holds the lock of the database. A killed run may have left it.
            match fs::unlinkat(&directory, TEMPORARY_NOTE, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(cause) => return Err(cause.into()),
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = std::fs::File::from(fs::openat(&directory, TEMPORARY_NOTE, flags, Mode::RUSR | Mode::WUSR)?);
            writeln!(file, "{}", self.unit.name())?;
            file.sync_all()?;
            fs::renameat(&directory, TEMPORARY_NOTE, &directory, NOTE)?;
            Ok(fs::fsync(&directory)?)
        };
        write().context(Kind::Refused, failed()).map_err(|error| {
            error
                .with("state", "the live database and the service were not touched")
                .hint("Without this note a killed run could leave the service stopped; set `state_dir`.")
        })
    }

    fn remove_note(&self) -> Result<()> {
        match std::fs::remove_file(self.state_dir.join(NOTE)) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::new(Kind::Attention, "cannot remove the note of a stopped service")
                    .with("file", self.state_dir.join(NOTE).display())
                    .with("cause", cause))
            }
            _ => Ok(()),
        }
    }
}
