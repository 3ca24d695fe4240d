//! Deleting a record: `docs/closing.md`, "Deleting".
//!
//! A plan is shown, then executed: what goes and what else changes is read first, the question is asked outside any
//! transaction (nobody waits for a person), and the work itself reads it all again under the row's lock. The rows are
//! on the disk before the deletion is committed, and undoing (`undo.rs`) puts exactly them back.

use tokio_postgres::Transaction;

use super::Record;
use super::outcome::{Effects, Outcome, Status, each};
use super::rows::{Rows, compare};
use super::saved::{self, Content, Table};
use super::session::{self, Explain, Session, Work, begin};
use crate::database::ident;
use crate::env::Env;
use crate::error::{Error, Kind, Result};

/// What is to be deleted, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Drives or charges.
    pub record: Record,
    /// Their ids, each once.
    pub ids: Vec<i32>,
    /// Show what would happen.
    pub dry_run: bool,
    /// Delete a record that is open although the service is running.
    pub force_open: bool,
}

/// Deletes records, each in a transaction of its own.
pub async fn run(env: &Env, plan: &Plan) -> Result<Vec<Outcome>> {
    let mut session = Session::open(env).await?;
    Ok(each(&plan.ids, async |id| one(env, &mut session, plan, id).await).await)
}

async fn one(env: &Env, session: &mut Session, plan: &Plan, id: i32) -> Result<Outcome> {
    let record = plan.record;
    let origin = Origin::of(session);
    let transaction = begin(&mut session.client, &session.both).await?;
    let found = env.interrupt.guard(look(&transaction, record, id, &origin)).await?;
    session::rollback(transaction).await;
    let Some(removal) = found else {
        env.reporter.warn(&format!("{} {id} does not exist: nothing to delete", record.noun()));
        return Ok(Outcome::new(id, Status::Absent));
    };
    if removal.is_open() && !plan.force_open && env.host.service_state().await?.is_at_work() {
        return Err(still_open(env, record, id));
    }
    if plan.dry_run {
        return Ok(removal.outcome(session, Status::WouldDelete));
    }
    confirm(env, &removal).await?;

    let transaction = begin(&mut session.client, &session.both).await?;
    let removal = env.interrupt.guard(remove(&transaction, record, id, &origin)).await?;
    let Some(removal) = removal else {
        return Ok(Outcome::new(id, Status::Absent));
    };
    // Not to be interrupted: between the two, a signal could not be told from a success.
    let saved = finish(env, transaction, &removal).await?;
    let mut outcome = removal.outcome(session, Status::Deleted);
    outcome.saved = Some(saved);
    Ok(outcome)
}

fn still_open(env: &Env, record: Record, id: i32) -> Error {
    let (noun, unit) = (record.noun(), &env.settings.service.unit);
    Error::new(Kind::Refused, format!("{noun} {id} is still open, and {unit} is running: it may be recording it now"))
        .with("state", "nothing was changed")
        .hint(format!("Close it first: teslamate-close-{noun} {id}"))
        .hint(format!("Or stop the service first: systemctl stop {unit}"))
        .hint(format!("Or delete it all the same: teslamate-delete-{noun} --force-open {id}"))
}

/// Asks on a terminal; elsewhere there is nobody to ask.
async fn confirm(env: &Env, removal: &Removal) -> Result<()> {
    let noun = removal.content.record.noun();
    let id = removal.content.id;
    let question = format!("{}\nType yes to delete {noun} {id}: ", removal.sentence());
    match env.interrupt.guard(env.host.ask(&question)).await? {
        Some(answer) if !["y", "yes", &id.to_string()].contains(&answer.trim()) => {
            Err(Error::new(Kind::Refused, format!("{noun} {id} was not confirmed"))
                .with("state", "nothing was changed"))
        }
        _ => Ok(()),
    }
}

/// Where the rows come from, for the file.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    database: String,
    system_identifier: Option<String>,
}

impl Origin {
    pub(super) fn of(session: &Session) -> Self {
        Self { database: session.database.clone(), system_identifier: session.system_identifier.clone() }
    }
}

/// A deletion: the rows that go, and what else changes.
#[derive(Debug)]
pub(super) struct Removal {
    pub(super) content: Content,
    row: Rows,
    effects: Effects,
}

impl Removal {
    fn is_open(&self) -> bool {
        self.row.first("end_date").is_none()
    }

    /// What goes, for the question.
    fn sentence(&self) -> String {
        let Content { record, id, .. } = &self.content;
        let start = self.row.first("start_date").unwrap_or("an unknown time");
        let car = self.row.first("car_id").unwrap_or("?");
        let rest = match record {
            Record::Drive => format!("{} positions stay, without a drive", self.effects.positions),
            Record::Charge => format!("{} readings go with it", self.effects.readings),
        };
        format!("{} {id} of car {car}, started {start} UTC; {rest}; its rows are saved first", record.noun())
    }

    pub(super) fn outcome(&self, session: &Session, status: Status) -> Outcome {
        let mut outcome = Outcome::of(self.content.id, status, &self.row);
        outcome.row = compare(&session.catalog, self.content.record.table(), &self.row, &Rows::default());
        outcome.effects = Some(self.effects);
        outcome
    }
}

/// Reads what would go, under the row's lock. `None` if there is no such record.
pub(super) async fn look(
    transaction: &Transaction<'_>,
    record: Record,
    id: i32,
    origin: &Origin,
) -> Result<Option<Removal>> {
    let Some(row) = session::lock(transaction, record, id).await? else { return Ok(None) };
    refuse_foreign_references(transaction, record, id).await?;
    let mut content = Content {
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        record,
        id,
        saved_at: chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        database: origin.database.clone(),
        system_identifier: origin.system_identifier.clone(),
        row: Table::new(record.table(), row.clone()),
        readings: None,
        positions: Vec::new(),
    };
    let mut effects = Effects::default();
    match record {
        Record::Drive => {
            let query = "SELECT p.id, EXISTS (SELECT FROM public.charging_processes c WHERE c.position_id = p.id) \
                         FROM public.positions p WHERE p.drive_id = $1 ORDER BY p.id";
            let rows = transaction.query(query, &[&id]).await.explain("cannot read the drive's positions")?;
            content.positions = rows.iter().map(|row| row.get(0)).collect();
            effects.positions = rows.len() as u64;
            effects.charges_on_positions = rows.iter().filter(|row| row.get(1)).count() as u64;
        }
        Record::Charge => {
            let query = format!("SELECT * FROM public.charges WHERE charging_process_id = {id} ORDER BY id");
            let readings = Rows::read(transaction, &query, "the charge's readings").await?;
            effects.readings = readings.rows.len() as u64;
            content.readings = Some(Table::new("charges", readings));
        }
    }
    Ok(Some(Removal { content, row, effects }))
}

/// Deletes the record in this transaction, after everything that goes has been read.
pub(super) async fn remove(work: &Work<'_>, record: Record, id: i32, origin: &Origin) -> Result<Option<Removal>> {
    let Some(removal) = look(work, record, id, origin).await? else { return Ok(None) };
    let statement = format!("DELETE FROM public.{} WHERE id OPERATOR(pg_catalog.=) {id}", record.table());
    let count = work.write(&statement).await.explain(format!("cannot delete {} {id}", record.noun()))?;
    if count != 1 {
        let message = format!("deleting {} {id} would remove {count} rows instead of one", record.noun());
        return Err(Error::new(Kind::Verify, message)
            .with("state", "nothing was changed")
            .hint("A rule or trigger on the table changes deletions: see `\\d+` in psql."));
    }
    refuse_left_behind(work, record, id).await?;
    Ok(Some(removal))
}

/// Foreign keys unlink the positions and delete the readings, unless the role's settings keep them from it
/// (`session_replication_role`).
async fn refuse_left_behind(work: &Work<'_>, record: Record, id: i32) -> Result<()> {
    let (table, column) = match record {
        Record::Drive => ("positions", "drive_id"),
        Record::Charge => ("charges", "charging_process_id"),
    };
    let query = format!("SELECT count(*) FROM public.{table} WHERE {column} = $1");
    let left: i64 = work.query_one(&query, &[&id]).await.explain("cannot look for rows left behind")?.get(0);
    if left == 0 {
        return Ok(());
    }
    let message =
        format!("deleting {} {id} would leave {left} rows of public.{table} behind that belong to it", record.noun());
    Err(Error::new(Kind::Verify, message)
        .with("cause", "the foreign key did not act")
        .with("state", "nothing was changed")
        .hint("Look at `\\d public.drives` and at `SHOW session_replication_role` in psql, as the role that this works as."))
}

/// Puts the rows on the disk, then commits. If the commit fails for certain, the file goes again.
pub(super) async fn finish(env: &Env, transaction: Work<'_>, removal: &Removal) -> Result<std::path::PathBuf> {
    let content = &removal.content;
    let saved = saved::write(content, &env.settings.state_dir)?;
    let what = format!("{} {}", content.record.noun(), content.id);
    match session::commit(transaction, &what).await {
        Ok(()) => Ok(saved.keep()),
        // The rows may be gone: then the file is all there is.
        Err(error) if error.kind() == Kind::Attention => Err(error.with("rows", saved.keep().display())),
        Err(error) => Err(error),
    }
}

/// Tables of others that refer to the record: what they would lose is not in the file, so nothing is deleted.
pub(super) async fn refuse_foreign_references(transaction: &Transaction<'_>, record: Record, id: i32) -> Result<()> {
    let known = match record {
        Record::Drive => "positions",
        Record::Charge => "charges",
    };
    let what = "cannot look for tables that refer to the record";
    let rows = transaction
        .query(
            "SELECT n.nspname::text, c.relname::text, a.attname::text FROM pg_constraint k \
             JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1] \
             JOIN pg_class target ON target.oid = k.confrelid \
             JOIN pg_namespace place ON place.oid = target.relnamespace \
             WHERE k.contype = 'f' AND k.conparentid = 0 AND cardinality(k.conkey) = 1 \
               AND place.nspname = 'public' AND target.relname = $1 \
               AND NOT (n.nspname = 'public' AND c.relname = $2)",
            &[&record.table(), &known],
        )
        .await
        .explain(what)?;
    for row in &rows {
        let (schema, table, column): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let query =
            format!("SELECT count(*) FROM {}.{} WHERE {} = $1::bigint", ident(&schema), ident(&table), ident(&column));
        let count: i64 = transaction.query_one(&query, &[&i64::from(id)]).await.explain(what)?.get(0);
        if count > 0 {
            let message = format!("{} {id} is referred to by {count} rows of {schema}.{table}", record.noun());
            return Err(Error::new(Kind::Refused, message)
                .with("cause", "that table is not TeslaMate's own; its rows could not be put back")
                .with("state", "nothing was changed")
                .hint(format!("Delete the rows of {schema}.{table} first.")));
        }
    }
    Ok(())
}
