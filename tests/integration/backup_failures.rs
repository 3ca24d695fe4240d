//! `teslamate-backup FILE` on a bad day: no file, no temporary file, the cause in its own words, the right exit code.

use crate::support::server::Options;
use crate::support::{Outcome, Server, Site, probe};
use std::fs;
use std::process::Command;

const FORMATS: [&str; 4] = ["out/a.sql", "out/a.sql.gz", "out/a.sql.zst", "out/a.dump"];

fn site_on(server: &Server, database: &str) -> Site {
    let site = Site::new(server, database);
    fs::create_dir(site.path("out")).unwrap();
    site
}

fn site(hint: &str) -> (&'static Server, Site, String) {
    let server = Server::shared();
    let database = server.teslamate(hint);
    (server, site_on(server, &database), database)
}

/// Fails the test unless it ended with this code and these words, and no file of any kind was left.
#[track_caller]
fn left_nothing(site: &Site, outcome: Outcome, code: i32, words: &str) {
    let outcome = outcome.expect(code).says(words);
    assert!(outcome.stderr.contains("state: "), "no state is said: {}", outcome.stderr);
    assert_eq!(site.files("out"), Vec::<String>::new(), "{}", outcome.stderr);
}

#[test]
fn r01_a_server_that_cannot_be_reached_leaves_nothing() {
    let (_, site, _) = site("unreachable");
    for name in FORMATS {
        let run = site.command("teslamate-backup").env("DATABASE_PORT", "5999").arg(name);
        left_nothing(&site, run.outcome(), 12, "no server listens at");
        let run = site.command("teslamate-backup").env("DATABASE_NAME", "nothing_here").arg(name);
        left_nothing(&site, run.outcome(), 12, "there is no database \"nothing_here\"");
    }
}

#[test]
fn r03_a_session_that_is_ended_while_it_waits_leaves_nothing() {
    let (server, site, database) = site("away");
    let _lock = server.hold(&database, "LOCK TABLE updates");
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' \
         AND application_name LIKE 'teslamate-backup%' AND query LIKE 'LOCK TABLE%'"
    );
    for name in FORMATS {
        let child = site.command("teslamate-backup").arg(name).spawn();
        probe::eventually(20, "pg_dump waits for the lock", || !server.query("postgres", &end).is_empty());
        let output = child.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(12), "{words}");
        let known =
            ["terminating connection", "server closed the connection"].iter().any(|known| words.contains(known));
        assert!(known && words.contains("state: "), "{words}");
        assert_eq!(site.files("out"), Vec::<String>::new());
    }
}

#[test]
fn r07_a_role_that_may_not_read_everything_backs_nothing_up() {
    let (server, site, database) = site("rights");
    let role = format!("reader_{database}");
    server.query(
        &database,
        &format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA private TO {role}; \
             GRANT SELECT ON ALL TABLES IN SCHEMA public, private TO {role}; \
             GRANT SELECT ON ALL SEQUENCES IN SCHEMA public, private TO {role}; REVOKE SELECT ON drives FROM {role}"
        ),
    );
    let run = || site.command("teslamate-backup").env("DATABASE_USER", &role);
    for name in FORMATS {
        left_nothing(&site, run().arg(name).outcome(), 12, "permission denied for table drives");
    }
    server.query(&database, &format!("GRANT SELECT ON drives TO {role}; ALTER TABLE cars ENABLE ROW LEVEL SECURITY"));
    left_nothing(&site, run().arg("out/a.sql").outcome(), 12, "row-level security");
}

#[test]
fn r11_a_damaged_page_stops_the_backup_and_is_named() {
    let mut server = Server::start(Options { initdb: vec!["--data-checksums"], ..Options::default() });
    server.create_teslamate("damaged", 3000);
    let path = server.query("damaged", "CHECKPOINT; SELECT pg_relation_filepath('positions')");
    server.stop("fast");
    let file = server.data().join(path);
    let mut bytes = fs::read(&file).unwrap();
    bytes[8192 + 100..8192 + 4000].fill(0x55);
    fs::write(&file, bytes).unwrap();
    server.boot();
    let site = site_on(&server, "damaged");
    for name in ["out/a.sql", "out/a.dump"] {
        let outcome = site.run("teslamate-backup", &[name]);
        assert!(outcome.stderr.contains("pg_amcheck") && outcome.stderr.contains("positions"), "{}", outcome.stderr);
        left_nothing(&site, outcome, 12, "invalid page in block 1");
    }
}

#[test]
fn r23_flipped_bits_in_a_zst_are_all_found_before_anything_is_loaded() {
    let (server, site, database) = site("bits");
    site.run("teslamate-backup", &["out/a.sql.zst"]).expect(0);
    let bytes = fs::read(site.path("out/a.sql.zst")).unwrap();
    let mut harmless = 0;
    for number in 0..100_usize {
        let mut flipped = bytes.clone();
        let at = bytes.len() * number / 100;
        flipped[at] ^= 1 << (number % 8);
        fs::write(site.path("flipped"), flipped).unwrap();
        let outcome = site.run("teslamate-restore", &["--drill", "flipped"]);
        if outcome.code == Some(0) {
            // Some bits of the format mean nothing: then the text is the same.
            let text = |name: &str| {
                Command::new("zstd")
                    .args(["-dc"])
                    .stdin(fs::File::open(site.path(name)).unwrap())
                    .output()
                    .unwrap()
                    .stdout
            };
            assert_eq!(text("flipped"), text("out/a.sql.zst"), "byte {at}");
            harmless += 1;
            continue;
        }
        assert!(matches!(outcome.code, Some(10 | 14)), "byte {at}: {outcome:?}");
        assert!(!outcome.stderr.contains("loading"), "byte {at} was only found while loading: {}", outcome.stderr);
    }
    assert!(harmless < 10, "{harmless} of 100 flips were not seen");
    assert_eq!(server.databases(&format!("{database}_")), Vec::<String>::new());
}
