//! What `pg_restore` writes, without the begin and the end that a part of a dump does not have.
//!
//! Each run of it writes a whole dump: a header, with `\restrict` where it is new enough, the settings of the session,
//! the statements, the end marker. One dump has one header and one end. The settings stay in both parts: rows stand
//! between them, with settings of their own.

use std::fs::File;
use std::io::{ErrorKind, Read};

use super::sink::Sink;
use crate::dump::PIECE;
use crate::error::{Context, Error, Kind, Result};

/// Where a part stands in the dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// First, with the header: definitions, values of sequences, large objects.
    BeforeRows,
    /// Last: indexes, constraints, triggers, and what is computed from rows.
    AfterRows,
}

impl Place {
    /// As `pg_restore` is told.
    pub(super) fn sections(self) -> &'static [&'static str] {
        match self {
            Self::BeforeRows => &["--section=pre-data", "--section=data"],
            Self::AfterRows => &["--section=post-data"],
        }
    }
}

/// Longer than any header is before its settings, in bytes.
const HEADER_LIMIT: usize = 64 * 1024;

/// Longer than what follows the last statement, in bytes.
const TAIL: usize = 4096;

const BEGIN: &[u8] = b"--\n-- PostgreSQL database dump\n--\n";
const END: &[u8] = b"\n--\n-- PostgreSQL database dump complete\n--\n";

/// Copies one part to its end.
pub(super) fn copy(place: Place, mut pipe: File, mut sink: Sink) -> Result<Sink> {
    let mut part = Part::new(place);
    let mut piece = vec![0; PIECE];
    loop {
        match pipe.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => part.feed(&piece[..length], &mut |text| sink.write(text))?,
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause).context(Kind::Verify, "cannot read from pg_restore"),
        }
    }
    let token = part.finish(&mut |text| sink.write(text))?;
    if place == Place::BeforeRows {
        sink.token = token;
    }
    Ok(sink)
}

type Out<'a> = &'a mut dyn FnMut(&[u8]) -> Result<()>;

/// A part that arrives in pieces.
struct Part {
    place: Place,
    in_header: bool,
    token: Option<String>,
    /// What may still be header, or already the end.
    held: Vec<u8>,
}

impl Part {
    fn new(place: Place) -> Self {
        Self { place, in_header: true, token: None, held: Vec::new() }
    }

    fn feed(&mut self, piece: &[u8], out: Out<'_>) -> Result<()> {
        self.held.extend_from_slice(piece);
        if self.in_header && !self.header(out)? {
            return Ok(());
        }
        if let Some(sure) = self.held.len().checked_sub(TAIL) {
            out(&self.held[..sure])?;
            self.held.drain(..sure);
        }
        Ok(())
    }

    /// Everything before the first setting, once it is there.
    fn header(&mut self, out: Out<'_>) -> Result<bool> {
        let Some(end) = memchr::memmem::find(&self.held, b"\nSET ") else {
            return if self.held.len() > HEADER_LIMIT { Err(strange("its header has no end")) } else { Ok(false) };
        };
        let header: Vec<u8> = self.held.drain(..=end).collect();
        if !header.starts_with(BEGIN) {
            return Err(strange("it has no header"));
        }
        let mut lines = header.split(|byte| *byte == b'\n');
        self.token = lines.find_map(|line| line.strip_prefix(b"\\restrict ")).map(text);
        self.in_header = false;
        if self.place == Place::BeforeRows {
            out(&header)?;
        }
        Ok(true)
    }

    /// The end, which must be that of a whole dump. Gives the word of `\restrict`.
    fn finish(self, out: Out<'_>) -> Result<Option<String>> {
        let end = memchr::memmem::rfind(&self.held, END).filter(|_| !self.in_header);
        let end = end.ok_or_else(|| strange("it has no end marker"))?;
        let rest = self.held[end + END.len()..].trim_ascii();
        let closed = rest.strip_prefix(b"\\unrestrict ").map(text);
        if closed != self.token || (closed.is_none() && !rest.is_empty()) {
            return Err(strange("it goes on after its end marker"));
        }
        out(&self.held[..=end])?;
        Ok(self.token)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn strange(what: &str) -> Error {
    Error::new(Kind::Verify, format!("what pg_restore wrote is not the text of a dump: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "SET a = 1;\n\nCREATE FUNCTION f() AS '\n--\n-- PostgreSQL database dump complete\n--\n';\n\n\n";

    fn whole(token: bool) -> String {
        let (open, close) = if token { ("\\restrict abc\n\n", "\\unrestrict abc\n\n") } else { ("", "") };
        format!("{}\n{open}-- Dumped by pg_dump\n\n{BODY}--{}\n{close}", text(BEGIN), text(&END[3..]))
    }

    fn copied(place: Place, dump: &str, piece: usize) -> Result<(String, Option<String>)> {
        let mut there = Vec::new();
        let mut out = |piece: &[u8]| {
            there.extend_from_slice(piece);
            Ok(())
        };
        let mut part = Part::new(place);
        for piece in dump.as_bytes().chunks(piece) {
            part.feed(piece, &mut out)?;
        }
        let token = part.finish(&mut out)?;
        Ok((text(&there), token))
    }

    #[test]
    fn the_end_is_cut_off_and_the_header_of_the_second_part_however_it_arrives() {
        for piece in [1, 2, 3, 7, 1000, 10_000] {
            let (first, token) = copied(Place::BeforeRows, &whole(true), piece).unwrap();
            let header = format!("{}\n\\restrict abc\n\n-- Dumped by pg_dump\n\n", text(BEGIN));
            assert_eq!((first, token.as_deref()), (header + BODY, Some("abc")));
            let (last, token) = copied(Place::AfterRows, &whole(false), piece).unwrap();
            assert_eq!((last.as_str(), token), (BODY, None));
        }
    }

    #[test]
    fn a_dump_that_is_cut_anywhere_is_none() {
        let dump = whole(true);
        for end in 0..dump.trim_end().len() {
            let error = copied(Place::BeforeRows, &dump[..end], 64).unwrap_err();
            assert_eq!(error.kind(), Kind::Verify, "{end}");
        }
    }

    #[test]
    fn what_follows_the_end_is_noticed() {
        for more in ["SELECT 1;\n", "\\unrestrict abcd\n"] {
            let dump = whole(false) + more;
            assert!(copied(Place::AfterRows, &dump, 64).is_err(), "{more}");
        }
    }
}
