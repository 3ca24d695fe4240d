//! When each pack of the repository was last read back.
//!
//! Every backup reads the packs that it wrote, and a share of the older ones it leans on. The order is that of turns,
//! not of the clock: a pack that was read while the clock was years ahead must not count as fresh for years.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use chrono::{DateTime, Utc};

use super::Ledger;
use super::values::{HexId, Time};
use crate::error::Result;

impl Ledger {
    /// Notes that these packs were read back, every byte of them, and found good.
    pub fn note_read_back(&mut self, ids: &[HexId], at: DateTime<Utc>) -> Result<()> {
        self.write(|transaction| {
            let turn: i64 =
                transaction.query_one("SELECT coalesce(max(turn), 0) + 1 FROM packs", [], |row| row.get(0))?;
            let mut statement = transaction.prepare(
                "INSERT INTO packs (id, read_back_at, turn) VALUES (?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET read_back_at = excluded.read_back_at, turn = excluded.turn",
            )?;
            for id in ids {
                statement.execute((id, Time(at), turn))?;
            }
            Ok(())
        })
    }

    /// Which of the known packs to read back now: one in `share`, rounded up, those that were never read first, then
    /// those whose turn is longest ago.
    ///
    /// If each call is followed by [`note_read_back`](Self::note_read_back) of its answer, `share` calls read all:
    /// 168 is a week of hourly backups.
    pub fn oldest_read_back(&self, known: &[HexId], share: NonZeroUsize) -> Result<Vec<HexId>> {
        let turns: HashMap<HexId, i64> = self.read(|transaction| {
            let mut statement = transaction.prepare("SELECT id, turn FROM packs")?;
            Ok(statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?)
        })?;
        // Turns begin with 1.
        let mut packs: Vec<(i64, &HexId)> =
            known.iter().map(|id| (turns.get(id).copied().unwrap_or_default(), id)).collect();
        packs.sort_unstable();
        packs.dedup();
        packs.truncate(packs.len().div_ceil(share.get()));
        Ok(packs.into_iter().map(|(_, id)| id.clone()).collect())
    }

    /// Drops packs that are no longer in the repository.
    pub fn forget_packs(&mut self, ids: &[HexId]) -> Result<()> {
        self.write(|transaction| {
            let mut statement = transaction.prepare("DELETE FROM packs WHERE id = ?1")?;
            for id in ids {
                statement.execute([id])?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use chrono::TimeDelta;

    use super::super::tests::fresh;
    use super::*;

    fn packs(count: usize) -> Vec<HexId> {
        (0..count).map(|number| HexId::parse(&format!("{number:064x}")).unwrap()).collect()
    }

    fn share(share: usize) -> NonZeroUsize {
        NonZeroUsize::new(share).unwrap()
    }

    #[test]
    fn a_week_of_hourly_backups_reads_every_pack_even_if_the_clock_jumps_and_packs_are_added() {
        let (_dir, mut ledger) = fresh();
        let all = packs(668);
        let mut read = HashSet::new();
        for hour in 0..168 {
            // One run in the middle was years ahead.
            let now = Utc::now() + TimeDelta::days(if hour == 80 { 4_000 } else { 0 });
            let known = &all[..500 + hour];
            let due = ledger.oldest_read_back(known, share(168)).unwrap();
            assert!(due.len() <= 4, "{}", due.len());
            read.extend(due.iter().cloned());
            // What a backup has just written is read back at once.
            let written = known.last().into_iter().cloned();
            let noted: Vec<HexId> = due.into_iter().chain(written).collect();
            ledger.note_read_back(&noted, now).unwrap();
        }
        assert!(all[..500].iter().all(|pack| read.contains(pack)), "{} of 500", read.len());
    }

    #[test]
    fn packs_that_were_never_read_come_first_then_the_longest_ago() {
        let (_dir, mut ledger) = fresh();
        let all = packs(4);
        for pack in [2, 0, 1] {
            ledger.note_read_back(&all[pack..=pack], Utc::now()).unwrap();
        }
        let due = |ledger: &Ledger, one_in| ledger.oldest_read_back(&all, share(one_in)).unwrap();
        assert_eq!(due(&ledger, 4), [all[3].clone()]);
        assert_eq!(due(&ledger, 2), [all[3].clone(), all[2].clone()]);
        assert_eq!(due(&ledger, 1).len(), 4);
        assert_eq!(due(&ledger, 1_000).len(), 1, "rounded up");
        ledger.forget_packs(&all[..1]).unwrap();
        assert_eq!(due(&ledger, 2), [all[0].clone(), all[3].clone()]);
    }

    #[test]
    fn only_known_packs_are_asked_for_and_each_once() {
        let (_dir, mut ledger) = fresh();
        let all = packs(3);
        ledger.note_read_back(&all, Utc::now()).unwrap();
        let known = [all[1].clone(), all[1].clone()];
        assert_eq!(ledger.oldest_read_back(&known, share(1)).unwrap(), [all[1].clone()]);
        assert!(ledger.oldest_read_back(&[], share(1)).unwrap().is_empty());
    }
}
