//! `teslamate-restore` from the repository.

use std::fs;
use std::path::PathBuf;

use crate::support::server::fixture;
use crate::support::{Server, Site};

struct Kept {
    server: &'static Server,
    site: Site,
}

impl Kept {
    /// An installation with one backup.
    fn new(hint: &str) -> Self {
        let server = Server::shared();
        let site = Site::with_repository(server, &server.teslamate(hint));
        site.run("teslamate-backup", &[]).expect(0);
        Self { server, site }
    }

    fn packs(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for directory in fs::read_dir(self.site.repository().join("data")).unwrap().flatten() {
            found.extend(fs::read_dir(directory.path()).unwrap().flatten().map(|entry| entry.path()));
        }
        // The largest is the one with rows.
        found.sort_by_key(|path| fs::metadata(path).unwrap().len());
        found
    }

    fn staging(&self) -> Vec<String> {
        self.server.databases(&format!("{}_restore_", self.site.database))
    }
}

#[test]
fn the_latest_backup_goes_live_and_what_was_live_is_backed_up_first() {
    let kept = Kept::new("back");
    let (server, site) = (kept.server, &kept.site);
    let before = server.content(&site.database);
    let first = site.backups().remove(0);
    server.query(&site.database, "DELETE FROM charges; UPDATE cars SET name = 'gone'");
    let changed = server.content(&site.database);
    let restored = site.run("teslamate-restore", &["latest", "--yes"]).expect(0).text();
    assert_eq!(server.content(&site.database), before, "{restored}");
    assert!(restored.contains(&format!("is now what backup {} of ", &first[..8])), "{restored}");
    let listed = site.run("teslamate-backup", &["list", "--json"]).expect(0).json();
    let safety = &listed["backups"][1];
    assert_eq!(safety["purpose"], "safety");
    let sentence = format!("the live database was backed up as {}", &safety["id"].as_str().unwrap()[..8]);
    assert!(restored.contains(&sentence), "{restored}");
    assert!(listed["backups"][0]["verified_at"].is_string(), "a restore proves a backup: {listed}");

    // `latest` is still the one that was meant; the other can be had by its id.
    let again = site.run("teslamate-restore", &["latest", "--drill", "--json"]).expect(0).json();
    assert_eq!(again["backup"], first.as_str());
    let id = safety["id"].as_str().unwrap();
    let third = site.run("teslamate-restore", &[&id[..12], "--yes", "--no-safety-backup", "--json"]).expect(0).json();
    assert!(third["safety_backup"].is_null() && third["format"] == "backup", "{third}");
    assert_eq!(server.content(&site.database), changed);
    assert_eq!(site.backups().len(), 2);
    site.run("teslamate-restore", &["--undo", "--yes"]).expect(0);
    assert_eq!(server.content(&site.database), before);
    let runs = site.run("teslamate-backup", &["list", "--runs", "--json"]).expect(0).json();
    let kinds: Vec<&str> = runs["runs"].as_array().unwrap().iter().map(|run| run["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["restore", "drill", "backup", "restore", "backup"]);
}

#[test]
fn every_kind_of_object_comes_back() {
    let server = Server::shared();
    let database = server.fresh_name("tortured");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.run_file(&database, &fixture("torture.sql"), &[]);
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    let copy = server.fresh_name("tortured_copy");
    let made = site.run("teslamate-restore", &["latest", "--into", &copy, "--json"]).expect(0).json();
    assert_eq!(server.content(&copy), server.content(&database));
    assert_eq!(made["database"], copy.as_str());
    let (one, other) = (site.path("one.sql"), site.path("other.sql"));
    server.pg_dump(&database, &one, &["--schema-only"]);
    server.pg_dump(&copy, &other, &["--schema-only"]);
    let text = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        text.lines().filter(|line| !line.starts_with('\\')).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(text(&one), text(&other));
}

#[test]
fn a_part_of_a_backup_goes_beside_the_live_database() {
    let kept = Kept::new("part");
    let (server, site) = (kept.server, &kept.site);
    let copy = server.fresh_name("part_copy");
    site.run("teslamate-restore", &["latest", "--into", &copy, "--table", "cars"]).expect(0);
    let count = |table: &str| server.query(&copy, &format!("SELECT count(*) FROM {table}"));
    assert_eq!(count("cars"), server.query(&site.database, "SELECT count(*) FROM cars"));
    assert_eq!(server.query(&copy, "SELECT to_regclass('drives') IS NULL"), "t");
    let qualified = server.fresh_name("part_qualified");
    site.run("teslamate-restore", &["latest", "--into", &qualified, "--table", "public.drives"]).expect(0);
    let drives = "SELECT count(*) FROM drives";
    assert_eq!(server.query(&qualified, drives), server.query(&site.database, drives));
    for place in [&["--drill"][..], &["--into", "never_made"]] {
        site.run("teslamate-restore", &[&["latest", "--table", "carz"], place].concat())
            .expect(10)
            .says("there is no table \"carz\" in it")
            .says("cars");
    }
    let empty = server.fresh_name("part_empty");
    site.run("teslamate-restore", &["latest", "--into", &empty, "--schema-only"]).expect(0);
    assert_eq!(server.query(&empty, "SELECT count(*) FROM positions"), "0");
}

#[test]
fn a_backup_of_another_database_does_not_become_this_one() {
    let kept = Kept::new("mine");
    let (server, site) = (kept.server, &kept.site);
    let other = server.teslamate("theirs");
    server.query(&other, "UPDATE cars SET name = 'theirs'");
    let before = server.content(&other);
    let says = format!("the backup is of database \"{}\", not of \"{other}\"", site.database);
    for how in [&["--yes"][..], &["--yes", "--data-only"]] {
        let refused = [&["latest", "--dbname", &other, "--no-safety-backup"], how].concat();
        site.run("teslamate-restore", &refused).expect(10).says(&says).says("--allow-other");
        assert_eq!(server.content(&other), before);
    }
    let allowed = ["latest", "--dbname", &other, "--no-safety-backup", "--yes", "--data-only", "--allow-other"];
    site.run("teslamate-restore", &allowed).expect(0);
    assert_eq!(server.content(&other), server.content(&site.database));
}

#[test]
fn r41_a_pack_that_is_missing_is_found_before_a_staging_database_exists() {
    let kept = Kept::new("hole");
    let (server, site) = (kept.server, &kept.site);
    let before = server.content(&site.database);
    fs::remove_file(kept.packs().last().unwrap()).unwrap();
    let refused = site.run("teslamate-restore", &["latest", "--yes", "-v"]).expect(14).says("is not whole");
    assert!(!refused.stderr.contains("loading into"), "{}", refused.stderr);
    assert_eq!((server.content(&site.database), kept.staging()), (before, Vec::new()));
}

#[test]
fn r34_a_flipped_bit_never_becomes_a_row() {
    let kept = Kept::new("bit");
    let (server, site) = (kept.server, &kept.site);
    let before = server.content(&site.database);
    for pack in kept.packs() {
        let whole = fs::read(&pack).unwrap();
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        fs::set_permissions(&pack, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(&pack, &flipped).unwrap();
        let outcome = site.run("teslamate-restore", &["latest", "--yes", "--no-safety-backup"]);
        // What lies in the middle of a pack of lists may be a list that only an older backup needs.
        assert_eq!(outcome.code, Some(14), "{}", outcome.stderr);
        assert_eq!((server.content(&site.database), kept.staging()), (before.clone(), Vec::new()));
        site.run("teslamate-backup", &["check", "--read-data"]).expect(14);
        fs::write(&pack, whole).unwrap();
    }
    site.run("teslamate-backup", &["check", "--read-data"]).expect(0);
}

#[test]
fn what_is_not_a_backup_is_told() {
    let kept = Kept::new("none");
    let site = &kept.site;
    site.run("teslamate-restore", &["beef", "--yes"]).expect(10).says("there is no backup beef");
    site.run("teslamate-restore", &["bee", "--yes"]).expect(10).says("cannot open bee");
    fs::write(site.path("latest"), "x").unwrap();
    site.run("teslamate-restore", &["latest", "--yes"]).expect(2).says("may be a backup or the file of that name");
    fs::remove_file(site.path("latest")).unwrap();
    // Without a password there is no backup to be had, but a file can still be restored.
    kept.server.pg_dump(&site.database, &site.path("a.sql"), &[]);
    fs::remove_file(site.path("password")).unwrap();
    site.run("teslamate-restore", &["latest", "--yes"]).expect(2).says("cannot read the password file");
    site.run("teslamate-restore", &["a.sql", "--yes", "--no-safety-backup"]).expect(0);
}

#[test]
fn k13_the_key_is_tried_on_a_token_of_the_backup() {
    let server = Server::shared();
    let site = Site::with_repository(server, &server.teslamate("tokens"));
    let run = |binary: &str, arguments: &[&str], key: &str| {
        let run = site.command(binary).args(arguments).env("ENCRYPTION_KEY", key);
        run.outcome().expect(0)
    };
    // The key that the tokens were encrypted with, and one that was set afterwards, at the time of the backup as well.
    let (right, wrong) = ("glovebox-test-encryption-key", "the new c4nary key");
    let taken = run("teslamate-backup", &[], wrong);
    run("teslamate-backup", &["a.dump"], wrong);
    for arguments in [
        &["latest", "--drill"][..],
        &["a.dump", "--drill"],
        &["latest", "--yes"],
        &["latest", "--data-only", "--table", "private.tokens", "--yes"],
    ] {
        run("teslamate-restore", arguments, right).says("ENCRYPTION_KEY opens the tokens");
        let other = run("teslamate-restore", arguments, wrong);
        let other = other.says("warning: ENCRYPTION_KEY does not open the tokens");
        assert!(!format!("{}{}", other.text(), other.stderr).contains("c4nary"));
    }
    let shown = run("teslamate-backup", &["show", "latest", "--json"], wrong);
    for outcome in [&taken, &shown] {
        assert!(!format!("{}{}", outcome.text(), outcome.stderr).contains("c4nary"));
    }
}

#[test]
fn rows_alone_are_put_back_in_one_transaction_or_not_at_all() {
    let kept = Kept::new("rows");
    let (server, site) = (kept.server, &kept.site);
    let database = &site.database;
    let before = server.content(database);
    // One table that others point at, by a mistake of somebody's.
    server.query(database, "UPDATE cars SET name = 'oops', model = 'oops'; DELETE FROM charges");
    let rows = |arguments: &[&str]| {
        let all: Vec<&str> = ["latest", "--data-only", "--yes"].iter().chain(arguments).copied().collect();
        site.run("teslamate-restore", &all)
    };
    let done = rows(&["--table", "cars", "--table", "public.charges", "--json"]).expect(0).json();
    assert_eq!(server.content(database), before);
    assert!(done["safety_backup"].is_string() && done["foreign_keys"].as_u64() > Some(2), "{done}");

    // A row that came since points at what the backup does not have.
    server.query(database, "INSERT INTO drives (start_date, car_id) VALUES ('2030-01-01', 1)");
    server.query(database, "INSERT INTO positions (date, latitude, longitude, car_id, drive_id) SELECT '2030-01-01', 1, 1, 1, max(id) FROM drives");
    let changed = server.content(database);
    rows(&["--table", "drives"])
        .expect(10)
        .says("1 rows of \"public\".\"positions\" would point at rows of \"public\".\"drives\"");
    assert_eq!(server.content(database), changed);
    rows(&["--no-safety-backup"]).expect(0);
    assert_eq!(server.content(database), before);
    // The next drive gets a number that no drive has.
    server.query(database, "SELECT setval(pg_get_serial_sequence('drives', 'id'), 1)");
    rows(&["--table", "drives", "--table", "positions", "--no-safety-backup"]).expect(0);
    server.query(database, "INSERT INTO drives (start_date, car_id) VALUES ('2030-01-01', 1)");
    server.query(database, "DELETE FROM drives WHERE start_date = '2030-01-01'");
    // Neither does one that nobody has asked for a number yet.
    server.query(database, "SELECT setval(pg_get_serial_sequence('drives', 'id'), max(id), false) FROM drives");
    rows(&["--table", "drives", "--table", "positions", "--no-safety-backup"]).expect(0);
    server.query(database, "INSERT INTO drives (start_date, car_id) VALUES ('2030-01-01', 1)");
    server.query(database, "DELETE FROM drives WHERE start_date = '2030-01-01'");

    let held = server.hold(database, "LOCK TABLE cars IN ROW SHARE MODE");
    rows(&["--table", "cars", "--no-safety-backup"]).expect(11).says("cannot lock the tables").says("is as it was");
    drop(held);
    server.query(database, "ALTER TABLE cars ADD COLUMN later int");
    rows(&["--table", "cars"]).expect(10).says("table \"public\".\"cars\" has other columns now");
    rows(&["--table", "nothing"]).expect(10).says("no rows of a table \"nothing\"");
    site.run("teslamate-restore", &["latest", "--table", "cars", "--yes"]).expect(2).says("--data-only");
    server.query(database, "ALTER TABLE cars DROP COLUMN later");
    assert_eq!(server.content(database), before);
}
