//! Objects that the server lets only some roles make, whoever owns the database.
//!
//! Source: PostgreSQL documentation, the reference pages of `CREATE …`.

use super::names::names;
use super::needs::language_of;
use crate::dump::rules::{self, Routine, untrusted_language};
use crate::dump::scan::Statement;

/// The right that a statement takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// That of a superuser, and no other will do.
    Superuser,
    /// The right to set this setting: a superuser's, or granted with `GRANT SET ON PARAMETER`.
    Setting(String),
}

/// More than the head of any cast, transform or type that pg_dump writes.
const HEAD: usize = 64 << 10;

/// The rights that a statement takes, beyond those of the owner of the database.
pub(super) fn reserved(statement: &Statement<'_>) -> Vec<Right> {
    let words = statement.outline();
    let head = || statement.head(HEAD);
    let follows = |pair: [&str; 2]| words.windows(2).any(|found| found == pair);
    let is_superusers = match words.as_slice() {
        ["CREATE", "PUBLICATION", ..] => follows(["FOR", "ALL"]) || follows(["TABLES", "IN"]),
        ["ALTER", "PUBLICATION", _, "ADD" | "SET", "TABLES", "IN", ..]
        | ["CREATE", "EVENT", "TRIGGER", ..]
        | ["CREATE", "FOREIGN", "DATA", "WRAPPER", ..]
        | ["CREATE" | "ALTER", "OPERATOR", "CLASS" | "FAMILY", ..]
        | ["CREATE", "ACCESS", "METHOD", ..]
        | ["CREATE", "TEXT", "SEARCH", "TEMPLATE" | "PARSER", ..] => !is_change_of_owner(&words),
        ["CREATE", "CAST", ..] => head().contains(" WITHOUT FUNCTION") || of_builtin_types(&head(), "CAST ("),
        ["CREATE", "TRANSFORM", ..] | ["CREATE", "OR", "REPLACE", "TRANSFORM", ..] => {
            of_builtin_types(&head(), "TRANSFORM FOR ")
        }
        ["CREATE", "TYPE", ..] => is_base_type(&head()),
        _ => match (Routine::of(&words), language_of(&words)) {
            (Some(routine), _) => return of_routine(&routine, &words),
            // Without a handler, it is an extension by another name.
            (None, Some((_, rest))) => rest.contains(&"HANDLER"),
            (None, None) => false,
        },
    };
    if is_superusers { vec![Right::Superuser] } else { Vec::new() }
}

/// The begin of a statement, for people.
pub(super) fn shown(statement: &Statement<'_>) -> String {
    let text = statement.head(400);
    let line = text.lines().next().unwrap_or_default().trim_end_matches([';', '(', ' ']);
    match line.char_indices().nth(100) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

fn is_change_of_owner(words: &[&str]) -> bool {
    words[0] == "ALTER" && words.windows(2).any(|pair| pair == ["OWNER", "TO"])
}

/// Casts and transforms are for the owner of the type, of one of the two types. Those without a schema are the server's.
fn of_builtin_types(text: &str, before: &str) -> bool {
    let Some((_, types)) = text.split_once(before) else { return false };
    let (types, separator) = match before {
        "CAST (" => (types.split_once(')').map_or(types, |(types, _)| types), " AS "),
        _ => (types.split_once(" LANGUAGE ").map_or(types, |(types, _)| types), "\n"),
    };
    let is_builtin =
        |name: &str| matches!(names(name).as_slice(), [_] | []) || name.trim_start().starts_with("pg_catalog.");
    types.split(separator).all(is_builtin)
}

/// A base type, or the shell of one; the others have `AS`.
fn is_base_type(text: &str) -> bool {
    let head = text.split_once('\n').map_or(text, |(line, _)| line).trim_end();
    head.ends_with(';') && !head.contains(" AS ") || (head.ends_with('(') && !head.contains(" AS "))
}

/// The rights that the properties of a routine take.
fn of_routine(routine: &Routine<'_>, words: &[&str]) -> Vec<Right> {
    let properties = routine.properties();
    let is_value = |at: usize| at > 0 && matches!(properties[at - 1], "TO" | "=" | "," | "NOT" | "LANGUAGE");
    let is_leakproof = properties.iter().enumerate().any(|(at, word)| *word == "LEAKPROOF" && !is_value(at));
    let superuser = (untrusted_language(words).is_some() || is_leakproof).then_some(Right::Superuser);
    let settings = properties.windows(3).filter(|three| three[0] == "SET" && matches!(three[2], "TO" | "="));
    let settings = settings.map(|three| Right::Setting(rules::name_of(three[1]).replace('"', "")));
    superuser.into_iter().chain(settings).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::contents::Reader;

    #[test]
    fn k5_statements_for_superusers_are_told_from_those_of_owners() {
        let is = |text: &str| {
            let mut reader = Reader::default();
            let header = "--\n-- PostgreSQL database dump\n--\nSET client_encoding = 'UTF8';\n";
            let dump = format!("{header}{text}\n--\n-- PostgreSQL database dump complete\n--\n");
            reader.feed(dump.as_bytes()).unwrap();
            let contents = reader.finish().unwrap();
            contents.reserved.iter().map(|(right, _)| right.clone()).collect::<Vec<_>>()
        };
        for text in [
            "CREATE PUBLICATION p FOR ALL TABLES WITH (publish = 'insert');",
            "ALTER PUBLICATION p ADD TABLES IN SCHEMA public;",
            "CREATE EVENT TRIGGER e ON ddl_command_end\n   EXECUTE FUNCTION public.f();",
            "CREATE FOREIGN DATA WRAPPER w;",
            "CREATE OPERATOR CLASS public.o\n    FOR TYPE integer USING btree AS\n    OPERATOR 1 <(integer,integer);",
            "CREATE OPERATOR FAMILY public.o USING btree;",
            "CREATE ACCESS METHOD m TYPE TABLE HANDLER heap_tableam_handler;",
            "CREATE TEXT SEARCH TEMPLATE public.t (\n    LEXIZE = dsimple_lexize );",
            "CREATE TEXT SEARCH PARSER public.t (\n    START = prsd_start );",
            "CREATE CAST (integer AS money) WITH FUNCTION public.f(integer);",
            "CREATE CAST (public.a AS public.b) WITHOUT FUNCTION;",
            "CREATE TRANSFORM FOR integer LANGUAGE plpgsql (FROM SQL WITH FUNCTION public.f(internal));",
            "CREATE TYPE public.b (\n    INPUT = public.b_in,\n    OUTPUT = public.b_out\n);",
            "CREATE TYPE public.b;",
            "CREATE TRUSTED PROCEDURAL LANGUAGE l HANDLER plpgsql_call_handler;",
            "CREATE FUNCTION public.f(integer) RETURNS integer\n    LANGUAGE sql IMMUTABLE LEAKPROOF\n    AS $$select 1$$;",
            "CREATE FUNCTION public.f(language text) RETURNS integer\n    LANGUAGE \"c\"\n    AS 'a', 'b';",
        ] {
            assert_eq!(is(text), [Right::Superuser], "{text}");
        }
        for text in [
            "CREATE PUBLICATION p FOR TABLE public.t WITH (publish = 'insert');",
            "CREATE CAST (public.a AS integer) WITH INOUT;",
            "CREATE TYPE public.e AS ENUM (\n    'a'\n);",
            "CREATE TYPE public.c AS (\n\ta integer\n);",
            "CREATE TABLE public.leakproof (\n    a integer\n);",
            "CREATE TEXT SEARCH CONFIGURATION public.t (\n    PARSER = pg_catalog.\"default\" );",
            "CREATE FUNCTION public.leakproof(leakproof integer) RETURNS integer\n    LANGUAGE sql\n    AS $$\n    SET x TO 1 LEAKPROOF$$;",
            "CREATE FUNCTION public.f() RETURNS leakproof\n    LANGUAGE \n leakproof AS 'LANGUAGE c';",
            "CREATE TABLE public.language (\n    handler text\n);",
            "CREATE TABLE public.function (\n    leakproof text,\n    LANGUAGE c\n);",
        ] {
            assert_eq!(is(text), [], "{text}");
        }
        let text = "CREATE FUNCTION public.f() RETURNS integer\n    LANGUAGE sql\n    SET log_statement TO 'all'\n    AS $$select 1$$;";
        assert_eq!(is(text), [Right::Setting("log_statement".to_owned())]);
    }
}
