//! The promise that a service that was running is running afterwards, whatever happens between.
//!
//! Before the service is stopped, a note is left; it goes when the service runs again. A run that finds the note of a
//! killed run starts the service. Whoever wrote the note, or holds the service, has the file locked for as long as its
//! process lives, so that a run that is at work is never taken for one that was killed.

use std::fs::File;

use rustix::fs::FlockOperation;

use super::former::{self, HOLD};
use super::marks::Mark;
use super::notes::{self, Notes, is_root};
use super::run_dir::{self, RUN_DIR};
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
    notes: Notes,
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
            notes: Notes::new(&settings.state_dir),
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

    /// Refuses a service that runs and could not be started again once it is stopped: also where others than root could
    /// take away, or write themselves, what root notes about that.
    pub async fn can_come_back(&self) -> Result<()> {
        match run_dir::open() {
            Err(unusable) if is_root() && unusable.is_exposed() => {
                return Err(unusable.refuse(format!("{} is not to be stopped", self.unit.name())));
            }
            _ => {}
        }
        self.unit.can_come_back().await
    }

    /// Stops the service if it runs or is about to, waits until nothing of it is left, and keeps it from being started
    /// until [`ServiceGuard::start`]. If it does not stop, it is started again. Answers with warnings.
    pub async fn stop(&mut self) -> Result<Vec<String>> {
        let untouched = "the live database and the service were not touched";
        self.can_come_back().await.map_err(|error| error.or_state(untouched))?;
        let mut warnings: Vec<String> = self.hold().into_iter().collect();
        // What this run leaves stopped may have been stopped by one of an older build; where that is not known, it is told.
        warnings.extend(self.notes.take_over().err().map(|cause| self.not_taken_over(&cause).message().to_owned()));
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
        if self.start().await.is_ok() {
            return error.with("state", format!("the live database was not touched, {name} was started again"));
        }
        // A signal for all processes of this run ends systemctl too: it is tried once more in the end.
        self.stopped = true;
        error
            .escalate(Kind::Attention)
            .with("state", format!("the live database was not touched, {name} may be stopped"))
            .hint(format!("systemctl start {name}"))
    }

    /// Starts the service if it was running before [`ServiceGuard::stop`]. What somebody started in between, in spite of
    /// the hold file, begins anew: it may have seen both databases.
    pub async fn start(&mut self) -> Result<()> {
        let anew = self.is_down;
        self.release();
        let is_up = anew && !self.stopped && self.unit.is_asked() && self.unit.state().await? == State::Active;
        let is_wanted = self.stopped || is_up;
        // One attempt: a unit that does not start now will not start in a loop either, and says why in its journal.
        let started = if is_wanted { self.unit.start(anew).await } else { Ok(()) };
        // Not before: where a signal ends this in the middle, it is called once more.
        (self.stopped, self.is_down) = (false, false);
        if !is_wanted {
            return Ok(());
        }
        if started.is_err() && anew {
            // It is told now. The next restore tries again; a backup does not, against the will of whoever mends it.
            let told = self.told();
            self.write_note(&told);
        }
        let name = self.unit.name().to_owned();
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
    ///
    /// # Errors
    /// [`Kind::Refused`] if others than root may have written what lies there.
    pub fn is_left_over(&self) -> Result<bool> {
        let unit = self.unit.name();
        notes::check_place().map_err(|unusable| {
            unusable.refuse(format!("cannot tell whether a run that was killed left {unit} stopped"))
        })?;
        let note = self.note_with(unit);
        let is_noted = note.is_ours() && !note.is_held();
        let is_of_others = self.notes.has_one_of_root(unit);
        let is_told = self.note_with(&self.told()).is_ours();
        Ok(is_noted || is_of_others || is_told || self.notes.has_old() || self.hold_mark().is_left())
    }

    /// Takes away what a run that was killed left, and starts the service if that run had stopped it; if it is asked for, one
    /// that did not start after a restore, too. Whoever calls this holds the lock, so nobody is exchanging the database.
    pub async fn recover(&mut self, not_started: bool) -> Result<Recovered> {
        self.notes.take_over().map_err(|cause| self.not_taken_over(&cause))?;
        let note = self.note_with(self.unit.name());
        note.remove_partial();
        if note.is_held() {
            // The run of that note is at work: it starts the service itself.
            return Ok(Recovered::Nothing);
        }
        let hold_stays = !self.hold_mark().remove_if_free();
        let has_note = note.is_ours() || (not_started && self.has_note());
        let is_foreign = self.notes.has_one_of_root(self.unit.name());
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
        former::warnings(&self.settings, &self.notes).await
    }

    /// The application must not come up while its database is being exchanged, whoever starts it: its unit has
    /// `ConditionPathExists=!` with this path. Masking would not do, since NixOS has its units where a mask does not reach.
    fn hold_mark(&self) -> Mark {
        Mark::new(RUN_DIR.into(), format!("{}{HOLD}", self.unit.name()), "")
    }

    fn note_with(&self, content: &str) -> Mark {
        self.notes.about(self.unit.name(), content)
    }

    fn not_taken_over(&self, cause: &std::io::Error) -> Error {
        let unit = self.unit.name();
        Error::new(Kind::Store, format!("cannot move the note of an older build about {unit} to {RUN_DIR}: {cause}"))
            .hint(format!("systemctl start {unit}"))
    }

    /// Content of the note about a service that did not start, after its user was told.
    fn told(&self) -> String {
        format!("{}\n{TOLD}", self.unit.name())
    }

    /// Where only root may write; anybody else stops the service in another way, and has nothing to hold it with. Answers
    /// with a warning where it cannot be held: going back must work on a machine in a bad state.
    fn hold(&mut self) -> Option<String> {
        if self.hold.is_some() || !is_root() {
            return None;
        }
        let held = run_dir::open().map_err(|unusable| unusable.to_string());
        let held = held.and_then(|_| self.hold_mark().make_shared().map_err(|cause| cause.to_string()));
        let failed = |cause| format!("cannot keep {} from being started meanwhile: {cause}", self.unit.name());
        match held {
            Ok(file) => self.hold = Some(file),
            Err(cause) if self.unit.is_asked() => return Some(failed(cause)),
            Err(_) => {}
        }
        None
    }

    /// Only what this run holds: another one may be exchanging the database right now.
    fn release(&mut self) {
        if let Some(hold) = self.hold.take() {
            let _ = rustix::fs::flock(&hold, FlockOperation::Unlock);
            self.hold_mark().remove_if_free();
        }
    }

    fn has_note(&self) -> bool {
        self.note_with(self.unit.name()).is_ours() || self.note_with(&self.told()).is_ours()
    }

    /// Answers with a warning where no note can be written: going back must work on a machine in a bad state.
    fn write_note(&mut self, content: &str) -> Option<String> {
        let place = if is_root() { run_dir::open().map(drop) } else { Ok(()) };
        let note = self.note_with(content);
        let made = place
            .map_err(|unusable| unusable.to_string())
            .and_then(|()| note.make().map_err(|cause| format!("{}: {cause}", note.path().display())));
        match made {
            Ok(file) => {
                self.note = Some(file);
                None
            }
            Err(cause) => Some(format!(
                "cannot note that {} is stopped, so nobody starts it if this run is killed: {cause}",
                self.unit.name()
            )),
        }
    }

    fn remove_note(&mut self) -> Result<()> {
        self.note = None;
        self.note_with("").remove().map_err(|cause| {
            Error::new(Kind::Attention, "cannot remove the note of a stopped service")
                .with("file", self.note_with("").path().display())
                .with("cause", cause)
        })
    }
}
