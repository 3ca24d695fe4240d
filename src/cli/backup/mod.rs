//! `teslamate-backup`: the command line. Without FILE and without a subcommand, a backup into the repository.

pub mod check;
pub mod copy;
pub mod export;
pub mod file;
pub mod forget;
pub mod init;
pub mod key;
pub mod list;
pub mod pin;
pub mod show;
pub mod take;

use std::path::Path;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use super::report::Report;
use super::{Common, Env, Needs};
use crate::backup::session::Session;
use crate::error::{Error, Kind, Result};
use crate::host::Opens;
use crate::settings;

/// Back the database up: into the repository, or with FILE into one dump file
#[derive(Debug, Parser)]
#[command(
    name = "teslamate-backup",
    version,
    after_help = "Without FILE and without a command, a backup into the repository is taken: it reads what changed.\n\
                  With FILE, one dump file is written, which exists only if it is whole. Its format follows its name: \
                  .sql plain SQL, .sql.gz, .sql.zst, .dump (pg_dump's custom format); another name needs a slash, and is plain \
                  SQL.\n\n\
                  Exit codes: 0 done and verified, 2 usage or configuration, 10 refused, 11 busy, 12 reading \
                  PostgreSQL failed, 13 writing failed, 14 something is not what it should be, 128+n signal n."
)]
pub struct Args {
    /// The flags of every binary.
    #[command(flatten)]
    pub common: Common,
    /// What else there is to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The flags for a dump file.
    #[command(flatten)]
    pub file: file::Args,
    /// The flags for a backup into the repository.
    #[command(flatten)]
    pub take: take::Args,
    /// Seconds to wait for a table that somebody else has locked
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub lock_wait: u32,
}

/// What there is to do with a repository, beside taking backups.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the repository
    Init(init::Anew),
    /// Show the backups, or with --runs what was done when
    List(list::Args),
    /// Show what is in a backup
    Show(show::Args),
    /// Look whether the repository is whole
    Check(check::Args),
    /// Give up what the retention does not keep, then prune
    Forget(forget::Forget),
    /// Give single backups up
    Delete(forget::Delete),
    /// Write a backup to a dump file, without a server
    Export(export::Args),
    /// Copy backups to every configured copy
    Copy(copy::Copy),
    /// Show, add or remove keys: the passwords that open the repository
    #[command(subcommand)]
    Key(key::Command),
    /// Keep a backup whatever the retention says
    Pin(pin::Args),
    /// Leave a pinned backup to the retention again
    Unpin(pin::Args),
    /// Fill a ledger that was lost from the repository
    Rebuild(init::Anew),
    /// Look whether the configuration file is sound; no other file is opened
    CheckConfig,
}

impl Command {
    /// Whether it opens the repository with its password.
    fn opens_repository(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Pin(_) | Self::Unpin(_) | Self::CheckConfig)
    }
}

impl Args {
    /// What has to be opened before the work begins.
    #[must_use]
    pub fn needs(&self) -> Needs {
        match (&self.command, &self.file.file) {
            (Some(Command::Export(args)), _) => args.needs(),
            (Some(Command::Key(key::Command::Add { new_password_file })), _) => Needs {
                opens: Opens { input: Some(new_password_file.clone()), ..Opens::default() },
                repository: true,
                ..Needs::default()
            },
            (Some(Command::CheckConfig), _) => Needs { config_alone: true, ..Needs::default() },
            (Some(command), _) => Needs {
                repository: command.opens_repository(),
                storage: matches!(command, Command::List(_)),
                ..Needs::default()
            },
            (None, Some(file)) if names_a_file(file) => self.file.needs(file),
            (None, Some(_)) => Needs::default(),
            (None, None) => Needs { repository: true, takes_backup: true, ..Needs::default() },
        }
    }
}

/// Names that dump files have; `.bck` is that of TeslaMate's documentation.
const SUFFIXES: [&str; 6] = [".sql", ".sql.gz", ".sql.zst", ".dump", ".bck", ".backup"];

/// Whether a word names a dump file: a command that does not exist must not become one.
fn names_a_file(file: &Path) -> bool {
    let name = file.to_string_lossy();
    name == "-" || name.contains('/') || SUFFIXES.iter().any(|suffix| name.to_lowercase().ends_with(suffix))
}

/// Says that a word is neither a command nor the name of a dump file.
fn no_command(file: &Path) -> Error {
    let word = file.display();
    let names = Args::command().get_subcommands().map(|command| command.get_name().to_owned()).collect::<Vec<_>>();
    let near = |name: &&String| strsim::damerau_levenshtein(name, &word.to_string()) <= (name.len() / 3).max(1);
    let meant = names.iter().find(near).map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
    Error::new(Kind::Usage, format!("`{word}` is no command, and no name of a dump file{meant}"))
        .with("commands", names.join(", "))
        .with("state", "nothing was read, nothing was written")
        .hint(format!(
            "To write a dump file of that name, say `./{word}`; .sql, .sql.gz, .sql.zst and .dump are formats."
        ))
}

/// Does it.
pub async fn run(args: &Args, env: Env) -> Result<Report> {
    let lock_wait = Duration::from_secs(args.lock_wait.into());
    match (&args.command, &args.file.file) {
        (Some(_), Some(file)) => Err(Error::new(
            Kind::Usage,
            format!("`{}` stands before a command: a dump file is written without one", file.display()),
        )),
        (Some(command), None) => match command {
            Command::Init(args) => init::init(args, env).await,
            Command::List(args) => list::run(args, &env).await,
            Command::Show(args) => show::run(args, env).await,
            Command::Check(args) => check::run(args, env).await,
            Command::Forget(args) => forget::forget(args, env).await,
            Command::Delete(args) => forget::delete(args, env).await,
            Command::Export(args) => export::run(args, env).await,
            Command::Copy(args) => copy::run(args, env).await,
            Command::Key(command) => key::run(command, env).await,
            Command::Pin(args) => pin::run(args, true, &env),
            Command::Unpin(args) => pin::run(args, false, &env),
            Command::Rebuild(args) => init::rebuild(args, env).await,
            // `cli::run` has done it.
            Command::CheckConfig => Ok(Report::default()),
        },
        (None, Some(file)) if names_a_file(file) => file::run(&args.file, lock_wait, env).await,
        (None, Some(file)) => Err(no_command(file)),
        (None, None) => take::run(&args.take, lock_wait, env).await,
    }
}

/// Refuses names of copies that are not configured.
fn refuse_unknown_copies(names: &[String], configured: &[settings::Repository], state: &str) -> Result<()> {
    let Some(name) = names.iter().find(|name| !configured.iter().any(|copy| copy.location == **name)) else {
        return Ok(());
    };
    let known: Vec<&str> = configured.iter().map(|copy| copy.location.as_str()).collect();
    Err(Error::new(Kind::Usage, format!("no copy at {name} is configured"))
        .with("copies", known.join("\n"))
        .with("state", state)
        .hint("Name a `location` of [[copies]], as it stands there."))
}

/// Notes how a run ended whose report may itself be a failure: then that is how it ended.
fn end_with_report(session: Session<'_>, result: Result<Report>) -> Result<Report> {
    match result.as_ref().ok().and_then(|report| report.failure.clone()) {
        Some(error) => {
            let _ = session.end::<()>(Err(error));
            result
        }
        None => session.end(result),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn k17_a_word_that_is_no_command_is_no_file() {
        for word in ["status", "diff", "restore", "verify", "prune", "snapshots", "lst", "teslamate", "a.txt", ""] {
            assert!(!names_a_file(Path::new(word)), "{word}");
        }
        for file in
            ["-", "./status", "/a/b", "a.sql", "a.SQL.GZ", "a.sql.zst", "a.dump", "teslamate.bck", "x-{time}.sql"]
        {
            assert!(names_a_file(Path::new(file)), "{file}");
        }
        assert!(no_command(Path::new("chekc")).message().contains("did you mean `check`?"));
    }

    #[test]
    fn flags_of_a_dump_file_need_one() {
        assert!(Args::try_parse_from(["teslamate-backup", "--schema-only"]).is_err());
        assert!(Args::try_parse_from(["teslamate-backup", "--json", "list"]).is_ok());
        assert!(Args::try_parse_from(["teslamate-backup", "list", "--json"]).is_ok());
        assert!(Args::try_parse_from(["teslamate-backup", "a.sql", "--full-read"]).is_err());
    }
}
