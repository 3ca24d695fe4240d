//! Causes of a failed connection or query, as text and as an [`Error`].

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::sync::{Mutex, PoisonError};

use tokio_postgres::error::{DbError, SqlState};

use super::guarded::Refusal;
use crate::error::{Error, Kind, Result};

/// Turns a failed query into an [`Error`] that quotes the server.
pub trait QueryContext<T> {
    /// `what` failed; the server's words become the line `cause`.
    fn query_context(self, what: impl Into<String>) -> Result<T>;
}

impl<T> QueryContext<T> for std::result::Result<T, tokio_postgres::Error> {
    fn query_context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|cause| {
            // Only the codes of locks: one that was not granted in time, or not without a deadlock, may be free in a minute.
            let busy = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED].iter();
            let busy = busy.map(Some).any(|code| cause.code() == code);
            let kind = if busy { Kind::Busy } else { Kind::Source };
            Error::new(kind, what).with("cause", chain(&cause))
        })
    }
}

/// A failure with all its causes: the driver's own `Display` often says only "db error".
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(answer) = error.downcast_ref::<DbError>() {
            // The causes before this one say nothing that the server's words do not.
            text = answer.to_string();
            if let Some(detail) = answer.detail() {
                let _ = write!(text, "\n{detail}");
            }
            if let Some(hint) = answer.hint() {
                let _ = write!(text, "\n{hint}");
            }
        } else {
            let words = error.to_string();
            if !text.contains(&words) {
                let separator = if text.is_empty() { "" } else { ": " };
                let _ = write!(text, "{separator}{words}");
            }
        }
        let is_closed = error.downcast_ref::<tokio_postgres::Error>().is_some_and(tokio_postgres::Error::is_closed);
        if is_closed && let Some(why) = ENDED.lock().unwrap_or_else(PoisonError::into_inner).as_deref() {
            let _ = write!(text, ": the server is not listened to any more: {why}");
        }
        next = error.source();
    }
    text
}

/// Why we ended the last session that we ended.
static ENDED: Mutex<Option<String>> = Mutex::new(None);

/// Remembers why a session is ended, if it is we who do: the driver tells its client only that the session is gone.
pub(super) fn note_end(error: &tokio_postgres::Error) {
    let why = match (Refusal::of(error), io_kind(error)) {
        (Some(refusal), _) => Some(refusal.to_string()),
        (None, Some(ErrorKind::TimedOut)) => Some(chain(error)),
        _ => None,
    };
    if why.is_some() {
        *ENDED.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

pub(super) fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return Some(error.kind());
        }
        next = error.source();
    }
    None
}
