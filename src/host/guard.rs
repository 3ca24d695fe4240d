//! The promise that a service that was running is running afterwards, whatever happens between.
//!
//! Before the service is stopped, a note is left; it goes when the service runs again. A run that finds the note of a
//! killed run starts the service. Whoever wrote the note, or holds the service, has the file locked for as long as its
//! process lives, so that a run that is at work is never taken for one that was killed.

use std::fs::File;
use std::path::PathBuf;

use rustix::fs::FlockOperation;

use super::RUN_DIR;
use super::former::{self, HOLD};
use super::marks::Mark;
use crate::error::{Error, Kind, Result};
use crate::service::{State, Unit};
use crate::settings::{Service, Settings};

/// The second line of a note: the service did not start, and its user knows.
const TOLD: &str = "does not start";

/// Result of recovering a service that a killed run may have left stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Recovered {
    /// There was nothing to do.
    Nothing,
    /// It was stopped, and is started.
    Started,
    /// It is stopped, and this process has no right to see to it.
    NotOurs,
}

/// Stops the service and sees to it that it is started again.
#[derive(Debug)]
pub struct ServiceGuard {
    unit: Unit,
    settings: Service,
    state_dir: PathBuf,
    /// It was running, or an earlier run stopped it: it is to be started.
    stopped: bool,
    /// It was brought down, and what starts it now is not this run.
    is_down: bool,
    /// The note of this run.
    note: Option<File>,
    /// The hold file, if this run holds the service.
    hold: Option<File>,
}

impl ServiceGuard {
    /// For the unit of these settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            unit: Unit::new(&settings.service),
            settings: settings.service.clone(),
            state_dir: settings.state_dir.clone(),
            stopped: false,
            is_down: false,
            note: None,
            hold: None,
        }
    }

    /// Whether the service runs.
    pub async fn state(&self) -> Result<State> {
        self.unit.state().await
    }

    /// Whether this process is a part of the service.
    pub async fn is_part(&self) -> Result<bool> {
        self.unit.is_our_own().await
    }

    /// Refuses a service that runs and could not be started again once it is stopped.
    pub async fn can_come_back(&self) -> Result<()> {
        self.unit.can_come_back().await
    }

    /// Stops the service if it runs or is about to, waits until nothing of it is left, and keeps it from being started
    /// until [`ServiceGuard::start`]. If it does not stop, it is started again. Answers with warnings.
    pub async fn stop(&mut self) -> Result<Vec<String>> {
        self.hold();
        let untouched = "the live database and the service were not touched";
        self.can_come_back().await.map_err(|error| error.or_state(untouched))?;
        let mut warnings = Vec::new();
        let comes_up = self.unit.state().await?.comes_up();
        if comes_up {
            let name = self.unit.name().to_owned();
            warnings.extend(self.write_note(&name));
        }
        // Or stopped by an earlier run, and did not start again on what that one left: it is to run on what this one does.
        self.stopped = comes_up || self.has_note();
        match self.unit.stop().await {
            Ok(done) => {
                // Somebody may have started it since it was looked at.
                self.stopped |= done.was_up;
                warnings.extend(done.warning);
            }
            Err(error) => return Err(self.take_back(error).await),
        }
        self.is_down = true;
        Ok(warnings)
    }

    async fn take_back(&mut self, error: Error) -> Error {
        let name = self.unit.name().to_owned();
        if !self.stopped {
            return error.with("state", "the live database was not touched");
        }
        match self.start().await {
            Ok(()) => error.with("state", format!("the live database was not touched, {name} was started again")),
            Err(_) => error
                .escalate(Kind::Attention)
                .with("state", format!("the live database was not touched, {name} may be stopped"))
                .hint(format!("systemctl start {name}")),
        }
    }

    /// Starts the service if it was running before [`ServiceGuard::stop`]. What somebody started in between, in spite of
    /// the hold file, begins anew: it may have seen both databases.
    pub async fn start(&mut self) -> Result<()> {
        let anew = std::mem::take(&mut self.is_down);
        self.release();
        let is_up = anew && !self.stopped && self.unit.is_asked() && self.unit.state().await? == State::Active;
        // One attempt: a unit that does not start now will not start in a loop either, and says why in its journal.
        if !std::mem::take(&mut self.stopped) && !is_up {
            return Ok(());
        }
        let name = self.unit.name().to_owned();
        let started = self.unit.start(anew).await;
        if started.is_err() && anew {
            // It is told now. The next restore tries again; a backup does not, against the will of whoever mends it.
            let told = self.told();
            self.write_note(&told);
        }
        started.map_err(|error| {
            let message = format!("{name} was stopped and does not start again");
            Error::new(Kind::Attention, message)
                .with("cause", error.to_string())
                .hint(format!("systemctl start {name}"))
                .hint(format!("See why with `journalctl -u {name} -n 50`."))
        })?;
        self.remove_note()
    }

    /// Whether a run that was killed may have left something: a note, or a hold file, that no living process has locked.
    #[must_use]
    pub fn is_left_over(&self) -> bool {
        let counts = |note: &Mark| note.is_ours() || (note.exists() && !is_root());
        let notes = self.notes(self.unit.name());
        let is_noted = notes.iter().any(|note| counts(note) && !note.is_held());
        is_noted || self.notes(&self.told()).iter().any(Mark::is_ours) || self.hold_mark().is_left()
    }

    /// Takes away what a run that was killed left, and starts the service if that run had stopped it; if it is asked for, one
    /// that did not start after a restore, too. Whoever calls this holds the lock, so nobody is exchanging the database.
    pub async fn recover(&mut self, not_started: bool) -> Result<Recovered> {
        let notes = self.notes(self.unit.name());
        for note in &notes {
            note.remove_partial();
        }
        if notes.iter().any(Mark::is_held) {
            // The run of that note is at work: it starts the service itself.
            return Ok(Recovered::Nothing);
        }
        let hold_stays = !self.hold_mark().remove_if_free();
        let has_note = notes.iter().any(Mark::is_ours) || (not_started && self.has_note());
        let is_foreign = !is_root() && notes.iter().any(|note| note.exists() && !note.is_ours());
        if !self.has_note() && !is_foreign && !hold_stays {
            return Ok(Recovered::Nothing);
        }
        let state = self.unit.state().await?;
        if state == State::Missing || (self.unit.is_asked() && state.comes_up()) {
            // Somebody has seen to it. A note that only root may take away does no harm.
            let _ = self.remove_note();
            return Ok(Recovered::Nothing);
        }
        if !has_note {
            let is_kept = is_foreign || (hold_stays && !is_root());
            return Ok(if is_kept { Recovered::NotOurs } else { Recovered::Nothing });
        }
        self.stopped = true;
        self.start().await?;
        Ok(Recovered::Started)
    }

    /// Warnings about a unit that a killed run left stopped or held, and that is not the one of the settings any more.
    pub async fn former_units(&self) -> Vec<String> {
        former::warnings(&self.settings, &self.notes("")).await
    }

    /// The application must not come up while its database is being exchanged, whoever starts it: its unit has
    /// `ConditionPathExists=!` with this path. Masking would not do, since NixOS has its units where a mask does not reach.
    fn hold_mark(&self) -> Mark {
        Mark::new(RUN_DIR.into(), format!("{}{HOLD}", self.unit.name()), "")
    }

    /// Where the note may be: in the state directory, which outlives a boot, or, where that cannot be written, where only
    /// root may write.
    fn notes(&self, content: &str) -> [Mark; 2] {
        let place = self.state_dir.display().to_string().replace('/', "-");
        [
            Mark::new(self.state_dir.clone(), "service-stopped".to_owned(), content),
            Mark::new(RUN_DIR.into(), format!("{}{place}.stopped", self.unit.name()), content),
        ]
    }

    /// Content of the note about a service that did not start, after its user was told.
    fn told(&self) -> String {
        format!("{}\n{TOLD}", self.unit.name())
    }

    /// Where only root may write; anybody else stops the service in another way, and has nothing to hold it with.
    fn hold(&mut self) {
        if self.hold.is_none() && super::run_dir().is_ok() {
            self.hold = self.hold_mark().make_shared().ok();
        }
    }

    /// Only what this run holds: another one may be exchanging the database right now.
    fn release(&mut self) {
        if let Some(hold) = self.hold.take() {
            let _ = rustix::fs::flock(&hold, FlockOperation::Unlock);
            self.hold_mark().remove_if_free();
        }
    }

    fn has_note(&self) -> bool {
        [self.unit.name(), &self.told()].iter().any(|content| self.notes(content).iter().any(Mark::is_ours))
    }

    /// Answers with a warning where no note can be written: going back must work on a machine in a bad state.
    fn write_note(&mut self, content: &str) -> Option<String> {
        let _ = super::run_dir();
        let mut causes = Vec::new();
        for note in self.notes(content) {
            match note.make() {
                Ok(file) => {
                    self.note = Some(file);
                    return None;
                }
                Err(cause) => causes.push(format!("{}: {cause}", note.path().display())),
            }
        }
        let unit = self.unit.name();
        Some(format!(
            "cannot note that {unit} is stopped, so nobody starts it if this run is killed: {}",
            causes.join("; ")
        ))
    }

    fn remove_note(&mut self) -> Result<()> {
        self.note = None;
        let told = self.told();
        for note in self.notes(&told).into_iter().chain(self.notes(self.unit.name())) {
            note.remove().map_err(|cause| {
                Error::new(Kind::Attention, "cannot remove the note of a stopped service")
                    .with("file", note.path().display())
                    .with("cause", cause)
            })?;
        }
        Ok(())
    }
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
