//! systemd's `EnvironmentFile=` syntax, read as data and never run.
//!
//! The same file feeds the application's unit, so a value must mean here exactly what it means there: a password with
//! `$`, `'` or a space in it must not work in one and fail in the other. In: the bytes of the file. Out: the variables,
//! and what systemd would ignore or refuse, by line and without the text, which may be a secret. Not here: reading the
//! file and its permissions (`inputs.rs`), what the variables mean (`resolve.rs`).
//!
//! What surprises: quotes count only at the beginning of a value or after a closing quote (`A=b"c"` keeps both quotes);
//! nothing is expanded; there are no comments behind a value; a carriage return ends a line; inside double quotes a
//! backslash stays unless ``"``, ``\``, `` ` ``, `$` or a newline follows; one value that is not UTF-8 refuses the file.
//!
//! Source: systemd.exec(5), "EnvironmentFile="; compared with the real one in `tests/integration/secrets_systemd.rs`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// A text that must not be seen: it is wiped when dropped and cannot be printed, only [exposed](Secret::expose).
#[derive(Clone, PartialEq, Eq, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Always the same: its length would be a hint.
        f.write_str("Secret(\"***\")")
    }
}

/// What a file says.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The variables. The last assignment of a name wins. Empty if the file is [refused](Parsed::refused).
    pub assignments: BTreeMap<String, Secret>,
    /// What systemd would ignore or refuse, and a quote that is never closed, in the order of the file.
    pub problems: Vec<Problem>,
    /// Whether systemd would refuse the whole file, so that a unit that names it does not start.
    pub refused: bool,
}

impl fmt::Debug for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names stay out as well: the second line of a value without quotes, such as a key, is read as a name.
        f.debug_struct("Parsed")
            .field("assignments", &self.assignments.len())
            .field("problems", &self.problems)
            .field("refused", &self.refused)
            .finish()
    }
}

/// A place in the file that does not do what its author meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from 1, on which the assignment or the quote begins.
    pub line: usize,
    /// What is wrong, without any text of the file.
    pub message: String,
}

/// Reads a file as systemd does (systemd.exec(5), `EnvironmentFile=`; since systemd 254, where a backslash no longer
/// continues a comment). Any bytes are accepted: what is wrong with them is in [`Parsed::problems`].
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut parser = Parser::new(bytes.len());
    let mut previous = 0;
    for &byte in bytes {
        if byte == 0 {
            parser.refuse(parser.line, "a NUL byte (is this UTF-16?): systemd refuses the whole file");
            // What follows is hardly text: every further line would be one more problem with the same cause.
            parser.state = State::Start;
            break;
        }
        parser.step(byte);
        // As editors count: `\r\n` is one end of a line.
        if byte == b'\r' || (byte == b'\n' && previous != b'\r') {
            parser.line += 1;
        }
        previous = byte;
    }
    parser.finish()
}

/// The longest `NAME=value` that Linux hands to a program, with its closing NUL byte (`MAX_ARG_STRLEN`).
const LONGEST: usize = 128 * 1024;

/// Where in the syntax the next byte is read.
#[derive(Clone, Copy)]
enum State {
    /// Before a name, skipping blanks and empty lines.
    Start,
    Comment,
    Name,
    /// After `=` or a closing quote: blanks are skipped, a quote opens.
    Gap,
    /// Outside quotes, where a quote is a character like any other.
    Bare,
    BareEscape,
    Single,
    Double,
    DoubleEscape,
}

/// Bytes of a name or a value, wiped when dropped. Blanks at the end count only once something follows them.
struct Text {
    bytes: Zeroizing<Vec<u8>>,
    end: usize,
}

impl Text {
    /// More than `capacity` is never pushed: growing would leave a copy behind that is not wiped.
    fn new(capacity: usize) -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(capacity)), end: 0 }
    }

    fn push(&mut self, byte: u8) {
        self.bytes.push(byte);
        self.keep();
    }

    fn push_blank(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// Whatever is there now is no longer at the end.
    fn keep(&mut self) {
        self.end = self.bytes.len();
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.end = 0;
    }

    fn trimmed(&self) -> &[u8] {
        &self.bytes[..self.end]
    }
}

struct Parser {
    state: State,
    name: Text,
    value: Text,
    /// The line being read, and those on which the current assignment and its last quote began.
    line: usize,
    begun: usize,
    quoted: usize,
    parsed: Parsed,
}

impl Parser {
    fn new(size: usize) -> Self {
        let (name, value) = (Text::new(size), Text::new(size));
        Self { state: State::Start, name, value, line: 1, begun: 1, quoted: 1, parsed: Parsed::default() }
    }

    fn step(&mut self, byte: u8) {
        let newline = matches!(byte, b'\n' | b'\r');
        let blank = matches!(byte, b' ' | b'\t');
        self.state = match self.state {
            State::Start if newline || blank => State::Start,
            State::Start if matches!(byte, b'#' | b';') => State::Comment,
            State::Start => {
                self.begun = self.line;
                self.name.push(byte);
                State::Name
            }
            State::Comment if newline => State::Start,
            State::Comment => State::Comment,
            State::Name if newline => self.ignore_line(),
            State::Name if byte == b'=' => State::Gap,
            State::Name if blank => {
                self.name.push_blank(byte);
                State::Name
            }
            State::Name => {
                self.name.push(byte);
                State::Name
            }
            State::Gap | State::Bare if newline => self.assign(),
            State::Gap if blank => State::Gap,
            State::Gap if matches!(byte, b'\'' | b'"') => {
                self.quoted = self.line;
                if byte == b'"' { State::Double } else { State::Single }
            }
            State::Gap | State::Bare if byte == b'\\' => {
                // Blanks before a continued line are inside the value.
                self.value.keep();
                State::BareEscape
            }
            State::Bare if blank => {
                self.value.push_blank(byte);
                State::Bare
            }
            State::BareEscape if newline => State::Bare,
            State::Gap | State::Bare | State::BareEscape => {
                self.value.push(byte);
                State::Bare
            }
            State::Single if byte == b'\'' => State::Gap,
            State::Double if byte == b'"' => State::Gap,
            State::Double if byte == b'\\' => State::DoubleEscape,
            State::DoubleEscape if byte == b'\n' => State::Double,
            State::DoubleEscape => {
                if !matches!(byte, b'"' | b'\\' | b'`' | b'$') {
                    self.value.push(b'\\');
                }
                self.value.push(byte);
                State::Double
            }
            State::Single | State::Double => {
                self.value.push(byte);
                self.state
            }
        };
    }

    /// The end of the file ends whatever it meets, as a newline would.
    fn finish(mut self) -> Parsed {
        if matches!(self.state, State::Single | State::Double | State::DoubleEscape) {
            self.report(self.quoted, "this quote is never closed: everything after it is part of the value");
        }
        match self.state {
            State::Start | State::Comment => {}
            State::Name => _ = self.ignore_line(),
            _ => _ = self.assign(),
        }
        if self.parsed.refused {
            self.parsed.assignments.clear();
        }
        self.parsed
    }

    fn ignore_line(&mut self) -> State {
        self.report(self.begun, "no `=` after the name: systemd ignores this line");
        self.name.clear();
        State::Start
    }

    fn assign(&mut self) -> State {
        match (text(self.name.trimmed()), text(self.value.trimmed())) {
            (Some(name), Some(value)) if is_name(name) => {
                if name.len() + value.len() + 2 > LONGEST {
                    // The last assignment wins, also with a value that no program can be given.
                    self.parsed.assignments.remove(name);
                    self.report(self.begun, "longer than Linux hands to a program (128 KiB): ignored");
                } else {
                    self.parsed.assignments.insert(name.to_owned(), Secret(value.to_owned()));
                }
            }
            (Some(name), Some(_)) => self.report(self.begun, wrong_name(name)),
            _ => self.refuse(self.begun, "not valid UTF-8 text: systemd refuses the whole file"),
        }
        self.name.clear();
        self.value.clear();
        State::Start
    }

    fn report(&mut self, line: usize, message: &str) {
        self.parsed.problems.push(Problem { line, message: message.to_owned() });
    }

    fn refuse(&mut self, line: usize, message: &str) {
        self.parsed.refused = true;
        self.report(line, message);
    }
}

/// The bytes as text, if systemd takes them for text: it refuses Unicode's noncharacters, which Rust accepts.
fn text(bytes: &[u8]) -> Option<&str> {
    let noncharacter = |c: char| matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe;
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains(noncharacter))
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Why, in the words that lead to the mistake. The name itself may be a piece of a secret.
fn wrong_name(name: &str) -> &'static str {
    if name.starts_with('\u{feff}') {
        "a byte order mark before the name: systemd ignores this line"
    } else if name.starts_with("export ") {
        "`export` belongs to shells: systemd ignores this line"
    } else {
        "not a name of letters, digits and `_` that begins without a digit: systemd ignores this line"
    }
}

#[cfg(test)]
mod tests;
