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

/// Text of any number of lines, for a person to read.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, &['\n', '\t'], |c| c.escape_default().to_string())
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
    fn k18_json_means_the_same_afterwards() {
        let value = serde_json::json!({ "name": "a\u{9b}\u{7f}\u{202e}\n\u{1b}ü" });
        let text = json(&value.to_string()).into_owned();
        assert!(!text.contains(acts), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
