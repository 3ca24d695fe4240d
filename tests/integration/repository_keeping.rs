//! What becomes of backups: forget, delete, key, copy, export, from the command line.

use std::fs;
use std::process::Command;

use crate::support::repository::section;
use crate::support::server::bin_dir;
use crate::support::{Server, Site};

/// An installation that keeps two backups, with so many lines added to its configuration.
fn site_with(hint: &str, more: impl FnOnce(&Site) -> String) -> (&'static Server, Site) {
    let server = Server::shared();
    let site = Site::new(server, &server.teslamate(hint));
    let more = format!(
        "port = {}\n[backup]\nchunk_blocks = 16\n{}[retention]\nkeep_last = 2\nkeep_hourly = 0\nkeep_daily = 0\n\
         keep_weekly = 0\nkeep_monthly = 0\nkeep_yearly = 0\n{}",
        server.port(),
        section(&site),
        more(&site)
    );
    site.configure(&more, "");
    (server, site)
}

fn site(hint: &str) -> (&'static Server, Site) {
    site_with(hint, |_| String::new())
}

#[test]
fn forget_says_why_each_one_stays_and_removes_the_others() {
    let (server, site) = site("forget");
    for round in 0..5 {
        server.query(&site.database, &format!("UPDATE positions SET odometer = {round}"));
        site.run("teslamate-backup", &[]).expect(0);
    }
    let ids = site.backups();
    site.run("teslamate-backup", &["pin", &ids[0]]).expect(0);
    let shown = site.run("teslamate-backup", &["forget", "--dry-run"]).expect(0).text();
    for (number, reason) in [(0, "pinned"), (1, "remove"), (2, "remove"), (3, "last 2"), (4, "the newest one, last 1")]
    {
        let line = shown.lines().find(|line| line.contains(&ids[number][..8])).unwrap();
        assert!(line.contains(reason), "{line}");
    }
    assert!(shown.ends_with("dry run: nothing was removed\n") && site.backups() == ids, "{shown}");

    let done = site.run("teslamate-backup", &["forget", "--json"]).expect(0).json();
    let kept = vec![ids[0].clone(), ids[3].clone(), ids[4].clone()];
    assert_eq!(site.backups(), kept);
    assert_eq!(done["removed"].as_array().unwrap().len(), 2);
    // What nothing needs any more is marked now, and deleted a day later.
    assert_eq!(done["pruned"]["deleted"]["packs"], 0);
    assert!(done["pruned"]["marked"]["packs"].as_u64() > Some(0), "{done}");
    site.run("teslamate-backup", &["check", "--read-data"]).expect(0);
    site.run("teslamate-restore", &[&ids[0], "--drill"]).expect(0);
    site.run("teslamate-restore", &[&ids[1], "--drill"]).expect(10).says("was deleted on");
    site.run("teslamate-backup", &[]).expect(0);
    let restic = site.restic(&["check", "--read-data"]);
    assert!(restic.status.success(), "{}", String::from_utf8_lossy(&restic.stderr));
}

#[test]
fn r20_nothing_is_removed_while_backups_fail_or_the_repository_is_not_what_is_known() {
    let (_, site) = site("frozen");
    for _ in 0..4 {
        site.run("teslamate-backup", &[]).expect(0);
    }
    let ids = site.backups();
    site.command("teslamate-backup").env("DATABASE_PORT", "1").outcome().expect(12);
    site.run("teslamate-backup", &["forget"])
        .expect(10)
        .says("the last backup failed")
        .says(".s.PGSQL.1")
        .says("forget --force");
    // A disk that is full keeps backups from succeeding until something is removed.
    let forced = site.run("teslamate-backup", &["forget", "--force", "--json"]).expect(0).json();
    assert_eq!(forced["removed"].as_array().unwrap().len(), 2, "{forced}");
    let ids = ids[2..].to_vec();
    site.run("teslamate-backup", &[]).expect(0);
    // One that vanished: r31, a list that is short must not make everything look unneeded.
    let snapshot = site.repository().join("snapshots").join(&ids[1]);
    let bytes = fs::read(&snapshot).unwrap();
    fs::remove_file(&snapshot).unwrap();
    site.run("teslamate-backup", &["forget"]).expect(14).says(&ids[1][..8]).says("every backup is as it was");
    fs::write(&snapshot, bytes).unwrap();
    assert_eq!(site.backups().len(), 3);
    site.run("teslamate-backup", &["forget"]).expect(0);
    assert_eq!(site.backups().len(), 2);
}

#[test]
fn a_backup_is_deleted_by_name_and_only_if_it_is_meant() {
    let (_, site) = site("delete_one");
    for _ in 0..3 {
        site.run("teslamate-backup", &[]).expect(0);
    }
    let ids = site.backups();
    site.run("teslamate-backup", &["delete", &ids[0]]).expect(2).says("only deleted with --yes");
    site.run("teslamate-backup", &["pin", &ids[0]]).expect(0);
    site.run("teslamate-backup", &["delete", &ids[0], "--yes"]).expect(10).says("is pinned");
    site.run("teslamate-backup", &["delete", &ids[1], "--yes"]).expect(0);
    assert_eq!(site.backups(), [ids[0].clone(), ids[2].clone()]);
    assert!(!site.repository().join("snapshots").join(&ids[1]).exists());
    // One that vanished can be given up, and all is well again.
    fs::remove_file(site.repository().join("snapshots").join(&ids[2])).unwrap();
    site.run("teslamate-backup", &["list"]).expect(14);
    site.run("teslamate-backup", &["delete", &ids[2], "--yes"]).expect(0);
    assert_eq!(site.backups(), [ids[0].clone()]);
    site.run("teslamate-backup", &[]).expect(0);
}

#[test]
fn keys_are_added_and_removed_and_never_the_one_in_use() {
    let (_, site) = site("keys");
    site.run("teslamate-backup", &["init"]).expect(0);
    fs::write(site.path("second"), "a second password of some length\n").unwrap();
    let second = site.path("second").display().to_string();
    let added =
        site.run("teslamate-backup", &["key", "add", "--new-password-file", &second, "--json"]).expect(0).json();
    let added = added["added"].as_str().unwrap().to_owned();
    site.run("teslamate-backup", &["key", "add", "--new-password-file", &second])
        .expect(10)
        .says("opens the repository already");
    let keys = site.run("teslamate-backup", &["key", "list", "--json"]).expect(0).json();
    let keys = keys["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    let first = keys.iter().find(|key| key["in_use"] == true).unwrap()["id"].as_str().unwrap();
    site.run("teslamate-backup", &["key", "remove", first]).expect(10).says("is the key in use");
    fs::rename(site.path("second"), site.path("password")).unwrap();
    site.run("teslamate-backup", &["key", "remove", &first[..8]]).expect(0);
    site.run("teslamate-backup", &["key", "remove", &added]).expect(10).says("is the last key");
    site.run("teslamate-backup", &[]).expect(0);
}

#[test]
fn copies_get_what_they_lack_and_one_that_fails_does_not_keep_the_other() {
    let copies = |site: &Site| {
        let copy = |name: &str| {
            format!("[[copies]]\nlocation = {:?}\npassword_file = {:?}\n", site.path(name), site.path("password"))
        };
        format!("{}{}", copy("broken"), copy("copy"))
    };
    let (server, site) = site_with("copied", copies);
    for name in ["broken", "copy"] {
        fs::create_dir(site.path(name)).unwrap();
    }
    fs::write(site.path("broken/photo.jpg"), "x").unwrap();
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-backup", &["copy"]).expect(10).says("broken");
    server.query(&site.database, "UPDATE cars SET name = 'later'");
    site.run("teslamate-backup", &[]).expect(0);
    fs::remove_file(site.path("broken/photo.jpg")).unwrap();
    let second = site.run("teslamate-backup", &["copy", "--json"]).expect(0).json();
    let of = |number: usize| {
        (
            second["copies"][number]["copied"].as_array().unwrap().len(),
            second["copies"][number]["present"].as_u64().unwrap(),
        )
    };
    assert_eq!((of(0), of(1)), ((2, 0), (1, 1)), "{second}");
    let again = site.run("teslamate-backup", &["copy", "--json"]).expect(0).json();
    assert_eq!(again["copies"][1]["bytes_added"], 0, "{again}");
    // A disk that is not mounted is missed, and no other one is filled in its place.
    fs::rename(site.path("broken"), site.path("unplugged")).unwrap();
    site.run("teslamate-backup", &["copy"]).expect(10).says("there is no directory").says("may not be mounted");
    assert!(!site.path("broken").exists());

    // The house burned down: a new machine, the copy, the password.
    let new = Site::new(server, &site.database);
    fs::write(new.path("password"), fs::read(site.path("password")).unwrap()).unwrap();
    let repository =
        format!("[repository]\nlocation = {:?}\npassword_file = {:?}\n", site.path("copy"), new.path("password"));
    new.configure(&format!("port = {}\n{repository}", server.port()), "");
    new.run("teslamate-backup", &["rebuild"]).expect(0);
    let restored = server.fresh_name("copied_restored");
    new.run("teslamate-restore", &["latest", "--into", &restored]).expect(0);
    assert_eq!(server.content(&restored), server.content(&site.database));
}

#[test]
fn an_export_is_a_dump_that_psql_and_a_restore_load() {
    let (server, site) = site("exported");
    site.run("teslamate-backup", &[]).expect(0);
    let before = server.content(&site.database);
    let written = site.run("teslamate-backup", &["export", "latest", "out.sql", "--json"]).expect(0).json();
    assert_eq!(written["rows"], 4095);
    site.run("teslamate-backup", &["export", "latest", "out.sql"]).expect(10);
    site.run("teslamate-backup", &["export", "latest", "out.dump"]).expect(2).says("without a server");
    assert!(!site.path("out.dump").exists());
    let copy = server.fresh_name("exported_copy");
    server.query("postgres", &format!("CREATE DATABASE {copy} TEMPLATE template0"));
    let mut psql = Command::new(bin_dir().join("psql"));
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", &copy, "-f"]).arg(site.path("out.sql"));
    psql.arg("-h").arg(server.dir()).args(["-p", &server.port().to_string()]);
    let output = psql.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.content(&copy), before);
    site.run("teslamate-backup", &["export", "latest", "out.sql.zst"]).expect(0);
    site.run("teslamate-restore", &["out.sql.zst", "--yes", "--no-safety-backup"]).expect(0);
    assert_eq!(server.content(&site.database), before);
}

#[test]
fn what_removes_is_alone_and_restic_is_heard() {
    let (_, site) = site("alone");
    site.run("teslamate-backup", &[]).expect(0);
    let held = fs::File::open(site.repository()).unwrap();
    held.lock_shared().unwrap();
    site.run("teslamate-backup", &["forget"]).expect(11).says("is in use").says("holder");
    site.run("teslamate-backup", &["check"]).expect(0);
    held.unlock().unwrap();
    held.lock().unwrap();
    site.run("teslamate-backup", &[]).expect(11).says("is in use");
    site.run("teslamate-restore", &["latest", "--drill"]).expect(11);
    drop(held);
    site.run("teslamate-backup", &[]).expect(0);
    assert_eq!(fs::read_dir(site.repository().join("locks")).map_or(0, Iterator::count), 0, "locks are taken away");
}
