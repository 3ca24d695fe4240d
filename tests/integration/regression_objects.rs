//! PostgreSQL's own regression tests leave objects of every kind behind, odd ones too. They come back as psql makes them.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::Site;
use crate::support::repository::section;
use crate::support::tree_server::TreeServer;

const MAJOR: u32 = 18;

/// Files that act on the whole cluster, and some that take long and leave nothing that others do not.
const LEFT_OUT: &str = "
    tablespace database stats maintain_every numa
    bitmapops collate.icu.utf8 explain foreign_data indirect_toast infinite_recurse insert_conflict join join_hash
    memoize misc_sanity oidjoins opr_sanity partition_aggregate partition_join partition_prune privileges psql
    regex sanity_check select_parallel stats_import subselect sysviews tuplesort type_sanity union updatable_views
    vacuum vacuum_parallel write_parallel";

/// Runs files one after the other, each with the settings that the tests expect and a limit on its time. Statements that
/// fail are a part of them, so errors do not count.
const RUN: &str = "\
    export PGHOST=/mnt/socket PGUSER=postgres PGDATABASE=regression PGTZ=America/Los_Angeles PGDATESTYLE='Postgres, MDY'
    export PGOPTIONS='-c intervalstyle=postgres_verbose' PG_DLSUFFIX=.so
    export PG_ABS_SRCDIR=/mnt/regress PG_ABS_BUILDDIR=/mnt/regress PG_LIBDIR=/mnt/regress
    for name; do
      timeout 30 psql -X -q -v HIDE_TABLEAM=on -v HIDE_TOAST_COMPRESSION=on -f \"/mnt/regress/sql/$name.sql\" </dev/null
    done";

const RELATIONS: &str =
    "SELECT count(*) FROM pg_class WHERE oid >= 16384 AND relnamespace::regnamespace::text !~ '^pg_'";
const FUNCTIONS: &str = "SELECT count(*) FROM pg_proc WHERE oid >= 16384";

/// A server on which the regression tests have run; `None`, said aloud, where there is no such server or no such files.
fn regression() -> Option<TreeServer> {
    let server = TreeServer::of(MAJOR, &["autovacuum=off"])?;
    let dir = server.dir().join("regress");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/pg-regress");
    let copied = Command::new(script).arg(MAJOR.to_string()).arg(&dir).output().unwrap();
    let words = String::from_utf8_lossy(&copied.stderr);
    if words.contains("no tree in") {
        println!("SKIPPED: {}", words.trim());
        return None;
    }
    assert!(copied.status.success(), "{words}");
    server.query("postgres", "CREATE DATABASE regression TEMPLATE template0");
    for setting in
        ["bytea_output = 'hex'", "lc_messages = 'C'", "lc_monetary = 'C'", "lc_numeric = 'C'", "lc_time = 'C'"]
    {
        server.query("postgres", &format!("ALTER DATABASE regression SET {setting}"));
    }
    let schedule = fs::read_to_string(dir.join("parallel_schedule")).unwrap();
    let names = schedule.lines().filter_map(|line| line.strip_prefix("test: ")).flat_map(str::split_whitespace);
    let path = format!("PATH=/usr/lib/postgresql/{MAJOR}/bin:/usr/bin:/bin");
    let mut command = vec!["env", &path, "sh", "-c", RUN, "sh"];
    command.extend(names.filter(|name| !LEFT_OUT.split_whitespace().any(|left_out| left_out == *name)));
    server.run(&command);
    Some(server)
}

/// An installation whose live database is theirs.
fn site(server: &TreeServer) -> Site {
    let site = Site::at(&server.socket(), 5432, "regression");
    site.configure(&format!("tools = {:?}\n{}", server.tools().display().to_string(), section(&site)), "");
    let text = fs::read_to_string(site.config()).unwrap().replacen("user = \"teslamate\"", "user = \"postgres\"", 1);
    site.write_config(&text);
    site
}

/// The whole database as stock `pg_dump` writes it; the word of `\restrict` is another one each time.
fn dumped(server: &TreeServer, database: &str) -> Vec<String> {
    let output = server.tool("pg_dump").args(["-d", database]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let is_token = |line: &str| line.starts_with(r"\restrict ") || line.starts_with(r"\unrestrict ");
    text.lines().filter(|line| !is_token(line)).map(str::to_owned).collect()
}

/// The rows of each table in an order of their own: several sessions load a table of a backup.
fn with_sorted_rows(mut lines: Vec<String>) -> Vec<String> {
    let mut at = 0;
    while at < lines.len() {
        at += 1;
        if lines[at - 1].starts_with("COPY ") && lines[at - 1].ends_with(" FROM stdin;") {
            let end = at + lines[at..].iter().position(|line| line == r"\.").unwrap();
            lines[at..end].sort_unstable();
            at = end;
        }
    }
    lines
}

/// The lines without the order of columns, which is another one where a table had a column before its parent.
fn without_order_of_columns(lines: &[String]) -> Vec<Vec<u8>> {
    let sorted = |line: &String| {
        let mut bytes = line.trim_end_matches(',').as_bytes().to_vec();
        bytes.sort_unstable();
        bytes
    };
    let mut lines: Vec<Vec<u8>> = lines.iter().map(sorted).collect();
    lines.sort_unstable();
    lines
}

#[track_caller]
fn assert_same(left: &[String], right: &[String], how: &str) {
    if let Some(at) = (0..left.len().max(right.len())).find(|at| left.get(*at) != right.get(*at)) {
        let part =
            |lines: &[String]| lines[at.saturating_sub(3).min(lines.len())..(at + 3).min(lines.len())].join("\n");
        panic!("{how}: line {at} differs\n{}\n-- and not\n{}", part(right), part(left));
    }
}

#[test]
fn r15_objects_of_postgresqls_regression_tests_come_back() {
    let Some(server) = regression() else { return };
    let counts = [RELATIONS, FUNCTIONS].map(|sql| server.query("regression", sql).parse::<u32>().unwrap());
    println!("{} relations, {} functions", counts[0], counts[1]);
    assert!(counts[0] >= 900 && counts[1] >= 300, "{counts:?}");
    let site = site(&server);
    for (format, file) in [("plain", "a.sql"), ("custom", "a.dump")] {
        let mut dump = server.tool("pg_dump");
        dump.args(["-d", "regression", "--format", format, "-f"]).arg(site.path(file));
        assert!(dump.status().unwrap().success());
    }
    server.query("postgres", "CREATE DATABASE by_psql TEMPLATE template0");
    let mut psql = server.tool("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "by_psql", "-o", "/dev/null", "-f"]).arg(site.path("a.sql"));
    assert!(psql.status().unwrap().success());
    let wanted = dumped(&server, "by_psql");
    let original = without_order_of_columns(&dumped(&server, "regression"));
    // That psql itself loses nothing here is what the rest stands on.
    assert!(without_order_of_columns(&wanted) == original);

    for file in ["a.sql", "a.dump"] {
        // Functions in the language internal are among them.
        let into = ["--into", "copy", "--allow-other", "--trust-dump", file];
        site.run("teslamate-restore", &into).expect(0);
        assert_same(&wanted, &dumped(&server, "copy"), file);
        server.query("postgres", "DROP DATABASE copy");
    }
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-restore", &["latest", "--into", "copy", "--allow-other"]).expect(0);
    assert_same(&with_sorted_rows(wanted), &with_sorted_rows(dumped(&server, "copy")), "a backup");
}
