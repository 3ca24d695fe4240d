//! Reaching a private server: by its socket, without a password.

use std::path::Path;

use crate::database::Connector;
use crate::settings::{Address, Database, Ssl};

/// The port in the socket's name.
const PORT: u16 = 5432;

/// The settings for a private server with a socket in this directory.
#[must_use]
pub fn settings(database: &Database, socket: &Path, user: &str) -> Database {
    Database {
        user: user.to_owned(),
        password: None,
        address: Address::Socket(socket.to_owned()),
        port: PORT,
        ssl: Ssl::Disable,
        ..database.clone()
    }
}

impl Connector {
    /// For a private server with a socket in this directory, as this role.
    #[must_use]
    pub fn for_private(&self, socket: &Path, user: &str) -> Self {
        self.for_server(|database| settings(database, socket, user))
    }
}
