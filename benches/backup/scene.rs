//! The server, its database, and what changes in it.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::support::Site;
use crate::support::tree_server::Server17;
use crate::{backrest, common};

/// The live database.
pub const LIVE: &str = "teslamate";

/// The scripts that make and run servers.
const HOST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host");

fn host(script: &str) -> Command {
    Command::new(Path::new(HOST).join(script))
}

fn dir_of(server: &Server17) -> PathBuf {
    server.socket().parent().expect("it is in the server's directory").to_owned()
}

/// Which positions change, one of a thousand.
#[derive(Clone, Copy, PartialEq)]
pub enum Change {
    /// The last ones, and a few drives: this is how TeslaMate writes.
    Newest,
    /// Any, so that hardly a part of the table stays as it was.
    Scattered,
}

impl Change {
    pub fn words(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Scattered => "scattered",
        }
    }
}

/// Removes the directory of everything when the bench has ended, however it ended.
struct Keeper {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Keeper {
    /// What is interrupted on a terminal is this shell too, and it has to outlive that.
    const SCRIPT: &str = r#"
        trap '' INT TERM HUP
        cat >/dev/null
        for server in "$DIR"/gb17-*; do
            [ -d "$server" ] && "$HOST/pg-server" 17 kill "$server"
        done
        # A program that was cut off may be writing its last file.
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            rm -rf --one-file-system "$DIR" && break
            sleep 0.5
        done
    "#;

    fn of(dir: PathBuf) -> Result<Self> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", Self::SCRIPT])
            .env("DIR", dir)
            .env("HOST", HOST)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pipe = child.stdin.take();
        Ok(Self { child, pipe })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.child.wait();
    }
}

/// Where everything takes place. The fields are dropped in this order.
pub struct Scene {
    server: Server17,
    dir: PathBuf,
    _keeper: Keeper,
}

impl Scene {
    /// Starts the server; `None`, with a sentence, where there is none to be had.
    pub fn set(most_positions: u32) -> Result<Option<Self>> {
        if !nix::unistd::geteuid().is_root() {
            println!("not measured: PostgreSQL 17 runs in a root directory of its own, which needs root");
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("glovebox-bench-").tempdir()?.keep();
        let keeper = Keeper::of(dir.clone())?;
        let tools = host("pg-tools").arg("17").arg(dir.join("tools")).output()?;
        if !tools.status.success() {
            println!("not measured: {}", String::from_utf8_lossy(&tools.stderr).trim());
            return Ok(None);
        }
        enough_room(&dir, most_positions)?;
        ensure!(tempfile::env::override_temp_dir(&dir).is_ok(), "a temporary directory was asked for before");
        let settings = [
            "fsync=on",
            "shared_buffers=128MB",
            "max_wal_size=1GB",
            // For pgBackRest; it refuses a command without its name.
            "archive_mode=on",
            "archive_command=/bin/sh /mnt/pgbackrest/archive %p",
        ];
        let server = Server17::start(&settings).context("TEST_SKIP_HOST is set")?;
        backrest::install(&dir_of(&server))?;
        server.query("postgres", "CREATE ROLE teslamate SUPERUSER LOGIN");
        Ok(Some(Self { server, dir, _keeper: keeper }))
    }

    /// A path for what this bench writes.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The server's directory, which the commands of [`Self::beside`] find at `/mnt`.
    pub fn server_dir(&self) -> PathBuf {
        dir_of(&self.server)
    }

    /// An installation of ours on this server.
    pub fn site(&self) -> Site {
        self.server.site(Some(&self.server.tools()))
    }

    /// One of the client programs, connected as the superuser; or another of the tools.
    pub fn tool(&self, program: &str) -> Command {
        self.server.tool(program)
    }

    /// A program of the tree, beside the server and as the server's account.
    pub fn beside(&self, program: &str) -> Command {
        let mut command = host("pg-server");
        command.args(["17", "run"]).arg(self.server_dir()).arg(program);
        command
    }

    pub fn query(&self, database: &str, sql: &str) -> String {
        self.server.query(database, sql)
    }

    pub fn settle(&self) {
        common::settle(|database, sql| self.query(database, sql));
    }

    pub fn machine(&self) -> Result<String> {
        common::machine(|database, sql| self.query(database, sql))
    }

    pub fn size(&self) -> String {
        common::size(|database, sql| self.query(database, sql), LIVE)
    }

    /// A database as it is after a while: vacuumed, so that nothing but what changes is written to it.
    pub fn create(&self, positions: u32) -> Result<()> {
        eprintln!("creating {positions} positions");
        self.server.fill_teslamate(positions);
        self.query(LIVE, "VACUUM ANALYZE");
        let there = self.query(LIVE, "SELECT count(*) FROM positions");
        ensure!(there == positions.to_string(), "{there} positions instead of {positions}");
        Ok(())
    }

    /// Changes one of a thousand positions; how many these are.
    pub fn change(&self, which: Change, round: u32) -> Result<u64> {
        let condition = match which {
            Change::Newest => {
                self.query(
                    LIVE,
                    "UPDATE drives SET outside_temp_avg = coalesce(outside_temp_avg, 0) + 0.1 \
                     WHERE id > (SELECT max(id) FROM drives) - 4",
                );
                "id > (SELECT max(id) - max(id) / 1000 FROM positions)".to_owned()
            }
            Change::Scattered => format!("hashint4extended(id, {round}) % 1000 = 0"),
        };
        let sql = format!(
            "WITH changed AS (UPDATE positions SET elevation = (coalesce(elevation, 0) + 1) % 1000 WHERE {condition} \
             RETURNING 1) SELECT count(*) FROM changed"
        );
        Ok(self.query(LIVE, &sql).parse()?)
    }

    /// Drops the live database and those that restores have kept.
    pub fn drop_databases(&self) {
        let names = format!("SELECT datname FROM pg_database WHERE starts_with(datname, '{LIVE}')");
        for name in self.query("postgres", &names).lines() {
            self.query("postgres", &format!("DROP DATABASE \"{name}\""));
        }
    }
}

/// A database of the largest size with its WAL, or three smaller ones and what was dumped and backed up of them.
fn enough_room(dir: &Path, positions: u32) -> Result<()> {
    let needed = u64::from(positions) * 500 + 3_000_000_000;
    let system = rustix::fs::statvfs(dir)?;
    let free = system.f_bavail * system.f_frsize;
    let gigabytes = |bytes: u64| bytes / 1_000_000_000;
    let (free_gb, needed_gb) = (gigabytes(free), gigabytes(needed));
    ensure!(free > needed, "{}: {free_gb} GB are free, about {needed_gb} GB are needed (TMPDIR)", dir.display());
    Ok(())
}
