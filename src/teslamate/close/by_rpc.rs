//! Closing one record through the running application, and looking at what it did.

use super::super::delete::{self, Origin};
use super::super::document::Saved;
use super::super::outcome::{Effects, Outcome, Status, unknown};
use super::super::rpc::Rpc;
use super::super::saved;
use super::super::session::{self, Session, begin};
use super::super::{Record, drive};
use super::{Picture, Plan, describe, may_delete, undo_note};
use crate::env::Env;
use crate::error::{Error, Kind, Result};

/// Has it closed, and checks the row before and after.
pub(super) async fn close(env: &Env, session: &mut Session, plan: &Plan, rpc: &Rpc, id: i32) -> Result<Outcome> {
    let record = plan.record;
    let before = picture(session, record, id).await?;
    if !before.exists() {
        return Err(unknown(record, id));
    }
    let reason = match record {
        Record::Drive => reason_to_delete(env, session, id).await?,
        Record::Charge => None,
    };
    let mut removal = None;
    let mut saved = None;
    if let Some(reason) = &reason {
        may_delete(env, plan, id, reason).await?;
        let origin = Origin::of(session);
        let transaction = begin(&mut session.client, &session.both).await?;
        let found = env.interrupt.guard(delete::look(&transaction, record, id, &origin)).await?;
        // The application deletes it: the row must not stay locked.
        session::rollback(transaction).await;
        let found = found.ok_or_else(|| unknown(record, id))?;
        saved = Some(saved::write(&found.content, &env.settings.state_dir)?);
        removal = Some(found);
    }

    env.reporter.step(&format!("asking TeslaMate to close {} {id}", record.noun())).await;
    let answer = env.interrupt.guard(rpc.close(record, id)).await;
    let after = match picture(session, record, id).await {
        Ok(after) => after,
        Err(error) => return Err(blind(error, answer.err(), saved, record, id)),
    };
    let gone = !after.exists();
    // Whatever the application said, the file stays if the row is gone, or may go in a moment.
    let unsure = answer.as_ref().is_err_and(|error| matches!(error.kind(), Kind::Signal(_) | Kind::Busy));
    let saved = saved.filter(|_| gone || unsure).map(Saved::keep);
    let said = answer.as_ref().ok().filter(|words| !words.is_empty()).cloned();
    if let Some(error) = failure(answer, &before, &after, record, id) {
        return Err(match saved {
            Some(path) => error.with("rows", path.display()),
            None => error,
        });
    }

    let status = match (gone, before.is_open()) {
        (true, _) => Status::Deleted,
        (false, true) => Status::Closed,
        (false, false) => Status::Recomputed,
    };
    let mut outcome = match removal.filter(|_| gone) {
        Some(removal) => removal.outcome(session, status),
        None => Outcome::of(id, status, &before.row),
    };
    // It is done all the same, such as a drive whose address was not found.
    outcome.notes.extend(said.map(|words| format!("TeslaMate said: {words}")));
    if gone {
        outcome.effects.get_or_insert(Effects::default());
        outcome.notes.extend(saved.as_deref().map(undo_note));
        outcome.saved = saved;
    } else {
        describe(&mut outcome, session, record, &before, &after);
        if reason.is_some() {
            outcome.notes.push("TeslaMate kept the drive: it has got further positions meanwhile".into());
        }
    }
    Ok(outcome)
}

async fn picture(session: &mut Session, record: Record, id: i32) -> Result<Picture> {
    let transaction = begin(&mut session.client, &session.both).await?;
    let picture = Picture::take(&transaction, record, id).await;
    session::rollback(transaction).await;
    picture
}

async fn reason_to_delete(env: &Env, session: &mut Session, id: i32) -> Result<Option<String>> {
    let transaction = begin(&mut session.client, &session.both).await?;
    let facts = env.interrupt.guard(drive::Facts::read(&transaction, id)).await;
    session::rollback(transaction).await;
    Ok(facts?.reason_to_delete())
}

/// What is wrong after the call, in the light of the rows: `None` if the record is closed, or gone as agreed.
fn failure(answer: Result<String>, before: &Picture, after: &Picture, record: Record, id: i32) -> Option<Error> {
    let noun = record.noun();
    let changed = before.row != after.row || before.car != after.car;
    match answer {
        Err(error) if matches!(error.kind(), Kind::Signal(_) | Kind::Busy) => {
            Some(error.with("state", format!("{noun} {id} was handed to TeslaMate, which may still be closing it")))
        }
        Err(error) if changed => Some(
            error
                .escalate(Kind::Attention)
                .with("state", format!("{noun} {id} was changed all the same: TeslaMate stopped in the middle of it"))
                .hint(format!("Do it again in the database: teslamate-close-{noun} --via sql {id}")),
        ),
        Err(error) => Some(
            error
                .with("state", "nothing was changed")
                .hint(format!("Or close it in the database: teslamate-close-{noun} --via sql {id}")),
        ),
        Ok(words) if after.exists() && after.is_open() => Some(
            Error::new(
                if changed { Kind::Attention } else { Kind::Refused },
                match words.as_str() {
                    "" => format!("TeslaMate said nothing, but {noun} {id} is still open"),
                    _ => format!("TeslaMate reported no error, but {noun} {id} is still open"),
                },
            )
            .with("its words", words)
            .with("state", if changed { "its row was changed, but not closed" } else { "nothing was changed" })
            .hint("Does `service.executable` belong to the installation that uses this database?")
            .hint(format!("Or close it in the database: teslamate-close-{noun} --via sql {id}")),
        ),
        Ok(_) => None,
    }
}

/// The row cannot be looked at after the call: what is known is said, and the file with the row stays.
fn blind(error: Error, answer: Option<Error>, saved: Option<Saved>, record: Record, id: i32) -> Error {
    let noun = record.noun();
    let mut error = error
        .escalate(Kind::Attention)
        .with("state", format!("TeslaMate was asked to close {noun} {id}; whether it did could not be read"))
        .hint(format!("See what became of it: teslamate-close-{noun} --dry-run {id}"));
    if let Some(answer) = answer {
        error = error.with("rpc", answer.message());
    }
    match saved {
        Some(saved) => error.with("rows", saved.keep().display()),
        None => error,
    }
}
