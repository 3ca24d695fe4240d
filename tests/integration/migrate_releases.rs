//! Migrations as real releases of `TeslaMate` behave, each as its stand-in learned it: the variables that they read, the
//! things that they do not begin without, and the words that they write.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::connections::{PASSWORD, server as with_tls, tls_file};
use super::support::probe::runs;
use super::support::release::{FIRST, Installed, installed, installed_at};
use super::support::server::{Options, Server};

const ADD: (&str, &str) = ("add_table", "CREATE TABLE later (id int);");

/// A server whose transactions nobody else counts up, with these lines before the trust in everybody.
fn own_server(hba: &str) -> &'static Server {
    let hba = Some(format!("{hba}\nlocal all all trust\n"));
    let server = Server::start(Options { hba, config: vec!["autovacuum = off".into()], ..Options::default() });
    server.create_teslamate("template_teslamate", 500);
    // It ends with the process of the tests.
    Box::leak(Box::new(server))
}

/// Has the executable do this before its work, as a release that lacks something would not get to it.
fn spoil(installed: &Installed, line: &str) {
    let bin = installed.site.path("release/bin");
    fs::rename(bin.join("teslamate"), bin.join("whole")).unwrap();
    fs::write(bin.join("teslamate"), format!("#!/bin/bash\n{line}\nexec \"$(dirname \"$0\")/whole\" \"$@\"\n"))
        .unwrap();
    fs::set_permissions(bin.join("teslamate"), fs::Permissions::from_mode(0o755)).unwrap();
}

fn mend(installed: &Installed) {
    let bin = installed.site.path("release/bin");
    fs::rename(bin.join("whole"), bin.join("teslamate")).unwrap();
}

#[test]
fn k13_a_release_before_4_1_connects_over_a_socket() {
    let server = own_server("local all by_password scram-sha-256");
    let quoted = PASSWORD.replace('\'', "''");
    server.query("postgres", &format!("CREATE ROLE by_password SUPERUSER LOGIN PASSWORD '{quoted}'"));
    let installed = installed_at(server, "socket", &[ADD], "");
    let text = fs::read_to_string(installed.site.config()).unwrap();
    installed.site.write_config(&text.replace("user = \"teslamate\"", "user = \"by_password\""));
    let run = |binary: &str, arguments: &[&str]| {
        installed.site.command(binary).env("DATABASE_PASS", PASSWORD).args(arguments).outcome()
    };
    run("teslamate-backup", &["old.sql"]).expect(0);
    run("teslamate-migrate", &["rehearse"]).expect(0);
    run("teslamate-migrate", &["run"]).expect(0);
    assert_eq!(installed.newest(), FIRST);
    let restored = run("teslamate-restore", &["old.sql", "--yes"]).expect(0);
    assert_eq!(installed.newest(), FIRST);
    // Without a key the release makes one up: its warning says where that is.
    restored.says("warning: the application warns: ").says("no ENCRYPTION_KEY: one was made up");
}

#[test]
fn k13_migrations_need_no_cookie() {
    let installed = installed("cookie", &[ADD], "");
    installed.migrate(&["run"]).expect(0);
    spoil(&installed, "unset RELEASE_COOKIE");
    installed.has(1, "more", "CREATE TABLE more (id int);");
    installed.migrate(&["run"]).expect(10).says("releases/COOKIE").says("no migration had begun");
}

#[test]
fn k13_an_application_that_cannot_begin_is_tried_again() {
    let server = own_server("");
    let installed = installed_at(server, "begin", &[ADD], "[migrations]\non_failure = \"restore\"\n");
    installed.site.run("teslamate-backup", &["old.sql"]).expect(0);
    let before = server.content(&installed.site.database);
    spoil(&installed, "export PGPORT=1");
    for _ in 0..2 {
        let failed = installed.migrate(&[]).expect(10);
        let failed = failed.says("no migration had begun and none was recorded").says("The next start tries again");
        // Its cause comes first, before more advice than is kept.
        failed.says("[error] Postgrex.Protocol failed to connect").says("40. advice");
    }
    // No second backup of the same rows, however often it is started.
    assert_eq!((installed.called().len(), installed.site.backups().len()), (2, 1));
    assert_eq!(server.content(&installed.site.database), before);
    server.query(
        &installed.site.database,
        "INSERT INTO addresses (id, display_name, inserted_at, updated_at) VALUES (99999, 'x', now(), now())",
    );
    installed.migrate(&[]).expect(10);
    assert_eq!(installed.site.backups().len(), 2);
    let rehearsed = installed.migrate(&["rehearse"]).expect(10).says("before a migration had begun");
    assert!(!rehearsed.stderr.contains("report this"), "{}", rehearsed.stderr);
    installed.site.run("teslamate-restore", &["old.sql", "--yes"]).expect(10).says("were not touched");
    mend(&installed);
    installed.migrate(&[]).expect(0);
    spoil(&installed, "export PGPORT=1");
    installed.migrate(&["rollback", &FIRST.to_string(), "--yes"]).expect(10).says("nothing was changed");
    assert_eq!(installed.newest(), FIRST);
}

#[test]
fn k13_the_printed_way_back_works_as_printed() {
    let failing = [ADD, ("wrong", "SELECT no_such_column FROM cars;")];
    let installed = installed("printed", &failing, "");
    let before = installed.newest();
    let failed = installed.migrate(&[]).expect(15);
    let again = installed.migrate(&[]).expect(10).says("not tried again");
    // The failure is remembered with its cause.
    again.says(&format!("[error] migration {} failed", FIRST + 1)).says("--as-it-was");
    let (_, printed) =
        failed.stderr.split_once("Go back: systemctl stop teslamate.service; teslamate-restore ").unwrap();
    let words: Vec<&str> = printed.lines().next().unwrap().split(' ').chain(["--yes"]).collect();
    installed.site.run("teslamate-restore", &words).expect(0);
    assert_eq!(installed.newest(), before);
    // The release that was to migrate is not the one that wrote the rows.
    installed.is_release("1.32.0");
    let restored = installed.site.run("teslamate-restore", &words).expect(0);
    assert!(!restored.stderr.contains("1.33.0"), "{}", restored.stderr);
}

#[test]
fn k13_migrations_show_tenths_of_a_second() {
    let installed = installed("tenths", &[ADD, ("slow", "-- took 1.3\nCREATE TABLE more (id int);")], "");
    let text = installed.migrate(&[]).expect(0).text();
    assert!(text.contains("add_table  < 0.1 s") && text.contains("slow       1.3 s"), "{text}");
}

#[test]
fn k13_a_rollback_that_fails_part_way_says_what_is_undone() {
    let kept = ("kept", "-- down: SELECT no_such_column FROM cars\nCREATE TABLE more (id int);");
    let installed = installed("partway", &[kept, ADD], "");
    installed.migrate(&[]).expect(0);
    let failed = installed.migrate(&["rollback", &FIRST.to_string(), "--yes"]).expect(15);
    failed.says(&format!("1 of 2 undone; still applied: 1 migration: {FIRST} kept")).says("teslamate-restore ");
    assert_eq!(installed.newest(), FIRST);
}

#[test]
fn k13_a_reader_that_has_seen_enough_is_no_failure() {
    let installed = installed("head", &[], "");
    let mut child = installed.site.command("teslamate-migrate").args(&["status"]).spawn();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && !words.contains("cannot be printed"), "{ended:?}");
}

#[test]
fn k13_a_daemon_of_the_release_is_not_waited_for() {
    let installed = installed("daemon", &[ADD], "");
    let pid = installed.site.path("pid");
    // As epmd, but for its output, which it does not close.
    spoil(&installed, &format!("setsid bash -c 'echo $$ >{}; exec sleep 600' &", pid.display()));
    installed.migrate(&[]).expect(0);
    let pid: u32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    assert!(runs(pid), "its end was waited for");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn k13_a_release_is_given_the_authorities_of_the_system() {
    let server = with_tls();
    let installed = installed_at(server, "authority", &[ADD], "");
    let text = fs::read_to_string(installed.site.config()).unwrap();
    let socket = format!("socket_dir = {:?}", server.dir());
    let text = text.replace(&socket, "host = \"localhost\"\nssl = true");
    installed.site.write_config(&text.replace("user = \"teslamate\"", "user = \"only_tls\""));
    let run = installed.site.command("teslamate-migrate").env("DATABASE_PASS", PASSWORD);
    run.env("SSL_CERT_FILE", tls_file(server, "ca.crt")).outcome().expect(0);
    assert_eq!(installed.newest(), FIRST);
}
