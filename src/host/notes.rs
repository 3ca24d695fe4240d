//! Where notes about a stopped service lie.
//!
//! Those of root are in `/run/glovebox` alone, where nobody else can take them away. After a boot they are gone, and
//! rightly: systemd starts an enabled unit by itself then. Another account has its notes in the state directory, which is
//! its own. An older build of root's left them there, too: they are moved over.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::marks::Mark;
use super::run_dir::{self, RUN_DIR, Unusable};

/// Name of a note in the state directory.
const OWN: &str = "service-stopped";

/// Ending of a note in [`RUN_DIR`].
const ENDING: &str = ".stopped";

/// The longest name that systemd gives a unit.
const LONGEST_UNIT: usize = 255;

/// The notes of one installation.
#[derive(Clone, Debug)]
pub(super) struct Notes {
    state_dir: PathBuf,
}

impl Notes {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned() }
    }

    /// The note that this process would leave about a unit.
    pub(super) fn about(&self, unit: &str, content: &str) -> Mark {
        if is_root() { self.of_root(unit, content) } else { self.in_state_dir(content) }
    }

    /// Whether root left one that this process, of another account, may not take away.
    pub(super) fn has_one_of_root(&self, unit: &str) -> bool {
        let old = self.in_state_dir("");
        !is_root() && (self.of_root(unit, "").exists() || (old.exists() && !old.is_ours()))
    }

    /// Whether an older build left one of root's that no living process holds.
    pub(super) fn has_old(&self) -> bool {
        let old = self.in_state_dir("");
        is_root() && old.is_ours() && !old.is_held()
    }

    /// Moves what an older build left of root's to where such notes lie today.
    ///
    /// # Errors
    /// That it cannot be written there; it stays where it is then.
    pub(super) fn take_over(&self) -> std::io::Result<()> {
        if !self.has_old() {
            return Ok(());
        }
        let old = self.in_state_dir("");
        let text = old.read().unwrap_or_default();
        let unit = text.lines().next().unwrap_or_default();
        if is_unit_name(unit) {
            let note = self.of_root(unit, text.trim());
            run_dir::open().map_err(|unusable| std::io::Error::other(unusable.to_string()))?;
            // One that is there is newer.
            if !note.exists() {
                note.make()?;
            }
        }
        old.remove_partial();
        old.remove()
    }

    /// The notes about other units that this installation had to do with: the units, and their notes.
    pub(super) fn about_others(&self, now: &str) -> Vec<(String, Mark)> {
        let mut found = Vec::new();
        for note in std::iter::once(self.in_state_dir("")).chain(self.all_of_root()).filter(|note| !note.is_held()) {
            let unit = note.read().and_then(|text| text.lines().next().map(str::to_owned));
            if let Some(unit) = unit.filter(|unit| unit != now && is_unit_name(unit)) {
                found.push((unit, note));
            }
        }
        found
    }

    /// By unit: two may be stopped at once. By state directory: another installation may have to do with the same unit.
    fn of_root(&self, unit: &str, content: &str) -> Mark {
        Mark::new(RUN_DIR.into(), format!("{unit}{}", self.ending()), content)
    }

    fn in_state_dir(&self, content: &str) -> Mark {
        Mark::new(self.state_dir.clone(), OWN.to_owned(), content)
    }

    fn all_of_root(&self) -> Vec<Mark> {
        let ending = self.ending();
        let of_this = entries().into_iter().filter(|name| name.ends_with(&ending) && !name.starts_with('.'));
        of_this.map(|name| Mark::new(RUN_DIR.into(), name, "")).collect()
    }

    /// A hash, since a path may be longer than a name can be.
    fn ending(&self) -> String {
        let mut hash = Sha256::new();
        for part in &self.state_dir {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        let hex = hash.finalize().iter().take(8).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        format!(".{hex}{ENDING}")
    }
}

/// The names of what is in [`RUN_DIR`], for root alone: only root can tell whether a living process has one locked.
pub(super) fn entries() -> Vec<String> {
    let is_usable = is_root() && matches!(run_dir::open_present(), Ok(Some(_)));
    let entries = if is_usable { std::fs::read_dir(RUN_DIR).ok() } else { None };
    entries.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Refuses where root would have to believe what others may have written.
pub(super) fn check_place() -> Result<(), Unusable> {
    match run_dir::open_present() {
        Err(unusable) if is_root() && unusable.is_exposed() => Err(unusable),
        _ => Ok(()),
    }
}

/// The characters of a unit's name after systemd.unit(5): it goes to a terminal, and into a command to type.
pub(super) fn is_unit_name(name: &str) -> bool {
    let is_allowed = |character: char| character.is_ascii_alphanumeric() || ":-_.\\@".contains(character);
    name.len() <= LONGEST_UNIT && name.contains('.') && !name.starts_with(['-', '.']) && name.chars().all(is_allowed)
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
