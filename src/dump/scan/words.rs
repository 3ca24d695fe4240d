//! Words of a statement, and what they say of its end.

use super::{GROUP, Scanner, WORDS};

impl Scanner {
    /// Ends the word before a byte that is not part of one.
    pub(super) fn push_word(&mut self, keyword: bool) {
        if self.word.is_empty() {
            return;
        }
        let mut word = self.charset.decode(&std::mem::take(&mut self.word)).into_owned();
        if keyword {
            word.make_ascii_uppercase();
            if self.in_values && self.no_literal.is_none() && !is_literal(&word) {
                self.no_literal = Some(word.clone());
            }
            match word.as_str() {
                "VALUES" if self.parentheses == 0 => self.in_values = true,
                _ if self.outline.is_name_next() => {}
                "ATOMIC" if self.atomic == 0 && self.parentheses == 0 && self.begins_body() => self.atomic = 1,
                "CASE" if self.atomic > 0 => self.atomic += 1,
                "END" => self.atomic = self.atomic.saturating_sub(1),
                _ => {}
            }
        }
        self.outline.add(&word, self.parentheses);
        if self.words.len() < WORDS {
            self.words.push(word);
        }
    }

    /// Whether an ATOMIC that comes next begins the body of a function or procedure: after its parameters, and after a
    /// BEGIN that is no name and no part of one.
    fn begins_body(&self) -> bool {
        let words: Vec<&str> = self.outline.words().iter().map(String::as_str).collect();
        let (["CREATE", "FUNCTION" | "PROCEDURE", _, rest @ ..]
        | ["CREATE", "OR", "REPLACE", "FUNCTION" | "PROCEDURE", _, rest @ ..]) = words.as_slice()
        else {
            return false;
        };
        rest.first() == Some(&GROUP) && rest.last() == Some(&"BEGIN")
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
