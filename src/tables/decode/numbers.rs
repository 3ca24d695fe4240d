//! Numbers: floating point and `numeric`.

use std::fmt::Write as _;

use super::field::{Checked, Field};

/// Adds the shortest text that is read as the same number, with `precision` digits before an exponent is needed.
fn float(shortest: &str, plain: &str, precision: i32, text: &mut Vec<u8>) {
    // `1.5e-7`: digits, then the power of ten.
    let (digits, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let power: i32 = exponent.parse().unwrap_or(0);
    if (-4..precision).contains(&power) {
        text.extend_from_slice(plain.as_bytes());
    } else {
        let sign = if power < 0 { '-' } else { '+' };
        text.extend_from_slice(format!("{digits}e{sign}{:02}", power.unsigned_abs()).as_bytes());
    }
}

/// Adds a text for what is no finite number, and says whether it is none.
fn special(is_nan: bool, is_infinite: bool, is_negative: bool, text: &mut Vec<u8>) -> bool {
    match (is_nan, is_infinite) {
        (true, _) => text.extend_from_slice(b"NaN"),
        (_, true) if is_negative => text.extend_from_slice(b"-Infinity"),
        (_, true) => text.extend_from_slice(b"Infinity"),
        _ => return false,
    }
    true
}

/// Adds a `real`.
pub(super) fn float4(value: f32, text: &mut Vec<u8>) {
    if !special(value.is_nan(), value.is_infinite(), value.is_sign_negative(), text) {
        float(&format!("{value:e}"), &value.to_string(), 6, text);
    }
}

/// Adds a `double precision`.
pub(super) fn float8(value: f64, text: &mut Vec<u8>) {
    if !special(value.is_nan(), value.is_infinite(), value.is_sign_negative(), text) {
        float(&format!("{value:e}"), &value.to_string(), 15, text);
    }
}

/// Adds a `numeric`: how many groups of four digits there are, the place of the first one (0 is that before the point),
/// the sign, the digits after the point that are shown, the groups. What is not finite has a sign of its own.
///
/// Source: `numeric_send` and `numeric_recv` of PostgreSQL.
pub(super) fn numeric(field: &mut Field<'_>, text: &mut Vec<u8>) -> Checked<()> {
    let (count, weight, sign, scale) = (field.i16()?, field.i16()?, field.u16()?, field.u16()?);
    let count = usize::try_from(count).map_err(|_| "is a numeric with a negative number of digits".to_owned())?;
    let finite = match sign {
        0x0000 => "",
        0x4000 => "-",
        _ if count > 0 => return Err(format!("is a numeric with digits and the sign {sign:#06x}")),
        0xc000 | 0xd000 | 0xf000 => {
            special(sign == 0xc000, true, sign == 0xf000, text);
            return Ok(());
        }
        _ => return Err(format!("is a numeric with the sign {sign:#06x}")),
    };
    if scale > 0x3fff {
        return Err(format!("is a numeric with {scale} digits after the point"));
    }
    let mut groups = Vec::new();
    for _ in 0..count {
        let group = field.u16()?;
        if group > 9999 {
            return Err(format!("is a numeric with the digits {group}"));
        }
        groups.push(group);
    }
    let weight = i32::from(weight);
    // The group of a place; beyond those that are there, all digits are zero.
    let group = |place: i32| usize::try_from(weight - place).ok().and_then(|at| groups.get(at)).copied().unwrap_or(0);
    let mut before = String::new();
    for place in (0..=weight).rev() {
        let _ = write!(before, "{:04}", group(place));
    }
    let before = before.trim_start_matches('0');
    text.extend_from_slice(finite.as_bytes());
    text.extend_from_slice(if before.is_empty() { b"0" } else { before.as_bytes() });

    let scale = usize::from(scale);
    // The last place that there is a group for, at least so far as digits are shown.
    let shown = i32::try_from(scale.div_ceil(4)).unwrap_or(0);
    let last = shown.max(i32::try_from(count).unwrap_or(0) - 1 - weight);
    let mut after = String::new();
    for place in 1..=last {
        let _ = write!(after, "{:04}", group(-place));
    }
    let (after, hidden) = after.split_at(scale);
    if hidden.bytes().any(|digit| digit != b'0') {
        return Err(format!("is a numeric with more than the {scale} digits after the point that it says"));
    }
    if scale > 0 {
        text.push(b'.');
    }
    text.extend_from_slice(after.as_bytes());
    Ok(())
}
