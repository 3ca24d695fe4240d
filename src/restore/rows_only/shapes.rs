//! The columns of the live tables, compared with those of the backup.

use tokio_postgres::Client;

use super::UNTOUCHED;
use crate::database::connect::QueryContext;
use crate::error::{Error, Kind, Result};
use crate::tables::catalog::Table;
use crate::tables::composites;
use crate::tables::manifest::TableEntry;

/// The columns that COPY reads, with the type beneath a domain: its constraints judge what goes into the table itself.
const COLUMNS: &str = "\
    SELECT w.place, c.oid, a.attname::text, format_type(a.atttypid, a.atttypmod), \
           (WITH RECURSIVE d (oid, modifier) AS (SELECT a.atttypid, a.atttypmod UNION ALL \
                SELECT t.typbasetype, t.typtypmod FROM d JOIN pg_type t ON t.oid = d.oid WHERE t.typtype = 'd') \
            SELECT format_type(d.oid, d.modifier) FROM d JOIN pg_type t ON t.oid = d.oid WHERE t.typtype <> 'd'), a.atttypid \
    FROM unnest($1::text[]) WITH ORDINALITY AS w (name, place) \
         JOIN pg_class c ON c.oid = to_regclass(w.name) AND c.relkind = 'r' \
         LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' \
    ORDER BY w.place, a.attname COLLATE \"C\"";

/// The kind of a relation that is no table.
const KINDS: &str = "\
    SELECT w.place, CASE c.relkind WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view' WHEN 'f' THEN 'a foreign table' \
                    WHEN 'p' THEN 'a partitioned table' WHEN 'S' THEN 'a sequence' WHEN 'i' THEN 'an index' \
                    WHEN 'I' THEN 'an index' WHEN 'c' THEN 'a composite type' ELSE 'no table' END \
    FROM unnest($1::text[]) WITH ORDINALITY AS w (name, place) JOIN pg_class c ON c.oid = to_regclass(w.name) AND c.relkind <> 'r'";

/// Columns of a live table.
pub(super) struct Shape {
    pub(super) oid: u32,
    /// Name, and the type to read it with, in the order of the names.
    pub(super) types: Vec<(String, String)>,
}

/// A column as it is compared.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Column {
    name: String,
    type_name: String,
    /// The attributes of the composite types in its type, if there are any.
    composites: Option<String>,
}

/// A live table, as it is read.
#[derive(Default)]
struct Live {
    oid: u32,
    types: Vec<(String, String)>,
    columns: Vec<Column>,
    /// Another relation of that name.
    kind: Option<String>,
}

/// A table that is not as it was.
struct Difference {
    table: String,
    what: String,
    live: String,
    backup: String,
}

/// Compares the columns of the live tables with those of the backup, and returns them in this order.
///
/// # Errors
/// [`Kind::Refused`], naming all tables that are not as they were.
pub(super) async fn same_columns(client: &Client, entries: &[&TableEntry]) -> Result<Vec<Shape>> {
    let (mut shapes, mut differences) = (Vec::new(), Vec::new());
    for (live, entry) in read(client, entries).await?.into_iter().zip(entries) {
        match as_in_backup(live, &entry.table) {
            Ok(shape) => shapes.push(shape),
            Err(difference) => differences.push(difference),
        }
    }
    if differences.is_empty() { Ok(shapes) } else { Err(refusal(differences)) }
}

async fn read(client: &Client, entries: &[&TableEntry]) -> Result<Vec<Live>> {
    let failed = "cannot look at the live tables";
    let names: Vec<String> = entries.iter().map(|entry| entry.table.qualified()).collect();
    let rows = client.query(COLUMNS, &[&names]).await.query_context(failed)?;
    let types: Vec<u32> = rows.iter().filter_map(|row| row.get(5)).collect();
    let composites = composites::read(client, &types).await?;
    let mut tables: Vec<Live> = entries.iter().map(|_| Live::default()).collect();
    let place = |place: i64| usize::try_from(place - 1).unwrap_or(usize::MAX);
    for row in &rows {
        let Some(live) = tables.get_mut(place(row.get(0))) else { continue };
        live.oid = row.get(1);
        if let Some(name) = row.get::<_, Option<String>>(2) {
            live.types.push((name.clone(), row.get(4)));
            let composites = composites.get(&row.get(5)).cloned();
            live.columns.push(Column { name, type_name: row.get(3), composites });
        }
    }
    for row in client.query(KINDS, &[&names]).await.query_context(failed)? {
        if let Some(live) = tables.get_mut(place(row.get(0))) {
            live.kind = row.get(1);
        }
    }
    Ok(tables)
}

fn as_in_backup(live: Live, table: &Table) -> std::result::Result<Shape, Difference> {
    let column = |column: &crate::tables::catalog::Column| Column {
        name: column.name.clone(),
        type_name: column.type_name.clone(),
        composites: column.composites.clone(),
    };
    let mut kept: Vec<Column> = table.columns.iter().map(column).collect();
    kept.sort();
    if live.oid != 0 && live.columns == kept {
        return Ok(Shape { oid: live.oid, types: live.types });
    }
    let what = match live.kind {
        Some(kind) => format!("is {kind} in the live database"),
        None if live.oid == 0 => "is not in the live database".to_owned(),
        None => "has other columns now".to_owned(),
    };
    // Backups of older releases do not say it.
    let unknown = |column: &Column| {
        let same = |other: &&Column| other.name == column.name && other.type_name == column.type_name;
        column.composites.is_none() && live.columns.iter().find(same).is_some_and(|other| other.composites.is_some())
    };
    let shown = |columns: &[Column], is_backup: bool| {
        let one = |column: &Column| {
            let Column { name, type_name, composites } = column;
            match composites {
                Some(composites) => format!("{name} {type_name} ({composites})"),
                None if is_backup && unknown(column) => format!("{name} {type_name} (its attributes are not known)"),
                None => format!("{name} {type_name}"),
            }
        };
        columns.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    Err(Difference { table: table.qualified(), what, live: shown(&live.columns, false), backup: shown(&kept, true) })
}

fn refusal(mut differences: Vec<Difference>) -> Error {
    let error = if differences.len() == 1 {
        let Difference { table, what, live, backup } = differences.swap_remove(0);
        Error::new(Kind::Refused, format!("table {table} {what}")).with("live", live).with("backup", backup)
    } else {
        let lines: Vec<String> = differences
            .iter()
            .map(|Difference { table, what, live, backup }| {
                let live = if live.is_empty() { String::new() } else { format!("; live: {live}; backup: {backup}") };
                format!("{table} {what}{live}")
            })
            .collect();
        let what = format!("{} tables of the backup are not in the live database as they were", lines.len());
        Error::new(Kind::Refused, what).with("tables", lines.join("\n"))
    };
    error
        .with("state", UNTOUCHED)
        .hint("Load the backup beside the live database with --into NAME, and take the rows from there.")
}
