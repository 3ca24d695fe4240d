//! Connecting to the server, with a message for each cause of failure.
//!
//! Waiting is bounded: only a server that says it is starting up is waited for ([`STARTUP_WAIT`]). Everything else
//! fails at once, in words that name what was tried. In: [`settings::Database`](crate::settings::Database). Out: a
//! [`Client`] whose session resolves no name outside `pg_catalog`, so that nothing in the database can put itself in
//! the place of a function that we call.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio_postgres::config::SslMode;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{Client, Config, NoTls};

use super::{OLDEST_SERVER, tls, version_text};
use crate::error::{Context, Error, Kind, Result};
use crate::settings::{Address, Database, Ssl};

/// How long a server that is starting up is waited for.
pub const STARTUP_WAIT: Duration = Duration::from_mins(1);

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens connections as the settings say.
#[derive(Clone, Debug)]
pub struct Connector {
    database: Database,
    application_name: String,
    startup_wait: Duration,
    /// The name under which the database is known, if it has another one.
    known_as: Option<String>,
}

impl Connector {
    /// For the program of this name, which other sessions will see as `application_name`.
    #[must_use]
    pub fn new(database: &Database, program: &str) -> Self {
        let application_name = format!("{program} pid {}", std::process::id());
        Self { database: database.clone(), application_name, startup_wait: STARTUP_WAIT, known_as: None }
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

    /// A connection to the maintenance database: `postgres`, or `template1` where there is no `postgres`, or where that is
    /// the configured one, which could not be renamed by a session in it.
    pub async fn connect_maintenance(&self) -> Result<Client> {
        if self.database.name == "postgres" {
            return self.connect_to("template1").await;
        }
        match self.attempt("postgres").await? {
            Ok(client) => Ok(client),
            Err(cause)
                if cause.code() == Some(&SqlState::INVALID_CATALOG_NAME) && self.database.name != "template1" =>
            {
                self.connect_to("template1").await
            }
            Err(cause) => Err(self.explain(&cause, "postgres")),
        }
    }

    /// A connection to a database of this name.
    pub async fn connect_to(&self, name: &str) -> Result<Client> {
        self.attempt(name).await?.map_err(|cause| self.explain(&cause, name))
    }

    /// A connection to a database that may be absent: `None` if it is.
    pub async fn connect_if_present(&self, name: &str) -> Result<Option<Client>> {
        match self.attempt(name).await? {
            Ok(client) => Ok(Some(client)),
            Err(cause) if cause.code() == Some(&SqlState::INVALID_CATALOG_NAME) => Ok(None),
            Err(cause) => Err(self.explain(&cause, name)),
        }
    }

    /// Waits for a server that is starting up; any other answer is final.
    async fn attempt(&self, name: &str) -> Result<std::result::Result<Client, tokio_postgres::Error>> {
        let config = self.config(name);
        let give_up = Instant::now() + self.startup_wait;
        loop {
            match self.open(&config).await? {
                Ok(client) => {
                    check_version(&client, &self.server()).await?;
                    return Ok(Ok(client));
                }
                Err(cause) if cause.code() == Some(&SqlState::CANNOT_CONNECT_NOW) && Instant::now() < give_up => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(cause) => return Ok(Err(cause)),
            }
        }
    }

    async fn open(&self, config: &Config) -> Result<std::result::Result<Client, tokio_postgres::Error>> {
        // The connection's task ends with the client; what goes wrong in it reaches the client's next call.
        Ok(if config.get_ssl_mode() == SslMode::Disable {
            config.connect(NoTls).await.map(|(client, connection)| {
                tokio::spawn(connection);
                client
            })
        } else {
            config.connect(tls::connector(&self.database.ssl)?).await.map(|(client, connection)| {
                tokio::spawn(connection);
                client
            })
        })
    }

    fn config(&self, name: &str) -> Config {
        let mut config = Config::new();
        config
            .user(&self.database.user)
            .dbname(name)
            .port(self.database.port)
            .application_name(&self.application_name)
            .connect_timeout(CONNECT_TIMEOUT)
            .options("-c search_path=pg_catalog -c statement_timeout=0 -c idle_in_transaction_session_timeout=0");
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

    /// The environment that makes a client program of PostgreSQL connect in the same way.
    ///
    /// The password is in the environment of that one child, which no other account can read; never in argv.
    #[must_use]
    pub fn tool_environment(&self, name: &str) -> Vec<(&'static str, OsString)> {
        let mut variables: Vec<(&'static str, OsString)> = vec![
            ("PGPORT", self.database.port.to_string().into()),
            ("PGUSER", self.database.user.clone().into()),
            ("PGDATABASE", name.into()),
            ("PGAPPNAME", self.application_name.clone().into()),
            ("PGCONNECT_TIMEOUT", CONNECT_TIMEOUT.as_secs().to_string().into()),
            ("PGCLIENTENCODING", "UTF8".into()),
        ];
        match &self.database.address {
            Address::Socket(dir) => variables.push(("PGHOST", dir.clone().into())),
            Address::Tcp(host) => {
                variables.push(("PGHOST", host.into()));
                match &self.database.ssl {
                    Ssl::Disable => variables.push(("PGSSLMODE", "disable".into())),
                    Ssl::NoVerify => {
                        variables.push(("PGSSLMODE", "require".into()));
                        // With ~/.postgresql/root.crt in place `require` would verify after all.
                        variables.push(("PGSSLROOTCERT", "/nonexistent".into()));
                    }
                    Ssl::Verify { ca } => {
                        variables.push(("PGSSLMODE", "verify-full".into()));
                        // libpq before 16 does not know `system`, so the bundle is named: the one that our own
                        // connection trusts, or the usual one.
                        let ca = ca.clone().map(OsString::from).or_else(|| std::env::var_os("SSL_CERT_FILE"));
                        let usual = || "/etc/ssl/certs/ca-certificates.crt".into();
                        variables.push(("PGSSLROOTCERT", ca.unwrap_or_else(usual)));
                    }
                }
            }
        }
        if let Some(password) = &self.database.password {
            variables.push(("PGPASSWORD", password.expose().into()));
        }
        variables
    }

    /// Says what a failed connection means and what to do about it.
    fn explain(&self, cause: &tokio_postgres::Error, name: &str) -> Error {
        let (kind, message, hint) = self.diagnose(cause, name);
        let mut error = Error::new(kind, message).with("server", self.server()).with("cause", chain(cause));
        if let Some(hint) = hint {
            error = error.hint(hint);
        }
        error.with("state", "nothing was read, nothing was changed")
    }

    fn diagnose(&self, cause: &tokio_postgres::Error, name: &str) -> (Kind, String, Option<String>) {
        let user = &self.database.user;
        if let Some(answer) = cause.as_db_error() {
            return match *answer.code() {
                SqlState::CANNOT_CONNECT_NOW => (
                    Kind::Busy,
                    format!("the server is still starting up or shutting down after {} s", self.startup_wait.as_secs()),
                    Some("Try again in a minute; `journalctl -u postgresql` shows what it is doing.".into()),
                ),
                SqlState::TOO_MANY_CONNECTIONS => (
                    Kind::Busy,
                    "the server has no connection to spare".into(),
                    Some("Try again, or raise max_connections.".into()),
                ),
                SqlState::INVALID_CATALOG_NAME => (
                    Kind::Source,
                    format!("there is no database \"{name}\""),
                    Some("Check DATABASE_NAME; `psql -l` lists the databases that exist.".into()),
                ),
                SqlState::INVALID_PASSWORD => (
                    Kind::Source,
                    format!("the password for role \"{user}\" was refused"),
                    Some("Check DATABASE_PASS in the secrets file; the role itself may be missing too.".into()),
                ),
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION => self.diagnose_refusal(answer, name),
                _ => (Kind::Source, format!("the server refused the connection to \"{name}\""), None),
            };
        }
        self.diagnose_transport(cause)
    }

    /// All of these have one code. The function that raised it tells them apart in every language of the server; the
    /// words do where a pooler stands in between.
    fn diagnose_refusal(&self, answer: &DbError, name: &str) -> (Kind, String, Option<String>) {
        let user = &self.database.user;
        let is_socket = matches!(self.database.address, Address::Socket(_));
        let (text, routine) = (answer.message(), answer.routine().unwrap_or_default());
        if text.starts_with("Peer authentication failed") || (routine == "auth_failed" && is_socket) {
            let account = os_account();
            return (
                Kind::Refused,
                format!("the server refused peer authentication: OS user \"{account}\" is not role \"{user}\""),
                Some(format!("Run it as OS user \"{user}\", set `database.os_user`, or use a password over TCP.")),
            );
        }
        if routine == "InitializeSessionUserId" || (text.starts_with("role") && text.contains("does not exist")) {
            return (
                Kind::Source,
                format!("there is no role \"{user}\""),
                Some("Check DATABASE_USER; `psql -c '\\du'` lists the roles that exist.".into()),
            );
        }
        if routine == "ClientAuthentication" || text.contains("pg_hba.conf") {
            // The server does not say whether it would let an encrypted connection in.
            return if self.database.ssl == Ssl::Disable && !is_socket {
                (
                    Kind::Source,
                    format!("the server does not let role \"{user}\" in without encryption"),
                    Some(
                        "Set DATABASE_SSL to true or noverify. If that is refused too, the server's pg_hba.conf has no \
                         line for this role, database and address."
                            .into(),
                    ),
                )
            } else {
                (
                    Kind::Source,
                    format!("the server's pg_hba.conf does not let role \"{user}\" into database \"{name}\" from here"),
                    Some("Add a line for this role, database and address to it, and reload the server.".into()),
                )
            };
        }
        (Kind::Source, format!("the server refused the connection to \"{name}\""), None)
    }

    /// The server did not get as far as an answer in its own protocol.
    fn diagnose_transport(&self, cause: &tokio_postgres::Error) -> (Kind, String, Option<String>) {
        let text = chain(cause);
        if text.contains("server does not support TLS") {
            let hint = "Set DATABASE_SSL to false if the way to the server is trusted, or switch TLS on in the server.";
            return (
                Kind::Source,
                "the server does not speak TLS, but DATABASE_SSL asks for it".into(),
                Some(hint.into()),
            );
        }
        if text.contains("certificate") {
            let hint = "Set DATABASE_SSL_CA_CERT_FILE to the authority that signed it, or check DATABASE_HOST.";
            return (Kind::Source, "the server's certificate is not to be trusted".into(), Some(hint.into()));
        }
        if text.contains("password missing") {
            let hint = "Set DATABASE_PASS in the secrets file.".into();
            let message =
                format!("the server asks for a password for role \"{}\", and none is set", self.database.user);
            return (Kind::Source, message, Some(hint));
        }
        match io_kind(cause) {
            Some(ErrorKind::NotFound) if matches!(self.database.address, Address::Socket(_)) => self.no_socket(),
            Some(ErrorKind::ConnectionRefused) => (
                Kind::Source,
                format!("no server listens at {}", self.server()),
                Some("Is PostgreSQL running (`systemctl status postgresql`), and is DATABASE_PORT right?".into()),
            ),
            Some(ErrorKind::PermissionDenied) => {
                (Kind::Source, format!("OS user \"{}\" may not use the socket {}", os_account(), self.server()), None)
            }
            Some(ErrorKind::TimedOut) => {
                (Kind::Source, format!("no answer from {} within {} s", self.server(), CONNECT_TIMEOUT.as_secs()), None)
            }
            _ => (Kind::Source, format!("cannot connect to {}", self.server()), None),
        }
    }

    fn no_socket(&self) -> (Kind, String, Option<String>) {
        let Address::Socket(dir) = &self.database.address else {
            return (Kind::Source, format!("cannot connect to {}", self.server()), None);
        };
        let message = format!("no server listens at {}", self.server());
        let others = ports_in(dir);
        let hint = match others.as_slice() {
            [] if !dir.is_dir() => format!("{} does not exist: check DATABASE_SOCKET_DIR.", dir.display()),
            [] => "Is PostgreSQL running (`systemctl status postgresql`)? The directory holds no socket.".into(),
            ports => format!("In this directory a server listens on port {}: check DATABASE_PORT.", ports.join(", ")),
        };
        (Kind::Source, message, Some(hint))
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

async fn check_version(client: &Client, server: &str) -> Result<()> {
    let version = server_version(client).await?;
    refuse_old(version, server)
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

/// A failure with all its causes: the driver's own `Display` often says only "db error".
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(answer) = error.downcast_ref::<DbError>() {
            // The causes before this one say nothing that the server's words do not.
            text = answer.to_string();
            if let Some(detail) = answer.detail() {
                let _ = write!(text, "\n{detail}");
            }
            if let Some(hint) = answer.hint() {
                let _ = write!(text, "\n{hint}");
            }
        } else {
            let words = error.to_string();
            if !text.contains(&words) {
                let separator = if text.is_empty() { "" } else { ": " };
                let _ = write!(text, "{separator}{words}");
            }
        }
        next = error.source();
    }
    text
}

fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return Some(error.kind());
        }
        next = error.source();
    }
    None
}

fn socket_path(dir: &Path, port: u16) -> String {
    dir.join(format!(".s.PGSQL.{port}")).display().to_string()
}

fn ports_in(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut ports: Vec<String> = names
        .filter_map(|name| Some(name.to_str()?.strip_prefix(".s.PGSQL.")?.to_owned()))
        .filter(|port| port.parse::<u16>().is_ok())
        .collect();
    ports.sort();
    ports
}

/// Turns a failed query into an [`Error`] that quotes the server.
pub trait QueryContext<T> {
    /// `what` failed; the server's words become the line `cause`.
    fn query_context(self, what: impl Into<String>) -> Result<T>;
}

impl<T> QueryContext<T> for std::result::Result<T, tokio_postgres::Error> {
    fn query_context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|cause| {
            // Only the lock's own code: a lock that was not granted in time may be free in a minute.
            let busy = cause.code() == Some(&SqlState::LOCK_NOT_AVAILABLE);
            let kind = if busy { Kind::Busy } else { Kind::Source };
            Error::new(kind, what).with("cause", chain(&cause))
        })
    }
}

mod wait;

#[cfg(test)]
mod tests;
