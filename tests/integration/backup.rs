//! `teslamate-backup FILE` on a good day: every format comes back with stock tools, and nothing is left beside it.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::server::conninfo;
use crate::support::{Server, Site};

fn site(hint: &str) -> (&'static Server, Site, String) {
    let server = Server::shared();
    let database = server.teslamate(hint);
    let site = Site::new(server, &database);
    fs::create_dir(site.path("out")).unwrap();
    (server, site, database)
}

/// Loads a file into a fresh database with stock tools alone, and returns the database's name.
fn load_with_stock_tools(server: &Server, file: &Path, hint: &str) -> String {
    let fresh = server.fresh_name(hint);
    server.query("postgres", &format!("CREATE DATABASE {fresh} TEMPLATE template0"));
    let name = file.to_str().unwrap();
    let status = if name.ends_with(".dump") {
        server.tool("pg_restore").args(["-e", "-d", &fresh]).arg(file).status().unwrap()
    } else {
        let unpack = match name {
            name if name.ends_with(".gz") => "gunzip -c",
            name if name.ends_with(".zst") => "zstd -dc",
            _ => "cat",
        };
        let program = crate::support::server::bin_dir().join("psql");
        let line = format!(
            "set -e; {unpack} '{name}' | {} -X -q -v ON_ERROR_STOP=1 -d {fresh} > /dev/null",
            program.display()
        );
        Command::new("/bin/bash")
            .args(["-o", "pipefail", "-c", &line])
            .env("PGHOST", server.dir())
            .env("PGPORT", server.port().to_string())
            .env("PGUSER", "postgres")
            .status()
            .unwrap()
    };
    assert!(status.success(), "{name}");
    fresh
}

#[test]
fn every_format_comes_back_with_stock_tools_alone() {
    let (server, site, database) = site("stock");
    let before = server.content(&database);
    for name in ["a.sql", "a.sql.gz", "a.sql.zst", "a.dump", "teslamate.bck"] {
        let outcome = site.run("teslamate-backup", &[&format!("out/{name}")]).expect(0);
        assert!(outcome.text().contains("rows in 16 tables"), "{}", outcome.text());
        let fresh = load_with_stock_tools(server, &site.path("out").join(name), "stockload");
        assert_eq!(server.content(&fresh), before, "{name}");
        let mode = fs::metadata(site.path("out").join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "r26: {name}");
    }
    let mut expected = ["a.sql", "a.sql.gz", "a.sql.zst", "a.dump", "teslamate.bck"].map(String::from);
    expected.sort();
    assert_eq!(site.files("out"), expected, "nothing else is left");
    assert!(fs::read_to_string(site.path("out/teslamate.bck")).unwrap().starts_with("--\n"), "plain SQL by habit");
}

#[test]
fn the_report_says_what_is_in_the_file() {
    let (server, site, database) = site("report");
    let outcome = site.run("teslamate-backup", &["--json", "out/a.sql.zst"]).expect(0);
    let json = outcome.json();
    let bytes = fs::read(site.path("out/a.sql.zst")).unwrap();
    assert_eq!(json["bytes"], bytes.len());
    let sum = Command::new("sha256sum").arg(site.path("out/a.sql.zst")).output().unwrap();
    assert!(String::from_utf8(sum.stdout).unwrap().starts_with(json["sha256"].as_str().unwrap()));
    let positions: u64 = server.query(&database, "SELECT count(*) FROM positions").parse().unwrap();
    assert_eq!(json["tables"]["public.positions"], positions);
    assert_eq!(json["database"], database);
    assert_eq!(json["format"], "plain, zstd");
    for line in outcome.stderr.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|cause| panic!("{cause}: {line}"));
    }
}

#[test]
fn standard_output_carries_the_dump_and_nothing_else() {
    let (server, site, database) = site("stdout");
    let outcome = site.run("teslamate-backup", &["--json", "-"]).expect(0);
    let last = outcome.stderr.lines().last().unwrap();
    let json: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!(json["bytes"], outcome.stdout.len());
    fs::write(site.path("out/a.sql"), &outcome.stdout).unwrap();
    let fresh = load_with_stock_tools(server, &site.path("out/a.sql"), "stdoutload");
    assert_eq!(server.content(&fresh), server.content(&database));
}

#[test]
fn a_reader_that_leaves_early_is_a_failure() {
    let (_, site, _) = site("epipe");
    let mut child = site.command("teslamate-backup").arg("-").spawn();
    let mut some = [0; 1000];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut some).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(13), "{words}");
    assert!(words.contains("Broken pipe"), "{words}");
}

#[test]
fn a_part_of_the_database_as_pg_dump_means_it() {
    let (_, site, _) = site("parts");
    let text = |arguments: &[&str]| site.run("teslamate-backup", &[arguments, &["-q", "-"]].concat()).expect(0).text();
    let schema = text(&["--schema-only"]);
    assert!(schema.contains("CREATE TABLE public.cars") && !schema.contains("COPY public.cars"));
    let data = text(&["--data-only"]);
    assert!(!data.contains("CREATE TABLE") && data.contains("COPY public.cars"));
    let table = text(&["--table", "ca*s", "--table=public.drives"]);
    assert!(
        table.contains("COPY public.cars")
            && table.contains("COPY public.drives")
            && !table.contains("COPY public.positions")
    );
    site.run("teslamate-backup", &["--schema-only", "--data-only", "-"]).expect(2);
    site.run("teslamate-backup", &["--table", "no_such_table", "out/a.sql"]).expect(12).says("no matching tables");
    assert_eq!(site.files("out"), Vec::<String>::new());
}

#[test]
fn the_time_in_a_name_is_filled_in() {
    let (_, site, _) = site("time");
    site.run("teslamate-backup", &["-q", "out/{time}.sql"]).expect(0);
    let files = site.files("out");
    let time = files[0].strip_suffix(".sql").unwrap();
    assert!(chrono::NaiveDateTime::parse_from_str(time, "%Y-%m-%dT%H%M%SZ").is_ok(), "{time}");
}

#[test]
fn r17_names_with_every_odd_character_are_backed_up_and_restored() {
    let server = Server::shared();
    for name in
        ["a=b", "te\"st", "x';--", "with space", "ÄöüßÄöüßÄöüßÄöüßÄöüßÄöüßÄöüßÄöü", "back\\slash", "$(id)", "%s"]
    {
        let quoted = name.replace('"', "\"\"");
        server.query("postgres", &format!("CREATE DATABASE \"{quoted}\" OWNER teslamate"));
        server.query(name, "CREATE TABLE t AS SELECT generate_series(1, 100) n");
        let site = Site::new(server, "replaced");
        for file in ["a.sql", "a.dump"] {
            let run = |binary: &str, arguments: &[&str]| {
                site.command(binary).args(arguments).env("DATABASE_NAME", name).outcome()
            };
            run("teslamate-backup", &[file]).expect(0);
            server.query(name, "DROP TABLE IF EXISTS t");
            run("teslamate-restore", &["--yes", "--allow-other", file]).expect(0);
            assert_eq!(server.query(name, "SELECT count(*) FROM t"), "100", "{name}");
        }
        let stock = server.tool("psql").args(["-At", "-d", &conninfo(name), "-c", "SELECT 1"]).output().unwrap();
        assert!(stock.status.success());
    }
}

#[test]
fn r14_values_that_no_language_has_a_type_for_come_back() {
    let server = Server::shared();
    let name = server.fresh_name("odd");
    server.query("postgres", &format!("CREATE DATABASE {name} OWNER teslamate"));
    server.query(
        &name,
        "CREATE TABLE odd AS SELECT 'NaN'::float8 a, '-infinity'::timestamp b, '4713-01-01 BC'::date c, \
         (repeat('9', 1000) || '.' || repeat('1', 1000))::numeric d, '\\x00ff'::bytea e, ARRAY[NULL, '\\N', E'a\\tb\\n\\\\.'] f, 'NaN'::numeric g",
    );
    let site = Site::new(server, &name);
    let before = server.content(&name);
    for file in ["a.sql", "a.dump", "a.sql.zst"] {
        site.run("teslamate-backup", &[file]).expect(0);
        site.run("teslamate-restore", &["--yes", "--allow-other", file]).expect(0);
        assert_eq!(server.content(&name), before);
    }
}
