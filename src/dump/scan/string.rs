//! Strings in the text of a statement.

use std::iter::Peekable;
use std::str::Chars;

/// The first string of a statement, `'…'` or `E'…'`, as the server reads it. With `escapes`, a backslash escapes in each of
/// them (`standard_conforming_strings` is off).
#[must_use]
pub fn first_string(text: &str, escapes: bool) -> Option<String> {
    let mut characters = text.chars().peekable();
    let mut word = String::new();
    while let Some(character) = characters.next() {
        match character {
            '\'' => return Some(quoted(&mut characters, '\'', escapes || word.eq_ignore_ascii_case("e"))),
            '"' => drop(quoted(&mut characters, '"', false)),
            _ => {}
        }
        if character.is_alphanumeric() || character == '_' {
            word.push(character);
        } else {
            word.clear();
        }
    }
    None
}

/// The text up to the closing quote, without the quotes that are doubled in it.
pub fn quoted(characters: &mut Peekable<Chars<'_>>, quote: char, escapes: bool) -> String {
    let mut text = String::new();
    while let Some(character) = characters.next() {
        if character == '\\' && escapes {
            match characters.next() {
                Some('n') => text.push('\n'),
                Some('r') => text.push('\r'),
                Some('t') => text.push('\t'),
                other => text.extend(other),
            }
        } else if character != quote || characters.next_if_eq(&quote).is_some() {
            text.push(character);
        } else {
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read_as_the_server_reads_them() {
        for (text, escapes, expected) in [
            ("SET SESSION AUTHORIZATION 'o''brien';", false, "o'brien"),
            ("SET SESSION AUTHORIZATION '''';", false, "'"),
            ("SET client_encoding = 'LATIN1';", false, "LATIN1"),
            ("SET x = 'a\\b';", false, "a\\b"),
            ("SET x = 'a\\\\b\\'c';", true, "a\\b'c"),
            ("SET x = E'a\\\\b''c\\'d';", false, "a\\b'c'd"),
            ("SET the'a\\';", false, "a\\"),
            ("SET \"it's\" = 'a';", false, "a"),
            ("SELECT pg_catalog.setval('public.\"o''b\"\"x\"', 1);", false, "public.\"o'b\"\"x\""),
        ] {
            assert_eq!(first_string(text, escapes).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(first_string("SET SESSION AUTHORIZATION \"it's\";", false), None);
    }
}
