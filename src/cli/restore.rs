//! `teslamate-restore SOURCE`: the flags, the question, the report.

use std::path::PathBuf;

use clap::Parser;
use serde_json::json;

use super::report::{self, Report};
use super::{Common, Env, Needs, recovery};
use crate::backup;
use crate::dump::Source;
use crate::error::{Error, Kind, Result};
use crate::host::{Opened, Opens};
use crate::ledger::RunKind;
use crate::restore::names;
use crate::restore::rows_only::Loaded;
use crate::restore::stored::{Stored, called};
use crate::restore::{Destination, Policy, Restored, Session};
use crate::teslamate::ids;

mod describe;
mod drill;
mod prompt;
mod record;
mod rows;

/// Flags about a whole database.
const NOT_WITH_RECORDS: [&str; 12] = [
    "into",
    "drill",
    "undo",
    "recover",
    "data_only",
    "schema_only",
    "tables",
    "jobs",
    "locale",
    "as_it_was",
    "trust_dump",
    "skip_extensions",
];

/// Load a backup beside the live database, verify it, then swap it in with about a second of downtime
#[derive(Debug, Parser)]
#[command(
    name = "teslamate-restore",
    version,
    after_help = "The live database is not touched before its replacement is loaded and verified, and is kept \
                  afterwards: --undo brings it back.\n\nExit codes: 0 done and verified, 2 usage or configuration, \
                  10 refused, 11 busy, 12 PostgreSQL failed, 13 no space, 14 the dump is damaged, 15 look at the \
                  message: one command is needed, 128+n signal n."
)]
pub struct Args {
    /// The flags of every binary.
    #[command(flatten)]
    pub common: Common,
    /// The begin of a backup's id (4 digits or more), or `latest`; or a dump file (.sql, .sql.gz, .sql.zst, .dump), a
    /// directory of pg_dump -Fd, or `-` for standard input
    #[arg(value_name = "SOURCE", required_unless_present_any = ["undo", "recover", "undo_record"], conflicts_with_all = ["undo", "recover"])]
    pub source: Option<PathBuf>,
    /// Load into a new database of this name, beside the live one
    #[arg(long, value_name = "NAME", conflicts_with_all = ["drill", "undo"])]
    pub into: Option<String>,
    /// Load, verify, and drop it again: proves that the dump can be restored
    #[arg(long, conflicts_with = "undo")]
    pub drill: bool,
    /// With --drill: beside the live database, even where a private server could be made
    #[arg(long, requires = "drill", conflicts_with = "private")]
    pub beside: bool,
    /// With --drill: in a private server, or not at all
    #[arg(long, requires = "drill")]
    pub private: bool,
    /// Swap the database back that the last restore replaced
    #[arg(long)]
    pub undo: bool,
    /// Start the service that a killed restore left stopped, and do nothing else; any other command does so first
    #[arg(long, conflicts_with_all = ["into", "drill", "undo", "data_only"])]
    pub recover: bool,
    /// With --undo: the previous database to bring back, instead of the newest one
    #[arg(long, value_name = "NAME", requires = "undo")]
    pub previous: Option<String>,
    /// Do not ask before the live database is replaced
    #[arg(long)]
    pub yes: bool,
    /// Parallel jobs for loading [default: one per CPU, at most 8]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub jobs: Option<u32>,
    /// Only this table, with --into, --drill or --data-only (repeatable; not for SQL text)
    #[arg(long = "table", short = 't', value_name = "TABLE")]
    pub tables: Vec<String>,
    /// Only definitions, with --into or --drill (not for SQL text)
    #[arg(long)]
    pub schema_only: bool,
    /// Do not back the live database up first
    #[arg(long)]
    pub no_safety_backup: bool,
    /// Only rows: in the live database, in one transaction, in the place of those that are there (backups only)
    #[arg(long, conflicts_with_all = ["into", "drill", "undo", "schema_only"])]
    pub data_only: bool,
    /// Put this drive of a backup back into the live database, with its positions and what it refers to; nothing else
    /// changes (repeatable)
    #[arg(long = "drive", value_name = "ID", value_parser = ids::parse, conflicts_with_all = NOT_WITH_RECORDS)]
    pub drives: Vec<i32>,
    /// Put this charge of a backup back, with its readings and what it refers to (repeatable)
    #[arg(long = "charge", value_name = "ID", value_parser = ids::parse, conflicts_with_all = NOT_WITH_RECORDS)]
    pub charges: Vec<i32>,
    /// With --drive and --charge: show what would be put back, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Take away again what --drive and --charge put back, as this file says
    #[arg(long, value_name = "FILE", conflicts_with_all = NOT_WITH_RECORDS, conflicts_with_all = ["source", "drives", "charges"])]
    pub undo_record: Option<PathBuf>,
    /// Do not run the application's migrations that came since
    #[arg(long)]
    pub as_it_was: bool,
    /// Locale of the new database, in the place of the one that it had: `C.UTF-8`, `libc:de_DE.UTF-8`, `icu:de-DE`,
    /// `builtin:C.UTF-8`
    #[arg(long, value_name = "LOCALE", conflicts_with_all = ["undo", "data_only"])]
    pub locale: Option<String>,
    /// Begin although the disk looks too full: the load may have to be stopped half-way, before the server runs out of space
    #[arg(long, conflicts_with = "undo")]
    pub ignore_free_space: bool,
    /// Leave out who owns what: everything belongs to the role that restores
    #[arg(long)]
    pub no_owner: bool,
    /// Leave out GRANT and REVOKE
    #[arg(long)]
    pub no_privileges: bool,
    /// Leave out tablespaces: everything lies in the database's own
    #[arg(long)]
    pub no_tablespaces: bool,
    /// Leave out this extension and the rows of its tables (repeatable)
    #[arg(long = "skip-extension", value_name = "NAME")]
    pub skip_extensions: Vec<String>,
    /// Leave out settings and privileges of the database that this role may not give to the new one
    #[arg(long)]
    pub no_properties: bool,
    /// Let statements pass that pg_dump never writes, and functions in C; a dump is code, so know where it comes from
    #[arg(long)]
    pub trust_dump: bool,
    /// Let a dump pass that a newer PostgreSQL or a newer release of the application made
    #[arg(long)]
    pub allow_newer: bool,
    /// Let a dump pass that has none of TeslaMate's tables, or a backup of another database or cluster
    #[arg(long)]
    pub allow_other: bool,
}

impl Args {
    /// What has to be opened before the work begins.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let input = if self.backup().is_some() { None } else { self.source.clone() };
        if self.recover {
            return Needs { recovers: true, ..Needs::default() };
        }
        if let Some(file) = &self.undo_record {
            return Needs { opens: Opens { input: Some(file.clone()), ..Opens::default() }, ..Needs::default() };
        }
        if self.is_of_records() {
            return Needs { repository: self.backup().is_some(), ..Needs::default() };
        }
        // A password that cannot be read must not stand between somebody and the file that they have.
        let is_live = !(self.undo || self.drill || self.into.is_some());
        let repository = self.backup().is_some() || (is_live && !self.no_safety_backup);
        Needs {
            opens: Opens { input, ..Opens::default() },
            repository,
            takes_backup: is_live && !self.no_safety_backup,
            restores: true,
            ..Needs::default()
        }
    }

    /// The backup that SOURCE names, if it is none of a file.
    fn backup(&self) -> Option<&str> {
        let words = self.source.as_ref()?.to_str()?;
        let is_id = (4..=64).contains(&words.len()) && words.bytes().all(|byte| byte.is_ascii_hexdigit());
        (words == "latest" || is_id).then_some(words)
    }

    fn is_of_records(&self) -> bool {
        !(self.drives.is_empty() && self.charges.is_empty())
    }

    fn is_partial(&self) -> bool {
        self.schema_only || !self.tables.is_empty()
    }

    fn destination(&self) -> Result<Destination> {
        match (&self.into, self.drill) {
            (Some(name), _) if name.is_empty() || name.len() > 63 || name.contains(['\0', '\n', '\r']) => {
                Err(Error::new(Kind::Usage, "--into needs a name of 1 to 63 bytes without line breaks"))
            }
            (Some(name), _) if names::is_reserved(name) => {
                Err(Error::new(Kind::Refused, format!("\"{name}\" is a name that a restore gives by itself"))
                    .with("state", "nothing was touched")
                    .hint("Choose a name that does not end in `_before_` or `_restore_` and a time."))
            }
            (Some(name), _) => Ok(Destination::Beside(name.clone())),
            (None, true) => Ok(Destination::Drill),
            (None, false) if self.is_partial() && !self.data_only => Err(Error::new(
                Kind::Usage,
                "--table and --schema-only make a part of a database, which cannot replace the live one",
            )
            .with("state", "nothing was touched")
            .hint("Add --into NAME to load the part beside the live database.")
            .hint("Add --data-only to put a backup's rows in the place of the live ones.")),
            (None, false) => Ok(Destination::Live),
        }
    }

    fn policy(&self, env: &Env) -> Policy {
        Policy {
            jobs: self.jobs.unwrap_or_else(Policy::default_jobs),
            trust_dump: self.trust_dump,
            allow_newer: self.allow_newer,
            allow_other: self.allow_other,
            no_owner: self.no_owner,
            no_privileges: self.no_privileges,
            no_tablespaces: self.no_tablespaces,
            skip_extensions: self.skip_extensions.clone(),
            no_properties: self.no_properties,
            schema_only: self.schema_only,
            tables: self.tables.clone(),
            no_safety_backup: self.no_safety_backup,
            partial: self.is_partial(),
            ignore_free_space: self.ignore_free_space,
            locale: self.locale.clone(),
            as_it_was: self.as_it_was,
            unit: env.settings.service.unit.clone(),
        }
    }
}

/// Restores, drills or undoes.
pub async fn run(args: &Args, env: Env) -> Result<Report> {
    if args.recover {
        return recovery::run(&env).await;
    }
    if args.undo {
        return undo(args, &env).await;
    }
    if let Some(file) = &args.undo_record {
        return record::undo(env, file).await;
    }
    if args.is_of_records() {
        return Box::pin(record::put_back(args, &env)).await;
    }
    if args.dry_run {
        return Err(Error::new(Kind::Usage, "--dry-run is for --drive and --charge")
            .with("state", "nothing was touched")
            .hint("--drill loads and verifies a whole backup and changes nothing."));
    }
    let destination = args.destination()?;
    let kind = if destination == Destination::Drill { RunKind::Drill } else { RunKind::Restore };
    if args.backup().is_none() && env.settings.repository.is_none() {
        return Box::pin(restore(args, env, &destination, None)).await;
    }
    // A second value, since the work takes the opened files out of the first.
    let noting = env.without_files();
    let mut noted = backup::session::Session::begin_anyway(&noting, kind, false)?;
    let result = Box::pin(restore(args, env, &destination, Some(&mut noted))).await;
    noted.end(result)
}

async fn restore(
    args: &Args,
    mut env: Env,
    destination: &Destination,
    mut noted: Option<&mut backup::session::Session<'_>>,
) -> Result<Report> {
    let policy = args.policy(&env);
    let untouched = "the live database and its service were not touched";
    let name = args.source.as_ref().map_or_else(String::new, |path| path.display().to_string());
    if let (Some(_), Some(noted)) = (args.backup(), &mut noted) {
        noted.fill_stand_in().await.map_err(|error| error.or_state(untouched))?;
    }
    let wanted = match (args.backup(), &mut noted) {
        (Some(words), Some(noted)) => {
            if args.source.as_ref().is_some_and(|path| path.exists()) {
                return Err(Error::new(Kind::Usage, format!("`{words}` may be a backup or the file of that name"))
                    .with("state", untouched)
                    .hint(format!("For the file say `./{words}`; for the backup give more of its id.")));
            }
            noted.learn_cluster().await?;
            let wanted = noted.meant(words).map_err(|error| error.or_state(untouched))?;
            if let Some(other) = noted.fuller_elsewhere(words, &wanted)? {
                env.reporter.warn(&format!(
                    "{} of another cluster (host {}) has {} rows, and {} has {}: if that one is meant, name its id and \
                     add --allow-other",
                    called(&other),
                    other.facts.host.as_deref().unwrap_or("unknown"),
                    report::count(other.facts.rows),
                    called(&wanted),
                    report::count(wanted.facts.rows)
                ));
            }
            Some(wanted)
        }
        _ => None,
    };
    if *destination == Destination::Live && !args.data_only {
        ask(&env, args.yes, async || prompt::restore(&env, &name, wanted.as_ref()).await).await?;
    }
    let taken = if let (Some(wanted), Some(noted)) = (wanted, &mut noted) {
        Stored::from_repository(&env, noted, wanted).await.map(|(stored, source)| (Some(stored), source))
    } else {
        let extra = std::mem::take(&mut env.opened.extra);
        let opened = std::mem::replace(&mut env.opened, Opened { extra, ..Opened::default() });
        let scratch = crate::scratch::directory(&env.settings.state_dir);
        let taking = Source::take(&name, opened, &scratch);
        env.interrupt.guard(taking).await.map(|source| (None, source))
    };
    let (stored, source) = taken.map_err(|error| error.or_state(untouched))?;
    if args.data_only {
        return Box::pin(replace_rows(args, &env, stored.as_ref(), &source, &policy)).await;
    }
    let restoring = async {
        if *destination == Destination::Drill {
            return Box::pin(drill::run(args, &env, &source, stored.as_ref(), &policy)).await;
        }
        let session = Session::begin(&env).await?;
        Box::pin(session.restore(&source, stored.as_ref(), destination, &policy)).await
    };
    let restored = Box::pin(restoring).await.map_err(|error| error.or_state(untouched))?;
    if let (Some(stored), Some(noted), false) = (&stored, noted, policy.partial) {
        // All of it was read, loaded and compared: there is no better proof.
        let id = &stored.noted.facts.id;
        if let Err(error) = noted.ledger.mark_verified(id, chrono::Utc::now()) {
            env.reporter.warn(&format!("that the backup is whole was not noted: {error}"));
        }
        noted.figures.bytes_read = Some(stored.manifest.bytes());
    }
    Ok(describe::describe(&env, &source, stored.as_ref(), destination, &restored))
}

async fn replace_rows(
    args: &Args,
    env: &Env,
    stored: Option<&Stored>,
    definitions: &Source,
    policy: &Policy,
) -> Result<Report> {
    let Some(stored) = stored else {
        return Err(Error::new(Kind::Usage, "--data-only takes its rows from a backup, not from a file")
            .with("state", "the live database and its service were not touched")
            .hint("Load the file beside the live database with --into NAME, and take the rows from there."));
    };
    let loaded = Box::pin(Loaded::load(env, stored, definitions, policy)).await?;
    ask(env, args.yes, async || prompt::rows(env, stored, &loaded, policy)).await?;
    let session = Session::begin(env).await?;
    let replaced = Box::pin(session.replace_rows(stored, &loaded, policy)).await?;
    Ok(rows::describe(env, stored, &replaced))
}

async fn undo(args: &Args, env: &Env) -> Result<Report> {
    let session = Session::begin(env).await?;
    let previous = session.previous_to_undo(args.previous.as_deref()).await?;
    let database = &env.settings.database.name;
    let was_replaced = session.was_replaced_by_live(&previous).await?;
    ask(env, args.yes, async || prompt::undo(env, &previous, was_replaced).await).await?;
    let undone = session
        .undo(&previous)
        .await
        .map_err(|error| error.or_state("the live database was not replaced").hint("`psql -l` lists the databases."))?;
    let retired = match &undone.retired {
        Some(retired) => format!("what was live until now is \"{retired}\""),
        None => "there was no live database until now".to_owned(),
    };
    let text = format!(
        "database \"{database}\" is again what \"{}\" was; {retired}\ndowntime {}",
        undone.from,
        report::seconds(undone.downtime)
    );
    let json = json!({
        "undone": true,
        "database": database,
        "from": undone.from,
        "previous": undone.retired,
        "downtime_seconds": undone.downtime.as_secs_f64(),
    });
    Ok(Report::new(text, json))
}

/// Wants the database's name typed on a terminal, or `--yes`. The warning takes time to make, so it is made if somebody
/// reads it.
async fn ask(env: &Env, yes: bool, warning: impl AsyncFnOnce() -> String) -> Result<()> {
    if yes {
        return Ok(());
    }
    let warning = env.interrupt.guard(async { Ok(warning().await) }).await?;
    let untouched = "the live database and its service were not touched";
    let question = format!("{warning}\nType the database's name to go on: ");
    let answer = env.interrupt.guard(env.host.ask(&question)).await.map_err(|error| error.or_state(untouched))?;
    match answer {
        Some(answer) if answer == env.settings.database.name => Ok(()),
        Some(_) => Err(Error::new(Kind::Refused, "that is not the database's name").with("state", untouched)),
        None => {
            Err(Error::new(Kind::Usage, "the live database is only replaced with --yes where there is no terminal")
                .with("state", untouched)
                .hint("Add --yes; or try it first with --drill, which changes nothing."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
