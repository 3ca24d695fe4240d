//! A backup from the repository as something to restore: its definitions are an archive like any other, its rows flow
//! from the repository into COPY, on several connections, without a copy on the disk.
//!
//! Each connection has a thread that reads ahead for it: decrypting and comparing with what was stored go on while the
//! server parses. A big table is loaded by all of them at once, chunk by chunk.

mod chunks;

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::try_join_all;
use tokio_postgres::Client;

use self::chunks::{Piece, Task, Tasks, copy, load_failed, may_depend_on_others, out_of_step, read_ahead};
use super::{Destination, Policy};
use crate::backup::{session, surroundings};
use crate::database::connect::QueryContext;
use crate::database::{Connector, Setting};
use crate::dump::Contents;
use crate::dump::contents::TableName;
use crate::dump::source::Source;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::ledger::Snapshot;
use crate::progress::Meter;
use crate::repository::{Handle, Id, read};
use crate::tables::catalog::{Root, Table};
use crate::tables::definitions;
use crate::tables::manifest::Manifest;

pub use self::chunks::Target;

/// A backup as people tell it from others.
#[must_use]
pub fn called(noted: &Snapshot) -> String {
    format!("backup {} of {}", noted.facts.id.short(), noted.facts.time.format("%F %T UTC"))
}

/// What COPY reads must mean what it meant when it was written.
const FORMATS: &str = "SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'; SET LOCAL timezone = 'UTC'; \
     SET LOCAL lc_monetary = 'C'";

/// For a whole session; nothing in it waits for the disk, since the swap does. Times are written with their offset and in
/// ISO's order, which are read the same under any time zone and style: these are the application's, since expressions see them.
const SETTINGS: &str = "SET lc_monetary = 'C'; SET row_security = off; SET search_path = ''; \
     SET synchronous_commit = off; SET statement_timeout = 0; SET lock_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0;";

/// A backup, found to be whole.
#[derive(Debug)]
pub struct Stored {
    /// What the ledger knows of it.
    pub noted: Snapshot,
    /// What is in it.
    pub manifest: Manifest,
    contents: Arc<read::Contents>,
    /// The backups that the ledger knows beside it.
    known: Vec<Snapshot>,
}

impl Stored {
    /// Opens a backup and makes sure that all of it is there; and its definitions, as an archive in a file without a name.
    ///
    /// # Errors
    /// [`Kind::Verify`] if something is missing or damaged. [`Kind::Store`] if the file cannot be written.
    pub fn open(handle: &Handle, noted: Snapshot, state_dir: &Path) -> Result<(Self, Source)> {
        let id: Id = noted.facts.id.as_str().parse()?;
        let contents = read::open(handle, id)?;
        contents.blobs_present()?;
        let manifest = session::manifest(&contents, &noted)?;
        let stored = Self { noted, manifest, contents: Arc::new(contents), known: Vec::new() };
        stored.compare_files()?;
        let name = called(&stored.noted);
        let definitions = Source::of_archive(&name, stored.contents.extract(definitions::PATH, state_dir)?);
        Ok((stored, definitions))
    }

    /// The same with the ledger's leave: the run of the command is noted there with this backup.
    ///
    /// # Errors
    /// What opening the repository says, too.
    pub async fn from_repository(
        env: &Env,
        noted: &mut session::Session<'_>,
        wanted: Snapshot,
    ) -> Result<(Self, Source)> {
        noted.figures.snapshot = Some(wanted.facts.id.clone());
        let handle = noted.open(session::Access::Read).await?;
        env.reporter.step(&format!("looking whether all of {} is there", called(&wanted))).await;
        noted.refuse_outdated_latest(&handle, &wanted).await?;
        let state_dir = crate::scratch::directory(&env.settings.state_dir);
        let (stored, source) = noted.on_thread(move || Self::open(&handle, wanted, &state_dir)).await?;
        Ok((Self { known: noted.ledger.list()?, ..stored }, source))
    }

    /// Whether the files are those that the manifest names, with the bytes that it says.
    fn compare_files(&self) -> Result<()> {
        let files: std::collections::HashMap<String, u64> =
            self.contents.files().map(|file| (file.path, file.size)).collect();
        for chunk in self.manifest.tables.iter().flat_map(|entry| &entry.chunks) {
            if files.get(&chunk.path) != Some(&chunk.bytes) {
                let what = format!("{} of the backup is not what its manifest says", chunk.path);
                return Err(Error::new(Kind::Verify, what));
            }
        }
        Ok(())
    }

    /// Whether this may become the live database: a backup of another one may not, unless it is asked for.
    pub fn is_of(&self, live: &str, destination: &Destination, policy: &Policy) -> Result<()> {
        let name = self.manifest.facts.database["datname"].as_str().unwrap_or_default();
        if *destination != Destination::Live || name == live || policy.allow_other {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, format!("the backup is of database \"{name}\", not of \"{live}\""))
            .with("state", "the live database was not touched")
            .hint("Look at it with --into NAME. If it is meant to replace this one, repeat it with --allow-other."))
    }

    /// Whether it comes from the cluster that it is to become live in. Where that has backups of its own, another one's
    /// may not, unless it is asked for; where it has none, as on a new machine, it is said.
    ///
    /// # Errors
    /// [`Kind::Refused`] then.
    pub async fn is_of_cluster(&self, env: &Env, client: &Client, exists: bool, policy: &Policy) -> Result<()> {
        let of = &self.manifest.facts.system_identifier;
        let present = session::system_identifier(client).await?;
        if *of == present {
            return Ok(());
        }
        let host = self.noted.facts.host.as_deref().unwrap_or("another machine");
        if !exists || policy.allow_other || !session::knows(&self.known, &present) {
            env.reporter.info(&format!("{} comes from another cluster: host {host}, {of}", called(&self.noted)));
            return Ok(());
        }
        Err(Error::new(Kind::Refused, format!("{} is of another cluster", called(&self.noted)))
            .with("from", format!("host {host}, cluster {of}"))
            .with("here", format!("cluster {present}, which has backups of its own"))
            .with("state", "the live database was not touched")
            .hint("Look at it with --into NAME. If it is meant to replace this one, repeat it with --allow-other."))
    }

    /// Says what a person wants to know before this goes live: whether the application will be able to use it.
    pub fn tell_remarks(&self, env: &Env) {
        let around = &self.manifest.surroundings;
        let present = env.settings.service.executable.as_deref().and_then(surroundings::release);
        if let Some(release) = &around.release
            && present.as_ref() != Some(release)
        {
            let present = present.map_or_else(String::new, |present| format!("; the present one is {present}"));
            let what = format!("the backup was taken with release {release} of the application{present}");
            env.reporter.info(&what);
        }
    }

    /// Adds to what was found in the definitions what is known of the rows.
    pub fn complete(&self, contents: &mut Contents) {
        for entry in &self.manifest.tables {
            let (schema, name) = entry.table.loaded_through();
            let name = TableName { schema: schema.to_owned(), name: name.to_owned() };
            *contents.rows.entry(name).or_default() += entry.rows;
        }
        contents.bytes += self.manifest.bytes();
        contents.server_version = Some(self.manifest.facts.server_version);
        contents.newest_migration = self.manifest.facts.migrations.as_ref().map(|migrations| migrations.newest);
    }

    /// Loads the rows of the wanted tables into a database that has the tables, on as many connections as there are jobs,
    /// and compares their number, chunk by chunk.
    ///
    /// With one job, tables are loaded in the order of `pg_dump`, which is that of their names. Rows that a CHECK refuses
    /// then come again after the others: its function may read a table that is loaded later.
    pub async fn load(
        &self,
        connector: &Connector,
        database: &str,
        application: &[Setting],
        policy: &Policy,
        jobs: u32,
        meter: &Arc<Meter>,
    ) -> Result<()> {
        let partly_wanted = self.partly_wanted(policy);
        let into = |table: &Table| {
            let by_itself = table.root.as_ref().is_some_and(|root| partly_wanted.contains(root));
            let target = || if by_itself { table.copy_source() } else { table.copy_target() };
            policy.wants(table).then(|| target().into())
        };
        let tasks = self.tasks(meter, &into);
        let mut clients = Vec::new();
        for _ in 0..jobs.max(1) {
            let client = connector.connect_to_load(database, application).await?;
            let settings = format!("{SETTINGS} SET client_encoding = '{}'", self.encoding());
            client.batch_execute(&settings).await.query_context("cannot prepare a session to load rows")?;
            clients.push(client);
        }
        if let [client] = clients.as_slice() {
            return self.load_in_order(client, tasks, meter).await;
        }
        try_join_all(clients.iter().map(|client| self.work(client, tasks.clone(), meter))).await.map(drop)
    }

    async fn load_in_order(&self, client: &Client, mut tasks: Tasks, meter: &Arc<Meter>) -> Result<()> {
        loop {
            let wanted = tasks.lock().unwrap_or_else(PoisonError::into_inner).len();
            let mut refused = Vec::new();
            self.work_through(client, tasks, meter, Some(&mut refused)).await?;
            if refused.is_empty() {
                return Ok(());
            }
            if refused.len() == wanted {
                return Err(refused.swap_remove(0).1);
            }
            tasks = Arc::new(Mutex::new(refused.into_iter().map(|(task, _)| task).collect()));
        }
    }

    /// Loads all rows in one session, whose transaction the caller ends. `into` says where to, for a table whose rows are
    /// wanted.
    pub async fn load_into(
        &self,
        client: &Client,
        meter: &Arc<Meter>,
        into: &(dyn Fn(&Table) -> Option<Target> + Sync),
    ) -> Result<()> {
        let settings = format!("{FORMATS}; SET LOCAL client_encoding = '{}'", self.encoding());
        client.batch_execute(&settings).await.query_context("cannot prepare a session to load rows")?;
        self.work(client, self.tasks(meter, into), meter).await
    }

    /// The partitioned tables of which some partitions are wanted and some are not.
    ///
    /// Between rows that stay, a row that went through the root into another partition could be there twice. Loaded into its own, it is refused
    /// by the server if it does not belong there.
    fn partly_wanted(&self, policy: &Policy) -> HashSet<&Root> {
        let unwanted = self.manifest.tables.iter().filter(|entry| !policy.wants(&entry.table));
        unwanted.filter_map(|entry| entry.table.root.as_ref()).collect()
    }

    /// The encoding of the rows: that of the database if it is unknown, and the server then checks that they fit into the new one.
    fn encoding(&self) -> &'static str {
        if self.manifest.facts.database["encoding"] == "SQL_ASCII" { "SQL_ASCII" } else { "UTF8" }
    }

    fn tasks(&self, meter: &Meter, into: &(dyn Fn(&Table) -> Option<Target> + Sync)) -> Tasks {
        let mut tasks = VecDeque::new();
        let mut total = 0;
        for entry in &self.manifest.tables {
            let Some(target) = into(&entry.table) else { continue };
            let (table, target) = (Arc::new(entry.table.clone()), Arc::new(target));
            for chunk in &entry.chunks {
                total += chunk.bytes;
                tasks.push_back(Task { table: table.clone(), target: target.clone(), chunk: chunk.clone() });
            }
        }
        meter.begin("loading rows", total);
        Arc::new(Mutex::new(tasks))
    }

    async fn work(&self, client: &Client, tasks: Tasks, meter: &Arc<Meter>) -> Result<()> {
        self.work_through(client, tasks, meter, None).await
    }

    /// Loads one chunk after the other; with `refused`, those that other rows may be missing for are put there.
    async fn work_through(
        &self,
        client: &Client,
        tasks: Tasks,
        meter: &Arc<Meter>,
        mut refused: Option<&mut Vec<(Task, Error)>>,
    ) -> Result<()> {
        let mut pieces = read_ahead(self.contents.clone(), tasks);
        while let Some(piece) = pieces.recv().await {
            let Piece::Begin(task) = piece? else { return Err(out_of_step()) };
            let table = task.table.qualified();
            meter.now(&format!("{}.{}", task.table.schema, task.table.name));
            let rows = match copy(client, &task, &mut pieces, meter).await? {
                Ok(rows) => rows,
                Err(cause) => {
                    let error = load_failed(&table, &task.chunk.path, &cause);
                    match &mut refused {
                        Some(refused) if may_depend_on_others(&cause) => {
                            refused.push((task, error));
                        }
                        _ => return Err(error),
                    }
                    continue;
                }
            };
            meter.rows.fetch_add(rows, Ordering::Relaxed);
            if rows != task.chunk.rows && task.target.condition.is_none() {
                return Err(Error::new(Kind::Verify, format!("{table} did not get the rows that it had"))
                    .with("file", &task.chunk.path)
                    .with("rows", format!("{rows}, the manifest says {}", task.chunk.rows)));
            }
        }
        Ok(())
    }
}
