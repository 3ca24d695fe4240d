//! `teslamate-delete-charge`: deletes charges and their readings, after saving the rows to a file.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use glovebox::cli::{self, delete};

fn main() -> ExitCode {
    let args: delete::ChargeArgs = cli::parse();
    cli::run("teslamate-delete-charge", args.common(), &args.needs(), async |env| delete::charges(&args, env).await)
}
