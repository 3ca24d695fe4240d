//! What can go wrong, and the exit code that says so.
//!
//! One type, [`Error`], carries everything a person needs at three in the morning: what happened, to which
//! object, what is true now (`state`) and what to type next (`hint`). [`Kind`] decides the exit code and nothing
//! else. Messages are lower case without a full stop; hints are sentences.

use std::fmt::{self, Display, Write as _};

use serde::{Deserialize, Serialize};

/// The class of a failure. Scripts and systemd units see it as the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Wrong usage or configuration.
    Usage,
    /// Refused: nothing was touched.
    Refused,
    /// A lock is held or the server is starting up: try again.
    Busy,
    /// Reading PostgreSQL failed.
    Source,
    /// Writing a file or the repository failed.
    Store,
    /// Bytes or rows are not what they should be.
    Verify,
    /// Something was changed and needs the one command that the message names.
    Attention,
    /// Ended by this signal, and cleaned up.
    Signal(i32),
}

impl Kind {
    /// The one table of exit codes.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Refused => 10,
            Self::Busy => 11,
            Self::Source => 12,
            Self::Store => 13,
            Self::Verify => 14,
            Self::Attention => 15,
            // Signals are numbered 1 to 64, so this always fits.
            Self::Signal(number) => u8::try_from(128 + number).unwrap_or(u8::MAX),
        }
    }

    /// The closed word that `--json` uses for this class.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Source => "source",
            Self::Store => "store",
            Self::Verify => "verify",
            Self::Attention => "attention",
            Self::Signal(_) => "signal",
        }
    }
}

/// A failure, ready to be shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Error {
    kind: Kind,
    message: String,
    details: Vec<(String, String)>,
    hints: Vec<String>,
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure of this kind; `message` is lower case, without a full stop, and names the object.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), details: Vec::new(), hints: Vec::new() }
    }

    /// What ends a run that is told to by this signal.
    #[must_use]
    pub fn stopped_by(signal: i32) -> Self {
        let name = nix::sys::signal::Signal::try_from(signal).map_or("a signal", nix::sys::signal::Signal::as_str);
        Self::new(Kind::Signal(signal), format!("stopped by {name}"))
    }

    /// Adds a named line: `tool`, `file`, `server`, `state`, …
    ///
    /// `state` says what is true now of database, service and backup. The outermost step knows best, so a second
    /// `state` replaces the first.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Display) -> Self {
        let value = value.to_string();
        if name == "state" {
            self.details.retain(|(known, _)| known != "state");
        }
        if !value.is_empty() {
            self.details.push((name.to_owned(), value));
        }
        self
    }

    /// Adds `state` only where no inner step has said it.
    #[must_use]
    pub fn or_state(self, value: impl Display) -> Self {
        if self.details.iter().any(|(name, _)| name == "state") { self } else { self.with("state", value) }
    }

    /// Adds a sentence that says what to type next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The same failure in another class: a step outside knows that more is at stake.
    #[must_use]
    pub fn escalate(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The class.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The first line.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to type next.
    #[must_use]
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// The line of this name.
    #[must_use]
    pub fn detail(&self, name: &str) -> Option<&str> {
        self.details.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The JSON document of a failure (`docs/json.md`).
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        #[derive(Serialize)]
        struct Document<'a> {
            kind: &'a str,
            exit_code: u8,
            message: &'a str,
            details: serde_json::Map<String, serde_json::Value>,
            hints: &'a [String],
        }
        let details = self.details.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        serde_json::json!({ "error": Document {
            kind: self.kind.word(),
            exit_code: self.kind.exit_code(),
            message: &self.message,
            details,
            hints: &self.hints,
        }})
    }
}

impl Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || {
            let hints = self.hints.iter().map(|hint| ("hint", hint));
            self.details.iter().map(|(name, value)| (name.as_str(), value)).chain(hints)
        };
        let width = lines().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
        let mut text = self.message.clone();
        for (name, value) in lines() {
            let label = format!("{name}:");
            // A child's words may have several lines: they stay under each other.
            let value = value.trim_end().replace('\n', &format!("\n  {:width$} ", ""));
            write!(text, "\n  {label:width$} {value}")?;
        }
        formatter.write_str(&text)
    }
}

impl std::error::Error for Error {}

/// Turns any failure into an [`Error`] of a kind, keeping the cause's own words.
pub trait Context<T> {
    /// `what` failed, said as in [`Error::new`]; the cause becomes the line `cause`.
    fn context(self, kind: Kind, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, kind: Kind, what: impl Into<String>) -> Result<T> {
        self.map_err(|cause| Error::new(kind, what).with("cause", cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendering_lines_up_and_keeps_hints_last() {
        let error = Error::new(Kind::Usage, "pg_dump 15.14 cannot read a server of version 17.11")
            .hint("Set `database.tools`.")
            .with("tool", "/usr/bin/pg_dump")
            .with("state", "nothing was read");
        assert_eq!(
            error.to_string(),
            "pg_dump 15.14 cannot read a server of version 17.11\n  tool:  /usr/bin/pg_dump\n  state: nothing was read\n  \
             hint:  Set `database.tools`."
        );
    }

    #[test]
    fn the_outermost_state_wins() {
        let error = Error::new(Kind::Store, "x").with("state", "inner").with("state", "outer");
        assert!(error.to_string().ends_with("state: outer"), "{error}");
        assert!(error.or_state("third").to_string().ends_with("state: outer"));
    }

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let codes = [
            Kind::Usage,
            Kind::Refused,
            Kind::Busy,
            Kind::Source,
            Kind::Store,
            Kind::Verify,
            Kind::Attention,
            Kind::Signal(15),
        ]
        .map(Kind::exit_code);
        assert_eq!(codes, [2, 10, 11, 12, 13, 14, 15, 143]);
    }
}
