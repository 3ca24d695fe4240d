//! Repository, ledger and cluster that do not belong to the same history: one was set back, or came from elsewhere.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::repository::{PASSWORD, section};
use crate::support::server::Options;
use crate::support::{Server, Site};

/// An installation that keeps the last backup alone.
fn site(hint: &str) -> (&'static Server, Site) {
    let server = Server::shared();
    let site = Site::new(server, &server.teslamate(hint));
    configure(server, &site, &section(&site));
    (server, site)
}

const KEEP_ONE: &str = "[retention]\nkeep_last = 1\nkeep_hourly = 0\nkeep_daily = 0\nkeep_weekly = 0\nkeep_monthly = 0\n\
                        keep_yearly = 0\n";

fn configure(server: &Server, site: &Site, repository: &str) {
    let more = format!("port = {}\n[backup]\nchunk_blocks = 16\n{repository}{KEEP_ONE}", server.port());
    site.configure(&more, "");
}

fn backups(site: &Site, count: usize) -> Vec<String> {
    for _ in 0..count {
        site.run("teslamate-backup", &[]).expect(0);
    }
    site.backups()
}

/// Snapshot files in the repository.
fn stored(site: &Site) -> Vec<String> {
    let mut names = site.files("repository/snapshots");
    names.sort();
    names
}

fn sorted(ids: &[&[String]]) -> Vec<String> {
    let mut ids = ids.concat();
    ids.sort();
    ids
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

#[test]
fn k2_an_older_state_of_the_repository_loses_nothing_of_it() {
    let (_, site) = site("older_repository");
    let old = backups(&site, 3);
    copy(&site.repository(), &site.path("yesterday"));
    site.run("teslamate-backup", &["forget"]).expect(0);
    let new = backups(&site, 2)[1..].to_vec();
    assert_eq!(new.len(), 2);
    site.run("teslamate-backup", &["forget"]).expect(0);
    assert_eq!(site.backups(), new[1..]);

    // The disk was changed, and yesterday's copy put in.
    copy(&site.path("yesterday"), &site.repository());
    site.run("teslamate-backup", &["list"]).expect(14).says("which were deleted, are in the repository again");
    site.run("teslamate-backup", &["check"]).expect(14).says("are in the repository again");
    site.run("teslamate-restore", &["latest", "--drill"]).expect(14).says("is missing");
    site.run("teslamate-backup", &["forget"]).expect(14).says("every backup is as it was");
    assert_eq!(stored(&site), sorted(&[&old]), "nothing is removed");
    let taken = site.run("teslamate-backup", &["--json"]).expect(14).says("is missing from the repository").json();
    assert_eq!(taken["read_all"], "the last backup is missing");
    let taken = taken["snapshot"].as_str().unwrap().to_owned();
    // Nobody agrees to something that is refused.
    site.run("teslamate-backup", &["forget", "--accept"]).expect(14).says("is missing from the repository");
    assert_eq!(stored(&site), sorted(&[&old, std::slice::from_ref(&taken)]), "and the new one is there");
    // They are known again, in their old places.
    let listed = site.run("teslamate-backup", &["list", "--json"]).expect(14).json();
    let ids: Vec<&str> = listed["backups"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&old[..], &new[1..], std::slice::from_ref(&taken)].concat());
    site.run("teslamate-restore", &[&old[2], "--drill"]).expect(0);
    // Not even deleting missing backups makes retention act; somebody has to agree.
    site.run("teslamate-backup", &["delete", &new[1], "--yes"]).expect(0);
    site.run("teslamate-backup", &["forget"]).expect(10).says("had different histories").says("forget --accept");
    assert_eq!(stored(&site), sorted(&[&old, std::slice::from_ref(&taken)]));
    site.run("teslamate-backup", &["forget", "--accept"]).expect(0);
    assert_eq!(site.backups(), [old[2].clone(), taken], "the one that a drill verified, and the newest");
    site.run("teslamate-backup", &["check", "--read-data"]).expect(0);
}

#[test]
fn k2_backups_that_were_deleted_and_put_back_are_backups_again() {
    let (_, site) = site("put_back");
    let ids = backups(&site, 2);
    copy(&site.repository(), &site.path("before"));
    site.run("teslamate-backup", &["delete", &ids[0], "--yes"]).expect(0);
    copy(&site.path("before"), &site.repository());
    // Nothing is missing: whoever finds it first is the run that would remove something.
    site.run("teslamate-backup", &["forget"]).expect(10).says(&ids[0][..8]).says("had different histories");
    assert_eq!(site.backups(), ids);
    site.run("teslamate-backup", &["forget", "--dry-run"]).expect(0).says("nothing would be removed");
    site.run("teslamate-backup", &["pin", &ids[0]]).expect(0);
    backups(&site, 1);
    site.run("teslamate-backup", &["forget", "--accept"]).expect(0);
    assert_eq!((site.backups().len(), &site.backups()[0]), (2, &ids[0]), "the pinned one and the newest");
}

#[test]
fn k2_a_deletion_that_was_killed_is_finished_and_nothing_else() {
    let (_, site) = site("killed_deletion");
    let ids = backups(&site, 3);
    let snapshot = site.repository().join("snapshots").join(&ids[0]);
    let bytes = fs::read(&snapshot).unwrap();
    site.run("teslamate-backup", &["delete", &ids[0], "--yes"]).expect(0);
    // What a run leaves that is killed after it noted the deletion.
    fs::write(&snapshot, bytes).unwrap();
    sql(&site, "UPDATE snapshots SET removing = 1 WHERE deleted_at IS NOT NULL");
    // While another one is missed, it may as well be an older state of the repository.
    let other = site.repository().join("snapshots").join(&ids[1]);
    let bytes = fs::read(&other).unwrap();
    fs::remove_file(&other).unwrap();
    site.run("teslamate-backup", &["forget"]).expect(14);
    assert!(snapshot.exists());
    fs::write(&other, bytes).unwrap();
    sql(&site, "DELETE FROM hold");
    sql(
        &site,
        &format!("UPDATE snapshots SET deleted_at = '2026-11-21T07:15:00.000Z', removing = 1 WHERE id = '{}'", ids[0]),
    );
    site.run("teslamate-backup", &[]).expect(0).says("which was deleted");
    assert!(!snapshot.exists());
    site.run("teslamate-backup", &["forget"]).expect(0);
}

/// Changes the ledger as no command does.
fn sql(site: &Site, statement: &str) {
    let ledger = rusqlite::Connection::open(site.state_dir().join("ledger.sqlite")).unwrap();
    ledger.execute(statement, []).unwrap();
}

#[test]
fn k2_an_older_ledger_takes_in_what_it_lacks_and_removes_nothing() {
    let (server, site) = site("older_ledger");
    let old = backups(&site, 2);
    let (ledger, aside) = (site.state_dir().join("ledger.sqlite"), site.path("ledger.old"));
    fs::copy(&ledger, &aside).unwrap();
    server.query(&site.database, "UPDATE cars SET name = 'since'");
    let all = backups(&site, 2);
    for id in [&old[0], &all[2]] {
        site.run("teslamate-backup", &["pin", id]).expect(0);
    }
    let newer = fs::read(&ledger).unwrap();
    let set_back = || fs::copy(&aside, &ledger).unwrap();

    // The first to come is the one that removes: it does not.
    set_back();
    let refused = site.run("teslamate-backup", &["forget"]).expect(10).says("had different histories");
    assert!(refused.stderr.contains(&all[3][..8]) && refused.stderr.contains("forget --accept"), "{}", refused.stderr);
    assert_eq!((site.backups(), stored(&site)), (all.clone(), sorted(&[&all])), "they are known, in their order");
    site.run("teslamate-backup", &["forget"]).expect(10);
    site.run("teslamate-backup", &["list"]).expect(0).says("nothing is removed since");

    // The first to come is a restore: what the ledger calls the latest is not.
    set_back();
    site.run("teslamate-restore", &["latest", "--yes"])
        .expect(10)
        .says("a newer backup than the latest")
        .says("rebuild");
    site.run("teslamate-backup", &["check"]).expect(0).says("is not in the ledger");
    site.run("teslamate-backup", &["list"]).expect(0).says("2 snapshots that the ledger does not know");
    let shown = site.run("teslamate-backup", &["show", "latest"]).expect(0).says("a newer backup than the latest");
    assert!(shown.stderr.contains(&all[3][..8]), "{}", shown.stderr);
    site.run("teslamate-restore", &[&old[1], "--drill"]).expect(0);

    // The first to come is a backup.
    set_back();
    site.run("teslamate-backup", &[]).expect(0).says("as if the ledger was set back");
    assert_eq!(site.backups()[..4], all);
    site.run("teslamate-backup", &["forget"]).expect(10);
    site.run("teslamate-restore", &["latest", "--drill"]).expect(0);

    // A new ledger is an agreement too; what the one before knew is kept.
    fs::write(&ledger, newer).unwrap();
    site.run("teslamate-backup", &["rebuild", "--new-ledger"]).expect(0).says("the ledger that was there");
    let listed = site.run("teslamate-backup", &["list", "--json"]).expect(0).json();
    let pinned = |one: &&serde_json::Value| one["pinned"] == true;
    assert_eq!(listed["backups"].as_array().unwrap().iter().filter(pinned).count(), 2, "{listed}");
    site.run("teslamate-backup", &["forget"]).expect(0);
    assert_eq!(site.backups()[..2], [old[0].clone(), all[2].clone()]);
}

/// The state directory is gone and the repository is there: not a new machine.
#[test]
fn k2_without_its_ledger_nothing_is_removed_and_lost_pins_are_told() {
    let (_, site) = site("no_state");
    let all = backups(&site, 3);
    site.run("teslamate-backup", &["pin", &all[0]]).expect(0);
    for arguments in [&[] as &[&str], &["forget"], &["delete", &all[0], "--yes"]] {
        fs::remove_dir_all(site.state_dir()).unwrap();
        site.run("teslamate-backup", arguments).expect(10).says("rebuild");
        assert_eq!(stored(&site), sorted(&[&all]), "{arguments:?}");
    }
    site.run("teslamate-backup", &["list"]).expect(10).says("rebuild");
    site.run("teslamate-restore", &["latest", "--yes"]).expect(10).says("rebuild");
    let rebuilt = site.run("teslamate-backup", &["rebuild"]).expect(0).says("pins are not known any more");
    assert!(rebuilt.stderr.contains("teslamate-backup pin"), "{}", rebuilt.stderr);
    site.run("teslamate-backup", &["pin", &all[0]]).expect(0);
    site.run("teslamate-backup", &["forget"]).expect(0);
    assert_eq!(site.backups(), [all[0].clone(), all[2].clone()]);
}

/// A machine of its own, with a cluster of its own, and the repository of another one.
fn other_machine(of: &Site) -> (Server, Site) {
    let server = Server::start(Options::default());
    server.create_teslamate(&of.database, 500);
    let site = Site::new(&server, &of.database);
    fs::write(site.path("password"), format!("{PASSWORD}\n")).unwrap();
    let location = of.repository().display().to_string();
    let repository = format!("[repository]\nlocation = {location:?}\npassword_file = {:?}\n", site.path("password"));
    configure(&server, &site, &repository);
    (server, site)
}

#[test]
fn k2_two_clusters_in_one_repository_are_kept_apart() {
    let (server, ours) = site("two_clusters");
    let (other_server, theirs) = other_machine(&ours);
    backups(&ours, 2);
    theirs.run("teslamate-backup", &[]).expect(10).says("rebuild");
    theirs.run("teslamate-backup", &["rebuild"]).expect(0);
    other_server.query(&theirs.database, "UPDATE cars SET name = 'theirs'");
    theirs.run("teslamate-backup", &[]).expect(0);
    let foreign = theirs.backups().pop().unwrap();

    // Theirs is not taken in by itself, nor does it become the latest.
    ours.run("teslamate-backup", &[]).expect(0).says(&format!("{} is not in the ledger", &foreign[..8]));
    ours.run("teslamate-backup", &["forget"]).expect(10).says("which the ledger does not know");
    ours.run("teslamate-restore", &["latest", "--yes", "--no-safety-backup"]).expect(0);
    theirs.run("teslamate-backup", &[]).expect(0);
    let rebuilt = ours.run("teslamate-backup", &["rebuild", "--new-ledger"]).expect(0).text();
    assert!(rebuilt.contains("3 of host ") && rebuilt.contains("2 of host "), "{rebuilt}");
    let listed = ours.run("teslamate-backup", &["list"]).expect(0).text();
    assert!(listed.lines().next().unwrap().contains("cluster"), "{listed}");

    let before = server.content(&ours.database);
    ours.run("teslamate-restore", &["latest", "--yes", "--no-safety-backup"]).expect(0);
    assert_eq!(server.content(&ours.database), before, "the latest of this cluster, though theirs is newer");
    for more in [&["--yes"][..], &["--yes", "--data-only"]] {
        let refused = ours.run("teslamate-restore", &[&[&*foreign][..], more].concat()).expect(10);
        let refused = refused.says("is of another cluster").says("host ").says("--allow-other");
        assert!(refused.stderr.contains("was not touched"), "{}", refused.stderr);
    }
    assert_eq!(server.content(&ours.database), before);
    ours.run("teslamate-restore", &[&foreign, "--drill"]).expect(0);

    // Each cluster's backups are a history of their own: the newest stays of each, and the newest verified.
    ours.run("teslamate-backup", &[]).expect(0);
    ours.run("teslamate-backup", &["forget"]).expect(0);
    let left = ours.run("teslamate-backup", &["list", "--json"]).expect(0).json();
    let left = left["backups"].as_array().unwrap();
    let (of_foreign, of_ours): (Vec<_>, Vec<_>) = left.iter().partition(|one| one["cluster"] != left[3]["cluster"]);
    assert_eq!((left.len(), of_foreign.len(), of_ours.len()), (4, 2, 2), "{left:?}");
    let theirs_newest = of_foreign[1]["id"].as_str().unwrap();
    assert_ne!(theirs_newest, foreign, "the older of the two that stayed is the verified one");
    // What was asked for is done.
    ours.run("teslamate-restore", &[theirs_newest, "--yes", "--no-safety-backup", "--allow-other"])
        .expect(0)
        .says("comes from another cluster");
    assert_eq!(server.query(&ours.database, "SELECT DISTINCT name FROM cars"), "theirs");
}

/// The disk died: a new machine, a new cluster, the repository and its password.
#[test]
fn k2_a_new_cluster_restores_the_backups_of_the_old_one() {
    let (server, site) = site("new_cluster");
    backups(&site, 2);
    let content = server.content(&site.database);
    let (new_server, new) = other_machine(&site);
    new_server.query("postgres", &format!("DROP DATABASE {}", new.database));
    new.run("teslamate-backup", &["rebuild"]).expect(0);
    new.run("teslamate-restore", &["latest", "--yes"]).expect(0).says("comes from another cluster");
    assert_eq!(new_server.content(&new.database), content);
    // It goes on there, all of it read; what was there is restored again, with a database there too.
    new.run("teslamate-restore", &["latest", "--yes"]).expect(0).says("comes from another cluster");
    let first = new.run("teslamate-backup", &["--json"]).expect(0).json();
    assert!(first["read_all"].is_string(), "{first}");
    let second = new.run("teslamate-backup", &["--json"]).expect(0).json();
    assert_eq!(
        new.run("teslamate-restore", &["latest", "--drill", "--json"]).expect(0).json()["backup"],
        second["snapshot"]
    );
}

/// Flips a bit of the largest pack below this directory.
fn flip(root: &Path) {
    let shelves = fs::read_dir(root.join("data")).unwrap().flatten();
    let packs = shelves.flat_map(|shelf| fs::read_dir(shelf.path()).unwrap().flatten()).map(|entry| entry.path());
    let pack = packs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(pack, bytes).unwrap();
}

#[test]
fn k2_a_flipped_bit_in_a_copy_is_found_and_written_anew() {
    let server = Server::shared();
    let site = Site::new(server, &server.teslamate("rotten_copy"));
    let location = site.path("copy").display().to_string();
    let copies = format!("[[copies]]\nlocation = {location:?}\npassword_file = {:?}\n", site.path("password"));
    configure(server, &site, &format!("{}{copies}", section(&site)));
    fs::create_dir(site.path("copy")).unwrap();
    backups(&site, 1);
    site.run("teslamate-backup", &["copy"]).expect(0);
    flip(&site.path("copy"));
    let check = |more: &[&str]| site.run("teslamate-backup", &[&["check", "--copy"], more].concat());
    check(&["all", "--read-data"]).expect(14).says("the copy is damaged").says("copy --read-data");
    check(&["/elsewhere"]).expect(2).says("no copy at /elsewhere is configured");
    // What later copies lean on is read in turn: within a few runs all of these few packs.
    let mut mended = false;
    for round in 0..8 {
        server.query(&site.database, &format!("UPDATE cars SET name = 'round {round}'"));
        site.run("teslamate-backup", &[]).expect(0);
        let copied = site.run("teslamate-backup", &["copy"]).expect(0);
        mended |= copied.stderr.contains("written anew");
    }
    assert!(mended, "not found within 8 runs");
    check(&[&location, "--read-data"]).expect(0);
    flip(&site.path("copy"));
    let again = site.run("teslamate-backup", &["copy", "--read-data", "--json"]).expect(0).json();
    assert!(again["copies"][0]["mended"].as_u64() > Some(0), "{again}");
    check(&["all", "--read-data"]).expect(0);

    // One that is gone from the repository does not keep the others from being copied.
    let ids = site.backups();
    fs::remove_file(site.repository().join("snapshots").join(&ids[0])).unwrap();
    site.run("teslamate-backup", &[]).expect(14);
    let copied = site.run("teslamate-backup", &["copy", "--json"]).expect(14).json();
    assert_eq!(copied["copies"][0]["copied"].as_array().unwrap().len(), 1, "{copied}");

    // The house burned down.
    let new = Site::new(server, &site.database);
    let repository = format!("[repository]\nlocation = {location:?}\npassword_file = {:?}\n", site.path("password"));
    configure(server, &new, &repository);
    new.run("teslamate-backup", &["rebuild"]).expect(0);
    let restored = server.fresh_name("rotten_copy_restored");
    new.run("teslamate-restore", &["latest", "--into", &restored]).expect(0);
    assert_eq!(server.content(&restored), server.content(&site.database));
}

/// Two databases whose first backups go into one empty place at the same time.
#[test]
fn k2_two_first_backups_into_one_place_leave_a_good_repository() {
    let server = Server::shared();
    for round in 0..2 {
        let one = Site::new(server, &server.teslamate("first"));
        let two = Site::new(server, &server.teslamate("second"));
        configure(server, &one, &section(&one));
        let location = one.repository().display().to_string();
        let shared = format!("[repository]\nlocation = {location:?}\npassword_file = {:?}\n", one.path("password"));
        configure(server, &two, &shared);
        let children = [&one, &two].map(|site| site.command("teslamate-backup").spawn());
        let outcomes = children.map(|child| child.wait_with_output().unwrap());
        let codes: Vec<_> = outcomes.iter().map(|outcome| outcome.status.code().unwrap()).collect();
        assert!(codes.contains(&0) && codes.iter().any(|code| [10, 11].contains(code)), "round {round}: {codes:?}");
        let won = if codes[0] == 0 { &one } else { &two };
        won.run("teslamate-backup", &[]).expect(0);
        won.run("teslamate-backup", &["check", "--read-data"]).expect(0);
        won.run("teslamate-restore", &["latest", "--drill"]).expect(0);
        assert!(one.restic(&["check"]).status.success());
        let lost = if codes[0] == 0 { &two } else { &one };
        lost.run("teslamate-backup", &[]).expect(10);
    }
}
