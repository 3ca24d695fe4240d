//! Says what a failed connection means, and what to do about it.

use std::io::ErrorKind;
use std::path::Path;

use tokio_postgres::error::{DbError, SqlState};

use super::guarded::Refusal;
use super::{CONNECT_TIMEOUT, Connector, chain, io_kind, os_account};
use crate::database::ident;
use crate::error::{Error, Kind};
use crate::settings::{Address, Ssl};
use crate::text::shell_word;

impl Connector {
    /// Says what a failed connection means and what to do about it.
    pub(super) fn explain(&self, cause: &tokio_postgres::Error, name: &str) -> Error {
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
                SqlState::FEATURE_NOT_SUPPORTED if answer.routine() == Some("InitializeClientEncoding") => (
                    Kind::Refused,
                    format!("database \"{name}\" is in an encoding that the server cannot convert to UTF-8"),
                    Some(
                        "Dump it with `pg_dump --encoding=` and its own encoding, or move it to a database in UTF-8."
                            .into(),
                    ),
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
                Some(format!(
                    "Check DATABASE_USER; `psql -c '\\du'` lists the roles that exist. On a new server, make it as the superuser \
                     postgres: createuser --superuser --pwprompt {}",
                    shell_word(user)
                )),
            );
        }
        if is_by_hba(answer) {
            return if self.known.needs_encryption() {
                (
                    Kind::Source,
                    format!("the server does not let role \"{user}\" in without encryption"),
                    Some("Set DATABASE_SSL to true or noverify.".into()),
                )
            } else {
                (
                    Kind::Source,
                    format!("the server's pg_hba.conf does not let role \"{user}\" into database \"{name}\" from here"),
                    Some(self.line_for_hba(text, name)),
                )
            };
        }
        (Kind::Source, format!("the server refused the connection to \"{name}\""), None)
    }

    /// The line that `pg_hba.conf` lacks.
    fn line_for_hba(&self, text: &str, name: &str) -> String {
        let is_plain =
            |word: &str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        let quoted = |word: &str| if is_plain(word) { word.to_owned() } else { ident(word) };
        // A restore makes a database of a new name each time.
        let is_ours = name == self.database.name || matches!(name, "postgres" | "template1");
        let database = if is_ours { quoted(name) } else { "all".to_owned() };
        let user = quoted(&self.database.user);
        let line = match (&self.database.address, &self.database.ssl) {
            (Address::Socket(_), _) => format!("local {database} {user} peer"),
            (Address::Tcp(_), ssl) => {
                let kind = if *ssl == Ssl::Disable { "host" } else { "hostssl" };
                let address = text.split_once("host \"").and_then(|(_, rest)| rest.split_once('"'));
                let address = address.map_or("ADDRESS", |(address, _)| address);
                let bits = if address.contains(':') { 128 } else { 32 };
                format!("{kind} {database} {user} {address}/{bits} scram-sha-256")
            }
        };
        let why = match name {
            "postgres" | "template1" if name != self.database.name => {
                " Databases are made, renamed and dropped from a session in that database."
            }
            _ if database == "all" => " A restore loads into a database of a new name.",
            _ => "",
        };
        format!("Add this line to it, before any that rejects the connection, and reload the server: `{line}`.{why}")
    }

    /// The server did not get as far as an answer in its own protocol.
    fn diagnose_transport(&self, cause: &tokio_postgres::Error) -> (Kind, String, Option<String>) {
        match Refusal::of(cause) {
            Some(Refusal::ClearText) => return self.clear_text(),
            Some(refusal) => {
                let message = format!("{} cannot be the server: {refusal}", self.server());
                return (Kind::Source, message, Some("Check DATABASE_HOST and DATABASE_PORT.".into()));
            }
            None => {}
        }
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
            Some(ErrorKind::TimedOut) if text.contains("says nothing") => {
                let waited = self.login_wait.as_secs();
                (
                    Kind::Source,
                    format!("{} takes connections, but no session begins in {waited} s", self.server()),
                    None,
                )
            }
            Some(ErrorKind::TimedOut) => {
                (Kind::Source, format!("no answer from {} within {} s", self.server(), CONNECT_TIMEOUT.as_secs()), None)
            }
            _ => (Kind::Source, format!("cannot connect to {}", self.server()), None),
        }
    }

    fn clear_text(&self) -> (Kind, String, Option<String>) {
        let hint = match self.database.address {
            Address::Tcp(_) => {
                "Set DATABASE_SSL to true, or use scram-sha-256 instead of password, ldap, pam or radius in pg_hba.conf. \
                 Where whoever answers there may have the password: `database.allow_cleartext_password = true`."
            }
            Address::Socket(_) => {
                "Use peer or scram-sha-256 instead of password, ldap, pam or radius in pg_hba.conf. Where whoever answers \
                 there may have the password: `database.allow_cleartext_password = true`."
            }
        };
        let user = &self.database.user;
        let message = format!("the server asks for the password of role \"{user}\" in clear text; it was not sent");
        (Kind::Refused, message, Some(hint.into()))
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

/// Whether the server's `pg_hba.conf` has no line for the connection, or one that rejects it. The function that raised it
/// tells it in every language of the server.
pub(super) fn is_by_hba(answer: &DbError) -> bool {
    answer.routine() == Some("ClientAuthentication") || answer.message().contains("pg_hba.conf")
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
