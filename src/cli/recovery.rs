//! Recovers the service after a killed restore, at the start of the next command.

use serde_json::json;

use super::report::Report;
use crate::database::lock::{Lock, Purpose};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::host::Recovered;
use crate::restore::subscriptions;

/// Before the work of any command: starts the service and takes the hold file away, where no restore is at work. What
/// does not succeed is a warning, as the command may be what helps. What did not start after a restore is tried again by
/// what `restores`, and left to its user by the others.
pub async fn before_work(env: &Env, restores: bool) {
    let unit = &env.settings.service.unit;
    warn_of_former_services(env).await;
    match env.host.service_is_left_over().await {
        Ok(false) => return,
        Ok(true) => {}
        Err(error) => {
            let cause = error.detail("cause").map(|cause| format!(": {cause}")).unwrap_or_default();
            return env.reporter.warn(&format!("{}{cause}. {}", error.message(), error.hints().join(" ")));
        }
    }
    match recover(env, restores).await {
        Ok(Recovered::Nothing) => {}
        Ok(Recovered::Started) => env.reporter.info(&started(unit)),
        Ok(Recovered::NotOurs) => env.reporter.warn(&format!(
            "a restore that was killed left {unit} stopped, and this account may not start it: run `teslamate-restore --recover` as root"
        )),
        // A restore is at work, and starts it.
        Err(error) if error.kind() == Kind::Busy => {}
        // It may not start because of the database that it has: then a restore, or an undo, is what helps.
        Err(error) => env.reporter.warn(&format!("{}: {}", unrecovered(unit), error.message())),
    }
}

/// Runs the recovery as a command of its own (`--recover`).
///
/// # Errors
/// [`Kind::Busy`] while a restore is at work; [`Kind::Refused`] without the right to it; what starting the service says.
pub async fn run(env: &Env) -> Result<Report> {
    let unit = &env.settings.service.unit;
    warn_of_former_services(env).await;
    let recovered = if env.host.service_is_left_over().await? {
        recover(env, false).await.map_err(|error| error.with("while", unrecovered(unit)))?
    } else {
        Recovered::Nothing
    };
    let text = match recovered {
        Recovered::Nothing => format!("no run that was killed left {unit} stopped"),
        Recovered::Started => started(unit),
        Recovered::NotOurs => {
            return Err(Error::new(Kind::Refused, unrecovered(unit))
                .with("cause", "this account may not start it")
                .hint("sudo teslamate-restore --recover"));
        }
    };
    Ok(Report::new(text, json!({ "unit": unit, "started": recovered == Recovered::Started })))
}

async fn recover(env: &Env, not_started: bool) -> Result<Recovered> {
    // A restore has it for itself until its swap is done, also one whose process was killed while the server was at it.
    let lock = env.interrupt.guard(Lock::take(&env.connector, Purpose::Maintenance)).await?;
    // Before the service is started: until then they take changes away from the live database.
    subscriptions::disable_left_over(env, lock.client()).await;
    let recovered = env.host.recover_service(not_started).await;
    lock.release().await?;
    recovered
}

/// A unit that the settings do not name any more: nobody else says that it is stopped.
async fn warn_of_former_services(env: &Env) {
    for warning in env.host.former_services().await.unwrap_or_default() {
        env.reporter.warn(&warning);
    }
}

fn started(unit: &str) -> String {
    format!("started {unit}, which a run that was killed had left stopped")
}

fn unrecovered(unit: &str) -> String {
    format!("{unit}, which a run that was killed left stopped or held, is not started")
}
