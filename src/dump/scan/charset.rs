//! Names of a dump in an encoding that only the server can convert: until it has, each byte beyond ASCII, and each that
//! belongs to a character with such a byte, has a character of its own that stands for it.

use std::borrow::Cow;

use super::characters::Embedding;

/// The character that stands for a byte is so far behind it, in a plane for private use that no encoding is converted to.
const PLACES: u32 = 0x0010_F700;

/// The encoding of a text, as far as its names have to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charset {
    is_foreign: bool,
    pub(super) embedding: Option<Embedding>,
}

impl Charset {
    /// The one with this name. UTF-8 is read as it is, and so is text of unknown encoding as far as it is UTF-8.
    #[must_use]
    pub fn of(encoding: &str) -> Self {
        let letters: String = encoding.chars().filter(char::is_ascii_alphanumeric).collect();
        let is_read = matches!(letters.to_ascii_uppercase().as_str(), "UTF8" | "UNICODE" | "SQLASCII");
        Self { is_foreign: !is_read, embedding: Embedding::of(encoding) }
    }

    /// Whether only the server can convert it.
    #[must_use]
    pub fn is_foreign(self) -> bool {
        self.is_foreign
    }

    /// The text of bytes that begin with a character. In a foreign encoding, [`spelled`] finds what has to be converted.
    #[must_use]
    pub fn decode(self, bytes: &[u8]) -> Cow<'_, str> {
        if !self.is_foreign || bytes.is_ascii() {
            return String::from_utf8_lossy(bytes);
        }
        let mut text = String::with_capacity(bytes.len() * 2);
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            let length = self.embedding.map_or(1, |embedding| embedding.whole_length(rest)).min(rest.len());
            let (character, after) = rest.split_at(length);
            if first.is_ascii() {
                text.push(char::from(*first));
            } else {
                text.extend(character.iter().filter_map(|byte| char::from_u32(PLACES + u32::from(*byte))));
            }
            rest = after;
        }
        text.into()
    }
}

/// A text with every run of characters that stand for bytes replaced.
#[must_use]
pub fn spelled(text: &str, spell: &mut dyn FnMut(&str) -> String) -> String {
    let mut spelled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find(is_place) {
        let (before, run) = rest.split_at(begin);
        let end = run.find(|character| !is_place(character)).unwrap_or(run.len());
        spelled.push_str(before);
        spelled.push_str(&spell(&run[..end]));
        rest = &run[end..];
    }
    spelled.push_str(rest);
    spelled
}

/// The runs of characters in a text that stand for bytes.
pub fn runs(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character| !is_place(character)).filter(|run| !run.is_empty())
}

/// The bytes that a run of such characters stands for.
#[must_use]
pub fn bytes_of(run: &str) -> Vec<u8> {
    run.chars().filter_map(|character| u8::try_from(u32::from(character).checked_sub(PLACES)?).ok()).collect()
}

fn is_place(character: char) -> bool {
    u32::from(character).checked_sub(PLACES).is_some_and(|byte| byte < 0x100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_other_encodings_come_back_whatever_they_look_like() {
        for (encoding, bytes, runs) in [
            ("LATIN1", b"Gr\xf6\xdfe a\xa0\x85b".as_slice(), 2),
            // Its second byte is a backslash, and that of the next one a letter.
            ("SJIS", b"'\x83\x5c\x94\x5c' \xc3a", 2),
            ("GB18030", b"\x81\x30\x81\x30\"\xb1\xed\"", 2),
            ("EUC_JP", b"\xc9\xbd", 1),
        ] {
            let text = Charset::of(encoding).decode(bytes);
            let mut found = 0;
            let back = spelled(&text, &mut |run| {
                found += 1;
                bytes_of(run).iter().map(|byte| char::from(*byte)).collect()
            });
            let latin: String = bytes.iter().map(|byte| char::from(*byte)).collect();
            assert_eq!((back, found), (latin, runs), "{encoding}");
            assert!(!text.contains('\\'), "{encoding}: {text:?}");
        }
        for encoding in ["UTF8", "utf-8", "SQL_ASCII"] {
            assert_eq!(Charset::of(encoding).decode("Größe".as_bytes()), "Größe");
        }
    }
}
