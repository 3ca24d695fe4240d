//! Messages of `pg_dump` among the rows of a dump, where both went into one file.

/// How such a message begins.
const BEGIN: &[u8] = b"pg_dump: ";

/// Such a begin, behind the end of a line.
const BEGIN_OF_LINE: &[u8] = b"\npg_dump: ";

/// Looks for messages in rows of more than one column, which arrive in pieces: a line that begins like one and has no tab
/// is no row. Whether a line has a tab is known at its end only, and a piece may begin anywhere in a line.
#[derive(Debug, Default)]
pub(super) struct Messages {
    at: Position,
}

#[derive(Debug, Clone, Copy)]
enum Position {
    /// So many bytes of a line were seen, all of them as a message begins.
    Begin(usize),
    /// The line is a message, unless a tab follows.
    Message,
    /// The line is a row.
    Row,
}

impl Default for Position {
    fn default() -> Self {
        Self::Begin(0)
    }
}

impl Messages {
    /// The line of the first message that ends in a piece, which begins in this line.
    pub(super) fn find(&mut self, bytes: &[u8], line: u64) -> Option<u64> {
        let Some(first) = memchr::memchr(b'\n', bytes) else {
            self.at = self.at.after(bytes);
            return None;
        };
        if matches!(self.at.after(&bytes[..first]), Position::Message) {
            return Some(line);
        }
        // The end of the line before is a part of what is searched for.
        for at in memchr::memmem::find_iter(&bytes[first..], BEGIN_OF_LINE) {
            let begin = first + at + 1;
            let end = memchr::memchr(b'\n', &bytes[begin..]).map(|end| begin + end);
            if end.is_some_and(|end| !bytes[begin..end].contains(&b'\t')) {
                return Some(line + memchr::memchr_iter(b'\n', &bytes[..begin]).count() as u64);
            }
        }
        let last = memchr::memrchr(b'\n', bytes).unwrap_or(first);
        self.at = Position::default().after(&bytes[last + 1..]);
        None
    }
}

impl Position {
    /// Goes on with bytes of the same line.
    fn after(self, bytes: &[u8]) -> Self {
        let (seen, rest) = match self {
            Self::Row => return Self::Row,
            Self::Message => (BEGIN.len(), bytes),
            Self::Begin(seen) => {
                let (begin, rest) = bytes.split_at(bytes.len().min(BEGIN.len() - seen));
                if !BEGIN[seen..].starts_with(begin) {
                    return Self::Row;
                }
                (seen + begin.len(), rest)
            }
        };
        match seen {
            _ if rest.contains(&b'\t') => Self::Row,
            seen if seen < BEGIN.len() => Self::Begin(seen),
            _ => Self::Message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line of the first message, however the rows are cut.
    #[track_caller]
    fn find(rows: &str) -> Option<u64> {
        let mut found = (1..=rows.len()).map(|size| {
            let mut messages = Messages::default();
            let mut line = 1;
            rows.as_bytes().chunks(size).find_map(|piece| {
                let found = messages.find(piece, line);
                line += memchr::memchr_iter(b'\n', piece).count() as u64;
                found
            })
        });
        let whole = found.next_back().expect("rows");
        assert!(found.all(|found| found == whole), "{rows:?}");
        whole
    }

    #[test]
    fn only_a_whole_line_that_begins_as_a_message_is_one() {
        assert_eq!(find("1\ta\n2\tpg_dump: b\n"), None);
        assert_eq!(find("1\ta\npg_dump: error: b\n2\tc\n"), Some(2));
        assert_eq!(find("pg_dump: error: b\n"), Some(1));
        assert_eq!(find("1\tpg_dump: pg_dump: pg_dump: pg_dump: \n"), None);
        assert_eq!(find("pg_dump: a\t1\npg_dump: pg_dump: \t2\npg_dum\t3\npg_dump:\t4\n"), None);
        assert_eq!(find("pg_dump: a\t1\npg_dump: warning\npg_dump: c\t3\n"), Some(2));
    }
}
