//! The ledger: which runs there were, which snapshots were published, which packs were read back, and when.
//!
//! A SQLite file in the state directory, outside the repository on purpose: a snapshot that somebody removed from the
//! repository, or a repository that is not the one it was, shows only by comparison with something else. It decides
//! what `latest` means, so nothing in it is ordered by the clock: runs and snapshots have numbers that only grow.
//! Here: opening, and what every access has in common. Not here: the repository itself, PostgreSQL, what to keep.
//!
//! Why the journal is a rollback journal (`journal_mode=DELETE`), not a write-ahead log: there are a few small writes
//! an hour, so nothing is gained; the ledger stays one file that any tool may copy while nothing runs; and a reader
//! holds writers off until it is done, so that a run cannot finish unseen between reading its row and looking whether
//! its process lives. `synchronous=EXTRA` is FULL and one thing more: the directory is synced after the journal is
//! removed. Without it, a power cut may bring the journal back, and with it the state before the last commit.
//!
//! A [`Ledger`] must not be carried over a fork, and no code may open and close the file beside SQLite: closing any
//! descriptor of it drops the locks that SQLite holds in this process.
//!
//! Source: SQLite documentation, "How To Corrupt An SQLite Database File", "PRAGMA Statements".

mod copies;
mod failure;
mod history;
mod migrations;
mod owner;
mod packs;
mod repository;
mod runs;
mod snapshots;
#[cfg(test)]
mod tests;
mod values;

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, mknod};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::error::{Context, Error, Kind, Result};
use crate::path::command_to_make;
use failure::{Attempt, Failure};

pub use copies::Copy;
pub use history::Hold;
pub use runs::{Ending, Outcome, Run, RunId, RunKind, RunStatus};
pub use snapshots::{Facts, Purpose, Snapshot};
pub use values::HexId;

/// The file's name in the state directory.
pub const FILE_NAME: &str = "ledger.sqlite";

/// "glbx", in the header of the file: what tells a ledger from any other application's database.
const APPLICATION_ID: i32 = 0x676c_6278;

/// How long another process may hold the ledger. Every transaction is a few rows and two syncs; on a disk so busy
/// that this is not enough, waiting longer would not help either.
const WAIT: Duration = Duration::from_secs(10);

/// The open ledger. Every method is one transaction: done as a whole, and on the disk, when it returns.
///
/// Each may also end with [`Kind::Busy`] after 10 s if another process holds the file, [`Kind::Verify`] if the file
/// turns out to be damaged and [`Kind::Store`] if it cannot be read or written.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
}

impl Ledger {
    /// Opens the ledger of this state directory, which has to exist. A file that is missing is made (mode 0600), an
    /// older format is brought up to date.
    ///
    /// # Errors
    /// [`Kind::Refused`] if the file is something else or of a newer format: it is left as it is. [`Kind::Verify`] if
    /// it is damaged. [`Kind::Busy`] if another process holds it for more than 10 s.
    pub fn open(state_dir: &Path) -> Result<Self> {
        Self::open_within(state_dir, WAIT)
    }

    fn open_within(state_dir: &Path, wait: Duration) -> Result<Self> {
        let path = state_dir.join(FILE_NAME);
        create(&path)?;
        let connection = connect(&path, wait).map_err(|failure| failure.explain("open", &path))?;
        let mut ledger = Self { connection, path };
        let version = ledger.read(identify)?;
        migrations::check(version, &ledger.path)?;
        ledger.read(check_pages)?;
        ledger.use_rollback_journal()?;
        // A reader is not to wait for a writer only to find that there is nothing to bring up to date.
        if version < migrations::LATEST {
            let path = ledger.path.clone();
            migrations::migrate(&mut ledger.connection, migrations::ALL)
                .map_err(|failure| failure.explain("bring up to date", &path))?;
        }
        Ok(ledger)
    }

    /// An empty one in memory, for a run that must go on where none can be opened or written. It goes with the run.
    ///
    /// # Errors
    /// [`Kind::Store`] if there is no memory for it.
    pub fn in_memory() -> Result<Self> {
        let path = PathBuf::from("(in memory)");
        let opened = Connection::open_in_memory().map_err(Failure::from);
        let mut connection = opened.map_err(|failure| failure.explain("open", &path))?;
        migrations::migrate(&mut connection, migrations::ALL)
            .map_err(|failure| failure.explain("bring up to date", &path))?;
        Ok(Self { connection, path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Only after the file is known for a ledger: this may write. Somebody's tool may have set another mode, which is
    /// kept in the file.
    fn use_rollback_journal(&self) -> Result<()> {
        let mode: String = self
            .connection
            .pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get(0))
            .map_err(|cause| Failure::from(cause).explain("open", &self.path))?;
        if mode == "delete" {
            return Ok(());
        }
        Err(Error::new(Kind::Store, format!("cannot switch off the write-ahead log of {}", self.path.display())))
    }

    /// Reads, all of it from one state of the ledger, which nobody changes meanwhile.
    fn read<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Attempt<T>) -> Result<T> {
        let attempt = || {
            let transaction = self.connection.unchecked_transaction()?;
            let value = work(&transaction)?;
            transaction.finish()?;
            Ok(value)
        };
        attempt().map_err(|failure: Failure| failure.explain("read", &self.path))
    }

    /// Writes all or nothing. The lock is taken at once: a transaction that begins by reading could not wait for
    /// another writer later, only fail.
    fn write<T>(&mut self, work: impl FnOnce(&Transaction<'_>) -> Attempt<T>) -> Result<T> {
        let attempt = || {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        attempt().map_err(|failure: Failure| failure.explain("write into", &self.path))
    }
}

/// Makes an empty file, which to SQLite is an empty database, unless there is something already.
///
/// SQLite itself would make it with the rights that the umask leaves; the journal takes them over from the file.
/// `mknod` opens nothing, so nothing is closed behind the back of another connection of this process.
fn create(path: &Path) -> Result<()> {
    match mknod(path, SFlag::S_IFREG, Mode::S_IRUSR | Mode::S_IWUSR, 0) {
        Ok(()) => return Ok(()),
        Err(Errno::EEXIST) => {}
        Err(cause) => {
            let error = Error::new(Kind::Store, format!("cannot make {}", path.display())).with("cause", cause);
            let command = path.parent().filter(|_| matches!(cause, Errno::ENOENT | Errno::EACCES)).map(command_to_make);
            return Err(error.hint(match command {
                Some(command) => {
                    format!("Make the state directory as root, for this account: `{command}`, or set `state_dir`.")
                }
                None => {
                    "See to it that this account can write into the state directory, or set `state_dir`.".to_owned()
                }
            }));
        }
    }
    let metadata = std::fs::symlink_metadata(path).context(Kind::Store, format!("cannot read {}", path.display()))?;
    if !metadata.is_file() {
        return Err(failure::foreign(path, "is not a regular file"));
    }
    let mut rights = metadata.permissions();
    if std::os::unix::fs::PermissionsExt::mode(&rights) & 0o077 != 0 {
        std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o600);
        std::fs::set_permissions(path, rights)
            .context(Kind::Store, format!("others may read {}, and that cannot be changed", path.display()))?;
    }
    Ok(())
}

fn connect(path: &Path, wait: Duration) -> Attempt<Connection> {
    // Without URIs, whatever the directory is called; without creating, see above.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(wait)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "synchronous", "EXTRA")?;
    Ok(connection)
}

/// The format's version; 0 for an empty file.
fn identify(transaction: &Transaction<'_>) -> Attempt<i64> {
    let number = |pragma| transaction.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let objects: i64 = transaction.query_one("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let empty = (application, version, objects) == (0, 0, 0);
    if empty || (application == i64::from(APPLICATION_ID) && version > 0) {
        return Ok(version);
    }
    Err(Failure::Foreign)
}

fn check_pages(transaction: &Transaction<'_>) -> Attempt<()> {
    let mut statement = transaction.prepare("PRAGMA quick_check(20)")?;
    let found: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    if found == ["ok"] { Ok(()) } else { Err(Failure::Damaged(found.join("\n"))) }
}
