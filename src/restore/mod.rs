//! Restoring: check, stage, load, verify, swap, keep the previous.
//!
//! The live database is never touched before its replacement is loaded and verified; then it is replaced in one
//! transaction. This file is the recipe, [`Session::restore`]; the steps stand beside it. Not here: reading and
//! judging dumps (`dump/`), and the service (`host/guard.rs`).

pub mod back;
pub mod check;
pub mod forward;
mod live;
pub mod load;
pub mod names;
pub mod outlook;
pub mod previous;
pub mod properties;
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
use load::Loader;
use names::Role;
use properties::Properties;
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
    /// Only definitions.
    pub schema_only: bool,
    /// Only these tables.
    pub tables: Vec<String>,
    /// The live database is not backed up first, even where there is a repository.
    pub no_safety_backup: bool,
    /// The result is not meant to be whole.
    pub partial: bool,
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
    /// Takes the lock and cleans up after a run that was killed: its staging databases, its stopped service.
    pub async fn begin(env: &'a Env) -> Result<Self> {
        // A server that is starting up is waited for: a signal must be heard meanwhile.
        let lock = env.interrupt.guard(Lock::take(&env.connector, Purpose::Restore)).await?;
        let session = Self::with_lock(env, lock).await?;
        let unit = &env.settings.service.unit;
        match env.host.recover_service().await {
            Ok(false) => {}
            Ok(true) => {
                env.reporter.info(&format!("started {unit}, which a run that was killed had left stopped"));
            }
            // It may not start because of the database that it has: then a restore, or an undo, is what helps.
            Err(error) => {
                env.reporter
                    .warn(&format!("{unit}, which an earlier run left stopped, does not start: {}", error.message()));
            }
        }
        Ok(Self { with_service: true, ..session })
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
        let properties = self.check(&judgement, live.as_ref(), source, destination, policy).await?;
        let policy = &policy.with_partitions(&judgement.contents);
        self.tell_what_is_left(&judgement.contents, policy);
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
        let work = Box::pin(self.stage(source, stored, &judgement, &tools, policy, &properties, &name, live.as_ref()));
        let verified = match env.interrupt.guard(work).await {
            Ok(verified) => verified,
            Err(error) => return Err(staging::abandon(self.client(), &name, error).await),
        };
        let migrated = match &release {
            None => Vec::new(),
            Some(release) => match Box::pin(forward::bring(env, release, &name)).await {
                Ok(migrated) => migrated,
                Err(error) => return Err(staging::abandon(self.client(), &name, error).await),
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
                staging::drop_database(self.client(), &name).await.map_err(|error| {
                    error.escalate(Kind::Attention).hint(format!("psql -c 'DROP DATABASE {}'", ident(&name)))
                })?;
            }
            Destination::Beside(target) => self.rename_beside(&name, target).await?,
            Destination::Live => self.go_live(&name, live.is_some(), &properties, &mut restored).await?,
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
        let mut session = backup::session::Session::begin(env, Some(RunKind::Backup))?;
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

    /// Everything that can be known beforehand; returns the properties of the database to be made.
    async fn check(
        &self,
        judgement: &Judgement,
        live: Option<&Live>,
        source: &Source,
        destination: &Destination,
        policy: &Policy,
    ) -> Result<Properties> {
        let env = self.env;
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
        check::contents(contents, live, self.server, policy)?;
        let live_name = live.map(|_| self.live_name());
        check::rights(self.client(), live_name, contents, policy).await?;
        if is_plain {
            check::large_objects(self.client(), contents).await?;
        }
        if let (Some(name), Destination::Live) = (live_name, destination) {
            check::nothing_in_the_way(self.client(), name).await?;
        }
        let properties = match live_name {
            Some(name) => Properties::read(self.client(), name).await?,
            None => None,
        };
        let properties = properties.unwrap_or_else(|| Properties::new(&env.settings.database.user));
        let unchecked =
            check::disk_space(self.client(), &env.connector, live, contents, &properties.tablespace).await?;
        if let Some(remark) = unchecked {
            env.reporter.warn(&remark);
        }
        Ok(properties)
    }

    /// Makes the staging database, loads it, verifies it, and gives it what no dump carries.
    #[allow(clippy::too_many_arguments, reason = "a step of the recipe above, cut out for its error handling")]
    async fn stage(
        &self,
        source: &Source,
        stored: Option<&Stored>,
        judgement: &Judgement,
        tools: &Tools,
        policy: &Policy,
        properties: &Properties,
        name: &str,
        live: Option<&Live>,
    ) -> Result<Verified> {
        let env = self.env;
        env.reporter.step(&format!("loading into {name}")).await;
        staging::create(self.client(), self.live_name(), name, properties).await?;
        let loader =
            Loader { connector: &env.connector, client: self.client(), tools, reporter: &env.reporter, policy };
        loader.load(source, stored, judgement, name).await?;

        env.reporter.step("verifying").await;
        let (client, other) = tokio::try_join!(env.connector.connect_to(name), env.connector.connect_to(name))?;
        // Each keeps one CPU busy.
        let analyzing = async { other.batch_execute("ANALYZE").await.query_context("cannot gather statistics") };
        let verifying = async {
            if policy.partial {
                return verify::part(&client, &judgement.contents, policy).await;
            }
            verify::verify(&client, &judgement.contents, Live::expects_teslamate(live, policy)).await
        };
        let ((), verified) = tokio::try_join!(analyzing, verifying)?;
        for remark in &verified.remarks {
            env.reporter.warn(remark);
        }
        drop((client, other));
        if live.is_some() {
            properties.apply(self.client(), name).await?;
            let copied = Properties::read(self.client(), name).await?.unwrap_or_default();
            properties.compare(&copied)?;
        }
        Ok(verified)
    }
}
