//! Forms in which `pg_dump` writes settings, calls and rows.

use crate::dump::scan::Statement;

/// Kinds of objects that `pg_dump` makes or changes, by the first word of their names in SQL.
pub(super) const KINDS: [&str; 41] = [
    "ACCESS",
    "AGGREGATE",
    "CAST",
    "COLLATION",
    "CONSTRAINT",
    "CONVERSION",
    "DEFAULT",
    "DOMAIN",
    "EVENT",
    "EXTENSION",
    "FOREIGN",
    "FUNCTION",
    "INDEX",
    "LANGUAGE",
    "LARGE",
    "MATERIALIZED",
    "OPERATOR",
    "OR",
    "POLICY",
    "PROCEDURAL",
    "PROCEDURE",
    "PROPERTY",
    "PUBLICATION",
    "RECURSIVE",
    "ROUTINE",
    "RULE",
    "SCHEMA",
    "SEQUENCE",
    "SERVER",
    "STATISTICS",
    "SUBSCRIPTION",
    "TABLE",
    "TEXT",
    "TRANSFORM",
    "TRIGGER",
    "TRUSTED",
    "TYPE",
    "UNIQUE",
    "UNLOGGED",
    "USER",
    "VIEW",
];

/// Settings that `pg_dump`, `pg_restore`, `pg_dumpall` and our own exports make.
const PREAMBLE: [&str; 20] = [
    "STATEMENT_TIMEOUT",
    "LOCK_TIMEOUT",
    "IDLE_IN_TRANSACTION_SESSION_TIMEOUT",
    "TRANSACTION_TIMEOUT",
    "CLIENT_ENCODING",
    "STANDARD_CONFORMING_STRINGS",
    "CHECK_FUNCTION_BODIES",
    "XMLOPTION",
    "CLIENT_MIN_MESSAGES",
    "ESCAPE_STRING_WARNING",
    "ROW_SECURITY",
    "SEARCH_PATH",
    "DEFAULT_TABLESPACE",
    "DEFAULT_TABLE_ACCESS_METHOD",
    "DEFAULT_WITH_OIDS",
    "DEFAULT_TRANSACTION_READ_ONLY",
    "DATESTYLE",
    "INTERVALSTYLE",
    "TIMEZONE",
    "LC_MONETARY",
];

/// Whether `pg_dump` makes this setting. How strings are read must be said in its own words, since the text is read so.
pub(super) fn is_of_preamble(name: &str, words: &[&str]) -> bool {
    match name {
        "STANDARD_CONFORMING_STRINGS" => matches!(words[2..], ["ON" | "OFF"]),
        "ROLE" => words.len() == 3,
        _ => PREAMBLE.contains(&name),
    }
}

/// Whether a SELECT is one of those calls, with literals alone, that are a part of a dump.
pub(super) fn calls_for_a_load(statement: &Statement<'_>, words: &[&str]) -> bool {
    let is_known = match words {
        ["SELECT", "PG_CATALOG", "SET_CONFIG", ..] => {
            statement.text.starts_with(b"SELECT pg_catalog.set_config('search_path', ")
        }
        ["SELECT", "PG_CATALOG", function, ..] | ["SELECT", function, ..] => {
            matches!(*function, "SETVAL" | "LO_CREATE" | "LO_OPEN" | "LO_CLOSE" | "LOWRITE" | "LO_FROM_BYTEA" | "FROM")
        }
        _ => false,
    };
    let is_statistics = match words {
        ["SELECT", "FROM", "PG_CATALOG", function, ..] => matches!(
            *function,
            "PG_RESTORE_RELATION_STATS" | "PG_RESTORE_ATTRIBUTE_STATS" | "PG_RESTORE_EXTENDED_STATS"
        ),
        ["SELECT", "FROM", ..] => false,
        _ => true,
    };
    is_known && is_statistics && statement.opened == 1
}

/// `INSERT INTO t (columns) VALUES (literals)`, without a call, a query or anything that follows.
pub(super) fn inserts_literals(statement: &Statement<'_>, words: &[&str]) -> bool {
    let Some(at) = words.iter().position(|word| *word == "VALUES") else { return false };
    let queries = ["SELECT", "WITH", "TABLE", "FROM"];
    statement.deepest <= 1 && statement.no_literal.is_none() && !words[..at].iter().any(|word| queries.contains(word))
}
