//! Roles with few rights, and databases of other applications.

use std::time::Duration;

use super::support::server::Options;
use super::support::tree_server::TreeServer;
use super::support::{Server, Site};

/// An installation that works as this role.
fn site(server: &Server, database: &str, role: &str) -> Site {
    let site = Site::with_repository(server, database);
    let config = std::fs::read_to_string(site.config()).unwrap();
    site.write_config(&config.replace("user = \"teslamate\"", &format!("user = \"{role}\"")));
    site
}

const HBA: &str = "local all postgres trust\nlocal own confined trust\nlocal all free trust\n";

#[test]
fn k10_a_role_confined_to_its_database_backs_up_and_deletes() {
    let server = Server::start(Options { hba: Some(HBA.into()), ..Options::default() });
    server.query(
        "postgres",
        "CREATE ROLE teslamate SUPERUSER; CREATE ROLE confined LOGIN SUPERUSER; CREATE ROLE free LOGIN SUPERUSER",
    );
    server.query("postgres", "CREATE DATABASE own OWNER teslamate");
    for file in ["schema.sql", "data.sql"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/teslamate").join(file);
        server.run_file("own", &path, &[("positions", "600".into())]);
    }
    let site = site(&server, "own", "confined");
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-backup", &["./a.sql"]).expect(0);
    site.run("teslamate-backup", &["check"]).expect(0);
    site.run("teslamate-close-drive", &["--via", "sql", "2"]).expect(0);
    site.run("teslamate-delete-drive", &["2"]).expect(0);
    for arguments in [["--drill", "./a.sql"], ["latest", "--yes"]] {
        let refused = site.run("teslamate-restore", &arguments).expect(12);
        refused
            .says("does not let role \"confined\" into database \"postgres\"")
            .says("`local postgres confined peer`")
            .says("made, renamed and dropped from a session in that database");
    }

    // A lock that was taken in one database holds in the other.
    let lock = "DO 'BEGIN PERFORM pg_advisory_lock(hashtextextended(''glovebox:swap:own'', 0)); END'";
    let held = server.hold("postgres", lock);
    site.run("teslamate-backup", &["./b.sql"]).expect(11).says("another run is at work");
    drop(held);
    let free = self::site(&server, "own", "free");
    let held = server.hold("own", lock);
    free.run("teslamate-delete-drive", &["3"]).expect(11).says("another run is at work");
    drop(held);
    free.run("teslamate-delete-drive", &["3"]).expect(0);
}

#[test]
fn k10_a_role_that_may_not_enter_new_databases_is_told_first() {
    let hba = "local all postgres trust\nlocal own,postgres half trust\n";
    let server = Server::start(Options { hba: Some(hba.into()), ..Options::default() });
    server.query("postgres", "CREATE ROLE half LOGIN SUPERUSER; CREATE ROLE teslamate");
    server.query("postgres", "CREATE DATABASE own OWNER half");
    server.query("own", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    let site = site(&server, "own", "half");
    site.run("teslamate-backup", &["./a.sql"]).expect(0);
    site.run("teslamate-restore", &["--drill", "./a.sql"])
        .expect(12)
        .says("`local all half peer`")
        .says("A restore loads into a database of a new name");
    assert_eq!(server.databases("own_"), Vec::<String>::new());
}

#[test]
fn k10_settings_that_the_role_may_not_give_are_named_before_loading() {
    let server = Server::shared();
    let database = server.fresh_name("forbidden");
    server.query(
        "postgres",
        "DO $$ BEGIN IF to_regrole('plain') IS NULL THEN CREATE ROLE plain LOGIN CREATEDB; CREATE ROLE reader LOGIN; END IF; END $$",
    );
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER plain"));
    server.query(&database, "SET ROLE plain; CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    for setting in ["log_min_duration_statement = 1000", "session_replication_role = origin", "\"TimeZone\" = 'UTC'"] {
        server.query("postgres", &format!("ALTER DATABASE {database} SET {setting}"));
    }
    server.query("postgres", &format!("ALTER ROLE reader IN DATABASE {database} SET work_mem = '1MB'"));
    let site = site(server, &database, "plain");
    site.run("teslamate-backup", &["./a.sql"]).expect(0);
    site.run("teslamate-restore", &["--drill", "./a.sql"]).expect(0).says("log_min_duration_statement");
    let refused = site.run("teslamate-restore", &["./a.sql", "--yes"]).expect(10);
    for words in [
        "\"log_min_duration_statement\" TO '1000'",
        "\"session_replication_role\"",
        "ROLE \"reader\" IN DATABASE",
        "--no-properties",
    ] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    assert!(!refused.stderr.contains("TimeZone"), "{}", refused.stderr);
    assert_eq!(server.databases(&format!("{database}_")), Vec::<String>::new());
    site.run("teslamate-restore", &["./a.sql", "--yes", "--no-properties"])
        .expect(0)
        .says("as a superuser, run afterwards");
    let left = "SELECT string_agg(c, ',') FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(setconfig) c WHERE datname = ";
    assert_eq!(server.query("postgres", &format!("{left}'{database}'")), "TimeZone=UTC");
}

#[test]
fn k10_the_staging_database_is_closed_to_others_while_it_is_loaded() {
    let server = Server::shared();
    let database = server.fresh_name("closed");
    let stranger = server.fresh_name("stranger");
    server.query("postgres", &format!("CREATE ROLE {stranger} LOGIN"));
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER teslamate"));
    // Each row takes a while to load.
    server.query(&database, "CREATE TABLE slow (a int CHECK (pg_sleep(3) IS NOT NULL)); INSERT INTO slow VALUES (1)");
    let site = Site::new(server, &database);
    site.run("teslamate-backup", &["./a.sql"]).expect(0);
    let copy = format!("{database}_copy");
    let running = site.command("teslamate-restore").args(&["./a.sql", "--into", &copy]).spawn();
    let mut staging = Vec::new();
    super::support::probe::eventually(20, "a staging database", || {
        staging = server.databases(&format!("{copy}_restore_"));
        staging.len() == 1
    });
    std::thread::sleep(Duration::from_millis(700));
    let knock = |name: &str| {
        let output =
            server.tool("psql").env("PGUSER", &stranger).args(["-X", "-c", "SELECT 1", "-d", name]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (entered, words) = knock(&staging[0]);
    assert!(!entered && words.contains("permission denied"), "{words}");
    assert!(running.wait_with_output().unwrap().status.success());
    assert!(knock(&copy).0, "as the live one, the copy is open to all");
}

#[test]
fn k10_migrations_of_other_applications_are_tables_like_any_other() {
    let server = Server::shared();
    for (hint, sql) in [
        ("rails", "CREATE TABLE schema_migrations (version varchar PRIMARY KEY); INSERT INTO schema_migrations VALUES ('20240101000000'), ('abc')"),
        ("columns", "CREATE TABLE schema_migrations (id int, dirty boolean); INSERT INTO schema_migrations VALUES (1, false)"),
        ("view", "CREATE VIEW schema_migrations AS SELECT 1::bigint AS version"),
        ("parted", "CREATE TABLE schema_migrations (version bigint) PARTITION BY RANGE (version);
                    CREATE TABLE m1 PARTITION OF schema_migrations FOR VALUES FROM (0) TO (9); INSERT INTO m1 VALUES (1)"),
        ("cars", "CREATE TABLE schema_migrations (version varchar); CREATE TABLE cars (id int); CREATE TABLE positions (id int)"),
        ("elsewhere", "CREATE SCHEMA private; CREATE TABLE private.schema_migrations (version text); INSERT INTO private.schema_migrations VALUES ('x')"),
    ] {
        let database = server.fresh_name(hint);
        server.query("postgres", &format!("CREATE DATABASE {database} OWNER teslamate"));
        server.query(&database, &format!("SET ROLE teslamate; {sql}; CREATE TABLE notes (a text); INSERT INTO notes VALUES ('x')"));
        let before = server.content(&database);
        let site = Site::with_repository(server, &database);
        site.run("teslamate-backup", &[]).expect(0);
        site.run("teslamate-backup", &["./a.dump"]).expect(0);
        site.run("teslamate-restore", &["--drill", "./a.dump"]).expect(0);
        server.query(&database, "DELETE FROM notes");
        site.run("teslamate-restore", &["latest", "--yes", "--no-safety-backup"]).expect(0);
        assert_eq!(server.content(&database), before, "{hint}");
    }
}

#[test]
fn k10_statistics_in_a_dump_of_18_and_19_are_loaded() {
    for major in [18, 19] {
        let Some(server) = TreeServer::of(major, &[]) else { continue };
        server.query("postgres", "CREATE DATABASE teslamate");
        server.query(
            "teslamate",
            "CREATE TABLE t (a int, b int); INSERT INTO t SELECT g, g FROM generate_series(1, 1000) g;
             CREATE STATISTICS s ON a, b FROM t; ANALYZE t",
        );
        let site = server.site(Some(&server.tools()));
        for (file, format) in [("a.sql", "plain"), ("a.dump", "custom")] {
            let output = server
                .tool("pg_dump")
                .args(["--statistics", &format!("--format={format}"), "-d", "teslamate", "-f"])
                .arg(site.path(file))
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            site.run("teslamate-restore", &["--drill", "--allow-other", file]).expect(0);
        }
    }
}

#[test]
fn k10_a_dump_of_statistics_alone_is_refused_beforehand() {
    let Some(server) = TreeServer::of(18, &[]) else { return };
    server.query("postgres", "CREATE DATABASE teslamate");
    server.query("teslamate", "CREATE SCHEMA s CREATE TABLE t (a int); INSERT INTO s.t VALUES (1); ANALYZE s.t");
    let site = server.site(Some(&server.tools()));
    for (file, format) in [("a.sql", "plain"), ("a.dump", "custom")] {
        let mut dump = server.tool("pg_dump");
        dump.args(["--statistics-only", &format!("--format={format}"), "-d", "teslamate", "-f"]).arg(site.path(file));
        assert!(dump.status().unwrap().success());
        let outcome = site.run("teslamate-restore", &["--into", "copy", "--allow-other", file]).expect(10);
        let outcome = outcome.says("holds statistics only");
        assert!(!outcome.stderr.contains("loading"), "{}", outcome.stderr);
    }
}

/// Roles, names of databases and comments are written in the encoding of the database in which somebody made them.
#[test]
fn k10_names_of_a_cluster_that_are_not_utf8_are_in_nobodys_way() {
    let server = Server::start(Options::default());
    server.create_teslamate("teslamate", 500);
    server.query("postgres", "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    server.query("latin", r#"CREATE ROLE U&"Gr\00F6\00DFe"; COMMENT ON DATABASE latin IS U&'Gr\00F6\00DFe'"#);
    server.query("latin", r#"CREATE DATABASE U&"Ma\00DF" TEMPLATE latin ENCODING 'LATIN1'"#);
    let bytes = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'Gr%' AND octet_length(rolname::text) = 5";
    assert_eq!(server.query("postgres", bytes), "1");
    let site = Site::with_repository(&server, "teslamate");
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    for source in ["latest", "a.dump"] {
        site.run("teslamate-restore", &[source, "--drill"]).expect(0);
        site.run("teslamate-restore", &[source, "--yes"]).expect(0);
        site.run("teslamate-restore", &["--undo", "--yes"]).expect(0);
    }
    server.query("latin", r"COMMENT ON DATABASE teslamate IS U&'Gr\00F6\00DFe'");
    site.run("teslamate-backup", &[])
        .expect(12)
        .says("cannot read the database's properties")
        .says("COMMENT ON DATABASE");
    server.query("teslamate", "COMMENT ON DATABASE teslamate IS 'Größe'");
    site.run("teslamate-backup", &[]).expect(0);
}
