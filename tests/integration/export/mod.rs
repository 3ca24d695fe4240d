//! Backups out of the repository as plain SQL, without a server: what psql makes of it is what was backed up.

mod values;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use glovebox::database::ident;
use glovebox::dump::source::Body;
use glovebox::dump::write::Target;
use glovebox::dump::{Format, Source, judge};
use glovebox::error::{Error, Kind};
use glovebox::export::{Exported, Exporter};
use glovebox::progress::Meter;
use glovebox::repository::Id;
use glovebox::tables::manifest::TableEntry;
use glovebox::tables::{CopyFormat, Manifest};

use crate::repository_backup::Kept;
use crate::support::server::{conninfo, fixture};
use crate::support::tree_server::Server17;
use crate::support::{self, Server, Site, connector, wait};

/// Writes the newest backup to a file of this name in the directory of the repository.
fn export(kept: &Kept, name: &str, tools: Option<&Path>) -> Result<(PathBuf, Exported), Error> {
    let id: Id = kept.ledger.latest().unwrap().unwrap().facts.id.as_str().parse().unwrap();
    let path = kept.directory.path().join(name);
    let target = Target::File(File::create(&path).unwrap());
    let exporter = Exporter { repository: &kept.handle, tools, level: 3, temporary: kept.directory.path() };
    let exported = wait(exporter.write(id, Format::of_name(&path), target, &Meter::new("")))?;
    Ok((path, exported))
}

/// Loads a dump with psql as people do, into a new database.
#[track_caller]
fn load(psql: &mut Command, database: &str, file: &Path) {
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-d", &conninfo(database), "-f"]);
    // Nothing that the reading of a value depends on may come from the session that loads.
    psql.env("PGOPTIONS", "-c datestyle=SQL,DMY -c intervalstyle=sql_standard -c timezone=Asia/Kolkata");
    psql.env("PGCLIENTENCODING", "LATIN1");
    let output = psql.arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn loaded(server: &Server, file: &Path) -> String {
    let copy = server.fresh_name("exported");
    server.query("postgres", &format!("CREATE DATABASE {copy} TEMPLATE template0"));
    load(&mut server.tool("psql"), &copy, file);
    copy
}

/// What is in a database beside rows, by stock `pg_dump`; the word of `\restrict` is another one each time.
fn schema(server: &Server, database: &str) -> String {
    let output = server.tool("pg_dump").args(["--schema-only", "--encoding=UTF8", "-d", database]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict")).collect()
}

/// Sequences and large objects, which are no tables.
fn others(server: &Server, database: &str) -> String {
    server.query(
        database,
        "SELECT string_agg(format('%s.%s=%s', schemaname, sequencename, last_value), ' ' ORDER BY schemaname, sequencename) FROM pg_sequences; \
         SELECT md5(string_agg(oid || encode(lo_get(oid), 'hex'), ',' ORDER BY oid)) FROM pg_largeobject_metadata",
    )
}

/// The rows in a dump, by the table and its columns as they stand there. We quote every name, a function's body does not.
fn blocks(dump: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut blocks = BTreeMap::new();
    let mut lines = dump.split_terminator('\n');
    while let Some(line) = lines.next() {
        let head = line.strip_prefix("COPY ").and_then(|line| line.strip_suffix(" FROM stdin;"));
        if let Some(head) = head.filter(|head| head.starts_with('"')) {
            blocks.insert(head, lines.by_ref().take_while(|row| *row != "\\.").collect());
        }
    }
    blocks
}

fn columns(entry: &TableEntry) -> String {
    let names: Vec<String> = entry.table.columns.iter().map(|column| ident(&column.name)).collect();
    names.join(", ")
}

/// What the server itself writes for a table, as text.
fn server_rows(server: &Server, database: &str, entry: &TableEntry) -> Vec<String> {
    let sql = format!(
        "SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; SET extra_float_digits = 3; \
         SET bytea_output = 'hex'; COPY (SELECT {} FROM ONLY {}) TO STDOUT",
        columns(entry),
        entry.table.qualified()
    );
    let output = server.tool("psql").args(["-X", "-q", "-d", database, "-c", &sql]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().split_terminator('\n').map(str::to_owned).collect()
}

/// Row by row, in bytes, the text that was decoded is the one that the server writes.
fn same_text(server: &Server, database: &str, dump: &str, manifest: &Manifest) -> usize {
    let blocks = blocks(dump);
    // Hash partitions are one block, of their root.
    let binary = manifest.tables.iter();
    let binary = binary.filter(|entry| entry.table.format == CopyFormat::Binary && entry.table.root.is_none());
    let mut compared = 0;
    for entry in binary {
        let name = entry.table.qualified();
        let list = if entry.table.columns.is_empty() { String::new() } else { format!(" ({})", columns(entry)) };
        let rows = &blocks[format!("{name}{list}").as_str()];
        assert_eq!(rows.len() as u64, entry.rows, "{name}");
        let theirs = server_rows(server, database, entry);
        for (number, (ours, theirs)) in rows.iter().zip(&theirs).enumerate() {
            let mut columns = ours.split('\t').zip(theirs.split('\t')).zip(&entry.table.columns);
            let other =
                columns.find(|((ours, theirs), column)| ours != theirs && !is_known_difference(column.type_oid));
            assert!(other.is_none(), "{name}, row {number}: {other:?}");
        }
        assert_eq!(rows.len(), theirs.len(), "{name}");
        compared += rows.len();
    }
    compared
}

/// Values that have two texts: an IPv6 address below 2^32 may have dots, and of the shortest texts of a floating point
/// number two may be equally near. The hash of the loaded table tells whether they are the same value.
fn is_known_difference(oid: u32) -> bool {
    matches!(oid, 869 | 650 | 1041 | 651 | 700 | 701 | 1021 | 1022)
}

/// As a restore judges it: whole, trusted, and with the rows that the manifest says.
fn judged(path: &Path, manifest: &Manifest) {
    let file = File::open(path).unwrap();
    let Format::Plain(compression) = Format::of_content(&glovebox::dump::format::head(&file).unwrap()) else {
        panic!("{} is no plain dump", path.display())
    };
    let body = Body::Plain { file, compression };
    let source = Source { name: "x".into(), format: Format::Plain(compression), body, warnings: Vec::new() };
    let contents = wait(async {
        let tools = glovebox::database::tools::Tools::find_reader(None, 150_000).await?;
        judge::judge(&source, &tools, &Meter::new("")).await
    });
    let contents = contents.unwrap().contents;
    assert_eq!(contents.untrusted, []);
    assert_eq!(contents.server_version, Some(manifest.facts.server_version));
    let rows: BTreeMap<String, u64> = contents.rows.iter().map(|(table, rows)| (table.to_string(), *rows)).collect();
    let mut expected = BTreeMap::<String, u64>::new();
    for entry in &manifest.tables {
        let (schema, name) = entry.table.loaded_through();
        *expected.entry(format!("{schema}.{name}")).or_default() += entry.rows;
    }
    assert_eq!(rows, expected);
}

#[test]
fn every_type_and_every_kind_of_relation_is_loaded_as_it_was() {
    let server = Server::shared();
    let database = server.fresh_name("every");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.run_file(&database, &fixture("torture.sql"), &[]);
    support::cases::run_sql(server, &database, &values::edges());
    wait(values::random(&connector(server.dir(), server.port(), &database, "postgres")));
    let mut kept = Kept::new();
    let taken = kept.take(&connector(server.dir(), server.port(), &database, "postgres"), None, false);
    let (path, exported) = export(&kept, "a.sql", None).unwrap();
    assert_eq!(exported.manifest, taken.manifest);
    assert_eq!(exported.written.contents.total_rows(), taken.manifest.rows());
    assert_eq!(exported.written.bytes, fs::metadata(&path).unwrap().len());

    let dump = fs::read_to_string(&path).unwrap();
    let compared = same_text(server, &database, &dump, &taken.manifest);
    assert!(compared > 1000, "{compared}");
    assert_eq!(dump.matches("\n-- PostgreSQL database dump\n").count(), 1);
    if let Some(word) = dump.lines().take(9).find_map(|line| line.strip_prefix("\\restrict ")) {
        assert!(dump.ends_with(&format!("\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict {word}\n\n")));
        assert_eq!(dump.matches(word).count(), 2);
    }
    judged(&path, &taken.manifest);
    let copy = loaded(server, &path);
    assert_eq!(server.content(&copy), server.content(&database));
    assert_eq!(schema(server, &copy), schema(server, &database));
    assert_eq!(others(server, &copy), others(server, &database));
}

#[test]
fn the_interval_that_the_server_writes_and_does_not_read_is_loaded_too() {
    let server = Server::shared();
    let database = server.fresh_name("extremes");
    server.query("postgres", &format!("CREATE DATABASE {database}"));
    server.query(
        &database,
        "CREATE TABLE t (i interval, a interval[]); \
         INSERT INTO t SELECT i, ARRAY[i, NULL] FROM (SELECT '-2562047788:00:54.775807'::interval - '1 us'::interval + k FROM \
         unnest(ARRAY['0', '1 day', '-3 years -1 mon 5 days']::interval[]) k) AS v(i)",
    );
    let mut kept = Kept::new();
    kept.take(&connector(server.dir(), server.port(), &database, "postgres"), None, false);
    let (path, _) = export(&kept, "a.sql", None).unwrap();
    let copy = loaded(server, &path);
    let sql = "SELECT string_agg(encode(interval_send(i), 'hex') || encode(interval_send(a[1]), 'hex'), ' ') FROM t";
    assert_eq!(server.query(&copy, sql), server.query(&database, sql));
}

#[test]
fn a_type_that_has_elements_and_is_no_array_is_not_taken_for_one() {
    let server = Server::shared();
    let database = server.fresh_name("elements");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.query(
        &database,
        "CREATE TYPE vec; \
         CREATE FUNCTION vec_in(cstring) RETURNS vec LANGUAGE internal IMMUTABLE STRICT AS 'int2vectorin'; \
         CREATE FUNCTION vec_out(vec) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int2vectorout'; \
         CREATE FUNCTION vec_recv(internal) RETURNS vec LANGUAGE internal IMMUTABLE STRICT AS 'int2vectorrecv'; \
         CREATE FUNCTION vec_send(vec) RETURNS bytea LANGUAGE internal IMMUTABLE STRICT AS 'int2vectorsend'; \
         CREATE TYPE vec (INPUT = vec_in, OUTPUT = vec_out, RECEIVE = vec_recv, SEND = vec_send, \
                           ELEMENT = int2, SUBSCRIPT = pg_catalog.raw_array_subscript_handler); \
         CREATE TABLE t (v vec); INSERT INTO t VALUES ('1 2 -3'), (''), (NULL); \
         CREATE TABLE cast_to_array AS SELECT v::int2[] AS a FROM unnest(ARRAY['', '1 2']::int2vector[]) AS v",
    );
    let mut kept = Kept::new();
    let taken = kept.take(&connector(server.dir(), server.port(), &database, "postgres"), None, false);
    let formats: Vec<CopyFormat> = taken.manifest.tables.iter().map(|entry| entry.table.format).collect();
    assert_eq!(formats, [CopyFormat::Binary, CopyFormat::Text]);
    let (path, _) = export(&kept, "a.sql", None).unwrap();
    let copy = loaded(server, &path);
    assert_eq!(server.content(&copy), server.content(&database));
}

#[test]
fn rows_are_read_as_they_were_and_views_filled_as_the_session_that_loads_wants() {
    let server = Server::shared();
    let database = server.fresh_name("dated");
    server.query("postgres", &format!("CREATE DATABASE {database}"));
    server.query(
        &database,
        "SET datestyle = 'ISO'; SET timezone = 'UTC'; SET intervalstyle = 'postgres'; \
         CREATE TABLE dated (d date CHECK (d::text ~ '^[0-9]{4}-'), z timestamptz CHECK (z::text LIKE '%+00'), \
                             i interval CHECK (i::text LIKE '%mon%')); \
         INSERT INTO dated VALUES ('2024-02-01', '2024-02-01 00:00+00', '1 year 2 mons'); \
         CREATE MATERIALIZED VIEW shown AS SELECT concat_ws(' ', d, z, i) AS text FROM dated",
    );
    let mut kept = Kept::new();
    kept.take(&connector(server.dir(), server.port(), &database, "postgres"), None, false);
    let (path, _) = export(&kept, "a.sql", None).unwrap();
    let copy = loaded(server, &path);
    let sql = "SET timezone = 'UTC'; SELECT d, z, i FROM dated";
    assert_eq!(server.query(&copy, sql), server.query(&database, sql));
    assert_eq!(server.query(&copy, "SELECT text FROM shown"), "01/02/2024 01/02/2024 05:30:00 IST 1-2");
}

#[test]
fn names_and_text_of_another_encoding_are_loaded_as_they_were() {
    let server = Server::shared();
    let database = server.fresh_name("latin");
    let create = format!("CREATE DATABASE {database} TEMPLATE template0 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C'");
    server.query("postgres", &create);
    let sql = "CREATE TABLE \"größe\" (\"ä\" text, p point); INSERT INTO \"größe\" VALUES ('ß÷', '(1,2)'); \
               CREATE TABLE \"länge\" (\"ö\" text DEFAULT 'ü'); INSERT INTO \"länge\" VALUES ('Ñ'), (NULL); \
               CREATE INDEX \"für\" ON \"länge\" (\"ö\") WHERE \"ö\" <> 'é'";
    support::cases::run_sql(server, &database, &format!("SET client_encoding = 'UTF8'; {sql}"));
    let mut kept = Kept::new();
    let taken = kept.take(&connector(server.dir(), server.port(), &database, "postgres"), None, false);
    let (path, _) = export(&kept, "a.sql", None).unwrap();
    judged(&path, &taken.manifest);
    let copy = server.fresh_name("latin_copy");
    server.query("postgres", &create.replace(&database, &copy));
    load(&mut server.tool("psql"), &copy, &path);
    let rows = "SELECT string_agg(md5(query_to_xml('SELECT * FROM ' || oid::regclass, true, true, '')::text), ' ' ORDER BY relname) \
                FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    assert_eq!(server.query(&copy, rows), server.query(&database, rows));
    assert_eq!(server.query(&copy, rows).len(), 32 + 1 + 32);
    assert_eq!(schema(server, &copy), schema(server, &database));
}

#[test]
fn our_own_restore_takes_it_in_every_compression() {
    let server = Server::shared();
    let database = server.teslamate("taken");
    let mut kept = Kept::new();
    let taken = kept.take(&connector(server.dir(), server.port(), &database, "teslamate"), None, false);
    let site = Site::new(server, &database);
    for name in ["a.sql", "a.sql.gz", "a.sql.zst"] {
        let (path, _) = export(&kept, name, None).unwrap();
        judged(&path, &taken.manifest);
        fs::copy(&path, site.path(name)).unwrap();
        let other = server.fresh_name("beside");
        site.run("teslamate-restore", &["--into", &other, name]).expect(0);
        assert_eq!(server.content(&other), server.content(&database), "{name}");
        assert_eq!(schema(server, &other), schema(server, &database), "{name}");
    }
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    let server = Server::shared();
    let database = server.fresh_name("refused");
    server.query("postgres", &format!("CREATE DATABASE {database}"));
    let mut kept = Kept::new();
    kept.take(&connector(server.dir(), server.port(), &database, "postgres"), None, false);
    let error = export(&kept, "a.dump", None).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert_eq!(error.message(), "a backup cannot be written in the custom format without a server");
    let empty = tempfile::tempdir().unwrap();
    let error = export(&kept, "a.sql", Some(empty.path())).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.message().starts_with("there is no pg_restore in /"), "{error}");
    assert_eq!(error.detail("state"), Some("no file was left, the repository was only read"));
    let id: Id = "1".repeat(64).parse().unwrap();
    let exporter = Exporter { repository: &kept.handle, tools: None, level: 3, temporary: empty.path() };
    let full = Target::File(File::options().write(true).open("/dev/full").unwrap());
    let unknown = wait(exporter.write(id, Format::of_name(Path::new("a.sql")), full, &Meter::new(""))).unwrap_err();
    assert!(matches!(unknown.kind(), Kind::Refused | Kind::Verify), "{unknown}");
}

#[test]
fn a_target_that_takes_no_more_is_named_and_not_the_broken_pipe() {
    let server = Server::shared();
    let database = server.fresh_name("full");
    server.query("postgres", &format!("CREATE DATABASE {database}"));
    server.run_file(&database, &fixture("torture.sql"), &[]);
    let mut kept = Kept::new();
    kept.take(&connector(server.dir(), server.port(), &database, "postgres"), None, false);
    let id: Id = kept.ledger.latest().unwrap().unwrap().facts.id.as_str().parse().unwrap();
    let exporter = Exporter { repository: &kept.handle, tools: None, level: 3, temporary: kept.directory.path() };
    for name in ["a.sql", "a.sql.gz", "a.sql.zst"] {
        let full = Target::File(File::options().write(true).open("/dev/full").unwrap());
        let error = wait(exporter.write(id, Format::of_name(Path::new(name)), full, &Meter::new(""))).unwrap_err();
        assert_eq!((error.kind(), error.message()), (Kind::Store, "cannot write the dump"), "{name}: {error}");
    }
}

#[test]
fn a_backup_of_version_17_is_written_with_its_own_tools_and_has_infinite_intervals() {
    let Some(server) = Server17::start(&[]) else { return };
    server.make_teslamate();
    server.query(
        "teslamate",
        "CREATE TABLE spans (id int, i interval, a interval[]); INSERT INTO spans VALUES (1, 'infinity', '{-infinity}'), (2, '-infinity', '{1 day}'), \
         (3, '178956970 years 7 mons 2147483647 days 2562047788:00:54.775806', NULL); CREATE TABLE letters (c \"char\"); INSERT INTO letters VALUES ('\\303'), ('')",
    );
    let connector = connector(&server.socket(), 5432, "teslamate", "postgres");
    let tools = server.tools();
    let mut kept = Kept::new();
    let taken = kept.take(&connector, Some(&tools), false);
    let (path, _) = export(&kept, "a.sql", Some(&tools)).unwrap();
    judged(&path, &taken.manifest);
    server.query("postgres", "CREATE DATABASE exported TEMPLATE template0");
    let mut psql = Command::new(tools.join("psql"));
    psql.args(["-U", "postgres", "-h"]).arg(server.socket());
    load(&mut psql, "exported", &path);
    for table in ["spans", "letters", "positions", "settings", "cars", "charges", "private.tokens"] {
        let sql = format!("SELECT count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} t");
        assert_eq!(server.query("exported", &sql), server.query("teslamate", &sql), "{table}");
    }
    let error = export(&kept, "b.sql", Some(&support::server::bin_dir())).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.message().contains("is older than the backup's server 17."), "{error}");
}
