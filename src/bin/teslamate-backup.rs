//! `teslamate-backup`: writes the database to one dump file, which exists only if it is whole.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use glovebox::cli::{self, backup};

fn main() -> ExitCode {
    let args: backup::Args = cli::parse();
    cli::run("teslamate-backup", &args.common, &args.needs(), async |env| backup::run(&args, env).await)
}
