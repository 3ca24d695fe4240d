//! The text form of COPY, and the one of arrays within it.
//!
//! Source: PostgreSQL documentation, "COPY", text format, and "Array Input and Output Syntax".

/// Adds a text as COPY writes it: what would end a row or a value, and the backslash, are escaped.
pub(super) fn escape(plain: &[u8], text: &mut Vec<u8>) {
    let mut done = 0;
    for (at, byte) in plain.iter().enumerate() {
        let letter = match byte {
            b'\\' => b'\\',
            8 => b'b',
            9 => b't',
            10 => b'n',
            11 => b'v',
            12 => b'f',
            13 => b'r',
            _ => continue,
        };
        text.extend_from_slice(&plain[done..at]);
        text.extend_from_slice(&[b'\\', letter]);
        done = at + 1;
    }
    text.extend_from_slice(&plain[done..]);
}

/// Adds an element of an array, in quotes where it would be taken for something else without.
pub(super) fn quote(plain: &[u8], text: &mut Vec<u8>) {
    let is_special =
        |byte: &u8| matches!(byte, b'"' | b'\\' | b'{' | b'}' | b',' | b' ' | b'\t' | b'\n' | b'\r' | 11 | 12);
    if !plain.is_empty() && !plain.eq_ignore_ascii_case(b"null") && !plain.iter().any(is_special) {
        text.extend_from_slice(plain);
        return;
    }
    text.push(b'"');
    for byte in plain {
        if matches!(byte, b'"' | b'\\') {
            text.push(b'\\');
        }
        text.push(*byte);
    }
    text.push(b'"');
}

/// Adds two hex digits for each byte.
pub(super) fn hex(bytes: &[u8], text: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
}
