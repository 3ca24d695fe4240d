//! A server of another major version than the client programs: PostgreSQL 17 from the host tree beside the machine's own.

use std::fs;

use crate::support::server::bin_dir;
use crate::support::tree_server::Server17;
use crate::support::{Server, Site};

#[test]
fn two_major_versions_side_by_side() {
    let Some(newer) = Server17::start(&[]) else { return };
    newer.make_teslamate();
    let here = Server::shared();
    assert!(here.major() < 17, "this machine's server is not older than 17: the test proves nothing");

    r05_an_older_pg_dump_is_refused_by_both_versions(&newer);
    r06_the_client_of_the_servers_own_version_is_taken(&newer, here);
    let site = everything_works_with_17(&newer);
    r54_r55_what_17_wrote_is_refused_by_an_older_server(&site, here);
}

fn r05_an_older_pg_dump_is_refused_by_both_versions(newer: &Server17) {
    let site = newer.site(Some(&bin_dir()));
    fs::create_dir(site.path("out")).unwrap();
    for binary in ["teslamate-backup", "teslamate-restore"] {
        let source = site.path("out").join("a.sql");
        if binary == "teslamate-restore" {
            fs::write(&source, "--\n").unwrap();
        }
        let arguments: &[&str] = if binary == "teslamate-restore" { &["--drill"] } else { &[] };
        let outcome = site
            .command(binary)
            .args(arguments)
            .arg(&source)
            .outcome()
            .expect(10)
            .says("cannot read a server of version 17.");
        assert!(outcome.stderr.contains(&format!("pg_dump {}.", Server::shared().major())), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("database.tools"), "{}", outcome.stderr);
    }
    assert_eq!(site.files("out"), ["a.sql"]);
}

fn r06_the_client_of_the_servers_own_version_is_taken(newer: &Server17, here: &'static Server) {
    // Both in PATH, the newer one first.
    let path = format!("{}:{}:/usr/bin:/bin", newer.tools().display(), bin_dir().display());
    let dumped_by = |site: &Site| {
        let text = site.command("teslamate-backup").env("PATH", &path).arg("-").outcome().expect(0).text();
        let line = text.lines().find_map(|line| line.strip_prefix("-- Dumped by pg_dump version ")).unwrap();
        line.split('.').next().unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(dumped_by(&newer.site(None)), 17);
    let database = here.teslamate("sameversion");
    assert_eq!(dumped_by(&Site::new(here, &database)), here.major());
}

fn everything_works_with_17(newer: &Server17) -> Site {
    let site = newer.site(Some(&newer.tools()));
    let count = "SELECT count(*) || ' ' || sum(hashtextextended(t::text, 0)) FROM positions t";
    let before = newer.query("teslamate", count);
    for name in ["a.sql", "a.sql.zst", "a.dump"] {
        site.run("teslamate-backup", &[name]).expect(0);
        newer.query("teslamate", "DELETE FROM charging_processes; DELETE FROM positions");
        site.run("teslamate-restore", &["--yes", name]).expect(0);
        assert_eq!(newer.query("teslamate", count), before, "{name}");
    }
    site.run("teslamate-restore", &["--yes", "--undo"]).expect(0);
    assert_eq!(newer.query("teslamate", "SELECT count(*) FROM positions"), "0");
    site
}

fn r54_r55_what_17_wrote_is_refused_by_an_older_server(from: &Site, here: &'static Server) {
    let database = here.teslamate("older");
    let site = Site::new(here, &database);
    let before = here.content(&database);
    for (name, words) in [("a.dump", "written by a newer pg_dump"), ("a.sql", "the dump is of PostgreSQL 17.")] {
        let outcome =
            site.command("teslamate-restore").arg("--yes").arg(from.path(name)).outcome().expect(10).says(words);
        assert!(outcome.stderr.contains("not touched"), "{}", outcome.stderr);
    }
    assert_eq!(here.content(&database), before);
    assert_eq!(here.databases(&format!("{database}_")), Vec::<String>::new());
    assert_eq!(site.systemctl.calls(), []);
}
