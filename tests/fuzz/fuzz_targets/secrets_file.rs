//! Any bytes as a secrets file: read without panic, and what was read can be written down and read again.

#![no_main]

use std::fmt::Write as _;

use glovebox::settings::secrets;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let parsed = secrets::parse(bytes);
    assert!(!parsed.refused || (parsed.assignments.is_empty() && !parsed.problems.is_empty()));

    let mut file = String::new();
    for (name, value) in &parsed.assignments {
        let _ = writeln!(file, "{name}=\"{}\"", escaped(value.expose()));
    }
    let again = secrets::parse(file.as_bytes());
    assert!(again.assignments == parsed.assignments && again.problems.is_empty());
});

/// What has to be escaped between double quotes.
fn escaped(value: &str) -> String {
    value.chars().flat_map(|c| if "\"\\`$".contains(c) { vec!['\\', c] } else { vec![c] }).collect()
}
