//! Opening one session, and what a server may ask for until it is open.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls};

use super::transport::{Guard, GuardedTls, Socket};
use super::warnings::run;
use super::{Connector, tls};
use crate::database::tools::parse_version;
use crate::error::{Context, Kind, Result};
use crate::settings::{Address, Database, Ssl};

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

    /// A session, and the server's version where it tells it at once.
    pub(super) async fn open_once(
        &self,
        config: &Config,
    ) -> Result<std::result::Result<(Client, Option<u32>), tokio_postgres::Error>> {
        let socket = Socket::connect(&self.database.address, self.database.port).await;
        // The connection's task ends with the client; what goes wrong in it reaches the client's next call.
        let host = match &self.database.address {
            Address::Tcp(host) if config.get_ssl_mode() != SslMode::Disable => host,
            _ => {
                let opened = config.connect_raw(self.guard().over(socket), NoTls).await;
                return Ok(opened.map(|(client, connection)| {
                    let version = connection.parameter("server_version").and_then(parse_version);
                    run(connection, self.warnings.clone());
                    (client, version)
                }));
            }
        };
        let mut connector = tls::connector(&self.database.ssl)?;
        let connect = MakeTlsConnect::<Socket>::make_tls_connect(&mut connector, host)
            .context(Kind::Usage, format!("\"{host}\" cannot be the name in a certificate"))?;
        let opened = config.connect_raw(socket, GuardedTls(connect, self.guard())).await;
        Ok(opened.map(|(client, connection)| {
            let version = connection.parameter("server_version").and_then(parse_version);
            run(connection, self.warnings.clone());
            (client, version)
        }))
    }

    /// Whether the password may be sent in clear text: to a server that TLS proves to be the right one, or where a setting
    /// says so. A Unix socket proves nothing: its directory may be anybody's, and so may the process that listens.
    pub(super) fn may_send_clear_text(&self) -> bool {
        let is_verified = matches!((&self.database.address, &self.database.ssl), (Address::Tcp(_), Ssl::Verify { .. }));
        is_verified || self.database.allow_cleartext_password
    }

    pub(super) fn guard(&self) -> Guard {
        Guard { clear_text: self.may_send_clear_text(), asked: Arc::clone(&self.asked), login: self.login_wait }
    }

    /// Whether a server asked for the password as MD5 has it, which whoever listens can try out passwords against.
    #[must_use]
    pub fn has_met_md5(&self) -> bool {
        self.asked.md5.load(Ordering::Relaxed)
    }
}
