//! Errors of a load, without the statements that may hold a password.

use tokio_postgres::error::{DbError, SqlState};

use super::stream::Statement;
use crate::database::connect::chain;
use crate::dump::source::{Body, Source};
use crate::error::{Error, Kind};

/// A statement is shown up to this length, in bytes.
const SHOWN: usize = 300;

/// A statement of the dump that the server did not execute.
#[derive(Debug)]
pub(super) struct Failed {
    /// The line of the statement, or of the row.
    line: u64,
    statement: String,
    cause: tokio_postgres::Error,
}

impl Failed {
    pub(super) fn at(statement: &Statement, cause: tokio_postgres::Error) -> Self {
        Self { line: statement.line, statement: shown(statement), cause }
    }

    /// In a row of a COPY, which the server counts within what one session got: `begins` are its numbers there, each
    /// with its line in the dump.
    pub(super) fn in_rows(statement: &Statement, begins: &[(u64, u64)], cause: tokio_postgres::Error) -> Self {
        let mut failed = Self::at(statement, cause);
        let row = failed.cause.as_db_error().and_then(row);
        let begin = row.and_then(|row| begins.iter().rfind(|(number, _)| *number < row).map(|begin| (row, begin)));
        if let Some((row, (number, line))) = begin {
            failed.line = line + row - number - 1;
        }
        failed
    }

    /// The code of the server's error.
    pub(super) fn code(&self) -> Option<&SqlState> {
        self.cause.code()
    }

    /// The error as people see it.
    pub(super) fn into_error(self, source: &Source, section: &str) -> Error {
        let code = self.cause.code();
        let class = code.map(|code| &code.code()[..2]);
        // The server says so; nothing is wrong with the dump then.
        let (kind, what) = match class {
            Some("53") if code != Some(&SqlState::OUT_OF_MEMORY) => {
                (Kind::Store, "the server ran out of space while the dump was loaded")
            }
            None | Some("57" | "08") => (Kind::Source, "the server ended the connection while the dump was loaded"),
            _ => (Kind::Verify, "the dump cannot be loaded without an error"),
        };
        let words = self.words();
        let mut error = Error::new(kind, what).with("file", &source.name);
        if matches!(source.body, Body::Plain { .. }) {
            error = error.with("line", self.line);
        }
        error = error
            .with("section", section)
            .with("statement", &self.statement)
            .with("cause", &words)
            .with("code", code.map_or("", SqlState::code));
        if words.contains("type \"earth\" does not exist") || words.contains("ll_to_earth") {
            error = error.hint(
                "An index uses ll_to_earth, which old versions of earthdistance cannot do while a dump is loaded: \
                 drop that index in the source, or edit it out of the dump.",
            );
        }
        error
    }

    /// The server's words. Where it was comes with them, unless that may hold a password.
    fn words(&self) -> String {
        let mut words = chain(&self.cause);
        let place = self.cause.as_db_error().and_then(DbError::where_).unwrap_or_default();
        if !place.is_empty() && !may_hold_secrets(place) {
            words = format!("{words}\n{place}");
        }
        words
    }
}

/// A statement as people see it.
pub(super) fn shown(statement: &Statement) -> String {
    if may_hold_secrets(&String::from_utf8_lossy(&statement.text)) {
        return "(not shown: it may hold a password)".to_owned();
    }
    let length = statement.text.len().min(SHOWN);
    let mut shown = String::from_utf8_lossy(&statement.text[..length]).into_owned();
    if length < statement.text.len() {
        shown.push('…');
    }
    shown
}

/// The row that the server was at in a COPY, counted from 1: `COPY cars, line 3, column id: "x"`.
fn row(answer: &DbError) -> Option<u64> {
    let (_, rest) = answer.where_()?.rsplit_once("COPY ")?;
    rest.split(", ").find_map(|part| part.strip_prefix("line "))?.split([':', '\n']).next()?.parse().ok()
}

/// Whether rows that another job had not loaded yet may be the reason. Rights, room, programs and objects that are missing
/// are missing in any order; an application's own words may mean anything.
pub(super) fn depends_on_order(code: Option<&str>, words: &str) -> bool {
    const HOPELESS: [&str; 9] = [
        "42501", // insufficient_privilege
        "42601", // syntax_error
        "42703", // undefined_column
        "42704", // undefined_object
        "42883", // undefined_function
        "42P01", // undefined_table
        "3F000", // invalid_schema_name
        "58P01", // undefined_file
        "53100", // disk_full
    ];
    code.is_none_or(|code| !HOPELESS.contains(&code)) || words.contains(" at RAISE")
}

fn may_hold_secrets(words: &str) -> bool {
    let upper = words.to_uppercase();
    ["PASSWORD", "PASSFILE", "USER MAPPING", "SUBSCRIPTION", "CREATE SERVER", "CONNECTION '"]
        .iter()
        .any(|word| upper.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k9_only_what_rows_may_mend_is_tried_again() {
        for code in ["42501", "42P01", "42704", "42883", "42601", "53100"] {
            assert!(!depends_on_order(Some(code), "x"), "{code}");
        }
        for code in ["23514", "P0001", "40P01", "55000", "53200"] {
            assert!(depends_on_order(Some(code), "x"), "{code}");
        }
        let raised = "relation \"x\" does not exist\nPL/pgSQL function public.f(integer) line 1 at RAISE";
        assert!(depends_on_order(Some("42P01"), raised));
    }

    #[test]
    fn k5_a_statement_with_a_password_is_not_shown() {
        assert!(may_hold_secrets("CREATE USER MAPPING FOR x SERVER s OPTIONS (\n    password 'secret'\n);"));
        assert!(!may_hold_secrets("CREATE TABLE a (b integer);"));
    }
}
