//! What SQLite says, as an error that a person can act on.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::error::{Error, Kind};

/// The result inside of one transaction.
pub(super) type Attempt<T> = std::result::Result<T, Failure>;

/// Why a transaction was given up.
#[derive(Debug)]
pub(super) enum Failure {
    /// SQLite refused or failed.
    Sql(rusqlite::Error),
    /// The file is another application's.
    Foreign,
    /// The pages do not fit together; this is what is wrong with them.
    Damaged(String),
    /// The ledger itself says no.
    Said(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Said(error)
    }
}

impl Failure {
    /// The error to show; `doing` completes "cannot … the ledger".
    pub(super) fn explain(self, doing: &str, path: &Path) -> Error {
        let cause = match self {
            Self::Said(error) => return error,
            Self::Foreign => return foreign(path, "is another application's database"),
            Self::Damaged(what) => return damaged(path).with("found", what),
            Self::Sql(cause) => cause,
        };
        match (cause.sqlite_error_code(), &cause) {
            (Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked), _) => {
                Error::new(Kind::Busy, format!("another process holds the ledger {}", path.display()))
                    .with("cause", cause)
                    .hint("Try again in a moment.")
            }
            (Some(ErrorCode::NotADatabase), _) => foreign(path, "is no SQLite database"),
            (Some(ErrorCode::DatabaseCorrupt), _)
            | (
                _,
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..),
            ) => damaged(path).with("found", cause),
            _ => Error::new(Kind::Store, format!("cannot {doing} the ledger {}", path.display())).with("cause", cause),
        }
    }
}

/// What lies in the ledger's place is not a ledger.
pub(super) fn foreign(path: &Path, what: &str) -> Error {
    Error::new(Kind::Refused, format!("{} {what}, not a ledger", path.display()))
        .with("state", "the file was left as it is")
        .hint(format!(
            "Move it away (`mv {0} {0}.old`), or set `state_dir` to a directory of Glovebox's own.",
            path.display()
        ))
}

fn damaged(path: &Path) -> Error {
    Error::new(Kind::Verify, format!("the ledger {} is damaged", path.display()))
        .with("state", "the file was left as it is; the snapshots in the repository are not affected")
        .hint("Put an older copy of the file back, or move it away and rebuild it from the repository.")
}
