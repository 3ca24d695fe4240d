//! Files of the repository, or of a copy, that are missing, cut or changed: the next backup and the next copy go on, and
//! nobody is told that something is whole which is not.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::repository::section;
use crate::support::{Outcome, Server, Site};

/// The files below a directory of the repository, the largest first.
fn files(root: &Path, kind: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![root.join(kind)];
    while let Some(directory) = left.pop() {
        for path in fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path()) {
            if path.is_dir() { left.push(path) } else { found.push(path) }
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    found
}

fn writable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn cut(path: &Path, left: u64) {
    writable(path);
    OpenOptions::new().write(true).open(path).unwrap().set_len(left).unwrap();
}

fn flip(path: &Path, at: usize) {
    writable(path);
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn run(site: &Site, arguments: &[&str]) -> Outcome {
    site.run("teslamate-backup", arguments)
}

/// The content of a backup, restored under another name.
fn restored(server: &Server, site: &Site, id: &str) -> std::collections::BTreeMap<String, String> {
    let copy = server.fresh_name("damage_restored");
    site.run("teslamate-restore", &[id, "--into", &copy]).expect(0);
    server.content(&copy)
}

/// Two backups; what one table held in the first is in no later one.
fn site(hint: &str) -> (&'static Server, Site) {
    let server = Server::shared();
    let database = server.teslamate(hint);
    server.query(&database, "UPDATE cars SET name = 'before'");
    let site = Site::with_repository(server, &database);
    run(&site, &[]).expect(0);
    server.query(&database, "UPDATE cars SET name = 'after'");
    run(&site, &[]).expect(0);
    (server, site)
}

#[test]
fn k2_after_a_pack_is_missing_or_cut_the_next_backup_is_whole() {
    for (hint, damage) in
        [("pack_gone", (|path| fs::remove_file(path).unwrap()) as fn(&Path)), ("pack_cut", |path| cut(path, 1000))]
    {
        let (server, site) = site(hint);
        let old = site.backups();
        damage(&files(&site.repository(), "data")[0]);
        run(&site, &["check"]).expect(14).says("is damaged").says("--full-read");
        let third = run(&site, &["--json"]).expect(0);
        let third = third.says("the repository was damaged").says("stored anew").says(&old[0][..8]).json();
        assert_eq!(third["damaged"], serde_json::json!([old[0]]), "{third}");
        run(&site, &[]).expect(0);
        let now = server.content(&site.database);
        assert_eq!(restored(server, &site, "latest"), now, "{hint}");
        assert_eq!(restored(server, &site, &old[1]), now, "{hint}: the second one is whole again");
        site.run("teslamate-restore", &[&old[0], "--drill"]).expect(14);

        run(&site, &["check", "--read-data"]).expect(14).says(&old[0][..8]);
        run(&site, &["pin", &old[0]]).expect(0);
        let kept = run(&site, &["forget", "--json"]).expect(14);
        kept.says("no space was freed").says(&old[0][..8]).says("teslamate-backup delete");
        run(&site, &["unpin", &old[0]]).expect(0);
        run(&site, &["delete", &old[0], "--yes"]).expect(0);
        run(&site, &["check", "--read-data"]).expect(0);
        run(&site, &["forget"]).expect(0);
        run(&site, &["check", "--read-data"]).expect(0);
        assert_eq!(restored(server, &site, "latest"), now, "{hint}");
    }
}

#[test]
fn k2_packs_that_come_back_make_older_backups_whole_again() {
    let (server, site) = site("pack_back");
    let old = site.backups();
    let before = restored(server, &site, &old[0]);
    let (data, elsewhere) = (site.repository().join("data"), site.path("elsewhere"));
    fs::rename(&data, &elsewhere).unwrap();
    fs::create_dir(&data).unwrap();
    server.query(&site.database, "UPDATE cars SET name = 'last'");
    run(&site, &[]).expect(0).says("the repository was damaged").says(&old[0][..8]).says(&old[1][..8]);
    site.run("teslamate-restore", &[&old[0], "--drill"]).expect(14);
    for path in files(&elsewhere, "") {
        let name = path.strip_prefix(&elsewhere).unwrap();
        fs::create_dir_all(data.join(name).parent().unwrap()).unwrap();
        fs::rename(&path, data.join(name)).unwrap();
    }
    // The policy keeps one of these backups alone.
    let keep_one = "[retention]\nkeep_last = 1\nkeep_hourly = 0\nkeep_daily = 0\nkeep_weekly = 0\n\
                    keep_monthly = 0\nkeep_yearly = 0\n";
    run(&site, &["pin", &old[0]]).expect(0);
    site.configure(&format!("port = {}\n{}{keep_one}", server.port(), section(&site)), "");
    run(&site, &["forget"]).expect(0);
    assert_eq!(site.backups().len(), 2, "the pinned one and the last");
    assert_eq!(restored(server, &site, &old[0]), before);
    assert_eq!(restored(server, &site, "latest"), server.content(&site.database));
    run(&site, &["check", "--read-data"]).expect(0);
}

#[test]
fn k2_a_damaged_backup_pushes_no_complete_one_out() {
    let (server, site) = site("pack_of_last");
    let keep_one = "[retention]\nkeep_last = 1\nkeep_hourly = 0\nkeep_daily = 0\nkeep_weekly = 0\n\
                    keep_monthly = 0\nkeep_yearly = 0\n";
    site.configure(&format!("port = {}\n{}{keep_one}", server.port(), section(&site)), "");
    let before = files(&site.repository(), "data");
    server.query(&site.database, "UPDATE cars SET name = 'last'");
    run(&site, &[]).expect(0);
    let ids = site.backups();
    let mut last = files(&site.repository(), "data");
    last.retain(|path| !before.contains(path));
    fs::remove_file(&last[0]).unwrap();
    let forgot = run(&site, &["forget"]).expect(14).says("no space was freed").says(&ids[2][..8]);
    assert!(forgot.stderr.contains("delete"), "{}", forgot.stderr);
    assert_eq!(site.backups(), ids[1..], "the newest complete one stays beside the newest");
    run(&site, &[]).expect(0);
    run(&site, &["forget"]).expect(0);
    assert_eq!(site.backups().len(), 1);
    run(&site, &["check", "--read-data"]).expect(0);
}

#[test]
fn k2_what_is_left_of_a_cut_pack_is_kept() {
    let (server, site) = site("pack_saved");
    let pack = files(&site.repository(), "data").remove(0);
    // The header is gone; every blob is there.
    cut(&pack, fs::metadata(&pack).unwrap().len() - 10);
    run(&site, &[]).expect(0).says("no backup lacks anything now");
    run(&site, &["check"]).expect(0);
    for id in site.backups() {
        site.run("teslamate-restore", &[&id, "--drill"]).expect(0);
    }
    assert_eq!(restored(server, &site, "latest"), server.content(&site.database));
    run(&site, &["forget"]).expect(0);
}

#[test]
fn k2_an_index_that_is_damaged_or_missing_is_written_anew() {
    for (hint, damage) in
        [("index_flipped", (|path| flip(path, 40)) as fn(&Path)), ("index_gone", |path| fs::remove_file(path).unwrap())]
    {
        let (server, site) = site(hint);
        for path in files(&site.repository(), "index") {
            damage(&path);
        }
        run(&site, &["check"]).expect(14);
        run(&site, &[]).expect(0).says("the repository was damaged").says("no backup lacks anything now");
        run(&site, &["check", "--read-data"]).expect(0);
        for id in site.backups() {
            site.run("teslamate-restore", &[&id, "--drill"]).expect(0);
        }
        assert_eq!(restored(server, &site, "latest"), server.content(&site.database));
        run(&site, &["forget"]).expect(0);
    }
}

#[test]
fn k2_a_damaged_file_of_any_kind_in_a_copy_is_replaced_or_told() {
    let server = Server::shared();
    let site = Site::new(server, &server.teslamate("copy_files"));
    let location = site.path("copy");
    let copies = format!("[[copies]]\nlocation = {location:?}\npassword_file = {:?}\n", site.path("password"));
    site.configure(&format!("port = {}\n{}{copies}", server.port(), section(&site)), "");
    fs::create_dir(&location).unwrap();
    run(&site, &[]).expect(0);
    run(&site, &["copy"]).expect(0);
    let check = || run(&site, &["check", "--copy", "all", "--read-data"]);
    for kind in ["index", "snapshots"] {
        flip(&files(&location, kind)[0], 40);
        let told = check().expect(14).text();
        assert!(told.contains(kind), "{told}");
        run(&site, &["copy"]).expect(0).says("damaged files").says("look at that disk");
        check().expect(0);
    }
    // A field that no program needs.
    let key = files(&location, "keys").remove(0);
    let text = fs::read_to_string(&key).unwrap();
    flip(&key, text.find("created").unwrap());
    let told = check().expect(14).text();
    assert!(told.contains("keys/"), "{told}");
    run(&site, &["copy"]).expect(0);
    check().expect(0);
    let config = fs::read(location.join("config")).unwrap();
    flip(&location.join("config"), 40);
    for refused in [check(), run(&site, &["copy"])] {
        let refused = refused.expect(14).says("config is damaged").says("move this one away");
        assert!(refused.stderr.contains(&location.display().to_string()), "{}", refused.stderr);
        assert!(!refused.stderr.contains("in the repository"), "{}", refused.stderr);
    }
    fs::write(location.join("config"), config).unwrap();
    check().expect(0);
}

/// Two backups in the repository and in a copy; the first one is in the copy alone afterwards.
fn copied(hint: &str) -> (&'static Server, Site, PathBuf) {
    let (server, site) = site(hint);
    let location = site.path("copy");
    let copies = format!("[[copies]]\nlocation = {location:?}\npassword_file = {:?}\n", site.path("password"));
    site.configure(&format!("port = {}\n{}{copies}", server.port(), section(&site)), "");
    fs::create_dir(&location).unwrap();
    run(&site, &["copy"]).expect(0);
    (server, site, location)
}

fn check_copies(site: &Site) -> Outcome {
    run(site, &["check", "--copy", "all", "--read-data"])
}

#[test]
fn k2_a_backup_that_only_a_copy_has_outlives_a_damaged_pack_there() {
    for (hint, damage) in [
        ("only_copy_cut", (|path| cut(path, fs::metadata(path).unwrap().len() - 1)) as fn(&Path)),
        ("only_copy_flip", |path| flip(path, 1000)),
        ("only_copy_gone", |path| fs::remove_file(path).unwrap()),
    ] {
        let (_, site, location) = copied(hint);
        let first = site.backups().remove(0);
        run(&site, &["delete", &first, "--yes"]).expect(0);
        damage(&files(&location, "data")[0]);
        check_copies(&site).expect(14);
        let mended = run(&site, &["copy", "--read-data"]).expect(0).says("1 damaged packs were written anew");
        assert!(mended.stderr.contains("for 2 backups"), "{}", mended.stderr);
        let text = check_copies(&site).expect(0).text();
        assert_eq!(files(&location, "snapshots").len(), 2, "{text}");
    }
}

#[test]
fn k2_a_snapshot_that_only_a_copy_has_is_not_removed_for_being_unreadable() {
    let (_, site, location) = copied("only_snapshot");
    let ids = site.backups();
    run(&site, &["delete", &ids[0], "--yes"]).expect(0);
    for path in files(&location, "snapshots") {
        flip(&path, 40);
    }
    // The other one is copied again. Which of the two that was nobody knows.
    run(&site, &["copy"]).expect(0).says("may be backups that are nowhere else");
    assert_eq!(files(&location, "snapshots").len(), 3);
}

#[test]
fn k2_a_copy_is_left_alone_where_neither_side_has_what_is_damaged() {
    let (_, site, location) = copied("both_damaged");
    let source = files(&site.repository(), "data").remove(0);
    fs::remove_file(source).unwrap();
    flip(&files(&location, "data")[0], 1000);
    let (index, data) = (files(&location, "index"), files(&location, "data"));
    run(&site, &["copy", "--read-data"]).expect(14).says("the repository cannot mend it");
    assert_eq!((files(&location, "index"), files(&location, "data")), (index, data));
}

#[test]
fn k2_a_damaged_backup_does_not_keep_the_others_from_being_copied() {
    let (_, site, location) = copied("copy_others");
    fs::remove_dir_all(&location).unwrap();
    fs::create_dir(&location).unwrap();
    fs::remove_file(&files(&site.repository(), "data")[0]).unwrap();
    run(&site, &[]).expect(0).says("the repository was damaged");
    let copied = run(&site, &["copy"]).expect(14).says("of 3 backups were copied");
    assert!(!copied.stderr.contains("0 of 3"), "{}", copied.stderr);
    check_copies(&site).expect(0);
}

#[test]
fn k2_one_rotten_blob_does_not_take_its_pack_along_when_an_index_is_lost() {
    let (server, site) = site("rotten_unnamed");
    let ids = site.backups();
    let now = server.content(&site.database);
    for path in files(&site.repository(), "index") {
        fs::remove_file(path).unwrap();
    }
    // The first blobs are those of the first tables, which every backup has.
    let pack = files(&site.repository(), "data").remove(0);
    flip(&pack, 40);
    run(&site, &[]).expect(0);
    assert_eq!(restored(server, &site, "latest"), now);
    assert_eq!(restored(server, &site, &ids[1]), now, "the backup stored the rotten part anew");
}
