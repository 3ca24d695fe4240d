//! Errors of psql and `pg_restore`, without the statements that may hold a password.

use crate::dump::source::Source;
use crate::error::{Error, Kind};

pub(super) fn load_failed(program: &str, words: &str, source: &Source) -> Error {
    // The server or the client says so; nothing is wrong with the dump then.
    let (kind, what) = if words.contains("No space left on device") || words.contains("could not extend file") {
        (Kind::Store, "the server ran out of space while the dump was loaded")
    } else if words.contains("terminating connection") || words.contains("server closed the connection") {
        (Kind::Source, "the server ended the connection while the dump was loaded")
    } else {
        (Kind::Verify, "the dump cannot be loaded without an error")
    };
    let mut error = Error::new(kind, what).with("file", &source.name).with(program, without_secrets(words));
    if words.contains("type \"earth\" does not exist") || words.contains("ll_to_earth") {
        error = error.hint(
            "An index uses ll_to_earth, which old versions of earthdistance cannot do while a dump is loaded: \
             drop that index in the source, or edit it out of the dump.",
        );
    }
    if lacks_rights(words) {
        error = error.hint("Restore as a superuser; or repeat it with --no-owner --no-privileges.");
    }
    error
}

/// The server's first error in the words of a program or of a session.
fn first_error(words: &str) -> Option<&str> {
    words.lines().find_map(|line| line.split_once("ERROR: ")).map(|(_, message)| message.trim())
}

/// Whether the role was refused something. An owner of another role is among that.
fn lacks_rights(words: &str) -> bool {
    let begins = [
        "permission denied",
        "must be owner of ",
        "must be member of role ",
        "must be able to SET ROLE ",
        "must be superuser ",
    ];
    first_error(words).is_some_and(|error| begins.iter().any(|begin| error.starts_with(begin)))
}

/// Whether rows that another job had not loaded yet may be the reason. Rights, room, programs and objects that are missing
/// are missing in any order. The server's words may be in another language: then nobody knows.
pub(super) fn depends_on_order(words: &str) -> bool {
    let Some(error) = first_error(words) else { return true };
    // An application's own words, whatever they are like.
    if words.contains(" at RAISE") {
        return true;
    }
    let begins = ["syntax error at ", "could not access file ", "could not load library ", "could not extend file "];
    // Written as the server writes them: an application that raises something like it does so without quotes.
    let objects = [
        "relation \"",
        "type \"",
        "role \"",
        "schema \"",
        "column ",
        "language \"",
        "collation \"",
        "tablespace \"",
        "extension \"",
        "access method \"",
        "operator class \"",
        "text search ",
        "server \"",
        "operator ",
    ];
    let is_routine =
        ["function ", "procedure "].iter().any(|kind| error.starts_with(kind)) && error.ends_with(") does not exist");
    let is_missing =
        error.contains(" does not exist") && (is_routine || objects.iter().any(|object| error.starts_with(object)));
    let is_hopeless = lacks_rights(words)
        || words.contains("No space left on device")
        || begins.iter().any(|begin| error.starts_with(begin))
        || is_missing;
    !is_hopeless
}

/// The words of a program without the strings of statements that may hold a password.
fn without_secrets(words: &str) -> String {
    let upper = words.to_uppercase();
    let may_hold = ["PASSWORD", "PASSFILE", "USER MAPPING", "SUBSCRIPTION", "CREATE SERVER", "CONNECTION '"];
    // Of a long line, psql shows a part: what the string is may be cut off.
    let is_cut = |line: &str| line.contains("LINE ") && line.contains(": ...") && line.contains('\'');
    if !may_hold.iter().any(|word| upper.contains(word)) && !words.lines().any(is_cut) {
        return words.to_owned();
    }
    let mut kept = String::with_capacity(words.len());
    // A quoted line may begin and end in the middle of a string, and a string may go on over several lines.
    let mut is_statement = false;
    for line in words.lines() {
        let is_excerpt = line.trim_start().starts_with("LINE ") || line.contains(": LINE ");
        is_statement |= ["Command was: ", "STATEMENT: ", "QUERY: "].iter().any(|begin| line.contains(begin));
        is_statement &= !["error: ", "ERROR: ", "DETAIL: ", "HINT: "].iter().any(|begin| line.contains(begin));
        if is_excerpt || is_statement || line.trim() == "^" {
            continue;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept.push_str("(the statement is not shown: it may hold a password)");
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k9_only_what_rows_may_mend_is_tried_again() {
        let told =
            |message: &str| format!("pg_restore: error: could not execute query: ERROR:  {message}\nCommand was: x");
        for message in [
            "permission denied for schema s",
            "must be owner of table t",
            "must be member of role \"x\"",
            "must be able to SET ROLE \"x\"",
            "relation \"b\" does not exist",
            "type \"earth\" does not exist",
            "function f(integer) does not exist",
            "operator does not exist: a = b",
            "syntax error at or near \"x\"",
            "could not extend file \"base/1\": No space left on device",
        ] {
            assert!(!depends_on_order(&told(message)), "{message}");
        }
        for message in [
            "new row for relation \"b\" violates check constraint \"c\"",
            "car 7 does not exist",
            "deadlock detected",
            "type 2 does not exist",
            "function of car 7 does not exist",
            "materialized view \"a\" has not been populated",
            "out of shared memory",
        ] {
            assert!(depends_on_order(&told(message)), "{message}");
        }
        let raised = "type 2 does not exist\nCONTEXT:  PL/pgSQL function public.chkz(integer) line 1 at RAISE";
        assert!(depends_on_order(&told(raised)));
    }

    #[test]
    fn k5_a_statement_with_a_password_is_not_shown() {
        let words = "pg_restore: error: could not execute query: ERROR:  role \"x\" does not exist\n\
                     Command was: CREATE USER MAPPING FOR x SERVER s OPTIONS (\n    password 'secret',\n    \"user\" 'y'\n);\n";
        let shown = without_secrets(words);
        assert!(shown.contains("role \"x\" does not exist") && !shown.contains("secret"), "{shown}");
        let words = "psql:<stdin>:9: ERROR:  syntax error\nLINE 1: ...ssword 'secret'\n             ^";
        assert!(!without_secrets(words).contains("secret"));
        assert_eq!(without_secrets("ERROR:  x\nLINE 1: y"), "ERROR:  x\nLINE 1: y");
    }
}
