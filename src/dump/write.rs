//! Writes one dump file with `pg_dump`, and knows afterwards that it is whole.
//!
//! Whole means all of this: `pg_dump` ended with 0 and wrote no error, the text that it wrote was scanned to its end
//! marker, and every byte was written. The text passes through here on its way to the file; a custom archive is
//! written by `pg_dump` itself (so that it can note where each table begins) and read back afterwards.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::process::Child;
use tokio::sync::oneshot;

use super::contents::Reader;
use super::format::{Compression, Compressor};
use super::judge::{self, unusable};
use super::moment::Moment;
use super::pg_dump::{NOTHING_LEFT, PgDump, collect, has_vanished, write_failed};
use super::text::Flaw;
use super::{Contents, Format, PIECE, hex};
use crate::database::Connector;
use crate::database::connect::{QueryContext, server_version};
use crate::database::lock::{Lock, Purpose};
use crate::database::tools::Tools;
use crate::error::{Context, Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::process::on_thread;
use crate::progress::{Meter, Reporter};
use crate::tables::catalog::missing_on_standby;
use crate::tables::unchanged;

/// What is dumped, in `pg_dump`'s own words.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// `--schema-only`.
    pub schema_only: bool,
    /// `--data-only`.
    pub data_only: bool,
    /// `--table`, patterns.
    pub tables: Vec<String>,
}

impl Selection {
    fn arguments(&self, format: &[&str], mut arguments: Vec<String>) -> Vec<String> {
        arguments.extend(format.iter().map(|&argument| argument.to_owned()));
        for (wanted, flag) in [(self.schema_only, "--schema-only"), (self.data_only, "--data-only")] {
            if wanted {
                arguments.push(flag.to_owned());
            }
        }
        arguments.extend(self.tables.iter().map(|table| format!("--table={table}")));
        arguments
    }
}

/// Where the dump goes.
pub enum Target {
    /// A file, open for reading and writing, empty.
    File(File),
    /// Standard output.
    Stdout,
}

impl Target {
    /// As something to write to.
    #[expect(clippy::disallowed_methods, reason = "a dump is data for a file or a program, not for a person")]
    pub(crate) fn writer(self) -> Box<dyn Write + Send> {
        match self {
            Self::File(file) => Box::new(file),
            Self::Stdout => Box::new(io::stdout()),
        }
    }
}

/// A dump that is whole.
#[derive(Debug)]
pub struct Written {
    /// Bytes in the file.
    pub bytes: u64,
    /// SHA-256 of the file, 64 hex digits.
    pub sha256: String,
    /// What is in it.
    pub contents: Contents,
    /// How long it took.
    pub duration: Duration,
}

/// What the writing works with.
pub struct Writer<'a> {
    /// The way to the server.
    pub connector: &'a Connector,
    /// Says what is being done.
    pub reporter: &'a Reporter,
    /// Tells whether to stop.
    pub interrupt: &'a Interrupt,
    /// `database.tools`.
    pub tools: Option<&'a std::path::Path>,
    /// zstd level.
    pub level: u32,
    /// How long to wait for a locked table.
    pub lock_wait: Duration,
}

impl Writer<'_> {
    /// Writes a dump. The target's content is only worth something if this returns `Ok`.
    pub async fn write(&self, format: Format, selection: &Selection, target: Target) -> Result<Written> {
        let started = Instant::now();
        let work = async {
            let lock = Lock::take(self.connector, Purpose::Backup).await?;
            let client = self.connector.for_questions().connect().await?;
            let server = server_version(&client).await?;
            let tools = Tools::find(self.connector, self.tools, server).await?;
            self.look_first(&client).await?;
            drop(client);
            let meter = Meter::new("reading the catalogue");
            let work = self.dump(&tools, format, selection, target, &meter);
            let result = self.reporter.show(&meter, Box::pin(work)).await;
            drop(lock);
            result
        };
        let (bytes, sha256, contents) = self.interrupt.guard(Box::pin(work)).await?;
        Ok(Written { bytes, sha256, contents, duration: started.elapsed() })
    }

    /// Warns about anything that makes the dump slow, before it begins.
    async fn look_first(&self, client: &tokio_postgres::Client) -> Result<()> {
        let row = client
            .query_one(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND xact_start < now() - interval '1 hour'",
                &[],
            )
            .await
            .query_context("cannot read the database's properties")?;
        let old: i64 = row.get(0);
        if old > 0 {
            self.reporter.warn(&format!("{old} transactions have been open for more than an hour in this database"));
        }
        if let Some(warning) = missing_on_standby(client).await? {
            self.reporter.warn(&warning);
        }
        Ok(())
    }

    /// Dumps; and once more if a table was dropped between the moment when `pg_dump` saw it and the one when it locked
    /// it, or if definitions were altered meanwhile. To standard output only if nothing went there: it cannot be taken
    /// back.
    async fn dump(
        &self,
        tools: &Tools,
        format: Format,
        selection: &Selection,
        target: Target,
        meter: &Arc<Meter>,
    ) -> Result<(u64, String, Contents)> {
        let again = match &target {
            Target::File(file) => Some(file.try_clone().context(Kind::Store, "cannot share a descriptor")?),
            Target::Stdout => None,
        };
        let error = match self.attempt(tools, format, selection, target, meter, false).await {
            Err(error) if has_vanished(&error) || unchanged::is_change(&error) => error,
            done => return done,
        };
        if again.is_none() && meter.bytes.load(Ordering::Relaxed) > 0 {
            return Err(error);
        }
        let what = match error.detail("changed") {
            Some(changed) => format!("{} ({})", error.message(), changed.replace('\n', ", ")),
            None => "a table was dropped while pg_dump looked at it".to_owned(),
        };
        self.reporter.warn(&format!("{what}: once more, from the start"));
        let target = match again {
            Some(mut file) => {
                file.set_len(0).and_then(|()| file.rewind()).context(Kind::Store, "cannot begin the dump again")?;
                Target::File(file)
            }
            None => Target::Stdout,
        };
        meter.bytes.store(0, Ordering::Relaxed);
        meter.rows.store(0, Ordering::Relaxed);
        self.attempt(tools, format, selection, target, meter, true).await
    }

    fn pg_dump<'a>(&'a self, tools: &'a Tools) -> PgDump<'a> {
        PgDump { connector: self.connector, tools, lock_wait: self.lock_wait }
    }

    async fn attempt(
        &self,
        tools: &Tools,
        format: Format,
        selection: &Selection,
        target: Target,
        meter: &Arc<Meter>,
        is_last: bool,
    ) -> Result<(u64, String, Contents)> {
        let moment = Moment::begin(self.connector, self.lock_wait, !selection.tables.is_empty(), is_last).await?;
        let is_final = matches!(target, Target::Stdout);
        let written = match (format, target) {
            (Format::Plain(compression), target) => {
                let pg_dump = self.pg_dump(tools);
                let arguments = selection.arguments(&["--format=plain"], moment.arguments().await?);
                let mut child = pg_dump.start(&arguments, Stdio::piped())?;
                self.pump(&pg_dump, &mut child, &moment, compression, target, meter).await?
            }
            (_, Target::File(file)) => self.archive(tools, &moment, selection, file, meter).await?,
            (_, Target::Stdout) => return Err(Error::new(Kind::Usage, "standard output gets plain SQL only")),
        };
        moment.end(self.connector, &written.2, is_final).await.map_err(|error| error.with("state", NOTHING_LEFT))?;
        Ok(written)
    }

    /// Plain SQL: from `pg_dump`'s standard output through the scanner and the compressor to the target.
    async fn pump(
        &self,
        pg_dump: &PgDump<'_>,
        child: &mut Child,
        moment: &Moment,
        compression: Compression,
        target: Target,
        meter: &Arc<Meter>,
    ) -> Result<(u64, String, Contents)> {
        let stdout = child.stdout.take().map(tokio::process::ChildStdout::into_owned_fd);
        let source = File::from(stdout.transpose().ok().flatten().ok_or_else(no_pipe)?);
        let level = self.level;
        let counted = meter.clone();
        let (told, has_read) = oneshot::channel();
        let (pass, passed) = mpsc::channel();
        // A file can be emptied again. What goes to a pipe waits until the definitions are known to be of one moment:
        // pg_dump has read all of them when it writes its first line.
        let (at_rows, gate) = match &target {
            Target::File(_) => (Some(told), None),
            Target::Stdout => (None, Some(Gate { told, passed })),
        };
        let stderr = child.stderr.take();
        let pump = on_thread(move || pump(source, compression, level, target, gate, &counted));
        let watch = async move {
            let compared = moment.watch(self.connector, has_read, child).await;
            match compared {
                Ok(()) => _ = pass.send(()),
                Err(_) => drop(pass),
            }
            (compared, child)
        };
        // Whatever is found, the thread that writes into the target must have ended before anybody else may.
        let (pumped, words, (definitions, child)) = tokio::join!(pump, collect(stderr, meter, at_rows), watch);
        let pumped = pumped?;
        definitions?;
        // Where the reading was given up, pg_dump only complains about its broken pipe: the reason comes first.
        let ended = match &pumped {
            Err(Failure::Target(_) | Failure::Text(_)) => Ok(()),
            Ok(_) | Err(Failure::Stopped | Failure::Source(_) | Failure::End(_)) => {
                pg_dump.ended_well(child, &words).await
            }
        };
        ended.and(match pumped {
            Ok(done) => Ok(done),
            Err(Failure::Source(cause)) => {
                Err(Error::new(Kind::Source, "cannot read from pg_dump").with("cause", cause))
            }
            Err(Failure::Stopped) => Err(Error::new(Kind::Source, "the dump was stopped before its first line")),
            Err(Failure::Target(cause)) => Err(write_failed(&cause)),
            Err(Failure::Text(flaw) | Failure::End(flaw)) => Err(not_whole(&flaw)),
        })
    }

    /// A custom archive: written by `pg_dump`, then read back as a whole.
    async fn archive(
        &self,
        tools: &Tools,
        moment: &Moment,
        selection: &Selection,
        mut file: File,
        meter: &Arc<Meter>,
    ) -> Result<(u64, String, Contents)> {
        let shared = file.try_clone().context(Kind::Store, "cannot share a descriptor")?;
        // Level 1: nearly as small as the default, in less than half of the time.
        let arguments = selection.arguments(&["--format=custom", "--compress=1"], moment.arguments().await?);
        let pg_dump = self.pg_dump(tools);
        let mut child = pg_dump.start(&arguments, Stdio::from(shared))?;
        let stderr = child.stderr.take();
        let size = || file.metadata().map_or(0, |metadata| metadata.len());
        let growth = async {
            loop {
                meter.bytes.store(size(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let (at_rows, rows) = oneshot::channel();
        let work = async {
            tokio::join!(collect(stderr, meter, Some(at_rows)), moment.watch(self.connector, rows, &mut child))
        };
        let (words, definitions) = tokio::select! {
            done = work => done,
            () = growth => (Vec::new(), Ok(())),
        };
        if definitions.is_err() {
            let _ = child.wait().await;
        }
        definitions?;
        pg_dump.ended_well(&mut child, &words).await?;
        meter.now("reading the archive back");
        meter.bytes.store(0, Ordering::Relaxed);
        let bytes = size();
        let hashed = file.try_clone().context(Kind::Store, "cannot share a descriptor")?;
        let sha256 =
            on_thread(move || hash(&hashed)).await?.context(Kind::Verify, "cannot read back what was written")?;
        file.rewind().context(Kind::Store, "cannot read back what was written")?;
        let contents = judge::archive(tools, Stdio::from(file), "-", false, meter)
            .await
            .map_err(|error| error.escalate(Kind::Verify).with("state", NOTHING_LEFT))?;
        Ok((bytes, sha256, contents))
    }
}

/// Holds the text back until the definitions were compared.
struct Gate {
    /// Told when the first piece is there.
    told: oneshot::Sender<()>,
    /// Answers when it may pass; closed if it may not.
    passed: mpsc::Receiver<()>,
}

enum Failure {
    Source(io::Error),
    /// The gate stayed closed.
    Stopped,
    Target(io::Error),
    /// What was read so far is no dump.
    Text(Flaw),
    /// What was read to its end is not a whole one.
    End(Flaw),
}

type Pumped = std::result::Result<(u64, String, Contents), Failure>;

fn pump(
    mut source: File,
    compression: Compression,
    level: u32,
    target: Target,
    mut gate: Option<Gate>,
    meter: &Meter,
) -> Pumped {
    let hashing = Hashing::new(target.writer());
    let mut compressor = Compressor::new(compression, level, hashing).map_err(Failure::Target)?;
    let mut reader = Reader::default();
    let mut piece = vec![0; PIECE];
    loop {
        let length = match source.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => length,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(Failure::Source(cause)),
        };
        reader.feed(&piece[..length]).map_err(Failure::Text)?;
        if let Some(Gate { told, passed }) = gate.take() {
            let _ = told.send(());
            passed.recv().map_err(|_| Failure::Stopped)?;
        }
        compressor.write_all(&piece[..length]).map_err(Failure::Target)?;
        meter.add(length as u64);
        meter.rows.store(reader.rows(), Ordering::Relaxed);
    }
    let contents = reader.finish().map_err(Failure::End)?;
    let done = compressor.finish().map_err(Failure::Target)?;
    let (bytes, sha256) = done.finish();
    Ok((bytes, sha256, contents))
}

/// Counts and hashes what passes.
pub(crate) struct Hashing<W> {
    writer: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashing<W> {
    pub(crate) fn new(writer: W) -> Self {
        Self { writer, hash: Sha256::new(), bytes: 0 }
    }

    /// The number of bytes, and their SHA-256 as 64 hex digits.
    pub(crate) fn finish(self) -> (u64, String) {
        (self.bytes, hex(self.hash))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.writer.write(bytes)?;
        self.hash.update(&bytes[..length]);
        self.bytes += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn hash(file: &File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        match file.read_at(&mut piece, at)? {
            0 => return Ok(hex(hash)),
            length => {
                hash.update(&piece[..length]);
                at += length as u64;
            }
        }
    }
}

fn no_pipe() -> Error {
    Error::new(Kind::Source, "cannot read from pg_dump")
}

fn not_whole(flaw: &Flaw) -> Error {
    unusable(flaw, "pg_dump ended, but what it wrote").escalate(Kind::Source).with("state", NOTHING_LEFT)
}
