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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(file: &str) -> Vec<(String, String)> {
        let assignments = parse(file.as_bytes()).assignments;
        assignments.into_iter().map(|(name, value)| (name, value.expose().to_owned())).collect()
    }

    /// The value of `A` in a file whose only assignment it is.
    fn value(file: &str) -> String {
        let mut values = values(file);
        assert_eq!(values.len(), 1, "{file:?}");
        let (name, value) = values.remove(0);
        assert_eq!(name, "A", "{file:?}");
        value
    }

    fn problem_lines(file: &[u8]) -> Vec<usize> {
        parse(file).problems.iter().map(|problem| problem.line).collect()
    }

    #[test]
    fn values_are_read_as_systemd_reads_them() {
        for (file, expected) in [
            ("A=", ""),
            ("A=b", "b"),
            (" \tA\t = \tb c \t\n", "b c"),
            ("A=b\r\n", "b"),
            ("A=$HOME `id` %n #c ;d", "$HOME `id` %n #c ;d"),
            ("A=b=c==", "b=c=="),
            ("# B=1\n; C=2 \\\nA=b", "b"),
            ("A='b c'", "b c"),
            ("A='b\\'", "b\\"),
            ("A=' b '\t", " b "),
            ("A='b\nc'", "b\nc"),
            ("A=\"b\r\nc\"", "b\r\nc"),
            ("A='b''c' \"d\" e 'f'", "bcde 'f'"),
            ("A=b\"c\"'d'", "b\"c\"'d'"),
            (r#"A="\"\\\`\$\n\x\'""#, "\"\\`$\\n\\x\\'"),
            ("A=\"b\\\nc\"", "bc"),
            ("A=\"b\\\r\nc\"", "b\\\r\nc"),
            (r"A=\b\\\'\ \$ ", "b\\' $"),
            ("A=b \\\n c ", "b  c"),
            ("A=b \\", "b "),
            ("A=\\\n \n", ""),
            ("A='b", "b"),
            ("A=\"b\\", "b"),
            ("A=b\nA=c\n", "c"),
        ] {
            assert_eq!(value(file), expected, "{file:?}");
        }
    }

    #[test]
    fn a_carriage_return_ends_a_line_even_behind_a_continuation() {
        assert_eq!(values("A=1\rB=2"), [("A".into(), "1".into()), ("B".into(), "2".into())]);
        assert_eq!(values("A=1\\\r\nB=2"), [("A".into(), "1".into()), ("B".into(), "2".into())]);
    }

    #[test]
    fn ignored_lines_are_reported_with_the_line_they_begin_on() {
        let file = b"A='1\n2'\r\nhello\n\n1B=1\rexport C=1\n=D\n E F=1\n\\\nG-H='\n'\nI=1\nJ";
        assert_eq!(problem_lines(file), [3, 5, 6, 7, 8, 9, 10, 13]);
        assert_eq!(parse(file).assignments.len(), 2);
        assert!(!parse(file).refused);
    }

    #[test]
    fn a_byte_order_mark_costs_the_first_line_only() {
        let parsed = parse("\u{feff}A=1\nB=2".as_bytes());
        assert_eq!(parsed.assignments.keys().collect::<Vec<_>>(), ["B"]);
        assert!(parsed.problems[0].message.contains("byte order mark"));
    }

    #[test]
    fn one_assignment_that_is_not_text_refuses_the_file() {
        let noncharacter = "A=1\nB='\u{fffe}'".as_bytes();
        for file in [noncharacter, b"A=1\nB=\xff", b"A=1\n\xffB=2", b"A=1\nB=\xed\xa0\x80", b"A=1\n\0\n=1"] {
            let parsed = parse(file);
            assert!(parsed.refused && parsed.assignments.is_empty(), "{file:?}");
            assert_eq!(problem_lines(file), [2], "{file:?}");
        }
        assert!(!parse(b"# \xff\n\xff\nA=1").refused, "only assignments are looked at");
    }

    #[test]
    fn an_unclosed_quote_is_reported_where_it_opens() {
        assert_eq!(problem_lines(b"A=1\nB='x'\nC='y'\\\n \nD=\"e'\n\nF=1\n"), [5]);
        assert!(problem_lines(b"A=\"1'\"\nB='\"'").is_empty());
    }

    #[test]
    fn a_value_too_long_for_a_program_is_left_out() {
        let longest = "x".repeat(LONGEST - 3);
        assert_eq!(value(&format!("A={longest}")), longest);
        let parsed = parse(format!("A=1\nA={longest}x").as_bytes());
        assert!(parsed.assignments.is_empty());
        assert_eq!(parsed.problems[0].line, 2);
    }

    #[test]
    fn a_secret_prints_nothing_of_itself() {
        assert_eq!(format!("{:?}", Secret::from("hunter2".to_owned())), "Secret(\"***\")");
        assert_eq!(format!("{:?}", parse(b"hunter2=hunter2").assignments["hunter2"]), "Secret(\"***\")");
    }

    /// What a person has to type for a value, in the form that can hold any.
    fn quote(value: &str) -> String {
        let escaped = |c: char| if "\"\\`$".contains(c) { vec!['\\', c] } else { vec![c] };
        format!("\"{}\"", value.chars().flat_map(escaped).collect::<String>())
    }

    /// Mostly the characters that mean something to the parser.
    fn adversarial() -> impl Strategy<Value = Vec<u8>> {
        let special = proptest::sample::select(&b"A=A='\"\\\\\n\r #;$`\t_1"[..]);
        proptest::collection::vec(prop_oneof![9 => special, 1 => any::<u8>()], 0..200)
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop_oneof![adversarial(), any::<Vec<u8>>()]) {
            let parsed = parse(&bytes);
            let lines = bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() + 1;
            prop_assert!(parsed.problems.iter().all(|problem| (1..=lines).contains(&problem.line)));
            prop_assert!(parsed.assignments.keys().all(|name| is_name(name)));
            prop_assert!(!parsed.refused || (parsed.assignments.is_empty() && !parsed.problems.is_empty()));
        }

        #[test]
        fn a_quoted_value_comes_back(value in "[^\0]*", other in "[^\0]*") {
            prop_assume!(text(value.as_bytes()).is_some() && text(other.as_bytes()).is_some());
            let file = format!("A={}\n  B = {} \r\n", quote(&value), quote(&other));
            prop_assert_eq!(values(&file), [("A".to_owned(), value), ("B".to_owned(), other)]);
            prop_assert!(parse(file.as_bytes()).problems.is_empty());
        }

        #[test]
        fn nothing_of_a_value_is_ever_printed(
            canary in "S3cr3t_[a-z0-9]{12}",
            around in proptest::collection::vec(("[ A1=\"'\\\\\n#\u{feff}]{0,6}", "[ =\"'\\\\\n\u{ffff}]{0,4}"), 1..6),
        ) {
            let file: String = around.iter().flat_map(|(before, after)| [before, &canary, after].map(String::as_str)).collect();
            let printed = format!("{:?}", parse(file.as_bytes()));
            prop_assert!(!printed.contains("S3cr3t"), "{}", printed);
        }
    }
}
