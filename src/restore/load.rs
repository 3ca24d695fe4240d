//! Loads an inspected dump into the staging database.
//!
//! SQL text is fed to psql, statement by statement, in a single transaction that stops at the first error, under
//! `\restrict`; statements that concern the database itself are left out (`dump/rules.rs`). Line numbers in psql's
//! messages are those of the file, since what is left out leaves empty lines behind. An archive goes through
//! `pg_restore`, with parallel jobs in each of its three sections.

mod failure;
mod feeder;
pub mod list;

use std::io::{BufWriter, Write};
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr};
use tokio_postgres::Client;

use self::failure::load_failed;
use self::feeder::{Fed, Feeder, supports_restrict};
use super::Policy;
use super::left_out::LeftOut;
use super::part::Part;
use super::stored::Stored;
use crate::database::connect::QueryContext;
use crate::database::tools::Tools;
use crate::database::{Connector, ident};
use crate::dump::judge::Judgement;
use crate::dump::source::{Body, Source};
use crate::dump::{Contents, Format, PIECE};
use crate::error::{Context, Error, Kind, Result};
use crate::process::on_thread;
use crate::progress::{Meter, Reporter};
use crate::tables::locks;

/// Loader of a dump: connections, programs and options.
pub struct Loader<'a> {
    /// The way to the server.
    pub connector: &'a Connector,
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
    /// Parallel jobs; with one, everything is loaded in the order of the dump.
    pub jobs: u32,
}

/// Whether one job may load what several could not: a function that reads another table finds other rows then.
#[must_use]
pub fn may_load_in_order(error: &Error, jobs: u32) -> bool {
    let words = error.detail("pg_restore").or(error.detail("cause")).unwrap_or_default();
    jobs > 1
        && error.kind() == Kind::Verify
        && error.detail("section").is_some_and(|section| section != "pre-data")
        && failure::depends_on_order(words)
}

/// More locks than a table needs with its indexes, its sequence and what is stored outside its rows.
const LOCKS_FOR_A_TABLE: usize = 10;

impl Loader<'_> {
    /// Loads it into `database`, which is new and empty; with `stored`, rows come from there.
    pub async fn load(
        &self,
        source: &Source,
        stored: Option<&Stored>,
        judgement: &Judgement,
        database: &str,
    ) -> Result<()> {
        match &source.body {
            Body::Plain { .. } => self.plain(source, judgement, database).await,
            Body::Archive(_) => self.archive(source, stored, &judgement.contents, database).await,
        }
    }

    /// Settings for the loading sessions: those of every session, and faster ones, which are no weaker in the result, since
    /// the commit that puts it in its place waits for the disk.
    async fn options(&self, database: &str, jobs: u32) -> Result<String> {
        let common = self.connector.tool_options(database).await?;
        let memory = maintenance_work_mem(self.client, self.connector.is_local(), jobs).await?;
        Ok(format!("{common} -c synchronous_commit=off -c maintenance_work_mem={memory}kB -c row_security=off"))
    }

    async fn plain(&self, source: &Source, judgement: &Judgement, database: &str) -> Result<()> {
        let Body::Plain { file, compression } = &source.body else { return Ok(()) };
        let mut arguments = vec!["--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--file=-"];
        // One transaction holds a lock on each table, index and sequence that it makes. What fails is dropped either way.
        if locks::room_for(self.client, judgement.contents.created.len()).await? >= LOCKS_FOR_A_TABLE {
            arguments.push("--single-transaction");
        }
        let mut child = self
            .tools
            .command("psql", self.connector, database)
            .args(arguments)
            .env("PGOPTIONS", self.options(database, 1).await?)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context(Kind::Refused, "cannot run psql")?;
        let stdin = child.stdin.take().map(tokio::process::ChildStdin::into_owned_fd).transpose().ok().flatten();
        let pipe = std::fs::File::from(stdin.ok_or_else(|| Error::new(Kind::Refused, "cannot run psql"))?);
        let meter = Meter::new("loading");
        meter.total.store(file.metadata().map_or(0, |metadata| metadata.len()), Ordering::Relaxed);
        let feeder = Feeder {
            out: BufWriter::with_capacity(PIECE, pipe),
            line: 1,
            restricted: supports_restrict(self.tools.version),
            left_out: self.left_out.clone(),
            skipping_rows: false,
            broken: None,
            meter: meter.clone(),
        };
        let (file, compression, wanted) = (
            file.try_clone().context(Kind::Refused, "cannot share a descriptor")?,
            *compression,
            judgement.sha256.clone(),
        );
        let feeding = on_thread(move || feeder.feed(file, compression, wanted.as_deref()));
        let work = async { tokio::join!(feeding, collect(child.stderr.take(), None)) };
        let (outcome, words) = self.reporter.show(&meter, work).await;
        let outcome = outcome?;
        if let Err(Fed::Changed(error)) = outcome {
            // psql still waits for more; it is killed with the command, and the new database is dropped.
            return Err(error);
        }
        let status = child.wait().await.context(Kind::Refused, "cannot wait for psql")?;
        if !status.success() || matches!(outcome, Err(Fed::Pipe(_))) {
            return Err(load_failed("psql", &words.join("\n"), source));
        }
        Ok(())
    }

    async fn archive(
        &self,
        source: &Source,
        stored: Option<&Stored>,
        contents: &Contents,
        database: &str,
    ) -> Result<()> {
        let jobs = if source.format == Format::Tar { 1 } else { self.jobs };
        let options = self.options(database, jobs).await?;
        let list = self.list(source).await?;
        if contents.makes_public
            && !self.policy.no_owner
            && let Some(owner) = &contents.public_owner
        {
            self.own_public(database, owner).await?;
        }
        for section in ["pre-data", "data", "post-data"] {
            if self.policy.schema_only && section == "data" {
                continue;
            }
            let (stdin, path) = source.for_pg_restore()?;
            let mut command = self.tools.command("pg_restore", self.connector, database);
            command
                .args(["--exit-on-error", "--no-password", "--verbose"])
                .arg(format!("--section={section}"))
                .arg(format!("--dbname={}", conninfo(database)));
            if jobs > 1 {
                command.arg(format!("--jobs={jobs}"));
            }
            command.args(self.left_out.options());
            if let Some(list) = &list {
                command.arg(format!("--use-list={}", list.path().display()));
            }
            let mut child = command
                .arg(path)
                .env("PGOPTIONS", &options)
                .stdin(stdin)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .context(Kind::Refused, "cannot run pg_restore")?;
            let meter = Meter::new(&format!("loading {section}"));
            let work = self.watch(&mut child, &meter, database);
            let (status, words) = self.reporter.show(&meter, work).await;
            if !status?.success() {
                return Err(load_failed("pg_restore", &words.join("\n"), source).with("section", section));
            }
            if let (Some(stored), "data") = (stored, section) {
                let meter = Meter::new("loading rows");
                let loading = stored.load(self.connector, database, self.policy, self.jobs, &meter);
                self.reporter.show(&meter, Box::pin(loading)).await?;
            }
        }
        Ok(())
    }

    /// The archive's list of contents without what is left out, in a file; `None` if all of it stays.
    async fn list(&self, source: &Source) -> Result<Option<tempfile::NamedTempFile>> {
        let shortened = match self.part {
            Some(part) => Some(self.left_out.shortened(&part.list).unwrap_or_else(|| part.list.clone())),
            None => self.left_out.shortened(&list::read(source, self.tools, false).await?),
        };
        let Some(shortened) = shortened else { return Ok(None) };
        let failed = "cannot write a temporary file";
        let mut file = tempfile::NamedTempFile::new().context(Kind::Store, failed)?;
        file.write_all(shortened.as_bytes()).context(Kind::Store, failed)?;
        Ok(Some(file))
    }

    /// The owner of a schema that is there already stands in the entry that is left out.
    async fn own_public(&self, database: &str, owner: &str) -> Result<()> {
        let client = self.connector.connect_to(database).await?;
        let sql = format!("ALTER SCHEMA public OWNER TO {}", ident(owner));
        client.batch_execute(&sql).await.query_context("cannot give the schema public to its owner")
    }

    /// Waits for `pg_restore`; the size of the database tells how far it is.
    async fn watch(
        &self,
        child: &mut Child,
        meter: &Meter,
        database: &str,
    ) -> (Result<std::process::ExitStatus>, Vec<String>) {
        let growth = async {
            loop {
                let size = self.client.query_one("SELECT pg_database_size($1::name)", &[&database]).await;
                if let Ok(row) = size {
                    meter.bytes.store(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0), Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let stderr = child.stderr.take();
        let ended = async {
            let words = collect(stderr, Some(meter)).await;
            (child.wait().await.context(Kind::Refused, "cannot wait for pg_restore"), words)
        };
        tokio::select! {
            ended = ended => ended,
            () = growth => (Err(Error::new(Kind::Attention, "the load was given up")), Vec::new()),
        }
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

/// A database name as libpq's connection string: `pg_restore --dbname` would take `a=b` for one.
fn conninfo(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Reads a child's words: which table it is at, and everything from the first error on.
async fn collect(stderr: Option<ChildStderr>, meter: Option<&Meter>) -> Vec<String> {
    let Some(stderr) = stderr else { return Vec::new() };
    let mut lines = BufReader::new(stderr).split(b'\n');
    let mut words: Vec<String> = Vec::new();
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if let (Some(meter), Some(table)) = (meter, line.split("processing data for table ").nth(1)) {
            meter.now(table.trim_matches('"'));
        }
        let is_error = line.contains("error: ") || line.contains("ERROR: ") || line.contains("FATAL: ");
        if (is_error || !words.is_empty()) && words.len() < 20 {
            words.push(line);
        }
    }
    words
}
