//! An archive's list of contents, as `pg_restore` writes it.

use std::process::Stdio;

use crate::bounded;
use crate::database::tools::Tools;
use crate::dump::contents::Spelling;
use crate::dump::judge::explain_pg_restore;
use crate::dump::source::Source;
use crate::error::{Context, Kind, Result};

/// The longest list, in bytes: that of 100,000 tables has half of it.
const LONGEST: u64 = 256 << 20;

/// Reads the list of contents, with the names of the archive as the server converted them; with `verbose`, each entry is
/// followed by the numbers of those that it depends on.
///
/// # Errors
/// [`Kind::Verify`] or [`Kind::Refused`] if `pg_restore` cannot read the archive.
pub async fn read(source: &Source, tools: &Tools, spelling: &Spelling, verbose: bool) -> Result<String> {
    let (stdin, path) = source.for_pg_restore()?;
    let mut command = crate::process::command(&tools.path("pg_restore"));
    command.arg("--list");
    if verbose {
        command.arg("--verbose");
    }
    if path != "-" {
        command.arg(path);
    }
    let child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.context(Kind::Refused, "cannot run pg_restore")?;
    let output = bounded::output(child, LONGEST).await.context(Kind::Refused, "cannot read the archive's list")?;
    if !output.status.success() {
        return Err(explain_pg_restore(&String::from_utf8_lossy(&output.stderr), tools));
    }
    Ok(spelling.decode(&output.stdout))
}
