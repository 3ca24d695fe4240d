//! Dumps that load in their own order and not in parallel.

use crate::support::{Server, Site};

/// `a_parent` is loaded first by its name; each row of the others wants it to be full. It takes its time, so that a second
/// job begins with them meanwhile.
const CHECKED: &str = "
    CREATE FUNCTION slowly() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.4); RETURN true; END';
    CREATE TABLE a_parent (id integer PRIMARY KEY CHECK (slowly()));
    INSERT INTO a_parent VALUES (1), (2), (3);
    CREATE FUNCTION parent_has(n integer) RETURNS boolean LANGUAGE sql AS
        'SELECT EXISTS (SELECT FROM public.a_parent WHERE id = n)';
    CREATE TABLE b_child (id integer CHECK (parent_has(id)));
    INSERT INTO b_child VALUES (2), (3);
    CREATE DOMAIN known AS integer CHECK (parent_has(VALUE));
    CREATE TABLE c_child (id known);
    INSERT INTO c_child VALUES (3);";

fn restored(server: &Server, database: &str) -> String {
    server.query(
        database,
        "SELECT (SELECT count(*) FROM a_parent), (SELECT count(*) FROM b_child), (SELECT count(*) FROM c_child)",
    )
}

#[test]
fn k9_a_check_that_reads_another_table_is_loaded_in_order() {
    let server = Server::shared();
    let database = server.teslamate("checked");
    server.query(&database, CHECKED);
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    server.pg_dump(&database, &site.path("a.sql"), &[]);
    server.pg_dump(&database, &site.path("a.dump"), &["-Fc"]);
    server.pg_dump(&database, &site.path("a.dir"), &["-Fd"]);
    server.pg_dump(&database, &site.path("a.tar"), &["-Ft"]);
    for source in ["latest", "a.sql", "a.dump", "a.dir", "a.tar"] {
        let copy = server.fresh_name("checked_copy");
        let outcome = site.run("teslamate-restore", &["--into", &copy, "--jobs", "4", source]).expect(0);
        assert_eq!(restored(server, &copy), "3|2|1", "{source}");
        outcome.says("loading again with one");
    }
    site.run("teslamate-restore", &["--yes", "--jobs", "4", "latest"]).expect(0);
    assert_eq!(restored(server, &database), "3|2|1");
    assert_eq!(server.databases(&format!("{database}_restore_")), Vec::<String>::new());
}

#[test]
fn k9_a_check_that_wants_the_other_table_empty_is_loaded() {
    let server = Server::shared();
    let database = server.teslamate("emptied");
    server.query(
        &database,
        "CREATE TABLE a_first (id integer, filler text); CREATE TABLE b_second (id integer); \
         CREATE FUNCTION second_is_empty() RETURNS boolean LANGUAGE plpgsql AS \
             'BEGIN PERFORM pg_sleep(0.001); RETURN NOT EXISTS (SELECT FROM public.b_second); END'; \
         ALTER TABLE a_first ADD CHECK (second_is_empty()); \
         INSERT INTO a_first SELECT i, repeat('x', 500) FROM generate_series(1, 300) i; \
         INSERT INTO b_second VALUES (1)",
    );
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    server.pg_dump(&database, &site.path("a.dump"), &["-Fc"]);
    server.pg_dump(&database, &site.path("a.sql"), &[]);
    for source in ["latest", "a.dump", "a.sql"] {
        let copy = server.fresh_name("emptied_copy");
        site.run("teslamate-restore", &["--into", &copy, "--jobs", "4", source]).expect(0);
        assert_eq!(
            server.query(&copy, "SELECT (SELECT count(*) FROM a_first), (SELECT count(*) FROM b_second)"),
            "300|1"
        );
    }
}

#[test]
fn k9_names_against_the_dependency_come_back_from_a_backup() {
    let server = Server::shared();
    let database = server.teslamate("against");
    server.query(&database, &CHECKED.replace("a_parent", "z_parent"));
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    server.pg_dump(&database, &site.path("a.dump"), &["-Fc"]);
    let copy = server.fresh_name("against_copy");
    site.run("teslamate-restore", &["--into", &copy, "--jobs", "4", "latest"]).expect(0);
    assert_eq!(server.query(&copy, "SELECT count(*) FROM b_child"), "2");
    // Nothing loads this archive; the error is that of the load in order.
    let failed = site.run("teslamate-restore", &["--drill", "--jobs", "4", "a.dump"]).expect(14);
    assert!(failed.stderr.contains("loading again with one") && failed.stderr.contains("b_child"), "{}", failed.stderr);
}

#[test]
fn k9_rows_that_no_order_loads_fail_with_their_reason() {
    let server = Server::shared();
    let database = server.teslamate("never");
    server.query(&database, "CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    server.query(
        &database,
        "CREATE FUNCTION no() RETURNS boolean LANGUAGE sql AS 'SELECT true'; ALTER TABLE t ADD CHECK (no())",
    );
    server.query(&database, "CREATE OR REPLACE FUNCTION no() RETURNS boolean LANGUAGE sql AS 'SELECT false'");
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    let failed = site.run("teslamate-restore", &["--drill", "--jobs", "2", "latest"]).expect(14);
    assert!(failed.stderr.contains("violates check constraint \"t_check\""), "{}", failed.stderr);
    assert_eq!(server.databases(&format!("{database}_restore_")), Vec::<String>::new());
}

#[test]
fn k9_a_view_that_reads_another_view_is_refreshed_in_order() {
    let server = Server::shared();
    let database = server.teslamate("views");
    server.query(
        &database,
        "CREATE MATERIALIZED VIEW a_view AS SELECT 7 AS n, pg_sleep(0.7)::text AS s; \
         CREATE FUNCTION seven() RETURNS integer LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT n FROM public.a_view); END'; \
         CREATE MATERIALIZED VIEW b_view AS SELECT seven() AS n",
    );
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    server.pg_dump(&database, &site.path("a.dump"), &["-Fc"]);
    server.pg_dump(&database, &site.path("a.sql"), &[]);
    for source in ["latest", "a.dump", "a.sql"] {
        let copy = server.fresh_name("views_copy");
        site.run("teslamate-restore", &["--into", &copy, "--jobs", "4", source]).expect(0);
        assert_eq!(server.query(&copy, "SELECT n FROM b_view"), "7");
    }
}

#[test]
fn k9_what_no_order_mends_is_not_tried_again() {
    let server = Server::shared();
    let database = server.teslamate("hopeless");
    server.query(
        &database,
        "CREATE TABLE a_parent (id integer); CREATE TABLE b_child (id integer); \
         CREATE FUNCTION has() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM FROM a_parent; RETURN true; END'; \
         ALTER TABLE b_child ADD CHECK (has()); INSERT INTO b_child VALUES (1)",
    );
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    server.pg_dump(&database, &site.path("a.dump"), &["-Fc"]);
    for source in ["latest", "a.dump"] {
        let failed = site.run("teslamate-restore", &["--drill", "--jobs", "4", source]).expect(14);
        let failed = failed.says("relation \"a_parent\" does not exist");
        assert!(!failed.stderr.contains("loading again"), "{source}: {}", failed.stderr);
    }
    assert_eq!(server.databases(&format!("{database}_restore_")), Vec::<String>::new());
}

#[test]
fn k9_an_error_that_a_function_raises_is_tried_again_whatever_it_says() {
    let server = Server::shared();
    let database = server.teslamate("raised");
    server.query(
        &database,
        "CREATE TABLE ztypes (id int PRIMARY KEY); CREATE FUNCTION chkz(i int) RETURNS boolean LANGUAGE plpgsql AS \
         'BEGIN IF NOT EXISTS (SELECT FROM public.ztypes WHERE id = i) THEN RAISE EXCEPTION ''type % does not exist'', i; \
         END IF; RETURN true; END'; CREATE TABLE bcars (i int CHECK (chkz(i)), t text); \
         INSERT INTO ztypes VALUES (1), (2); INSERT INTO bcars VALUES (2, 'x')",
    );
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-restore", &["--drill", "--jobs", "2", "latest"]).expect(0).says("loading again");
}

/// `price` is told to be immutable and reads a table that is loaded later. A trigger would write over the notes; another one is disabled.
const GENERATED: &str = "
    CREATE TABLE tariff (id int PRIMARY KEY, cents int); INSERT INTO tariff VALUES (1, 25), (2, 40);
    CREATE FUNCTION price(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
        'BEGIN RETURN (SELECT cents FROM public.tariff WHERE id = $1); END';
    CREATE TABLE a_drives (id int, tariff int, note text, cost int GENERATED ALWAYS AS (price(tariff)) STORED);
    INSERT INTO a_drives SELECT i, 1 + i % 2, 'mine' FROM generate_series(1, 100) i;
    INSERT INTO a_drives VALUES (101, 3, 'mine');
    CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := ''spoiled''; RETURN NEW; END';
    CREATE TRIGGER one BEFORE UPDATE ON a_drives FOR EACH ROW EXECUTE FUNCTION spoil();
    CREATE TRIGGER two BEFORE UPDATE ON a_drives FOR EACH ROW EXECUTE FUNCTION spoil();
    CREATE TRIGGER three BEFORE UPDATE ON a_drives FOR EACH ROW EXECUTE FUNCTION spoil();
    ALTER TABLE a_drives DISABLE TRIGGER two; ALTER TABLE a_drives ENABLE ALWAYS TRIGGER three;
    CREATE TABLE zz_right (id int, tariff int, cost int GENERATED ALWAYS AS (price(tariff)) STORED);
    INSERT INTO zz_right VALUES (1, 1), (2, NULL);
    CREATE MATERIALIZED VIEW total AS SELECT sum(cost) FROM a_drives;
    CREATE TABLE plain (id int, twice int GENERATED ALWAYS AS (id * 2) STORED); INSERT INTO plain VALUES (1);";

#[test]
fn k9_a_generated_column_that_reads_another_table_is_right() {
    let server = Server::shared();
    let database = server.teslamate("generated");
    // Owned by the application's role, which restores.
    let owned = format!("SET SESSION AUTHORIZATION teslamate; {GENERATED}");
    server.query(&database, &owned);
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    server.pg_dump(&database, &site.path("a.sql"), &[]);
    server.pg_dump(&database, &site.path("a.dump"), &["-Fc"]);
    let content = "SELECT (SELECT md5(string_agg(d::text, ',' ORDER BY id)) FROM a_drives d), (SELECT * FROM total), \
                   (SELECT string_agg(z::text, ',' ORDER BY id) FROM zz_right z), (SELECT twice FROM plain), \
                   (SELECT string_agg(format('%s %s', tgname, tgenabled), ' ' ORDER BY tgname) FROM pg_trigger WHERE NOT tgisinternal)";
    for source in ["latest", "a.sql", "a.dump"] {
        let copy = server.fresh_name("generated_copy");
        let outcome = site.run("teslamate-restore", &["--into", &copy, "--jobs", "1", source]).expect(0);
        assert_eq!(server.query(&copy, content), server.query(&database, content), "{source}: {}", outcome.stderr);
        // Rows of the tariff that is in no table are right as they are.
        let says = outcome.stderr.contains("100 rows of public.a_drives: the generated column cost was computed again");
        assert!(says, "{source}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("zz_right") && !outcome.stderr.contains("plain:"), "{}", outcome.stderr);
    }
}

#[test]
fn k12_a_row_that_is_refused_is_one_of_the_rows() {
    let server = Server::shared();
    let database = server.fresh_name("refused_row");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.query(&database, "CREATE TABLE t (id int PRIMARY KEY, v varchar(9)); INSERT INTO t VALUES (1, 'long')");
    let site = Site::new(server, &database);
    server.pg_dump(&database, &site.path("a.sql"), &["--inserts"]);
    let text = std::fs::read_to_string(site.path("a.sql")).unwrap().replace("varying(9)", "varying(3)");
    std::fs::write(site.path("a.sql"), text).unwrap();
    let refused = site.run("teslamate-restore", &["a.sql", "--drill"]).expect(14);
    refused.says("section:   data").says("INSERT INTO public.t VALUES (1, 'long');");
}
