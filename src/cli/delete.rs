//! `teslamate-delete-drive` and `teslamate-delete-charge`: their flags, and what they print.

use std::path::PathBuf;

use clap::{Args, Parser};

use super::report::Report;
use super::{Common, Env, Needs, records};
use crate::error::{Error, Kind, Result};
use crate::host::Opens;
use crate::teslamate::delete::Plan;
use crate::teslamate::{Record, delete, ids, undo};

/// Delete drives; their positions stay
///
/// The rows are first saved to a file in the state directory, from which `--undo` puts them back.
#[derive(Clone, Debug, Parser)]
#[command(name = "teslamate-delete-drive", version)]
pub struct DriveArgs {
    #[command(flatten)]
    delete: DeleteArgs,
}

/// Delete charges, together with their readings
///
/// The rows are first saved to a file in the state directory, from which `--undo` puts them back.
#[derive(Clone, Debug, Parser)]
#[command(name = "teslamate-delete-charge", version)]
pub struct ChargeArgs {
    #[command(flatten)]
    delete: DeleteArgs,
}

#[derive(Args, Clone, Debug)]
struct DeleteArgs {
    /// Ids of the records to delete
    #[arg(value_name = "ID", value_parser = ids::parse, allow_negative_numbers = true)]
    #[arg(required_unless_present = "undo", conflicts_with = "undo")]
    ids: Vec<i32>,
    /// Show what would go and what else would change, and change nothing
    #[arg(long, conflicts_with = "undo")]
    dry_run: bool,
    /// Delete a record that is still open although the service is running
    #[arg(long, conflicts_with = "undo")]
    force_open: bool,
    /// Put back what a deletion saved to this file
    #[arg(long, value_name = "FILE")]
    undo: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

impl DeleteArgs {
    fn needs(&self) -> Needs {
        // Opened with the caller's own rights: root may keep the file where the database's user cannot look.
        Needs { opens: Opens { input: self.undo.clone(), ..Opens::default() }, ..Needs::default() }
    }
}

impl DriveArgs {
    /// The flags of every binary.
    #[must_use]
    pub fn common(&self) -> &Common {
        &self.delete.common
    }

    /// What the host has to open.
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.delete.needs()
    }
}

impl ChargeArgs {
    /// The flags of every binary.
    #[must_use]
    pub fn common(&self) -> &Common {
        &self.delete.common
    }

    /// What the host has to open.
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.delete.needs()
    }
}

/// Deletes drives.
pub async fn drives(args: &DriveArgs, env: Env) -> Result<Report> {
    run(Record::Drive, &args.delete, env).await
}

/// Deletes charges.
pub async fn charges(args: &ChargeArgs, env: Env) -> Result<Report> {
    run(Record::Charge, &args.delete, env).await
}

async fn run(record: Record, args: &DeleteArgs, mut env: Env) -> Result<Report> {
    if let Some(file) = &args.undo {
        let input = env.opened.input.take().ok_or_else(|| Error::new(Kind::Usage, "no file was opened"))?;
        let outcome = undo::run(&env, record, input, file).await?;
        return Ok(records::outcomes(record, false, vec![outcome], &env.reporter));
    }
    let (ids, dry_run, force_open) = (ids::distinct(&args.ids), args.dry_run, args.force_open);
    let plan = Plan { record, ids, dry_run, force_open };
    let outcomes = delete::run(&env, &plan).await?;
    Ok(records::outcomes(record, dry_run, outcomes, &env.reporter))
}
