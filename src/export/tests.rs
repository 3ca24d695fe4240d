//! What is refused before any of it is written, with backups that no database was needed for.

use std::collections::BTreeMap;

use chrono::DateTime;

use super::*;
use crate::repository::testing::{Fixture, bytes};
use crate::tables::facts::Facts;
use crate::tables::manifest::{ChunkEntry, FORMAT, Origin, TableEntry};
use crate::tables::surroundings::Surroundings;
use crate::tables::{CopyFormat, Table};

const PATH: &str = "data/public.t/00000.copy";

fn manifest() -> Manifest {
    let table = Table {
        oid: 1,
        schema: "public".into(),
        name: "t".into(),
        filenode: 1,
        tablespace: 0,
        logged: true,
        is_heap: true,
        stands_alone: true,
        read_whole: false,
        root: None,
        format: CopyFormat::Text,
        columns: Vec::new(),
        blocks: 1,
    };
    let chunk = ChunkEntry {
        path: PATH.into(),
        blocks: 0..1,
        rows: 2,
        bytes: 2,
        origin: Origin::Read,
        read_at: DateTime::UNIX_EPOCH,
    };
    Manifest {
        format: FORMAT,
        tool: "glovebox".into(),
        started: DateTime::UNIX_EPOCH,
        finished: DateTime::UNIX_EPOCH,
        facts: Facts {
            server_version: 150_018,
            system_identifier: "1".into(),
            timeline: 1,
            database: serde_json::json!({"encoding": "UTF8"}),
            application: Vec::new(),
            settings: Vec::new(),
            size: None,
            written: None,
            migrations: None,
        },
        horizon: None,
        mark: None,
        schema_hash: None,
        read_all: None,
        surroundings: Surroundings::default(),
        files: Vec::new(),
        tables: vec![TableEntry { table, rows: 2, chunks: vec![chunk] }],
        others: Vec::new(),
    }
}

/// Opens a backup with this manifest and these files.
fn opened(manifest: &Manifest, files: &[(&str, &str)]) -> Result<Vec<String>> {
    let fixture = Fixture::new();
    let mut entries: BTreeMap<&str, Vec<u8>> =
        files.iter().map(|(path, content)| (*path, content.as_bytes().to_vec())).collect();
    entries.insert(manifest::PATH, manifest.to_bytes()?);
    entries.insert(definitions::PATH, b"PGDMP".to_vec());
    let mut entries: Vec<_> = entries.into_iter().map(|(path, content)| bytes(path, content)).collect();
    entries.sort_by(|left, right| left.path.split('/').cmp(right.path.split('/')));
    let id = fixture.backup(entries, None);
    let temporary = tempfile::tempdir().unwrap();
    Backup::open(&fixture.open(), id, temporary.path()).map(|backup| backup.left_out)
}

#[track_caller]
fn refused(manifest: &Manifest, files: &[(&str, &str)], kind: Kind, words: &str) {
    let error = opened(manifest, files).unwrap_err();
    assert!(error.kind() == kind && error.message().contains(words), "{error}");
}

#[test]
fn extra_files_are_named_and_the_page_is_not() {
    let files = [(PATH, "\n\n"), ("files/etc/secrets", "x"), ("RESTORE.md", "x")];
    assert_eq!(opened(&manifest(), &files).unwrap(), ["files/etc/secrets"]);
}

#[test]
fn files_that_are_not_those_of_the_manifest_are_noticed() {
    refused(&manifest(), &[], Kind::Verify, "data/public.t/00000.copy is missing in the backup");
    refused(&manifest(), &[(PATH, "\n")], Kind::Verify, "00000.copy has 1 bytes instead of 2");
    let more = [(PATH, "\n\n"), ("data/public.t/00001.copy", "\n")];
    refused(&manifest(), &more, Kind::Verify, "a file data/public.t/00001.copy, which its manifest does not name");
    let mut twice = manifest();
    let entry = twice.tables[0].clone();
    twice.tables.push(entry);
    refused(&twice, &[(PATH, "\n\n")], Kind::Verify, "or named twice");
    let mut rows = manifest();
    rows.tables[0].rows = 3;
    refused(&rows, &[(PATH, "\n\n")], Kind::Verify, "the files of table \"public\".\"t\" have 2 rows instead of 3");
}

#[test]
fn text_of_no_known_encoding_is_refused() {
    let mut unknown = manifest();
    unknown.facts.database = serde_json::json!({"encoding": "SQL_ASCII"});
    refused(&unknown, &[(PATH, "\n\n")], Kind::Refused, "(SQL_ASCII)");
}

#[test]
fn a_dump_with_other_rows_than_the_manifest_says_is_none() {
    let contents = |rows: Option<u64>| {
        let name = TableName { schema: "public".into(), name: "t".into() };
        Contents { rows: rows.map(|rows| (name, rows)).into_iter().collect(), ..Contents::default() }
    };
    as_described(&contents(Some(2)), &manifest()).unwrap();
    let error = as_described(&contents(Some(1)), &manifest()).unwrap_err();
    assert_eq!(error.message(), "the dump has 1 rows of table public.t instead of 2 rows");
    assert!(as_described(&contents(None), &manifest()).unwrap_err().message().contains("no COPY of table"));
}

#[test]
fn an_archive_cannot_be_made_and_sql_can() {
    for (name, works) in [("a.sql", true), ("a.sql.gz", true), ("a.sql.zst", true), ("a.bck", true), ("a.dump", false)]
    {
        assert_eq!(compression(Format::of_name(Path::new(name))).is_ok(), works, "{name}");
    }
}
