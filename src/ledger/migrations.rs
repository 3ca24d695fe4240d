//! The ledger's format, and the way there from every older one.
//!
//! The version stands in the file's header (`PRAGMA user_version`) and is written by the same transaction that makes
//! it true. A migration that was released is never changed: a new format is a new entry at the end. A new word in a
//! closed list (a kind of run, a purpose) is a new format too, so that an older program refuses the file as a whole
//! instead of stumbling over one row.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::failure::Attempt;
use crate::error::{Error, Kind, Result};

/// The SQL that leads from version N to N + 1, at index N.
pub(super) const ALL: &[&str] = &[FIRST, SECOND, THIRD, FOURTH];

/// The version that this program writes and reads.
#[allow(clippy::cast_possible_wrap, reason = "a short list")]
pub(super) const LATEST: i64 = ALL.len() as i64;

const FIRST: &str = "
CREATE TABLE runs (
    -- AUTOINCREMENT: no number is given twice, whatever is deleted.
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    kind          TEXT    NOT NULL,
    status        TEXT    NOT NULL,
    started       TEXT    NOT NULL,
    finished      TEXT,
    bytes_read    INTEGER CHECK (bytes_read >= 0),
    bytes_added   INTEGER CHECK (bytes_added >= 0),
    snapshot      TEXT,
    error         TEXT,
    invocation_id TEXT,
    pid           INTEGER NOT NULL,
    pid_namespace TEXT    NOT NULL,
    boot_id       TEXT    NOT NULL,
    process_start INTEGER NOT NULL
) STRICT;

-- Every run looks for those whose process died; there are few, among years of finished ones.
CREATE INDEX runs_running ON runs (id) WHERE status = 'running';

CREATE TABLE repository (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    id       TEXT NOT NULL CHECK (length(id) = 64),
    bound_at TEXT NOT NULL
) STRICT;

CREATE TABLE snapshots (
    sequence        INTEGER PRIMARY KEY AUTOINCREMENT,
    repository      INTEGER NOT NULL DEFAULT 1 REFERENCES repository (one),
    id              TEXT    NOT NULL UNIQUE CHECK (length(id) = 64),
    time            TEXT    NOT NULL,
    size            INTEGER NOT NULL CHECK (size >= 0),
    added           INTEGER NOT NULL CHECK (added >= 0),
    rows            INTEGER NOT NULL CHECK (rows >= 0),
    duration_ms     INTEGER NOT NULL CHECK (duration_ms >= 0),
    manifest_sha256 TEXT    NOT NULL CHECK (length(manifest_sha256) = 64),
    purpose         TEXT    NOT NULL,
    pinned          INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1)),
    verified_at     TEXT,
    deleted_at      TEXT
) STRICT;

CREATE TABLE packs (
    id           TEXT PRIMARY KEY CHECK (length(id) = 64),
    read_back_at TEXT    NOT NULL,
    turn         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

const SECOND: &str = "
ALTER TABLE snapshots ADD COLUMN schema_version INTEGER;
ALTER TABLE snapshots ADD COLUMN comment TEXT;
ALTER TABLE snapshots ADD COLUMN database TEXT;
";

/// `removing` is set from the moment that a backup is marked for removal until its file is known to be gone; `publishing` from
/// right before a backup is published until it is noted. Both tell a run that was killed from a repository or a ledger
/// that was set back.
const THIRD: &str = "
ALTER TABLE snapshots ADD COLUMN host TEXT;
ALTER TABLE snapshots ADD COLUMN cluster TEXT;
ALTER TABLE snapshots ADD COLUMN removing INTEGER NOT NULL DEFAULT 0 CHECK (removing IN (0, 1));

CREATE TABLE publishing (
    one             INTEGER PRIMARY KEY CHECK (one = 1),
    manifest_sha256 TEXT NOT NULL CHECK (length(manifest_sha256) = 64)
) STRICT;

-- Why nothing is removed until a person has agreed.
CREATE TABLE hold (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    since TEXT NOT NULL,
    why   TEXT NOT NULL
) STRICT;

-- The cluster of the database here, as it was last seen.
CREATE TABLE cluster (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id  TEXT NOT NULL
) STRICT;
";

/// A copy is known by its id, wherever its disk is mounted: disks may take turns in one place.
const FOURTH: &str = "
CREATE TABLE copies (
    id       TEXT PRIMARY KEY CHECK (length(id) = 64),
    location TEXT    NOT NULL,
    -- A person has said that it may hold backups of other databases, too.
    accepted INTEGER NOT NULL DEFAULT 0 CHECK (accepted IN (0, 1)),
    bound_at TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Refuses a format from the future: what it means is not known here.
pub(super) fn check(version: i64, path: &Path) -> Result<()> {
    if version <= LATEST {
        return Ok(());
    }
    Err(Error::new(
        Kind::Refused,
        format!("the ledger {} has format {version}; this program knows formats up to {LATEST}", path.display()),
    )
    .with("state", "the file was left as it is")
    .hint("Use the version of Glovebox that wrote it, or a newer one."))
}

/// Takes the steps that are missing, each in a transaction of its own, and marks the file as a ledger.
///
/// Another process may do the same at the same moment: whoever comes second finds the step taken.
pub(super) fn migrate(connection: &mut Connection, steps: &[&str]) -> Attempt<()> {
    for (step, version) in steps.iter().zip(1_i64..) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let present: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if present < version {
            transaction.execute_batch(step)?;
            transaction.pragma_update(None, "application_id", super::APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", version)?;
        }
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::fresh;
    use crate::ledger::{FILE_NAME, Ledger, RunKind};

    fn version(connection: &Connection) -> i64 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    fn tables(connection: &Connection) -> Vec<String> {
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    }

    #[test]
    fn a_step_that_fails_in_the_middle_leaves_the_version_before_it() {
        let mut connection = Connection::open_in_memory().unwrap();
        let steps = ["CREATE TABLE one (id)", "CREATE TABLE two (id); CREATE TABLE one (id)"];
        migrate(&mut connection, &steps).unwrap_err();
        assert_eq!((version(&connection), tables(&connection)), (1, vec!["one".to_owned()]));
        // Mended, it goes on from there.
        migrate(&mut connection, &[steps[0], "CREATE TABLE two (id)"]).unwrap();
        assert_eq!((version(&connection), tables(&connection).len()), (2, 2));
    }

    #[test]
    fn steps_that_were_taken_are_not_taken_again() {
        let mut connection = Connection::open_in_memory().unwrap();
        let steps = ["CREATE TABLE one (id)"];
        migrate(&mut connection, &steps).unwrap();
        migrate(&mut connection, &steps).unwrap();
        migrate(&mut connection, &[]).unwrap();
        assert_eq!(version(&connection), 1);
    }

    /// What a kill leaves on the disk: the file with some of the step's pages in it, and the journal that takes them
    /// back. Both are copied away while the step is in the middle.
    #[test]
    fn a_kill_in_the_middle_of_a_step_leaves_the_version_before_it() {
        let (dir, mut ledger) = fresh();
        ledger.begin(RunKind::Backup).unwrap();
        let transaction = ledger.connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        transaction
            .execute_batch(
                "PRAGMA cache_size = 1; PRAGMA user_version = 99; UPDATE runs SET kind = 'party';
                 CREATE TABLE two (text TEXT);
                 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                 INSERT INTO two SELECT hex(zeroblob(2000)) FROM n",
            )
            .unwrap();
        let killed = tempfile::tempdir().unwrap();
        for name in [FILE_NAME.to_owned(), format!("{FILE_NAME}-journal")] {
            std::fs::copy(dir.path().join(&name), killed.path().join(&name)).unwrap();
        }
        let size = |dir: &tempfile::TempDir| std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().len();
        assert!(size(&killed) > 1_000_000, "nothing of it was on the disk yet: the test would prove nothing");

        let mut after = Ledger::open(killed.path()).unwrap();
        assert_eq!(version(&after.connection), LATEST);
        assert!(!tables(&after.connection).contains(&"two".to_owned()));
        assert_eq!(after.runs(9).unwrap()[0].kind, RunKind::Backup);
        after.begin(RunKind::Backup).unwrap();
        assert!(size(&killed) < 100_000);
    }

    #[test]
    fn a_file_that_was_made_and_never_filled_is_filled() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), "").unwrap();
        assert_eq!(version(&Ledger::open(dir.path()).unwrap().connection), LATEST);
    }
}
