//! `teslamate-restore --data-only`: the rows come back, whatever constraints and readers there are.

use crate::support::repository::section;
use crate::support::tree_server::TreeServer;
use crate::support::{Outcome, Server, Site};

/// An installation with this schema and one backup of it.
pub(crate) struct Kept {
    pub(crate) server: &'static Server,
    pub(crate) site: Site,
}

impl Kept {
    pub(crate) fn new(hint: &str, schema: &str) -> Self {
        let server = Server::shared();
        let database = server.fresh_name(hint);
        server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
        server.query(&database, schema);
        let site = Site::with_repository(server, &database);
        site.run("teslamate-backup", &[]).expect(0);
        Self { server, site }
    }

    pub(crate) fn query(&self, sql: &str) -> String {
        self.server.query(&self.site.database, sql)
    }

    pub(crate) fn rows(&self, arguments: &[&str]) -> Outcome {
        let all = [&["latest", "--data-only", "--yes", "--no-safety-backup"], arguments].concat();
        self.site.run("teslamate-restore", &all)
    }
}

#[test]
fn k3_rows_that_did_not_change_stay_where_they_are() {
    let kept = Kept::new(
        "same",
        "CREATE TABLE keyed (id int PRIMARY KEY, v text, j json, p point); \
         INSERT INTO keyed SELECT i, 'v' || i, '{\"a\": 1}', point(i, i) FROM generate_series(1, 100) i; \
         CREATE TABLE bare (a int, b json); INSERT INTO bare VALUES (1, '1'), (1, '1'), (2, NULL); \
         CREATE TABLE empty ()",
    );
    let rows = "SELECT string_agg(format('%s %s %s %s', id, v, j, p), ',' ORDER BY id) FROM keyed";
    let bare = "SELECT string_agg(format('%s %s', a, b), ',' ORDER BY a, b::text) FROM bare";
    let (before, bare_before) = (kept.query(rows), kept.query(bare));
    let places = kept.query("SELECT string_agg(ctid::text, ',' ORDER BY id) FROM keyed WHERE id BETWEEN 4 AND 50");
    kept.query(
        "UPDATE keyed SET v = NULL WHERE id = 1; DELETE FROM keyed WHERE id = 2; UPDATE keyed SET id = 1000 WHERE id = 3; \
         INSERT INTO keyed VALUES (2000, 'new'); INSERT INTO bare VALUES (1, '1'), (7, '7'); DELETE FROM bare WHERE a = 2; \
         INSERT INTO empty DEFAULT VALUES",
    );
    let done = kept.rows(&["--json"]).expect(0).json();
    assert_eq!((kept.query(rows), kept.query(bare)), (before, bare_before));
    assert_eq!(kept.query("SELECT count(*) FROM empty"), "0");
    let after = kept.query("SELECT string_agg(ctid::text, ',' ORDER BY id) FROM keyed WHERE id BETWEEN 4 AND 50");
    assert_eq!(after, places, "untouched rows were written again");
    // By the key two are too many; without one, as they are.
    assert_eq!(done["removed"]["\"public\".\"keyed\""], 2, "{done}");
    assert_eq!(done["removed"]["\"public\".\"bare\""], 2, "{done}");
}

#[test]
fn k3_deferrable_constraints_hold_before_the_commit() {
    let kept = Kept::new(
        "deferrable",
        "CREATE EXTENSION btree_gist; \
         CREATE TABLE i (a int UNIQUE DEFERRABLE INITIALLY IMMEDIATE); INSERT INTO i VALUES (1), (2), (NULL), (NULL); \
         CREATE TABLE d (a int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, b int); INSERT INTO d VALUES (1, 1), (2, 2); \
         CREATE TABLE n (a int UNIQUE NULLS NOT DISTINCT DEFERRABLE); INSERT INTO n VALUES (NULL), (1); \
         CREATE TABLE x (r int4range, k int, EXCLUDE USING gist (k WITH =, r WITH &&) WHERE (k > 0) \
            DEFERRABLE INITIALLY DEFERRED); INSERT INTO x VALUES ('[1,5)', 1), ('[5,9)', 1), ('[1,9)', 0), ('[1,9)', 0); \
         CREATE TABLE e (a int, b int, EXCLUDE USING gist (int4range(a, b) WITH &&) DEFERRABLE); \
         INSERT INTO e VALUES (1, 5), (5, 9)",
    );
    let all = "SELECT (SELECT array_agg(a ORDER BY a) FROM i), (SELECT array_agg(d ORDER BY a) FROM d), \
               (SELECT array_agg(a ORDER BY a) FROM n), (SELECT array_agg(x ORDER BY x) FROM x), (SELECT array_agg(e ORDER BY a) FROM e)";
    let before = kept.query(all);
    kept.query(
        "UPDATE i SET a = a + 1; BEGIN; UPDATE d SET a = 3 - a; COMMIT; DELETE FROM n; UPDATE x SET r = '[2,3)' WHERE r = '[1,5)'; DELETE FROM e",
    );
    kept.rows(&[]).expect(0);
    assert_eq!(kept.query(all), before);
    for table in ["i", "d", "n", "x", "e"] {
        kept.rows(&["--table", table]).expect(0);
        assert_eq!(kept.query(all), before, "{table}");
    }
}

#[test]
fn k3_a_deferrable_constraint_that_fails_changes_nothing() {
    let kept = Kept::new("doubled", "CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 1), (1, 2), (3, 3)");
    for constraint in [
        "UNIQUE (a) DEFERRABLE INITIALLY IMMEDIATE",
        "UNIQUE (a) DEFERRABLE INITIALLY DEFERRED",
        "EXCLUDE USING btree (a WITH =) DEFERRABLE INITIALLY DEFERRED",
        "EXCLUDE USING gist (int4range(a, a + 1) WITH &&) WHERE (b > 0) DEFERRABLE",
    ] {
        kept.query(&format!("DELETE FROM t; INSERT INTO t VALUES (5, 5); ALTER TABLE t ADD CONSTRAINT c {constraint}"));
        kept.rows(&["--table", "t"])
            .expect(10)
            .says("would exclude each other")
            .says("constraint: c")
            .says("is as it was");
        assert_eq!(kept.query("SELECT array_agg(t) FROM t"), "{\"(5,5)\"}", "{constraint}");
        kept.query("ALTER TABLE t DROP CONSTRAINT c");
    }
}

/// The type of a key, that of the column which points at it, and a value of each.
const KEYS: &[(&str, &str, &str, &str)] = &[
    ("citext", "citext", "'Ab'", "'aB'"),
    ("ltree", "ltree", "'a.b'", "'a.b'"),
    ("bigint", "int", "7", "7"),
    ("numeric", "bigint", "7.0", "7"),
    ("named", "named", "'Ab'", "'aB'"),
    ("text", "varchar(10)", "'ab'", "'ab'"),
    ("text COLLATE nocase", "text COLLATE nocase", "'Ab'", "'aB'"),
    ("int[]", "int[]", "'{1,2}'", "'{1,2}'"),
    ("mood", "mood", "'ab'", "'ab'"),
    ("int4range", "int4range", "'[1,3)'", "'[1,2]'"),
];

#[test]
fn k3_foreign_keys_of_any_type_are_compared_as_they_compare() {
    let mut schema = "CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE DOMAIN named AS citext; \
                      CREATE TYPE mood AS ENUM ('ab', 'cd'); \
                      CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
        .to_owned();
    for (n, (parent, child, up, down)) in KEYS.iter().enumerate() {
        let tables = format!(
            "CREATE TABLE p{n} (k {parent} PRIMARY KEY); CREATE TABLE c{n} (id int PRIMARY KEY, k {child} REFERENCES p{n}); \
             INSERT INTO p{n} VALUES ({up}); INSERT INTO c{n} VALUES (1, {down}), (2, NULL);"
        );
        schema.push_str(&tables);
    }
    let kept = Kept::new("keys", &schema);
    let each = |sql: &str| (0..KEYS.len()).map(|n| sql.replace('#', &n.to_string())).collect::<Vec<_>>();
    let named =
        |words: &str| each(words).iter().flat_map(|name| ["--table".to_owned(), name.clone()]).collect::<Vec<_>>();
    let rows = |names: &[String]| kept.rows(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let points = each("SELECT count(k) FROM c#").join(" UNION ALL ");
    for tables in [named("c#"), named("p#"), Vec::new()] {
        kept.query(&each("UPDATE c# SET k = NULL").join("; "));
        rows(&tables).expect(0);
        let expected = if tables.get(1).is_some_and(|table| table == "p0") { "0" } else { "1" };
        assert_eq!(kept.query(&points), vec![expected; KEYS.len()].join("\n"), "{tables:?}");
    }
    // The parent went: the child may not come back alone.
    kept.query(&each("DELETE FROM c#; DELETE FROM p#").join("; "));
    for (n, (kind, ..)) in KEYS.iter().enumerate().take(3) {
        let said = format!("1 rows of \"public\".\"c{n}\" would point at");
        kept.rows(&["--table", &format!("c{n}")]).expect(10).says(&said);
        assert_eq!(kept.query(&format!("SELECT count(*) FROM c{n}")), "0", "{kind}");
    }
    rows(&Vec::new()).expect(0);
}

#[test]
fn k3_match_full_and_partitioned_keys_are_checked_as_they_are() {
    let kept = Kept::new(
        "full",
        "CREATE TABLE p (a int, b int, PRIMARY KEY (a, b)) PARTITION BY RANGE (a); \
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20); \
         CREATE TABLE c (id int, a int, b int, FOREIGN KEY (a, b) REFERENCES p MATCH FULL) PARTITION BY LIST (id); \
         CREATE TABLE c1 PARTITION OF c FOR VALUES IN (1, 2); CREATE TABLE c2 PARTITION OF c DEFAULT; \
         INSERT INTO p VALUES (1, 1), (11, 1); INSERT INTO c VALUES (1, 1, 1), (2, NULL, NULL), (3, 11, 1)",
    );
    let all = "SELECT (SELECT array_agg(p ORDER BY p) FROM p), (SELECT array_agg(c ORDER BY c) FROM c)";
    let before = kept.query(all);
    kept.query("DELETE FROM c WHERE id = 3; DELETE FROM p WHERE a = 11");
    // A partitioned table is its partitions.
    kept.rows(&["--table", "c"]).expect(10).says("1 rows of \"public\".\"c\" would point at rows of \"public\".\"p\"");
    kept.rows(&["--table", "c", "--table", "public.p"]).expect(0);
    assert_eq!(kept.query(all), before);
    kept.query("INSERT INTO p VALUES (5, 5); INSERT INTO c VALUES (4, 5, 5)");
    kept.rows(&["--table", "p1"]).expect(10).says("would point at rows of");
    kept.rows(&["--table", "c2", "--table", "p1"]).expect(0);
    assert_eq!(kept.query(all), before);
}

#[test]
fn k3_what_was_never_validated_is_no_reason_to_refuse() {
    let kept = Kept::new(
        "unvalidated",
        "CREATE DOMAIN positive AS int; CREATE TABLE p (id int PRIMARY KEY); \
         CREATE TABLE c (id int PRIMARY KEY, p int, v int, d positive); INSERT INTO p VALUES (1); \
         INSERT INTO c VALUES (1, 1, 1, 1), (2, 99, -1, -1); \
         ALTER TABLE c ADD FOREIGN KEY (p) REFERENCES p NOT VALID; ALTER TABLE c ADD CHECK (v > 0) NOT VALID; \
         ALTER DOMAIN positive ADD CHECK (VALUE > 0) NOT VALID",
    );
    let all = "SELECT (SELECT array_agg(p ORDER BY p) FROM p), (SELECT array_agg(c ORDER BY c) FROM c)";
    let before = kept.query(all);
    kept.query("UPDATE c SET v = 7 WHERE id = 1; INSERT INTO p VALUES (2); INSERT INTO c VALUES (3, 2, 1, 1)");
    kept.rows(&[]).expect(0);
    assert_eq!(kept.query(all), before);
    // No further row may lose what it points at.
    kept.query("INSERT INTO p VALUES (2); INSERT INTO c VALUES (3, 2, 1, 1)");
    kept.rows(&["--table", "p"]).expect(10).says("1 rows of \"public\".\"c\" would point at");
    kept.query("DELETE FROM c WHERE id = 3");
    kept.rows(&["--table", "p"]).expect(0);
    assert_eq!(kept.query(all), before);
}

#[test]
fn k3_readers_go_on_and_see_the_rows_of_their_snapshot() {
    let kept = Kept::new("readers", "CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 10)");
    kept.query("INSERT INTO t VALUES (11); CREATE TABLE seen (n bigint)");
    let reader = kept
        .server
        .hold(&kept.site.database, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; DO 'BEGIN PERFORM 1; END'");
    let touching = kept.server.hold(&kept.site.database, "LOCK TABLE t IN ACCESS SHARE MODE");
    kept.rows(&["--table", "t"]).expect(0);
    assert_eq!(kept.query("SELECT count(*) FROM t"), "10");
    drop(touching);
    reader.finish("INSERT INTO seen SELECT count(*) FROM t; COMMIT");
    assert_eq!(kept.query("SELECT n FROM seen"), "11", "the snapshot is older");
}

#[test]
fn k3_bookkeeping_stays_and_views_and_other_tables_are_named() {
    let kept = Kept::new(
        "bookkeeping",
        "CREATE TABLE schema_migrations (version bigint PRIMARY KEY); INSERT INTO schema_migrations VALUES (1); \
         CREATE TABLE t (a int); INSERT INTO t VALUES (1); CREATE VIEW v AS SELECT * FROM t; \
         CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM v; CREATE MATERIALIZED VIEW m2 AS SELECT * FROM m",
    );
    kept.query("INSERT INTO t VALUES (2); INSERT INTO schema_migrations VALUES (2); CREATE TABLE since (a int)");
    let done = kept.rows(&[]).expect(0).text();
    assert_eq!(kept.query("SELECT count(*) FROM schema_migrations"), "2");
    assert_eq!(kept.query("SELECT count(*) FROM t"), "1");
    assert!(done.contains("not touched: public.schema_migrations, public.since"), "{done}");
    let (one, two) = (done.find("VIEW public.m;").unwrap(), done.find("VIEW public.m2;").unwrap());
    assert!(one < two, "{done}");
    assert!(done.contains("removed from \"public\".\"t\": 1 rows that the backup did not have"), "{done}");
    kept.rows(&["--table", "schema_migrations"]).expect(0);
    assert_eq!(kept.query("SELECT count(*) FROM schema_migrations"), "1");
}

#[test]
fn k3_a_column_added_while_the_table_is_waited_for_is_noticed() {
    let kept = Kept::new("altered", "CREATE TABLE p (a int PRIMARY KEY); INSERT INTO p VALUES (1)");
    kept.query("INSERT INTO p VALUES (2)");
    let holder = kept.server.hold(&kept.site.database, "LOCK TABLE p IN ROW SHARE MODE");
    let waiting = kept
        .site
        .command("teslamate-restore")
        .args(&["latest", "--data-only", "--yes", "--no-safety-backup", "--table", "p"])
        .spawn();
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'ExclusiveLock' AND relation = 'p'::regclass)";
    let begun = std::time::Instant::now();
    while kept.query(waits) == "f" && begun.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    holder.finish("ALTER TABLE p ADD z int DEFAULT 5; COMMIT");
    let output = waiting.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(10), "{said}");
    assert!(said.contains("has other columns now"), "{said}");
    assert_eq!(kept.query("SELECT count(*) FROM p"), "2");
}

#[test]
fn k3_checks_see_the_search_path_of_the_application() {
    let kept = Kept::new(
        "path",
        "CREATE SCHEMA app; CREATE TABLE app.limits (top int); INSERT INTO app.limits VALUES (10); \
         CREATE FUNCTION app.fits(v int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN v <= (SELECT max(top) FROM limits); END'; \
         CREATE TABLE app.a (v int CHECK (app.fits(v))); \
         DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = app, public', current_database()); END $$",
    );
    kept.query("INSERT INTO a VALUES (3)");
    kept.site.run("teslamate-backup", &[]).expect(0);
    // The check needs rows of a table that comes later.
    kept.query("DELETE FROM a; DELETE FROM limits");
    kept.rows(&[]).expect(0);
    assert_eq!(kept.query("SELECT v FROM a"), "3");
}

#[test]
fn k3_sequences_of_every_kind_are_advanced_and_never_set_back() {
    let kept = Kept::new(
        "sequences",
        "CREATE SCHEMA other; CREATE SEQUENCE other.shared; \
         CREATE TABLE t (a int GENERATED ALWAYS AS IDENTITY, b serial, c bigint DEFAULT nextval('other.shared'), d numeric, \
            g int GENERATED ALWAYS AS (0) STORED); \
         CREATE SEQUENCE down INCREMENT -1; ALTER TABLE t ALTER d SET DEFAULT nextval('down'); \
         INSERT INTO t SELECT FROM generate_series(1, 5)",
    );
    kept.query(
        "DELETE FROM t; ALTER TABLE t ALTER a RESTART; SELECT setval('t_b_seq', 1), setval('other.shared', 100), setval('down', -1)",
    );
    kept.rows(&[]).expect(0);
    kept.query("INSERT INTO t DEFAULT VALUES");
    assert_eq!(kept.query("SELECT a, b, c, d FROM t ORDER BY c DESC LIMIT 1"), "6|6|101|-6");
}

#[test]
fn k3_keys_and_columns_that_only_newer_servers_have() {
    let Some(server) = TreeServer::of(18, &[]) else { return };
    server.query("postgres", "CREATE DATABASE teslamate");
    let tools = server.tools();
    let site = server.site(Some(&tools));
    let config = std::fs::read_to_string(site.config()).unwrap();
    site.write_config(&format!("{config}{}", section(&site)));
    let query = |sql: &str| server.query("teslamate", sql);
    query(
        "CREATE EXTENSION btree_gist; \
         CREATE TABLE p (k int, at int4range, PRIMARY KEY (k, at WITHOUT OVERLAPS)); \
         CREATE TABLE c (id int PRIMARY KEY, k int, at int4range, FOREIGN KEY (k, PERIOD at) REFERENCES p (k, PERIOD at)); \
         INSERT INTO p VALUES (1, '[1,5)'), (1, '[5,9)'); INSERT INTO c VALUES (1, 1, '[2,8)'), (2, NULL, '[1,2)'); \
         CREATE TABLE loose (id int PRIMARY KEY, p int REFERENCES c NOT ENFORCED); INSERT INTO loose VALUES (1, 99); \
         CREATE TABLE holes (id int PRIMARY KEY, v int); INSERT INTO holes VALUES (1, NULL), (2, 2); \
         ALTER TABLE holes ADD CONSTRAINT filled NOT NULL v NOT VALID; \
         CREATE TABLE g (a int PRIMARY KEY, s int GENERATED ALWAYS AS (a + 1) STORED, v int GENERATED ALWAYS AS (a * 2)); \
         INSERT INTO g VALUES (1)",
    );
    site.run("teslamate-backup", &[]).expect(0);
    let all = "SELECT (SELECT array_agg(p ORDER BY p) FROM p), (SELECT array_agg(c ORDER BY c) FROM c), \
               (SELECT array_agg(loose) FROM loose), (SELECT array_agg(holes ORDER BY id) FROM holes), (SELECT array_agg(g) FROM g)";
    let before = query(all);
    let rows = |arguments: &[&str]| {
        let all = [&["latest", "--data-only", "--yes", "--no-safety-backup"], arguments].concat();
        site.run("teslamate-restore", &all)
    };
    query(
        "UPDATE c SET at = '[1,2)'; UPDATE holes SET v = 3 WHERE id = 2; INSERT INTO loose VALUES (2, 3); INSERT INTO g VALUES (7)",
    );
    rows(&[]).expect(0);
    assert_eq!(query(all), before);
    for table in ["c", "p", "loose", "holes", "g"] {
        rows(&["--table", table]).expect(0);
    }
    // A part of the period is gone.
    query("DELETE FROM c; DELETE FROM p WHERE at = '[5,9)'");
    rows(&["--table", "c"]).expect(10).says("1 rows of \"public\".\"c\" would point at");
    rows(&["--table", "c", "--table", "p"]).expect(0);
    assert_eq!(query(all), before);
}

#[test]
fn k3_a_published_table_without_identity_gets_rows_or_is_refused() {
    let kept = Kept::new(
        "published",
        "CREATE TABLE bare (a int, b text); INSERT INTO bare SELECT i, 'b' FROM generate_series(1, 9) i; \
         CREATE TABLE nothing (id int PRIMARY KEY, b text); INSERT INTO nothing VALUES (1, 'x'), (2, 'y'); \
         ALTER TABLE nothing REPLICA IDENTITY NOTHING; CREATE TABLE keyed (id int PRIMARY KEY); INSERT INTO keyed VALUES (1); \
         CREATE PUBLICATION everything FOR ALL TABLES",
    );
    let rows = "SELECT (SELECT string_agg(bare::text, ',' ORDER BY a) FROM bare), (SELECT string_agg(nothing::text, ',' ORDER BY id) FROM nothing), \
                (SELECT string_agg(keyed::text, ',' ORDER BY id) FROM keyed)";
    let before = kept.query(rows);
    // Rows that are missing come back: that publishes no removal.
    kept.query("DROP PUBLICATION everything; DELETE FROM bare WHERE a > 3; DELETE FROM nothing WHERE id = 2; DELETE FROM keyed");
    kept.query("CREATE PUBLICATION everything FOR ALL TABLES; INSERT INTO keyed VALUES (7)");
    kept.rows(&[]).expect(0);
    assert_eq!(kept.query(rows), before);
    // Rows that have to go do not: all tables are named at once, before anything is done.
    kept.query("INSERT INTO bare VALUES (10, 'new')");
    kept.query("DROP PUBLICATION everything; UPDATE nothing SET b = 'z' WHERE id = 1; CREATE PUBLICATION everything FOR ALL TABLES");
    let refused =
        kept.rows(&[]).expect(10).says("\"bare\" REPLICA IDENTITY FULL").says("\"nothing\" REPLICA IDENTITY FULL");
    assert!(!refused.stderr.contains("\"keyed\""), "{}", refused.stderr);
    kept.query("ALTER TABLE bare REPLICA IDENTITY FULL; ALTER TABLE nothing REPLICA IDENTITY FULL");
    kept.rows(&[]).expect(0);
    assert_eq!(kept.query(rows), before);
}

#[test]
fn k3_a_thousand_small_tables_are_put_back_in_seconds() {
    let kept = Kept::new(
        "thousand",
        "DO $$ BEGIN FOR n IN 1..1000 LOOP EXECUTE format('CREATE TABLE t_%s (id int PRIMARY KEY, v text)', n); \
         EXECUTE format('INSERT INTO t_%s SELECT i, ''v'' FROM generate_series(1, 5) i', n); END LOOP; END $$",
    );
    kept.query("UPDATE t_7 SET v = 'w' WHERE id = 3; DELETE FROM t_900; INSERT INTO t_1000 VALUES (6, 'new')");
    let begun = std::time::Instant::now();
    let done = kept.rows(&["--json"]).expect(0).json();
    eprintln!("1,000 tables: {:.1} s", begun.elapsed().as_secs_f64());
    assert_eq!(done["removed"], serde_json::json!({"\"public\".\"t_1000\"": 1}));
    assert_eq!(
        kept.query(
            "SELECT (SELECT count(*) FROM t_900), (SELECT v FROM t_7 WHERE id = 3), (SELECT max(id) FROM t_1000)"
        ),
        "5|v|5"
    );
}

#[test]
fn k3_a_publication_with_a_filter_does_not_stop_other_tables() {
    let kept = Kept::new(
        "filtered",
        "CREATE TABLE filt (i int PRIMARY KEY, t text); INSERT INTO filt VALUES (1, 'a'), (2, 'b'); \
         CREATE TABLE list (i int PRIMARY KEY, j int); INSERT INTO list VALUES (1, 1); CREATE TABLE free (i int); \
         INSERT INTO free VALUES (1); CREATE PUBLICATION filtered FOR TABLE filt WHERE (t = 'a'), list (j)",
    );
    kept.query("DELETE FROM free; INSERT INTO free VALUES (7)");
    kept.rows(&[]).expect(0);
    assert_eq!(kept.query("SELECT i FROM free"), "1");
    kept.query("INSERT INTO filt VALUES (9, 'b'); INSERT INTO list VALUES (9, 9)");
    let refused = kept.rows(&[]).expect(10).says("publication does not let them").says("\"filt\": 1 rows");
    refused.says("\"list\": 1 rows").says("ALTER PUBLICATION");
}

#[test]
fn k5_a_name_that_means_two_tables_is_refused_before_rows_are_replaced() {
    let kept = Kept::new(
        "meant_rows",
        "CREATE SCHEMA pub; CREATE TABLE pub.lic (i int); INSERT INTO pub.lic VALUES (1); \
         CREATE TABLE \"pub.lic\" (i int); INSERT INTO \"pub.lic\" VALUES (2); \
         CREATE TABLE pub.parted (i int) PARTITION BY RANGE (i); CREATE TABLE one PARTITION OF pub.parted FOR VALUES FROM (0) TO (10); \
         CREATE TABLE \"pub.parted\" (i int); INSERT INTO \"pub.parted\" VALUES (3); INSERT INTO pub.parted VALUES (4)",
    );
    kept.query("UPDATE pub.lic SET i = 10; UPDATE \"pub.lic\" SET i = 20; UPDATE pub.parted SET i = 5; UPDATE \"pub.parted\" SET i = 30");
    let rows = || {
        kept.query("SELECT format('%s %s %s %s', (TABLE pub.lic), (TABLE \"pub.lic\"), (TABLE pub.parted), (TABLE \"pub.parted\"))")
    };
    for name in ["lic", "parted"] {
        let refused = kept.rows(&["--table", &format!("pub.{name}")]).expect(10);
        refused
            .says(&format!("\"pub.{name}\" means more than one table"))
            .says(&format!("--table '\"public\".\"pub.{name}\"'"));
    }
    assert_eq!(rows(), "10 20 5 30");
    kept.rows(&["--table", "\"pub\".\"lic\"", "--table", "\"pub\".\"parted\""]).expect(0);
    assert_eq!(rows(), "1 20 4 30");
    kept.rows(&["--table", "\"public\".\"pub.lic\"", "--table", "\"public\".\"pub.parted\""]).expect(0);
    assert_eq!(rows(), "1 2 4 3");
}
