//! The names of the databases that a restore makes: `<name>_restore_<time>` and `<name>_before_<time>`.
//!
//! The time is UTC to the second, so that names sort by age. PostgreSQL cuts names at 63 bytes; a long name is cut
//! here instead, with a checksum of the whole, so that two long names never share one.

use chrono::{DateTime, Duration, NaiveDateTime, Utc};
use sha2::{Digest, Sha256};

/// `20261121_071500`
const TIME_FORMAT: &str = "%Y%m%d_%H%M%S";
const TIME_LENGTH: usize = 15;

/// Bytes that are left for the name itself, with the longest of the two words.
const NAME_LIMIT: usize = 63 - "_restore_".len() - TIME_LENGTH;

/// What a database was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is being loaded.
    Staging,
    /// It was replaced.
    Previous,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Self::Staging => "_restore_",
            Self::Previous => "_before_",
        }
    }
}

fn prefix(name: &str, role: Role) -> String {
    if name.len() <= NAME_LIMIT {
        return format!("{name}{}", role.word());
    }
    let checksum = &crate::dump::hex(Sha256::new_with_prefix(name))[..8];
    let mut end = NAME_LIMIT - 9;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}~{checksum}{}", &name[..end], role.word())
}

/// A name for a database of this role that is newer than every one in `taken`: two in the same second, or a clock
/// that was set back, must not make an undo bring back the wrong one.
#[must_use]
pub fn fresh(name: &str, role: Role, now: DateTime<Utc>, taken: &[String]) -> String {
    let newest = taken.iter().filter_map(|candidate| time_of(candidate, name, role)).max();
    let now = now.naive_utc();
    let time = newest.map_or(now, |newest| now.max(newest + Duration::seconds(1)));
    format!("{}{}", prefix(name, role), time.format(TIME_FORMAT))
}

/// The time in a name of this role; `None` for every other name.
#[must_use]
pub fn time_of(candidate: &str, name: &str, role: Role) -> Option<NaiveDateTime> {
    parsed(candidate.strip_prefix(&prefix(name, role))?)
}

fn parsed(time: &str) -> Option<NaiveDateTime> {
    let parsed = NaiveDateTime::parse_from_str(time, TIME_FORMAT).ok()?;
    // The parser is lenient about leading zeros; our own names are not.
    (parsed.format(TIME_FORMAT).to_string() == time).then_some(parsed)
}

/// Whether a name is one that a restore gives, of any database: nobody else should give it.
#[must_use]
pub fn is_reserved(candidate: &str) -> bool {
    [Role::Staging, Role::Previous]
        .iter()
        .any(|role| candidate.rsplit_once(role.word()).is_some_and(|(_, time)| parsed(time).is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noon() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).unwrap()
    }

    #[test]
    fn names_are_found_again_and_no_others() {
        let name = fresh("teslamate", Role::Previous, noon(), &[]);
        assert_eq!(name, "teslamate_before_20231114_221320");
        assert!(time_of(&name, "teslamate", Role::Previous).is_some());
        for other in [
            "teslamate_before_monday",
            "teslamate_before_20231114_2213200",
            "teslamate_before_2023111_221320",
            "teslamate_before_",
            "teslamate2_before_20231114_221320",
        ] {
            assert!(time_of(other, "teslamate", Role::Previous).is_none(), "{other}");
        }
        assert!(time_of(&name, "teslamate", Role::Staging).is_none());
        for reserved in [name.as_str(), "x_restore_20260101_000000", "a_before_b_before_20260101_000000"] {
            assert!(is_reserved(reserved), "{reserved}");
        }
        for free in ["teslamate", "old_teslamate", "teslamate_before_christmas", "x_restore_2026", "a_before_~"] {
            assert!(!is_reserved(free), "{free}");
        }
    }

    #[test]
    fn a_new_name_is_the_newest_even_if_the_clock_was_set_back() {
        let first = fresh("t", Role::Previous, noon(), &[]);
        let second = fresh("t", Role::Previous, noon() - Duration::days(3), std::slice::from_ref(&first));
        assert_eq!(second, "t_before_20231114_221321");
        assert!(time_of(&first, "t", Role::Previous) < time_of(&second, "t", Role::Previous));
    }

    #[test]
    fn long_names_fit_and_stay_apart() {
        let (one, other) = ("ä".repeat(31), format!("{}x", "ä".repeat(31)));
        let names = [one.as_str(), other.as_str()].map(|name| fresh(name, Role::Staging, noon(), &[]));
        assert!(names.iter().all(|name| name.len() <= 63), "{names:?}");
        assert_ne!(names[0], names[1]);
        assert!(time_of(&names[0], &one, Role::Staging).is_some());
        assert!(time_of(&names[0], &other, Role::Staging).is_none());
    }
}
