//! `teslamate-restore --data-only` where definitions of the live database are other ones than when it was backed up, or
//! do more than they seem to.

use crate::restore_rows::Kept;

/// They would delete rows of a table that nobody named.
#[test]
fn k3_foreign_keys_that_always_fire_are_refused_by_name() {
    let kept = Kept::new(
        "keys_fire",
        "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT i, 'v' || i FROM generate_series(1, 5) i; \
         CREATE TABLE b (id int PRIMARY KEY, aid int REFERENCES a ON DELETE CASCADE, v text); \
         INSERT INTO b SELECT i, i, 'b' || i FROM generate_series(1, 5) i",
    );
    let set = |state: &str, tables: &str| {
        kept.query(&format!(
            "DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM pg_trigger WHERE tgrelid::regclass::text IN ({tables}) \
             LOOP EXECUTE format('ALTER TABLE %s ENABLE {state} TRIGGER %I', r.tgrelid::regclass, r.tgname); END LOOP; END $$"
        ));
    };
    kept.query("UPDATE a SET v = 'changed'");
    let content = || kept.query("SELECT (SELECT string_agg(v, ',' ORDER BY id) FROM a), (SELECT count(*) FROM b)");
    let changed = "changed,changed,changed,changed,changed|5";
    for (state, table) in [("ALWAYS", "a"), ("REPLICA", "a"), ("ALWAYS", "b")] {
        set("", "'a', 'b'");
        set(state, &format!("'{table}'"));
        let refused = kept.rows(&["--table", table]).expect(10).says("of the foreign key b_aid_fkey of public.b");
        let names = kept.query(&format!("SELECT tgname FROM pg_trigger WHERE tgrelid = '{table}'::regclass"));
        for name in names.lines() {
            assert!(refused.stderr.contains(&format!("ALTER TABLE ONLY public.{table} ENABLE TRIGGER \"{name}\";")));
            assert!(
                refused.stderr.contains(&format!("ALTER TABLE ONLY public.{table} ENABLE {state} TRIGGER \"{name}\";"))
            );
        }
        assert_eq!(content(), changed);
    }
    set("", "'a', 'b'");
    kept.rows(&["--table", "a"]).expect(0);
    assert_eq!(content(), "v1,v2,v3,v4,v5|5");
}

#[test]
fn k3_partitions_that_are_gone_or_detached_are_refused_by_name() {
    let kept = Kept::new(
        "gone_parts",
        "CREATE TABLE p (k int, v text) PARTITION BY RANGE (k); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (10); \
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY LIST (v); \
         CREATE TABLE p2a PARTITION OF p2 FOR VALUES IN ('a'); CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (20) TO (30); \
         INSERT INTO p VALUES (1, 'a'), (2, 'a'), (11, 'a')",
    );
    let rows = "SELECT string_agg(k || v, ',' ORDER BY k) FROM p";
    // A partition that was empty is nothing to miss.
    kept.query("DROP TABLE p3; UPDATE p SET v = 'b' WHERE k = 1");
    kept.rows(&["--table", "p"]).expect(0);
    assert_eq!(kept.query(rows), "1a,2a,11a");
    kept.query("ALTER TABLE p DETACH PARTITION p1; DROP TABLE p2a; INSERT INTO p1 VALUES (3, 'new')");
    let refused =
        kept.rows(&["--table", "p"]).expect(10).says("public.p1, of public.p: 2 rows; in the live database a table");
    refused.says("public.p2a, of public.p: 1 rows; in the live database not there").says("--into NAME --table 'p'");
    assert_eq!(kept.query("SELECT count(*) FROM p1"), "3");
    kept.rows(&["--table", "p2"]).expect(10).says("public.p2a, of public.p2: 1 rows");
    kept.query("CREATE TABLE p2a PARTITION OF p2 FOR VALUES IN ('a')");
    kept.rows(&["--table", "p"]).expect(10).says("gets its rows back if it is named, too: --table '\"public\".\"p1\"'");
    kept.rows(&["--table", "p", "--table", "p1"]).expect(0);
    assert_eq!(kept.query("SELECT count(*), (SELECT count(*) FROM p) FROM p1"), "2|1");
    kept.query("DROP TABLE p");
    kept.rows(&["--table", "p"]).expect(10).says("public.p2a, of public.p: 1 rows; in the live database not there");
}

#[test]
fn k3_composite_types_with_other_attributes_are_refused() {
    let kept = Kept::new(
        "composites",
        "CREATE TYPE comp AS (x int, y int); CREATE TABLE row_of (a int, b int); CREATE DOMAIN dom AS comp CHECK ((VALUE).x > 0); \
         CREATE TYPE outer_comp AS (n int, c comp[]); \
         CREATE TABLE direct (id int PRIMARY KEY, c comp); INSERT INTO direct VALUES (1, (1, 2)); \
         CREATE TABLE arrays (id int PRIMARY KEY, c comp[]); INSERT INTO arrays VALUES (1, ARRAY[(1, 2)::comp]); \
         CREATE TABLE domains (id int PRIMARY KEY, c dom); INSERT INTO domains VALUES (1, (1, 2)); \
         CREATE TABLE deep (id int PRIMARY KEY, c outer_comp); INSERT INTO deep VALUES (1, (7, ARRAY[(1, 2)::comp])); \
         CREATE TABLE whole_rows (id int PRIMARY KEY, c row_of); INSERT INTO whole_rows VALUES (1, (1, 2)); \
         CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain VALUES (1)",
    );
    kept.query("UPDATE direct SET c = (3, 4); DELETE FROM plain");
    kept.rows(&[]).expect(0);
    assert_eq!(kept.query("SELECT c, (SELECT count(*) FROM plain) FROM direct"), "(1,2)|1");
    kept.query("ALTER TYPE comp DROP ATTRIBUTE x CASCADE; ALTER TYPE comp ADD ATTRIBUTE x int");
    kept.query("ALTER TABLE row_of DROP COLUMN a; ALTER TABLE row_of ADD COLUMN a int; DELETE FROM plain");
    let refused =
        kept.rows(&["--table", "direct"]).expect(10).says("table \"public\".\"direct\" has other columns now");
    let refused = refused.says("c public.comp (public.comp: y integer, x integer)");
    refused.says("c public.comp (public.comp: x integer, y integer)");
    let all = kept.rows(&[]).expect(10).says("5 tables of the backup are not in the live database as they were");
    for table in ["direct", "arrays", "domains", "deep", "whole_rows"] {
        assert!(all.stderr.contains(&format!("\"public\".\"{table}\" has other columns now")), "{}", all.stderr);
    }
    kept.rows(&["--table", "plain"]).expect(0);
    assert_eq!(kept.query("SELECT count(*) FROM plain"), "1");
}

#[test]
fn k3_all_tables_that_are_not_as_they_were_are_named_at_once() {
    let kept = Kept::new(
        "named",
        "CREATE TABLE dropped (id int); CREATE TABLE altered (id int, v text); CREATE TABLE viewed (id int); \
         CREATE TABLE divided (id int); CREATE TABLE same (id int); INSERT INTO same VALUES (1)",
    );
    kept.query(
        "DROP TABLE dropped, viewed, divided; ALTER TABLE altered DROP COLUMN v; CREATE VIEW viewed AS SELECT 1 AS id",
    );
    kept.query("CREATE TABLE divided (id int) PARTITION BY LIST (id); DELETE FROM same");
    let all = kept.rows(&[]).expect(10).says("4 tables of the backup are not in the live database as they were");
    let all = all.says("\"public\".\"dropped\" is not in the live database");
    let all = all.says("\"public\".\"altered\" has other columns now; live: id integer; backup: id integer, v text");
    let all = all.says("\"public\".\"viewed\" is a view in the live database");
    all.says("\"public\".\"divided\" is a partitioned table in the live database")
        .says("the live database is as it was");
    kept.rows(&["--table", "viewed"]).expect(10).says("table \"public\".\"viewed\" is a view in the live database");
    assert_eq!(kept.query("SELECT count(*) FROM same"), "0");
}

#[test]
fn k3_sequences_behind_domains_of_domains_are_advanced() {
    let kept = Kept::new(
        "domain_sequences",
        "CREATE DOMAIN number AS bigint CHECK (VALUE > 0); CREATE DOMAIN key AS number; CREATE SEQUENCE s; CREATE SEQUENCE free; \
         CREATE DOMAIN counted AS int DEFAULT nextval('free'); CREATE DOMAIN counted_again AS counted; \
         CREATE TABLE owned (id key DEFAULT nextval('s') PRIMARY KEY, v text); \
         CREATE TABLE by_domain (id counted_again PRIMARY KEY, v text); \
         INSERT INTO owned (v) SELECT 'v' FROM generate_series(1, 5); INSERT INTO by_domain (v) SELECT 'v' FROM generate_series(1, 7)",
    );
    kept.query("DELETE FROM owned; DELETE FROM by_domain; SELECT setval('s', 1, false), setval('free', 1, false)");
    kept.rows(&[]).expect(0);
    kept.query("INSERT INTO owned (v) VALUES ('new'); INSERT INTO by_domain (v) VALUES ('new')");
    assert_eq!(kept.query("SELECT (SELECT max(id) FROM owned), (SELECT max(id) FROM by_domain)"), "6|8");
}

#[test]
fn k3_functions_that_read_other_tables_compute_when_all_rows_are_in() {
    let kept = Kept::new(
        "computed",
        "CREATE TABLE z_rates (k int PRIMARY KEY, r int); INSERT INTO z_rates SELECT i, 10 FROM generate_series(1, 3) i; \
         CREATE FUNCTION rate(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT r FROM public.z_rates WHERE k = $1'; \
         CREATE TABLE calc (k int PRIMARY KEY, v text, r int GENERATED ALWAYS AS (rate(k)) STORED, d int GENERATED ALWAYS AS (k * 2) STORED); \
         CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, r int GENERATED ALWAYS AS (rate(id)) STORED); \
         CREATE TABLE found (k int PRIMARY KEY, v text); CREATE INDEX found_rate ON found (rate(k)); \
         INSERT INTO calc (k) VALUES (1), (2), (3); INSERT INTO numbered (v) VALUES ('a'), ('b'), ('c'); \
         INSERT INTO found VALUES (1), (2), (3)",
    );
    let content = "SET enable_seqscan = off; SELECT (SELECT string_agg(r || '/' || d, ',' ORDER BY k) FROM calc), \
                   (SELECT string_agg(id || '/' || r, ',' ORDER BY id) FROM numbered), \
                   (SELECT count(*) FROM found WHERE rate(k) = 10)";
    assert_eq!(kept.query(content), "10/2,10/4,10/6|1/10,2/10,3/10|3");
    kept.query("DELETE FROM calc WHERE k = 1; DELETE FROM numbered WHERE id = 2; DELETE FROM found WHERE k = 3");
    kept.query("UPDATE z_rates SET r = 99; UPDATE calc SET v = 'x' WHERE k = 2");
    let done = kept.rows(&[]).expect(0);
    assert_eq!(kept.query(content), "10/2,10/4,10/6|1/10,2/10,3/10|3");
    done.says("rows of \"public\".\"calc\": the generated column r was computed again when all rows were in");
    let done = kept.rows(&[]).expect(0);
    assert!(!done.stderr.contains("computed again"), "{}", done.stderr);
}

#[test]
fn k3_an_index_that_cannot_be_made_again_is_named() {
    let kept = Kept::new(
        "not_again",
        "CREATE TABLE rates (k int PRIMARY KEY, r int); INSERT INTO rates VALUES (1, 10), (2, 20); \
         CREATE FUNCTION rate(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT r FROM public.rates WHERE k = $1'; \
         CREATE TABLE once (k int PRIMARY KEY); CREATE UNIQUE INDEX once_rate ON once (rate(k)); INSERT INTO once VALUES (1), (2); \
         UPDATE rates SET r = 10",
    );
    kept.query("UPDATE rates SET r = 30 WHERE k = 1");
    kept.rows(&[]).expect(0).says("REINDEX INDEX public.once_rate makes it again");
    assert_eq!(
        kept.query("SELECT (SELECT count(*) FROM once), (SELECT string_agg(r::text, ',') FROM rates)"),
        "2|10,10"
    );
}

#[test]
fn k3_a_label_that_was_renamed_is_refused() {
    let kept = Kept::new(
        "label",
        "CREATE TYPE color AS ENUM ('red', 'green'); CREATE TABLE t (id int PRIMARY KEY, c color); \
                                   INSERT INTO t VALUES (1, 'red'), (2, 'green')",
    );
    kept.query("ALTER TYPE color RENAME VALUE 'green' TO 'blue'; DELETE FROM t WHERE id = 1");
    let refused = kept.rows(&[]).expect(10).says("color: \"green\"").says("a label was renamed");
    refused.says("the live database is as it was").says("--into NAME");
    assert_eq!(kept.query("SELECT string_agg(c::text, ',') FROM t"), "blue");
}
