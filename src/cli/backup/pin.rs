//! `teslamate-backup pin` and `unpin`.

use serde_json::json;

use crate::backup::session::Session;
use crate::cli::Env;
use crate::cli::report::Report;
use crate::error::Result;

/// Which ones.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The begin of an id, 4 digits or more, or `latest` (repeatable)
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<String>,
}

/// Pins them, or leaves them to the retention. All of them are known before the first is changed.
pub fn run(args: &Args, pinned: bool, env: &Env) -> Result<Report> {
    let mut session = Session::begin(env, None)?;
    let meant = args.ids.iter().map(|id| session.meant(id)).collect::<Result<Vec<_>>>()?;
    let mut lines = Vec::new();
    for noted in &meant {
        let id = &noted.facts.id;
        if pinned {
            session.ledger.pin(id)?;
        } else {
            session.ledger.unpin(id)?;
        }
        let what = if pinned { "is kept whatever the retention says" } else { "is left to the retention" };
        lines.push(format!("backup {} {what}", id.short()));
    }
    let ids: Vec<&str> = meant.iter().map(|noted| noted.facts.id.as_str()).collect();
    Ok(Report::new(lines.join("\n"), json!({ "backups": ids, "pinned": pinned })))
}
