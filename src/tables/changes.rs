//! Which blocks may have changed since an earlier backup, from the server's summaries of its write-ahead log.
//!
//! Two halves of one argument. At a backup, [`settle`] finds a horizon: a position in the log below which every change
//! belongs to a transaction that has ended before the snapshot was exported. At the next one, [`since`] lists every
//! block that was changed above that horizon and up to a checkpoint that began after the new snapshot. What is not
//! listed is the same in both snapshots, if it is one history: [`mark`] shows that. Everything that could break the argument is a reason to read all, never an
//! error: the reading is right without it.
//!
//! Source: PostgreSQL 17 documentation, "WAL Summarization Information Functions" and "Backup Control Functions".

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::database::connect::{QueryContext, chain};
use crate::error::Result;

/// Between two looks at the server.
const PAUSE: Duration = Duration::from_millis(50);

/// The first version with summaries, as `server_version_num` counts.
const FIRST_VERSION: u32 = 170_000;

/// Finds a horizon before a snapshot is exported. `None` if a transaction did not end within `wait`.
///
/// A change below it was made by a transaction that had its number by then, and all of these have ended when this
/// returns: a snapshot that is exported afterwards sees all of it or never will. Taking a number of our own is what
/// makes that sure: `pg_snapshot_xmax` is only one more than the last that has *ended*, and does not count those that
/// run with a higher one.
///
/// `None` on a standby, too, which gives no numbers.
///
/// The session must not be in a transaction.
pub async fn settle(client: &Client, wait: Duration) -> Result<Option<String>> {
    let failed = "cannot read the position in the write-ahead log";
    if client.query_one("SELECT pg_is_in_recovery()", &[]).await.query_context(failed)?.get(0) {
        return Ok(None);
    }
    let horizon: String =
        client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.query_context(failed)?.get(0);
    // In this order, as two statements: every number that was given before the position was read is lower.
    let number: String = client.query_one("SELECT pg_current_xact_id()::text", &[]).await.query_context(failed)?.get(0);
    let ended = "SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8";
    let give_up = Instant::now() + wait;
    loop {
        if client.query_one(ended, &[&number]).await.query_context(failed)?.get(0) {
            return Ok(Some(horizon));
        }
        if Instant::now() >= give_up {
            return Ok(None);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    files: HashMap<(u32, u32), FileChanges>,
    step: u64,
}

/// What may have changed in one table's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FileChanges {
    /// Numbers of ranges of `step` blocks in which a block is listed.
    ranges: BTreeSet<u64>,
    /// The file was made, or cut, to this many blocks: nothing is known of what lies beyond.
    limit: Option<u64>,
}

impl Changes {
    /// Whether these blocks of a file may be other than they were. The range begins at a multiple of the step.
    #[must_use]
    pub fn touch(&self, tablespace: u32, filenode: u32, blocks: &Range<u64>) -> bool {
        // A database that was copied as files is listed as a relation without a number.
        if self.files.contains_key(&(tablespace, 0)) {
            return true;
        }
        let Some(file) = self.files.get(&(tablespace, filenode)) else { return false };
        let first = blocks.start / self.step.max(1);
        let last = blocks.end.saturating_sub(1) / self.step.max(1);
        file.ranges.range(first..=last).next().is_some() || file.limit.is_some_and(|limit| limit < blocks.end)
    }
}

/// Makes a checkpoint before [`settle`], where there are summaries and it is allowed.
///
/// The session must not be in a transaction.
pub async fn checkpoint_before(client: &Client) -> Result<()> {
    let failed = "cannot make a checkpoint";
    let sql = "SELECT coalesce(current_setting('summarize_wal', true), 'off')";
    let row = client.query_one(sql, &[]).await.query_context(failed)?;
    if row.get::<_, &str>(0) != "on" {
        return Ok(());
    }
    match client.batch_execute("CHECKPOINT").await {
        // It only saves work.
        Err(cause) if cause.as_db_error().is_some() => Ok(()),
        made => made.query_context(failed),
    }
}

/// From where, and up to where, the log of a parent is known.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The position below which every change was settled.
    pub horizon: &'a str,
    /// The checkpoint after the parent's snapshot ([`mark`]).
    pub mark: Option<&'a str>,
}

/// What [`since`] found out.
#[derive(Debug)]
pub struct Since {
    /// Which blocks may differ.
    pub changes: Changes,
    /// The checkpoint that was made, for the next backup.
    pub mark: String,
}

/// Makes a checkpoint after the snapshot of a backup, and returns the position that the log was at.
///
/// The server ends a summary exactly there, and it is a random distance from what was written before. A server that was set back to an earlier state (the image of a virtual
/// machine, a snapshot of the file system) goes on from another place, on the same timeline, and its summaries end
/// elsewhere: so the next backup can tell whether it still reads the same history. `None` where there are no summaries,
/// or the right to make a checkpoint is missing.
///
/// Call it after the snapshot was exported, in a session that is not in a transaction.
pub async fn mark(client: &Client, server: u32, timeline: u32) -> Result<Option<String>> {
    if server < FIRST_VERSION {
        return Ok(None);
    }
    match checkpoint(client, timeline).await {
        Ok(made) => Ok(made.ok()),
        Err(cause) if cause.as_db_error().is_some() => Ok(None),
        Err(cause) => Err(cause).query_context("cannot make a checkpoint"),
    }
}

/// Lists what was changed since the parent, in ranges of `step` blocks. The inner error is the reason why that is not
/// known, as the end of the sentence "everything is read: …".
///
/// Call it after the new snapshot was exported, in a session that is not in a transaction.
pub async fn since(
    client: &Client,
    server: u32,
    timeline: u32,
    parent: Known<'_>,
    step: u32,
    wait: Duration,
) -> Result<std::result::Result<Since, String>> {
    if server < FIRST_VERSION {
        return Ok(Err("the server is older than PostgreSQL 17, which keeps summaries of its log".to_owned()));
    }
    match list(client, timeline, parent, step, wait).await {
        Ok(listed) => Ok(listed),
        // A right that is missing, a summary that is removed meanwhile: reasons. A connection that is gone is neither.
        Err(cause) if cause.as_db_error().is_some() => {
            Ok(Err(format!("the summaries cannot be read ({})", chain(&cause))))
        }
        Err(cause) => Err(cause).query_context("cannot read the summaries of the write-ahead log"),
    }
}

type Attempt<T> = std::result::Result<std::result::Result<T, String>, tokio_postgres::Error>;

/// Makes a checkpoint; its redo position.
async fn checkpoint(client: &Client, timeline: u32) -> Attempt<String> {
    let row = client.query_one("SELECT current_setting('summarize_wal'), pg_is_in_recovery()", &[]).await?;
    if row.get::<_, &str>(0) != "on" {
        return Ok(Err("summarize_wal is off".to_owned()));
    }
    if row.get(1) {
        return Ok(Err("the server is a standby".to_owned()));
    }
    // A history that is repeated, as by a script, would write as much as the first time, and make its checkpoint in the
    // same place. A message of a random length, which nothing reads, moves it.
    let sql = "SELECT pg_logical_emit_message(false, 'glovebox', repeat(' ', (random() * 65536)::int))";
    client.batch_execute(sql).await?;
    client.batch_execute("CHECKPOINT").await?;
    let row = client.query_one("SELECT timeline_id, redo_lsn::text FROM pg_control_checkpoint()", &[]).await?;
    if u32::try_from(row.get::<_, i32>(0)) != Ok(timeline) {
        return Ok(Err("the server is on another timeline".to_owned()));
    }
    Ok(Ok(row.get(1)))
}

async fn list(client: &Client, timeline: u32, parent: Known<'_>, step: u32, wait: Duration) -> Attempt<Since> {
    let redo = match checkpoint(client, timeline).await? {
        Ok(redo) => redo,
        Err(reason) => return Ok(Err(reason)),
    };
    let Some(mark) = parent.mark else {
        return Ok(Err("the last backup was taken without summaries of the log".to_owned()));
    };
    // This checkpoint is later than the parent's, unless the log was set back.
    if mark == redo {
        return Ok(Err(SET_BACK.to_owned()));
    }
    let timeline = i64::from(timeline);
    if let Err(reason) = reached(client, timeline, &redo, wait).await? {
        return Ok(Err(reason));
    }
    // `ORDER BY start_lsn` would sort the text of the output column.
    let sql = "SELECT start_lsn::text, end_lsn::text, start_lsn <= $2::text::pg_lsn, end_lsn >= $3::text::pg_lsn, \
                      start_lsn <= lag(end_lsn) OVER (ORDER BY start_lsn), end_lsn = $4::text::pg_lsn \
               FROM pg_available_wal_summaries() AS s \
               WHERE tli = $1 AND end_lsn > $2::text::pg_lsn AND start_lsn < $3::text::pg_lsn ORDER BY s.start_lsn";
    let summaries = client.query(sql, &[&timeline, &parent.horizon, &redo, &mark]).await?;
    let whole = match (summaries.first(), summaries.last()) {
        (Some(first), _) if !first.get::<_, bool>(2) => {
            return Ok(Err("the summaries do not go back to the last backup (wal_summary_keep_time)".to_owned()));
        }
        (Some(_), Some(last)) => {
            let joined = summaries.iter().skip(1).all(|row| row.get::<_, Option<bool>>(4) == Some(true));
            joined && last.get::<_, bool>(3)
        }
        // Even if nothing was changed there is the checkpoint: the log ends before the parent's.
        _ => return Ok(Err(SET_BACK.to_owned())),
    };
    if !whole {
        return Ok(Err("the summaries have a gap".to_owned()));
    }
    if !summaries.iter().any(|row| row.get::<_, bool>(5)) {
        return Ok(Err(SET_BACK.to_owned()));
    }
    let bounds = |column: usize| summaries.iter().map(|row| row.get(column)).collect::<Vec<String>>();
    let changes = contents(client, timeline, &bounds(0), &bounds(1), step).await?;
    Ok(Ok(Since { changes, mark: redo }))
}

const SET_BACK: &str = "the server was set back to a state before the last backup";

/// Waits until the summaries go up to a position.
async fn reached(client: &Client, timeline: i64, redo: &str, wait: Duration) -> Attempt<()> {
    let sql =
        "SELECT coalesce(bool_or(end_lsn >= $2::text::pg_lsn), false) FROM pg_available_wal_summaries() WHERE tli = $1";
    let give_up = Instant::now() + wait;
    loop {
        if client.query_one(sql, &[&timeline, &redo]).await?.get(0) {
            return Ok(Ok(()));
        }
        if Instant::now() >= give_up {
            return Ok(Err(format!("the summarizer did not reach {redo} within {} s", wait.as_secs())));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn contents(
    client: &Client,
    timeline: i64,
    starts: &[String],
    ends: &[String],
    step: u32,
) -> std::result::Result<Changes, tokio_postgres::Error> {
    let sql = "SELECT c.reltablespace, c.relfilenode, c.is_limit_block, \
                      CASE WHEN c.is_limit_block THEN c.relblocknumber ELSE c.relblocknumber / $4 END \
               FROM unnest($2::text[]::pg_lsn[], $3::text[]::pg_lsn[]) AS s (start_lsn, end_lsn), \
                    LATERAL pg_wal_summary_contents($1, s.start_lsn, s.end_lsn) AS c \
               WHERE c.relforknumber = 0 \
                     AND c.reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) \
               GROUP BY 1, 2, 3, 4";
    let rows = client.query(sql, &[&timeline, &starts, &ends, &i64::from(step)]).await?;
    let mut changes = Changes { files: HashMap::new(), step: step.into() };
    for row in rows {
        let file = changes.files.entry((row.get(0), row.get(1))).or_default();
        // A negative number would be one that we do not understand: as if the whole file had changed.
        let number = u64::try_from(row.get::<_, i64>(3)).ok();
        match (row.get(2), number) {
            (false, Some(number)) => drop(file.ranges.insert(number)),
            (true, Some(limit)) => file.limit = Some(file.limit.map_or(limit, |known| known.min(limit))),
            (_, None) => file.limit = Some(0),
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Changes {
        /// Of one file, in ranges of 16 blocks.
        pub(in crate::tables) fn of(tablespace: u32, filenode: u32, ranges: &[u64], limit: Option<u64>) -> Self {
            let file = FileChanges { ranges: ranges.iter().copied().collect(), limit };
            Self { files: HashMap::from([((tablespace, filenode), file)]), step: 16 }
        }
    }

    fn changes(ranges: &[u64], limit: Option<u64>) -> Changes {
        Changes::of(1663, 7, ranges, limit)
    }

    #[test]
    fn a_listed_block_touches_its_own_range_alone() {
        let changes = changes(&[2], None);
        let touched: Vec<u64> = (0..5).filter(|n| changes.touch(1663, 7, &(n * 16..n * 16 + 16))).collect();
        assert_eq!(touched, [2]);
        // The last range of a table is shorter.
        assert!(changes.touch(1663, 7, &(32..33)));
        assert!(!changes.touch(1663, 8, &(32..33)) && !changes.touch(1664, 7, &(32..33)));
    }

    #[test]
    fn a_limit_touches_everything_beyond_it() {
        let changes = changes(&[], Some(20));
        assert!(!changes.touch(1663, 7, &(0..16)));
        assert!(changes.touch(1663, 7, &(16..32)), "it ends beyond the limit");
        assert!(changes.touch(1663, 7, &(32..48)));
        assert!(!changes.touch(1663, 7, &(16..20)), "the table ends where it was cut");
    }
}
