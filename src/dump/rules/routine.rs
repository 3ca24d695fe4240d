//! Clauses of the statement that makes a function or a procedure.

use super::name_of;
use crate::dump::scan::{GROUP, STRING, WORDS};

/// The clauses of a function or procedure, after its parameters and the type of its result, up to its body in SQL.
#[derive(Debug)]
pub struct Routine<'a> {
    clauses: &'a [&'a str],
}

impl<'a> Routine<'a> {
    /// `CREATE FUNCTION` and `CREATE PROCEDURE`; `None` for every other statement.
    #[must_use]
    pub fn of(outline: &'a [&'a str]) -> Option<Self> {
        let (["CREATE", "FUNCTION" | "PROCEDURE", _, rest @ ..]
        | ["CREATE", "OR", "REPLACE", "FUNCTION" | "PROCEDURE", _, rest @ ..]) = outline
        else {
            return None;
        };
        let rest = if let [GROUP, after @ ..] = rest { after } else { rest };
        // A type may be called like a clause.
        let rest = match rest {
            ["RETURNS", "SETOF", _, after @ ..] | ["RETURNS", _, after @ ..] => after,
            _ => rest,
        };
        let end = rest.windows(2).position(|pair| pair == ["BEGIN", "ATOMIC"]);
        Some(Self { clauses: &rest[..end.unwrap_or(rest.len())] })
    }

    /// Its language, as `pg_dump` writes it: the first of the clauses.
    #[must_use]
    pub fn language(&self) -> Option<String> {
        self.languages().next().map(|rest| name_of(rest[0]))
    }

    /// The words up to the string that is the body.
    #[must_use]
    pub fn properties(&self) -> &'a [&'a str] {
        let end = self.clauses.windows(2).position(|pair| pair == ["AS", STRING]);
        &self.clauses[..end.unwrap_or(self.clauses.len())]
    }

    /// Whether its language comes first, where nothing else can be meant; `pg_dump` writes it so. A second one would be an
    /// error.
    fn begins_with_language(&self) -> bool {
        let types = ["WITH", "WITHOUT", "TIME", "ZONE", "VARYING", "PRECISION", GROUP];
        self.clauses.iter().find(|word| !types.contains(word)) == Some(&"LANGUAGE")
    }

    /// All that follows a LANGUAGE, which may be the value of a setting too.
    fn languages(&self) -> impl Iterator<Item = &'a [&'a str]> {
        let clauses = self.clauses;
        (1..clauses.len()).filter(move |at| clauses[at - 1] == "LANGUAGE").map(move |at| &clauses[at..])
    }
}

/// Functions in C or internal ones run as the server's account. Those of extensions come with the extension. A language
/// that is written as a string could be any, and `pg_dump` writes a name.
#[must_use]
pub fn untrusted_language(outline: &[&str]) -> Option<String> {
    let routine = Routine::of(outline)?;
    let named = routine.languages().find_map(|rest| match rest {
        [STRING | "U", ..] | ["E" | "N", STRING, ..] => Some("of a string".to_owned()),
        [name, ..] => Some(name_of(name).to_lowercase()).filter(|name| matches!(name.as_str(), "c" | "internal")),
        [] => None,
    });
    // Of what follows the words that are kept nothing is known.
    let is_cut = outline.len() >= WORDS && !routine.begins_with_language();
    named.or_else(|| is_cut.then(|| format!("named after {WORDS} words")))
}
