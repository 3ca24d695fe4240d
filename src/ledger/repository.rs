//! Which repository this ledger belongs to: one, for good.
//!
//! A disk that is not mounted leaves an empty directory, and an empty directory invites to make a new repository. So
//! the id of the first one is kept, and anything else in its place is refused by name.

use chrono::Utc;
use rusqlite::{OptionalExtension, Transaction};

use super::Ledger;
use super::failure::Attempt;
use super::snapshots::refused;
use super::values::{HexId, Time};
use crate::error::Result;

impl Ledger {
    /// The id of the repository, once there was one.
    pub fn repository_id(&self) -> Result<Option<HexId>> {
        self.read(bound)
    }

    /// Whether what was found in the repository's place is the repository that is known; while none is known,
    /// everything is.
    ///
    /// # Errors
    /// [`Kind::Refused`](crate::error::Kind::Refused), naming both.
    pub fn check_repository(&self, found: Option<&HexId>) -> Result<()> {
        self.read(|transaction| Ok(expect(bound(transaction)?.as_ref(), found)?))
    }

    /// Remembers the repository, for good. Said again of the same one, nothing happens.
    ///
    /// # Errors
    /// [`Kind::Refused`](crate::error::Kind::Refused) if another one is known, naming both.
    pub fn bind_repository(&mut self, id: &HexId) -> Result<()> {
        self.write(|transaction| bind(transaction, id))
    }
}

/// Remembers it, unless another one is known.
pub(super) fn bind(transaction: &Transaction<'_>, id: &HexId) -> Attempt<()> {
    let known = bound(transaction)?;
    expect(known.as_ref(), Some(id))?;
    if known.is_none() {
        let sql = "INSERT INTO repository (one, id, bound_at) VALUES (1, ?1, ?2)";
        transaction.execute(sql, (id, Time(Utc::now())))?;
    }
    Ok(())
}

/// The repository, as far as it is known.
pub(super) fn bound(transaction: &Transaction<'_>) -> Attempt<Option<HexId>> {
    Ok(transaction.query_row("SELECT id FROM repository", [], |row| row.get(0)).optional()?)
}

fn expect(known: Option<&HexId>, found: Option<&HexId>) -> Result<()> {
    let Some(known) = known.filter(|known| Some(*known) != found) else {
        return Ok(());
    };
    let found = found.map_or("none", HexId::as_str);
    Err(refused(format!("expected repository {known}, found {found}"))
        .with("state", "nothing was changed")
        .hint("See whether the disk is mounted and `repository.location` names the right place.")
        .hint("To go on with another one for good: `teslamate-backup rebuild --new-ledger`, or `init --new-ledger` for an empty place."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::ledger::tests::{fresh, id, message};

    #[test]
    fn the_repository_is_known_for_good() {
        let (dir, mut ledger) = fresh();
        assert_eq!(ledger.repository_id().unwrap(), None);
        ledger.check_repository(None).unwrap();
        ledger.bind_repository(&id('a')).unwrap();
        ledger.bind_repository(&id('a')).unwrap();
        let text = message(ledger.bind_repository(&id('b')), Kind::Refused);
        assert!(text.starts_with(&format!("expected repository {}, found {}\n", id('a'), id('b'))), "{text}");
        let ledger = Ledger::open(dir.path()).unwrap();
        assert_eq!(ledger.repository_id().unwrap(), Some(id('a')));
        ledger.check_repository(Some(&id('a'))).unwrap();
        assert!(message(ledger.check_repository(Some(&id('b'))), Kind::Refused).contains(&id('b').to_string()));
        let text = message(ledger.check_repository(None), Kind::Refused);
        assert!(text.starts_with(&format!("expected repository {}, found none\n", id('a'))), "{text}");
    }
}
