//! What every piece of work is given: settings, connections, a voice, an ear for signals, and the host.

use crate::database::Connector;
use crate::error::{Context, Kind, Result};
use crate::host::{ExtraFile, Host, Opened};
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

impl Env {
    /// The files that go into a backup, once more each time.
    ///
    /// # Errors
    /// [`Kind::Refused`] if there are too many open files.
    pub fn extra_files(&self) -> Result<Vec<ExtraFile>> {
        let again = |extra: &ExtraFile| {
            let file = match &extra.file {
                Ok(file) => Ok(file.try_clone().context(Kind::Refused, "cannot share a descriptor")?),
                Err(why) => Err(why.clone()),
            };
            Ok(ExtraFile { path: extra.path.clone(), file })
        };
        self.opened.extra.iter().map(again).collect()
    }

    /// The same without the files of the command line.
    #[must_use]
    pub fn without_files(&self) -> Self {
        Self {
            settings: self.settings.clone(),
            connector: self.connector.clone(),
            reporter: self.reporter.clone(),
            interrupt: self.interrupt.clone(),
            host: self.host.clone(),
            opened: Opened::default(),
        }
    }
}
