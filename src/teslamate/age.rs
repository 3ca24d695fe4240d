//! Ages: `30m`, `12h`, `1d`, `2w` as people type them, and how they are shown.

use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Reads a duration: a whole number and one of `m`, `h`, `d`, `w`.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wanted = || "a duration is a whole number with m, h, d or w behind it: 30m, 12h, 1d, 2w".to_owned();
    let unit = match text.chars().last() {
        Some('m') => MINUTE,
        Some('h') => HOUR,
        Some('d') => DAY,
        Some('w') => 7 * DAY,
        _ => return Err(wanted()),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wanted());
    }
    // A thousand centuries fit into any later arithmetic; nobody means more.
    let number = digits.parse::<u32>().map_err(|_| wanted())?;
    Ok(Duration::from_secs(u64::from(number) * unit))
}

/// Shows an age by its two largest units: `3 d 4 h`, `12 min`. A start in the future is said to be one.
#[must_use]
pub fn shown(seconds: i64) -> String {
    let Ok(seconds) = u64::try_from(seconds) else { return "starts in the future".into() };
    match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY => format!("{} h {} min", seconds / HOUR, seconds % HOUR / MINUTE),
        _ => format!("{} d {} h", seconds / DAY, seconds % DAY / HOUR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        assert_eq!(parse("30m"), Ok(Duration::from_mins(30)));
        assert_eq!(parse("12h"), Ok(Duration::from_hours(12)));
        assert_eq!(parse("1d"), Ok(Duration::from_hours(24)));
        assert_eq!(parse("2w"), Ok(Duration::from_hours(336)));
        for text in ["", "1", "d", "-1d", "1.5h", "1 d", "1y", "99999999999d", "１d", "1dd"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn ages_show_their_two_largest_units() {
        assert_eq!(shown(5), "5 s");
        assert_eq!(shown(3599), "59 min");
        assert_eq!(shown(3 * 3600 + 120), "3 h 2 min");
        assert_eq!(shown(3 * 86_400 + 4 * 3600), "3 d 4 h");
        assert_eq!(shown(-5), "starts in the future");
    }
}
