//! What the benches share: rounds of measurements, our programs' memory, tables in Markdown.

pub mod table;

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The database that the peers load into.
pub const PEER: &str = "peer";

/// One measurement.
#[derive(Default)]
pub struct Sample {
    pub seconds: f64,
    /// What a peer leaves to be done: ANALYZE.
    pub rest: Option<f64>,
    pub downtime: Option<f64>,
    /// The peak of the program's own memory, in kB.
    pub peak: Option<u64>,
    /// What was read of the database.
    pub read: Option<u64>,
    /// What was written.
    pub bytes: Option<u64>,
    /// Chunks that were read, and that were reused.
    pub chunks: Option<(u64, u64)>,
}

/// The measurements of one thing.
pub struct Measured {
    pub name: String,
    pub samples: Vec<Sample>,
}

impl Measured {
    pub fn none_yet<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        names.into_iter().map(|name| Self { name: name.to_owned(), samples: Vec::new() }).collect()
    }

    pub fn best(&self) -> &Sample {
        self.samples.iter().min_by(|left, right| left.seconds.total_cmp(&right.seconds)).expect("at least one round")
    }
}

/// Measures each once, in the opposite order every second round.
pub fn round(number: u32, measured: &mut [Measured], mut run: impl FnMut(usize) -> Result<Sample>) -> Result<()> {
    let mut order: Vec<usize> = (0..measured.len()).collect();
    if number % 2 == 1 {
        order.reverse();
    }
    for at in order {
        let sample = run(at)?;
        eprintln!("{}: {:.2} s", measured[at].name, sample.seconds);
        measured[at].samples.push(sample);
    }
    Ok(())
}

/// What the one before left to be written is not the next one's to wait for.
pub fn settle(query: impl Fn(&str, &str) -> String) {
    query("postgres", "CHECKPOINT");
    rustix::fs::sync();
}

pub fn number(variable: &str, default: u32) -> Result<u32> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable} is no number")),
        Err(_) => Ok(default),
    }
}

/// The machine and the server, for the line above the tables.
pub fn machine(query: impl Fn(&str, &str) -> String) -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kilobytes = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("no MemTotal")?;
    let kilobytes: f64 = kilobytes.trim().trim_end_matches(" kB").parse()?;
    let version = query("postgres", "SHOW server_version");
    let version = version.split(' ').next().unwrap_or_default();
    Ok(format!("{cores} cores, {:.0} GB of memory, PostgreSQL {version}", kilobytes / 1_048_576.0))
}

/// The size of a database, for people.
pub fn size(query: impl Fn(&str, &str) -> String, database: &str) -> String {
    query("postgres", &format!("SELECT pg_size_pretty(pg_database_size('{database}'))"))
}

pub fn time(command: &mut Command) -> Result<f64> {
    let begin = Instant::now();
    let status = command.status()?;
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(status.success(), "{command:?}: {status}");
    Ok(seconds)
}

/// Loads into an empty database, which is compared with the live one and goes again afterwards.
pub fn into_empty(query: impl Fn(&str, &str) -> String, live: &str, command: &mut Command) -> Result<Sample> {
    query("postgres", &format!("CREATE DATABASE {PEER} OWNER teslamate"));
    let seconds = time(command)?;
    let finishing = Instant::now();
    query(PEER, "ANALYZE");
    let rest = finishing.elapsed().as_secs_f64();
    let rows = |database| query(database, "SELECT count(*) FROM positions");
    ensure!(rows(PEER) == rows(live), "the peer did not load every row");
    query("postgres", &format!("DROP DATABASE {PEER}"));
    Ok(Sample { seconds, rest: Some(rest), ..Sample::default() })
}

/// Runs one of our programs, with `--json`, to its end, and looks at its memory meanwhile.
pub fn watch(start: impl FnOnce() -> Child) -> Result<(Sample, Value)> {
    let begin = Instant::now();
    let child = start();
    let watching = std::thread::spawn({
        // Nothing is dropped here, so this is the process that does the work.
        let status = format!("/proc/{}/status", child.id());
        move || {
            let mut peak = 0;
            // The high-water mark of a process that has ended, and waits to be collected, is not shown any more.
            while let Some(now) = fs::read_to_string(&status).ok().as_deref().and_then(high_water) {
                peak = peak.max(now);
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        }
    });
    let output = child.wait_with_output()?;
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let peak = watching.join().ok().filter(|peak| *peak > 0);
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let downtime = document["downtime_seconds"].as_f64();
    Ok((Sample { seconds, downtime, peak, ..Sample::default() }, document))
}

fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
