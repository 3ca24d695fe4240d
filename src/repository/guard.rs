//! Calls into the storage library, whose failures are not all returned.
//!
//! rustic logs some errors and goes on, panics on others, and returns the rest. [`run`] makes one thing of it: the
//! call succeeded, or an [`Error`]. It works on threads of its own, so its records cannot be told apart by thread:
//! every call under way hears all of them. Two at the same time may fail for one's reason, never pass for it.

use std::any::Any;
use std::error::Error as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustic_core::{ErrorKind, RusticError, RusticResult};

use crate::error::{Error, Kind, Result};

/// What is heard in a call.
type Notes = Arc<Mutex<Vec<String>>>;

static CALLS: Mutex<Vec<Notes>> = Mutex::new(Vec::new());

/// Hears the library's records, and prints none.
struct Ear;

impl Log for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn && metadata.target().starts_with("rustic")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string();
        // Warnings are harmless, but for those of an item that is left out of a backup.
        let counts = record.level() == Level::Error
            || record.target().starts_with("rustic_core::archiver")
            || text.contains("ignoring");
        if counts {
            for notes in CALLS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                notes.lock().unwrap_or_else(PoisonError::into_inner).push(text.clone());
            }
        }
    }

    fn flush(&self) {}
}

/// Makes sure that the library's records reach us.
fn listen() -> Result<()> {
    static LISTENING: OnceLock<bool> = OnceLock::new();
    if *LISTENING.get_or_init(|| log::set_logger(&Ear).map(|()| log::set_max_level(LevelFilter::Warn)).is_ok()) {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, "another logger is installed: errors of the storage library would go unheard"))
}

/// What a call gave, and every error that the library logged meanwhile.
pub(super) struct Heard<T> {
    pub(super) result: RusticResult<T>,
    pub(super) notes: Vec<String>,
}

/// Does `work` and listens, for a caller that judges the records itself.
///
/// # Errors
/// Of `kind` if the library panicked; `what` names the call, as in `reading the index`.
pub(super) fn hear<T>(what: &str, kind: Kind, work: impl FnOnce() -> RusticResult<T>) -> Result<Heard<T>> {
    listen()?;
    let notes = Notes::default();
    CALLS.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&notes));
    let result = catch_unwind(AssertUnwindSafe(work));
    CALLS.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, &notes));
    let notes = std::mem::take(&mut *notes.lock().unwrap_or_else(PoisonError::into_inner));
    match result {
        Ok(result) => Ok(Heard { result, notes }),
        Err(panic) => Err(Error::new(kind, format!("{what} failed: the storage library gave up"))
            .with("cause", panic_text(panic.as_ref()))
            .with("before", notes.join("\n"))),
    }
}

/// Does `work`; a returned error, a logged one and a panic are all failures of `kind`.
///
/// # Errors
/// As said; wrong credentials are [`Kind::Refused`] whatever `kind` is.
pub(super) fn run<T>(what: &str, kind: Kind, work: impl FnOnce() -> RusticResult<T>) -> Result<T> {
    let heard = hear(what, kind, work)?;
    let value = heard.result.map_err(|error| convert(what, kind, &error))?;
    match heard.notes.first() {
        None => Ok(value),
        Some(first) => Err(Error::new(kind, format!("{what} failed")).with("cause", first)),
    }
}

/// The library's error as ours, in its own words.
pub(super) fn convert(what: &str, kind: Kind, error: &RusticError) -> Error {
    let kind = match error_kind(error) {
        Some(ErrorKind::Credentials | ErrorKind::Key | ErrorKind::AppendOnly) => Kind::Refused,
        _ => kind,
    };
    Error::new(kind, format!("{what} failed")).with("cause", words(error))
}

/// The library has no accessor for the kind; its words for the log hold it.
fn error_kind(error: &RusticError) -> Option<ErrorKind> {
    let text = error.display_log();
    [ErrorKind::Credentials, ErrorKind::Key, ErrorKind::AppendOnly]
        .into_iter()
        .find(|kind| text.contains(&format!("(kind: related to {kind}")))
}

/// The library's words on one line.
pub(super) fn words(error: &RusticError) -> String {
    let text = error.display_log();
    text.strip_prefix("Error: ").unwrap_or(&text).replace('\n', " ")
}

/// The operating system's part of an error, if it has one.
pub(super) fn io_kind(error: &RusticError) -> Option<std::io::ErrorKind> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        source = cause.source();
    }
    None
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::testing;

    #[test]
    fn a_logged_error_fails_the_call_that_returned_ok() {
        let _alone = testing::alone();
        let result = run("listing", Kind::Store, || {
            log::error!(target: "rustic_backend::local", "Permission denied");
            Ok(())
        });
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.detail("cause")), (Kind::Store, Some("Permission denied")));
    }

    #[test]
    fn a_warning_fails_the_call_only_where_something_is_left_out() {
        let _alone = testing::alone();
        let warn = |target: &str, text: &str| {
            run("x", Kind::Store, || {
                log::warn!(target: target, "{text}");
                Ok(())
            })
        };
        assert!(warn("rustic_core::blob::packer", "odd clock").is_ok());
        assert!(warn("hyper", "ignoring error").is_ok(), "another library's words");
        assert!(warn("rustic_core::archiver", "ignoring error: x").is_err());
    }

    #[test]
    fn a_panic_is_a_failure_of_the_call_and_ends_nothing_else() {
        let _alone = testing::alone();
        let error = run("checking", Kind::Verify, || -> RusticResult<()> { panic!("index still in use") }).unwrap_err();
        assert_eq!((error.kind(), error.detail("cause")), (Kind::Verify, Some("index still in use")));
        assert!(run("checking", Kind::Verify, || Ok(())).is_ok(), "the next call hears nothing of it");
    }
}
