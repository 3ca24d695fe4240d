use super::*;
use crate::dump::scan::{Scanner, Visitor};
use crate::dump::text::Flaw;

#[derive(Default)]
struct Decisions(Vec<Disposition>, Vec<String>);

impl Visitor for Decisions {
    fn statement(&mut self, statement: &Statement<'_>) -> Result<(), Flaw> {
        self.0.push(disposition(statement));
        self.1.extend(roles(statement).into_iter().map(|(_, role)| role));
        Ok(())
    }
}

fn decide(text: &str) -> Decisions {
    let mut decisions = Decisions::default();
    Scanner::default().feed(format!("{text}\n").as_bytes(), &mut decisions).unwrap();
    decisions
}

#[test]
fn what_pg_dump_writes_is_kept() {
    for text in [
        "SET statement_timeout = 0;",
        "SELECT pg_catalog.set_config('search_path', '', false);",
        "SELECT pg_catalog.setval('public.a_id_seq', 3, true);",
        "CREATE TABLE public.a (id integer);",
        "ALTER TABLE ONLY public.a ADD CONSTRAINT a_pkey PRIMARY KEY (id);",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$SELECT 1$$;",
        "CREATE USER MAPPING FOR teslamate SERVER other;",
        "GRANT SELECT ON TABLE public.a TO grafana;",
        "INSERT INTO public.a VALUES (1);",
        "INSERT INTO public.a (b, \"from\") OVERRIDING SYSTEM VALUE VALUES (-1.5e-10, NULL), (true, E'\\\\') ON CONFLICT DO NOTHING;",
        "INSERT INTO public.a DEFAULT VALUES;",
        "SET default_with_oids = false;",
        "SET ROLE boss;",
        "REFRESH MATERIALIZED VIEW public.m;",
        "SELECT * FROM pg_catalog.pg_restore_relation_stats('version', '180000'::integer, 'relname', 'a');",
        "SELECT * FROM pg_catalog.pg_restore_attribute_stats('version', '180000'::integer, 'attname', 'b');",
        "SELECT * FROM pg_catalog.pg_restore_extended_stats('version', '190000'::integer, 'schemaname', 'public');",
        "COPY public.a (id) FROM stdin;",
        "SET SESSION AUTHORIZATION boss;",
        "RESET SESSION AUTHORIZATION;",
        "CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p WITH (connect = false, slot_name = 's');",
        "COMMENT ON CONSTRAINT t_pkey ON role.t IS 'x';",
        "COMMENT ON TRIGGER a ON tablespace IS 'x';",
        "COMMENT ON TABLE public.t IS 'x';",
        "SECURITY LABEL FOR dummy ON COLUMN role.t.on IS 'x';",
        "GRANT SELECT ON TABLE database.t TO x;",
        "GRANT SELECT ON database.t TO x;",
        "GRANT SELECT ON parameter TO x;",
        "CREATE TABLE public.function (language internal);",
        "CREATE FUNCTION f(language c) RETURNS language LANGUAGE sql AS $$SELECT 1$$;",
        "CREATE SCHEMA \"PUBLIC\";",
        "COMMENT ON SCHEMA \"PUBLIC\" IS 'standard public schema';",
        "COMMENT ON EXTENSION \"PLPGSQL\" IS 'x';",
    ] {
        assert_eq!(decide(text).0, [Disposition::Keep], "{text}");
    }
}

#[test]
fn what_makes_room_or_concerns_the_database_is_left_out() {
    for (text, reason) in [
        ("DROP TABLE IF EXISTS public.a;", Skipped::Clean),
        ("ALTER TABLE IF EXISTS ONLY public.a DROP CONSTRAINT IF EXISTS a_pkey;", Skipped::Clean),
        ("ALTER TABLE public.a ALTER COLUMN id DROP DEFAULT;", Skipped::Clean),
        ("CREATE DATABASE teslamate WITH TEMPLATE = template0;", Skipped::Database),
        ("ALTER ROLE grafana IN DATABASE teslamate SET TimeZone TO 'UTC';", Skipped::Database),
        ("GRANT CONNECT ON DATABASE teslamate TO grafana;", Skipped::Database),
        ("CREATE SCHEMA public;", Skipped::PublicSchema),
        ("CREATE SCHEMA \"public\";", Skipped::PublicSchema),
        ("COMMENT ON EXTENSION \"plpgsql\" IS 'PL/pgSQL procedural language';", Skipped::BuiltIn),
        ("COMMENT ON SCHEMA \"public\" IS 'standard public schema';", Skipped::BuiltIn),
        ("COMMIT;", Skipped::Transaction),
        ("COMMENT ON EXTENSION plpgsql IS 'PL/pgSQL procedural language';", Skipped::BuiltIn),
        ("COMMENT ON SCHEMA public IS 'standard public schema';", Skipped::BuiltIn),
    ] {
        assert_eq!(decide(text).0, [Disposition::Skip(reason)], "{text}");
    }
}

#[test]
fn r51_what_pg_dump_never_writes_is_refused() {
    for text in [
        "COPY public.a FROM PROGRAM 'id';",
        "COPY public.a TO '/tmp/x';",
        "ALTER SYSTEM SET archive_command = 'x';",
        "CREATE TEMPORARY TABLE a (b integer);",
        "ALTER GROUP a ADD USER b;",
        "COMMENT ON ROLE postgres IS 'x';",
        "COMMENT ON TABLESPACE pg_default IS 'x';",
        "GRANT SET ON PARAMETER work_mem TO PUBLIC;",
        "SET session_preload_libraries = 'x';",
        "SET role_ = 'x';",
        "SET standard_conforming_strings TO 'off';",
        "SELECT pg_catalog.set_config('role', 'postgres', false);",
        "SELECT pg_catalog.setval('a', pg_catalog.pg_sleep(1)::int);",
        "INSERT INTO public.a SELECT 1;",
        "INSERT INTO public.a VALUES ((SELECT 1));",
        "INSERT INTO public.a VALUES (pg_sleep(1));",
        "INSERT INTO public.a VALUES (current_user);",
        "INSERT INTO public.a VALUES (1) RETURNING *;",
        "COPY (SELECT id FROM stdin) TO stdout;",
        "COPY public.a FROM stdin WITH (FORMAT csv);",
        "CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION \"connect = false\" WITH (connect = true);",
        "CREATE ROLE root SUPERUSER;",
        "GRANT postgres TO teslamate;",
        "DO $$BEGIN END$$;",
        "SELECT pg_read_file('/etc/passwd');",
        "UPDATE public.a SET id = 1;",
        "CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p;",
    ] {
        assert!(matches!(decide(text).0.as_slice(), [Disposition::Refuse(_)]), "{text}");
    }
    let cut = format!("CREATE FUNCTION f() RETURNS int SET x TO language{} LANGUAGE c AS 'x';", ", a".repeat(3000));
    for text in [
        &cut,
        "CREATE FUNCTION f(language text) RETURNS int LANGUAGE internal AS 'x';",
        "CREATE FUNCTION f() RETURNS TABLE(language text) LANGUAGE c AS 'x';",
        "CREATE FUNCTION s.language() RETURNS language LANGUAGE c AS 'x';",
        "CREATE FUNCTION f() RETURNS int SET x TO language, begin, atomic AS 'x' LANGUAGE c;",
        "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'libc', 'system';",
        "CREATE OR REPLACE FUNCTION f() RETURNS int AS 'libc', 'system' LANGUAGE \"c\";",
        "CREATE FUNCTION f() RETURNS int LANGUAGE 'internal' AS 'x';",
        "CREATE FUNCTION f() RETURNS int LANGUAGE $$c$$ AS 'x';",
        "CREATE FUNCTION f() RETURNS int LANGUAGE E'\\x63' AS 'x';",
        "CREATE FUNCTION f() RETURNS int LANGUAGE U&\"\\0063\" AS 'x';",
    ] {
        assert!(matches!(decide(text).0.as_slice(), [Disposition::Distrust(_)]), "{text}");
    }
}

#[test]
fn the_roles_that_must_exist_are_known() {
    let text = "ALTER TABLE public.a OWNER TO teslamate; GRANT SELECT ON TABLE a TO \"Graf\"\"ana\", bob; \
                GRANT ALL ON SCHEMA public TO PUBLIC; \
                ALTER DEFAULT PRIVILEGES FOR ROLE boss IN SCHEMA public GRANT SELECT ON TABLES TO bill; \
                CREATE POLICY p ON public.a FOR SELECT TO eve, \"Mallory\" USING (true); \
                CREATE USER MAPPING FOR trent SERVER s OPTIONS (password 'x'); \
                REVOKE ALL ON TABLE a FROM peggy; GRANT SELECT ON a TO PUBLIC GRANTED BY walter; \
                GRANT SELECT ON a TO cascade, granted WITH GRANT OPTION GRANTED BY restrict; \
                CREATE POLICY p ON t USING (a > '1 year'::interval year to month); \
                SET SESSION AUTHORIZATION 'Olivia'; SET SESSION AUTHORIZATION oscar; \
                SET SESSION AUTHORIZATION DEFAULT;";
    // The one with default privileges has two reasons to be there.
    let expected =
        "teslamate Graf\"ana bob boss bill boss eve Mallory trent peggy walter cascade granted restrict Olivia oscar";
    assert_eq!(decide(text).1.join(" "), expected);
}

#[test]
fn empty_views_that_make_room_are_left_out_without_columns_too() {
    #[derive(Default)]
    struct InOrder(Rules, Vec<Disposition>);
    impl Visitor for InOrder {
        fn statement(&mut self, statement: &Statement<'_>) -> Result<(), Flaw> {
            self.1.push(self.0.disposition(statement));
            Ok(())
        }
    }
    let empty = "CREATE OR REPLACE VIEW public.v AS\nSELECT;\nCREATE OR REPLACE VIEW public.w AS\nSELECT\n    NULL::integer AS a;\n";
    let mut decisions = InOrder::default();
    let text = format!("{empty}{empty}CREATE TABLE public.t ();\n{empty}");
    Scanner::default().feed(text.as_bytes(), &mut decisions).unwrap();
    let (skip, keep) = (Disposition::Skip(Skipped::Clean), Disposition::Keep);
    assert_eq!(decisions.1[..4], [skip.clone(), skip.clone(), skip.clone(), skip]);
    assert_eq!(decisions.1[4..], [keep.clone(), keep.clone(), keep]);
}
