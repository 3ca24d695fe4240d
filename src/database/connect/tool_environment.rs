//! Environment that makes PostgreSQL's client programs connect as the connector does.

use std::ffi::OsString;
use std::sync::atomic::Ordering;

use super::guarded::WORK_SILENCE;
use super::transport::Guard;
use super::{CONNECT_TIMEOUT, Connector, Relay};
use crate::error::Result;
use crate::settings::{Address, Ssl};

impl Connector {
    /// The environment that makes a client program of PostgreSQL connect in the same way.
    ///
    /// The password is in the environment of that one child, which no other account can read; never in argv. Where the
    /// server might ask for it in clear text, the program goes through a socket of ours (`relay.rs`); without one it gets no
    /// password.
    #[must_use]
    pub fn tool_environment(&self, name: &str) -> Vec<(&'static str, OsString)> {
        let mut variables: Vec<(&'static str, OsString)> = vec![
            ("PGPORT", self.database.port.to_string().into()),
            ("PGUSER", self.database.user.clone().into()),
            ("PGDATABASE", name.into()),
            ("PGAPPNAME", self.application_name.clone().into()),
            ("PGCONNECT_TIMEOUT", CONNECT_TIMEOUT.as_secs().to_string().into()),
            ("PGCLIENTENCODING", "UTF8".into()),
            ("PGOPTIONS", self.known.tool_options(name).into()),
        ];
        if let (Some(password), false) = (&self.database.password, self.may_send_clear_text()) {
            // Newer programs refuse it by themselves too.
            variables.push(("PGREQUIREAUTH", "!password".into()));
            let is_bound = self.asked.binding.load(Ordering::Relaxed);
            if is_bound && self.database.ssl == Ssl::NoVerify {
                // Better than what the relay can do: it refuses everything else, and whoever stands in between. Known since libpq 13.
                variables.push(("PGCHANNELBINDING", "require".into()));
                variables.push(("PGPASSWORD", password.expose().into()));
            } else if let Some(relay) = self.relay() {
                variables.push(("PGHOST", relay.host.clone().into()));
                variables.push(("PGPASSWORD", password.expose().into()));
                return variables;
            }
        } else if let Some(password) = &self.database.password {
            variables.push(("PGPASSWORD", password.expose().into()));
        }
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
        variables
    }

    /// Started when the first program needs it.
    fn relay(&self) -> Option<&Relay> {
        // How much a program keeps in its own memory is up to it.
        let guard = || Guard { answer: u64::MAX, ..self.guard(WORK_SILENCE) };
        self.relay.get_or_init(|| Relay::start(&self.database, guard()).ok()).as_ref()
    }

    /// Options (`PGOPTIONS`) that make a client program's session in this database like one of ours.
    ///
    /// # Errors
    /// Those of connecting to it, since the settings of the role there have to be known.
    pub async fn tool_options(&self, name: &str) -> Result<String> {
        if !self.known.is_known(name) {
            drop(self.connect_to(name).await?);
        }
        Ok(self.known.tool_options(name))
    }
}
