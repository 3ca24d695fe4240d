//! Objects that a dump uses, and that it makes itself or an extension has to make.

use super::names::{TableName, names, qualified_word};
use crate::dump::rules::{Routine, name_of};
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
    let words = statement.outline();
    match words.as_slice() {
        ["CREATE", "SERVER", rest @ ..] => {
            let wrapper = rest.windows(4).find(|four| four[..3] == ["FOREIGN", "DATA", "WRAPPER"]);
            wrapper.map(|four| Need::Wrapper(name_of(four[3]))).into_iter().collect()
        }
        ["CREATE", "FOREIGN", "DATA", "WRAPPER", _, rest @ ..] => handler(rest).into_iter().collect(),
        ["CREATE", "TABLE", ..] | ["CREATE", "UNLOGGED" | "FOREIGN", "TABLE", ..] => column_types(&statement.decoded()),
        _ => match (language_of(&words), Routine::of(&words)) {
            (Some((_, rest)), _) => handler(rest).into_iter().collect(),
            (None, Some(routine)) => routine.language().map(Need::Language).into_iter().collect(),
            (None, None) => Vec::new(),
        },
    }
}

/// The function after HANDLER.
fn handler(words: &[&str]) -> Option<Need> {
    let pair = words.windows(2).find(|pair| pair[0] == "HANDLER")?;
    Some(Need::Function(qualified_word(pair[1])))
}

/// The language that a statement makes, and what follows its name.
pub(super) fn language_of<'a>(words: &'a [&'a str]) -> Option<(&'a str, &'a [&'a str])> {
    let mut rest = words.strip_prefix(&["CREATE"])?;
    for option in [&["OR", "REPLACE"][..], &["TRUSTED"], &["PROCEDURAL"]] {
        rest = rest.strip_prefix(option).unwrap_or(rest);
    }
    let (name, rest) = rest.strip_prefix(&["LANGUAGE"])?.split_first()?;
    Some((*name, rest))
}

/// The language or foreign-data wrapper that a statement makes.
pub(super) fn made(statement: &Statement<'_>) -> Option<Need> {
    let words = statement.outline();
    match words.as_slice() {
        ["CREATE", "FOREIGN", "DATA", "WRAPPER", name, ..] => Some(Need::Wrapper(name_of(name))),
        words => language_of(words).map(|(name, _)| Need::Language(name_of(name))),
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
