//! Closing records: which way, which ones, and each on its own.
//!
//! Two ways lead to the same rows. `rpc` asks the running `TeslaMate`, which also looks addresses up; `sql` computes
//! the same in the database (`docs/closing.md`), for when the service is down. What would be deleted instead of closed
//! is decided in SQL before either goes to work, so neither deletes unasked.

mod by_rpc;
mod by_sql;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Transaction;

use super::outcome::{Outcome, each};
use super::rows::{Change, Rows, compare};
use super::rpc::Rpc;
use super::session::Session;
use super::{Record, open};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::process;
use crate::service::State;

/// The way that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// `rpc` if the service runs and its executable is known, else `sql`.
    Auto,
    /// Through the running application.
    Rpc,
    /// In the database.
    Sql,
}

/// The records that are meant.
#[derive(Clone, Debug)]
pub enum Target {
    /// These, each once.
    Ids(Vec<i32>),
    /// Every one that is open, if it began at least this long ago.
    AllOpen {
        /// The least age.
        older_than: Option<Duration>,
    },
}

/// What is to be closed, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Drives or charges.
    pub record: Record,
    /// Which ones.
    pub target: Target,
    /// Which way.
    pub via: Via,
    /// Show what would happen.
    pub dry_run: bool,
    /// Delete a drive that is none, without asking.
    pub allow_delete: bool,
}

/// What was done.
#[derive(Debug)]
pub struct Closed {
    /// `rpc` or `sql`.
    pub via: &'static str,
    /// Why that way.
    pub why: String,
    /// One for each record.
    pub outcomes: Vec<Outcome>,
}

/// The way that is taken.
enum Route {
    Rpc(Rpc),
    Sql,
}

/// Closes records, each in a transaction of its own.
pub async fn run(env: &Env, plan: &Plan) -> Result<Closed> {
    let (route, why) = choose(env, plan).await?;
    let via = match &route {
        Route::Rpc(_) => "rpc",
        Route::Sql => "sql",
    };
    env.reporter.info(&format!("closing by {via}: {why}"));
    let mut session = Session::open(env).await?;
    let ids = match &plan.target {
        Target::Ids(ids) => ids.clone(),
        Target::AllOpen { older_than } => open::ids(&session, plan.record, *older_than).await?,
    };
    let outcomes = each(&ids, async |id| match &route {
        Route::Rpc(rpc) => by_rpc::close(env, &mut session, plan, rpc, id).await,
        Route::Sql => by_sql::close(env, &mut session, plan, id).await,
    })
    .await;
    Ok(Closed { via, why, outcomes })
}

/// Decides the way, and says why.
async fn choose(env: &Env, plan: &Plan) -> Result<(Route, String)> {
    if plan.dry_run {
        return Ok((Route::Sql, "a dry run computes in the database and changes nothing".into()));
    }
    let unit = &env.settings.service.unit;
    let state = env.host.service_state().await?;
    let executable = executable(env);
    let rpc = |executable: &Path| {
        Route::Rpc(Rpc { executable: executable.to_owned(), cookie: env.settings.release_cookie.clone() })
    };
    match (plan.via, state, executable) {
        (Via::Sql, state, _) => {
            if state.is_at_work() {
                env.reporter.warn(&format!("{unit} is running: it may go on recording into a {}", plan.record.noun()));
            }
            Ok((Route::Sql, "--via sql".into()))
        }
        (Via::Rpc, State::Inactive | State::Waiting | State::Ending, _) => {
            Err(Error::new(Kind::Refused, format!("{unit} is not running, and rpc needs it"))
                .with("state", "nothing was changed")
                .hint(format!("systemctl start {unit}"))
                .hint("Or close it in the database: --via sql"))
        }
        (Via::Rpc, _, Err(why)) => Err(Error::new(Kind::Usage, format!("rpc needs TeslaMate's executable: {why}"))
            .with("state", "nothing was changed")
            .hint("Set `service.executable` to TeslaMate's release script, or close it in the database: --via sql")),
        (Via::Rpc, _, Ok(path)) => Ok((rpc(&path), "--via rpc".into())),
        (Via::Auto, State::Active, Ok(path)) => Ok((rpc(&path), format!("{unit} is running"))),
        (Via::Auto, State::Active, Err(why)) => Ok((Route::Sql, format!("{unit} is running, but {why}"))),
        (Via::Auto, State::Waiting, _) => Ok((Route::Sql, format!("{unit} is between two starts"))),
        (Via::Auto, State::Ending, _) => Ok((Route::Sql, format!("{unit} is going down"))),
        (Via::Auto, State::Inactive, _) => Ok((Route::Sql, format!("{unit} is not running"))),
        (Via::Auto, State::Missing, _) => Ok((Route::Sql, format!("there is no {unit} here"))),
    }
}

/// `TeslaMate`'s executable, or why there is none.
fn executable(env: &Env) -> std::result::Result<PathBuf, String> {
    let path = env.settings.service.executable.clone().ok_or("`service.executable` is not set")?;
    if process::is_executable(&path) {
        return Ok(path);
    }
    Err(format!("{} is not a file that this account may execute", path.display()))
}

/// The record's row and its car, at one moment.
struct Picture {
    row: Rows,
    car: Rows,
}

impl Picture {
    async fn take(transaction: &Transaction<'_>, record: Record, id: i32) -> Result<Self> {
        let query = format!("SELECT * FROM public.{} WHERE id = {id}", record.table());
        let row = Rows::read(transaction, &query, &format!("{} {id}", record.noun())).await?;
        Self::with_car(transaction, row).await
    }

    /// With a row that is known already.
    async fn with_car(transaction: &Transaction<'_>, row: Rows) -> Result<Self> {
        let car = match row.first("car_id").and_then(|id| id.parse::<i16>().ok()) {
            Some(id) => {
                let query = format!("SELECT efficiency, updated_at FROM public.cars WHERE id = {id}");
                Rows::read(transaction, &query, &format!("car {id}")).await?
            }
            None => Rows::default(),
        };
        Ok(Self { row, car })
    }

    fn exists(&self) -> bool {
        !self.row.rows.is_empty()
    }

    fn is_open(&self) -> bool {
        self.row.first("end_date").is_none()
    }

    fn car_id(&self) -> i32 {
        self.row.first("car_id").and_then(|id| id.parse().ok()).unwrap_or(0)
    }
}

/// Fills in what differs between two pictures, and what ought to be known about that.
fn describe(outcome: &mut Outcome, session: &Session, record: Record, before: &Picture, after: &Picture) {
    outcome.row = compare(&session.catalog, record.table(), &before.row, &after.row);
    outcome.elsewhere = compare(&session.catalog, "cars", &before.car, &after.car)
        .into_iter()
        .filter(Change::changed)
        .map(|change| Change { column: format!("cars.{}", change.column), ..change })
        .collect();
    let cost = outcome.row.iter().find(|change| change.column == "cost");
    if let Some(Change { before: Some(before), after, .. }) = cost.filter(|change| change.changed()) {
        let after = after.as_deref().unwrap_or("null");
        outcome.notes.push(format!("the cost of {before} that was there, typed in or computed, gives way to {after}"));
    }
}

/// The refusal to close what closing would delete.
fn would_delete(id: i32, reason: &str) -> Error {
    Error::new(Kind::Refused, format!("closing drive {id} would delete it: {reason}"))
        .with("state", "nothing was changed")
        .hint(format!("See the whole row first: teslamate-close-drive --dry-run {id}"))
        .hint(format!(
            "To have it deleted (its row is saved to a file first): teslamate-close-drive --allow-delete {id}"
        ))
}

/// Whether a drive that is none may be deleted: by flag, or by a person at the terminal.
async fn may_delete(env: &Env, plan: &Plan, id: i32, reason: &str) -> Result<()> {
    if plan.allow_delete {
        return Ok(());
    }
    let question = format!(
        "Closing drive {id} deletes it: {reason}. Its positions stay, and its row is saved to a file first.\n\
         Type yes to delete drive {id}: "
    );
    match env.interrupt.guard(env.host.ask(&question)).await? {
        Some(answer) if answer.trim() == "yes" || answer.trim() == id.to_string() => Ok(()),
        _ => Err(would_delete(id, reason)),
    }
}

/// How a drive that was deleted comes back, for the report.
fn undo_note(path: &Path) -> String {
    format!("to put it back: teslamate-delete-drive --undo {}", path.display())
}
