//! The copies that were written: another repository in the place of one shows by its id.

use chrono::Utc;
use rusqlite::Row;

use super::Ledger;
use super::values::{HexId, Time};
use crate::error::Result;

/// A copy that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The id of its repository.
    pub id: HexId,
    /// Where it lay when it was last written.
    pub location: String,
    /// Whether a person has said that it is the right one, whatever it holds.
    pub is_accepted: bool,
}

impl Copy {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { id: row.get("id")?, location: row.get("location")?, is_accepted: row.get("accepted")? })
    }
}

impl Ledger {
    /// The copies that were written, in the order in which they became known.
    pub fn copies(&self) -> Result<Vec<Copy>> {
        self.read(|transaction| {
            let mut statement = transaction.prepare("SELECT * FROM copies ORDER BY bound_at, id")?;
            Ok(statement.query_map([], Copy::read)?.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Remembers a copy, and where it lies now. Accepted once, it stays so.
    pub fn bind_copy(&mut self, copy: &Copy) -> Result<()> {
        self.write(|transaction| {
            let sql = "INSERT INTO copies (id, location, accepted, bound_at) VALUES (?1, ?2, ?3, ?4) \
                       ON CONFLICT (id) DO UPDATE SET location = ?2, accepted = max(accepted, ?3)";
            transaction.execute(sql, (&copy.id, &copy.location, copy.is_accepted, Time(Utc::now())))?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::{fresh, id};

    #[test]
    fn k2_a_copy_is_known_by_its_id_wherever_it_lies() {
        let (dir, mut ledger) = fresh();
        assert_eq!(ledger.copies().unwrap(), []);
        let copy =
            |letter, location: &str, is_accepted| Copy { id: id(letter), location: location.into(), is_accepted };
        ledger.bind_copy(&copy('a', "/one", true)).unwrap();
        ledger.bind_copy(&copy('b', "/one", false)).unwrap();
        ledger.bind_copy(&copy('a', "/two", false)).unwrap();
        let known = Ledger::open(dir.path()).unwrap().copies().unwrap();
        assert_eq!(known, [copy('a', "/two", true), copy('b', "/one", false)]);
    }
}
