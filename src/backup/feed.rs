//! The files of a backup, in the order in which a tree is stored: `RESTORE.md`, `data/…`, `files/…`, `manifest.json`,
//! `schema.dump`.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};

use super::extra::Extra;
use crate::error::{Context, Error, Kind, Result};
use crate::progress::Meter;
use crate::repository::feed::{Body, Entry};
use crate::tables::buffer::Whole;
use crate::tables::catalog::Other;
use crate::tables::definitions;
use crate::tables::facts::Facts;
use crate::tables::manifest::{self, ChunkEntry, Manifest, Origin};
use crate::tables::plan::{Chunk, Plan};
use crate::tables::readers::{Copied, Ordered};
use crate::tables::surroundings::Surroundings;

/// What a backup consists of, beside the rows that are read.
pub struct Contents {
    /// `RESTORE.md`
    pub recovery: String,
    /// Where it comes from.
    pub facts: Facts,
    /// What is in it.
    pub plan: Arc<Plan>,
    /// What is not.
    pub others: Vec<Other>,
    /// The chunks that the parent has, by their number.
    pub reused: HashMap<usize, ChunkEntry>,
    /// For the next backup.
    pub horizon: Option<String>,
    /// For the next backup too.
    pub mark: Option<String>,
    /// SHA-256 of the definitions, 64 hex digits.
    pub schema_hash: String,
    /// Why everything is read, if it is.
    pub read_all: Option<String>,
    /// `files/…`
    pub extra: Vec<Extra>,
    /// What the database is used by.
    pub surroundings: Surroundings,
    /// `schema.dump`
    pub definitions: File,
    /// When the snapshot was exported.
    pub started: DateTime<Utc>,
}

/// The manifest's bytes, once they were written.
#[derive(Clone, Default)]
pub struct WrittenManifest(Arc<Mutex<Option<Vec<u8>>>>);

impl WrittenManifest {
    /// Takes them.
    #[must_use]
    pub fn take(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

enum Next {
    Recovery,
    Chunk(usize),
    Extra(usize),
    Manifest,
    Definitions,
    End,
}

/// Hands the files over, one after the other. It blocks while rows are read.
pub struct Feed {
    contents: Contents,
    rows: Ordered,
    done: Vec<ChunkEntry>,
    written: WrittenManifest,
    meter: Arc<Meter>,
    next: Next,
}

impl Feed {
    /// Of these contents, with rows that arrive in the plan's order.
    ///
    /// Counts what was read in bytes of the tables' own files, since nobody knows beforehand what COPY makes of them.
    #[must_use]
    pub fn new(contents: Contents, rows: Ordered, meter: Arc<Meter>) -> (Self, WrittenManifest) {
        let written = WrittenManifest::default();
        let feed = Self { contents, rows, done: Vec::new(), written: written.clone(), meter, next: Next::Recovery };
        (feed, written)
    }

    fn entry(&self, path: &str, body: Body) -> Entry {
        Entry { path: path.to_owned(), mode: 0o600, mtime: self.contents.started, owner: None, body }
    }

    fn chunk(&mut self, number: usize) -> Result<Entry> {
        self.meter.check()?;
        let chunk = &self.contents.plan.chunks[number];
        if let Some(known) = self.contents.reused.get(&number) {
            let entry = Entry { mtime: known.read_at, ..self.entry(&known.path, Body::Reused { size: known.bytes }) };
            self.done.push(ChunkEntry { origin: Origin::Reused, ..known.clone() });
            self.meter.chunks_reused.fetch_add(1, Ordering::Relaxed);
            return Ok(entry);
        }
        let missing = || Error::new(Kind::Source, format!("the rows of {} did not come", chunk.path));
        let Copied { chunk: copied, rows, bytes, body } = self.rows.next_blocking().ok_or_else(missing)??;
        if copied != number {
            return Err(missing());
        }
        self.meter.chunks_read.fetch_add(1, Ordering::Relaxed);
        self.meter.rows.fetch_add(rows, Ordering::Relaxed);
        self.meter.add(heap_bytes(chunk));
        let body = match body {
            Whole::Memory(bytes) => Body::Bytes(bytes),
            Whole::File(file) => Body::File { file, size: bytes },
        };
        let entry = self.entry(&chunk.path, body);
        let (path, blocks, read_at) = (chunk.path.clone(), chunk.blocks.clone(), self.contents.started);
        self.done.push(ChunkEntry { path, blocks, rows, bytes, origin: Origin::Read, read_at });
        Ok(entry)
    }

    fn extra(&self, number: usize) -> Entry {
        let extra = &self.contents.extra[number];
        let entry = self.entry(&extra.stored_as, Body::Bytes(extra.bytes.clone()));
        Entry { mode: extra.entry.mode, mtime: extra.changed, owner: Some(extra.owner()), ..entry }
    }

    fn manifest(&self) -> Result<Entry> {
        let Contents { facts, plan, others, .. } = &self.contents;
        let mut manifest =
            Manifest::new(facts.clone(), plan, others.clone(), &self.done, self.contents.started, Utc::now())?;
        manifest.horizon.clone_from(&self.contents.horizon);
        manifest.mark.clone_from(&self.contents.mark);
        manifest.surroundings = self.contents.surroundings.clone();
        manifest.files = self.contents.extra.iter().map(|extra| extra.entry.clone()).collect();
        manifest.schema_hash = Some(self.contents.schema_hash.clone());
        manifest.read_all.clone_from(&self.contents.read_all);
        let bytes = manifest.to_bytes()?;
        *self.written.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes.clone());
        Ok(self.entry(manifest::PATH, Body::Bytes(bytes)))
    }

    fn definitions(&self) -> Result<Entry> {
        let failed = "cannot read a temporary file back";
        let file = self.contents.definitions.try_clone().context(Kind::Store, failed)?;
        let size = file.metadata().context(Kind::Store, failed)?.len();
        Ok(self.entry(definitions::PATH, Body::File { file, size }))
    }
}

/// What a chunk takes in the table's file, with blocks as they are by default.
#[must_use]
pub fn heap_bytes(chunk: &Chunk) -> u64 {
    (chunk.blocks.end - chunk.blocks.start) * 8192
}

impl Iterator for Feed {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let chunks = self.contents.plan.chunks.len();
        let extras = self.contents.extra.len();
        let file = |number: usize| if number < extras { Next::Extra(number) } else { Next::Manifest };
        let after = |number: usize| if number < chunks { Next::Chunk(number) } else { file(0) };
        let (entry, next) = match self.next {
            Next::Recovery => {
                let text = self.contents.recovery.clone().into_bytes();
                (Ok(self.entry("RESTORE.md", Body::Bytes(text))), after(0))
            }
            Next::Chunk(number) => (self.chunk(number), after(number + 1)),
            Next::Extra(number) => (Ok(self.extra(number)), file(number + 1)),
            Next::Manifest => (self.manifest(), Next::Definitions),
            Next::Definitions => (self.definitions(), Next::End),
            Next::End => return None,
        };
        self.next = if entry.is_ok() { next } else { Next::End };
        Some(entry)
    }
}
