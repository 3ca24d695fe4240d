//! `teslamate-restore --data-only`: names that mean several things, sequences that rows do not show, and what it says.

use std::os::unix::fs::PermissionsExt;
use std::{fs, os};

use crate::restore_rows::Kept;
use crate::support::repository::section;

#[test]
fn k3_sequences_that_rows_do_not_show_go_to_the_backups_value() {
    let kept = Kept::new(
        "text_keys",
        "CREATE SEQUENCE \"S's\"; CREATE SEQUENCE down INCREMENT -1; CREATE SEQUENCE fresh; CREATE SEQUENCE f; CREATE SEQUENCE o; \
         CREATE SEQUENCE b; CREATE FUNCTION next_b() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT nextval('b') * 10; END; \
         CREATE TABLE t (code text PRIMARY KEY DEFAULT 'INV-' || nextval('\"S''s\"'), d text DEFAULT nextval('down')::text, \
                         x text DEFAULT nextval('fresh')::text, a bigint[] DEFAULT ARRAY[nextval('b')]); \
         CREATE TABLE floats (f float8 PRIMARY KEY DEFAULT nextval('f'), v int); CREATE TABLE oids (o oid PRIMARY KEY DEFAULT nextval('o'), v int); \
         CREATE TABLE computed (id bigint PRIMARY KEY DEFAULT next_b(), v int); \
         SELECT setval('f', 1234567890123456); \
         INSERT INTO t (x) SELECT 'x' FROM generate_series(1, 20); INSERT INTO floats (v) VALUES (1), (2); \
         INSERT INTO floats VALUES ('NaN', 0), ('Infinity', 0); INSERT INTO oids (v) VALUES (1), (2); INSERT INTO computed (v) VALUES (1)",
    );
    kept.query(
        "DELETE FROM t; DELETE FROM floats; DELETE FROM oids; DELETE FROM computed; ALTER SEQUENCE \"S's\" RESTART; ALTER SEQUENCE down RESTART; \
         ALTER SEQUENCE f RESTART; ALTER SEQUENCE o RESTART; ALTER SEQUENCE b RESTART",
    );
    kept.rows(&[]).expect(0);
    kept.query(
        "INSERT INTO t DEFAULT VALUES; INSERT INTO floats (v) VALUES (3); INSERT INTO oids (v) VALUES (3); INSERT INTO computed (v) VALUES (3)",
    );
    let new = "SELECT code, d, x, (SELECT f::numeric FROM floats WHERE v = 3), (SELECT o FROM oids WHERE v = 3), \
               (SELECT id FROM computed WHERE v = 3) FROM t ORDER BY substr(code, 5)::int DESC LIMIT 1";
    assert_eq!(kept.query(new), "INV-21|-21|1|1234567890123460|3|230");
    // No sequence is set back, and one that the backup does not know is named.
    kept.query(
        "SELECT setval('\"S''s\"', 50); CREATE SEQUENCE since; ALTER TABLE t ALTER x SET DEFAULT nextval('since')::text",
    );
    let done = kept.rows(&["--table", "t"]).expect(0);
    assert_eq!(kept.query("SELECT nextval('\"S''s\"')"), "51");
    done.says("sequence \"public\".\"since\" stays where it is").says("column x of public.t does not show it");
}

#[test]
fn k3_tables_that_are_partitions_no_more_are_named() {
    let kept = Kept::new(
        "moved",
        "CREATE TABLE r (id int) PARTITION BY RANGE (id); CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (10); \
         CREATE TABLE r2 PARTITION OF r FOR VALUES FROM (10) TO (20); CREATE TABLE r3 PARTITION OF r FOR VALUES FROM (20) TO (30); \
         CREATE TABLE s (id int) PARTITION BY RANGE (id); INSERT INTO r VALUES (1), (11), (12); \
         CREATE TABLE p (id int); CREATE TABLE c () INHERITS (p); CREATE TABLE kept () INHERITS (p); INSERT INTO c VALUES (1); \
         INSERT INTO kept VALUES (2)",
    );
    let quiet = kept.rows(&[]).expect(0);
    assert!(!quiet.stderr.contains(" none now") && !quiet.stderr.contains("inherited"), "{}", quiet.stderr);
    kept.query(
        "ALTER TABLE r DETACH PARTITION r2; ALTER TABLE s ATTACH PARTITION r2 FOR VALUES FROM (10) TO (20); \
         ALTER TABLE r DETACH PARTITION r3; ALTER TABLE c NO INHERIT p; DELETE FROM s; DELETE FROM c; DELETE FROM r",
    );
    let done = kept.rows(&[]).expect(0);
    let done = done.says(
        "public.r2 was a partition of public.r and is none now: it gets its 2 rows, which public.r does not show",
    );
    let done = done.says("public.r2 is a partition of public.s now and was none: public.s shows its 2 rows, too");
    let done = done.says("public.c inherited from public.p and does not now: it gets its 1 rows");
    assert!(!done.stderr.contains("public.r3") && !done.stderr.contains("public.kept"), "{}", done.stderr);
    assert_eq!(
        kept.query("SELECT (SELECT count(*) FROM r), (SELECT count(*) FROM s), (SELECT count(*) FROM c)"),
        "1|2|1"
    );
}

#[test]
fn k3_names_with_several_dots_and_views_of_a_name() {
    let kept = Kept::new(
        "dotted",
        "CREATE SCHEMA \"x.y\"; CREATE SCHEMA x; CREATE SCHEMA s2; CREATE TABLE \"x.y\".z (i int); CREATE TABLE x.\"y.z\" (i int); \
         INSERT INTO \"x.y\".z VALUES (1); INSERT INTO x.\"y.z\" VALUES (1); CREATE TABLE s2.drives (i int); INSERT INTO s2.drives VALUES (1); \
         CREATE TABLE x.b (i int); CREATE TABLE s2.b (i int); INSERT INTO x.b VALUES (1); INSERT INTO s2.b VALUES (1); \
         CREATE TABLE s2.\"Aa\" (i int); INSERT INTO s2.\"Aa\" VALUES (1); \
         CREATE VIEW drives AS SELECT 1 AS i; CREATE VIEW v AS SELECT 1 AS i; CREATE MATERIALIZED VIEW m AS SELECT 1 AS i",
    );
    let content = "SELECT (SELECT count(*) FROM \"x.y\".z), (SELECT count(*) FROM x.\"y.z\"), (SELECT count(*) FROM s2.drives), \
                   (SELECT count(*) FROM x.b), (SELECT count(*) FROM s2.b), (SELECT count(*) FROM s2.\"Aa\")";
    kept.query("DELETE FROM \"x.y\".z; DELETE FROM x.\"y.z\"; DELETE FROM s2.drives; DELETE FROM x.b; DELETE FROM s2.b; DELETE FROM s2.\"Aa\"");
    let refused = kept.rows(&["--table", "x.y.z"]).expect(10).says("\"x.y.z\" means more than one table");
    refused.says("--table '\"x\".\"y.z\"' or --table '\"x.y\".\"z\"'");
    let copy = kept.server.fresh_name("dotted_copy");
    let beside = ["latest", "--into", &copy, "--table"];
    let into = |table| kept.site.run("teslamate-restore", &[&beside[..], &[table]].concat());
    into("x.y.z").expect(10).says("means more than one table");
    into("m").expect(10).says("public.m is a materialized view: it has no rows of its own");
    assert_eq!(kept.query(content), "0|0|0|0|0|0");
    kept.rows(&["--table", "\"x.y\".\"z\""]).expect(0);
    kept.rows(&["--table", "b", "--table", "s2.\"Aa\""]).expect(0);
    assert_eq!(kept.query(content), "1|0|0|1|1|1");
    let done = kept.rows(&["--table", "drives"]).expect(0);
    done.says("public.drives is a view, which has no rows of its own: --table drives takes s2.drives");
    assert_eq!(kept.query(content), "1|0|1|1|1|1");
    kept.rows(&["--table", "v"]).expect(10).says("public.v is a view");
    kept.rows(&["--table", "m"]).expect(10).says("public.m is a materialized view");
    into("drives").expect(0).says("--table drives takes s2.drives");
}

#[test]
fn k3_rows_that_constraints_refuse_are_named_with_all_tables() {
    let kept = Kept::new(
        "refused",
        "CREATE TABLE a (id int); CREATE TABLE b (id int); CREATE TABLE k (id int, v text); CREATE TABLE e (id int); \
         INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); INSERT INTO k VALUES (1, 'x'), (1, 'x'), (2, 'y')",
    );
    kept.query("DELETE FROM a; DELETE FROM b; ALTER TABLE a ADD CHECK (id > 1); ALTER TABLE b ADD CHECK (id > 1)");
    let refused = kept.rows(&[]).expect(10).says("the rows of the backup do not fit 2 tables as they are now");
    refused.says("\"public\".\"a\": ").says("\"public\".\"b\": ").says("the live database is as it was");
    kept.query("DELETE FROM k WHERE ctid = '(0,2)'; ALTER TABLE k ADD PRIMARY KEY (id)");
    let refused = kept.rows(&["--table", "k"]).expect(10).says("do not fit table \"public\".\"k\" as it is now");
    refused.says("primary key: id").says("1 rows of the backup have the key of another one");
    assert_eq!(kept.query("SELECT count(*) FROM k"), "2");
}

#[test]
fn k3_a_safety_backup_that_fails_advises_nothing_that_loses_rows() {
    let kept = Kept::new("beyond", "CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    let tools = kept.site.path("tools");
    fs::create_dir(&tools).unwrap();
    let real = kept.query("SELECT setting FROM pg_config WHERE name = 'BINDIR'");
    for tool in fs::read_dir(&real).unwrap().map(|entry| entry.unwrap().path()) {
        os::unix::fs::symlink(&tool, tools.join(tool.file_name().unwrap())).unwrap();
    }
    let pg_dump = tools.join("pg_dump");
    fs::remove_file(&pg_dump).unwrap();
    fs::write(&pg_dump, format!("#!/bin/sh\n[ \"$1\" = --version ] && exec {real}/pg_dump --version\nexit 1\n"))
        .unwrap();
    fs::set_permissions(&pg_dump, fs::Permissions::from_mode(0o755)).unwrap();
    let section = section(&kept.site);
    kept.site.configure(&format!("port = {}\ntools = {tools:?}\n{section}", kept.server.port()), "");
    kept.query("DELETE FROM t");
    let failed = kept.site.run("teslamate-restore", &["latest", "--data-only", "--yes"]);
    assert_ne!(failed.code, Some(0));
    let failed = failed.says("the live database is as it was").says("--no-safety-backup loses them for good");
    assert!(!failed.stderr.contains("kept beside"), "{}", failed.stderr);
    let failed = kept.site.run("teslamate-restore", &["latest", "--yes", "--allow-other"]);
    assert_ne!(failed.code, Some(0));
    failed.says("it is kept beside the new one anyway");
}

#[test]
fn k3_tables_of_extensions_with_rows_of_people_are_named() {
    let kept = Kept::new(
        "settings_tables",
        "CREATE EXTENSION postgis; INSERT INTO spatial_ref_sys (srid, auth_name) VALUES (998000, 'me'); CREATE TABLE t (id int)",
    );
    kept.query("DELETE FROM spatial_ref_sys WHERE srid = 998000");
    let done = kept.rows(&[]).expect(0).text();
    assert!(done.contains("not touched: public.spatial_ref_sys"), "{done}");
}

#[test]
fn r57_a_backup_that_knows_no_migration_is_refused_before_the_load() {
    let kept = Kept::new(
        "no_migration",
        "CREATE TABLE cars (id int); CREATE TABLE positions (id int); CREATE TABLE schema_migrations (version bigint PRIMARY KEY)",
    );
    kept.query("INSERT INTO schema_migrations VALUES (1)");
    let run = |arguments: &[&str]| kept.site.run("teslamate-restore", &[&["latest"], arguments].concat());
    let words = "knows no migration of the application: it has no rows in the table \"schema_migrations\"";
    run(&["--yes", "--no-safety-backup"])
        .expect(10)
        .says(words)
        .says("the live database was not touched")
        .says("--allow-other");
    let drill = run(&["--drill"]).expect(0).says(words);
    drill.says("it does not replace the live database without --allow-other");
    run(&["--yes", "--allow-other"]).expect(0);
    assert_eq!(kept.query("SELECT count(*) FROM schema_migrations"), "0");
}
