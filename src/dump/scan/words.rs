//! Words of a statement, and what they say of its end.

use super::{STRING, Scanner, WORDS};

impl Scanner {
    /// Ends the word before a byte that is not part of one.
    pub(super) fn push_word(&mut self, keyword: bool) {
        if self.word.is_empty() {
            return;
        }
        let mut word = String::from_utf8_lossy(&std::mem::take(&mut self.word)).into_owned();
        if keyword {
            word.make_ascii_uppercase();
            if self.in_values && self.no_literal.is_none() && !is_literal(&word) {
                self.no_literal = Some(word.clone());
            }
            let follows_begin = self.words.last().is_some_and(|last| last == "BEGIN");
            match word.as_str() {
                "VALUES" if self.parentheses == 0 => self.in_values = true,
                // Only the body of a function or procedure begins so; `begin` alone may be a name in it.
                "ATOMIC" if self.parentheses == 0 && follows_begin && self.is_routine() => self.atomic += 1,
                "CASE" if self.atomic > 0 => self.atomic += 1,
                "END" => self.atomic = self.atomic.saturating_sub(1),
                _ => {}
            }
        }
        if self.words.len() < WORDS {
            self.words.push(word);
        }
    }

    /// Remembers that a string stands where a language is named.
    pub(super) fn note_string(&mut self) {
        if self.words.last().is_some_and(|last| last == "LANGUAGE") {
            self.words.push(STRING.to_owned());
        }
    }

    fn is_routine(&self) -> bool {
        let words: Vec<&str> = self.words.iter().take(4).map(String::as_str).collect();
        matches!(
            words.as_slice(),
            ["CREATE", "FUNCTION" | "PROCEDURE", ..] | ["CREATE", "OR", "REPLACE", "FUNCTION" | "PROCEDURE"]
        )
    }
}

/// Whether a word among the values of an INSERT stands for a value: a number, a constant, or what begins a string.
fn is_literal(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_digit())
        || matches!(
            word,
            "NULL" | "TRUE" | "FALSE" | "DEFAULT" | "E" | "B" | "X" | "ON" | "CONFLICT" | "DO" | "NOTHING"
        )
}
