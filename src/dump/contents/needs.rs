//! Objects that a dump uses, and that it makes itself or an extension has to make.

use super::names::{TableName, names, qualified};
use crate::dump::rules::name_of;
use crate::dump::scan::Statement;

/// An object that a definition names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The type of a column.
    Type(TableName),
    /// The table of rows.
    Table(TableName),
    /// The handler of a foreign-data wrapper or of a language.
    Function(TableName),
    /// The language of a function.
    Language(String),
    /// The foreign-data wrapper of a server.
    Wrapper(String),
}

impl std::fmt::Display for Need {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Type(name) => write!(formatter, "type {name}"),
            Self::Table(name) => write!(formatter, "table {name}"),
            Self::Function(name) => write!(formatter, "function {name}"),
            Self::Language(name) => write!(formatter, "language {name}"),
            Self::Wrapper(name) => write!(formatter, "foreign-data wrapper {name}"),
        }
    }
}

/// The objects that a statement needs.
pub(super) fn needed(statement: &Statement<'_>) -> Vec<Need> {
    let words: Vec<&str> = statement.words.iter().map(String::as_str).collect();
    let after = |word: &str| words.windows(2).find(|pair| pair[0] == word).map(|pair| name_of(pair[1]));
    let is = |kind: &str| words.iter().take(4).any(|word| *word == kind);
    let handler = || {
        let text = String::from_utf8_lossy(&statement.text[..statement.text.len().min(1000)]);
        text.split_once(" HANDLER ").map(|(_, name)| Need::Function(qualified(name)))
    };
    match words.as_slice() {
        ["CREATE", "SERVER", ..] => after("WRAPPER").map(Need::Wrapper).into_iter().collect(),
        ["CREATE", "FOREIGN", "DATA", "WRAPPER", ..] => handler().into_iter().collect(),
        ["CREATE", ..] if is("FUNCTION") || is("PROCEDURE") => {
            after("LANGUAGE").map(Need::Language).into_iter().collect()
        }
        ["CREATE", ..] if is("TABLE") => column_types(&String::from_utf8_lossy(statement.text)),
        ["CREATE", ..] if is("LANGUAGE") => handler().into_iter().collect(),
        _ => Vec::new(),
    }
}

/// The language or foreign-data wrapper that a statement makes.
pub(super) fn made(statement: &Statement<'_>) -> Option<Need> {
    let words: Vec<&str> = statement.words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["CREATE", "FOREIGN", "DATA", "WRAPPER", name, ..] => Some(Need::Wrapper(name_of(name))),
        ["CREATE", "LANGUAGE", name, ..]
        | ["CREATE", _, "LANGUAGE", name, ..]
        | ["CREATE", _, _, "LANGUAGE", name, ..]
        | ["CREATE", _, _, _, "LANGUAGE", name, ..]
            if !words.iter().take(4).any(|word| matches!(*word, "FUNCTION" | "PROCEDURE" | "TABLE")) =>
        {
            Some(Need::Language(name_of(name)))
        }
        _ => None,
    }
}

/// The types with a schema in the lines of columns, as `pg_dump` writes them: `    name schema.type(1) COLLATE …,`.
fn column_types(text: &str) -> Vec<Need> {
    let mut types = Vec::new();
    // A line that begins within a string or a name is none.
    let mut quotes = (0, 0);
    for line in text.lines() {
        let is_begin = quotes.0 % 2 == 0 && quotes.1 % 2 == 0;
        quotes.0 += line.matches('\'').count();
        quotes.1 += line.matches('"').count();
        let Some(column) = line.strip_prefix("    ").filter(|_| is_begin) else { continue };
        if column.starts_with([' ', '(']) || column.starts_with("CONSTRAINT ") || quotes.1 % 2 != 0 {
            continue;
        }
        let Some(type_name) = after_name(column) else { continue };
        let mut parts = names(type_name);
        if let (2, Some(name), Some(schema)) = (parts.len(), parts.first().cloned(), parts.pop())
            && !name.is_empty()
            && !matches!(schema.as_str(), "" | "pg_catalog")
        {
            types.push(Need::Type(TableName { schema, name }));
        }
    }
    types
}

/// The text after the column's name and a space.
fn after_name(column: &str) -> Option<&str> {
    let Some(quoted) = column.strip_prefix('"') else { return column.split_once(' ').map(|(_, rest)| rest) };
    let mut rest = quoted;
    loop {
        let (_, after) = rest.split_once('"')?;
        match after.strip_prefix('"') {
            Some(next) => rest = next,
            None => return after.strip_prefix(' '),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k5_types_of_columns_are_found_and_strings_are_not() {
        let text = "CREATE TABLE public.t (\n    id integer DEFAULT 1 NOT NULL,\n    \"a \"\"b\" public.citext,\n    g s.\"Odd\"[] DEFAULT 'x\n    y public.no,\n    z',\n    p public.geometry(Point,4326) NOT NULL,\n    d pg_catalog.int4,\n    CONSTRAINT c CHECK ((id > 0))\n);";
        let found: Vec<String> = column_types(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["type public.citext", "type s.Odd", "type public.geometry"]);
    }
}
