//! The rows of a backup beside the live ones: a temporary table for each, in the session that will replace them.
//!
//! Only rows that differ are touched. A row that is the same in both stays where it is, so it is not judged again by a
//! constraint that was added as NOT VALID, costs nothing, and a reader with an older snapshot still finds it.

use std::sync::Arc;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Row};

use super::publications::{nothing_to_remove, refuse_removals};
use super::shapes::{Now, Shape, same_columns};
use super::texts::{self, Texts};
use super::{UNTOUCHED, event_triggers, triggers};
use crate::database::connect::{QueryContext, chain};
use crate::database::ident;
use crate::error::{Error, Kind, Result};
use crate::progress::Meter;
use crate::restore::stored::Stored;
use crate::tables::catalog::Table;
use crate::tables::manifest::TableEntry;

/// So many tables are asked about in one statement.
const AT_ONCE: usize = 64;

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
    pub columns: String,
    /// How a live row (`l`) and one of the backup (`t`) are the same row.
    matching: Matching,
    /// The server's reason for not removing rows of this table, if it does not.
    pub is_append_only: Option<String>,
    /// The columns of the primary key that rows are told apart by; empty without one.
    pub key: String,
    /// The types of its columns when the rows were loaded.
    types: Vec<Now>,
}

#[derive(Clone, Debug)]
enum Matching {
    /// By the primary key; and whether nothing in them differs.
    Key { same_key: String, same_row: String },
    /// By everything in them, as often as they are there.
    Text { live: String, staged: String },
}

/// The primary key with the operator that its index compares with.
const KEY: &str = "\
    SELECT a.attname::text, CASE WHEN it.typtype = 'p' THEN '' ELSE '::' || format_type(it.oid, -1) END, \
           format('OPERATOR(%I.%s)', n.nspname, o.oprname), \
           CASE WHEN a.attcollation = 0 THEN '' ELSE (SELECT format(' COLLATE %I.%I', cn.nspname, co.collname) \
                FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = a.attcollation) END, i.indrelid \
    FROM pg_index i CROSS JOIN generate_series(0, i.indnkeyatts - 1) AS place \
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[place] \
         JOIN pg_opclass c ON c.oid = i.indclass[place] JOIN pg_type it ON it.oid = c.opcintype \
         JOIN pg_am am ON am.oid = c.opcmethod AND am.amname = 'btree' \
         JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype \
              AND m.amoprighttype = c.opcintype AND m.amopstrategy = 3 \
         JOIN pg_operator o ON o.oid = m.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace \
    WHERE i.indrelid = ANY ($1) AND i.indisprimary ORDER BY i.indrelid, place";

impl Incoming {
    /// Makes the temporary table for one table of the backup, whose primary key has these columns.
    async fn stage(client: &Client, entry: &TableEntry, number: usize, shape: &Shape, key: &[&Row]) -> Result<Self> {
        let table = &entry.table;
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
        // A key of which a column is computed is not in the backup.
        let is_copied = |row: &&Row| table.columns.iter().any(|column| column.name == row.get::<_, &str>(0));
        let is_keyed = !key.is_empty() && key.iter().all(is_copied);
        let matching = if is_keyed {
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
            is_append_only: None,
            key: if is_keyed {
                key.iter().map(|row| row.get::<_, &str>(0)).collect::<Vec<_>>().join(", ")
            } else {
                String::new()
            },
            types: shape.now.clone(),
        })
    }

    /// The live rows, or those of the backup, each with its place, its text and its number among equal ones.
    fn numbered(from: &str, alias: &str, image: &str) -> String {
        format!(
            "(SELECT id, r, row_number() OVER (PARTITION BY r) AS n FROM (SELECT {alias}.ctid AS id, \
             {image}::text COLLATE \"C\" AS r FROM {from} {alias}) AS s)"
        )
    }

    /// The number of live rows that the backup does not have, by the primary key if there is one.
    pub(super) fn surplus(&self) -> String {
        let (name, staged) = (&self.name, &self.staged);
        match &self.matching {
            Matching::Key { same_key, .. } => {
                format!("SELECT count(*) FROM ONLY {name} l WHERE NOT EXISTS (SELECT FROM {staged} t WHERE {same_key})")
            }
            Matching::Text { live, staged: image } => format!(
                "SELECT count(*) FROM {} a WHERE NOT EXISTS (SELECT FROM {} b WHERE b.r = a.r AND b.n = a.n)",
                Self::numbered(&format!("ONLY {name}"), "l", live),
                Self::numbered(staged, "t", image)
            ),
        }
    }

    /// The number of live rows that have to go: the backup does not have them, or has other ones of their key.
    pub(super) fn differing(&self) -> String {
        match &self.matching {
            Matching::Key { same_key, same_row } => format!(
                "SELECT count(*) FROM ONLY {} l WHERE NOT EXISTS (SELECT FROM {} t WHERE {same_key} AND {same_row})",
                self.name, self.staged
            ),
            Matching::Text { .. } => self.surplus(),
        }
    }

    /// The number of rows of the live table.
    pub(super) fn count(&self) -> String {
        format!("SELECT count(*) FROM ONLY {}", self.name)
    }

    /// Statements that remove the live rows that are not in the backup, or are otherwise there; what is left of the
    /// temporary table is what has to come in.
    fn removal(&self) -> String {
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
        if self.is_append_only.is_some() { prune } else { format!("{remove}; {prune}") }
    }

    pub(super) fn insert_statement(&self) -> String {
        let Self { name, staged, columns, .. } = self;
        if columns.is_empty() {
            return format!("INSERT INTO {name} SELECT FROM {staged}");
        }
        format!("INSERT INTO {name} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {staged}")
    }
}

/// Loads the rows of the wanted tables into temporary tables.
pub(super) async fn stage(
    client: &Client,
    stored: &Stored,
    entries: &[&TableEntry],
    meter: &Arc<Meter>,
) -> Result<Vec<Incoming>> {
    event_triggers::refuse(client).await?;
    client.batch_execute("BEGIN").await.query_context("cannot begin a transaction")?;
    let (mut staged, mut as_texts): (Vec<Incoming>, Vec<Option<Texts>>) = (Vec::new(), Vec::new());
    let shapes = same_columns(client, entries).await?;
    let oids: Vec<u32> = shapes.iter().map(|shape| shape.oid).collect();
    triggers::refuse(client, &oids).await?;
    let keys = client.query(KEY, &[&oids]).await.query_context("cannot read the primary keys")?;
    for (number, (entry, shape)) in entries.iter().zip(&shapes).enumerate() {
        let key: Vec<&Row> = keys.iter().filter(|row| row.get::<_, u32>(4) == shape.oid).collect();
        staged.push(Incoming::stage(client, entry, number, shape, &key).await?);
        as_texts.push(Texts::make(client, entry, number, shape).await?);
    }
    let into = |table: &Table| {
        let name = table.qualified();
        let (found, texts) = staged.iter().zip(&as_texts).find(|(incoming, _)| incoming.name == name)?;
        if let Some(texts) = texts {
            return Some(texts.target(table).into());
        }
        let target = match found.columns.as_str() {
            "" => found.staged.clone(),
            columns => format!("{} ({columns})", found.staged),
        };
        Some(target.into())
    };
    stored.load_into(client, meter, &into).await.map_err(as_refusal)?;
    let mut changed = Vec::new();
    for (incoming, texts) in staged.iter().zip(&as_texts) {
        if let Some(texts) = texts {
            changed.extend(texts.move_to(client, &incoming.staged).await?);
        }
    }
    if !changed.is_empty() {
        return Err(texts::refusal(&changed));
    }
    client.batch_execute("COMMIT").await.query_context("cannot load the rows beside the live ones")?;
    for some in staged.chunks(AT_ONCE) {
        let names: Vec<&str> = some.iter().map(|incoming| incoming.staged.as_str()).collect();
        let analyze = format!("ANALYZE {}", names.join(", "));
        client.batch_execute(&analyze).await.query_context("cannot gather statistics")?;
    }
    refuse_removals(client, &mut staged).await?;
    Ok(staged)
}

/// A value that the server does not take (class 22, or 23 in a domain within an array or a composite type) was one when
/// it was backed up: a type is another one now. Nothing is touched yet.
fn as_refusal(error: Error) -> Error {
    let code = error.detail("code").unwrap_or_default().to_owned();
    if error.kind() != Kind::Verify || !is_value(&code) {
        return error;
    }
    error
        .escalate(Kind::Refused)
        .with("state", UNTOUCHED)
        .hint(if code.starts_with("23") {
            "A domain within a type of its columns has a constraint that a value of the backup violates."
        } else {
            "A type of its columns is not as it was, such as an enum of which a label was renamed."
        })
        .hint("Load the backup beside the live database with --into NAME, and take the rows from there.")
}

fn is_value(code: &str) -> bool {
    code.starts_with("22") || code.starts_with("23")
}

/// The server's words about a value that a type does not take.
pub(super) fn value_refused(name: &str, cause: &tokio_postgres::Error) -> Error {
    let code = cause.code().map_or("", SqlState::code);
    let kind = if is_value(code) { Kind::Verify } else { Kind::Source };
    let error = Error::new(kind, format!("the server did not take the rows of {name}"));
    as_refusal(error.with("cause", chain(cause)).with("code", code))
}

/// The numbers that these queries count, in their order.
pub(super) async fn numbers(client: &Client, queries: &[String], failed: &str) -> Result<Vec<u64>> {
    let mut found = Vec::with_capacity(queries.len());
    for some in queries.chunks(AT_ONCE) {
        let each: Vec<String> = some.iter().map(|sql| format!("({sql})")).collect();
        let sql = format!("SELECT ARRAY[{}]::bigint[]", each.join(", "));
        let row = client.query_one(&sql, &[]).await.query_context(failed)?;
        found.extend(row.get::<_, Vec<i64>>(0).into_iter().map(|number| u64::try_from(number).unwrap_or(0)));
    }
    Ok(found)
}

/// Removes the rows that are not in the backup, or are otherwise there.
pub(super) async fn remove(client: &Client, staged: &[Incoming]) -> Result<()> {
    nothing_to_remove(client, staged).await?;
    for some in staged.chunks(AT_ONCE) {
        let statements: Vec<String> = some.iter().map(Incoming::removal).collect();
        client.batch_execute(&statements.join("; ")).await.query_context("cannot remove rows")?;
    }
    Ok(())
}

/// Looks again, under the lock: the tables must be those that were looked at before.
pub(super) async fn same_again(client: &Client, entries: &[&TableEntry], staged: &[Incoming]) -> Result<()> {
    let shapes = same_columns(client, entries).await?;
    for (shape, incoming) in shapes.iter().zip(staged) {
        let error = |what: String| Error::new(Kind::Refused, what).with("state", UNTOUCHED).hint("Repeat the command.");
        if shape.oid != incoming.oid {
            return Err(error(format!("table {} was replaced meanwhile", incoming.name)));
        }
        let mut changed = shape.now.iter().zip(&incoming.types).filter_map(|(now, before)| now.changed(before));
        if let Some(changed) = changed.next() {
            return Err(
                error(format!("types of table {} were changed meanwhile", incoming.name)).with("change", changed)
            );
        }
    }
    Ok(())
}
