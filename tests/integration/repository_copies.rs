//! Another repository in the place of a copy: refused before anything is written, and told by a check.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::repository::section;
use crate::support::{Server, Site};

/// An installation with one backup and a copy of it, in `copy` beside its configuration.
fn site(hint: &str) -> (Site, PathBuf) {
    let server = Server::shared();
    let site = Site::new(server, &server.teslamate(hint));
    let location = site.path("copy");
    let copies = format!("[[copies]]\nlocation = {location:?}\npassword_file = {:?}\n", site.path("password"));
    site.configure(&format!("port = {}\n{}{copies}", server.port(), section(&site)), "");
    fs::create_dir(&location).unwrap();
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-backup", &["copy"]).expect(0);
    (site, location)
}

fn exchange(one: &Path, other: &Path) {
    let aside = one.with_extension("aside");
    fs::rename(one, &aside).unwrap();
    fs::rename(other, one).unwrap();
    fs::rename(&aside, other).unwrap();
}

/// All files below, with their sizes.
fn files(directory: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let (path, metadata) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
        if metadata.is_dir() { found.extend(files(&path)) } else { found.push((path, metadata.len())) }
    }
    found.sort();
    found
}

/// Forgets the ids of copies, as a ledger of an older version has none.
fn forget_ids(site: &Site) {
    let ledger = rusqlite::Connection::open(site.state_dir().join("ledger.sqlite")).unwrap();
    ledger.execute("DELETE FROM copies", []).unwrap();
}

#[track_caller]
fn refused(site: &Site, copy: &Path, words: &str) {
    let before = files(copy);
    for arguments in [&["copy"][..], &["check", "--copy", "all"], &["copy", "--read-data"]] {
        let refused = site.run("teslamate-backup", arguments).expect(10).says(words).says("expected");
        let refused = refused.says("copy --accept").says("nothing was written there");
        assert!(refused.stderr.contains(&copy.display().to_string()), "{}", refused.stderr);
    }
    assert_eq!(files(copy), before, "something was written");
}

#[test]
fn k2_copies_of_two_databases_that_were_exchanged_are_refused() {
    let (one, first) = site("exchanged_a");
    let (other, second) = site("exchanged_b");
    exchange(&first, &second);
    let words = format!("the copy holds backups of database \"{}\", not of \"{}\"", other.database, one.database);
    refused(&one, &first, &words);
    forget_ids(&one);
    refused(&one, &first, &words);
    exchange(&first, &second);
    for site in [&one, &other] {
        site.run("teslamate-backup", &["copy"]).expect(0);
        site.run("teslamate-backup", &["check", "--copy", "all"]).expect(0);
    }
}

#[test]
fn k2_a_copy_of_another_history_of_the_database_is_refused_until_accepted() {
    let (site, copy) = site("other_history");
    // The repository was lost, and begun anew: the copy holds what came before, under the same name.
    fs::remove_dir_all(site.repository()).unwrap();
    site.run("teslamate-backup", &["init", "--new-ledger"]).expect(0);
    site.run("teslamate-backup", &[]).expect(0);
    refused(&site, &copy, "the copy belongs to another repository");
    site.run("teslamate-backup", &["copy", "--accept", "/nowhere"]).expect(2).says("no copy at /nowhere");
    site.run("teslamate-backup", &["copy", "--accept", &copy.display().to_string()]).expect(0);
    site.run("teslamate-backup", &["copy"]).expect(0);
    site.run("teslamate-backup", &["check", "--copy", "all"]).expect(0);
    assert_eq!(site.files("copy/snapshots").len(), 2);
}

#[test]
fn k2_copies_that_are_ours_are_told_without_their_ids() {
    let (site, copy) = site("copy_ours");
    // Made by an older version, with a backup that only the copy has.
    let first = site.backups().remove(0);
    site.run("teslamate-backup", &["--full-read"]).expect(0);
    site.run("teslamate-backup", &["copy"]).expect(0);
    site.run("teslamate-backup", &["delete", &first, "--yes"]).expect(0);
    forget_ids(&site);
    for arguments in [&["check", "--copy", "all"][..], &["copy"]] {
        site.run("teslamate-backup", arguments).expect(0);
    }
    site.run("teslamate-backup", &["rebuild", "--new-ledger"]).expect(0);
    for arguments in [&["check", "--copy", "all"][..], &["copy"]] {
        site.run("teslamate-backup", arguments).expect(0);
    }
    // Two disks take turns: the second is empty at first.
    let second = site.path("second");
    fs::create_dir(&second).unwrap();
    for _ in 0..3 {
        exchange(&copy, &second);
        site.run("teslamate-backup", &["copy"]).expect(0);
        site.run("teslamate-backup", &["check", "--copy", "all"]).expect(0);
    }
    // The copy takes the repository's place, and the repository is its copy.
    exchange(&copy, &site.repository());
    site.run("teslamate-backup", &["rebuild", "--new-ledger"]).expect(0);
    site.run("teslamate-backup", &["check", "--copy", "all"]).expect(0);
    site.run("teslamate-backup", &["copy"]).expect(0);
}

#[test]
fn k2_a_backup_is_there_once_after_repository_and_copy_changed_places() {
    let (site, copy) = site("roles");
    for _ in 0..2 {
        exchange(&copy, &site.repository());
        site.run("teslamate-backup", &["rebuild", "--new-ledger"]).expect(0);
        site.run("teslamate-backup", &["copy"]).expect(0);
        assert_eq!(site.files("copy/snapshots").len(), 1, "the copy has it already");
    }
    // Retention counts each backup once.
    let kept = site.run("teslamate-backup", &["forget", "--dry-run", "--json"]).expect(0).json();
    assert_eq!(kept["kept"].as_array().map(Vec::len), Some(1), "{kept}");
}

#[test]
fn r44_latest_is_not_guessed_after_a_rebuild_with_a_wrong_clock() {
    let server = Server::shared();
    let site = Site::with_repository(server, &server.teslamate("ahead"));
    for _ in 0..2 {
        site.run("teslamate-backup", &[]).expect(0);
    }
    let ids = site.backups();
    let put_ahead = || {
        let ledger = rusqlite::Connection::open(site.state_dir().join("ledger.sqlite")).unwrap();
        ledger.execute("UPDATE snapshots SET time = '2099-01-01T00:00:00.000Z' WHERE sequence = 2", []).unwrap();
    };
    // The ledger knows in which order they were taken.
    put_ahead();
    site.run("teslamate-restore", &["latest", "--drill"]).expect(0);
    site.run("teslamate-backup", &["rebuild", "--new-ledger"]).expect(0);
    put_ahead();
    let refused = site.run("teslamate-restore", &["latest", "--drill"]).expect(10).says("is not known");
    for id in &ids {
        assert!(refused.stderr.contains(&id[..8]), "{id}: {}", refused.stderr);
        site.run("teslamate-restore", &[id, "--drill"]).expect(0);
    }
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-restore", &["latest", "--drill"]).expect(0);
}
