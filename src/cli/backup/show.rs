//! `teslamate-backup show`: what is in a backup, from its manifest.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::backup::session::{Access, Session, manifest};
use crate::cli::Env;
use crate::cli::report::{self, Report};
use crate::database::version_text;
use crate::error::{Context, Kind, Result};
use crate::ledger::Snapshot;
use crate::repository::{Id, read};
use crate::tables::manifest::{Manifest, Origin};

/// Which one.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The begin of its id, 4 digits or more, or `latest`
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Shows it.
pub async fn run(args: &Args, env: Env) -> Result<Report> {
    let mut session = Session::begin(&env, None)?;
    let noted = session.meant(&args.id)?;
    let handle = session.open(Access::Read).await?;
    if let Err(outdated) = session.refuse_outdated_latest(&handle, &noted).await {
        env.reporter.warn(&outdated.or_state("the one that the ledger calls the latest is shown").to_string());
    }
    let id: Id = noted.facts.id.as_str().parse()?;
    let wanted = noted.clone();
    let manifest = session.on_thread(move || manifest(&read::open(&handle, id)?, &wanted)).await?;
    let value = serde_json::to_value(&manifest).context(Kind::Verify, "the manifest cannot be shown")?;
    let ledger = serde_json::to_value(&noted).context(Kind::Verify, "the ledger cannot be shown")?;
    Ok(Report::new(text(&noted, &manifest), json!({ "backup": ledger, "manifest": value })))
}

fn text(noted: &Snapshot, manifest: &Manifest) -> String {
    let facts = &noted.facts;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<14} {value}");
        }
    };
    let property = |name: &str| match &manifest.facts.database[name] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    line("backup", facts.id.as_str());
    line("time", &facts.time.format("%F %T UTC").to_string());
    line("comment", facts.comment.as_deref().unwrap_or_default());
    line("pinned", if noted.pinned { "yes" } else { "" });
    let verified = noted.verified_at.map(|time| time.format("%F %T UTC").to_string());
    line("verified", verified.as_deref().unwrap_or("not since it was taken"));
    line("database", &property("datname"));
    line("owner", &property("owner"));
    line("encoding", &format!("{}, {}", property("encoding"), property("datcollate")));
    line("server", &format!("PostgreSQL {}", version_text(manifest.facts.server_version)));
    line("cluster", &format!("{}, timeline {}", manifest.facts.system_identifier, manifest.facts.timeline));
    if let Some(migrations) = &manifest.facts.migrations {
        line("schema", &format!("{} ({} migrations)", migrations.newest, migrations.count));
    }
    let around = &manifest.surroundings;
    line("release", around.release.as_deref().unwrap_or_default());
    line("unit", around.unit.as_ref().map(|unit| unit.name.as_str()).unwrap_or_default());
    let nixos = around.nixos.as_ref().map(|nixos| format!("generation {}, {}", nixos.generation, nixos.system));
    line("NixOS", nixos.as_deref().unwrap_or_default());
    line("taken by", &manifest.tool);
    let chunks = |origin| report::count(manifest.chunks(origin) as u64);
    line("chunks", &format!("{} read, {} reused", chunks(Origin::Read), chunks(Origin::Reused)));
    line("read all", manifest.read_all.as_deref().unwrap_or_default());
    line("size", &format!("{}, added {}", report::bytes(facts.size), report::bytes(facts.added)));
    let rows: Vec<Vec<String>> = manifest
        .tables
        .iter()
        .map(|entry| {
            let bytes = entry.chunks.iter().map(|chunk| chunk.bytes).sum();
            let name = format!("{}.{}", entry.table.schema, entry.table.name);
            vec![name, report::count(entry.rows), report::bytes(bytes), entry.chunks.len().to_string()]
        })
        .collect();
    let _ = write!(text, "\n{}", report::table(&["table", "rows", "bytes", "chunks"], &rows));
    for file in &manifest.files {
        let (user, group) = (owner(file.user.as_ref(), file.uid), owner(file.group.as_ref(), file.gid));
        let _ = write!(text, "\n{} ({:04o}, {user}:{group}, {})", file.path, file.mode, report::bytes(file.bytes));
    }
    for other in &manifest.others {
        let where_ = other.rows.sentence();
        let _ = write!(text, "\n{}.{}: {where_}", other.schema, other.name);
    }
    text
}

fn owner(name: Option<&String>, number: u32) -> String {
    name.cloned().unwrap_or_else(|| number.to_string())
}
