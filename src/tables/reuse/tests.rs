//! Every condition by itself: a parent of which one thing is other than it was, and nothing else.
//!
//! Some of them follow from others in all that a server does (`docs/change-detection.md`), so no database can tell whether
//! they are there. They are told apart here.

use serde_json::json;

use super::super::catalog::Column;
use super::super::manifest::Origin;
use super::super::surroundings::Surroundings;
use super::super::types::CopyFormat;
use super::*;

const HASH: &str = "abc";

fn table() -> Table {
    let column = Column {
        number: 1,
        name: "id".into(),
        type_name: "integer".into(),
        type_oid: 23,
        modifier: -1,
        composites: None,
        bases: None,
        missing: None,
    };
    Table {
        oid: 100,
        schema: "public".into(),
        name: "t".into(),
        filenode: 200,
        tablespace: 0,
        logged: true,
        is_heap: true,
        stands_alone: true,
        read_whole: false,
        root: None,
        format: CopyFormat::Binary,
        columns: vec![column],
        blocks: 16,
    }
}

fn facts() -> Facts {
    Facts {
        server_version: 170_000,
        system_identifier: "1".into(),
        timeline: 1,
        database: json!({"oid": "5", "dattablespace": "1663"}),
        settings: Vec::new(),
        application: Vec::new(),
        size: None,
        written: None,
        migrations: None,
    }
}

fn parent() -> Manifest {
    let chunk = ChunkEntry {
        path: "data/public.t/00000.bin".into(),
        blocks: 0..16,
        rows: 1,
        bytes: 1,
        origin: Origin::Read,
        read_at: chrono::DateTime::UNIX_EPOCH,
    };
    Manifest {
        format: 1,
        tool: "glovebox".into(),
        started: chrono::DateTime::UNIX_EPOCH,
        finished: chrono::DateTime::UNIX_EPOCH,
        facts: facts(),
        horizon: Some("0/1".into()),
        mark: Some("0/2".into()),
        schema_hash: Some(HASH.into()),
        read_all: None,
        surroundings: Surroundings::default(),
        files: Vec::new(),
        tables: vec![TableEntry { table: table(), rows: 1, chunks: vec![chunk] }],
        others: Vec::new(),
    }
}

/// Whether the table's one chunk is reused.
fn is_reused(parent: &Manifest, facts: &Facts, table: Table, changes: &Changes) -> bool {
    let plan = Plan::new(vec![table], 16);
    known(parent, facts, HASH).is_ok() && reusable(parent, facts, &plan, changes).len() == 1
}

#[test]
fn a_chunk_is_reused_if_nothing_is_other_than_it_was() {
    assert!(is_reused(&parent(), &facts(), table(), &Changes::default()));
}

#[test]
fn another_cluster_timeline_database_or_schema_is_of_no_use() {
    let others: [fn(&mut Facts); 3] = [
        |facts| facts.system_identifier = "2".into(),
        |facts| facts.timeline = 2,
        |facts| facts.database = json!({"oid": "6", "dattablespace": "1663"}),
    ];
    for (number, change) in others.iter().enumerate() {
        let mut other = facts();
        change(&mut other);
        assert!(!is_reused(&parent(), &other, table(), &Changes::default()), "{number}");
    }
    let lacking: [fn(&mut Manifest); 2] =
        [|parent| parent.horizon = None, |parent| parent.schema_hash = Some("other".into())];
    for (number, change) in lacking.iter().enumerate() {
        let mut parent = parent();
        change(&mut parent);
        assert!(!is_reused(&parent, &facts(), table(), &Changes::default()), "{number}");
    }
}

#[test]
fn another_table_file_or_column_is_read() {
    let others: [fn(&mut Table); 13] = [
        |table| table.oid = 101,
        |table| table.filenode = 201,
        |table| table.tablespace = 1700,
        |table| table.logged = false,
        |table| table.is_heap = false,
        |table| table.format = CopyFormat::Text,
        |table| table.blocks = 15,
        |table| table.stands_alone = false,
        |table| table.columns[0].number = 2,
        |table| table.columns[0].name = "id2".into(),
        |table| table.columns[0].type_oid = 20,
        |table| table.columns[0].modifier = 4,
        |table| table.columns[0].missing = Some("{7}".into()),
    ];
    for (number, change) in others.iter().enumerate() {
        let mut other = table();
        change(&mut other);
        assert!(!is_reused(&parent(), &facts(), other, &Changes::default()), "{number}");
    }
    // An unlogged table's rows were in no log before either.
    let mut parent = parent();
    parent.tables[0].table.logged = false;
    assert!(!is_reused(&parent, &facts(), table(), &Changes::default()));
    parent.tables[0].table.logged = true;
    parent.tables[0].chunks[0].blocks = 0..17;
    assert!(!is_reused(&parent, &facts(), table(), &Changes::default()), "another range");
}

#[test]
fn what_is_listed_or_cut_is_read_in_the_tables_own_tablespace() {
    let listed = Changes::of(1663, 200, &[0], None);
    let cut = Changes::of(1663, 200, &[], Some(15));
    for (number, changes) in [listed, cut].iter().enumerate() {
        assert!(!is_reused(&parent(), &facts(), table(), changes), "{number}");
    }
    for elsewhere in [Changes::of(1664, 200, &[0], None), Changes::of(1663, 201, &[0], None)] {
        assert!(is_reused(&parent(), &facts(), table(), &elsewhere));
    }
    // Where the tablespace is not known, nothing is known of the file.
    let mut nowhere = facts();
    nowhere.database = json!({"oid": "5"});
    assert!(!is_reused(&parent(), &nowhere, table(), &Changes::default()));
}
