//! Copies the chunks of a plan on several sessions, ahead of whoever takes them, and hands them over in order.
//!
//! At most `jobs` chunks are being copied and twice as many wait to be taken; a large one waits in a temporary file.
//! So memory is bounded whatever the size of the database.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::buffer::{Buffer, MEMORY_LIMIT, Whole};
use super::catalog::Table;
use super::plan::Plan;
use super::rows::RowCounter;
use super::snapshot::Snapshot;
use super::{locks, unchanged};
use crate::database::Connector;
use crate::database::connect::{QueryContext, chain};
use crate::dump::pg_dump::with_conflict_hint;
use crate::error::{Error, Kind, Result};

/// A chunk that was copied.
#[derive(Debug)]
pub struct Copied {
    /// Which of the plan's chunks.
    pub chunk: usize,
    /// Its rows.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
    /// What COPY wrote.
    pub body: Whole,
}

/// Copies that arrive in the order of the plan.
pub struct Ordered {
    queue: mpsc::Receiver<oneshot::Receiver<Result<Copied>>>,
}

impl Ordered {
    /// The next one; `None` after the last. Blocks: not for an asynchronous task.
    pub fn next_blocking(&mut self) -> Option<Result<Copied>> {
        let next = self.queue.blocking_recv()?;
        // A reader that went away without a word was stopped.
        Some(next.blocking_recv().unwrap_or_else(|_| Err(Error::new(Kind::Source, "the reading was given up"))))
    }
}

type Task = (usize, oneshot::Sender<Result<Copied>>);

/// Sessions that see the snapshot and have locked every table, at least one: as many as wanted and as the server has room to lock tables for.
/// Where there is no room for a second one, it is the snapshot's own.
///
/// Each takes its locks at once. One that took them later, when it comes to a table, would stand behind whoever waits to
/// alter it, who waits for the snapshot's own session, which waits for the reader. Nobody is waited for here either:
/// the tables are locked already, so a lock that cannot be had is somebody's who came in between.
///
/// # Errors
/// [`Kind::Busy`] then.
pub async fn join(
    connector: &Connector,
    snapshot: &Snapshot,
    plan: &Plan,
    jobs: usize,
    lock_wait: Duration,
) -> Result<Vec<Arc<Client>>> {
    let tables: Vec<String> = plan.tables.iter().map(Table::qualified).collect();
    let lock = locks::statement(&tables).map_or_else(String::new, |lock| format!("{lock} NOWAIT;"));
    let room = locks::room_for(snapshot.client(), tables.len()).await?.saturating_sub(1);
    let mut clients = Vec::new();
    for _ in 0..jobs.max(1).min(room) {
        let client = snapshot.join(connector, lock_wait).await?;
        match client.batch_execute(&format!("{lock} {ENCODING}; SAVEPOINT chunk")).await {
            Err(cause) if locks::is_full(&cause) => break,
            locked => locked.query_context("cannot lock the tables in another session")?,
        }
        clients.push(Arc::new(client));
    }
    if clients.is_empty() {
        let client = snapshot.client().clone();
        client
            .batch_execute(&format!("{ENCODING}; SAVEPOINT chunk"))
            .await
            .query_context("cannot prepare a session to read rows")?;
        clients.push(client);
    }
    Ok(clients)
}

/// Starts copying these chunks of the plan with these sessions ([`join`]); large ones wait in `temporary`. It ends by itself when all are copied, at the
/// first failure, or when nobody takes them any more.
#[must_use]
pub fn start(clients: Vec<Arc<Client>>, plan: &Arc<Plan>, chunks: Vec<usize>, temporary: &Path) -> Ordered {
    let (queue, ordered) = mpsc::channel(clients.len() * 2);
    let (hand, tasks) = mpsc::channel::<Task>(1);
    let tasks = Arc::new(Mutex::new(tasks));
    for client in clients {
        let reader = Reader { client, plan: plan.clone(), temporary: temporary.to_owned() };
        tokio::spawn(reader.work(tasks.clone()));
    }
    tokio::spawn(async move {
        for chunk in chunks {
            let (sender, receiver) = oneshot::channel();
            // First its place in the order, then the work: so the one that is waited for is always being copied.
            if queue.send(receiver).await.is_err() || hand.send((chunk, sender)).await.is_err() {
                return;
            }
        }
    });
    Ordered { queue: ordered }
}

struct Reader {
    client: Arc<Client>,
    plan: Arc<Plan>,
    temporary: PathBuf,
}

impl Reader {
    async fn work(self, tasks: Arc<Mutex<mpsc::Receiver<Task>>>) {
        loop {
            let task = tasks.lock().await.recv().await;
            let Some((chunk, sender)) = task else { return };
            let copied = self.copy(chunk).await;
            let failed = copied.is_err();
            if sender.send(copied).is_err() || failed {
                return;
            }
        }
    }

    async fn copy(&self, number: usize) -> Result<Copied> {
        let chunk = &self.plan.chunks[number];
        let table = &self.plan.tables[chunk.table];
        let failed = || format!("cannot read table {}", table.qualified());
        self.prove_name(table).await?;
        let stream =
            self.client.copy_out(&self.plan.statement(chunk)).await.map_err(|cause| explain(&cause, failed()))?;
        let mut stream = std::pin::pin!(stream);
        let mut buffer = Buffer::new(&self.temporary, MEMORY_LIMIT);
        let mut counter = RowCounter::new(table.format);
        loop {
            match stream.try_next().await {
                Ok(Some(piece)) => {
                    counter.feed(&piece);
                    buffer.push(&piece)?;
                }
                Ok(None) => break,
                // Not for every piece: a piece is a row.
                Err(cause) => return Err(explain(&cause, failed())),
            }
        }
        self.prove_name(table).await?;
        let rows = counter
            .finish()
            .map_err(|why| Error::new(Kind::Source, failed()).with("cause", format!("COPY's output {why}")))?;
        Ok(Copied { chunk: number, rows, bytes: buffer.bytes(), body: buffer.finish()? })
    }

    /// Proves that the table's name, which COPY uses, means the table that the snapshot sees: no lock keeps a schema from being renamed.
    ///
    /// Before that, the locks that the last chunk took beyond those of the tables are given back: a query locks all indexes.
    async fn prove_name(&self, table: &Table) -> Result<()> {
        let name = table.qualified();
        let sql = format!(
            "ROLLBACK TO SAVEPOINT chunk; SELECT pg_catalog.to_regclass({})::pg_catalog.oid",
            crate::database::literal(&name)
        );
        let failed = format!("cannot read table {name}");
        let answer = self.client.simple_query(&sql).await.map_err(|cause| explain(&cause, failed))?;
        let found = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
            _ => None,
        });
        if found.flatten() == Some(table.oid.to_string()) {
            return Ok(());
        }
        Err(unchanged::error("the name of a table means another one than when the backup began", name))
    }
}

/// Bytes of unknown encoding are copied as they are. Everything else is read as UTF-8, which the server checks.
const ENCODING: &str =
    "SELECT set_config('client_encoding', 'SQL_ASCII', false) WHERE current_setting('server_encoding') = 'SQL_ASCII'";

/// The server's words; on a standby also what to do about a query that stood in the way of the replay.
fn explain(cause: &tokio_postgres::Error, failed: String) -> Error {
    with_conflict_hint(Error::new(Kind::Source, failed).with("cause", chain(cause)))
}
