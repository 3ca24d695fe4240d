//! PostgreSQL: connecting, quoting, locks, client tools. Knows nothing of files, repositories or services.

pub mod application_settings;
pub mod connect;
pub mod lock;
pub mod private;
pub mod properties;
pub mod session_settings;
mod tls;
pub mod tools;

use std::fmt::Write as _;

pub use connect::Connector;
pub use properties::Properties;
pub use session_settings::Setting;

/// The oldest server that Glovebox works with, as `server_version_num` gives it.
pub const OLDEST_SERVER: u32 = 140_000;

/// Quotes an identifier for SQL, always, as `quote_ident` does where it has to.
///
/// Source: PostgreSQL documentation, "Identifiers and Key Words". A name never holds NUL: the settings refuse it and
/// the server cannot return it.
#[must_use]
pub fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a string constant for SQL as `quote_literal` does: whatever `standard_conforming_strings` says, it is safe.
#[must_use]
pub fn literal(text: &str) -> String {
    let escape = if text.contains('\\') { "E" } else { "" };
    format!("{escape}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Expression for the bytes of a text that belongs to the whole cluster, such as the name of a role or a database's comment. Each is in the
/// encoding of the database in which it was written, which need not be that of the database that reads it.
#[must_use]
pub fn bytes_of(expression: &str) -> String {
    format!("pg_catalog.decode(pg_catalog.replace({expression}::text, chr(92), repeat(chr(92), 2)), 'escape')")
}

/// Such a text, for people and comparisons: what is not UTF-8 is shown as a replacement character, and equals no name of ours.
#[must_use]
pub fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Shows `server_version_num` (for example 150018) as people write it (15.18).
#[must_use]
pub fn version_text(number: u32) -> String {
    let mut text = (number / 10_000).to_string();
    let _ = write!(text, ".{}", number % 10_000);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_survives_quotes_and_backslashes() {
        assert_eq!(ident("te\"st"), "\"te\"\"st\"");
        assert_eq!(literal("x';--"), "'x'';--'");
        assert_eq!(literal("a\\b'"), "E'a\\\\b'''");
    }

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(version_text(150_018), "15.18");
        assert_eq!(version_text(170_000), "17.0");
    }
}
