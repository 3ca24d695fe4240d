//! Feeds the statements of a plain dump to psql.
//!
//! Statements that are left out become empty lines, so that the line numbers in psql's messages are those of the file.
//! The file is hashed while it is read: a file that changed since it was inspected is not loaded.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::LeftOut;
use crate::dump::PIECE;
use crate::dump::format::decompress;
use crate::dump::judge::HashingReader;
use crate::dump::rules::{self, Disposition};
use crate::dump::scan::{Scanner, Statement, Visitor};
use crate::dump::text::Flaw;
use crate::error::{Error, Kind};
use crate::progress::Meter;

/// Feeds the statements of a plain dump to psql.
pub(super) struct Feeder<W: Write> {
    pub(super) out: W,
    /// The line of `out` that comes next.
    pub(super) line: u64,
    pub(super) restricted: bool,
    pub(super) left_out: LeftOut,
    pub(super) skipping_rows: bool,
    pub(super) broken: Option<io::Error>,
    pub(super) meter: Arc<Meter>,
}

/// Why feeding ended early.
pub(super) enum Fed {
    /// psql went away; it says why.
    Pipe(#[allow(dead_code, reason = "psql's own words are better")] io::Error),
    /// The file is not what was judged.
    Changed(Error),
}

impl<W: Write> Feeder<W> {
    pub(super) fn feed(
        mut self,
        file: std::fs::File,
        compression: crate::dump::format::Compression,
        wanted: Option<&str>,
    ) -> std::result::Result<(), Fed> {
        let changed = |why: &str| {
            Fed::Changed(Error::new(Kind::Verify, "the file changed after it was judged").with("cause", why))
        };
        let token = format!("glovebox{}", std::process::id());
        if self.restricted {
            writeln!(self.out, "\\restrict {token}").map_err(Fed::Pipe)?;
            self.line += 1;
        }
        let meter = self.meter.clone();
        let mut hashing = HashingReader::new(file, Some(&meter));
        let mut scanner = Scanner::default();
        {
            let mut text = decompress(compression, &mut hashing).map_err(|cause| changed(&cause.to_string()))?;
            let mut piece = vec![0; PIECE];
            loop {
                let length = text.read(&mut piece).map_err(|cause| changed(&cause.to_string()))?;
                if length == 0 {
                    break;
                }
                let result = scanner.feed(&piece[..length], &mut self);
                if let Some(cause) = self.broken.take() {
                    return Err(Fed::Pipe(cause));
                }
                result.map_err(|flaw| changed(&flaw.what))?;
            }
        }
        let hash = hashing.finish().map_err(|cause| changed(&cause.to_string()))?;
        if wanted.is_some_and(|wanted| wanted != hash) {
            return Err(changed("its SHA-256 is another one"));
        }
        if self.restricted {
            writeln!(self.out, "\n\\unrestrict {token}").map_err(Fed::Pipe)?;
        }
        self.out.flush().map_err(Fed::Pipe)
    }

    fn write(&mut self, bytes: &[u8]) -> std::result::Result<(), Flaw> {
        self.out.write_all(bytes).map_err(|cause| {
            self.broken = Some(cause);
            Flaw::foreign(0, "psql went away")
        })
    }
}

impl<W: Write> Visitor for Feeder<W> {
    fn statement(&mut self, statement: &Statement<'_>) -> std::result::Result<(), Flaw> {
        let skipped =
            matches!(rules::disposition(statement), Disposition::Skip(_)) || self.left_out.statement(statement);
        self.skipping_rows = skipped && statement.is_copy();
        if skipped {
            return Ok(());
        }
        if statement.is_copy() {
            let text = String::from_utf8_lossy(&statement.text[..statement.text.len().min(200)]);
            self.meter.now(text["COPY ".len()..].split(' ').next().unwrap_or_default());
        }
        // psql counts lines; so that it counts those of the file, what was left out leaves its lines behind.
        if let Some(gap) = statement.line.checked_sub(self.line) {
            self.write(&vec![b'\n'; usize::try_from(gap).unwrap_or(0)])?;
            self.line = statement.line;
        }
        self.line += memchr::memchr_iter(b'\n', statement.text).count() as u64 + 1;
        self.write(statement.text)?;
        self.write(b"\n")
    }

    fn comment(&mut self, _text: &str, _line: u64) -> std::result::Result<(), Flaw> {
        Ok(())
    }

    fn meta(&mut self, _text: &str, _line: u64) -> std::result::Result<(), Flaw> {
        // \restrict is our own, \connect would leave the staging database, and there are no others to be obeyed.
        Ok(())
    }

    fn data(&mut self, bytes: &[u8], _line: u64) -> std::result::Result<(), Flaw> {
        if self.skipping_rows { Ok(()) } else { self.write(bytes) }
    }

    fn data_end(&mut self, rows: u64) -> std::result::Result<(), Flaw> {
        if self.skipping_rows {
            return Ok(());
        }
        self.line += rows + 1;
        self.meter.rows.fetch_add(rows, Ordering::Relaxed);
        self.write(b"\\.\n")
    }
}

/// Whether psql knows `\restrict`: since the minor releases of August 2025.
pub(super) fn supports_restrict(version: u32) -> bool {
    match version / 10_000 {
        14 => version >= 140_019,
        15 => version >= 150_014,
        16 => version >= 160_010,
        17 => version >= 170_006,
        major => major >= 18,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::dump::Contents;
    use crate::restore::{Destination, Policy};

    fn fed(text: &str, restricted: bool) -> String {
        let mut feeder = Feeder {
            out: Vec::new(),
            line: 1,
            restricted,
            left_out: LeftOut::new(
                &Policy { no_privileges: true, ..Policy::default() },
                &Destination::Live,
                &Contents::default(),
                BTreeSet::new(),
            ),
            skipping_rows: false,
            broken: None,
            meter: Meter::new(""),
        };
        Scanner::default().feed(text.as_bytes(), &mut feeder).unwrap();
        String::from_utf8(feeder.out).unwrap()
    }

    #[test]
    fn what_is_left_out_leaves_its_lines_behind() {
        let text = "--\n-- PostgreSQL database dump\n--\n\\connect x\nDROP TABLE a;\nCREATE TABLE a (\nb int);\n\
                    GRANT ALL ON TABLE a TO b;\nCOPY a (b) FROM stdin;\n1\n2\n\\.\nSET a = b;\n";
        let fed = fed(text, false);
        for (line, expected) in text.lines().zip(fed.lines()) {
            assert!(expected.is_empty() || line == expected, "{line:?} became {expected:?}");
        }
        assert!(fed.contains("CREATE TABLE a (\nb int);\n"), "{fed}");
        assert!(!fed.contains("GRANT") && !fed.contains("DROP") && !fed.contains("connect"), "{fed}");
    }
}
