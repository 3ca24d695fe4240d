//! What is done with the caller's own rights: files named on the command line, the terminal, the service.
//!
//! Started as an ordinary user, or as root with `os_user = "root"`, all of it happens in the one process. Started as
//! root, the work runs in a second process without root's rights (`privilege.rs`), and asks the first one through a
//! socket ([`link`]) for the few things on this page. So root never parses a dump, and the worker never sees a
//! directory that it has no right to.

pub mod directory;
pub mod extra;
mod former;
pub mod guard;
pub mod identity;
pub mod link;
mod marks;
mod notes;
pub mod output;
mod run_dir;
pub mod terminal;

use std::fs::File;
use std::io::{BufRead, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use extra::ExtraFile;
pub use identity::Identities;
pub use link::Host;
pub use output::OutputFile;

use crate::error::{Context, Kind, Result};
use crate::process::on_thread;
use crate::service::{State, notify};
use crate::settings::Settings;
use crate::text;
pub use guard::Recovered;
use guard::ServiceGuard;

/// The files that a command line names, before they are opened.
#[derive(Clone, Debug, Default)]
pub struct Opens {
    /// A file to write, and whether it may replace one that is there.
    pub output: Option<(PathBuf, bool)>,
    /// A file or directory to read; `-` is standard input.
    pub input: Option<PathBuf>,
    /// Files and directories that go into a backup.
    pub extra: Vec<PathBuf>,
}

/// The same files, open.
#[derive(Debug, Default)]
pub struct Opened {
    /// The file to write.
    pub output: Option<File>,
    /// Where the output will be in the end.
    pub output_path: Option<PathBuf>,
    /// The file, pipe or directory to read.
    pub input: Option<OwnedFd>,
    /// The files of the input, if it is a directory.
    pub members: Vec<(String, OwnedFd)>,
    /// The files that go into a backup, those in directories too.
    pub extra: Vec<ExtraFile>,
}

/// What the work may ask for.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Give the output file its name: it is whole.
    Publish,
    /// Is the service running?
    ServiceState,
    /// Is this run a part of the service?
    ServiceIsPart,
    /// Refuse if the service could not be started again once it is stopped.
    ServiceCanComeBack,
    /// Did a run that was killed leave something of the service's?
    ServiceLeftOver,
    /// Did one leave a unit stopped that the settings do not name any more?
    ServiceFormer,
    /// Stop the service, remembering whether it ran.
    ServiceStop,
    /// Start the service again if it ran.
    ServiceStart,
    /// Start the service again if a run that was killed had stopped it.
    ServiceRecover {
        /// Or if it did not start after a restore.
        not_started: bool,
    },
    /// Tell the service manager what is being done, and whether anything was since the last time.
    Status {
        /// A sentence.
        text: String,
        /// Whether it is a sign of progress.
        moves: bool,
    },
    /// Show a question on the terminal and read one line.
    Ask(String),
    /// Make the directory of the configured repository if it is missing.
    MakeRepositoryDirectory,
}

/// The answer to a [`Request`].
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// For [`Request::ServiceState`].
    State(State),
    /// For [`Request::ServiceIsPart`] and [`Request::ServiceLeftOver`].
    Yes(bool),
    /// For [`Request::ServiceStop`] and [`Request::ServiceFormer`].
    Warnings(Vec<String>),
    /// For [`Request::ServiceRecover`].
    Recovered(Recovered),
    /// For [`Request::Ask`]; `None` where there is no terminal.
    Line(Option<String>),
}

/// The holder of the caller's rights.
#[derive(Debug)]
pub struct HostState {
    output: Option<OutputFile>,
    service: ServiceGuard,
    /// The directory of a repository that may have to be made, and the account that it is for.
    repository: Option<(PathBuf, String)>,
}

impl HostState {
    /// Opens what the command line names.
    pub fn open(settings: &Settings, opens: &Opens) -> Result<(Self, Opened)> {
        let mut opened = Opened::default();
        let output = match &opens.output {
            Some((path, replace)) => {
                let output = OutputFile::create(path, *replace)?;
                opened.output = Some(output.file().try_clone().context(Kind::Store, "cannot share a descriptor")?);
                opened.output_path = Some(output.path().to_owned());
                Some(output)
            }
            None => None,
        };
        if let Some(path) = &opens.input {
            let input = if path.as_os_str() == "-" {
                std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned()
            } else {
                Ok(output::open_input(path)?)
            };
            let input = input.context(Kind::Refused, "cannot read standard input")?;
            opened.members = output::open_members(&input, path)?;
            opened.input = Some(input);
        }
        opened.extra = extra::open_all(&opens.extra);
        Ok((Self { output, service: ServiceGuard::new(settings), repository: None }, opened))
    }

    /// Lets the work ask for this directory, which then is handed to the account.
    pub fn offer_repository_directory(&mut self, dir: PathBuf, account: &str) {
        self.repository = Some((dir, account.to_owned()));
    }

    /// Does one thing that was asked for.
    pub async fn handle(&mut self, request: Request) -> Result<Answer> {
        match request {
            Request::Publish => {
                if let Some(output) = &mut self.output {
                    output.publish()?;
                }
                Ok(Answer::Done)
            }
            Request::ServiceState => self.service.state().await.map(Answer::State),
            Request::ServiceIsPart => self.service.is_part().await.map(Answer::Yes),
            Request::ServiceCanComeBack => self.service.can_come_back().await.map(|()| Answer::Done),
            Request::ServiceLeftOver => self.service.is_left_over().map(Answer::Yes),
            Request::ServiceFormer => Ok(Answer::Warnings(self.service.former_units().await)),
            Request::ServiceStop => self.service.stop().await.map(Answer::Warnings),
            Request::ServiceStart => self.service.start().await.map(|()| Answer::Done),
            Request::ServiceRecover { not_started } => self.service.recover(not_started).await.map(Answer::Recovered),
            Request::Status { text, moves } => {
                notify::status(&text, moves);
                Ok(Answer::Done)
            }
            // On a thread, so that a signal is heard while the question is on the terminal.
            Request::Ask(question) => on_thread(move || ask(&question)).await.map(Answer::Line),
            Request::MakeRepositoryDirectory => {
                if let Some((dir, account)) = &self.repository {
                    directory::make_for(dir, false, account)?;
                }
                Ok(Answer::Done)
            }
        }
    }

    /// The end of the work, however it came: what was stopped is started, what was not published is removed.
    pub async fn finish(&mut self) -> Result<()> {
        notify::stopping();
        drop(self.output.take());
        self.service.start().await
    }
}

/// Asks on the terminal. Standard output may be a pipe or hold JSON, so the question goes to standard error.
#[expect(clippy::disallowed_methods, reason = "it is `text::printable` that is written")]
fn ask(question: &str) -> Option<String> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return None;
    }
    let mut terminal = std::io::stderr().lock();
    let shown = terminal.write_all(text::printable(question).as_bytes()).and_then(|()| terminal.flush());
    let mut line = String::new();
    shown.and_then(|()| std::io::stdin().lock().read_line(&mut line)).ok()?;
    Some(line.trim_end_matches(['\n', '\r']).to_owned())
}
