//! Between descriptors, processes, and with restic itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::error::Kind;
use crate::repository::testing::{self, Fixture, PASSWORD, bytes};
use crate::repository::{init, open};

const DIRECTORY: &str = "GLOVEBOX_TEST_DIRECTORY";
const EXCLUSIVE: &str = "GLOVEBOX_TEST_EXCLUSIVE";

fn place(fixture: &Fixture) -> settings::Repository {
    fixture.settings.clone()
}

fn busy<T: std::fmt::Debug>(result: Result<T>) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    assert_eq!(error.detail("state"), Some("nothing was touched"), "{error}");
    error
}

fn signs(fixture: &Fixture) -> Vec<PathBuf> {
    let entries = fs::read_dir(fixture.root().join("locks")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).filter(|path| !path.to_string_lossy().contains("-tmp-")).collect()
}

fn announced(fixture: &Fixture, mut lock: Lock) -> Lock {
    lock.announce(&fixture.open()).unwrap();
    lock
}

#[test]
fn r32_what_removes_excludes_everything_and_backups_come_one_by_one() {
    let fixture = Fixture::new();
    let place = place(&fixture);
    let backup = Lock::backup(&place).unwrap();
    let check = Lock::shared(&place).unwrap();
    let error = busy(Lock::backup(&place));
    assert!(error.message().contains("another backup") && error.to_string().contains("Try again"), "{error}");
    let error = busy(Lock::exclusive(&place));
    let (pid, name) = (std::process::id(), fs::read_to_string("/proc/self/comm").unwrap());
    assert_eq!(error.detail("holder"), Some(&*format!("{} (pid {pid})", name.trim())), "{error}");
    drop((backup, check));
    let prune = Lock::exclusive(&place).unwrap();
    busy(Lock::shared(&place));
    busy(Lock::backup(&place));
    busy(Lock::exclusive(&place));
    drop(prune);
    Lock::backup(&place).unwrap();
}

#[test]
fn where_there_is_no_repository_there_is_nothing_to_lock() {
    let fixture = Fixture::new();
    let nowhere =
        settings::Repository { location: format!("{}/nowhere", fixture.settings.location), ..place(&fixture) };
    let error = Lock::shared(&nowhere).unwrap_err();
    assert!(error.kind() == Kind::Refused && error.message().starts_with("no repository at"), "{error}");
}

#[test]
fn our_own_lock_does_not_stop_us_and_is_gone_afterwards() {
    let fixture = Fixture::new();
    for take in [Lock::exclusive, Lock::backup] {
        let mut lock = announced(&fixture, take(&place(&fixture)).unwrap());
        assert_eq!(signs(&fixture).len(), 1);
        fixture.backup(vec![bytes("a", "1")], None);
        lock.announce(&fixture.open()).unwrap();
        assert_eq!(signs(&fixture).len(), 1, "once is enough");
        drop(lock);
        assert!(signs(&fixture).is_empty());
    }
}

#[test]
fn a_lock_is_renewed_while_it_is_held_and_never_missing() {
    let fixture = Fixture::new();
    let sign = signs::Sign::renewed_every(&fixture.open(), &fixture.root(), false, Duration::from_millis(20)).unwrap();
    let (first, started) = (signs(&fixture), Instant::now());
    let mut names = std::collections::BTreeSet::new();
    while names.len() < 4 {
        let found = signs(&fixture);
        assert!(!found.is_empty() && found.len() <= 2, "{found:?}");
        names.extend(found);
        assert!(started.elapsed() < Duration::from_secs(20), "it is not renewed");
    }
    assert!(names.contains(&first[0]));
    drop(sign);
    assert!(signs(&fixture).is_empty());
}

#[test]
fn a_file_that_nobody_finished_is_no_lock_and_goes_after_an_hour() {
    let fixture = Fixture::new();
    let path = fixture.root().join("locks").join(format!("{}-tmp-", "a".repeat(64)));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "half").unwrap();
    drop(announced(&fixture, Lock::exclusive(&place(&fixture)).unwrap()));
    assert!(path.exists());
    let old = SystemTime::now() - Duration::from_hours(2);
    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    drop(announced(&fixture, Lock::exclusive(&place(&fixture)).unwrap()));
    assert!(!path.exists());
}

fn hold_elsewhere(fixture: &Fixture, exclusive: bool) -> Child {
    let directory = fixture.root().parent().unwrap().to_path_buf();
    let ready = directory.join("ready");
    let _ = fs::remove_file(&ready);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "repository::lock::tests::hold_for_the_others", "--ignored"])
        .env(DIRECTORY, &directory)
        .env(EXCLUSIVE, if exclusive { "yes" } else { "no" })
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&ready);
    child
}

fn wait_for(path: &Path) {
    let started = Instant::now();
    while !path.exists() {
        assert!(started.elapsed() < Duration::from_secs(30), "{} does not come", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "the other process of the tests below"]
fn hold_for_the_others() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let settings = testing::settings(Path::new(&directory), PASSWORD);
    let place = settings.clone();
    let exclusive = std::env::var(EXCLUSIVE).unwrap() == "yes";
    let mut lock = if exclusive { Lock::exclusive(&place) } else { Lock::backup(&place) }.unwrap();
    lock.announce(&open(&settings).unwrap()).unwrap();
    fs::write(Path::new(&directory).join("ready"), "").unwrap();
    std::thread::sleep(Duration::from_mins(2));
}

#[test]
fn r32_a_run_elsewhere_is_named_and_one_that_was_killed_leaves_nothing_behind() {
    let fixture = Fixture::new();
    for exclusive in [true, false] {
        let mut child = hold_elsewhere(&fixture, exclusive);
        let error = busy(Lock::exclusive(&place(&fixture)));
        assert!(error.detail("holder").unwrap().ends_with(&format!("(pid {})", child.id())), "{error}");
        if exclusive {
            // As another machine would see it, to which flock says nothing.
            let error = busy(open(&fixture.settings));
            assert!(error.detail("holder").unwrap().contains(&format!("pid {})", child.id())), "{error}");
        } else {
            let shared = announced(&fixture, Lock::shared(&place(&fixture)).unwrap());
            assert_eq!(signs(&fixture).len(), 2);
            busy(refuse(&fixture.open().vault, fixture.open().location(), true));
            drop(shared);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(signs(&fixture).len(), 1, "it could not take it down");
        let lock = announced(&fixture, Lock::exclusive(&place(&fixture)).unwrap());
        assert_eq!(signs(&fixture).len(), 1, "ours, not the dead one's");
        drop(lock);
        assert!(signs(&fixture).is_empty());
    }
}

/// restic on the fixture; nothing if it is not installed.
#[expect(clippy::print_stderr, reason = "a test that did not run has to say so")]
fn restic(fixture: &Fixture, test: &str) -> Option<impl Fn(&[&str]) -> Command> {
    if Command::new("restic").arg("version").output().is_err() {
        eprintln!("SKIPPED {test}: no restic in PATH (apt-get install restic)");
        return None;
    }
    let (location, password) = (fixture.settings.location.clone(), fixture.settings.password_file.clone());
    Some(move |arguments: &[&str]| {
        let mut command = Command::new("restic");
        command.args(["--no-cache", "--repo", &location, "--password-file"]).arg(&password).args(arguments);
        command
    })
}

#[test]
fn r33_restic_sees_our_locks() {
    let fixture = Fixture::new();
    let Some(restic) = restic(&fixture, "r33_restic_sees_our_locks") else { return };
    fixture.backup(vec![bytes("a", "1")], None);
    let run = |arguments: &[&str]| {
        let run = restic(arguments).output().unwrap();
        (
            run.status.success(),
            String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr),
        )
    };
    let shared = announced(&fixture, Lock::backup(&place(&fixture)).unwrap());
    let (done, said) = run(&["prune"]);
    assert!(!done && said.contains("already locked by PID"), "{said}");
    assert!(said.contains(&format!("PID {}", std::process::id())), "{said}");
    let file = fixture.settings.password_file.to_str().unwrap().to_owned();
    let (done, said) = run(&["backup", &file]);
    assert!(done, "what only adds may do so beside us: {said}");
    run(&["unlock"]);
    assert_eq!(signs(&fixture).len(), 1, "restic does not take it for stale");
    drop(shared);
    let exclusive = announced(&fixture, Lock::exclusive(&place(&fixture)).unwrap());
    let (done, said) = run(&["backup", &file]);
    assert!(!done && said.contains("already locked exclusively by PID"), "{said}");
    drop(exclusive);
    let (done, said) = run(&["prune"]);
    assert!(done, "{said}");
}

#[test]
fn r33_we_see_restics_locks() {
    let fixture = Fixture::new();
    let Some(restic) = restic(&fixture, "r33_we_see_restics_locks") else { return };
    let mut at_work = restic(&["backup", "--stdin"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while signs(&fixture).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(30), "restic writes no lock");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = at_work.id();
    let error = busy(Lock::exclusive(&place(&fixture)).unwrap().announce(&fixture.open()));
    assert!(error.detail("holder").unwrap().starts_with("restic of "), "{error}");
    assert!(error.detail("holder").unwrap().contains(&format!("(pid {pid})")), "{error}");
    assert!(error.to_string().contains("unlock`"), "{error}");
    // What only adds goes on beside it.
    let backup = announced(&fixture, Lock::backup(&place(&fixture)).unwrap());
    fixture.backup(vec![bytes("a", "1")], None);
    drop(backup);
    // Killed, it leaves its lock; only a person can say that it is over.
    at_work.kill().unwrap();
    at_work.wait().unwrap();
    let error = busy(Lock::exclusive(&place(&fixture)).unwrap().announce(&fixture.open()));
    assert!(error.detail("holder").unwrap().contains("which has ended"), "{error}");
    assert!(restic(&["unlock"]).output().unwrap().status.success());
    announced(&fixture, Lock::exclusive(&place(&fixture)).unwrap());
}

#[test]
fn a_lock_of_one_repository_is_not_announced_in_another() {
    let fixture = Fixture::new();
    let directory = tempfile::tempdir().unwrap();
    let other = init(&testing::settings(directory.path(), PASSWORD), 3).unwrap();
    let error = Lock::shared(&place(&fixture)).unwrap().announce(&other).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
}
