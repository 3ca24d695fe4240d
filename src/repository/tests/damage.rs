//! Bit rot, truncation, loss, swapped files: found, never a panic, never other bytes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::error::{Kind, Result};
use crate::progress::Meter;
use crate::repository::archive::read_back;
use crate::repository::testing::{Fixture, bytes, noise, store};
use crate::repository::{Id, check, open, read, snapshots};

/// Everything that a restore would read.
fn restore(fixture: &Fixture, id: Id) -> Result<Vec<(String, Vec<u8>)>> {
    let contents = read::open(&open(&fixture.settings)?, id)?;
    contents.blobs_present()?;
    contents.files().map(|file| Ok((file.path.clone(), contents.read(&file.path, u64::MAX)?))).collect()
}

/// Whether a check of everything finds something, and that what a restore gives is right or an error.
fn found(fixture: &Fixture, id: Id, right: &[(String, Vec<u8>)], what: &str) -> bool {
    let restored = restore(fixture, id);
    if let Ok(given) = &restored {
        assert!(given == right, "{what}: other bytes");
    }
    let Ok(handle) = open(&fixture.settings) else { return true };
    match check::check(&handle, true, &Meter::default()) {
        Err(_) => true,
        Ok(report) => {
            // A snapshot that is gone leaves no trace in the repository; who keeps its id misses it.
            let gone = !fixture.root().join("snapshots").join(id.to_string()).exists();
            assert!(gone || restored.is_ok() || !report.is_whole(), "{what}: not restorable, and check says whole");
            !report.is_whole()
        }
    }
}

fn damage_every_file(damage: impl Fn(&Path, &[u8])) -> Vec<String> {
    let fixture = Fixture::new();
    let entries = || vec![bytes("data/a", noise(1, 60_000)), bytes("data/b", vec![7; 5000]), bytes("m", "{}")];
    fixture.backup(vec![bytes("data/a", noise(9, 5000))], None);
    let id = fixture.backup(entries(), None);
    let right = restore(&fixture, id).unwrap();
    let mut missed = Vec::new();
    let files = fixture.files();
    assert!(files.len() >= 9, "{files:?}");
    for path in files {
        let good = fs::read(&path).unwrap();
        damage(&path, &good);
        let name = path.strip_prefix(fixture.root()).unwrap().display().to_string();
        if !found(&fixture, id, &right, &name) {
            missed.push(name);
        }
        fs::write(&path, good).unwrap();
    }
    assert_eq!(restore(&fixture, id).unwrap(), right, "the test put back what it broke");
    let report = check::check(&fixture.open(), true, &Meter::default()).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
    missed
}

#[test]
fn r34_a_flipped_bit_in_any_file_is_found() {
    for seed in [1, 2, 3] {
        let missed = damage_every_file(|path, good| {
            let mut bad = good.to_vec();
            let random = noise(seed + good.len() as u64, 8);
            let at = usize::from(random[0]) * 256 + usize::from(random[1]);
            // The first byte, the last, and one between.
            let at = [0, bad.len() - 1, at % bad.len()][usize::try_from(seed).unwrap() % 3];
            bad[at] ^= 1 << (random[2] % 8);
            fs::write(path, bad).unwrap();
        });
        assert!(missed.is_empty(), "seed {seed}: {missed:?}");
    }
}

#[test]
fn r35_truncation_and_growth_of_any_file_are_found() {
    let to = |length: fn(usize) -> usize| {
        move |path: &Path, good: &[u8]| fs::write(path, &good[..length(good.len())]).unwrap()
    };
    assert!(damage_every_file(to(|_| 0)).is_empty());
    assert!(damage_every_file(to(|length| length - 1)).is_empty());
    assert!(damage_every_file(to(|length| length / 2)).is_empty());
    assert!(damage_every_file(|path, good| fs::write(path, [good, b"x"].concat()).unwrap()).is_empty());
}

#[test]
fn r36_deletion_of_any_file_but_a_snapshot_is_found_and_that_one_by_its_id() {
    let missed = damage_every_file(|path, _| fs::remove_file(path).unwrap());
    assert!(missed.iter().all(|name| name.starts_with("snapshots/")) && missed.len() == 2, "{missed:?}");
    let fixture = Fixture::new();
    let id = fixture.backup(vec![bytes("m", "{}")], None);
    fs::remove_file(fixture.root().join("snapshots").join(id.to_string())).unwrap();
    let error = read::open(&fixture.open(), id).unwrap_err();
    assert_eq!(error.kind(), Kind::Verify);
    assert!(error.message().contains(&id.to_string()) && error.message().ends_with("is missing"), "{error}");
}

#[test]
fn two_packs_that_were_swapped_do_not_pass() {
    let fixture = Fixture::new();
    // Of the same sizes: the message authentication code alone would accept either in the other's place.
    let first = fixture.backup(vec![bytes("a", noise(1, 5000))], None);
    let second = fixture.backup(vec![bytes("a", noise(2, 5000))], None);
    let packs: Vec<_> =
        fixture.files().into_iter().filter(|path| path.starts_with(fixture.root().join("data"))).collect();
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    let data: Vec<_> = packs.iter().filter(|path| size(path) > 5000).collect();
    assert!(data.len() == 2 && size(data[0]) == size(data[1]), "{packs:?}");
    let (one, other) = (fs::read(data[0]).unwrap(), fs::read(data[1]).unwrap());
    fs::write(data[0], other).unwrap();
    fs::write(data[1], one).unwrap();
    for id in [first, second] {
        assert_eq!(restore(&fixture, id).unwrap_err().kind(), Kind::Verify);
    }
}

#[test]
fn a_finding_names_the_file_and_the_backups_that_need_it() {
    let fixture = Fixture::new();
    let first = fixture.backup(vec![bytes("a", noise(1, 700_000))], None);
    let second = fixture.backup(vec![bytes("a", noise(1, 700_000)), bytes("b", "1")], None);
    let third = fixture.backup(vec![bytes("b", "1")], None);
    let rotten = fixture.files().into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bad = fs::read(&rotten).unwrap();
    bad[1000] ^= 4;
    fs::write(&rotten, bad).unwrap();
    let handle = fixture.open();
    assert!(check::check(&handle, false, &Meter::default()).unwrap().is_whole(), "the structure is sound");
    let report = check::check(&handle, true, &Meter::default()).unwrap();
    let name = rotten.strip_prefix(fixture.root()).unwrap().to_str().unwrap();
    let finding = report.findings.iter().find(|finding| finding.file == name).unwrap();
    let concerned: BTreeSet<Id> = finding.snapshots.iter().copied().collect();
    assert_eq!(concerned, BTreeSet::from([first, second]));
    assert!(!concerned.contains(&third));
}

#[test]
fn a_rotten_pack_that_nothing_uses_is_found_too() {
    let fixture = Fixture::new();
    let id = fixture.backup(vec![bytes("a", noise(1, 700_000))], None);
    let handle = fixture.open();
    snapshots::delete(&handle, id).unwrap();
    let rotten = fixture.files().into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bad = fs::read(&rotten).unwrap();
    bad[1000] ^= 4;
    fs::write(&rotten, bad).unwrap();
    assert!(!check::check(&handle, true, &Meter::default()).unwrap().is_whole());
}

#[test]
fn r34_a_backup_that_leans_on_a_rotten_pack_notices() {
    let fixture = Fixture::new();
    fixture.backup(vec![bytes("a", noise(1, 700_000))], None);
    let rotten = fixture.files().into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let good = fs::read(&rotten).unwrap();
    let mut bad = good.clone();
    bad[1000] ^= 4;
    fs::write(&rotten, &bad).unwrap();
    let handle = fixture.open();
    let archived = store(&handle, vec![bytes("a", noise(1, 700_000)), bytes("b", "1")], None).unwrap();
    assert!(archived.bytes_stored < 10_000, "it deduplicates against the rotten pack");
    let error = read_back(&handle, &archived, &Meter::default()).unwrap_err();
    assert!(error.kind() == Kind::Verify && error.message().contains("data/"), "{error}");
    let name = rotten.strip_prefix(fixture.root()).unwrap().to_str().unwrap();
    let finding = check::rotten(&handle, &archived.packs_leaned_on, &Meter::default()).unwrap();
    assert!(finding.as_ref().is_some_and(|finding| finding.file == name && finding.is_damage), "{finding:?}");
    snapshots::discard(&handle, &archived).unwrap();
    fs::write(&rotten, good).unwrap();
    assert!(check::rotten(&handle, &archived.packs_leaned_on, &Meter::default()).unwrap().is_none());
}

#[test]
fn an_unreadable_snapshot_is_listed_as_such_beside_the_good_ones() {
    let fixture = Fixture::new();
    let good = fixture.backup(vec![bytes("a", "1")], None);
    let bad = fixture.backup(vec![bytes("a", "2")], None);
    fs::write(fixture.root().join("snapshots").join(bad.to_string()), "").unwrap();
    let listing = snapshots::list(&fixture.open()).unwrap();
    assert_eq!(listing.snapshots.iter().map(|snapshot| snapshot.id).collect::<Vec<_>>(), [good]);
    assert_eq!((listing.unreadable[0].0, listing.unreadable[0].1.kind()), (bad, Kind::Verify));
}

#[test]
fn a_snapshot_file_in_the_place_of_another_does_not_pass() {
    let fixture = Fixture::new();
    let old = fixture.backup(vec![bytes("a", "1")], None);
    let new = fixture.backup(vec![bytes("a", "2")], None);
    let path = |id: Id| fixture.root().join("snapshots").join(id.to_string());
    fs::copy(path(old), path(new)).unwrap();
    assert_eq!(read::open(&fixture.open(), new).unwrap_err().kind(), Kind::Verify);
    let report = check::check(&fixture.open(), false, &Meter::default()).unwrap();
    assert!(report.findings.iter().any(|finding| finding.is_damage && finding.snapshots == [new]), "{report:?}");
}
