//! `teslamate-backup key`: the passwords that open the repository.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use serde_json::json;
use zeroize::Zeroizing;

use crate::backup::session::{Access, Session};
use crate::cli::Env;
use crate::cli::report::{self, Report};
use crate::error::{Context, Error, Kind, Result};
use crate::ledger::RunKind;
use crate::repository::keys;

/// A longer file is no password's.
const LONGEST: u64 = 64 * 1024;

/// What to do with them.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the keys that there are
    List,
    /// Add a key for another password
    Add {
        /// The file with the new password, of 20 characters or more
        #[arg(long, value_name = "PATH")]
        new_password_file: PathBuf,
    },
    /// Remove a key: its password opens the repository no more
    Remove {
        /// The begin of its id, 4 digits or more
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// Does it.
pub async fn run(command: &Command, mut env: Env) -> Result<Report> {
    let file = env.opened.input.take().map(File::from);
    let kind = if matches!(command, Command::List) { None } else { Some(RunKind::Key) };
    let mut session = Session::begin(&env, kind)?;
    let result = match command {
        Command::List => list(&mut session).await,
        Command::Add { new_password_file } => add(&mut session, new_password_file.clone(), file).await,
        Command::Remove { id } => remove(&mut session, id).await,
    };
    session.end(result)
}

async fn list(session: &mut Session<'_>) -> Result<Report> {
    let handle = session.open(Access::Read).await?;
    let keys = session.on_thread(move || keys::list(&handle)).await?;
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(|key| {
            let state = match (&key.damaged, key.in_use) {
                (Some(why), _) => format!("damaged: {why}"),
                (None, true) => "in use".to_owned(),
                (None, false) => String::new(),
            };
            let created = key.created.map(|time| time.format("%F %T").to_string()).unwrap_or_default();
            let (host, user) = (key.host.clone().unwrap_or_default(), key.user.clone().unwrap_or_default());
            vec![key.id.short(), created, host, user, state]
        })
        .collect();
    let documents: Vec<serde_json::Value> = keys
        .iter()
        .map(|key| {
            json!({
                "id": key.id.to_string(), "created": key.created, "host": key.host, "user": key.user,
                "in_use": key.in_use, "damaged": key.damaged,
            })
        })
        .collect();
    Ok(Report::new(report::table(&["id", "created (UTC)", "host", "user", ""], &rows), json!({ "keys": documents })))
}

async fn add(session: &mut Session<'_>, path: PathBuf, file: Option<File>) -> Result<Report> {
    let failed = format!("cannot read the password file {}", path.display());
    let mut bytes = Zeroizing::new(Vec::new());
    let file = file.ok_or_else(|| Error::new(Kind::Refused, failed.clone()))?;
    file.take(LONGEST).read_to_end(&mut bytes).context(Kind::Refused, failed)?;
    let handle = session.open(Access::Remove).await?;
    let id = session.on_thread(move || keys::add(&handle, &path, &bytes)).await?;
    let text = format!("key {} was added: its password opens the repository too", id.short());
    Ok(Report::new(text, json!({ "added": id.to_string() })))
}

async fn remove(session: &mut Session<'_>, digits: &str) -> Result<Report> {
    let handle = session.open(Access::Remove).await?;
    let (digits, listing) = (digits.to_ascii_lowercase(), handle.clone());
    let keys = session.on_thread(move || keys::list(&listing)).await?;
    let matching: Vec<_> = keys.iter().filter(|key| digits.len() >= 4 && key.id.starts_with(&digits)).collect();
    let [key] = matching.as_slice() else {
        return Err(Error::new(Kind::Refused, format!("{} keys begin with {digits}", matching.len()))
            .with("state", "no key was removed")
            .hint("`teslamate-backup key list` shows the keys; give 4 digits or more of one."));
    };
    let id = key.id;
    session.on_thread(move || keys::remove(&handle, id)).await?;
    let text = format!("key {} was removed: its password opens the repository no more", id.short());
    Ok(Report::new(text, json!({ "removed": id.to_string() })))
}
