//! `teslamate-close-drive` and `teslamate-close-charge`: their flags, and what they print.

use std::time::Duration;

use clap::{Args, Parser, ValueEnum};

use super::report::Report;
use super::{Common, Env, Needs, records};
use crate::error::Result;
use crate::teslamate::close::{Plan, Target, Via};
use crate::teslamate::{Record, age, close, ids, open};

/// Finish drives that TeslaMate left unfinished
///
/// Gives a drive its end, distance, duration, temperatures and ranges from its positions, as TeslaMate does.
#[derive(Clone, Debug, Parser)]
#[command(name = "teslamate-close-drive", version)]
pub struct DriveArgs {
    #[command(flatten)]
    close: CloseArgs,
    /// Delete a drive that is none (fewer than two positions, or under 10 m); its row is saved to a file first
    #[arg(long)]
    allow_delete: bool,
}

/// Finish charges that TeslaMate left unfinished
///
/// Gives a charge its end, energy, duration and cost from its readings, as TeslaMate does.
#[derive(Clone, Debug, Parser)]
#[command(name = "teslamate-close-charge", version)]
pub struct ChargeArgs {
    #[command(flatten)]
    close: CloseArgs,
}

#[derive(Args, Clone, Debug)]
struct CloseArgs {
    /// Ids of the records to close, also of ones that are closed already: they are computed anew
    #[arg(value_name = "ID", value_parser = ids::parse, allow_negative_numbers = true)]
    #[arg(required_unless_present_any = ["list", "all_open"], conflicts_with_all = ["list", "all_open"])]
    ids: Vec<i32>,
    /// Through the running TeslaMate (rpc), or in the database (sql)
    #[arg(long, value_enum, default_value = "auto")]
    via: Route,
    /// Show every column, old and new, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// List the open records with car, start, age and last position
    #[arg(long, conflicts_with_all = ["all_open", "dry_run"])]
    list: bool,
    /// Close every open record
    #[arg(long)]
    all_open: bool,
    /// With --all-open: only those that began at least this long ago, such as 30m, 12h, 1d or 2w
    #[arg(long, value_name = "AGE", value_parser = age::parse, requires = "all_open", conflicts_with = "ids")]
    older_than: Option<Duration>,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Route {
    /// rpc if the service is running and `service.executable` is set, else sql
    Auto,
    /// Ask the running TeslaMate, which also looks up addresses
    Rpc,
    /// Compute it in the database; addresses stay as they are
    Sql,
}

impl From<Route> for Via {
    fn from(route: Route) -> Self {
        match route {
            Route::Auto => Self::Auto,
            Route::Rpc => Self::Rpc,
            Route::Sql => Self::Sql,
        }
    }
}

impl DriveArgs {
    /// The flags of every binary.
    #[must_use]
    pub fn common(&self) -> &Common {
        &self.close.common
    }

    /// What the host has to open: nothing.
    #[must_use]
    pub fn needs(&self) -> Needs {
        Needs::default()
    }
}

impl ChargeArgs {
    /// The flags of every binary.
    #[must_use]
    pub fn common(&self) -> &Common {
        &self.close.common
    }

    /// What the host has to open: nothing.
    #[must_use]
    pub fn needs(&self) -> Needs {
        Needs::default()
    }
}

/// Closes drives.
pub async fn drives(args: &DriveArgs, env: Env) -> Result<Report> {
    run(Record::Drive, &args.close, args.allow_delete, &env).await
}

/// Closes charges.
pub async fn charges(args: &ChargeArgs, env: Env) -> Result<Report> {
    run(Record::Charge, &args.close, false, &env).await
}

async fn run(record: Record, args: &CloseArgs, allow_delete: bool, env: &Env) -> Result<Report> {
    if args.list {
        return Ok(records::list(record, &open::list(env, record).await?));
    }
    let target = if args.all_open {
        Target::AllOpen { older_than: args.older_than }
    } else {
        Target::Ids(ids::distinct(&args.ids))
    };
    let plan = Plan { record, target, via: args.via.into(), dry_run: args.dry_run, allow_delete };
    let closed = close::run(env, &plan).await?;
    Ok(records::closed(record, plan.dry_run, closed, &env.reporter))
}
