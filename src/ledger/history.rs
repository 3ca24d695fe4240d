//! Whether repository and ledger belong to the same history: what a killed run left between the two, and what was found
//! there although no run had left it.
//!
//! One of the two may have been set back: an older copy of the repository put in its place, the state directory of an
//! old snapshot of the machine. What is found then is noted, and a [`Hold`] keeps everything from being removed by
//! itself: which backups were pinned since, nobody knows any more.

use chrono::{DateTime, Utc};
use rusqlite::OptionalExtension;

use super::Ledger;
use super::snapshots::{Facts, insert};
use super::values::{HexId, Time};
use crate::error::Result;

/// Why nothing is removed until a person has agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When that was found.
    pub since: DateTime<Utc>,
    /// The difference that was found.
    pub why: String,
}

impl Ledger {
    /// Remembers that the backup with this manifest is about to be published. [`publish`](Self::publish) ends that.
    pub fn begin_publishing(&mut self, manifest_sha256: &HexId) -> Result<()> {
        self.write(|transaction| {
            let sql = "INSERT OR REPLACE INTO publishing (one, manifest_sha256) VALUES (1, ?1)";
            transaction.execute(sql, [manifest_sha256])?;
            Ok(())
        })
    }

    /// The manifest of the backup that a run was publishing when it was killed, if it was.
    pub fn publishing(&self) -> Result<Option<HexId>> {
        self.read(|transaction| {
            Ok(transaction.query_row("SELECT manifest_sha256 FROM publishing", [], |row| row.get(0)).optional()?)
        })
    }

    /// Notes backups that no run of this ledger took, in this order, and holds.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn note_found(&mut self, found: &[Facts], why: &str) -> Result<()> {
        self.write(|transaction| {
            found.iter().try_for_each(|facts| insert(transaction, facts))?;
            hold(transaction, why)
        })
    }

    /// Notes that removed backups are there again, and holds. They keep their places in the order.
    pub fn note_returned(&mut self, ids: &[HexId], why: &str) -> Result<()> {
        self.write(|transaction| {
            for id in ids {
                let sql = "UPDATE snapshots SET deleted_at = NULL, removing = 0 WHERE id = ?1";
                transaction.execute(sql, [id])?;
            }
            hold(transaction, why)
        })
    }

    /// Notes that removed backups are gone from the repository: if these ids are found there from now on, an older state
    /// was put back.
    pub fn note_removed(&mut self, ids: &[HexId]) -> Result<()> {
        self.write(|transaction| {
            for id in ids {
                transaction.execute("UPDATE snapshots SET removing = 0 WHERE id = ?1", [id])?;
            }
            Ok(())
        })
    }

    /// Why nothing is removed, if so.
    pub fn hold(&self) -> Result<Option<Hold>> {
        self.read(|transaction| {
            let read =
                |row: &rusqlite::Row<'_>| Ok(Hold { since: row.get::<_, Time>("since")?.0, why: row.get("why")? });
            Ok(transaction.query_row("SELECT since, why FROM hold", [], read).optional()?)
        })
    }

    /// A person has agreed: retention acts again.
    pub fn end_hold(&mut self) -> Result<()> {
        self.write(|transaction| {
            transaction.execute("DELETE FROM hold", [])?;
            Ok(())
        })
    }

    /// The cluster of the database here, as it was last seen.
    pub fn cluster(&self) -> Result<Option<String>> {
        self.read(|transaction| Ok(transaction.query_row("SELECT id FROM cluster", [], |row| row.get(0)).optional()?))
    }

    /// Remembers the cluster of the database here.
    pub fn set_cluster(&mut self, id: &str) -> Result<()> {
        if self.cluster()?.as_deref() == Some(id) {
            return Ok(());
        }
        self.write(|transaction| {
            transaction.execute("INSERT OR REPLACE INTO cluster (one, id) VALUES (1, ?1)", [id])?;
            Ok(())
        })
    }
}

/// The first reason stays: it is the one that tells since when.
fn hold(transaction: &rusqlite::Transaction<'_>, why: &str) -> super::failure::Attempt<()> {
    let sql = "INSERT OR IGNORE INTO hold (one, since, why) VALUES (1, ?1, ?2)";
    transaction.execute(sql, (Time(Utc::now()), why))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fresh, id};
    use super::*;

    #[test]
    fn k2_a_hold_stays_with_its_first_reason_until_somebody_ends_it() {
        let (dir, mut ledger) = fresh();
        assert_eq!(ledger.hold().unwrap(), None);
        ledger.note_returned(&[], "the first").unwrap();
        ledger.note_found(&[], "the second").unwrap();
        let ledger_again = Ledger::open(dir.path()).unwrap();
        assert_eq!(ledger_again.hold().unwrap().unwrap().why, "the first");
        ledger.end_hold().unwrap();
        assert_eq!(ledger.hold().unwrap(), None);
    }

    #[test]
    fn k2_what_is_being_published_is_known_until_it_is_noted() {
        let (_dir, mut ledger) = fresh();
        assert_eq!(ledger.publishing().unwrap(), None);
        ledger.begin_publishing(&id('a')).unwrap();
        ledger.begin_publishing(&id('b')).unwrap();
        assert_eq!(ledger.publishing().unwrap(), Some(id('b')));
        ledger.set_cluster("1").unwrap();
        ledger.set_cluster("2").unwrap();
        assert_eq!(ledger.cluster().unwrap().as_deref(), Some("2"));
    }
}
