//! Rows and definitions of one moment, whatever is altered while a backup begins or reads.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::dumps::{Case, load};
use crate::support::probe::{self, pg_dump_of, signal};
use crate::support::server::conninfo;
use crate::support::{Outcome, Server, Site};

/// A database with a table `big` that is read in many chunks, with an enum; and two schemas with the same tables.
fn database(server: &Server, hint: &str) -> String {
    let name = server.fresh_name(hint);
    server.query("postgres", &format!("CREATE DATABASE {name} OWNER teslamate TEMPLATE template0"));
    server.query(
        &name,
        "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE SCHEMA one; CREATE SCHEMA two; \
         CREATE TABLE one.big AS SELECT i, CASE WHEN i % 2 = 0 THEN 'good' ELSE 'bad' END::mood AS m, repeat('one', 200) AS t \
           FROM generate_series(1, 40000) i; \
         CREATE TABLE two.big AS SELECT i, CASE WHEN i % 2 = 0 THEN 'good' ELSE 'bad' END::mood AS m, repeat('two', 200) AS t \
           FROM generate_series(1, 40000) i; \
         CREATE TABLE a (id int, x text, y text); INSERT INTO a SELECT i, 'x', 'y' FROM generate_series(1, 500) i; \
         CREATE VIEW v AS SELECT id FROM a",
    );
    name
}

/// Rows of the tables.
fn held(server: &Server, database: &str) -> String {
    server.query(
        database,
        "SELECT (SELECT md5(string_agg(t::text, ',' ORDER BY i)) FROM one.big t), (SELECT md5(string_agg(t::text, ',' ORDER BY i)) FROM two.big t)",
    )
}

fn outcome(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code(),
        signal: None,
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A session of a backup that reads, or has just read, a chunk of `big`; or of a `pg_dump` that copies it.
const READS: &str = "(query LIKE 'COPY %big%' AND state = 'active' OR query LIKE '%SAVEPOINT chunk%big%')";

/// Waits until a session copies a table of this database that is called `big`, stops the reader, alters, and lets it go on.
fn alter_while_it_reads(server: &Server, database: &str, reader: u32, alter: &str) {
    let give_up = Instant::now() + Duration::from_mins(3);
    let reading = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND {READS}");
    // In steps of some milliseconds, so that no copy is over between two looks.
    loop {
        signal(reader, Signal::SIGSTOP);
        if server.query("postgres", &reading) != "0" {
            break;
        }
        signal(reader, Signal::SIGCONT);
        assert!(Instant::now() < give_up, "nothing was copied");
        probe::sleep_ms(20);
    }
    // Each in a transaction of its own.
    for statement in alter.split("; ") {
        server.query(database, statement);
    }
    signal(reader, Signal::SIGCONT);
}

/// Statements that may alter something while tables are locked.
const ALTERATIONS: [(&str, &str); 5] = [
    (
        "labels",
        "ALTER TYPE mood RENAME VALUE 'good' TO 'x'; ALTER TYPE mood RENAME VALUE 'bad' TO 'good'; ALTER TYPE mood RENAME VALUE 'x' TO 'bad'",
    ),
    ("label_and_back", "ALTER TYPE mood RENAME VALUE 'good' TO 'x'; ALTER TYPE mood RENAME VALUE 'x' TO 'good'"),
    ("schemas", "ALTER SCHEMA one RENAME TO x; ALTER SCHEMA two RENAME TO one; ALTER SCHEMA x RENAME TO two"),
    (
        "schemas_and_back",
        "ALTER SCHEMA one RENAME TO x; ALTER SCHEMA two RENAME TO one; ALTER SCHEMA x RENAME TO two; \
         ALTER SCHEMA one RENAME TO x; ALTER SCHEMA two RENAME TO one; ALTER SCHEMA x RENAME TO two",
    ),
    (
        "schemas_and_back_behind_a_grant",
        "ALTER SCHEMA one RENAME TO x; ALTER SCHEMA two RENAME TO one; ALTER SCHEMA x RENAME TO two; \
         GRANT USAGE ON SCHEMA one, two TO PUBLIC; \
         ALTER SCHEMA one RENAME TO x; ALTER SCHEMA two RENAME TO one; ALTER SCHEMA x RENAME TO two",
    ),
];

#[test]
fn k1_grants_on_schemas_while_a_backup_reads() {
    let server = Server::shared();
    let once = "GRANT USAGE ON SCHEMA one, two TO PUBLIC";
    for (grant, begins_again) in
        [(once, false), ("GRANT USAGE ON SCHEMA one TO PUBLIC; GRANT CREATE ON SCHEMA one TO PUBLIC", true)]
    {
        let site = Site::with_repository(server, &database(server, "granted"));
        let child = site.command("teslamate-backup").spawn();
        alter_while_it_reads(server, &site.database, child.id(), grant);
        let outcome = outcome(child).expect(0);
        assert_eq!(outcome.stderr.contains("once more, from the start"), begins_again, "{grant}: {}", outcome.stderr);
        assert_eq!(site.backups().len(), 1);
    }
}

#[test]
fn k1_labels_and_schemas_altered_while_a_repository_backup_reads() {
    let server = Server::shared();
    for (hint, alter) in ALTERATIONS {
        let site = Site::with_repository(server, &database(server, hint));
        let child = site.command("teslamate-backup").spawn();
        alter_while_it_reads(server, &site.database, child.id(), alter);
        let outcome = outcome(child).expect(0).says("once more, from the start");
        assert_eq!(site.backups().len(), 1, "{}", outcome.stderr);
        let copy = server.fresh_name("moment_copy");
        site.run("teslamate-restore", &["latest", "--into", &copy]).expect(0);
        assert_eq!(held(server, &copy), held(server, &site.database), "{hint}");
    }
}

#[test]
fn k1_labels_and_schemas_altered_while_a_dump_is_written() {
    let server = Server::shared();
    for (hint, alter) in ALTERATIONS {
        let database = database(server, hint);
        let case = Case::new(server, &database);
        for name in ["a.sql.zst", "a.dump"] {
            let child = case.backup(name).spawn();
            let pg_dump = pg_dump_of(child.id());
            alter_while_it_reads(server, &database, pg_dump, alter);
            outcome(child).expect(0).says("once more, from the start");
            assert_eq!(held(server, &load(server, &case.path(name))), held(server, &database), "{hint} {name}");
            fs::remove_file(case.path(name)).unwrap();
        }
        // What went to a pipe cannot be taken back; the first lines may not have come that far.
        let child = case.site.command("teslamate-backup").arg("-").with(|command| {
            command.stdout(Stdio::null());
        });
        let child = child.spawn();
        let pg_dump = pg_dump_of(child.id());
        alter_while_it_reads(server, &database, pg_dump, alter);
        let ended = outcome(child);
        if ended.code == Some(0) {
            ended.says("once more, from the start");
        } else {
            ended.expect(12).says("definitions were altered").says("changed:").says("hint:");
        }
    }
}

#[test]
fn k1_a_schema_that_is_altered_again_and_again_is_never_published() {
    let server = Server::shared();
    let site = Site::with_repository(server, &database(server, "again"));
    let child = site.command("teslamate-backup").spawn();
    let (_, alter) = ALTERATIONS[0];
    alter_while_it_reads(server, &site.database, child.id(), alter);
    // The second attempt begins with sessions of its own.
    let begun = server.query("postgres", "SELECT now()");
    probe::eventually(60, "the second attempt reads", || {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND backend_start > '{begun}' AND {READS}",
            site.database
        );
        server.query("postgres", &sql) != "0"
    });
    alter_while_it_reads(server, &site.database, child.id(), alter);
    outcome(child).expect(12).says("label of an enum public.mood.").says("no backup was made").says("hint:");
    assert!(site.backups().is_empty());
    site.run("teslamate-backup", &[]).expect(0);
    assert_eq!(site.backups().len(), 1);
}

/// Statements in a transaction that holds the lock of table `a` while a backup begins.
const BEHIND_A_LOCK: [(&str, &str); 4] = [
    (
        "renamed",
        "ALTER TABLE a RENAME TO a_old; CREATE TABLE a (LIKE a_old); INSERT INTO a SELECT id + 1, x, y FROM a_old",
    ),
    ("exchanged", "ALTER TABLE a RENAME x TO z; ALTER TABLE a RENAME y TO x; ALTER TABLE a RENAME z TO y"),
    ("again", "ALTER TABLE a DROP x; ALTER TABLE a ADD x text DEFAULT 'new'"),
    ("moved", "ALTER TABLE a SET SCHEMA one; CREATE TABLE public.a (LIKE one.a)"),
];

#[test]
fn k1_what_happens_while_a_lock_is_waited_for_is_in_the_backup() {
    let server = Server::shared();
    for (hint, alter) in BEHIND_A_LOCK {
        let rows = "SELECT count(*), md5(string_agg(format('%s %s %s', id, x, y), ',' ORDER BY id)) FROM public.a";
        for name in ["", "a.sql", "a.dump"] {
            let database = database(server, hint);
            let site = Site::with_repository(server, &database);
            let mut holder = server.tool("psql");
            let text = format!("BEGIN; LOCK a; SELECT pg_sleep(0.5); {alter}; SELECT pg_sleep(2); COMMIT");
            holder.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &conninfo(&database)]);
            for statement in text.split("; ") {
                holder.args(["-c", statement]);
            }
            let mut holder = holder.stdout(Stdio::null()).spawn().unwrap();
            probe::sleep_ms(300);
            let file = site.path(name);
            let arguments: Vec<&str> = if name.is_empty() { vec![] } else { vec![file.to_str().unwrap()] };
            site.run("teslamate-backup", &arguments).expect(0);
            assert!(holder.wait().unwrap().success());
            let copy = if name.is_empty() {
                let copy = server.fresh_name("behind_copy");
                site.run("teslamate-restore", &["latest", "--into", &copy]).expect(0);
                copy
            } else {
                load(server, &file)
            };
            assert_eq!(server.query(&copy, rows), server.query(&database, rows), "{hint} {name}");
        }
    }
}

#[test]
fn k1_what_is_altered_before_pg_dump_reads_it_begins_the_backup_again() {
    let server = Server::shared();
    let alterations = [
        "CREATE OR REPLACE VIEW v AS SELECT id, x FROM a",
        "CREATE OR REPLACE FUNCTION f(n int) RETURNS int LANGUAGE sql AS 'SELECT n + 1'",
        "ALTER FUNCTION f RENAME TO g",
        "DROP TYPE unused; CREATE TYPE unused AS ENUM ('a')",
        "ALTER VIEW v RENAME TO w; ALTER VIEW w RENAME TO v",
        "ALTER SEQUENCE s RENAME TO w; ALTER SEQUENCE w RENAME TO s",
        "ALTER FUNCTION f RENAME TO g; ALTER FUNCTION g RENAME TO f",
        "ALTER TYPE mood RENAME TO w; ALTER TYPE w RENAME TO mood",
        "ALTER SCHEMA one RENAME TO w; ALTER SCHEMA w RENAME TO one",
        "ALTER COLLATION c RENAME TO w; ALTER COLLATION w RENAME TO c",
        "ALTER TEXT SEARCH CONFIGURATION ts RENAME TO w; ALTER TEXT SEARCH CONFIGURATION w RENAME TO ts",
        "ALTER INDEX named RENAME TO w",
        "ALTER INDEX named RENAME TO w; ALTER INDEX w RENAME TO named",
        "ALTER STATISTICS st RENAME TO w",
        "DROP STATISTICS st",
        "ALTER OPERATOR CLASS oc USING btree RENAME TO w",
        "ALTER TYPE mood RENAME TO w; GRANT USAGE ON TYPE w TO PUBLIC; ALTER TYPE w RENAME TO mood",
        "ALTER SCHEMA one RENAME TO w; GRANT USAGE ON SCHEMA w TO PUBLIC; ALTER SCHEMA w RENAME TO one",
        "ALTER SEQUENCE s RENAME TO w; GRANT USAGE ON SEQUENCE w TO PUBLIC; ALTER SEQUENCE w RENAME TO s",
    ];
    for (number, alter) in alterations.into_iter().enumerate() {
        let objects = "CREATE FUNCTION f(n int) RETURNS int LANGUAGE sql AS 'SELECT n'; CREATE TYPE unused AS ENUM ('a'); CREATE SEQUENCE s; \
            CREATE COLLATION c FROM \"C\"; CREATE TEXT SEARCH CONFIGURATION ts (COPY = simple); CREATE STATISTICS st ON id, x FROM a; \
            CREATE INDEX named ON a (id); COMMENT ON INDEX named IS 'mine'; \
            CREATE OPERATOR CLASS oc FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, \
            FUNCTION 1 btint4cmp(int, int)";
        let targets = ["", "out/a.sql", "out/a.dump"];
        // Some are read for all of them alike.
        let targets = if number < 4 { &targets[..] } else { &targets[number % 3..=number % 3] };
        for &name in targets {
            let database = database(server, "before");
            server.query(&database, objects);
            let site = Site::with_repository(server, &database);
            fs::create_dir(site.path("out")).unwrap();
            let count = site.path("attempts");
            let psql = format!(
                "'{}/psql' -h '{}' -p {} -U postgres -Xqc \"{}\" {database}",
                crate::support::server::bin_dir().display(),
                server.dir().display(),
                server.port(),
                // Each in a transaction of its own.
                alter.replace("; ", "\" -c \"")
            );
            let script = format!("[ -e '{0}' ] || {psql} || exit 9\necho >> '{0}'\nexec $REAL \"$@\"", count.display());
            let tools = probe::tools(&site.path(""), &script);
            let section = crate::support::repository::section(&site);
            site.configure(&format!("port = {}\ntools = {tools:?}\n{section}", server.port()), "");
            let arguments: Vec<&str> = if name.is_empty() { vec![] } else { vec![name] };
            site.run("teslamate-backup", &arguments).expect(0);
            assert_eq!(fs::read_to_string(&count).unwrap().lines().count(), 2, "{alter} {name}");
        }
    }
}

#[test]
fn k1_a_busy_application_does_not_keep_a_backup_from_being_made() {
    let server = Server::shared();
    let database = database(server, "busy");
    server.query(&database, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    server.query(&database, "CREATE SEQUENCE s; CREATE INDEX ai ON a (x)");
    server.query(&database, "CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM a; CREATE UNIQUE INDEX ON mv (count)");
    let site = Site::with_repository(server, &database);
    fs::create_dir(site.path("out")).unwrap();
    let script = site.path("busy.sql");
    let text: String = (0..20_000)
        .map(|n| {
            // Once within a backup, not in each of its attempts again and again.
            let grant = if n % 200 == 0 { "GRANT USAGE ON SCHEMA one TO PUBLIC;\n" } else { "" };
            format!(
                "GRANT SELECT ON a TO PUBLIC;\n{grant}ALTER TYPE mood ADD VALUE 'm{n}';\n\
                 CREATE TEMPORARY TABLE t (i serial);\nDROP TABLE t;\nREFRESH MATERIALIZED VIEW CONCURRENTLY mv;\nREFRESH MATERIALIZED VIEW mv;\n\
                 CREATE TABLE new_{n} (i serial PRIMARY KEY);\nANALYZE a;\nVACUUM a;\nCREATE INDEX CONCURRENTLY i_{n} ON a (id);\n\
                 DROP INDEX CONCURRENTLY i_{n};\nDROP TABLE new_{n};\nCREATE OR REPLACE VIEW v AS SELECT id FROM a;\n\
                 CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';\nREINDEX INDEX CONCURRENTLY ai;\n"
            )
        })
        .collect();
    fs::write(&script, text).unwrap();
    let mut busy = server.tool("psql").args(["-X", "-q", "-d", &database, "-f"]).arg(&script).spawn().unwrap();
    probe::sleep_ms(200);
    for number in 0..3 {
        site.run("teslamate-backup", &[]).expect(0);
        for name in ["sql", "dump"] {
            site.run("teslamate-backup", &[&format!("out/{number}.{name}")]).expect(0);
        }
        site.run("teslamate-backup", &["--table", "a", "--schema-only", &format!("out/{number}.a.sql")]).expect(0);
    }
    assert!(busy.try_wait().unwrap().is_none(), "it was busy no longer: the test proved nothing");
    busy.kill().unwrap();
    busy.wait().unwrap();
}

#[test]
fn k1_a_sequence_may_be_restarted_while_rows_are_read() {
    let server = Server::shared();
    let restarts =
        ["ALTER SEQUENCE s RESTART", "ALTER SEQUENCE s RESTART WITH 7", "ALTER SEQUENCE of_serial_i_seq RESTART"];
    for restart in restarts {
        let database = database(server, "restart");
        server.query(&database, "CREATE SEQUENCE s; CREATE TABLE of_serial (i serial); SELECT setval('s', 42)");
        let site = Site::with_repository(server, &database);
        let child = site.command("teslamate-backup").spawn();
        alter_while_it_reads(server, &database, child.id(), restart);
        let outcome = outcome(child).expect(0);
        assert!(!outcome.stderr.contains("once more"), "{restart}: {}", outcome.stderr);
        let copy = server.fresh_name("restart_copy");
        site.run("teslamate-restore", &["latest", "--into", &copy]).expect(0);
        assert_eq!(server.query(&copy, "SELECT last_value FROM s"), "42");
    }
}

/// Names that were other ones while `pg_dump` read, hidden by a GRANT or a new owner that was written after them.
#[test]
fn k1_a_grant_does_not_hide_a_name_that_was_changed_and_changed_back() {
    let server = Server::shared();
    let alterations = [
        "ALTER SEQUENCE s RENAME TO w; ALTER SEQUENCE w RENAME TO s; GRANT USAGE ON SEQUENCE s TO pg_monitor",
        "ALTER VIEW v RENAME TO w; ALTER VIEW w RENAME TO v; ALTER VIEW v OWNER TO teslamate",
        "ALTER SCHEMA one RENAME TO w; ALTER SCHEMA w RENAME TO one; GRANT USAGE ON SCHEMA one TO pg_monitor",
        "ALTER TYPE mood RENAME TO w; ALTER TYPE w RENAME TO mood; ALTER TYPE mood OWNER TO teslamate",
        "ALTER INDEX named SET (fillfactor = 50)",
    ];
    for (number, alter) in alterations.into_iter().enumerate() {
        let database = database(server, "hidden");
        server.query(&database, "CREATE SEQUENCE s; CREATE INDEX named ON a (id)");
        let site = Site::with_repository(server, &database);
        fs::create_dir(site.path("out")).unwrap();
        // Each in a transaction of its own.
        let statements = alter.replace("; ", "\" -c \"");
        let count = altering_pg_dump(server, &site, &format!("-c \"{statements}\""));
        let name = ["", "out/a.sql", "-"][number % 3];
        let arguments: Vec<&str> = if name.is_empty() { vec![] } else { vec![name] };
        site.run("teslamate-backup", &arguments).expect(0);
        assert_eq!(fs::read_to_string(&count).unwrap().lines().count(), 2, "{alter} {name}");
    }
}

/// Uses a `pg_dump` that runs psql with these arguments when it is started first; the file has a line for each start.
fn altering_pg_dump(server: &Server, site: &Site, arguments: &str) -> std::path::PathBuf {
    let count = site.path("attempts");
    let psql = format!(
        "'{}/psql' -h '{}' -p {} -U postgres -Xq {arguments} {}",
        crate::support::server::bin_dir().display(),
        server.dir().display(),
        server.port(),
        site.database
    );
    let script = format!("[ -e '{0}' ] || {psql} || exit 9\necho >> '{0}'\nexec $REAL \"$@\"", count.display());
    let tools = probe::tools(&site.path(""), &script);
    let section = crate::support::repository::section(site);
    site.configure(&format!("port = {}\ntools = {tools:?}\n{section}", server.port()), "");
    count
}

#[test]
fn k1_a_dump_to_a_pipe_begins_again_before_its_first_line() {
    let server = Server::shared();
    let database = database(server, "pipe");
    let site = Site::with_repository(server, &database);
    let alter = "CREATE OR REPLACE VIEW v AS SELECT id, x FROM a";
    let count = altering_pg_dump(server, &site, &format!("-c \"{alter}\""));
    let outcome = site.run("teslamate-backup", &["-"]).expect(0).says("once more, from the start");
    assert_eq!(fs::read_to_string(&count).unwrap().lines().count(), 2);
    assert_eq!(outcome.text().matches("-- PostgreSQL database dump\n").count(), 1);
    assert_eq!(outcome.text().matches("-- PostgreSQL database dump complete").count(), 1);
    assert!(outcome.text().contains("SELECT a.id,\n    a.x"));
}

/// Objects of every catalog that `pg_dump` reads.
const OF_EVERY_CATALOG: &str = "\
    CREATE TYPE pair AS (l int, r int); CREATE FUNCTION to_pair(text) RETURNS pair LANGUAGE sql AS 'SELECT (1, 2)::pair'; \
    CREATE CAST (text AS pair) WITH FUNCTION to_pair(text); \
    CREATE FUNCTION handle() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; \
    CREATE EVENT TRIGGER et ON ddl_command_start EXECUTE FUNCTION handle(); \
    CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER tr BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION fire(); \
    CREATE FUNCTION plus(pair, pair) RETURNS boolean LANGUAGE sql AS 'SELECT true'; CREATE OPERATOR === (LEFTARG = pair, RIGHTARG = pair, FUNCTION = plus); \
    CREATE OPERATOR FAMILY fam USING btree; \
    CREATE CONVERSION conv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8; \
    CREATE TEXT SEARCH DICTIONARY dict (TEMPLATE = simple); CREATE TEXT SEARCH CONFIGURATION conf (COPY = simple); \
    CREATE FOREIGN DATA WRAPPER fdw; CREATE SERVER srv FOREIGN DATA WRAPPER fdw; CREATE USER MAPPING FOR teslamate SERVER srv OPTIONS (a 'b'); \
    CREATE FOREIGN TABLE ft (a int) SERVER srv; CREATE POLICY pol ON a TO teslamate USING (id > 0); \
    CREATE PUBLICATION pub FOR TABLE a; CREATE STATISTICS st ON id, x FROM a; CREATE COLLATION c FROM \"C\"; \
    CREATE DOMAIN dom AS int CHECK (VALUE > 0); CREATE TYPE span AS RANGE (subtype = int); CREATE SEQUENCE s; \
    CREATE ACCESS METHOD am TYPE TABLE HANDLER heap_tableam_handler; COMMENT ON TABLE a IS 'old'; \
    CREATE RULE ru AS ON DELETE TO v DO INSTEAD NOTHING; CREATE TABLE part (i int) PARTITION BY RANGE (i); CREATE INDEX idx ON a (x); \
    CREATE FUNCTION shows(regclass) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'; \
    CREATE TABLE defaults (i int DEFAULT nextval('s'), j text DEFAULT shows('v'))";

/// Statements that lock no table.
const OF_EVERY_CATALOG_ALTERED: [&str; 44] = [
    "DROP CAST (text AS pair)",
    "CREATE CAST (pair AS text) WITH INOUT",
    "ALTER FUNCTION to_pair RENAME TO to_two",
    "ALTER EVENT TRIGGER et DISABLE",
    "ALTER EVENT TRIGGER et RENAME TO et2",
    "ALTER FUNCTION handle RENAME TO handler",
    "ALTER FUNCTION fire RENAME TO fired",
    "ALTER FUNCTION plus RENAME TO minus",
    "ALTER OPERATOR === (pair, pair) SET SCHEMA one",
    "ALTER OPERATOR FAMILY fam USING btree ADD OPERATOR 1 < (int, int)",
    "ALTER OPERATOR FAMILY fam USING btree DROP OPERATOR 1 (int, int)",
    "ALTER OPERATOR FAMILY fam USING btree RENAME TO fam2",
    "ALTER CONVERSION conv RENAME TO conv2",
    "ALTER TEXT SEARCH CONFIGURATION conf ALTER MAPPING FOR word WITH dict",
    "ALTER TEXT SEARCH DICTIONARY dict RENAME TO dict2",
    "ALTER TEXT SEARCH CONFIGURATION conf RENAME TO conf2",
    "ALTER FOREIGN DATA WRAPPER fdw OPTIONS (debug 'x')",
    "ALTER SERVER srv OPTIONS (host 'x')",
    "ALTER SERVER srv RENAME TO srv2",
    "ALTER FOREIGN DATA WRAPPER fdw RENAME TO fdw2",
    "ALTER USER MAPPING FOR teslamate SERVER srv2 OPTIONS (SET a 'c')",
    "DROP USER MAPPING FOR teslamate SERVER srv2",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO teslamate",
    "ALTER PUBLICATION pub SET (publish = 'insert')",
    "ALTER PUBLICATION pub DROP TABLE a",
    "ALTER PUBLICATION pub ADD TABLE a",
    "ALTER PUBLICATION pub RENAME TO pub2",
    "ALTER STATISTICS st SET STATISTICS 7",
    "ALTER STATISTICS st RENAME TO st2",
    "COMMENT ON COLLATION c IS 'new'",
    "COMMENT ON TABLE a IS 'new'",
    "ALTER DOMAIN dom ADD CHECK (VALUE > 1)",
    "ALTER DOMAIN dom SET DEFAULT 5",
    "ALTER TYPE mood ADD VALUE 'so so' BEFORE 'bad'",
    "ALTER TYPE mood RENAME VALUE 'so so' TO 'fair'",
    "ALTER TYPE span RENAME TO span2",
    "ALTER SEQUENCE s CACHE 5",
    "ALTER SEQUENCE s RENAME TO s2",
    "GRANT SELECT (id) ON a TO pg_monitor",
    "ALTER TABLE a SET (autovacuum_enabled = off)",
    "ALTER VIEW v RENAME TO v2",
    "ALTER INDEX idx RENAME TO idx2",
    "ALTER TYPE pair RENAME ATTRIBUTE l TO lll",
    "ALTER ROLE other_role RENAME TO another_role",
];

#[test]
fn k1_definitions_of_every_catalog_are_of_one_moment() {
    let server = Server::shared();
    let database = database(server, "catalogs");
    server.query("postgres", "CREATE ROLE other_role");
    server.query(&database, OF_EVERY_CATALOG);
    server.query(&database, "CREATE POLICY of_role ON a TO other_role USING (id > 1)");
    let site = Site::with_repository(server, &database);
    fs::create_dir(site.path("out")).unwrap();
    let dump = |file: &str| {
        server.pg_dump(&database, &site.path(file), &["--format=plain"]);
        text_of(&site.path(file))
    };
    let mut mixed = Vec::new();
    let mut before = dump("before");
    for alter in OF_EVERY_CATALOG_ALTERED {
        fs::write(site.path("alter.sql"), alter).unwrap();
        let _ = fs::remove_file(site.path("attempts"));
        let file = site.path("alter.sql");
        altering_pg_dump(server, &site, &format!("-v ON_ERROR_STOP=1 -f '{}'", file.display()));
        site.run("teslamate-backup", &["--force", "out/a.sql"]).expect(0);
        let (ours, after) = (text_of(&site.path("out/a.sql")), dump("after"));
        assert_ne!(before, after, "{alter} altered nothing");
        if ours != before && ours != after {
            mixed.push(alter);
        }
        before = after;
    }
    server.query("postgres", &format!("DROP DATABASE {database}"));
    server.query("postgres", "DROP ROLE another_role");
    assert!(mixed.is_empty(), "neither from before nor from after: {mixed:#?}");
}

#[test]
fn k1_a_role_counts_where_the_database_mentions_it() {
    let server = Server::shared();
    let database = database(server, "roles");
    // Each by another way to mention a role.
    let mentions = [
        (1, "CREATE DATABASE of_{role} OWNER {role}"),
        (1, "ALTER ROLE {role} SET work_mem = '5MB'"),
        (2, "ALTER TABLE a OWNER TO {role}"),
        (2, "GRANT SELECT (x) ON a TO {role}"),
        (2, "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {role}"),
        (2, "GRANT CONNECT ON DATABASE {database} TO {role}"),
        (2, "ALTER ROLE {role} IN DATABASE {database} SET work_mem = '5MB'"),
        (2, "SELECT lo_create(1); GRANT SELECT ON LARGE OBJECT 1 TO {role}"),
        (2, "CREATE USER MAPPING FOR {role} SERVER srv"),
        (2, "CREATE POLICY of_role ON a TO {role} USING (true)"),
    ];
    server.query(&database, "CREATE FOREIGN DATA WRAPPER fdw; CREATE SERVER srv FOREIGN DATA WRAPPER fdw");
    let site = Site::with_repository(server, &database);
    fs::create_dir(site.path("out")).unwrap();
    for (attempts, mention) in mentions {
        let role = server.fresh_name("role");
        server.query("postgres", &format!("CREATE ROLE {role}"));
        for statement in mention.replace("{role}", &role).replace("{database}", &database).split("; ") {
            server.query(&database, statement);
        }
        let count = altering_pg_dump(server, &site, &format!("-c 'ALTER ROLE {role} RENAME TO {role}_now'"));
        let _ = fs::remove_file(&count);
        let file = format!("out/{role}.sql");
        site.run("teslamate-backup", &[&file]).expect(0);
        assert_eq!(fs::read_to_string(&count).unwrap().lines().count(), attempts, "{mention}");
        assert!(!fs::read_to_string(site.path(&file)).unwrap().contains(&format!("{role};")), "{mention}");
    }
}

/// A plain dump without its remarks, which differ each time.
fn text_of(file: &std::path::Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with("--") && !line.contains("restrict "))
        .collect::<Vec<_>>()
        .join("\n")
}
