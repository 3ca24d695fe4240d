//! Counts the rows in COPY's output, and notices when it is not whole.
//!
//! The count comes from the bytes themselves, so it is that of what is stored, not of what the server says it sent.
//! Source: PostgreSQL documentation, "COPY", file formats.

use futures_util::TryStreamExt;
use tokio_postgres::Client;

use super::CopyFormat;

/// The signature, the flags and the length of the header's extension.
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
const HEADER: usize = 19;

/// Counts rows in a stream that arrives in pieces.
#[derive(Debug)]
pub struct RowCounter {
    rows: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Text: whether the last byte ended a row.
    Text { ended: bool },
    /// Binary: the header so far.
    Header(Vec<u8>),
    /// Bytes of the header's extension, or of a value, that are passed over; so many fields follow.
    Skip { bytes: u64, fields: u16 },
    /// A number of two or four bytes, so far.
    Number { bytes: [u8; 4], have: usize, fields: Option<u16> },
    /// The trailer was seen.
    End,
    /// It is not COPY's output.
    Broken(&'static str),
}

impl RowCounter {
    /// For output in this form.
    #[must_use]
    pub fn new(format: CopyFormat) -> Self {
        let state = match format {
            CopyFormat::Text => State::Text { ended: true },
            CopyFormat::Binary => State::Header(Vec::with_capacity(HEADER)),
        };
        Self { rows: 0, state }
    }

    /// Takes the next piece.
    pub fn feed(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            if matches!(self.state, State::Number { have: 0, fields: None, .. }) {
                let (taken, rows) = whole_rows(piece);
                self.rows += rows;
                piece = &piece[taken..];
                if piece.is_empty() {
                    return;
                }
            }
            let taken = self.step(piece);
            piece = &piece[taken..];
        }
    }

    /// The end of the stream: the number of rows.
    ///
    /// # Errors
    /// What is wrong with it, as the end of the sentence "COPY's output …".
    pub fn finish(self) -> Result<u64, &'static str> {
        match self.state {
            State::Text { ended: true } | State::End => Ok(self.rows),
            State::Text { ended: false } => Err("ends within a row"),
            State::Broken(why) => Err(why),
            State::Header(_) | State::Skip { .. } | State::Number { .. } => Err("ends before its trailer"),
        }
    }

    /// Takes some of the bytes, at least one, and says how many.
    fn step(&mut self, piece: &[u8]) -> usize {
        match &mut self.state {
            State::Text { ended } => {
                self.rows += memchr::memchr_iter(b'\n', piece).count() as u64;
                *ended = piece.last() == Some(&b'\n');
                piece.len()
            }
            State::Header(header) => {
                let taken = piece.len().min(HEADER - header.len());
                header.extend_from_slice(&piece[..taken]);
                if header.len() == HEADER {
                    let extension = u32::from_be_bytes([header[15], header[16], header[17], header[18]]);
                    self.state = if header.starts_with(SIGNATURE) {
                        skip(extension.into(), 0)
                    } else {
                        State::Broken("does not begin with COPY's signature")
                    };
                }
                taken
            }
            State::Skip { bytes, fields } => {
                let taken = usize::try_from(*bytes).map_or(piece.len(), |bytes| bytes.min(piece.len()));
                *bytes -= taken as u64;
                if *bytes == 0 {
                    self.state = next(*fields);
                }
                taken
            }
            State::Number { bytes, have, fields } => {
                let wanted = if fields.is_some() { 4 } else { 2 };
                let taken = piece.len().min(wanted - *have);
                bytes[*have..*have + taken].copy_from_slice(&piece[..taken]);
                *have += taken;
                if *have == wanted {
                    let (bytes, fields) = (*bytes, *fields);
                    self.state = match fields {
                        None => self.row(i16::from_be_bytes([bytes[0], bytes[1]])),
                        Some(fields) => value(i32::from_be_bytes(bytes), fields),
                    };
                }
                taken
            }
            State::End => {
                self.state = State::Broken("goes on after its trailer");
                piece.len()
            }
            State::Broken(_) => piece.len(),
        }
    }

    /// A row begins with the number of its fields; -1 is the trailer.
    fn row(&mut self, fields: i16) -> State {
        match u16::try_from(fields) {
            Ok(fields) => {
                self.rows += 1;
                next(fields)
            }
            Err(_) if fields == -1 => State::End,
            Err(_) => State::Broken("has a row with a negative number of fields"),
        }
    }
}

/// The rows that lie in a piece as a whole, from its begin, and their bytes. The server sends a row at a time, so this
/// is nearly all there is to do; whatever is odd is left to the steps above.
fn whole_rows(piece: &[u8]) -> (usize, u64) {
    let (mut taken, mut rows) = (0, 0);
    while let Some(length) = row_length(&piece[taken..]) {
        taken += length;
        rows += 1;
    }
    (taken, rows)
}

/// The length of the row that these bytes begin with, if all of it is there.
fn row_length(bytes: &[u8]) -> Option<usize> {
    let (fields, _) = bytes.split_first_chunk()?;
    let fields = u16::try_from(i16::from_be_bytes(*fields)).ok()?;
    let mut at = 2;
    for _ in 0..fields {
        let (length, _) = bytes.get(at..)?.split_first_chunk()?;
        at += 4;
        match i32::from_be_bytes(*length) {
            -1 => {}
            length => at = at.checked_add(usize::try_from(length).ok()?)?,
        }
    }
    (at <= bytes.len()).then_some(at)
}

/// After a value's length, of which -1 is NULL.
fn value(length: i32, fields: u16) -> State {
    match u64::try_from(length) {
        Ok(length) => skip(length, fields - 1),
        Err(_) if length == -1 => next(fields - 1),
        Err(_) => State::Broken("has a value of negative length"),
    }
}

fn skip(bytes: u64, fields: u16) -> State {
    if bytes == 0 { next(fields) } else { State::Skip { bytes, fields } }
}

/// The length of the next field, or the next row.
fn next(fields: u16) -> State {
    State::Number { bytes: [0; 4], have: 0, fields: (fields > 0).then_some(fields) }
}

/// Counts the rows of a table, given by its quoted name; of a partitioned one those of its partitions.
///
/// Where no query can be planned on it, since an index or a statistics object calls a function that needs a `search_path`, its rows are copied
/// and counted: this is not planned.
pub async fn count(
    client: &Client,
    name: &str,
    is_partitioned: bool,
) -> std::result::Result<u64, tokio_postgres::Error> {
    let only = if is_partitioned { "" } else { "ONLY " };
    let counted = client.query_one(&format!("SELECT count(*) FROM {only}{name}"), &[]).await;
    match counted {
        Ok(row) => Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0)),
        Err(cause) if cause.as_db_error().is_none() || is_partitioned => Err(cause),
        Err(_) => {
            let stream = client.copy_out(&format!("COPY {name} TO STDOUT")).await?;
            let mut stream = std::pin::pin!(stream);
            let mut rows = 0;
            // The server sends each row in a message of its own.
            while stream.try_next().await?.is_some() {
                rows += 1;
            }
            Ok(rows)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(rows: &[&[Option<&[u8]>]]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 2, 9, 9]);
        for row in rows {
            bytes.extend(i16::try_from(row.len()).unwrap().to_be_bytes());
            for value in *row {
                bytes.extend(value.map_or(-1, |value| i32::try_from(value.len()).unwrap()).to_be_bytes());
                bytes.extend(value.unwrap_or_default());
            }
        }
        bytes.extend((-1_i16).to_be_bytes());
        bytes
    }

    /// The count must not depend on where the stream is cut.
    #[track_caller]
    fn count(format: CopyFormat, bytes: &[u8]) -> Result<u64, &'static str> {
        let mut results = (1..=bytes.len().max(1)).map(|piece| {
            let mut counter = RowCounter::new(format);
            bytes.chunks(piece).for_each(|piece| counter.feed(piece));
            counter.finish()
        });
        let first = results.next().unwrap();
        results.for_each(|other| assert_eq!(other, first));
        first
    }

    #[test]
    fn rows_are_counted_whatever_is_in_them() {
        let rows: [&[Option<&[u8]>]; 4] = [&[Some(b"\xff\xff"), None], &[Some(b""), Some(b"a\nb")], &[None, None], &[]];
        assert_eq!(count(CopyFormat::Binary, &binary(&rows)), Ok(4));
        assert_eq!(count(CopyFormat::Binary, &binary(&[])), Ok(0));
        assert_eq!(count(CopyFormat::Text, b"1\ta\\nb\n\\N\t\n\n"), Ok(3));
        assert_eq!(count(CopyFormat::Text, b""), Ok(0));
    }

    #[test]
    fn every_cut_is_noticed() {
        let whole = binary(&[&[Some(b"abc"), None], &[Some(b""), Some(b"d")]]);
        for end in 0..whole.len() {
            assert!(count(CopyFormat::Binary, &whole[..end]).is_err(), "cut at {end}");
        }
        assert_eq!(count(CopyFormat::Text, b"1\n2"), Err("ends within a row"));
    }

    #[test]
    fn what_copy_did_not_write_is_noticed() {
        let mut longer = binary(&[]);
        longer.push(0);
        assert_eq!(count(CopyFormat::Binary, &longer), Err("goes on after its trailer"));
        assert_eq!(
            count(CopyFormat::Binary, b"pg_dump: error: no such server"),
            Err("does not begin with COPY's signature")
        );
    }
}
