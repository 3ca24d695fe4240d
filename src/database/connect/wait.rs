//! Waiting for a server that is not there yet, as at boot.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{Connector, Mode, chain, io_kind};
use crate::error::{Kind, Result};
use crate::progress::Meter;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

impl Connector {
    /// A connection to the configured database, as soon as there is a server; `meter` is told what is waited for.
    ///
    /// Only silence is waited for: no socket, no listener, no answer, a name that cannot be looked up yet, and a server that
    /// says it is starting up. One that answers anything else, such as a wrong password, will answer the same in a minute.
    ///
    /// # Errors
    /// What it answers; [`Kind::Source`] if it is still silent after `limit`.
    pub async fn connect_when_up(&self, limit: Duration, meter: &Meter) -> Result<Client> {
        let give_up = Instant::now() + limit;
        loop {
            let cause = match self.open(&self.database.name, Mode::Own).await? {
                Ok(client) => return Ok(client),
                Err(cause) => cause,
            };
            if !is_silent(&cause) {
                return Err(self.explain(&cause, &self.database.name));
            }
            if Instant::now() >= give_up {
                let error = self.explain(&cause, &self.database.name);
                return Err(error
                    .escalate(Kind::Source)
                    .with("waited", format!("{} s (migrations.wait)", limit.as_secs())));
            }
            // The waiting has an end of its own: as good as progress.
            meter.rows.fetch_add(1, Ordering::Relaxed);
            meter.now(&format!("waiting for the server: {}", chain(&cause)));
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn is_silent(cause: &tokio_postgres::Error) -> bool {
    if let Some(code) = cause.code() {
        return *code == SqlState::CANNOT_CONNECT_NOW;
    }
    let silent = [
        ErrorKind::NotFound,
        ErrorKind::ConnectionRefused,
        ErrorKind::ConnectionReset,
        ErrorKind::BrokenPipe,
        ErrorKind::UnexpectedEof,
        ErrorKind::TimedOut,
        ErrorKind::HostUnreachable,
        ErrorKind::NetworkUnreachable,
    ];
    cause.is_closed()
        || io_kind(cause).is_some_and(|kind| silent.contains(&kind))
        || chain(cause).contains("failed to lookup address")
}
