//! The backup that a new one goes on from, and what is repaired in the repository before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Backup, session};
use crate::error::{Error, Kind, Result};
use crate::ledger::{Ledger, Snapshot as Noted};
use crate::progress::Meter;
use crate::repository::repair::{self, Repaired};
use crate::repository::{Handle, Id, read};
use crate::tables::facts::Facts;
use crate::tables::manifest::Manifest;

/// The newest backup, which is this one's parent.
pub(super) struct Parent {
    pub(super) id: Id,
    pub(super) manifest: Manifest,
}

/// Result of the search for a parent.
#[derive(Default)]
pub(super) struct Found {
    pub(super) parent: Option<Parent>,
    /// Why everything is read although there is a backup before this one.
    pub(super) read_all: Option<&'static str>,
    /// Damage of the backup before this one that nothing repaired.
    pub(super) fault: Option<Error>,
}

/// A repair that came before a backup.
#[derive(Clone, Debug, Default)]
pub struct Mended {
    /// Repairs of the index.
    pub repaired: Repaired,
    /// Packs that no index named, and that one names again.
    pub adopted: usize,
    /// Backups that lack something although this one is there, each with the first reason.
    pub damaged: BTreeMap<Id, String>,
    /// The backup before this one lacks something: another run, or restic, repaired the index.
    pub(super) was_repaired: bool,
}

impl Mended {
    fn is_empty(&self) -> bool {
        self.repaired.is_empty() && self.adopted == 0 && !self.was_repaired
    }

    /// A warning for people, unless there was nothing to repair.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let mut done = Vec::new();
        if !self.repaired.lost.is_empty() {
            let packs: Vec<String> =
                self.repaired.lost.iter().map(|(id, why)| format!("pack {} {why}", id.short())).collect();
            done.push(format!("{}: what they held and the database still has was stored anew", packs.join(", ")));
        }
        if !self.repaired.indexes.is_empty() {
            let count = self.repaired.indexes.len();
            done.push(format!("{count} damaged index files were written anew from the packs"));
        }
        if self.adopted > 0 {
            done.push(format!("{} packs that no index named are in one again", self.adopted));
        }
        let lacking: Vec<String> = self.damaged.keys().map(Id::short).collect();
        if !lacking.is_empty() {
            let ids = lacking.join(", ");
            done.push(format!(
                "older backups that lack something now: {ids} (`teslamate-backup delete ID` gives one up, `check` shows what)"
            ));
        } else if !done.is_empty() {
            done.push("no backup lacks anything now".to_owned());
        }
        (!done.is_empty()).then(|| format!("the repository was damaged; {}; look at that disk", done.join("; ")))
    }
}

impl Backup<'_> {
    /// Takes lost packs out of the index, so that this backup stores their content anew.
    pub(super) async fn repair(&self, repository: &Handle, meter: &Arc<Meter>) -> Result<Mended> {
        let (handle, reading) = (repository.clone(), Arc::clone(meter));
        let repaired = self.interrupt.on_thread(meter, move || repair::repair(&handle, &reading)).await?;
        Ok(Mended { repaired, ..Mended::default() })
    }

    /// Looks which backups lack something after a repair.
    pub(super) async fn find_damaged(&self, repository: &Handle, mended: &mut Mended) -> Result<()> {
        if !mended.is_empty() {
            let handle = repository.clone();
            mended.damaged = crate::process::on_thread(move || repair::incomplete(&handle)).await??;
        }
        Ok(())
    }

    /// The newest backup that the ledger knows of this cluster, with its manifest; without one, the newest of all.
    pub(super) async fn parent(
        &self,
        ledger: &Ledger,
        repository: &Handle,
        facts: &Facts,
        missing: &[Noted],
        mended: &mut Mended,
        meter: &Arc<Meter>,
    ) -> Result<Found> {
        let mut known = ledger.list()?;
        let is_of_this = |noted: &Noted| noted.facts.cluster.as_deref().is_none_or(|id| id == facts.system_identifier);
        let newest = known.iter().rposition(is_of_this).or(known.len().checked_sub(1));
        let Some(latest) = newest.map(|at| known.swap_remove(at)) else { return Ok(Found::default()) };
        if missing.iter().any(|lost| lost.facts.id == latest.facts.id) {
            return Ok(Found { read_all: Some("the last backup is missing"), ..Found::default() });
        }
        let mut opened = self.open_parent(repository, &latest, meter).await;
        if is_incomplete(&opened) {
            let (handle, reading) = (repository.clone(), Arc::clone(meter));
            let adopting = move || repair::adopt(&handle, &BTreeSet::new(), &reading);
            mended.adopted = self.interrupt.on_thread(meter, adopting).await?;
            if mended.adopted > 0 {
                opened = self.open_parent(repository, &latest, meter).await;
            }
        }
        match opened {
            Ok(Some(parent)) => Ok(Found { parent: Some(parent), ..Found::default() }),
            Ok(None) => {
                mended.was_repaired = true;
                Ok(Found { read_all: Some("the last backup lacks something"), ..Found::default() })
            }
            // The next backup matters more than the last one's fault, which is told when this one is there.
            Err(error) if error.kind() == Kind::Verify => Ok(Found {
                parent: None,
                read_all: Some("the last backup is damaged"),
                fault: Some(error).filter(|_| mended.is_empty()),
            }),
            Err(error) => Err(error),
        }
    }

    /// This backup with its manifest; nothing if a part of it is in no index.
    async fn open_parent(&self, repository: &Handle, noted: &Noted, meter: &Arc<Meter>) -> Result<Option<Parent>> {
        let id: Id = noted.facts.id.as_str().parse()?;
        let (handle, noted) = (repository.clone(), noted.clone());
        let opening = move || {
            let contents = read::open(&handle, id)?;
            if !contents.is_indexed() {
                return Ok(None);
            }
            let manifest = session::manifest(&contents, &noted)?;
            Ok(Some(Parent { id, manifest }))
        };
        self.interrupt.on_thread(meter, opening).await
    }
}

fn is_incomplete(opened: &Result<Option<Parent>>) -> bool {
    match opened {
        Ok(parent) => parent.is_none(),
        Err(error) => error.kind() == Kind::Verify,
    }
}
