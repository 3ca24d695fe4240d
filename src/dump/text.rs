//! Bytes of a plain dump to clean text: byte order mark, line ends, NUL, encoding.
//!
//! A dump that went through an editor or a shell of another system has a byte order mark, or CR LF at the end of
//! every line; both can be undone without doubt. What cannot be undone is refused: UTF-16, NUL, bytes that are not
//! UTF-8, and line ends that are only partly CR LF.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter};

/// Why a text cannot be a dump, and in which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Counted from 1.
    pub line: u64,
    /// As the end of the sentence "line N …".
    pub what: String,
    /// It was a dump once, and something of it is missing or changed. Otherwise it never was one that can be used.
    pub damaged: bool,
}

impl Flaw {
    /// The text is no dump that can be used.
    #[must_use]
    pub fn foreign(line: u64, what: impl Into<String>) -> Self {
        Self { line, what: what.into(), damaged: false }
    }

    /// The text was a dump, and something of it is missing or changed.
    #[must_use]
    pub fn damaged(line: u64, what: impl Into<String>) -> Self {
        Self { line, what: what.into(), damaged: true }
    }
}

/// The first line of a dump is a comment of two dashes.
const FIRST_LINE_LIMIT: usize = 64 * 1024;

/// Cleans a text that arrives in pieces.
#[derive(Debug, Default)]
pub struct Cleaner {
    started: bool,
    crlf: Option<bool>,
    /// Lines before the piece at hand.
    lines: u64,
    /// The begin of a character, or of CR LF, that the next piece completes.
    rest: Vec<u8>,
    any_encoding: bool,
    /// No encoding is known, and nothing was found so far that is not UTF-8.
    unknown: bool,
    /// The first line that is not UTF-8, where no encoding is known.
    not_utf8: Option<u64>,
}

impl Cleaner {
    /// The text declared an encoding other than UTF-8: its bytes are the server's to judge.
    pub fn accept_any_encoding(&mut self) {
        self.any_encoding = true;
    }

    /// The text declared that its encoding is not known: it is found out whether it is UTF-8.
    pub fn accept_unknown_encoding(&mut self) {
        self.unknown = true;
    }

    /// The first line that is not UTF-8, where no encoding is known.
    #[must_use]
    pub fn not_utf8(&self) -> Option<u64> {
        self.not_utf8
    }

    /// Cleans the next piece.
    pub fn clean<'a>(&mut self, piece: &'a [u8]) -> Result<Cow<'a, [u8]>, Flaw> {
        let mut piece = Cow::Borrowed(piece);
        if !self.rest.is_empty() {
            let mut joined = std::mem::take(&mut self.rest);
            joined.extend_from_slice(&piece);
            piece = Cow::Owned(joined);
        }
        // Enough to see a byte order mark and how the first line ends, unless it is none of a dump.
        if !self.started && memchr(b'\n', &piece).is_none() && piece.len() < FIRST_LINE_LIMIT {
            self.rest = piece.into_owned();
            return Ok(Cow::Borrowed(b""));
        }
        self.clean_whole(piece)
    }

    /// The end of the text: what is left over cannot be completed any more.
    pub fn finish(&mut self) -> Result<Vec<u8>, Flaw> {
        let rest = std::mem::take(&mut self.rest);
        let clean = if self.started { rest } else { self.clean_whole(Cow::Owned(rest))?.into_owned() };
        if self.unknown && std::str::from_utf8(&clean).is_err() {
            self.not_utf8.get_or_insert(self.lines + 1);
        } else if std::str::from_utf8(&clean).is_err() && !self.any_encoding {
            return Err(Flaw::damaged(self.lines + 1, "is the last one: the text ends within a character"));
        }
        Ok(clean)
    }

    fn clean_whole<'a>(&mut self, mut piece: Cow<'a, [u8]>) -> Result<Cow<'a, [u8]>, Flaw> {
        if !self.started {
            self.started = true;
            if piece.starts_with(b"\xff\xfe") || piece.starts_with(b"\xfe\xff") {
                return Err(self.flaw(0, "is UTF-16: some shells re-encode what is redirected into a file"));
            }
            if piece.starts_with(b"\xef\xbb\xbf") {
                piece = Cow::Owned(piece[3..].to_vec());
            }
        }
        if let Some(at) = memchr(0, &piece) {
            let line = line_of(&piece, at);
            return Err(self.flaw(line, "holds a NUL byte, which no text dump has"));
        }
        let lines = memchr_iter(b'\n', &piece).count() as u64;
        let piece = self.without_cr(piece)?;
        let piece = self.whole_characters(piece)?;
        self.lines += lines;
        Ok(piece)
    }

    fn without_cr<'a>(&mut self, piece: Cow<'a, [u8]>) -> Result<Cow<'a, [u8]>, Flaw> {
        let crlf = match self.crlf {
            Some(crlf) => crlf,
            None => match memchr(b'\n', &piece) {
                Some(end) => *self.crlf.insert(end > 0 && piece[end - 1] == b'\r'),
                None => return Ok(piece),
            },
        };
        if !crlf {
            return Ok(piece);
        }
        let mut clean = Vec::with_capacity(piece.len());
        let mut from = 0;
        for end in memchr_iter(b'\n', &piece) {
            if end == from || piece[end - 1] != b'\r' {
                let line = line_of(&piece, end);
                return Err(self.flaw(line, "ends with LF, the first one with CR LF: part of the text was converted"));
            }
            clean.extend_from_slice(&piece[from..end - 1]);
            clean.push(b'\n');
            from = end + 1;
        }
        let tail = &piece[from..];
        if tail.last() == Some(&b'\r') {
            clean.extend_from_slice(&tail[..tail.len() - 1]);
            self.rest = b"\r".to_vec();
        } else {
            clean.extend_from_slice(tail);
        }
        Ok(Cow::Owned(clean))
    }

    fn whole_characters<'a>(&mut self, mut piece: Cow<'a, [u8]>) -> Result<Cow<'a, [u8]>, Flaw> {
        if self.any_encoding {
            return Ok(piece);
        }
        let Err(cause) = std::str::from_utf8(&piece) else { return Ok(piece) };
        let valid = cause.valid_up_to();
        if cause.error_len().is_some() {
            let line = line_of(&piece, valid);
            if self.unknown {
                self.not_utf8 = Some(self.lines + line);
                self.any_encoding = true;
                return Ok(piece);
            }
            return Err(self.flaw(line, "holds bytes that are not UTF-8"));
        }
        let mut rest = piece[valid..].to_vec();
        rest.append(&mut self.rest);
        self.rest = rest;
        match &mut piece {
            Cow::Borrowed(bytes) => *bytes = &bytes[..valid],
            Cow::Owned(bytes) => bytes.truncate(valid),
        }
        Ok(piece)
    }

    fn flaw(&self, line: u64, what: &str) -> Flaw {
        Flaw::foreign(self.lines + line.max(1), what)
    }
}

fn line_of(piece: &[u8], at: usize) -> u64 {
    memchr_iter(b'\n', &piece[..at]).count() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(text: &[u8], piece: usize) -> Result<Vec<u8>, Flaw> {
        let mut cleaner = Cleaner::default();
        let mut clean = Vec::new();
        for piece in text.chunks(piece) {
            clean.extend_from_slice(&cleaner.clean(piece)?);
        }
        clean.extend(cleaner.finish()?);
        Ok(clean)
    }

    #[test]
    fn a_mark_and_crlf_are_undone_however_the_text_is_cut() {
        let text = "\u{feff}--\r\n-- Größe\r\nSELECT 1;\r\n".as_bytes();
        for piece in 1..text.len() {
            assert_eq!(clean(text, piece).unwrap(), "--\n-- Größe\nSELECT 1;\n".as_bytes(), "pieces of {piece}");
        }
    }

    #[test]
    fn a_cr_within_a_text_with_lf_is_left_alone() {
        for piece in 1..12 {
            assert_eq!(clean(b"--\n'a\r\nb'\r\n", piece).unwrap(), b"--\n'a\r\nb'\r\n");
        }
    }

    #[test]
    fn what_cannot_be_undone_is_refused_with_its_line() {
        let refused = |text: &[u8]| clean(text, 4).unwrap_err();
        assert_eq!(refused(b"\xff\xfe-\0-\0").line, 1);
        assert_eq!(refused(b"--\nab\n\0\n").line, 3);
        assert_eq!(refused(b"--\nab\xffc\n").line, 2);
        assert_eq!(refused(b"--\r\nab\nc\r\n").line, 2);
        assert!(refused(b"--\n\xc3").what.ends_with("within a character"));
    }
}
