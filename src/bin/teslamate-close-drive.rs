//! `teslamate-close-drive`: finishes drives that `TeslaMate` left unfinished.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use glovebox::cli::{self, close};

fn main() -> ExitCode {
    let args: close::DriveArgs = cli::parse();
    cli::run("teslamate-close-drive", args.common(), &args.needs(), async |env| close::drives(&args, env).await)
}
