//! The moment of a dump: a snapshot that `pg_dump` joins, and the proof that its definitions are those that `pg_dump` met.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::oneshot;

use super::Contents;
use super::contents::TableName;
use crate::database::Connector;
use crate::database::connect::QueryContext;
use crate::error::Result;
use crate::tables::unchanged::{self, Change, Scope, Seen};
use crate::tables::{Snapshot, locks};

/// How often a dump begins while somebody alters the schema.
const ATTEMPTS: u32 = 6;

/// Between two of them, the first time.
const PAUSE: Duration = Duration::from_millis(50);

/// The tables that `pg_dump` locks, by their quoted names. Names of unknown encoding cannot be read here.
const TABLES: &str = "\
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' \
          AND (current_setting('server_encoding') <> 'SQL_ASCII' OR format('%s%s', n.nspname, c.relname) ~ '^[ -~]*$') \
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass \
                          AND d.objid = c.oid AND d.deptype = 'e')";

/// A snapshot that is held, and what it sees.
pub struct Moment {
    snapshot: Snapshot,
    seen: Seen,
    /// Only some tables are dumped.
    is_partial: bool,
    /// No other attempt follows.
    is_last: bool,
    /// The definitions were compared when `pg_dump` had read all of them.
    compared: AtomicBool,
}

/// Whether rows of a partition may belong into another one elsewhere: it is chosen by the hash of something that is made of other types, in which
/// there may be an enum, whose hash depends on OIDs. `pg_dump` itself knows this of an enum alone.
const MOVES: &str = "\
    SELECT EXISTS (SELECT FROM pg_catalog.pg_partitioned_table p CROSS JOIN LATERAL unnest(p.partattrs::int2[]) AS k (number) \
                   LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.number \
                   LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
                   WHERE p.partstrat = 'h' AND (k.number = 0 OR t.typtype <> 'b' OR t.typcategory = 'A'))";

impl Moment {
    /// Exports a snapshot and locks the tables in it that nobody else has locked: from then on they stay as the snapshot sees them. `pg_dump`
    /// waits for the others, and what happens to them until then is found later. Of a partial dump nothing is locked, since a role need not have
    /// a right to the rest.
    pub async fn begin(connector: &Connector, lock_wait: Duration, is_partial: bool, is_last: bool) -> Result<Self> {
        let mut attempt = 1;
        loop {
            let snapshot = Snapshot::export(connector, lock_wait).await?;
            let seen = Seen::read(&snapshot).await?;
            let locked = if is_partial { Ok(false) } else { lock(&snapshot).await };
            let compared = match locked {
                Ok(true) => seen.compare(&snapshot, connector, Scope::Definitions, attempt == ATTEMPTS).await,
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            };
            match compared {
                Err(error) if unchanged::is_change(&error) && attempt < ATTEMPTS => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(Self { snapshot, seen, is_partial, is_last, compared: AtomicBool::new(false) }),
            }
            tokio::time::sleep(PAUSE * attempt).await;
            attempt += 1;
        }
    }

    /// `pg_dump`'s arguments: `--snapshot=…`, and `--load-via-partition-root` and `--encoding` where they are needed.
    pub async fn arguments(&self) -> Result<Vec<String>> {
        let mut arguments = vec![format!("--snapshot={}", self.snapshot.id())];
        let row = self.snapshot.client().query_one(MOVES, &[]).await.query_context("cannot read the catalogue")?;
        if row.get(0) && !self.is_partial {
            arguments.push("--load-via-partition-root".to_owned());
        }
        arguments.extend(self.snapshot.encoding_argument().await?);
        Ok(arguments)
    }

    /// Compares the definitions when `pg_dump` has read all of them, and ends it if they were altered.
    pub async fn watch(
        &self,
        connector: &Connector,
        has_read: oneshot::Receiver<()>,
        pg_dump: &mut Child,
    ) -> Result<()> {
        // Which tables belong to a partial dump is known when it is complete.
        if has_read.await.is_err() || self.is_partial {
            return Ok(());
        }
        let compared = self.seen.compare(&self.snapshot, connector, Scope::Definitions, self.is_last).await;
        self.compared.store(true, Ordering::Relaxed);
        if compared.is_err() {
            let _ = pg_dump.start_kill();
        }
        compared
    }

    /// Compares what the rows depend on, after the last one. `is_final`: the dump cannot be taken back any more.
    pub async fn end(&self, connector: &Connector, contents: &Contents, is_final: bool) -> Result<()> {
        let scope = if self.compared.load(Ordering::Relaxed) { Scope::Rows } else { Scope::Definitions };
        let changes = self.seen.changes(&self.snapshot, connector, scope, self.is_last || is_final).await?;
        let matters = |change: &Change| !self.is_partial || concerns(change, contents);
        unchanged::altered(&changes.into_iter().filter(matters).collect::<Vec<_>>())
    }
}

/// Whether a change concerns a partial dump: its tables, and what is in no table, as long as it is there.
fn concerns(change: &Change, contents: &Contents) -> bool {
    match &change.relation {
        Some((schema, name)) => {
            // A name of unknown encoding is written with escapes here.
            if schema.contains('\\') || name.contains('\\') {
                return true;
            }
            let name = TableName { schema: schema.clone(), name: name.clone() };
            contents.rows.contains_key(&name) || contents.created.contains(&name)
        }
        None => !change.is_gone,
    }
}

/// Locks what can be locked at once, if the server has room for that beside `pg_dump`'s own locks.
async fn lock(snapshot: &Snapshot) -> Result<bool> {
    let client = snapshot.client();
    let rows = client.query(TABLES, &[]).await.query_context("cannot read the catalogue")?;
    let tables: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(locks::room_for(client, tables.len()).await? > 1 && locks::try_all(client, &tables).await?)
}
