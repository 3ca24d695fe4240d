//! Putting a deleted record back, exactly: `docs/closing.md`, "Deleting".
//!
//! One transaction: the record's row with its id, the readings with theirs, and the link of every position that was
//! unlinked and is still without a drive. What was written is read back and compared, so that a trigger or a changed
//! type cannot alter it unseen.

use std::os::fd::OwnedFd;
use std::path::Path;

use tokio_postgres::Transaction;

use super::Record;
use super::catalog::Catalog;
use super::outcome::{Effects, Outcome, Status};
use super::rows::{Rows, compare};
use super::saved::{self, Content, Table};
use super::session::{self, Explain, Session, Work, begin};
use crate::database::{ident, literal};
use crate::env::Env;
use crate::error::{Error, Kind, Result};

/// Rows in one INSERT.
const BATCH: usize = 500;

/// Puts back what the file holds; it is judged whole before the database is asked for anything.
pub async fn run(env: &Env, record: Record, input: OwnedFd, file: &Path) -> Result<Outcome> {
    let content = saved::read(input, file, record)?;
    let mut session = Session::open(env).await?;
    warn_if_elsewhere(env, &session, &content);
    let transaction = begin(&mut session.client, &session.both).await?;
    let effects = env.interrupt.guard(put_back(&transaction, &session.catalog, &content)).await?;
    session::commit(transaction, &format!("{} {}", record.noun(), content.id)).await?;

    let row = Rows { columns: content.row.columns.clone(), rows: content.row.rows.clone() };
    let mut outcome = Outcome::of(content.id, Status::Restored, &row);
    outcome.row = compare(&session.catalog, record.table(), &Rows::default(), &row);
    outcome.effects = Some(effects);
    let lost = content.positions.len() as u64 - effects.positions;
    if lost > 0 {
        outcome.notes.push(format!(
            "{lost} of the {} positions were not linked again: they belong to another drive by now, or are gone",
            content.positions.len()
        ));
    }
    outcome.notes.push(format!("{} is kept", file.display()));
    Ok(outcome)
}

fn warn_if_elsewhere(env: &Env, session: &Session, content: &Content) {
    let same_cluster = match (&session.system_identifier, &content.system_identifier) {
        (Some(here), Some(there)) => here == there,
        _ => true,
    };
    if !same_cluster || session.database != content.database {
        env.reporter.warn(&format!(
            "these rows were deleted from database \"{}\"{}; they are put into \"{}\"",
            content.database,
            if same_cluster { "" } else { " of another server" },
            session.database
        ));
    }
}

async fn put_back(work: &Work<'_>, catalog: &Catalog, content: &Content) -> Result<Effects> {
    let Content { record, id, row, readings, positions, .. } = content;
    let what = format!("{} {id}", record.noun());
    let query = format!("SELECT * FROM public.{} WHERE id = {id}", record.table());
    if !Rows::read(work, &query, &what).await?.rows.is_empty() {
        return Err(Error::new(Kind::Refused, format!("{what} exists: its id is in use"))
            .with("state", "nothing was changed")
            .hint(format!(
                "If it is the very one, there is nothing to undo; look with `teslamate-delete-{} --dry-run {id}`.",
                record.noun()
            )));
    }
    insert(work, catalog, row, &what).await?;
    compare_back(work, row, &query, &what).await?;
    let mut effects = Effects::default();
    if let Some(readings) = readings {
        insert(work, catalog, readings, &format!("the readings of {what}")).await?;
        let query = format!("SELECT * FROM public.charges WHERE charging_process_id = {id} ORDER BY id");
        compare_back(work, readings, &query, &format!("the readings of {what}")).await?;
        effects.readings = readings.rows.len() as u64;
    }
    if !positions.is_empty() {
        let ids: Vec<String> = positions.iter().map(i32::to_string).collect();
        let statement = format!(
            "UPDATE public.positions SET drive_id = {id} \
             WHERE id OPERATOR(pg_catalog.=) ANY ('{{{}}}'::pg_catalog.int4[]) AND drive_id IS NULL",
            ids.join(",")
        );
        effects.positions = work.write(&statement).await.explain("cannot link the positions again")?;
    }
    Ok(effects)
}

/// Inserts the rows with every column that the file has; a column that the table has gained gets its default.
async fn insert(work: &Work<'_>, catalog: &Catalog, table: &Table, what: &str) -> Result<()> {
    let known = catalog.columns(&table.table);
    let gone: Vec<&str> = table
        .columns
        .iter()
        .filter(|name| !known.iter().any(|column| column.name == **name))
        .map(String::as_str)
        .collect();
    if !gone.is_empty() {
        let names = gone.join(", ");
        return Err(Error::new(Kind::Refused, format!("public.{} no longer has the column {names}", table.table))
            .with("state", "nothing was changed")
            .hint("TeslaMate's schema has changed since: restore a backup of that time beside the database instead."));
    }
    // What the server computes by itself cannot be written.
    let written: Vec<usize> = (0..table.columns.len())
        .filter(|at| !known.iter().any(|column| column.name == table.columns[*at] && column.generated))
        .collect();
    let names: Vec<String> = written.iter().map(|at| ident(&table.columns[*at])).collect();
    for batch in table.rows.chunks(BATCH) {
        let values: Vec<String> = batch
            .iter()
            .map(|row| {
                let cells: Vec<String> =
                    written.iter().map(|at| row[*at].as_deref().map_or_else(|| "NULL".into(), literal)).collect();
                format!("({})", cells.join(", "))
            })
            .collect();
        let statement = format!(
            "INSERT INTO public.{} ({}) OVERRIDING SYSTEM VALUE VALUES {}",
            ident(&table.table),
            names.join(", "),
            values.join(", ")
        );
        work.write(&statement).await.explain(format!("cannot put back {what}"))?;
    }
    Ok(())
}

/// Reads what was inserted and compares it with the file, in the file's columns.
async fn compare_back(transaction: &Transaction<'_>, table: &Table, query: &str, what: &str) -> Result<()> {
    let names: Vec<String> = table.columns.iter().map(|name| ident(name)).collect();
    let query = query.replacen('*', &names.join(", "), 1);
    let found = Rows::read(transaction, &query, what).await?;
    if found.rows == table.rows {
        return Ok(());
    }
    Err(Error::new(Kind::Verify, format!("{what} would not come back as it was deleted"))
        .with("cause", "a trigger, a rule or a changed column type alters the values")
        .with("state", "nothing was changed"))
}
