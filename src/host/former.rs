//! A unit that `service.unit` named when a restore was killed, and that it names no longer.
//!
//! Nobody starts it by itself: whoever changed the setting may want it to stay stopped. Its user is told, with the commands.

use std::path::{Path, PathBuf};

use super::marks::Mark;
use super::notes::{self, Notes};
use super::run_dir::RUN_DIR;
use crate::service::{State, Unit};
use crate::settings::Service;

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
pub(super) async fn warnings(service: &Service, notes: &Notes) -> Vec<String> {
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

fn formers(now: &str, notes: &Notes) -> Vec<Former> {
    let others = notes.about_others(now).into_iter();
    let mut formers: Vec<Former> = others.map(|(unit, note)| Former { unit, note: Some(note), hold: None }).collect();
    for unit in held_units().into_iter().filter(|unit| unit != now) {
        let hold = Path::new(RUN_DIR).join(format!("{unit}{HOLD}"));
        match formers.iter_mut().find(|former| former.unit == unit) {
            Some(former) => former.hold = Some(hold),
            None => formers.push(Former { unit, note: None, hold: Some(hold) }),
        }
    }
    formers
}

fn held_units() -> Vec<String> {
    let is_left = |unit: &String| Mark::new(RUN_DIR.into(), format!("{unit}{HOLD}"), "").is_left();
    notes::entries()
        .into_iter()
        .filter_map(|name| name.strip_suffix(HOLD).map(str::to_owned))
        .filter(|unit| notes::is_unit_name(unit) && is_left(unit))
        .collect()
}
