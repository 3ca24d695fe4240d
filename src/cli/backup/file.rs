//! `teslamate-backup FILE`: the flags, the report.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::cli::report::{self, Report};
use crate::cli::{Env, Needs};
use crate::dump::pg_dump::NOTHING_LEFT;
use crate::dump::write::{Selection, Target, Writer, Written};
use crate::dump::{Contents, Format};
use crate::error::{Context, Error, Kind, Result};
use crate::host::Opens;

/// What concerns a dump file alone.
#[derive(clap::Args, Debug)]
#[group(id = "dump_file")]
pub struct Args {
    /// File to write; {time} in it stands for the time in UTC, `-` is standard output (plain SQL)
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Replace FILE if it exists
    #[arg(long, requires = "file")]
    pub force: bool,
    /// Only definitions, no rows, in FILE
    #[arg(long, requires = "file", conflicts_with = "data_only")]
    pub schema_only: bool,
    /// Only rows, no definitions, in FILE
    #[arg(long, requires = "file")]
    pub data_only: bool,
    /// Only tables that match this pattern, as pg_dump means it, in FILE (repeatable)
    #[arg(long = "table", short = 't', value_name = "PATTERN", requires = "file")]
    pub tables: Vec<String>,
}

impl Args {
    /// What has to be opened before the work begins.
    #[must_use]
    pub fn needs(&self, file: &Path) -> Needs {
        needs(file, self.force)
    }
}

/// What has to be opened to write `file`, which may replace one if `force` says so.
#[must_use]
pub fn needs(file: &Path, force: bool) -> Needs {
    if is_stdout(file) {
        return Needs { stdout_is_data: true, ..Needs::default() };
    }
    let path = expand_time(file, chrono::Utc::now());
    Needs { opens: Opens { output: Some((path, force)), ..Opens::default() }, ..Needs::default() }
}

/// Writes the dump.
pub async fn run(args: &Args, lock_wait: Duration, mut env: Env) -> Result<Report> {
    let (target, path) = match (env.opened.output.take(), env.opened.output_path.clone()) {
        (Some(file), Some(path)) => (Target::File(file), path),
        _ => (Target::Stdout, PathBuf::from("-")),
    };
    let format = Format::of_name(&path);
    let selection = Selection { schema_only: args.schema_only, data_only: args.data_only, tables: args.tables.clone() };
    let to_file = matches!(target, Target::File(_));
    let disk = match &target {
        Target::File(file) => Some(file.try_clone().context(Kind::Store, "cannot share a descriptor")?),
        Target::Stdout => None,
    };
    env.reporter.step(&format!("dumping database \"{}\"", env.settings.database.name)).await;
    let writer = Writer {
        connector: &env.connector,
        reporter: &env.reporter,
        interrupt: &env.interrupt,
        tools: env.settings.database.tools.as_deref(),
        level: env.settings.backup.compression,
        lock_wait,
    };
    let explain = |error: Error| explain(error, &path, args.force, disk.as_ref());
    let written = Box::pin(writer.write(format, &selection, target)).await.map_err(explain)?;
    if to_file {
        env.host.publish().await.map_err(explain)?;
    }
    for flaw in &written.contents.untrusted {
        env.reporter.warn(&format!("restoring this will need --trust-dump: line {} {}", flaw.line, flaw.what));
    }
    Ok(describe(&path, format, &env.settings.database.name, &written))
}

/// Adds what is true after a failure; where writing failed, which file and how much room there is.
fn explain(mut error: Error, path: &Path, force: bool, disk: Option<&File>) -> Error {
    let mut state = error.detail("state").unwrap_or(NOTHING_LEFT).to_owned();
    if force && state == NOTHING_LEFT {
        "a file that had this name before is as it was, the database was only read".clone_into(&mut state);
    }
    if let (Kind::Store, Some(disk)) = (error.kind(), disk) {
        error = error.with("file", path.display());
        if let Ok(system) = rustix::fs::fstatvfs(disk) {
            // The descriptor keeps what was written so far, so this is the room that was left when it failed.
            let free = report::bytes(system.f_bavail.saturating_mul(system.f_frsize));
            error = error.with("free", format!("{free} on its file system"));
        }
    }
    error.with("state", state)
}

fn describe(path: &Path, format: Format, database: &str, written: &Written) -> Report {
    let Contents { rows, .. } = &written.contents;
    let seconds = written.duration.as_secs_f64();
    let tables: serde_json::Map<String, serde_json::Value> =
        rows.iter().map(|(table, rows)| (table.to_string(), (*rows).into())).collect();
    let text = format!(
        "{}: {}, {} rows in {} tables, {}\nsha256 {}",
        path.display(),
        report::bytes(written.bytes),
        report::count(written.contents.total_rows()),
        rows.len(),
        report::seconds(written.duration),
        written.sha256
    );
    let json = json!({
        "file": path.display().to_string(),
        "database": database,
        "format": format.word(),
        "bytes": written.bytes,
        "sha256": written.sha256,
        "rows": written.contents.total_rows(),
        "tables": tables,
        "seconds": seconds,
    });
    Report::new(text, json)
}

fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Puts the time in UTC in the place of `{time}`, without characters that file systems or shells object to.
fn expand_time(path: &Path, now: chrono::DateTime<chrono::Utc>) -> PathBuf {
    match path.to_str() {
        Some(text) => text.replace("{time}", &now.format("%Y-%m-%dT%H%M%SZ").to_string()).into(),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r82_the_time_in_a_name_is_utc() {
        let now = chrono::DateTime::parse_from_rfc3339("2026-11-01T01:30:00-04:00").unwrap().to_utc();
        assert_eq!(expand_time(Path::new("/b/{time}.sql"), now), Path::new("/b/2026-11-01T053000Z.sql"));
    }
}
