//! Migrations, through `teslamate-migrate` and restores. Only TeslaMate's own executable is a stand-in: its migrations are
//! files of SQL that it runs as Ecto runs its own, each in a transaction with its row in `schema_migrations`.

use std::fs;

use super::support::binary::path_of;
use super::support::release::{FIRST, installed};
use super::support::{Server, Site};

#[test]
fn where_nothing_is_pending_the_application_is_not_even_asked() {
    let installed = installed("none", &[], "");
    let before = installed.server.content(&installed.site.database);
    assert!(installed.migrate(&[]).expect(0).text().contains("nothing to do"));
    assert!(installed.called().is_empty() && !installed.site.repository().exists());
    assert_eq!(installed.server.content(&installed.site.database), before);
    // Nor does a password matter that cannot be read.
    fs::remove_file(installed.site.path("password")).unwrap();
    if !nix::unistd::geteuid().is_root() {
        installed.migrate(&["run"]).expect(0);
    }
}

#[test]
fn what_is_pending_is_run_after_a_backup_and_reported() {
    let installed = installed(
        "pending",
        &[("add_table", "-- took 0.3\nCREATE TABLE later (id int);"), ("fill", "INSERT INTO later VALUES (1);")],
        "",
    );
    let (server, database) = (installed.server, &installed.site.database);
    let status = installed.migrate(&["status", "--json"]).expect(0).json();
    assert_eq!(status["pending"][0]["name"], "add_table");
    let done = installed.migrate(&["--json"]).expect(0).json();
    assert_eq!(done["run"][0], serde_json::json!({ "version": FIRST, "name": "add_table", "seconds": 0.3 }));
    assert_eq!(done["run"].as_array().unwrap().len(), 2);
    assert_eq!(server.query(database, "SELECT count(*) FROM later"), "1");
    let listed = installed.site.run("teslamate-backup", &["list", "--json"]).expect(0).json();
    assert_eq!(listed["backups"][0]["id"], done["backup"]);
    assert_eq!(listed["backups"][0]["purpose"], "before-migration");
    assert!(listed["backups"][0]["comment"].as_str().unwrap().contains(&format!("{FIRST} add_table")), "{listed}");
    assert_eq!(installed.called(), [format!("{database} eval TeslaMate.Release.migrate")]);
    let history = installed.migrate(&["history", "--json"]).expect(0).json();
    let last = history["migrations"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((last["version"].as_i64(), last["name"].as_str()), (Some(FIRST + 1), Some("fill")));
    assert!(history["seconds_since_last"].as_i64().unwrap() < 600, "{history}");
    assert!(installed.migrate(&["run"]).expect(0).text().contains("nothing to do"));
}

#[test]
fn a_migration_that_fails_leaves_the_way_back_in_its_message() {
    let failing = [("add_table", "CREATE TABLE later (id int);"), ("wrong", "SELECT no_such_column FROM cars;")];
    let installed = installed("failing", &failing, "");
    let failed = installed.migrate(&[]).expect(15);
    let backup = installed.site.backups().remove(0);
    for words in ["no_such_column", "** (Postgrex.Error)", &format!("teslamate-restore {}", &backup[..8])] {
        assert!(failed.stderr.contains(words), "{}", failed.stderr);
    }
    assert!(!failed.stderr.contains("c4nary"), "{}", failed.stderr);
    assert_eq!(installed.newest(), FIRST);
    // A service manager that tries again gets no second backup.
    installed.migrate(&[]).expect(10).says("not tried again").says("run --again");
    assert_eq!((installed.called().len(), installed.site.backups().len()), (1, 1));
    installed.migrate(&["run", "--again"]).expect(15);
    assert_eq!(installed.site.backups().len(), 2);
    // What the message says works, with the release from before.
    for name in ["add_table", "wrong"] {
        let number = i64::from(name == "wrong");
        fs::remove_file(installed.migrations().join(format!("{}_{name}.exs", FIRST + number))).unwrap();
    }
    installed.migrate(&[]).expect(10).says("newer than the application").says(&FIRST.to_string());
    installed.site.run("teslamate-restore", &[&backup, "--yes"]).expect(0);
    installed.migrate(&[]).expect(0);
}

#[test]
fn a_migration_that_fails_is_gone_back_from_where_that_is_asked_for() {
    let failing = [("add_table", "CREATE TABLE later (id int);"), ("wrong", "SELECT no_such_column FROM cars;")];
    let installed = installed("back", &failing, "[migrations]\non_failure = \"restore\"\n");
    let before = installed.server.content(&installed.site.database);
    let failed = installed.migrate(&[]);
    let failed = failed.expect(15).says("no_such_column").says("is what it was before").says("pending again");
    assert_eq!(installed.server.content(&installed.site.database), before, "{}", failed.stderr);
    // Nothing is left to go back from, and no second try is made.
    let again = installed.migrate(&[]).expect(10).says("not tried again");
    assert!(!again.stderr.contains("teslamate-restore"), "{}", again.stderr);
}

#[test]
fn without_a_backup_there_is_no_migration_unless_that_is_allowed() {
    let pending = [("add_table", "CREATE TABLE later (id int);")];
    let installed = installed("nobackup", &pending, "# without repository\n");
    installed
        .migrate(&[])
        .expect(2)
        .says("no repository is configured")
        .says("require_backup = false")
        .says("no migration was run");
    assert!(installed.called().is_empty());
    installed.site.configure(
        &format!("port = {}\n[migrations]\nrequire_backup = false\n", installed.server.port()),
        &format!("service.executable = {:?}\n", installed.site.path("release/bin/teslamate").display().to_string()),
    );
    installed.migrate(&[]).expect(0).says("without a backup");
    assert_eq!(installed.newest(), FIRST);
}

#[test]
fn r80_a_server_that_is_not_up_is_waited_for_and_one_that_says_no_is_not() {
    let installed = installed("silent", &[], "[migrations]\nwait = 2\n");
    let started = std::time::Instant::now();
    let silent = installed.site.command("teslamate-migrate").env("DATABASE_PORT", "1").outcome();
    silent.expect(12).says("no server listens").says("2 s");
    assert!(started.elapsed().as_secs() >= 2);
    let refused = installed.site.command("teslamate-migrate").env("DATABASE_USER", "nobody_of_this_name").outcome();
    refused.expect(12).says("there is no role");
    installed.migrate(&["wait"]).expect(0);
    assert!(installed.migrate(&["wait", "--json"]).expect(0).json()["seconds"].as_f64().unwrap() < 2.0);
}

#[test]
fn a_server_that_is_too_old_for_the_release_is_told_before_anything_is_done() {
    if Server::shared().major() >= 16 {
        println!("SKIPPED: the machine's PostgreSQL is not older than the application wants");
        return;
    }
    let installed = installed("oldserver", &[("add_table", "CREATE TABLE later (id int);")], "");
    fs::write(installed.site.path("release/releases/start_erl.data"), "14.2 2.2.0").unwrap();
    installed.migrate(&[]).expect(10).says("is too old for the application").says("16.7, 17.3 or 18");
    assert!(installed.called().is_empty() && !installed.site.repository().exists());
}

#[test]
fn migrations_are_rehearsed_on_a_copy_that_goes_away() {
    let pending = [("add_table", "CREATE TABLE later (id int);")];
    let installed = installed("rehearse", &pending, "");
    let (server, database) = (installed.server, &installed.site.database);
    let before = server.content(database);
    let done = installed.migrate(&["rehearse", "--json"]).expect(0).json();
    assert_eq!(done["run"][0]["name"], "add_table");
    assert_eq!(server.content(database), before);
    let copies = format!("SELECT count(*) FROM pg_database WHERE datname LIKE '{database}\\_%'");
    assert_eq!(server.query("postgres", &copies), "0");
    assert!(installed.called()[0].starts_with(&format!("{database}_")), "{:?}", installed.called());
    fs::write(installed.migrations().join(format!("{FIRST}_add_table.exs")), "SELECT no_such_column FROM cars;")
        .unwrap();
    installed.migrate(&["rehearse"]).expect(14).says("fail on a copy").says("no_such_column").says("were not touched");
    assert_eq!(server.query("postgres", &copies), "0");
}

#[test]
fn migrations_are_undone_after_a_backup() {
    let installed = installed("undo", &[("add_table", "CREATE TABLE later (id int);")], "");
    let (server, database) = (installed.server, &installed.site.database);
    installed.migrate(&["rollback", &FIRST.to_string(), "--yes"]).expect(10).says("is not applied");
    installed.migrate(&["rollback", "7", "--yes"]).expect(10).says("unknown to the release");
    installed.migrate(&[]).expect(0);
    // With the application beside it, the tables would change beneath it.
    fs::write(installed.site.systemctl.dir().join("state"), "active").unwrap();
    installed.migrate(&["rollback", &FIRST.to_string(), "--yes"]).expect(10).says("is running").says("systemctl stop");
    fs::write(installed.site.systemctl.dir().join("state"), "inactive").unwrap();
    installed.migrate(&["rollback", &FIRST.to_string()]).expect(2).says("--yes");
    let done = installed.migrate(&["rollback", &FIRST.to_string(), "--yes", "--json"]).expect(0).json();
    assert_eq!(done["undone"][0], FIRST);
    assert_eq!(installed.site.backups().len(), 2);
    assert_eq!(server.query(database, "SELECT to_regclass('later') IS NULL"), "t");
}

#[test]
fn r56_a_backup_of_an_older_release_is_migrated_before_it_goes_live() {
    let installed = installed("older", &[("add_table", "CREATE TABLE later (id int);")], "");
    let (server, database) = (installed.server, &installed.site.database);
    installed.site.run("teslamate-backup", &[]).expect(0);
    installed.site.run("teslamate-backup", &["old.sql"]).expect(0);
    installed.migrate(&[]).expect(0);
    for source in [&installed.site.backups()[0][..], "old.sql"] {
        installed.site.run("teslamate-restore", &[source, "--yes"]).expect(0);
        assert_eq!(installed.newest(), FIRST, "{source}");
        assert!(
            installed.called().last().unwrap().starts_with(&format!("{database}_restore_")),
            "{:?}",
            installed.called()
        );
    }
    // One that the present release cannot take further never replaces anything.
    fs::write(installed.migrations().join(format!("{}_wrong.exs", FIRST + 1)), "SELECT no_such_column FROM cars;")
        .unwrap();
    let before = server.content(database);
    installed
        .site
        .run("teslamate-restore", &["old.sql", "--yes"])
        .expect(14)
        .says("no_such_column")
        .says("are as they were");
    assert_eq!(server.content(database), before);
    // Nor does one of a newer release.
    installed.site.run("teslamate-backup", &["new.sql"]).expect(0);
    for number in 0..2 {
        let name = if number == 0 { "add_table" } else { "wrong" };
        fs::remove_file(installed.migrations().join(format!("{}_{name}.exs", FIRST + number))).unwrap();
    }
    installed.site.run("teslamate-restore", &["new.sql", "--yes"]).expect(10).says("newer release");
    assert_eq!(server.content(database), before);
}

#[test]
fn a_migration_waits_for_a_backup_that_is_under_way() {
    let installed = installed("waits", &[("add_table", "CREATE TABLE later (id int);")], "");
    let (server, database) = (installed.server, &installed.site.database);
    // A backup that waits for a table holds its lock meanwhile.
    let held = server.hold(database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
    std::thread::scope(|scope| {
        let backup = scope.spawn(|| installed.site.run("teslamate-backup", &[]).expect(0));
        std::thread::sleep(std::time::Duration::from_secs(1));
        let migrating = scope.spawn(|| installed.migrate(&[]).expect(0));
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert!(installed.called().is_empty());
        drop(held);
        backup.join().unwrap();
        migrating.join().unwrap();
    });
    assert_eq!(installed.newest(), FIRST);
    assert_eq!(installed.site.backups().len(), 2);
}

/// What the service manager does before it starts the application, as `ExecStartPre`.
fn starts_behind_its_migrations(site: &Site) {
    let start = format!(
        "'{}' --config '{}' >'{}' 2>&1 || exit 1\n",
        path_of("teslamate-migrate").display(),
        site.config().display(),
        site.path("started").display()
    );
    fs::write(site.systemctl.dir().join("run-on-start"), start).unwrap();
    fs::write(site.systemctl.dir().join("state"), "active").unwrap();
}

#[test]
fn what_a_restore_brings_back_is_migrated_by_the_services_own_start() {
    let installed = installed("start", &[("add_table", "CREATE TABLE later (id int);")], "");
    let (server, site) = (installed.server, &installed.site);
    site.run("teslamate-backup", &["old.sql"]).expect(0);
    installed.migrate(&[]).expect(0);
    let backups = site.backups().len();
    // The restore is not over while the service starts: its migrations, and the backup before them, must not wait for it.
    starts_behind_its_migrations(site);
    site.run("teslamate-restore", &["old.sql", "--as-it-was", "--yes", "--no-safety-backup"]).expect(0);
    let started = || fs::read_to_string(site.path("started")).unwrap();
    assert!(started().contains("add_table"), "{}", started());
    assert_eq!(site.systemctl.state(), "active");
    assert_eq!((installed.newest(), site.backups().len()), (FIRST, backups + 1));
    // The same for one that an undo brings back.
    let second = FIRST + 1;
    fs::write(installed.migrations().join(format!("{second}_add_more.exs")), "CREATE TABLE more (id int);").unwrap();
    site.run("teslamate-restore", &["--undo", "--yes"]).expect(0);
    assert!(started().contains("add_more"), "{}", started());
    assert_eq!((installed.newest(), site.backups().len()), (second, backups + 2));
    assert_eq!(server.query(&site.database, "SELECT count(*) FROM more"), "0");
}

#[test]
fn where_commands_start_the_application_they_may_migrate_before() {
    let installed = installed("commands", &[("add_table", "CREATE TABLE later (id int);")], "");
    let site = &installed.site;
    let mut text = fs::read_to_string(site.config()).unwrap();
    text.push_str("\n[service]\n");
    // One table of the service: the dotted key of `installed` and a section exclude each other.
    let executable = format!("executable = {:?}\n", site.path("release/bin/teslamate").display().to_string());
    let text = text.lines().filter(|line| !line.starts_with("service.executable")).collect::<Vec<_>>().join("\n");
    site.write_config(&format!("{text}\n{executable}stop = [\"/bin/true\"]\nstart = [\"/bin/true\"]\n"));
    installed.migrate(&[]).expect(0);
    installed.migrate(&["rollback", &FIRST.to_string(), "--yes"]).expect(0);
    assert_eq!(installed.server.query(&site.database, "SELECT to_regclass('later') IS NULL"), "t");
}

#[cfg(feature = "network")]
mod behind_a_network {
    use std::process::Command;

    use super::*;
    use crate::support::network::{Bucket, private};
    use crate::support::server::{SERVER_ACCOUNT, is_root};

    #[test]
    fn the_services_own_account_opens_a_repository_behind_a_network() {
        if !is_root() {
            println!("SKIPPED: running as another account needs root");
            return;
        }
        let installed = installed("account", &[("add_table", "CREATE TABLE later (id int);")], "");
        let (server, site) = (installed.server, &installed.site);
        let bucket = Bucket::start();
        private(&site.path("storage.env"), &Bucket::variables());
        let executable = site.path("release/bin/teslamate").display().to_string();
        site.configure(
            &format!(
                "port = {}\n[repository]\nlocation = {:?}\npassword_file = {:?}\nenvironment_file = {:?}\n",
                server.port(),
                bucket.location(),
                site.path("password"),
                site.path("storage.env")
            ),
            &format!("service.executable = {executable:?}\n"),
        );
        site.run("teslamate-backup", &["init"]).expect(0);
        let given = Command::new("chown").arg("-R").arg(SERVER_ACCOUNT).arg(site.path("")).status().unwrap();
        assert!(given.success());
        // What root does when root types a command must not be the account's to change.
        for path in [site.path(""), site.config()] {
            std::os::unix::fs::chown(path, Some(0), Some(0)).unwrap();
        }
        let as_account = || {
            let mut setpriv = Command::new("setpriv");
            setpriv.args(["--reuid", SERVER_ACCOUNT, "--regid", SERVER_ACCOUNT, "--clear-groups"]);
            site.under(setpriv, "teslamate-migrate").outcome()
        };
        // What it has no right to read is asked for where there is something to back up, and by name.
        std::os::unix::fs::chown(site.path("storage.env"), Some(0), Some(0)).unwrap();
        as_account()
            .expect(10)
            .says("cannot read the environment file")
            .says("storage.env")
            .says("no migration was run");
        assert!(installed.called().is_empty());
        private(&site.path("storage.env"), &Bucket::variables());
        let given = Command::new("chown").arg(SERVER_ACCOUNT).arg(site.path("storage.env")).status().unwrap();
        assert!(given.success());
        as_account().expect(0).says("backing up");
        assert_eq!((installed.newest(), site.backups().len()), (FIRST, 1));
    }
}

#[test]
fn k11_run_again_stops_a_service_that_is_between_two_starts() {
    let installed = installed("between", &[("wrong", "SELECT no_such_column FROM cars;")], "");
    let systemctl = &installed.site.systemctl;
    installed.migrate(&[]).expect(15);
    fs::write(installed.migrations().join(format!("{FIRST}_wrong.exs")), "CREATE TABLE mended (id int);").unwrap();
    systemctl.set("active", "SubState=running", "");
    installed.migrate(&["run", "--again"]).expect(10).says("is running, and would meet tables");
    systemctl.set("activating", "SubState=auto-restart\nRestart=always\nResult=exit-code", "");
    installed.migrate(&["run", "--again"]).expect(0);
    let verbs: Vec<String> = systemctl.calls().into_iter().map(|(_, verb)| verb).filter(|verb| verb != "cat").collect();
    assert_eq!(verbs, ["stop", "start"]);
    assert_eq!(systemctl.state(), "active");
}
