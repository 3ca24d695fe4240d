//! Which chunks can be taken from the parent without reading them: only where every condition holds.
//!
//! Each condition closes one way in which a chunk could hold other rows than the parent's although no block of it is
//! listed as changed. The schema's hash is for what COPY writes differently without a block being touched: the label of
//! an enum that was renamed, a composite type with another field.

use std::collections::HashMap;

use super::catalog::Table;
use super::changes::{Changes, Known};
use super::facts::Facts;
use super::manifest::{ChunkEntry, Manifest, TableEntry};
use super::plan::{Chunk, Plan};

/// From where changes must be known for the parent to be of use. Or why it is of none, as the end of the sentence
/// "everything is read: …".
pub fn known<'a>(parent: &'a Manifest, facts: &Facts, schema_hash: &str) -> Result<Known<'a>, &'static str> {
    let oid = |facts: &Facts| facts.database["oid"].clone();
    if parent.facts.system_identifier != facts.system_identifier {
        Err("the last backup is of another cluster")
    } else if parent.facts.timeline != facts.timeline {
        Err("the server is on another timeline")
    } else if oid(&parent.facts) != oid(facts) {
        Err("the database was made anew since the last backup")
    } else if parent.schema_hash.as_deref() != Some(schema_hash) {
        Err("the schema changed since the last backup")
    } else {
        let horizon = parent
            .horizon
            .as_deref()
            .ok_or("the last backup has no horizon: a transaction ran for too long, or the server was a standby")?;
        Ok(Known { horizon, mark: parent.mark.as_deref() })
    }
}

/// The parent's files that stand for chunks of this plan, by the chunk's number.
#[must_use]
pub fn reusable<'a>(
    parent: &'a Manifest,
    facts: &Facts,
    plan: &Plan,
    changes: &Changes,
) -> HashMap<usize, &'a ChunkEntry> {
    let default_tablespace = tablespace(facts);
    let parents: HashMap<u32, &TableEntry> = parent.tables.iter().map(|entry| (entry.table.oid, entry)).collect();
    let mut reusable = HashMap::new();
    for (number, chunk) in plan.chunks.iter().enumerate() {
        let table = &plan.tables[chunk.table];
        let Some(entry) = parents.get(&table.oid).filter(|entry| is_same(&entry.table, table)) else { continue };
        let Some(known) = same_range(entry, chunk) else { continue };
        let space = if table.tablespace == 0 { default_tablespace } else { Some(table.tablespace) };
        // Where the tablespace is not known, nothing is known of the file.
        if space.is_some_and(|space| !changes.touch(space, table.filenode, &chunk.blocks)) {
            reusable.insert(number, known);
        }
    }
    reusable
}

/// The tablespace of tables that name none. An OID is a text in the manifest.
fn tablespace(facts: &Facts) -> Option<u32> {
    let value = &facts.database["dattablespace"];
    value.as_str().map_or_else(|| value.as_u64().and_then(|oid| u32::try_from(oid).ok()), |text| text.parse().ok())
}

/// The same file with the same columns in the same form. An unlogged table's changes are in no log, and the name that a
/// `regclass` shows is in no block of its own.
fn is_same(parent: &Table, table: &Table) -> bool {
    table.logged
        && table.is_heap
        && table.stands_alone
        && parent.logged
        && parent.filenode == table.filenode
        && parent.tablespace == table.tablespace
        && parent.format == table.format
        && parent.columns == table.columns
}

/// The parent's file of exactly this range: a table that has grown or shrunk has another last one.
fn same_range<'a>(parent: &'a TableEntry, chunk: &Chunk) -> Option<&'a ChunkEntry> {
    parent.chunks.iter().find(|entry| entry.path == chunk.path && entry.blocks == chunk.blocks)
}

#[cfg(test)]
mod tests;
