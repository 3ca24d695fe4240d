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
    error
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
