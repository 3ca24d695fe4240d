//! The service in every state that systemd knows, with a stand-in that says so. The same on a real systemd: `host`.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::server::is_root;
use crate::support::{Server, Site};

/// A database with a dump file of it.
fn site(name: &str) -> Site {
    let server = Server::shared();
    let site = Site::new(server, &server.teslamate(name));
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    site
}

fn verbs(site: &Site) -> Vec<String> {
    let changes = |verb: &String| ["stop", "start", "restart", "kill", "reset-failed"].contains(&verb.as_str());
    site.systemctl.calls().into_iter().map(|(_, verb)| verb).filter(changes).collect()
}

#[test]
fn k11_a_service_that_is_being_stopped_is_waited_for_and_left() {
    let site = site("ending");
    site.systemctl.set("deactivating", "SubState=stop-sigterm\nRestart=always", "stop");
    site.systemctl.ends_after(20);
    site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0).says("waiting until teslamate.service has ended");
    assert_eq!((verbs(&site), site.systemctl.state()), (Vec::new(), "inactive".to_owned()));
}

#[test]
fn k11_a_service_that_would_have_come_up_is_started_afterwards() {
    let site = site("coming");
    for (state, properties, job) in [
        ("deactivating", "SubState=stop-sigterm", "restart"),
        ("deactivating", "SubState=stop-post\nRestart=on-failure\nResult=exit-code", ""),
        ("activating", "SubState=auto-restart\nRestart=always\nResult=exit-code", ""),
        ("activating", "SubState=start-pre", "start"),
        ("inactive", "SubState=dead", "start"),
        ("failed", "SubState=failed-before-auto-restart\nResult=exit-code", ""),
        ("reloading", "SubState=reload", "reload"),
        ("refreshing", "SubState=refresh-extensions", ""),
    ] {
        site.systemctl.set(state, properties, job);
        let before = verbs(&site).len();
        site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0).says("stopping teslamate.service");
        assert_eq!(verbs(&site)[before..], ["stop", "start"], "{state} {properties}");
        assert_eq!(site.systemctl.state(), "active", "{state} {properties}");
    }
}

#[test]
fn k11_a_service_that_stays_down_is_not_started() {
    let site = site("down");
    for (state, properties, job) in [
        ("failed", "SubState=failed\nRestart=always\nResult=start-limit-hit", ""),
        ("failed", "SubState=failed\nRestart=no\nResult=exit-code", ""),
        ("inactive", "SubState=dead\nRestart=always", ""),
        ("inactive", "SubState=dead", "verify-active"),
    ] {
        site.systemctl.set(state, properties, job);
        site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0);
        assert_eq!((verbs(&site), site.systemctl.state()), (Vec::new(), state.to_owned()), "{properties}");
    }
}

#[test]
fn k11_what_could_not_be_started_again_is_not_stopped() {
    let site = site("oneway");
    let content = Server::shared().content(&site.database);
    for (properties, words) in [
        ("LoadState=masked", "it is masked"),
        ("LoadState=not-found", "its unit file is gone"),
        ("LoadState=bad-setting", "its unit file has a mistake"),
        ("Transient=yes", "it is a transient unit"),
        ("CanStart=no", "CanStart=no"),
        ("CanStop=no", "CanStop=no"),
    ] {
        site.systemctl.set("active", properties, "");
        let refused = site.run("teslamate-restore", &["--yes", "a.dump"]).expect(10).says(words);
        refused.says("nothing was touched");
        assert_eq!(verbs(&site), Vec::<String>::new());
        site.run("teslamate-restore", &["--drill", "a.dump"]).expect(0);
    }
    assert_eq!(Server::shared().content(&site.database), content);
    // Stopped by its user, it is in nobody's way.
    site.systemctl.set("inactive", "LoadState=masked", "");
    site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0);
}

#[test]
fn k11_a_systemctl_that_cannot_answer_is_not_taken_for_no_service() {
    let site = site("mute");
    let program = site.systemctl.dir().join("systemctl");
    fs::write(&program, "#!/bin/sh\necho 'Access denied' >&2; exit 1\n").unwrap();
    site.run("teslamate-restore", &["--yes", "a.dump"])
        .expect(10)
        .says("cannot ask for the state of teslamate.service");
    fs::write(&program, "#!/bin/sh\necho 'System has not been booted with systemd as init system' >&2; exit 1\n")
        .unwrap();
    site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0);
}

#[test]
fn k11_a_note_that_cannot_be_written_does_not_stand_in_the_way() {
    let site = site("nonote");
    let note = site.state_dir().join("service-stopped");
    // Whatever its account puts there, root neither waits for it nor touches it.
    fs::create_dir(&note).unwrap();
    let done = site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0);
    assert_eq!(done.stderr.contains("cannot note that teslamate.service is stopped"), !is_root(), "{}", done.stderr);
    fs::remove_dir(&note).unwrap();
    nix::unistd::mkfifo(&note, nix::sys::stat::Mode::S_IRWXU).unwrap();
    site.run("teslamate-restore", &["--yes", "a.dump"]).expect(0);
    assert_eq!(verbs(&site), ["stop", "start", "stop", "start"]);
    assert_eq!(note.exists(), is_root());
    assert!(!site.note_about("teslamate.service").exists() || !is_root());
}

#[test]
fn k2_any_command_starts_what_a_killed_restore_left_stopped() {
    let server = Server::shared();
    let site = Site::with_repository(server, &server.teslamate("recovered"));
    site.run("teslamate-backup", &[]).expect(0);
    let id = site.backups().remove(0);
    let leave = || {
        site.leave_note_about("teslamate.service");
        site.systemctl.set("inactive", "SubState=dead", "");
    };
    let note = site.note_about("teslamate.service");
    let commands: &[(&str, &[&str])] = &[
        ("teslamate-backup", &[]),
        ("teslamate-backup", &["b.sql"]),
        ("teslamate-backup", &["check"]),
        ("teslamate-backup", &["forget"]),
        ("teslamate-backup", &["list"]),
        ("teslamate-backup", &["show", &id]),
        ("teslamate-backup", &["export", &id, "c.sql"]),
        ("teslamate-restore", &["latest", "--drill"]),
        ("teslamate-restore", &["--recover"]),
        ("teslamate-close-drive", &["--list"]),
    ];
    for (program, arguments) in commands {
        leave();
        let done = site.run(program, arguments).expect(0);
        let said = done.text() + &done.stderr;
        assert!(said.contains("started teslamate.service, which a run that was killed"), "{arguments:?}: {said}");
        assert_eq!(site.systemctl.state(), "active", "{program} {arguments:?}");
        assert!(!note.exists(), "{program} {arguments:?}");
    }
    // Somebody started it meanwhile: nothing is done, and nothing untrue is said.
    leave();
    site.systemctl.set("active", "SubState=running", "");
    let before = verbs(&site).len();
    let listed = site.run("teslamate-backup", &["list"]).expect(0);
    assert!(!listed.stderr.contains("teslamate.service"), "{}", listed.stderr);
    assert_eq!(verbs(&site).len(), before);
    assert!(!note.exists());
    assert!(site.run("teslamate-restore", &["--recover"]).expect(0).text().contains("no run that was killed"));
    // A service that does not start keeps nobody from working, and is told.
    leave();
    site.systemctl.fail("start");
    site.run("teslamate-backup", &["list"])
        .expect(0)
        .says("teslamate.service, which a run that was killed left stopped");
    site.run("teslamate-restore", &["--recover"]).expect(15).says("does not start again");
}

#[test]
fn k2_a_restore_that_is_at_work_starts_its_service_itself() {
    let server = Server::shared();
    let site = Site::with_repository(server, &server.teslamate("atwork"));
    site.run("teslamate-backup", &[]).expect(0);
    fs::write(site.systemctl.dir().join("slow-stop"), "4").unwrap();
    let mut restore = site.command("teslamate-restore").args(&["latest", "--yes", "--no-safety-backup"]).spawn();
    let note = site.note_about("teslamate.service");
    let give_up = Instant::now() + Duration::from_mins(1);
    while !note.exists() {
        assert!(Instant::now() < give_up, "no note");
        std::thread::sleep(Duration::from_millis(20));
    }
    site.run("teslamate-backup", &["list"]).expect(0);
    site.run("teslamate-restore", &["--recover"]).expect(0);
    assert!(note.exists());
    assert_eq!(verbs(&site), ["stop"]);
    assert!(restore.wait().unwrap().success());
    assert_eq!(verbs(&site), ["stop", "start"]);
    assert!(!note.exists());
}

/// `service.unit` was changed after a restore was killed.
#[test]
fn k11_a_unit_that_the_settings_do_not_name_any_more_is_told_until_it_runs() {
    let site = site("former");
    let note = site.note_about("former.service");
    site.systemctl.set("inactive", "SubState=dead", "");
    let words =
        "left former.service stopped; service.unit is teslamate.service now: `systemctl start former.service` if";
    site.leave_note_about("former.service");
    site.run("teslamate-backup", &["b.sql"]).expect(0).says(words).says("else `rm ");
    site.run("teslamate-restore", &["--recover"]).expect(0).says(words);
    site.run("teslamate-restore", &["--drill", "a.dump"]).expect(0).says(words);
    assert_eq!((verbs(&site), note.exists()), (Vec::new(), true));
    // It runs again.
    site.systemctl.set("active", "SubState=running", "");
    let done = site.run("teslamate-backup", &["c.sql"]).expect(0);
    assert!(!done.stderr.contains("former.service") && !note.exists(), "{}", done.stderr);
    // What is no name of a unit is not shown, and nothing is waited for.
    for text in ["former.service; rm -rf /\n", "\u{1b}[2J.service\n", "-h.service\n", "nothing\n", ""] {
        fs::write(&note, text).unwrap();
        site.systemctl.set("inactive", "SubState=dead", "");
        let done = site.run("teslamate-restore", &["--recover"]).expect(0);
        assert!(!done.stderr.contains("a run that was killed left "), "{text:?} {}", done.stderr);
    }
    fs::remove_file(&note).unwrap();
    assert_eq!(verbs(&site), Vec::<String>::new());
}

/// `systemctl clean` may take long, and a stop would wait for it after everything was loaded.
#[test]
fn k11_a_unit_in_maintenance_is_known_before_the_load() {
    let site = site("maintenance");
    site.systemctl.set("maintenance", "SubState=cleaning", "");
    let refused = site.run("teslamate-restore", &["--yes", "a.dump"]).expect(10).says("ActiveState=maintenance");
    assert!(!refused.says("nothing was touched").stderr.contains("loading into"));
    assert_eq!(verbs(&site), Vec::<String>::new());
}
