//! Statements that may run beside others: those that build indexes and check constraints, by the tables that they lock.

use super::stream::Statement;

/// Tables that a statement locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Access {
    /// As the dump writes them, without quotes taken away.
    tables: Vec<String>,
    /// Others that lock in the same way may run at the same time, as CREATE INDEX does.
    is_shared: bool,
}

impl Access {
    /// The tables of CREATE INDEX and ALTER TABLE … ADD CONSTRAINT; `None` for every other statement, which has to wait
    /// for all before it.
    pub(super) fn of(statement: &Statement) -> Option<Self> {
        let words: Vec<&str> = statement.words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["CREATE", "INDEX", _, "ON", "ONLY", rest @ ..]
            | ["CREATE", "UNIQUE", "INDEX", _, "ON", "ONLY", rest @ ..]
            | ["CREATE", "INDEX", _, "ON", rest @ ..]
            | ["CREATE", "UNIQUE", "INDEX", _, "ON", rest @ ..] => {
                let end = rest.iter().position(|word| *word == "USING")?;
                Some(Self { tables: vec![rest[..end].join(".")], is_shared: true })
            }
            ["ALTER", "TABLE", "ONLY", rest @ ..] | ["ALTER", "TABLE", rest @ ..] => {
                let end = rest.iter().position(|word| *word == "ADD")?;
                let ["ADD", "CONSTRAINT", _, "PRIMARY" | "UNIQUE" | "CHECK" | "EXCLUDE" | "FOREIGN", ..] = rest[end..]
                else {
                    return None;
                };
                let mut tables = vec![rest[..end].join(".")];
                // Written with its schema if the other one is.
                let referenced = rest.iter().position(|word| *word == "REFERENCES");
                tables.extend(referenced.and_then(|at| Some(rest.get(at + 1..at + 1 + end)?.join("."))));
                Some(Self { tables, is_shared: false })
            }
            _ => None,
        }
    }

    /// Whether the two must not run at the same time.
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        !(self.is_shared && other.is_shared) && self.tables.iter().any(|table| other.tables.contains(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::scan::{Scanner, Statement as Scanned, Visitor};
    use crate::dump::text::Flaw;

    struct Words(Vec<String>);

    impl Visitor for Words {
        fn statement(&mut self, statement: &Scanned<'_>) -> Result<(), Flaw> {
            self.0 = statement.words.to_vec();
            Ok(())
        }
    }

    fn access(text: &str) -> Option<Access> {
        let mut words = Words(Vec::new());
        Scanner::default().feed(format!("{text}\n").as_bytes(), &mut words).unwrap();
        Access::of(&Statement { text: text.into(), line: 1, words: words.0 })
    }

    #[test]
    fn indexes_of_one_table_are_built_beside_each_other_and_constraints_are_not() {
        let index = access("CREATE INDEX a ON public.t USING btree (x);").unwrap();
        let unique = access("CREATE UNIQUE INDEX \"a on\" ON ONLY public.t USING btree (x) WHERE (y > 0);").unwrap();
        let key = access("ALTER TABLE ONLY public.t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (id);").unwrap();
        let other = access("ALTER TABLE ONLY public.u\n    ADD CONSTRAINT u_pkey PRIMARY KEY (id);").unwrap();
        let foreign = access(
            "ALTER TABLE ONLY public.u\n    ADD CONSTRAINT f FOREIGN KEY (t) REFERENCES public.t(id) ON DELETE CASCADE;",
        )
        .unwrap();
        assert!(!index.conflicts(&unique) && index.conflicts(&key) && key.conflicts(&unique));
        assert!(!key.conflicts(&other) && foreign.conflicts(&key) && foreign.conflicts(&other));
        assert!(foreign.conflicts(&index), "rows of the referenced table are looked up");
    }

    #[test]
    fn every_other_statement_waits_for_all_before_it() {
        for text in [
            "ALTER INDEX public.p_a ATTACH PARTITION public.p1_a;",
            "CREATE TRIGGER a AFTER INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION f();",
            "ALTER TABLE public.t CLUSTER ON a;",
            "ALTER TABLE ONLY public.t ADD CONSTRAINT a NOT NULL x NOT VALID;",
            "CREATE STATISTICS public.s ON a, b FROM public.t;",
            "COMMENT ON INDEX public.a IS 'x';",
        ] {
            assert_eq!(access(text), None, "{text}");
        }
    }
}
