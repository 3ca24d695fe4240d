//! `teslamate-backup export`: a backup as a dump file, without a server.

use std::path::PathBuf;

use serde_json::json;

use super::file;
use crate::backup::session::{Access, Session, manifest};
use crate::cli::report::{self, Report};
use crate::cli::{Env, Needs};
use crate::dump::Format;
use crate::dump::write::Target;
use crate::error::Result;
use crate::export::{self, Exported, Exporter};
use crate::ledger::RunKind;
use crate::repository::{Id, read};

/// Which, and where to.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The begin of its id, 4 digits or more, or `latest`
    #[arg(value_name = "ID")]
    pub id: String,
    /// File to write: plain SQL, .sql.gz or .sql.zst; {time} stands for the time in UTC, `-` is standard output
    #[arg(value_name = "FILE")]
    pub to: PathBuf,
    /// Replace FILE if it exists
    #[arg(long)]
    pub force: bool,
}

impl Args {
    /// What has to be opened before the work begins.
    #[must_use]
    pub fn needs(&self) -> Needs {
        Needs { repository: true, ..file::needs(&self.to, self.force) }
    }
}

/// Writes it.
pub async fn run(args: &Args, mut env: Env) -> Result<Report> {
    let (target, path) = match (env.opened.output.take(), env.opened.output_path.take()) {
        (Some(file), Some(path)) => (Target::File(file), path),
        _ => (Target::Stdout, PathBuf::from("-")),
    };
    let mut session = Session::begin(&env, Some(RunKind::Export))?;
    let result = write(args, &env, &mut session, target, path).await;
    session.end(result)
}

async fn write(args: &Args, env: &Env, session: &mut Session<'_>, target: Target, path: PathBuf) -> Result<Report> {
    let format = Format::of_name(&path);
    export::compression(format)?;
    let noted = session.meant(&args.id)?;
    session.figures.snapshot = Some(noted.facts.id.clone());
    let to_file = matches!(target, Target::File(_));
    let repository = session.open(Access::Read).await?;
    session.refuse_outdated_latest(&repository, &noted).await?;
    let id: Id = noted.facts.id.as_str().parse()?;
    let checked = repository.clone();
    session.on_thread(move || manifest(&read::open(&checked, id)?, &noted).map(drop)).await?;
    env.reporter.step(&format!("writing backup {} to {}", id.short(), path.display())).await;
    let work = Exporter {
        repository: &repository,
        tools: env.settings.database.tools.as_deref(),
        level: env.settings.backup.compression,
        temporary: &env.settings.state_dir,
    };
    let writing = work.write(id, format, target, &session.meter);
    let exported = env.reporter.show(&session.meter, env.interrupt.guard(Box::pin(writing))).await?;
    if to_file {
        env.host.publish().await?;
    }
    session.figures.bytes_read = Some(exported.manifest.bytes());
    for file in &exported.left_out {
        env.reporter.info(&format!("not in the dump: {file}"));
    }
    Ok(describe(&path, &exported, &id))
}

fn describe(path: &std::path::Path, exported: &Exported, id: &Id) -> Report {
    let written = &exported.written;
    let rows = written.contents.total_rows();
    let text = format!(
        "{}: backup {}, {}, {} rows, {}\nsha256 {}",
        path.display(),
        id.short(),
        report::bytes(written.bytes),
        report::count(rows),
        report::seconds(written.duration),
        written.sha256
    );
    let json = json!({
        "file": path.display().to_string(),
        "backup": id.to_string(),
        "bytes": written.bytes,
        "sha256": written.sha256,
        "rows": rows,
        "left_out": exported.left_out,
        "seconds": written.duration.as_secs_f64(),
    });
    Report::new(text, json)
}
