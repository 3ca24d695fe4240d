//! Foreign text, made fit for people, the journal, the service manager and JSON.
//!
//! A server, a storage or a dump may put characters into its words that a terminal takes for commands, or that turn the
//! order of what is read. They are shown as Rust writes them: `\u{1b}`.
//!
//! Source of the sets: ECMA-48 (C0 and C1 control functions); Unicode Standard Annex #9 (explicit directional formatting).

use std::borrow::Cow;

/// Whether a character does something other than to be seen.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped<'a>(text: &'a str, kept: &[char], escape: impl Fn(char) -> String) -> Cow<'a, str> {
    let is_unfit = |c: char| acts(c) && !kept.contains(&c);
    if !text.contains(is_unfit) {
        return text.into();
    }
    text.chars().map(|c| if is_unfit(c) { escape(c) } else { c.into() }).collect::<String>().into()
}

/// A word as a shell reads it, for commands that a person copies.
#[must_use]
pub fn shell_word(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/-_.+:@".contains(letter);
    let is_word = !word.is_empty() && word.chars().all(is_plain);
    if is_word { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// Text of any number of lines, for a person to read.
///
/// No line begins with what the journal takes for a priority: `<0>` is shown on every terminal of the machine.
/// Source: `sd-daemon(3)`.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    let text = escaped(text, &['\n', '\t'], |c| c.escape_default().to_string());
    if !text.split('\n').any(has_priority) {
        return text;
    }
    let lines = text.split('\n').map(|line| match line.strip_prefix('<') {
        Some(rest) if has_priority(line) => format!("\\u{{3c}}{rest}"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n").into()
}

/// Whether a line begins as `<6>` does.
fn has_priority(line: &str) -> bool {
    let digits = line.strip_prefix('<').and_then(|rest| rest.split_once('>')).map(|(digits, _)| digits);
    digits.is_some_and(|digits| (1..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Text that has to stay on one line: a cell of a table, a line of the journal, a status.
#[must_use]
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, &[], |c| c.escape_default().to_string())
}

/// A JSON document, which a person may look at on a terminal. It means the same.
///
/// JSON itself escapes the control characters below U+0020 alone (RFC 8259, section 7).
#[must_use]
pub fn json(document: &str) -> Cow<'_, str> {
    escaped(document, &['\n'], |c| format!("\\u{:04x}", u32::from(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k18_what_a_terminal_would_act_upon_is_shown_instead() {
        assert_eq!(printable("Größe: 5\n\tµm"), "Größe: 5\n\tµm");
        assert_eq!(printable("\x1b[2J\r\u{9b}5n\x07"), "\\u{1b}[2J\\r\\u{9b}5n\\u{7}");
        assert_eq!(printable("a\u{202e}b\u{2066}c\u{2028}d"), "a\\u{202e}b\\u{2066}c\\u{2028}d");
        assert_eq!(one_line("a\n<0>b"), "a\\n<0>b");
    }

    #[test]
    fn k18_no_line_begins_with_a_priority_of_the_journal() {
        assert_eq!(printable("<0>a\n<30>b\n <0>c\n<b>d <0>"), "\\u{3c}0>a\n\\u{3c}30>b\n <0>c\n<b>d <0>");
        assert_eq!(printable("a <0>"), "a <0>");
    }

    #[test]
    fn k18_json_means_the_same_afterwards() {
        let value = serde_json::json!({ "name": "a\u{9b}\u{7f}\u{202e}\n\u{1b}ü" });
        let text = json(&value.to_string()).into_owned();
        assert!(!text.contains(acts), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
