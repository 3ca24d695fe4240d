//! What the database consists of: which relations hold rows, and how these are copied.
//!
//! Every relation is accounted for: its rows are copied here, or they come with `pg_dump`, or there are none to copy.
//! Nothing is skipped in silence.

use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use super::snapshot::Snapshot;
use super::types::{CopyFormat, is_stable};
use crate::database::connect::QueryContext;
use crate::database::ident;
use crate::error::{Error, Kind, Result};

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
    /// The form in which its rows are copied.
    pub format: CopyFormat,
    /// The columns that are copied, in their order.
    pub columns: Vec<Column>,
    /// Blocks at the moment of the snapshot or a little later; no row that it sees lies beyond.
    pub blocks: u64,
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

    /// Whether somebody who says `name`, or `schema.name`, means this one.
    #[must_use]
    pub fn is_called(&self, words: &str) -> bool {
        words == self.name || words == format!("{}.{}", self.schema, self.name)
    }

    /// `"id", "name"`
    #[must_use]
    pub fn column_list(&self) -> String {
        self.columns.iter().map(|column| ident(&column.name)).collect::<Vec<_>>().join(", ")
    }

    /// What COPY ... FROM names: `"schema"."name" ("id", "name")`. Without columns there is no list: an empty one is no SQL.
    #[must_use]
    pub fn copy_target(&self) -> String {
        if self.columns.is_empty() {
            return self.qualified();
        }
        format!("{} ({})", self.qualified(), self.column_list())
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

impl Catalog {
    /// Looks at every relation and keeps the tables from being altered, as `pg_dump` does: with ACCESS SHARE, until the
    /// snapshot's session ends.
    ///
    /// # Errors
    /// [`Kind::Busy`] if a table stays locked, [`Kind::Source`] if one was rewritten between the snapshot and the lock:
    /// its rows would seem to be gone.
    pub async fn read(snapshot: &Snapshot) -> Result<Self> {
        let client = snapshot.client();
        let failed = "cannot read the catalogue";
        let mut catalog = Self { tables: Vec::new(), others: Vec::new() };
        for row in client.query(RELATIONS, &[]).await.query_context(failed)? {
            let (schema, name) = (row.get(1), row.get(2));
            match elsewhere(&row) {
                Some(rows) => catalog.others.push(Other { schema, name, rows }),
                None => catalog.tables.push(table(&row)),
            }
        }
        for table in &catalog.tables {
            let sql = format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", table.qualified());
            client.batch_execute(&sql).await.query_context(format!("cannot lock table {}", table.qualified()))?;
        }
        let oids: Vec<u32> = catalog.tables.iter().map(|table| table.oid).collect();
        catalog.measure(snapshot, &oids).await?;
        for row in client.query(COLUMNS, &[&oids]).await.query_context(failed)? {
            let oid: u32 = row.get(0);
            let Some(table) = catalog.tables.iter_mut().find(|table| table.oid == oid) else { continue };
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
                missing: row.get(5),
            });
        }
        for row in client.query(NAMING, &[&oids]).await.query_context(failed)? {
            let oid: u32 = row.get(0);
            catalog.tables.iter_mut().filter(|table| table.oid == oid).for_each(|table| table.stands_alone = false);
        }
        Ok(catalog)
    }

    /// Sizes, after the locks; and whether each table is still the one that the snapshot sees.
    ///
    /// `pg_class` is read as of the snapshot, these functions look at what is there now.
    async fn measure(&mut self, snapshot: &Snapshot, oids: &[u32]) -> Result<()> {
        let sql = "SELECT oid, pg_catalog.pg_relation_filenode(oid), \
                          pg_catalog.pg_relation_size(oid, 'main') / current_setting('block_size')::bigint \
                   FROM unnest($1::oid[]) AS oid";
        let rows = snapshot.client().query(sql, &[&oids]).await.query_context("cannot read the size of the tables")?;
        for row in rows {
            let oid: u32 = row.get(0);
            let Some(table) = self.tables.iter_mut().find(|table| table.oid == oid) else { continue };
            if row.get::<_, Option<u32>>(1) != Some(table.filenode) {
                return Err(Error::new(
                    Kind::Source,
                    format!("table {} was rewritten or dropped while the backup began", table.qualified()),
                )
                .hint("Try again: the backup has to begin before or after that."));
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
        // Until a column says otherwise.
        format: CopyFormat::Binary,
        columns: Vec::new(),
        blocks: 0,
    }
}
