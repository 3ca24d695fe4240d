//! Rows from COPY's binary form to its text form, without a server.
//!
//! Exactly the types that a backup copies in binary (`types.rs`) are known: what is not, or is not as the server sends
//! it, is an error that names the file, the row and the column. Nothing is skipped or guessed, since whoever loads the
//! text has nothing to compare it with. The text is read as the same value under the settings that a backup reads with:
//! ISO dates, the time zone UTC, intervals in PostgreSQL's own style, bytes as hex. It is the one that the server writes
//! then, but for three kinds of values that have several: floating point numbers between two equally short texts, IPv6
//! addresses below 2^32, and the one interval whose text the server does not read.
//!
//! Memory: one value, and its text. The stream is read once, from its begin to its end.
//!
//! Source: PostgreSQL documentation, "COPY", file formats; the receiving functions of the types say what is valid.

mod arrays;
mod field;
mod kind;
mod network;
mod numbers;
mod text;
mod times;
mod value;

use std::io::{self, BufRead, BufReader, Read};

use super::catalog::Column;
use crate::error::{Context, Error, Kind as Failure, Result};
use kind::Kind;

/// Text that is collected before it is handed over, in bytes.
const PIECE: usize = 64 * 1024;

/// A value that was larger than this gives its memory back before the next one is read, in bytes.
const LARGE: usize = 1 << 20;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// What is read of one file.
struct Decoder<'a, R: Read> {
    source: BufReader<R>,
    columns: Vec<(&'a str, Kind)>,
    version: u32,
    /// The value at hand.
    value: Vec<u8>,
    /// Its text, before anything is escaped.
    plain: Vec<u8>,
    /// Text that is not handed over yet.
    text: Vec<u8>,
    out: &'a mut dyn FnMut(&[u8]) -> Result<()>,
    rows: u64,
    /// The column that is being read.
    column: Option<&'a str>,
}

/// Why reading ended early.
enum Fault {
    /// What is there is not what the server sends; as the end of a sentence.
    Malformed(String),
    /// It cannot be read or handed over.
    Other(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self::Malformed(what)
    }
}

impl From<&str> for Fault {
    fn from(what: &str) -> Self {
        Self::Malformed(what.to_owned())
    }
}

impl From<io::Error> for Fault {
    fn from(cause: io::Error) -> Self {
        // A reader of the repository wraps what it has to say.
        let error = cause.downcast::<Error>();
        let error = error.or_else(|cause| Err(cause).context(Failure::Store, "cannot read a file of the backup"));
        match error {
            Ok(error) | Err(error) => Self::Other(error),
        }
    }
}

type Outcome<T> = std::result::Result<T, Fault>;

/// Decodes the file `path`, COPY's binary output of these columns by a server of this version (`server_version_num`).
///
/// The text is handed over in pieces of about 64 KiB, cut anywhere; each row ends with a newline. Gives the number of
/// rows. What was handed over is only worth something if this returns `Ok`.
///
/// # Errors
/// [`Failure::Verify`] naming file, row and column if a type is not one that is copied in binary, or if the bytes are
/// not what a server sends; and what `source` and `out` fail with.
pub fn decode(
    source: impl Read,
    columns: &[Column],
    version: u32,
    path: &str,
    out: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<u64> {
    let kinds = columns.iter().map(|column| (column.name.as_str(), Kind::of(column)));
    let columns = kinds.map(|(name, kind)| match kind {
        Ok(kind) => Ok((name, kind)),
        Err(why) => {
            let what = format!("{path} cannot be decoded: column \"{name}\" {why}");
            Err(Error::new(Failure::Verify, what))
        }
    });
    let mut decoder = Decoder {
        columns: columns.collect::<Result<_>>()?,
        source: BufReader::with_capacity(PIECE, source),
        version,
        value: Vec::new(),
        plain: Vec::new(),
        text: Vec::with_capacity(2 * PIECE),
        out,
        rows: 0,
        column: None,
    };
    match decoder.file() {
        Ok(()) => Ok(decoder.rows),
        Err(Fault::Other(error)) => Err(error),
        Err(Fault::Malformed(what)) => {
            let column = decoder.column.map(|name| format!(", column \"{name}\"")).unwrap_or_default();
            // The row at hand is the one after those that are done.
            let row = decoder.rows + 1;
            Err(Error::new(Failure::Verify, format!("{path} cannot be decoded: row {row}{column} {what}")))
        }
    }
}

impl<R: Read> Decoder<'_, R> {
    fn file(&mut self) -> Outcome<()> {
        self.header()?;
        while let Some(fields) = self.tuple()? {
            if fields != self.columns.len() {
                return Err(format!("has {fields} values for {} columns", self.columns.len()).into());
            }
            for number in 0..fields {
                let (name, kind) = self.columns[number];
                self.column = Some(name);
                if number > 0 {
                    self.text.push(b'\t');
                }
                self.field(kind)?;
            }
            self.column = None;
            self.text.push(b'\n');
            self.hand_over(PIECE)?;
            self.rows += 1;
        }
        self.hand_over(0)
    }

    /// The signature, flags and an extension of some length, of which no version of the server has any yet.
    fn header(&mut self) -> Outcome<()> {
        let signature: [u8; 11] = self.take()?;
        if signature != *SIGNATURE {
            return Err("is not there: the file does not begin with COPY's signature".into());
        }
        let flags = u32::from_be_bytes(self.take()?);
        let extension = u32::from_be_bytes(self.take()?);
        if flags != 0 || extension != 0 {
            return Err("is not there: the file's header has flags or extensions that are not known".into());
        }
        Ok(())
    }

    /// The number of fields of the next row, or nothing at the trailer, which must be the end.
    fn tuple(&mut self) -> Outcome<Option<usize>> {
        let fields = i16::from_be_bytes(self.take()?);
        if fields == -1 {
            let rest = self.source.fill_buf()?.len();
            return if rest == 0 { Ok(None) } else { Err("comes after the end of the rows".into()) };
        }
        usize::try_from(fields).map(Some).map_err(|_| "has a negative number of values".into())
    }

    fn field(&mut self, kind: Kind) -> Outcome<()> {
        let length = i32::from_be_bytes(self.take()?);
        if length == -1 {
            self.text.extend_from_slice(b"\\N");
            return Ok(());
        }
        let length = u64::try_from(length).map_err(|_| "has a negative length")?;
        if self.value.capacity() > LARGE {
            self.value = Vec::new();
        }
        self.value.clear();
        // Grows with what is there, whatever the length says.
        let there = (&mut self.source).take(length).read_to_end(&mut self.value)?;
        if there as u64 != length {
            return Err("is cut: the file ends within it".into());
        }
        let value = std::mem::take(&mut self.value);
        let written = self.value(kind, &value);
        self.value = value;
        written
    }

    /// One value, never NULL. A large one is handed over in pieces: its text may be twice as long, or more.
    fn value(&mut self, kind: Kind, value: &[u8]) -> Outcome<()> {
        match kind {
            Kind::Scalar(value::Scalar::Bytes) => {
                self.text.extend_from_slice(b"\\\\x");
                for piece in value.chunks(PIECE) {
                    text::hex(piece, &mut self.text);
                    self.hand_over(PIECE)?;
                }
            }
            Kind::Scalar(scalar) if scalar.is_text() => {
                for piece in scalar.checked_text(value)?.chunks(PIECE) {
                    text::escape(piece, &mut self.text);
                    self.hand_over(PIECE)?;
                }
            }
            Kind::Scalar(scalar) => {
                self.plain.clear();
                scalar.write(value, self.version, &mut self.plain)?;
                text::escape(&self.plain, &mut self.text);
            }
            Kind::Array(element) => {
                let mut array = arrays::Array::new(element, value, self.version)?;
                while let Some(piece) = array.next_piece()? {
                    text::escape(piece, &mut self.text);
                    self.hand_over(PIECE)?;
                }
            }
        }
        Ok(())
    }

    fn hand_over(&mut self, limit: usize) -> Outcome<()> {
        if self.text.len() > limit {
            (self.out)(&self.text)?;
            self.text.clear();
        }
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let mut bytes = [0; N];
        match self.source.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
                Err("is cut: the file ends before its trailer".into())
            }
            Err(cause) => Err(cause.into()),
        }
    }
}

#[cfg(test)]
mod tests;
