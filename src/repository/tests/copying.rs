//! Copies: what is missing, proved, once.

use std::fs;
use std::path::Path;

use rustic_core::FileType;

use crate::error::Kind;
use crate::progress::Meter;
use crate::repository::copy::{copy, init_copy};
use crate::repository::mend::{self, Looked};
use crate::repository::testing::{Fixture, PASSWORD, bytes, hooked, noise, reused, rot, seal, settings, store, time};
use crate::repository::{Handle, Id, check, open, read, snapshots};

/// Two backups that share most of their content.
fn two(fixture: &Fixture) -> [Id; 2] {
    let first = fixture.backup(vec![bytes("a", noise(1, 2_000_000)), bytes("m", "1")], None);
    let second =
        fixture.backup(vec![reused("a", 2_000_000), bytes("b/c", noise(2, 9000)), bytes("m", "2")], Some(first));
    [first, second]
}

fn nothing_new(target: &Handle, count: usize) {
    assert_eq!(snapshots::list(target).unwrap().snapshots.len(), count);
    assert_eq!(target.vault.list(FileType::Snapshot).unwrap().len(), count, "a pending snapshot was left");
}

#[test]
fn a_copy_holds_the_same_files_and_is_not_made_twice() {
    let fixture = Fixture::new();
    let ids = two(&fixture);
    let (source, target) = (fixture.open(), open(&fixture.second()).unwrap());
    assert_ne!(source.id(), target.id());
    let first = copy(&source, &target, &ids[..1], &Looked::default(), &Meter::default()).unwrap();
    assert!((first.copied.len(), first.present.len()) == (1, 0) && first.bytes_stored > 2_000_000, "{first:?}");
    let meter = Meter::default();
    let second = copy(&source, &target, &ids, &Looked::default(), &meter).unwrap();
    assert_eq!(second.present, first.copied);
    assert!(second.copied.len() == 1 && second.bytes_stored < 20_000, "only what is missing: {second:?}");
    assert_eq!(meter.bytes.into_inner(), second.bytes_stored, "all of it was read back");
    let copies = [first.copied[0].target, second.copied[0].target];
    for (id, copied) in ids.iter().zip(copies) {
        let (from, to) = (read::open(&source, *id).unwrap(), read::open(&target, copied).unwrap());
        to.blobs_present().unwrap();
        assert_eq!(from.files().collect::<Vec<_>>(), to.files().collect::<Vec<_>>());
        for file in from.files() {
            assert!(from.read(&file.path, u64::MAX).unwrap() == to.read(&file.path, u64::MAX).unwrap());
        }
        let (from, to) = (from.snapshot(), to.snapshot());
        assert_eq!((from.time, &from.tags, &from.host, from.bytes), (to.time, &to.tags, &to.host, to.bytes));
        assert_eq!(to.time, time(0));
    }
    let third = copy(&source, &target, &ids, &Looked::default(), &Meter::default()).unwrap();
    assert!(third.copied.is_empty() && third.present.len() == 2 && third.packs_written.is_empty(), "{third:?}");
    nothing_new(&target, 2);
    let report = check::check(&target, true, &Meter::default()).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}

#[test]
fn a_copy_of_a_copy_is_known_for_the_first_one() {
    let fixture = Fixture::new();
    let ids = two(&fixture);
    let (source, target) = (fixture.open(), open(&fixture.second()).unwrap());
    let directory = tempfile::tempdir().unwrap();
    let third = settings(directory.path(), PASSWORD);
    let missing = init_copy(&third, &source).unwrap_err();
    assert!(missing.to_string().contains("there is no directory") && !Path::new(&third.location).exists(), "{missing}");
    fs::create_dir(&third.location).unwrap();
    let third = init_copy(&third, &source).unwrap();
    let copied = copy(&source, &target, &ids, &Looked::default(), &Meter::default()).unwrap().copied;
    let onward: Vec<Id> = copied.iter().map(|pair| pair.target).collect();
    copy(&target, &third, &onward, &Looked::default(), &Meter::default()).unwrap();
    let direct = copy(&source, &third, &ids, &Looked::default(), &Meter::default()).unwrap();
    assert!(direct.copied.is_empty() && direct.present.len() == 2, "{direct:?}");
}

#[test]
fn what_cannot_be_copied_is_refused_by_name() {
    let fixture = Fixture::new();
    let ids = two(&fixture);
    let (source, target) = (fixture.open(), open(&fixture.second()).unwrap());
    let error = copy(&source, &fixture.open(), &ids, &Looked::default(), &Meter::default()).unwrap_err();
    assert!(error.kind() == Kind::Refused && error.message().contains("into itself"), "{error}");
    let error = copy(&source, &target, &[Id::of(b"none")], &Looked::default(), &Meter::default()).unwrap_err();
    assert!(error.kind() == Kind::Verify && error.message().contains(&Id::of(b"none").to_string()), "{error}");
    let pending = store(&source, vec![bytes("p", "1")], None).unwrap().pending;
    let error = copy(&source, &target, &[ids[0], pending], &Looked::default(), &Meter::default()).unwrap_err();
    assert!(error.kind() == Kind::Refused && error.to_string().contains("1 of 2 backups were copied"), "{error}");
    assert_eq!(error.detail("backup"), Some(&*pending.to_string()));
    nothing_new(&target, 1);
}

#[test]
fn r34_a_backup_that_is_damaged_in_the_source_is_not_copied() {
    let fixture = Fixture::new();
    let ids = two(&fixture);
    let target = open(&fixture.second()).unwrap();
    let data = fixture.root().join("data");
    let largest = fixture.files().into_iter().filter(|path| path.starts_with(&data));
    let largest = largest.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let good = fs::read(&largest).unwrap();
    let mut bad = good.clone();
    bad[1000] ^= 4;
    fs::write(&largest, bad).unwrap();
    let error = copy(&fixture.open(), &target, &ids, &Looked::default(), &Meter::default()).unwrap_err();
    let name = largest.strip_prefix(fixture.root()).unwrap().to_str().unwrap();
    assert_eq!((error.kind(), error.detail("file")), (Kind::Verify, Some(name)), "{error}");
    fs::remove_file(&largest).unwrap();
    let error = copy(&fixture.open(), &target, &ids, &Looked::default(), &Meter::default()).unwrap_err();
    assert!(error.kind() == Kind::Verify && error.to_string().contains("is missing"), "{error}");
    nothing_new(&target, 0);
    fs::write(&largest, good).unwrap();
    assert_eq!(copy(&fixture.open(), &target, &ids, &Looked::default(), &Meter::default()).unwrap().copied.len(), 2);
}

#[test]
fn r34_a_blob_that_left_the_sources_index_is_not_left_out_in_silence() {
    let fixture = Fixture::new();
    let first = fixture.backup(vec![bytes("a", noise(1, 9000))], None);
    let target = open(&fixture.second()).unwrap();
    let source = fixture.open();
    // The list of files stays known, the content does not.
    for id in source.vault.list(FileType::Index).unwrap().into_keys() {
        let mut json: serde_json::Value =
            serde_json::from_slice(&source.vault.file(FileType::Index, id).unwrap()).unwrap();
        json["packs"].as_array_mut().unwrap().retain(|pack| pack["blobs"][0]["type"] != "data");
        let sealed = seal(&source, json.to_string().as_bytes());
        fs::remove_file(fixture.root().join("index").join(id.to_string())).unwrap();
        fs::write(fixture.root().join("index").join(Id::of(&sealed).to_string()), sealed).unwrap();
    }
    let error = copy(&source, &target, &[first], &Looked::default(), &Meter::default()).unwrap_err();
    assert!(error.kind() == Kind::Verify && error.to_string().contains("in no index"), "{error}");
    nothing_new(&target, 0);
}

#[test]
fn r34_a_copy_that_reads_back_differently_is_not_published() {
    let fixture = Fixture::new();
    let ids = two(&fixture);
    let source = fixture.open();
    let second = fixture.second();
    let rotting = hooked(Path::new(&second.location), &open(&second).unwrap(), |_| {}, rot);
    let error = copy(&source, &rotting, &ids, &Looked::default(), &Meter::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Verify, "{error}");
    assert!(error.to_string().contains("0 of 2 backups were copied"), "{error}");
    nothing_new(&open(&second).unwrap(), 0);
}

#[test]
fn a_repository_made_for_copies_shares_with_backups_taken_straight_into_it() {
    let fixture = Fixture::new();
    let ids = two(&fixture);
    let (source, shared) = (fixture.open(), open(&fixture.second()).unwrap());
    copy(&source, &shared, &ids, &Looked::default(), &Meter::default()).unwrap();
    let added = store(&shared, vec![bytes("x", noise(1, 2_000_000))], None).unwrap().bytes_added;
    assert!(added < 10_000, "{added}");
    // It is one of its own all the same.
    let full = init_copy(&fixture.settings, &shared).unwrap_err();
    assert!(full.kind() == Kind::Refused && full.to_string().contains("is not empty"), "{full}");
    assert_ne!(shared.id(), source.id());
}

/// The largest pack in this repository.
fn largest_pack(root: &Path) -> std::path::PathBuf {
    let shelves = fs::read_dir(root.join("data")).unwrap().flatten();
    let packs = shelves.flat_map(|shelf| fs::read_dir(shelf.path()).unwrap().flatten()).map(|entry| entry.path());
    packs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

/// Looks at all of it, and copies.
fn again(source: &Handle, target: &Handle, ids: &[Id]) -> crate::error::Result<(Looked, usize)> {
    let all = mend::packs(target)?;
    let looked = mend::look(source, target, &all, &Meter::default())?;
    let done = copy(source, target, ids, &looked, &Meter::default())?;
    mend::remove_dropped(target, &looked)?;
    let mended = looked.concerned.max(done.mended.len());
    Ok((looked, mended))
}

type Damage = fn(&Path);

const DAMAGES: [(&str, Damage); 3] = [
    ("a flipped bit", |pack| {
        let mut bytes = fs::read(pack).unwrap();
        bytes[1000] ^= 4;
        fs::write(pack, bytes).unwrap();
    }),
    ("cut short", |pack| {
        let bytes = fs::read(pack).unwrap();
        fs::write(pack, &bytes[..bytes.len() - 100]).unwrap();
    }),
    ("missing", |pack| fs::remove_file(pack).unwrap()),
];

#[test]
fn k2_what_is_damaged_in_a_copy_is_written_anew() {
    let fixture = Fixture::new();
    let ids = two(&fixture);
    let second = fixture.second();
    let (source, target) = (fixture.open(), open(&second).unwrap());
    copy(&source, &target, &ids[..1], &Looked::default(), &Meter::default()).unwrap();
    for (what, damage) in DAMAGES {
        damage(&largest_pack(Path::new(&second.location)));
        let (looked, mended) = again(&source, &target, &ids).unwrap();
        assert_eq!(looked.dropped.len(), 1, "{what}");
        assert!(mended > 0, "{what}");
        let report = check::check(&target, true, &Meter::default()).unwrap();
        assert!(report.findings.is_empty(), "{what}: {report:?}");
        nothing_new(&target, 2);
        let (looked, mended) = again(&source, &target, &ids).unwrap();
        assert_eq!((looked.dropped.len(), mended), (0, 0), "{what}: once is enough");
    }
}

#[test]
fn k2_an_index_that_a_copy_lost_is_noticed_by_the_next_one() {
    let fixture = Fixture::new();
    let ids = two(&fixture);
    let second = fixture.second();
    let (source, target) = (fixture.open(), open(&second).unwrap());
    copy(&source, &target, &ids, &Looked::default(), &Meter::default()).unwrap();
    for index in fs::read_dir(Path::new(&second.location).join("index")).unwrap().flatten() {
        fs::remove_file(index.path()).unwrap();
    }
    let (_, mended) = again(&source, &target, &ids).unwrap();
    assert_eq!(mended, 2);
    let report = check::check(&target, true, &Meter::default()).unwrap();
    assert!(report.is_whole(), "{report:?}");
}

#[test]
fn k2_what_only_a_copy_has_is_not_thrown_away() {
    let fixture = Fixture::new();
    let only = fixture.backup(vec![bytes("z", noise(7, 300_000))], None);
    let ids = two(&fixture);
    let second = fixture.second();
    let (source, target) = (fixture.open(), open(&second).unwrap());
    copy(&source, &target, &[only], &Looked::default(), &Meter::default()).unwrap();
    let pack = largest_pack(Path::new(&second.location));
    // Given up and pruned in the source since.
    snapshots::delete(&source, only).unwrap();
    for id in source.vault.list(FileType::Index).unwrap().into_keys() {
        let mut json: serde_json::Value =
            serde_json::from_slice(&source.vault.file(FileType::Index, id).unwrap()).unwrap();
        json["packs"].as_array_mut().unwrap().retain(|pack| {
            pack["blobs"].as_array().unwrap().iter().all(|blob| blob["uncompressed_length"].as_u64() != Some(300_000))
        });
        let sealed = seal(&source, json.to_string().as_bytes());
        fs::remove_file(fixture.root().join("index").join(id.to_string())).unwrap();
        fs::write(fixture.root().join("index").join(Id::of(&sealed).to_string()), sealed).unwrap();
    }
    let before = fs::read(&pack).unwrap();
    DAMAGES[0].1(&pack);
    let error = again(&source, &target, &ids).unwrap_err();
    assert_eq!(error.kind(), Kind::Verify, "{error}");
    assert!(error.to_string().contains("restic repair packs"), "{error}");
    nothing_new(&target, 1);
    fs::write(&pack, before).unwrap();
    again(&source, &target, &ids).unwrap();
    assert!(check::check(&target, true, &Meter::default()).unwrap().is_whole());
}
