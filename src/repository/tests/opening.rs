//! Making and opening: a message for each reason why not.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::error::Kind;
use crate::repository::testing::{Fixture, PASSWORD, alone, bytes, seal, settings};
use crate::repository::{Id, Location, init, open, open_to_read};

fn refusal(fixture: &Fixture) -> String {
    let error = open(&fixture.settings).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(!error.to_string().contains(PASSWORD), "{error}");
    error.to_string()
}

#[test]
fn a_new_repository_keeps_its_id_and_shows_no_secret() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path(), PASSWORD);
    let made = init(&settings, 3).unwrap();
    let handle = open(&settings).unwrap();
    assert_eq!(handle.id(), made.id());
    let shown = format!("{handle:?}");
    assert!(shown.contains(&handle.id().to_string()) && !shown.contains("key") && !shown.contains(PASSWORD), "{shown}");
}

#[test]
fn r30_a_directory_with_anything_in_it_is_not_initialised() {
    let fixture = Fixture::new();
    fixture.backup(vec![bytes("a", "content")], None);
    let before = fixture.files();
    let error = init(&fixture.settings, 3).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("is not empty"), "{error}");
    fs::remove_file(fixture.root().join("config")).unwrap();
    assert!(init(&fixture.settings, 3).is_err(), "a second key beside the first would hide every backup");
    assert_eq!(fixture.files().len(), before.len() - 1, "nothing was added");
}

#[test]
fn r30_no_repository_is_said_in_words_and_none_is_made() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.root().join("config")).unwrap();
    assert!(refusal(&fixture).contains("it has no file `config`"));
    fs::remove_dir_all(fixture.root()).unwrap();
    let text = refusal(&fixture);
    assert!(text.starts_with(&format!("no repository at {}", fixture.root().display())), "{text}");
    assert!(!fixture.root().exists());
    fs::create_dir(fixture.root()).unwrap();
    assert!(refusal(&fixture).contains("the directory is empty"));
    fs::remove_dir(fixture.root()).unwrap();
    fs::write(fixture.root(), "x").unwrap();
    assert!(refusal(&fixture).contains("this is no directory"));
}

#[test]
fn r30_an_unreadable_repository_is_told_from_none() {
    if nix::unistd::geteuid().is_root() {
        return as_nobody("opening::r30_an_unreadable_repository_is_told_from_none");
    }
    let fixture = Fixture::new();
    for path in [fixture.root(), fixture.root().join("config"), fixture.root().join("snapshots")] {
        let mode = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        let text = refusal(&fixture);
        fs::set_permissions(&path, mode).unwrap();
        assert!(text.contains("cannot read the repository") && text.contains("Permission denied"), "{text}");
    }
}

#[test]
fn r31_a_listing_that_fails_is_not_a_short_list() {
    if nix::unistd::geteuid().is_root() {
        return as_nobody("opening::r31_a_listing_that_fails_is_not_a_short_list");
    }
    let fixture = Fixture::new();
    fixture.backup(vec![bytes("a", "1")], None);
    let handle = fixture.open();
    let path = fixture.root().join("snapshots");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let listed = crate::repository::snapshots::list(&handle);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let error = listed.unwrap_err();
    assert!(error.kind() == Kind::Store && error.to_string().contains("Permission denied"), "{error}");
}

/// Root may read everything: the test runs itself again as another user, on a copy of the program that this user
/// can reach.
#[expect(clippy::print_stderr, reason = "a test that did not run has to say so")]
pub(super) fn as_nobody(test: &str) {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = directory.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let name = format!("repository::tests::{test}");
    let run = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["--exact", &name])
        .env("TMPDIR", directory.path())
        .output();
    match run {
        Err(error) => eprintln!("SKIPPED {test}: running as root, and no setpriv: {error}"),
        Ok(run) => {
            let said = String::from_utf8_lossy(&run.stdout);
            assert!(
                run.status.success() && said.contains("1 passed"),
                "{said}{}",
                String::from_utf8_lossy(&run.stderr)
            );
        }
    }
}

#[test]
fn a_wrong_password_is_told_and_names_the_key() {
    let fixture = Fixture::new();
    fs::write(&fixture.settings.password_file, "another password, wrong one").unwrap();
    let text = refusal(&fixture);
    assert!(text.starts_with("wrong password: it opens no key") && text.contains("keys/"), "{text}");
    assert!(!text.contains("another password"), "{text}");
}

#[test]
fn r37_a_damaged_key_file_is_named_and_a_good_one_beside_it_opens() {
    let fixture = Fixture::new();
    let key = fs::read_dir(fixture.root().join("keys")).unwrap().next().unwrap().unwrap().path();
    let good = fs::read(&key).unwrap();
    let flipped: Vec<Vec<u8>> = (0..good.len() * 8)
        .step_by(61)
        .map(|bit| {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            bad
        })
        .collect();
    for bad in flipped.into_iter().chain([Vec::new(), good[..good.len() / 2].to_vec()]) {
        fs::write(&key, &bad).unwrap();
        match open(&fixture.settings) {
            Ok(_) => {} // A bit in the host's name or in the date.
            Err(error) => {
                assert_eq!(error.kind(), Kind::Refused);
                let name = key.file_name().unwrap().to_str().unwrap();
                assert!(error.detail("damaged").unwrap().contains(name), "{error}");
                assert!(error.to_string().starts_with("wrong password or damaged key file"), "{error}");
            }
        }
    }
    fs::write(fixture.root().join("keys").join(Id::of(&good).to_string()), &good).unwrap();
    let empty = fixture.root().join("keys").join("0".repeat(64));
    fs::write(empty, "").unwrap();
    assert!(open(&fixture.settings).is_ok());
}

#[test]
fn a_newer_format_and_a_damaged_config_are_told_apart() {
    let fixture = Fixture::new();
    let handle = fixture.open();
    let config = fixture.root().join("config");
    let old = fs::read(&config).unwrap();
    let id = handle.id();
    let newer = format!(r#"{{"version":3,"id":"{id}","chunker_polynomial":"25b468838dcb75"}}"#);
    fs::write(&config, seal(&handle, newer.as_bytes())).unwrap();
    let text = refusal(&fixture);
    assert!(text.contains("has format 3, this build understands up to 2"), "{text}");
    let mut bad = old;
    bad[20] ^= 1;
    fs::write(&config, bad).unwrap();
    let error = open(&fixture.settings).unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::Verify, "config is damaged"));
}

#[test]
fn r33_restics_lock_makes_writers_wait_and_readers_not() {
    let fixture = Fixture::new();
    let lock = fixture.root().join("locks").join("a".repeat(64));
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    assert!(open(&fixture.settings).is_ok(), "an empty directory is no lock");
    fs::write(lock, "x").unwrap();
    let error = open(&fixture.settings).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.to_string().contains("unlock`"), "{error}");
    assert!(open_to_read(&fixture.settings).is_ok());
}

#[test]
#[cfg(not(feature = "network"))]
fn a_build_without_network_backends_says_so_and_shows_no_password() {
    let fixture = Fixture::new();
    for location in ["sftp:user@host:/x", "s3:https://host/bucket", "rest:https://user:c4nary@host/", "rclone:a:b"] {
        let settings = crate::settings::Repository { location: location.to_owned(), ..fixture.settings.clone() };
        for error in [
            open(&settings).unwrap_err(),
            init(&settings, 3).unwrap_err(),
            crate::repository::is_absent(&settings).unwrap_err(),
        ] {
            assert!(error.kind() == Kind::Refused && !error.to_string().contains("c4nary"), "{error}");
            assert!(error.to_string().starts_with("this build has no network backends"), "{error}");
        }
    }
}

#[test]
#[cfg(feature = "network")]
fn r87_a_server_that_is_not_there_is_told_without_the_password() {
    let fixture = Fixture::new();
    let mut settings = fixture.settings.clone();
    settings.location = "rest:http://user:c4nary@127.0.0.1:1/".into();
    settings.options.insert("timeout".into(), "1s".into());
    for error in [open(&settings).unwrap_err(), init(&settings, 3).unwrap_err()] {
        assert!(error.kind() == Kind::Store && !error.to_string().contains("c4nary"), "{error}");
        assert!(error.to_string().contains("onnection refused"), "{error}");
    }
}

/// Two databases whose first backups go into one place at the same moment.
#[test]
fn k2_of_two_that_make_a_repository_in_one_place_one_does() {
    let _alone = alone();
    for round in 0..3 {
        let directory = tempfile::tempdir().unwrap();
        let settings = [settings(directory.path(), PASSWORD), settings(directory.path(), PASSWORD)];
        let begin = std::sync::Barrier::new(2);
        let making = |settings: &crate::settings::Repository| {
            begin.wait();
            init(settings, 3).map(|handle| handle.id())
        };
        let made = std::thread::scope(|scope| {
            let both = [scope.spawn(|| making(&settings[0])), scope.spawn(|| making(&settings[1]))];
            both.map(|one| one.join().unwrap())
        });
        let good: Vec<_> = made.iter().flatten().collect();
        assert_eq!(good.len(), 1, "round {round}: {made:?}");
        let refused = made.iter().find_map(|one| one.as_ref().err()).unwrap();
        assert!(matches!(refused.kind(), Kind::Busy | Kind::Refused), "{refused}");
        let handle = open(&settings[0]).unwrap();
        assert_eq!((handle.id(), super::super::keys::list(&handle).unwrap().len()), (*good[0], 1));
    }
}

/// Where no lock reaches: the other one's key came in between.
#[test]
fn k2_a_key_that_came_in_between_keeps_the_second_from_writing_config() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path(), PASSWORD);
    let location = Location::parse(&settings.location).unwrap();
    let keys = directory.path().join("repository/keys");
    let between = std::sync::atomic::AtomicUsize::new(0);
    let making = super::super::making::make(&settings, &location, |library| {
        let first = between.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        let other = keys.join("ab".repeat(32));
        if first {
            std::fs::create_dir_all(&keys).unwrap();
            std::fs::write(&other, "{}").unwrap();
        }
        let made = library.init(
            &rustic_core::Credentials::password(PASSWORD),
            &rustic_core::KeyOptions::default(),
            &rustic_core::ConfigOptions::default(),
        );
        if first {
            assert!(made.is_err() && !directory.path().join("repository/config").exists());
            // The other one withdrew, too.
            std::fs::remove_file(&other).unwrap();
        }
        made
    });
    making.unwrap();
    assert_eq!(between.into_inner(), 2, "it was tried again");
    assert_eq!(std::fs::read_dir(&keys).unwrap().count(), 1);
}
