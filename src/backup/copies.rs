//! Whether a repository in the place of a copy is one: two disks may have been exchanged, and the history of another
//! database does not belong into this one's.
//!
//! A copy is known by its id once it was written. One that is not known yet is told by its content: it holds nothing, or
//! backups that the ledger or the repository knows, and none of another database.

use std::collections::BTreeSet;

use super::hex;
use super::session::Session;
use crate::error::{Error, Kind, Result};
use crate::ledger::Copy;
use crate::repository::{self, Handle, Id, Location, copy, snapshots};
use crate::settings;

/// Facts by which a copy is told from another repository.
#[derive(Clone, Debug)]
pub struct Belonging {
    location: String,
    repository: Option<Id>,
    database: String,
    databases: BTreeSet<String>,
    backups: BTreeSet<Id>,
    copies: Vec<Copy>,
    settings: settings::Repository,
    is_accepted: bool,
}

impl Session<'_> {
    /// The facts for the copy at this place, and whether a person has said that it is the right one.
    ///
    /// # Errors
    /// As [`crate::ledger::Ledger::list_all`].
    pub fn belonging(&self, location: &Location, is_accepted: bool) -> Result<Belonging> {
        let noted = self.ledger.list_all()?;
        let database = self.env.settings.database.name.clone();
        let mut databases: BTreeSet<String> = noted.iter().filter_map(|noted| noted.facts.database.clone()).collect();
        databases.insert(database.clone());
        let id = |id: &crate::ledger::HexId| id.as_str().parse::<Id>();
        Ok(Belonging {
            location: location.to_string(),
            repository: self.ledger.repository_id()?.as_ref().map(id).transpose()?,
            database,
            databases,
            backups: noted.iter().map(|noted| id(&noted.facts.id)).collect::<Result<_>>()?,
            copies: self.ledger.copies()?,
            settings: self.settings.clone(),
            is_accepted,
        })
    }

    /// Remembers a copy that was judged, before anything is written into it.
    ///
    /// # Errors
    /// As [`crate::ledger::Ledger::bind_copy`].
    pub fn bind_copy(&mut self, belonging: &Belonging, copy: &Handle) -> Result<()> {
        let (location, is_accepted) = (belonging.location.clone(), belonging.is_accepted);
        self.ledger.bind_copy(&Copy { id: hex(copy.id())?, location, is_accepted })
    }
}

impl Belonging {
    /// Refuses what is not a copy of this repository. For a caller that has written nothing yet.
    ///
    /// # Errors
    /// [`Kind::Refused`], with what was expected and what is there; [`Kind::Store`] if the copy cannot be listed.
    pub fn judge(&self, target: &Handle) -> Result<()> {
        if self.repository == Some(target.id()) {
            return Err(Error::new(Kind::Refused, "the copy is the repository itself")
                .with("repository", target.id())
                .with("state", "nothing was written there")
                .hint("Name another place as the `location` of this copy."));
        }
        let found = snapshots::list(target)?.snapshots;
        let known = self.copies.iter().find(|copy| copy.id.as_str() == target.id().to_string());
        if self.is_accepted || known.is_some_and(|copy| copy.is_accepted) {
            return Ok(());
        }
        let foreign: Vec<_> = found.iter().filter(|found| !self.databases.contains(&found.label)).collect();
        if foreign.is_empty() && (known.is_some() || found.is_empty()) {
            return Ok(());
        }
        let originals = copy::originals_of(target)?;
        let ours = self.originals()?;
        let of_ours = originals.iter().filter(|original| ours.contains(original)).count();
        // Without an earlier one in its place, and made by an older version: backups that only the copy has are no fault.
        let is_first = !self.copies.iter().any(|copy| copy.location == self.location);
        if foreign.is_empty() && of_ours > 0 && (is_first || of_ours == originals.len()) {
            return Ok(());
        }
        let others: BTreeSet<String> = foreign.iter().map(|found| format!("\"{}\"", found.label)).collect();
        Err(self.refusal(target, &found, of_ours, &others))
    }

    /// The ids of this repository's backups, and of those that they are copies of.
    fn originals(&self) -> Result<BTreeSet<Id>> {
        let mut ours = self.backups.clone();
        // A copy outlives its repository, and is checked without it.
        if let Ok(source) = repository::open_to_read(&self.settings)
            && Some(source.id()) == self.repository
        {
            ours.extend(copy::originals_of(&source)?);
        }
        Ok(ours)
    }

    fn refusal(
        &self,
        target: &Handle,
        found: &[snapshots::Snapshot],
        of_ours: usize,
        others: &BTreeSet<String>,
    ) -> Error {
        let ours = self.repository.map_or_else(String::new, |id| format!(" of repository {}", id.short()));
        let here = self.copies.iter().filter(|copy| copy.location == self.location);
        let ids: Vec<String> = here.map(|copy| format!(", {}", copy.id.short())).collect();
        let databases: BTreeSet<&str> = found.iter().map(|found| found.label.as_str()).collect();
        let databases: Vec<String> = databases.iter().map(|name| format!("\"{name}\"")).collect();
        let newest = found.last().map_or_else(String::new, |newest| {
            format!("; the newest is of {}, from host {}", newest.time.format("%F %T UTC"), newest.host)
        });
        let message = if others.is_empty() {
            "the copy belongs to another repository".to_owned()
        } else {
            let others: Vec<&str> = others.iter().map(String::as_str).collect();
            format!("the copy holds backups of database {}, not of \"{}\" alone", others.join(", "), self.database)
        };
        Error::new(Kind::Refused, message)
            .with("expected", format!("a copy{ours} with backups of \"{}\"{}", self.database, ids.concat()))
            .with(
                "found",
                format!(
                    "{}: {} backups of {}, of which {of_ours} are known{newest}",
                    target.id().short(),
                    found.len(),
                    databases.join(", ")
                ),
            )
            .with("state", "nothing was written there")
            .hint("See whether the right disk is mounted and `location` of this copy names the right place.")
            .hint("Give each database a copy of its own.")
            .hint(format!(
                "To go on with this one for good, beside what it holds: teslamate-backup copy --accept {}",
                self.location
            ))
    }
}
