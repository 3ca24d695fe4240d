//! What comes back from a dump is what was there: odd values, every kind of object, odd names, large values.

use std::fs;

use super::{Case, FORMATS, load};
use crate::support::Server;
use crate::support::probe::{eventually, runs};

/// What stock `pg_dump` says of a database's objects, without what is new in every dump.
fn catalogue(case: &Case, server: &Server, database: &str) -> String {
    let file = case.site.path("catalogue.sql");
    server.pg_dump(database, &file, &["--schema-only"]);
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    text.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict")).collect::<Vec<_>>().join("\n")
}

const LARGE_OBJECTS: &str =
    "SELECT count(*), md5(string_agg(loid::text || pageno || encode(data, 'hex'), ',' ORDER BY loid, pageno)) FROM pg_largeobject";

#[test]
fn r14_odd_values_come_back_bit_by_bit() {
    let server = Server::shared();
    let database = server.teslamate("odd");
    server.query(
        &database,
        r"CREATE TABLE odd (id int, f float8, r real, t timestamp, z timestamptz, d date, n numeric, b bytea, a text[], i interval, s text);
          INSERT INTO odd VALUES
            (1, 'NaN', 'Infinity', 'infinity', '-infinity', '4713-01-01 BC', '1e131000'::numeric, '\x00ff0a5c', '{NULL,a,NULL}', '-178000000 years', E'\\.'),
            (2, '-0', '1e-45', '0044-03-15 BC', '294276-12-31 23:59:59.999999+00', 'infinity', 'NaN', '', '{}', 'P0Y', ''),
            (3, '4.9406564584124654e-324', '-0', '-infinity', '4714-11-24 BC', '5874897-12-31', '-Infinity', NULL, '[0:1]={x,y}', NULL, E'\t\n\r\\N\b'),
            (4, 0.1::float8 + 0.2::float8, 0.1, NULL, NULL, NULL, '0.00000', '\x5c2e0a', NULL, '1 mon -1 day 00:00:00.000001', repeat('ü🚗', 5000))",
    );
    let before = server.content(&database);
    let case = Case::new(server, &database);
    for name in FORMATS {
        case.backup(name).outcome().expect(0);
        assert_eq!(server.content(&load(server, &case.path(name))), before, "{name}");
    }
}

#[test]
fn r15_every_kind_of_object_comes_back() {
    let server = Server::shared();
    let database = server.teslamate("torture");
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/teslamate/torture.sql");
    server.run_file(&database, fixture.as_ref(), &[]);
    let case = Case::new(server, &database);
    let before = (server.content(&database), catalogue(&case, server, &database), server.query(&database, LARGE_OBJECTS));
    assert!(before.2.starts_with(|digit: char| digit.is_ascii_digit() && digit != '0'), "{}", before.2);
    for name in ["a.sql.zst", "a.dump"] {
        case.backup(name).outcome().expect(0);
        let loaded = load(server, &case.path(name));
        assert_eq!(server.content(&loaded), before.0, "{name}");
        let after = catalogue(&case, server, &loaded);
        let differs = before.1.lines().zip(after.lines()).find(|(before, after)| before != after);
        assert_eq!(after, before.1, "{name}: {differs:?}");
        assert_eq!(server.query(&loaded, LARGE_OBJECTS), before.2, "{name}");
    }
}

#[test]
fn r17_odd_names_of_databases_are_only_names() {
    let server = Server::shared();
    let long = "ä".repeat(31) + "x";
    for name in ["a=b", "te\"st", "x';--", "with space", "Upper", "back\\slash", "-dash", "postgres://x/y", &long] {
        assert!(name.len() <= 63);
        let quoted = name.replace('"', "\"\"");
        server.query("postgres", &format!("CREATE DATABASE \"{quoted}\" TEMPLATE template0"));
        server.query(name, "CREATE TABLE here (name text); INSERT INTO here VALUES (current_database())");
        let case = Case::new(server, name);
        for file in ["a.sql", "a.dump"] {
            let document = case.backup(file).arg("--json").outcome().expect(0).json();
            assert_eq!(document["database"], name);
            assert_eq!(document["tables"]["public.here"], 1);
            let loaded = load(server, &case.path(file));
            assert_eq!(server.query(&loaded, "SELECT name FROM here"), name);
            server.query("postgres", &format!("DROP DATABASE {loaded}"));
        }
        // The same from the command line, whatever is configured.
        let run = Case::new(server, "not_this_one").backup("b.sql").arg(format!("--dbname={name}")).outcome().expect(0);
        assert!(run.stderr.contains(&format!("dumping database \"{name}\"")), "{}", run.stderr);
        server.query("postgres", &format!("DROP DATABASE \"{quoted}\""));
    }
    for name in ["", "two\nlines", &"x".repeat(64)] {
        let case = Case::new(server, "not_this_one");
        case.fails(case.backup("a.sql").arg(format!("--dbname={name}")), 2, &["1 to 63 bytes without line breaks"]);
    }
}

#[test]
fn r13_a_database_of_unknown_encoding_is_refused() {
    let server = Server::shared();
    let database = server.fresh_name("ascii");
    server.query("postgres", &format!("CREATE DATABASE {database} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"));
    let case = Case::new(server, &database);
    for name in FORMATS {
        case.fails(case.backup(name), 10, &["is not known (SQL_ASCII)", "convert it to UTF8"]);
    }
}

#[test]
fn r13_another_encoding_is_dumped_as_utf8() {
    let server = Server::shared();
    let database = server.fresh_name("latin");
    server.query("postgres", &format!("CREATE DATABASE {database} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"));
    server.query(&database, "SET client_encoding = UTF8; CREATE TABLE t (x text); INSERT INTO t VALUES ('Größe')");
    let case = Case::new(server, &database);
    case.backup("a.sql").outcome().expect(0);
    assert!(fs::read_to_string(case.path("a.sql")).unwrap().contains("\nGröße\n"));
    assert_eq!(server.query(&load(server, &case.path("a.sql")), "SELECT x FROM t"), "Größe");
}

#[test]
fn memory_does_not_grow_with_tables_or_values() {
    let server = Server::shared();
    let database = server.fresh_name("large");
    server.create_teslamate(&database, 300_000);
    server.query(&database, "CREATE TABLE wide AS SELECT decode(repeat('00ff5c0a', 13107200), 'hex') AS bytes");
    let case = Case::new(server, &database);
    for name in FORMATS {
        let child = case.backup(name).spawn();
        let mut most = 0;
        eventually(120, "the backup ends", || {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kilobytes: u64 = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
            most = most.max(kilobytes);
            !runs(child.id())
        });
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        eprintln!("{name}: {} MB at most", most / 1024);
        assert!((1..200 * 1024).contains(&most), "{name}: {most} kB");
        fs::remove_file(case.path(name)).unwrap();
    }
    server.query("postgres", &format!("DROP DATABASE {database}"));
}
