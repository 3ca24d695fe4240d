//! What every piece of work is given: settings, connections, a voice, an ear for signals, and the host.

use crate::database::Connector;
use crate::host::{Host, Opened};
use crate::interrupt::Interrupt;
use crate::progress::Reporter;
use crate::settings::Settings;

/// What a command works with.
#[derive(Debug)]
pub struct Env {
    /// The settings.
    pub settings: Settings,
    /// The way to the server.
    pub connector: Connector,
    /// Says what is being done.
    pub reporter: Reporter,
    /// Tells whether to stop.
    pub interrupt: Interrupt,
    /// The holder of the caller's rights.
    pub host: Host,
    /// The files of the command line.
    pub opened: Opened,
}
