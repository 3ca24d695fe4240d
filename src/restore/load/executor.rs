//! Executes the statements of a dump and loads its rows, on several sessions.
//!
//! Statements are executed in their order, one after the other, but for those that build indexes and check constraints:
//! these run beside each other as far as they lock different tables. Rows of a COPY go to any session that is free; those
//! of a big table to all of them. With one job, everything has the order of the dump.

mod copy;
mod sections;
mod settings;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};

use super::access::Access;
use super::authorization::Denied;
use super::failure::Failed;
use super::held::Held;
use super::lost::LostPrivileges;
use super::role::LoadRole;
use super::session::{Session, Settings};
use super::stream::{Item, Statement};
use crate::database::{Connector, Setting};
use crate::dump::source::Source;
use crate::error::{Context, Error, Kind, Result};
use crate::progress::Reporter;

/// Statements that wait for a session or a table.
const WAITING: usize = 512;

/// Statements that are sent without waiting for their results, and their bytes.
const BATCH: (usize, usize) = (256, 1 << 20);

/// Statements in one transaction: each table that is written to takes a lock.
const TRANSACTION: usize = 4096;

/// Where to load, and how.
pub(super) struct Target<'a> {
    pub(super) connector: &'a Connector,
    /// The role of our own that loads, which leaves something to the superuser.
    pub(super) role: Option<&'a LoadRole>,
    pub(super) database: &'a str,
    pub(super) source: &'a Source,
    /// Settings of the application that expressions see.
    pub(super) application: &'a [Setting],
    /// Memory for building indexes, in kB, for each session.
    pub(super) memory: u64,
    /// Sessions beside the first one.
    pub(super) jobs: usize,
    /// The section of the archive; `None` if the text holds all of them.
    pub(super) section: Option<&'static str>,
    /// Tables are loaded without what belongs to them.
    pub(super) partial: bool,
    /// Says what does not come out as it was.
    pub(super) reporter: &'a Reporter,
    /// Takes the privileges that statements did not give or take away.
    pub(super) lost: &'a LostPrivileges,
    /// Keeps the privileges of an archive until they are due.
    pub(super) held: &'a Held,
}

/// Executes what comes out of a stream.
pub(super) struct Executor<'a> {
    pub(super) target: Target<'a>,
    /// Executes what is not shared out.
    pub(super) main: Session,
    /// The others that are free.
    idle: Vec<Session>,
    opened: usize,
    running: JoinSet<std::result::Result<Session, Failed>>,
    /// Tables that running statements lock; rows that are being loaded have none here.
    locked: HashMap<Id, Access>,
    waiting: VecDeque<(Statement, Access)>,
    /// Event triggers, which come last: they would act on what follows them. Each with the settings that stood before it.
    last: Vec<(Statement, Arc<Settings>)>,
    pub(super) settings: Arc<Settings>,
    /// Those under which the last rows were loaded.
    of_rows: Arc<Settings>,
    /// Functions for the planner's statistics that the text calls, and whether the server has them.
    statistics: HashMap<String, bool>,
    batch: Vec<Statement>,
    batch_bytes: usize,
    /// Statements in the open transaction; `None` if there is none.
    transaction: Option<usize>,
    /// A large object is open, which ends with the transaction.
    is_object_open: bool,
    section: &'static str,
    /// Generated columns of a plain text were computed.
    is_computed: bool,
    /// The role that the session could not act as.
    pub(super) denied: Option<Denied>,
    /// The text acts as another role, which is left to the superuser.
    is_other: bool,
}

impl<'a> Executor<'a> {
    pub(super) async fn new(target: Target<'a>) -> Result<Self> {
        let Target { connector, database, application, memory, lost, .. } = target;
        let main = Session::open(connector, database, application, memory, lost).await?.plain(target.role.is_some());
        if target.section == Some("post-data") {
            main.adopt_application(application, target.reporter).await?;
        }
        Ok(Self {
            main,
            idle: Vec::new(),
            opened: 0,
            running: JoinSet::new(),
            locked: HashMap::new(),
            waiting: VecDeque::new(),
            last: Vec::new(),
            settings: Arc::default(),
            of_rows: Arc::default(),
            statistics: HashMap::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            transaction: None,
            is_object_open: false,
            section: target.section.unwrap_or("pre-data"),
            is_computed: false,
            denied: None,
            is_other: false,
            target,
        })
    }

    /// Executes everything, to the end of the stream.
    pub(super) async fn run(mut self, mut items: mpsc::Receiver<Item>) -> Result<()> {
        while let Some(item) = items.recv().await {
            match item {
                Item::Statement(statement) => self.statement(statement).await?,
                Item::Copy(statement) => self.copy(statement, &mut items).await?,
                Item::Piece(_) | Item::EndOfRows => return Err(out_of_step()),
            }
        }
        self.end_transaction().await?;
        self.end_of_rows().await?;
        self.give_privileges().await?;
        self.drain().await?;
        let last = std::mem::take(&mut self.last);
        if last.is_empty() {
            return Ok(());
        }
        // One that goes through the settings again: the owner of an event trigger is who makes it.
        let mut session = self.open().await?;
        for (statement, settings) in last {
            session.adopt(&settings).await.map_err(|failed| self.explain(failed))?;
            session.execute(&statement, &settings).await.map_err(|failed| self.explain(failed))?;
        }
        Ok(())
    }

    async fn statement(&mut self, statement: Statement) -> Result<()> {
        if self.is_left_to_the_superuser(&statement)? {
            return Ok(());
        }
        let Some(statement) = self.target.held.keep(self.target.section, statement) else { return Ok(()) };
        if let Some(key) = Settings::key(&statement) {
            return self.set(key, statement).await;
        }
        self.check_authorization(&statement)?;
        self.enter_section(&statement).await?;
        if self.section == "post-data" {
            self.end_of_rows().await?;
        }
        if is_event_trigger(&statement) {
            self.last.push((statement, self.settings.clone()));
            return Ok(());
        }
        if statement.begins(&["REFRESH"]) {
            // It is filled with the rights of its owner.
            self.give_privileges().await?;
        }
        if !is_row(&statement) {
            return self.execute(statement).await;
        }
        if statement.begins(&["INSERT"]) {
            self.of_rows = self.settings.clone();
        }
        if self.has_statistics_for(&statement).await? { self.add_to_batch(statement).await } else { Ok(()) }
    }

    async fn execute(&mut self, statement: Statement) -> Result<()> {
        self.end_transaction().await?;
        let Some(access) = Access::of(&statement) else {
            self.drain().await?;
            return self.main.execute(&statement, &self.settings).await.map_err(|failed| self.explain(failed));
        };
        if self.locked.len() < self.running.len() {
            // Rows are still being loaded.
            self.drain().await?;
        }
        self.waiting.push_back((statement, access));
        self.dispatch().await?;
        while self.waiting.len() >= WAITING {
            self.join().await?;
            self.dispatch().await?;
        }
        Ok(())
    }

    async fn add_to_batch(&mut self, statement: Statement) -> Result<()> {
        self.drain().await?;
        self.batch_bytes += statement.text.len();
        self.batch.push(statement);
        if self.batch.len() >= BATCH.0 || self.batch_bytes >= BATCH.1 {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends the statements that were kept back, in a transaction.
    async fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        if self.transaction.is_none() {
            self.main.command("BEGIN").await?;
        }
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.main.execute_all(&batch, &self.settings).await.map_err(|failed| self.explain(failed))?;
        for statement in &batch {
            let is =
                |word: &str| statement.begins(&["SELECT", "PG_CATALOG", word]) || statement.begins(&["SELECT", word]);
            self.is_object_open = is("LO_OPEN") || (self.is_object_open && !is("LO_CLOSE"));
        }
        let count = self.transaction.unwrap_or(0) + batch.len();
        self.transaction = Some(count);
        if count >= TRANSACTION && !self.is_object_open {
            self.commit().await?;
        }
        Ok(())
    }

    async fn end_transaction(&mut self) -> Result<()> {
        self.flush().await?;
        self.commit().await
    }

    async fn commit(&mut self) -> Result<()> {
        if self.transaction.take().is_some() {
            self.is_object_open = false;
            self.main.command("COMMIT").await?;
        }
        Ok(())
    }

    /// Begins every waiting statement that has a session and whose tables are free.
    async fn dispatch(&mut self) -> Result<()> {
        self.reap()?;
        while let Some(at) = self.next_statement() {
            let Some(mut session) = self.free_session().await? else { return Ok(()) };
            let Some((statement, access)) = self.waiting.remove(at) else { return Ok(()) };
            let settings = self.settings.clone();
            let task = self.running.spawn(async move {
                session.adopt(&settings).await?;
                session.execute(&statement, &settings).await?;
                Ok(session)
            });
            self.locked.insert(task.id(), access);
        }
        Ok(())
    }

    /// The first waiting statement that no running one, and no earlier waiting one, keeps from its tables.
    fn next_statement(&self) -> Option<usize> {
        let accesses = || self.waiting.iter().map(|(_, access)| access);
        accesses().enumerate().position(|(at, access)| {
            !self.locked.values().chain(accesses().take(at)).any(|other| access.conflicts(other))
        })
    }

    /// A session that has nothing to do, or a new one if there may be more.
    async fn free_session(&mut self) -> Result<Option<Session>> {
        if let Some(session) = self.idle.pop() {
            return Ok(Some(session));
        }
        if self.opened >= self.target.jobs {
            return Ok(None);
        }
        let session = self.open().await?;
        self.opened += 1;
        Ok(Some(session))
    }

    async fn open(&self) -> Result<Session> {
        let Target { connector, role, database, application, memory, lost, .. } = self.target;
        Ok(Session::open(connector, database, application, memory, lost).await?.plain(role.is_some()))
    }

    async fn next_session(&mut self) -> Result<Session> {
        loop {
            if let Some(session) = self.free_session().await? {
                return Ok(session);
            }
            self.join().await?;
        }
    }

    /// Waits until everything that was begun, or waits, is done.
    async fn drain(&mut self) -> Result<()> {
        self.dispatch().await?;
        while !self.running.is_empty() {
            self.join().await?;
            self.dispatch().await?;
        }
        Ok(())
    }

    /// Waits until all statements are done that were begun, or wait. Rows go on.
    async fn drain_statements(&mut self) -> Result<()> {
        self.dispatch().await?;
        while !self.locked.is_empty() || !self.waiting.is_empty() {
            self.join().await?;
            self.dispatch().await?;
        }
        Ok(())
    }

    async fn join(&mut self) -> Result<()> {
        let joined = self.running.join_next_with_id().await;
        self.joined(joined)
    }

    fn reap(&mut self) -> Result<()> {
        while let Some(joined) = self.running.try_join_next_with_id() {
            self.joined(Some(joined))?;
        }
        Ok(())
    }

    fn joined(&mut self, joined: Option<std::result::Result<(Id, Done), tokio::task::JoinError>>) -> Result<()> {
        let Some(joined) = joined else { return Ok(()) };
        let (id, done) = joined.context(Kind::Attention, "a task of this program failed")?;
        self.locked.remove(&id);
        self.idle.push(done.map_err(|failed| self.explain(failed))?);
        Ok(())
    }

    pub(super) fn explain(&self, failed: Failed) -> Error {
        failed.into_error(self.target.source, self.section)
    }
}

type Done = std::result::Result<Session, Failed>;

/// Whether a statement writes rows or parts of a large object: there may be very many of these.
fn is_row(statement: &Statement) -> bool {
    statement.begins(&["INSERT"]) || statement.begins(&["SELECT"])
}

fn words(statement: &Statement) -> Vec<&str> {
    statement.words.iter().map(String::as_str).collect()
}

fn is_event_trigger(statement: &Statement) -> bool {
    statement.begins(&["CREATE", "EVENT", "TRIGGER"])
        || statement.begins(&["ALTER", "EVENT", "TRIGGER"])
        || statement.begins(&["COMMENT", "ON", "EVENT", "TRIGGER"])
}

const OUT_OF_STEP: &str = "the statements of a dump came out of step";

fn out_of_step() -> Error {
    Error::new(Kind::Attention, OUT_OF_STEP)
}

/// Whether an executor only says that its stream was cut.
pub(super) fn is_out_of_step(error: &Error) -> bool {
    error.message() == OUT_OF_STEP
}
