//! Statements that a role of our own leaves to the superuser: owners, privileges, and words on what belongs to others.
//!
//! None of them runs code of the dump, in the exact form that `pg_dump` writes.

use std::sync::{Arc, Mutex, PoisonError};

use super::authorization::AUTHORIZATION;
use super::session::Settings;
use super::stream::Statement;

/// Kinds that are owned as a table is: `ALTER` may do several things at once with one, and compute values for one of them.
const RELATIONS: [&str; 6] = ["TABLE", "VIEW", "SEQUENCE", "MATERIALIZED", "FOREIGN", "INDEX"];

/// Statements that come at the end, each with the settings that stood before it.
#[derive(Debug, Default)]
pub(super) struct Later(Mutex<Vec<(Statement, Arc<Settings>)>>);

impl Later {
    /// Keeps a statement that is one of these; whether it is.
    pub(super) fn keep(&self, statement: &Statement, settings: &Arc<Settings>) -> bool {
        let is_kept = is_for_the_superuser(statement);
        if is_kept {
            self.lock().push((statement.clone(), settings.clone()));
        }
        is_kept
    }

    /// All that were kept, in their order.
    pub(super) fn take(&self) -> Vec<(Statement, Arc<Settings>)> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Statement, Arc<Settings>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a statement says in whose name those after it are executed.
pub(super) fn is_authorization(statement: &Statement) -> bool {
    Settings::key(statement).is_some_and(|key| key == AUTHORIZATION)
}

fn is_for_the_superuser(statement: &Statement) -> bool {
    let begins = |words: &[&str]| statement.begins(words);
    begins(&["GRANT"])
        || begins(&["REVOKE"])
        || begins(&["ALTER", "DEFAULT", "PRIVILEGES"])
        || begins(&["COMMENT", "ON", "EXTENSION"])
        || begins(&["COMMENT", "ON", "SCHEMA"])
        || is_change_of_owner(statement)
}

/// `ALTER … OWNER TO role`, and nothing beside it.
fn is_change_of_owner(statement: &Statement) -> bool {
    let [first, kind, .., owner, to, _] = statement.words.as_slice() else { return false };
    let says_so = first == "ALTER" && owner == "OWNER" && to == "TO";
    says_so && (!RELATIONS.contains(&kind.as_str()) || is_plain(&statement.text))
}

/// Whether a text is words and quoted names alone.
fn is_plain(text: &[u8]) -> bool {
    let mut is_quoted = false;
    text.trim_ascii_end().strip_suffix(b";").unwrap_or(text).iter().all(|byte| {
        is_quoted ^= *byte == b'"';
        is_quoted || !b"(),;'$".contains(byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::scan::{Scanner, Visitor};
    use crate::dump::text::Flaw;

    #[derive(Default)]
    struct Found(Vec<Statement>);

    impl Visitor for Found {
        fn statement(&mut self, found: &crate::dump::scan::Statement<'_>) -> Result<(), Flaw> {
            let (text, words) = (found.text.to_vec(), found.words.to_vec());
            self.0.push(Statement { text, words, line: found.line });
            Ok(())
        }
        fn meta(&mut self, _: &str, _: u64) -> Result<(), Flaw> {
            Ok(())
        }
        fn data(&mut self, _: &[u8], _: u64) -> Result<(), Flaw> {
            Ok(())
        }
        fn data_end(&mut self, _: u64) -> Result<(), Flaw> {
            Ok(())
        }
    }

    fn is_kept(text: &str) -> bool {
        let (mut scanner, mut found) = (Scanner::default(), Found::default());
        scanner.feed(text.as_bytes(), &mut found).unwrap();
        scanner.finish(&mut found).unwrap();
        assert_eq!(found.0.len(), 1, "{text}");
        Later::default().keep(&found.0[0], &Arc::default())
    }

    #[test]
    fn k18_the_superuser_executes_owners_and_privileges_alone() {
        for text in [
            "ALTER TABLE public.positions OWNER TO teslamate;",
            "ALTER TABLE \"a, (b)\".\"OWNER TO x;\" OWNER TO \"b,c\";",
            "ALTER FUNCTION public.f(a integer, b text) OWNER TO teslamate;",
            "ALTER MATERIALIZED VIEW public.m OWNER TO x;",
            "ALTER LARGE OBJECT 12 OWNER TO x;",
            "ALTER SCHEMA s OWNER TO x;",
            "GRANT SELECT ON TABLE public.t TO x;",
            "REVOKE ALL ON SCHEMA public FROM PUBLIC;",
            "ALTER DEFAULT PRIVILEGES FOR ROLE x GRANT SELECT ON TABLES TO y;",
            "COMMENT ON EXTENSION cube IS 'x';",
        ] {
            assert!(is_kept(text), "{text}");
        }
        for text in [
            "ALTER TABLE public.t ALTER COLUMN a TYPE integer USING public.evil(a), OWNER TO x;",
            "ALTER TABLE public.t ALTER COLUMN a TYPE integer USING a #> 'x', OWNER TO x;",
            "ALTER TABLE ONLY public.t ADD CONSTRAINT t_pkey PRIMARY KEY (id);",
            "ALTER TABLE public.t ENABLE ROW LEVEL SECURITY;",
            "CREATE TABLE public.t (owner text, \"to\" text);",
            "COMMENT ON TABLE public.t IS 'OWNER TO x';",
        ] {
            assert!(!is_kept(text), "{text}");
        }
    }
}
