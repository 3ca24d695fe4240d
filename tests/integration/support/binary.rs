//! Runs the built binaries as a user or a timer would: with a configuration file, and an environment of their own.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sha2::{Digest, Sha256};

use super::server::{Server, is_root};
use super::systemctl::Systemctl;

/// Every program that is installed.
pub const PROGRAMS: [&str; 7] = [
    "teslamate-backup",
    "teslamate-restore",
    "teslamate-migrate",
    "teslamate-close-drive",
    "teslamate-close-charge",
    "teslamate-delete-drive",
    "teslamate-delete-charge",
];

/// An installation: a directory with configuration, state, and a service.
pub struct Site {
    dir: tempfile::TempDir,
    /// The database's name.
    pub database: String,
    /// The service manager.
    pub systemctl: Systemctl,
    server_dir: PathBuf,
}

impl Site {
    /// For a database of this server; the service is running.
    pub fn new(server: &Server, database: &str) -> Self {
        Self::at(server.dir(), server.port(), database)
    }

    /// For a database of the server whose socket this directory holds.
    pub fn at(socket_dir: &Path, port: u16, database: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("glovebox-site-").tempdir().expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::create_dir(dir.path().join("state")).expect("state directory");
        let site = Self {
            systemctl: Systemctl::new(dir.path(), "active"),
            dir,
            database: database.to_owned(),
            server_dir: socket_dir.to_owned(),
        };
        site.configure(&format!("port = {port}"), "");
        site
    }

    /// Writes the configuration, with these lines added to `[database]` and to the end.
    pub fn configure(&self, database_lines: &str, more: &str) {
        let text = format!(
            "state_dir = {state:?}\n{more}\n[database]\nname = {name:?}\nuser = \"teslamate\"\nsocket_dir = {socket:?}\n\
             os_user = {user:?}\n{database_lines}\n",
            state = self.state_dir(),
            name = self.database,
            socket = self.server_dir,
            user = if super::server::is_root() { "root".to_owned() } else { whoami() },
        );
        self.write_config(&text);
    }

    /// Writes the configuration as it is given.
    pub fn write_config(&self, text: &str) {
        fs::write(self.config(), text).expect("config");
    }

    pub fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    /// The note about a unit that a run of this test's account stopped: one of root's is out of everybody else's reach.
    pub fn note_about(&self, unit: &str) -> PathBuf {
        if !is_root() {
            return self.state_dir().join("service-stopped");
        }
        let mut hash = Sha256::new();
        for part in &self.state_dir() {
            hash.update(part.as_encoded_bytes());
            hash.update([0]);
        }
        let hex = hash.finalize().iter().take(8).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        Path::new("/run/glovebox").join(format!("{unit}.{hex}.stopped"))
    }

    /// Leaves that note as a run that was killed would have.
    pub fn leave_note_about(&self, unit: &str) {
        let note = self.note_about(unit);
        fs::create_dir_all(note.parent().expect("a directory")).expect("a directory");
        fs::set_permissions(note.parent().expect("a directory"), fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::write(note, format!("{unit}\n")).expect("a note");
    }

    /// A path in the installation's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The names of the files in a directory of the installation, hidden ones too.
    pub fn files(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).expect("a directory").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A binary with its configuration; `teslamate-restore` for example.
    pub fn command(&self, binary: &str) -> Run {
        self.prepared(Command::new(path_of(binary)))
    }

    /// The same, started by another program: the command ends where the binary is to be named.
    pub fn under(&self, mut program: Command, binary: &str) -> Run {
        program.arg(path_of(binary));
        self.prepared(program)
    }

    fn prepared(&self, mut command: Command) -> Run {
        self.environment(&mut command);
        command
            .arg("--config")
            .arg(self.config())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Run { command, input: None }
    }

    /// Nothing of the caller's environment: its `DATABASE_…` and `GLOVEBOX_…` are settings.
    fn environment(&self, command: &mut Command) {
        let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", self.systemctl.dir().display());
        command.env_clear().env("PATH", path).env("TZ", "America/New_York");
    }

    /// Starts a binary on a terminal, which script(1) makes.
    pub fn on_terminal(&self, binary: &str, arguments: &str) -> OnTerminal {
        // script(1) takes a shell's command line; the checkout may be in a directory with a space in its name.
        let quoted = |path: PathBuf| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
        let command = format!("{} --config {} {arguments}", quoted(path_of(binary)), quoted(self.config()));
        let mut script = Command::new("script");
        self.environment(&mut script);
        let child = script
            .args(["-qec", &command, "/dev/null"])
            .env("TERM", "xterm")
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script(1) is there: it is in util-linux (Debian: bsdutils)");
        OnTerminal(Some(child))
    }

    /// Runs a binary to its end.
    #[track_caller]
    pub fn run(&self, binary: &str, arguments: &[&str]) -> Outcome {
        self.command(binary).args(arguments).outcome()
    }
}

/// A binary on a terminal.
pub struct OnTerminal(Option<Child>);

impl OnTerminal {
    /// Types an answer; the exit code, and all that was shown.
    pub fn answer(&mut self, answer: &str) -> (Option<i32>, String) {
        let mut child = self.0.take().expect("it is answered once");
        let mut keyboard = child.stdin.take().expect("a pipe");
        keyboard.write_all(format!("{answer}\n").as_bytes()).expect("typed");
        // Held open until the end: a closed keyboard is an end of file.
        let output = child.wait_with_output().expect("it ends");
        drop(keyboard);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The path of a built binary.
pub fn path_of(binary: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program's path");
    // target/<profile>/deps/integration-… -> target/<profile>/<binary>
    let dir = test.parent().and_then(Path::parent).expect("a target directory");
    let path = dir.join(binary);
    assert!(path.is_file(), "{} is not built", path.display());
    path
}

fn whoami() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).expect("accounts can be read").expect("an account").name
}

/// A binary about to be run.
pub struct Run {
    command: Command,
    input: Option<Vec<u8>>,
}

impl Run {
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Bytes for its standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self.command.stdin(Stdio::piped());
        self
    }

    /// Access to everything else that a command can be told.
    pub fn with(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// Starts it.
    pub fn spawn(mut self) -> Child {
        self.command.spawn().expect("the binary starts")
    }

    /// Runs it to its end.
    pub fn outcome(self) -> Outcome {
        let input = self.input.clone();
        let mut child = self.spawn();
        let writer = input.map(|bytes| {
            let mut pipe = child.stdin.take().expect("a pipe");
            // A binary that does not want all of it closes the pipe: that is its right.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)))
        });
        let output = child.wait_with_output().expect("the binary ends");
        if let Some(writer) = writer {
            writer.join().expect("a writer");
        }
        Outcome {
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// How a binary ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Outcome {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Fails the test unless it ended with this exit code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "signal {:?}\nstdout: {}\nstderr: {}", self.signal, self.text(), self.stderr);
        self
    }

    /// Fails the test unless standard error holds these words.
    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "not said: {words}\nstderr: {}", self.stderr);
        self
    }

    /// The one JSON document of standard output.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|cause| panic!("{cause}: {}", self.text()))
    }
}
