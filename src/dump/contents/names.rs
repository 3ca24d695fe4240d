//! Names of tables and other objects, as they stand in a dump's statements.

use std::fmt;

use serde::Serialize;

use super::SequenceValue;
use crate::database::ident;
use crate::dump::scan::Statement;

/// A table's name with its schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The name in it.
    pub name: String,
}

impl TableName {
    /// Whether somebody who says `name`, `schema.name` or `"schema"."name"`, each with or without quotes, means this one.
    #[must_use]
    pub fn is_called(&self, words: &str) -> bool {
        let (schema, name) = (ident(&self.schema), ident(&self.name));
        self.is_named(words)
            || words == self.to_string()
            || words == self.quoted()
            || words == format!("{schema}.{}", self.name)
            || words == format!("{}.{name}", self.schema)
    }

    /// Whether the words are its name alone.
    #[must_use]
    pub fn is_named(&self, words: &str) -> bool {
        words == self.name || words == ident(&self.name)
    }

    /// `"schema"."name"`: no other table is called so.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("{}.{}", ident(&self.schema), ident(&self.name))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.schema, self.name)
    }
}

impl Serialize for TableName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The name in a CREATE of something that rights can be given on, and what follows it.
pub(super) fn made_object(text: &str) -> Option<&str> {
    const KINDS: [&str; 9] =
        ["TABLE ", "VIEW ", "SEQUENCE ", "FUNCTION ", "PROCEDURE ", "AGGREGATE ", "TYPE ", "DOMAIN ", "RULE "];
    let begin = &text[..text.floor_char_boundary(60)];
    let (at, kind) = KINDS.iter().filter_map(|kind| Some((begin.find(kind)?, kind))).min()?;
    let name = &text[at + kind.len()..];
    Some(name.strip_prefix("IF NOT EXISTS ").unwrap_or(name))
}

/// The table, function or other object that a GRANT, a REVOKE or `setval` concerns; a schema has an empty name in itself.
#[must_use]
pub fn used_object(statement: &Statement<'_>, text: &str) -> Option<TableName> {
    if statement.begins(&["GRANT"]) || statement.begins(&["REVOKE"]) {
        let (_, object) = text.split_once(" ON ")?;
        let (kind, name) = object.split_once(' ')?;
        return match kind {
            "SCHEMA" => Some(TableName { schema: names(name).pop()?, name: String::new() }),
            "TABLE" | "SEQUENCE" | "FUNCTION" | "PROCEDURE" | "TYPE" => Some(qualified(name)),
            _ => None,
        };
    }
    if statement.begins(&["SELECT", "PG_CATALOG", "SETVAL"]) {
        return statement.string().map(|name| qualified(&name));
    }
    None
}

/// The sequence and its value in `SELECT pg_catalog.setval('public.s', 3, true);`
pub(super) fn sequence_value(text: &str) -> Option<(TableName, SequenceValue)> {
    let (name, value) = text.split_once("setval('")?.1.rsplit_once("', ")?;
    let (last, is_called) = value.trim_end().trim_end_matches([')', ';']).split_once(", ")?;
    let value = SequenceValue { last: last.parse().ok()?, is_called: is_called.parse().ok()? };
    Some((qualified(&name.replace("''", "'")), value))
}

/// The name at the begin of a text, with its schema where there is one.
#[must_use]
pub fn qualified(text: &str) -> TableName {
    let mut parts = names(text);
    let first = parts.pop().unwrap_or_default();
    match parts.pop() {
        Some(name) => TableName { schema: first, name },
        None => TableName { schema: "public".into(), name: first },
    }
}

/// The name in a word of an outline, whose unquoted parts are in upper case.
pub(super) fn qualified_word(word: &str) -> TableName {
    let mut is_quoted = false;
    let lower = word.chars().map(|character| {
        is_quoted ^= character == '"';
        if is_quoted { character } else { character.to_ascii_lowercase() }
    });
    qualified(&lower.collect::<String>())
}

/// The names at the begin of a text that are joined by dots, the last one first.
pub(super) fn names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = text.trim_start();
    loop {
        let (name, after) = if let Some(quoted) = rest.strip_prefix('"') {
            let mut name = String::new();
            let mut characters = quoted.char_indices().peekable();
            let mut end = quoted.len();
            while let Some((at, character)) = characters.next() {
                if character != '"' {
                    name.push(character);
                } else if characters.next_if(|(_, next)| *next == '"').is_some() {
                    name.push('"');
                } else {
                    end = at + 1;
                    break;
                }
            }
            (name, &quoted[end..])
        } else {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        };
        names.insert(0, name);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None => return names,
        }
    }
}
