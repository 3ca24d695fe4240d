//! Restoring: check, stage, load, verify, swap, keep the previous.
//!
//! The live database is never touched before its replacement is loaded and verified; then it is replaced in one
//! transaction. This file is the recipe, [`Session::restore`]; the steps stand beside it. Not here: reading and
//! judging dumps (`dump/`), and the service (`host/guard.rs`).

pub mod back;
pub mod check;
pub mod extensions;
pub mod forward;
mod last_state;
mod left_out;
mod live;
pub mod load;
pub mod names;
pub mod origin;
pub mod outlook;
pub mod previous;
pub mod room;
pub mod rows_only;
pub mod staging;
pub mod stored;
pub mod swap;
pub mod undo;
pub mod verify;

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::backup;
use crate::backup::run::{LOCK_WAIT, Wanted};
use crate::database::connect::{QueryContext, server_version};
use crate::database::ident;
use crate::database::lock::{Lock, Purpose};
use crate::database::tools::Tools;
use crate::dump::Contents;
use crate::dump::contents::TableName;
use crate::dump::judge::{Judgement, judge};
use crate::dump::source::{Body, Source};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::ledger::{self, HexId, RunKind};
use crate::migrate::compare::Migration;
use crate::progress::Meter;
use crate::tables::catalog::Table;
use check::Live;
use left_out::LeftOut;
use load::Loader;
use names::Role;
use origin::{Origin, Witness};
use room::Room;
use stored::Stored;
use verify::Verified;

/// How long a run that is at work is waited for by one that nobody would begin again.
const BUSY_WAIT: Duration = Duration::from_mins(30);

/// Where the loaded database goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// In the place of the live one.
    Live,
    /// Beside it, under this name.
    Beside(String),
    /// Nowhere: it is loaded, verified and dropped.
    Drill,
}

/// What the command line allows and asks for.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Parallel jobs for an archive.
    pub jobs: u32,
    /// Statements that `pg_dump` never writes are let pass.
    pub trust_dump: bool,
    /// A dump of a newer server or application is let pass.
    pub allow_newer: bool,
    /// A dump without TeslaMate's tables is let pass.
    pub allow_other: bool,
    /// Owners are not restored.
    pub no_owner: bool,
    /// Privileges are not restored.
    pub no_privileges: bool,
    /// Everything lies in the database's own tablespace.
    pub no_tablespaces: bool,
    /// Extensions that are left out, with what belongs to them.
    pub skip_extensions: Vec<String>,
    /// Settings and privileges of the database that the role may not give are left out.
    pub no_properties: bool,
    /// Only definitions.
    pub schema_only: bool,
    /// Only these tables.
    pub tables: Vec<String>,
    /// The live database is not backed up first, even where there is a repository.
    pub no_safety_backup: bool,
    /// The result is not meant to be whole.
    pub partial: bool,
    /// Free space is not checked beforehand.
    pub ignore_free_space: bool,
    /// The locale of the new database, where it is not to be the one that it had: `libc:NAME`, `icu:NAME`, `builtin:NAME`.
    pub locale: Option<String>,
    /// Migrations of the application that came since are not run.
    pub as_it_was: bool,
    /// The service's unit.
    pub unit: String,
}

impl Policy {
    /// Parallel jobs where nobody says how many: one per CPU, at most 8.
    #[must_use]
    pub fn default_jobs() -> u32 {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        u32::try_from(cpus).unwrap_or(1).min(8)
    }

    /// The same, where a partitioned table stands for its partitions too.
    #[must_use]
    pub fn with_partitions(&self, contents: &Contents) -> Self {
        let mut policy = self.clone();
        let mut number = 0;
        // Partitions may be partitioned: what was added is looked at in its turn.
        while let Some(words) = policy.tables.get(number).cloned() {
            number += 1;
            for partition in contents.partitions.iter().filter(|partition| partition.parent.is_called(&words)) {
                let name = partition.child.to_string();
                if !policy.tables.contains(&name) {
                    policy.tables.push(name);
                }
            }
        }
        policy
    }

    /// Whether the rows of this table are wanted. A table is named with or without its schema.
    #[must_use]
    pub fn wants(&self, table: &Table) -> bool {
        self.tables.is_empty() || self.tables.iter().any(|words| table.is_called(words))
    }
}

/// What a restore did.
#[derive(Debug)]
pub struct Restored {
    /// What was verified.
    pub verified: Verified,
    /// Migrations of the application that were run since.
    pub migrated: Vec<Migration>,
    /// The backup of the live database that was taken first.
    pub safety_backup: Option<HexId>,
    /// The name of the database that was replaced.
    pub previous: Option<String>,
    /// Previous databases that were dropped for it.
    pub dropped: Vec<String>,
    /// How long the service was stopped, or would have been.
    pub downtime: Option<Duration>,
    /// How long loading and verifying took.
    pub load: Duration,
    /// All of it.
    pub duration: Duration,
}

/// What is loaded, and with which programs.
#[derive(Clone, Copy)]
struct Material<'a> {
    source: &'a Source,
    stored: Option<&'a Stored>,
    judgement: &'a Judgement,
    tools: &'a Tools,
}

/// A run of a restore command, which holds the lock.
pub struct Session<'a> {
    env: &'a Env,
    lock: Lock,
    /// The server's version, as `server_version_num` counts.
    server: u32,
    /// The service is stopped and started around the swap.
    with_service: bool,
}

impl<'a> Session<'a> {
    /// Takes the lock and cleans up after a run that was killed: its staging databases.
    pub async fn begin(env: &'a Env) -> Result<Self> {
        // A server that is starting up is waited for: a signal must be heard meanwhile.
        let lock = env.interrupt.guard(Lock::take(&env.connector, Purpose::Restore)).await?;
        Ok(Self { with_service: true, ..Self::with_lock(env, lock).await? })
    }

    /// The same for a part of the service's own start: it is not running, and waits for this to end, as this does for
    /// another run.
    pub async fn begin_before_service(env: &'a Env) -> Result<Self> {
        let meter = Meter::new("waiting for another run to end");
        let waiting = Lock::take_in_turn(&env.connector, Purpose::Restore, BUSY_WAIT, &meter);
        let lock = env.reporter.show(&meter, env.interrupt.guard(Box::pin(waiting))).await?;
        Self::with_lock(env, lock).await
    }

    async fn with_lock(env: &'a Env, lock: Lock) -> Result<Self> {
        let server = server_version(lock.client()).await?;
        let session = Self { env, lock, server, with_service: false };
        for name in staging::sweep(session.client(), &env.connector, session.live_name()).await? {
            env.reporter.info(&format!("dropped \"{name}\", which a run that was killed had left behind"));
        }
        Ok(session)
    }

    pub(crate) fn client(&self) -> &Client {
        self.lock.client()
    }

    fn live_name(&self) -> &str {
        &self.env.settings.database.name
    }

    /// The recipe. Of a backup in the repository, `source` holds the definitions and `stored` the rows.
    pub async fn restore(
        &self,
        source: &Source,
        stored: Option<&Stored>,
        destination: &Destination,
        policy: &Policy,
    ) -> Result<Restored> {
        let started = Instant::now();
        let env = self.env;
        for warning in &source.warnings {
            env.reporter.warn(warning);
        }
        if *destination == Destination::Live && self.with_service {
            // Hours before it is stopped.
            env.host.service_can_come_back().await.map_err(|error| error.or_state("nothing was touched"))?;
        }
        let tools = Tools::find(&env.connector, env.settings.database.tools.as_deref(), self.server).await?;
        let mut judgement = env.interrupt.guard(self.judge(source, &tools)).await?;
        if let Some(stored) = stored {
            stored.complete(&mut judgement.contents);
            stored.is_of(self.live_name(), destination, policy)?;
            stored.tell_remarks(env);
        }
        let live = match Live::read(self.client(), &env.connector).await? {
            Some((live, None)) => Some(live),
            Some((live, Some(remark))) => {
                env.reporter.warn(&format!("the live database cannot be looked into:\n{remark}"));
                Some(live)
            }
            None => None,
        };
        if let (Some(stored), Destination::Live) = (stored, destination) {
            stored.is_of_cluster(env, self.client(), live.is_some(), policy).await?;
        }
        let live_name = live.as_ref().map(|_| self.live_name());
        let contents = &judgement.contents;
        let origin = Origin::find(self.client(), env, live_name, contents, stored, destination, policy).await?;
        judgement.contents.roles.extend(origin.roles());
        self.check(&judgement, live.as_ref(), source, stored.is_some(), destination, policy, &origin).await?;
        let policy = &policy.with_partitions(&judgement.contents);
        self.tell_what_is_left(&judgement.contents, policy);
        let copy = room::needed(live.as_ref(), &judgement.contents, stored, policy);
        let room = self.room(copy, &origin, destination, policy).await?;
        let release = forward::release(env, &judgement.contents, destination, policy)?;

        let safety_backup = match (destination, &live) {
            (Destination::Live, Some(_)) => self.back_up_first(policy, "before a restore").await?,
            _ => None,
        };
        let databases = staging::databases(self.client()).await?;
        let base = match destination {
            Destination::Beside(name) => name,
            Destination::Live | Destination::Drill => self.live_name(),
        };
        let name = names::fresh(base, Role::Staging, chrono::Utc::now(), &databases);
        // From here on there is something to clean up, whatever happens.
        let material = Material { source, stored, judgement: &judgement, tools: &tools };
        let work = Box::pin(self.stage(&material, destination, policy, &origin, &name, live.as_ref()));
        let work = env.interrupt.guard(room.watch(&env.connector, work));
        let verified = match Box::pin(work).await {
            Ok(verified) => verified,
            Err(error) => return Err(staging::abandon(self.client(), &env.connector, &name, error).await),
        };
        let migrated = match &release {
            None => Vec::new(),
            Some(release) => match Box::pin(forward::bring(env, release, &name)).await {
                Ok(migrated) => migrated,
                Err(error) => return Err(staging::abandon(self.client(), &env.connector, &name, error).await),
            },
        };
        let load = started.elapsed();
        let mut restored = Restored {
            verified,
            migrated,
            safety_backup,
            previous: None,
            dropped: Vec::new(),
            downtime: None,
            load,
            duration: load,
        };
        match destination {
            Destination::Drill => {
                env.reporter.step(&format!("dropping {name}")).await;
                staging::drop_database(self.client(), &env.connector, &name).await.map_err(|error| {
                    error.escalate(Kind::Attention).hint(format!("psql -c 'DROP DATABASE {}'", ident(&name)))
                })?;
            }
            Destination::Beside(target) => self.rename_beside(&name, target).await?,
            Destination::Live => self.go_live(&name, live.is_some(), &origin.properties, &mut restored).await?,
        }
        restored.duration = started.elapsed();
        Ok(restored)
    }

    /// Backs the live database up, where there is a repository: cheap, since little changed since the last time.
    async fn back_up_first(&self, policy: &Policy, comment: &str) -> Result<Option<HexId>> {
        let env = self.env;
        if policy.no_safety_backup || env.settings.repository.is_none() {
            return Ok(None);
        }
        let wanted = Wanted {
            full_read: false,
            lock_wait: LOCK_WAIT,
            purpose: ledger::Purpose::Safety,
            comment: Some(comment.to_owned()),
        };
        let mut session = backup::session::Session::begin_anyway(env, RunKind::Backup, true)?;
        let taken = backup::run::take_locked(env, &mut session, &wanted, &self.lock).await;
        let taken = session.end(taken).map_err(|error| {
            error
                .with("while", "backing up the live database before it is replaced")
                .hint("If it is beyond backing up, repeat this with --no-safety-backup: it is kept beside the new one anyway.")
        })?;
        Ok(Some(taken.noted.facts.id))
    }

    /// Tables that inherit from a wanted one have rows of their own, which are not taken with it.
    fn tell_what_is_left(&self, contents: &Contents, policy: &Policy) {
        let is_wanted = |table: &TableName| policy.tables.iter().any(|words| table.is_called(words));
        for (child, parent) in &contents.children {
            if is_wanted(parent) && !is_wanted(child) {
                self.env
                    .reporter
                    .warn(&format!("{child} inherits from {parent} and is not taken: add --table {child}"));
            }
        }
    }

    async fn judge(&self, source: &Source, tools: &Tools) -> Result<Judgement> {
        let reporter = &self.env.reporter;
        reporter.step(&format!("checking {} ({})", source.name, source.format.word())).await;
        let meter = Meter::new("checking");
        reporter.show(&meter, judge(source, tools, &meter)).await
    }

    /// Everything that can be known beforehand.
    #[allow(clippy::too_many_arguments, reason = "a step of the recipe above")]
    async fn check(
        &self,
        judgement: &Judgement,
        live: Option<&Live>,
        source: &Source,
        is_ours: bool,
        destination: &Destination,
        policy: &Policy,
        origin: &Origin,
    ) -> Result<()> {
        let contents = &judgement.contents;
        let is_plain = matches!(source.body, Body::Plain { .. });
        if policy.partial && is_plain {
            return Err(Error::new(
                Kind::Refused,
                format!("{} is SQL text: a part of it cannot be taken", source.name),
            )
            .with("state", "nothing was touched")
            .hint("Restore all of it with --into NAME, and take the part from there with pg_dump."));
        }
        if let Destination::Beside(name) = destination
            && staging::databases(self.client()).await?.contains(name)
        {
            return Err(Error::new(Kind::Refused, format!("database \"{name}\" exists already"))
                .with("state", "nothing was touched")
                .hint("Name a database that does not exist; without --into the live one is replaced safely."));
        }
        check::contents(contents, live, self.server, is_ours, policy)?;
        let live_name = live.map(|_| self.live_name());
        let locale = self.locale_here(origin, policy).await.err();
        let allowed = check::rights(self.client(), live_name, contents, policy).await;
        match (allowed, locale) {
            (Ok(()), None) => {}
            (Ok(()), Some(error)) | (Err(error), None) => return Err(error),
            (Err(error), Some(locale)) => return Err(both(error, &locale)),
        }
        if is_plain {
            check::large_objects(self.client(), contents).await?;
        }
        if let (Some(name), Destination::Live) = (live_name, destination) {
            check::nothing_in_the_way(self.client(), name).await?;
        }
        Ok(())
    }

    /// Whether there is room, on the disks of the server.
    async fn room(&self, copy: u64, origin: &Origin, destination: &Destination, policy: &Policy) -> Result<Room> {
        let env = self.env;
        let room = Room::look(self.client(), &env.connector, &origin.properties.tablespace, copy).await?;
        if let Some(remark) = &room.unknown {
            env.reporter.warn(remark);
        }
        match room.check(self.client(), self.live_name(), destination).await {
            Err(error) if policy.ignore_free_space => env.reporter.warn(error.message()),
            checked => checked?,
        }
        Ok(room)
    }

    /// Whether the server has the encoding and the locale, where the live database does not prove it.
    async fn locale_here(&self, origin: &Origin, policy: &Policy) -> Result<()> {
        if policy.locale.is_none() && matches!(origin.witness, Witness::Live | Witness::Nobody) {
            return Ok(());
        }
        let databases = staging::databases(self.client()).await?;
        let name = names::fresh(self.live_name(), Role::Staging, chrono::Utc::now(), &databases);
        origin.probe(self.client(), &self.env.connector, &name, self.server).await
    }

    /// Settings and privileges of the live database that this role may not give to another one: a drill and a copy go
    /// without them, and say so; for the live database a person has to choose.
    fn tell_forbidden(
        &self,
        forbidden: &[(String, String)],
        name: &str,
        destination: &Destination,
        policy: &Policy,
    ) -> Result<()> {
        if forbidden.is_empty() {
            return Ok(());
        }
        let target = match destination {
            Destination::Beside(target) => target,
            Destination::Live | Destination::Drill => self.live_name(),
        };
        let lines = |with_cause: bool| {
            let line = |(statement, cause): &(String, String)| {
                let statement = statement.replacen(&ident(name), &ident(target), 1);
                let cause = cause.lines().next().unwrap_or_default();
                if with_cause { format!("{statement}; -- {cause}") } else { format!("{statement};") }
            };
            forbidden.iter().map(line).collect::<Vec<_>>().join("\n")
        };
        let user = &self.env.settings.database.user;
        let what = format!("role \"{user}\" may not give the new database everything that the live one has");
        match destination {
            Destination::Live if !policy.no_properties => Err(Error::new(Kind::Refused, what)
                .with("statements", lines(true))
                .with("state", "nothing was loaded; the live database and its service are as they were")
                .hint("Restore as a superuser (DATABASE_USER), or go without them with --no-properties and run these as a superuser afterwards.")),
            Destination::Live | Destination::Beside(_) => {
                self.env.reporter.warn(&format!("{what}; as a superuser, run afterwards:\n{}", lines(false)));
                Ok(())
            }
            Destination::Drill => {
                self.env.reporter.warn(&format!("{what}; a restore would need --no-properties:\n{}", lines(true)));
                Ok(())
            }
        }
    }

    /// Makes the staging database, loads it, verifies it, and gives it what no dump carries.
    async fn stage(
        &self,
        material: &Material<'_>,
        destination: &Destination,
        policy: &Policy,
        origin: &Origin,
        name: &str,
        live: Option<&Live>,
    ) -> Result<Verified> {
        let env = self.env;
        let contents = &material.judgement.contents;
        env.reporter.step(&format!("loading into {name}")).await;
        staging::create(self.client(), &env.connector, self.live_name(), name, &origin.properties, self.server).await?;
        let mut origin = origin.clone();
        if origin.witness == Witness::Live {
            let forbidden = origin.properties.take_out_forbidden(self.client(), name).await?;
            self.tell_forbidden(&forbidden, name, destination, policy)?;
        }
        // Of a part of a dump, extensions are not loaded.
        let made = if policy.tables.is_empty() {
            extensions::try_out(&env.connector, name, contents, policy).await?
        } else {
            extensions::Made::default()
        };
        let left_out = LeftOut::new(policy, destination, contents, made.absent);
        for remark in left_out.remarks(contents) {
            env.reporter.warn(&remark);
        }
        self.load(material, policy, &left_out, &origin.properties, name).await?;

        env.reporter.step("verifying").await;
        let (client, other) = tokio::try_join!(env.connector.connect_to(name), env.connector.connect_to(name))?;
        // Each keeps one CPU busy.
        // It evaluates expressions of indexes, which may fail where the load did not; autovacuum gathers what is missing.
        let analyzing = async {
            match other.batch_execute("ANALYZE").await {
                Err(cause) if cause.as_db_error().is_some() => {
                    let cause = crate::database::connect::chain(&cause);
                    env.reporter.warn(&format!("not all statistics could be gathered, ANALYZE ended with: {cause}"));
                    Ok(())
                }
                done => done.query_context("cannot gather statistics"),
            }
        };
        let verifying = async {
            let expected = verify::Expected { contents, left_out: &left_out, made: &made.rows };
            if policy.partial {
                return verify::part(&client, &expected, policy).await;
            }
            verify::verify(&client, &expected, Live::expects_teslamate(live, policy)).await
        };
        let ((), verified) = tokio::try_join!(analyzing, verifying)?;
        for remark in &verified.remarks {
            env.reporter.warn(remark);
        }
        drop((client, other));
        origin.apply(self.client(), env, name).await?;
        Ok(verified)
    }

    /// Loads with parallel jobs, and once more in the order of the dump if that fails: a CHECK or an index may call a
    /// function that reads another table.
    async fn load(
        &self,
        material: &Material<'_>,
        policy: &Policy,
        left_out: &LeftOut,
        properties: &crate::database::Properties,
        name: &str,
    ) -> Result<()> {
        let env = self.env;
        let Material { source, stored, judgement, tools } = *material;
        let loader = |jobs| Loader {
            connector: &env.connector,
            client: self.client(),
            tools,
            reporter: &env.reporter,
            policy,
            left_out,
            jobs,
        };
        let Err(error) = loader(policy.jobs).load(source, stored, judgement, name).await else { return Ok(()) };
        if !load::may_load_in_order(&error, policy.jobs) {
            return Err(error);
        }
        let what =
            format!("the load with {} jobs failed; loading again with one, in the order of the dump", policy.jobs);
        env.reporter.warn(&what);
        staging::drop_database(self.client(), &env.connector, name).await?;
        staging::create(self.client(), &env.connector, self.live_name(), name, properties, self.server).await?;
        loader(1).load(source, stored, judgement, name).await
    }
}

/// Two things that are missing, said at once.
fn both(error: Error, other: &Error) -> Error {
    let error = error.with("locale", other.message());
    other.hints().iter().fold(error, Error::hint)
}
