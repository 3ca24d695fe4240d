//! The runs: what was started, and how each ended.

use std::fmt;

use chrono::{DateTime, Utc};
use rusqlite::{Row, Transaction, named_params};
use serde::Serialize;

use super::Ledger;
use super::failure::Attempt;
use super::owner::Owner;
use super::values::{self, Count, HexId, Time, words};
use crate::error::{Error, Kind, Result};

#[cfg(test)]
mod tests;

/// Bytes of an error's text that are kept. A client program that fails may say the same thing for every row.
const ERROR_LIMIT: usize = 16 * 1024;

words! {
    /// What a run does.
    RunKind {
        /// Takes a backup into the repository.
        Backup = "backup",
        /// Restores into the live database.
        Restore = "restore",
        /// Restores, verifies and drops again.
        Drill = "drill",
        /// Applies retention, and prunes.
        Forget = "forget",
        /// Deletes one snapshot.
        Delete = "delete",
        /// Checks the repository.
        Check = "check",
        /// Copies snapshots to another repository.
        Copy = "copy",
        /// Writes a snapshot into a file.
        Export = "export",
        /// Makes the repository.
        Init = "init",
        /// Changes the keys of the repository.
        Key = "key",
        /// Rebuilds this ledger from the repository.
        Rebuild = "rebuild",
        /// Brings the application's schema up to date.
        Migrate = "migrate",
        /// Goes back to the state before a migration.
        Rollback = "rollback",
    }
}

words! {
    /// How a run stands.
    RunStatus {
        /// Its process lives.
        Running = "running",
        /// It did what it was started for.
        Succeeded = "succeeded",
        /// It ended with an error.
        Failed = "failed",
        /// It was stopped by a signal, and cleaned up; or it was not begun, since another run was at work.
        Stopped = "stopped",
        /// Its process ended without a word: killed, or the machine went down.
        Died = "died",
    }
}

/// The number of a run: later ones have greater numbers, whatever the clock said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RunId(i64);

impl fmt::Display for RunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// One run, as it is listed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// What it does.
    pub kind: RunKind,
    /// How it stands.
    pub status: RunStatus,
    /// When it began, UTC.
    #[serde(serialize_with = "values::time")]
    pub started: DateTime<Utc>,
    /// When it ended, UTC; nothing is known of one that died. Earlier than `started` if the clock was set back.
    #[serde(serialize_with = "values::optional_time")]
    pub finished: Option<DateTime<Utc>>,
    /// Bytes read from the source.
    pub bytes_read: Option<u64>,
    /// Bytes added to the repository.
    pub bytes_added: Option<u64>,
    /// The snapshot that it made or used.
    pub snapshot: Option<HexId>,
    /// What went wrong, as it was shown.
    pub error: Option<String>,
    /// systemd's id of the service's start, 32 hexadecimal digits: `journalctl _SYSTEMD_INVOCATION_ID=…`.
    pub invocation_id: Option<String>,
    /// The process.
    pub pid: i32,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Well.
    Succeeded,
    /// With this error.
    Failed(String),
    /// By a signal, or by another run that was at work, as this text says.
    Stopped(String),
}

/// What is known of a run when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// Bytes read from the source.
    pub bytes_read: Option<u64>,
    /// Bytes added to the repository.
    pub bytes_added: Option<u64>,
    /// The snapshot that it made or used.
    pub snapshot: Option<HexId>,
}

impl Outcome {
    /// Of a run with this result; bytes and snapshot are still to be filled in.
    #[must_use]
    pub fn of<T>(result: &Result<T>) -> Self {
        let ending = match result {
            Ok(_) => Ending::Succeeded,
            Err(error) if matches!(error.kind(), Kind::Signal(_) | Kind::Busy) => Ending::Stopped(error.to_string()),
            Err(error) => Ending::Failed(error.to_string()),
        };
        Self { ending, bytes_read: None, bytes_added: None, snapshot: None }
    }
}

impl Ledger {
    /// Notes that this process begins a run, and marks as died those whose process has ended without a word.
    pub fn begin(&mut self, kind: RunKind) -> Result<RunId> {
        let owner = Owner::current()?;
        let invocation = std::env::var("INVOCATION_ID").ok().filter(|id| is_invocation(id));
        self.begin_as(kind, &owner, invocation.as_deref())
    }

    pub(super) fn begin_as(&mut self, kind: RunKind, owner: &Owner, invocation: Option<&str>) -> Result<RunId> {
        let here = Owner::current()?;
        self.write(|transaction| {
            mark_died(transaction, &here)?;
            transaction.execute(
                "INSERT INTO runs (kind, status, started, invocation_id, pid, pid_namespace, boot_id, process_start)
                 VALUES (:kind, 'running', :started, :invocation, :pid, :namespace, :boot, :start)",
                named_params! {
                    ":kind": kind, ":started": Time(Utc::now()), ":invocation": invocation, ":pid": owner.pid,
                    ":namespace": owner.pid_namespace, ":boot": owner.boot_id, ":start": owner.start,
                },
            )?;
            Ok(RunId(transaction.last_insert_rowid()))
        })
    }

    /// Notes how a run ended. Of an error's text, 16 KiB are kept.
    ///
    /// A run that another process took for dead is corrected: who finishes it, lives.
    ///
    /// # Errors
    /// [`Kind::Refused`] if there is no such run, or it has ended already.
    pub fn finish(&mut self, run: RunId, outcome: &Outcome) -> Result<()> {
        let (status, error) = match &outcome.ending {
            Ending::Succeeded => (RunStatus::Succeeded, None),
            Ending::Failed(error) => (RunStatus::Failed, Some(error)),
            Ending::Stopped(error) => (RunStatus::Stopped, Some(error)),
        };
        let changed = self.write(|transaction| {
            Ok(transaction.execute(
                "UPDATE runs SET status = :status, finished = :finished, bytes_read = :read, bytes_added = :added,
                     snapshot = :snapshot, error = :error
                 WHERE id = :id AND status IN ('running', 'died')",
                named_params! {
                    ":status": status, ":finished": Time(Utc::now()), ":read": outcome.bytes_read.map(Count),
                    ":added": outcome.bytes_added.map(Count), ":snapshot": outcome.snapshot,
                    ":error": error.map(|error| shortened(error)), ":id": run.0,
                },
            )?)
        })?;
        if changed == 1 {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, format!("there is no run {run} that could end"))
            .with("file", self.path.display()))
    }

    /// The runs, the newest first, at most this many.
    ///
    /// One whose process has ended without a word is given as died; the ledger itself is not changed.
    pub fn runs(&self, limit: usize) -> Result<Vec<Run>> {
        let here = Owner::current()?;
        self.read(|transaction| {
            let mut statement = transaction.prepare("SELECT * FROM runs ORDER BY id DESC LIMIT ?1")?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            // Within the transaction: nobody can finish a run between reading it and looking for its process.
            let runs = statement.query_map([limit], |row| {
                let mut run = Run::read(row)?;
                if run.status == RunStatus::Running && Owner::read(row)?.has_ended(&here) {
                    run.status = RunStatus::Died;
                }
                Ok(run)
            })?;
            Ok(runs.collect::<rusqlite::Result<_>>()?)
        })
    }
}

fn mark_died(transaction: &Transaction<'_>, here: &Owner) -> Attempt<()> {
    let mut statement = transaction.prepare("SELECT * FROM runs WHERE status = 'running'")?;
    let running = statement.query_map([], |row| Ok((row.get::<_, i64>("id")?, Owner::read(row)?)))?;
    for (id, owner) in running.collect::<rusqlite::Result<Vec<_>>>()? {
        if owner.has_ended(here) {
            transaction.execute("UPDATE runs SET status = 'died' WHERE id = ?1", [id])?;
        }
    }
    Ok(())
}

impl Run {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let count = |name| Ok::<_, rusqlite::Error>(row.get::<_, Option<Count>>(name)?.map(|count| count.0));
        Ok(Self {
            id: RunId(row.get("id")?),
            kind: row.get("kind")?,
            status: row.get("status")?,
            started: row.get::<_, Time>("started")?.0,
            finished: row.get::<_, Option<Time>>("finished")?.map(|time| time.0),
            bytes_read: count("bytes_read")?,
            bytes_added: count("bytes_added")?,
            snapshot: row.get("snapshot")?,
            error: row.get("error")?,
            invocation_id: row.get("invocation_id")?,
            pid: row.get("pid")?,
        })
    }
}

impl Owner {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            pid: row.get("pid")?,
            pid_namespace: row.get("pid_namespace")?,
            boot_id: row.get("boot_id")?,
            start: row.get("process_start")?,
        })
    }
}

/// Whether the variable holds what systemd puts there.
fn is_invocation(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn shortened(text: &str) -> String {
    if text.len() <= ERROR_LIMIT {
        return text.to_owned();
    }
    let mut end = ERROR_LIMIT;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{} …", &text[..end])
}
