//! Cuts tables into chunks: ranges of blocks, each a file of its own in a backup.

use std::fmt::Write as _;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::catalog::Table;

/// A range of a table's blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Where its rows are in a backup: components joined by `/`.
    pub path: String,
    /// Which of the plan's tables.
    #[serde(skip)]
    pub table: usize,
    /// Heap blocks, the end excluded.
    pub blocks: Range<u64>,
}

/// What is to be read, in the order of the paths.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The tables.
    pub tables: Vec<Table>,
    /// Their chunks. An empty table has none.
    pub chunks: Vec<Chunk>,
}

impl Plan {
    /// Cuts every table into ranges of so many blocks (8 KiB each, unless the server was built otherwise).
    #[must_use]
    pub fn new(tables: Vec<Table>, chunk_blocks: u32) -> Self {
        let mut chunks = Vec::new();
        for (number, table) in tables.iter().enumerate() {
            let directory = directory(table);
            // Only a heap is known to keep its rows where their ctid says.
            let step = if table.is_heap && !table.read_whole { u64::from(chunk_blocks.max(1)) } else { u64::MAX };
            let mut begin = 0;
            while begin < table.blocks {
                let end = begin.saturating_add(step).min(table.blocks);
                let file = begin / step;
                let path = format!("data/{directory}/{file:05}.{}", table.format.extension());
                chunks.push(Chunk { path, table: number, blocks: begin..end });
                begin = end;
            }
        }
        // As a tree is stored: by component, each by its bytes. Within a directory all names end alike.
        chunks.sort_by(|left, right| left.path.split('/').cmp(right.path.split('/')));
        Self { tables, chunks }
    }

    /// The statement that copies a chunk.
    ///
    /// A whole table is copied as `pg_dump` does it: this is not planned, and locks no index.
    #[must_use]
    pub fn statement(&self, chunk: &Chunk) -> String {
        let table = &self.tables[chunk.table];
        let format = table.format.word();
        if chunk.blocks == (0..table.blocks) {
            return format!("COPY {} TO STDOUT (FORMAT {format})", table.copy_source());
        }
        format!(
            "COPY (SELECT {} FROM ONLY {} WHERE ctid >= '({},0)' AND ctid < '({},0)') TO STDOUT (FORMAT {format})",
            table.column_list(),
            table.qualified(),
            chunk.blocks.start,
            chunk.blocks.end
        )
    }
}

/// A directory's longest name, in bytes, on every usual file system.
const NAME_LIMIT: usize = 255;

/// `schema.table`, with everything but letters, digits, `_` and `-` as `%` and two hex digits, so that the dot between
/// them is the only one and no name leaves its directory. Letters beyond ASCII stay.
fn directory(table: &Table) -> String {
    let name = format!("{}.{}", escaped(&table.schema), escaped(&table.name));
    // Two names of 63 bytes each can become longer than that. The OID is no part of any other name here, since a
    // schema's name cannot be empty.
    if name.len() <= NAME_LIMIT { name } else { format!(".oid-{}", table.oid) }
}

fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for character in name.chars() {
        let is_plain = character.is_alphanumeric() || matches!(character, '_' | '-');
        if is_plain {
            text.push(character);
        } else {
            for byte in character.to_string().bytes() {
                let _ = write!(text, "%{byte:02x}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::catalog::Column;
    use super::super::types::CopyFormat;
    use super::*;

    fn table(schema: &str, name: &str, blocks: u64) -> Table {
        Table {
            oid: 4711,
            schema: schema.into(),
            name: name.into(),
            filenode: 1,
            tablespace: 0,
            logged: true,
            is_heap: true,
            stands_alone: true,
            read_whole: false,
            root: None,
            format: CopyFormat::Binary,
            columns: Vec::new(),
            blocks,
        }
    }

    #[test]
    fn ranges_cover_every_block_once() {
        for blocks in 0..40 {
            let plan = Plan::new(vec![table("public", "t", blocks)], 16);
            let covered: Vec<u64> = plan.chunks.iter().flat_map(|chunk| chunk.blocks.clone()).collect();
            assert_eq!(covered, (0..blocks).collect::<Vec<_>>());
            assert!(plan.chunks.iter().all(|chunk| !chunk.blocks.is_empty()));
        }
    }

    #[test]
    fn no_two_tables_share_a_path_whatever_their_names() {
        let names = ["a", "a.b", "b", "a/b", "..", ".", "%", "%2e", "ä", "a b", "\u{1}", "-", "A", "a\nb", "'", "\""];
        let tables: Vec<Table> =
            names.iter().flat_map(|schema| names.iter().map(|name| table(schema, name, 1))).collect();
        let plan = Plan::new(tables, 16);
        let mut paths: Vec<&str> = plan.chunks.iter().map(|chunk| chunk.path.as_str()).collect();
        paths.dedup();
        assert_eq!(paths.len(), names.len() * names.len());
        for path in paths {
            let parts: Vec<&str> = path.split('/').collect();
            assert_eq!(parts.len(), 3, "{path}");
            assert!(parts.iter().all(|part| !part.is_empty() && *part != "." && *part != ".."), "{path}");
            assert_eq!(parts[1].matches('.').count(), 1, "{path}");
        }
    }

    #[test]
    fn a_name_that_no_file_system_takes_becomes_a_number() {
        let long = "/".repeat(63);
        let plan = Plan::new(vec![table(&long, &long, 1)], 16);
        assert_eq!(plan.chunks[0].path, "data/.oid-4711/00000.bin");
    }

    #[test]
    fn order_is_that_of_a_tree() {
        let tables = vec![table("public", "ab", 17), table("public", "a", 40), table("public", "a-b", 1)];
        let plan = Plan::new(tables, 16);
        let paths: Vec<&str> = plan.chunks.iter().map(|chunk| chunk.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "data/public.a/00000.bin",
                "data/public.a/00001.bin",
                "data/public.a/00002.bin",
                "data/public.a-b/00000.bin",
                "data/public.ab/00000.bin",
                "data/public.ab/00001.bin"
            ]
        );
    }

    #[test]
    fn a_statement_names_the_table_alone_and_its_range() {
        let mut one = table("public", "pos\"itions", 20);
        one.columns = vec![Column::sample("id"), Column::sample("Da te")];
        let plan = Plan::new(vec![one], 16);
        assert_eq!(
            plan.statement(&plan.chunks[1]),
            "COPY (SELECT \"id\", \"Da te\" FROM ONLY \"public\".\"pos\"\"itions\" WHERE ctid >= '(16,0)' AND ctid < '(20,0)') \
             TO STDOUT (FORMAT binary)"
        );
    }

    impl Column {
        fn sample(name: &str) -> Self {
            Self {
                number: 1,
                name: name.into(),
                type_name: "int".into(),
                type_oid: 23,
                modifier: -1,
                composites: None,
                bases: None,
                missing: None,
            }
        }
    }
}
