//! What the tests stand on: real servers, the built binaries, and a stand-in for `systemctl`.

pub mod binary;
pub mod cases;
pub mod dumps;
pub mod probe;
pub mod server;
pub mod systemctl;

pub use binary::{Outcome, Site};
pub use server::Server;
