//! `teslamate-backup` with a repository, as a person at the box uses it.

use std::fs;

use crate::support::repository::section;
use crate::support::tree_server::Server17;
use crate::support::{Server, Site};

fn site() -> Site {
    let server = Server::shared();
    Site::with_repository(server, &server.teslamate("kept"))
}

#[test]
fn the_good_day() {
    let site = site();
    let taken = site.run("teslamate-backup", &[]).expect(0).says("making a repository at");
    let text = taken.text();
    assert!(text.contains(&format!("of \"{}\": ", site.database)) && text.contains("reused 0"), "{text}");
    assert!(text.ends_with("everything was read: it is the first backup\n"), "{text}");
    let ids = site.backups();
    assert_eq!(ids.len(), 1);
    assert!(text.starts_with(&format!("backup {} of ", &ids[0][..8])), "{text}");

    let listed = site.run("teslamate-backup", &["list"]).expect(0).text();
    assert!(listed.contains(&ids[0][..8]) && listed.contains("20260808090000"), "{listed}");
    let shown = site.run("teslamate-backup", &["show", &ids[0][..4]]).expect(0).text();
    assert!(shown.contains("public.positions") && shown.contains("it is the first backup"), "{shown}");
    let whole = site.run("teslamate-backup", &["show", "latest", "--json"]).expect(0).json();
    assert_eq!(whole["manifest"]["format"], 1);
    assert_eq!(whole["backup"]["id"], ids[0].as_str());

    let checked = site.run("teslamate-backup", &["check"]).expect(0).text();
    assert!(checked.contains("1 backups are whole: the structure was looked at"), "{checked}");
    assert!(site.run("teslamate-backup", &["list", "--json"]).expect(0).json()["backups"][0]["verified_at"].is_null());
    site.run("teslamate-backup", &["check", "--read-data"]).expect(0);
    let listed = site.run("teslamate-backup", &["list", "--json"]).expect(0).json();
    assert!(listed["backups"][0]["verified_at"].is_string(), "{listed}");

    let again = site.run("teslamate-backup", &["--json", "--comment", "before I try something"]).expect(0).json();
    assert!(again["read_all"].as_str().unwrap().contains("PostgreSQL 17"), "{again}");
    assert!(again["bytes_added"].as_u64().unwrap() < 100_000, "unchanged rows are stored once: {again}");
    assert_eq!(site.backups().len(), 2);
    let runs = site.run("teslamate-backup", &["list", "--runs", "--json"]).expect(0).json();
    let kinds: Vec<&str> = runs["runs"].as_array().unwrap().iter().map(|run| run["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["backup", "check", "check", "backup"]);
    assert!(runs["runs"].as_array().unwrap().iter().all(|run| run["status"] == "succeeded"), "{runs}");
    let seen = site.restic(&["snapshots", "--json"]);
    assert!(seen.status.success());
    assert!(String::from_utf8_lossy(&seen.stdout).contains(again["snapshot"].as_str().unwrap()));
}

#[test]
fn the_second_backup_reads_what_changed() {
    let Some(server) = Server17::start(&["autovacuum=off", "summarize_wal=on"]) else { return };
    server.make_teslamate();
    let tools = server.tools();
    let site = server.site(Some(&tools));
    let config = fs::read_to_string(site.config()).unwrap();
    site.write_config(&format!("{config}[backup]\nchunk_blocks = 16\n{}", section(&site)));
    site.run("teslamate-backup", &[]).expect(0);
    server.query("teslamate", "UPDATE cars SET name = 'Zoë' WHERE id = 1");
    let second = site.run("teslamate-backup", &["--json"]).expect(0).json();
    assert!(second["read_all"].is_null(), "{second}");
    assert!(second["chunks_reused"].as_u64() > second["chunks_read"].as_u64(), "{second}");
    let audit = site.run("teslamate-backup", &["--json", "--full-read"]).expect(0).json();
    assert_eq!((&audit["read_all"], &audit["chunks_reused"]), (&"--full-read".into(), &0.into()));
    // The last read everything by request; the next goes on from it.
    let fourth = site.run("teslamate-backup", &["--json"]).expect(0).json();
    assert!(fourth["chunks_reused"].as_u64() > Some(0) && fourth["read_all"].is_null(), "{fourth}");
}

#[test]
fn r30_a_repository_that_is_gone_is_missed_by_its_id_and_none_is_made_in_its_place() {
    let site = site();
    site.run("teslamate-backup", &[]).expect(0);
    let moved = site.path("elsewhere");
    fs::rename(site.repository(), &moved).unwrap();
    for present in [false, true] {
        if present {
            fs::create_dir(site.repository()).unwrap();
        }
        site.run("teslamate-backup", &[]).expect(10).says("expected repository ").says(", found none");
        site.run("teslamate-backup", &["init"]).expect(10).says("expected repository ");
        let left = site.repository().exists().then(|| fs::read_dir(site.repository()).unwrap().count());
        assert_eq!(left, present.then_some(0), "nothing is made");
    }
    fs::remove_dir(site.repository()).unwrap();
    // Another repository in its place is told by both ids.
    let other = self::site();
    other.run("teslamate-backup", &["init"]).expect(0);
    fs::rename(other.repository(), site.repository()).unwrap();
    site.run("teslamate-backup", &[]).expect(10).says("expected repository ");
    fs::remove_dir_all(site.repository()).unwrap();
    fs::rename(moved, site.repository()).unwrap();
    site.run("teslamate-backup", &[]).expect(0);
    assert_eq!(site.backups().len(), 2);
}

#[test]
fn a_wrong_password_a_foreign_directory_and_a_slip_of_the_finger_are_told_apart() {
    let site = site();
    site.run("teslamate-backup", &["init"]).expect(0);
    site.run("teslamate-backup", &["init"]).expect(0);
    fs::write(site.path("password"), "another password of some length\n").unwrap();
    let refused = site.run("teslamate-backup", &[]).expect(10).says("wrong password: it opens no key");
    assert!(!refused.stderr.contains("another password"), "{}", refused.stderr);
    fs::write(site.path("password"), "\n").unwrap();
    site.run("teslamate-backup", &[]).expect(10).says("is empty");
    fs::remove_file(site.path("password")).unwrap();
    site.run("teslamate-backup", &[]).expect(2).says("cannot read the password file");
    site.run("teslamate-backup", &["lst"]).expect(2).says("did you mean `list`?");
    assert!(!site.path("lst").exists());
    // What is listed needs no password.
    site.run("teslamate-backup", &["list"]).expect(0);

    let foreign = self::site();
    fs::create_dir(foreign.repository()).unwrap();
    fs::write(foreign.repository().join("photo.jpg"), "x").unwrap();
    foreign.run("teslamate-backup", &[]).expect(10).says("it has no file `config`");
    foreign.run("teslamate-backup", &["init"]).expect(10);
    assert_eq!(foreign.files("repository"), ["photo.jpg"]);

    let none = Site::new(Server::shared(), &site.database);
    none.run("teslamate-backup", &[]).expect(2).says("no repository is configured");
    none.run("teslamate-backup", &["--schema-only"]).expect(2);
}

#[test]
fn r36_a_backup_that_vanished_from_the_repository_is_missed_by_name() {
    let site = site();
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-backup", &[]).expect(0);
    let ids = site.backups();
    fs::remove_file(site.repository().join("snapshots").join(&ids[0])).unwrap();
    let listed = site.run("teslamate-backup", &["list"]).expect(14).says(&ids[0]);
    assert!(listed.text().contains("MISSING"), "{}", listed.text());
    site.run("teslamate-backup", &["check"]).expect(14).says(&ids[0][..8]);
    // The next one is taken all the same, and the run says what is wrong.
    site.run("teslamate-backup", &[]).expect(14).says("is missing from the repository").says("was taken and is whole");
    let listed = site.run("teslamate-backup", &["list", "--json"]).expect(14).json();
    assert_eq!(listed["backups"].as_array().unwrap().len(), 3);
    assert_eq!(listed["missing"][0], ids[0].as_str());
}

#[test]
fn checks_of_a_part_take_turns_until_every_pack_was_read() {
    let server = Server::shared();
    let site = Site::with_repository(server, &server.teslamate("parts"));
    for round in 0..4 {
        server.query(&site.database, &format!("UPDATE positions SET odometer = odometer + 1 WHERE id % 4 = {round}"));
        site.run("teslamate-backup", &[]).expect(0);
    }
    let check = |arguments: &[&str]| site.command("teslamate-backup").arg("check").args(arguments).outcome();
    let read = |arguments: &[&str]| check(&[arguments, &["--json"]].concat()).expect(0).json()["bytes_read"].as_u64();
    let all = read(&["--read-data"]).unwrap();
    let parts: Vec<u64> = (0..2).map(|_| read(&["--read-part", "2"]).unwrap()).collect();
    assert!(parts.iter().all(|part| (1..all).contains(part)), "{parts:?} of {all}");
    assert!(parts.iter().sum::<u64>() >= all, "{parts:?} of {all}");
    // So whatever is damaged is found by one of them, and told by every one after it.
    let packs = site.files("repository/data").into_iter().flat_map(|shelf| {
        let shelf = format!("repository/data/{shelf}");
        site.files(&shelf).into_iter().map(move |pack| format!("{shelf}/{pack}"))
    });
    let pack = site.path(&packs.max_by_key(|pack| fs::metadata(site.path(pack)).unwrap().len()).unwrap());
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let codes: Vec<Option<i32>> = (0..2).map(|_| check(&["--read-part", "2"]).code).collect();
    assert_eq!(codes[1], Some(14), "{codes:?}");
    check(&["--read-part", "0"]).expect(2);
    check(&["--read-part", "2", "--read-data"]).expect(2);
}

#[test]
fn a_ledger_that_was_lost_is_filled_from_the_repository() {
    let site = site();
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-backup", &["--comment", "the second"]).expect(0);
    let before = site.run("teslamate-backup", &["list", "--json"]).expect(0).json();
    fs::remove_file(site.state_dir().join("ledger.sqlite")).unwrap();
    site.run("teslamate-backup", &[]).expect(10).says("holds backups that the ledger does not know").says("rebuild");
    site.run("teslamate-backup", &["rebuild"]).expect(0);
    let after = site.run("teslamate-backup", &["list", "--json"]).expect(0).json();
    for (one, other) in before["backups"].as_array().unwrap().iter().zip(after["backups"].as_array().unwrap()) {
        for field in ["sequence", "id", "rows", "manifest_sha256", "purpose", "schema_version", "comment"] {
            assert_eq!(one[field], other[field], "{field}");
        }
    }
    site.run("teslamate-backup", &["rebuild"]).expect(10).says("cannot be rebuilt");
    site.run("teslamate-backup", &[]).expect(0);
}

#[test]
fn pins_are_kept_and_a_failed_run_is_noted_with_its_reason() {
    let site = site();
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-backup", &["pin", "latest"]).expect(0);
    assert!(site.run("teslamate-backup", &["list"]).expect(0).text().contains("pinned"));
    site.run("teslamate-backup", &["unpin", "latest"]).expect(0);
    assert!(!site.run("teslamate-backup", &["list"]).expect(0).text().contains("pinned"));
    site.run("teslamate-backup", &["pin", "beef"]).expect(10).says("there is no backup beef");
    site.command("teslamate-backup").env("DATABASE_PORT", "1").outcome().expect(12);
    let runs = site.run("teslamate-backup", &["list", "--runs", "--json"]).expect(0).json();
    assert_eq!(runs["runs"][0]["status"], "failed");
    assert!(runs["runs"][0]["error"].as_str().unwrap().contains(".s.PGSQL.1"), "{runs}");
    assert!(runs["runs"][0]["finished"].is_string());
    assert_eq!(site.backups().len(), 1);
}

#[test]
fn extra_files_are_kept_with_mode_and_owner_and_one_that_cannot_be_read_fails_the_backup() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let server = Server::shared();
    let site = Site::new(server, &server.teslamate("extra"));
    fs::create_dir_all(site.path("conf/deep")).unwrap();
    fs::write(site.path("conf/grafana.ini"), "[server]\n").unwrap();
    fs::write(site.path("conf/deep/more"), "").unwrap();
    fs::set_permissions(site.path("conf/grafana.ini"), fs::Permissions::from_mode(0o640)).unwrap();
    let configure = |files: &[&str]| {
        let files: Vec<String> = files.iter().map(|name| format!("{:?}", site.path(name))).collect();
        let backup = format!("[backup]\nextra_files = [{}]\n", files.join(", "));
        site.configure(&format!("port = {}\n{backup}{}", server.port(), section(&site)), "");
    };
    configure(&["conf", "absent"]);
    let failed = site.run("teslamate-backup", &[]).expect(10).says("not all of `backup.extra_files` can be read");
    assert!(failed.stderr.contains(&format!("{}: ", site.path("absent").display())), "{}", failed.stderr);
    assert!(site.backups().is_empty());
    configure(&["conf"]);
    site.run("teslamate-backup", &[]).expect(0);
    let shown = site.run("teslamate-backup", &["show", "latest"]).expect(0).text();
    assert!(shown.contains("conf/grafana.ini (0640, "), "{shown}");
    let target = site.path("restored");
    let output = site.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    assert!(output.status.success());
    let inside = |name: &str| target.join("files").join(site.path(name).strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(inside("conf/grafana.ini")).unwrap(), "[server]\n");
    assert_eq!(fs::read(inside("conf/deep/more")).unwrap(), b"");
    let (there, here) =
        (fs::metadata(inside("conf/grafana.ini")).unwrap(), fs::metadata(site.path("conf/grafana.ini")).unwrap());
    assert_eq!((there.mode() & 0o7777, there.uid(), there.mtime()), (0o640, here.uid(), here.mtime()));
}

/// The peak of a run's own memory, in kB.
fn peak(child: std::process::Child) -> u64 {
    let mut most = 0;
    let pid = child.id();
    crate::support::probe::eventually(180, "it ends", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        most = most.max(line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0));
        line.is_none()
    });
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    most
}

/// Rows of 50 MB that do not compress, and a table that is many times larger than the limit of memory in it.
#[test]
fn memory_stays_bounded_with_large_rows_and_large_tables() {
    let server = Server::shared();
    let database = server.fresh_name("heavy");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.query(
        &database,
        "CREATE TABLE wide (i int, b bytea); ALTER TABLE wide ALTER b SET STORAGE EXTERNAL; \
         CREATE FUNCTION noise(n int) RETURNS bytea LANGUAGE sql AS \
         $$ SELECT decode(string_agg(md5(i::text || n), ''), 'hex') FROM generate_series(1, 3276800) i $$; \
         INSERT INTO wide SELECT n, noise(n) FROM generate_series(1, 4) n; \
         CREATE TABLE long AS SELECT i, md5(i::text) AS t, repeat(md5((-i)::text), 9) AS u FROM generate_series(1, 400000) i",
    );
    let site = Site::with_repository(server, &database);
    let taking = peak(site.command("teslamate-backup").spawn());
    let copy = server.fresh_name("heavy_copy");
    let restoring = peak(site.command("teslamate-restore").args(&["latest", "--into", &copy]).spawn());
    println!("backup {} MB, restore {} MB at most", taking / 1024, restoring / 1024);
    assert!((1..200 * 1024).contains(&taking), "{taking} kB");
    assert!((1..200 * 1024).contains(&restoring), "{restoring} kB");
    let hash = "SELECT md5(string_agg(md5(b) || i, ',' ORDER BY i)) FROM wide";
    assert_eq!(server.query(&copy, hash), server.query(&database, hash));
    for name in [database, copy] {
        server.query("postgres", &format!("DROP DATABASE {name}"));
    }
}

#[test]
fn r94_another_databases_backups_are_neither_taken_into_the_repository_nor_restored() {
    let server = Server::shared();
    let site = Site::with_repository(server, &server.teslamate("mine"));
    site.run("teslamate-backup", &[]).expect(0);
    let other = server.teslamate("yours");
    site.run("teslamate-backup", &["--dbname", &other])
        .expect(10)
        .says("holds the backups of database \"mine")
        .says(&format!("ALTER DATABASE \"{other}\" RENAME TO \"{}\"", site.database));
    let before = server.content(&other);
    site.run("teslamate-restore", &["latest", "--yes", "--dbname", &other])
        .expect(10)
        .says("the backup is of database");
    assert_eq!(server.content(&other), before);
    let copy = server.fresh_name("mine_beside");
    site.run("teslamate-restore", &["latest", "--into", &copy, "--dbname", &other]).expect(0);
}

/// The disk with the repository died; there is a copy, or there is nothing.
#[test]
fn a_machine_goes_on_with_another_repository() {
    let server = Server::shared();
    let site = Site::with_repository(server, &server.teslamate("moved"));
    site.run("teslamate-backup", &[]).expect(0);
    fs::remove_dir_all(site.repository()).unwrap();
    site.run("teslamate-backup", &["init"]).expect(10).says("--new-ledger");
    site.run("teslamate-backup", &["init", "--new-ledger"]).expect(0).says("the ledger that was there is");
    site.run("teslamate-backup", &[]).expect(0);
    fs::remove_file(site.state_dir().join("ledger.sqlite")).unwrap();
    site.run("teslamate-backup", &["list"]).expect(10).says("rebuild");
    site.run("teslamate-backup", &["check"]).expect(10).says("rebuild");
    site.run("teslamate-backup", &["rebuild"]).expect(0);
    // A backup that the ledger does not know keeps anything from being removed, until it is given up.
    let output = site.restic(&["backup", "--quiet", "--tag", "glovebox", site.config().to_str().unwrap()]);
    assert!(output.status.success());
    site.run("teslamate-backup", &[]).expect(0).says("is not in the ledger");
    let refused = site.run("teslamate-backup", &["forget"]).expect(10).says("which the ledger does not know");
    let words = refused.stderr.split("holds backup ").nth(1).unwrap();
    site.run("teslamate-backup", &["delete", &words[..8], "--yes"]).expect(0);
    site.run("teslamate-backup", &["forget"]).expect(0);
}
