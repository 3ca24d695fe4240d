//! Encodings in which the bytes of a character may look like ASCII: only clients have them, no server.
//!
//! Source: `pg_sjis_mblen`, `pg_big5_mblen`, `pg_gbk_mblen`, `pg_uhc_mblen`, `pg_johab_mblen` and `pg_gb18030_mblen` in
//! PostgreSQL's `wchar.c`.

use super::{ASIDE_LIMIT, Flaw, Scanner, State};

/// How an encoding tells the length of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Embedding {
    /// Half-width katakana are one byte, other characters beyond ASCII are two.
    Sjis,
    /// Two bytes beyond ASCII.
    Two,
    /// Two bytes beyond ASCII, or four if the second is a digit.
    Gb18030,
}

impl Embedding {
    /// The one of an encoding, as PostgreSQL calls it; `None` where no byte of another character is ASCII.
    pub(super) fn of(encoding: &str) -> Option<Self> {
        match encoding {
            "SJIS" | "SHIFT_JIS_2004" => Some(Self::Sjis),
            "BIG5" | "GBK" | "UHC" | "JOHAB" => Some(Self::Two),
            "GB18030" => Some(Self::Gb18030),
            _ => None,
        }
    }

    /// The bytes of a character by its first one, in [`Embedding::Gb18030`] two for all that are longer.
    pub(super) fn length(self, first: u8) -> usize {
        let is_single = first < 0x80 || (self == Self::Sjis && (0xa1..=0xdf).contains(&first));
        if is_single { 1 } else { 2 }
    }

    /// The bytes of a character of two or more, by its second one.
    pub(super) fn length_by_second(self, second: u8) -> usize {
        if self == Self::Gb18030 && second.is_ascii_digit() { 4 } else { 2 }
    }
}

impl Embedding {
    /// The bytes of the character that these bytes begin with.
    pub(super) fn whole_length(self, bytes: &[u8]) -> usize {
        match bytes {
            [first, second, ..] if self.length(*first) > 1 => self.length_by_second(*second),
            _ => 1,
        }
    }
}

impl Scanner {
    /// Whether a byte belongs to the character that began before it, whatever it would be by itself.
    pub(super) fn is_rest_of_character(&mut self, byte: u8) -> bool {
        let Some(embedding) = self.charset.embedding else { return false };
        let (seen, length) = self.character;
        if seen >= length {
            self.character = (1, embedding.length(byte));
            return false;
        }
        let length = if seen == 1 { embedding.length_by_second(byte) } else { length };
        self.character = (seen + 1, length);
        true
    }

    /// Takes a byte that means nothing by itself.
    pub(super) fn take_verbatim(&mut self, byte: u8) -> Result<(), Flaw> {
        match self.state {
            State::LineComment { .. } | State::Meta if self.aside.len() < ASIDE_LIMIT => self.aside.push(byte),
            State::LineComment { .. } | State::Meta => {}
            // No byte of a character ends a comment.
            State::BlockComment(_) => self.aside.clear(),
            _ => {
                if self.state == State::Identifier || !self.word.is_empty() {
                    self.word.push(byte);
                }
                self.hold(byte)?;
            }
        }
        Ok(())
    }
}
