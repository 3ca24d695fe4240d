//! Writing the rows that are missing, and reading them back.

use super::live;
use super::staged::{BESIDE, Staged, any, temporary};
use super::tables::{TABLES, Table};
use super::{Wanted, Work};
use crate::database::{ident, literal};
use crate::error::{Error, Kind, Result};
use crate::teslamate::rows::Rows;
use crate::teslamate::saved;
use crate::teslamate::session::Explain;

/// Rows that were written.
#[derive(Debug)]
pub(super) struct Put {
    /// The records.
    pub(super) wanted: Wanted,
    /// New rows.
    pub(super) rows: Vec<saved::Table>,
    /// Positions that were there, each with the drive that it got again.
    pub(super) linked: Vec<(i32, i32)>,
}

/// Writes all that is missing.
pub(super) async fn put(work: &Work<'_>, staged: &Staged, wanted: &Wanted) -> Result<Put> {
    forget_lost_drives(work, wanted).await?;
    let linked = work.query(&live::to_link(&wanted.drives), &[]).await.explain("cannot look at the positions")?;
    let linked: Vec<(i32, i32)> = linked.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut written = Vec::new();
    for table in TABLES {
        let query = format!("SELECT id::int FROM ({}) missing ORDER BY 1", live::missing(table));
        let ids = work.query(&query, &[]).await.explain("cannot compare with the backup")?;
        let ids: Vec<i32> = ids.iter().map(|row| row.get(0)).collect();
        if !ids.is_empty() {
            insert(work, staged, table, &ids).await?;
            written.push((table, ids));
        }
    }
    for drive in &wanted.drives {
        let ids: Vec<i32> = linked.iter().filter(|(_, of)| of == drive).map(|(id, _)| *id).collect();
        let statement = format!("UPDATE public.positions SET drive_id = {drive} WHERE {}", any("id", &ids));
        let count = work.write(&statement).await.explain("cannot give the positions their drive again")?;
        refuse_other_count("positions", count, ids.len())?;
    }
    let mut rows = Vec::new();
    for (table, ids) in &written {
        fill_later(work, table, ids).await?;
    }
    for (table, ids) in &written {
        rows.push(saved::Table::new(table.name, compare(work, staged, table, ids).await?));
        let newest = ids.iter().copied().max().unwrap_or(0);
        advance(work, table.name, newest).await?;
    }
    Ok(Put { wanted: wanted.clone(), rows, linked })
}

/// A position may have had a drive that is gone too, and is not wanted: it comes back without one, as deleting that drive
/// has left all others of it.
async fn forget_lost_drives(work: &Work<'_>, wanted: &Wanted) -> Result<()> {
    let statement = format!(
        "UPDATE {} SET drive_id = NULL WHERE drive_id IS NOT NULL AND NOT ({}) \
         AND NOT EXISTS (SELECT FROM public.drives d WHERE d.id = drive_id)",
        temporary("positions"),
        any("drive_id", &wanted.drives)
    );
    work.execute(&statement, &[]).await.explain("cannot look at the drives of the positions").map(drop)
}

async fn insert(work: &Work<'_>, staged: &Staged, table: &Table, ids: &[i32]) -> Result<()> {
    let names = staged.columns(table.name);
    let is_later = |name: &String| table.later.iter().any(|later| ident(later) == *name);
    let values: Vec<&str> = names.iter().map(|name| if is_later(name) { "NULL" } else { name.as_str() }).collect();
    let statement = format!(
        "INSERT INTO public.{} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} WHERE {}",
        table.name,
        names.join(", "),
        values.join(", "),
        temporary(table.name),
        any("id", ids)
    );
    let failed = format!("cannot put the rows of public.{} back", table.name);
    let count = work.write(&statement).await.explain(failed).map_err(|error| error.hint(BESIDE))?;
    refuse_other_count(table.name, count, ids.len())
}

fn refuse_other_count(table: &str, count: u64, wanted: usize) -> Result<()> {
    if count == wanted as u64 {
        return Ok(());
    }
    Err(Error::new(Kind::Verify, format!("{count} rows of public.{table} would come back instead of {wanted}"))
        .with("state", "nothing was changed")
        .hint("A rule, policy or trigger on the table changes what is written: see `\\d+` in psql."))
}

/// Fills the columns that refer to rows which are there only now.
async fn fill_later(work: &Work<'_>, table: &Table, ids: &[i32]) -> Result<()> {
    if table.later.is_empty() {
        return Ok(());
    }
    let pairs: Vec<String> = table.later.iter().map(|name| format!("{0} = s.{0}", ident(name))).collect();
    let statement = format!(
        "UPDATE public.{} l SET {} FROM {} s WHERE s.id OPERATOR(pg_catalog.=) l.id AND {}",
        table.name,
        pairs.join(", "),
        temporary(table.name),
        any("l.id", ids)
    );
    let count = work.write(&statement).await.explain(format!("cannot complete the rows of public.{}", table.name))?;
    refuse_other_count(table.name, count, ids.len())
}

/// Reads what was written and compares it with the backup, column by column, in the server's own text.
async fn compare(work: &Work<'_>, staged: &Staged, table: &Table, ids: &[i32]) -> Result<Rows> {
    let columns = staged.columns(table.name).join(", ");
    let read = |from: String| format!("SELECT {columns} FROM {from} WHERE {} ORDER BY id", any("id", ids));
    let kept = Rows::read(work, &read(temporary(table.name)), "the rows of the backup").await?;
    let live = Rows::read(work, &read(format!("public.{}", table.name)), "the rows that were put back").await?;
    if kept == live {
        return Ok(live);
    }
    Err(Error::new(Kind::Verify, format!("rows of public.{} would not come back as they were", table.name))
        .with("cause", "a trigger or a rule alters the values")
        .with("state", "nothing was changed")
        .hint(BESIDE))
}

/// Sees to it that the next row gets an id that is free. A sequence does not go back with its transaction, which does no
/// harm.
async fn advance(work: &Work<'_>, table: &str, newest: i32) -> Result<()> {
    let failed = format!("cannot look at the sequence of public.{table}");
    let query = "SELECT pg_get_serial_sequence('public.' || quote_ident($1), 'id')";
    let sequence: Option<String> = work.query_one(query, &[&table]).await.explain(&failed)?.get(0);
    let Some(sequence) = sequence else { return Ok(()) };
    let query = format!(
        "SELECT setval({}::regclass, {newest}) FROM {sequence} WHERE last_value < {newest}",
        literal(&sequence)
    );
    work.query(&query, &[]).await.explain(&failed).map(drop)
}
