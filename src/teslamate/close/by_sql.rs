//! Closing one record in the database.

use super::super::delete::{self, Origin};
use super::super::outcome::{Outcome, Status, unknown};
use super::super::session::{self, Session, Work, begin};
use super::super::{Record, charge, drive, efficiency};
use super::{Picture, Plan, describe, may_delete, undo_note};
use crate::env::Env;
use crate::error::{Error, Kind, Result};

/// What one transaction found or did.
enum Step {
    /// The row was computed anew.
    Written { before: Picture, after: Picture, notes: Vec<String> },
    /// The drive is none.
    IsNone { before: Picture, reason: String },
}

/// Closes it, or refuses to; one transaction.
pub(super) async fn close(env: &Env, session: &mut Session, plan: &Plan, id: i32) -> Result<Outcome> {
    let transaction = begin(&mut session.client, &session.both).await?;
    let step = env.interrupt.guard(compute(&transaction, plan.record, id)).await?;
    match step {
        Step::Written { before, after, notes } => {
            let status = match (plan.dry_run, before.is_open()) {
                (true, true) => Status::WouldClose,
                (true, false) => Status::WouldRecompute,
                (false, true) => Status::Closed,
                (false, false) => Status::Recomputed,
            };
            if plan.dry_run {
                session::rollback(transaction).await;
            } else {
                session::commit(transaction, &format!("{} {id}", plan.record.noun())).await?;
            }
            let mut outcome = Outcome::of(id, status, &before.row);
            describe(&mut outcome, session, plan.record, &before, &after);
            outcome.notes.extend(notes);
            Ok(outcome)
        }
        Step::IsNone { before, reason } => {
            session::rollback(transaction).await;
            if plan.dry_run {
                let origin = Origin::of(session);
                let transaction = begin(&mut session.client, &session.both).await?;
                let removal = delete::look(&transaction, Record::Drive, id, &origin).await?;
                session::rollback(transaction).await;
                let mut outcome = removal.map_or_else(
                    || Outcome::of(id, Status::WouldDelete, &before.row),
                    |removal| removal.outcome(session, Status::WouldDelete),
                );
                outcome.notes.push(format!("closing it deletes it: {reason}"));
                return Ok(outcome);
            }
            may_delete(env, plan, id, &reason).await?;
            remove(env, session, id).await
        }
    }
}

/// Reads, judges and writes, in a transaction that the caller ends.
async fn compute(transaction: &Work<'_>, record: Record, id: i32) -> Result<Step> {
    let Some(row) = session::lock(transaction, record, id).await? else { return Err(unknown(record, id)) };
    efficiency::preferred_range(transaction).await?;
    let before = Picture::with_car(transaction, row).await?;
    let mut notes = Vec::new();
    match record {
        Record::Drive => {
            let facts = drive::Facts::read(transaction, id).await?;
            if let Some(reason) = facts.reason_to_delete() {
                return Ok(Step::IsNone { before, reason });
            }
            drive::close(transaction, id, &facts).await?;
            notes.push(drive::ADDRESSES_STAY.to_owned());
        }
        Record::Charge => {
            let completed = charge::close(transaction, id, before.car_id()).await?;
            if completed.readings == 0 {
                notes.push("it has no readings: it ends now, without energy and cost".to_owned());
            }
        }
    }
    let after = Picture::take(transaction, record, id).await?;
    Ok(Step::Written { before, after, notes })
}

/// Deletes a drive that is none. It is judged again: positions may have come while a person was thinking.
async fn remove(env: &Env, session: &mut Session, id: i32) -> Result<Outcome> {
    let origin = Origin::of(session);
    let transaction = begin(&mut session.client, &session.both).await?;
    let work = async {
        session::lock(&transaction, Record::Drive, id).await?;
        if drive::Facts::read(&transaction, id).await?.reason_to_delete().is_none() {
            return Err(Error::new(Kind::Busy, format!("drive {id} has got further positions meanwhile"))
                .with("state", "nothing was changed")
                .hint(format!("Close it again: teslamate-close-drive {id}")));
        }
        let removal = delete::remove(&transaction, Record::Drive, id, &origin).await?;
        removal.ok_or_else(|| unknown(Record::Drive, id))
    };
    let removal = env.interrupt.guard(work).await?;
    let saved = delete::finish(env, transaction, &removal).await?;
    let mut outcome = removal.outcome(session, Status::Deleted);
    outcome.notes.push(undo_note(&saved));
    outcome.saved = Some(saved);
    Ok(outcome)
}
