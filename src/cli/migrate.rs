//! `teslamate-migrate`: the command line.

use std::time::{Duration, Instant};

use chrono::Utc;
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

use super::report::{self, Report};
use super::{Common, Env, Needs};
use crate::error::{Error, Kind, Result};
use crate::migrate::compare::{Comparison, Migration};
use crate::migrate::rehearse::rehearse;
use crate::migrate::{self, Migrated, roll_back};
use crate::restore::Policy;

/// Run the application's pending migrations, after a backup, before the service starts
#[derive(Debug, Parser)]
#[command(
    name = "teslamate-migrate",
    version,
    after_help = "Without a command: `run`. Where nothing is pending, it is done at once, and the application's code is not \
                  started for it.\n\n\
                  Exit codes: 0 done, 2 usage or configuration, 10 refused, 11 busy, 12 reading PostgreSQL failed, \
                  13 writing failed, 14 something is not what it should be, 15 a migration failed: see the message, \
                  128+n signal n."
)]
pub struct Args {
    /// The flags of every binary.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What there is to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Wait for the server, back up and migrate, if anything is pending
    Run {
        /// Also what has failed before
        #[arg(long)]
        again: bool,
    },
    /// Show what is applied, pending, and unknown to the release
    Status,
    /// Show the migrations that were applied, and when
    History,
    /// Try the pending migrations on a copy beside the live database
    Rehearse {
        /// Parallel jobs for the copy [default: one per CPU, at most 8]
        #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
        jobs: Option<u32>,
    },
    /// Undo this migration and all that came after it, after a backup
    Rollback {
        /// The version, as `history` shows it
        version: i64,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Wait for the server
    Wait,
}

impl Args {
    /// What has to be opened before the work begins.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let takes_backup = !matches!(self.command, Some(Command::Status | Command::History | Command::Wait));
        Needs {
            // As the service's own account the password is read when it is needed: where nothing is pending, a password that
            // cannot be read must not keep the application from being started.
            repository: takes_backup && nix::unistd::geteuid().is_root(),
            storage: takes_backup,
            takes_backup,
            is_step: matches!(self.command, None | Some(Command::Run { .. } | Command::Wait)),
            ..Needs::default()
        }
    }
}

/// Does it.
pub async fn run(args: &Args, env: Env) -> Result<Report> {
    match &args.command {
        None => Ok(migrated(&Box::pin(migrate::run(&env, false)).await?)),
        Some(Command::Run { again }) => Ok(migrated(&Box::pin(migrate::run(&env, *again)).await?)),
        Some(Command::Status) => status(&env).await,
        Some(Command::History) => history(&env).await,
        Some(Command::Rehearse { jobs }) => rehearsed(&env, *jobs).await,
        Some(Command::Rollback { version, yes }) => rolled_back(&env, *version, *yes).await,
        Some(Command::Wait) => {
            let started = Instant::now();
            migrate::wait(&env).await?;
            let waited = started.elapsed();
            let text = format!("the server answers after {}", report::seconds(waited));
            Ok(Report::new(text, json!({ "seconds": waited.as_secs_f64() })))
        }
    }
}

fn table(run: &[(Migration, Option<Duration>)]) -> String {
    let rows: Vec<Vec<String>> = run
        .iter()
        .map(|(migration, took)| {
            let took = took.map_or_else(String::new, tenths);
            vec![migration.version.to_string(), migration.name.clone().unwrap_or_default(), took]
        })
        .collect();
    report::table(&["version", "name", "took"], &rows)
}

/// The application says tenths of a second: a migration that took none of them took less.
fn tenths(took: Duration) -> String {
    match took.as_secs_f64() {
        seconds if seconds < 0.1 => "< 0.1 s".to_owned(),
        seconds if seconds < 60.0 => format!("{seconds:.1} s"),
        _ => report::seconds(took),
    }
}

fn documents(run: &[(Migration, Option<Duration>)]) -> Vec<Value> {
    let document = |(migration, took): &(Migration, Option<Duration>)| {
        let seconds = took.map(|took| took.as_secs_f64());
        json!({ "version": migration.version, "name": migration.name, "seconds": seconds })
    };
    run.iter().map(document).collect()
}

fn migrated(migrated: &Migrated) -> Report {
    let json = json!({
        "release": migrated.release.version,
        "applied": migrated.before.applied.len() + migrated.run.len(),
        "run": documents(&migrated.run),
        "backup": migrated.backup,
        "seconds": migrated.duration.as_secs_f64(),
    });
    if migrated.run.is_empty() {
        let count = migrated.before.applied.len();
        let text = format!("all {count} migrations of {} are applied: nothing to do", migrated.release.called());
        return Report::new(text, json);
    }
    let mut text = table(&migrated.run);
    if let Some(backup) = &migrated.backup {
        text = format!("{text}\nbefore them, the database was backed up as {}", backup.short());
    }
    let count = migrated.run.len();
    Report::new(format!("{text}\n{count} migrations, {}", report::seconds(migrated.duration)), json)
}

async fn compared(env: &Env) -> Result<(migrate::release::Release, Comparison)> {
    let release = migrate::release(env)?;
    let client = env.connector.for_questions().connect().await?;
    let comparison = Comparison::read(&client, &release).await?;
    Ok((release, comparison))
}

async fn status(env: &Env) -> Result<Report> {
    let (release, comparison) = compared(env).await?;
    let mut lines = vec![format!(
        "{} of {} migrations are applied ({})",
        comparison.applied.len(),
        release.migrations.len(),
        release.called()
    )];
    let list = |word: &str, migrations: &[Migration]| {
        migrations
            .iter()
            .map(|migration| {
                format!("{word}  {}  {}", migration.version, migration.name.as_deref().unwrap_or_default())
            })
            .collect::<Vec<_>>()
    };
    lines.extend(list("pending", &comparison.pending));
    lines.extend(list("unknown", &comparison.unknown));
    let newer = comparison.refuse_newer(&release).err();
    if newer.is_some() {
        lines.push("the database is newer than the application, which is not started like this".to_owned());
    }
    let json = json!({
        "release": release.version,
        "applied": comparison.applied.len(),
        "pending": comparison.pending,
        "unknown": comparison.unknown,
        "newer": newer.is_some(),
    });
    Ok(Report::new(lines.join("\n"), json))
}

async fn history(env: &Env) -> Result<Report> {
    let (_, comparison) = compared(env).await?;
    let mut all: Vec<&Migration> = comparison.applied.iter().chain(&comparison.unknown).collect();
    all.sort_by_key(|migration| migration.version);
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|migration| {
            let name = migration.name.as_deref().unwrap_or("(unknown to this release)");
            let applied = migration.applied.map_or_else(String::new, |time| time.format("%F %T").to_string());
            vec![migration.version.to_string(), name.to_owned(), applied]
        })
        .collect();
    let since =
        all.iter().filter_map(|migration| migration.applied).max().map(|last| (Utc::now() - last).num_seconds());
    let mut text = report::table(&["version", "name", "applied (UTC)"], &rows);
    if let Some(since) = since {
        text = format!("{text}\nthe last one {since} s ago");
    }
    Ok(Report::new(text, json!({ "migrations": all, "seconds_since_last": since })))
}

async fn rehearsed(env: &Env, jobs: Option<u32>) -> Result<Report> {
    let jobs = jobs.unwrap_or_else(Policy::default_jobs);
    let Some(done) = Box::pin(rehearse(env, jobs)).await? else {
        return Ok(Report::new("nothing is pending: nothing to rehearse".to_owned(), json!({ "run": [] })));
    };
    let text = format!(
        "{}\n{} migrations work on a copy, in {}; the copy took {}, and is dropped again",
        table(&done.run),
        done.run.len(),
        report::seconds(done.migrating),
        report::seconds(done.copying)
    );
    let json = json!({
        "run": documents(&done.run),
        "backup": done.backup,
        "seconds": done.migrating.as_secs_f64(),
        "copy_seconds": done.copying.as_secs_f64(),
    });
    Ok(Report::new(text, json))
}

async fn rolled_back(env: &Env, version: i64, yes: bool) -> Result<Report> {
    let planned = roll_back::plan(env, version).await?;
    if !yes {
        let question = format!("This undoes {}\nType `rollback` to go on: ", migrate::names(&planned.undone));
        match env.interrupt.guard(env.host.ask(&question)).await? {
            Some(answer) if answer == "rollback" => {}
            Some(_) => return Err(Error::new(Kind::Refused, "nothing was undone").with("state", roll_back::UNTOUCHED)),
            None => {
                return Err(Error::new(
                    Kind::Usage,
                    "migrations are only undone with --yes where there is no terminal",
                )
                .with("state", roll_back::UNTOUCHED)
                .hint("Add --yes."));
            }
        }
    }
    let done = Box::pin(roll_back::carry_out(env, planned)).await?;
    let versions: Vec<i64> = done.undone.iter().map(|migration| migration.version).collect();
    let mut text = format!("undone: {}", migrate::names(&done.undone));
    if let Some(backup) = &done.backup {
        text = format!("{text}\nbefore that, the database was backed up as {}", backup.short());
    }
    text.push_str("\nThe present release would migrate again when it starts: start the one from before.");
    Ok(Report::new(text, json!({ "undone": versions, "backup": done.backup, "seconds": done.duration.as_secs_f64() })))
}
