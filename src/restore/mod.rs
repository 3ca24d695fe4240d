//! Restoring: check, stage, load, verify, swap, keep the previous.
//!
//! The live database is never touched before its replacement is loaded and verified; then it is replaced in one
//! transaction. This file is the recipe, [`Session::restore`], with the checks before it; the steps are in
//! the other files: `stage.rs` creates and loads the new database, [`swap`] puts it in the place of the live one. Not
//! here: reading and inspecting dumps (`dump/`), and the service (`host/guard.rs`).

pub mod back;
pub mod check;
pub mod extensions;
pub mod forward;
pub mod generated;
mod last_state;
mod left_out;
mod live;
pub mod load;
mod loading;
pub mod names;
pub mod origin;
pub mod outlook;
pub mod part;
mod policy;
pub mod previous;
pub mod private;
pub mod room;
pub mod rows_only;
mod stage;
pub mod staging;
pub mod stored;
pub mod subscriptions;
pub mod swap;
mod tokens;
pub mod undo;
pub mod verify;
pub mod wanted;

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::backup;
use crate::backup::run::{LOCK_WAIT, Wanted};
use crate::database::connect::server_version;
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
use check::Live;
use names::Role;
use origin::{Origin, Witness};
use private::Private;
use room::Room;
use stage::Material;
use stored::Stored;
use verify::Verified;

pub use policy::{Destination, Policy};

/// How long a run that is at work is waited for by one that nobody would begin again.
const BUSY_WAIT: Duration = Duration::from_mins(30);

/// The advice for a live database that cannot be backed up before it is replaced.
const BEYOND_BACKUP: &str =
    "If it is beyond backing up, repeat this with --no-safety-backup: it is kept beside the new one anyway.";

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
    /// Whether it was done in a private server.
    pub in_private: bool,
}

/// A run of a restore command, which holds the lock.
pub struct Session<'a> {
    env: &'a Env,
    lock: Lock,
    /// The server's version, as `server_version_num` counts.
    server: u32,
    /// The service is stopped and started around the swap.
    with_service: bool,
    /// The private server that it works in, if it does not work beside the live database.
    private: Option<&'a Private>,
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
        let session = Self { env, lock, server, with_service: false, private: None };
        let swept = staging::sweep(session.client(), &env.connector, session.live_name()).await?;
        for name in swept.dropped {
            env.reporter.info(&format!("dropped \"{name}\", which a run that was killed had left behind"));
        }
        for (name, why) in swept.left {
            let drop = staging::drop_statement(&name);
            env.reporter.warn(&format!(
                "\"{name}\", which an earlier run left behind, cannot be dropped ({why}); as a superuser: {drop}"
            ));
        }
        for (name, why) in load::role::sweep(session.client(), session.live_name()).await {
            env.reporter.warn(&format!(
                "the role \"{name}\", which an earlier run left behind, cannot be dropped ({why}); as a superuser: DROP ROLE {}",
                ident(&name)
            ));
        }
        subscriptions::disable_left_over(env, session.client()).await;
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
        let mut judgement = env.interrupt.guard(Box::pin(self.judge(source, &tools))).await?;
        if let Some(stored) = stored {
            stored.complete(&mut judgement.contents);
            stored.is_of(self.live_name(), destination, policy)?;
            stored.tell_remarks(env);
        }
        let live = self.look_at_live().await?;
        if let (Some(stored), Destination::Live) = (stored, destination) {
            stored.is_of_cluster(env, self.client(), live.is_some(), policy).await?;
        }
        let live_name = live.as_ref().map(|_| self.live_name());
        let contents = &judgement.contents;
        let live_name = live_name.filter(|_| self.private.is_none_or(Private::has_database));
        let origin = Origin::find(self.client(), env, live_name, contents, stored, destination, policy).await?;
        judgement.contents.roles.extend(origin.roles());
        let asked = policy.skip_extensions.len();
        let policy = &policy.with_skipped(&env.settings.skip_extensions, &judgement.contents);
        for name in &policy.skip_extensions[asked..] {
            env.reporter.warn(&format!("extension \"{name}\" is left out, as restore.skip_extensions says"));
        }
        let policy = &self.policy_in_private(&judgement.contents, policy).await?;
        self.check(&judgement, live.as_ref(), source, stored.is_some(), destination, policy, &origin).await?;
        let policy = &policy.with_partitions(&judgement.contents);
        self.tell_what_is_left(&judgement.contents, policy);
        let copy = room::needed(live.as_ref(), &judgement.contents, stored, policy);
        let room = self.room(copy, &origin, destination, policy).await?;
        let release = forward::release(env, &judgement.contents, destination, policy)?;

        let databases = staging::databases(self.client()).await?;
        let base = match destination {
            Destination::Beside(name) => name,
            Destination::Live | Destination::Drill => self.live_name(),
        };
        let name = names::fresh(base, Role::Staging, chrono::Utc::now(), &databases);
        // `pg_hba.conf` may not let the role into a database of that name: nothing is backed up for nothing.
        let closed = |error: Error| error.with("state", "the live database was not touched");
        env.connector.connect_if_present(&name).await.map_err(closed)?;
        let safety_backup = match (destination, &live) {
            (Destination::Live, Some(_)) => self.back_up_first(policy, "before a restore", BEYOND_BACKUP).await?,
            _ => None,
        };
        // From here on there is something to clean up, whatever happens.
        let material = Material { source, stored, judgement: &judgement, tools: &tools };
        let work = Box::pin(self.stage(&material, destination, policy, &origin, &name, live.as_ref()));
        let work = env.interrupt.guard(room.watch(&env.connector, work));
        let verified = match Box::pin(work).await {
            Ok(verified) => verified,
            Err(error) => return Err(staging::abandon(self.client(), &env.connector, &name, error).await),
        };
        // Before the application encrypts what an older release stored as it was.
        tokens::tell(env, &name).await;
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
            in_private: self.private.is_some(),
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
    /// `without` is the advice for one that cannot be backed up any more.
    async fn back_up_first(&self, policy: &Policy, comment: &str, without: &str) -> Result<Option<HexId>> {
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
        let taken = session
            .end(taken)
            .map_err(|error| error.with("while", "backing up the live database before it is replaced").hint(without))?;
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
        let mut judgement = reporter.show(&meter, judge(source, tools, &meter)).await?;
        judgement.contents.convert(self.client()).await?;
        Ok(judgement)
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
        for warning in check::contents(contents, live, self.server, is_ours, destination, policy)? {
            self.env.reporter.warn(&warning);
        }
        check::encoding(contents, origin.properties.get("encoding").unwrap_or("UTF8"), is_ours)?;
        let live_name = live.map(|_| self.live_name());
        let locale = self.locale_here(origin, policy).await.err();
        let allowed = check::rights(self.client(), live_name, contents, policy).await;
        match (allowed, locale) {
            (Ok(()), None) => {}
            (Ok(()), Some(error)) | (Err(error), None) => return Err(error),
            (Err(error), Some(locale)) => return Err(both(error, &locale)),
        }
        if let (Some(name), Destination::Live) = (live_name, destination) {
            check::nothing_in_the_way(self.client(), name).await?;
        }
        Ok(())
    }

    /// Whether there is room, on the disks of the server.
    async fn room(&self, copy: u64, origin: &Origin, destination: &Destination, policy: &Policy) -> Result<Room> {
        let env = self.env;
        let room = match self.private {
            Some(private) => Room::look_at(self.client(), private.directory(), copy).await?,
            None => Room::look(self.client(), &env.connector, &origin.properties.tablespace, copy).await?,
        };
        if let Some(remark) = &room.unknown {
            env.reporter.warn(remark);
        }
        match room.check(self.client(), self.live_name(), destination).await {
            Ok(()) => Ok(room),
            Err(error) if policy.ignore_free_space => {
                env.reporter.warn(error.message());
                Ok(room)
            }
            Err(error) => {
                // There may be room beside the live database, on another disk.
                if let Some(private) = self.private {
                    private.is_unfit(error.message());
                }
                Err(error)
            }
        }
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
}

/// Two things that are missing, said at once.
fn both(error: Error, other: &Error) -> Error {
    let error = error.with("locale", other.message());
    other.hints().iter().fold(error, Error::hint)
}
