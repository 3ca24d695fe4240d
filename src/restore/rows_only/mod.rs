//! Rows of a backup in the place of the live ones: `--data-only`, one transaction, the definitions stay.
//!
//! The rows are loaded beside the live ones first, into temporary tables, so that it is known which live rows the backup
//! does not have before anybody is asked. Then one transaction locks the tables against writers, removes and adds the
//! rows that differ, and commits. Readers go on, with the rows that their snapshot sees.
//!
//! Neither triggers nor foreign keys fire meanwhile (`session_replication_role`). What the server does not look at for
//! that reason is looked at before the commit: foreign keys, and uniqueness that is deferrable (`constraints.rs`). Where
//! something does not hold, nothing has changed.
//!
//! A trigger that would fire all the same (`ENABLE ALWAYS`) is refused (`triggers.rs`): the rows become what they were.

mod after;
mod computed;
mod constraints;
mod definitions;
mod event_triggers;
mod incoming;
mod insert;
mod meant;
mod of_extensions;
mod publications;
mod sequences;
mod settings;
mod shapes;
mod texts;
mod triggers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::previous::{self, RowsReplaced};
use super::room::Room;
use super::stored::Stored;
use super::{Destination, Policy, Session, tokens};
use crate::database::Setting;
use crate::database::connect::{QueryContext, chain};
use crate::dump::contents::{SequenceValue, TableName};
use crate::dump::source::Source;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::ledger::HexId;
use crate::progress::Meter;
use crate::tables::manifest::TableEntry;
use computed::Computed;
use incoming::Incoming;

const UNTOUCHED: &str = "the live database is as it was";

/// The advice where the live rows cannot be backed up first. No previous database keeps them.
const BEYOND_BACKUP: &str = "Nothing else keeps the rows that go: --no-safety-backup loses them for good. Copy these tables first \
     (pg_dump --table), or load the backup with --into NAME, and take the rows from there.";

/// How long a table that is in use is waited for.
const LOCK_WAIT: &str = "10s";

/// The application's record of its migrations: it is about the definitions, which stay.
const BOOKKEEPING: &str = "schema_migrations";

/// Result of replacing rows.
#[derive(Debug)]
pub struct Replaced {
    /// The tables, with their rows now.
    pub tables: Vec<(String, u64)>,
    /// Tables with rows that the backup does not have, which were removed, and how many.
    pub removed: Vec<(String, u64)>,
    /// The backup of the live database that was taken first.
    pub safety_backup: Option<HexId>,
    /// Foreign keys that were checked.
    pub keys: usize,
    /// Tables that were left alone, since the backup does not have them or since they are about definitions.
    pub left: Vec<String>,
    /// Materialized views that show the rows from before.
    pub stale_views: Vec<String>,
    /// All of it.
    pub duration: Duration,
}

/// A table before its rows are replaced.
#[derive(Clone, Debug)]
pub struct Before {
    /// `"schema"."name"`
    pub name: String,
    /// Its rows in the live database.
    pub live: u64,
    /// Its rows in the backup.
    pub backup: u64,
    /// Live rows that the backup does not have.
    pub surplus: u64,
}

/// The rows of a backup, loaded beside the live ones.
pub struct Loaded<'a> {
    client: Client,
    /// The process of the server behind `client`.
    pid: i32,
    /// The `search_path` that the application has.
    search_path: String,
    /// Its settings that expressions see.
    application: Vec<Setting>,
    entries: Vec<&'a TableEntry>,
    staged: Vec<Incoming>,
    /// The values of the sequences of the backup, if its definitions could be read.
    sequences: Option<BTreeMap<TableName, SequenceValue>>,
    started: Instant,
    /// The tables whose rows would be replaced.
    pub before: Vec<Before>,
}

impl<'a> Loaded<'a> {
    /// Loads the rows of the wanted tables, of all without `policy.tables`, and compares. Nothing is locked. `definitions`
    /// are those of the backup.
    ///
    /// # Errors
    /// [`Kind::Refused`] if a table is not in the backup or has other columns now, or if the role may not.
    pub async fn load(env: &Env, stored: &'a Stored, definitions: &Source, policy: &Policy) -> Result<Self> {
        let started = Instant::now();
        stored.is_of(&env.settings.database.name, &Destination::Live, policy)?;
        let meter = Meter::new("loading rows beside the live ones");
        let client = env.interrupt.guard(env.connector.connect()).await?;
        stored.is_of_cluster(env, &client, true, policy).await?;
        // The temporary tables lie beside those that they are compared with.
        let room = Room::look(&client, &env.connector, "", 0).await?;
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).await.query_context("cannot begin")?.get(0);
        let search_path = settings::application_path(env).await?;
        let application = env.connector.application_settings().await?;
        let work = async {
            begin(&client).await?;
            let contents = definitions::read(&client, env, definitions).await;
            let contents = match contents {
                Ok(contents) => Some(contents),
                // Only a part of what is wanted needs them.
                Err(error) if policy.tables.is_empty() => {
                    let what = "partitions and sequences are not compared with the definitions of the backup";
                    env.reporter.warn(&format!("{what}: {}", error.message()));
                    None
                }
                Err(error) => return Err(error),
            };
            let entries = meant::meant(&client, env, stored, contents.as_ref(), policy).await?;
            let staged = incoming::stage(&client, stored, &entries, &meter).await?;
            meter.now("comparing");
            let queries: Vec<String> = staged.iter().flat_map(|table| [table.count(), table.surplus()]).collect();
            let numbers = incoming::numbers(&client, &queries, "cannot compare the rows").await?;
            let before = staged.iter().zip(numbers.chunks(2)).map(|(table, numbers)| Before {
                name: table.name.clone(),
                live: numbers.first().copied().unwrap_or(0),
                backup: table.rows,
                surplus: numbers.last().copied().unwrap_or(0),
            });
            let before = before.collect();
            let oids: Vec<u32> = staged.iter().map(|table| table.oid).collect();
            for child in after::children_left_alone(&client, &oids).await? {
                env.reporter.warn(&format!("{child} inherits and is not meant: its rows stay as they are"));
            }
            let sequences = contents.map(|contents| contents.sequences);
            Ok((entries, staged, before, sequences))
        };
        let work = env.interrupt.guard(Box::pin(room.watch(&env.connector, work)));
        let loaded = env.reporter.show(&meter, work).await.map_err(|error: Error| error.or_state(UNTOUCHED));
        if loaded.is_err()
            && let Ok(other) = env.connector.connect().await
        {
            end_process(&other, pid).await;
        }
        let (entries, staged, before, sequences) = loaded?;
        Ok(Self { client, pid, search_path, application, entries, staged, sequences, started, before })
    }

    /// Which tables, as people name them on the command line.
    fn called(&self) -> Vec<String> {
        self.entries.iter().map(|entry| format!("{}.{}", entry.table.schema, entry.table.name)).collect()
    }

    fn oids(&self) -> Vec<u32> {
        self.staged.iter().map(|table| table.oid).collect()
    }
}

impl Session<'_> {
    /// Replaces the rows.
    ///
    /// # Errors
    /// [`Kind::Refused`] if a row would point nowhere or exclude another one; [`Kind::Busy`] if a table stays locked. The
    /// live database is as it was then.
    pub async fn replace_rows(&self, stored: &Stored, loaded: &Loaded<'_>, policy: &Policy) -> Result<Replaced> {
        let env = self.env;
        stored.tell_remarks(env);
        let comment = format!("before --data-only of {}", loaded.called().join(", "));
        let (client, oids) = (&loaded.client, loaded.oids());
        let since = oldest_running(client).await?;
        let first = self.back_up_first(policy, &comment, BEYOND_BACKUP).await;
        let first = first.map_err(|error| error.with("state", UNTOUCHED))?;
        env.reporter.step("replacing rows").await;
        let meter = Meter::new("replacing rows");
        let locking = env.interrupt.guard(Box::pin(lock(loaded)));
        let locked = env.reporter.show(&meter, locking).await;
        self.ended_on_failure(loaded.pid, locked).await?;
        // The application went on until now. What it wrote is in a backup, too, before any of it is replaced.
        let safety_backup = if first.is_some() && written_since(client, &loaded.staged, since).await? {
            env.reporter.step("backing up what was written meanwhile").await;
            let second = self.back_up_first(policy, &comment, BEYOND_BACKUP).await;
            self.ended_on_failure(loaded.pid, second).await?
        } else {
            first
        };
        let note = RowsReplaced {
            at: chrono::Utc::now(),
            tables: loaded.called(),
            backup: stored.noted.facts.id.as_str().to_owned(),
            safety_backup: safety_backup.as_ref().map(|id| id.as_str().to_owned()),
        };
        let work = async {
            let done = replace(loaded, &meter).await?;
            // A restore's previous database is older than this from now on: an undo must not bring it back unasked.
            previous::note_rows_replaced(client, self.live_name(), &note, &env.reporter).await?;
            Ok::<_, Error>(done)
        };
        // The rows that are replaced stay on the disk until the commit.
        let room = Room::look(self.client(), &env.connector, "", 0).await?;
        let work = env.interrupt.guard(Box::pin(room.watch(&env.connector, work)));
        // An error leaves the transaction open; it ends with the session.
        let replaced = env.reporter.show(&meter, work).await;
        let Done { keys, removed, remarks } = self.ended_on_failure(loaded.pid, replaced).await?;
        // Not cut short by a signal: whoever asks must be told what is so.
        client.batch_execute("COMMIT").await.query_context("cannot commit").map_err(|error| {
            error
                .escalate(Kind::Attention)
                .with("state", "it is not known whether the rows were replaced")
                .hint("Count the rows of one table; then repeat the command, or leave it.")
        })?;
        for remark in &remarks {
            env.reporter.warn(remark);
        }
        if loaded.called().iter().any(|table| table == "private.tokens") {
            tokens::tell(env, self.live_name()).await;
        }
        let names: Vec<&str> = loaded.staged.iter().map(|table| table.name.as_str()).collect();
        // Functions in the expressions of indexes see what they see when the application writes.
        let path = format!("SET search_path = {}", loaded.search_path);
        let analyze = async {
            client.batch_execute(&path).await?;
            client.batch_execute(&format!("ANALYZE {}", names.join(", "))).await?;
            client.batch_execute("SET search_path = pg_catalog").await
        };
        if let Err(error) = analyze.await {
            let cause = chain(&error);
            env.reporter.warn(&format!("the rows are there, but no statistics: {cause}; ANALYZE gathers them"));
        }
        let told = |error: Error| {
            env.reporter.warn(&format!("the rows are there; {error}"));
            Vec::new()
        };
        let left =
            if policy.tables.is_empty() { after::others(client, &oids).await.unwrap_or_else(told) } else { Vec::new() };
        Ok(Replaced {
            tables: loaded.staged.iter().map(|table| (table.name.clone(), table.rows)).collect(),
            removed,
            safety_backup,
            keys,
            left,
            stale_views: after::materialized_views(client, &oids).await.unwrap_or_else(told),
            duration: loaded.started.elapsed(),
        })
    }
}

impl Session<'_> {
    /// Ends the server's work for a session of ours when it failed or was stopped: the server goes on with a statement
    /// that nobody waits for any more, and keeps its locks and the room that it needs.
    async fn ended_on_failure<T>(&self, pid: i32, result: Result<T>) -> Result<T> {
        if result.is_err() {
            end_process(self.client(), pid).await;
        }
        result.map_err(|error| error.or_state(UNTOUCHED))
    }
}

/// Ends a process of the server, and waits until it is gone.
async fn end_process(client: &Client, pid: i32) {
    // It may have ended by itself.
    let _ = client.query("SELECT pg_terminate_backend($1, 30000)", &[&pid]).await;
}

/// The oldest transaction that runs, as the 32 bits that rows show: what it and all later ones write may not be in a
/// backup that begins now.
async fn oldest_running(client: &Client) -> Result<i64> {
    let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint % 4294967296";
    Ok(client.query_one(sql, &[]).await.query_context("cannot ask for the running transactions")?.get(0))
}

/// Whether the tables have rows that this transaction or a later one wrote. Numbers of transactions go round: what is
/// less than half of the circle ahead is later.
async fn written_since(client: &Client, staged: &[Incoming], since: i64) -> Result<bool> {
    for table in staged {
        let sql = format!(
            "SELECT EXISTS (SELECT FROM ONLY {} WHERE (xmin::text::bigint - $1 + 4294967296) % 4294967296 < 2147483648)",
            table.name
        );
        let failed = format!("cannot look for new rows of {}", table.name);
        if client.query_one(&sql, &[&since]).await.query_context(failed)?.get(0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Prepares the session: no trigger, rule or event trigger fires in it, and no setting changes how rows are compared.
async fn begin(client: &Client) -> Result<()> {
    client.batch_execute("SET session_replication_role = replica").await.map_err(|cause| {
        Error::new(Kind::Refused, "this role may not switch foreign keys off while rows come in")
            .with("cause", crate::database::connect::chain(&cause))
            .hint("As a superuser: ALTER ROLE … SUPERUSER; or load the backup with --into NAME, and take the rows from there.")
    })?;
    let settings = "SET statement_timeout = 0; SET row_security = off; SET extra_float_digits = 1; \
                    SET bytea_output = 'hex'; SET default_transaction_read_only = off; \
                    SET default_transaction_isolation = 'read committed'; SET default_transaction_deferrable = off; \
                    SELECT set_config(name, 'off', false) FROM pg_settings WHERE name = 'event_triggers'";
    client.batch_execute(settings).await.query_context("cannot prepare a session to replace rows")
}

/// Begins the transaction, and holds the tables still.
async fn lock(loaded: &Loaded<'_>) -> Result<()> {
    let (client, staged) = (&loaded.client, &loaded.staged);
    let begin = format!("BEGIN; SET LOCAL lock_timeout = '{LOCK_WAIT}'; SET LOCAL synchronous_commit = on");
    client.batch_execute(&begin).await.query_context("cannot begin a transaction")?;
    // It lets readers pass, and nobody else: not even the check of a foreign key, which reads to lock.
    let names: Vec<String> = staged.iter().map(|table| format!("ONLY {}", table.name)).collect();
    if !names.is_empty() {
        let lock = format!("LOCK TABLE {} IN EXCLUSIVE MODE", names.join(", "));
        let is_gone = |cause: &tokio_postgres::Error| {
            [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME].iter().any(|code| cause.code() == Some(code))
        };
        match client.batch_execute(&lock).await {
            Err(cause) if is_gone(&cause) => return Err(gone(&cause)),
            locked => locked.query_context("cannot lock the tables").map_err(|error| {
                error.hint("Somebody writes to them: try again, or stop the application meanwhile.")
            })?,
        }
    }
    client.batch_execute("SET LOCAL lock_timeout = 0").await.query_context("cannot go on")?;
    incoming::same_again(client, &loaded.entries, staged).await?;
    triggers::refuse(client, &loaded.oids()).await
}

/// The refusal of a table that is gone: no second try of the same finds it.
fn gone(cause: &tokio_postgres::Error) -> Error {
    Error::new(Kind::Refused, "a table was renamed or dropped meanwhile")
        .with("cause", chain(cause))
        .with("state", UNTOUCHED)
        .hint("Repeat the command, which compares the tables anew.")
}

/// Result of everything but the commit.
struct Done {
    /// Foreign keys that hold.
    keys: usize,
    /// Tables with rows that the backup did not have, and how many.
    removed: Vec<(String, u64)>,
    /// Sentences about columns and indexes that were made again, or could not be.
    remarks: Vec<String>,
}

/// All but the commit.
async fn replace(loaded: &Loaded<'_>, meter: &Arc<Meter>) -> Result<Done> {
    let (client, staged, oids) = (&loaded.client, &loaded.staged, loaded.oids());
    let keys = constraints::foreign_keys(client, &oids).await?;
    let mut computed = Computed::find(client, staged).await?;
    meter.now("removing rows");
    let queries: Vec<String> = staged.iter().map(incoming::Incoming::surplus).collect();
    let surplus = incoming::numbers(client, &queries, "cannot compare the rows").await?;
    let removed = staged.iter().zip(surplus).filter(|(_, surplus)| *surplus > 0);
    let removed = removed.map(|(table, surplus)| (table.name.clone(), surplus)).collect();
    incoming::remove(client, staged).await?;
    // Functions in checks, in indexes and in computed columns see the names that they see when the application writes.
    let own = settings::adopt(client, &loaded.application).await?;
    settings::set_path(client, &loaded.search_path).await?;
    insert::insert(client, staged, meter).await?;
    let mut remarks = computed.make_again(client).await?;
    settings::set(client, &own).await?;
    // Names of the catalogue are the server's here, whatever the application calls its own.
    settings::set_path(client, &format!("pg_catalog, {}", loaded.search_path)).await?;
    meter.now("checking constraints");
    for key in &keys {
        key.check(client).await?;
    }
    constraints::check_deferrable(client, &oids).await?;
    client.batch_execute("SET LOCAL search_path = pg_catalog").await.query_context("cannot go on")?;
    insert::count(client, staged).await?;
    // A schema may be renamed without a lock on its tables: what was written has to be what was looked at.
    incoming::same_again(client, &loaded.entries, staged).await?;
    remarks.extend(sequences::advance(client, &oids, loaded.sequences.as_ref()).await?);
    Ok(Done { keys: keys.len(), removed, remarks })
}
