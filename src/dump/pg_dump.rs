//! Runs `pg_dump`, and knows how it ended: an exit status of 0 is not enough, and its own words are kept.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::BufReader;
use tokio::process::{Child, ChildStderr};
use tokio::sync::oneshot;

use crate::database::connect::QueryContext;
use crate::database::tools::Tools;
use crate::database::{Connector, connect};
use crate::error::{Context, Error, Kind, Result};
use crate::process;
use crate::progress::Meter;

/// What is true after a failure.
pub const NOTHING_LEFT: &str = "no file was left, the database was only read";

/// The way to run it.
pub struct PgDump<'a> {
    /// The way to the server.
    pub connector: &'a Connector,
    /// Where it is.
    pub tools: &'a Tools,
    /// How long to wait for a locked table.
    pub lock_wait: Duration,
}

impl PgDump<'_> {
    /// Starts it on the configured database, with `--verbose` for [`collect`].
    pub fn start(&self, arguments: &[String], stdout: Stdio) -> Result<Child> {
        let mut command = self.tools.command("pg_dump", self.connector, self.connector.database_name());
        command.args(["--verbose", "--no-password"]).args(arguments);
        command.arg(format!("--lock-wait-timeout={}", self.lock_wait.as_millis()));
        command.stdout(stdout).stderr(Stdio::piped()).spawn().context(Kind::Source, "cannot run pg_dump")
    }

    /// Waits for its end, which must be with 0 and without an error among its `words`.
    pub async fn ended_well(&self, child: &mut Child, words: &[String]) -> Result<()> {
        let status = child.wait().await.context(Kind::Source, "cannot wait for pg_dump")?;
        if status.success() && words.is_empty() {
            return Ok(());
        }
        let text = words.join("\n");
        // The file is pg_dump's own standard output when it writes an archive.
        let full = ["No space left on device", "Disk quota exceeded", "File too large"];
        if full.iter().any(|words| text.contains(words)) {
            return Err(write_failed(&io::Error::other(text)));
        }
        // A limit on the size of files ends a program that does not listen for this signal.
        if status.signal() == Some(Signal::SIGXFSZ as i32) {
            return Err(write_failed(&rustix::io::Errno::FBIG.into()));
        }
        let state = NOTHING_LEFT;
        // pg_dump sets statement_timeout for the LOCK TABLE, whatever its option is called.
        if text.contains("statement timeout") || text.contains("lock timeout") {
            let wait = self.lock_wait.as_secs();
            let error = Error::new(Kind::Busy, format!("a table was locked for more than {wait} s"));
            return Err(error.with("cause", &text).with("holder", self.lock_holders().await).with("state", state));
        }
        let mut error = Error::new(Kind::Source, format!("pg_dump failed ({status})")).with("cause", &text);
        if text.contains("invalid page") || text.contains("could not read block") {
            error = error
                .hint("A page of the database is damaged: keep every backup that you have, then run `pg_amcheck`.");
        }
        error = with_conflict_hint(error);
        if text.contains("invalid byte sequence") {
            error =
                error.hint("Some text is not in the database's encoding: the server cannot convert it. Mend it there.");
        }
        if text.contains("row-level security") {
            error = error.hint("Rows are hidden from this role: dump as the owner, or give the role BYPASSRLS.");
        }
        Err(error.with("state", state))
    }

    /// Who holds an exclusive lock on a table, as far as can still be found out.
    async fn lock_holders(&self) -> String {
        let ask = async {
            let client = self.connector.for_questions().connect().await?;
            let rows = client
                .query(
                    "SELECT DISTINCT format('pid %s (%s), %s: %s', a.pid, coalesce(nullif(a.application_name, ''), \
                            'unnamed'), l.relation::regclass, left(a.query, 120)) \
                     FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                     WHERE l.locktype = 'relation' AND l.granted AND l.mode = 'AccessExclusiveLock' \
                       AND a.datname = current_database() AND a.pid <> pg_backend_pid()",
                    &[],
                )
                .await
                .query_context("cannot ask who holds the lock")?;
            let holders: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            Result::Ok(holders.join("\n"))
        };
        ask.await.unwrap_or_default()
    }
}

/// Reads `pg_dump`'s verbose stream: which table it is at, and every word from the first error on. `at_rows` is told when it comes to the first
/// table's rows: it has read all definitions by then.
pub async fn collect(
    stderr: Option<ChildStderr>,
    meter: &Meter,
    mut at_rows: Option<oneshot::Sender<()>>,
) -> Vec<String> {
    let Some(stderr) = stderr else { return Vec::new() };
    let mut stderr = BufReader::new(stderr);
    let mut words: Vec<String> = Vec::new();
    while let Ok(Some(line)) = process::next_line(&mut stderr).await {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if let Some(table) = line.split("dumping contents of table ").nth(1) {
            meter.now(table.trim_matches('"'));
            if let Some(at_rows) = at_rows.take() {
                let _ = at_rows.send(());
            }
        }
        let is_error = line.contains(": error: ") || line.starts_with("FATAL") || line.contains(": fatal: ");
        if (is_error || !words.is_empty()) && words.len() < 40 {
            words.push(line);
        }
    }
    words
}

/// Adds what to do where a standby ended a query that stood in the way of the replay.
#[must_use]
pub fn with_conflict_hint(error: Error) -> Error {
    if !error.detail("cause").is_some_and(|cause| cause.contains("conflict with recovery")) {
        return error;
    }
    error
        .hint("The standby gave the replay precedence: set hot_standby_feedback = on there, or raise max_standby_streaming_delay.")
}

/// Whether `pg_dump` failed since something that it had seen was gone a moment later.
#[must_use]
pub fn has_vanished(error: &Error) -> bool {
    let gone = |line: &str| {
        line.contains("could not open relation with OID")
            || line.contains("cache lookup failed for")
            || (line.contains("ERROR:  relation ") && line.ends_with("does not exist"))
    };
    error.kind() == Kind::Source && error.detail("cause").is_some_and(|words| words.lines().any(gone))
}

/// The dump could not be written; the system's words say why.
#[must_use]
pub fn write_failed(cause: &io::Error) -> Error {
    let error = Error::new(Kind::Store, "cannot write the dump").with("cause", connect::chain(cause));
    let error = match cause.kind() {
        io::ErrorKind::BrokenPipe => error.hint("The program that read standard output ended before the dump did."),
        _ => error.hint("Free some space, or write to another file system; `df -h` shows what is left."),
    };
    error.with("state", NOTHING_LEFT)
}
