//! A unit that `service.unit` named when a restore was killed, and that it names no longer.
//!
//! Nobody starts it by itself: whoever changed the setting may want it to stay stopped. Its user is told, with the commands.

use std::path::{Path, PathBuf};

use super::RUN_DIR;
use super::guard::is_root;
use super::marks::Mark;
use crate::service::{State, Unit};
use crate::settings::Service;

/// The longest name that systemd gives a unit.
const LONGEST_NAME: usize = 255;

/// Ending of the file that keeps a unit from being started.
pub(super) const HOLD: &str = ".hold";

/// A unit of another name, and the files that a run left about it. No living process has them locked.
#[derive(Debug)]
struct Former {
    unit: String,
    /// It was stopped, and is to be started.
    note: Option<Mark>,
    /// It cannot be started while this file is there.
    hold: Option<PathBuf>,
}

/// Warnings about the units that a killed run left stopped or held under another name than the settings have now.
/// `notes` are where notes about the unit of today would be.
pub(super) async fn warnings(service: &Service, notes: &[Mark]) -> Vec<String> {
    let mut warnings = Vec::new();
    for former in formers(&service.unit, notes) {
        let unit = Unit::new(&Service { unit: former.unit.clone(), ..service.clone() });
        let state = if unit.is_asked() { unit.state().await.ok() } else { None };
        let is_up = state.is_some_and(State::comes_up) && former.hold.is_none();
        if state == Some(State::Missing) || is_up {
            former.forget();
        } else {
            warnings.push(former.warning(&service.unit));
        }
    }
    warnings
}

impl Former {
    /// Its user has seen to it.
    fn forget(&self) {
        if let Some(note) = &self.note {
            let _ = note.remove();
        }
    }

    fn warning(&self, now: &str) -> String {
        let unit = &self.unit;
        let free = self.hold.as_ref().map(|path| format!("`rm {}`", path.display())).unwrap_or_default();
        let Some(note) = &self.note else {
            return format!(
                "a run that was killed held {unit}, which cannot be started since; service.unit is {now} here: {free}, \
                 unless another installation of Glovebox looks after {unit}"
            );
        };
        let first = if free.is_empty() { free } else { format!("{free} and ") };
        format!(
            "a run that was killed left {unit} stopped; service.unit is {now} now: {first}`systemctl start {unit}` if it is \
             still to run, else `rm {}`",
            note.path().display()
        )
    }
}

fn formers(now: &str, notes: &[Mark]) -> Vec<Former> {
    let mut formers: Vec<Former> = Vec::new();
    for note in notes.iter().filter(|note| !note.is_held()) {
        let unit = note.read().and_then(|text| text.lines().next().map(str::to_owned));
        if let Some(unit) = unit.filter(|unit| unit != now && is_unit_name(unit)) {
            formers.push(Former { unit, note: Some(note.clone()), hold: None });
        }
    }
    for unit in held_units().into_iter().filter(|unit| unit != now) {
        let hold = Path::new(RUN_DIR).join(format!("{unit}{HOLD}"));
        match formers.iter_mut().find(|former| former.unit == unit) {
            Some(former) => former.hold = Some(hold),
            None => formers.push(Former { unit, note: None, hold: Some(hold) }),
        }
    }
    formers
}

/// Only root can tell whether a hold file is one that a living process has locked.
fn held_units() -> Vec<String> {
    let entries = if is_root() { std::fs::read_dir(RUN_DIR).ok() } else { None };
    let names = entries.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let is_left = |unit: &String| Mark::new(RUN_DIR.into(), format!("{unit}{HOLD}"), "").is_left();
    names
        .filter_map(|name| name.strip_suffix(HOLD).map(str::to_owned))
        .filter(|unit| is_unit_name(unit) && is_left(unit))
        .collect()
}

/// The characters of a unit's name after systemd.unit(5): it goes to a terminal, and into a command to type.
fn is_unit_name(name: &str) -> bool {
    let is_allowed = |character: char| character.is_ascii_alphanumeric() || ":-_.\\@".contains(character);
    name.len() <= LONGEST_NAME && name.contains('.') && !name.starts_with(['-', '.']) && name.chars().all(is_allowed)
}
