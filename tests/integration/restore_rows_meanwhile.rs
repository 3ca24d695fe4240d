//! `teslamate-restore --data-only` while the application goes on, and keys that only some comparisons tell apart.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Server, Site};

fn site(hint: &str, schema: &str) -> (&'static Server, Site) {
    let server = Server::shared();
    let database = server.fresh_name(hint);
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.query(&database, schema);
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    (server, site)
}

#[test]
fn k3_rows_written_until_the_lock_are_live_or_in_a_backup() {
    let (server, site) = site("meanwhile", "CREATE TABLE p (v int PRIMARY KEY); INSERT INTO p VALUES (0)");
    let write =
        "DO $$ BEGIN FOR i IN 1..4000 LOOP INSERT INTO p VALUES (i); COMMIT; PERFORM pg_sleep(0.004); END LOOP; END $$";
    let mut writer = server
        .tool("psql")
        .args(["-X", "-q", "-d", &site.database, "-c", write])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let give_up = Instant::now() + Duration::from_secs(30);
    while server.query(&site.database, "SELECT max(v) > 20 FROM p") != "t" {
        assert!(Instant::now() < give_up, "the writer does not write");
    }
    let id = site.backups().remove(0);
    let done = site.run("teslamate-restore", &[&id, "--data-only", "--table", "p", "--yes", "--json"]).expect(0).json();
    writer.kill().unwrap();
    writer.wait().unwrap();
    let safety = done["safety_backup"].as_str().unwrap();
    assert!(done["removed"]["\"public\".\"p\""].as_u64() > Some(20), "{done}");
    let copy = server.fresh_name("meanwhile_copy");
    site.run("teslamate-restore", &[safety, "--into", &copy]).expect(0);
    let numbers = |database: &str| -> Vec<u32> {
        let text = server.query(database, "SELECT v FROM p ORDER BY v");
        text.lines().map(|line| line.parse().unwrap()).collect()
    };
    let mut all = [numbers(&copy), numbers(&site.database)].concat();
    all.sort_unstable();
    all.dedup();
    let last = *all.last().unwrap();
    assert_eq!(all, (0..=last).collect::<Vec<_>>(), "a row is neither in the live table nor in the backup before it");
}

#[test]
fn k3_a_run_that_is_stopped_leaves_no_work_and_no_lock() {
    let (server, site) = site(
        "stopped",
        "CREATE TABLE a (id int PRIMARY KEY, t text); INSERT INTO a SELECT i, i FROM generate_series(1, 20) i; \
         CREATE FUNCTION slow(int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN true; END'; \
         ALTER TABLE a ADD CHECK (slow(id)) NOT VALID",
    );
    server.query(&site.database, "DELETE FROM a");
    let arguments = ["latest", "--data-only", "--yes", "--no-safety-backup"];
    let mut child = site.command("teslamate-restore").args(&arguments).spawn();
    let busy = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND query ~ '^SAVEPOINT rows; INSERT' AND state = 'active'",
        site.database
    );
    let give_up = Instant::now() + Duration::from_secs(30);
    while server.query("postgres", &busy) == "0" {
        assert!(Instant::now() < give_up, "no row comes in");
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(server.query("postgres", &busy), "0", "the server goes on");
    assert_eq!(server.query(&site.database, "SET lock_timeout = '1s'; INSERT INTO a SELECT 1 WHERE false"), "");
}

#[test]
fn k3_keys_of_fixed_length_are_compared_in_full() {
    let (server, site) = site(
        "fixed",
        "CREATE TABLE p (k bit(8) PRIMARY KEY, c char(10) UNIQUE); INSERT INTO p VALUES (B'10000001', 'abc'), (B'10000010', 'abd'); \
         CREATE TABLE b (id int PRIMARY KEY, k bit(8) REFERENCES p); INSERT INTO b VALUES (1, B'10000001'); \
         CREATE TABLE c (id int PRIMARY KEY, c char(10) REFERENCES p (c)); INSERT INTO c VALUES (1, 'abc'); \
         CREATE TABLE d (a char(5) UNIQUE DEFERRABLE); INSERT INTO d VALUES ('aaa'), ('aab'); \
         CREATE TYPE en AS ENUM ('x', 'y'); CREATE DOMAIN den AS en; CREATE TABLE e (e den PRIMARY KEY, v int); \
         INSERT INTO e VALUES ('x', 1), ('y', 2)",
    );
    let rows = |tables: &[&str]| {
        let tables: Vec<&str> = tables.iter().flat_map(|table| ["--table", table]).collect();
        let all = [&["latest", "--data-only", "--yes", "--no-safety-backup"], tables.as_slice()].concat();
        site.run("teslamate-restore", &all)
    };
    server.query(
        &site.database,
        "UPDATE p SET c = 'abx' WHERE c = 'abd'; UPDATE d SET a = 'aac' WHERE a = 'aab'; UPDATE e SET v = 3",
    );
    rows(&[]).expect(0);
    assert_eq!(server.query(&site.database, "SELECT string_agg(rtrim(c), ',' ORDER BY c) FROM p"), "abc,abd");
    assert_eq!(server.query(&site.database, "SELECT string_agg(rtrim(a), ',' ORDER BY a) FROM d"), "aaa,aab");
    assert_eq!(server.query(&site.database, "SELECT string_agg(v::text, ',' ORDER BY e) FROM e"), "1,2");
    for (table, key) in [("b", "B'11111111', 'xyz'"), ("c", "B'10000001', 'abz'")] {
        server.query(
            &site.database,
            &format!("DELETE FROM b; DELETE FROM c; DELETE FROM p; INSERT INTO p VALUES ({key})"),
        );
        rows(&[table]).expect(10).says("that are not there");
        rows(&[]).expect(0);
    }
}

#[test]
fn k3_one_row_that_points_again_hides_no_other_that_does_not() {
    let (server, site) = site(
        "healed",
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, pid int); \
         INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1, 1)",
    );
    server.query(
        &site.database,
        "DELETE FROM p WHERE id = 2; INSERT INTO p VALUES (3); INSERT INTO c VALUES (2, 2), (3, 3); \
         ALTER TABLE c ADD FOREIGN KEY (pid) REFERENCES p NOT VALID",
    );
    let refused = ["latest", "--data-only", "--yes", "--no-safety-backup", "--table", "p"];
    site.run("teslamate-restore", &refused).expect(10).says("1 rows of").says("that are not there");
    assert_eq!(server.query(&site.database, "SELECT string_agg(id::text, ',' ORDER BY id) FROM p"), "1,3");
}

/// It would write into the live database when the temporary tables are made.
#[test]
fn k3_an_event_trigger_that_always_fires_is_refused_by_name() {
    let (server, site) = site(
        "always_fires",
        "CREATE TABLE p (v int PRIMARY KEY); INSERT INTO p VALUES (1); CREATE TABLE log (tag text); \
         CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS \
         $$BEGIN INSERT INTO public.log VALUES (tg_tag); END$$; \
         CREATE EVENT TRIGGER \"Noter\" ON ddl_command_end EXECUTE FUNCTION note(); \
         CREATE EVENT TRIGGER elsewhere ON ddl_command_end WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION note(); \
         ALTER EVENT TRIGGER elsewhere ENABLE ALWAYS",
    );
    server.query(&site.database, "UPDATE p SET v = 2");
    let rows =
        || site.run("teslamate-restore", &["latest", "--data-only", "--table", "p", "--yes", "--no-safety-backup"]);
    let content = || server.query(&site.database, "SELECT (SELECT v FROM p), (SELECT count(*) FROM log)");
    for state in ["ALWAYS", "REPLICA"] {
        server.query(&site.database, &format!("ALTER EVENT TRIGGER \"Noter\" ENABLE {state}"));
        let refused = rows().expect(10).says(&format!("Noter (ENABLE {state})")).says("the live database is as it was");
        refused.says(&format!("Afterwards: ALTER EVENT TRIGGER \"Noter\" ENABLE {state};"));
        assert_eq!(content(), "2|0");
    }
    server.query(&site.database, "ALTER EVENT TRIGGER \"Noter\" ENABLE");
    rows().expect(0);
    assert_eq!(content(), "1|0");
}
