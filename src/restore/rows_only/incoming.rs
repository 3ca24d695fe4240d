//! The rows of a backup beside the live ones: a temporary table for each, in the session that will replace them.
//!
//! Only rows that differ are touched. A row that is the same in both stays where it is, so it is not judged again by a
//! constraint that was added as NOT VALID, costs nothing, and a reader with an older snapshot still finds it.

use std::sync::Arc;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use super::UNTOUCHED;
use crate::database::connect::{QueryContext, chain};
use crate::database::ident;
use crate::error::{Error, Kind, Result};
use crate::progress::Meter;
use crate::restore::stored::Stored;
use crate::tables::catalog::Table;
use crate::tables::manifest::TableEntry;

/// A table, and the rows that it is to have.
#[derive(Clone, Debug)]
pub(super) struct Incoming {
    /// `pg_class.oid` in the live database.
    pub oid: u32,
    /// `"schema"."name"`
    pub name: String,
    /// Rows in the backup.
    pub rows: u64,
    /// The temporary table.
    staged: String,
    /// `"a", "b"`; empty without columns.
    columns: String,
    /// How a live row (`l`) and one of the backup (`t`) are the same row.
    matching: Matching,
}

#[derive(Clone, Debug)]
enum Matching {
    /// By the primary key; and whether nothing in them differs.
    Key { same_key: String, same_row: String },
    /// By everything in them, as often as they are there.
    Text { live: String, staged: String },
}

/// The columns that COPY reads, with the type beneath a domain: its constraints judge what goes into the table itself.
const COLUMNS: &str = "\
    SELECT c.oid, a.attname::text, format_type(a.atttypid, a.atttypmod), \
           (WITH RECURSIVE d (oid, modifier) AS (SELECT a.atttypid, a.atttypmod UNION ALL \
                SELECT t.typbasetype, t.typtypmod FROM d JOIN pg_type t ON t.oid = d.oid WHERE t.typtype = 'd') \
            SELECT format_type(d.oid, d.modifier) FROM d JOIN pg_type t ON t.oid = d.oid WHERE t.typtype <> 'd') \
    FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         AND a.attgenerated = '' \
    WHERE c.oid = to_regclass($1) AND c.relkind = 'r' ORDER BY a.attname COLLATE \"C\"";

/// The primary key with the operator that its index compares with.
const KEY: &str = "\
    SELECT a.attname::text, CASE WHEN it.typtype = 'p' THEN '' ELSE '::' || format_type(it.oid, -1) END, \
           format('OPERATOR(%I.%s)', n.nspname, o.oprname), \
           CASE WHEN a.attcollation = 0 THEN '' ELSE (SELECT format(' COLLATE %I.%I', cn.nspname, co.collname) \
                FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = a.attcollation) END \
    FROM pg_index i CROSS JOIN generate_series(0, i.indnkeyatts - 1) AS place \
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[place] \
         JOIN pg_opclass c ON c.oid = i.indclass[place] JOIN pg_type it ON it.oid = c.opcintype \
         JOIN pg_am am ON am.oid = c.opcmethod AND am.amname = 'btree' \
         JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype \
              AND m.amoprighttype = c.opcintype AND m.amopstrategy = 3 \
         JOIN pg_operator o ON o.oid = m.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace \
    WHERE i.indrelid = $1 AND i.indisprimary ORDER BY place";

/// Columns of a live table.
struct Shape {
    oid: u32,
    /// Name, and the type to read it with, in the order of the names.
    types: Vec<(String, String)>,
}

/// Compares the columns of a live table with those of the backup.
///
/// # Errors
/// [`Kind::Refused`] if they are not the same.
async fn same_columns(client: &Client, table: &Table) -> Result<Shape> {
    let rows = client.query(COLUMNS, &[&table.qualified()]).await.query_context("cannot look at the live table")?;
    let mut shape = Shape { oid: rows.first().map_or(0, |row| row.get(0)), types: Vec::new() };
    let mut live: Vec<(String, String)> = Vec::new();
    for row in rows.iter().filter(|row| row.get::<_, Option<String>>(1).is_some()) {
        live.push((row.get(1), row.get(2)));
        shape.types.push((row.get(1), row.get(3)));
    }
    let mut kept: Vec<(String, String)> =
        table.columns.iter().map(|column| (column.name.clone(), column.type_name.clone())).collect();
    kept.sort();
    if shape.oid != 0 && live == kept {
        return Ok(shape);
    }
    let shown = |columns: &[(String, String)]| {
        columns.iter().map(|(name, type_name)| format!("{name} {type_name}")).collect::<Vec<_>>().join(", ")
    };
    let what = if shape.oid == 0 { "is not in the live database" } else { "has other columns now" };
    Err(Error::new(Kind::Refused, format!("table {} {what}", table.qualified()))
        .with("live", shown(&live))
        .with("backup", shown(&kept))
        .with("state", UNTOUCHED)
        .hint("Load the backup beside the live database with --into NAME, and take the rows from there."))
}

impl Incoming {
    /// Makes the temporary table for one table of the backup.
    async fn stage(client: &Client, entry: &TableEntry, number: usize) -> Result<Self> {
        let table = &entry.table;
        let shape = same_columns(client, table).await?;
        let name = table.qualified();
        let typed = |column: &str| shape.types.iter().find(|(found, _)| found == column).map_or("", |(_, typed)| typed);
        let cast: Vec<String> = table
            .columns
            .iter()
            .map(|column| format!("{0}::{1} AS {0}", ident(&column.name), typed(&column.name)))
            .collect();
        let create = format!(
            "CREATE TEMPORARY TABLE glovebox_rows_{number} USING heap AS SELECT {} FROM ONLY {name} WITH NO DATA",
            cast.join(", ")
        );
        client.batch_execute(&create).await.query_context(format!("cannot make a temporary table for {name}"))?;
        let image = |alias: &str, typed: &dyn Fn(&str) -> String| {
            let values: Vec<String> = table
                .columns
                .iter()
                .map(|column| format!("{alias}.{}{}", ident(&column.name), typed(&column.name)))
                .collect();
            format!("(ROW({}))", values.join(", "))
        };
        let live = image("l", &|column| format!("::{}", typed(column)));
        let staged = image("t", &|_| String::new());
        let key = client.query(KEY, &[&shape.oid]).await.query_context("cannot read the primary key")?;
        // A key of which a column is computed is not in the backup.
        let is_copied = |row: &Row| table.columns.iter().any(|column| column.name == row.get::<_, &str>(0));
        let matching = if !key.is_empty() && key.iter().all(is_copied) {
            let same_key: Vec<String> = key
                .iter()
                .map(|row| {
                    let (column, cast, operator, collation): (&str, &str, &str, &str) =
                        (row.get(0), row.get(1), row.get(2), row.get(3));
                    // Without a type of the operator's own (any enum, say), the staged column tells which one it is.
                    let live_cast = if cast.is_empty() { format!("::{}", typed(column)) } else { cast.to_owned() };
                    format!("l.{0}{live_cast}{collation} {operator} t.{0}{cast}", ident(column))
                })
                .collect();
            Matching::Key {
                same_key: same_key.join(" AND "),
                same_row: format!("{live}::record OPERATOR(pg_catalog.*=) {staged}::record"),
            }
        } else {
            Matching::Text { live, staged }
        };
        Ok(Self {
            oid: shape.oid,
            name,
            rows: entry.rows,
            staged: format!("pg_temp.glovebox_rows_{number}"),
            columns: table.column_list(),
            matching,
        })
    }

    /// The live rows, or those of the backup, each with its place, its text and its number among equal ones.
    fn numbered(from: &str, alias: &str, image: &str) -> String {
        format!(
            "(SELECT id, r, row_number() OVER (PARTITION BY r) AS n FROM (SELECT {alias}.ctid AS id, \
             {image}::text COLLATE \"C\" AS r FROM {from} {alias}) AS s)"
        )
    }

    /// How many live rows the backup does not have, by the primary key if there is one.
    pub(super) async fn surplus(&self, client: &Client) -> Result<u64> {
        let (name, staged) = (&self.name, &self.staged);
        let sql = match &self.matching {
            Matching::Key { same_key, .. } => {
                format!("SELECT count(*) FROM ONLY {name} l WHERE NOT EXISTS (SELECT FROM {staged} t WHERE {same_key})")
            }
            Matching::Text { live, staged: image } => format!(
                "SELECT count(*) FROM {} a WHERE NOT EXISTS (SELECT FROM {} b WHERE b.r = a.r AND b.n = a.n)",
                Self::numbered(&format!("ONLY {name}"), "l", live),
                Self::numbered(staged, "t", image)
            ),
        };
        let row = client.query_one(&sql, &[]).await.query_context(format!("cannot compare the rows of {name}"))?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }

    /// The rows of the live table.
    pub(super) async fn count(&self, client: &Client) -> Result<u64> {
        let sql = format!("SELECT count(*) FROM ONLY {}", self.name);
        let row = client.query_one(&sql, &[]).await.query_context(format!("cannot count the rows of {}", self.name))?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }

    /// Removes the live rows that are not in the backup, or are otherwise there; what is left of the temporary table is
    /// what has to come in.
    pub(super) async fn remove(&self, client: &Client) -> Result<()> {
        let (name, staged) = (&self.name, &self.staged);
        let (remove, prune) = match &self.matching {
            Matching::Key { same_key, same_row } => (
                format!(
                    "DELETE FROM ONLY {name} l WHERE NOT EXISTS (SELECT FROM {staged} t WHERE {same_key} AND {same_row})"
                ),
                format!("DELETE FROM {staged} t WHERE EXISTS (SELECT FROM ONLY {name} l WHERE {same_key})"),
            ),
            Matching::Text { live, staged: image } => {
                let live = Self::numbered(&format!("ONLY {name}"), "l", live);
                let kept = Self::numbered(staged, "t", image);
                (
                    format!(
                        "DELETE FROM ONLY {name} WHERE ctid IN (SELECT a.id FROM {live} a WHERE NOT EXISTS \
                         (SELECT FROM {kept} b WHERE b.r = a.r AND b.n = a.n))"
                    ),
                    format!(
                        "DELETE FROM {staged} WHERE ctid IN (SELECT b.id FROM {kept} b WHERE EXISTS \
                         (SELECT FROM {live} a WHERE b.r = a.r AND b.n = a.n))"
                    ),
                )
            }
        };
        for sql in [remove, prune] {
            client.batch_execute(&sql).await.query_context(format!("cannot remove rows of {name}"))?;
        }
        Ok(())
    }

    fn insert_statement(&self) -> String {
        let Self { name, staged, columns, .. } = self;
        if columns.is_empty() {
            return format!("INSERT INTO {name} SELECT FROM {staged}");
        }
        format!("INSERT INTO {name} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {staged}")
    }
}

/// Loads the rows of the wanted tables into temporary tables of this session.
pub(super) async fn stage(
    client: &Client,
    stored: &Stored,
    entries: &[&TableEntry],
    meter: &Arc<Meter>,
) -> Result<Vec<Incoming>> {
    client.batch_execute("BEGIN").await.query_context("cannot begin a transaction")?;
    let mut staged: Vec<Incoming> = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        staged.push(Incoming::stage(client, entry, number).await?);
    }
    let into = |table: &Table| {
        let name = table.qualified();
        let found = staged.iter().find(|incoming| incoming.name == name)?;
        Some(match found.columns.as_str() {
            "" => found.staged.clone(),
            columns => format!("{} ({columns})", found.staged),
        })
    };
    stored.load_into(client, meter, &into).await?;
    client.batch_execute("COMMIT").await.query_context("cannot load the rows beside the live ones")?;
    for incoming in &staged {
        let analyze = format!("ANALYZE {}", incoming.staged);
        client.batch_execute(&analyze).await.query_context("cannot gather statistics")?;
    }
    Ok(staged)
}

/// Looks again, under the lock: the tables must be those that were looked at before.
pub(super) async fn same_again(client: &Client, entries: &[&TableEntry], staged: &[Incoming]) -> Result<()> {
    for (entry, incoming) in entries.iter().zip(staged) {
        if same_columns(client, &entry.table).await?.oid != incoming.oid {
            return Err(Error::new(Kind::Refused, format!("table {} was replaced meanwhile", incoming.name))
                .with("state", UNTOUCHED)
                .hint("Repeat the command."));
        }
    }
    Ok(())
}

/// Puts the rows in. A CHECK may look at another table, so what one table refuses is tried again after the others.
pub(super) async fn insert(client: &Client, staged: &[Incoming], meter: &Meter) -> Result<()> {
    let mut waiting: Vec<&Incoming> = staged.iter().collect();
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut refused = Vec::new();
        let mut first: Option<Error> = None;
        for incoming in waiting {
            meter.now(&incoming.name);
            client.batch_execute("SAVEPOINT rows").await.query_context("cannot set a savepoint")?;
            let Err(cause) = client.batch_execute(&incoming.insert_statement()).await else { continue };
            let error = refusal(&incoming.name, &cause);
            if cause.code() != Some(&SqlState::CHECK_VIOLATION) {
                return Err(error);
            }
            client.batch_execute("ROLLBACK TO SAVEPOINT rows").await.query_context("cannot go on")?;
            refused.push(incoming);
            first = first.or(Some(error));
        }
        if let (true, Some(error)) = (refused.len() == before, first) {
            return Err(error);
        }
        waiting = refused;
    }
    Ok(())
}

/// The server's words, by what they mean.
fn refusal(name: &str, cause: &tokio_postgres::Error) -> Error {
    let code = cause.code().map_or("", SqlState::code);
    let (kind, what) = if code.starts_with("23") {
        (Kind::Refused, format!("the rows of the backup do not fit table {name} as it is now"))
    } else if code == SqlState::DISK_FULL.code() {
        (Kind::Store, format!("the server ran out of space while it wrote the rows of {name}"))
    } else if code.is_empty() {
        (Kind::Source, format!("the server ended the connection while it wrote the rows of {name}"))
    } else {
        (Kind::Verify, format!("the server did not take the rows of {name}"))
    };
    Error::new(kind, what)
        .with("cause", chain(cause))
        .with("state", UNTOUCHED)
        .hint("Load the backup beside the live database with --into NAME, and take the rows from there.")
}

/// Compares the number of rows with the manifest's.
pub(super) async fn count(client: &Client, staged: &[Incoming]) -> Result<()> {
    for incoming in staged {
        let rows = incoming.count(client).await?;
        if rows != incoming.rows {
            return Err(Error::new(Kind::Verify, format!("{} did not get the rows that it had", incoming.name))
                .with("rows", format!("{rows}, the manifest says {}", incoming.rows))
                .with("state", UNTOUCHED));
        }
    }
    Ok(())
}
