//! Splits the text of a dump into statements, comments, meta-commands and COPY data.
//!
//! A scanner only tells the pieces apart; what they mean is its [`Visitor`]'s business. COPY data streams through,
//! whatever its size; a statement is held whole. Strings, quoted identifiers, dollar quotes, nested comments and the
//! bodies of SQL-standard functions (`BEGIN ATOMIC … END`) are recognised, so that a line within one is never taken
//! for anything else.
//!
//! Source: PostgreSQL documentation, "Lexical Structure" and "COPY", text format.

use memchr::memchr;

use super::text::{Cleaner, Flaw};

mod aside;
mod characters;
mod charset;
mod outline;
mod statement;
mod string;
mod words;

pub use charset::{Charset, bytes_of, runs, spelled};
use outline::Outline;
pub use outline::{GROUP, is_named};
pub use statement::{STRING, Statement, Visitor, declared_encoding};
pub use string::{first_string, quoted};

/// A statement larger than this cannot be held, by the server neither.
const STATEMENT_LIMIT: usize = 1 << 30;

/// A comment is kept up to this many bytes; a meta-command or the tag of a dollar quote that is longer is none that a dump has.
const ASIDE_LIMIT: usize = 64 * 1024;

/// How many words of a statement are kept: enough for every question that is asked about one. A function's language
/// stands after its arguments, so they count.
pub const WORDS: usize = 4000;

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Between or within statements.
    Plain,
    /// In `'…'`.
    Quote { escapes: bool, after_backslash: bool },
    /// After a quote that ends a string, or is the first of two that stand for one.
    QuoteEnd { escapes: bool },
    /// In `"…"`.
    Identifier,
    /// After a double quote that ends a name, or is the first of two that stand for one.
    IdentifierEnd,
    /// After `$`, in what may become the tag of a dollar quote.
    DollarTag(Vec<u8>),
    /// In `$tag$…$tag$`; the delimiter.
    Dollar(Vec<u8>),
    /// In `--`; between statements or not.
    LineComment { between: bool },
    /// In `/* … */`, so deep.
    BlockComment(u32),
    /// In a meta-command.
    Meta,
    /// After `COPY … FROM stdin;`, before its line ends.
    CopyHead,
    /// In COPY data.
    Copy,
}

/// Ends COPY data, alone on a line. A row never begins so, since its backslashes are doubled.
const END_OF_DATA: &[u8] = b"\\.\n";

/// Splits a text that arrives in pieces.
#[derive(Debug)]
pub struct Scanner {
    cleaner: Cleaner,
    /// The text has said which encoding it has.
    declared: bool,
    state: State,
    line: u64,
    /// The statement so far.
    held: Vec<u8>,
    held_line: u64,
    /// The comment or meta-command so far.
    aside: Vec<u8>,
    aside_line: u64,
    words: Vec<String>,
    outline: Outline,
    word: Vec<u8>,
    parentheses: u32,
    /// Parentheses that were opened in the statement, and how deep they were at most.
    opened: u64,
    deepest: u32,
    /// The first word among the values of an INSERT that is no literal.
    no_literal: Option<String>,
    /// How deep in `BEGIN ATOMIC … END`.
    atomic: u32,
    groups: u64,
    in_values: bool,
    /// `standard_conforming_strings` is off: every string has backslash escapes.
    escapes: bool,
    rows: u64,
    at_line_start: bool,
    /// The begin of a line of COPY data that may become [`END_OF_DATA`] with the next piece.
    line_head: Vec<u8>,
    /// The encoding that the text has declared.
    charset: Charset,
    /// The bytes of the character at hand, where one may end with bytes of ASCII: how many were seen, and how many there are.
    character: (usize, usize),
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            cleaner: Cleaner::default(),
            declared: false,
            state: State::Plain,
            line: 1,
            held: Vec::new(),
            held_line: 1,
            aside: Vec::new(),
            aside_line: 1,
            words: Vec::new(),
            outline: Outline::default(),
            word: Vec::new(),
            parentheses: 0,
            opened: 0,
            deepest: 0,
            no_literal: None,
            atomic: 0,
            groups: 0,
            in_values: false,
            escapes: false,
            rows: 0,
            at_line_start: true,
            line_head: Vec::new(),
            charset: Charset::default(),
            character: (0, 0),
        }
    }
}

impl Scanner {
    /// The first line that is not UTF-8, where the text declares that its encoding is not known.
    #[must_use]
    pub fn not_utf8(&self) -> Option<u64> {
        self.cleaner.not_utf8()
    }

    /// Scans the next piece.
    pub fn feed(&mut self, mut piece: &[u8], visitor: &mut impl Visitor) -> Result<(), Flaw> {
        while !piece.is_empty() {
            // The line after the one that declares an encoding may be the first that is not UTF-8.
            let end = if self.declared { None } else { memchr(b'\n', piece) };
            let (now, later) = piece.split_at(end.map_or(piece.len(), |end| end + 1));
            let clean = self.cleaner.clean(now)?;
            self.scan(&clean, visitor)?;
            piece = later;
        }
        Ok(())
    }

    /// The end of the text. Whatever is still open was cut off.
    pub fn finish(&mut self, visitor: &mut impl Visitor) -> Result<(), Flaw> {
        let rest = self.cleaner.finish()?;
        self.scan(&rest, visitor)?;
        if matches!(self.state, State::Meta | State::LineComment { .. }) {
            self.scan_text(b"\n", visitor)?;
        }
        let within = match &self.state {
            State::Copy | State::CopyHead => "the rows of a COPY",
            State::Quote { .. } | State::Dollar(_) | State::Identifier => "a string",
            State::BlockComment(_) => "a comment",
            _ if self.held.is_empty() => return Ok(()),
            _ => "a statement",
        };
        Err(Flaw::damaged(self.line, format!("is the last one: the text ends within {within}")))
    }

    fn scan(&mut self, mut bytes: &[u8], visitor: &mut impl Visitor) -> Result<(), Flaw> {
        while !bytes.is_empty() {
            bytes = if self.state == State::Copy {
                self.scan_data(bytes, visitor)?
            } else {
                self.scan_text(bytes, visitor)?
            };
        }
        Ok(())
    }

    /// COPY data is only searched for the ends of its lines, which is what makes a large dump quick to read.
    fn scan_data<'a>(&mut self, bytes: &'a [u8], visitor: &mut impl Visitor) -> Result<&'a [u8], Flaw> {
        let first_line = self.line;
        let mut at = 0;
        loop {
            if self.at_line_start {
                let wanted = &END_OF_DATA[self.line_head.len()..];
                let there = &bytes[at..bytes.len().min(at + wanted.len())];
                if wanted.starts_with(there) {
                    visitor.data(&bytes[..at], first_line)?;
                    if there.len() < wanted.len() {
                        self.line_head.extend_from_slice(there);
                        return Ok(&[]);
                    }
                    self.line_head.clear();
                    self.line += 1;
                    self.state = State::Plain;
                    visitor.data_end(std::mem::take(&mut self.rows))?;
                    return Ok(&bytes[at + there.len()..]);
                }
                if !self.line_head.is_empty() {
                    // Only at the begin of a piece, so nothing of it was handed over yet.
                    let head = std::mem::take(&mut self.line_head);
                    visitor.data(&head, first_line)?;
                }
                self.at_line_start = false;
            }
            let Some(end) = memchr(b'\n', &bytes[at..]) else {
                visitor.data(bytes, first_line)?;
                return Ok(&[]);
            };
            at += end + 1;
            self.rows += 1;
            self.line += 1;
            self.at_line_start = true;
        }
    }

    /// Text is looked at byte by byte, until it ends or COPY data begins.
    fn scan_text<'a>(&mut self, bytes: &'a [u8], visitor: &mut impl Visitor) -> Result<&'a [u8], Flaw> {
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            if self.is_rest_of_character(byte) {
                self.take_verbatim(byte)?;
                self.line += u64::from(byte == b'\n');
                at += 1;
            } else if self.step(byte, visitor)? {
                if byte == b'\n' {
                    self.line += 1;
                }
                at += 1;
            }
            if self.state == State::Copy {
                return Ok(&bytes[at..]);
            }
        }
        Ok(&[])
    }

    /// Takes one byte, or only changes the state if the byte belongs to the next one (`false`).
    fn step(&mut self, byte: u8, visitor: &mut impl Visitor) -> Result<bool, Flaw> {
        match &mut self.state {
            State::Plain => return self.plain(byte, visitor).map(|()| true),
            State::Quote { escapes, after_backslash } => {
                let escapes = *escapes;
                if *after_backslash {
                    *after_backslash = false;
                } else if byte == b'\\' && escapes {
                    *after_backslash = true;
                } else if byte == b'\'' {
                    self.state = State::QuoteEnd { escapes };
                }
                self.hold(byte)?;
            }
            State::QuoteEnd { escapes } => {
                let escapes = *escapes;
                if byte != b'\'' {
                    self.state = State::Plain;
                    return Ok(false);
                }
                self.state = State::Quote { escapes, after_backslash: false };
                self.hold(byte)?;
            }
            State::Identifier => {
                self.hold(byte)?;
                self.word.push(byte);
                if byte == b'"' {
                    self.state = State::IdentifierEnd;
                }
            }
            State::IdentifierEnd => {
                if byte != b'"' {
                    self.state = State::Plain;
                    self.push_word(false);
                    return Ok(false);
                }
                self.state = State::Identifier;
                self.hold(byte)?;
                self.word.push(byte);
            }
            State::DollarTag(tag) => {
                let starts = tag.len() == 1;
                if byte == b'$' {
                    let mut delimiter = std::mem::take(tag);
                    delimiter.push(byte);
                    self.state = State::Dollar(delimiter);
                } else if is_word(byte) && !(starts && byte.is_ascii_digit()) {
                    if tag.len() >= ASIDE_LIMIT {
                        return Err(Flaw::foreign(self.line, "holds a dollar quote with an endless tag"));
                    }
                    tag.push(byte);
                } else {
                    self.state = State::Plain;
                    return Ok(false);
                }
                self.hold(byte)?;
            }
            State::Dollar(delimiter) => {
                let ends = byte == b'$' && {
                    let before = &delimiter[..delimiter.len() - 1];
                    self.held.ends_with(before)
                };
                if ends {
                    self.state = State::Plain;
                }
                self.hold(byte)?;
            }
            State::LineComment { .. } | State::BlockComment(_) | State::Meta => self.aside(byte, visitor)?,
            State::CopyHead => {
                if byte == b'\n' {
                    self.state = State::Copy;
                    self.at_line_start = true;
                } else if !byte.is_ascii_whitespace() {
                    return Err(Flaw::damaged(self.line, "holds text between a COPY and its rows"));
                }
            }
            // The caller does not come here with COPY data.
            State::Copy => return Ok(false),
        }
        Ok(true)
    }

    fn plain(&mut self, byte: u8, visitor: &mut impl Visitor) -> Result<(), Flaw> {
        if is_word(byte) && (byte != b'$' || !self.word.is_empty()) {
            self.begin();
            self.word.push(byte);
            return self.hold(byte);
        }
        let string_escapes = self.escapes || self.word.eq_ignore_ascii_case(b"e");
        self.push_word(true);
        self.outline.pass(byte, self.parentheses);
        let last = self.held.last().copied();
        match byte {
            b'\'' => {
                self.begin();
                self.state = State::Quote { escapes: string_escapes, after_backslash: false };
            }
            b'"' => {
                self.begin();
                self.word.push(byte);
                self.state = State::Identifier;
            }
            b'$' => {
                self.begin();
                self.state = State::DollarTag(vec![b'$']);
            }
            b'-' if last == Some(b'-') => {
                self.held.pop();
                self.aside_line = self.line;
                self.state = State::LineComment { between: self.held.is_empty() };
                return Ok(());
            }
            b'*' if last == Some(b'/') => {
                self.held.pop();
                self.state = State::BlockComment(1);
                return Ok(());
            }
            b'\\' if self.held.is_empty() => {
                self.aside_line = self.line;
                self.aside.push(byte);
                self.state = State::Meta;
                return Ok(());
            }
            b'\\' => {
                let what = format!(
                    "begins a statement in which line {} is a meta-command of psql: one of the two is not of pg_dump",
                    self.line
                );
                return Err(Flaw::foreign(self.held_line, what));
            }
            b'(' => {
                if self.parentheses == 0 && self.in_values {
                    self.groups += 1;
                }
                self.parentheses = self.parentheses.saturating_add(1);
                self.opened += 1;
                self.deepest = self.deepest.max(self.parentheses);
            }
            b')' => self.parentheses = self.parentheses.saturating_sub(1),
            b':' => self.refuse_message()?,
            b';' if self.parentheses == 0 && self.atomic == 0 => {
                self.hold(byte)?;
                return self.end_statement(visitor);
            }
            byte if byte.is_ascii_whitespace() && self.held.is_empty() => return Ok(()),
            _ => self.begin(),
        }
        self.hold(byte)
    }

    /// Remembers where a statement begins.
    fn begin(&mut self) {
        if self.held.is_empty() {
            self.held_line = self.line;
        }
    }

    fn hold(&mut self, byte: u8) -> Result<(), Flaw> {
        if self.held.len() >= STATEMENT_LIMIT {
            return Err(Flaw::foreign(self.held_line, "begins a statement of more than 1 GiB"));
        }
        self.held.push(byte);
        Ok(())
    }

    /// Text that a program wrote to the wrong stream begins with the program's name and a colon.
    fn refuse_message(&self) -> Result<(), Flaw> {
        let program = match self.held.as_slice() {
            b"pg_dump" | b"pg_dumpall" | b"pg_restore" | b"psql" => String::from_utf8_lossy(&self.held),
            b"ERROR" | b"FATAL" => "PostgreSQL".into(),
            _ => return Ok(()),
        };
        Err(Flaw::foreign(self.held_line, format!("is not SQL: it is a message of {program}")))
    }

    fn end_statement(&mut self, visitor: &mut impl Visitor) -> Result<(), Flaw> {
        let text = std::mem::take(&mut self.held);
        let words = std::mem::take(&mut self.words);
        let outline = self.outline.take();
        let statement = Statement {
            text: &text,
            line: self.held_line,
            words: &words,
            outline: &outline,
            groups: self.groups,
            opened: std::mem::take(&mut self.opened),
            deepest: std::mem::take(&mut self.deepest),
            no_literal: self.no_literal.take(),
            charset: self.charset,
            escapes: self.escapes,
        };
        if statement.begins(&["SET", "STANDARD_CONFORMING_STRINGS"]) {
            self.escapes = words.last().is_some_and(|value| value == "OFF");
        }
        if let Some(encoding) = statement.encoding() {
            self.declared = true;
            self.charset = Charset::of(&encoding);
            match &*encoding {
                "UTF8" => {}
                "SQL_ASCII" => self.cleaner.accept_unknown_encoding(),
                _ => self.cleaner.accept_any_encoding(),
            }
        }
        self.groups = 0;
        self.in_values = false;
        if statement.is_copy() {
            self.state = State::CopyHead;
        }
        // An empty statement (a lone semicolon) says nothing.
        if text.len() > 1 { visitor.statement(&statement) } else { Ok(()) }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

#[cfg(test)]
mod tests;
