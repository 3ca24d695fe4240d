//! More passwords for one repository, and never none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustic_core::FileType;

use crate::error::{Error, Kind, Result};
use crate::repository::testing::{Fixture, bytes, noise};
use crate::repository::{Handle, Id, keys, open};

const OTHER: &str = "another horse, another battery";

fn file(fixture: &Fixture, password: &str) -> PathBuf {
    let path = fixture.root().parent().unwrap().join("other");
    fs::write(&path, password).unwrap();
    path
}

fn path(fixture: &Fixture, key: Id) -> PathBuf {
    fixture.root().join("keys").join(key.to_string())
}

fn refused(error: &Error, words: &str) {
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.message().contains(words) && error.detail("state").is_some(), "{error}");
    assert!(!error.to_string().contains("battery"), "{error}");
}

/// Adds the password in this file.
fn add(handle: &Handle, path: &Path) -> Result<Id> {
    keys::add(handle, path, &std::fs::read(path).unwrap())
}

#[test]
fn r38_a_password_is_added_proved_and_the_old_one_removed() {
    let fixture = Fixture::new();
    let id = fixture.backup(vec![bytes("a", noise(1, 9000))], None);
    let handle = fixture.open();
    let [first] = &keys::list(&handle).unwrap()[..] else { panic!("one key") };
    assert!(first.in_use && first.damaged.is_none() && first.created.is_some(), "{first:?}");
    let added = add(&handle, &file(&fixture, OTHER)).unwrap();
    let listed = keys::list(&handle).unwrap();
    assert_eq!(listed.len(), 2);
    let second = listed.iter().find(|key| key.id == added).unwrap();
    assert!(!second.in_use && second.host.is_some() && second.damaged.is_none(), "{second:?}");
    assert!(chrono::Utc::now().signed_duration_since(second.created.unwrap()).num_seconds() < 60, "{second:?}");

    refused(&keys::remove(&handle, first.id).unwrap_err(), "is the key in use");
    let mut settings = fixture.settings.clone();
    settings.password_file = file(&fixture, OTHER);
    let other = open(&settings).unwrap();
    assert_eq!(other.id(), handle.id());
    assert!(keys::list(&other).unwrap().iter().all(|key| key.in_use == (key.id == added)));
    keys::remove(&other, first.id).unwrap();
    assert!(open(&fixture.settings).unwrap_err().to_string().contains("wrong password"));
    assert!(!crate::repository::read::open(&open(&settings).unwrap(), id).unwrap().read("a", 9000).unwrap().is_empty());
    refused(&keys::remove(&other, added).unwrap_err(), "is the last key");
    assert!(path(&fixture, added).exists());
    refused(&keys::remove(&other, Id::of(b"no key")).unwrap_err(), "there is no key");
}

#[test]
fn r38_a_new_password_follows_the_rules_of_a_new_repository() {
    let fixture = Fixture::new();
    let handle = fixture.open();
    for (password, words) in [
        ("too short, battery", "fewer than 20"),
        ("", "is empty"),
        ("another horse, another battery\nmore", "more text"),
        (crate::repository::testing::PASSWORD, "opens the repository already"),
    ] {
        refused(&add(&handle, &file(&fixture, password)).unwrap_err(), words);
        assert_eq!(keys::list(&handle).unwrap().len(), 1);
    }
}

#[test]
fn r37_no_key_is_removed_while_the_one_in_use_is_damaged() {
    let fixture = Fixture::new();
    let handle = fixture.open();
    let added = add(&handle, &file(&fixture, OTHER)).unwrap();
    let in_use = keys::list(&handle).unwrap().into_iter().find(|key| key.in_use).unwrap().id;
    let good = fs::read(path(&fixture, in_use)).unwrap();
    fs::write(path(&fixture, in_use), "{}").unwrap();
    let listed = keys::list(&handle).unwrap();
    assert!(listed.iter().any(|key| key.in_use && key.damaged.is_some()), "{listed:?}");
    assert_eq!(keys::remove(&handle, added).unwrap_err().kind(), Kind::Verify);
    fs::remove_file(path(&fixture, in_use)).unwrap();
    refused(&keys::remove(&handle, added).unwrap_err(), "is the last key");
    // One that is damaged opens nothing, and may go.
    fs::write(path(&fixture, in_use), good).unwrap();
    fs::write(path(&fixture, added), "{}").unwrap();
    keys::remove(&handle, added).unwrap();
    assert!(open(&fixture.settings).is_ok());
}

#[test]
fn r38_a_key_that_does_not_open_the_repository_is_not_kept() {
    let fixture = Fixture::new();
    let spoil = |kind, mut bytes: Vec<u8>| {
        if kind == FileType::Key {
            bytes.truncate(100);
        }
        bytes
    };
    let handle = fixture.open_hooked(|_| {}, spoil);
    let error = add(&handle, &file(&fixture, OTHER)).unwrap_err();
    assert_eq!((error.kind(), error.detail("state")), (Kind::Verify, Some("the keys are as they were")), "{error}");
    assert_eq!(keys::list(&fixture.open()).unwrap().len(), 1);
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that did not run has to say so")]
fn restic_opens_the_repository_with_the_added_password() {
    let fixture = Fixture::new();
    if Command::new("restic").arg("version").output().is_err() {
        eprintln!("SKIPPED restic_opens_the_repository_with_the_added_password: no restic in PATH");
        return;
    }
    let added = add(&fixture.open(), &file(&fixture, OTHER)).unwrap();
    let run = Command::new("restic")
        .args(["--no-cache", "--repo", &fixture.settings.location, "key", "list", "--json", "--password-file"])
        .arg(file(&fixture, OTHER))
        .output()
        .unwrap();
    let list: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    let current = list.as_array().unwrap().iter().find(|key| key["current"] == true).unwrap();
    assert!(added.starts_with(current["id"].as_str().unwrap()), "{list}");
}
