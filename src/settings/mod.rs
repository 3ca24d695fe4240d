//! Settings: from files, environment and command line to one validated [`Settings`].
//!
//! Precedence, the first that has a value wins: command line, environment, secrets file, configuration file, default.
//! [`keys`] is the table of all settings, [`inputs`] reads the files, [`secrets`] reads systemd's `EnvironmentFile`
//! syntax, `resolve` applies the precedence and reports every mistake at once, each with its file and key.

pub mod inputs;
pub mod keys;
mod resolve;
pub mod secrets;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

pub use inputs::Inputs;
pub use secrets::Secret;

/// Where a value came from. The order is the precedence, the strongest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// The TOML file.
    File,
    /// The secrets file.
    SecretsFile,
    /// The environment.
    Environment,
    /// The command line.
    CommandLine,
}

/// Everything that was configured, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The database and how to reach it.
    pub database: Database,
    /// The service that uses the database.
    pub service: Service,
    /// The repository for backups, if one is configured.
    pub repository: Option<Repository>,
    /// Further repositories that get a copy of every backup.
    pub copies: Vec<Repository>,
    /// Which backups are kept.
    pub retention: Retention,
    /// How backups are taken.
    pub backup: Backup,
    /// How many databases that a restore replaced are kept.
    pub keep_previous: u32,
    /// Extensions that every restore and drill leaves out, with the rows of their tables.
    pub skip_extensions: Vec<String>,
    /// What is done about the application's migrations.
    pub migrations: Migrations,
    /// Where runs leave what must survive them (absolute).
    pub state_dir: PathBuf,
    /// `TeslaMate`'s key for the tokens at rest.
    pub encryption_key: Option<Secret>,
    /// The Erlang cookie that `<executable> rpc` needs.
    pub release_cookie: Option<Secret>,
    /// What is not wrong but ought to be known, for example a secrets file that everyone can read.
    pub warnings: Vec<String>,
}

/// The database and how to reach it.
#[derive(Clone, Debug)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// The role that connects.
    pub user: String,
    /// The role's password, where the server asks for one.
    pub password: Option<Secret>,
    /// A host name or a directory with a Unix socket.
    pub address: Address,
    /// TCP port, or the number in the socket's name.
    pub port: u16,
    /// Whether TCP is encrypted.
    pub ssl: Ssl,
    /// Whether the password may be sent in clear text to a server that TLS does not prove to be the right one.
    pub allow_cleartext_password: bool,
    /// The account that does the work when a binary is started as root; see `privilege.rs` for the default.
    pub os_user: Option<String>,
    /// The directory of `pg_dump` and `pg_restore`, where `PATH` is not to be searched.
    pub tools: Option<PathBuf>,
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The directory of a Unix socket.
    Socket(PathBuf),
    /// A host name or an IP address.
    Tcp(String),
}

/// `DATABASE_SSL`, as `TeslaMate` means it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ssl {
    /// `false`: plain text.
    Disable,
    /// `noverify`: encrypted, whoever answers.
    NoVerify,
    /// `true`: encrypted, and the certificate must be valid for the host.
    Verify {
        /// `DATABASE_SSL_CA_CERT_FILE`; without it the system's authorities are trusted.
        ca: Option<PathBuf>,
    },
}

/// The service that uses the database.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its systemd unit.
    pub unit: String,
    /// The application's own executable, for `rpc`.
    pub executable: Option<PathBuf>,
    /// Stops the service instead of systemd: a program and its arguments.
    pub stop: Option<Vec<String>>,
    /// Starts the service instead of systemd: a program and its arguments.
    pub start: Option<Vec<String>>,
}

/// A place for backups, in the words of restic.
///
/// A location may hold a password, and options may be keys: its `Debug` shows neither.
#[derive(Clone, Default)]
pub struct Repository {
    /// A directory or a URL.
    pub location: String,
    /// The file with its password.
    pub password_file: PathBuf,
    /// What the file holds, where it was read with the caller's rights.
    pub password: Option<Secret>,
    /// Options of the storage behind it.
    pub options: BTreeMap<String, String>,
    /// A file in systemd's `EnvironmentFile` syntax with credentials of the storage, under the names that restic has.
    pub environment_file: Option<PathBuf>,
    /// The credentials: that file's variables, and those of our own environment that it does not set.
    pub environment: BTreeMap<String, Secret>,
    /// Where runs on this machine lock a repository that is no directory (absolute).
    pub lock_dir: PathBuf,
}

impl fmt::Debug for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let location = match self.location.split_once('@') {
            Some((_, host)) => format!("***@{host}"),
            None => self.location.clone(),
        };
        formatter
            .debug_struct("Repository")
            .field("location", &location)
            .field("password_file", &self.password_file)
            .field("options", &self.options.keys())
            .finish_non_exhaustive()
    }
}

/// How many backups of each kind are kept, in the words of restic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The newest ones.
    pub keep_last: u32,
    /// One an hour.
    pub keep_hourly: u32,
    /// One a day.
    pub keep_daily: u32,
    /// One a week.
    pub keep_weekly: u32,
    /// One a month.
    pub keep_monthly: u32,
    /// One a year.
    pub keep_yearly: u32,
    /// Every one that was taken before a restore or another change, for this many days.
    pub keep_safety_days: u32,
}

/// How backups are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Parallel connections; 0 stands for one per CPU.
    pub jobs: u32,
    /// Heap blocks (8192 bytes as a rule) in a chunk.
    pub chunk_blocks: u32,
    /// zstd level, 1 to 22.
    pub compression: u32,
    /// Further files that belong to the installation.
    pub extra_files: Vec<PathBuf>,
}

/// What is done about the application's migrations before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrations {
    /// What is done after one that failed.
    pub on_failure: OnFailure,
    /// Without a backup there is no migration.
    pub require_backup: bool,
    /// How long the server is waited for, in seconds.
    pub wait: u32,
}

/// What is done after a migration that failed. The application is not started in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Nothing: somebody looks at it.
    Stop,
    /// The backup from before is restored.
    Restore,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r87_a_repositorys_debug_output_holds_no_secret() {
        let repository = Repository {
            location: "rest:https://user:c4nary@host/path".into(),
            password_file: "/run/password".into(),
            password: Some("c4nary".to_owned().into()),
            options: BTreeMap::from([("secret_access_key".into(), "c4nary".into())]),
            environment: BTreeMap::from([("AWS_SECRET_ACCESS_KEY".into(), "c4nary".to_owned().into())]),
            ..Repository::default()
        };
        let shown = format!("{repository:?}");
        assert!(
            !shown.contains("c4nary") && shown.contains("@host/path") && shown.contains("secret_access_key"),
            "{shown}"
        );
    }
}
