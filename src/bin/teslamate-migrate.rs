//! `teslamate-migrate`: the application's pending migrations, after a backup; for the service's `ExecStartPre`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use glovebox::cli::{self, migrate};

fn main() -> ExitCode {
    let args: migrate::Args = cli::parse();
    cli::run("teslamate-migrate", &args.common, &args.needs(), async |env| migrate::run(&args, env).await)
}
