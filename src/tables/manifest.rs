//! What was read, from where, and how it was decided: `manifest.json` of a backup.
//!
//! A restore needs nothing else to know which file holds which rows of which table, and how many.

use std::collections::BTreeMap;
use std::ops::Range;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, Other, Table};
use super::facts::Facts;
use super::plan::Plan;
use super::surroundings::{ExtraFile, Surroundings};
use crate::error::{Context, Error, Kind, Result};

/// The format that is written, and the newest one that is understood.
pub const FORMAT: u32 = 1;

/// The path of the manifest in a backup.
pub const PATH: &str = "manifest.json";

/// The most bytes that are read of one: it has a few kilobytes for each thousand chunks.
pub const LIMIT: u64 = 256 << 20;

/// A backup, described.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`]
    pub format: u32,
    /// The program that wrote it, with its version.
    pub tool: String,
    /// When the snapshot was exported.
    pub started: DateTime<Utc>,
    /// When the last row was read.
    pub finished: DateTime<Utc>,
    /// Where it comes from.
    #[serde(flatten)]
    pub facts: Facts,
    /// The position in the write-ahead log below which every change is settled (`changes.rs`), as `pg_lsn` writes it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub horizon: Option<String>,
    /// The checkpoint after the snapshot (`changes.rs`), as `pg_lsn` writes it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mark: Option<String>,
    /// SHA-256 of the definitions, 64 hex digits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub schema_hash: Option<String>,
    /// Why every chunk was read, if it was.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub read_all: Option<String>,
    /// What the database was used by.
    #[serde(default)]
    pub surroundings: Surroundings,
    /// The files beside it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub files: Vec<ExtraFile>,
    /// The tables whose rows are in it.
    pub tables: Vec<TableEntry>,
    /// The relations whose rows are not, and where they are.
    pub others: Vec<Other>,
}

/// A table in a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableEntry {
    /// What it was.
    #[serde(flatten)]
    pub table: Table,
    /// Rows of all its chunks.
    pub rows: u64,
    /// Its files, in their order.
    pub chunks: Vec<ChunkEntry>,
}

/// A file with rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkEntry {
    /// Its path in the backup.
    pub path: String,
    /// Heap blocks, the end excluded.
    pub blocks: Range<u64>,
    /// Its rows.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Whether it was read, or taken from the parent.
    pub origin: Origin,
    /// When it was read: the file's time in the backup, whichever backup has it.
    pub read_at: DateTime<Utc>,
}

/// Where a chunk's rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// From the database, in this run.
    Read,
    /// From the parent: its blocks are proved not to have changed.
    Reused,
}

impl Manifest {
    /// Describes what was read of a plan; `done` holds each of its chunks, in their order.
    ///
    /// # Errors
    /// [`Kind::Verify`] if it does not: a backup with a hole must not be described as whole.
    pub fn new(
        facts: Facts,
        plan: &Plan,
        others: Vec<Other>,
        done: &[ChunkEntry],
        started: DateTime<Utc>,
        finished: DateTime<Utc>,
    ) -> Result<Self> {
        let mut tables: Vec<TableEntry> =
            plan.tables.iter().map(|table| TableEntry { table: table.clone(), rows: 0, chunks: Vec::new() }).collect();
        let mut by_path: BTreeMap<&str, &ChunkEntry> = done.iter().map(|entry| (entry.path.as_str(), entry)).collect();
        for chunk in &plan.chunks {
            let entry = by_path.remove(chunk.path.as_str()).filter(|entry| entry.blocks == chunk.blocks);
            let Some(entry) = entry else {
                return Err(Error::new(Kind::Verify, format!("{} was planned and not read", chunk.path)));
            };
            let table = &mut tables[chunk.table];
            table.rows += entry.rows;
            table.chunks.push(entry.clone());
        }
        if let Some(path) = by_path.keys().next() {
            return Err(Error::new(Kind::Verify, format!("{path} was read and not planned")));
        }
        Ok(Self {
            format: FORMAT,
            tool: concat!("glovebox ", env!("CARGO_PKG_VERSION")).to_owned(),
            started,
            finished,
            facts,
            horizon: None,
            mark: None,
            schema_hash: None,
            read_all: None,
            surroundings: Surroundings::default(),
            files: Vec::new(),
            tables,
            others,
        })
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`Kind::Refused`] if a newer release wrote it, [`Kind::Verify`] if it is damaged.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let damaged = "the manifest of the backup is damaged";
        let version: Version = serde_json::from_slice(bytes).context(Kind::Verify, damaged)?;
        if version.format > FORMAT {
            let what =
                format!("the backup has format {}, newer than {FORMAT}, which this release knows", version.format);
            return Err(Error::new(Kind::Refused, what).hint("Use the release that wrote it, or a newer one."));
        }
        serde_json::from_slice(bytes).context(Kind::Verify, damaged)
    }

    /// As it is stored: JSON that a person can read.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).context(Kind::Store, "cannot write the manifest of the backup")
    }

    /// Rows of all tables.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Chunks of this origin.
    #[must_use]
    pub fn chunks(&self, origin: Origin) -> usize {
        self.tables.iter().flat_map(|table| &table.chunks).filter(|chunk| chunk.origin == origin).count()
    }

    /// Bytes of all rows.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.tables.iter().flat_map(|table| &table.chunks).map(|chunk| chunk.bytes).sum()
    }
}

impl Catalog {
    /// Splits it into a plan and what is not in one.
    #[must_use]
    pub fn plan(self, chunk_blocks: u32) -> (Plan, Vec<Other>) {
        (Plan::new(self.tables, chunk_blocks), self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::CopyFormat;
    use super::*;

    fn plan() -> Plan {
        let table = |name: &str, blocks| Table {
            oid: 1,
            schema: "public".into(),
            name: name.into(),
            filenode: 2,
            tablespace: 0,
            logged: true,
            is_heap: true,
            stands_alone: true,
            read_whole: false,
            root: None,
            format: CopyFormat::Text,
            columns: Vec::new(),
            blocks,
        };
        Plan::new(vec![table("b", 20), table("a", 0), table("c", 1)], 16)
    }

    fn done(plan: &Plan) -> Vec<ChunkEntry> {
        let entry = |chunk: &super::super::plan::Chunk| ChunkEntry {
            path: chunk.path.clone(),
            blocks: chunk.blocks.clone(),
            rows: 3,
            bytes: 5,
            origin: Origin::Read,
            read_at: DateTime::UNIX_EPOCH,
        };
        plan.chunks.iter().map(entry).collect()
    }

    fn manifest(done: &[ChunkEntry]) -> Result<Manifest> {
        let facts = Facts {
            server_version: 150_018,
            system_identifier: u64::MAX.to_string(),
            timeline: 1,
            database: serde_json::json!({"datname": "teslamate"}),
            application: Vec::new(),
            settings: Vec::new(),
            size: None,
            written: None,
            migrations: None,
        };
        Manifest::new(facts, &plan(), Vec::new(), done, DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH)
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let written = manifest(&done(&plan())).unwrap();
        assert_eq!((written.rows(), written.bytes()), (9, 15));
        assert_eq!(Manifest::parse(&written.to_bytes().unwrap()).unwrap(), written);
    }

    #[test]
    fn a_hole_or_a_surplus_is_no_backup() {
        let whole = done(&plan());
        let error = manifest(&whole[1..]).unwrap_err();
        assert_eq!(error.kind(), Kind::Verify);
        assert!(error.message().starts_with("data/public.b/00000.copy was planned"), "{error}");
        let mut more = whole.clone();
        more.push(ChunkEntry { path: "data/public.d/00000.copy".into(), ..whole[0].clone() });
        assert!(manifest(&more).unwrap_err().message().contains("was read and not planned"));
        let mut other = whole;
        other[0].blocks = 0..15;
        assert!(manifest(&other).is_err());
    }

    #[test]
    fn a_newer_format_is_refused_and_a_damaged_one_is_called_so() {
        let mut newer = manifest(&done(&plan())).unwrap();
        newer.format = FORMAT + 1;
        let error = Manifest::parse(&newer.to_bytes().unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert_eq!(Manifest::parse(b"{\"format\": 1}").unwrap_err().kind(), Kind::Verify);
        assert_eq!(Manifest::parse(b"").unwrap_err().kind(), Kind::Verify);
    }
}
