//! What all binaries have in common: flags, settings, privileges, signals, output and the exit code.
//!
//! A command is a struct of clap and a function that calls the core; both are in a file of their own here. The core
//! knows nothing of clap.

pub mod backup;
pub mod close;
pub mod delete;
pub mod migrate;
pub mod records;
pub mod recovery;
pub mod report;
pub mod restore;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgAction, Args};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use crate::database::Connector;
pub use crate::env::Env;
use crate::error::{Context, Error, Kind, Result};
use crate::host::directory;
use crate::host::link::Link;
use crate::host::{Host, HostState, Identities, Opened, Opens};
use crate::interrupt::Interrupt;
use crate::privilege::{self, Account};
use crate::progress::Reporter;
use crate::repository::{self, Location};
use crate::service::notify;
use crate::settings::{self, Inputs, Settings};
use crate::text;
use report::Report;

/// The flags of every binary.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Configuration file [default: /etc/glovebox/config.toml]
    #[arg(long, value_name = "PATH", global = true)]
    pub config: Option<PathBuf>,
    /// Print one JSON document to standard output, and progress as JSON lines to standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more about what is being done
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
    /// Say nothing but warnings and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Database to work on, instead of the configured one
    #[arg(long, value_name = "NAME", global = true)]
    pub dbname: Option<String>,
}

/// What a command needs from the host, known before anything is read.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Files to open.
    pub opens: Opens,
    /// It is a step of another program's start.
    pub is_step: bool,
    /// The database may be another one afterwards.
    pub restores: bool,
    /// It sees to a service that was left stopped by itself.
    pub recovers: bool,
    /// Nothing is opened but the configuration file, which is looked at.
    pub config_alone: bool,
    /// Standard output carries data: the report goes to standard error.
    pub stdout_is_data: bool,
    /// A repository is opened: its password is read with the caller's rights.
    pub repository: bool,
    /// The place of a repository is asked without opening it: the credentials for that are read in the same way.
    pub storage: bool,
    /// A backup may be taken into it: the extra files are opened with the caller's rights.
    pub takes_backup: bool,
}

/// Runs a command to its exit code.
pub fn run<W>(program: &'static str, common: &Common, needs: &Needs, work: W) -> ExitCode
where
    W: AsyncFnOnce(Env) -> Result<Report>,
{
    // The first thing of all: nothing that is written may be readable by others, not even for a moment.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    write_panics(program);
    let reporter = Reporter::new(program, common.json, common.quiet, common.verbose);
    let result = Run { program, common, needs, reporter: reporter.clone() }.start(work);
    match result {
        Ok(Ended::Worker(code)) => ExitCode::from(code),
        Ok(Ended::Here(report)) => finish(&reporter, report, needs.stdout_is_data),
        Err(error) => finish(&reporter, Report { failure: Some(error), ..Report::default() }, needs.stdout_is_data),
    }
}

/// Reads the command line, or ends the program as `--help` and a mistake in it do. What a mistake repeats may be a file's name
/// that a shell put there.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "it is `text::printable` that is written")]
pub fn parse<A: clap::Parser>() -> A {
    A::try_parse().unwrap_or_else(|error| {
        if !error.use_stderr() {
            error.exit();
        }
        let _ = std::io::stderr().lock().write_all(text::printable(&error.to_string()).as_bytes());
        std::process::exit(error.exit_code())
    })
}

/// Has a panic written as everything else is: its message may repeat text of others.
#[expect(clippy::disallowed_methods, reason = "it is `text::printable` that is written")]
fn write_panics(program: &'static str) {
    std::panic::set_hook(Box::new(move |panic| {
        let _ = std::io::stderr().lock().write_all(panic_text(program, &panic.to_string()).as_bytes());
    }));
}

fn panic_text(program: &str, words: &str) -> String {
    format!("{program}: {}\n", text::printable(words))
}

/// Prints the report and the failure; the exit code is the failure's.
#[expect(clippy::disallowed_methods, reason = "it is `text::printable` or `text::json` that is written")]
fn finish(reporter: &Reporter, report: Report, stdout_is_data: bool) -> ExitCode {
    let mut text = report.text;
    if reporter.is_json() {
        let mut document = report.json;
        if let Some(Value::Object(failure)) = report.failure.as_ref().map(Error::to_json) {
            match &mut document {
                Value::Object(fields) => fields.extend(failure),
                _ => document = Value::Object(failure),
            }
        }
        text = text::json(&document.to_string()).into_owned();
    } else {
        text = text::printable(&text).into_owned();
    }
    let silent = text.is_empty() || (reporter.is_quiet() && !reporter.is_json());
    let written = match (silent, stdout_is_data) {
        (true, _) => Ok(()),
        (false, true) => writeln!(std::io::stderr().lock(), "{text}"),
        (false, false) => writeln!(std::io::stdout().lock(), "{text}"),
    };
    if let Some(error) = &report.failure {
        reporter.error(&error.to_string());
        return ExitCode::from(error.kind().exit_code());
    }
    match written {
        Ok(()) => ExitCode::SUCCESS,
        // `status | head`: its reader has seen what it wanted to see.
        Err(cause) if cause.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(cause) => {
            reporter.error(&format!("everything was done, but the report cannot be printed: {cause}"));
            ExitCode::from(Kind::Store.exit_code())
        }
    }
}

enum Ended {
    Here(Report),
    Worker(u8),
}

struct Run<'a> {
    program: &'static str,
    common: &'a Common,
    needs: &'a Needs,
    reporter: Reporter,
}

impl Run<'_> {
    fn start<W: AsyncFnOnce(Env) -> Result<Report>>(self, work: W) -> Result<Ended> {
        if self.needs.is_step {
            notify::is_step();
        }
        if self.needs.config_alone {
            let inputs = Inputs::of_file(self.common.config.as_deref())?;
            let settings = Settings::check(&inputs, judge)?;
            for warning in &settings.warnings {
                self.reporter.warn(warning);
            }
            return Ok(Ended::Here(sound(&inputs, &settings)));
        }
        if privilege::is_worker() {
            let (link, inputs, opened) = privilege::enter_worker()?;
            return self.work_as_worker(link, inputs, opened, work);
        }
        let mut command_line = BTreeMap::new();
        if let Some(name) = &self.common.dbname {
            command_line.insert("database.name".to_owned(), name.clone());
        }
        // A variable that is not UTF-8 cannot be one of ours.
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let mut inputs = Inputs::gather(self.common.config.as_deref(), command_line, environment)?;
        let mut settings = Settings::resolve(&inputs)?;
        // A step of the application's start reads what it can, and says what it cannot: most starts need none of it.
        let needed = |read: Result<()>| match read {
            Err(error) if self.needs.is_step => {
                let cause = error.detail("cause").unwrap_or_default();
                self.reporter.warn(&format!("{}: {cause}; a backup would fail", error.message()));
                Ok(())
            }
            read => read,
        };
        if self.needs.repository {
            needed(inputs.read_passwords(&settings))?;
        }
        if self.needs.repository || self.needs.storage {
            needed(inputs.read_environment_files(&settings))?;
            settings = Settings::resolve(&inputs)?;
        }
        for warning in &settings.warnings {
            self.reporter.warn(warning);
        }
        let account = privilege::account(&settings)?;
        make_dir(&settings.state_dir, true, &account)?;
        let runtime = runtime()?;
        // Before the first file is made: from here on, a signal is a failure that cleans up.
        let interrupt = {
            let _context = runtime.enter();
            Interrupt::listen()?
        };
        let mut identities = Identities::default();
        if let (Account::Other(name), true) = (&account, self.needs.repository || self.needs.storage) {
            needed(identities.copy(&settings, name))?;
            inputs.identities = identities.paths();
        }
        let mut opens = self.needs.opens.clone();
        if self.needs.takes_backup {
            opens.extra.clone_from(&settings.backup.extra_files);
        }
        let (mut host, opened) = HostState::open(&settings, &opens)?;
        offer_repository_directory(&settings, &account, &mut host);
        notify::ready();
        match account {
            Account::Other(name) => runtime.block_on(async {
                // The worker makes its own of what it is sent, and root needs no password.
                drop(settings);
                privilege::supervise(&name, inputs, opened, &mut host, &interrupt).await.map(Ended::Worker)
            }),
            Account::Root | Account::Caller => {
                inputs.wipe();
                let host = Arc::new(Mutex::new(host));
                if account == Account::Root {
                    self.reporter.info("working as root: `database.os_user` or the state directory's owner says so");
                }
                let env = self.env(settings, Host::Here(host.clone()), opened, interrupt);
                work_here(runtime, &host, async |env| self.work(work, env).await, env)
            }
        }
    }

    fn work_as_worker<W>(self, link: Link, mut inputs: Inputs, opened: Opened, work: W) -> Result<Ended>
    where
        W: AsyncFnOnce(Env) -> Result<Report>,
    {
        // The parent has shown the warnings.
        let settings = Settings::resolve(&inputs)?;
        inputs.wipe();
        // Where the account itself may, root has not.
        make_dir(&settings.state_dir, true, &Account::Caller)?;
        let host = Host::Parent(Arc::new(Mutex::new(link)));
        let runtime = runtime()?;
        let result = runtime.block_on(async {
            let interrupt = Interrupt::listen()?;
            self.work(work, self.env(settings, host, opened, interrupt)).await
        });
        runtime.shutdown_background();
        result.map(Ended::Here)
    }

    async fn work<W: AsyncFnOnce(Env) -> Result<Report>>(&self, work: W, env: Env) -> Result<Report> {
        // A step of the service's own start cannot start it.
        if !self.needs.is_step && !self.needs.recovers {
            recovery::before_work(&env, self.needs.restores).await;
        }
        let connector = env.connector.clone();
        let worked = work(env).await;
        if connector.has_met_md5() {
            self.reporter.debug(
                "the server asked for the password as MD5: whoever listens on the way can try out passwords; \
                 scram-sha-256 in pg_hba.conf is better",
            );
        }
        worked
    }

    fn env(&self, settings: Settings, host: Host, opened: Opened, interrupt: Interrupt) -> Env {
        let connector = Connector::new(&settings.database, self.program);
        Env { settings, connector, reporter: self.reporter.with_host(host.clone()), interrupt, host, opened }
    }
}

/// Does the work in this process, and puts the service back whatever happened, a panic included.
fn work_here<W>(runtime: Runtime, host: &Mutex<HostState>, work: W, env: Env) -> Result<Ended>
where
    W: AsyncFnOnce(Env) -> Result<Report>,
{
    let guarded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(work(env))));
    let finished = runtime.block_on(async { host.lock().await.finish().await });
    runtime.shutdown_background();
    let result = guarded.unwrap_or_else(|_| {
        Err(Error::new(Kind::Attention, "this program has a fault and stopped at it (see above)")
            .with("state", "the live database is whole: it is only ever replaced in one transaction")
            .hint("Please report it with the lines above."))
    });
    match (result, finished) {
        (Ok(report), Ok(())) => Ok(Ended::Here(report)),
        (Ok(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        // Both are told: the service is the more urgent, the work the more telling.
        (Err(error), Err(service)) => Err(error.escalate(Kind::Attention).with("service", service)),
    }
}

fn runtime() -> Result<Runtime> {
    // One thread: children must be started from the main one (see `process.rs`), and the work waits more than it
    // computes. What computes runs on threads of its own.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(Kind::Refused, "cannot start the runtime")
}

/// What the code that opens a repository would refuse about it.
fn judge(repository: &settings::Repository) -> Vec<(&'static str, String)> {
    repository::mistakes(repository).iter().map(|mistake| (mistake.setting, mistake.sentence())).collect()
}

/// What a look at a configuration file found, where it found no mistake.
fn sound(inputs: &Inputs, settings: &Settings) -> Report {
    let file = inputs.config.as_ref().map_or_else(String::new, |text| text.path.display().to_string());
    // A location may hold a password.
    let location = |repository: &settings::Repository| {
        Location::parse(&repository.location).map_or_else(|_| "unknown".to_owned(), |location| location.to_string())
    };
    let repository = settings.repository.as_ref().map_or_else(|| "none".to_owned(), location);
    let name = &settings.database.name;
    let text = format!("{file} is sound: database \"{name}\", repository {repository}");
    Report::new(text, serde_json::json!({ "file": file, "database": name, "repository": repository }))
}

/// Lets the work ask for the directory of the repository, where only the caller may make it.
fn offer_repository_directory(settings: &Settings, account: &Account, host: &mut HostState) {
    let location = settings.repository.as_ref().map(|repository| Location::parse(&repository.location));
    // A location that cannot be read is reported when the repository is opened.
    if let (Some(Ok(Location::Directory(dir))), Account::Other(name)) = (location, account) {
        host.offer_repository_directory(dir, name);
    }
}

/// Makes a missing directory, for the account that does the work.
fn make_dir(dir: &Path, with_parents: bool, account: &Account) -> Result<()> {
    if dir.exists() {
        return Ok(());
    }
    if let Account::Other(name) = account {
        return directory::make_for(dir, with_parents, name);
    }
    // Not every run needs it; the one that does says so.
    let _ = if with_parents { std::fs::create_dir_all(dir) } else { std::fs::create_dir(dir) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k18_a_panic_is_written_as_plain_text() {
        assert_eq!(panic_text("x", "panicked at a:\n<0>\x1b[2J"), "x: panicked at a:\n\\u{3c}0>\\u{1b}[2J\n");
    }
}
