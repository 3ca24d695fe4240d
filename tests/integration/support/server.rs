//! A PostgreSQL server of our own: `initdb` in a temporary directory, a Unix socket, no TCP unless asked for.
//!
//! The servers end with the test process, however it ends: a shell holds the other end of a pipe, stops the server
//! when the pipe closes and removes the directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/teslamate");

/// Where this machine keeps the server's programs: the newest version, unless `TEST_PGBIN` names another.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("TEST_PGBIN") {
        return dir.into();
    }
    let mut dirs: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()))
        .filter(|dir| ["initdb", "postgres", "psql"].iter().all(|program| dir.join(program).is_file()))
        .collect();
    dirs.sort();
    dirs.pop().expect("no PostgreSQL server found: install one (Debian: apt-get install postgresql)")
}

/// The account that runs servers when the tests run as root, which PostgreSQL refuses to be run by.
pub const SERVER_ACCOUNT: &str = "postgres";

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A command that runs as the server's account.
pub fn as_server_account(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", SERVER_ACCOUNT, "--"]).arg(program);
    command
}

/// How a server is to be started.
#[derive(Default)]
pub struct Options {
    /// The body of `pg_hba.conf`; everything is trusted without it.
    pub hba: Option<String>,
    /// Lines for `postgresql.conf`.
    pub config: Vec<String>,
    /// Listen on a free port of 127.0.0.1 too.
    pub tcp: bool,
    /// Arguments for `initdb`.
    pub initdb: Vec<&'static str>,
    /// The language of the server's messages, as `LANGUAGE` names it.
    pub language: Option<&'static str>,
    /// Where the data directory is made; a temporary directory without it.
    pub base: Option<PathBuf>,
}

/// A running server.
pub struct Server {
    dir: PathBuf,
    port: u16,
    keeper: Option<(Child, ChildStdin)>,
    language: Option<&'static str>,
    next: AtomicU32,
}

impl Server {
    /// The server that tests share. Each makes a database of its own on it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| {
            let server = Self::start(Options::default());
            server.create_teslamate("template_teslamate", 3000);
            server
        })
    }

    /// A server for one test alone.
    pub fn start(options: Options) -> Self {
        let base = options.base.clone().unwrap_or_else(std::env::temp_dir);
        let made = tempfile::Builder::new().prefix("glovebox-pg-").tempdir_in(base).expect("a temporary directory");
        let dir = made.keep();
        if is_root() {
            let user = nix::unistd::User::from_name(SERVER_ACCOUNT)
                .expect("accounts can be read")
                .expect("the account `postgres` is missing: install PostgreSQL from the distribution's packages");
            nix::unistd::chown(&dir, Some(user.uid), Some(user.gid)).expect("chown");
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
        let data = dir.join("data");
        let made = as_server_account(&bin_dir().join("initdb"))
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-D"])
            .arg(&data)
            .args(&options.initdb)
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = if options.tcp { free_port() } else { 5432 };
        let mut config = vec![
            format!("unix_socket_directories = '{}'", dir.display()),
            format!("listen_addresses = '{}'", if options.tcp { "127.0.0.1" } else { "" }),
            format!("port = {port}"),
            "fsync = off".into(),
            "full_page_writes = off".into(),
            "wal_init_zero = off".into(),
            "max_connections = 60".into(),
            "max_prepared_transactions = 5".into(),
            "shared_buffers = 64MB".into(),
            "max_wal_size = 2GB".into(),
            "autovacuum_naptime = 1h".into(),
        ];
        config.extend(options.config);
        let mut file = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).expect("config");
        writeln!(file, "{}", config.join("\n")).expect("config");
        if let Some(hba) = &options.hba {
            fs::write(data.join("pg_hba.conf"), hba).expect("pg_hba.conf");
        }
        let mut server = Self { dir, port, keeper: None, language: options.language, next: AtomicU32::new(0) };
        server.boot();
        server
    }

    /// Starts the server's processes; [`Server::stop`] ends them.
    pub fn boot(&mut self) {
        if let Some((mut keeper, pipe)) = self.keeper.take() {
            // Booted again: the keeper of the server that was stopped must leave the directory alone.
            fs::write(self.dir.join("keep"), "").expect("a mark");
            drop(pipe);
            keeper.wait().expect("the keeper ends");
            fs::remove_file(self.dir.join("keep")).expect("the mark");
        }
        let script = r#"
            "$@" >> "$LOG" 2>&1 &
            pid=$!
            cat > /dev/null
            # A server that is only just starting does not hear the first signal.
            (while kill -INT $pid; do sleep 0.2; done) 2>/dev/null &
            wait $pid
            [ -e "$DIR/keep" ] || rm -rf "$DIR"
        "#;
        let mut keeper = as_server_account(Path::new("/bin/sh"))
            .args(["-c", script, "keeper"])
            .arg(bin_dir().join("postgres"))
            .arg("-D")
            .arg(self.data())
            .env("LOG", self.dir.join("log"))
            .env("DIR", &self.dir)
            .env("LANGUAGE", self.language.unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let pipe = keeper.stdin.take().expect("a pipe");
        self.keeper = Some((keeper, pipe));
        let give_up = Instant::now() + Duration::from_secs(30);
        while !self.psql_output("postgres", "SELECT 1").status.success() {
            assert!(Instant::now() < give_up, "no server: {}", fs::read_to_string(self.dir.join("log")).unwrap());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the server without removing its directory, in the given way of `pg_ctl stop -m`.
    pub fn stop(&self, mode: &str) {
        let done = as_server_account(&bin_dir().join("pg_ctl"))
            .args(["stop", "-w", "-m", mode, "-D"])
            .arg(self.data())
            .output()
            .expect("pg_ctl runs");
        assert!(done.status.success(), "pg_ctl: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// The directory of the socket.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The port, in the socket's name and of TCP.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's major version.
    pub fn major(&self) -> u32 {
        self.query("postgres", "SHOW server_version_num").parse::<u32>().expect("a number") / 10_000
    }

    /// One of the client programs, connected as the superuser `postgres`.
    pub fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(bin_dir().join(program));
        command
            .env("PGHOST", &self.dir)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("LC_ALL", "C.UTF-8")
            .env("PGOPTIONS", "-c client_min_messages=warning");
        command
    }

    fn psql_output(&self, database: &str, sql: &str) -> Output {
        self.tool("psql")
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &conninfo(database), "-c", sql])
            .output()
            .expect("psql runs")
    }

    /// Runs SQL as superuser and returns what psql prints, unaligned, without headers.
    #[track_caller]
    pub fn query(&self, database: &str, sql: &str) -> String {
        let output = self.psql_output(database, sql);
        assert!(output.status.success(), "{sql}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
    }

    /// Runs a file of SQL with psql variables.
    #[track_caller]
    pub fn run_file(&self, database: &str, file: &Path, variables: &[(&str, String)]) -> String {
        let mut command = self.tool("psql");
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &conninfo(database)]);
        for (name, value) in variables {
            command.args(["-v", &format!("{name}={value}")]);
        }
        let output = command.arg("-f").arg(file).output().expect("psql runs");
        assert!(output.status.success(), "{}\n{}", file.display(), String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// A session that has run these statements in a transaction, and keeps it open for as long as the value lives.
    #[track_caller]
    pub fn hold(&self, database: &str, statements: &str) -> Session {
        let mut child = self
            .tool("psql")
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &conninfo(database)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        writeln!(stdin, "BEGIN; {statements};\nSELECT pg_backend_pid();").expect("psql listens");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("psql answers");
        assert!(line.trim().parse::<u32>().is_ok(), "{statements}: {line}");
        Session { child, stdin: Some(stdin) }
    }

    /// A database name that no other test uses.
    pub fn fresh_name(&self, hint: &str) -> String {
        format!("{hint}_{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A new database with TeslaMate's schema and about 3,000 positions.
    #[track_caller]
    pub fn teslamate(&self, hint: &str) -> String {
        let name = self.fresh_name(hint);
        self.query("postgres", &format!("CREATE DATABASE \"{name}\" OWNER teslamate TEMPLATE template_teslamate"));
        name
    }

    /// TeslaMate's schema and data in a database of this name, from the fixtures.
    #[track_caller]
    pub fn create_teslamate(&self, name: &str, positions: u32) {
        self.query(
            "postgres",
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'teslamate') THEN \
             CREATE ROLE teslamate LOGIN SUPERUSER; END IF; END $$",
        );
        self.query("postgres", &format!("CREATE DATABASE \"{name}\" OWNER teslamate"));
        for file in ["schema.sql", "data.sql"] {
            let mut command = self.tool("psql");
            command
                .env("PGUSER", "teslamate")
                .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", &format!("positions={positions}"), "-d"])
                .arg(conninfo(name))
                .arg("-f")
                .arg(Path::new(FIXTURES).join(file));
            let output = command.output().expect("psql runs");
            assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// Rows and an order-independent hash of every table.
    #[track_caller]
    pub fn content(&self, database: &str) -> BTreeMap<String, String> {
        let text = self.run_file(database, &Path::new(FIXTURES).join("content-hash.sql"), &[]);
        text.lines().filter_map(|line| line.split_once('|')).map(|(t, h)| (t.to_owned(), h.to_owned())).collect()
    }

    /// The databases whose names begin like this.
    pub fn databases(&self, prefix: &str) -> Vec<String> {
        let sql = format!("SELECT datname FROM pg_database WHERE starts_with(datname, '{prefix}') ORDER BY 1");
        self.query("postgres", &sql).lines().map(str::to_owned).collect()
    }

    /// What stock `pg_dump` makes of a database, with these arguments.
    #[track_caller]
    pub fn pg_dump(&self, database: &str, file: &Path, arguments: &[&str]) {
        let output = self
            .tool("pg_dump")
            .args(["-d", &conninfo(database), "-f"])
            .arg(file)
            .args(arguments)
            .output()
            .expect("pg_dump runs");
        assert!(output.status.success(), "pg_dump: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// An open session; it ends with this value.
pub struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Session {
    /// Runs these statements too, and ends.
    pub fn finish(mut self, statements: &str) {
        let stdin = self.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{statements};").expect("psql listens");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((mut keeper, pipe)) = self.keeper.take() {
            drop(pipe);
            let _ = keeper.wait();
        }
    }
}

/// The path of a fixture.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(FIXTURES).join(name)
}

/// A database name as libpq's connection string, so that a name with `=` is not taken for one.
pub fn conninfo(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}
