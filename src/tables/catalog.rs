//! What the database consists of: which relations hold rows, and how these are copied.
//!
//! Every relation is accounted for: its rows are copied here, or they come with `pg_dump`, or there are none to copy.
//! Nothing is skipped in silence.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use super::snapshot::Snapshot;
use super::types::{CopyFormat, is_stable};
use super::{composites, empty, locks, unchanged};
use crate::database::connect::QueryContext;
use crate::database::ident;
use crate::error::Result;

/// A table whose rows are copied: an ordinary one, or a leaf of a partitioned one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// `pg_class.oid`
    pub oid: u32,
    /// The schema.
    pub schema: String,
    /// The name in it.
    pub name: String,
    /// The file that holds its rows, which a rewrite changes.
    pub filenode: u32,
    /// `pg_class.reltablespace`; 0 is the database's own.
    pub tablespace: u32,
    /// Changes are in the write-ahead log: it is neither unlogged nor temporary.
    pub logged: bool,
    /// Its rows lie in blocks that a range of `ctid` selects: the access method is `heap`.
    pub is_heap: bool,
    /// Its rows read the same as long as none of its blocks changes: no column shows the name of something that can be
    /// renamed (`regclass`, `regrole`, …) or of a role (`aclitem`).
    pub stands_alone: bool,
    /// It is read in one piece, by a plain COPY, since a query on it cannot be planned without its `search_path`: an index on an expression, say.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub read_whole: bool,
    /// The root of its partitioned table, which its rows are loaded through: whether they belong into this partition depends on a hash, and
    /// that may be another one elsewhere.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub root: Option<Root>,
    /// The form in which its rows are copied.
    pub format: CopyFormat,
    /// The columns that are copied, in their order.
    pub columns: Vec<Column>,
    /// Blocks at the moment of the snapshot or a little later; no row that it sees lies beyond.
    pub blocks: u64,
}

/// A partitioned table that is no partition itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Root {
    /// The schema.
    pub schema: String,
    /// The name in it.
    pub name: String,
}

/// A column that is copied. Generated and dropped columns are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// `attnum`: a column that is dropped and made again has another one.
    pub number: i16,
    /// Its name.
    pub name: String,
    /// Its type with modifiers, as `format_type` writes it.
    #[serde(rename = "type")]
    pub type_name: String,
    /// `pg_type.oid`
    pub type_oid: u32,
    /// `atttypmod`
    pub modifier: i32,
    /// The attributes of the composite types in its type (`composites.rs`), if there are any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub composites: Option<String>,
    /// The types beneath the domains and ranges in its type (`composites.rs`), if there are any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bases: Option<String>,
    /// The value of rows that are older than the column (`attmissingval`), as text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub missing: Option<String>,
}

impl Table {
    /// `"schema"."name"`
    #[must_use]
    pub fn qualified(&self) -> String {
        format!("{}.{}", ident(&self.schema), ident(&self.name))
    }

    /// `"id", "name"`
    #[must_use]
    pub fn column_list(&self) -> String {
        self.columns.iter().map(|column| ident(&column.name)).collect::<Vec<_>>().join(", ")
    }

    /// Source of COPY ... TO: `"schema"."name" ("id", "name")`. Without columns there is no list: an empty one is no SQL.
    #[must_use]
    pub fn copy_source(&self) -> String {
        self.with_columns(&self.qualified())
    }

    /// Target of COPY ... FROM: the table that the rows are loaded through, in the same form.
    #[must_use]
    pub fn copy_target(&self) -> String {
        let (schema, name) = self.loaded_through();
        self.with_columns(&format!("{}.{}", ident(schema), ident(name)))
    }

    /// Schema and name of the table that its rows are loaded through: itself, or the root of its partitions.
    #[must_use]
    pub fn loaded_through(&self) -> (&str, &str) {
        self.root.as_ref().map_or((&self.schema, &self.name), |root| (&root.schema, &root.name))
    }

    fn with_columns(&self, table: &str) -> String {
        if self.columns.is_empty() { table.to_owned() } else { format!("{table} ({})", self.column_list()) }
    }
}

/// A relation whose rows are not copied, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// The schema.
    pub schema: String,
    /// The name in it.
    pub name: String,
    /// Where its rows are.
    pub rows: Elsewhere,
}

/// Where the rows of a relation are that are not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Elsewhere {
    /// In its partitions, which are tables of their own.
    Partitions,
    /// Computed again by REFRESH when it is restored.
    MaterializedView,
    /// On another server.
    Foreign,
    /// An extension's own: it makes them again.
    Extension,
    /// An extension's table of settings: `pg_dump` takes its rows.
    ExtensionConfiguration,
}

impl Elsewhere {
    /// Where the rows are, as a sentence without a subject.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Partitions => "its rows are in its partitions",
            Self::MaterializedView => "its rows are computed again by REFRESH",
            Self::Foreign => "its rows are on another server",
            Self::Extension => "its extension makes its rows again",
            Self::ExtensionConfiguration => "its rows are in schema.dump",
        }
    }
}

/// Everything that may hold rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// Tables whose rows are copied, by schema and name.
    pub tables: Vec<Table>,
    /// The rest.
    pub others: Vec<Other>,
}

const RELATIONS: &str = "\
    SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relfilenode, \
           c.reltablespace, coalesce(am.amname, '')::text, \
           EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass \
                   AND d.objid = c.oid AND d.deptype = 'e'), \
           EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE c.oid = ANY (e.extconfig)) \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam \
    WHERE c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't' \
          AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' \
    ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"";

/// An array whose elements are stable is; what only has elements (`point`, `int2vector`, types of extensions) is no such
/// array, and has forms of its own. A domain is not: its checks belong to the version that reads it.
const COLUMNS: &str = "\
    SELECT a.attrelid, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), a.atttypid, a.atttypmod, \
           a.attmissingval::text, \
           CASE WHEN e.typarray = t.oid THEN e.oid ELSE t.oid END, \
           CASE WHEN e.typarray = t.oid THEN e.typtype ELSE t.typtype END = 'e', a.attnum \
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
         LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem \
    WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' \
    ORDER BY a.attrelid, a.attnum";

/// The tables with a column whose text names something: by its own type, or within an array, a composite type, a domain
/// or a range.
const NAMING: &str = "\
    WITH RECURSIVE parts (root, oid) AS ( \
        SELECT DISTINCT a.atttypid, a.atttypid FROM pg_catalog.pg_attribute a \
        WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped \
        UNION \
        SELECT p.root, part.oid FROM parts p JOIN pg_catalog.pg_type t ON t.oid = p.oid CROSS JOIN LATERAL ( \
            SELECT t.typelem UNION ALL SELECT t.typbasetype \
            UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a \
                      WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped \
            UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid \
            UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngmultitypid = t.oid \
        ) AS part (oid) WHERE part.oid <> 0) \
    SELECT DISTINCT a.attrelid FROM pg_catalog.pg_attribute a JOIN parts p ON p.root = a.atttypid \
         JOIN pg_catalog.pg_type t ON t.oid = p.oid \
    WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped AND t.typnamespace = 'pg_catalog'::regnamespace \
          AND (t.typname LIKE 'reg%' OR t.typname = 'aclitem')";

/// The root of each table that is a partition, at any level, of one that is partitioned by a hash.
const ROOTS: &str = "\
    WITH RECURSIVE up (leaf, parent) AS ( \
        SELECT i.inhrelid, i.inhparent FROM pg_catalog.pg_inherits i WHERE i.inhrelid = ANY ($1) \
        UNION SELECT u.leaf, i.inhparent FROM up u JOIN pg_catalog.pg_inherits i ON i.inhrelid = u.parent) \
    SELECT u.leaf, n.nspname::text, c.relname::text \
    FROM up u JOIN pg_catalog.pg_class c ON c.oid = u.parent AND c.relkind = 'p' AND NOT c.relispartition \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE EXISTS (SELECT FROM up h JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = h.parent \
                  WHERE h.leaf = u.leaf AND p.partstrat = 'h')";

impl Catalog {
    /// Looks at every relation and keeps the tables from being altered, as `pg_dump` does: with ACCESS SHARE, until the
    /// snapshot's session ends.
    ///
    /// # Errors
    /// [`Kind::Busy`](crate::error::Kind::Busy) if a table stays locked, [`Kind::Source`](crate::error::Kind::Source) if one was rewritten between the snapshot and the lock:
    /// its rows would seem to be gone.
    pub async fn read(snapshot: &Snapshot) -> Result<Self> {
        let client = snapshot.client();
        let failed = "cannot read the catalogue";
        let mut catalog = Self { tables: Vec::new(), others: Vec::new() };
        let mut names = Vec::new();
        for row in client.query(RELATIONS, &[]).await.query_context(failed)? {
            let (schema, name): (String, String) = (row.get(1), row.get(2));
            let rows = elsewhere(&row);
            if matches!(rows, None | Some(Elsewhere::Partitions)) && !row.get::<_, bool>(8) {
                names.push(format!("{}.{}", ident(&schema), ident(&name)));
            }
            match rows {
                Some(rows) => catalog.others.push(Other { schema, name, rows }),
                None => catalog.tables.push(table(&row)),
            }
        }
        locks::take(client, &names).await?;
        let oids: Vec<u32> = catalog.tables.iter().map(|table| table.oid).collect();
        let places: HashMap<u32, usize> = oids.iter().enumerate().map(|(place, oid)| (*oid, place)).collect();
        catalog.measure(snapshot, &oids, &places).await?;
        let columns = client.query(COLUMNS, &[&oids]).await.query_context(failed)?;
        let types: Vec<u32> = columns.iter().map(|row| row.get(3)).collect();
        let attributes = composites::read(client, &types).await?;
        let bases = composites::bases(client, &types).await?;
        for row in &columns {
            let Some(table) = places.get(&row.get(0)).map(|place| &mut catalog.tables[*place]) else { continue };
            let is_enum: bool = row.get(7);
            if !is_enum && !is_stable(row.get(6)) {
                table.format = CopyFormat::Text;
            }
            table.columns.push(Column {
                number: row.get(8),
                name: row.get(1),
                type_name: row.get(2),
                type_oid: row.get(3),
                modifier: row.get(4),
                composites: attributes.get(&row.get(3)).cloned(),
                bases: bases.get(&row.get(3)).cloned(),
                missing: row.get(5),
            });
        }
        for row in client.query(NAMING, &[&oids]).await.query_context(failed)? {
            if let Some(place) = places.get(&row.get(0)) {
                catalog.tables[*place].stands_alone = false;
            }
        }
        for row in client.query(ROOTS, &[&oids]).await.query_context(failed)? {
            if let Some(place) = places.get(&row.get(0)) {
                catalog.tables[*place].root = Some(Root { schema: row.get(1), name: row.get(2) });
            }
        }
        empty::prove(client, &mut catalog.tables).await?;
        Ok(catalog)
    }

    /// Finds the tables of more than so many blocks on which no query can be planned, and says why.
    ///
    /// A part of a table is read with a query. The planner looks at the expressions of indexes and of statistics and inlines their functions,
    /// of which some need a `search_path`; and at the size and the first page of each index, which may be damaged or missing. `COPY table`, as
    /// `pg_dump` uses it, is not planned.
    pub async fn find_unplannable(&mut self, snapshot: &Snapshot, chunk_blocks: u32) -> Result<Vec<String>> {
        let client = snapshot.client();
        let failed = "cannot read the catalogue";
        let mut warnings = Vec::new();
        let is_large = |table: &&mut Table| table.is_heap && table.blocks > chunk_blocks.into();
        for table in self.tables.iter_mut().filter(is_large) {
            let (columns, name) = (table.column_list(), table.qualified());
            let explain = format!("EXPLAIN SELECT {columns} FROM ONLY {name} WHERE ctid >= '(0,0)' AND ctid < '(1,0)'");
            if let Err(cause) = client.batch_execute(&format!("SAVEPOINT planning; {explain}")).await {
                let Some(answer) = cause.as_db_error() else { return Err(cause).query_context(failed) };
                table.read_whole = true;
                let mut warning =
                    format!("table {name} is read in one piece, no query on it works: {}", answer.message());
                // Classes of errors: of the file system, and of what the server did not expect.
                if ["58", "XX"].iter().any(|class| answer.code().code().starts_with(class)) {
                    warning += "; if an index is damaged, this makes it again: REINDEX TABLE ";
                    warning += &name;
                }
                warnings.push(warning);
            }
            client.batch_execute("ROLLBACK TO SAVEPOINT planning").await.query_context(failed)?;
        }
        Ok(warnings)
    }

    /// Sizes, after the locks; and whether each table is still the one that the snapshot sees.
    ///
    /// `pg_class` is read as of the snapshot, these functions look at what is there now.
    async fn measure(&mut self, snapshot: &Snapshot, oids: &[u32], places: &HashMap<u32, usize>) -> Result<()> {
        let sql = "SELECT oid, pg_catalog.pg_relation_filenode(oid), \
                          pg_catalog.pg_relation_size(oid, 'main') / current_setting('block_size')::bigint \
                   FROM unnest($1::oid[]) AS oid";
        let rows = snapshot.client().query(sql, &[&oids]).await.query_context("cannot read the size of the tables")?;
        for row in rows {
            let Some(table) = places.get(&row.get(0)).map(|place| &mut self.tables[*place]) else { continue };
            if row.get::<_, Option<u32>>(1) != Some(table.filenode) {
                let name = table.qualified();
                let message = format!("table {name} was rewritten or dropped while the backup began");
                return Err(unchanged::error(message, name));
            }
            table.blocks = row.get::<_, Option<i64>>(2).and_then(|blocks| u64::try_from(blocks).ok()).unwrap_or(0);
        }
        Ok(())
    }
}

fn elsewhere(row: &Row) -> Option<Elsewhere> {
    let (is_extensions, is_configuration): (bool, bool) = (row.get(8), row.get(9));
    match row.get::<_, &str>(3) {
        "p" => Some(Elsewhere::Partitions),
        "m" => Some(Elsewhere::MaterializedView),
        "f" => Some(Elsewhere::Foreign),
        _ if is_configuration => Some(Elsewhere::ExtensionConfiguration),
        _ if is_extensions => Some(Elsewhere::Extension),
        _ => None,
    }
}

fn table(row: &Row) -> Table {
    Table {
        oid: row.get(0),
        schema: row.get(1),
        name: row.get(2),
        filenode: row.get(5),
        tablespace: row.get(6),
        logged: row.get::<_, &str>(4) == "p",
        is_heap: row.get::<_, &str>(7) == "heap",
        stands_alone: true,
        read_whole: false,
        root: None,
        // Until a column says otherwise.
        format: CopyFormat::Binary,
        columns: Vec::new(),
        blocks: 0,
    }
}

/// Tables whose rows a standby has not, since nothing of them is in the write-ahead log.
const UNLOGGED: &str = "\
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE pg_catalog.pg_is_in_recovery() AND c.relkind = 'r' AND c.relpersistence = 'u' \
    ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"";

/// A warning that names the tables whose rows are not on this server, if it is a standby.
///
/// # Errors
/// [`Kind::Source`](crate::error::Kind::Source).
pub async fn missing_on_standby(client: &tokio_postgres::Client) -> Result<Option<String>> {
    let rows = client.query(UNLOGGED, &[]).await.query_context("cannot read the catalogue")?;
    let names: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    Ok((!names.is_empty()).then(|| format!("rows of unlogged tables are not on a standby: {}", names.join(", "))))
}
