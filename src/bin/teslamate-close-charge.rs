//! `teslamate-close-charge`: finishes charges that `TeslaMate` left unfinished.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use glovebox::cli::{self, close};

fn main() -> ExitCode {
    let args: close::ChargeArgs = cli::parse();
    cli::run("teslamate-close-charge", args.common(), &args.needs(), async |env| close::charges(&args, env).await)
}
