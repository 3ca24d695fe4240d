//! The rows of all tables, as COPY reads them.

use std::fmt::Write as _;
use std::io::Read;
use std::sync::Arc;

use super::Backup;
use super::sink::Sink;
use crate::database::application_settings::is_seen;
use crate::database::literal;
use crate::error::{Error, Kind, Result};
use crate::progress::Meter;
use crate::repository::read::FileReader;
use crate::tables::decode::decode;
use crate::tables::facts::Facts;
use crate::tables::manifest::{ChunkEntry, TableEntry};
use crate::tables::rows::RowCounter;
use crate::tables::{CopyFormat, Table};

/// What the text of a value depends on when it is read, as it was set when the rows were; and back to what it was, since
/// a materialized view that is filled afterwards may depend on it too.
const SETTINGS: [(&str, &str); 5] = [
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO, YMD"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("lc_monetary", "C"),
];

/// The value of a setting. Times are read the same under any time zone and style, since they have their offset and ISO's
/// order, so checks and computed columns may see the application's.
fn value<'a>(facts: &'a Facts, name: &str, usual: &'a str) -> &'a str {
    let of_application = facts.application.iter().find(|(known, _)| is_seen(name) && known.eq_ignore_ascii_case(name));
    of_application.map_or(usual, |(_, value)| value)
}

/// Writes the rows of every table. What follows sets the encoding itself.
pub(super) fn write(backup: &Backup, mut sink: Sink) -> Result<Sink> {
    let manifest = &backup.manifest;
    let time = manifest.started.format("%Y-%m-%d %H:%M:%S UTC");
    let id = backup.contents.snapshot().id;
    let mut text = format!("--\n-- Rows of the backup {id}, read at {time}\n--\n\n");
    for (name, usual) in SETTINGS {
        let _ = writeln!(text, "SET {name} = {};", literal(value(&manifest.facts, name, usual)));
    }
    text.push('\n');
    sink.write(text.as_bytes())?;
    for entry in &manifest.tables {
        sink.meter.now(&format!("{}.{}", entry.table.schema, entry.table.name));
        table(backup, entry, &mut sink)?;
    }
    let mut text = String::new();
    for (name, _) in &SETTINGS[1..] {
        let _ = writeln!(text, "SET {name} TO DEFAULT;");
    }
    text.push('\n');
    sink.write(text.as_bytes())?;
    Ok(sink)
}

fn table(backup: &Backup, entry: &TableEntry, sink: &mut Sink) -> Result<()> {
    sink.write(format!("COPY {} FROM stdin;\n", entry.table.copy_target()).as_bytes())?;
    for chunk in &entry.chunks {
        let rows = match entry.table.format {
            CopyFormat::Text => text(backup, chunk, sink)?,
            CopyFormat::Binary => binary(backup, &entry.table, chunk, sink)?,
        };
        if rows != chunk.rows {
            let what = format!("{} has {rows} rows instead of {}", chunk.path, chunk.rows);
            return Err(Error::new(Kind::Verify, what));
        }
    }
    sink.write(b"\\.\n\n\n")
}

fn binary(backup: &Backup, table: &Table, chunk: &ChunkEntry, sink: &mut Sink) -> Result<u64> {
    let reader = Counted { reader: backup.contents.reader(&chunk.path)?, meter: sink.meter.clone() };
    let version = backup.manifest.facts.server_version;
    decode(reader, &table.columns, version, &chunk.path, &mut |text| sink.write(text))
}

/// Text passes as it is. A line that would end the rows early is never in what a server writes.
fn text(backup: &Backup, chunk: &ChunkEntry, sink: &mut Sink) -> Result<u64> {
    let mut reader = backup.contents.reader(&chunk.path)?;
    let mut counter = RowCounter::new(CopyFormat::Text);
    let mut lines = Lines::default();
    while let Some(blob) = reader.next_blob()? {
        if lines.end_the_rows(&blob) {
            let what = format!("{} holds a line that would end the rows: it begins with \\.", chunk.path);
            return Err(Error::new(Kind::Verify, what));
        }
        counter.feed(&blob);
        sink.meter.add(blob.len() as u64);
        sink.write(&blob)?;
    }
    counter.finish().map_err(|why| Error::new(Kind::Verify, format!("{}: COPY's output {why}", chunk.path)))
}

/// Looks for lines that begin with a backslash and a dot, in a text that arrives in pieces.
struct Lines {
    /// The last bytes of the pieces before, at most two.
    last: Vec<u8>,
}

impl Default for Lines {
    fn default() -> Self {
        Self { last: b"\n".to_vec() }
    }
}

impl Lines {
    fn end_the_rows(&mut self, piece: &[u8]) -> bool {
        const END: &[u8] = b"\n\\.";
        self.last.extend_from_slice(&piece[..piece.len().min(2)]);
        let found = memchr::memmem::find(&self.last, END).is_some() || memchr::memmem::find(piece, END).is_some();
        if piece.len() > 2 {
            self.last.clear();
            self.last.extend_from_slice(&piece[piece.len() - 2..]);
        } else {
            self.last.drain(..self.last.len().saturating_sub(2));
        }
        found
    }
}

/// Counts the bytes that are read.
struct Counted {
    reader: FileReader,
    meter: Arc<Meter>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.meter.add(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_ends_the_rows_is_found_however_the_text_is_cut() {
        let found = |text: &[u8], piece: usize| {
            let mut lines = Lines::default();
            text.chunks(piece).any(|piece| lines.end_the_rows(piece))
        };
        for piece in 1..9 {
            for text in [&b"\\.\n"[..], b"a\tb\n\\.\nc\n", b"a\n\\.b\n", b"\n\n\\.\n"] {
                assert!(found(text, piece), "{text:?} in pieces of {piece}");
            }
            for text in [&b"a\\.\n"[..], b"\\\\.\n", b"a\n\\\\.\n\\N\n", b".\n\\\n.\n"] {
                assert!(!found(text, piece), "{text:?} in pieces of {piece}");
            }
        }
    }
}
