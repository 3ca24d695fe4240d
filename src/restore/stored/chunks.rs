//! Chunks of a backup on their way from the repository into COPY: read ahead on a thread, copied by a session.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::database::connect::chain;
use crate::error::{Error, Kind, Result};
use crate::progress::Meter;
use crate::repository::read;
use crate::tables::catalog::Table;
use crate::tables::manifest::ChunkEntry;

/// Blobs that are read ahead for each connection, of 4 MiB at most.
const AHEAD: usize = 2;

/// Where the rows of a table go, and which of them.
#[derive(Debug)]
pub struct Target {
    /// The table that COPY fills, with its columns.
    pub table: String,
    /// A condition of COPY ... FROM, in a session whose `search_path` is `pg_catalog`; without one, all rows.
    pub condition: Option<String>,
}

impl From<String> for Target {
    fn from(table: String) -> Self {
        Self { table, condition: None }
    }
}

/// Copies one chunk into its table, and reads its pieces to their end also where the server refuses them.
pub(super) async fn copy(
    client: &Client,
    task: &Task,
    pieces: &mut mpsc::Receiver<Result<Piece>>,
    meter: &Meter,
) -> Result<std::result::Result<u64, tokio_postgres::Error>> {
    let (mut sink, mut failed) = match client.copy_in::<_, Bytes>(&task.statement()).await {
        Ok(sink) => (Some(Box::pin(sink)), None),
        Err(cause) => (None, Some(cause)),
    };
    loop {
        match pieces.recv().await.transpose()? {
            Some(Piece::Data(bytes)) => {
                meter.add(bytes.len() as u64);
                if let (Some(open), None) = (&mut sink, &failed) {
                    failed = open.send(bytes).await.err();
                }
            }
            Some(Piece::End) => break,
            Some(Piece::Begin(_)) | None => return Err(out_of_step()),
        }
    }
    Ok(match (failed, sink) {
        (Some(cause), _) => Err(cause),
        (None, Some(mut sink)) => sink.as_mut().finish().await,
        (None, None) => return Err(out_of_step()),
    })
}

pub(super) fn out_of_step() -> Error {
    Error::new(Kind::Attention, "the rows of a backup came out of step")
}

/// Chunks that are left to be loaded, by whichever connection is free.
pub(super) type Tasks = Arc<Mutex<VecDeque<Task>>>;

/// Whether rows of other tables may be what is missing: a constraint or a value was refused, or a function raised an error.
pub(super) fn may_depend_on_others(cause: &tokio_postgres::Error) -> bool {
    let class = cause.code().and_then(|code| code.code().get(..2));
    class.is_some_and(|class| ["22", "23", "P0"].contains(&class))
}

/// A chunk to load.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) table: Arc<Table>,
    pub(super) target: Arc<Target>,
    pub(super) chunk: ChunkEntry,
}

impl Task {
    fn statement(&self) -> String {
        let Target { table, condition } = &*self.target;
        let condition = condition.as_ref().map(|condition| format!(" WHERE {condition}")).unwrap_or_default();
        format!("COPY {table} FROM STDIN WITH (FORMAT {}){condition}", self.table.format.word())
    }
}

pub(super) enum Piece {
    Begin(Task),
    Data(Bytes),
    End,
}

/// Reads chunk after chunk on a thread of its own, until there are no more or nobody listens.
pub(super) fn read_ahead(contents: Arc<read::Contents>, tasks: Tasks) -> mpsc::Receiver<Result<Piece>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        loop {
            let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(task) = task else { return };
            if let Err(error) = send(&contents, task, &sender) {
                let _ = sender.blocking_send(Err(error));
                return;
            }
            if sender.is_closed() {
                return;
            }
        }
    });
    receiver
}

fn send(contents: &read::Contents, task: Task, sender: &mpsc::Sender<Result<Piece>>) -> Result<()> {
    let mut reader = contents.reader(&task.chunk.path)?;
    let give = |piece| sender.blocking_send(Ok(piece)).is_ok();
    if !give(Piece::Begin(task)) {
        return Ok(());
    }
    while let Some(blob) = reader.next_blob()? {
        if !give(Piece::Data(blob.into())) {
            return Ok(());
        }
    }
    give(Piece::End);
    Ok(())
}

/// The server's words; a full disk there is something else than rows that do not fit.
pub(super) fn load_failed(table: &str, path: &str, cause: &tokio_postgres::Error) -> Error {
    let (kind, what) = match cause.code() {
        Some(code) if *code == SqlState::DISK_FULL => (Kind::Store, "the server ran out of space while it loaded"),
        Some(_) => (Kind::Verify, "the server did not take the rows of"),
        None => (Kind::Source, "the server ended the connection while it loaded"),
    };
    let code = cause.code().map_or("", SqlState::code);
    let error =
        Error::new(kind, format!("{what} {table}")).with("file", path).with("cause", chain(cause)).with("code", code);
    if kind == Kind::Verify { error.with("section", "data") } else { error }
}
