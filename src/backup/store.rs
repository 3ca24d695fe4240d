//! Stores a prepared backup as a pending snapshot, reads it back, and publishes it.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::Utc;

use super::feed::{Contents, Feed, WrittenManifest, heap_bytes};
use super::{Backup, Decided, Prepared, SHARE, hex, recovery};
use crate::error::{Error, Kind, Result};
use crate::ledger::{HexId, Ledger, Purpose};
use crate::progress::Meter;
use crate::repository::archive::{Archived, Request, archive, read_back};
use crate::repository::{Handle, Id, check, snapshots};
use crate::tables::readers;
use crate::tables::unchanged::Scope;

impl Backup<'_> {
    /// Reads, and stores as a pending snapshot.
    pub(super) async fn store(
        &self,
        repository: &Handle,
        prepared: Prepared,
        decided: Decided,
        parent: Option<Id>,
        meter: &Arc<Meter>,
    ) -> Result<(Archived, WrittenManifest)> {
        let Prepared { session, snapshot, seen, facts, plan, others, readers, .. } = prepared;
        let (definitions, schema_hash, horizon) = (prepared.definitions, prepared.schema_hash, prepared.horizon);
        let started = prepared.started;
        drop(session);
        let Decided { reused, read_all, mark, old_horizon, audited: _ } = decided;
        let plan = Arc::new(plan);
        let to_read: Vec<usize> = (0..plan.chunks.len()).filter(|number| !reused.contains_key(number)).collect();
        meter.begin("reading", to_read.iter().map(|number| heap_bytes(&plan.chunks[*number])).sum());
        let ordered = readers::start(readers, &plan, to_read, &self.temporary);
        let contents = Contents {
            recovery: recovery::text(&facts, &plan),
            horizon: horizon.or(old_horizon),
            mark,
            facts,
            plan,
            others,
            reused,
            schema_hash,
            read_all,
            extra: self.extra.clone(),
            surroundings: self.surroundings.clone(),
            definitions,
            started,
        };
        let (feed, written) = Feed::new(contents, ordered, meter.clone());
        let request = Request {
            parent,
            tags: if self.purpose == Purpose::Regular { Vec::new() } else { vec![self.purpose.word().to_owned()] },
            host: self.host.clone(),
            label: self.connector.known_as().to_owned(),
            description: self.comment.clone(),
            time: started,
        };
        let handle = repository.clone();
        // The snapshot's session must live until the last reader has joined and read.
        let archived = self.interrupt.on_thread(meter, move || archive(&handle, feed, &request)).await?;
        let unchanged =
            self.interrupt.guard(Box::pin(seen.compare(&snapshot, self.connector, Scope::Rows, false))).await;
        drop(snapshot);
        match unchanged {
            Ok(()) => Ok((archived, written)),
            Err(error) => Err(discard(repository, archived, error).await),
        }
    }

    /// Reads back what was written, and a share of what it leans on. What fails this is not published.
    pub(super) async fn prove(
        &self,
        ledger: &mut Ledger,
        repository: &Handle,
        archived: Archived,
        meter: &Arc<Meter>,
    ) -> Result<Archived> {
        let ids = |packs: &BTreeSet<Id>| packs.iter().map(|id| hex(*id)).collect::<Result<Vec<_>>>();
        let older = ledger.oldest_read_back(&ids(&archived.packs_leaned_on)?, SHARE)?;
        let again: BTreeSet<Id> = older.iter().map(|id| id.as_str().parse()).collect::<Result<_>>()?;
        let (handle, reading) = (repository.clone(), meter.clone());
        let work = move || {
            reading.begin("reading back", archived.bytes_read);
            let proved = read_back(&handle, &archived, &reading).and_then(|()| {
                match check::rotten(&handle, &again, &reading)? {
                    None => Ok(()),
                    Some(finding) => Err(damaged_pack(&finding.file, &finding.what)),
                }
            });
            match proved {
                Ok(()) => Ok(archived),
                Err(error) => match snapshots::discard(&handle, &archived) {
                    Ok(()) => Err(error),
                    Err(second) => Err(error.with("left", second.message())),
                },
            }
        };
        let archived = self.interrupt.on_thread(meter, work).await?;
        let read: Vec<HexId> = ids(&archived.packs_written)?.into_iter().chain(older).collect();
        ledger.note_read_back(&read, Utc::now())?;
        Ok(archived)
    }
}

/// Takes away what was stored of a backup that failed with this.
async fn discard(repository: &Handle, archived: Archived, error: Error) -> Error {
    let handle = repository.clone();
    match crate::process::on_thread(move || snapshots::discard(&handle, &archived)).await {
        Ok(Ok(())) => error,
        Ok(Err(second)) | Err(second) => error.with("left", second.message()),
    }
}

/// From here on a signal is not heard any more: it takes no longer than ending would.
pub(super) async fn publish(
    repository: &Handle,
    archived: Archived,
    meter: &Arc<Meter>,
) -> Result<(snapshots::Snapshot, Archived)> {
    meter.now("publishing");
    let handle = repository.clone();
    let work = move || (snapshots::publish(&handle, &archived), archived);
    let (published, archived) = crate::process::on_thread(work).await?;
    Ok((published?.snapshot, archived))
}

fn damaged_pack(file: &str, what: &str) -> Error {
    Error::new(Kind::Verify, "a pack that the backup needs is damaged")
        .with("file", file)
        .with("cause", what)
        .with("state", "this backup was not published; those before it are as they were")
        .hint("See which backups are concerned with `teslamate-backup check --read-data`.")
        .hint("docs/repository.md, \"A damaged pack\", shows how to take it out with restic, so that backups go on.")
}
