//! A statement's words outside of parentheses, each where it stands.
//!
//! Most keywords may be names too: of a schema, a parameter, a column. A keyword is only one in its place, which cannot be
//! told where the words in parentheses, and the parts of a name with its schema, stand among the others.

use super::{STRING, WORDS};

/// Stands for all that is in parentheses in an outline.
pub const GROUP: &str = "(";

/// Collects an outline while the text is read.
#[derive(Debug, Default)]
pub(super) struct Outline {
    words: Vec<String>,
    /// A dot was the last thing but spaces: the next word belongs to the one before.
    is_joint: bool,
    /// AS was the last thing but spaces: the next word is a name, or begins an expression.
    follows_as: bool,
}

impl Outline {
    /// Adds a word, at this depth of parentheses.
    pub(super) fn add(&mut self, word: &str, depth: u32) {
        let is_joint = std::mem::take(&mut self.is_joint);
        self.follows_as = !is_joint && word == "AS";
        if depth > 0 {
            return;
        }
        let is_full = self.words.len() >= WORDS;
        match self.words.last_mut() {
            Some(last) if is_joint && !is_full => {
                last.push('.');
                last.push_str(word);
            }
            _ => self.push(word),
        }
    }

    /// Notes a byte between words, before it changes the depth of parentheses.
    pub(super) fn pass(&mut self, byte: u8, depth: u32) {
        // A quote begins the next word.
        if byte.is_ascii_whitespace() || byte == b'"' {
            return;
        }
        self.is_joint = byte == b'.';
        self.follows_as = false;
        match byte {
            _ if depth > 0 => {}
            b'\'' | b'$' => self.push(STRING),
            b'(' => self.push(GROUP),
            b',' => self.push(","),
            b'=' => self.push("="),
            _ => {}
        }
    }

    /// Whether a keyword that is added next would be a part of a name, or the name that AS gives.
    pub(super) fn is_name_next(&self) -> bool {
        self.is_joint || self.follows_as
    }

    /// The words so far.
    pub(super) fn words(&self) -> &[String] {
        &self.words
    }

    /// Ends the statement.
    pub(super) fn take(&mut self) -> Vec<String> {
        (self.is_joint, self.follows_as) = (false, false);
        std::mem::take(&mut self.words)
    }

    fn push(&mut self, word: &str) {
        if self.words.len() < WORDS {
            self.words.push(word.to_owned());
        }
    }
}

/// Whether a word, as the scanner keeps it, is this name, which needs no quotes: with or without them.
#[must_use]
pub fn is_named(word: &str, name: &str) -> bool {
    match word.strip_prefix('"').and_then(|word| word.strip_suffix('"')) {
        Some(quoted) => quoted == name,
        None => word.eq_ignore_ascii_case(name),
    }
}
