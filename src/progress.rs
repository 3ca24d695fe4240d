//! What is being done, for four kinds of reader: a person at a terminal, a plain log, the journal, a program.
//!
//! Everything here goes to standard error. The work fills a [`Meter`]; [`Reporter::show`] looks at it from time to
//! time while the work goes on, so that reporting never slows the work down.

use std::io::Write;
use std::os::linux::fs::MetadataExt;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::error::{Error, Result};
use crate::host::{Host, terminal};
use crate::text;

/// How often a terminal is redrawn.
const TICK: Duration = Duration::from_millis(200);

/// Counts of a step under way. All of it may be set from any thread.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes done.
    pub bytes: AtomicU64,
    /// Bytes in all; 0 if that is not known.
    pub total: AtomicU64,
    /// Rows done; 0 if they are not counted.
    pub rows: AtomicU64,
    /// Chunks that were read.
    pub chunks_read: AtomicU64,
    /// Chunks that did not have to be.
    pub chunks_reused: AtomicU64,
    /// The signal that asks the work to end; 0 if none has come.
    stopped: AtomicI32,
    what: Mutex<String>,
    /// When the counts were at nothing; without it, when the work began.
    since: Mutex<Option<Instant>>,
}

impl Meter {
    /// For a step that starts with `what`.
    #[must_use]
    pub fn new(what: &str) -> Arc<Self> {
        let meter = Self::default();
        meter.now(what);
        Arc::new(meter)
    }

    /// Says what is being done now, for example the table.
    pub fn now(&self, what: &str) {
        what.clone_into(&mut self.what.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Asks the work to end because of this signal. Work on another thread looks by itself: [`Meter::check`].
    pub fn stop(&self, signal: i32) {
        self.stopped.store(signal, Ordering::Relaxed);
    }

    /// Something that is another as soon as anything was done.
    fn place(&self) -> (u64, String) {
        let counts = [&self.bytes, &self.rows, &self.chunks_read, &self.chunks_reused];
        (counts.iter().map(|count| count.load(Ordering::Relaxed)).fold(0, u64::wrapping_add), self.what())
    }

    /// Fails once the work was asked to end ([`Kind::Signal`](crate::error::Kind::Signal)).
    pub fn check(&self) -> Result<()> {
        match self.stopped.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => Err(Error::stopped_by(signal)),
        }
    }

    /// Begins the next step with the counts at nothing.
    pub fn begin(&self, what: &str, total: u64) {
        self.now(what);
        for count in [&self.bytes, &self.rows, &self.chunks_read, &self.chunks_reused] {
            count.store(0, Ordering::Relaxed);
        }
        self.total.store(total, Ordering::Relaxed);
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Adds to the bytes done.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn what(&self) -> String {
        self.what.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Who reads standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Terminal,
    Plain,
    Journal,
    Program,
}

impl Reader {
    /// How often progress is told.
    fn interval(self) -> Duration {
        match self {
            Self::Terminal => TICK,
            Self::Program => Duration::from_secs(1),
            Self::Plain | Self::Journal => Duration::from_secs(10),
        }
    }
}

/// The importance of a line, as syslog numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// The run failed.
    Error = 3,
    /// Something ought to be known.
    Warning = 4,
    /// A step of the work.
    Info = 6,
    /// Details, with `--verbose`.
    Debug = 7,
}

/// Says what is being done.
#[derive(Clone, Debug)]
pub struct Reporter {
    program: &'static str,
    reader: Reader,
    least: Priority,
    host: Option<Host>,
    bar: Arc<Mutex<Option<ProgressBar>>>,
}

impl Reporter {
    /// For a program of this name, and the flags of its command line.
    #[must_use]
    pub fn new(program: &'static str, json: bool, quiet: bool, verbose: u8) -> Self {
        let reader = if json {
            Reader::Program
        } else if is_journal() {
            Reader::Journal
        } else if terminal::is_read() {
            Reader::Terminal
        } else {
            Reader::Plain
        };
        let least = match (quiet, verbose) {
            (true, _) => Priority::Warning,
            (false, 0) => Priority::Info,
            (false, _) => Priority::Debug,
        };
        Self { program, reader, least, host: None, bar: Arc::default() }
    }

    /// The same, telling the service manager too.
    #[must_use]
    pub fn with_host(&self, host: Host) -> Self {
        Self { host: Some(host), ..self.clone() }
    }

    /// Whether `--json` was given.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.reader == Reader::Program
    }

    /// Whether `--quiet` was given.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.least < Priority::Info
    }

    /// A step of the work begins.
    pub async fn step(&self, text: &str) {
        self.info(text);
        if let Some(host) = &self.host {
            host.status(text, true).await;
        }
    }

    /// A line that a person wants to read.
    pub fn info(&self, text: &str) {
        self.line(Priority::Info, text);
    }

    /// A line for `--verbose`.
    pub fn debug(&self, text: &str) {
        self.line(Priority::Debug, text);
    }

    /// A line that ought to be known.
    pub fn warn(&self, text: &str) {
        self.line(Priority::Warning, text);
    }

    /// The failure of the run.
    pub fn error(&self, text: &str) {
        self.line(Priority::Error, text);
    }

    #[expect(clippy::disallowed_methods, reason = "it is `text::printable` or `text::json` that is written")]
    fn line(&self, priority: Priority, text: &str) {
        if priority > self.least {
            return;
        }
        let word = match priority {
            Priority::Error | Priority::Info | Priority::Debug => "",
            Priority::Warning => "warning: ",
        };
        let (program, text) = (self.program, text::printable(text));
        let rendered = match self.reader {
            Reader::Program => {
                let level = format!("{priority:?}").to_lowercase();
                format!("{}\n", text::json(&json!({ "event": "message", "level": level, "text": text }).to_string()))
            }
            // journald reads a priority at the start of every line.
            Reader::Journal => {
                let prefix = format!("<{}>", priority as u8);
                let lines: Vec<String> = format!("{word}{text}").lines().map(|line| prefix.clone() + line).collect();
                lines.join("\n") + "\n"
            }
            Reader::Terminal | Reader::Plain => format!("{program}: {word}{text}\n"),
        };
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        let write = || {
            // A closed standard error is no reason to stop a restore.
            let _ = std::io::stderr().lock().write_all(rendered.as_bytes());
        };
        match bar.as_ref() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Does some work, and shows its meter meanwhile.
    pub async fn show<T>(&self, meter: &Meter, work: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let mut told = Instant::now();
        let (mut signed, mut last) = (Instant::now(), meter.place());
        if self.reader == Reader::Terminal && self.least >= Priority::Info {
            *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = Some(terminal_bar());
        }
        let mut work = std::pin::pin!(work);
        let mut ticks = tokio::time::interval(TICK);
        let result = loop {
            tokio::select! {
                biased;
                result = &mut work => break result,
                _ = ticks.tick() => {
                    if told.elapsed() >= self.reader.interval() {
                        told = Instant::now();
                        self.tell(meter, started);
                    }
                    if let Some(host) = self.host.as_ref().filter(|_| signed.elapsed() >= Duration::from_secs(2)) {
                        signed = Instant::now();
                        let place = meter.place();
                        // What hangs must not be given more time for ever.
                        let moves = place != last;
                        last = place;
                        host.status(&sentence(meter, started), moves).await;
                    }
                }
            }
        };
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
        result
    }

    #[expect(clippy::disallowed_methods, reason = "it is `text::json` that is written")]
    fn tell(&self, meter: &Meter, started: Instant) {
        match self.reader {
            Reader::Terminal => {
                let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(bar) = bar.as_ref() {
                    bar.set_message(text::one_line(&sentence(meter, started)).into_owned());
                    bar.tick();
                }
            }
            Reader::Program => {
                if self.least >= Priority::Info {
                    let line = json!({
                        "event": "progress",
                        "what": meter.what(),
                        "bytes": meter.bytes.load(Ordering::Relaxed),
                        "total_bytes": meter.total.load(Ordering::Relaxed),
                        "rows": meter.rows.load(Ordering::Relaxed),
                        "chunks_read": meter.chunks_read.load(Ordering::Relaxed),
                        "chunks_reused": meter.chunks_reused.load(Ordering::Relaxed),
                        "seconds": started.elapsed().as_secs_f64(),
                    });
                    let _ = writeln!(std::io::stderr().lock(), "{}", text::json(&line.to_string()));
                }
            }
            Reader::Plain | Reader::Journal => self.info(&sentence(meter, started)),
        }
    }
}

fn terminal_bar() -> ProgressBar {
    let target = match terminal::relayed_columns() {
        Some(columns) => ProgressDrawTarget::term_like(Box::new(terminal::Relayed { columns })),
        None => ProgressDrawTarget::stderr(),
    };
    let bar = ProgressBar::with_draw_target(None, target);
    // indicatif leaves colour out where NO_COLOR is set; the template has none anyway.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar
}

/// `public.positions: 120.0 MiB of 704.0 MiB, 1,200,000 rows, 61.2 MiB/s, 10 s left`
fn sentence(meter: &Meter, started: Instant) -> String {
    let since = meter.since.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(started);
    sentence_after(meter, since.elapsed())
}

fn sentence_after(meter: &Meter, elapsed: Duration) -> String {
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let (bytes, total, rows) = (count(&meter.bytes), count(&meter.total), count(&meter.rows));
    let (read, reused) = (count(&meter.chunks_read), count(&meter.chunks_reused));
    let mut text = meter.what();
    if bytes > 0 {
        text = format!("{text}: {}", BinaryBytes(bytes));
        if total > 0 {
            text = format!("{text} of {}", BinaryBytes(total));
        }
        if rows > 0 {
            text = format!("{text}, {} rows", HumanCount(rows));
        }
        if read + reused > 0 {
            text = format!("{text}, {read} chunks read, {reused} reused");
        }
        let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = bytes.saturating_mul(1000) / milliseconds;
        text = format!("{text}, {}/s", BinaryBytes(rate));
        if total > bytes && rate > 0 {
            text = format!("{text}, {} s left", (total - bytes).div_ceil(rate));
        }
    }
    text
}

/// Whether standard error goes to the journal: systemd names the stream's device and inode, since a redirected
/// standard error inherits the variable too. Source: systemd.exec(5), `$JOURNAL_STREAM`.
fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|stream| named == format!("{}:{}", stream.st_dev(), stream.st_ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_tells_how_far_it_is_and_how_long_it_will_take() {
        let meter = Meter::new("reading");
        assert_eq!(sentence(&meter, Instant::now()), "reading");
        meter.total.store(300 << 20, Ordering::Relaxed);
        meter.add(100 << 20);
        meter.chunks_read.store(6, Ordering::Relaxed);
        meter.chunks_reused.store(40, Ordering::Relaxed);
        assert_eq!(
            sentence_after(&meter, Duration::from_secs(10)),
            "reading: 100.00 MiB of 300.00 MiB, 6 chunks read, 40 reused, 10.00 MiB/s, 20 s left"
        );
    }

    #[test]
    fn work_that_is_asked_to_end_hears_of_it() {
        let meter = Meter::new("");
        meter.check().unwrap();
        meter.stop(15);
        assert_eq!(meter.check().unwrap_err().kind().exit_code(), 143);
    }
}
