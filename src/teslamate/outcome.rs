//! What became of one record.

use std::path::PathBuf;

use super::Record;
use super::rows::{Change, Rows};
use crate::error::{Error, Kind, Result};

/// What was done with a record, or would have been. The words are part of the JSON contract (`docs/maintenance.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was open and is closed now.
    Closed,
    /// It was closed already and has been computed anew.
    Recomputed,
    /// It is gone, and saved to a file.
    Deleted,
    /// There was nothing to delete.
    Absent,
    /// It is back.
    Restored,
    /// A dry run: it would be closed.
    WouldClose,
    /// A dry run: it is closed, and would be computed anew.
    WouldRecompute,
    /// A dry run: it would be deleted.
    WouldDelete,
    /// It failed; nothing was changed unless the failure says so.
    Failed,
    /// A signal came before its turn.
    Untried,
}

impl Status {
    /// The word that `--json` uses.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Recomputed => "recomputed",
            Self::Deleted => "deleted",
            Self::Absent => "absent",
            Self::Restored => "restored",
            Self::WouldClose => "would_close",
            Self::WouldRecompute => "would_recompute",
            Self::WouldDelete => "would_delete",
            Self::Failed => "failed",
            Self::Untried => "untried",
        }
    }

    /// The same for people.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Recomputed => "was closed already; recomputed",
            Self::Deleted => "deleted",
            Self::Absent => "does not exist; nothing to delete",
            Self::Restored => "put back",
            Self::WouldClose => "would be closed",
            Self::WouldRecompute => "is closed already; would be recomputed",
            Self::WouldDelete => "would be deleted",
            Self::Failed => "failed",
            Self::Untried => "not tried: stopped before",
        }
    }
}

/// What else a deletion or its undoing changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Positions whose `drive_id` becomes null, or is set again.
    pub positions: u64,
    /// Charges that stand on one of these positions and stay.
    pub charges_on_positions: u64,
    /// Readings that go with a charge, or come back.
    pub readings: u64,
}

/// What became of one record.
#[derive(Debug)]
pub struct Outcome {
    /// Its id.
    pub id: i32,
    /// What was done.
    pub status: Status,
    /// Its car, where the row was seen.
    pub car_id: Option<String>,
    /// Its start, UTC, where the row was seen.
    pub start_date: Option<String>,
    /// Every column of its row, before and after.
    pub row: Vec<Change>,
    /// What changed in other tables.
    pub elsewhere: Vec<Change>,
    /// What else a deletion changed; `None` for a closing.
    pub effects: Option<Effects>,
    /// What ought to be known about it.
    pub notes: Vec<String>,
    /// The file with the rows that went.
    pub saved: Option<PathBuf>,
    /// Why it failed.
    pub failure: Option<Error>,
}

impl Outcome {
    /// Of a record of which nothing is known but its id.
    #[must_use]
    pub fn new(id: i32, status: Status) -> Self {
        Self {
            id,
            status,
            car_id: None,
            start_date: None,
            row: Vec::new(),
            elsewhere: Vec::new(),
            effects: None,
            notes: Vec::new(),
            saved: None,
            failure: None,
        }
    }

    /// Of a record whose row was seen.
    #[must_use]
    pub fn of(id: i32, status: Status, row: &Rows) -> Self {
        let value = |column| row.first(column).map(str::to_owned);
        Self { car_id: value("car_id"), start_date: value("start_date"), ..Self::new(id, status) }
    }

    /// Of a record with which something went wrong.
    #[must_use]
    pub fn failed(id: i32, failure: Error) -> Self {
        Self { failure: Some(failure), ..Self::new(id, Status::Failed) }
    }
}

/// Does something to one record after the other; what fails does not keep the rest from being done, but a signal does.
pub(super) async fn each<F>(ids: &[i32], mut work: F) -> Vec<Outcome>
where
    F: AsyncFnMut(i32) -> Result<Outcome>,
{
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut stopped = false;
    for id in ids.iter().copied() {
        if stopped {
            outcomes.push(Outcome::new(id, Status::Untried));
            continue;
        }
        let outcome =
            work(id).await.unwrap_or_else(|failure| Outcome::failed(id, failure.or_state("nothing was changed")));
        stopped = outcome.failure.as_ref().is_some_and(|failure| matches!(failure.kind(), Kind::Signal(_)));
        outcomes.push(outcome);
    }
    outcomes
}

/// There is no such record, and closing needs one.
pub(super) fn unknown(record: Record, id: i32) -> Error {
    let noun = record.noun();
    Error::new(Kind::Refused, format!("there is no {noun} {id}"))
        .with("state", "nothing was changed")
        .hint(format!("`teslamate-close-{noun} --list` shows the open ones."))
}
