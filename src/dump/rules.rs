//! What is done with each statement of a plain dump: fed to the server, left out, or refused.
//!
//! A dump is code that runs with the rights of its loader, so the statements that `pg_dump` writes are listed here and
//! every other one is refused (`--trust-dump` lets it pass). What concerns the database itself, or makes room first, is
//! left out: a restore always loads into a new, empty database and carries the properties over from the live one.

mod form;
mod routine;

use self::form::{KINDS, calls_for_a_load, inserts_literals, is_of_preamble};
pub use self::routine::{Routine, untrusted_language};
use super::scan::{STRING, Statement, is_named};

/// What is done with a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It is fed to the server.
    Keep,
    /// It is left out.
    Skip(Skipped),
    /// `pg_dump` writes it, and it gives the dump the rights of the server's account; as the end of the sentence
    /// "line N …". Only a trusted dump may hold it.
    Distrust(String),
    /// It has no place in a dump; as the end of the sentence "line N …".
    Refuse(String),
}

/// Why a statement is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// It concerns the database itself, as in a dump made with `--create`.
    Database,
    /// It removes what a new database does not have, as in a dump made with `--clean`.
    Clean,
    /// It begins or ends a transaction; the whole load is one.
    Transaction,
    /// The schema `public` is in every new database.
    PublicSchema,
    /// It concerns what a new database has in the same form, and what only a superuser may touch.
    BuiltIn,
}

/// Decides on the statements of a dump, one after the other.
#[derive(Debug, Default)]
pub struct Rules {
    /// Something was made: what made room for it is over.
    has_begun: bool,
}

impl Rules {
    /// For text in which nothing makes room for anything, as `pg_restore` unpacks an archive.
    #[must_use]
    pub fn without_clean() -> Self {
        Self { has_begun: true }
    }

    /// Decides on the next statement.
    ///
    /// Where `--clean` cannot drop a view because others need it, it makes an empty one of it; in a new database there is
    /// nothing to replace.
    pub fn disposition(&mut self, statement: &Statement<'_>) -> Disposition {
        let is_empty_view = statement.begins(&["CREATE", "OR", "REPLACE", "VIEW"])
            && (memchr::memmem::find(statement.text, b" AS\nSELECT\n    NULL::").is_some()
                || statement.text.ends_with(b" AS\nSELECT;"));
        if !self.has_begun && is_empty_view {
            return Disposition::Skip(Skipped::Clean);
        }
        let decided = disposition(statement);
        self.has_begun |= statement.begins(&["CREATE"]) && decided == Disposition::Keep;
        decided
    }
}

#[must_use]
#[allow(clippy::match_same_arms, reason = "one arm for each reason, in the order in which they are tried")]
fn disposition(statement: &Statement<'_>) -> Disposition {
    use Disposition::{Distrust, Keep, Refuse, Skip};
    let words: Vec<&str> = statement.words.iter().map(String::as_str).collect();
    let outline = statement.outline();
    let foreign = |what: &str| Refuse(format!("{what}, which pg_dump never writes"));
    match words.as_slice() {
        ["CREATE" | "ALTER" | "DROP", "DATABASE", ..] | ["COMMENT", "ON", "DATABASE", ..] => Skip(Skipped::Database),
        ["SECURITY", "LABEL", "FOR", _, "ON", "DATABASE", ..] => Skip(Skipped::Database),
        ["GRANT" | "REVOKE", ..] if kind_of_object(&outline) == Some("DATABASE") => Skip(Skipped::Database),
        ["ALTER", "ROLE", _, "IN", "DATABASE", ..] => Skip(Skipped::Database),
        ["BEGIN" | "COMMIT" | "START", ..] => Skip(Skipped::Transaction),
        ["DROP", ..] => Skip(Skipped::Clean),
        ["ALTER", "TABLE", ..] if drops_constraint(&outline) => Skip(Skipped::Clean),
        ["ALTER", "TABLE", .., "DROP", "DEFAULT"] => Skip(Skipped::Clean),
        ["SELECT", "PG_CATALOG", "LO_UNLINK", ..] => Skip(Skipped::Clean),
        ["CREATE", "SCHEMA", name] if is_named(name, "public") => Skip(Skipped::PublicSchema),
        ["COMMENT", "ON", "EXTENSION", name, ..] if is_named(name, "plpgsql") => Skip(Skipped::BuiltIn),
        ["COMMENT", "ON", "SCHEMA", name, ..] if is_named(name, "public") && is_default_comment(statement) => {
            Skip(Skipped::BuiltIn)
        }
        ["COPY", ..] if !statement.is_copy() => foreign("copies from or to a file or a program"),
        ["COPY", ..] if !statement.is_plain_copy() => foreign("copies with options"),
        ["SELECT", ..] if calls_for_a_load(statement, &words) => Keep,
        ["INSERT", ..] if !inserts_literals(statement, &words) => foreign("inserts something else than literals"),
        ["SET", "SESSION", "AUTHORIZATION", ..] => Keep,
        ["SET", name, ..] if !is_of_preamble(name, &words) => foreign(&format!("sets {}", name.to_lowercase())),
        ["CREATE" | "ALTER", "USER" | "ROLE" | "GROUP", second, ..] if *second != "MAPPING" => {
            foreign("changes a role")
        }
        ["CREATE" | "ALTER", "TABLESPACE", ..] => foreign("makes or changes a tablespace"),
        ["ALTER", "SYSTEM", ..] => foreign("changes the server's settings"),
        ["CREATE", "SUBSCRIPTION", ..] if !words.windows(3).any(|three| three == ["WITH", "CONNECT", "FALSE"]) => {
            foreign("makes a subscription that connects at once")
        }
        ["CREATE" | "ALTER", kind, ..] if !KINDS.contains(kind) => {
            foreign(&format!("holds a {} {kind} statement", words[0]))
        }
        ["GRANT" | "REVOKE" | "COMMENT" | "SECURITY", ..] if is_about_cluster(&outline) => {
            foreign("concerns the whole cluster")
        }
        // After a GRANT of somebody who is not the owner.
        ["RESET", "SESSION", "AUTHORIZATION"] => Keep,
        ["CREATE", ..] => match untrusted_language(&outline) {
            Some(language) => {
                Distrust(format!("makes a function in the language {language}, which runs as the server's account"))
            }
            None => Keep,
        },
        ["GRANT" | "REVOKE", ..] if !outline.contains(&"ON") => foreign("grants or revokes a role"),
        ["SET" | "ALTER" | "COMMENT" | "COPY" | "GRANT" | "REVOKE" | "INSERT" | "REFRESH", ..]
        | ["SECURITY", "LABEL", ..] => Keep,
        [first, ..] => foreign(&format!("holds a {first} statement")),
        [] => foreign("holds something that is no statement"),
    }
}

/// Whether it concerns an object that does not belong to one database.
fn is_about_cluster(outline: &[&str]) -> bool {
    matches!(kind_of_object(outline), Some("ROLE" | "TABLESPACE" | "PARAMETER"))
}

/// The word after the first ON of a GRANT, a REVOKE, a COMMENT or a SECURITY LABEL, where it is the kind of the object
/// and not the name of a table, which a GRANT may say alone.
fn kind_of_object<'a>(outline: &[&'a str]) -> Option<&'a str> {
    let at = outline.iter().position(|word| *word == "ON")?;
    let kind = outline.get(at + 1)?;
    let is_kind = outline.get(at + 2).is_some_and(|next| !matches!(*next, "TO" | "FROM" | "," | "IS"));
    is_kind.then_some(*kind)
}

/// `ALTER TABLE [IF EXISTS] [ONLY] t DROP CONSTRAINT c`, as `--clean` begins.
fn drops_constraint(outline: &[&str]) -> bool {
    outline.windows(2).any(|pair| pair == ["DROP", "CONSTRAINT"])
}

/// Whether a statement says what the database consists of, not what is in it.
#[must_use]
pub fn defines(statement: &Statement<'_>) -> bool {
    !matches!(statement.words.first().map(String::as_str), Some("COPY" | "INSERT" | "SELECT"))
}

/// Whether a statement only sets an owner (`--no-owner` leaves it out).
#[must_use]
pub fn sets_owner(statement: &Statement<'_>) -> bool {
    let alters = statement.begins(&["ALTER"]) && statement.has(&["OWNER", "TO"]);
    // `pg_dump --use-set-session-authorization` writes the role as a string, a GRANT of another role as a name.
    alters || (statement.begins(&["SET", "SESSION", "AUTHORIZATION"]) && statement.words.len() == 3)
}

/// Whether a statement only sets privileges (`--no-privileges` leaves it out).
#[must_use]
pub fn sets_privileges(statement: &Statement<'_>) -> bool {
    matches!(statement.words.first().map(String::as_str), Some("GRANT" | "REVOKE"))
        || statement.begins(&["ALTER", "DEFAULT", "PRIVILEGES"])
        || (statement.begins(&["SET", "SESSION", "AUTHORIZATION"]) && statement.words.len() > 3)
}

/// The comment that `initdb` gives the schema `public`.
fn is_default_comment(statement: &Statement<'_>) -> bool {
    memchr::memmem::find(statement.text, b"IS 'standard public schema'").is_some()
}

/// Why a role must exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoleUse {
    /// It owns something: `--no-owner` leaves that out.
    Owner,
    /// It has or gives a privilege: `--no-privileges` leaves that out.
    Privilege,
    /// It has default privileges of its own, which only those who have its rights may set: `--no-privileges` leaves that out.
    Defaults,
    /// A policy or a user mapping names it; no option leaves that out.
    Object,
}

/// A name as the catalogs write it, of a word as the scanner keeps it.
#[must_use]
pub fn name_of(word: &str) -> String {
    match word.strip_prefix('"').and_then(|word| word.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => word.to_lowercase(),
    }
}

/// The roles that must exist for a statement.
#[must_use]
pub fn roles(statement: &Statement<'_>) -> Vec<(RoleUse, String)> {
    use RoleUse::{Defaults, Object, Owner, Privilege};
    let words = statement.outline();
    let (reason, mut named): (RoleUse, Vec<&str>) = match words.as_slice() {
        ["SET", "SESSION", "AUTHORIZATION", STRING] => {
            return statement.string().map(|role| (Owner, role)).into_iter().collect();
        }
        ["SET", "SESSION", "AUTHORIZATION", role, ..] => (Privilege, vec![role]),
        ["ALTER", "DEFAULT", "PRIVILEGES", "FOR", "ROLE" | "USER", role, ..] => {
            (Privilege, [vec![*role], grantees(&words)].concat())
        }
        ["GRANT" | "REVOKE", ..] | ["ALTER", "DEFAULT", "PRIVILEGES", ..] => (Privilege, grantees(&words)),
        ["ALTER", .., "OWNER", "TO", role] => (Owner, vec![role]),
        ["CREATE", "USER", "MAPPING", "FOR", role, ..]
        | ["CREATE", "USER", "MAPPING", "IF", "NOT", "EXISTS", "FOR", role, ..]
        | ["CREATE", "SCHEMA", .., "AUTHORIZATION", role] => (Object, vec![role]),
        ["CREATE", "POLICY", _, rest @ ..] => {
            let to = rest.iter().position(|word| *word == "TO").map_or(rest.len(), |at| at + 1);
            (Object, listed(&rest[to..]))
        }
        _ => return Vec::new(),
    };
    // Also with quotes, as `--quote-all-identifiers` writes it: no role can be called so (`RoleSpec` in `gram.y`).
    named.retain(|word| {
        !matches!(*word, "PUBLIC" | "\"public\"" | "DEFAULT" | "CURRENT_USER" | "SESSION_USER" | "CURRENT_ROLE")
    });
    let mut used: Vec<(RoleUse, String)> = named.into_iter().map(|word| (reason, name_of(word))).collect();
    if let ["ALTER", "DEFAULT", "PRIVILEGES", "FOR", "ROLE" | "USER", role, ..] = words.as_slice() {
        used.push((Defaults, name_of(role)));
    }
    used
}

/// The roles after the last `TO` or `FROM`, and the one after `GRANTED BY`.
fn grantees<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let Some(at) = words.iter().rposition(|word| matches!(*word, "TO" | "FROM")) else { return Vec::new() };
    let named = listed(&words[at + 1..]);
    let after = words.get(at + 2 * named.len()..).unwrap_or_default();
    let by = after.windows(3).find(|three| three[..2] == ["GRANTED", "BY"]).map(|three| three[2]);
    named.into_iter().chain(by).collect()
}

/// The names at the begin, with commas between them. The word after them is none, though a role may be called so.
fn listed<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let (mut names, mut rest) = (Vec::new(), words);
    while let [name, after @ ..] = rest {
        names.push(*name);
        match after {
            [",", next @ ..] => rest = next,
            _ => break,
        }
    }
    names
}

/// The tablespace that a statement names. `pg_dump` writes it as a setting, never as a clause.
#[must_use]
pub fn tablespace(statement: &Statement<'_>) -> Option<String> {
    statement.begins(&["SET", "DEFAULT_TABLESPACE"]).then(|| statement.words.get(2).map(|word| name_of(word))).flatten()
}

#[cfg(test)]
mod tests;
