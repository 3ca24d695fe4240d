//! Is the repository whole: its structure, and every byte of it.
//!
//! The storage library's own check is asked as a second opinion. It looks at data only of packs that snapshots
//! reach, stops at the first snapshot that it cannot read, and returns an error then instead of findings; here each
//! of these is a finding, and [`reread`] looks at every pack that an index or the directory names.
//!
//! A backup may be under way meanwhile. It writes packs, then the indexes that name them, then the snapshot that needs
//! them; so they are looked at the other way round, and what was seen needs nothing that is not there yet.

use std::collections::{BTreeMap, BTreeSet};

use rustic_core::repofile::SnapshotFile;
use rustic_core::{CheckOptions, FileType};

use super::id::{Id, path_of};
use super::snapshots::is_published;
use super::vault::{Index, Pack};
use super::{Handle, guard, tree};
use crate::error::{Error, Kind, Result};
use crate::progress::Meter;

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file of the repository, such as `data/ab/abcd…`; empty if it concerns no single one.
    pub file: String,
    /// What is wrong with it.
    pub what: String,
    /// The backups that cannot be restored whole because of it; a damaged snapshot names itself.
    pub snapshots: Vec<Id>,
    /// Whether data is lost or in danger; otherwise it is only untidy, such as a pack that nothing uses.
    pub is_damage: bool,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// By file.
    pub findings: Vec<Finding>,
    /// Packs whose every byte was read.
    pub packs_read: u64,
    /// Backups that were looked at.
    pub snapshots: u64,
}

impl Report {
    /// Whether no finding is damage.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.findings.iter().any(|finding| finding.is_damage)
    }

    fn damage(&mut self, file: &str, what: impl Into<String>, snapshots: Vec<Id>) {
        self.findings.push(Finding { file: file.to_owned(), what: what.into(), snapshots, is_damage: true });
    }

    fn fault(&mut self, file: &str, error: &Error, snapshots: Vec<Id>) {
        let cause = error.detail("cause").map(|cause| format!(": {cause}")).unwrap_or_default();
        self.damage(file, format!("{}{cause}", error.message()), snapshots);
    }
}

/// Which packs a snapshot needs.
type Needs = BTreeMap<Id, BTreeSet<Id>>;

/// The snapshots that could be read.
type Snapshots = BTreeMap<Id, SnapshotFile>;

/// Which packs a check reads every byte of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reads {
    /// None: the structure alone is looked at.
    None,
    /// All that an index or the directory names.
    All,
    /// These of them.
    Some(BTreeSet<Id>),
}

/// The packs that there are.
///
/// # Errors
/// [`Kind::Store`] if they cannot be listed.
pub fn packs(handle: &Handle) -> Result<BTreeSet<Id>> {
    Ok(handle.vault.list(FileType::Pack)?.into_keys().collect())
}

/// Checks everything but the content of packs; with `read_data`, that too.
///
/// # Errors
/// As [`check_reading`].
pub fn check(handle: &Handle, read_data: bool, meter: &Meter) -> Result<Report> {
    check_reading(handle, if read_data { &Reads::All } else { &Reads::None }, meter)
}

/// Checks everything but the content of packs, and the content of these.
///
/// Their sizes are `meter`'s total, and what was read is added to it.
///
/// # Errors
/// [`Kind::Store`] if the files cannot be listed. Damage is no error but a [`Finding`].
pub fn check_reading(handle: &Handle, reads: &Reads, meter: &Meter) -> Result<Report> {
    let mut report = Report::default();
    let vault = &handle.vault;
    for id in vault.list(FileType::Key)?.into_keys() {
        let path = path_of(FileType::Key, id);
        match vault.raw(FileType::Key, id) {
            Err(error) => report.fault(&path, &error, Vec::new()),
            Ok(raw) if Id::of(&raw) != id => {
                report.damage(&path, "its bytes are not those that its name promises", Vec::new());
            }
            Ok(_) => {}
        }
    }
    if let Err(error) = vault.file(FileType::Config, Id::from([0; 32])) {
        report.fault("config", &error, Vec::new());
    }
    let (snapshots, faults) = vault.snapshots()?;
    for (id, error) in faults {
        report.fault(&path_of(FileType::Snapshot, id), &error, vec![id]);
    }
    let mut index = Index::default();
    for id in vault.list(FileType::Index)?.into_keys() {
        if let Err(error) = vault.read_index(id, &mut index) {
            report.fault(&path_of(FileType::Index, id), &error, Vec::new());
        }
    }
    let needs = check_snapshots(handle, &snapshots, &index, &mut report);
    let present = vault.list(FileType::Pack)?;
    check_packs(&index, &needs, &present, &mut report);
    let all = index.packs.keys().chain(present.keys()).copied();
    let read: BTreeSet<Id> = match reads {
        Reads::None => BTreeSet::new(),
        Reads::All => all.collect(),
        // One that was pruned meanwhile is no loss.
        Reads::Some(chosen) => all.filter(|id| chosen.contains(id)).collect(),
    };
    if !read.is_empty() {
        report.packs_read = reread_into(handle, &index, &read, &present, &needs, meter, &mut report);
        meter.check()?;
    }
    // Threads of the library's check panic where trees are damaged: it is asked only where none is known to be.
    if report.is_whole() {
        second_opinion(handle, &snapshots, &mut report);
    }
    report.findings.sort_by(|a, b| (&a.file, &a.what).cmp(&(&b.file, &b.what)));
    report.findings.dedup();
    Ok(report)
}

/// Whether these packs still are what they were when they were written and read back: the hash of each file is its name.
/// For the older ones that a new backup leans on. The first that is not.
///
/// Adds the bytes that it read to `meter`.
///
/// # Errors
/// [`Kind::Store`] if one cannot be read.
pub fn rotten(handle: &Handle, packs: &BTreeSet<Id>, meter: &Meter) -> Result<Option<Finding>> {
    for id in packs {
        meter.check()?;
        let what = match handle.vault.raw(FileType::Pack, *id) {
            Ok(raw) => {
                meter.add(raw.len() as u64);
                if Id::of(&raw) == *id {
                    continue;
                }
                OTHER_BYTES.to_owned()
            }
            Err(error) if error.kind() == Kind::Verify => error.message().to_owned(),
            Err(error) => return Err(error),
        };
        let file = path_of(FileType::Pack, *id);
        return Ok(Some(Finding { file, what, snapshots: Vec::new(), is_damage: true }));
    }
    Ok(None)
}

const OTHER_BYTES: &str = "its bytes are not those that its name promises";

/// Reads every byte of these packs: the hash of each file is its name, each blob can be decrypted and is what its id
/// says.
///
/// Adds the bytes that it read to `meter`.
///
/// # Errors
/// [`Kind::Store`] or [`Kind::Verify`] if the repository's lists cannot be read. Damage is a [`Finding`]; its
/// `snapshots` are left empty, since that takes a whole [`check`].
pub fn reread(handle: &Handle, packs: &BTreeSet<Id>, meter: &Meter) -> Result<Vec<Finding>> {
    let mut report = Report::default();
    let index = handle.vault.index()?;
    let present = handle.vault.list(FileType::Pack)?;
    reread_into(handle, &index, packs, &present, &Needs::new(), meter, &mut report);
    meter.check()?;
    Ok(report.findings)
}

fn check_snapshots(handle: &Handle, snapshots: &Snapshots, index: &Index, report: &mut Report) -> Needs {
    let mut needs = Needs::new();
    for (id, file) in snapshots {
        let (id, path) = (*id, path_of(FileType::Snapshot, *id));
        report.snapshots += u64::from(is_published(file));
        match tree::walk(&handle.vault, index, Id::from(&*file.tree)) {
            Err(error) => report.fault(&path, &error, vec![id]),
            Ok(forest) => {
                for place in forest.files.values().flat_map(|leaf| &leaf.content).chain(&forest.trees) {
                    needs.entry(place.pack).or_default().insert(id);
                }
                for (name, leaf) in &forest.files {
                    if let Some(blob) = leaf.missing.first() {
                        report.damage(&path, format!("{name}: its blob {} is in no index", blob.short()), vec![id]);
                    } else if leaf.size != leaf.content_size() {
                        let (there, size) = (leaf.content_size(), leaf.size);
                        report.damage(&path, format!("{name}: {there} of its {size} bytes are there"), vec![id]);
                    }
                }
            }
        }
    }
    needs
}

fn check_packs(index: &Index, needs: &Needs, present: &BTreeMap<Id, u64>, report: &mut Report) {
    for (id, pack) in &index.packs {
        let (path, size) = (path_of(FileType::Pack, *id), u64::from(pack.size));
        match present.get(id) {
            None => report.damage(&path, "is missing", concerned(needs, *id)),
            Some(found) if *found != size => {
                report.damage(&path, format!("has {found} bytes instead of {size}"), concerned(needs, *id));
            }
            Some(_) => {}
        }
    }
    for id in present.keys().filter(|id| !index.packs.contains_key(id)) {
        // Left by a run that was killed; the next prune removes it.
        let what = "is in no index".to_owned();
        let (file, snapshots) = (path_of(FileType::Pack, *id), Vec::new());
        report.findings.push(Finding { file, what, snapshots, is_damage: false });
    }
}

fn concerned(needs: &Needs, pack: Id) -> Vec<Id> {
    needs.get(&pack).into_iter().flatten().copied().collect()
}

fn reread_into(
    handle: &Handle,
    index: &Index,
    packs: &BTreeSet<Id>,
    present: &BTreeMap<Id, u64>,
    needs: &Needs,
    meter: &Meter,
    report: &mut Report,
) -> u64 {
    let total = packs.iter().filter_map(|id| present.get(id)).sum();
    meter.begin("reading packs", total);
    let mut read = 0;
    for id in packs {
        // Whoever stops it also asks why it stopped.
        if meter.check().is_err() {
            break;
        }
        let path = path_of(FileType::Pack, *id);
        match handle.vault.raw(FileType::Pack, *id) {
            Err(error) => report.fault(&path, &error, concerned(needs, *id)),
            Ok(raw) => {
                read += 1;
                meter.add(raw.len() as u64);
                if let Some(what) = examine(handle, *id, &raw, index.packs.get(id)) {
                    let snapshots = concerned(needs, *id);
                    // One that no index names is not needed: it was taken out, or its run was killed.
                    let is_damage = index.packs.contains_key(id);
                    report.findings.push(Finding { file: path, what, snapshots, is_damage });
                }
            }
        }
    }
    read
}

fn examine(handle: &Handle, id: Id, raw: &[u8], pack: Option<&Pack>) -> Option<String> {
    if Id::of(raw) != id {
        return Some(OTHER_BYTES.to_owned());
    }
    let blobs = pack.map_or(&[][..], |pack| &pack.blobs);
    let bad = blobs.iter().find(|place| handle.vault.blob_in(place, raw).is_none())?;
    Some(format!("its blob {} is not what the index says", bad.blob.short()))
}

/// What the storage library says of these snapshots: one that it lists itself could be gone before it is read.
fn second_opinion(handle: &Handle, snapshots: &Snapshots, report: &mut Report) {
    let trees = snapshots.values().map(|file| file.tree).collect();
    let heard = handle.library(&std::sync::Arc::default()).and_then(|library| {
        guard::hear("checking the structure", Kind::Verify, || library.check_with_trees(CheckOptions::default(), trees))
    });
    let heard = match heard {
        Ok(heard) => heard,
        Err(error) => {
            report.fault("", &error, Vec::new());
            return;
        }
    };
    match heard.result {
        Err(error) => {
            report.damage("", format!("the structure cannot be checked: {}", guard::words(&error)), Vec::new());
        }
        Ok(results) if results.is_ok().is_ok() && heard.notes.is_empty() => {}
        Ok(_) if heard.notes.is_empty() => report.damage("", "the structure is not sound", Vec::new()),
        // Everything that it finds it also logs, an unused pack as a warning, which is no note.
        Ok(_) => {
            for note in heard.notes {
                report.damage("", note.replace('\n', " "), Vec::new());
            }
        }
    }
}
