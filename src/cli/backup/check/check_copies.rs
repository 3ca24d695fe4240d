//! `teslamate-backup check --copy`: verifies the copies. The ledger does not know their contents.

use serde_json::{Value, json};

use super::super::refuse_unknown_copies;
use super::{Args, note_read, reads, sentence};
use crate::backup::session::Session;
use crate::cli::Env;
use crate::cli::report::Report;
use crate::error::{Error, Kind, Result};
use crate::repository::check::{self as checking, Reads};
use crate::repository::lock::Lock;
use crate::repository::{self, Id, Location};
use crate::settings;

/// Checks the copies that are named. One that cannot be checked does not keep the others from it.
pub(super) async fn run(args: &Args, env: &Env, session: &mut Session<'_>) -> Result<Report> {
    let mut report = Report::default();
    let (mut lines, mut documents) = (Vec::new(), Vec::new());
    for settings in wanted(args, env)? {
        let location = Location::parse(&settings.location)?;
        env.reporter.step(&format!("checking the copy at {location}")).await;
        let failure = match check(args, session, settings).await {
            Ok(found) => {
                lines.extend(found.findings.iter().map(|finding| format!("{location}: {}", sentence(finding))));
                documents.push(document(&location, &found));
                if found.is_whole() {
                    lines.push(format!(
                        "{location}: {} backups verified, {} packs were read",
                        found.snapshots, found.packs_read
                    ));
                    continue;
                }
                damage(&found)
            }
            Err(error) if matches!(error.kind(), Kind::Signal(_)) => return Err(error),
            Err(error) => {
                documents.push(json!({ "location": location.to_string(), "failed": error.message() }));
                error
            }
        };
        let failure = failure.with("copy", &location);
        // The first decides the exit code; all are told.
        if report.failure.is_none() {
            report.failure = Some(failure);
        } else {
            env.reporter.error(&failure.to_string());
        }
    }
    report.text = lines.join("\n");
    report.json = json!({ "copies": documents });
    Ok(report)
}

fn wanted<'a>(args: &Args, env: &'a Env) -> Result<Vec<&'a settings::Repository>> {
    let configured = &env.settings.copies;
    let all = args.copies.iter().any(|name| name == "all");
    let named: Vec<String> = args.copies.iter().filter(|name| *name != "all").cloned().collect();
    refuse_unknown_copies(&named, configured, "nothing was checked")?;
    if configured.is_empty() {
        return Err(Error::new(Kind::Usage, "no copy is configured").with("state", "nothing was checked"));
    }
    Ok(configured.iter().filter(|copy| all || args.copies.contains(&copy.location)).collect())
}

async fn check(args: &Args, session: &mut Session<'_>, settings: &settings::Repository) -> Result<checking::Report> {
    let belonging = session.belonging(&Location::parse(&settings.location)?, false)?;
    let settings = settings.clone();
    let opening = move || {
        let mut lock = Lock::shared(&settings)?;
        let handle = repository::open_to_read(&settings)?;
        belonging.judge(&handle)?;
        match lock.announce(&handle) {
            // What is mounted read-only can be read all the same.
            Err(error) if error.kind() == Kind::Store => {}
            announced => announced?,
        }
        Ok((handle, lock))
    };
    let (handle, lock) = session.on_thread(opening).await?;
    let reads: Reads = reads(args, session, &handle).await?;
    let meter = session.meter.clone();
    let work = move || {
        let found = checking::check_reading(&handle, &reads, &meter);
        drop(lock);
        found.map(|found| (found, reads))
    };
    let (found, reads) = session.on_thread(work).await?;
    note_read(session, &reads, &found)?;
    Ok(found)
}

fn damage(found: &checking::Report) -> Error {
    let mut damaged: Vec<String> =
        found.findings.iter().flat_map(|finding| &finding.snapshots).map(Id::short).collect();
    damaged.sort();
    damaged.dedup();
    let has_key = found.findings.iter().any(|finding| finding.is_damage && finding.file.starts_with("keys/"));
    let key = "A key file that `copy` leaves as it is opens nothing any more: restic -r LOCATION key remove ID";
    Error::new(Kind::Verify, "the copy is damaged")
        .with("backups", if damaged.is_empty() { "no backup is affected".to_owned() } else { damaged.join(", ") })
        .with("state", "nothing was changed; backups that are not named can be restored from it")
        .hint("Write anew what the repository still has: teslamate-backup copy --read-data")
        .with("hint", if has_key { key } else { "" })
}

fn document(location: &Location, found: &checking::Report) -> Value {
    let finding = |finding: &checking::Finding| {
        let backups: Vec<String> = finding.snapshots.iter().map(ToString::to_string).collect();
        json!({ "file": finding.file, "what": finding.what, "backups": backups, "damage": finding.is_damage })
    };
    json!({
        "location": location.to_string(),
        "whole": found.is_whole(),
        "backups": found.snapshots,
        "findings": found.findings.iter().map(finding).collect::<Vec<_>>(),
        "packs_read": found.packs_read,
    })
}
