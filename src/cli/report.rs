//! The result of a command: human text and the JSON document, side by side.

use std::fmt::Write as _;

use serde_json::Value;

use crate::error::Error;
use crate::text;

/// What a command has to say in the end.
#[derive(Debug, Default)]
pub struct Report {
    /// For people: lines without a final line break.
    pub text: String,
    /// For programs: an object (`docs/json.md`).
    pub json: Value,
    /// What failed although the rest was done; decides the exit code.
    pub failure: Option<Error>,
}

impl Report {
    /// A report without a failure.
    #[must_use]
    pub fn new(text: impl Into<String>, json: Value) -> Self {
        Self { text: text.into(), json, failure: None }
    }
}

/// A size as people read it, in powers of 1024: `734.0 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// A count with thousands separated: `200,000`.
#[must_use]
pub fn count(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// A duration: `37 ms`, `5.8 s`, `2 min 5 s`.
#[must_use]
pub fn seconds(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 {
        return format!("{} ms", duration.as_millis());
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    format!("{} min {} s", duration.as_secs() / 60, duration.as_secs() % 60)
}

/// Rows of text under a header, columns aligned by the widest entry; numbers to the right.
#[must_use]
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| text::one_line(cell).into_owned()).collect()).collect();
    let rows = rows.as_slice();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let is_number = |column: usize| {
        let mut cells = rows.iter().filter_map(|row| row.get(column)).filter(|cell| !cell.is_empty()).peekable();
        cells.peek().is_some() && cells.all(|cell| cell.chars().all(|c| c.is_ascii_digit() || ",.-".contains(c)))
    };
    let mut text = String::new();
    let header = header.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let width = width(column);
            let _ = if is_number(column) {
                write!(line, "{gap}{cell:>width$}")
            } else {
                write!(line, "{gap}{cell:<width$}")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.pop();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_numbers_stand_to_the_right() {
        let rows = vec![vec!["public.cars".into(), "2".into()], vec!["public.positions".into(), "200,000".into()]];
        assert_eq!(
            table(&["table", "rows"], &rows),
            "table                rows\npublic.cars             2\npublic.positions  200,000"
        );
    }
}
