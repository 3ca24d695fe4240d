//! What a scanner hands over, and to whom.

use std::borrow::Cow;

use super::string::first_string;
use super::{Charset, Flaw};

/// Longer than what comes before any string that names something, and that string, in bytes.
const STRING_LIMIT: usize = 64 << 10;

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
    /// The encoding of its text.
    pub charset: Charset,
    /// A backslash escapes in each of its strings.
    pub escapes: bool,
}

/// The encoding that a statement declares, by its words and its text.
#[must_use]
pub fn declared_encoding(words: &[String], text: &[u8]) -> Option<String> {
    let ["SET", "CLIENT_ENCODING", ..] = words.iter().take(2).map(String::as_str).collect::<Vec<_>>()[..] else {
        return None;
    };
    let word = || words.get(2..)?.last().map(|word| word.trim_matches('"').to_owned());
    // Our connections use UTF-8 by default.
    let named = first_string(&String::from_utf8_lossy(text), false).or_else(word).filter(|name| name != "DEFAULT");
    Some(named.unwrap_or_else(|| "UTF8".to_owned()))
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
    pub fn encoding(&self) -> Option<String> {
        declared_encoding(self.words, self.text)
    }

    /// Its text, or the begin of it that has so many bytes. Names in other encodings are as [`Charset::decode`] gives them.
    #[must_use]
    pub fn head(&self, limit: usize) -> Cow<'_, str> {
        self.charset.decode(&self.text[..self.text.len().min(limit)])
    }

    /// All of its text, in the same form.
    #[must_use]
    pub fn decoded(&self) -> Cow<'_, str> {
        self.charset.decode(self.text)
    }

    /// Its first string.
    #[must_use]
    pub fn string(&self) -> Option<String> {
        first_string(&self.head(STRING_LIMIT), self.escapes)
    }
}
