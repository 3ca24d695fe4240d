//! The columns of the live tables, compared with those of the backup.

use tokio_postgres::Client;

use super::UNTOUCHED;
use crate::database::connect::QueryContext;
use crate::error::{Error, Kind, Result};
use crate::tables::catalog::Table;
use crate::tables::composites::{self, Labels};
use crate::tables::manifest::TableEntry;

/// The columns that COPY reads, with the type beneath a domain, or an array of them: its constraints judge what goes into
/// the table itself.
const COLUMNS: &str = "\
    SELECT w.place, c.oid, a.attname::text, format_type(a.atttypid, a.atttypmod), \
           (WITH RECURSIVE d (oid, modifier, depth) AS (SELECT a.atttypid, a.atttypmod, 0 UNION ALL \
                SELECT n.oid, n.modifier, d.depth + 1 FROM d JOIN pg_type t ON t.oid = d.oid \
                       LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid AND e.typtype = 'd' \
                       LEFT JOIN pg_type b ON b.oid = e.typbasetype CROSS JOIN LATERAL ( \
                       SELECT t.typbasetype, t.typtypmod WHERE t.typtype = 'd' \
                       UNION ALL SELECT b.typarray, e.typtypmod WHERE b.typarray <> 0) AS n (oid, modifier)) \
            SELECT format_type(d.oid, d.modifier) FROM d ORDER BY d.depth DESC LIMIT 1), a.atttypid \
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
    /// Columns whose domains or ranges may stand on other types than when it was backed up.
    pub(super) doubtful: Vec<Doubt>,
    /// The types, as they are now.
    pub(super) now: Vec<Now>,
}

/// A column whose values may become other ones.
#[derive(Clone, Debug)]
pub(super) struct Doubt {
    pub(super) column: String,
    /// The types beneath its domains and ranges now.
    pub(super) live: String,
    /// Those of the backup.
    pub(super) backup: String,
}

/// The type of a live column: its number, and what a value of it is written with.
#[derive(Clone, Debug)]
pub(super) struct Now {
    oid: u32,
    bases: Option<String>,
    labels: Labels,
}

impl Now {
    /// Why a value that was read before means something else now. A label that came since does no harm.
    pub(super) fn changed(&self, since: &Self) -> Option<String> {
        if self.oid != since.oid || self.bases != since.bases {
            return Some("a type was replaced".to_owned());
        }
        let mut lost = since.labels.iter().filter(|(oid, label)| self.labels.get(oid) != Some(label));
        lost.next().map(|(_, (name, label))| format!("{name}: the label {label} was renamed"))
    }
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
    /// As many as there are columns.
    now: Vec<Now>,
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
    let attributes = composites::read(client, &types).await?;
    let bases = composites::bases(client, &types).await?;
    let labels = composites::labels(client, &types).await?;
    let mut tables: Vec<Live> = entries.iter().map(|_| Live::default()).collect();
    let place = |place: i64| usize::try_from(place - 1).unwrap_or(usize::MAX);
    for row in &rows {
        let Some(live) = tables.get_mut(place(row.get(0))) else { continue };
        live.oid = row.get(1);
        if let Some(name) = row.get::<_, Option<String>>(2) {
            live.types.push((name.clone(), row.get(4)));
            let oid = row.get(5);
            let composites = attributes.get(&oid).cloned();
            let labels = labels.get(&oid).cloned().unwrap_or_default();
            live.now.push(Now { oid, bases: bases.get(&oid).cloned(), labels });
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
        let doubtful = doubtful(&live, table);
        return Ok(Shape { oid: live.oid, types: live.types, doubtful, now: live.now });
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

/// The columns whose domains and ranges do not stand on the types that the backup names, if it names any. Backups of older
/// releases do not.
fn doubtful(live: &Live, table: &Table) -> Vec<Doubt> {
    let column = |(column, now): (&Column, &Now)| {
        let kept = table.columns.iter().find(|kept| kept.name == column.name)?.bases.as_deref();
        let shown = |bases: Option<&str>, none: &str| bases.unwrap_or(none).to_owned();
        (now.bases.as_deref() != kept).then(|| Doubt {
            column: column.name.clone(),
            live: shown(now.bases.as_deref(), &column.type_name),
            backup: shown(kept, "not known"),
        })
    };
    live.columns.iter().zip(&live.now).filter_map(column).collect()
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
