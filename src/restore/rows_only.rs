//! Rows of a backup in the place of the live ones: `--data-only`, one transaction, the definitions stay.
//!
//! Foreign keys are respected by looking: they are switched off while the rows come in, since a table cannot be emptied
//! otherwise while another one points at it, and every key that concerns a table that was filled is checked before the
//! commit. A row that would point nowhere ends it, and nothing has changed.
//!
//! Triggers do not fire, and one that would all the same (`ENABLE ALWAYS`) is refused: the rows become what they were.
//! Materialized views are not refreshed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::room::Room;
use super::stored::Stored;
use super::{Destination, Policy, Session};
use crate::database::connect::QueryContext;
use crate::database::ident;
use crate::error::{Error, Kind, Result};
use crate::ledger::HexId;
use crate::progress::Meter;
use crate::tables::catalog::Table;
use crate::tables::manifest::TableEntry;

const UNTOUCHED: &str = "the live database is as it was";

/// How long a table that is in use is waited for.
const LOCK_WAIT: &str = "10s";

/// What was done.
#[derive(Debug)]
pub struct Replaced {
    /// The tables, with their rows now.
    pub tables: Vec<(String, u64)>,
    /// The backup of the live database that was taken first.
    pub safety_backup: Option<HexId>,
    /// Foreign keys that were checked.
    pub keys: usize,
    /// All of it.
    pub duration: Duration,
}

impl Session<'_> {
    /// Replaces the rows of the wanted tables, of all without `policy.tables`.
    ///
    /// # Errors
    /// [`Kind::Refused`] if a table is not in the backup or has other columns now, if the role may not, or if a row would
    /// point nowhere; [`Kind::Busy`] if a table stays locked. The live database is as it was then.
    pub async fn replace_rows(&self, stored: &Stored, policy: &Policy) -> Result<Replaced> {
        let started = Instant::now();
        let env = self.env;
        stored.is_of(self.live_name(), &Destination::Live, policy)?;
        stored.is_of_cluster(env, self.client(), true, policy).await?;
        stored.tell_remarks(env);
        let entries = wanted(stored, policy)?;
        let client = env.connector.connect().await?;
        for entry in &entries {
            same_columns(&client, &entry.table).await?;
        }
        let safety_backup = self.back_up_first(policy).await?;
        env.reporter.step("replacing rows").await;
        let meter = Meter::new("replacing rows");
        let work = replace(&client, stored, &entries, policy, &meter);
        // The rows that are replaced stay on the disk until the commit.
        let room = Room::look(self.client(), &env.connector, "", 0).await?;
        let work = env.interrupt.guard(Box::pin(room.watch(&env.connector, work)));
        // An error leaves the transaction open; it ends with the session.
        let keys = env.reporter.show(&meter, work).await.map_err(|error| error.or_state(UNTOUCHED))?;
        // Not cut short by a signal: whoever asks must be told what is so.
        client.batch_execute("COMMIT").await.query_context("cannot commit").map_err(|error| {
            error
                .escalate(Kind::Attention)
                .with("state", "it is not known whether the rows were replaced")
                .hint("Count the rows of one table; then repeat the command, or leave it.")
        })?;
        let names: Vec<String> = entries.iter().map(|entry| entry.table.qualified()).collect();
        if let Err(error) = client.batch_execute(&format!("ANALYZE {}", names.join(", "))).await {
            env.reporter.warn(&format!("the rows are there, but no statistics: {error}; ANALYZE gathers them"));
        }
        let tables = entries.iter().map(|entry| (entry.table.qualified(), entry.rows)).collect();
        Ok(Replaced { tables, safety_backup, keys, duration: started.elapsed() })
    }
}

/// The tables that are meant; a name that means none is an error.
fn wanted<'a>(stored: &'a Stored, policy: &Policy) -> Result<Vec<&'a TableEntry>> {
    let tables = &stored.manifest.tables;
    let is_missing = |words: &&String| !tables.iter().any(|entry| entry.table.is_called(words));
    if let Some(name) = policy.tables.iter().find(is_missing) {
        return Err(Error::new(Kind::Refused, format!("the backup has no rows of a table \"{name}\""))
            .with("state", UNTOUCHED)
            .hint("`teslamate-backup show ID` lists its tables; a partitioned one is named by its partitions."));
    }
    Ok(tables.iter().filter(|entry| policy.wants(&entry.table)).collect())
}

async fn same_columns(client: &Client, table: &Table) -> Result<()> {
    let sql = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) \
               FROM pg_attribute a WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped \
                 AND a.attgenerated = '' ORDER BY a.attname COLLATE \"C\"";
    let rows = client.query(sql, &[&table.qualified()]).await.query_context("cannot look at the live table")?;
    let live: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut kept: Vec<(String, String)> =
        table.columns.iter().map(|column| (column.name.clone(), column.type_name.clone())).collect();
    kept.sort();
    if live == kept {
        return Ok(());
    }
    let shown = |columns: &[(String, String)]| {
        columns.iter().map(|(name, type_name)| format!("{name} {type_name}")).collect::<Vec<_>>().join(", ")
    };
    let what = if live.is_empty() { "is not in the live database" } else { "has other columns now" };
    Err(Error::new(Kind::Refused, format!("table {} {what}", table.qualified()))
        .with("live", shown(&live))
        .with("backup", shown(&kept))
        .with("state", UNTOUCHED)
        .hint("Load the backup beside the live database with --into NAME, and take the rows from there."))
}

async fn replace(
    client: &Client,
    stored: &Stored,
    entries: &[&TableEntry],
    policy: &Policy,
    meter: &Arc<Meter>,
) -> Result<usize> {
    let names: Vec<String> = entries.iter().map(|entry| entry.table.qualified()).collect();
    let begin = format!(
        "BEGIN; SET LOCAL lock_timeout = '{LOCK_WAIT}'; SET LOCAL statement_timeout = 0; SET LOCAL row_security = off"
    );
    client.batch_execute(&begin).await.query_context("cannot begin a transaction")?;
    client.batch_execute("SET LOCAL session_replication_role = replica").await.map_err(|cause| {
        Error::new(Kind::Refused, "this role may not switch foreign keys off while rows come in")
            .with("cause", crate::database::connect::chain(&cause))
            .hint("As a superuser: ALTER ROLE … SUPERUSER; or load the backup with --into NAME, and take the rows from there.")
    })?;
    let lock = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", list(&names));
    client.batch_execute(&lock).await.query_context("cannot lock the tables")?;
    refuse_triggers(client, &names).await?;
    let keys = foreign_keys(client, &names).await?;
    meter.now("emptying tables");
    // TRUNCATE gives the room back at once, but not while another table points here.
    if keys.iter().all(|key| names.contains(&key.child.0)) {
        let truncate = format!("TRUNCATE {}", list(&names));
        client.batch_execute(&truncate).await.query_context("cannot empty the tables")?;
    } else {
        for name in &names {
            let delete = format!("DELETE FROM ONLY {name}");
            client.batch_execute(&delete).await.query_context(format!("cannot empty table {name}"))?;
        }
    }
    stored.load_into(client, policy, meter).await?;
    client.batch_execute("SET LOCAL session_replication_role = origin").await.query_context("cannot go on")?;
    meter.now("checking foreign keys");
    for key in &keys {
        key.check(client).await?;
    }
    for name in &names {
        advance_sequences(client, name).await?;
    }
    client.batch_execute("SET LOCAL synchronous_commit = on").await.query_context("cannot go on")?;
    Ok(keys.len())
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("ONLY {name}")).collect::<Vec<_>>().join(", ")
}

/// A trigger that fires all the same would write other rows than those of the backup.
async fn refuse_triggers(client: &Client, names: &[String]) -> Result<()> {
    let sql = "SELECT format('%s on %s', tgname, tgrelid::regclass) FROM pg_trigger \
               WHERE tgrelid = ANY ($1::text[]::regclass[]) AND NOT tgisinternal AND tgenabled IN ('A', 'R') ORDER BY 1";
    let rows = client.query(sql, &[&names]).await.query_context("cannot look for triggers")?;
    if rows.is_empty() {
        return Ok(());
    }
    let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Err(Error::new(Kind::Refused, "a trigger would change the rows on their way in (ENABLE ALWAYS or REPLICA)")
        .with("triggers", found.join("\n"))
        .hint("Load the backup beside the live database with --into NAME, and take the rows from there."))
}

/// A foreign key that concerns one of the tables, on either side.
struct ForeignKey {
    name: String,
    /// The table whose rows point, and whether it has partitions: a table that inherits has no part in the key.
    child: (String, bool),
    /// The table that they point at.
    parent: (String, bool),
    /// Columns of the child, and those of the parent that they point at.
    columns: Vec<(String, String)>,
}

/// What PostgreSQL made for partitions belongs to the key of the whole, which is the one that is meant.
async fn foreign_keys(client: &Client, names: &[String]) -> Result<Vec<ForeignKey>> {
    let sql = "WITH RECURSIVE touched (oid) AS ( \
                   SELECT oid FROM pg_constraint WHERE contype = 'f' \
                     AND (conrelid = ANY ($1::text[]::regclass[]) OR confrelid = ANY ($1::text[]::regclass[])) \
                   UNION SELECT c.conparentid FROM pg_constraint c JOIN touched t ON t.oid = c.oid WHERE c.conparentid <> 0) \
               SELECT c.conname::text, cn.nspname::text, ct.relname::text, ct.relkind = 'p', \
                      pn.nspname::text, pt.relname::text, pt.relkind = 'p', \
                      (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(c.conkey) WITH ORDINALITY k (attnum, place) \
                       JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum), \
                      (SELECT array_agg(a.attname::text ORDER BY k.place) FROM unnest(c.confkey) WITH ORDINALITY k (attnum, place) \
                       JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum) \
               FROM pg_constraint c JOIN touched t ON t.oid = c.oid \
               JOIN pg_class ct ON ct.oid = c.conrelid JOIN pg_namespace cn ON cn.oid = ct.relnamespace \
               JOIN pg_class pt ON pt.oid = c.confrelid JOIN pg_namespace pn ON pn.oid = pt.relnamespace \
               WHERE c.conparentid = 0";
    let rows = client.query(sql, &[&names]).await.query_context("cannot read the foreign keys")?;
    let table = |schema: &str, name: &str| format!("{}.{}", ident(schema), ident(name));
    Ok(rows
        .iter()
        .map(|row| {
            let (from, to): (Vec<String>, Vec<String>) = (row.get(7), row.get(8));
            ForeignKey {
                name: row.get(0),
                child: (table(row.get(1), row.get(2)), row.get(3)),
                parent: (table(row.get(4), row.get(5)), row.get(6)),
                columns: from.into_iter().zip(to).collect(),
            }
        })
        .collect())
}

impl ForeignKey {
    /// Looks for rows that point nowhere. A key of which one column is NULL points nowhere on purpose (MATCH SIMPLE).
    async fn check(&self, client: &Client) -> Result<()> {
        let set: Vec<String> = self.columns.iter().map(|(from, _)| format!("c.{} IS NOT NULL", ident(from))).collect();
        let equal: Vec<String> =
            self.columns.iter().map(|(from, to)| format!("p.{} = c.{}", ident(to), ident(from))).collect();
        let only = |(name, has_partitions): &(String, bool)| {
            if *has_partitions { name.clone() } else { format!("ONLY {name}") }
        };
        let sql = format!(
            "SELECT count(*) FROM {} c WHERE {} AND NOT EXISTS (SELECT FROM {} p WHERE {})",
            only(&self.child),
            set.join(" AND "),
            only(&self.parent),
            equal.join(" AND ")
        );
        let failed = format!("cannot check the foreign key {}", self.name);
        let lost: i64 = client.query_one(&sql, &[]).await.query_context(failed)?.get(0);
        if lost == 0 {
            return Ok(());
        }
        let what =
            format!("{lost} rows of {} would point at rows of {} that are not there", self.child.0, self.parent.0);
        Err(Error::new(Kind::Refused, what)
            .with("foreign key", &self.name)
            .with("state", UNTOUCHED)
            .hint("Name both tables with --table, or load the backup with --into NAME, and take the rows from there."))
    }
}

/// The next row must not get a number that a row has already.
async fn advance_sequences(client: &Client, table: &str) -> Result<()> {
    let sql = "SELECT s.oid::regclass::text, a.attname::text \
               FROM pg_class s JOIN pg_depend d ON d.objid = s.oid AND d.classid = 'pg_class'::regclass \
                    AND d.deptype IN ('a', 'i') \
               JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
               JOIN pg_sequence q ON q.seqrelid = s.oid \
               WHERE s.relkind = 'S' AND q.seqincrement > 0 AND d.refobjid = $1::text::regclass";
    for row in client.query(sql, &[&table]).await.query_context("cannot look for the sequences")? {
        let (sequence, column): (String, String) = (row.get(0), row.get(1));
        let set = format!(
            "SELECT setval($1::text::regclass, highest) FROM (SELECT max({})::bigint AS highest FROM {table}) h \
             WHERE highest > (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {sequence})",
            ident(&column)
        );
        client.execute(&set, &[&sequence]).await.query_context(format!("cannot advance sequence {sequence}"))?;
    }
    Ok(())
}
