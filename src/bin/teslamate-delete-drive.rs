//! `teslamate-delete-drive`: deletes drives, after saving their rows to a file.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use glovebox::cli::{self, delete};

fn main() -> ExitCode {
    let args = delete::DriveArgs::parse();
    cli::run("teslamate-delete-drive", args.common(), &args.needs(), async |env| delete::drives(&args, env).await)
}
