//! How the rows of the backup compare with the live ones.

use super::Work;
use super::staged::{BESIDE, any, temporary};
use super::tables::Table;
use crate::database::ident;
use crate::error::{Error, Kind, Result};
use crate::teslamate::session::Explain;

/// A query for the rows that the live table has none of.
pub(super) fn missing(table: &Table) -> String {
    let (name, live) = (temporary(table.name), table.name);
    format!("SELECT s.* FROM {name} s WHERE NOT EXISTS (SELECT FROM public.{live} l WHERE l.id = s.id)")
}

/// Refuses rows whose id belongs to another row of the live table by now.
pub(super) async fn refuse_taken(work: &Work<'_>, table: &Table) -> Result<()> {
    if table.identity.is_empty() {
        return Ok(());
    }
    let of = |alias: &str| {
        let columns: Vec<String> = table.identity.iter().map(|name| format!("{alias}.{}", ident(name))).collect();
        format!("ROW({})", columns.join(", "))
    };
    let (staged, live) = (temporary(table.name), table.name);
    let query = format!(
        "SELECT count(*), min(s.id)::bigint FROM {staged} s JOIN public.{live} l ON l.id = s.id \
         WHERE {} IS DISTINCT FROM {}",
        of("s"),
        of("l")
    );
    let row = work.query_one(&query, &[]).await.explain("cannot compare with the backup")?;
    let (rows, id): (i64, Option<i64>) = (row.get(0), row.get(1));
    let Some(id) = id else { return Ok(()) };
    let what = format!("{rows} rows of public.{live} have ids that belong to other rows by now, such as {id}");
    Err(Error::new(Kind::Refused, what).with("state", "nothing was changed").hint(BESIDE))
}

/// Refuses positions that belong to another drive by now.
pub(super) async fn refuse_moved(work: &Work<'_>, drives: &[i32]) -> Result<()> {
    let query = format!(
        "SELECT count(*), min(l.drive_id) FROM {} s JOIN public.positions l ON l.id = s.id \
         WHERE {} AND l.drive_id <> s.drive_id",
        temporary("positions"),
        any("s.drive_id", drives)
    );
    let row = work.query_one(&query, &[]).await.explain("cannot look at the positions")?;
    let (rows, drive): (i64, Option<i32>) = (row.get(0), row.get(1));
    let Some(drive) = drive else { return Ok(()) };
    let what = format!("{rows} positions belong to another drive by now, such as drive {drive}");
    Err(Error::new(Kind::Refused, what).with("state", "nothing was changed").hint(BESIDE))
}

/// A query for the positions that are there without the drive that they had.
pub(super) fn to_link(drives: &[i32]) -> String {
    format!(
        "SELECT s.id, s.drive_id FROM {} s JOIN public.positions l ON l.id = s.id \
         WHERE {} AND l.drive_id IS NULL ORDER BY s.id",
        temporary("positions"),
        any("s.drive_id", drives)
    )
}
