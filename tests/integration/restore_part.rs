//! Parts of a dump: tables whose columns use the database's own types, schemas, collations and functions.

use crate::support::tree_server::TreeServer;
use crate::support::{Server, Site};

/// Tables of which each needs something else than tables.
const NEEDY: &str = "
    CREATE SCHEMA own; CREATE EXTENSION hstore SCHEMA own;
    CREATE TYPE own.mood AS ENUM ('low', 'high'); CREATE DOMAIN own.positive AS integer CHECK (VALUE > 0);
    CREATE COLLATION own.c_like FROM \"C\"; CREATE TYPE own.pair AS (a integer, b own.mood);
    CREATE FUNCTION own.inner_one() RETURNS integer LANGUAGE sql AS 'SELECT 7';
    CREATE FUNCTION own.one() RETURNS integer LANGUAGE sql AS 'SELECT own.inner_one()';
    CREATE FUNCTION own.twice(n integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT n * 2';
    CREATE FUNCTION own.is_seven(n integer) RETURNS boolean LANGUAGE sql AS 'SELECT n = own.inner_one()';
    CREATE TABLE own.other (id integer PRIMARY KEY); INSERT INTO own.other VALUES (1);
    CREATE TABLE \"wi th\" (id serial PRIMARY KEY, number bigint GENERATED ALWAYS AS IDENTITY, m own.mood, p own.positive,
        c text COLLATE own.c_like, f integer DEFAULT own.one() CHECK (own.is_seven(f)),
        g integer GENERATED ALWAYS AS (own.twice(3)) STORED, h own.hstore, r own.pair, row_of own.other,
        other integer REFERENCES own.other);
    CREATE INDEX ON \"wi th\" (own.twice(id));
    INSERT INTO \"wi th\" (m, p, c, h, r, row_of, other) VALUES ('high', 3, 'c', 'a=>1', '(1,low)', ROW(4), 1), ('low', 1, 'd', NULL, NULL, NULL, NULL);
    CREATE FUNCTION reads() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM own.other';
    CREATE VIEW seen AS SELECT m FROM \"wi th\";";

const STATE: &str = "SELECT string_agg(t::text, '|' ORDER BY id) FROM \"wi th\" t";

#[test]
fn k5_a_part_brings_what_its_tables_are_made_of() {
    let server = Server::shared();
    let database = server.teslamate("needy");
    server.query(&database, NEEDY);
    let expected = server.query(&database, STATE);
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    server.pg_dump(&database, &site.path("a.dump"), &["-Fc"]);
    server.pg_dump(&database, &site.path("a.dir"), &["-Fd"]);
    server.pg_dump(&database, &site.path("a.tar"), &["-Ft"]);
    for source in ["latest", "a.dump", "a.dir", "a.tar"] {
        let copy = server.fresh_name("needy_copy");
        let done = site
            .run("teslamate-restore", &[source, "--into", &copy, "--table", "wi th"])
            .expect(0)
            .says("no primary or foreign keys")
            .says("definitions without rows, which the part needs: own.other");
        assert!(!done.stderr.contains("public.cars"), "{}", done.stderr);
        assert_eq!(server.query(&copy, STATE), expected, "{source}");
        assert_eq!(server.query(&copy, "SELECT count(*), to_regclass('cars') IS NULL FROM own.other"), "0|t");
        let added = "INSERT INTO \"wi th\" (m) VALUES ('low') RETURNING id, number, f";
        assert_eq!(server.query(&copy, added).lines().next(), Some("3|3|7"), "{source}");
        for table in ["private.tokens", "states", "geofences", "own.other"] {
            site.run("teslamate-restore", &[source, "--drill", "--table", table]).expect(0);
        }
        let both = ["--drill", "--table", "states", "--table", "wi th", source];
        let rows = site.run("teslamate-restore", &[&both[..], &["--json"]].concat()).expect(0).json();
        let states: u64 = server.query(&database, "SELECT count(*) FROM states").parse().unwrap();
        assert_eq!(rows["rows"], states + 2, "{rows}");
    }
    site.run("teslamate-backup", &["a.sql"]).expect(0);
    site.run("teslamate-restore", &["--drill", "--table", "states", "a.sql"]).expect(10).says("is SQL text");
}

#[test]
fn k5_a_part_is_loaded_on_newer_servers() {
    for major in [17, 18] {
        let Some(server) = TreeServer::of(major, &[]) else { continue };
        server.query("postgres", "CREATE ROLE teslamate SUPERUSER LOGIN");
        server.query("postgres", "CREATE DATABASE teslamate OWNER teslamate");
        server.query("teslamate", NEEDY);
        let expected = server.query("teslamate", STATE);
        let site = server.site(Some(&server.tools()));
        site.run("teslamate-backup", &["a.dump"]).expect(0);
        site.run("teslamate-restore", &["a.dump", "--into", "copy", "--table", "wi th"]).expect(0);
        assert_eq!(server.query("copy", STATE), expected, "{major}");
    }
}

#[test]
fn k5_partitions_are_taken_with_or_without_their_table() {
    let server = Server::shared();
    let database = server.fresh_name("alone");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.query(
        &database,
        "CREATE TYPE kind AS ENUM ('a', 'b'); CREATE TABLE m (k kind, n int) PARTITION BY HASH (k); \
         CREATE TABLE m0 PARTITION OF m FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
         CREATE TABLE m1 PARTITION OF m FOR VALUES WITH (MODULUS 2, REMAINDER 1); \
         INSERT INTO m VALUES ('a', 1), ('b', 2); CREATE TABLE up (k kind); CREATE TABLE down () INHERITS (up); \
         INSERT INTO down VALUES ('b')",
    );
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    server.pg_dump(&database, &site.path("a.dump"), &["-Fc"]);
    for source in ["latest", "a.dump"] {
        for (table, count) in [("m", 2), ("m0", -1), ("m1", -1), ("down", 1)] {
            let copy = server.fresh_name("alone_copy");
            if source == "a.dump" && count < 0 {
                // pg_dump writes the rows of hash partitions by an enum for the root.
                let refused = site.run("teslamate-restore", &[source, "--into", &copy, "--table", table]).expect(10);
                refused.says("their rows go through it").says("--table public.m");
                continue;
            }
            site.run("teslamate-restore", &[source, "--into", &copy, "--table", table, "--allow-other"]).expect(0);
            let rows = format!("SELECT count(*) FROM {table}");
            let here = server.query(&database, &rows);
            assert!(count < 0 || here == count.to_string());
            assert_eq!(server.query(&copy, &rows), here, "{source} {table}");
        }
    }
}

/// `pg_restore` tells the parts of a name apart by nothing but spaces.
#[test]
fn k5_tables_that_a_list_of_contents_does_not_tell_apart_are_never_left_out_in_silence() {
    let server = Server::shared();
    let database = server.fresh_name("spaces");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.query(
        &database,
        "CREATE SCHEMA \"DATA\"; CREATE SCHEMA \"a b\"; CREATE SCHEMA a; CREATE TABLE \"DATA\".t AS SELECT 1 AS i; \
         CREATE SCHEMA \"ATTACH\"; CREATE TABLE \"ATTACH\".t AS SELECT 2 AS i; \
         CREATE TABLE a.\"b c\" AS SELECT 3 AS i; CREATE TABLE \"a b\".c AS SELECT 4 AS i",
    );
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    server.pg_dump(&database, &site.path("a.dump"), &["-Fc"]);
    for source in ["latest", "a.dump"] {
        for (table, name, value) in [("DATA.t", "\"DATA\".t", "1"), ("ATTACH.t", "\"ATTACH\".t", "2")] {
            let copy = server.fresh_name("spaces_copy");
            let into = ["--into", &copy, "--table", table, "--allow-other"];
            site.run("teslamate-restore", &[&[source][..], &into].concat()).expect(0);
            assert_eq!(server.query(&copy, &format!("SELECT i FROM {name}")), value, "{source}");
        }
        let mut refused = 0;
        for (table, name) in [("a.b c", "a.\"b c\""), ("a b.c", "\"a b\".c")] {
            let copy = server.fresh_name("spaces_copy");
            let into = ["--into", &copy, "--schema-only", "--table", table, "--allow-other"];
            let done = site.run("teslamate-restore", &[&[source][..], &into].concat());
            if done.code == Some(10) {
                done.says("does not tell these tables from others").says("without --table");
                refused += 1;
            } else {
                done.expect(0);
                assert_eq!(server.query(&copy, &format!("SELECT to_regclass('{name}') IS NULL")), "f", "{source}");
            }
        }
        assert_eq!(refused, 1, "one of the two is known by that text");
    }
}

#[test]
fn k5_functions_that_see_tables_without_rows_are_named() {
    let server = Server::shared();
    let database = server.fresh_name("blind");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.query(
        &database,
        "CREATE TABLE cfg (v int); INSERT INTO cfg VALUES (10); CREATE FUNCTION most() RETURNS int LANGUAGE sql IMMUTABLE \
         BEGIN ATOMIC SELECT v FROM cfg; END; \
         CREATE TABLE g (i int, m int GENERATED ALWAYS AS (i + most()) STORED); INSERT INTO g VALUES (1)",
    );
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    let (alone, both) = (server.fresh_name("blind_copy"), server.fresh_name("blind_copy"));
    let told = site.run("teslamate-restore", &["latest", "--into", &alone, "--table", "g"]).expect(0);
    told.says("may read public.cfg, whose rows are not in the part").says("--table public.cfg");
    site.run("teslamate-restore", &["latest", "--into", &both, "--jobs", "1", "--table", "cfg", "--table", "g"])
        .expect(0);
    assert_eq!(server.query(&both, "SELECT m FROM g"), "11");
}

/// A table whose CHECK calls a function with a string body, and one that takes numbers from a sequence by such a function.
const STRINGS: &str = "
    CREATE TABLE cfg (v int); INSERT INTO cfg VALUES (1);
    CREATE FUNCTION known(int) RETURNS boolean LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM public.cfg WHERE v = $1)';
    CREATE TABLE g (i int CHECK (known(i))); INSERT INTO g VALUES (1);
    CREATE SEQUENCE counter; SELECT setval('counter', 41);
    CREATE FUNCTION next_one() RETURNS bigint LANGUAGE sql AS 'SELECT nextval(''public.counter'')';
    CREATE TABLE numbered (i bigint DEFAULT next_one()); INSERT INTO numbered VALUES (1);
    CREATE SCHEMA pub; CREATE TABLE pub.lic AS SELECT 1 AS i; CREATE TABLE \"pub.lic\" AS SELECT 2 AS i;
    CREATE VIEW seen AS SELECT v FROM cfg; CREATE MATERIALIZED VIEW stored AS SELECT v FROM cfg;";

#[test]
fn k5_tables_and_sequences_of_string_bodies() {
    let server = Server::shared();
    let database = server.fresh_name("strings");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.query(&database, STRINGS);
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    server.pg_dump(&database, &site.path("a.dump"), &["-Fc"]);
    for source in ["latest", "a.dump"] {
        let refused = site.run("teslamate-restore", &[source, "--drill", "--table", "g"]).expect(14);
        refused.says("reads public.cfg, which is not in it: add --table public.cfg");
        let both = ["--drill", "--jobs", "1", "--table", "g", "--table", "public.cfg"];
        site.run("teslamate-restore", &[&[source][..], &both].concat()).expect(0);
        let copy = server.fresh_name("strings_copy");
        site.run("teslamate-restore", &[source, "--into", &copy, "--table", "numbered"]).expect(0);
        assert_eq!(server.query(&copy, "INSERT INTO numbered DEFAULT VALUES RETURNING i").lines().next(), Some("42"));
    }
}

#[test]
fn k5_names_that_mean_two_tables_and_views_are_refused() {
    let server = Server::shared();
    let database = server.fresh_name("meant");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.query(&database, STRINGS);
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    server.pg_dump(&database, &site.path("a.dump"), &["-Fc"]);
    for source in ["latest", "a.dump"] {
        let run = |table: &str| {
            let copy = server.fresh_name("meant_copy");
            (site.run("teslamate-restore", &[source, "--into", &copy, "--table", table]), copy)
        };
        let refused = run("pub.lic").0.expect(10).says("\"pub.lic\" means more than one table");
        refused.says("--table '\"pub\".\"lic\"'").says("--table '\"public\".\"pub.lic\"'");
        for (table, name, value) in [
            ("\"pub\".\"lic\"", "pub.lic", "1"),
            ("\"public\".\"pub.lic\"", "\"pub.lic\"", "2"),
            ("lic", "pub.lic", "1"),
        ] {
            let (done, copy) = run(table);
            done.expect(0);
            assert_eq!(server.query(&copy, &format!("SELECT i FROM {name}")), value, "{source} {table}");
        }
        for (view, kind) in [("seen", "a view"), ("public.stored", "a materialized view")] {
            run(view).0.expect(10).says(&format!("is {kind}: it has no rows of its own"));
        }
        run("nothing").0.expect(10).says("there is no table \"nothing\" in it");
    }
}
