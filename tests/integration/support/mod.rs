//! What the tests stand on: real servers, the built binaries, and a stand-in for `systemctl`.

pub mod binary;
pub mod cases;
pub mod dumps;
pub mod host;
#[cfg(feature = "network")]
pub mod network;
pub mod probe;
pub mod release;
pub mod repository;
pub mod server;
pub mod systemctl;
pub mod tree_server;

pub use binary::{Outcome, Site};
pub use server::Server;

use std::path::Path;

use glovebox::database::Connector;
use glovebox::settings::{Inputs, Settings};

/// A way to a database through a socket's directory, for tests of the library itself.
pub fn connector(socket: &Path, port: u16, database: &str, user: &str) -> Connector {
    let variables = [
        ("DATABASE_SOCKET_DIR", socket.display().to_string()),
        ("DATABASE_PORT", port.to_string()),
        ("DATABASE_NAME", database.to_owned()),
        ("DATABASE_USER", user.to_owned()),
    ];
    let environment = variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let settings = Settings::resolve(&Inputs { environment, ..Inputs::default() }).unwrap();
    Connector::new(&settings.database, "test")
}

/// Lets a future run to its end.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
