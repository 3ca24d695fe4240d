//! Storing, publishing, reading: what comes out is what went in, or nothing is listed.

use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{Duration, SystemTime};

use rustic_core::FileType;

use crate::error::{Error, Kind};
use crate::progress::Meter;
use crate::repository::archive::{Archived, archive, read_back};
use crate::repository::feed::{Body, Entry};
use crate::repository::testing::{Fixture, bytes, noise, request, reused, store, time};
use crate::repository::{Handle, check, read, snapshots};

/// That no run left anything that anyone could take for a backup.
fn nothing_listed(handle: &Handle) {
    let listing = snapshots::list(handle).unwrap();
    assert!(listing.snapshots.is_empty() && listing.unreadable.is_empty(), "{listing:?}");
    assert!(handle.vault.list(FileType::Snapshot).unwrap().is_empty(), "a pending snapshot was left");
}

fn file(content: &[u8], size: u64) -> Body {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    Body::File { file, size }
}

fn sample() -> Vec<Entry> {
    let big = noise(1, 9_000_000);
    vec![
        bytes("RESTORE.md", "read me"),
        Entry { body: file(&big, big.len() as u64), ..bytes("data/public.a b\"c\\/00000.bin", "") },
        bytes("data/public.a b\"c\\/00001.bin", noise(2, 700_000)),
        bytes("data/public.ä/00000.bin", Vec::new()),
        bytes("manifest.json", "{}"),
    ]
}

#[test]
fn what_was_stored_comes_out_again() {
    let fixture = Fixture::new();
    let handle = fixture.open();
    let archived = store(&handle, sample(), None).unwrap();
    assert_eq!((archived.files, archived.files_read, archived.bytes), (5, 5, 9_700_009));
    assert!(archived.bytes_stored > 9_700_000 && archived.packs_written.len() >= 2);
    assert!(archived.packs_leaned_on.is_empty());
    assert!(snapshots::list(&handle).unwrap().snapshots.is_empty(), "pending is not published");
    assert!(read::open(&handle, archived.pending).is_err(), "nor can it be restored");
    let meter = Meter::default();
    read_back(&handle, &archived, &meter).unwrap();
    assert_eq!(meter.bytes.into_inner(), 9_700_009);
    let published = snapshots::publish(&handle, &archived).unwrap();
    assert!(published.leftover.is_none());

    let listing = snapshots::list(&handle).unwrap();
    let [only] = listing.snapshots.as_slice() else { panic!("{listing:?}") };
    assert_eq!((only.id, only.time, only.host.as_str()), (published.snapshot.id, time(0), "box"));
    assert_eq!((only.tags.as_slice(), only.bytes), (&["hourly".to_owned()][..], 9_700_009));
    let contents = read::open(&handle, published.snapshot.id).unwrap();
    contents.blobs_present().unwrap();
    assert_eq!(contents.files().map(|file| file.path).collect::<Vec<_>>(), {
        let mut paths: Vec<_> = sample().into_iter().map(|entry| entry.path).collect();
        paths.sort();
        paths
    });
    assert!(contents.files().all(|file| file.mode == 0o640));
    let mut all = Vec::new();
    contents.reader("data/public.a b\"c\\/00000.bin").unwrap().read_to_end(&mut all).unwrap();
    assert!(all == noise(1, 9_000_000), "other bytes");
    assert_eq!(contents.read("manifest.json", 100).unwrap(), b"{}");
    assert_eq!(contents.read("RESTORE.md", 3).unwrap_err().kind(), Kind::Verify);
    assert_eq!(contents.reader("absent").unwrap_err().kind(), Kind::Refused);
    let report = check::check(&handle, true, &Meter::default()).unwrap();
    assert!(report.findings.is_empty() && report.packs_read >= 2 && report.snapshots == 1, "{report:?}");
    snapshots::delete(&handle, published.snapshot.id).unwrap();
    nothing_listed(&handle);
}

#[test]
fn packs_are_small_enough_to_keep_memory_bounded() {
    let fixture = Fixture::new();
    fixture.backup(vec![bytes("a", noise(3, 30_000_000))], None);
    let sizes: Vec<u64> = fixture.open().vault.list(FileType::Pack).unwrap().into_values().collect();
    assert!(sizes.len() >= 3 && sizes.iter().all(|size| *size < 13 << 20), "{sizes:?}");
}

/// What must be true after each way in which a run can fail.
fn fails(fixture: &Fixture, feed: Vec<Result<Entry, Error>>) -> Error {
    let handle = fixture.open();
    let error = archive(&handle, feed.into_iter(), &request(None)).unwrap_err();
    nothing_listed(&handle);
    let report = check::check(&handle, true, &Meter::default()).unwrap();
    assert!(report.is_whole(), "{report:?}");
    error
}

#[test]
fn r27_a_feed_that_fails_in_the_middle_leaves_no_snapshot_and_its_own_words() {
    let fixture = Fixture::new();
    let feed = vec![
        Ok(bytes("a", noise(1, 3_000_000))),
        Err(Error::new(Kind::Source, "server closed the connection").with("table", "positions")),
        Ok(bytes("b", "never asked for")),
    ];
    let error = fails(&fixture, feed);
    assert_eq!((error.kind(), error.message()), (Kind::Source, "server closed the connection"));
    assert_eq!((error.detail("table"), error.detail("state")), (Some("positions"), Some("no backup was saved")));
}

#[test]
fn r27_a_reader_of_another_size_leaves_no_snapshot() {
    let fixture = Fixture::new();
    let content = noise(4, 1_500_000);
    for (size, words) in [
        (1_500_001, "ended after 1500000 of 1500001 bytes"),
        (1_499_999, "more than the 1499999 bytes"),
        (0, "more than the 0 bytes"),
    ] {
        let entry = Entry { body: file(&content, size), ..bytes("data/x", "") };
        let error = fails(&fixture, vec![Ok(bytes("a", "1")), Ok(entry), Ok(bytes("z", "1"))]);
        assert_eq!(error.kind(), Kind::Source);
        assert!(error.to_string().starts_with("reading data/x failed") && error.to_string().contains(words), "{error}");
    }
}

#[test]
fn r27_a_reader_that_fails_leaves_no_snapshot() {
    let fixture = Fixture::new();
    let directory = std::fs::File::open("/").unwrap(); // Reading a directory fails.
    let entry = Entry { body: Body::File { file: directory, size: 10 }, ..bytes("files/x", "") };
    let error = fails(&fixture, vec![Ok(bytes("a", "1")), Ok(entry)]);
    assert!(error.kind() == Kind::Source && error.to_string().contains("Is a directory"), "{error}");
}

#[test]
fn entries_out_of_order_or_with_odd_paths_are_refused() {
    let fixture = Fixture::new();
    for (first, second, words) in [
        ("b", "a", "out of order"),
        ("a", "a", "out of order"),
        ("a", "a/b", "a file where its directory would be"),
        ("a.b", "a/b", "out of order"),
        ("a", "/b", "not a plain relative path"),
        ("a", "b//c", "not a plain relative path"),
        ("a", "b/../c", "not a plain relative path"),
    ] {
        let error = fails(&fixture, vec![Ok(bytes(first, "1")), Ok(bytes(second, "2"))]);
        assert!(error.to_string().contains(words), "{first} {second}: {error}");
    }
}

#[test]
fn a_reused_entry_is_not_read_and_a_fresh_one_always_is() {
    let fixture = Fixture::new();
    let first =
        fixture.backup(vec![bytes("data/a", noise(1, 2_000_000)), bytes("data/b", "old"), bytes("m", "1")], None);
    let handle = fixture.open();
    // `data/b` has the path, the size and the time of the parent's, and other content.
    let archived =
        store(&handle, vec![reused("data/a", 2_000_000), bytes("data/b", "new"), bytes("m", "2")], Some(first))
            .unwrap();
    assert_eq!((archived.files_read, archived.bytes_read, archived.bytes), (2, 4, 2_000_004));
    assert!(!archived.packs_leaned_on.is_empty() && archived.bytes_stored < 100_000);
    read_back(&handle, &archived, &Meter::default()).unwrap();
    let second = snapshots::publish(&handle, &archived).unwrap().snapshot.id;
    let third = fixture.backup(vec![reused("data/a", 2_000_000), reused("data/b", 3), bytes("m", "3")], Some(second));
    let contents = read::open(&handle, third).unwrap();
    assert!(contents.read("data/a", u64::MAX).unwrap() == noise(1, 2_000_000));
    assert_eq!(contents.read("data/b", 9).unwrap(), b"new");
    assert_eq!(read::open(&handle, first).unwrap().read("data/b", 9).unwrap(), b"old");
}

#[test]
fn a_reused_entry_that_the_parent_lacks_fails_the_run_by_name() {
    let fixture = Fixture::new();
    let parent = fixture.backup(vec![bytes("data/a", "abc"), bytes("m", "1")], None);
    let handle = fixture.open();
    for (parent, entry, words) in [
        (Some(parent), reused("data/z", 3), "it is not there"),
        (Some(parent), reused("data/a", 4), "it has 3 bytes there, not 4"),
        (None, reused("data/a", 3), "it is not there"),
    ] {
        let error = store(&handle, vec![entry, bytes("m", "2")], parent).unwrap_err();
        assert!(error.kind() == Kind::Verify && error.to_string().contains(words), "{error}");
        assert!(error.message().starts_with("data/"), "{error}");
    }
    assert_eq!(snapshots::list(&handle).unwrap().snapshots.len(), 1);
    assert_eq!(handle.vault.list(FileType::Snapshot).unwrap().len(), 1);
}

#[test]
fn a_reused_entry_whose_blobs_left_the_index_fails_the_run() {
    let fixture = Fixture::new();
    let parent = fixture.backup(vec![bytes("a", noise(1, 600_000))], None);
    fixture.backup(vec![bytes("b", noise(2, 600_000))], None);
    let handle = fixture.open();
    // The data pack of the first backup leaves the index; its trees stay.
    let index = handle.vault.index().unwrap();
    let root = handle.vault.snapshot(parent).unwrap().tree;
    let forest = crate::repository::tree::walk(&handle.vault, &index, (&*root).into()).unwrap();
    let pack = forest.files["a"].content[0].pack;
    for id in handle.vault.list(FileType::Index).unwrap().into_keys() {
        let plain = handle.vault.file(FileType::Index, id).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&plain).unwrap();
        json["packs"].as_array_mut().unwrap().retain(|known| known["id"] != pack.to_string().as_str());
        let sealed = crate::repository::testing::seal(&handle, json.to_string().as_bytes());
        std::fs::remove_file(fixture.root().join("index").join(id.to_string())).unwrap();
        let name = crate::repository::Id::of(&sealed).to_string();
        std::fs::write(fixture.root().join("index").join(name), sealed).unwrap();
    }
    let error = store(&handle, vec![reused("a", 600_000)], Some(parent)).unwrap_err();
    assert!(error.kind() == Kind::Verify && error.to_string().contains("in no index"), "{error}");
}

#[test]
fn r29_a_write_that_fails_is_named_and_the_rest_is_not_read() {
    let fixture = Fixture::new();
    let handle = fixture.open();
    // A file where the directory of some packs is: writing there fails as any other write would, for root too.
    let data = fixture.root().join("data");
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    for first in 0..=255 {
        std::fs::write(data.join(format!("{first:02x}")), "").unwrap();
    }
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = asked.clone();
    let feed = (0..200).map(move |number| {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(bytes(&format!("data/{number:04}"), noise(number, 600_000)))
    });
    let error = archive(&handle, feed, &request(None)).unwrap_err();
    assert_eq!(error.kind(), Kind::Store);
    assert!(error.message().starts_with("writing data/"), "{error}");
    assert!(error.detail("cause").unwrap().contains("os error"), "{error}");
    let asked = asked.load(std::sync::atomic::Ordering::Relaxed);
    assert!(asked < 200, "the feed was read to its end although nothing could be written");
    nothing_listed(&handle);
}

#[test]
fn publishing_can_be_discarded_and_killed_runs_are_swept() {
    let fixture = Fixture::new();
    let published = fixture.backup(vec![bytes("a", "0")], None);
    let handle = fixture.open();
    let pending = |content: &str| -> Archived { store(&handle, vec![bytes("a", content)], None).unwrap() };
    snapshots::discard(&handle, &pending("1")).unwrap();
    let killed = pending("2").pending;
    let stale = fixture.root().join("data/00").join(format!("{}-tmp-", "0".repeat(64)));
    let other = fixture.root().join("data/00/notes-tmp-");
    std::fs::write(&stale, "x").unwrap();
    std::fs::write(&other, "x").unwrap();
    let now = SystemTime::now();
    let hours = |count: u64| now + Duration::from_secs(count * 3600);
    let swept = snapshots::sweep_pending(&handle, hours(23)).unwrap();
    assert_eq!((swept.snapshots, swept.files.len()), (vec![killed], 0));
    let swept = snapshots::sweep_pending(&handle, hours(25)).unwrap();
    assert_eq!((swept.snapshots.len(), swept.files), (0, vec![stale]));
    assert!(other.exists() && snapshots::get(&handle, published).is_ok());
    assert_eq!(handle.vault.list(FileType::Snapshot).unwrap().len(), 1);
}

#[test]
fn a_check_beside_a_backup_finds_no_damage() {
    let fixture = Fixture::new();
    let done = std::sync::atomic::AtomicBool::new(false);
    let mut checks = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for seed in 0..40 {
                fixture.backup(vec![bytes("a", noise(seed, 20_000)), bytes("b/c", noise(seed, 10))], None);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let handle = fixture.open();
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            let report = check::check(&handle, checks % 4 == 0, &Meter::default()).unwrap();
            assert!(report.is_whole(), "check {checks}: {report:?}");
            checks += 1;
        }
    });
    assert!(checks >= 5, "only {checks} checks ran beside the backups: the test proved little");
}

#[test]
fn a_backup_that_ends_in_the_middle_of_a_check_is_no_damage() {
    let fixture = Fixture::new();
    fixture.backup(vec![bytes("a", noise(1, 20_000))], None);
    for moment in [FileType::Key, FileType::Snapshot, FileType::Index, FileType::Pack] {
        let writer = fixture.open();
        let once = std::sync::Once::new();
        let handle = fixture.open_hooked(
            move |kind| {
                if kind == moment {
                    once.call_once(|| {
                        let archived =
                            store(&writer, vec![bytes("a", noise(moment as u64 + 7, 20_000))], None).unwrap();
                        snapshots::publish(&writer, &archived).unwrap();
                    });
                }
            },
            |_, bytes| bytes,
        );
        let before = snapshots::list(&fixture.open()).unwrap().snapshots.len();
        let report = check::check(&handle, true, &Meter::default()).unwrap();
        assert!(report.is_whole(), "{moment:?}: {report:?}");
        assert_eq!(snapshots::list(&fixture.open()).unwrap().snapshots.len(), before + 1, "{moment:?}: none was taken");
    }
}

#[test]
fn a_feed_that_panics_fails_the_run_and_leaves_no_snapshot() {
    let fixture = Fixture::new();
    let handle = fixture.open();
    let feed = (0..3).map(|number| {
        assert!(number < 2, "a mistake in the feed");
        Ok(bytes(&number.to_string(), noise(number, 600_000)))
    });
    let error = archive(&handle, feed, &request(None)).unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::Source, "what gives the files gave up"));
    nothing_listed(&handle);
}
