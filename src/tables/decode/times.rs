//! Dates, times and intervals, as the styles `ISO` and `postgres` write them.
//!
//! Days are counted from 2000-01-01, times in microseconds; the calendar is the Gregorian one, also before there was one.
//!
//! Source: PostgreSQL documentation, "Date/Time Output" and "Interval Output"; the limits are those of
//! `datatype/timestamp.h`.

use std::fmt::Write as _;

use super::field::Checked;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
const DAY: i64 = 24 * HOUR;

/// 4714-11-24 BC, the first day.
const FIRST_DAY: i64 = -2_451_545;
/// The day after 5874897-12-31.
const END_OF_DATES: i64 = 2_145_031_949;
/// 294277-01-01.
const END_OF_TIMESTAMPS: i64 = 9_223_371_331_200_000_000;

/// From this version on, an interval can be infinite.
const INFINITE_INTERVALS: u32 = 170_000;

/// Year (0 is 1 BC), month and day of a day that is counted from 2000-01-01.
///
/// A year is taken to begin in March, so that a leap day is its last one and months before it do not depend on it.
fn civil(day: i64) -> (i64, i64, i64) {
    // From 0000-03-01.
    let day = day + 730_425;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + later, month, of_month)
}

/// A date without its era, and what has to be written at the very end for that.
fn calendar(day: i64) -> (String, &'static str) {
    let (year, month, day) = civil(day);
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    (format!("{year:04}-{month:02}-{day:02}"), era)
}

/// `12:34:56.789`
fn clock(microseconds: i64) -> String {
    let (hours, rest) = (microseconds / HOUR, microseconds % HOUR);
    let (minutes, rest) = (rest / (60 * SECOND), rest % (60 * SECOND));
    let mut text = format!("{hours:02}:{minutes:02}:{:02}", rest / SECOND);
    text.push_str(&fraction(rest % SECOND));
    text
}

/// `.5`, or nothing.
fn fraction(microseconds: i64) -> String {
    let digits = format!(".{microseconds:06}");
    if microseconds == 0 { String::new() } else { digits.trim_end_matches('0').to_owned() }
}

/// Adds a `date`.
pub(super) fn date(day: i32, text: &mut Vec<u8>) -> Checked<()> {
    let written = match day {
        i32::MIN => "-infinity".to_owned(),
        i32::MAX => "infinity".to_owned(),
        _ if (FIRST_DAY..END_OF_DATES).contains(&i64::from(day)) => {
            let (date, era) = calendar(day.into());
            date + era
        }
        _ => return Err(format!("is a date outside of the calendar ({day} days after 2000-01-01)")),
    };
    text.extend_from_slice(written.as_bytes());
    Ok(())
}

/// Adds a `timestamp`, with the zone that its time is in.
pub(super) fn timestamp(microseconds: i64, zone: &str, text: &mut Vec<u8>) -> Checked<()> {
    let written = match microseconds {
        i64::MIN => "-infinity".to_owned(),
        i64::MAX => "infinity".to_owned(),
        _ if (FIRST_DAY * DAY..END_OF_TIMESTAMPS).contains(&microseconds) => {
            let (date, era) = calendar(microseconds.div_euclid(DAY));
            format!("{date} {}{zone}{era}", clock(microseconds.rem_euclid(DAY)))
        }
        _ => return Err(format!("is a time outside of the calendar ({microseconds} µs after 2000-01-01)")),
    };
    text.extend_from_slice(written.as_bytes());
    Ok(())
}

/// Adds a `time`; 24:00:00 is one.
pub(super) fn time(microseconds: i64, text: &mut Vec<u8>) -> Checked<()> {
    if !(0..=DAY).contains(&microseconds) {
        return Err(format!("is no time of a day ({microseconds} µs)"));
    }
    text.extend_from_slice(clock(microseconds).as_bytes());
    Ok(())
}

/// Adds a `timetz`. The zone is counted in seconds to the west, and written to the east.
pub(super) fn time_with_zone(microseconds: i64, west: i32, text: &mut Vec<u8>) -> Checked<()> {
    if !(-16 * 3600 + 1..16 * 3600).contains(&west) {
        return Err(format!("is a time in no zone ({west} s)"));
    }
    time(microseconds, text)?;
    let (hours, minutes, seconds) = (west.abs() / 3600, west.abs() / 60 % 60, west.abs() % 60);
    let mut zone = format!("{}{hours:02}", if west > 0 { '-' } else { '+' });
    if minutes != 0 || seconds != 0 {
        let _ = write!(zone, ":{minutes:02}");
    }
    if seconds != 0 {
        let _ = write!(zone, ":{seconds:02}");
    }
    text.extend_from_slice(zone.as_bytes());
    Ok(())
}

/// Adds an `interval`. Its three parts have signs of their own; one after a negative part is written with its plus.
pub(super) fn interval(microseconds: i64, days: i32, months: i32, version: u32, text: &mut Vec<u8>) {
    if version >= INFINITE_INTERVALS {
        if (microseconds, days, months) == (i64::MAX, i32::MAX, i32::MAX) {
            return text.extend_from_slice(b"infinity");
        }
        if (microseconds, days, months) == (i64::MIN, i32::MIN, i32::MIN) {
            return text.extend_from_slice(b"-infinity");
        }
    }
    let mut written = String::new();
    let mut after_negative = false;
    for (number, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if number != 0 {
            let space = if written.is_empty() { "" } else { " " };
            let plus = if after_negative && number > 0 { "+" } else { "" };
            let plural = if number == 1 { "" } else { "s" };
            let _ = write!(written, "{space}{plus}{number} {unit}{plural}");
            after_negative = number < 0;
        }
    }
    let space = if written.is_empty() { "" } else { " " };
    if microseconds == i64::MIN {
        // The server writes hours here that it does not read.
        let _ = write!(written, "{space}{microseconds} us");
    } else if microseconds != 0 || written.is_empty() {
        let sign = match (microseconds < 0, after_negative) {
            (true, _) => "-",
            (false, true) => "+",
            (false, false) => "",
        };
        let _ = write!(written, "{space}{sign}{}", clock(microseconds.abs()));
    }
    text.extend_from_slice(written.as_bytes());
}
