//! Tables and values that `pg_dump` can read and load: a backup can, too.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::dumps::{Case, load};
use crate::support::server::{Options, SERVER_ACCOUNT, as_server_account, bin_dir, is_root};
use crate::support::{Server, Site};

fn fresh(server: &Server, hint: &str, more: &str) -> String {
    let name = server.fresh_name(hint);
    server.query("postgres", &format!("CREATE DATABASE {name} OWNER teslamate TEMPLATE template0 {more}"));
    name
}

/// Restores the newest backup beside the live database.
fn beside(server: &Server, site: &Site) -> String {
    let copy = server.fresh_name("beside");
    site.run("teslamate-restore", &["latest", "--into", &copy]).expect(0);
    copy
}

#[test]
fn k7_a_table_on_which_no_query_can_be_planned_is_read_whole() {
    let server = Server::shared();
    let objects = [
        "CREATE INDEX ON t (f(a))",
        "CREATE INDEX ON t (a) WHERE f(a) > 0",
        "CREATE STATISTICS s ON (f(a)), (f(a + 1)) FROM t",
    ];
    for (number, object) in objects.into_iter().enumerate() {
        let database = fresh(server, "planned", "");
        // As `ll_to_earth` of earthdistance 1.1: it names what lies beside it without its schema.
        server.query(
            &database,
            "CREATE FUNCTION g(a float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2'; \
             CREATE FUNCTION f(a float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT g($1)'; \
             CREATE TABLE t (id serial PRIMARY KEY, a float8, x text); \
             INSERT INTO t (a, x) SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i",
        );
        server.query(&database, object);
        let site = Site::with_repository(server, &database);
        fs::create_dir(site.path("out")).unwrap();
        site.run("teslamate-backup", &[]).expect(0);
        site.run("teslamate-backup", &["--full-read"]).expect(0);
        site.run("teslamate-backup", &["out/a.dump"]).expect(0);
        // The load of pg_dump's own dump builds the index, which fails; a statistics object is only looked at by ANALYZE.
        if number == 2 {
            let copy = server.fresh_name("planned_copy");
            site.run("teslamate-restore", &["latest", "--into", &copy]).expect(0).says("not all statistics");
            let rows = "SELECT count(*), sum(a), count(x) FROM t";
            assert_eq!(server.query(&copy, rows), server.query(&database, rows));
            site.run("teslamate-restore", &["out/a.dump", "--drill"]).expect(0);
        }
    }
}

#[test]
fn k7_a_table_with_a_damaged_index_is_read_whole() {
    let server = Server::start(Options::default());
    server.create_teslamate("teslamate", 500);
    for kind in ["btree", "hash", "brin"] {
        let database = fresh(&server, kind, "");
        server.query(
            &database,
            &format!(
                "CREATE TABLE t AS SELECT i, repeat('x', 500) AS x FROM generate_series(1, 10000) i; CREATE INDEX ti ON t USING {kind} (i)"
            ),
        );
        let site = Site::with_repository(&server, &database);
        let section = crate::support::repository::section(&site);
        site.configure(&format!("port = {}\n[backup]\nchunk_blocks = 16\n{section}", server.port()), "");
        let file = server.query(&database, "CHECKPOINT; SELECT pg_relation_filepath('ti')");
        let file = server.query("postgres", "SHOW data_directory") + "/" + file.lines().last().unwrap();
        fs::remove_file(file).unwrap();
        server.query(
            "postgres",
            &format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{database}'"),
        );
        let words = "table \"public\".\"t\" is read in one piece";
        site.run("teslamate-backup", &[]).expect(0).says(words).says("REINDEX TABLE \"public\".\"t\"");
        let copy = beside(&server, &site);
        assert_eq!(server.query(&copy, "SELECT count(*), sum(i) FROM t WHERE i > 0"), "10000|50005000");
        server.query(&database, "REINDEX TABLE t");
        let outcome = site.run("teslamate-backup", &[]).expect(0);
        assert!(!outcome.stderr.contains("in one piece"), "{}", outcome.stderr);
    }
}

/// Tables whose rows are in another partition wherever the enum is made again.
fn hashed(server: &Server, hint: &str) -> String {
    let database = fresh(server, hint, "");
    server.query(
        &database,
        "CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'); CREATE TYPE pair AS (m mood, n int); \
         CREATE TABLE p (m mood, n int) PARTITION BY HASH (m); \
         CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 3, REMAINDER 0); \
         CREATE TABLE p1 PARTITION OF p FOR VALUES WITH (MODULUS 3, REMAINDER 1); \
         CREATE TABLE p2 (n int, m mood); ALTER TABLE p ATTACH PARTITION p2 FOR VALUES WITH (MODULUS 3, REMAINDER 2); \
         INSERT INTO p SELECT (enum_range(NULL::mood))[1 + i % 8], i FROM generate_series(1, 800) i; \
         CREATE TABLE q (k int, v mood[]) PARTITION BY RANGE (k); \
         CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (1000) PARTITION BY HASH (v); \
         CREATE TABLE q10 PARTITION OF q1 FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
         CREATE TABLE q11 PARTITION OF q1 FOR VALUES WITH (MODULUS 2, REMAINDER 1); \
         CREATE TABLE q2 PARTITION OF q FOR VALUES FROM (1000) TO (2000); \
         INSERT INTO q SELECT i, enum_range(NULL, (enum_range(NULL::mood))[1 + i % 8]) FROM generate_series(1, 1500) i; \
         CREATE TABLE r (p pair) PARTITION BY HASH (p); \
         CREATE TABLE r0 PARTITION OF r FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
         CREATE TABLE r1 PARTITION OF r FOR VALUES WITH (MODULUS 2, REMAINDER 1); \
         INSERT INTO r SELECT ROW((enum_range(NULL::mood))[1 + i % 8], i)::pair FROM generate_series(1, 800) i",
    );
    database
}

/// The rows of the partitioned tables, and whether a query that looks into one partition finds all of them.
fn partitioned(server: &Server, database: &str) -> String {
    server.query(
        database,
        "SELECT (SELECT md5(string_agg(format('%s %s', m, n), ',' ORDER BY n)) FROM p), (SELECT count(*) FROM p WHERE m = 'c'), \
                (SELECT md5(string_agg(format('%s %s', k, v), ',' ORDER BY k)) FROM q), (SELECT count(*) FROM q2), \
                (SELECT md5(string_agg(p::text, ',' ORDER BY p)) FROM r), (SELECT count(*) FROM r WHERE p = ROW('a', 8)::pair)",
    )
}

#[test]
fn k7_hash_partitions_are_loaded_through_their_root() {
    let server = Server::shared();
    let database = hashed(server, "hashed");
    let expected = partitioned(server, &database);
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-restore", &["latest", "--drill"]).expect(0);
    assert_eq!(partitioned(server, &beside(server, &site)), expected);
    for name in ["a.sql", "b.dump"] {
        let file = site.path(name);
        if name == "a.sql" {
            site.run("teslamate-backup", &["export", "latest", file.to_str().unwrap()]).expect(0);
        } else {
            site.run("teslamate-backup", &[file.to_str().unwrap()]).expect(0);
        }
    }
    for name in ["a.sql", "b.dump"] {
        assert_eq!(partitioned(server, &load(server, &site.path(name))), expected, "{name}");
        site.run("teslamate-restore", &[name, "--drill"]).expect(0);
    }
    // The lines of the page, typed by hand.
    let target = site.path("files");
    let output = site.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let page = fs::read_to_string(target.join("RESTORE.md")).unwrap();
    // Which of the partitions have rows depends on the numbers of the enum's labels.
    assert!(page.contains(r#"\copy "public"."p" ("m", "n") FROM 'data/public.p"#), "{page}");
    let into_partition = (0..3).any(|number| page.contains(&format!(r#"\copy "public"."p{number}""#)));
    assert!(!into_partition && page.contains(r#"\copy "public"."q" "#), "{page}");
    // Into the live database, which gets its enum from the restore: rows are elsewhere, and none is lost.
    site.run("teslamate-restore", &["latest", "--yes"]).expect(0);
    assert_eq!(partitioned(server, &database), expected);
    site.run("teslamate-backup", &[]).expect(0);
    assert_eq!(partitioned(server, &beside(server, &site)), expected);
}

#[test]
fn k7_more_tables_than_the_server_has_room_to_lock_for_all_readers() {
    let server = Server::start(Options { config: vec!["max_connections = 25".into()], ..Options::default() });
    server.create_teslamate("many", 500);
    // Room for 64 locks for each of 30 sessions: pg_dump alone fits.
    server.query(
        "many",
        "DO $$ BEGIN FOR i IN 1..900 LOOP \
         EXECUTE format('CREATE TABLE t%s (id serial PRIMARY KEY, a int UNIQUE); INSERT INTO t%s VALUES (1, 1)', i, i); \
         IF i % 100 = 0 THEN COMMIT; END IF; END LOOP; END $$",
    );
    let site = Site::with_repository(&server, "many");
    fs::create_dir(site.path("out")).unwrap();
    let section = crate::support::repository::section(&site);
    site.configure(&format!("port = {}\n[backup]\njobs = 8\nchunk_blocks = 16\n{section}", server.port()), "");
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-backup", &["out/a.dump"]).expect(0);
    let copy = beside(&server, &site);
    assert_eq!(server.content(&copy), server.content("many"));
    site.run("teslamate-backup", &["out/a.sql"]).expect(0);
    for name in ["out/a.sql", "out/a.dump"] {
        site.run("teslamate-restore", &[name, "--drill"]).expect(0);
    }
}

/// A standby of a server, in a directory of its own.
struct Standby {
    dir: tempfile::TempDir,
}

impl Standby {
    fn of(server: &Server) -> Self {
        let dir = tempfile::Builder::new().prefix("gb-standby-").tempdir().unwrap();
        if is_root() {
            let user = nix::unistd::User::from_name(SERVER_ACCOUNT).unwrap().unwrap();
            nix::unistd::chown(dir.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let standby = Self { dir };
        let run = |mut command: Command| {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let mut copy = as_server_account(&bin_dir().join("pg_basebackup"));
        copy.args(["-h", &server.dir().display().to_string(), "-U", "postgres", "-R", "-c", "fast", "-D"]);
        copy.arg(standby.data());
        run(copy);
        let options =
            format!("-c unix_socket_directories={} -c max_standby_streaming_delay=1s", standby.dir.path().display());
        let mut start = as_server_account(&bin_dir().join("pg_ctl"));
        start
            .args(["start", "-w", "-o", &options, "-l"])
            .arg(standby.dir.path().join("log"))
            .arg("-D")
            .arg(standby.data());
        start.stdout(std::process::Stdio::null());
        assert!(start.status().unwrap().success(), "{}", fs::read_to_string(standby.dir.path().join("log")).unwrap());
        standby
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    fn socket(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let mut stop = as_server_account(&bin_dir().join("pg_ctl"));
        let _ = stop.args(["stop", "-m", "immediate", "-D"]).arg(self.data()).output();
    }
}

#[test]
fn k7_a_standby_is_read_as_a_whole_and_its_backup_restores() {
    let server = Server::start(Options::default());
    server.create_teslamate("teslamate", 2000);
    server.query(
        "teslamate",
        "CREATE UNLOGGED TABLE volatile AS SELECT 1; CREATE SCHEMA s; CREATE UNLOGGED TABLE s.\"A b\" AS SELECT 1",
    );
    let missing = "rows of unlogged tables are not on a standby: public.volatile, s.\"A b\"";
    let standby = Standby::of(&server);
    let site = Site::at(standby.socket(), 5432, "teslamate");
    fs::create_dir(site.path("out")).unwrap();
    let section = crate::support::repository::section(&site);
    site.configure(&format!("port = 5432\n[backup]\nchunk_blocks = 16\n{section}"), "");
    for _ in 0..2 {
        site.run("teslamate-backup", &[]).expect(0).says(missing);
    }
    for name in ["out/a.sql", "out/a.dump"] {
        site.run("teslamate-backup", &[name]).expect(0).says(missing);
    }
    server.query("teslamate", "DROP TABLE volatile; DROP SCHEMA s CASCADE");
    site.run("teslamate-backup", &["check"]).expect(0);
    assert_eq!(site.backups().len(), 2);
    // The backup of a standby is one of the database: it is restored where one can write.
    let text = fs::read_to_string(site.config()).unwrap();
    site.write_config(&text.replace(&standby.socket().display().to_string(), &server.dir().display().to_string()));
    let copy = beside(&server, &site);
    // The tables are there, without rows.
    server.query(&copy, "DROP TABLE volatile; DROP SCHEMA s CASCADE");
    assert_eq!(server.content(&copy), server.content("teslamate"));
}

/// A database of unknown encoding with the bytes of LATIN1 in it.
fn unknown(server: &Server, value: &str) -> String {
    let database = fresh(server, "ascii", "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'");
    server.query(
        &database,
        &format!("CREATE TABLE t (x text, y inet); INSERT INTO t SELECT {value}, '::1' FROM generate_series(1, 3000)"),
    );
    database
}

const BYTES: &str = "SELECT count(*), md5(string_agg(md5(textsend(x)), ',')) FROM t";

#[test]
fn k7_bytes_of_unknown_encoding_come_back_as_they_were() {
    let server = Server::shared();
    // In the text format and in the binary one.
    for more in ["ALTER TABLE t ADD z int4range", "ALTER TABLE t ADD z int"] {
        let database = unknown(server, r"convert_from('\x4772fcdf65', 'SQL_ASCII')");
        server.query(&database, more);
        let site = Site::with_repository(server, &database);
        fs::create_dir(site.path("out")).unwrap();
        site.run("teslamate-backup", &[]).expect(0);
        let expected = server.query(&database, BYTES);
        server.query(&database, "DELETE FROM t");
        site.run("teslamate-restore", &["latest", "--yes", "--no-safety-backup"]).expect(0);
        assert_eq!(server.query(&database, BYTES), expected);
    }
}

/// Bytes of definitions and rows.
const DEFINITIONS: &str = "SELECT (SELECT string_agg(encode(convert_to(enumlabel, 'SQL_ASCII'), 'hex'), ',') FROM pg_enum), \
    (SELECT encode(convert_to(prosrc, 'SQL_ASCII'), 'hex') FROM pg_proc WHERE proname = 'f'), \
    (SELECT encode(convert_to(obj_description('t'::regclass), 'SQL_ASCII'), 'hex'))";

#[test]
fn k7_definitions_of_unknown_encoding_come_back_as_they_were() {
    let server = Server::shared();
    let database = unknown(server, r"convert_from('\x4772fcdf65', 'SQL_ASCII')");
    server.query(
        &database,
        r"DO $$ DECLARE word text := convert_from('\x4772fcdf65', 'SQL_ASCII'); BEGIN
          EXECUTE format('CREATE TYPE mood AS ENUM (%L)', word); EXECUTE format('COMMENT ON TABLE t IS %L', word);
          EXECUTE format('CREATE FUNCTION f() RETURNS text LANGUAGE sql AS %L', format('SELECT %L::text', word)); END $$",
    );
    let site = Site::with_repository(server, &database);
    fs::create_dir(site.path("out")).unwrap();
    site.run("teslamate-backup", &[]).expect(0);
    let expected = (server.query(&database, BYTES), server.query(&database, DEFINITIONS));
    for name in ["out/a.sql", "out/a.sql.gz", "out/a.dump"] {
        site.run("teslamate-backup", &[name]).expect(0);
        let copy = fresh(server, "ascii_copy", "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'");
        if name == "out/a.dump" {
            let file = site.path(name);
            assert!(server.tool("pg_restore").args(["-d", &copy]).arg(file).status().unwrap().success());
            assert_eq!((server.query(&copy, BYTES), server.query(&copy, DEFINITIONS)), expected);
        }
    }
    let with_create = site.path("out/c.sql");
    server.pg_dump(&database, &with_create, &["--create", "--encoding=SQL_ASCII"]);
    for source in ["latest", "out/a.sql", "out/a.sql.gz", "out/a.dump", "out/c.sql"] {
        server.query(&database, "DELETE FROM t; COMMENT ON TABLE t IS NULL");
        site.run("teslamate-restore", &[source, "--yes", "--no-safety-backup"]).expect(0);
        assert_eq!((server.query(&database, BYTES), server.query(&database, DEFINITIONS)), expected, "{source}");
    }
    // A database in UTF-8 would refuse the bytes: that is known beforehand.
    let other = fresh(server, "utf8", "ENCODING 'UTF8'");
    let site = Site::new(server, &other);
    let text = with_create.with_file_name("a.sql");
    let refused = site.run("teslamate-restore", &["--yes", "--allow-other", text.to_str().unwrap()]).expect(10);
    refused.says("is not known (SQL_ASCII)").says("is not UTF-8").says("hint:");
}

#[test]
fn k7_an_encoding_without_conversion_is_named() {
    let server = Server::shared();
    let database = fresh(server, "mule", "ENCODING 'MULE_INTERNAL' LC_COLLATE 'C' LC_CTYPE 'C'");
    let site = Site::with_repository(server, &database);
    for arguments in [&[][..], &["a.sql"]] {
        site.run("teslamate-backup", arguments).expect(10).says("cannot convert to UTF-8").says("pg_dump --encoding=");
    }
}

#[test]
fn k7_names_of_unknown_encoding_are_dumped() {
    let server = Server::shared();
    let database = unknown(server, "'x'");
    server.query(
        &database,
        r"DO $$ BEGIN EXECUTE format('CREATE TABLE %I AS SELECT 5 AS i', convert_from('\x4772fcdf65', 'SQL_ASCII')); END $$",
    );
    let case = Case::new(server, &database);
    for name in ["a.sql", "a.dump"] {
        case.backup(name).outcome().expect(0);
        let copy = fresh(server, "ascii_names", "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'");
        let (program, flag) = if name == "a.sql" { ("psql", "-f") } else { ("pg_restore", "--exit-on-error") };
        let status = server
            .tool(program)
            .args(["-d", &copy, flag])
            .arg(case.path(name))
            .stdout(std::process::Stdio::null())
            .status();
        assert!(status.unwrap().success());
        let names = "SELECT string_agg(encode(convert_to(relname, 'SQL_ASCII'), 'hex'), ',' ORDER BY relname) FROM pg_class \
                     WHERE relnamespace = 'public'::regnamespace";
        assert_eq!(server.query(&copy, names), server.query(&database, names));
    }
}

#[test]
fn k7_text_of_unknown_encoding_that_is_utf8_is_dumped() {
    let server = Server::shared();
    let database = unknown(server, "'Größe'");
    let case = Case::new(server, &database);
    for name in ["a.sql", "a.dump"] {
        case.backup(name).outcome().expect(0);
        let copy = load(server, &case.path(name));
        assert_eq!(server.query(&copy, BYTES), server.query(&database, BYTES));
    }
}

/// The server says that a file that is gone has no bytes.
#[test]
fn k1_a_table_whose_file_is_missing_fails_the_backup_and_is_not_taken_for_an_empty_one() {
    let mut server = Server::start(Options::default());
    server.create_teslamate("teslamate", 500);
    server.query("teslamate", "CREATE TABLE empty (i int); CREATE TABLE gone AS SELECT generate_series(1, 1000) AS i");
    server.query("teslamate", "CHECKPOINT");
    let file = server.query("teslamate", "SELECT pg_relation_filepath('gone')");
    let data = server.query("teslamate", "SHOW data_directory");
    let site = Site::with_repository(&server, "teslamate");
    site.run("teslamate-backup", &[]).expect(0);
    server.stop("fast");
    let path = Path::new(&data).join(file);
    fs::rename(&path, site.path("kept")).unwrap();
    server.boot();
    let failed = site.run("teslamate-backup", &[]).expect(12);
    let failed = failed.says("cannot read table \"public\".\"gone\"").says("No such file or directory");
    assert_eq!(site.backups().len(), 1, "{}", failed.stderr);
    site.run("teslamate-restore", &["latest", "--drill"]).expect(0);
}
