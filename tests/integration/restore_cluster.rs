//! Objects of the cluster or of more than one database: subscriptions, tablespaces, the schema `public`, the
//! maintenance database; and indexes that were not valid in the source.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::probe::eventually;
use crate::support::server::{Options, is_root};
use crate::support::{Server, Site};

const SUBSCRIPTION: &str = "CREATE PUBLICATION p FOR ALL TABLES; \
    CREATE SUBSCRIPTION s1 CONNECTION 'dbname=nowhere password=very-secret' PUBLICATION p \
    WITH (connect = false, enabled = false, slot_name = 's1_slot'); COMMENT ON SUBSCRIPTION s1 IS 'copy'";

const DETACH: &str =
    "ALTER SUBSCRIPTION s1 DISABLE; ALTER SUBSCRIPTION s1 SET (slot_name = NONE); DROP SUBSCRIPTION s1";

#[test]
fn k5_a_subscription_is_in_no_copy_and_disabled_when_live() {
    let server = Server::start(Options { config: vec!["wal_level = logical".into()], ..Options::default() });
    server.create_teslamate("subscriber", 600);
    server.query("subscriber", SUBSCRIPTION);
    server.query("subscriber", "SELECT pg_create_logical_replication_slot('s1_slot', 'pgoutput')");
    let site = Site::with_repository(&server, "subscriber");
    site.run("teslamate-backup", &[]).expect(0);
    for name in ["a.sql", "a.dump"] {
        site.run("teslamate-backup", &[name]).expect(0);
    }
    let subscriptions = || server.query("postgres", "SELECT count(*) FROM pg_subscription");
    for source in ["latest", "a.sql", "a.dump"] {
        site.run("teslamate-restore", &["--drill", source]).expect(0).says("subscription \"s1\" is left out");
        let copy = server.fresh_name("copy");
        site.run("teslamate-restore", &["--into", &copy, source]).expect(0);
        assert_eq!(subscriptions(), "1", "{source}");
        // A logical slot is bound to the live database, and would be lost with it.
        site.run("teslamate-restore", &["--yes", source]).expect(10).says("replication slot s1_slot");
    }
    server.query("subscriber", "SELECT pg_drop_replication_slot('s1_slot')");
    for statement in DETACH.split("; ") {
        server.query("subscriber", statement);
    }
    server.query("postgres", "SELECT pg_create_physical_replication_slot('s1_slot')");
    for source in ["latest", "a.sql", "a.dump"] {
        let outcome = site.run("teslamate-restore", &["--yes", "--no-safety-backup", source]).expect(0);
        assert!(outcome.stderr.contains("ALTER SUBSCRIPTION \"s1\" ENABLE"), "{}", outcome.stderr);
        assert_eq!(server.query("subscriber", "SELECT subenabled, subslotname FROM pg_subscription"), "f|s1_slot");
        for statement in DETACH.split("; ") {
            server.query("subscriber", statement);
        }
    }
    assert_eq!(server.query("postgres", "SELECT count(*) FROM pg_replication_slots"), "1");
}

/// A publisher and a subscriber in one server, whose worker is at work.
#[test]
fn k5_a_live_subscription_is_disabled_by_restore_and_undo() {
    let server = Server::start(Options { config: vec!["wal_level = logical".into()], ..Options::default() });
    server.query("postgres", "CREATE DATABASE publisher");
    server.query("publisher", "CREATE TABLE news (i int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE news");
    server.query("publisher", "SELECT pg_create_logical_replication_slot('s1_slot', 'pgoutput')");
    server.create_teslamate("subscriber", 600);
    server.query("subscriber", "CREATE TABLE news (i int PRIMARY KEY)");
    let conninfo = format!("host={} port={} dbname=publisher user=postgres", server.dir().display(), server.port());
    server.query(
        "subscriber",
        &format!(
            "CREATE SUBSCRIPTION s1 CONNECTION '{conninfo}' PUBLICATION p \
             WITH (create_slot = false, slot_name = 's1_slot', copy_data = false)"
        ),
    );
    let arrives = |number: u32| {
        server.query("publisher", &format!("INSERT INTO news VALUES ({number})"));
        eventually(30, "the row arrives", || {
            server.query("subscriber", &format!("SELECT count(*) FROM news WHERE i = {number}")) == "1"
        });
    };
    arrives(1);
    let site = Site::with_repository(&server, "subscriber");
    site.run("teslamate-backup", &[]).expect(0);
    arrives(2);
    let enabled = || {
        let sql = "SELECT string_agg(format('%s %s', d.datname = 'subscriber', s.subenabled), ', ' ORDER BY d.datname = 'subscriber') \
                   FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid";
        server.query("postgres", sql)
    };
    let outcome = site.run("teslamate-restore", &["--yes", "latest"]).expect(0).says("\"s1\" of \"subscriber_before_");
    assert!(outcome.stderr.contains("was disabled"), "{}", outcome.stderr);
    assert_eq!(enabled(), "f f, t f");
    server.query("publisher", "INSERT INTO news VALUES (3)");
    // As after a restore that was killed behind its swap: any restore command disables it, and the slot stays where it is.
    let before = server.query("postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'subscriber_before_%'");
    let foreign = "subscriber_before_20200101_000000";
    server.query("postgres", &format!("CREATE DATABASE {foreign}"));
    server.query(foreign, &SUBSCRIPTION.replace("s1_slot", "foreign_slot").replace("s1 ", "s9 "));
    server.query(foreign, "ALTER SUBSCRIPTION s9 ENABLE");
    server.query(&before, "ALTER SUBSCRIPTION s1 ENABLE");
    let sql = "SELECT string_agg(subname || ' ' || subenabled, ', ' ORDER BY subname, subenabled) FROM pg_subscription";
    assert_eq!(server.query("postgres", sql), "s1 false, s1 true, s9 true");
    site.run("teslamate-restore", &["--drill", "latest"])
        .expect(0)
        .says(&format!("\"s1\" of \"{before}\" was disabled"));
    // A database that only has such a name is somebody's.
    assert_eq!(server.query("postgres", sql), "s1 false, s1 false, s9 true");
    server.query(
        foreign,
        "ALTER SUBSCRIPTION s9 DISABLE; ALTER SUBSCRIPTION s9 SET (slot_name = NONE); DROP SUBSCRIPTION s9",
    );
    server.query("postgres", &format!("DROP DATABASE {foreign}"));
    // Back, and on from where the slot is.
    site.run("teslamate-restore", &["--yes", "--undo"]).expect(0).says("ALTER SUBSCRIPTION \"s1\" ENABLE");
    assert_eq!(enabled(), "f f, t f");
    server.query("subscriber", "ALTER SUBSCRIPTION s1 ENABLE");
    arrives(4);
    assert_eq!(server.query("subscriber", "SELECT string_agg(i::text, ' ' ORDER BY i) FROM news"), "1 2 3 4");
    // An enabled one is disabled by an undo, too; and what is dropped in the end leaves the slot alone.
    site.run("teslamate-restore", &["--yes", "--undo"]).expect(0).says("was disabled");
    site.run("teslamate-restore", &["--yes", "latest"]).expect(0);
    site.run("teslamate-restore", &["--yes", "latest"]).expect(0);
    assert_eq!(server.query("postgres", "SELECT slot_name FROM pg_replication_slots"), "s1_slot");
}

#[test]
fn k5_a_left_over_with_a_subscription_blocks_no_restore() {
    let server = Server::shared();
    let database = server.teslamate("leftover");
    let site = Site::new(server, &database);
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    let left = format!("{database}_restore_20260101_000000");
    server.query("postgres", &format!("CREATE DATABASE {left}"));
    let mark = format!("glovebox is loading a replacement for database {database} here");
    server.query("postgres", &format!("COMMENT ON DATABASE {left} IS '{mark}'"));
    server.query(&left, &SUBSCRIPTION.replace("s1_slot", "s2_slot"));
    site.run("teslamate-restore", &["--drill", "a.dump"]).expect(0).says("had left behind");
    assert_eq!(server.databases(&left), Vec::<String>::new());
}

#[test]
fn k5_a_dump_of_the_schema_public_alone_is_loaded() {
    let server = Server::shared();
    let database = server.fresh_name("public_only");
    let role = format!("owner_{database}");
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER teslamate"));
    server.query(
        &database,
        &format!(
            "CREATE ROLE {role}; CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE SCHEMA other; \
             CREATE TABLE other.u AS SELECT 2 AS b; ALTER SCHEMA public OWNER TO {role}; \
             COMMENT ON SCHEMA public IS 'ours'; GRANT CREATE ON SCHEMA public TO PUBLIC"
        ),
    );
    let site = Site::new(server, &database);
    for (number, arguments) in [
        vec!["-n", "public"],
        vec!["-n", "public", "--clean"],
        vec!["-n", "public", "-n", "other"],
        vec!["-n", "other"],
    ]
    .into_iter()
    .enumerate()
    {
        for format in ["p", "c", "t", "d"] {
            let name = format!("{number}.{format}");
            server.pg_dump(&database, &site.path(&name), &[arguments.as_slice(), &["-F", format]].concat());
            let copy = server.fresh_name("public_copy");
            site.run("teslamate-restore", &["--into", &copy, "--allow-other", &format!("./{name}")]).expect(0);
            if arguments.contains(&"public") {
                let schema = "SELECT pg_get_userbyid(nspowner), obj_description(oid, 'pg_namespace'), \
                              has_schema_privilege('teslamate', oid, 'CREATE'), (SELECT a FROM t) \
                              FROM pg_namespace WHERE nspname = 'public'";
                assert_eq!(server.query(&copy, schema), format!("{role}|ours|t|1"), "{name} {arguments:?}");
            }
        }
    }
}

#[test]
fn k5_tablespaces_that_are_missing_are_named_or_left_out() {
    let server = Server::start(Options::default());
    server.create_teslamate("spaces", 600);
    let spaces = tempfile::Builder::new().prefix("glovebox-space-").tempdir().unwrap();
    fs::set_permissions(spaces.path(), fs::Permissions::from_mode(0o777)).unwrap();
    for name in ["fast", "slow"] {
        let dir = spaces.path().join(name);
        fs::create_dir(&dir).unwrap();
        if is_root() {
            let user = nix::unistd::User::from_name("postgres").unwrap().unwrap();
            nix::unistd::chown(&dir, Some(user.uid), Some(user.gid)).unwrap();
        }
        server.query("postgres", &format!("CREATE TABLESPACE {name} LOCATION '{}'", dir.display()));
    }
    server.query("spaces", "ALTER TABLE cars SET TABLESPACE fast");
    server.query("spaces", "ALTER INDEX trips_pkey SET TABLESPACE slow");
    let before = server.content("spaces");
    let site = Site::with_repository(&server, "spaces");
    site.run("teslamate-backup", &[]).expect(0);
    for name in ["a.sql", "a.dump"] {
        site.run("teslamate-backup", &[name]).expect(0);
    }
    let placed = "SELECT count(*) FROM pg_class WHERE reltablespace <> 0 AND relnamespace = 'public'::regnamespace";
    site.run("teslamate-restore", &["--yes", "--no-safety-backup", "a.sql"]).expect(0);
    assert_eq!(server.query("spaces", placed), "2");
    site.run("teslamate-restore", &["--yes", "--no-safety-backup", "--no-tablespaces", "latest"]).expect(0);
    assert_eq!(server.query("spaces", placed), "0");
    for database in server.databases("spaces_before_") {
        server.query("postgres", &format!("DROP DATABASE {database}"));
    }
    server.query("postgres", "DROP TABLESPACE fast");
    server.query("postgres", "DROP TABLESPACE slow");
    for source in ["latest", "a.sql", "a.dump"] {
        let refused = site.run("teslamate-restore", &["--yes", source]).expect(10);
        let refused = refused.says("does not have the tablespaces \"fast\", \"slow\"").says("not touched");
        assert!(refused.stderr.contains("--no-tablespaces"), "{}", refused.stderr);
        site.run("teslamate-restore", &["--yes", "--no-safety-backup", "--no-tablespaces", source]).expect(0);
        assert_eq!(server.content("spaces"), before, "{source}");
    }
}

#[test]
fn k5_a_database_called_postgres_is_replaced_and_undone() {
    let server = Server::start(Options::default());
    server.create_teslamate("other", 600);
    server.query("postgres", "CREATE TABLE t AS SELECT 1 AS a");
    let site = Site::new(&server, "postgres");
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    server.query("postgres", "UPDATE t SET a = 2");
    site.run("teslamate-restore", &["--drill", "--allow-other", "a.dump"]).expect(0);
    site.run("teslamate-restore", &["--yes", "--allow-other", "a.dump"]).expect(0);
    assert_eq!(server.query("postgres", "SELECT a FROM t"), "1");
    site.run("teslamate-restore", &["--undo", "--yes"]).expect(0);
    assert_eq!(server.query("postgres", "SELECT a FROM t"), "2");
    // Other runs find the lock.
    let key = "DO $$BEGIN PERFORM pg_advisory_lock(hashtextextended('glovebox:swap:postgres', 0)); END$$";
    let held = server.hold("template1", key);
    site.run("teslamate-restore", &["--drill", "--allow-other", "a.dump"]).expect(11);
    drop(held);
    let template = Site::new(&server, "template1");
    server.query("template1", "CREATE TABLE t AS SELECT 3 AS a");
    template.run("teslamate-backup", &["b.dump"]).expect(0);
    template.run("teslamate-restore", &["--drill", "--allow-other", "b.dump"]).expect(0);
    template.run("teslamate-restore", &["--yes", "--allow-other", "b.dump"]).expect(0);
    assert_eq!(server.query("template1", "SELECT a FROM t"), "3");
}

#[test]
fn k5_an_index_that_was_not_valid_is_a_warning() {
    let server = Server::shared();
    let database = server.teslamate("invalid");
    server.query(
        &database,
        "CREATE TABLE p (a int, b int) PARTITION BY RANGE (a); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); \
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (a); \
         CREATE TABLE p21 PARTITION OF p2 FOR VALUES FROM (10) TO (15); INSERT INTO p VALUES (1, 1), (11, 11); \
         CREATE INDEX alone ON ONLY p (a); CREATE INDEX whole ON p (b); ALTER TABLE ONLY p ADD CONSTRAINT key UNIQUE (a, b)",
    );
    // One of two partitions has its index.
    server.query(
        &database,
        "CREATE INDEX half ON ONLY p (a, b); CREATE INDEX half1 ON p1 (a, b); ALTER INDEX half ATTACH PARTITION half1",
    );
    // What an interrupted CREATE INDEX CONCURRENTLY leaves on a table, no dump holds.
    server.query(
        &database,
        "CREATE INDEX broken ON p21 (b); UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass",
    );
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    for name in ["a.sql", "a.dump"] {
        site.run("teslamate-backup", &[name]).expect(0);
    }
    for source in ["latest", "a.sql", "a.dump"] {
        let outcome = site.run("teslamate-restore", &["--yes", "--no-safety-backup", source]).expect(0);
        let invalid = "SELECT string_agg(indexrelid::regclass::text, ',' ORDER BY 1) FROM (SELECT * FROM pg_index \
                       ORDER BY indexrelid::regclass::text) x WHERE NOT indisvalid";
        assert_eq!(server.query(&database, invalid), "alone,half,key", "{source}");
        // The commands, typed.
        for line in outcome.stderr.lines().filter(|line| line.contains("is not valid, as in the source")) {
            let (_, command) = line.split_once("belongs to it. ").expect("a command");
            server.query(&database, command);
        }
        assert_eq!(server.query(&database, invalid), "", "{source}: {}", outcome.stderr);
        assert_eq!(server.query(&database, "SELECT count(*) FROM p"), "2");
    }
}
