//! Opening: what is made, what is accepted, what is refused; and the tools of the other tests.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Barrier;
use std::time::Instant;

use tempfile::TempDir;

use super::*;

/// A new ledger in a directory of its own.
pub(super) fn fresh() -> (TempDir, Ledger) {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    (dir, ledger)
}

/// An id of 64 times this digit.
pub(super) fn id(digit: char) -> HexId {
    HexId::parse(&digit.to_string().repeat(64)).unwrap()
}

/// The text of an error, which has to be of this kind.
pub(super) fn message(result: Result<impl std::fmt::Debug>, kind: Kind) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    error.to_string()
}

const SHORT: Duration = Duration::from_millis(20);

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join(FILE_NAME)
}

/// A connection that knows nothing of ledgers.
fn raw(dir: &TempDir) -> Connection {
    Connection::open(file(dir)).unwrap()
}

fn refusal(dir: &TempDir, kind: Kind) -> String {
    let error = Ledger::open_within(dir.path(), SHORT).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    assert!(text.contains(&*file(dir).to_string_lossy()), "it names the file: {text}");
    text
}

fn pragma(ledger: &Ledger, name: &str) -> String {
    ledger.connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0)).map_or_else(
        |error| error.to_string(),
        |value| match value {
            rusqlite::types::Value::Integer(number) => number.to_string(),
            other => format!("{other:?}"),
        },
    )
}

#[test]
fn a_new_ledger_is_private_and_marked() {
    let (dir, ledger) = fresh();
    assert_eq!(ledger.path(), file(&dir));
    let mode = std::fs::metadata(file(&dir)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(pragma(&ledger, "application_id"), APPLICATION_ID.to_string());
    assert_eq!(pragma(&ledger, "user_version"), migrations::LATEST.to_string());
}

#[test]
fn every_connection_is_careful() {
    let (_dir, ledger) = fresh();
    let set = ["foreign_keys", "synchronous", "trusted_schema", "busy_timeout"].map(|name| pragma(&ledger, name));
    assert_eq!(set, ["1", "3", "0", "10000"], "EXTRA is 3");
    assert_eq!(pragma(&ledger, "journal_mode"), "Text(\"delete\")");
}

#[test]
fn a_missing_state_directory_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert_eq!(Ledger::open(&missing).unwrap_err().kind(), Kind::Store);
    assert!(!missing.exists());
}

#[test]
fn a_ledger_that_others_may_read_is_closed_to_them() {
    let (dir, ledger) = fresh();
    drop(ledger);
    std::fs::set_permissions(file(&dir), PermissionsExt::from_mode(0o644)).unwrap();
    drop(Ledger::open(dir.path()).unwrap());
    assert_eq!(std::fs::metadata(file(&dir)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_write_ahead_log_that_somebody_switched_on_is_switched_off() {
    let (dir, ledger) = fresh();
    drop(ledger);
    raw(&dir).pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).unwrap();
    assert_eq!(pragma(&Ledger::open(dir.path()).unwrap(), "journal_mode"), "Text(\"delete\")");
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left() {
    let dir = tempfile::tempdir().unwrap();
    let text = "a shopping list, longer than a hundred bytes: ".repeat(50);
    std::fs::write(file(&dir), &text).unwrap();
    let said = refusal(&dir, Kind::Refused);
    assert!(said.contains("is no SQLite database") && said.contains("Move it away"), "{said}");
    assert_eq!(std::fs::read_to_string(file(&dir)).unwrap(), text);
}

#[test]
fn another_applications_database_is_refused_and_left() {
    for sql in ["PRAGMA application_id = 7", "CREATE TABLE theirs (id)", "PRAGMA user_version = 1"] {
        let dir = tempfile::tempdir().unwrap();
        raw(&dir).execute_batch(sql).unwrap();
        let before = std::fs::read(file(&dir)).unwrap();
        let said = refusal(&dir, Kind::Refused);
        assert!(said.contains("another application's database"), "{sql}: {said}");
        assert_eq!(std::fs::read(file(&dir)).unwrap(), before, "{sql}");
    }
}

#[test]
fn neither_links_nor_directories_nor_pipes_are_followed() {
    let elsewhere = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    symlink(elsewhere.path().join("other"), file(&dir)).unwrap();
    assert!(refusal(&dir, Kind::Refused).contains("is not a regular file"));
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    std::fs::remove_file(file(&dir)).unwrap();
    std::fs::create_dir(file(&dir)).unwrap();
    refusal(&dir, Kind::Refused);
    std::fs::remove_dir(file(&dir)).unwrap();
    nix::unistd::mkfifo(&file(&dir), Mode::S_IRWXU).unwrap();
    refusal(&dir, Kind::Refused);
}

#[test]
fn a_newer_format_is_refused_naming_both_and_left() {
    let (dir, ledger) = fresh();
    drop(ledger);
    raw(&dir).execute_batch("PRAGMA user_version = 42").unwrap();
    let before = std::fs::read(file(&dir)).unwrap();
    let said = refusal(&dir, Kind::Refused);
    assert!(
        said.contains(&format!("has format 42; this program knows formats up to {}", migrations::LATEST)),
        "{said}"
    );
    assert_eq!(std::fs::read(file(&dir)).unwrap(), before);
}

#[test]
fn a_damaged_page_is_noticed_when_the_ledger_is_opened() {
    let (dir, mut ledger) = fresh();
    ledger.begin(RunKind::Backup).unwrap();
    let page: i64 = ledger
        .connection
        .query_one("SELECT rootpage FROM sqlite_schema WHERE name = 'runs'", [], |row| row.get(0))
        .unwrap();
    let size: usize = pragma(&ledger, "page_size").parse().unwrap();
    drop(ledger);
    let mut bytes = std::fs::read(file(&dir)).unwrap();
    let start = usize::try_from(page - 1).unwrap() * size;
    bytes[start..start + 64].fill(0xaa);
    std::fs::write(file(&dir), &bytes).unwrap();
    let said = refusal(&dir, Kind::Verify);
    assert!(said.contains("is damaged"), "{said}");
    assert_eq!(std::fs::read(file(&dir)).unwrap(), bytes, "left as it is");
}

#[test]
fn a_row_that_cannot_be_is_noticed_when_the_ledger_is_opened() {
    let (dir, mut ledger) = fresh();
    ledger.begin(RunKind::Backup).unwrap();
    raw(&dir).execute_batch("PRAGMA ignore_check_constraints = ON; UPDATE runs SET bytes_read = -1").unwrap();
    assert!(refusal(&dir, Kind::Verify).contains("CHECK constraint failed in runs"));
}

#[test]
fn a_ledger_that_was_cut_short_is_noticed() {
    let (dir, ledger) = fresh();
    drop(ledger);
    let bytes = std::fs::read(file(&dir)).unwrap();
    std::fs::write(file(&dir), &bytes[..bytes.len() - 4096]).unwrap();
    refusal(&dir, Kind::Verify);
}

#[test]
fn a_value_that_nobody_writes_is_damage() {
    let (dir, mut ledger) = fresh();
    ledger.begin(RunKind::Backup).unwrap();
    raw(&dir).execute_batch("UPDATE runs SET kind = 'party'").unwrap();
    let error = ledger.runs(1).unwrap_err();
    assert_eq!(error.kind(), Kind::Verify);
    assert!(error.to_string().contains("party"), "{error}");
}

#[test]
fn who_finds_the_ledger_held_waits_and_then_says_so() {
    let (dir, mut ledger) = fresh();
    let mut holder = raw(&dir);
    let held = holder.transaction_with_behavior(TransactionBehavior::Exclusive).unwrap();
    let begun = Instant::now();
    let said = refusal(&dir, Kind::Busy);
    assert!(said.contains("another process holds") && begun.elapsed() >= SHORT, "{said}");
    ledger.connection.busy_timeout(SHORT).unwrap();
    assert_eq!(ledger.begin(RunKind::Backup).unwrap_err().kind(), Kind::Busy);
    held.commit().unwrap();
    ledger.begin(RunKind::Backup).unwrap();
}

#[test]
fn a_reader_does_not_wait_for_one_who_is_about_to_write() {
    let (dir, ledger) = fresh();
    drop(ledger);
    let mut writer = raw(&dir);
    let _held = writer.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let reader = Ledger::open_within(dir.path(), SHORT).unwrap();
    assert!(reader.runs(1).unwrap().is_empty());
}

#[test]
fn many_may_open_a_new_ledger_at_the_same_moment() {
    let dir = tempfile::tempdir().unwrap();
    let together = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                together.wait();
                Ledger::open(dir.path()).unwrap().begin(RunKind::Backup).unwrap();
            });
        }
    });
    assert_eq!(Ledger::open(dir.path()).unwrap().runs(99).unwrap().len(), 8);
}

/// Each of them reads before it writes: who begins so must not be turned away for the others' sake.
#[test]
fn many_may_write_at_the_same_moment() {
    let (dir, mut ledger) = fresh();
    ledger.begin(RunKind::Backup).unwrap();
    let together = Barrier::new(4);
    std::thread::scope(|scope| {
        for digit in ['a', 'b', 'c', 'd'] {
            let (together, dir) = (&together, dir.path());
            scope.spawn(move || {
                let mut ledger = Ledger::open(dir).unwrap();
                together.wait();
                for _ in 0..10 {
                    ledger.note_read_back(&[id(digit)], chrono::Utc::now()).unwrap();
                }
            });
        }
    });
    let turns: i64 = raw(&dir).query_one("SELECT max(turn) FROM packs", [], |row| row.get(0)).unwrap();
    assert_eq!(turns, 40, "none was lost");
}

const OTHER_PROCESS: &str = "LEDGER_OTHER_PROCESS";

/// Not a test of its own but the other process of the next one; otherwise there is nothing to do.
#[test]
fn other_process() {
    let Some(dir) = std::env::var_os(OTHER_PROCESS).map(PathBuf::from) else { return };
    let mut ledger = Ledger::open(&dir).unwrap();
    ledger.begin(RunKind::Backup).unwrap();
    let transaction = ledger.connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    transaction.execute("UPDATE runs SET kind = 'drill'", []).unwrap();
    transaction.cache_flush().unwrap();
    std::fs::write(dir.join("written"), "").unwrap();
    std::thread::sleep(WAIT);
}

#[test]
fn another_process_holds_the_ledger_until_it_is_killed_and_leaves_nothing_half_done() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ledger::tests::other_process"])
        .env(OTHER_PROCESS, dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while !dir.path().join("written").exists() {
        assert!(begun.elapsed() < WAIT && other.try_wait().unwrap().is_none(), "the other process did not get so far");
        std::thread::sleep(SHORT);
    }
    refusal(&dir, Kind::Busy);
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(dir.path().join("ledger.sqlite-journal").exists(), "it was not killed in the middle");
    let run = &Ledger::open(dir.path()).unwrap().runs(1).unwrap()[0];
    assert_eq!((run.kind, run.status, run.pid), (RunKind::Backup, RunStatus::Died, other.id().cast_signed()));
}

#[test]
fn what_was_begun_and_not_committed_leaves_nothing() {
    let (dir, mut ledger) = fresh();
    let failed: Result<()> = ledger.write(|transaction| {
        transaction.execute("INSERT INTO packs (id, read_back_at, turn) VALUES (?1, '', 1)", [id('a')])?;
        Err(Error::new(Kind::Source, "no").into())
    });
    assert_eq!(failed.unwrap_err().kind(), Kind::Source);
    let packs: i64 = raw(&dir).query_one("SELECT count(*) FROM packs", [], |row| row.get(0)).unwrap();
    assert_eq!(packs, 0);
}
