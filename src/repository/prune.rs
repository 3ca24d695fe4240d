//! Frees the space of what no backup needs any more.
//!
//! This is what can lose everything: a list of snapshots that is cut short makes all packs look unused. So:
//!
//! - The published snapshots have to be those that the caller's own list expects, no more and no less, twice.
//! - We find out ourselves what every snapshot needs, also those of others and pending ones. The storage library plans
//!   and rewrites, but each file that it wants to remove is judged by us: a pack only if it was marked before this run
//!   and nothing needs it, an index only once everything that was rewritten was read back.
//! - Nothing goes at once: a pack that nothing needs is marked, and removed by a prune a day later.
//!
//! The library's order is: write new packs, write new indexes (which mark the old packs), remove the old indexes,
//! remove packs that were marked a day ago. A mark counts only once no index lists the pack without it, so reading
//! back before the first old index goes is reading back before the old packs are marked. Killed anywhere, old indexes
//! or new ones describe all that is needed.
//!
//! Packs that are in no index, which killed runs leave, are not shown to the library: it would mark them without their
//! size, and take the pack for damaged the next time. They are removed here, once their file is a day old.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use chrono::{DateTime, TimeDelta, Utc};
use rustic_core::jiff::Span;
use rustic_core::{FileType, LimitOption, PruneOptions, WriteBackend};

use super::id::{Id, path_of};
use super::snapshots::{self, is_published};
use super::store::{Journal, Judge, Place, Rules};
use super::vault::{Index, damaged};
use super::{Handle, check, guard, tree};
use crate::error::{Context, Error, Kind, Result};
use crate::progress::Meter;

/// How long a pack that nothing needs is left in place, in hours: longer than any run that may still lean on it.
const KEEP_HOURS: i64 = 24;

/// How much of the used packs may be of no use before they are rewritten, in percent of the repository. As restic.
const UNUSED_PERCENT: u64 = 5;

/// How far in the future a backup may lie before a clock is taken to be wrong.
const TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// Some packs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packs {
    /// Which.
    pub ids: BTreeSet<Id>,
    /// Bytes of their files.
    pub bytes: u64,
}

/// What a prune did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Packs that nothing needs any more, marked now: a prune in 24 hours or later deletes them.
    pub marked: Packs,
    /// Those among them that held something of use, which was written anew.
    pub repacked: Packs,
    /// The new packs. Every byte of them was read back.
    pub written: Packs,
    /// Packs that are gone: marked, or left by a killed run, a day ago or longer.
    pub deleted: Packs,
    /// Packs that nothing needs, and that were left for a later prune: their day is not over.
    pub waiting: Packs,
    /// Bytes of no use within packs of use: too few to rewrite these.
    pub unused: u64,
}

/// Removes what no snapshot needs, and checks the structure of the repository afterwards.
///
/// `expected` is every published snapshot that the ledger knows. Only for a caller that holds the exclusive lock.
/// `meter` is told the steps.
///
/// # Errors
/// [`Kind::Refused`] if no snapshot is expected, if there are others than expected, if the list changes while it is
/// read, or if a snapshot lies in the future of `now`; [`Kind::Verify`] if an expected one is missing, a snapshot or
/// an index cannot be read, or something that a snapshot needs is missing: nothing was touched then. [`Kind::Store`]
/// if writing or removing fails, and [`Kind::Verify`] if what was written reads back differently: every backup is
/// as it was then. [`Kind::Verify`] also if the repository is found damaged afterwards.
pub fn prune(handle: &Handle, expected: &BTreeSet<Id>, now: DateTime<Utc>, meter: &Meter) -> Result<Pruned> {
    let survey = survey(handle, expected, now).map_err(|error| error.or_state("nothing was touched"))?;
    let pruned = survey.carry_out(meter)?;
    meter.now("checking the repository");
    let report = check::check(handle, false, &Meter::default())?;
    let Some(finding) = report.findings.iter().find(|finding| finding.is_damage) else { return Ok(pruned) };
    Err(Error::new(Kind::Verify, "the repository is damaged after a prune")
        .with("file", &finding.file)
        .with("cause", &finding.what)
        .with("state", format!("{} packs were deleted, {} marked", pruned.deleted.ids.len(), pruned.marked.ids.len()))
        .hint("Look at the whole repository with `teslamate-backup check --read-data`."))
}

/// What was there before anything is touched.
pub(super) struct Survey {
    handle: Handle,
    indexes: BTreeSet<Id>,
    index: Index,
    /// Every pack file, with its size.
    present: BTreeMap<Id, u64>,
    /// The packs that some snapshot needs.
    needed: BTreeSet<Id>,
    /// Packs in no index whose file is older than a day.
    stale: BTreeSet<Id>,
}

/// Looks at everything; refuses whatever is odd.
pub(super) fn survey(handle: &Handle, expected: &BTreeSet<Id>, now: DateTime<Utc>) -> Result<Survey> {
    compare(handle, expected, now)?;
    let vault = &handle.vault;
    let files = vault.list(FileType::Snapshot)?;
    let indexes = vault.list(FileType::Index)?.into_keys().collect();
    let index = vault.index()?.including_marked();
    let mut needed = BTreeSet::new();
    let mut published = BTreeSet::new();
    for id in files.into_keys() {
        let file = vault.snapshot(id)?;
        if is_published(&file) {
            published.insert(id);
        }
        let whole = |error: Error| error.with("snapshot", id);
        let forest = tree::walk(vault, &index, Id::from(&*file.tree)).map_err(whole)?;
        if let Some((path, leaf)) = forest.files.iter().find(|(_, leaf)| !leaf.missing.is_empty()) {
            let missing = leaf.missing.first().map(Id::short).unwrap_or_default();
            return Err(whole(damaged(path, &format!("its blob {missing} is in no index"))));
        }
        needed
            .extend(forest.files.values().flat_map(|leaf| &leaf.content).chain(&forest.trees).map(|place| place.pack));
    }
    if published != *expected {
        return Err(changing());
    }
    let present = vault.list(FileType::Pack)?;
    let stale = present.keys().filter(|id| !index.packs.contains_key(id)).copied();
    let stale = stale.filter(|id| is_stale(handle, *id, now)).collect();
    Ok(Survey { handle: handle.clone(), indexes, index, present, needed, stale })
}

/// The published snapshots against those that should be there.
fn compare(handle: &Handle, expected: &BTreeSet<Id>, now: DateTime<Utc>) -> Result<()> {
    let lines = |ids: &mut dyn Iterator<Item = &Id>| ids.map(Id::to_string).collect::<Vec<_>>().join("\n");
    let look = "See whether the disk is mounted and whole: `teslamate-backup check`.";
    let listing = snapshots::list(handle)?;
    if !listing.unreadable.is_empty() {
        let ids = lines(&mut listing.unreadable.iter().map(|(id, _)| id));
        return Err(Error::new(Kind::Verify, "a snapshot cannot be read: what it needs is not known")
            .with("snapshot", ids)
            .hint(look));
    }
    let found: BTreeSet<Id> = listing.snapshots.iter().map(|snapshot| snapshot.id).collect();
    if expected.is_empty() {
        return Err(Error::new(Kind::Refused, "no backup is known: everything in the repository would look unused"));
    }
    let missing: Vec<_> = expected.difference(&found).collect();
    if !missing.is_empty() {
        return Err(Error::new(Kind::Verify, format!("{} of {} backups are missing", missing.len(), expected.len()))
            .with("missing", lines(&mut missing.into_iter()))
            .hint(look));
    }
    let unknown: Vec<_> = found.difference(expected).collect();
    if !unknown.is_empty() {
        return Err(Error::new(Kind::Refused, "there are backups in the repository that are not known")
            .with("unknown", lines(&mut unknown.into_iter()))
            .hint("A run that was stopped may have left them, or another machine uses this repository."));
    }
    let again = snapshots::list(handle)?;
    if again.snapshots != listing.snapshots || !again.unreadable.is_empty() {
        return Err(changing());
    }
    let future = listing.snapshots.iter().find(|one| one.time.signed_duration_since(now) > TOLERANCE);
    if let Some(snapshot) = future {
        let shown = |time: DateTime<Utc>| time.format("%F %T UTC").to_string();
        return Err(Error::new(Kind::Refused, format!("the backup {} lies in the future", snapshot.id))
            .with("taken", shown(snapshot.time))
            .with("now", shown(now))
            .hint("Set the clock (`timedatectl`)."));
    }
    Ok(())
}

fn changing() -> Error {
    Error::new(Kind::Refused, "the list of backups changed while it was read")
        .hint("Look for another run in this repository, then try again.")
}

/// Whether the file has lain there for a day.
fn is_stale(handle: &Handle, id: Id, now: DateTime<Utc>) -> bool {
    let path = path_of(FileType::Pack, id);
    let modified = match &handle.vault.store.place {
        Place::Directory(root) => std::fs::metadata(root.join(path)).and_then(|metadata| metadata.modified()).ok(),
        Place::Remote(remote) => remote.modified(&path).ok(),
    };
    modified.is_some_and(|time| now.signed_duration_since(DateTime::<Utc>::from(time)) > TimeDelta::hours(KEEP_HOURS))
}

impl Survey {
    /// Prunes. What was surveyed decides what may go.
    pub(super) fn carry_out(self, meter: &Meter) -> Result<Pruned> {
        let journal = Arc::<Journal>::default();
        let orphans: BTreeSet<Id> =
            self.present.keys().filter(|id| !self.index.packs.contains_key(id)).copied().collect();
        journal.set_rules(Rules { hidden: orphans.clone(), judge: self.judge() });
        let library = self.handle.library(&journal)?;
        let options = self.options()?;
        meter.now("looking for packs that nothing needs");
        let plan = guard::run("planning the prune", Kind::Store, || library.prune_plan(&options))?;
        let repacked: BTreeSet<Id> = plan.repack_packs().iter().map(|id| Id::from(&**id)).collect();
        let unused = plan.stats.size_sum().unused_after_prune();
        meter.now("pruning");
        let done = guard::run("pruning", Kind::Store, || library.prune(&options, plan));
        if let Some(error) = journal.take_failure().or(done.err()) {
            return Err(self.take_back(&journal, error));
        }
        for id in &self.stale {
            let what = format!("removing {}", path_of(FileType::Pack, *id));
            guard::run(&what, Kind::Store, || self.handle.vault.store.remove(FileType::Pack, &id.rustic(), false))?;
        }
        self.report(&journal, repacked, &orphans, unused)
    }

    fn options(&self) -> Result<PruneOptions> {
        // What is rewritten lies there twice for a day: a disk that is nearly full must not be filled by its own
        // cleaning. Rewriting is left for later then; marking and deleting are not.
        let mut options = PruneOptions::default();
        // How much room there is behind a network cannot be asked everywhere; it is not ours to fill or to spare.
        if let Place::Directory(root) = &self.handle.vault.store.place {
            let space = rustix::fs::statvfs(root).context(Kind::Store, format!("cannot look at {}", root.display()))?;
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            let bytes = |error| Error::new(Kind::Store, "a size is not understood").with("cause", error);
            options.max_repack = format!("{}B", free / 2).parse().map_err(bytes)?;
        }
        options.max_unused = LimitOption::Percentage(UNUSED_PERCENT);
        options.keep_delete = Span::new().hours(KEEP_HOURS);
        // Each is the default too. Deleting at once leaves a run under way without its packs; copying blobs unread
        // would give rot a new, valid hash; an index removed early leaves nothing if the run is killed.
        (options.instant_delete, options.fast_repack, options.early_delete_index) = (false, false, false);
        Ok(options)
    }

    /// Judges what the library wants to remove.
    fn judge(&self) -> Box<Judge> {
        let leaving = self.index.packs.iter().filter(|(_, pack)| pack.leaving).map(|(id, _)| *id);
        let may_go: BTreeSet<Id> = leaving.filter(|id| !self.needed.contains(id)).collect();
        let (handle, proved) = (self.handle.clone(), OnceLock::<Result<()>>::new());
        Box::new(move |journal, kind, id| match kind {
            FileType::Pack if may_go.contains(&id) => Ok(()),
            // Whoever asks first reads; the other threads wait for the answer.
            FileType::Index => {
                proved.get_or_init(|| read_back(&handle, &journal.written().packs.into_keys().collect())).clone()
            }
            _ => {
                let message = format!("the storage library wanted to remove {}, which is needed", path_of(kind, id));
                Err(Error::new(Kind::Verify, message))
            }
        })
    }

    /// Makes it as if this run had not been, as long as no old index is gone.
    fn take_back(&self, journal: &Journal, error: Error) -> Error {
        let error = error.with("state", "every backup is as it was; packs that nothing needs may be left");
        let vault = &self.handle.vault;
        let whole = vault.list(FileType::Index).is_ok_and(|left| self.indexes.iter().all(|id| left.contains_key(id)));
        if !whole {
            return error;
        }
        journal.written().indexes.into_iter().fold(error, |error, id| {
            let what = format!("removing {}", path_of(FileType::Index, id));
            match guard::run(&what, Kind::Store, || vault.store.remove(FileType::Index, &id.rustic(), false)) {
                Ok(()) => error,
                Err(second) => error.with("left", second.message()),
            }
        })
    }

    fn report(self, journal: &Journal, repacked: BTreeSet<Id>, orphans: &BTreeSet<Id>, unused: u64) -> Result<Pruned> {
        let (index, present) = (self.handle.vault.index()?, self.handle.vault.list(FileType::Pack)?);
        let was_leaving = |id: &Id| self.index.packs.get(id).is_some_and(|pack| pack.leaving);
        let leaving = || index.packs.iter().filter(|(_, pack)| pack.leaving).map(|(id, _)| *id);
        let packs = |ids: BTreeSet<Id>| {
            let size = |id: &Id| self.present.get(id).or_else(|| present.get(id)).copied().unwrap_or(0);
            Packs { bytes: ids.iter().map(size).sum(), ids }
        };
        Ok(Pruned {
            marked: packs(leaving().filter(|id| !was_leaving(id)).collect()),
            repacked: packs(repacked),
            written: packs(journal.written().packs.into_keys().collect()),
            deleted: packs(self.present.keys().filter(|id| !present.contains_key(id)).copied().collect()),
            waiting: packs(
                leaving()
                    .filter(was_leaving)
                    .chain(orphans.iter().copied())
                    .filter(|id| present.contains_key(id))
                    .collect(),
            ),
            unused,
        })
    }
}

/// What was rewritten, before anything that it replaces is marked.
fn read_back(handle: &Handle, written: &BTreeSet<Id>) -> Result<()> {
    if written.is_empty() {
        return Ok(());
    }
    let findings = check::reread(handle, written, &Meter::default())?;
    let Some(finding) = findings.first() else { return Ok(()) };
    Err(Error::new(Kind::Verify, "a pack that was rewritten reads back differently")
        .with("file", &finding.file)
        .with("cause", &finding.what))
}
