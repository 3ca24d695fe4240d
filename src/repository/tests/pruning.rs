//! Pruning: nothing that is needed goes, nothing goes at once, and in doubt nothing goes at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use rustic_core::FileType;

use super::opening::as_nobody;
use crate::error::{Error, Kind};
use crate::progress::Meter;
use crate::repository::prune::{Pruned, prune, survey};
use crate::repository::testing::{Fixture, bytes, noise, reused, seal, store, time};
use crate::repository::{Id, check, read, snapshots};

/// Some time after every backup of the tests, which have the times of the fixture.
fn now() -> DateTime<Utc> {
    time(0) + TimeDelta::hours(1)
}

fn pruned(fixture: &Fixture, expected: &[Id]) -> Pruned {
    prune(&fixture.open(), &expected.iter().copied().collect(), now(), &Meter::default()).unwrap()
}

fn refused(fixture: &Fixture, expected: &[Id]) -> Error {
    let before = contents(fixture);
    let expected = expected.iter().copied().collect();
    let error = prune(&fixture.open(), &expected, now(), &Meter::default()).unwrap_err();
    assert!(contents(fixture) == before, "something was touched: {error}");
    assert_eq!(error.detail("state"), Some("nothing was touched"), "{error}");
    error
}

/// Every file with its bytes.
fn contents(fixture: &Fixture) -> BTreeMap<PathBuf, Vec<u8>> {
    fixture.files().into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn packs(fixture: &Fixture) -> BTreeSet<Id> {
    fixture.open().vault.list(FileType::Pack).unwrap().into_keys().collect()
}

fn index_files(fixture: &Fixture) -> BTreeSet<Id> {
    fixture.open().vault.list(FileType::Index).unwrap().into_keys().collect()
}

/// Moves the marks in all indexes into the past.
pub(super) fn age(fixture: &Fixture, hours: i64) {
    let handle = fixture.open();
    for id in index_files(fixture) {
        let mut json: serde_json::Value =
            serde_json::from_slice(&handle.vault.file(FileType::Index, id).unwrap()).unwrap();
        for pack in json.get_mut("packs_to_delete").and_then(|packs| packs.as_array_mut()).into_iter().flatten() {
            let marked = DateTime::parse_from_rfc3339(pack["time"].as_str().unwrap()).unwrap();
            pack["time"] = (marked - TimeDelta::hours(hours)).to_rfc3339().into();
        }
        let sealed = seal(&handle, json.to_string().as_bytes());
        fs::remove_file(fixture.root().join("index").join(id.to_string())).unwrap();
        fs::write(fixture.root().join("index").join(Id::of(&sealed).to_string()), sealed).unwrap();
    }
}

fn whole(fixture: &Fixture, id: Id, path: &str, content: &[u8]) {
    let contents = read::open(&fixture.open(), id).unwrap();
    contents.blobs_present().unwrap();
    assert!(contents.read(path, u64::MAX).unwrap() == content, "{path} of {id:?} has other bytes");
}

fn sound(fixture: &Fixture) {
    let report = check::check(&fixture.open(), true, &Meter::default()).unwrap();
    assert!(report.is_whole(), "{report:?}");
}

/// Two backups of which the first is deleted; both have one pack of data, and one with their list of files.
fn one_of_two(fixture: &Fixture) -> Id {
    let old = fixture.backup(vec![bytes("a", noise(1, 1_500_000))], None);
    let new = fixture.backup(vec![bytes("a", noise(2, 1_500_000))], None);
    snapshots::delete(&fixture.open(), old).unwrap();
    new
}

#[test]
fn what_nothing_needs_is_marked_first_and_deleted_by_a_prune_a_day_later() {
    let fixture = Fixture::new();
    let kept = one_of_two(&fixture);
    let before = packs(&fixture);
    let first = pruned(&fixture, &[kept]);
    assert_eq!((first.marked.ids.len(), first.deleted.ids.len(), first.waiting.ids.len()), (2, 0, 0), "{first:?}");
    assert!(first.marked.bytes > 1_500_000 && first.repacked.ids.is_empty() && first.written.ids.is_empty());
    assert_eq!(packs(&fixture), before, "nothing is gone");
    sound(&fixture);
    age(&fixture, 23);
    let second = pruned(&fixture, &[kept]);
    assert_eq!((second.marked.ids.len(), second.deleted.ids.len()), (0, 0), "{second:?}");
    assert_eq!(second.waiting, first.marked);
    age(&fixture, 2);
    let third = pruned(&fixture, &[kept]);
    assert_eq!(third.deleted, first.marked, "{third:?}");
    assert!(third.waiting.ids.is_empty());
    assert_eq!(packs(&fixture), before.difference(&first.marked.ids).copied().collect());
    sound(&fixture);
    whole(&fixture, kept, "a", &noise(2, 1_500_000));
    assert_eq!(pruned(&fixture, &[kept]), Pruned::default(), "nothing is left to do");
}

#[test]
fn what_is_needed_of_a_pack_is_written_anew_and_read_back() {
    let fixture = Fixture::new();
    let old = fixture.backup(vec![bytes("a", noise(1, 900_000)), bytes("b", noise(2, 900_000))], None);
    let kept = fixture.backup(vec![reused("b", 900_000), bytes("m", "1")], Some(old));
    snapshots::delete(&fixture.open(), old).unwrap();
    let first = pruned(&fixture, &[kept]);
    assert!(!first.repacked.ids.is_empty() && first.repacked.ids.is_subset(&first.marked.ids), "{first:?}");
    assert!(first.written.bytes > 900_000 && first.written.bytes < 1_000_000, "{first:?}");
    sound(&fixture);
    age(&fixture, 25);
    let second = pruned(&fixture, &[kept]);
    assert_eq!(second.deleted, first.marked);
    sound(&fixture);
    whole(&fixture, kept, "b", &noise(2, 900_000));
}

#[test]
fn r31_a_prune_needs_exactly_the_backups_that_the_ledger_knows() {
    let fixture = Fixture::new();
    let (one, other) =
        (fixture.backup(vec![bytes("a", "1")], None), fixture.backup(vec![bytes("a", noise(1, 90_000))], None));
    let error = refused(&fixture, &[]);
    assert_eq!((error.kind(), &error.message()[..18]), (Kind::Refused, "no backup is known"));
    let error = refused(&fixture, &[one]);
    assert_eq!((error.kind(), error.detail("unknown")), (Kind::Refused, Some(&*other.to_string())), "{error}");
    let path = fixture.root().join("snapshots").join(other.to_string());
    let good = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let error = refused(&fixture, &[one, other]);
    assert_eq!((error.kind(), error.detail("missing")), (Kind::Verify, Some(&*other.to_string())), "{error}");
    fs::write(&path, "").unwrap();
    for expected in [&[one][..], &[one, other]] {
        let error = refused(&fixture, expected);
        assert_eq!((error.kind(), error.detail("snapshot")), (Kind::Verify, Some(&*other.to_string())), "{error}");
    }
    fs::write(&path, good).unwrap();
    assert_eq!(pruned(&fixture, &[one, other]).marked.ids.len(), 0);
}

#[test]
fn r31_a_listing_that_fails_deletes_nothing() {
    if nix::unistd::geteuid().is_root() {
        return as_nobody("pruning::r31_a_listing_that_fails_deletes_nothing");
    }
    let fixture = Fixture::new();
    let kept = one_of_two(&fixture);
    let (handle, before) = (fixture.open(), contents(&fixture));
    for directory in ["snapshots", "index", "data"] {
        let path = fixture.root().join(directory);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        let result = prune(&handle, &BTreeSet::from([kept]), now(), &Meter::default());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        let error = result.unwrap_err();
        assert!(error.kind() == Kind::Store && error.to_string().contains("Permission denied"), "{error}");
        assert!(contents(&fixture) == before, "{directory}");
    }
}

#[test]
fn r31_a_snapshot_that_the_library_does_not_see_keeps_its_packs() {
    let fixture = Fixture::new();
    let (lost, kept) =
        (fixture.backup(vec![bytes("a", noise(1, 90_000))], None), fixture.backup(vec![bytes("a", "2")], None));
    let path = fixture.root().join("snapshots").join(lost.to_string());
    let file = fs::read(&path).unwrap();
    // Marked a day ago while the snapshot could not be seen; now it is there again, for us.
    fs::remove_file(&path).unwrap();
    assert_eq!(pruned(&fixture, &[kept]).marked.ids.len(), 2);
    age(&fixture, 25);
    fs::write(&path, &file).unwrap();
    let survey = survey(&fixture.open(), &BTreeSet::from([lost, kept]), now()).unwrap();
    fs::remove_file(&path).unwrap();
    let before = packs(&fixture);
    let error = survey.carry_out(&Meter::default()).unwrap_err();
    assert!(error.kind() == Kind::Verify && error.message().contains("wanted to remove data/"), "{error}");
    assert_eq!(packs(&fixture), before);
}

#[test]
fn r32_packs_that_were_marked_and_are_needed_again_are_taken_back() {
    let fixture = Fixture::new();
    let (lost, kept) =
        (fixture.backup(vec![bytes("a", noise(1, 90_000))], None), fixture.backup(vec![bytes("a", "2")], None));
    let path = fixture.root().join("snapshots").join(lost.to_string());
    let file = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    pruned(&fixture, &[kept]);
    age(&fixture, 25);
    fs::write(&path, &file).unwrap();
    let before = packs(&fixture);
    pruned(&fixture, &[lost, kept]);
    assert_eq!(packs(&fixture), before);
    sound(&fixture);
    whole(&fixture, lost, "a", &noise(1, 90_000));
}

#[test]
fn r44_a_backup_of_the_future_stops_a_prune() {
    let fixture = Fixture::new();
    let kept = one_of_two(&fixture);
    let before = contents(&fixture);
    let early = time(0) - TimeDelta::minutes(6);
    let error = prune(&fixture.open(), &BTreeSet::from([kept]), early, &Meter::default()).unwrap_err();
    assert!(error.kind() == Kind::Refused && error.to_string().contains("lies in the future"), "{error}");
    assert!(contents(&fixture) == before);
}

#[test]
fn a_backup_that_is_not_whole_stops_a_prune() {
    let fixture = Fixture::new();
    let kept = fixture.backup(vec![bytes("a", noise(1, 90_000))], None);
    let more = fixture.backup(vec![bytes("b", noise(2, 90_000))], None);
    let indexes: Vec<Id> = index_files(&fixture).into_iter().collect();
    fs::remove_file(fixture.root().join("index").join(indexes[0].to_string())).unwrap();
    // Without its index the packs of one backup look as if nobody had ever known them.
    let error = refused(&fixture, &[kept, more]);
    assert!(error.kind() == Kind::Verify && error.to_string().contains("in no index"), "{error}");
}

#[test]
fn a_pending_snapshot_keeps_its_packs() {
    let fixture = Fixture::new();
    let kept = fixture.backup(vec![bytes("a", "1")], None);
    let handle = fixture.open();
    let archived = store(&handle, vec![bytes("a", noise(1, 700_000))], None).unwrap();
    assert!(pruned(&fixture, &[kept]).marked.ids.is_empty());
    let published = snapshots::publish(&handle, &archived).unwrap().snapshot.id;
    assert!(pruned(&fixture, &[kept, published]).marked.ids.is_empty());
    whole(&fixture, published, "a", &noise(1, 700_000));
}

#[test]
fn r42_packs_of_killed_runs_go_after_a_day_and_are_no_damage_before() {
    let fixture = Fixture::new();
    let kept = one_of_two(&fixture);
    let orphan = Id::of(b"cut off");
    let path = fixture.root().join("data").join(&orphan.to_string()[..2]).join(orphan.to_string());
    fs::write(&path, "cut off").unwrap();
    // Pruned twice on one day: the storage library would lose the size of such a pack, and find it damaged.
    let at = Utc::now();
    for _ in 0..2 {
        let done = prune(&fixture.open(), &BTreeSet::from([kept]), at, &Meter::default()).unwrap();
        assert!(done.waiting.ids.contains(&orphan) && path.exists(), "{done:?}");
    }
    let old = SystemTime::now() - Duration::from_hours(25);
    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    let done = prune(&fixture.open(), &BTreeSet::from([kept]), at, &Meter::default()).unwrap();
    assert_eq!((done.deleted.ids, done.deleted.bytes), (BTreeSet::from([orphan]), 7));
    assert!(!path.exists());
    sound(&fixture);
}

#[test]
fn r34_what_was_rewritten_badly_marks_nothing() {
    let fixture = Fixture::new();
    let old = fixture.backup(vec![bytes("a", noise(1, 900_000)), bytes("b", noise(2, 900_000))], None);
    let kept = fixture.backup(vec![reused("b", 900_000), bytes("m", "1")], Some(old));
    snapshots::delete(&fixture.open(), old).unwrap();
    let (indexes, before) = (index_files(&fixture), packs(&fixture));
    let error = prune(&fixture.open_rotting(), &BTreeSet::from([kept]), now(), &Meter::default()).unwrap_err();
    assert!(error.kind() == Kind::Verify && error.message().contains("reads back differently"), "{error}");
    assert_eq!(index_files(&fixture), indexes, "as it was");
    assert!(packs(&fixture).is_superset(&before));
    whole(&fixture, kept, "b", &noise(2, 900_000));
    assert!(check::check(&fixture.open(), false, &Meter::default()).unwrap().is_whole());
    // On a good disk it can be tried again.
    assert!(!pruned(&fixture, &[kept]).repacked.ids.is_empty());
    whole(&fixture, kept, "b", &noise(2, 900_000));
}
