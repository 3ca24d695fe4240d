//! What a scanner hands over, and to whom.

use std::borrow::Cow;

use super::Flaw;

/// Stands for a string in an outline.
pub const STRING: &str = "'";

/// What a scanner finds. A [`Flaw`] ends the scan.
pub trait Visitor {
    /// A statement with its semicolon, without the comments before it. The line is where it begins.
    fn statement(&mut self, statement: &Statement<'_>) -> Result<(), Flaw>;
    /// A comment line between statements, without the dashes.
    fn comment(&mut self, _text: &str, _line: u64) -> Result<(), Flaw> {
        Ok(())
    }
    /// A meta-command of psql with its backslash.
    fn meta(&mut self, _text: &str, _line: u64) -> Result<(), Flaw> {
        Ok(())
    }
    /// COPY data, cut anywhere; the line is that of its first byte.
    fn data(&mut self, _bytes: &[u8], _line: u64) -> Result<(), Flaw> {
        Ok(())
    }
    /// The end of COPY data, after so many rows.
    fn data_end(&mut self, _rows: u64) -> Result<(), Flaw> {
        Ok(())
    }
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
    /// Its first words outside of parentheses, in the same form, but a name with its schema is one (`PUBLIC.T`). A
    /// [`STRING`], a `GROUP`, a comma and an equals sign have a place of their own: two keywords beside each other here
    /// are beside each other in the text.
    pub outline: &'a [String],
    /// The rows of `INSERT … VALUES (…), (…)`.
    pub groups: u64,
    /// The parentheses that are opened in it, outside of quotes.
    pub opened: u64,
    /// How deep they are within each other.
    pub deepest: u32,
    /// The first word after VALUES that is no literal: the values are not what `pg_dump` writes.
    pub no_literal: Option<String>,
}

impl Statement<'_> {
    /// Whether these words are beside each other in its outline.
    #[must_use]
    pub fn has(&self, words: &[&str]) -> bool {
        self.outline.windows(words.len()).any(|found| found == words)
    }

    /// Its outline, for patterns.
    #[must_use]
    pub fn outline(&self) -> Vec<&str> {
        self.outline.iter().map(String::as_str).collect()
    }

    /// Whether it begins with these words.
    #[must_use]
    pub fn begins(&self, words: &[&str]) -> bool {
        words.len() <= self.words.len() && words.iter().zip(self.words).all(|(left, right)| left == right)
    }

    /// Whether COPY data follows it.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        let Some(from) = self.words.iter().position(|word| word == "FROM") else { return false };
        let is_query = self.text.get(4..).is_some_and(|rest| rest.trim_ascii_start().starts_with(b"("));
        self.begins(&["COPY"]) && !is_query && self.words.get(from + 1).is_some_and(|word| word == "STDIN")
    }

    /// Whether it is a COPY from standard input with nothing but a table and its columns, as `pg_dump` writes it.
    #[must_use]
    pub fn is_plain_copy(&self) -> bool {
        let ends = self.words.iter().rev().map(String::as_str).take(2).eq(["STDIN", "FROM"]);
        self.is_copy() && ends && self.opened <= 1 && self.text.ends_with(b" FROM stdin;")
    }

    /// The encoding that the text has from the next line on, if this declares one.
    #[must_use]
    pub fn encoding(&self) -> Option<Cow<'_, str>> {
        let value = || self.text.split(|byte| *byte == b'\'').nth(1).unwrap_or_default();
        self.begins(&["SET", "CLIENT_ENCODING"]).then(|| String::from_utf8_lossy(value()))
    }
}
