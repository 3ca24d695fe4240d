//! Loads an inspected dump into the staging database.
//!
//! Every dump becomes one stream of statements and rows (`load/stream.rs`): plain text as it is, an archive
//! as `pg_restore` unpacks it. Our own sessions execute that stream, one statement per message (`load/executor.rs`);
//! statements that concern the database itself are left out (`dump/rules.rs`).

mod access;
mod authorization;
mod executor;
mod failure;
mod held;
mod later;
pub mod list;
mod lost;
mod raw;
pub(super) mod role;
mod session;
mod stream;

use std::fs::File;
use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use self::executor::{Executor, Target};
use self::held::Held;
use self::lost::LostPrivileges;
use self::role::LoadRole;
use self::stream::{Item, Reader, Trust};
use super::left_out::LeftOut;
use super::part::Part;
use super::stored::Stored;
use super::{Policy, generated};
use crate::bounded;
use crate::database::connect::QueryContext;
use crate::database::tools::Tools;
use crate::database::{Connector, Setting, ident};
use crate::dump::Contents;
use crate::dump::judge::{Judgement, explain_pg_restore};
use crate::dump::source::{Body, Source};
use crate::error::{Context, Error, Kind, Result};
use crate::process::on_thread;
use crate::progress::{Meter, Reporter};

/// Loader of a dump: connections, programs and options.
pub struct Loader<'a> {
    /// The way to the server.
    pub connector: &'a Connector,
    /// A role that loads in the place of ours.
    pub role: Option<&'a LoadRole>,
    /// A session on the maintenance database.
    pub client: &'a Client,
    /// The client programs.
    pub tools: &'a Tools,
    /// Says what is being done.
    pub reporter: &'a Reporter,
    /// What the command line asked for.
    pub policy: &'a Policy,
    /// The statements and entries that are left out of the dump.
    pub left_out: &'a LeftOut,
    /// The entries of an archive that are wanted; `None` if all of them are.
    pub part: Option<&'a Part>,
    /// Settings of the application that expressions see.
    pub application: &'a [Setting],
    /// Parallel jobs; with one, everything is loaded in the order of the dump.
    pub jobs: u32,
}

/// Whether one job may load what several could not: a function that reads another table finds other rows then.
#[must_use]
pub fn may_load_in_order(error: &Error, jobs: u32) -> bool {
    jobs > 1
        && error.kind() == Kind::Verify
        && error.detail("section").is_some_and(|section| section != "pre-data")
        && failure::depends_on_order(error.detail("code"), error.detail("cause").unwrap_or_default())
}

/// Whether a superuser may load what a role without rights could not. Errors of the rows themselves, of class 22 and 23, are
/// the same for both, but for a CHECK, which may ask who is at work. Source: PostgreSQL documentation, "Error Codes".
#[must_use]
pub fn may_load_with_rights(error: &Error) -> bool {
    let (code, cause) = (error.detail("code"), error.detail("cause").unwrap_or_default());
    let is_of_rows = code.is_some_and(|code| code.starts_with("22") || code.starts_with("23") && code != "23514");
    matches!(error.kind(), Kind::Verify | Kind::Refused)
        && !is_of_rows
        && (code == Some(SqlState::INSUFFICIENT_PRIVILEGE.code()) || failure::depends_on_order(code, cause))
}

impl Loader<'_> {
    /// Loads it into `database`, which is new and empty; with `stored`, rows come from there.
    pub async fn load(
        &self,
        source: &Source,
        stored: Option<&Stored>,
        judgement: &Judgement,
        database: &str,
    ) -> Result<()> {
        let lost = LostPrivileges::default();
        match &source.body {
            Body::Plain { .. } => self.plain(source, judgement, database, &lost).await?,
            Body::Archive(_) => self.archive(source, stored, &judgement.contents, database, &lost).await?,
        }
        lost.tell(self.reporter, self.connector.user());
        Ok(())
    }

    async fn plain(&self, source: &Source, judgement: &Judgement, database: &str, lost: &LostPrivileges) -> Result<()> {
        let Body::Plain { file, compression } = &source.body else { return Ok(()) };
        let meter = Meter::new("loading");
        meter.total.store(file.metadata().map_or(0, |metadata| metadata.len()), Ordering::Relaxed);
        let file = file.try_clone().context(Kind::Refused, "cannot share a descriptor")?;
        let (compression, wanted) = (*compression, judgement.sha256.clone());
        let reader = self.reader(false, &meter);
        let held = Held::default();
        let (items, executor) = self.executor(source, database, None, (lost, &held)).await?;
        let reading = on_thread(move || reader.plain(file, compression, wanted.as_deref(), items.0));
        let work = async { tokio::join!(reading, executor.run(items.1)) };
        let (read, executed) = self.reporter.show(&meter, Box::pin(work)).await;
        first_cause(read?, executed)
    }

    async fn archive(
        &self,
        source: &Source,
        stored: Option<&Stored>,
        contents: &Contents,
        database: &str,
        unchanged: &LostPrivileges,
    ) -> Result<()> {
        let list = self.list(source, contents).await?;
        if self.role.is_none()
            && let Some(owner) = self.public_owner(source, contents)
        {
            self.own_public(database, owner).await?;
        }
        let held = Held::default();
        for section in ["pre-data", "data", "post-data"] {
            if self.policy.schema_only && section == "data" {
                continue;
            }
            let origin = (source, stored.is_some());
            self.section(origin, list.as_ref(), section, database, (unchanged, &held)).await?;
            if let (Some(stored), "data") = (stored, section) {
                let meter = Meter::new("loading rows");
                let loading = stored.load(self.connector, database, self.application, self.policy, self.jobs, &meter);
                self.reporter.show(&meter, Box::pin(loading)).await?;
            }
            if section == "data" && !self.policy.partial {
                let client = self.loading().connect_to_load(database, self.application).await?;
                generated::compute_again(&client, self.reporter).await?;
            }
        }
        Ok(())
    }

    /// Lets `pg_restore` unpack a section of an archive to text, and executes that.
    async fn section(
        &self,
        (source, is_ours): (&Source, bool),
        list: Option<&tempfile::NamedTempFile>,
        section: &'static str,
        database: &str,
        privileges: (&LostPrivileges, &Held),
    ) -> Result<()> {
        let (stdin, path) = source.for_pg_restore()?;
        let mut command = crate::process::command(&self.tools.path("pg_restore"));
        command.arg("--file=-").arg(format!("--section={section}")).args(self.left_out.options());
        if let Some(list) = list {
            command.arg(format!("--use-list={}", list.path().display()));
        }
        command.arg(path).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context(Kind::Refused, "cannot run pg_restore")?;
        let pipe = child.stdout.take().map(tokio::process::ChildStdout::into_owned_fd).transpose();
        let pipe = File::from(pipe.ok().flatten().ok_or_else(|| Error::new(Kind::Refused, "cannot run pg_restore"))?);
        let meter = Meter::new(&format!("loading {section}"));
        let reader = self.reader(is_ours, &meter);
        let (items, executor) = self.executor(source, database, Some(section), privileges).await?;
        let reading = on_thread(move || reader.unpacked(pipe, items.0));
        let work = async { tokio::join!(reading, executor.run(items.1), bounded::shown(child)) };
        let (read, executed, output) = self.reporter.show(&meter, Box::pin(work)).await;
        let output = output.context(Kind::Refused, "cannot wait for pg_restore")?;
        // It also fails where nobody reads any more, because of a statement that failed.
        let is_cut = !output.status.success() && executed.as_ref().err().is_none_or(executor::is_out_of_step);
        if is_cut {
            return Err(explain_pg_restore(&String::from_utf8_lossy(&output.stderr), self.tools));
        }
        first_cause(read?, executed)
    }

    fn reader(&self, is_ours: bool, meter: &Arc<Meter>) -> Reader {
        let foreign = self.policy.trust_dump;
        let trust = Trust { foreign, as_server: foreign || is_ours };
        Reader { left_out: self.left_out.clone(), trust, meter: meter.clone() }
    }

    /// A channel for what is read, and what executes it.
    async fn executor<'a>(
        &'a self,
        source: &'a Source,
        database: &'a str,
        section: Option<&'static str>,
        (lost, held): (&'a LostPrivileges, &'a Held),
    ) -> Result<((mpsc::Sender<Item>, mpsc::Receiver<Item>), Executor<'a>)> {
        let memory = maintenance_work_mem(self.client, self.connector.is_local(), self.jobs).await?;
        let jobs = usize::try_from(self.jobs.max(1)).unwrap_or(1);
        let (connector, application) = (self.loading(), self.application);
        let role = self.role;
        let (reporter, partial) = (self.reporter, self.policy.partial);
        let target = Target {
            connector,
            role,
            database,
            source,
            application,
            memory,
            jobs,
            section,
            partial,
            reporter,
            lost,
            held,
        };
        Ok((stream::channel(), Executor::new(target).await?))
    }

    /// The archive's list of contents without what is left out, in a file; `None` if all of it stays.
    async fn list(&self, source: &Source, contents: &Contents) -> Result<Option<tempfile::NamedTempFile>> {
        let shortened = match self.part {
            Some(part) => Some(self.left_out.shortened(&part.list).unwrap_or_else(|| part.list.clone())),
            None => self.left_out.shortened(&list::read(source, self.tools, &contents.spelling, false).await?),
        };
        let Some(shortened) = shortened else { return Ok(None) };
        let failed = "cannot write a temporary file";
        let mut file = tempfile::NamedTempFile::new().context(Kind::Store, failed)?;
        file.write_all(shortened.as_bytes()).context(Kind::Store, failed)?;
        Ok(Some(file))
    }

    /// The way to the server of what is loaded.
    fn loading(&self) -> &Connector {
        self.role.map_or(self.connector, LoadRole::connector)
    }

    /// The owner of the schema public, where an archive's entry that is left out says so.
    fn public_owner<'c>(&self, source: &Source, contents: &'c Contents) -> Option<&'c str> {
        let is_said = matches!(source.body, Body::Archive(_)) && contents.makes_public && !self.policy.no_owner;
        contents.public_owner.as_deref().filter(|_| is_said)
    }

    /// The owner of a schema that is there already stands in the entry that is left out.
    async fn own_public(&self, database: &str, owner: &str) -> Result<()> {
        let client = self.connector.connect_to(database).await?;
        let sql = format!("ALTER SCHEMA public OWNER TO {}", ident(owner));
        client.batch_execute(&sql).await.query_context("cannot give the schema public to its owner")
    }
}

/// Of two failures the one that led to the other: a statement that failed ends the reading, and a reading that failed
/// cuts the stream.
fn first_cause(read: Result<()>, executed: Result<()>) -> Result<()> {
    match executed {
        Err(error) if !executor::is_out_of_step(&error) => Err(error),
        executed => read.and(executed),
    }
}

/// Memory for building indexes, in kB: an eighth of the machine's, shared by the jobs, 64 MB to 2 GB each.
///
/// On another machine the server's own `shared_buffers`, by habit a quarter of its memory, stands in for that.
async fn maintenance_work_mem(client: &Client, local: bool, jobs: u32) -> Result<u64> {
    let machine = if local {
        std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim();
            line.split(' ').next()?.parse::<u64>().ok()
        })
    } else {
        None
    };
    let kilobytes = if let Some(total) = machine {
        total / 8
    } else {
        let sql = "SELECT setting::bigint * 8 FROM pg_settings WHERE name = 'shared_buffers'";
        let row = client.query_one(sql, &[]).await.query_context("cannot read a setting")?;
        u64::try_from(row.get::<_, i64>(0)).unwrap_or(0) / 2
    };
    Ok((kilobytes / u64::from(jobs.max(1))).clamp(64 * 1024, 2 * 1024 * 1024))
}
