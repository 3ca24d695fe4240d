//! One value of a type that is no array, from its binary form to its text.

use super::field::{Checked, Field};
use super::{network, numbers, text, times};

/// The types, by what their values are written like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    /// `t` or `f`.
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    /// Characters as they are: text, varchar, bpchar, json.
    Text,
    /// A label.
    Enum,
    /// A byte for the version, of which there is one, then characters.
    Jsonb,
    /// `"char"`: one byte.
    Char,
    Bytes,
    Date,
    Time,
    TimeTz,
    Timestamp,
    TimestampTz,
    Interval,
    Uuid,
    Inet,
    Cidr,
}

impl Scalar {
    /// Whether its values are characters, which are copied as they are.
    pub(super) fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Enum | Self::Jsonb)
    }

    /// The characters of such a value.
    pub(super) fn checked_text(self, value: &[u8]) -> Checked<&[u8]> {
        let mut field = Field(value);
        if self == Self::Jsonb {
            let version = field.u8()?;
            if version != 1 {
                return Err(format!("has version {version} of jsonb, of which only 1 is known"));
            }
        }
        let characters = field.rest();
        if std::str::from_utf8(characters).is_err() {
            return Err("holds bytes that are not UTF-8".to_owned());
        }
        if memchr::memchr(0, characters).is_some() {
            return Err("holds a NUL, which no text has".to_owned());
        }
        Ok(characters)
    }

    /// Adds the value's text, before anything is escaped. `version` is that of the server that sent it.
    pub(super) fn write(self, value: &[u8], version: u32, text: &mut Vec<u8>) -> Checked<()> {
        if self.is_text() {
            text.extend_from_slice(self.checked_text(value)?);
            return Ok(());
        }
        let mut field = Field(value);
        match self {
            Self::Bool => match field.u8()? {
                0 => text.push(b'f'),
                1 => text.push(b't'),
                other => return Err(format!("is {other}, neither true nor false")),
            },
            Self::Int2 => text.extend_from_slice(field.i16()?.to_string().as_bytes()),
            Self::Int4 => text.extend_from_slice(field.i32()?.to_string().as_bytes()),
            Self::Int8 => text.extend_from_slice(field.i64()?.to_string().as_bytes()),
            Self::Float4 => numbers::float4(field.f32()?, text),
            Self::Float8 => numbers::float8(field.f64()?, text),
            Self::Numeric => numbers::numeric(&mut field, text)?,
            Self::Char => char(field.u8()?, version, text)?,
            Self::Bytes => {
                text.extend_from_slice(b"\\x");
                text::hex(field.rest(), text);
            }
            Self::Date => times::date(field.i32()?, text)?,
            Self::Time => times::time(field.i64()?, text)?,
            Self::TimeTz => times::time_with_zone(field.i64()?, field.i32()?, text)?,
            Self::Timestamp => times::timestamp(field.i64()?, "", text)?,
            Self::TimestampTz => times::timestamp(field.i64()?, "+00", text)?,
            Self::Interval => times::interval(field.i64()?, field.i32()?, field.i32()?, version, text),
            Self::Uuid => uuid(field.bytes(16)?, text),
            Self::Inet => network::address(&mut field, false, text)?,
            Self::Cidr => network::address(&mut field, true, text)?,
            // Text already.
            Self::Text | Self::Enum | Self::Jsonb => {}
        }
        field.end()
    }
}

/// NUL is an empty text. From 15 on, a byte that is no character by itself is a backslash with three octal digits; 14
/// has no text for it that could be loaded, and would take that one for a backslash.
fn char(byte: u8, version: u32, text: &mut Vec<u8>) -> Checked<()> {
    match byte {
        0 => {}
        0x80.. if version < 150_000 => {
            return Err(format!("is the byte {byte:#04x}, for which PostgreSQL 14 has no text that it reads"));
        }
        0x80.. => text.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        _ => text.push(byte),
    }
    Ok(())
}

fn uuid(bytes: &[u8], text: &mut Vec<u8>) {
    for (number, byte) in bytes.iter().enumerate() {
        if matches!(number, 4 | 6 | 8 | 10) {
            text.push(b'-');
        }
        text::hex(&[*byte], text);
    }
}
