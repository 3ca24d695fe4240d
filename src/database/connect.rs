//! Connecting to the server, with a message for each cause of failure.
//!
//! Waiting is bounded: only a server that says it is starting up is waited for ([`STARTUP_WAIT`]). Everything else
//! fails at once, in words that name what was tried. In: [`settings::Database`](crate::settings::Database). Out: a
//! [`Client`] whose session resolves no name outside `pg_catalog`, so that nothing in the database can put itself in
//! the place of a function that we call, and whose other settings are always the same (`session_settings.rs`).

mod cause;
mod diagnose;
mod guarded;
mod opening;
mod relay;
mod tool_environment;
mod transport;
mod wait;
mod warnings;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};

use self::cause::io_kind;
use self::diagnose::is_by_hba;
use self::guarded::{Asked, WORK_SILENCE};
use self::opening::{Opened, milliseconds};
use self::relay::Relay;
use super::session_settings::{Both, Known};
use super::{OLDEST_SERVER, tls, version_text};
use crate::error::{Context, Error, Kind, Result};
use crate::settings::{Address, Database, Ssl};

pub use cause::{QueryContext, chain};
pub use warnings::PrivilegeWarnings;

/// How long a server that is starting up is waited for.
pub const STARTUP_WAIT: Duration = Duration::from_mins(1);

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server may take until a session is ready: as long as it gives its clients (`authentication_timeout`).
const LOGIN_TIMEOUT: Duration = Duration::from_mins(1);

/// The code of `transaction_timeout`, and the first version that has that limit. Source: PostgreSQL documentation, "Error
/// Codes", and release notes of version 17.
const TRANSACTION_TIMEOUT: &str = "25P04";
const FIRST_WITH_TRANSACTION_TIMEOUT: u32 = 170_000;

/// Opens connections as the settings say.
#[derive(Clone, Debug)]
pub struct Connector {
    database: Database,
    application_name: String,
    startup_wait: Duration,
    login_wait: Duration,
    /// How long the server may say nothing once a session is prepared.
    silence: Duration,
    /// Most bytes that the rows of one query may take.
    answer_limit: u64,
    /// The server's request instead of one for the password.
    asked: Arc<Asked>,
    /// The way of client programs to the server, where they need one.
    relay: Arc<OnceLock<Option<Relay>>>,
    known: Known,
    /// The name under which the database is known, if it has another one.
    known_as: Option<String>,
    /// Receives the server's warnings about privileges.
    warnings: Option<PrivilegeWarnings>,
}

/// The settings that a session begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Ours.
    Own,
    /// Those that the application has.
    Application,
    /// Ours, but for the `search_path`.
    DefaultPath,
    /// Ours as far as a server knows them that is too old.
    Least,
}

impl Connector {
    /// For the program of this name, which other sessions will see as `application_name`.
    #[must_use]
    pub fn new(database: &Database, program: &str) -> Self {
        let application_name = format!("{program} pid {}", std::process::id());
        let known = Known::default();
        Self {
            database: database.clone(),
            application_name,
            startup_wait: STARTUP_WAIT,
            login_wait: LOGIN_TIMEOUT,
            silence: WORK_SILENCE,
            answer_limit: guarded::answer_limit(),
            asked: Arc::default(),
            relay: Arc::default(),
            known,
            known_as: None,
            warnings: None,
        }
    }

    /// The configured database's name.
    #[must_use]
    pub fn database_name(&self) -> &str {
        &self.database.name
    }

    /// For a database that had the configured name until it was replaced.
    #[must_use]
    pub fn for_previous(&self, name: &str) -> Self {
        let known_as = Some(self.known_as().to_owned());
        let database = Database { name: name.to_owned(), ..self.database.clone() };
        Self { database, known_as, ..self.clone() }
    }

    /// One whose sessions hand over the server's warnings about privileges.
    #[must_use]
    pub fn with_warnings(&self, warnings: &PrivilegeWarnings) -> Self {
        Self { warnings: Some(warnings.clone()), ..self.clone() }
    }

    /// For another server, whose settings are made from these. What is known of this one does not hold there.
    pub(super) fn for_server(&self, settings: impl FnOnce(&Database) -> Database) -> Self {
        let new = Self::new(&settings(&self.database), "");
        Self { application_name: self.application_name.clone(), known_as: self.known_as.clone(), ..new }
    }

    /// The name under which backups of the database are kept.
    #[must_use]
    pub fn known_as(&self) -> &str {
        self.known_as.as_deref().unwrap_or(&self.database.name)
    }

    /// The role that connects.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.database.user
    }

    /// Whether the server runs on this machine, as far as the address tells.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match &self.database.address {
            Address::Socket(_) => true,
            Address::Tcp(host) => matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1"),
        }
    }

    /// The server as people name it: `localhost:5432` or a socket's path.
    #[must_use]
    pub fn server(&self) -> String {
        match &self.database.address {
            Address::Socket(dir) => socket_path(dir, self.database.port),
            Address::Tcp(host) => format!("{host}:{}", self.database.port),
        }
    }

    /// A connection to the configured database.
    pub async fn connect(&self) -> Result<Client> {
        self.connect_to(&self.database.name).await
    }

    /// A connection to the configured database with the settings that the application has, but for the time limits; and
    /// the statements that change over. It begins with ours.
    pub async fn connect_as_application(&self) -> Result<(Client, Both)> {
        let name = &self.database.name;
        let attempt = self.attempt(name, Mode::Application).await?;
        let client = attempt.map_err(|cause| self.explain(&cause, name))?;
        let both = self.known.both(&client, name).await.map_err(|cause| self.explain(&cause, name))?;
        Ok((client, both))
    }

    /// A connection to the configured database as the application has it, but for the time limits.
    pub(super) async fn connect_for_application(&self) -> Result<Client> {
        let name = &self.database.name;
        self.attempt(name, Mode::Application).await?.map_err(|cause| self.explain(&cause, name))
    }

    /// A connection whose `search_path` is by default the one that a program has that sets none, for scripts of extensions
    /// that build theirs from it.
    pub async fn connect_with_default_path(&self, name: &str) -> Result<Client> {
        self.attempt(name, Mode::DefaultPath).await?.map_err(|cause| self.explain(&cause, name))
    }

    /// A connection to the maintenance database: `postgres`, or `template1` where there is no `postgres`, none for this
    /// role, or where that is the configured one, which could not be renamed by a session in it.
    pub async fn connect_maintenance(&self) -> Result<Client> {
        self.first_open(&self.maintenance_databases()).await?
    }

    /// The same, or to the configured database where both are closed to this role.
    pub async fn connect_maintenance_or_own(&self) -> Result<Client> {
        match self.first_open(&self.maintenance_databases()).await? {
            Ok(client) => Ok(client),
            Err(_) => self.connect().await,
        }
    }

    fn maintenance_databases(&self) -> Vec<&'static str> {
        ["postgres", "template1"].into_iter().filter(|name| *name != self.database.name).collect()
    }

    /// A connection to the first of these databases that is there and lets the role in; else why the first one that is
    /// there does not.
    async fn first_open(&self, names: &[&str]) -> Result<Result<Client>> {
        let mut closed: Option<(bool, Error)> = None;
        for name in names {
            match self.attempt(name, Mode::Own).await? {
                Ok(client) => return Ok(Ok(client)),
                Err(cause) if is_closed_to_us(&cause) => {
                    let is_missing = cause.code() == Some(&SqlState::INVALID_CATALOG_NAME);
                    if closed.as_ref().is_none_or(|(missing, _)| *missing) {
                        closed = Some((is_missing, self.explain(&cause, name)));
                    }
                }
                Err(cause) => return Err(self.explain(&cause, name)),
            }
        }
        let nothing = || Error::new(Kind::Source, "there is no maintenance database");
        Ok(Err(closed.map_or_else(nothing, |(_, error)| error)))
    }

    /// A connection to a database of this name.
    pub async fn connect_to(&self, name: &str) -> Result<Client> {
        self.attempt(name, Mode::Own).await?.map_err(|cause| self.explain(&cause, name))
    }

    /// A connection to a database that may be absent: `None` if it is.
    pub async fn connect_if_present(&self, name: &str) -> Result<Option<Client>> {
        match self.attempt(name, Mode::Own).await? {
            Ok(client) => Ok(Some(client)),
            Err(cause) if cause.code() == Some(&SqlState::INVALID_CATALOG_NAME) => Ok(None),
            Err(cause) => Err(self.explain(&cause, name)),
        }
    }

    /// Waits for a server that is starting up; any other answer is final.
    async fn attempt(&self, name: &str, mode: Mode) -> Result<std::result::Result<Client, tokio_postgres::Error>> {
        let give_up = Instant::now() + self.startup_wait;
        loop {
            match Box::pin(self.open(name, mode)).await? {
                Err(cause) if cause.code() == Some(&SqlState::CANNOT_CONNECT_NOW) && Instant::now() < give_up => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                opened => return Ok(opened),
            }
        }
    }

    /// One attempt: a session that is ready to work.
    async fn open(&self, name: &str, mode: Mode) -> Result<std::result::Result<Client, tokio_postgres::Error>> {
        let mut mode = mode;
        // Once more for a setting that the server does not know, and once for a limit that struck before its version was known.
        for _ in 0..3 {
            let Opened { client, version, silence } = match self.open_once(&self.config(name, mode)).await? {
                Ok(opened) => opened,
                Err(cause) if cause.code() == Some(&SqlState::UNDEFINED_OBJECT) && mode != Mode::Least => {
                    mode = Mode::Least;
                    continue;
                }
                // It struck while the session began: the server knows the limit, so it can be told to do without.
                Err(cause) if cause.code().is_some_and(|code| code.code() == TRANSACTION_TIMEOUT) => {
                    self.known.learn_version(FIRST_WITH_TRANSACTION_TIMEOUT);
                    continue;
                }
                Err(cause) => {
                    Box::pin(self.look_behind(&cause, name)).await;
                    return Ok(Err(cause));
                }
            };
            let version = match version {
                Some(version) => version,
                None => server_version(&client).await?,
            };
            refuse_old(version, &self.server())?;
            self.known.learn_version(version);
            let patience = milliseconds(self.silence);
            if mode == Mode::Application {
                silence.store(patience, Ordering::Relaxed);
                return Ok(Ok(client));
            }
            match self.known.neutralise(&client, name).await {
                Ok(()) => {
                    silence.store(patience, Ordering::Relaxed);
                    return Ok(Ok(client));
                }
                Err(_) if client.is_closed() => {}
                Err(cause) => return Ok(Err(cause)),
            }
        }
        Err(Error::new(Kind::Source, format!("the server ends every session in database \"{name}\" at once"))
            .with("server", self.server())
            .with("state", "nothing was read, nothing was changed"))
    }

    /// Where the server does not let the role in without encryption: finds out whether it would with it. No password is
    /// sent.
    async fn look_behind(&self, cause: &tokio_postgres::Error, name: &str) {
        let is_tcp = matches!(self.database.address, Address::Tcp(_));
        if self.database.ssl != Ssl::Disable || !is_tcp || !cause.as_db_error().is_some_and(is_by_hba) {
            return;
        }
        let database = Database { password: None, ssl: Ssl::NoVerify, ..self.database.clone() };
        let encrypted = Self { database, ..self.clone() };
        let is_let_in = match encrypted.open_once(&encrypted.config(name, Mode::Least)).await {
            Ok(Ok(_)) => true,
            Ok(Err(cause)) => match cause.as_db_error() {
                Some(answer) => !is_by_hba(answer),
                None => chain(&cause).contains("password missing"),
            },
            Err(_) => false,
        };
        self.known.learn_encryption(is_let_in);
    }

    fn config(&self, name: &str, mode: Mode) -> Config {
        let options = match mode {
            Mode::Own => self.known.options(name),
            Mode::Application => self.known.application_options(),
            Mode::DefaultPath => self.known.tool_options(name),
            Mode::Least => {
                "-c search_path=pg_catalog -c statement_timeout=0 -c idle_in_transaction_session_timeout=0".to_owned()
            }
        };
        let mut config = Config::new();
        config
            .user(&self.database.user)
            .dbname(name)
            .port(self.database.port)
            .application_name(&self.application_name)
            .connect_timeout(CONNECT_TIMEOUT)
            .options(options);
        match &self.database.address {
            Address::Socket(dir) => config.host_path(dir).ssl_mode(SslMode::Disable),
            Address::Tcp(host) => config.host(host).ssl_mode(match self.database.ssl {
                Ssl::Disable => SslMode::Disable,
                Ssl::NoVerify | Ssl::Verify { .. } => SslMode::Require,
            }),
        };
        if let Some(password) = &self.database.password {
            config.password(password.expose());
        }
        config
    }
}

/// `server_version_num` of an open connection.
pub async fn server_version(client: &Client) -> Result<u32> {
    let row = client
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .context(Kind::Source, "the server does not tell its version")?;
    Ok(u32::try_from(row.get::<_, i32>(0)).unwrap_or(0))
}

fn refuse_old(version: u32, server: &str) -> Result<()> {
    if version >= OLDEST_SERVER {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, format!("the server is PostgreSQL {}, older than 14", version_text(version)))
        .with("server", server)
        .with("state", "nothing was read, nothing was changed")
        .hint("Upgrade the server first; its own pg_dump can still back it up."))
}

/// The account that this process runs as.
#[must_use]
pub fn os_account() -> String {
    let id = nix::unistd::geteuid();
    match nix::unistd::User::from_uid(id) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {id}"),
    }
}

/// Whether a database is not there or lets the role not in, while another one of the same server may.
fn is_closed_to_us(cause: &tokio_postgres::Error) -> bool {
    let Some(answer) = cause.as_db_error() else { return false };
    match *answer.code() {
        SqlState::INVALID_CATALOG_NAME
        | SqlState::INSUFFICIENT_PRIVILEGE
        | SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE => true,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => is_by_hba(answer),
        _ => false,
    }
}

fn socket_path(dir: &Path, port: u16) -> String {
    dir.join(format!(".s.PGSQL.{port}")).display().to_string()
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
