//! A backup, a prune or a copy in a process of its own: killed at any moment, and measured.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustic_core::FileType;

use super::pruning::age;
use crate::progress::Meter;
use crate::repository::archive::{archive, read_back};
use crate::repository::copy::copy as copy_backups;
use crate::repository::mend::Looked;
use crate::repository::prune::prune;
use crate::repository::testing::{Fixture, PASSWORD, bytes, copy, noise, request, reused, settings};
use crate::repository::{check, open, read, snapshots};

const DIRECTORY: &str = "GLOVEBOX_TEST_DIRECTORY";
const SEED: &str = "GLOVEBOX_TEST_SEED";
const FILES: &str = "GLOVEBOX_TEST_FILES";

/// Bytes in each file that the other process stores.
const LENGTH: usize = 6_000_000;

fn backup_elsewhere(directory: &Path, seed: u64, files: u64) -> Child {
    elsewhere("backup_for_the_others", directory, seed, files)
}

fn elsewhere(what: &str, directory: &Path, seed: u64, files: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("repository::tests::killed::{what}"), "--ignored"])
        .env(DIRECTORY, directory)
        .env(SEED, seed.to_string())
        .env(FILES, files.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills the process once the files below `root` have changed so many times, however slow the machine is. Says
/// whether it was still there to be killed.
fn kill_after_changes(child: &mut Child, root: &Path, changes: u32) -> bool {
    let names = || {
        let directories = std::fs::read_dir(root.join("data")).unwrap().map(|entry| entry.unwrap().path());
        let directories = directories.chain(["index", "snapshots"].map(|name| root.join(name)));
        let files = directories.flat_map(|directory| std::fs::read_dir(directory).unwrap());
        files.map(|entry| entry.unwrap().file_name()).collect::<BTreeSet<_>>()
    };
    let (mut seen, mut left) = (names(), changes);
    while left > 0 && child.try_wait().unwrap().is_none() {
        let found = names();
        left -= u32::from(found != seen);
        seen = found;
    }
    child.kill().unwrap();
    child.wait().unwrap().code().is_none()
}

#[test]
#[ignore = "the other process of the tests below"]
fn backup_for_the_others() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (seed, files) = (number(SEED), number(FILES));
    let handle = open(&settings(Path::new(&directory), PASSWORD)).unwrap();
    let feed = (0..files).map(move |file| Ok(bytes(&format!("data/{file:05}"), noise(seed * 1000 + file, LENGTH))));
    let archived = archive(&handle, feed, &request(None)).unwrap();
    read_back(&handle, &archived, &Meter::default()).unwrap();
    snapshots::publish(&handle, &archived).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak = peak.trim().trim_end_matches(" kB");
    std::fs::write(Path::new(&directory).join("peak"), peak).unwrap();
}

#[test]
fn r42_killed_at_any_moment_no_part_of_a_backup_is_listed() {
    let fixture = Fixture::new();
    let directory = fixture.root().parent().unwrap().to_path_buf();
    let before = fixture.backup(vec![bytes("a", "1")], None);
    let started = Instant::now();
    assert!(backup_elsewhere(&directory, 999, 2).wait().unwrap().success());
    let whole = started.elapsed();
    let (mut killed, mut listed) = (0, 2);
    for round in 0_u32..20 {
        let mut child = backup_elsewhere(&directory, u64::from(round), 2);
        // Spread over the whole run, in an order that is not the order of time.
        std::thread::sleep(whole * ((round * 7) % 20) / 20);
        child.kill().unwrap();
        killed += u32::from(child.wait().unwrap().code().is_none());
        let handle = fixture.open();
        let report = check::check(&handle, true, &Meter::default()).unwrap();
        assert!(report.is_whole(), "round {round}: {report:?}");
        let listing = snapshots::list(&handle).unwrap();
        assert!(listing.unreadable.is_empty(), "round {round}: {listing:?}");
        let more = listing.snapshots.len() - listed;
        assert!(more <= 1, "round {round}");
        listed += more;
        for snapshot in &listing.snapshots {
            let contents = read::open(&handle, snapshot.id).unwrap();
            contents.blobs_present().unwrap();
            let count = contents.files().count();
            assert!(count == 2 || snapshot.id == before, "round {round}: {count} files");
        }
        snapshots::sweep_pending(&handle, SystemTime::now() + Duration::from_hours(25)).unwrap();
    }
    assert!(killed >= 10, "only {killed} of 20 were killed before their end: the test proved little");
    let leftovers = fixture.files().iter().filter(|path| path.to_string_lossy().contains("-tmp-")).count();
    assert_eq!(leftovers, 0);
    fixture.backup(vec![bytes("a", "2")], None);
}

#[test]
#[ignore = "the other process of the test below"]
fn prune_for_the_others() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let handle = open(&settings(Path::new(&directory), PASSWORD)).unwrap();
    let expected = snapshots::list(&handle).unwrap().snapshots.into_iter().map(|snapshot| snapshot.id).collect();
    prune(&handle, &expected, chrono::Utc::now(), &Meter::default()).unwrap();
}

#[test]
fn r43_killed_at_any_moment_a_prune_leaves_every_backup_whole_and_the_next_one_ends_it() {
    let fixture = Fixture::new();
    // Something to delete, something to mark, something to rewrite.
    let file = |seed| bytes(&format!("{seed:03}"), noise(seed, 1_000_000));
    let kept = fixture.backup((0..4).map(file).collect(), None);
    for round in [1, 2] {
        let more: Vec<_> = (0..6).map(|number| file(round * 100 + number)).collect();
        let old = fixture.backup(more, None);
        let part = ["000", "003"].map(|path| reused(path, 1_000_000));
        fixture.backup(part.into_iter().chain([file(round * 1000)]).collect(), Some(kept));
        if round == 1 {
            snapshots::delete(&fixture.open(), old).unwrap();
            let expected = snapshots::list(&fixture.open()).unwrap().snapshots.iter().map(|one| one.id).collect();
            prune(&fixture.open(), &expected, chrono::Utc::now(), &Meter::default()).unwrap();
            age(&fixture, 25);
        }
    }
    snapshots::delete(&fixture.open(), kept).unwrap();
    let right: Vec<_> = snapshots::list(&fixture.open()).unwrap().snapshots;
    assert_eq!(right.len(), 3);
    let expected = right.iter().map(|snapshot| snapshot.id).collect();
    let copies = tempfile::tempdir().unwrap();
    let (mut killed, mut differing) = (0, BTreeSet::new());
    for round in 0_u32..16 {
        let directory = copies.path().join(round.to_string());
        copy(&fixture.root(), &directory.join("repository"));
        let settings = settings(&directory, PASSWORD);
        let mut child = elsewhere("prune_for_the_others", &directory, 0, 0);
        killed += u32::from(kill_after_changes(&mut child, &directory.join("repository"), round));
        let handle = open(&settings).unwrap();
        let files = |kind| handle.vault.list(kind).unwrap().len();
        differing.insert((files(FileType::Index), files(FileType::Pack)));
        for snapshot in &right {
            let contents = read::open(&handle, snapshot.id).unwrap();
            contents.blobs_present().unwrap();
            for file in contents.files() {
                contents.read(&file.path, u64::MAX).unwrap();
            }
        }
        let report = check::check(&handle, true, &Meter::default()).unwrap();
        assert!(report.is_whole(), "round {round}: {report:?}");
        prune(&handle, &expected, chrono::Utc::now(), &Meter::default()).unwrap();
        let report = check::check(&handle, true, &Meter::default()).unwrap();
        assert!(report.is_whole(), "round {round}, pruned again: {report:?}");
        std::fs::remove_dir_all(directory).unwrap();
    }
    assert!(killed >= 4, "only {killed} of 16 were killed before their end: the test proved little");
    assert!(differing.len() >= 3, "every kill found the same files: the test proved little: {differing:?}");
}

#[test]
#[ignore = "the other process of the test below"]
fn copy_for_the_others() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let source = open(&settings(Path::new(&directory), PASSWORD)).unwrap();
    let target = open(&settings(&Path::new(&directory).join("second"), PASSWORD)).unwrap();
    let ids: Vec<_> = snapshots::list(&source).unwrap().snapshots.iter().map(|one| one.id).collect();
    copy_backups(&source, &target, &ids, &Looked::default(), &Meter::default()).unwrap();
}

#[test]
fn r42_killed_at_any_moment_no_part_of_a_copy_is_listed_and_the_next_one_goes_on() {
    let fixture = Fixture::new();
    let file = |seed: u64| bytes(&format!("{seed:03}"), noise(seed, 1_500_000));
    let ids: Vec<_> = (0..4).map(|seed| fixture.backup(vec![file(seed), file(seed + 1)], None)).collect();
    let second = fixture.second();
    let (directory, root) = (fixture.root().parent().unwrap().to_path_buf(), Path::new(&second.location));
    let empty = directory.join("empty");
    copy(root, &empty);
    let (mut killed, mut between) = (0, 0);
    for round in 0_u32..10 {
        std::fs::remove_dir_all(root).unwrap();
        copy(&empty, root);
        let mut child = elsewhere("copy_for_the_others", &directory, 0, 0);
        killed += u32::from(kill_after_changes(&mut child, root, round * 2));
        let (source, target) = (fixture.open(), open(&second).unwrap());
        let listed = snapshots::list(&target).unwrap();
        assert!(listed.unreadable.is_empty(), "round {round}: {listed:?}");
        between += u32::from((1..ids.len()).contains(&listed.snapshots.len()));
        for snapshot in &listed.snapshots {
            let contents = read::open(&target, snapshot.id).unwrap();
            contents.blobs_present().unwrap();
            assert_eq!(contents.files().count(), 2, "round {round}");
        }
        assert!(check::check(&target, true, &Meter::default()).unwrap().is_whole(), "round {round}");
        let done = copy_backups(&source, &target, &ids, &Looked::default(), &Meter::default()).unwrap();
        assert_eq!((done.present.len(), done.copied.len() + done.present.len()), (listed.snapshots.len(), ids.len()));
        let again = copy_backups(&source, &target, &ids, &Looked::default(), &Meter::default()).unwrap();
        assert_eq!((again.present.len(), again.bytes_stored), (ids.len(), 0), "round {round}");
    }
    assert!(killed >= 6 && between >= 1, "{killed} of 10 were killed, {between} between: the test proved little");
}

#[test]
fn memory_stays_under_200_mb_whatever_is_stored() {
    let fixture = Fixture::new();
    let directory = fixture.root().parent().unwrap().to_path_buf();
    assert!(backup_elsewhere(&directory, 1, 60).wait().unwrap().success());
    let peak: u64 = std::fs::read_to_string(directory.join("peak")).unwrap().parse().unwrap();
    // 110 MB were measured, with data that does not compress.
    assert!(peak < 200_000, "{peak} kB for {} MB", 60 * LENGTH / 1_000_000);
}
