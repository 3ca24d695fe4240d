//! Taking away what was put back, and nothing else.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::file::{self, Content};
use super::staged::any;
use super::tables::TABLES;
use super::{Record, Work};
use crate::database::ident;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::teslamate::delete::refuse_foreign_references;
use crate::teslamate::rows::Rows;
use crate::teslamate::saved::Table;
use crate::teslamate::session::{self, Explain, Session, begin};

/// Tables whose rows others may refer to by now. Such rows stay, and so do those that somebody has changed.
const SHARED: [&str; 5] = ["positions", "geofences", "addresses", "cars", "car_settings"];

/// Result of undoing.
#[derive(Clone, Debug, Default)]
pub struct Undone {
    /// Ids of the drives.
    pub drives: Vec<i32>,
    /// Ids of the charges.
    pub charges: Vec<i32>,
    /// Rows that went, by table.
    pub removed: BTreeMap<&'static str, u64>,
    /// Rows that stay, since others refer to them or somebody has changed them.
    pub kept: BTreeMap<&'static str, u64>,
    /// Positions that have no drive again.
    pub unlinked: u64,
}

/// Undoes what the file says. It is judged whole before the database is asked for anything.
///
/// # Errors
/// [`Kind::Verify`] if the file is damaged; [`Kind::Refused`] if a record is gone, or is not what was put back.
pub async fn run(env: &Env, input: OwnedFd, shown: &Path) -> Result<Undone> {
    let content = file::read(input, shown)?;
    let mut session = Session::open(env).await?;
    if session.database != content.origin.database
        || matches!((&session.system_identifier, &content.origin.system_identifier), (Some(here), Some(there)) if here != there)
    {
        let what = format!("these records were put into another database, \"{}\"", content.origin.database);
        return Err(Error::new(Kind::Refused, what).with("state", "nothing was changed"));
    }
    let work = begin(&mut session.client, &session.both).await?;
    let undone = env.interrupt.guard(take_away(&work, &content)).await?;
    session::commit(work, "the records").await?;
    Ok(undone)
}

async fn take_away(work: &Work<'_>, content: &Content) -> Result<Undone> {
    let mut undone = Undone { drives: content.drives.clone(), charges: content.charges.clone(), ..Undone::default() };
    for (record, ids) in [(Record::Drive, &content.drives), (Record::Charge, &content.charges)] {
        for id in ids {
            refuse_other_record(work, content, record, *id).await?;
        }
    }
    for table in content.rows.iter().filter(|table| table.table == "charges") {
        refuse_changed(work, table).await?;
    }
    for drive in &content.drives {
        let ids = linked(content, *drive);
        let statement = format!(
            "UPDATE public.positions SET drive_id = NULL WHERE {} AND drive_id OPERATOR(pg_catalog.=) {drive}",
            any("id", &ids)
        );
        undone.unlinked += work.write(&statement).await.explain("cannot take the drive from the positions again")?;
    }
    let is_shared = |table: &&super::tables::Table| SHARED.contains(&table.name);
    let records = TABLES.iter().rev().filter(|table| !is_shared(table));
    for known in records.chain(TABLES.iter().rev().filter(is_shared)) {
        let Some(table) = content.rows.iter().find(|table| table.table == known.name) else { continue };
        // Positions lose their drive with it, so they are compared without that.
        let unchanged = unchanged(work, table).await?;
        let mut condition = any("t.id", &unchanged);
        if is_shared(&known) {
            condition.push_str(&nobody_refers(work, known.name).await?);
        }
        let statement = format!("DELETE FROM public.{} t WHERE {condition}", known.name);
        let removed = work.write(&statement).await.explain(format!("cannot remove rows of public.{}", known.name))?;
        undone.removed.insert(known.name, removed);
        let kept = table.rows.len() as u64 - removed.min(table.rows.len() as u64);
        if kept > 0 {
            undone.kept.insert(known.name, kept);
        }
    }
    Ok(undone)
}

/// The positions that got this drive again.
fn linked(content: &Content, drive: i32) -> Vec<i32> {
    content.linked.iter().filter(|(_, of)| *of == drive).map(|(id, _)| *id).collect()
}

/// Refuses a record that is gone, was changed, or has more rows than those that were put back.
async fn refuse_other_record(work: &Work<'_>, content: &Content, record: Record, id: i32) -> Result<()> {
    let noun = record.noun();
    let refused = |what: String| {
        Error::new(Kind::Refused, what)
            .with("state", "nothing was changed")
            .hint(format!("To delete it as it is now: teslamate-delete-{noun} {id}"))
    };
    if session::lock(work, record, id).await?.is_none() {
        return Err(Error::new(Kind::Refused, format!("{noun} {id} is gone: there is nothing to undo"))
            .with("state", "nothing was changed"));
    }
    refuse_foreign_references(work, record, id).await?;
    let own = content.rows.iter().find(|table| table.table == record.table());
    let Some(own) = own.filter(|table| ids(table).contains(&id)) else {
        return Err(refused(format!("{noun} {id} is not in the file")));
    };
    if !unchanged(work, own).await?.contains(&id) {
        return Err(refused(format!("{noun} {id} was changed since it was put back")));
    }
    let (table, column) = match record {
        Record::Drive => ("positions", "drive_id"),
        Record::Charge => ("charges", "charging_process_id"),
    };
    let rows = content.rows.iter().find(|put| put.table == table);
    let mut put = rows.map(|put| values(put, column)).unwrap_or_default();
    put.retain(|(_, of)| of.as_deref() == Some(id.to_string().as_str()));
    let known: Vec<i32> = put.into_iter().map(|(row, _)| row).chain(linked(content, id)).collect();
    let query = format!("SELECT count(*) FROM public.{table} WHERE {column} = {id} AND NOT ({})", any("id", &known));
    let more: i64 = work.query_one(&query, &[]).await.explain("cannot look at the record's rows")?.get(0);
    if more > 0 {
        return Err(refused(format!("{noun} {id} has {more} rows of public.{table} that came since it was put back")));
    }
    Ok(())
}

async fn refuse_changed(work: &Work<'_>, table: &Table) -> Result<()> {
    let changed = table.rows.len() - unchanged(work, table).await?.len();
    if changed == 0 {
        return Ok(());
    }
    let what = format!("{changed} rows of public.{} were changed since they were put back, or are gone", table.table);
    Err(Error::new(Kind::Refused, what).with("state", "nothing was changed"))
}

/// The ids of the rows that are as they were put back, but for the drive of a position.
async fn unchanged(work: &Work<'_>, table: &Table) -> Result<Vec<i32>> {
    let compared = |rows: &[Vec<Option<String>>]| -> Vec<Vec<Option<String>>> {
        let is_compared = |at: &usize| !(table.table == "positions" && table.columns[*at] == "drive_id");
        rows.iter().map(|row| (0..row.len()).filter(is_compared).map(|at| row[at].clone()).collect()).collect()
    };
    let columns: Vec<String> = table.columns.iter().map(|name| ident(name)).collect();
    let query = format!(
        "SELECT {} FROM public.{} WHERE {} ORDER BY id",
        columns.join(", "),
        table.table,
        any("id", &ids(table))
    );
    let live = Rows::read(work, &query, &format!("public.{}", table.table)).await?;
    let live: std::collections::HashSet<Vec<Option<String>>> = compared(&live.rows).into_iter().collect();
    let put = compared(&table.rows);
    Ok(ids(table).into_iter().zip(put).filter(|(_, row)| live.contains(row)).map(|(id, _)| id).collect())
}

/// The id of each row, and its value of a column.
fn values(table: &Table, column: &str) -> Vec<(i32, Option<String>)> {
    let place = |name: &str| table.columns.iter().position(|known| known == name);
    let (Some(id), column) = (place("id"), place(column)) else { return Vec::new() };
    let value = |row: &Vec<Option<String>>| column.and_then(|at| row[at].clone());
    table.rows.iter().filter_map(|row| Some((row[id].as_deref()?.parse().ok()?, value(row)))).collect()
}

fn ids(table: &Table) -> Vec<i32> {
    values(table, "id").into_iter().map(|(id, _)| id).collect()
}

/// A condition that no foreign key of any table leads to the row: some of them would take their rows along.
async fn nobody_refers(work: &Work<'_>, table: &str) -> Result<String> {
    let query = "SELECT format('%I.%I', n.nspname, c.relname), format('%I', a.attname), format('%I', p.attname) \
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
              JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1] \
              JOIN pg_attribute p ON p.attrelid = k.confrelid AND p.attnum = k.confkey[1] \
         WHERE k.contype = 'f' AND k.conparentid = 0 AND k.confrelid = to_regclass('public.' || quote_ident($1))";
    let rows = work.query(query, &[&table]).await.explain("cannot look for what refers to the rows")?;
    let one = |row: &tokio_postgres::Row| {
        let (child, column, key): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
        format!(" AND NOT EXISTS (SELECT FROM {child} c WHERE c.{column} OPERATOR(pg_catalog.=) t.{key})")
    };
    Ok(rows.iter().map(one).collect())
}
