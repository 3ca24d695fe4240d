//! Ids as people type them: strictly positive integers that the column can hold.
//!
//! `drives.id` and `charging_processes.id` are `integer`, so an id is 1 to 2147483647, in digits and nothing else.
//! Anything else is refused before anything is read, so that no text of a command line ever gets near a statement.

/// Reads one id.
pub fn parse(text: &str) -> Result<i32, String> {
    let wanted = || format!("an id is a whole number from 1 to {}, in digits only", i32::MAX);
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wanted());
    }
    text.parse().ok().filter(|id| *id > 0).ok_or_else(wanted)
}

/// The same ids without repetitions, in the order in which they were typed first.
#[must_use]
pub fn distinct(ids: &[i32]) -> Vec<i32> {
    let mut seen = std::collections::BTreeSet::new();
    ids.iter().copied().filter(|id| seen.insert(*id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_digits_that_fit_the_column() {
        assert_eq!(parse("1"), Ok(1));
        assert_eq!(parse("2147483647"), Ok(i32::MAX));
        for text in [
            "",
            "0",
            "00",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1.0",
            "1e3",
            "2147483648",
            "9223372036854775808",
            "0x1",
            "1 or 1=1",
            "1;",
            "١",
            "latest",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn repeated_ids_are_handled_once_in_the_order_typed() {
        assert_eq!(distinct(&[7, 3, 7, 7, 1, 3]), [7, 3, 1]);
    }
}
