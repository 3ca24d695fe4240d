//! `teslamate-restore --data-only` where types of the live database are other ones than at the backup, or than a moment ago.

use std::process::Child;
use std::time::{Duration, Instant};

use crate::restore_rows::Kept;

/// Types by name, the value of a column of each, and the types after the backup under which that value becomes another one.
const CHANGED: &[(&str, &str, &str, &str, &str)] = &[
    ("dm", "CREATE DOMAIN dm AS numeric(10,2)", "1.25", "CREATE DOMAIN dm AS numeric(10,1)", "1.3"),
    ("dm", "CREATE DOMAIN dm AS text", "007", "CREATE DOMAIN dm AS int", "7"),
    ("dm", "CREATE DOMAIN dm AS text", "12345", "CREATE DOMAIN dm AS varchar(3)", "123"),
    ("dm[]", "CREATE DOMAIN dm AS float8", "{0.1234567890123}", "CREATE DOMAIN dm AS float4", "{0.12345679}"),
    (
        "ct",
        "CREATE DOMAIN dm AS numeric(10,2); CREATE TYPE ct AS (a dm)",
        "(1.25)",
        "CREATE DOMAIN dm AS numeric(10,1); CREATE TYPE ct AS (a dm)",
        "(1.3)",
    ),
    (
        "fr",
        "CREATE TYPE fr AS RANGE (subtype = timestamptz)",
        "[2020-01-01 00:00+05,2020-01-02 00:00+05)",
        "CREATE TYPE fr AS RANGE (subtype = timestamp)",
        "2020-01-01 19:00:00\")",
    ),
    (
        "rr",
        "CREATE DOMAIN dm AS numeric(6,3); CREATE TYPE rr AS RANGE (subtype = dm)",
        "[1.125,2)",
        "CREATE DOMAIN dm AS numeric(6,1); CREATE TYPE rr AS RANGE (subtype = dm)",
        "[1.1,2.0)",
    ),
    (
        "rm",
        "CREATE DOMAIN dm AS numeric(6,3); CREATE TYPE rr AS RANGE (subtype = dm, multirange_type_name = rm)",
        "{[1.125,2)}",
        "CREATE DOMAIN dm AS numeric(6,1); CREATE TYPE rr AS RANGE (subtype = dm, multirange_type_name = rm)",
        "{[1.1,2.0)}",
    ),
];

#[test]
fn k3_values_that_another_base_type_changes_are_refused() {
    let mut schema = String::new();
    let table = |n: usize, kind: &str| format!("CREATE TABLE t{n} (id int PRIMARY KEY, v s{n}.{kind});");
    let in_schema = |n: usize, types: &str| format!("CREATE SCHEMA s{n}; SET search_path = s{n}, public; {types};");
    for (n, (kind, types, value, ..)) in CHANGED.iter().enumerate() {
        let types = in_schema(n, types);
        let rows = format!("INSERT INTO t{n} VALUES (1, '{value}'), (2, NULL);");
        schema = [schema, types, "SET search_path = public;".to_owned(), table(n, kind), rows].concat();
    }
    let kept = Kept::new("bases", &schema);
    let rows = |n: usize| kept.query(&format!("SELECT string_agg(t{n}::text, ',' ORDER BY id) FROM t{n}"));
    let before: Vec<String> = (0..CHANGED.len()).map(rows).collect();
    // The types may be made again as they were.
    for (n, (kind, types, ..)) in CHANGED.iter().enumerate() {
        let again = in_schema(n, types);
        kept.query(&format!(
            "DROP TABLE t{n}; DROP SCHEMA s{n} CASCADE; {again} SET search_path = public; {}",
            table(n, kind)
        ));
    }
    kept.rows(&[]).expect(0);
    assert_eq!((0..CHANGED.len()).map(rows).collect::<Vec<_>>(), before);
    for (n, (kind, _, _, types, _)) in CHANGED.iter().enumerate() {
        let other = in_schema(n, types);
        kept.query(&format!(
            "DROP TABLE t{n}; DROP SCHEMA s{n} CASCADE; {other} SET search_path = public; {}",
            table(n, kind)
        ));
    }
    let all = kept.rows(&[]).expect(10).says("values of the backup would become other ones").says("is as it was");
    for (n, (.., other)) in CHANGED.iter().enumerate() {
        let line = all.stderr.lines().find(|line| line.contains(&format!("\"public\".\"t{n}\", column v: 1 rows")));
        assert!(line.is_some_and(|line| line.contains(other)), "{n}: {}", all.stderr);
        assert_eq!(rows(n), "");
    }
    all.says("live: s0.dm: numeric(10,1); backup: s0.dm: numeric(10,2)");
    kept.rows(&["--table", "t0"]).expect(10).says("such as 1.25, which would become 1.3");
}

#[test]
fn k3_values_that_another_base_type_keeps_come_back() {
    let kept = Kept::new(
        "wider",
        "CREATE DOMAIN n AS int; CREATE DOMAIN s AS varchar(5); CREATE TYPE e AS ENUM ('a', 'b'); CREATE DOMAIN f AS text; \
         CREATE TABLE t (id int PRIMARY KEY, n n, s s, ss s[], e e, f f); \
         INSERT INTO t VALUES (1, 7, ' x ', '{\"a b\",NULL}', 'b', 'a'), (2, NULL, 'y\\z', NULL, 'a', 'b')",
    );
    let rows = "SELECT string_agg(t::text, ';' ORDER BY id) FROM t";
    let before = kept.query(rows);
    kept.query(
        "DROP TABLE t; DROP DOMAIN n, s, f; DROP TYPE e; CREATE DOMAIN n AS bigint; CREATE DOMAIN s AS text; CREATE DOMAIN e AS text; \
         CREATE TYPE f AS ENUM ('b', 'a'); CREATE TABLE t (id int PRIMARY KEY, n n, s s, ss s[], e e, f f)",
    );
    kept.rows(&[]).expect(0);
    assert_eq!(kept.query(rows), before);
}

#[test]
fn k3_an_array_of_a_domain_with_a_check_that_is_not_valid() {
    let kept = Kept::new(
        "array_check",
        "CREATE DOMAIN d AS numeric(5,1); CREATE TABLE t (id int PRIMARY KEY, v d[]); INSERT INTO t VALUES (1, '{5}'), (2, '{7}')",
    );
    kept.query("ALTER DOMAIN d ADD CHECK (VALUE > 6) NOT VALID; DELETE FROM t WHERE id = 2");
    kept.rows(&[]).expect(0);
    let rows = "SELECT string_agg(t::text, ';' ORDER BY id) FROM t";
    assert_eq!(kept.query(rows), "(1,{5.0});(2,{7.0})");
    kept.query("DELETE FROM t WHERE id = 1");
    kept.rows(&[]).expect(10).says("do not fit table").says("is as it was");
    assert_eq!(kept.query(rows), "(2,{7.0})");
}

/// Executes statements in a transaction that has the table while a restore waits for it.
fn while_waiting(kept: &Kept, statements: &str) -> Child {
    let script = format!(
        "BEGIN; LOCK TABLE t IN ROW EXCLUSIVE MODE; SET LOCAL statement_timeout = '60s'; \
         DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass AND NOT granted) \
         LOOP PERFORM pg_sleep(0.02); END LOOP; END $$; {statements}; COMMIT"
    );
    let arguments = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &kept.site.database, "-c", &script];
    let child = kept.server.tool("psql").args(arguments).spawn().unwrap();
    let give_up = Instant::now() + Duration::from_secs(30);
    let held = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'RowExclusiveLock'";
    while kept.query(held) == "0" {
        assert!(Instant::now() < give_up, "the table is not locked");
    }
    child
}

#[test]
fn k3_types_that_change_while_rows_are_staged_are_refused() {
    let kept = Kept::new(
        "meanwhile_types",
        "CREATE TYPE e AS ENUM ('a', 'b'); CREATE TYPE c AS (e e); CREATE DOMAIN dm AS numeric(10,2); \
         CREATE TABLE t (id int PRIMARY KEY, v e, c c[], d dm); INSERT INTO t VALUES (1, 'a', '{(a)}', 1.25), (2, 'b', NULL, 2)",
    );
    let rows = "SELECT string_agg(t::text, ';' ORDER BY id) FROM t";
    let before = kept.query(rows);
    let change = |statements: &str| {
        kept.query("DELETE FROM t WHERE id = 2");
        let mut other = while_waiting(&kept, statements);
        let done = kept.rows(&[]);
        assert!(other.wait().unwrap().success());
        done
    };
    change("ALTER TYPE e ADD VALUE 'c'").expect(0);
    assert_eq!(kept.query(rows), before);
    let exchange = "ALTER TYPE e RENAME VALUE 'a' TO 'x'; ALTER TYPE e RENAME VALUE 'b' TO 'a'; ALTER TYPE e RENAME VALUE 'x' TO 'b'";
    let refused = change(exchange).expect(10).says("types of table \"public\".\"t\" were changed meanwhile");
    refused.says("public.e: the label").says("the live database is as it was").says("Repeat the command");
    assert_eq!(kept.query(rows), "(1,b,\"{(b)}\",1.25)");
    kept.rows(&[]).expect(0);
    assert_eq!(kept.query(rows), before);
    // By another session, since it locks the table for itself.
    kept.query("DELETE FROM t WHERE id = 2");
    let replaced = "ALTER TABLE t ALTER d TYPE numeric(10,2); DROP DOMAIN dm; CREATE DOMAIN dm AS numeric(10,1); \
                    ALTER TABLE t ALTER d TYPE dm";
    change(replaced).expect(10).says("were changed meanwhile");
    assert_eq!(kept.query("SELECT count(*) FROM t"), "1");
}

#[test]
fn k3_a_table_that_is_renamed_meanwhile_is_said_to_be_gone() {
    let kept = Kept::new("renamed", "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    kept.query("DELETE FROM t");
    let mut other = while_waiting(&kept, "ALTER TABLE t RENAME TO t9");
    let refused = kept.rows(&[]).expect(10).says("a table was renamed or dropped meanwhile");
    assert!(other.wait().unwrap().success());
    refused.says("the live database is as it was").says("Repeat the command");
    kept.rows(&[]).expect(10).says("\"public\".\"t\" is not in the live database");
    assert_eq!(kept.query("SELECT count(*) FROM t9"), "0");
}
