//! Repository and ledger compared: what a killed run left between the two is put right, and what no run of ours can have
//! left is kept and told. Whichever of the two is older than the other, nothing is removed because of it.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::session::Session;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Facts, HexId, Purpose, Snapshot as Noted};
use crate::repository::{self, Handle, Id, snapshots};

/// By name alone: what of the ledger's backups lies in the repository.
#[derive(Debug, Default)]
pub struct Presence {
    /// Known, and not there.
    pub missing: Vec<Noted>,
    /// Given up, and there.
    pub returned: Vec<Noted>,
    /// Snapshots that the ledger never knew. They may be pending, or another program's.
    pub unknown: BTreeSet<Id>,
}

impl Session<'_> {
    /// Puts right what a run left that was killed between the repository and the ledger: a backup that was published but
    /// not noted is noted, one that was marked for removal but not removed is removed, and files that never became a backup are swept.
    /// Other differences are noted, too, and from then on nothing is removed until somebody agrees
    /// ([`Ledger::hold`](crate::ledger::Ledger::hold)). Gives the backups that the ledger knows and the repository has not.
    ///
    /// # Errors
    /// [`Kind::Store`] if something cannot be listed or removed.
    pub async fn reconcile(&mut self, handle: &Handle) -> Result<Vec<Noted>> {
        let known = self.ledger.list_all()?;
        let listing = self.listed(handle).await?;
        // One that cannot be read is there: what is wrong with it, a check tells.
        let there = listing.snapshots.iter().map(|found| found.id).chain(listing.unreadable.iter().map(|(id, _)| *id));
        let there: BTreeSet<String> = there.map(|id| id.to_string()).collect();
        let (mut given_up, mut unknown) = (Vec::new(), Vec::new());
        for found in listing.snapshots {
            match known.iter().find(|noted| noted.facts.id.as_str() == found.id.to_string()) {
                Some(noted) if noted.deleted_at.is_some() => given_up.push((found.id, noted)),
                Some(_) => {}
                None => unknown.push(found),
            }
        }
        let is_missing = |noted: &Noted| noted.deleted_at.is_none() && !there.contains(noted.facts.id.as_str());
        let missing: Vec<Noted> = known.iter().filter(|noted| is_missing(noted)).cloned().collect();
        self.settle_given_up(handle, &given_up, missing.is_empty()).await?;
        self.settle_unknown(handle, &known, unknown).await?;
        let sweeping = handle.clone();
        let swept = self.on_thread(move || snapshots::sweep_pending(&sweeping, SystemTime::now())).await?;
        for id in swept.snapshots {
            self.env.reporter.info(&format!("removed {}, which never became a backup", id.short()));
        }
        Ok(missing)
    }

    /// A run that was killed while it removed them is finished. Anything else put them back: they are backups again.
    async fn settle_given_up(&mut self, handle: &Handle, found: &[(Id, &Noted)], is_whole: bool) -> Result<()> {
        if found.is_empty() {
            return Ok(());
        }
        let ids: Vec<HexId> = found.iter().map(|(_, noted)| noted.facts.id.clone()).collect();
        if is_whole && found.iter().all(|(_, noted)| noted.removing) {
            for (id, _) in found {
                let (handle, id) = (handle.clone(), *id);
                self.on_thread(move || snapshots::delete(&handle, id)).await?;
                let what = format!("removed the backup {} from the repository, which was deleted", id.short());
                self.env.reporter.info(&what);
            }
            return self.ledger.note_removed(&ids);
        }
        let why = format!("{}, as if an older state of the repository was put back", returned(&ids));
        self.ledger.note_returned(&ids, &why)?;
        self.env.reporter.warn(&format!("{why}: they are kept, and nothing is removed until you agree (`forget`)"));
        Ok(())
    }

    /// Notes backups that a killed run had published. A backup of no run in this ledger is noted if it is newer than all
    /// known ones, so that `latest` stays the latest; older ones would come out of order.
    async fn settle_unknown(
        &mut self,
        handle: &Handle,
        known: &[Noted],
        unknown: Vec<snapshots::Snapshot>,
    ) -> Result<()> {
        let publishing = self.ledger.publishing()?;
        let latest = known.iter().rfind(|noted| noted.deleted_at.is_none()).map(|noted| noted.facts.time);
        let mut new = Vec::new();
        for found in unknown {
            let is_newer = latest.is_none_or(|latest| found.time > latest);
            let facts = if self.is_ours(&found) && (is_newer || publishing.is_some()) {
                match self.describe(handle, &found).await {
                    Err(error) if error.kind() != Kind::Verify => return Err(error),
                    described => described.ok(),
                }
            } else {
                None
            };
            match facts {
                Some(facts) if publishing.as_ref() == Some(&facts.manifest_sha256) => {
                    self.ledger.publish(&facts)?;
                    let what = "which a run that was killed had finished but not noted";
                    self.env.reporter.info(&format!("noted the backup {}, {what}", found.id.short()));
                }
                Some(facts) if is_newer && self.may_be_of_this(known, &facts)? => new.push(facts),
                _ => self.env.reporter.warn(&format!("the backup {} is not in the ledger", found.id.short())),
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let ids: Vec<HexId> = new.iter().map(|facts| facts.id.clone()).collect();
        let why = format!("{} which the ledger did not know, as if the ledger was set back", named("backup", &ids));
        self.ledger.note_found(&new, &why)?;
        let lost =
            "noted; what was pinned or deleted since is not known, and nothing is removed until you agree (`forget`)";
        self.env.reporter.warn(&format!("the repository holds {why}: {lost}"));
        Ok(())
    }

    pub(super) fn is_ours(&self, found: &snapshots::Snapshot) -> bool {
        found.label == self.env.settings.database.name
    }

    /// Another cluster's backups are not taken in by themselves.
    fn may_be_of_this(&self, known: &[Noted], facts: &Facts) -> Result<bool> {
        let Some(cluster) = facts.cluster.as_deref() else { return Ok(true) };
        if let Some(present) = self.ledger.cluster()? {
            return Ok(present == cluster);
        }
        let clusters = super::session::clusters(known);
        Ok(clusters.is_empty() || clusters.contains(cluster))
    }

    /// Lists the snapshots in the repository, by name alone, and compares them with the ledger.
    pub async fn presence(&self) -> Result<Presence> {
        let settings = self.settings.clone();
        let mut unknown = self.on_thread(move || repository::present(&settings)).await?;
        let mut presence = Presence::default();
        for noted in self.ledger.list_all()? {
            let is_there = unknown.remove(&noted.facts.id.as_str().parse::<Id>()?);
            match (noted.deleted_at.is_some(), is_there) {
                (false, false) => presence.missing.push(noted),
                (true, true) => presence.returned.push(noted),
                _ => {}
            }
        }
        presence.unknown = unknown;
        Ok(presence)
    }

    /// Backups that the ledger knows and the repository has not, by name alone.
    pub async fn missing(&self) -> Result<Vec<Noted>> {
        Ok(self.presence().await?.missing)
    }

    /// `latest` is the ledger's. Where that was set back, a newer backup lies in the repository that it does not know, and
    /// what it calls the latest must not be taken for it.
    ///
    /// # Errors
    /// [`Kind::Refused`] then, if somebody asked for `latest` and this is what it gave.
    pub async fn refuse_outdated_latest(&self, handle: &Handle, wanted: &Noted) -> Result<()> {
        if !self.means_latest.get() {
            return Ok(());
        }
        let unknown = self.presence().await?.unknown;
        if unknown.is_empty() {
            return Ok(());
        }
        let publishing = self.ledger.publishing()?;
        let newer = self.listed(handle).await?.snapshots.into_iter().rev();
        let newer = newer.take_while(|found| found.time > wanted.facts.time);
        for found in newer.filter(|found| unknown.contains(&found.id) && self.is_ours(found)) {
            let Ok(facts) = self.describe(handle, &found).await else { continue };
            let is_other = wanted.facts.cluster.is_some() && facts.cluster != wanted.facts.cluster;
            // It would not be the latest either.
            let is_safety = facts.purpose == Purpose::Safety;
            if is_other || is_safety || publishing.as_ref() == Some(&facts.manifest_sha256) {
                continue;
            }
            let newest = format!("{} on {}, {}", found.id.short(), found.host, found.time.format("%F %T UTC"));
            return Err(Error::new(Kind::Refused, "the repository holds a newer backup than the latest in the ledger")
                .with("newest", newest)
                .with("latest", format!("{} of {}", wanted.facts.id.short(), wanted.facts.time.format("%F %T UTC")))
                .with("state", "nothing was touched")
                .hint("If the ledger was set back: `teslamate-backup rebuild --new-ledger`, then the same command.")
                .hint("If the older one is meant, name it by its id."));
        }
        Ok(())
    }
}

/// `the backups 8664e0e0, d3c14c02, which were deleted, are in the repository again`
#[must_use]
pub fn returned(ids: &[HexId]) -> String {
    let (are, were) = if ids.len() == 1 { ("is", "was") } else { ("are", "were") };
    format!("the {}, which {were} deleted, {are} in the repository again", named("backup", ids))
}

/// At most a few of them by name.
fn named(what: &str, ids: &[HexId]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<&str> = ids.iter().take(SHOWN).map(HexId::short).collect();
    let more = if ids.len() > SHOWN { format!(" and {} more", ids.len() - SHOWN) } else { String::new() };
    let plural = if ids.len() == 1 { "" } else { "s" };
    format!("{what}{plural} {}{more}", shown.join(", "))
}
