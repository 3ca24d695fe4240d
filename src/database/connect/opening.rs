//! Opening one session, and what a server may ask for until it is open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls};

use super::guarded::QUESTION_SILENCE;
use super::transport::{Guard, GuardedTls, Socket};
use super::warnings::run;
use super::{Connector, tls};
use crate::database::tools::parse_version;
use crate::error::{Context, Kind, Result};
use crate::settings::{Address, Database, Ssl};

/// A session that begins.
pub(super) struct Opened {
    pub(super) client: Client,
    /// The server's version where it tells it at once.
    pub(super) version: Option<u32>,
    /// How long the server may say nothing, in milliseconds.
    pub(super) silence: Arc<AtomicU64>,
}

/// A time as [`Opened::silence`] has it.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Connector {
    /// For another role, which has this password.
    #[must_use]
    pub fn for_role(&self, role: &str, password: String) -> Self {
        let database = Database { user: role.to_owned(), password: Some(password.into()), ..self.database.clone() };
        let known_as = self.known_as.clone();
        // What is known of our own role does not hold.
        let new = Self::new(&database, "");
        Self { application_name: self.application_name.clone(), known_as, ..new }
    }

    /// A session. Until it is prepared, the server must not be silent for long.
    pub(super) async fn open_once(
        &self,
        config: &Config,
    ) -> Result<std::result::Result<Opened, tokio_postgres::Error>> {
        let guard = self.guard(QUESTION_SILENCE.min(self.silence));
        let silence = Arc::clone(&guard.silence);
        let socket = Socket::connect(&self.database.address, self.database.port).await;
        // The connection's task ends with the client; what goes wrong in it reaches the client's next call.
        let host = match &self.database.address {
            Address::Tcp(host) if config.get_ssl_mode() != SslMode::Disable => host,
            _ => {
                let opened = config.connect_raw(guard.over(socket), NoTls).await;
                return Ok(opened.map(|(client, connection)| {
                    let version = connection.parameter("server_version").and_then(parse_version);
                    run(connection, self.warnings.clone());
                    Opened { client, version, silence }
                }));
            }
        };
        let mut connector = tls::connector(&self.database.ssl)?;
        let connect = MakeTlsConnect::<Socket>::make_tls_connect(&mut connector, host)
            .context(Kind::Usage, format!("\"{host}\" cannot be the name in a certificate"))?;
        let opened = config.connect_raw(socket, GuardedTls(connect, guard)).await;
        Ok(opened.map(|(client, connection)| {
            let version = connection.parameter("server_version").and_then(parse_version);
            run(connection, self.warnings.clone());
            Opened { client, version, silence }
        }))
    }

    /// Whether the password may be sent in clear text: to a server that TLS proves to be the right one, or where a setting
    /// says so. A Unix socket proves nothing: its directory may be anybody's, and so may the process that listens.
    pub(super) fn may_send_clear_text(&self) -> bool {
        let is_verified = matches!((&self.database.address, &self.database.ssl), (Address::Tcp(_), Ssl::Verify { .. }));
        is_verified || self.database.allow_cleartext_password
    }

    /// One whose sessions ask questions only: a server that says nothing is given up early.
    #[must_use]
    pub fn for_questions(&self) -> Self {
        Self { silence: QUESTION_SILENCE, ..self.clone() }
    }

    /// The guard of a connection whose server may be silent for so long.
    pub(super) fn guard(&self, silence: Duration) -> Guard {
        Guard {
            clear_text: self.may_send_clear_text(),
            asked: Arc::clone(&self.asked),
            login: self.login_wait,
            silence: Arc::new(AtomicU64::new(milliseconds(silence))),
            answer: self.answer_limit,
        }
    }

    /// Whether a server asked for the password as MD5 has it, which whoever listens can try out passwords against.
    #[must_use]
    pub fn has_met_md5(&self) -> bool {
        self.asked.md5.load(Ordering::Relaxed)
    }
}
