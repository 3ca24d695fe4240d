//! The text of a dump as a stream of statements and rows, read on a thread of its own.
//!
//! Statements that are left out are not in it. A plain file is hashed while it is read: one that changed since it was
//! judged is not loaded.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::LeftOut;
use crate::dump::ahead::{Ended, read_ahead};
use crate::dump::format::{Compression, decompress};
use crate::dump::judge::HashingReader;
use crate::dump::rules::{Disposition, Rules};
use crate::dump::scan::{Scanner, Statement as Scanned, Visitor};
use crate::dump::text::Flaw;
use crate::error::{Error, Kind, Result};
use crate::progress::Meter;

/// Rows are handed over in pieces of about this size, in bytes.
const ROWS: usize = 1 << 20;

/// Items that are read ahead.
const AHEAD: usize = 8;

/// The words of a statement that are handed over with it: enough for the tables that it concerns.
const WORDS: usize = 64;

/// The next thing in the text of a dump.
#[derive(Debug)]
pub(super) enum Item {
    /// A statement without rows.
    Statement(Statement),
    /// `COPY … FROM stdin`; pieces follow.
    Copy(Statement),
    /// Rows of the COPY.
    Piece(Piece),
    /// There are no more rows.
    EndOfRows,
}

/// A statement to execute.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    /// Its text, with the semicolon.
    pub(super) text: Vec<u8>,
    /// Where it begins, counted from 1.
    pub(super) line: u64,
    /// Its first words, as the scanner keeps them.
    pub(super) words: Vec<String>,
}

impl Statement {
    /// Whether it begins with these words.
    pub(super) fn begins(&self, words: &[&str]) -> bool {
        words.len() <= self.words.len() && words.iter().zip(&self.words).all(|(left, right)| left == right)
    }
}

/// Whole rows.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    /// The line of the first row.
    pub(super) line: u64,
}

/// Statements that may be in the text though others would be refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trust {
    /// Those that `pg_dump` never writes.
    pub(super) foreign: bool,
    /// Those that act with the rights of the server's account.
    pub(super) as_server: bool,
}

/// Text to read, and what of it is left out.
pub(super) struct Reader {
    pub(super) left_out: LeftOut,
    pub(super) trust: Trust,
    pub(super) meter: Arc<Meter>,
}

impl Reader {
    /// Reads a plain file; with `wanted`, its SHA-256 must be that one.
    pub(super) fn plain(
        self,
        file: File,
        compression: Compression,
        wanted: Option<&str>,
        items: mpsc::Sender<Item>,
    ) -> Result<()> {
        let meter = self.meter.clone();
        let mut hashing = HashingReader::new(file, Some(&meter));
        let text = decompress(compression, &mut hashing).map_err(|cause| changed(&cause))?;
        if !self.read(text, Rules::default(), items)? {
            return Ok(());
        }
        let hash = hashing.finish().map_err(|cause| changed(&cause))?;
        if wanted.is_some_and(|wanted| wanted != hash) {
            return Err(changed(&"its SHA-256 is another one"));
        }
        Ok(())
    }

    /// Reads what `pg_restore` unpacks.
    pub(super) fn unpacked(self, pipe: File, items: mpsc::Sender<Item>) -> Result<()> {
        let meter = self.meter.clone();
        self.read(Counting { pipe, meter: &meter }, Rules::without_clean(), items).map(drop)
    }

    /// Reads to the end, or until nobody listens any more (`false`).
    fn read(self, text: impl Read + Send, rules: Rules, items: mpsc::Sender<Item>) -> Result<bool> {
        let mut scanner = Scanner::default();
        let mut sender =
            Sender { reader: self, rules, items, skipping_rows: false, rows: Vec::new(), line: 0, is_over: false };
        let read = read_ahead(text, |piece| scanner.feed(piece, &mut sender));
        let read = match read {
            Ok(()) => scanner.finish(&mut sender),
            Err(Ended::Unreadable(cause)) => return Err(changed(&cause)),
            Err(Ended::Failed(flaw)) => Err(flaw),
        };
        if sender.is_over {
            return Ok(false);
        }
        read.map(|()| true).map_err(|flaw| changed(&format!("line {} {}", flaw.line, flaw.what)))
    }
}

/// A channel for what is read.
pub(super) fn channel() -> (mpsc::Sender<Item>, mpsc::Receiver<Item>) {
    mpsc::channel(AHEAD)
}

fn changed(why: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::Verify, "the dump is not the one any more that was judged").with("cause", why)
}

/// Counts what comes out of a pipe.
struct Counting<'a> {
    pipe: File,
    meter: &'a Meter,
}

impl Read for Counting<'_> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let length = self.pipe.read(piece)?;
        self.meter.add(length as u64);
        Ok(length)
    }
}

/// Hands over what the scanner finds.
struct Sender {
    reader: Reader,
    rules: Rules,
    items: mpsc::Sender<Item>,
    skipping_rows: bool,
    /// Rows that are not handed over yet.
    rows: Vec<u8>,
    /// The line of the first one.
    line: u64,
    /// Nobody listens any more.
    is_over: bool,
}

impl Sender {
    fn send(&mut self, item: Item) -> std::result::Result<(), Flaw> {
        self.items.blocking_send(item).map_err(|_| {
            self.is_over = true;
            Flaw::foreign(0, "is not wanted")
        })
    }

    /// Hands over the first bytes of the rows, which end with a row.
    fn send_rows(&mut self, length: usize) -> std::result::Result<(), Flaw> {
        let rest = self.rows.split_off(length);
        let bytes = Bytes::from(std::mem::replace(&mut self.rows, rest));
        let line = self.line;
        self.line += memchr::memchr_iter(b'\n', &bytes).count() as u64;
        self.send(Item::Piece(Piece { bytes, line }))
    }
}

impl Visitor for Sender {
    fn statement(&mut self, statement: &Scanned<'_>) -> std::result::Result<(), Flaw> {
        let Trust { foreign, as_server } = self.reader.trust;
        let skipped = match self.rules.disposition(statement) {
            Disposition::Skip(_) => true,
            Disposition::Distrust(what) if !as_server => return Err(Flaw::foreign(statement.line, what)),
            Disposition::Refuse(what) if !foreign => return Err(Flaw::foreign(statement.line, what)),
            _ => self.reader.left_out.statement(statement),
        };
        self.skipping_rows = skipped && statement.is_copy();
        if skipped {
            return Ok(());
        }
        let words = statement.words.iter().take(WORDS).cloned().collect();
        let owned = Statement { text: statement.text.to_vec(), line: statement.line, words };
        if !statement.is_copy() {
            return self.send(Item::Statement(owned));
        }
        let text = String::from_utf8_lossy(&statement.text[..statement.text.len().min(200)]);
        self.reader.meter.now(text["COPY ".len()..].split(' ').next().unwrap_or_default());
        self.send(Item::Copy(owned))
    }

    fn meta(&mut self, _text: &str, _line: u64) -> std::result::Result<(), Flaw> {
        // \connect would leave the staging database, and the others are psql's own business.
        Ok(())
    }

    fn data(&mut self, bytes: &[u8], line: u64) -> std::result::Result<(), Flaw> {
        if self.skipping_rows {
            return Ok(());
        }
        if self.rows.is_empty() {
            self.line = line;
        }
        let before = self.rows.len();
        self.rows.extend_from_slice(bytes);
        if self.rows.len() < ROWS {
            return Ok(());
        }
        // Only the new bytes are searched: a row of many pieces is not searched again with each of them.
        match memchr::memrchr(b'\n', bytes) {
            Some(end) => self.send_rows(before + end + 1),
            None => Ok(()),
        }
    }

    fn data_end(&mut self, rows: u64) -> std::result::Result<(), Flaw> {
        if self.skipping_rows {
            return Ok(());
        }
        if !self.rows.is_empty() {
            self.send_rows(self.rows.len())?;
        }
        self.reader.meter.rows.fetch_add(rows, Ordering::Relaxed);
        self.send(Item::EndOfRows)
    }
}
