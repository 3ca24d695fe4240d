//! A connection that holds the lock, its transactions, and what a failed query means here.

use std::fmt::Display;
use std::ops::Deref;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::Record;
use super::catalog::Catalog;
use super::rows::Rows;
use crate::database::connect::chain;
use crate::database::lock::{Lock, Purpose};
use crate::database::session_settings::Both;
use crate::database::{ident, literal};
use crate::env::Env;
use crate::error::{Error, Kind, Result};

/// How long another session's lock is waited for.
const SETTINGS: &str = "SET lock_timeout = '5s'";

/// A connection to the database whose records are worked on.
pub struct Session {
    /// The connection.
    pub client: Client,
    /// Our settings, and the application's.
    pub both: Both,
    /// The tables' columns.
    pub catalog: Catalog,
    /// The database's name.
    pub database: String,
    /// The cluster's identifier; `None` where the role may not read it.
    pub system_identifier: Option<String>,
    // Ends with the session; a restore must not swap the database away under a transaction.
    _lock: Lock,
}

impl Session {
    /// Takes the lock, connects, and checks that this is `TeslaMate`'s database.
    pub async fn open(env: &Env) -> Result<Self> {
        let lock = Lock::take(&env.connector, Purpose::Maintenance).await?;
        let (client, mut both) = env.connector.connect_as_application().await?;
        client.batch_execute(SETTINGS).await.explain("cannot prepare the session")?;
        let database = env.connector.database_name().to_owned();
        let catalog = Catalog::read(&client, &database).await?;
        if catalog.has_policies(&client).await? {
            both.see_functions();
        }
        let query = "SELECT system_identifier::text FROM pg_control_system()";
        let system_identifier = client.query_one(query, &[]).await.ok().map(|row| row.get(0));
        Ok(Self { client, both, catalog, database, system_identifier, _lock: lock })
    }
}

/// A transaction that sees one state of the database throughout. It reads with our settings, and writes with those of
/// the application: triggers, constraints and defaults find what they find when the application writes.
pub struct Work<'a> {
    transaction: Transaction<'a>,
    both: &'a Both,
}

impl<'a> Deref for Work<'a> {
    type Target = Transaction<'a>;

    fn deref(&self) -> &Self::Target {
        &self.transaction
    }
}

/// Begins it.
pub async fn begin<'a>(client: &'a mut Client, both: &'a Both) -> Result<Work<'a>> {
    let builder = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(false);
    let transaction = builder.start().await.explain("cannot begin a transaction")?;
    let work = Work { transaction, both };
    work.batch_execute(&both.own()).await.explain("cannot prepare a transaction")?;
    Ok(work)
}

impl Work<'_> {
    /// Our own settings again, after a statement that needed others.
    pub async fn own_settings(&self) -> std::result::Result<(), tokio_postgres::Error> {
        self.batch_execute(&self.both.own()).await
    }

    /// Runs a statement with the application's settings and returns how many rows it wrote. Since it may find the
    /// application's functions and operators first, it names none without `pg_catalog`.
    pub async fn write(&self, statement: &str) -> std::result::Result<u64, tokio_postgres::Error> {
        self.batch_execute(&self.both.application()).await?;
        let count = self.execute(statement, &[]).await?;
        self.own_settings().await?;
        Ok(count)
    }

    /// Writes into the row with this id what a query computes, column by column. The query runs with our settings; its
    /// columns have the names of the table's.
    pub async fn update(
        &self,
        table: &str,
        id: i32,
        computed: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> std::result::Result<(), tokio_postgres::Error> {
        let prepared = self.prepare(computed).await?;
        let names: Vec<&str> = prepared.columns().iter().map(tokio_postgres::Column::name).collect();
        let types = "SELECT coalesce(format_type(a.atttypid, a.atttypmod), 'text') \
                     FROM unnest($1::text[]) WITH ORDINALITY n (name, place) LEFT JOIN pg_attribute a \
                       ON a.attrelid = to_regclass('public.' || quote_ident($2)) AND a.attname = n.name ORDER BY n.place";
        let types = self.query(types, &[&names, &table]).await?;
        let texts: Vec<String> = names
            .iter()
            .zip(&types)
            .map(|(name, row)| format!("x.{}::{}::text", ident(name), row.get::<_, &str>(0)))
            .collect();
        let query = format!("SELECT {} FROM ({computed}) x", texts.join(", "));
        let Some(row) = self.query_opt(&query, parameters).await? else { return Ok(()) };
        let value = |at: usize| row.get::<_, Option<&str>>(at).map_or_else(|| "NULL".to_owned(), literal);
        let pairs: Vec<String> =
            names.iter().enumerate().map(|(at, name)| format!("{} = {}", ident(name), value(at))).collect();
        let statement =
            format!("UPDATE public.{} SET {} WHERE id OPERATOR(pg_catalog.=) {id}", ident(table), pairs.join(", "));
        self.write(&statement).await.map(drop)
    }
}

/// A record's row, locked against every other writer until the transaction ends.
///
/// # Errors
/// [`Kind::Busy`] if another session holds it for longer than the lock's time limit.
pub async fn lock(transaction: &Transaction<'_>, record: Record, id: i32) -> Result<Option<Rows>> {
    let what = format!("{} {id}", record.noun());
    let query = format!("SELECT * FROM public.{} WHERE id = {id} FOR UPDATE", record.table());
    let rows = Rows::read(transaction, &query, &what).await.map_err(|error| match error.kind() {
        Kind::Busy => error.hint(format!(
            "Another session is at work on {what}; `SELECT * FROM pg_stat_activity` shows who. Try again."
        )),
        _ => error,
    })?;
    Ok((!rows.rows.is_empty()).then_some(rows))
}

/// Commits. The server's refusal means that nothing was changed; its silence does not tell.
pub async fn commit(work: Work<'_>, what: &str) -> Result<()> {
    // Constraints and triggers that were deferred fire now.
    work.batch_execute(&work.both.application()).await.explain(format!("cannot commit the change of {what}"))?;
    work.transaction.commit().await.map_err(|cause| {
        if cause.as_db_error().is_some() {
            return classify(&cause, format!("cannot commit the change of {what}"));
        }
        Error::new(Kind::Attention, format!("the connection broke while the change of {what} was being committed"))
            .with("cause", chain(&cause))
            .with("state", format!("whether {what} was changed is not known; it was changed whole or not at all"))
            .hint("Run the same command with `--dry-run`: it shows the row as it is now.")
    })
}

/// Rolls back, where nothing was to be changed. What fails here changes nothing either: the server does it by itself.
pub async fn rollback(work: Work<'_>) {
    drop(work.transaction.rollback().await);
}

/// Turns a failed query into an [`Error`] whose state is that nothing was changed: every change is in a transaction.
pub trait Explain<T> {
    /// `what` failed.
    fn explain(self, what: impl Display) -> Result<T>;
}

impl<T> Explain<T> for std::result::Result<T, tokio_postgres::Error> {
    fn explain(self, what: impl Display) -> Result<T> {
        self.map_err(|cause| classify(&cause, what))
    }
}

fn classify(cause: &tokio_postgres::Error, what: impl Display) -> Error {
    let code = cause.code().cloned();
    let is = |known: &[&SqlState]| code.as_ref().is_some_and(|code| known.contains(&code));
    let (kind, hint) = if is(&[&SqlState::LOCK_NOT_AVAILABLE]) {
        (Kind::Busy, None)
    } else if is(&[&SqlState::T_R_SERIALIZATION_FAILURE, &SqlState::T_R_DEADLOCK_DETECTED]) {
        (Kind::Busy, Some("Another session changed the same rows meanwhile. Try again."))
    } else if is(&[&SqlState::INSUFFICIENT_PRIVILEGE]) {
        (Kind::Refused, Some("Work as the role that owns the tables: set DATABASE_USER."))
    } else if is(&[&SqlState::READ_ONLY_SQL_TRANSACTION]) {
        (Kind::Refused, Some("This server only reads (a standby?): work on the one that TeslaMate writes to."))
    } else if is(&[&SqlState::NUMERIC_VALUE_OUT_OF_RANGE]) {
        (Kind::Refused, Some("A value does not fit its column: look at the record's dates and readings."))
    } else if cause.as_db_error().is_some_and(|answer| answer.code().code().starts_with("23")) {
        (Kind::Refused, None)
    } else {
        (Kind::Source, None)
    };
    let error = Error::new(kind, what.to_string()).with("cause", chain(cause)).with("state", "nothing was changed");
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
