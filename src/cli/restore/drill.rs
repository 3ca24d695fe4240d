//! Where a drill takes place: in a private server, or beside the live database.

use super::{Args, Destination, Env, Policy, Restored, Session, Source, Stored};
use crate::error::{Error, Kind, Result};
use crate::restore::private::Private;

/// Drills in a private server if the options want that and it can be, else beside the live database.
pub(super) async fn run(
    args: &Args,
    env: &Env,
    source: &Source,
    stored: Option<&Stored>,
    policy: &Policy,
) -> Result<Restored> {
    if !args.beside {
        Session::tidy(env).await?;
        let why = match Box::pin(env.interrupt.guard(Private::start(env))).await {
            Ok(private) => match in_private(private, source, stored, policy).await {
                (result, None) => return result,
                (Err(error), Some(_)) if args.private => return Err(error),
                (_, Some(why)) => why,
            },
            Err(error) if matches!(error.kind(), Kind::Signal(_)) => return Err(error),
            Err(error) if args.private => return Err(refused(error)),
            Err(error) => reason(&error),
        };
        env.reporter.info(&format!("drilling beside the live database, not in a private server: {why}"));
    }
    let session = Session::begin(env).await?;
    Box::pin(session.restore(source, stored, &Destination::Drill, policy)).await
}

/// The result, and why the private server was no place for it.
async fn in_private(
    private: Private,
    source: &Source,
    stored: Option<&Stored>,
    policy: &Policy,
) -> (Result<Restored>, Option<String>) {
    let working = async {
        let session = Session::begin_in_private(&private).await?;
        Box::pin(session.restore(source, stored, &Destination::Drill, policy)).await
    };
    let result = Box::pin(working).await;
    let why = private.unfit().map(str::to_owned);
    private.stop().await;
    (result, why)
}

fn refused(error: Error) -> Error {
    error
        .with("while", "starting a private server, as --private wants")
        .hint("Without --private, the drill takes place beside the live database.")
}

/// A failure in one line.
fn reason(error: &Error) -> String {
    let cause = error.detail("cause").and_then(|cause| cause.lines().last());
    cause.map_or_else(|| error.message().to_owned(), |cause| format!("{}: {cause}", error.message()))
}
