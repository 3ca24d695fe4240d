//! Restoring and backing up beside the tools that people have, in one run, on one server.
//!
//!     cargo bench --bench restore
//!
//! The peers are today's script (`psql < file`) and `pg_restore -j2`, each into an empty database and with nothing
//! else; `teslamate-restore` is timed as a whole: judging the dump, loading, ANALYZE, verifying and the swap. The server
//! has PostgreSQL's own defaults, durable ones. Every measurement is repeated, in the opposite order each time, and the
//! best one counts. The result is a table in Markdown on standard output.
//!
//! `BENCH_POSITIONS` (4000000) and `BENCH_ROUNDS` (2) change the size.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the result, and what is being measured")]
// What follows is about the tests' helpers, which fail by panicking, explain themselves by their names and are not all
// needed here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::must_use_candidate, clippy::missing_panics_doc, clippy::unnecessary_debug_formatting)]
#![allow(dead_code, unreachable_pub, missing_docs)]

#[path = "../tests/integration/support/binary.rs"]
mod binary;
#[path = "../tests/integration/support/server.rs"]
mod server;
#[path = "../tests/integration/support/systemctl.rs"]
mod systemctl;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use binary::Site;
use serde_json::Value;
use server::{Options, Server};

/// The live database, which the restores replace.
const LIVE: &str = "teslamate";
/// The database that the peers load into.
const PEER: &str = "peer";

fn main() -> Result<()> {
    // `cargo test --benches` runs this too, and is not to take minutes.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let positions = number("BENCH_POSITIONS", 4_000_000)?;
    let rounds = number("BENCH_ROUNDS", 2)?;
    let bench = Bench::new(positions)?;
    println!("{}\n", bench.facts(positions, rounds)?);
    let backups = bench.measure(&Bench::BACKUPS, rounds)?;
    println!("{}\n", table("backup", &backups, &["pg_dump > file", "pg_dump -Fc"]));
    let restores = bench.measure(&Bench::RESTORES, rounds)?;
    println!("{}\n", table("restore", &restores, &["psql < file", "pg_restore -j2, directory"]));
    println!("`teslamate-restore --help`: {:.1} ms (median of 21)", bench.help()?.as_secs_f64() * 1000.0);
    Ok(())
}

fn number(variable: &str, default: u32) -> Result<u32> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable} is no number")),
        Err(_) => Ok(default),
    }
}

/// What is measured.
#[derive(Clone, Copy)]
enum Task {
    /// A stock tool with these arguments, its output to this file.
    Dump { name: &'static str, arguments: &'static [&'static str], file: &'static str },
    /// `teslamate-backup` to this file.
    Backup { name: &'static str, file: &'static str },
    /// `psql < file` into an empty database.
    Psql { name: &'static str, file: &'static str },
    /// `pg_restore -j2` into an empty database.
    PgRestore { name: &'static str, file: &'static str },
    /// `teslamate-restore` of this file, over the live database.
    Restore { name: &'static str, file: &'static str },
}

/// One measurement.
struct Sample {
    seconds: f64,
    /// What a peer leaves to be done: ANALYZE.
    rest: Option<f64>,
    downtime: Option<f64>,
    /// The peak of the program's own memory, in kB.
    peak: Option<u64>,
    bytes: Option<u64>,
}

struct Measured {
    name: &'static str,
    samples: Vec<Sample>,
}

impl Measured {
    fn best(&self) -> &Sample {
        self.samples.iter().min_by(|left, right| left.seconds.total_cmp(&right.seconds)).expect("at least one round")
    }
}

struct Bench {
    site: Site,
    server: Server,
    files: tempfile::TempDir,
}

impl Bench {
    const BACKUPS: [Task; 6] = [
        Task::Dump { name: "pg_dump > file", arguments: &[], file: "peer.sql" },
        Task::Dump { name: "pg_dump -Fc", arguments: &["-Fc"], file: "peer.dump" },
        Task::Backup { name: "teslamate-backup .sql", file: "live.sql" },
        Task::Backup { name: "teslamate-backup .sql.zst", file: "live.sql.zst" },
        Task::Backup { name: "teslamate-backup .sql.gz", file: "live.sql.gz" },
        Task::Backup { name: "teslamate-backup .dump", file: "live.dump" },
    ];

    const RESTORES: [Task; 7] = [
        Task::Psql { name: "psql < file", file: "live.sql" },
        Task::PgRestore { name: "pg_restore -j2, directory", file: "directory" },
        Task::PgRestore { name: "pg_restore -j2, .dump", file: "live.dump" },
        Task::Restore { name: "teslamate-restore .sql", file: "live.sql" },
        Task::Restore { name: "teslamate-restore .sql.zst", file: "live.sql.zst" },
        Task::Restore { name: "teslamate-restore .dump", file: "live.dump" },
        Task::Restore { name: "teslamate-restore directory", file: "directory" },
    ];

    fn new(positions: u32) -> Result<Self> {
        // The tests' server is made for speed; the last setting of a name counts, and these are PostgreSQL's own.
        let config = ["fsync = on", "shared_buffers = 128MB", "max_wal_size = 1GB", "autovacuum_naptime = 1min"];
        let server = Server::start(Options { config: config.map(str::to_owned).into(), ..Options::default() });
        eprintln!("creating {positions} positions");
        server.create_teslamate(LIVE, positions);
        let site = Site::new(&server, LIVE);
        let files = tempfile::Builder::new().prefix("glovebox-bench-").tempdir()?;
        server.pg_dump(LIVE, &files.path().join("directory"), &["-Fd", "-j2"]);
        Ok(Self { site, server, files })
    }

    fn facts(&self, positions: u32, rounds: u32) -> Result<String> {
        let cores = std::thread::available_parallelism()?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        let kilobytes = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("no MemTotal")?;
        let kilobytes: f64 = kilobytes.trim().trim_end_matches(" kB").parse()?;
        let version = self.server.query("postgres", "SHOW server_version");
        let size = self.server.query("postgres", &format!("SELECT pg_size_pretty(pg_database_size('{LIVE}'))"));
        Ok(format!(
            "{cores} cores, {:.0} GB of memory, PostgreSQL {}; {positions} positions, a database of {size}; best of \
             {rounds}.",
            kilobytes / 1_048_576.0,
            version.split(' ').next().unwrap_or_default()
        ))
    }

    fn path(&self, file: &str) -> PathBuf {
        self.files.path().join(file)
    }

    fn measure(&self, tasks: &[Task], rounds: u32) -> Result<Vec<Measured>> {
        let names = tasks.iter().map(|task| task.name());
        let mut measured: Vec<Measured> = names.map(|name| Measured { name, samples: Vec::new() }).collect();
        for round in 0..rounds {
            let mut order: Vec<usize> = (0..tasks.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                // What the one before left to be written is not the next one's to wait for.
                self.server.query("postgres", "CHECKPOINT");
                rustix::fs::sync();
                let sample = self.run(tasks[at])?;
                eprintln!("{}: {:.2} s", measured[at].name, sample.seconds);
                measured[at].samples.push(sample);
            }
        }
        Ok(measured)
    }

    fn run(&self, task: Task) -> Result<Sample> {
        match task {
            Task::Dump { arguments, file, .. } => {
                let mut dump = self.server.tool("pg_dump");
                dump.args(["-d", LIVE]).args(arguments).stdout(File::create(self.path(file))?);
                let seconds = time(&mut dump)?;
                let bytes = fs::metadata(self.path(file))?.len();
                fs::remove_file(self.path(file))?;
                Ok(Sample { seconds, rest: None, downtime: None, peak: None, bytes: Some(bytes) })
            }
            Task::Backup { file, .. } => {
                let path = self.path(file);
                let (sample, document) = self.ours("teslamate-backup", &["--json", "--force"], &path)?;
                Ok(Sample { bytes: document["bytes"].as_u64(), ..sample })
            }
            Task::Psql { file, .. } => {
                let mut psql = self.server.tool("psql");
                psql.args(["-X", "-q", "-d", PEER]).stdin(File::open(self.path(file))?).stdout(Stdio::null());
                self.peer(&mut psql)
            }
            Task::PgRestore { file, .. } => {
                let mut restore = self.server.tool("pg_restore");
                restore.args(["-j2", "-d", PEER]).arg(self.path(file));
                self.peer(&mut restore)
            }
            Task::Restore { file, .. } => {
                let path = self.path(file);
                Ok(self.ours("teslamate-restore", &["--json", "--yes", "--jobs", "2"], &path)?.0)
            }
        }
    }

    /// Loads into an empty database, which goes again afterwards.
    fn peer(&self, command: &mut Command) -> Result<Sample> {
        self.server.query("postgres", &format!("CREATE DATABASE {PEER} OWNER teslamate"));
        let seconds = time(command)?;
        let finishing = Instant::now();
        self.server.query(PEER, "ANALYZE");
        let rest = finishing.elapsed().as_secs_f64();
        let rows = |database| self.server.query(database, "SELECT count(*) FROM positions");
        ensure!(rows(PEER) == rows(LIVE), "the peer did not load every row");
        self.server.query("postgres", &format!("DROP DATABASE {PEER}"));
        Ok(Sample { seconds, rest: Some(rest), downtime: None, peak: None, bytes: None })
    }

    /// Runs one of our programs, and looks at its memory meanwhile.
    fn ours(&self, program: &str, arguments: &[&str], file: &Path) -> Result<(Sample, Value)> {
        let begin = Instant::now();
        let child = self.site.command(program).args(arguments).arg(file).spawn();
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
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {}: {words}", file.display());
        let peak = watching.join().ok().filter(|peak| *peak > 0);
        let document: Value = serde_json::from_slice(&output.stdout)?;
        let downtime = document["downtime_seconds"].as_f64();
        Ok((Sample { seconds, rest: None, downtime, peak, bytes: None }, document))
    }

    fn help(&self) -> Result<Duration> {
        let mut times = Vec::new();
        for _ in 0..21 {
            let begin = Instant::now();
            let status = self.site.command("teslamate-restore").arg("--help").spawn().wait_with_output()?.status;
            times.push(begin.elapsed());
            ensure!(status.success(), "teslamate-restore --help failed");
        }
        times.sort();
        Ok(times[times.len() / 2])
    }
}

impl Task {
    fn name(self) -> &'static str {
        match self {
            Self::Dump { name, .. }
            | Self::Backup { name, .. }
            | Self::Psql { name, .. }
            | Self::PgRestore { name, .. }
            | Self::Restore { name, .. } => name,
        }
    }
}

fn time(command: &mut Command) -> Result<f64> {
    let begin = Instant::now();
    let status = command.status()?;
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(status.success(), "{command:?}: {status}");
    Ok(seconds)
}

fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// A table of the best of each, with its ratio to each of the named peers.
fn table(what: &str, measured: &[Measured], peers: &[&str]) -> String {
    let is_restore = what == "restore";
    let mut header = vec![what.to_owned(), "seconds".to_owned()];
    header.extend(peers.iter().map(|peer| format!("of `{peer}`")));
    header.push(if is_restore { "ANALYZE".into() } else { "size".into() });
    if is_restore {
        header.push("downtime".into());
    }
    header.push("peak memory".into());
    let mut lines = vec![row(&header)];
    lines.push(format!("|---{}|", "|---:".repeat(header.len() - 1)));
    for entry in measured {
        let best = entry.best();
        let mut cells = vec![format!("`{}`", entry.name), format!("{:.2}", best.seconds)];
        for peer in peers {
            let peer = measured.iter().find(|other| other.name == *peer).map_or(f64::NAN, |peer| peer.best().seconds);
            cells.push(format!("{:.2}", best.seconds / peer));
        }
        if is_restore {
            cells.push(best.rest.map_or_else(|| "included".into(), |seconds| format!("+ {seconds:.2} s")));
            let worst = entry.samples.iter().filter_map(|sample| sample.downtime).reduce(f64::max);
            cells.push(worst.map_or_else(|| "all of it".into(), |seconds| format!("{seconds:.2} s")));
        } else {
            cells.push(best.bytes.map_or_else(String::new, |bytes| format!("{} MB", bytes / 1_000_000)));
        }
        let peak = entry.samples.iter().filter_map(|sample| sample.peak).max();
        cells.push(peak.map_or_else(String::new, |kilobytes| format!("{} MB", kilobytes / 1024)));
        lines.push(row(&cells));
    }
    lines.join("\n")
}

fn row(cells: &[String]) -> String {
    format!("| {} |", cells.join(" | "))
}
