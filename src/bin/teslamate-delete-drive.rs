//! `teslamate-delete-drive`: deletes drives, after saving their rows to a file.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use glovebox::cli::{self, delete};

fn main() -> ExitCode {
    let args: delete::DriveArgs = cli::parse();
    cli::run("teslamate-delete-drive", args.common(), &args.needs(), async |env| delete::drives(&args, env).await)
}
