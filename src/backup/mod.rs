//! Taking a backup: reads the database (`tables`), stores it (`repository`), notes it (`ledger`).
//!
//! This file is the recipe, [`Backup::take`]; the order of what is stored, and where it comes from, is [`feed`]'s business.
//! A backup is one when it was read back and published, and the ledger knows it; nothing before that is listed.
//! [`session`] is what every command has that works on the repository: the ledger, the run in it, and the repository
//! itself, compared with the ledger.

pub mod copies;
pub mod extra;
pub mod feed;
pub mod history;
pub mod parent;
pub mod recovery;
pub mod run;
pub mod session;
mod store;
pub mod surroundings;

use std::collections::HashMap;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio_postgres::Client;

use crate::database::Connector;
use crate::database::tools::Tools;
use crate::dump::pg_dump::PgDump;
use crate::error::{Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::ledger::{self, HexId, Ledger, Purpose, Snapshot as Noted};
use crate::progress::Meter;
use crate::repository::archive::differing;
use crate::repository::{Handle, Id};
use crate::tables::catalog::{Catalog, Other, missing_on_standby};
use crate::tables::facts::{Facts, Written};
use crate::tables::manifest::{self, ChunkEntry, Manifest};
use crate::tables::readers;
use crate::tables::surroundings::Surroundings;
use crate::tables::unchanged::{self, Scope, Seen};
use crate::tables::{Plan, Snapshot, changes, definitions, reuse, snapshot};
use extra::Extra;
use parent::{Found, Mended};
use store::publish;

/// How long a running transaction is waited for, so that the next backup can go on from this one.
const SETTLE: Duration = Duration::from_secs(10);

/// How long the server's summarizer is waited for.
const SUMMARIES: Duration = Duration::from_mins(1);

/// One in so many of the older packs that a backup leans on is read again: all of them within a week of hourly ones.
pub const SHARE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(167);

/// How long `pg_dump` may wait for a lock that this run's own session has already.
const DEFINITIONS_LOCK_WAIT: Duration = Duration::from_secs(5);

/// Between two attempts to begin, for whoever was waiting.
const PAUSE: Duration = Duration::from_millis(200);

/// How often a backup begins while somebody alters the schema.
const ATTEMPTS: u32 = 6;

/// What is said of a lock that could not be had then.
const IN_BETWEEN: &str = "locking tables that this run has locked already: somebody waits to change one";

/// What a backup is taken with.
pub struct Backup<'a> {
    /// The way to the server.
    pub connector: &'a Connector,
    /// Tells whether to stop.
    pub interrupt: &'a Interrupt,
    /// Sessions that read.
    pub jobs: usize,
    /// Heap blocks in a chunk.
    pub chunk_blocks: u32,
    /// How long a locked table is waited for.
    pub lock_wait: Duration,
    /// Read everything, and say what would have been reused wrongly.
    pub full_read: bool,
    /// Where what is too large for memory waits.
    pub temporary: PathBuf,
    /// The machine's name.
    pub host: String,
    /// What it is taken for.
    pub purpose: Purpose,
    /// A sentence for people.
    pub comment: Option<String>,
    /// The files beside the database, read.
    pub extra: Vec<Extra>,
    /// What the database is used by.
    pub surroundings: Surroundings,
}

/// A backup that was taken.
#[derive(Debug)]
pub struct Taken {
    /// What the ledger holds of it.
    pub noted: Noted,
    /// What is in it.
    pub manifest: Manifest,
    /// The transactions that had ended when it was read: [`snapshot::moment`].
    pub moment: String,
    /// Chunks that were read.
    pub chunks_read: usize,
    /// Chunks that were taken from the parent.
    pub chunks_reused: usize,
    /// Bytes that were read from the database.
    pub bytes_read: u64,
    /// Bytes of the packs that were written.
    pub bytes_stored: u64,
    /// With [`Backup::full_read`]: chunks that changed although nothing showed it. There should be none.
    pub wrongly_unchanged: Vec<String>,
    /// Backups that the ledger knows and the repository had not, when this one was begun.
    pub missing: Vec<Noted>,
    /// Why the backup before this one could not be used, if it could not although it should.
    pub parent_fault: Option<Error>,
    /// Repairs of the repository before it.
    pub mended: Mended,
}

/// What is to be backed up, with the sessions that keep it still.
pub struct Prepared {
    session: Client,
    snapshot: Snapshot,
    seen: Seen,
    facts: Facts,
    plan: Plan,
    others: Vec<Other>,
    readers: Vec<Arc<Client>>,
    definitions: File,
    schema_hash: String,
    horizon: Option<String>,
    moment: String,
    started: DateTime<Utc>,
    begin: Instant,
    /// Remarks for its reader.
    warnings: Vec<String>,
}

/// Which chunks need not be read.
struct Decided {
    reused: HashMap<usize, ChunkEntry>,
    /// Those that would not have to be, but are, with their paths.
    audited: Vec<String>,
    /// Why everything is read, if it is.
    read_all: Option<String>,
    /// The checkpoint after the snapshot.
    mark: Option<String>,
    /// The parent's horizon, for where a transaction did not end in time.
    old_horizon: Option<String>,
}

impl Backup<'_> {
    /// Looks at everything that is to be read, and keeps it still.
    ///
    /// # Errors
    /// [`Kind::Source`]; [`Kind::Busy`] if a table stays locked.
    pub async fn prepare(&self, tools: &Tools, meter: &Arc<Meter>) -> Result<Prepared> {
        let mut attempt = 1;
        loop {
            match self.prepare_once(tools, meter, attempt == ATTEMPTS).await {
                Err(error) if unchanged::is_change(&error) && attempt < ATTEMPTS => {}
                // What is in the way of these locks waits for this one's, and can go on now that they are gone.
                Err(error)
                    if attempt == 1 && (error.kind() == Kind::Source || error.detail("while") == Some(IN_BETWEEN)) => {}
                prepared => return prepared,
            }
            tokio::time::sleep(PAUSE * attempt).await;
            attempt += 1;
        }
    }

    /// Takes one of what was prepared, and notes it in the ledger. `meter` is told how far it is.
    ///
    /// A signal ends it before the next chunk, and before anything is published. `missing` are backups that the ledger
    /// knows and the repository has not.
    ///
    /// # Errors
    /// [`Kind::Source`] if reading failed, or definitions were altered meanwhile ([`unchanged::is_change`]); [`Kind::Store`] if storing did, [`Kind::Verify`] if what was stored reads
    /// back differently, or if a pack that it leans on is damaged. Nothing is listed then.
    pub async fn take(
        &self,
        ledger: &mut Ledger,
        repository: &Handle,
        prepared: Prepared,
        missing: Vec<Noted>,
        meter: &Arc<Meter>,
    ) -> Result<Taken> {
        let moment = prepared.moment.clone();
        ledger.check_repository(Some(&hex(repository.id())?))?;
        ledger.set_cluster(&prepared.facts.system_identifier)?;
        let mut mended = self.repair(repository, meter).await?;
        let found = self.parent(ledger, repository, &prepared.facts, &missing, &mut mended, meter).await?;
        let Found { parent, read_all, fault: parent_fault } = found;
        let known = parent.as_ref().map(|parent| &parent.manifest);
        let mut decided = self.interrupt.guard(self.decide(&prepared, known)).await?;
        if let Some(why) = read_all {
            decided.read_all = Some(why.to_owned());
        }
        let begin = prepared.begin;
        let parent_id = parent.as_ref().map(|parent| parent.id);
        let audited = std::mem::take(&mut decided.audited);
        let (archived, written) = self.store(repository, prepared, decided, parent_id, meter).await?;
        let wrongly_unchanged = match parent_id {
            Some(id) if !audited.is_empty() => differing(repository, &archived, id, &audited)?,
            _ => Vec::new(),
        };
        let archived = self.prove(ledger, repository, archived, meter).await?;
        let bytes = written.take().ok_or_else(|| Error::new(Kind::Verify, "the backup has no manifest"))?;
        let manifest = Manifest::parse(&bytes)?;
        // Killed from here on until it is noted, the next run knows this backup for one of ours.
        ledger.begin_publishing(&session::manifest_hash(&bytes)?)?;
        let (published, archived) = publish(repository, archived, meter).await?;
        // It is one from now on, whatever becomes of the note.
        let noted = session::facts(&published, &manifest, &bytes).and_then(|facts| {
            let duration_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
            ledger.publish(&ledger::Facts { added: archived.bytes_stored, duration_ms, ..facts })
        });
        let noted = noted.map_err(|error| {
            let id = published.id.short();
            error.with("state", format!("backup {id} is whole and in the repository; the next run notes it"))
        })?;
        self.find_damaged(repository, &mut mended).await.map_err(|error| {
            error.with("state", format!("backup {} was taken and is whole", noted.facts.id.short()))
        })?;
        Ok(Taken {
            noted,
            moment,
            chunks_read: manifest.chunks(manifest::Origin::Read),
            chunks_reused: manifest.chunks(manifest::Origin::Reused),
            bytes_read: archived.bytes_read,
            bytes_stored: archived.bytes_stored,
            manifest,
            wrongly_unchanged,
            missing,
            parent_fault,
            mended,
        })
    }

    async fn prepare_once(&self, tools: &Tools, meter: &Arc<Meter>, is_last: bool) -> Result<Prepared> {
        let begin = Instant::now();
        let session = self.connector.connect().await?;
        // The summary that the horizon lies in begins at the checkpoint before it. Without this one, what was changed
        // between the last backup and this one would be read again by the next.
        changes::checkpoint_before(&session).await?;
        meter.now("waiting for running transactions to end");
        let horizon = changes::settle(&session, SETTLE).await?;
        meter.now("reading the schema");
        let started = Utc::now();
        // Before the snapshot: what is counted is seen by it.
        let written = Written::read(&session).await?;
        let snapshot = Snapshot::export(self.connector, self.lock_wait).await?;
        let moment = snapshot::moment(snapshot.client()).await?;
        let seen = Seen::read(&snapshot).await?;
        let mut facts = Facts { written, ..Facts::read(&snapshot).await? };
        // A restore asks the live database, if there is one, for what could not be read now.
        let application = self.connector.application_settings().await;
        let unread = application.as_ref().err().map(unread_settings);
        facts.application = application.unwrap_or_default();
        facts.database["datname"] = self.connector.known_as().into();
        let mut catalog = Catalog::read(&snapshot).await?;
        seen.compare(&snapshot, self.connector, Scope::Definitions, is_last).await?;
        let mut warnings = catalog.find_unplannable(&snapshot, self.chunk_blocks).await?;
        warnings.extend(missing_on_standby(snapshot.client()).await?);
        warnings.extend(unread);
        let (plan, others) = catalog.plan(self.chunk_blocks);
        let in_between =
            |error: Error| if error.kind() == Kind::Busy { error.with("while", IN_BETWEEN) } else { error };
        // The tables are locked already: whoever is in the way now waits for us.
        let lock_wait = self.lock_wait.min(DEFINITIONS_LOCK_WAIT);
        let pg_dump = PgDump { connector: self.connector, tools, lock_wait };
        let definitions =
            definitions::write(&pg_dump, &snapshot, &plan.tables, &self.temporary, meter).await.map_err(in_between);
        let (definitions, schema_hash) = definitions.map_err(|error| match error.kind() {
            Kind::Store => error
                .with("while", format!("writing the definitions to a temporary file in {}", self.temporary.display()))
                .with("state", "no backup was made; those before it are as they were"),
            _ => error,
        })?;
        seen.compare(&snapshot, self.connector, Scope::Definitions, is_last).await?;
        // Not before pg_dump has ended: its locks take the same room.
        let readers = readers::join(self.connector, &snapshot, &plan, self.jobs, self.lock_wait).await;
        let readers = readers.map_err(in_between)?;
        Ok(Prepared {
            session,
            snapshot,
            seen,
            facts,
            plan,
            others,
            readers,
            definitions,
            schema_hash,
            horizon,
            moment,
            started,
            begin,
            warnings,
        })
    }

    /// What can be taken from the parent; and if nothing, why.
    async fn decide(&self, prepared: &Prepared, parent: Option<&Manifest>) -> Result<Decided> {
        let Prepared { session, facts, plan, schema_hash, .. } = prepared;
        let known = match parent {
            None => Err("it is the first backup"),
            Some(parent) => reuse::known(parent, facts, schema_hash),
        };
        let listed = match known {
            Err(why) => Err(why.to_owned()),
            Ok(known) => {
                let (server, timeline) = (facts.server_version, facts.timeline);
                changes::since(session, server, timeline, known, self.chunk_blocks, SUMMARIES).await?
            }
        };
        let mut decided = Decided {
            reused: HashMap::new(),
            audited: Vec::new(),
            read_all: None,
            mark: None,
            // The parent's horizon holds for this backup too, if its history is the same.
            old_horizon: known.ok().filter(|_| listed.is_ok()).map(|known| known.horizon.to_owned()),
        };
        match (listed, parent) {
            (Ok(since), Some(parent)) => {
                let found = reuse::reusable(parent, facts, plan, &since.changes);
                if self.full_read {
                    decided.audited = found.values().map(|entry| entry.path.clone()).collect();
                    decided.read_all = Some("--full-read".to_owned());
                } else {
                    decided.reused = found.into_iter().map(|(number, entry)| (number, entry.clone())).collect();
                }
                decided.mark = Some(since.mark);
            }
            (listed, _) => {
                decided.read_all = listed.err();
                decided.mark = changes::mark(session, facts.server_version, facts.timeline).await?;
            }
        }
        Ok(decided)
    }
}

/// An id of the repository, as the ledger has it.
pub fn hex(id: Id) -> Result<HexId> {
    HexId::parse(&id.to_string())
}

/// An empty list in the manifest says that they are not known.
fn unread_settings(error: &Error) -> String {
    format!(
        "the settings of the application are not in the backup: {} ({}); a restore takes those of the live database, and \
         values that depend on the time zone, for example, may differ without one",
        error.message(),
        error.detail("cause").unwrap_or_default()
    )
}
