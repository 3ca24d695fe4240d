//! `teslamate-close-charge`: finishes charges that `TeslaMate` left unfinished.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use glovebox::cli::{self, close};

fn main() -> ExitCode {
    let args = close::ChargeArgs::parse();
    cli::run("teslamate-close-charge", args.common(), &args.needs(), async |env| close::charges(&args, env).await)
}
