//! Sessions that execute a dump's statements: one statement per message of the extended protocol, so that the server
//! itself refuses a second one in it, whatever the scanner took for its end.
//!
//! Source: PostgreSQL documentation, "Message Flow", "Extended Query": a query string that holds more than one statement
//! is refused by Parse.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::future::maybe_done;
use tokio::sync::{Mutex, mpsc};
use tokio_postgres::Client;

use super::authorization::AUTHORIZATION;
use super::failure::Failed;
use super::lost::LostPrivileges;
use super::raw;
use super::stream::{Piece, Statement};
use crate::database::application_settings::is_seen;
use crate::database::connect::{PrivilegeWarnings, QueryContext};
use crate::database::{Connector, Setting, literal};
use crate::error::Result;
use crate::progress::Reporter;
use crate::restore::generated;

/// Settings that the text has made so far, each by its last statement.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    statements: BTreeMap<String, (u64, Arc<Statement>)>,
    /// How many there were.
    count: u64,
    /// The encoding that the text declares.
    encoding: Option<Arc<str>>,
}

impl Settings {
    /// The setting that a statement changes.
    pub(super) fn key(statement: &Statement) -> Option<String> {
        let words: Vec<&str> = statement.words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["SET" | "RESET", "SESSION", "AUTHORIZATION", ..] => Some(AUTHORIZATION.to_owned()),
            ["SET", name, ..] => Some((*name).to_owned()),
            ["SELECT", "PG_CATALOG", "SET_CONFIG", ..] => Some("SEARCH_PATH".to_owned()),
            _ => None,
        }
    }

    /// Those that expressions see.
    pub(super) fn seen(&self) -> impl Iterator<Item = (&String, &Arc<Statement>)> {
        let mut seen: Vec<_> = self.statements.iter().filter(|(key, _)| is_seen(key)).collect();
        seen.sort_by_key(|(_, (number, _))| *number);
        seen.into_iter().map(|(key, (_, statement))| (key, statement))
    }

    /// Remembers a statement for the sessions that come to need it.
    pub(super) fn add(&mut self, key: String, statement: impl Into<Arc<Statement>>) {
        self.count += 1;
        self.statements.insert(key, (self.count, statement.into()));
    }

    /// Whether the text has made a setting.
    pub(super) fn is_made(&self, key: &str) -> bool {
        self.statements.contains_key(key)
    }

    /// Whether a setting was last made by the same words.
    pub(super) fn has(&self, key: &str, statement: &Statement) -> bool {
        self.statements.get(key).is_some_and(|(_, made)| made.text == statement.text)
    }

    /// The encoding of the rows and statements from here on.
    pub(super) fn declare(&mut self, encoding: &str) {
        self.encoding = Some(encoding.into());
    }

    fn is_utf8(&self) -> bool {
        self.encoding.as_deref().is_none_or(|encoding| matches!(encoding, "UTF8" | "UTF-8" | "UNICODE"))
    }
}

/// Rows of one COPY, shared by all sessions that load them.
pub(super) type Rows = Arc<Mutex<mpsc::Receiver<Piece>>>;

/// A session in the staging database.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    /// How many of the settings it has.
    settings: u64,
    warnings: PrivilegeWarnings,
    lost: LostPrivileges,
    /// It never acts as another role.
    is_plain: bool,
}

impl Session {
    /// Connects; nothing in a load waits for the disk, since the swap does. `memory` is for building indexes, in kB.
    pub(super) async fn open(
        connector: &Connector,
        database: &str,
        application: &[Setting],
        memory: u64,
        lost: &LostPrivileges,
    ) -> Result<Self> {
        let warnings = PrivilegeWarnings::default();
        let client = connector.with_warnings(&warnings).connect_to_load(database, application).await?;
        let sql =
            format!("SET synchronous_commit = off; SET maintenance_work_mem = '{memory}kB'; SET row_security = off");
        client.batch_execute(&sql).await.query_context("cannot prepare a session to load into")?;
        Ok(Self { client, settings: 0, warnings, lost: lost.clone(), is_plain: false })
    }

    /// One that leaves `SET SESSION AUTHORIZATION` out.
    pub(super) fn plain(self, is_plain: bool) -> Self {
        Self { is_plain, ..self }
    }

    /// Sets what the application works with once more, and tells what this server does not know: it is too late for what was computed
    /// already, and early enough for what comes.
    pub(super) async fn adopt_application(&self, application: &[Setting], reporter: &Reporter) -> Result<()> {
        for (name, value) in crate::database::application_settings::refused(&self.client, application).await? {
            reporter.warn(&format!(
                "this server does not know {name} = {value:?}, which the application worked with: generated columns, materialized views and \
                 indexes that depend on it may come out differently"
            ));
        }
        Ok(())
    }

    /// Computes generated columns again whose functions may read other tables.
    pub(super) async fn compute_again(&self, reporter: &Reporter) -> Result<()> {
        generated::compute_again(&self.client, reporter).await
    }

    /// Whether the server knows a setting.
    pub(super) async fn knows_setting(&self, name: &str) -> Result<bool> {
        self.is_true("SELECT pg_catalog.current_setting($1, true) IS NOT NULL", name).await
    }

    /// Whether the server has a function of its own with this name.
    pub(super) async fn knows_function(&self, name: &str) -> Result<bool> {
        self.is_true("SELECT EXISTS (SELECT FROM pg_catalog.pg_proc WHERE proname = $1 AND oid < 16384)", name).await
    }

    async fn is_true(&self, sql: &str, name: &str) -> Result<bool> {
        let row = self.client.query_one(sql, &[&name]).await.query_context("cannot ask what the server knows")?;
        Ok(row.get(0))
    }

    /// Executes a statement of our own.
    pub(super) async fn command(&self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.query_context("cannot load")
    }

    /// Makes the settings that it does not have yet.
    pub(super) async fn adopt(&mut self, settings: &Settings) -> std::result::Result<(), Failed> {
        let is_missing = |(key, (number, _)): &(&String, &(u64, Arc<Statement>))| {
            *number > self.settings && !(self.is_plain && key.as_str() == AUTHORIZATION)
        };
        let mut missing: Vec<_> =
            settings.statements.iter().filter(is_missing).map(|(_, statement)| statement.clone()).collect();
        missing.sort_by_key(|(number, _)| *number);
        for (_, statement) in missing {
            self.execute(&statement, settings).await?;
        }
        self.settings = settings.count;
        Ok(())
    }

    /// Executes a statement of the dump.
    pub(super) async fn execute(&self, statement: &Statement, settings: &Settings) -> std::result::Result<(), Failed> {
        let text = self.text(statement, settings).await?;
        let done = match &text {
            Some(text) => self.client.execute_typed(text, &[]).await.map(drop),
            None => raw::execute(&self.client, &statement.text).await,
        };
        self.lost.judge(statement, &self.warnings.take(), done).map_err(|cause| Failed::at(statement, cause))
    }

    /// Executes statements of the dump one after the other, without waiting for one before the next is sent.
    pub(super) async fn execute_all(
        &self,
        statements: &[Statement],
        settings: &Settings,
    ) -> std::result::Result<(), Failed> {
        let mut texts = Vec::with_capacity(statements.len());
        for statement in statements {
            texts.push(self.text(statement, settings).await?);
        }
        if texts.iter().any(Option::is_none) {
            for statement in statements {
                self.execute(statement, settings).await?;
            }
            return Ok(());
        }
        let mut sent: Vec<_> =
            texts.iter().flatten().map(|text| Box::pin(maybe_done(self.client.execute_typed(text, &[])))).collect();
        // A statement is sent when its future is first polled.
        for one in &mut sent {
            poll_fn(|context| Poll::Ready(one.as_mut().poll(context).is_ready())).await;
        }
        let mut done = Vec::with_capacity(sent.len());
        for mut one in sent {
            one.as_mut().await;
            done.extend(one.as_mut().take_output());
        }
        match done.into_iter().zip(statements).find_map(|(done, statement)| Some((done.err()?, statement))) {
            Some((cause, statement)) => Err(Failed::at(statement, cause)),
            None => Ok(()),
        }
    }

    /// A statement in UTF-8, or `None` if its encoding is not known and it is not UTF-8.
    async fn text(&self, statement: &Statement, settings: &Settings) -> std::result::Result<Option<String>, Failed> {
        let encoding = settings.encoding.as_deref().unwrap_or("UTF8");
        if settings.is_utf8() || encoding == "SQL_ASCII" || statement.text.is_ascii() {
            return Ok(String::from_utf8(statement.text.clone()).ok());
        }
        let sql = "SELECT pg_catalog.convert($1, $2::text::name, 'UTF8')";
        let row = self.client.query_one(sql, &[&statement.text, &encoding]).await;
        let bytes: Vec<u8> = row.map_err(|cause| Failed::at(statement, cause))?.get(0);
        Ok(String::from_utf8(bytes).ok())
    }

    /// Loads rows of a COPY, as long as there are any.
    pub(super) async fn copy(
        &mut self,
        statement: &Statement,
        rows: &Rows,
        settings: &Settings,
    ) -> std::result::Result<(), Failed> {
        self.adopt(settings).await?;
        let text = self.text(statement, settings).await?;
        let failed = |cause| Failed::at(statement, cause);
        if text.is_none() {
            raw::begin_copy(&self.client, &statement.text).await.map_err(failed)?;
        }
        let target = text.as_deref().unwrap_or(raw::COPY);
        let target = match settings.encoding.as_deref().filter(|_| !settings.is_utf8()) {
            // The statement is in UTF-8, the rows are as they were in the dump.
            Some(encoding) => format!("{} WITH (ENCODING {})", target.trim_end_matches(';'), literal(encoding)),
            None => target.to_owned(),
        };
        self.copy_rows(statement, &target, rows).await?;
        if text.is_none() {
            raw::end_copy(&self.client, &statement.text).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn copy_rows(&self, statement: &Statement, target: &str, rows: &Rows) -> std::result::Result<(), Failed> {
        let mut begins = Vec::new();
        let mut sent = 0;
        let copying = async {
            let mut sink = Box::pin(self.client.copy_in::<_, Bytes>(target).await?);
            loop {
                let piece = rows.lock().await.recv().await;
                let Some(Piece { bytes, line }) = piece else { return sink.as_mut().finish().await };
                begins.push((sent, line));
                sent += memchr::memchr_iter(b'\n', &bytes).count() as u64;
                sink.send(bytes).await?;
            }
        };
        match copying.await {
            Ok(_) => Ok(()),
            Err(cause) => Err(Failed::in_rows(statement, &begins, cause)),
        }
    }
}
