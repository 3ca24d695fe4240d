//! What a scanner hands over, and to whom.

use std::borrow::Cow;

use super::Flaw;

/// What a scanner finds. A [`Flaw`] ends the scan.
pub trait Visitor {
    /// A statement with its semicolon, without the comments before it. The line is where it begins.
    fn statement(&mut self, statement: &Statement<'_>) -> Result<(), Flaw>;
    /// A comment line between statements, without the dashes.
    fn comment(&mut self, text: &str, line: u64) -> Result<(), Flaw>;
    /// A meta-command of psql with its backslash.
    fn meta(&mut self, text: &str, line: u64) -> Result<(), Flaw>;
    /// COPY data, cut anywhere; the line is that of its first byte.
    fn data(&mut self, bytes: &[u8], line: u64) -> Result<(), Flaw>;
    /// The end of COPY data, after so many rows.
    fn data_end(&mut self, rows: u64) -> Result<(), Flaw>;
}

/// A statement, with what the scanner noticed on the way.
#[derive(Debug)]
pub struct Statement<'a> {
    /// Its text, from the first word to the semicolon.
    pub text: &'a [u8],
    /// Where it begins, counted from 1.
    pub line: u64,
    /// Its first words outside of quotes, in upper case; what was quoted is in `"…"` as it is.
    pub words: &'a [String],
    /// The rows of `INSERT … VALUES (…), (…)`.
    pub groups: u64,
}

impl Statement<'_> {
    /// Whether it begins with these words.
    #[must_use]
    pub fn begins(&self, words: &[&str]) -> bool {
        words.len() <= self.words.len() && words.iter().zip(self.words).all(|(left, right)| left == right)
    }

    /// Whether COPY data follows it.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        let Some(from) = self.words.iter().position(|word| word == "FROM") else { return false };
        self.begins(&["COPY"]) && self.words.get(from + 1).is_some_and(|word| word == "STDIN")
    }

    /// The encoding that the text has from the next line on, if this declares one.
    #[must_use]
    pub fn encoding(&self) -> Option<Cow<'_, str>> {
        let value = || self.text.split(|byte| *byte == b'\'').nth(1).unwrap_or_default();
        self.begins(&["SET", "CLIENT_ENCODING"]).then(|| String::from_utf8_lossy(value()))
    }
}
