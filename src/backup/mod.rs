//! Taking a backup: reads the database (`tables`), stores it (`repository`), notes it (`ledger`).
//!
//! This file is the recipe, [`Backup::take`]; the order of what is stored, and where it comes from, is [`feed`]'s business.
//! A backup is one when it was read back and published, and the ledger knows it; nothing before that is listed.

pub mod feed;
pub mod recovery;

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use sha2::{Digest, Sha256};

use crate::database::Connector;
use crate::database::tools::Tools;
use crate::dump::pg_dump::PgDump;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Facts as Entry, HexId, Ledger, Purpose, Snapshot as Noted};
use crate::process::on_thread;
use crate::progress::Meter;
use crate::repository::archive::{Archived, Request, archive, read_back};
use crate::repository::{Handle, Id, check, read, snapshots};
use crate::tables::catalog::Catalog;
use crate::tables::facts::Facts;
use crate::tables::manifest::{self, ChunkEntry, Manifest};
use crate::tables::readers::{self, Options as Reading};
use crate::tables::{Plan, Snapshot, changes, definitions, reuse};
use feed::{Contents, Feed};

/// How long a running transaction is waited for, so that the next backup can go on from this one.
const SETTLE: Duration = Duration::from_secs(10);

/// How long the server's summarizer is waited for.
const SUMMARIES: Duration = Duration::from_mins(1);

/// One in so many of the older packs that a backup leans on is read again: all of them within a week of hourly ones.
const SHARE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(167);

/// A manifest is a few kilobytes for each thousand chunks.
const MANIFEST_LIMIT: u64 = 256 << 20;

/// What a backup is taken with.
pub struct Backup<'a> {
    /// The way to the server.
    pub connector: &'a Connector,
    /// The client programs.
    pub tools: &'a Tools,
    /// Where it goes.
    pub repository: &'a Handle,
    /// Sessions that read.
    pub jobs: usize,
    /// Heap blocks in a chunk.
    pub chunk_blocks: u32,
    /// How long a locked table is waited for.
    pub lock_wait: Duration,
    /// Read everything, whatever is known to be unchanged.
    pub full_read: bool,
    /// Where what is too large for memory waits.
    pub temporary: PathBuf,
    /// The machine's name.
    pub host: String,
}

/// A backup that was taken.
#[derive(Debug)]
pub struct Taken {
    /// What the ledger holds of it.
    pub noted: Noted,
    /// What is in it.
    pub manifest: Manifest,
    /// Chunks that were read.
    pub chunks_read: usize,
    /// Chunks that were taken from the parent.
    pub chunks_reused: usize,
    /// Bytes of the packs that were written.
    pub bytes_stored: u64,
}

impl Backup<'_> {
    /// Takes one, and notes it in the ledger.
    ///
    /// # Errors
    /// [`Kind::Source`] if reading failed, [`Kind::Store`] if storing did, [`Kind::Verify`] if what was stored reads
    /// back differently, or if the last backup is damaged. Nothing is listed then.
    pub async fn take(&self, ledger: &mut Ledger, meter: &Arc<Meter>) -> Result<Taken> {
        let begin = Instant::now();
        ledger.check_repository(Some(&hex(self.repository.id())?))?;
        let parent = self.parent(ledger).await?;
        let session = self.connector.connect().await?;
        let settled = changes::settle(&session, SETTLE).await?;
        let started = Utc::now();
        let snapshot = Snapshot::export(self.connector, self.lock_wait).await?;
        let facts = Facts::read(&snapshot).await?;
        let (plan, others) = Catalog::read(&snapshot).await?.plan(self.chunk_blocks);
        let pg_dump = PgDump { connector: self.connector, tools: self.tools, lock_wait: self.lock_wait };
        let (definitions, schema_hash) =
            definitions::write(&pg_dump, &snapshot, &plan.tables, &self.temporary, meter).await?;
        let known = parent.as_ref().map(|(_, manifest)| manifest);
        let (reused, read_all) = self.reusable(&session, known, &facts, &plan, &schema_hash).await?;

        let plan = Arc::new(plan);
        let to_read: Vec<usize> = (0..plan.chunks.len()).filter(|number| !reused.contains_key(number)).collect();
        let (chunks_read, chunks_reused) = (to_read.len(), reused.len());
        let reading = Reading { jobs: self.jobs, lock_wait: self.lock_wait, temporary: self.temporary.clone() };
        let ordered = readers::start(self.connector, &snapshot, plan.clone(), to_read, &reading).await?;
        let contents = Contents {
            recovery: recovery::text(&facts, &plan),
            // Where a transaction did not end in time, the parent's horizon still holds.
            horizon: settled.or_else(|| known.and_then(|parent| parent.horizon.clone())),
            facts,
            plan,
            others,
            reused,
            schema_hash,
            read_all,
            definitions,
            started,
        };
        let (feed, written) = Feed::new(contents, ordered);
        let request = Request {
            parent: parent.as_ref().map(|(id, _)| *id),
            tags: Vec::new(),
            host: self.host.clone(),
            label: self.connector.database_name().to_owned(),
            description: None,
            time: started,
        };
        let (handle, meter) = (self.repository.clone(), meter.clone());
        // The snapshot's session must live until the last reader has joined and read.
        let archived = on_thread(move || archive(&handle, feed, &request)).await??;
        drop(snapshot);
        let archived = self.prove(ledger, archived, &meter).await?;
        let bytes = written.take().ok_or_else(|| Error::new(Kind::Verify, "the backup has no manifest"))?;
        let manifest = Manifest::parse(&bytes)?;
        let published = self.publish(archived).await?;
        let noted = ledger.publish(&Entry {
            id: hex(published.0)?,
            time: started,
            size: published.1.bytes,
            added: published.1.bytes_stored,
            rows: manifest.rows(),
            duration_ms: u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX),
            manifest_sha256: HexId::parse(&crate::dump::hex(Sha256::new_with_prefix(&bytes)))?,
            purpose: Purpose::Regular,
        })?;
        Ok(Taken { noted, manifest, chunks_read, chunks_reused, bytes_stored: published.1.bytes_stored })
    }

    /// The newest backup that the ledger knows, with its manifest.
    async fn parent(&self, ledger: &Ledger) -> Result<Option<(Id, Manifest)>> {
        let Some(latest) = ledger.latest()? else { return Ok(None) };
        let id: Id = latest.facts.id.as_str().parse()?;
        let handle = self.repository.clone();
        let bytes = on_thread(move || read::open(&handle, id)?.read(manifest::PATH, MANIFEST_LIMIT)).await??;
        Ok(Some((id, Manifest::parse(&bytes)?)))
    }

    /// What can be taken from the parent; and if nothing, why.
    async fn reusable(
        &self,
        session: &tokio_postgres::Client,
        parent: Option<&Manifest>,
        facts: &Facts,
        plan: &Plan,
        schema_hash: &str,
    ) -> Result<(HashMap<usize, ChunkEntry>, Option<String>)> {
        let everything = |why: &str| Ok((HashMap::new(), Some(why.to_owned())));
        let Some(parent) = parent else { return everything("it is the first backup") };
        if self.full_read {
            return everything("--full-read");
        }
        let horizon = match reuse::horizon(parent, facts, schema_hash) {
            Ok(horizon) => horizon,
            Err(why) => return everything(why),
        };
        let listed =
            changes::since(session, facts.server_version, facts.timeline, horizon, self.chunk_blocks, SUMMARIES);
        match listed.await? {
            Err(why) => everything(&why),
            Ok(changes) => {
                let found = reuse::reusable(parent, facts, plan, &changes);
                Ok((found.into_iter().map(|(number, entry)| (number, entry.clone())).collect(), None))
            }
        }
    }

    /// Reads back what was written, and a share of what it leans on. What fails this is not published.
    async fn prove(&self, ledger: &mut Ledger, archived: Archived, meter: &Arc<Meter>) -> Result<Archived> {
        let ids = |packs: &BTreeSet<Id>| packs.iter().map(|id| hex(*id)).collect::<Result<Vec<_>>>();
        let older = ledger.oldest_read_back(&ids(&archived.packs_leaned_on)?, SHARE)?;
        let again: BTreeSet<Id> = older.iter().map(|id| id.as_str().parse()).collect::<Result<_>>()?;
        let (handle, meter) = (self.repository.clone(), meter.clone());
        let (archived, proved) = on_thread(move || {
            let proved = read_back(&handle, &archived, &meter).and_then(|()| {
                let findings = check::reread(&handle, &again, &meter)?;
                match findings.first() {
                    None => Ok(()),
                    Some(finding) => Err(Error::new(Kind::Verify, "a pack that the backup needs is damaged")
                        .with("file", &finding.file)
                        .with("cause", &finding.what)
                        .with("state", "this backup was not published")),
                }
            });
            let proved = proved.map_err(|error| match snapshots::discard(&handle, &archived) {
                Ok(()) => error,
                Err(second) => error.with("left", second.message()),
            });
            (archived, proved)
        })
        .await?;
        proved?;
        let read: Vec<HexId> = ids(&archived.packs_written)?.into_iter().chain(older).collect();
        ledger.note_read_back(&read, Utc::now())?;
        Ok(archived)
    }

    async fn publish(&self, archived: Archived) -> Result<(Id, Archived)> {
        let handle = self.repository.clone();
        let (published, archived) = on_thread(move || (snapshots::publish(&handle, &archived), archived)).await?;
        Ok((published?.id, archived))
    }
}

fn hex(id: Id) -> Result<HexId> {
    HexId::parse(&id.to_string())
}
