//! A private server: `initdb` in a fresh directory, a Unix socket of its own, and a sandbox around it.
//!
//! A drill in it neither reaches the live server nor anything else of the machine. Nothing in it is meant to last, so it
//! does not wait for the disk. In: the programs of the server's version, and the state directory. Out: the directory of the
//! socket. It ends with this process, however that ends.

mod address;
mod calls;
mod place;
mod sandbox;

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

pub use self::address::settings;
use self::place::Place;
use self::sandbox::Sandbox;
use super::Connector;
use super::tools::Tools;
use crate::error::{Context, Error, Kind, Result};
use crate::process;

/// How long the server may take to start, and to end.
const START: Duration = Duration::from_mins(1);
const END: Duration = Duration::from_secs(5);

/// Settings on the command line, which nothing in the server can change.
const SETTINGS: &[&str] = &[
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "port=5432",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "archive_mode=off",
    "max_wal_size=128MB",
    "min_wal_size=32MB",
    "autovacuum=off",
    "jit=off",
    "huge_pages=off",
    "shared_buffers=64MB",
    // 64 jobs, and a few sessions beside them.
    "max_connections=100",
    "max_prepared_transactions=0",
    // The others use a file system that all processes share.
    "dynamic_shared_memory_type=mmap",
    "shared_preload_libraries=",
    "logging_collector=off",
    "ssl=off",
];

/// A server that only this process uses.
#[derive(Debug)]
pub struct PrivateServer {
    child: Child,
    // Before the place, which is removed after all processes have ended.
    sandbox: Sandbox,
    place: Place,
}

impl PrivateServer {
    /// Removes what runs that were killed left behind below the state directory.
    #[must_use]
    pub fn sweep(state_dir: &Path) -> Vec<PathBuf> {
        place::sweep(state_dir)
    }

    /// Refuses to begin as root.
    ///
    /// # Errors
    /// [`Kind::Refused`] if this process runs as root, as which PostgreSQL's server does not.
    pub fn refuse_root() -> Result<()> {
        if nix::unistd::geteuid().is_root() {
            return Err(Error::new(Kind::Refused, "PostgreSQL's server does not run as root"));
        }
        Ok(())
    }

    /// Makes a server and starts it. `superuser` is the name of its first role; `connector` is of the live server.
    ///
    /// # Errors
    /// [`Kind::Refused`] where the kernel has no sandbox for it; [`Kind::Source`] if it does not start.
    pub async fn start(tools: &Tools, state_dir: &Path, superuser: &str, connector: &Connector) -> Result<Self> {
        let place = Place::make(state_dir)?;
        let (own, socket, data) = (place.server(), place.socket(), data_directory(&place));
        let programs =
            fs::canonicalize(tools.path("")).context(Kind::Refused, "the server's programs cannot be found")?;
        let sandbox = Sandbox::enter(&programs, &[&own, &socket]).await?;
        let log = place.server().join("log");
        init(tools, &sandbox, &data, superuser, &log).await?;
        let mut command = logged(tools, "postgres", &log)?;
        command.arg("-D").arg(data);
        for setting in SETTINGS {
            command.arg("-c").arg(setting);
        }
        command.arg("-c").arg(format!("unix_socket_directories={}", socket.display()));
        let child = sandbox.start(command).await.context(Kind::Source, "cannot start a private server")?;
        let mut server = Self { child, sandbox, place };
        server.end_first_without_memory();
        server.ready(&connector.for_private(&socket, superuser)).await?;
        Ok(server)
    }

    /// The directory of its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.place.socket()
    }

    /// The directory that holds all its files. Unlike those in it, the server cannot rename it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.place.dir()
    }

    /// Waits until it lets sessions in.
    async fn ready(&mut self, connector: &Connector) -> Result<()> {
        let give_up = Instant::now() + START;
        loop {
            match connector.connect_to("template1").await {
                Ok(_) => return Ok(()),
                Err(error) => {
                    let ended = self.child.try_wait().context(Kind::Source, "cannot wait for a private server")?;
                    if ended.is_some() || Instant::now() > give_up {
                        let why = error.detail("cause").unwrap_or(error.message()).to_owned();
                        let words = tail(&self.place.server().join("log")).unwrap_or(why);
                        return Err(Error::new(Kind::Source, "a private server does not start").with("cause", words));
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it with all its processes, and removes its directory; returns what could not be done.
    pub async fn stop(mut self) -> Option<String> {
        self.signal(Signal::SIGQUIT);
        if tokio::time::timeout(END, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
        // With it, whatever a program of the server left running.
        drop(self.sandbox);
        self.place.remove().err()
    }

    /// Where memory runs out, this server is what the kernel ends, and not the live one. Source:
    /// `proc_pid_oom_score_adj(5)`.
    fn end_first_without_memory(&self) {
        if let Some(pid) = self.child.id() {
            // Without it, the kernel chooses as it does among others.
            let _ = fs::write(format!("/proc/{pid}/oom_score_adj"), "1000");
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended in this very moment.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

fn data_directory(place: &Place) -> PathBuf {
    place.server().join("data")
}

async fn init(tools: &Tools, sandbox: &Sandbox, data: &Path, superuser: &str, log: &Path) -> Result<()> {
    let mut command = logged(tools, "initdb", log)?;
    command.arg("-D").arg(data).arg(format!("--username={superuser}")).args([
        "--auth=trust",
        "--locale=C",
        "--encoding=UTF8",
        "--no-sync",
        "--no-instructions",
    ]);
    let failed = "cannot run initdb";
    let mut child = sandbox.start(command).await.context(Kind::Source, failed)?;
    let status = child.wait().await.context(Kind::Source, failed)?;
    if status.success() {
        return Ok(());
    }
    let words = tail(log).unwrap_or_else(|| status.to_string());
    Err(Error::new(Kind::Source, "initdb cannot make a private server").with("cause", words))
}

/// One of the server's programs, whose words go into the log.
fn logged(tools: &Tools, program: &str, log: &Path) -> Result<Command> {
    let open = || -> std::io::Result<File> { OpenOptions::new().create(true).append(true).open(log) };
    let mut command = process::command(&tools.path(program));
    // A signal to the terminal's programs is for us, and we end the server.
    process::without_terminal(&mut command);
    for variable in ["LOCALE_ARCHIVE", "LOCPATH", "TZDIR"] {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
    let output = open().context(Kind::Store, "cannot make a log file")?;
    let errors = open().context(Kind::Store, "cannot make a log file")?;
    command.stdout(Stdio::from(output)).stderr(Stdio::from(errors)).current_dir("/");
    Ok(command)
}

/// The last lines of a log; `None` if there are none.
fn tail(log: &Path) -> Option<String> {
    let text = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(8)..].join("\n");
    (!last.is_empty()).then_some(last)
}
