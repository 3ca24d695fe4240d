//! `teslamate-restore`: loads a backup beside the live database, verifies it, then swaps it in.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use glovebox::cli::{self, restore};

fn main() -> ExitCode {
    let args: restore::Args = cli::parse();
    // Logging, settings, privileges, signals and the exit code are the same for every binary.
    cli::run("teslamate-restore", &args.common, &args.needs(), async |env| restore::run(&args, env).await)
}
