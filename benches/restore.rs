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

mod common;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use binary::Site;
use common::{Measured, PEER, Sample, number, table};
use serde_json::Value;
use server::{Options, Server};

/// The live database, which the restores replace.
const LIVE: &str = "teslamate";

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
    println!("{}\n", backup_table(&backups, &["pg_dump > file", "pg_dump -Fc"]));
    let restores = bench.measure(&Bench::RESTORES, rounds)?;
    println!("{}\n", table::restores(&restores, &["psql < file", "pg_restore -j2, directory"], |_| None));
    println!("{}", bench.starts()?);
    Ok(())
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
        let query = |database: &str, sql: &str| self.server.query(database, sql);
        let (machine, size) = (common::machine(query)?, common::size(query, LIVE));
        Ok(format!("{machine}; {positions} positions, a database of {size}; best of {rounds}."))
    }

    fn path(&self, file: &str) -> PathBuf {
        self.files.path().join(file)
    }

    fn measure(&self, tasks: &[Task], rounds: u32) -> Result<Vec<Measured>> {
        let mut measured = Measured::none_yet(tasks.iter().map(|task| task.name()));
        for number in 0..rounds {
            common::round(number, &mut measured, |at| {
                common::settle(|database, sql| self.server.query(database, sql));
                self.run(tasks[at])
            })?;
        }
        Ok(measured)
    }

    fn run(&self, task: Task) -> Result<Sample> {
        match task {
            Task::Dump { arguments, file, .. } => {
                let mut dump = self.server.tool("pg_dump");
                dump.args(["-d", LIVE]).args(arguments).stdout(File::create(self.path(file))?);
                let seconds = common::time(&mut dump)?;
                let bytes = fs::metadata(self.path(file))?.len();
                fs::remove_file(self.path(file))?;
                Ok(Sample { seconds, bytes: Some(bytes), ..Sample::default() })
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

    fn peer(&self, command: &mut Command) -> Result<Sample> {
        common::into_empty(|database, sql| self.server.query(database, sql), LIVE, command)
    }

    fn ours(&self, program: &str, arguments: &[&str], file: &Path) -> Result<(Sample, Value)> {
        common::watch(|| self.site.command(program).args(arguments).arg(file).spawn())
    }

    /// What a start costs where there is nothing to do, with a look into the database by `psql` as the peer.
    fn starts(&self) -> Result<String> {
        let executable = self.release()?;
        self.site.configure(
            &format!("port = {}", self.server.port()),
            &format!("service.executable = {:?}\n", executable.display().to_string()),
        );
        let look = "SELECT count(*) FROM schema_migrations";
        let runs: [(&str, &dyn Fn() -> Result<Child>); 3] = [
            ("`teslamate-restore --help`", &|| Ok(self.site.command("teslamate-restore").arg("--help").spawn())),
            ("`teslamate-migrate` with nothing pending", &|| Ok(self.site.command("teslamate-migrate").spawn())),
            ("`psql -c 'SELECT count(*) …'`", &|| {
                let mut psql = self.server.tool("psql");
                psql.args(["-X", "-d", LIVE, "-c", look]).stdout(Stdio::null()).stderr(Stdio::piped());
                Ok(psql.spawn()?)
            }),
        ];
        let mut times = vec![Vec::new(); runs.len()];
        for _ in 0..21 {
            for (run, times) in runs.iter().zip(&mut times) {
                let begin = Instant::now();
                let output = (run.1)()?.wait_with_output()?;
                times.push(begin.elapsed());
                ensure!(output.status.success(), "{}: {}", run.0, String::from_utf8_lossy(&output.stderr));
            }
        }
        let median = |times: &mut Vec<Duration>| {
            times.sort();
            times[times.len() / 2].as_secs_f64() * 1000.0
        };
        let shown = runs.iter().zip(&mut times).map(|(run, times)| format!("{}: {:.1} ms", run.0, median(times)));
        Ok(format!("{} (medians of 21).", shown.collect::<Vec<_>>().join("; ")))
    }

    /// A release of the application that has exactly the migrations of the database.
    fn release(&self) -> Result<PathBuf> {
        let root = self.path("release");
        let migrations = root.join("lib/teslamate-1.33.0/priv/repo/migrations");
        for directory in [migrations.clone(), root.join("bin"), root.join("releases")] {
            fs::create_dir_all(directory)?;
        }
        fs::write(root.join("releases/start_erl.data"), "14.2 1.33.0")?;
        for version in self.server.query(LIVE, "SELECT version FROM schema_migrations").lines() {
            fs::write(migrations.join(format!("{version}_known.exs")), "")?;
        }
        let executable = root.join("bin/teslamate");
        fs::write(&executable, "#!/bin/false\n")?;
        fs::set_permissions(&executable, fs::Permissions::from_mode(0o755))?;
        Ok(executable)
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

/// A table of the best of each, with its ratio to each of the named peers.
fn backup_table(measured: &[Measured], peers: &[&str]) -> String {
    let mut header = vec!["backup".to_owned(), "seconds".to_owned()];
    header.extend(peers.iter().map(|peer| format!("of {}", table::code(peer))));
    header.extend(["size", "peak memory"].map(str::to_owned));
    let rows: Vec<Vec<String>> = measured
        .iter()
        .map(|entry| {
            let best = entry.best();
            let mut cells = vec![table::code(&entry.name), table::seconds(best)];
            cells.extend(peers.iter().map(|peer| table::ratio(entry, measured, peer)));
            cells.extend([table::megabytes(best.bytes), table::memory(entry)]);
            cells
        })
        .collect();
    table::markdown(&header, &rows)
}
