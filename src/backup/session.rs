//! What every command has that works on the repository: the ledger, its own run in it, and the repository itself,
//! which has to be the one that the ledger knows.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::Utc;
use sha2::{Digest, Sha256};
use tokio_postgres::Client;

use super::hex;
use crate::database::connect::QueryContext;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Facts, HexId, Ledger, Outcome, Purpose, Run, RunId, RunKind, RunStatus, Snapshot as Noted};
use crate::progress::Meter;
use crate::repository::lock::Lock;
use crate::repository::{self, Handle, Location, read, snapshots};
use crate::retention::is_from_future;
use crate::settings;
use crate::tables::manifest::{self, Manifest};

/// What a command is about to do with the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read from it.
    Read,
    /// Put a backup into it, one at a time: where there never was a repository, one is made.
    Add,
    /// Remove something from it, alone.
    Remove,
}

/// What a run did, as far as it came.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Bytes read from the source.
    pub bytes_read: Option<u64>,
    /// Bytes added to the repository.
    pub bytes_added: Option<u64>,
    /// The backup that it made or used.
    pub snapshot: Option<HexId>,
}

/// A run of a command.
pub struct Session<'a> {
    pub(super) env: &'a Env,
    pub(super) settings: &'a settings::Repository,
    run: Option<RunId>,
    /// The ledger is one in memory, since that of the state directory is of no use: it is filled from the repository.
    stands_in: bool,
    /// Held from the opening of the repository to the end of the run.
    lock: Option<Lock>,
    /// Whether somebody asked for `latest`.
    pub(super) means_latest: Cell<bool>,
    /// The ledger.
    pub ledger: Ledger,
    /// For the ledger, when the run ends.
    pub figures: Figures,
    /// How far it is.
    pub meter: Arc<Meter>,
}

impl<'a> Session<'a> {
    /// Opens the ledger, and notes there that this run begins. Looking at something is no run.
    ///
    /// # Errors
    /// [`Kind::Usage`] if no repository is configured; what [`Ledger::open`] says.
    pub fn begin(env: &'a Env, kind: Option<RunKind>) -> Result<Self> {
        let Some(settings) = &env.settings.repository else {
            return Err(Error::new(Kind::Usage, "no repository is configured")
                .with("state", "nothing was read, nothing was written")
                .hint("Set `repository.location` and `repository.password_file`.")
                .hint("Without one, `teslamate-backup FILE` writes the database to a file."));
        };
        let mut ledger = Ledger::open(&env.settings.state_dir)?;
        let run = kind.map(|kind| ledger.begin(kind)).transpose()?;
        Ok(Self {
            env,
            settings,
            run,
            stands_in: false,
            lock: None,
            means_latest: Cell::new(false),
            ledger,
            figures: Figures::default(),
            meter: Meter::new("opening the repository"),
        })
    }

    /// Begins a run that must succeed even with a broken state directory, such as an undo. Records that cannot be written
    /// are left out, and a ledger that cannot be read, or written where `writes` says that this is needed, is replaced
    /// by what the repository itself tells.
    ///
    /// # Errors
    /// [`Kind::Usage`] if no repository is configured.
    pub fn begin_anyway(env: &'a Env, kind: RunKind, writes: bool) -> Result<Self> {
        let error = match Self::begin(env, Some(kind)) {
            Err(error) if error.kind() != Kind::Usage => error,
            begun => return begun,
        };
        let cause = error.detail("cause").map_or_else(String::new, |cause| format!(" ({cause})"));
        env.reporter.warn(&format!("this run is not noted in the ledger: {}{cause}", error.message()));
        // One that is locked was waited for already.
        let readable = if writes || error.kind() == Kind::Busy { None } else { Self::begin(env, None).ok() };
        if let Some(session) = readable {
            return Ok(session);
        }
        let Some(settings) = &env.settings.repository else { return Err(error) };
        Ok(Self {
            env,
            settings,
            run: None,
            stands_in: true,
            lock: None,
            means_latest: Cell::new(false),
            ledger: Ledger::in_memory()?,
            figures: Figures::default(),
            meter: Meter::new("opening the repository"),
        })
    }

    /// Fills a ledger that stands in for another one with the backups in the repository. Nothing is done to any other.
    ///
    /// # Errors
    /// Those of [`Session::open`].
    pub async fn fill_stand_in(&mut self) -> Result<()> {
        if self.stands_in && self.ledger.repository_id()?.is_none() {
            self.env.reporter.step("reading which backups there are from the repository itself").await;
            self.open(Access::Read).await.map(drop)?;
        }
        Ok(())
    }

    async fn adopt_all(&mut self, handle: &Handle) -> Result<()> {
        let mut facts = Vec::new();
        for found in self.listed(handle).await?.snapshots {
            if self.is_ours(&found) {
                facts.push(self.describe(handle, &found).await?);
            }
        }
        self.ledger.adopt(&hex(handle.id())?, &facts)
    }

    /// Notes how the run ended.
    pub fn end<T>(mut self, result: Result<T>) -> Result<T> {
        if let Some(run) = self.run {
            let Figures { bytes_read, bytes_added, snapshot } = self.figures;
            let outcome = Outcome { bytes_read, bytes_added, snapshot, ..Outcome::of(&result) };
            if let Err(error) = self.ledger.finish(run, &outcome) {
                // What the run did is done; that it is not noted must not turn it into something else.
                self.env.reporter.warn(&format!("the end of this run was not noted: {error}"));
            }
        }
        result
    }

    /// Opens the repository, and compares it with the one that the ledger knows.
    ///
    /// # Errors
    /// [`Kind::Refused`] if it is not there, is another one, or holds backups that the ledger does not know of because
    /// the ledger is new; what [`repository::open`] says.
    pub async fn open(&mut self, access: Access) -> Result<Handle> {
        let mut known = self.ledger.repository_id()?;
        if access == Access::Add && known.is_none() && !self.stands_in && repository::may_be_made(self.settings)? {
            self.init().await?;
            known = self.ledger.repository_id()?;
        }
        let settings = self.settings.clone();
        let opening = move || {
            // First the lock, so that nothing changes between reading the repository's own files and using them.
            let mut lock = match access {
                Access::Read => Lock::shared(&settings)?,
                Access::Add => Lock::backup(&settings)?,
                Access::Remove => Lock::exclusive(&settings)?,
            };
            let handle = match access {
                Access::Read => repository::open_to_read(&settings)?,
                Access::Add | Access::Remove => repository::open(&settings)?,
            };
            match lock.announce(&handle) {
                // What is mounted read-only can be read all the same, and a full disk must not keep from making room.
                Err(error) if access != Access::Add && error.kind() == Kind::Store => {}
                announced => announced?,
            }
            Ok((handle, lock))
        };
        let (handle, lock) = match self.on_thread(opening).await {
            // What cannot be reached was asked for long enough; whether it is there is not known.
            Err(error) if known.is_some() && error.kind() != Kind::Store && self.is_absent().await.unwrap_or(false) => {
                // The disk is not mounted, most likely: this message names what is missed.
                self.ledger.check_repository(None).map_err(|expected| expected.with("cause", error.message()))?;
                return Err(error);
            }
            opened => opened?,
        };
        self.lock = Some(lock);
        if self.stands_in && known.is_none() {
            self.adopt_all(&handle).await?;
            return Ok(handle);
        }
        self.ledger.check_repository(Some(&hex(handle.id())?))?;
        if access == Access::Add {
            self.refuse_another_database()?;
        }
        if known.is_none() && access != Access::Read {
            let found = self.listed(&handle).await?.snapshots.len();
            if found > 0 {
                return Err(Error::new(Kind::Refused, "the repository holds backups that the ledger does not know")
                    .with("repository", handle.location())
                    .with("found", format!("{found} backups"))
                    .with("ledger", self.ledger.path().display())
                    .with("state", "nothing was changed")
                    .hint("If the ledger was lost, `teslamate-backup rebuild` fills it from the repository.")
                    .hint("If this is another machine's repository, set `repository.location` to one of its own."));
            }
            self.ledger.bind_repository(&hex(handle.id())?)?;
        }
        if known.is_some() && access == Access::Add {
            self.refuse_shared_beginning(&handle).await?;
        }
        Ok(handle)
    }

    /// Whether there is no repository, as [`repository::is_absent`] says.
    pub async fn is_absent(&self) -> Result<bool> {
        let settings = self.settings.clone();
        self.on_thread(move || repository::is_absent(&settings)).await
    }

    /// `latest`, retention and change detection all mean one database.
    fn refuse_another_database(&self) -> Result<()> {
        let name = &self.env.settings.database.name;
        let other = self.ledger.latest()?.and_then(|noted| noted.facts.database).filter(|known| known != name);
        let Some(other) = other else { return Ok(()) };
        Err(of_another_database(&other, name))
    }

    /// Another database may have put its first backup into the same place in the moment after it was made.
    async fn refuse_shared_beginning(&self, handle: &Handle) -> Result<()> {
        let was_rebuilt = || Ok::<_, Error>(self.ledger.runs(1000)?.iter().any(|run| run.kind == RunKind::Rebuild));
        if !self.ledger.list_all()?.is_empty() || was_rebuilt()? {
            return Ok(());
        }
        let name = &self.env.settings.database.name;
        let listing = self.listed(handle).await?;
        let Some(other) = listing.snapshots.iter().find(|found| found.label != *name) else { return Ok(()) };
        Err(of_another_database(&other.label, name))
    }

    /// Makes the repository, and its directory.
    pub async fn init(&mut self) -> Result<()> {
        self.env.host.make_repository_directory().await?;
        let settings = self.settings.clone();
        let (options, location) = (self.env.settings.backup.compression, self.settings.location.clone());
        self.env.reporter.step(&format!("making a repository at {}", Location::parse(&location)?)).await;
        let handle = self.on_thread(move || repository::init(&settings, options)).await?;
        self.ledger.bind_repository(&hex(handle.id())?)
    }

    /// Does some work that blocks, with this run's meter on the screen.
    pub async fn on_thread<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let working = self.env.interrupt.on_thread(&self.meter, work);
        self.env.reporter.show(&self.meter, working).await
    }

    /// The published backups in the repository.
    pub async fn listed(&self, handle: &Handle) -> Result<snapshots::Listing> {
        let handle = handle.clone();
        self.on_thread(move || snapshots::list(&handle)).await
    }

    /// What the ledger wants to know of a backup, from the repository alone.
    pub async fn describe(&self, handle: &Handle, found: &snapshots::Snapshot) -> Result<Facts> {
        let (handle, snapshot) = (handle.clone(), found.id);
        let bytes =
            self.on_thread(move || read::open(&handle, snapshot)?.read(manifest::PATH, manifest::LIMIT)).await?;
        facts(found, &Manifest::parse(&bytes)?, &bytes)
    }

    /// Where the ledger knows no backup and the repository holds some, it was lost, or is another machine's.
    ///
    /// # Errors
    /// [`Kind::Refused`] then.
    pub async fn refuse_lost_ledger(&self) -> Result<()> {
        let settings = self.settings.clone();
        // A repository that is not there yet, or cannot be looked at, is no sign of a loss.
        let found = self.on_thread(move || repository::present(&settings)).await.unwrap_or_default().len();
        // The first backup lies in the repository before the ledger knows it.
        let first = self.ledger.runs(8)?;
        let first = first.iter().any(|run| run.kind == RunKind::Backup && run.status == RunStatus::Running);
        if found == 0 || first || !self.ledger.list_all()?.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, "the ledger knows no backup, but the repository is not empty")
            .with("found", format!("{found} snapshots"))
            .with("ledger", self.ledger.path().display())
            .with("state", "nothing was changed")
            .hint("If the ledger was lost, `teslamate-backup rebuild` fills it from the repository."))
    }

    /// The backup that these words mean: the begin of an id, or `latest`: see [`newest`].
    ///
    /// # Errors
    /// As [`Ledger::by_prefix`]; [`Kind::Refused`] if there is none at all.
    pub fn meant(&self, words: &str) -> Result<Noted> {
        if words != "latest" {
            return self.ledger.by_prefix(words);
        }
        self.means_latest.set(true);
        let known = self.ledger.list()?;
        let newest = newest(&known, self.ledger.cluster()?.as_deref()).cloned();
        if let Some(newest) = &newest {
            self.refuse_from_future(newest, &known)?;
        }
        newest.ok_or_else(|| {
            Error::new(Kind::Refused, "there is no backup in the ledger")
                .with("ledger", self.ledger.path().display())
                .hint("`teslamate-backup` takes one; `teslamate-backup rebuild` fills a ledger that was lost.")
        })
    }

    /// A ledger that was filled from the repository is ordered by the times of the backups: one that was taken while the
    /// clock was ahead stands before those that were taken after it.
    fn refuse_from_future(&self, newest: &Noted, known: &[Noted]) -> Result<()> {
        let now = Utc::now();
        let is_ahead = |noted: &Noted| is_from_future(noted.facts.time, now);
        let is_rebuild = |run: &Run| run.kind == RunKind::Rebuild && run.status == RunStatus::Succeeded;
        // `latest` never means a safety backup.
        let lasting = |noted: &&Noted| noted.facts.purpose != Purpose::Safety;
        let other = known.iter().filter(lasting).rfind(|noted| !is_ahead(noted));
        let Some(other) = other.filter(|_| is_ahead(newest)) else { return Ok(()) };
        if !self.stands_in && !self.ledger.runs(1000)?.iter().any(is_rebuild) {
            return Ok(());
        }
        let line = |noted: &Noted| format!("{} of {}", noted.facts.id.short(), noted.facts.time.format("%F %T UTC"));
        let ahead: Vec<String> = known.iter().filter(|noted| is_ahead(noted)).map(line).collect();
        Err(Error::new(Kind::Refused, "which backup is the latest is not known: some lie in the future")
            .with("in the future", ahead.join("\n"))
            .with("newest of the others", line(other))
            .with("now", now.format("%F %T UTC"))
            .hint("Set the clock if it is behind (`timedatectl`).")
            .hint(format!(
                "Else choose one by its id, or take a backup, which is the latest then. `teslamate-backup show {}` says \
                 how many rows it has.",
                newest.facts.id.short()
            )))
    }

    /// The newest backup of another cluster, if it has more rows than this one, which `latest` means: on a new machine the
    /// application makes an empty database, and a timer backs that up.
    ///
    /// # Errors
    /// As [`Ledger::list`].
    pub fn fuller_elsewhere(&self, words: &str, wanted: &Noted) -> Result<Option<Noted>> {
        let is_other = |noted: &Noted| {
            noted.facts.purpose != Purpose::Safety
                && noted.facts.cluster.is_some()
                && noted.facts.cluster != wanted.facts.cluster
        };
        let known = if words == "latest" { self.ledger.list()? } else { Vec::new() };
        let other = known.into_iter().rfind(is_other);
        Ok(other.filter(|other| other.facts.rows > wanted.facts.rows))
    }

    /// Asks the server which cluster it is, where backups of several are known: `latest` means this one's then.
    pub async fn learn_cluster(&mut self) -> Result<()> {
        if clusters(&self.ledger.list()?).len() < 2 {
            return Ok(());
        }
        // Whoever cannot be asked now is asked again before anything becomes live.
        if let Ok(client) = self.env.connector.for_questions().connect_maintenance().await
            && let Ok(id) = system_identifier(&client).await
        {
            self.ledger.set_cluster(&id)?;
        }
        Ok(())
    }
}

fn of_another_database(other: &str, name: &str) -> Error {
    let message = format!("the repository holds the backups of database \"{other}\", not of \"{name}\"");
    Error::new(Kind::Refused, message)
        .with("state", "nothing was read, nothing was written")
        .hint("Give each database a `repository.location` and a `state_dir` of its own.")
        .hint(format!(
            "If the database was renamed: each name has a history of its own. Rename it back (ALTER DATABASE \"{name}\" \
             RENAME TO \"{other}\"), or begin a new repository for the new name; `teslamate-restore ID --allow-other` restores from this one."
        ))
}

/// The server's cluster, by the identifier that it got when it was made.
///
/// # Errors
/// [`Kind::Source`].
pub async fn system_identifier(client: &Client) -> Result<String> {
    let sql = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()";
    let row = client.query_one(sql, &[]).await.query_context("cannot read the cluster's identifier")?;
    Ok(row.get(0))
}

/// The clusters that these backups come from, as far as they are known.
#[must_use]
pub fn clusters(known: &[Noted]) -> BTreeSet<&str> {
    known.iter().filter_map(|noted| noted.facts.cluster.as_deref()).collect()
}

/// Whether these are the backups of this cluster, too: one that was taken in the ordinary course.
#[must_use]
pub fn knows(known: &[Noted], cluster: &str) -> bool {
    known.iter().any(|noted| noted.facts.purpose == Purpose::Regular && noted.facts.cluster.as_deref() == Some(cluster))
}

/// The backup that `latest` names: the newest of the present cluster; where none of it is known, as on a new machine, the newest of
/// all. Never a backup that a restore took of what it replaced, unless there is no other: whoever restores twice must
/// not get back what he wanted to be rid of.
#[must_use]
pub fn newest<'a>(known: &'a [Noted], present: Option<&str>) -> Option<&'a Noted> {
    let present = present.filter(|present| knows(known, present));
    let is_present = |noted: &&Noted| {
        let cluster = noted.facts.cluster.as_deref();
        present.is_none() || cluster.is_none() || cluster == present
    };
    let lasting = |noted: &&Noted| noted.facts.purpose != Purpose::Safety;
    let mut newest_first = known.iter().rev();
    newest_first.clone().filter(is_present).find(lasting).or_else(|| newest_first.find(is_present))
}

/// What the repository tells of a backup, as the ledger has it. Whoever took the backup knows better how long that took,
/// and what it added.
///
/// # Errors
/// None, unless the id is none.
pub fn facts(found: &snapshots::Snapshot, manifest: &Manifest, bytes: &[u8]) -> Result<Facts> {
    let took = manifest.finished.signed_duration_since(manifest.started).num_milliseconds();
    let tagged = |purpose: Purpose| found.tags.iter().any(|tag| tag == purpose.word());
    let purpose = [Purpose::BeforeMigration, Purpose::Safety].into_iter().find(|purpose| tagged(*purpose));
    Ok(Facts {
        id: hex(found.id)?,
        time: found.time,
        size: found.bytes,
        added: found.bytes_added,
        rows: manifest.rows(),
        duration_ms: u64::try_from(took).unwrap_or(0),
        manifest_sha256: manifest_hash(bytes)?,
        purpose: purpose.unwrap_or(Purpose::Regular),
        schema_version: manifest.facts.migrations.as_ref().map(|migrations| migrations.newest),
        comment: found.description.clone(),
        database: Some(found.label.clone()),
        host: Some(found.host.clone()),
        cluster: Some(manifest.facts.system_identifier.clone()),
    })
}

/// SHA-256 of a manifest, which identifies a backup before it has an ID.
///
/// # Errors
/// None: a hash is one.
pub fn manifest_hash(bytes: &[u8]) -> Result<HexId> {
    HexId::parse(&crate::dump::hex(Sha256::new_with_prefix(bytes)))
}

/// The manifest of a backup, compared with what the ledger knows of it.
///
/// # Errors
/// [`Kind::Verify`] if it is damaged or another one.
pub fn manifest(contents: &read::Contents, noted: &Noted) -> Result<Manifest> {
    let bytes = contents.read(manifest::PATH, manifest::LIMIT)?;
    if crate::dump::hex(Sha256::new_with_prefix(&bytes)) != noted.facts.manifest_sha256.as_str() {
        let id = contents.snapshot().id.short();
        return Err(Error::new(Kind::Verify, format!("the manifest of backup {id} is not the one that was noted")));
    }
    Manifest::parse(&bytes)
}
