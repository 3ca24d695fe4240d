//! Copies backups into another repository: only what is missing there, one backup after the other.
//!
//! A copy is a backup only when it is proved, like a backup: it is saved as pending, its files are compared with those
//! of the source, every pack that was written for it is read back, and then it is published. The storage library leaves
//! out, in silence, what the index of the source does not know; so the source is looked at before, and the target
//! afterwards.
//!
//! The id of a copy is another one: it is the hash of what was encrypted with the target's key. The source's id stands
//! in its field `original`, which restic's `copy` uses in the same way. A copy of a copy keeps the first one's.
//!
//! Killed, a copy leaves a pending snapshot or none; what is in an index by then is not written again. An index is saved
//! with each backup, and every 5 minutes within a long one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nix::unistd::{User, geteuid};
use rustic_core::FileType;
use rustic_core::repofile::{ConfigFile, SnapshotFile, SnapshotId};
use rustic_core::{Credentials, IndexedFullStatus, KeyOptions, Repository};

use super::id::{Id, path_of};
use super::mend::Looked;
use super::snapshots::{self, PENDING, is_published};
use super::store::Journal;
use super::vault::{Index, damaged};
use super::{Handle, Location, check, guard, making, password, read, tree};
use crate::error::{Error, Kind, Result};
use crate::progress::Meter;
use crate::settings;

/// One backup in both repositories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Its id in the source.
    pub source: Id,
    /// Its id in the target.
    pub target: Id,
}

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Backups that were copied now, in order.
    pub copied: Vec<Pair>,
    /// Backups that were in the target already.
    pub present: Vec<Pair>,
    /// Those of them that lacked something, which was written anew.
    pub mended: Vec<Pair>,
    /// The packs that were written into the target. Every byte of them was read back.
    pub packs_written: BTreeSet<Id>,
    /// Bytes of these packs.
    pub bytes_stored: u64,
}

/// Copies these published backups, in this order (the oldest first, as the ledger has them), unless the target has
/// them; what it has is completed if its index does not know all of it. For a caller that holds both repositories'
/// locks, has swept the target ([`snapshots::sweep_pending`]) of what a killed copy left, and has looked at it.
///
/// Adds the bytes that it reads back to `meter`.
///
/// # Errors
/// [`Kind::Refused`] if both are the same repository, or one of `ids` is not a published backup; [`Kind::Verify`] if
/// one is missing or not whole in the source, or not what it was in the target: it is not published there then. Those
/// after one that is not whole in the source are copied. [`Kind::Store`] if reading or writing fails. What was copied before stays.
pub fn copy(source: &Handle, target: &Handle, ids: &[Id], looked: &Looked, meter: &Meter) -> Result<Copied> {
    if source.id() == target.id() {
        return Err(Error::new(Kind::Refused, format!("the repository {} cannot be copied into itself", source.id()))
            .with("source", source.location())
            .with("target", target.location())
            .with("state", "nothing was copied"));
    }
    let mut known = originals(target)?;
    let mut done = Copied::default();
    let mut library = None;
    let mut lacking =
        Lacking { source, target, indexes: None, is_asked: looked.is_odd || !source.vault.store.is_remote() };
    // One that is not whole in the source is no reason to leave the others uncopied.
    let mut failed: Option<Error> = None;
    for id in ids {
        let file = match source.vault.snapshot(*id) {
            Err(error) if error.kind() == Kind::Verify => {
                failed.get_or_insert(error.with("backup", id));
                continue;
            }
            file => file?,
        };
        let (original, tree) = (file.original.as_ref().map_or(*id, |original| Id::from(&**original)), file.tree);
        let present = known.get(&(original, Id::from(&*tree))).copied();
        if let Some(target) = present {
            done.present.push(Pair { source: *id, target });
            if !lacking.any(Id::from(&*tree))? {
                continue;
            }
        }
        meter.now(&format!("copying {}", id.short()));
        // Read once for all that are to be copied, and not at all if none is.
        let reader = match &library {
            Some(reader) => reader,
            None => library.insert(indexed(source)?),
        };
        let one = One { source, target, reader, id: *id, original, present };
        let contents = match one.whole() {
            Err(error) if error.kind() == Kind::Verify => {
                failed.get_or_insert(error.with("backup", id));
                continue;
            }
            contents => contents.map_err(|error| stopped(error.with("backup", id), &done, ids))?,
        };
        let copied = one
            .copy(&contents, file, meter, &mut done)
            .map_err(|error| stopped(error.with("backup", id), &done, ids))?;
        known.insert((original, Id::from(&*tree)), copied);
        let pair = Pair { source: *id, target: copied };
        if present.is_some() { done.mended.push(pair) } else { done.copied.push(pair) }
    }
    match failed {
        Some(error) => Err(stopped(error, &done, ids)),
        None => Ok(done),
    }
}

fn stopped(error: Error, done: &Copied, ids: &[Id]) -> Error {
    error.with("state", format!("{} of {} backups were copied", done.copied.len(), ids.len()))
}

/// Whether the target's index knows all of a backup that was copied before. Only the source is read for that, unless it
/// is behind a network and nothing is odd.
struct Lacking<'a> {
    source: &'a Handle,
    target: &'a Handle,
    /// The source's and the target's.
    indexes: Option<(Index, Index)>,
    is_asked: bool,
}

impl Lacking<'_> {
    fn any(&mut self, tree: Id) -> Result<bool> {
        if !self.is_asked {
            return Ok(false);
        }
        let (here, there) = match &self.indexes {
            Some(indexes) => indexes,
            None => self.indexes.insert((self.source.vault.index()?, self.target.vault.index()?)),
        };
        // What is damaged in the source is another matter: the copy may be complete.
        let Ok(forest) = tree::walk(&self.source.vault, here, tree) else { return Ok(false) };
        let mut places = forest.files.values().flat_map(|leaf| &leaf.content).chain(&forest.trees);
        let known = |blob, is_tree| if is_tree { there.tree(blob) } else { there.data(blob) }.is_some();
        Ok(places.any(|place| !known(place.blob, place.is_tree)))
    }
}

type Reader = Repository<IndexedFullStatus>;

fn indexed(handle: &Handle) -> Result<Reader> {
    let library = handle.library(&Arc::default())?;
    guard::run("reading the index", Kind::Store, || library.to_indexed())
}

/// The backups in the target, by what they are copies of; its own are among them, as it may have been the repository
/// before. The content is compared too: its hash is the same in every repository.
fn originals(target: &Handle) -> Result<BTreeMap<(Id, Id), Id>> {
    let (files, _) = target.vault.snapshots()?;
    let published = files.into_iter().filter(|(_, file)| is_published(file));
    let key = |id, file: SnapshotFile| {
        let original = file.original.map_or(id, |original| Id::from(&*original));
        ((original, Id::from(&*file.tree)), id)
    };
    Ok(published.map(|(id, file)| key(id, file)).collect())
}

/// The ids of the published backups in a repository, a copy's by what it is a copy of.
///
/// # Errors
/// [`Kind::Store`] if the files cannot be listed.
pub fn originals_of(handle: &Handle) -> Result<BTreeSet<Id>> {
    let (files, _) = handle.vault.snapshots()?;
    let published = files.into_iter().filter(|(_, file)| is_published(file));
    Ok(published.map(|(id, file)| file.original.map_or(id, |original| Id::from(&*original))).collect())
}

/// One backup that is to be copied.
struct One<'a> {
    source: &'a Handle,
    target: &'a Handle,
    reader: &'a Reader,
    id: Id,
    original: Id,
    /// The copy that there is already, and that lacks something.
    present: Option<Id>,
}

impl One<'_> {
    /// The backup in the source, if all of it is in an index there.
    fn whole(&self) -> Result<read::Contents> {
        let contents = read::open(self.source, self.id)?;
        contents.blobs_present()?;
        Ok(contents)
    }

    fn copy(&self, contents: &read::Contents, mut file: SnapshotFile, meter: &Meter, done: &mut Copied) -> Result<Id> {
        file.tags = snapshots::tagged(&file, PENDING)?;
        file.original = Some(SnapshotId::from(self.original.rustic()));
        let journal = Arc::<Journal>::default();
        let writer = self.target.library(&journal)?;
        let writer = guard::run("reading the target's index", Kind::Store, || writer.to_indexed_ids())?;
        let saved = guard::run("copying", Kind::Store, || self.reader.copy(&writer, [&file]));
        let written = journal.written();
        let proved = match (journal.take_failure(), saved, written.snapshots.as_slice()) {
            (Some(error), ..) => Err(error),
            (None, Err(error), _) => Err(self.blame(contents, error)),
            (None, Ok(()), [pending]) => self.prove(*pending, contents, &written.packs, meter).map(|()| *pending),
            (None, Ok(()), _) => Err(Error::new(Kind::Store, "copying saved no snapshot")),
        };
        let published = proved.and_then(|pending| {
            if let Some(present) = self.present {
                // What it lacked is there now; a second one of it is not wanted.
                return snapshots::remove(self.target, pending).map(|()| present);
            }
            let stored = self.target.vault.snapshot(pending)?;
            snapshots::publish_as(self.target, pending, stored).map(|published| published.snapshot.id)
        });
        if published.is_ok() {
            done.bytes_stored += written.packs.values().sum::<u64>();
            done.packs_written.extend(written.packs.into_keys());
        }
        published.map_err(|error| {
            written.snapshots.iter().fold(error, |error, pending| match snapshots::remove(self.target, *pending) {
                Ok(()) => error,
                Err(second) => error.with("left", second.message()),
            })
        })
    }

    /// Nothing that was written failed: if it is the source that is damaged, that is said, with the file.
    fn blame(&self, contents: &read::Contents, error: Error) -> Error {
        let found = check::reread(self.source, &contents.packs().collect(), &Meter::default());
        let Some(finding) = found.ok().and_then(|findings| findings.into_iter().next()) else { return error };
        Error::new(Kind::Verify, "the backup is damaged in the repository that it is copied from")
            .with("file", finding.file)
            .with("cause", finding.what)
    }

    /// Makes sure that what lies in the target is the backup.
    fn prove(&self, pending: Id, contents: &read::Contents, packs: &BTreeMap<Id, u64>, meter: &Meter) -> Result<()> {
        let copy = read::open_any(self.target, pending)?;
        copy.blobs_present()?;
        if let Some(path) = first_difference(contents, &copy) {
            return Err(Error::new(Kind::Verify, format!("{path} was not copied as it is")));
        }
        if packs.is_empty() {
            return Ok(());
        }
        let findings = check::reread(self.target, &packs.keys().copied().collect(), meter)?;
        let Some(finding) = findings.first() else { return Ok(()) };
        Err(Error::new(Kind::Verify, "a pack that was written reads back differently")
            .with("file", &finding.file)
            .with("cause", &finding.what))
    }
}

/// The first path that is not in both, or has another size.
fn first_difference(source: &read::Contents, copy: &read::Contents) -> Option<String> {
    let files =
        |contents: &read::Contents| contents.files().map(|file| (file.path, file.size)).collect::<BTreeSet<_>>();
    let (source, copy) = (files(source), files(copy));
    source.symmetric_difference(&copy).next().map(|(path, _)| path.clone())
}

/// Makes a new repository that cuts data as `source` does, so that a backup taken straight into it shares what was
/// copied there. Its password and its id are its own. A directory has to be there, empty: it is made by hand, once.
///
/// # Errors
/// As [`super::init`], [`Kind::Refused`] if there is no such directory, and [`Kind::Verify`] if the source's `config` is
/// damaged.
pub fn init_copy(settings: &settings::Repository, source: &Handle) -> Result<Handle> {
    let location = Location::parse(&settings.location)?;
    refuse_missing_directory(&location)?;
    let password = password::read_for_new(settings)?;
    let config = source.vault.file(FileType::Config, Id::from([0; 32]))?;
    let mut config: ConfigFile = serde_json::from_slice(&config)
        .map_err(|error| damaged(&path_of(FileType::Config, source.id), &error.to_string()))?;
    config.id = rustic_core::Id::random().into();
    // Whether it may be written to is not a matter of how it cuts.
    config.append_only = None;
    making::make(settings, &location, |library| {
        library.init_with_config(
            &Credentials::password(password.expose()),
            &KeyOptions::default().with_created(true),
            config.clone(),
        )
    })
}

/// A copy lies on another disk, as a rule. Where that is not mounted, a directory that is made would fill this one, and
/// nobody would notice: nothing knows the copies that there were, as the ledger knows the repository.
fn refuse_missing_directory(location: &Location) -> Result<()> {
    let Location::Directory(directory) = location else { return Ok(()) };
    if !std::fs::metadata(directory).is_err_and(|cause| cause.kind() == std::io::ErrorKind::NotFound) {
        return Ok(());
    }
    let shown = directory.display();
    let account = User::from_uid(geteuid()).ok().flatten().filter(|user| !user.uid.is_root());
    let owner = account.map(|user| format!(" && chown {}: {shown}", user.name)).unwrap_or_default();
    Err(Error::new(Kind::Refused, format!("there is no directory {shown} for the copy"))
        .with("state", "nothing was copied there, and no directory was made")
        .hint("If it was there before, its disk may not be mounted: mount it.")
        .hint(format!("If the copy is new, make its directory once, as root: `mkdir -m 0700 {shown}{owner}`")))
}
