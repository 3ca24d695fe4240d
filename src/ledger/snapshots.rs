//! The snapshots that were published.
//!
//! They are ordered by their sequence, which only grows. The clock may have been wrong for one backup; that one must
//! not be the newest for ever, nor make the real ones look old.

use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, Row, Transaction, named_params};
use serde::Serialize;

use super::Ledger;
use super::failure::{Attempt, Failure};
use super::repository::{bind, bound};
use super::values::{self, Count, HexId, Time, words};
use crate::error::{Error, Kind, Result};

#[cfg(test)]
mod tests;

/// Fewer digits than these are a slip of the finger, not a name.
const PREFIX_MIN: usize = 4;

words! {
    /// Why a snapshot was taken.
    Purpose {
        /// In the ordinary course.
        Regular = "regular",
        /// Right before a migration, to come back to.
        BeforeMigration = "before-migration",
        /// Before something else that changes the database.
        Safety = "safety",
    }
}

/// What is known of a snapshot when it is published, and never changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Facts {
    /// Its id in the repository.
    pub id: HexId,
    /// What the clock said, UTC; kept to the millisecond.
    #[serde(serialize_with = "values::time")]
    pub time: DateTime<Utc>,
    /// Bytes of all its files.
    pub size: u64,
    /// Bytes that it added to the repository.
    pub added: u64,
    /// Rows in all its tables.
    pub rows: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The SHA-256 of its manifest.
    pub manifest_sha256: HexId,
    /// Why it was taken.
    pub purpose: Purpose,
    /// The newest of the application's migrations, a time as 14 digits.
    pub schema_version: Option<i64>,
    /// A sentence for people.
    pub comment: Option<String>,
    /// The database's name.
    pub database: Option<String>,
    /// The machine that took it.
    pub host: Option<String>,
    /// The system identifier of the cluster that the database was in.
    pub cluster: Option<String>,
}

/// One published snapshot, as it is listed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// Its place among all that were ever published: later ones have greater numbers, whatever the clock said.
    pub sequence: i64,
    /// What was known when it was published.
    #[serde(flatten)]
    pub facts: Facts,
    /// Whether a person wants it kept.
    pub pinned: bool,
    /// When it was last read back and found good, UTC.
    #[serde(serialize_with = "values::optional_time")]
    pub verified_at: Option<DateTime<Utc>>,
    /// When it was given up, UTC.
    #[serde(serialize_with = "values::optional_time")]
    pub deleted_at: Option<DateTime<Utc>>,
    /// Given up by a run that is not known to have removed its file.
    #[serde(skip)]
    pub removing: bool,
}

impl Ledger {
    /// Notes a snapshot that was published: from now on it is the latest.
    ///
    /// # Errors
    /// [`Kind::Refused`] if no repository is known yet, or the snapshot is.
    pub fn publish(&mut self, facts: &Facts) -> Result<Snapshot> {
        self.write(|transaction| {
            insert(transaction, facts)?;
            transaction.execute("DELETE FROM publishing", [])?;
            known(transaction, &facts.id)
        })
    }

    /// Fills a ledger that knows no snapshot with what was found in the repository, the oldest first: this order, which
    /// the caller has to settle, is what decides the latest. For rebuilding a ledger that was lost; what was pinned,
    /// verified or given up is not known any more.
    ///
    /// # Errors
    /// [`Kind::Refused`] if there are snapshots, or another repository is known.
    pub fn adopt(&mut self, repository: &HexId, snapshots: &[Facts]) -> Result<()> {
        let path = self.path.display().to_string();
        self.write(|transaction| {
            let present: i64 = transaction.query_one("SELECT count(*) FROM snapshots", [], |row| row.get(0))?;
            if present > 0 {
                return Err(refused(format!("the ledger {path} knows {present} snapshots: it cannot be rebuilt"))
                    .with("state", "the ledger was left as it is")
                    .into());
            }
            bind(transaction, repository)?;
            snapshots.iter().try_for_each(|facts| insert(transaction, facts))
        })
    }

    /// The snapshot that was published last, of those that were not given up.
    pub fn latest(&self) -> Result<Option<Snapshot>> {
        self.read(|transaction| {
            let sql = "SELECT * FROM snapshots WHERE deleted_at IS NULL ORDER BY sequence DESC LIMIT 1";
            Ok(transaction.query_row(sql, [], Snapshot::read).optional()?)
        })
    }

    /// The one snapshot whose id begins with these 4 or more hexadecimal digits, of those that were not given up.
    ///
    /// # Errors
    /// [`Kind::Usage`] for anything but such digits. [`Kind::Refused`] if there is none, if it was given up, or if
    /// there are several, naming them.
    pub fn by_prefix(&self, prefix: &str) -> Result<Snapshot> {
        let digits = prefix.to_ascii_lowercase();
        if !(PREFIX_MIN..=64).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::new(Kind::Usage, format!("\"{}\" is no snapshot id", prefix.escape_debug()))
                .hint(format!("An id is {PREFIX_MIN} to 64 hexadecimal digits; or say `latest`.")));
        }
        let matching = self.read(|transaction| {
            // Every continuation of the prefix sorts before the prefix and a `g`.
            let mut statement =
                transaction.prepare("SELECT * FROM snapshots WHERE id >= ?1 AND id < ?1 || 'g' ORDER BY sequence")?;
            Ok(statement.query_map([&digits], Snapshot::read)?.collect::<rusqlite::Result<Vec<_>>>()?)
        })?;
        let (given_up, mut kept): (Vec<_>, Vec<_>) =
            matching.into_iter().partition(|snapshot| snapshot.deleted_at.is_some());
        if kept.len() > 1 {
            let listed: Vec<_> = kept.iter().map(Snapshot::line).collect();
            return Err(refused(format!("{} snapshots begin with {digits}", kept.len()))
                .with("snapshots", listed.join("\n"))
                .hint("Give more digits."));
        }
        match (kept.pop(), given_up.last()) {
            (Some(snapshot), _) => Ok(snapshot),
            (None, Some(snapshot)) => Err(given_up_error(snapshot)),
            (None, None) => Err(refused(format!("there is no backup {digits}"))
                .hint("`teslamate-backup list` shows the backups that there are.")),
        }
    }

    /// The snapshots that were not given up, the oldest first.
    pub fn list(&self) -> Result<Vec<Snapshot>> {
        self.select("SELECT * FROM snapshots WHERE deleted_at IS NULL ORDER BY sequence")
    }

    /// All snapshots that were ever published, the oldest first.
    pub fn list_all(&self) -> Result<Vec<Snapshot>> {
        self.select("SELECT * FROM snapshots ORDER BY sequence")
    }

    fn select(&self, sql: &str) -> Result<Vec<Snapshot>> {
        self.read(|transaction| {
            let mut statement = transaction.prepare(sql)?;
            Ok(statement.query_map([], Snapshot::read)?.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Keeps a snapshot from being given up.
    ///
    /// # Errors
    /// [`Kind::Refused`] if it is not known, or was given up.
    pub fn pin(&mut self, id: &HexId) -> Result<()> {
        self.set_pinned(id, true)
    }

    /// Leaves a snapshot to retention again.
    ///
    /// # Errors
    /// As for [`pin`](Self::pin).
    pub fn unpin(&mut self, id: &HexId) -> Result<()> {
        self.set_pinned(id, false)
    }

    fn set_pinned(&mut self, id: &HexId, pinned: bool) -> Result<()> {
        self.write(|transaction| {
            kept(transaction, id)?;
            transaction.execute("UPDATE snapshots SET pinned = ?2 WHERE id = ?1", (id, pinned))?;
            Ok(())
        })
    }

    /// Notes that all of a snapshot was read back and found good.
    ///
    /// # Errors
    /// As for [`pin`](Self::pin).
    pub fn mark_verified(&mut self, id: &HexId, at: DateTime<Utc>) -> Result<()> {
        self.write(|transaction| {
            kept(transaction, id)?;
            transaction.execute("UPDATE snapshots SET verified_at = ?2 WHERE id = ?1", (id, Time(at)))?;
            Ok(())
        })
    }

    /// Marks these snapshots for removal: all of them, or none.
    ///
    /// To be called before they are removed from the repository, and followed by [`note_removed`](Self::note_removed).
    /// Then a crash in between leaves something there that nobody asks for, and removing it can be tried again; the
    /// other way round, the ledger would promise snapshots that are gone. Of one that is marked already, the first
    /// time stays.
    ///
    /// # Errors
    /// [`Kind::Refused`] if one is not known or is pinned.
    pub fn mark_deleted(&mut self, ids: &[HexId], at: DateTime<Utc>) -> Result<()> {
        self.write(|transaction| {
            for id in ids {
                let snapshot = known(transaction, id)?;
                if snapshot.deleted_at.is_some() {
                    continue;
                }
                if snapshot.pinned {
                    return Err(refused(format!("snapshot {id} is pinned"))
                        .with("state", "no snapshot was given up")
                        .into());
                }
                let sql = "UPDATE snapshots SET deleted_at = ?2, removing = 1 WHERE id = ?1";
                transaction.execute(sql, (id, Time(at)))?;
            }
            Ok(())
        })
    }
}

impl Snapshot {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let count = |name| Ok::<_, rusqlite::Error>(row.get::<_, Count>(name)?.0);
        let time = |name| Ok::<_, rusqlite::Error>(row.get::<_, Option<Time>>(name)?.map(|time| time.0));
        Ok(Self {
            sequence: row.get("sequence")?,
            facts: Facts {
                id: row.get("id")?,
                time: row.get::<_, Time>("time")?.0,
                size: count("size")?,
                added: count("added")?,
                rows: count("rows")?,
                duration_ms: count("duration_ms")?,
                manifest_sha256: row.get("manifest_sha256")?,
                purpose: row.get("purpose")?,
                schema_version: row.get("schema_version")?,
                comment: row.get("comment")?,
                database: row.get("database")?,
                host: row.get("host")?,
                cluster: row.get("cluster")?,
            },
            pinned: row.get("pinned")?,
            verified_at: time("verified_at")?,
            deleted_at: time("deleted_at")?,
            removing: row.get("removing")?,
        })
    }

    fn line(&self) -> String {
        format!("{}  {}", self.facts.id, self.facts.time.format("%F %T UTC"))
    }
}

pub(super) fn insert(transaction: &Transaction<'_>, facts: &Facts) -> Attempt<()> {
    if bound(transaction)?.is_none() {
        return Err(refused(format!("snapshot {} cannot be noted: no repository is known", facts.id)).into());
    }
    if find(transaction, &facts.id)?.is_some() {
        return Err(refused(format!("snapshot {} is in the ledger already", facts.id)).into());
    }
    transaction.execute(
        "INSERT INTO snapshots
             (id, time, size, added, rows, duration_ms, manifest_sha256, purpose, schema_version, comment, database,
              host, cluster)
         VALUES (:id, :time, :size, :added, :rows, :duration, :manifest, :purpose, :schema, :comment, :database,
              :host, :cluster)",
        named_params! {
            ":id": facts.id, ":time": Time(facts.time), ":size": Count(facts.size), ":added": Count(facts.added),
            ":rows": Count(facts.rows), ":duration": Count(facts.duration_ms),
            ":manifest": facts.manifest_sha256, ":purpose": facts.purpose,
            ":schema": facts.schema_version, ":comment": facts.comment, ":database": facts.database,
            ":host": facts.host, ":cluster": facts.cluster,
        },
    )?;
    Ok(())
}

fn find(transaction: &Transaction<'_>, id: &HexId) -> Attempt<Option<Snapshot>> {
    Ok(transaction.query_row("SELECT * FROM snapshots WHERE id = ?1", [id], Snapshot::read).optional()?)
}

fn known(transaction: &Transaction<'_>, id: &HexId) -> Attempt<Snapshot> {
    find(transaction, id)?.ok_or_else(|| Failure::from(refused(format!("there is no snapshot {id}"))))
}

fn kept(transaction: &Transaction<'_>, id: &HexId) -> Attempt<()> {
    let snapshot = known(transaction, id)?;
    if snapshot.deleted_at.is_some() { Err(given_up_error(&snapshot).into()) } else { Ok(()) }
}

fn given_up_error(snapshot: &Snapshot) -> Error {
    let when = snapshot.deleted_at.map(|time| time.format(" on %F at %T UTC").to_string()).unwrap_or_default();
    refused(format!("snapshot {} was deleted{when}", snapshot.facts.id))
}

/// Says no; the ledger is as it was.
pub(super) fn refused(message: String) -> Error {
    Error::new(Kind::Refused, message)
}
