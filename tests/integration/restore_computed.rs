//! Values that a load computes, under the settings and in the order that its text wants.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;

use crate::support::tree_server::TreeServer;
use crate::support::{Server, Site};

/// A database that exists in none of the tests' sources yet.
fn made(server: &Server, hint: &str, sql: &str) -> String {
    let database = server.fresh_name(hint);
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.query(&database, sql);
    database
}

/// The path of a backup by each way: repository, SQL and archive.
fn sources(server: &Server, site: &Site, database: &str) -> [&'static str; 3] {
    site.run("teslamate-backup", &[]).expect(0);
    server.pg_dump(database, &site.path("a.sql"), &[]);
    server.pg_dump(database, &site.path("a.dump"), &["-Fc"]);
    ["latest", "a.sql", "a.dump"]
}

#[test]
fn k9_each_index_is_built_under_the_settings_that_stand_before_it() {
    let server = Server::shared();
    let database = made(server, "paths", "");
    let site = Site::new(server, &database);
    let mut text = String::from(
        "--\n-- PostgreSQL database dump\n--\n\nSET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\n",
    );
    for schema in ["s1", "s2"] {
        let _ = writeln!(text, "CREATE SCHEMA {schema};\nSET search_path = {schema}, pg_catalog;");
        let _ =
            writeln!(text, "CREATE TABLE t (a integer, b integer, c text);\nCREATE TABLE {schema}_other (a integer);");
    }
    for schema in ["s1", "s2"] {
        let _ = writeln!(text, "SET search_path = {schema}, pg_catalog;\nCOPY t (a, b, c) FROM stdin;");
        // The table of the first schema is still being indexed when the other's turn comes.
        let rows = if schema == "s1" { 60_000 } else { 10 };
        for row in 0..rows {
            let _ = writeln!(text, "{row}\t{}\t{}", rows - row, "x".repeat(40));
        }
        text.push_str("\\.\n\n");
    }
    for schema in ["s1", "s2"] {
        let _ = writeln!(text, "SET search_path = {schema}, pg_catalog;");
        // What has another table goes ahead of what waits for this one.
        let _ = writeln!(text, "CREATE INDEX {schema}_i_o ON {schema}_other USING btree (a);");
        // It keeps the table to itself, so its indexes wait.
        let _ = writeln!(text, "ALTER TABLE ONLY t ADD CONSTRAINT {schema}_key PRIMARY KEY (c, a);");
        for (name, column) in [("u", "a"), ("i_b", "b"), ("i_c", "c")] {
            let unique = if name == "u" { "UNIQUE " } else { "" };
            let _ = writeln!(text, "CREATE {unique}INDEX {schema}_{name} ON t USING btree ({column});");
        }
    }
    text.push_str("\n--\n-- PostgreSQL database dump complete\n--\n\n");
    std::fs::write(site.path("old.sql"), text).unwrap();
    for jobs in ["1", "2", "4", "4"] {
        let copy = server.fresh_name("paths_copy");
        site.run("teslamate-restore", &["old.sql", "--into", &copy, "--allow-other", "--jobs", jobs]).expect(0);
        let places = "SELECT string_agg(format('%s %s', indexrelid::regclass, indrelid::regclass), ',' ORDER BY 1) \
                      FROM (SELECT indexrelid, indrelid FROM pg_index WHERE indrelid::regclass::text LIKE '%.t' ORDER BY indexrelid::regclass::text) i";
        let wanted = "s1.s1_i_b s1.t,s1.s1_i_c s1.t,s1.s1_key s1.t,s1.s1_u s1.t,s2.s2_i_b s2.t,s2.s2_i_c s2.t,s2.s2_key s2.t,s2.s2_u s2.t";
        assert_eq!(server.query(&copy, places), wanted, "{jobs} jobs");
    }
}

#[test]
fn k9_indexes_stay_in_their_tablespaces_with_many_jobs() {
    let server = Server::shared();
    let space = server.fresh_name("space");
    let dir = server.dir().join(&space);
    std::fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, Some(std::fs::metadata(server.data()).unwrap().uid()), None).unwrap();
    server.query("postgres", &format!("CREATE TABLESPACE {space} LOCATION '{}'", dir.display()));
    let database = made(
        server,
        "spaces",
        &format!(
            "CREATE TABLE t1 (id int, a int, b int, t text); \
             INSERT INTO t1 SELECT g, g, g, repeat(md5(g::text), 5) FROM generate_series(1, 50000) g; \
             ALTER TABLE t1 ADD CONSTRAINT t1_key PRIMARY KEY (t, id); CREATE INDEX t1_1 ON t1 (a); \
             CREATE INDEX t1_2 ON t1 (b) TABLESPACE {space}; CREATE INDEX t1_3 ON t1 (a, b); \
             CREATE TABLE t2 (id int PRIMARY KEY, a int); CREATE INDEX t2_1 ON t2 (a); \
             CREATE INDEX t2_2 ON t2 (a) TABLESPACE {space}; CREATE INDEX t2_3 ON t2 (a)"
        ),
    );
    let site = Site::with_repository(server, &database);
    let places = "SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class WHERE relkind = 'i' AND reltablespace <> 0 AND oid >= 16384";
    for source in sources(server, &site, &database) {
        for jobs in ["2", "4"] {
            let copy = server.fresh_name("spaces_copy");
            site.run("teslamate-restore", &[source, "--into", &copy, "--allow-other", "--jobs", jobs]).expect(0);
            assert_eq!(server.query(&copy, places), "t1_2,t2_2", "{source} with {jobs} jobs");
        }
    }
}

/// `pay` is read by a column, which an index, a unique constraint, an event trigger and a publication depend on.
const PAID: &str = "
    CREATE TABLE z_rates (k int PRIMARY KEY, r int); INSERT INTO z_rates VALUES (1, 10), (2, 20);
    CREATE FUNCTION rate(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
        'BEGIN RETURN (SELECT r FROM public.z_rates WHERE k = $1); END';
    CREATE FUNCTION rated(int) RETURNS json LANGUAGE plpgsql IMMUTABLE AS
        'BEGIN RETURN (SELECT to_json(r) FROM public.z_rates WHERE k = $1); END';
    CREATE TABLE a_paid (id int GENERATED ALWAYS AS IDENTITY, k int, v int GENERATED ALWAYS AS (rate(k) * 100 + k) STORED UNIQUE,
        j json GENERATED ALWAYS AS (rated(k)) STORED);
    INSERT INTO a_paid (k) VALUES (1), (2);
    CREATE FUNCTION paid(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
        'BEGIN RETURN (SELECT v FROM public.a_paid WHERE id = $1); END';
    CREATE TABLE a_orders (id int); INSERT INTO a_orders SELECT 1 + g % 2 FROM generate_series(1, 500) g;
    CREATE INDEX orders_paid ON a_orders (paid(id));
    CREATE FUNCTION first_rate() RETURNS int LANGUAGE plpgsql IMMUTABLE AS
        'BEGIN RETURN (SELECT r FROM public.z_rates WHERE k = 1); EXCEPTION WHEN undefined_table THEN RETURN NULL; END';
    CREATE TABLE a_alone (id int GENERATED ALWAYS AS IDENTITY, v int GENERATED ALWAYS AS (first_rate()) STORED);
    INSERT INTO a_alone DEFAULT VALUES;
    CREATE TABLE told (tag text, n int); INSERT INTO told VALUES ('ALTER TABLE', 0), ('REFRESH MATERIALIZED VIEW', 0);
    CREATE MATERIALIZED VIEW sums AS SELECT sum(v) FROM a_paid;
    CREATE FUNCTION tell() RETURNS event_trigger LANGUAGE plpgsql AS
        'BEGIN UPDATE public.told SET n = n + 1 WHERE tag = tg_tag; IF NOT FOUND THEN INSERT INTO public.told VALUES (tg_tag, 1); END IF; END';
    CREATE PUBLICATION all_of_it FOR ALL TABLES;
    CREATE EVENT TRIGGER telling ON ddl_command_end EXECUTE FUNCTION tell();";

#[test]
fn k9_columns_are_computed_before_anything_depends_on_them() {
    let server = Server::shared();
    let database = made(server, "paid", PAID);
    let site = Site::with_repository(server, &database);
    let content = "SET enable_seqscan = off; SELECT (SELECT string_agg(a::text, ' ' ORDER BY id) FROM a_paid a), \
                   (SELECT count(*) FROM a_orders WHERE paid(id) = 1001), (TABLE sums), (SELECT string_agg(a::text, ' ') FROM a_alone a), \
                   (SELECT string_agg(format('%s %s', tag, n), ',' ORDER BY tag) FROM told)";
    let before = server.query(&database, content);
    assert!(before.contains("(1,1,1001,10)") && before.contains("|250|"), "{before}");
    for source in sources(server, &site, &database) {
        for jobs in ["1", "4"] {
            let copy = server.fresh_name("paid_copy");
            site.run("teslamate-restore", &[source, "--into", &copy, "--allow-other", "--jobs", jobs]).expect(0);
            assert_eq!(server.query(&copy, content), before, "{source} with {jobs} jobs");
        }
    }
}

#[test]
fn k4_a_text_search_configuration_of_the_dump_is_used_by_it() {
    let server = Server::shared();
    let database = made(
        server,
        "words",
        "CREATE TEXT SEARCH CONFIGURATION de (COPY = pg_catalog.german); CREATE TABLE a (b text); \
         INSERT INTO a VALUES ('die laufenden Häuser'); CREATE FUNCTION put() RETURNS void LANGUAGE sql AS ''; \
         ALTER DATABASE postgres RESET default_text_search_config",
    );
    server.query("postgres", &format!("ALTER DATABASE {database} SET default_text_search_config = 'public.de'"));
    server.query(&database, "CREATE MATERIALIZED VIEW m AS SELECT to_tsvector(b) AS v FROM a");
    let site = Site::with_repository(server, &database);
    let before = server.query(&database, "TABLE m");
    assert!(before.contains("'hau"), "{before}");
    for source in sources(server, &site, &database) {
        for jobs in ["1", "4"] {
            let copy = server.fresh_name("words_copy");
            site.run("teslamate-restore", &[source, "--into", &copy, "--allow-other", "--jobs", jobs]).expect(0);
            assert_eq!(server.query(&copy, "TABLE m"), before, "{source} with {jobs} jobs");
        }
    }
}

#[test]
fn k4_a_setting_that_the_server_does_not_know_is_told() {
    let server = Server::shared();
    let database =
        made(server, "zones", "CREATE TABLE a (t timestamptz); INSERT INTO a VALUES ('2026-01-01 12:00+00')");
    let site = Site::new(server, &database);
    server.query("postgres", &format!("ALTER DATABASE {database} SET xmlbinary = hex"));
    server.query("postgres", &format!("ALTER DATABASE {database} SET quote_all_identifiers = on"));
    server.query(
        &database,
        "CREATE TABLE made (n text GENERATED ALWAYS AS (quote_ident('n')) STORED, v text); INSERT INTO made VALUES (DEFAULT, 'v')",
    );
    server.pg_dump(&database, &site.path("a.sql"), &[]);
    let text = std::fs::read_to_string(site.path("a.sql")).unwrap();
    // An export says the time zone of its backup; another machine's server may know more of them.
    let unknown = text.replacen("SET client_min", "SET timezone = 'Mars/Olympus';\nSET client_min", 1);
    std::fs::write(site.path("b.sql"), unknown).unwrap();
    let copy = server.fresh_name("zones_copy");
    site.run("teslamate-restore", &["a.sql", "--into", &copy, "--allow-other"]).expect(0);
    assert_eq!(server.query(&copy, "SELECT n FROM made"), "\"n\"");
    let copy = server.fresh_name("zones_copy");
    site.run("teslamate-restore", &["b.sql", "--into", &copy, "--allow-other"]).expect(14).says("Mars/Olympus");
}

/// An export says under which settings its rows were written. A server elsewhere has others.
#[test]
fn k9_what_an_export_says_of_its_rows_holds_for_all_that_is_computed_from_them() {
    let server = Server::shared();
    let database = made(server, "export", "");
    server.query("postgres", &format!("ALTER DATABASE {database} SET timezone = 'Asia/Kolkata'"));
    server.query(
        &database,
        "CREATE FUNCTION day(timestamptz) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT to_char($1, ''YYYY-MM-DD'')'; \
         CREATE TABLE d (id int PRIMARY KEY, t timestamptz, day text GENERATED ALWAYS AS (day(t)) STORED); \
         INSERT INTO d (id, t) SELECT i, '2024-03-01 20:00+00'::timestamptz + i * interval '1 day' FROM generate_series(1, 40) i; \
         CREATE INDEX by_day ON d (day(t)); CREATE MATERIALIZED VIEW m AS SELECT id, day(t) AS day FROM d",
    );
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-backup", &["export", "latest", "a.sql"]).expect(0);
    let elsewhere = made(server, "elsewhere", "CREATE TABLE d (id int)");
    server.query("postgres", &format!("ALTER DATABASE {elsewhere} SET timezone = 'America/New_York'"));
    let there = Site::new(server, &elsewhere);
    let file = site.path("a.sql");
    let content = "SET timezone = 'Asia/Kolkata'; SET enable_seqscan = off; SET enable_bitmapscan = off; \
                   SELECT (SELECT day FROM d WHERE id = 1), (SELECT day FROM m WHERE id = 1), \
                   (SELECT count(*) FROM d WHERE day(t) = '2024-03-03'), (SELECT count(*) FROM d WHERE day = day(t))";
    let before = server.query(&database, content);
    assert_eq!(before, "2024-03-03|2024-03-03|1|40");
    for jobs in ["1", "4"] {
        let copy = server.fresh_name("export_copy");
        let arguments = [file.to_str().unwrap(), "--into", &copy, "--allow-other", "--jobs", jobs];
        let done = there.run("teslamate-restore", &arguments).expect(0);
        assert_eq!(server.query(&copy, content), before, "{jobs} jobs");
        assert!(!done.stderr.contains("computed again"), "{}", done.stderr);
    }
    // Where the text gives a setting up, the application's own holds for the rows that follow.
    let text = "--\n-- PostgreSQL database dump\n--\n\nSET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\n\
                CREATE TABLE public.d (t timestamp with time zone);\nSET timezone = 'Asia/Kolkata';\n\
                COPY public.d (t) FROM stdin;\n2024-01-01 00:00\n\\.\n\nSET timezone TO DEFAULT;\n\
                COPY public.d (t) FROM stdin;\n2024-01-01 00:00\n\\.\n\n\
                INSERT INTO public.d VALUES ('2024-01-02 00:00');\n\n--\n-- PostgreSQL database dump complete\n--\n\n";
    std::fs::write(there.path("b.sql"), text).unwrap();
    for jobs in ["1", "4"] {
        let copy = server.fresh_name("export_copy");
        there.run("teslamate-restore", &["b.sql", "--into", &copy, "--allow-other", "--jobs", jobs]).expect(0);
        let times = "SET timezone = 'UTC'; SELECT string_agg(to_char(t, 'DD HH24:MI'), ' ' ORDER BY t) FROM d";
        assert_eq!(server.query(&copy, times), "31 18:30 01 05:00 02 05:00", "{jobs} jobs");
    }
}

#[test]
fn k9_large_objects_do_not_hide_where_the_rows_end() {
    let server = Server::shared();
    let database = made(
        server,
        "objects",
        "CREATE TABLE z_rates (k int PRIMARY KEY, r int); INSERT INTO z_rates VALUES (1, 10); \
         CREATE FUNCTION rate(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \
             'BEGIN RETURN (SELECT r FROM public.z_rates WHERE k = $1); END'; \
         CREATE TABLE a_paid (k int, v int GENERATED ALWAYS AS (rate(k)) STORED); INSERT INTO a_paid SELECT 1 FROM generate_series(1, 50); \
         SELECT lo_from_bytea(4242, 'hello'); COMMENT ON LARGE OBJECT 4242 IS 'a comment'; GRANT SELECT ON LARGE OBJECT 4242 TO PUBLIC",
    );
    let site = Site::with_repository(server, &database);
    let [latest, sql, dump] = sources(server, &site, &database);
    server.pg_dump(&database, &site.path("b.sql"), &["--inserts"]);
    site.run("teslamate-backup", &["export", "latest", "c.sql"]).expect(0);
    for source in [latest, sql, dump, "b.sql", "c.sql"] {
        let copy = server.fresh_name("objects_copy");
        site.run("teslamate-restore", &[source, "--into", &copy, "--allow-other"]).expect(0);
        let content = "SELECT count(*), sum(v), (SELECT encode(lo_get(4242), 'escape')), \
                       (SELECT obj_description(4242, 'pg_largeobject')) FROM a_paid";
        assert_eq!(server.query(&copy, content), "50|500|hello|a comment", "{source}");
    }
}

#[test]
fn k9_a_column_is_computed_again_where_nothing_else_may_be_written() {
    let alone = "CREATE FUNCTION number() RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS \
                     'BEGIN RETURN (SELECT count(*) FROM public.z_counted); EXCEPTION WHEN undefined_table THEN RETURN NULL; END'; \
                 CREATE TABLE z_counted (i int); INSERT INTO z_counted SELECT generate_series(1, 40); \
                 CREATE TABLE alone (g bigint GENERATED ALWAYS AS (number()) STORED, h bigint GENERATED ALWAYS AS (number()) STORED); \
                 INSERT INTO alone DEFAULT VALUES; ";
    let server = Server::shared();
    let database = made(server, "alone", alone);
    let site = Site::with_repository(server, &database);
    for source in sources(server, &site, &database) {
        let copy = server.fresh_name("alone_copy");
        site.run("teslamate-restore", &[source, "--into", &copy, "--allow-other"]).expect(0).says("was computed again");
        assert_eq!(server.query(&copy, "TABLE alone"), "40|40", "{source}");
    }
    // An identity column of a partition may not be altered by itself.
    let Some(server) = TreeServer::of(17, &[]) else { return };
    server.query("postgres", "CREATE DATABASE teslamate");
    server.query(
        "teslamate",
        &format!(
            "{alone} CREATE TABLE parted (i int GENERATED ALWAYS AS IDENTITY, g bigint GENERATED ALWAYS AS (number()) STORED) PARTITION BY RANGE (i); \
             CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (9); INSERT INTO parted DEFAULT VALUES"
        ),
    );
    let site = server.site(Some(&server.tools()));
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    site.run("teslamate-restore", &["a.dump", "--into", "copy", "--allow-other"]).expect(0).says("was computed again");
    assert_eq!(server.query("copy", "SELECT i, g, (SELECT attidentity FROM pg_attribute WHERE attrelid = 'part'::regclass AND attname = 'i') FROM parted"), "1|40|a");
}
