//! Loading and verifying: one error is a failure, and what the server cannot do is known before.

use std::fs;

use crate::support::server::Options;
use crate::support::server::fixture;
use crate::support::{Server, Site};

/// What the catalogue says of a database, by stock `pg_dump`.
fn schema(server: &Server, database: &str) -> String {
    let output = server.tool("pg_dump").args(["--schema-only", "-d", database]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.contains("restrict")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn r15_every_kind_of_object_comes_back() {
    let server = Server::shared();
    let database = server.fresh_name("torture");
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER teslamate"));
    server.run_file(&database, &fixture("torture.sql"), &[]);
    let (content, catalogue) = (server.content(&database), schema(server, &database));
    let objects = server.query(
        &database,
        "SELECT md5(string_agg(encode(lo_get(oid), 'hex'), ',' ORDER BY oid)) FROM pg_largeobject_metadata",
    );
    let sequences = server.query(&database, "SELECT string_agg(concat_ws(' ', schemaname, sequencename, last_value), ',' ORDER BY sequencename) FROM pg_sequences");
    let site = Site::new(server, &database);
    for name in ["a.sql", "a.sql.zst", "a.dump"] {
        site.run("teslamate-backup", &[name]).expect(0);
        site.run("teslamate-restore", &["--yes", "--allow-other", name]).expect(0);
        assert_eq!(server.content(&database), content, "{name}");
        assert_eq!(schema(server, &database), catalogue, "{name}");
        let again = server.query(
            &database,
            "SELECT md5(string_agg(encode(lo_get(oid), 'hex'), ',' ORDER BY oid)) FROM pg_largeobject_metadata",
        );
        assert_eq!(again, objects, "{name}");
        let again = server.query(&database, "SELECT string_agg(concat_ws(' ', schemaname, sequencename, last_value), ',' ORDER BY sequencename) FROM pg_sequences");
        assert_eq!(again, sequences, "{name}");
    }
}

#[test]
fn r59_one_error_in_the_load_fails_it_and_names_the_line() {
    let server = Server::shared();
    let database = server.teslamate("badrow");
    let before = server.content(&database);
    let site = Site::new(server, &database);
    let path = site.path("a.sql");
    server.pg_dump(&database, &path, &[]);
    let text = fs::read_to_string(&path).unwrap();
    let at = text.find("COPY public.geofences").unwrap();
    let row = at + text[at..].find('\n').unwrap() + 1;
    let line = text[..row].lines().count() + 1;
    fs::write(&path, format!("{}not-a-number{}", &text[..row], &text[row..])).unwrap();
    let outcome =
        site.run("teslamate-restore", &["--yes", "a.sql"]).expect(14).says("cannot be loaded without an error");
    assert!(outcome.stderr.contains("invalid input syntax for type integer"), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains(&format!("psql:<stdin>:{}", line + 3))
            || outcome.stderr.contains("COPY geofences, line 1"),
        "line {line}: {}",
        outcome.stderr
    );
    assert_eq!(server.content(&database), before);
    assert_eq!(server.databases(&format!("{database}_")), Vec::<String>::new());
    assert_eq!(site.systemctl.calls(), []);
}

#[test]
fn r59_an_error_in_an_archive_fails_it() {
    let server = Server::shared();
    let database = server.teslamate("badarchive");
    let site = Site::new(server, &database);
    // The rows contradict a constraint that the schema did not check.
    server.query(
        &database,
        "ALTER TABLE charges DISABLE TRIGGER ALL; UPDATE charges SET charging_process_id = -1 WHERE id = 1",
    );
    let before = server.content(&database);
    server.pg_dump(&database, &site.path("a.dump"), &["-Fc"]);
    site.run("teslamate-restore", &["--yes", "a.dump"]).expect(14).says("charges_charging_process_id_fkey");
    assert_eq!(server.content(&database), before);
    assert_eq!(server.databases(&format!("{database}_")), Vec::<String>::new());
}

#[test]
fn r60_what_template1_holds_does_not_leak_in() {
    let server = Server::start(Options::default());
    server.create_teslamate("leak", 600);
    server.query("template1", "CREATE TABLE public.cars (dirt int)");
    let before = server.content("leak");
    let site = Site::new(&server, "leak");
    site.run("teslamate-backup", &["a.sql"]).expect(0);
    site.run("teslamate-restore", &["--yes", "a.sql"]).expect(0);
    assert_eq!(server.content("leak"), before);
}

#[test]
fn r61_extensions_and_rights_are_known_before_staging() {
    let server = Server::shared();
    let database = server.teslamate("rights");
    let site = Site::new(server, &database);
    let role = format!("role_{database}");
    server.query("postgres", &format!("CREATE ROLE {role} LOGIN"));
    server.query("postgres", &format!("ALTER DATABASE {database} OWNER TO {role}"));
    site.run("teslamate-backup", &["a.sql"]).expect(0);
    let as_role = |code: i32, words: &str| {
        let run = site.command("teslamate-restore").args(&["--yes", "--no-owner", "a.sql"]).env("DATABASE_USER", &role);
        run.outcome().expect(code).says(words).says("not touched");
        assert_eq!(server.databases(&format!("{database}_")), Vec::<String>::new());
    };
    as_role(10, "may not create databases");
    server.query("postgres", &format!("ALTER ROLE {role} CREATEDB"));
    as_role(10, "may not create the extension \"earthdistance\"");
    let text = fs::read_to_string(site.path("a.sql")).unwrap();
    let text = text.replace("CREATE EXTENSION IF NOT EXISTS cube", "CREATE EXTENSION IF NOT EXISTS hypercube");
    fs::write(site.path("a.sql"), text).unwrap();
    let outcome = site.run("teslamate-restore", &["--yes", "a.sql"]).expect(10);
    assert!(outcome.stderr.contains("does not have the extension \"hypercube\""), "{}", outcome.stderr);
}

#[test]
fn roles_that_the_server_lacks_are_named_with_the_way_out() {
    let server = Server::shared();
    let database = server.teslamate("roles");
    let site = Site::new(server, &database);
    let role = format!("Graf ana {database}");
    server.query(&database, &format!("CREATE ROLE \"{role}\"; GRANT SELECT ON cars TO \"{role}\""));
    for name in ["a.sql", "a.dump"] {
        site.run("teslamate-backup", &[name]).expect(0);
    }
    server.query(&database, &format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\""));
    for name in ["a.sql", "a.dump"] {
        let outcome = site.run("teslamate-restore", &["--yes", name]).expect(10);
        let hint = format!("CREATE ROLE \"{role}\";");
        assert!(outcome.stderr.contains(&hint), "{}", outcome.stderr);
        site.run("teslamate-restore", &["--yes", "--no-owner", "--no-privileges", name]).expect(0);
    }
    // The hint, typed.
    server.query("postgres", &format!("CREATE ROLE \"{role}\""));
    site.run("teslamate-restore", &["--yes", "a.sql"]).expect(0);
    assert_eq!(server.query(&database, &format!("SELECT has_table_privilege('{role}', 'cars', 'SELECT')")), "t");
}

#[test]
fn r62_an_index_that_cannot_be_built_fails_with_its_reason() {
    let server = Server::shared();
    let old = server.fresh_name("earth");
    server.query("postgres", &format!("CREATE DATABASE {old} OWNER teslamate"));
    server.run_file(&old, &fixture("schema-2019.sql"), &[("earth_index", "1".into())]);
    server.run_file(&old, &fixture("data-2019.sql"), &[]);
    if server.major() >= 17 {
        println!("SKIPPED: from PostgreSQL 17 on, such an index can be restored");
        return;
    }
    let site = Site::new(server, &old);
    site.run("teslamate-backup", &["a.sql"]).expect(0);
    let before = server.content(&old);
    site.run("teslamate-restore", &["--yes", "a.sql"]).expect(14).says("An index uses ll_to_earth");
    assert_eq!(server.content(&old), before);
    assert_eq!(server.databases(&format!("{old}_")), Vec::<String>::new());
}

/// A small file system for a data directory, which is gone when this value is.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(megabytes: u32) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("glovebox-disk-").tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=0777"), "tmpfs"])
            .arg(dir.path())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            println!("SKIPPED: mounting a small file system needs root");
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn r64_without_room_for_a_second_copy_nothing_begins() {
    let Some(disk) = SmallDisk::new(270) else { return };
    let options = || Options {
        base: Some(disk.0.path().to_owned()),
        config: vec!["max_wal_size = 32MB".into(), "min_wal_size = 32MB".into()],
        initdb: vec!["--wal-segsize=1"],
        ..Options::default()
    };
    let server = Server::start(options());
    server.create_teslamate("full", 1000);
    let site = Site::new(&server, "full");
    site.run("teslamate-backup", &["a.sql"]).expect(0);
    site.run("teslamate-restore", &["--drill", "a.sql"]).expect(0);
    // More than half of what is left, so that it cannot be there twice.
    server.query(
        "full",
        "CREATE TABLE ballast AS SELECT gen_random_uuid() a, gen_random_uuid() b FROM generate_series(1, 2000000)",
    );
    site.run("teslamate-backup", &["b.sql"]).expect(0);
    let outcome = site.run("teslamate-restore", &["--yes", "b.sql"]);
    let outcome = outcome.expect(10).says("no room for a second copy");
    assert!(outcome.stderr.contains("needed") && outcome.stderr.contains("free"), "{}", outcome.stderr);
    assert_eq!(server.databases("full_"), Vec::<String>::new());
    assert_eq!(server.query("full", "SELECT count(*) FROM ballast"), "2000000");
    assert_eq!(site.systemctl.calls(), []);
}

#[test]
fn r65_a_sequence_behind_its_column_is_said_with_the_way_to_mend_it() {
    let server = Server::shared();
    let database = server.teslamate("sequence");
    let site = Site::new(server, &database);
    server.query(&database, "SELECT setval('drives_id_seq', 1)".replace("drives_id_seq", "trips_id_seq").as_str());
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    let outcome = site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0);
    let statement = outcome.stderr.split("in the source: ").nth(1).expect("a statement").lines().next().unwrap();
    server.query(&database, statement);
    assert_eq!(server.query(&database, "SELECT nextval('trips_id_seq') > max(id) FROM drives"), "t");
}

#[test]
fn r66_more_large_objects_than_locks_are_loaded() {
    let server = Server::start(Options {
        config: vec!["max_locks_per_transaction = 10".into(), "max_connections = 20".into()],
        ..Options::default()
    });
    server.create_teslamate("objects", 600);
    let site = Site::new(&server, "objects");
    for _ in 0..4 {
        server.query("objects", "SELECT count(lo_from_bytea(0, 'x')) FROM generate_series(1, 100)");
    }
    for name in ["a.sql", "a.dump"] {
        site.run("teslamate-backup", &[name]).expect(0);
        site.run("teslamate-restore", &["--yes", name]).expect(0);
        assert_eq!(
            server.query(
                "objects",
                "SELECT count(*), string_agg(DISTINCT lo_get(oid)::text, ',') FROM pg_largeobject_metadata"
            ),
            "400|\\x78",
            "{name}"
        );
    }
}

#[test]
fn a_drill_says_what_it_proved_and_leaves_nothing() {
    let server = Server::shared();
    let database = server.teslamate("drill");
    let site = Site::new(server, &database);
    let before = server.content(&database);
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    let outcome = site.run("teslamate-restore", &["--drill", "a.dump"]).expect(0);
    let text = outcome.text();
    let positions = before["public.positions"].split('|').next().unwrap().parse::<u64>().unwrap();
    let line = text.lines().find(|line| line.starts_with("public.positions")).expect("a line for positions");
    assert_eq!(line.split_whitespace().nth(1).unwrap().replace(',', "").parse::<u64>().unwrap(), positions);
    for words in
        ["ok: every index is valid", "ok: every constraint is valid", "can be restored; nothing was changed", "in all"]
    {
        assert!(text.contains(words), "{words}\n{text}");
    }
    let json = site.run("teslamate-restore", &["--drill", "--json", "a.dump"]).expect(0).json();
    assert_eq!(json["tables"]["public.positions"], positions);
    assert_eq!(json["mode"], "drill");
    assert_eq!(server.databases(&format!("{database}_")), Vec::<String>::new());
    assert_eq!(site.systemctl.calls(), []);
    assert_eq!(server.content(&database), before);
}

#[test]
fn into_makes_a_database_beside_the_live_one_and_refuses_one_that_exists() {
    let server = Server::shared();
    let database = server.teslamate("into");
    let site = Site::new(server, &database);
    let before = server.content(&database);
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    server.query(&database, "DELETE FROM drives");
    let other = format!("{database}=x y\"z");
    site.run("teslamate-restore", &["--into", &other, "a.dump"]).expect(0);
    assert_eq!(server.content(&other), before);
    assert_eq!(server.query(&database, "SELECT count(*) FROM drives"), "0");
    let comment =
        format!("SELECT shobj_description(oid, 'pg_database') IS NULL FROM pg_database WHERE datname = '{other}'");
    assert_eq!(server.query("postgres", &comment), "t");
    site.run("teslamate-restore", &["--into", &other, "a.dump"]).expect(10).says("exists already");
    assert_eq!(site.systemctl.calls(), []);
}

#[test]
fn a_part_can_be_loaded_beside_the_live_database_only() {
    let server = Server::shared();
    let database = server.teslamate("part");
    let site = Site::new(server, &database);
    let before = server.content(&database);
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    site.run("teslamate-restore", &["--yes", "--table", "geofences", "a.dump"])
        .expect(2)
        .says("cannot replace the live one");
    let other = format!("{database}_beside");
    site.run("teslamate-restore", &["--into", &other, "--table", "schema_migrations", "a.dump"]).expect(0);
    assert_eq!(server.content(&other)["public.schema_migrations"], before["public.schema_migrations"]);
    let qualified = format!("{database}_qualified");
    site.run("teslamate-restore", &["--into", &qualified, "--table", "public.drives", "a.dump"]).expect(0);
    assert_eq!(server.content(&qualified)["public.drives"], before["public.drives"]);
    site.run("teslamate-restore", &["--drill", "--table", "geofence", "a.dump"])
        .expect(10)
        .says("no table \"geofence\"");
    let schema = format!("{database}_schema");
    site.run("teslamate-restore", &["--into", &schema, "--schema-only", "a.dump"]).expect(0);
    assert_eq!(server.query(&schema, "SELECT count(*) FROM positions"), "0");
}

#[test]
fn a_database_that_was_lost_comes_back() {
    let server = Server::shared();
    let database = server.teslamate("lost");
    let site = Site::new(server, &database);
    let before = server.content(&database);
    site.run("teslamate-backup", &["a.sql.zst"]).expect(0);
    server.query("postgres", &format!("DROP DATABASE {database}"));
    site.run("teslamate-restore", &["--yes", "a.sql.zst"]).expect(0);
    assert_eq!(server.content(&database), before);
    let owner = server
        .query("postgres", &format!("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{database}'"));
    assert_eq!(owner, "teslamate");
}

#[test]
fn rows_that_quote_messages_of_pg_dump_are_rows() {
    let server = Server::shared();
    let database = server.fresh_name("messages");
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER teslamate"));
    // Longer than the pieces in which a dump is read, in a first, a middle and a last column.
    let log = "CREATE TABLE log (a text, b text, c text); INSERT INTO log SELECT x, x, x FROM \
               (SELECT repeat('pg_dump: ', 20000 + g) AS x FROM generate_series(1, 20) g) rows";
    server.query(&database, log);
    let content = server.content(&database);
    let site = Site::new(server, &database);
    for name in ["a.sql", "a.dump"] {
        site.run("teslamate-backup", &[name]).expect(0);
        let copy = format!("{database}_copy");
        site.run("teslamate-restore", &["--into", &copy, "--allow-other", name]).expect(0);
        assert_eq!(server.content(&copy), content, "{name}");
        server.query("postgres", &format!("DROP DATABASE {copy}"));
    }
}
