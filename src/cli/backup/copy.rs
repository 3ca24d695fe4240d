//! `teslamate-backup copy`: every backup into every configured copy, only what is missing there.

use serde_json::{Value, json};

use super::end_with_report;
use crate::backup::session::{Access, Session};
use crate::cli::Env;
use crate::cli::report::{self, Report};
use crate::error::{Error, Kind, Result};
use crate::ledger::RunKind;
use crate::repository::copy::{Copied, copy, init_copy};
use crate::repository::lock::Lock;
use crate::repository::{self, Handle, Id, Location};
use crate::settings;

/// No flags of its own.
#[derive(clap::Args, Debug)]
pub struct Copy {}

/// Copies. One copy that fails does not keep the others from being made.
pub async fn run(env: Env) -> Result<Report> {
    let mut session = Session::begin(&env, Some(RunKind::Copy))?;
    let result = copy_all(&env, &mut session).await;
    end_with_report(session, result)
}

async fn copy_all(env: &Env, session: &mut Session<'_>) -> Result<Report> {
    if env.settings.copies.is_empty() {
        return Err(Error::new(Kind::Usage, "no copy is configured")
            .with("state", "nothing was copied")
            .hint("Add [[copies]] with `location` and `password_file` to the configuration."));
    }
    let source = session.open(Access::Read).await?;
    let ids: Vec<Id> =
        session.ledger.list()?.iter().map(|noted| noted.facts.id.as_str().parse()).collect::<Result<_>>()?;
    let mut report = Report::new(String::new(), json!({}));
    let (mut lines, mut documents, mut added) = (Vec::new(), Vec::new(), 0);
    for settings in &env.settings.copies {
        let location = Location::parse(&settings.location)?;
        env.reporter.step(&format!("copying to {location}")).await;
        match copy_to(session, &source, settings, &ids).await {
            Ok(copied) => {
                added += copied.bytes_stored;
                lines.push(format!(
                    "{location}: {} backups copied, {} were there, added {}",
                    copied.copied.len(),
                    copied.present.len(),
                    report::bytes(copied.bytes_stored)
                ));
                documents.push(document(&location, Ok(&copied)));
            }
            Err(error) if matches!(error.kind(), Kind::Signal(_)) => return Err(error),
            Err(error) => {
                let error = error.with("copy", &location);
                documents.push(document(&location, Err(&error)));
                // The first decides the exit code; all are told.
                if report.failure.is_none() {
                    report.failure = Some(error);
                } else {
                    env.reporter.error(&error.to_string());
                }
            }
        }
    }
    session.figures.bytes_added = Some(added);
    report.text = lines.join("\n");
    report.json = json!({ "copies": documents });
    Ok(report)
}

async fn copy_to(
    session: &Session<'_>,
    source: &Handle,
    settings: &settings::Repository,
    ids: &[Id],
) -> Result<Copied> {
    let (source, settings, ids) = (source.clone(), settings.clone(), ids.to_vec());
    let meter = session.meter.clone();
    let work = move || {
        let target = if repository::may_be_made(&settings)? { Some(init_copy(&settings, &source)?) } else { None };
        let mut lock = Lock::backup(&settings)?;
        let target = match target {
            Some(target) => target,
            None => repository::open(&settings)?,
        };
        lock.announce(&target)?;
        copy(&source, &target, &ids, &meter)
    };
    session.on_thread(work).await
}

fn document(location: &Location, copied: std::result::Result<&Copied, &Error>) -> Value {
    match copied {
        Ok(copied) => {
            let pairs: Vec<Value> = copied
                .copied
                .iter()
                .map(|pair| json!({ "backup": pair.source.to_string(), "copy": pair.target.to_string() }))
                .collect();
            json!({
                "location": location.to_string(), "copied": pairs, "present": copied.present.len(),
                "bytes_added": copied.bytes_stored,
            })
        }
        Err(error) => json!({ "location": location.to_string(), "failed": error.message() }),
    }
}
