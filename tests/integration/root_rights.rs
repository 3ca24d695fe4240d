//! K18: what root makes, reads and believes while the account that does the work acts against it.
//!
//! These tests need root, which CI has; elsewhere they say that they were left out.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::privileges::{descendants, site};
use crate::support::server::SERVER_ACCOUNT;
use crate::support::{Site, probe};

const UNIT: &str = "teslamate.service";

/// Lets the account do something.
fn as_account(script: &str) {
    let done = Command::new("runuser").args(["-u", SERVER_ACCOUNT, "--", "sh", "-c", script]).status().unwrap();
    assert!(done.success(), "{script}");
}

fn user() -> nix::unistd::User {
    nix::unistd::User::from_name(SERVER_ACCOUNT).unwrap().unwrap()
}

/// Adds lines above the first section.
fn add_settings(site: &Site, lines: &str) {
    let config = fs::read_to_string(site.config()).unwrap();
    site.write_config(&format!("{lines}\n{config}"));
}

#[test]
fn k18_a_note_of_root_is_out_of_the_accounts_reach() {
    let Some((_, site, _)) = site("noted") else { return };
    site.run("teslamate-backup", &["private/a.dump"]).expect(0);
    fs::write(site.systemctl.dir().join("slow-stop"), "1").unwrap();
    let mut restore = site.command("teslamate-restore").args(&["--yes", "private/a.dump"]).spawn();
    let note = site.note_about(UNIT);
    probe::eventually(30, "a note", || note.exists());
    probe::signal(restore.id(), Signal::SIGKILL);
    restore.wait().unwrap();
    site.systemctl.set("inactive", "SubState=dead", "");
    let found = fs::metadata(&note).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o600));
    // The account takes away all that it can.
    as_account(&format!("rm -rf {0}/* {0}/.[a-z]*; ! rm -f {1}", site.state_dir().display(), note.display()));
    probe::eventually(20, "the server has given the lock up", || {
        site.run("teslamate-backup", &["private/b.sql", "--force"]).stderr.contains("started teslamate.service")
    });
    assert_eq!(site.systemctl.state(), "active");
    assert!(!note.exists());
}

#[test]
fn k18_notes_of_an_older_build_move_out_of_the_accounts_directory() {
    let Some((_, site, _)) = site("moved") else { return };
    let (old, note) = (site.state_dir().join("service-stopped"), site.note_about(UNIT));
    let stopped = || site.systemctl.set("inactive", "SubState=dead", "");
    let run = || site.run("teslamate-backup", &["private/a.sql", "--force"]).expect(0);
    // One that only the account could have made, a link, a FIFO and a second name start nothing.
    let account = user();
    fs::write(site.path("private/note"), "teslamate.service\n").unwrap();
    let forgeries: [&dyn Fn(); 4] = [
        &|| {
            fs::write(&old, "teslamate.service\n").unwrap();
            chown(&old, Some(account.uid.as_raw()), Some(account.gid.as_raw())).unwrap();
        },
        &|| {
            symlink(site.path("private/note"), &old).unwrap();
            lchown(&old, Some(account.uid.as_raw()), None).unwrap();
        },
        &|| nix::unistd::mkfifo(&old, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        &|| fs::hard_link(site.path("private/note"), &old).unwrap(),
    ];
    for forge in forgeries {
        forge();
        stopped();
        let done = run();
        assert!(!done.stderr.contains("teslamate.service"), "{}", done.stderr);
        assert_eq!(site.systemctl.state(), "inactive");
        fs::remove_file(&old).unwrap();
    }
    // Root's own is taken over: of a run that was killed, and of one that did not start, which the next restore tries.
    for (content, starts) in [("teslamate.service\n", true), ("teslamate.service\ndoes not start\n", false)] {
        fs::write(&old, content).unwrap();
        stopped();
        let done = run();
        assert_eq!(done.stderr.contains("started teslamate.service"), starts, "{}", done.stderr);
        assert!(!old.exists());
        assert_eq!(note.exists(), !starts, "{content}");
    }
    let restored = site.run("teslamate-restore", &["--drill", "private/a.sql"]).expect(0);
    assert!(restored.stderr.contains("started teslamate.service"), "{}", restored.stderr);
    assert!(!note.exists());
    // The run that holds it is at work.
    fs::write(&old, "teslamate.service\n").unwrap();
    stopped();
    let _held = nix::fcntl::Flock::lock(fs::File::open(&old).unwrap(), nix::fcntl::FlockArg::LockExclusive).unwrap();
    assert!(!run().stderr.contains("teslamate.service"));
    assert!(old.exists() && !note.exists());
}

#[test]
fn k18_a_worker_killed_while_the_service_starts_leaves_it_started() {
    let Some((_, site, _)) = site("starting") else { return };
    site.run("teslamate-backup", &["private/a.dump"]).expect(0);
    let slow = site.systemctl.dir().join("run-on-start");
    let begun = site.systemctl.dir().join("begun");
    fs::write(&slow, format!("touch {}; sleep 30", begun.display())).unwrap();
    let child = site.command("teslamate-restore").args(&["--yes", "private/a.dump"]).spawn();
    let starts = || site.systemctl.calls().iter().filter(|(_, verb)| verb == "start").count();
    probe::eventually(60, "the service is being started", || begun.exists());
    fs::remove_file(&slow).unwrap();
    probe::signal(descendants(child.id())[0].parse().unwrap(), Signal::SIGKILL);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(137), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((starts(), site.systemctl.state()), (2, "active".to_owned()));
    assert!(!site.note_about(UNIT).exists());
}

#[test]
fn k18_settings_in_the_accounts_hands_do_not_lead_root_astray() {
    let Some((_, site, _)) = site("astray") else { return };
    let secrets = site.state_dir().join("secrets.env");
    add_settings(&site, &format!("secrets_file = {secrets:?}"));
    fs::write(site.path("private/secret"), "DATABASE_PASS=of-somebody-else\n").unwrap();
    let shown = secrets.display();
    for (act, words) in [
        (format!("ln -s {} {shown}", site.path("private/secret").display()), "is a link that another account made"),
        (format!("ln -s /dev/zero {shown}"), "is a link that another account made"),
        (format!("mkfifo {shown}"), "it is no regular file"),
        (format!("truncate -s 100G {shown}"), "is longer than"),
    ] {
        as_account(&act);
        let refused = site.run("teslamate-backup", &["private/a.sql"]).expect(2).says("cannot read the secrets file");
        refused.says(words);
        fs::remove_file(&secrets).unwrap();
    }
    as_account(&format!("echo DATABASE_PASS=x >{shown}"));
    site.run("teslamate-backup", &["private/a.sql"]).expect(0);
}

#[test]
fn k18_root_refuses_a_configuration_that_others_may_change() {
    let Some((_, site, _)) = site("configured") else { return };
    let account = user();
    let (own, below) = (site.config(), site.path("below/config.toml"));
    fs::create_dir(site.path("below")).unwrap();
    fs::copy(&own, &below).unwrap();
    let set = |path: &Path, uid: u32, gid: u32, mode: u32| {
        chown(path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let check = |config: &Path| {
        let mut command = Command::new(crate::support::binary::path_of("teslamate-backup"));
        let output = command.current_dir(site.path("below")).arg("--config").arg(config).arg("check-config").output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (uid, gid) = (account.uid.as_raw(), account.gid.as_raw());
    let directory = site.path("below");
    for (path, (uid, gid, mode), words) in [
        (&below, (uid, gid, 0o600), format!("belongs to another account (uid {uid})")),
        (&below, (0, gid, 0o664), format!("may be changed by a group (gid {gid})")),
        (&below, (0, 0, 0o666), "may be changed by every account".to_owned()),
        (&directory, (uid, gid, 0o755), format!("belongs to another account (uid {uid})")),
        (&directory, (0, gid, 0o775), format!("may be changed by a group (gid {gid})")),
        (&directory, (uid, gid, 0o1777), format!("belongs to another account (uid {uid})")),
    ] {
        set(path, uid, gid, mode);
        for named in [below.as_path(), Path::new("config.toml")] {
            let (code, said) = check(named);
            assert_eq!(code, Some(2), "{words}: {said}");
            let all = format!("{} {words}", path.display());
            assert!(said.contains(&all) && said.contains("/etc/glovebox"), "{all}: {said}");
        }
        set(path, 0, 0, if path == &directory { 0o755 } else { 0o644 });
        assert_eq!(check(&below).0, Some(0));
    }
    for (path, (uid, gid, mode)) in [
        (&below, (0, gid, 0o640)),
        (&below, (0, 0, 0o664)),
        (&directory, (0, gid, 0o1775)),
        (&directory, (0, 0, 0o1777)),
    ] {
        set(path, uid, gid, mode);
        let (code, said) = check(&below);
        assert_eq!(code, Some(0), "{mode:o}: {said}");
    }
}

/// Runs a program in a copy of this system that has a store of Nix, which belongs to nobody here.
fn in_store_of_nobody(options: &str) -> std::process::Output {
    let script = r#"
        mount -t tmpfs tmpfs "$DIR" && mkdir "$DIR"/{upper,work,root} && cd "$DIR"
        mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root || exit 77
        mkdir -p root/nix/store/etc root/program
        printf '[database]\nname = "teslamate"\n' > root/nix/store/etc/config.toml
        chown -R 65534:65534 root/nix/store
        cp "$PROGRAM" root/program/ && mount --bind /proc root/proc
        mount --bind root/nix/store root/nix/store && mount -o "remount,bind,$OPTIONS" root/nix/store
        exec chroot root "/program/${PROGRAM##*/}" --config /nix/store/etc/config.toml check-config
    "#;
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-ec", script]).env("DIR", dir.path()).env("OPTIONS", options);
    command.env("PROGRAM", crate::support::binary::path_of("teslamate-backup")).output().unwrap()
}

#[test]
fn k18_a_store_of_nix_that_nobody_can_write_is_roots_own() {
    if !crate::support::server::is_root() {
        println!("SKIPPED: mounting needs root");
        return;
    }
    let (sealed, open) = (in_store_of_nobody("ro"), in_store_of_nobody("rw"));
    if sealed.status.code() == Some(77) {
        println!("SKIPPED: {}", String::from_utf8_lossy(&sealed.stderr));
        return;
    }
    assert!(sealed.status.success(), "{}", String::from_utf8_lossy(&sealed.stderr));
    let words = String::from_utf8_lossy(&open.stderr);
    assert!(words.contains("/nix/store belongs to another account (uid 65534)"), "{words}");
}

#[test]
fn k18_a_directory_that_the_account_cannot_make_is_named_with_the_command() {
    let Some((_, site, _)) = site("unmade") else { return };
    let parent = site.path("of-nobody");
    fs::create_dir(&parent).unwrap();
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o755)).unwrap();
    chown(&parent, Some(65_534), Some(65_534)).unwrap();
    let config = fs::read_to_string(site.config()).unwrap();
    let section = crate::support::repository::section(&site);
    let (state, repository) = (parent.join("state"), parent.join("repository"));
    let with = |state: &Path, repository: &Path| {
        let text = config.replace(&format!("{:?}", site.state_dir()), &format!("{state:?}"));
        let section = section.replace(&format!("{:?}", site.path("repository")), &format!("{repository:?}"));
        site.write_config(&format!("{text}\n{section}"));
    };
    let typed = |stderr: &str| {
        let command = stderr.split('`').find(|words| words.starts_with("install -d")).expect(stderr).to_owned();
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success(), "{command}");
    };
    let backup = || site.command("teslamate-backup").env("GLOVEBOX_DATABASE_OS_USER", SERVER_ACCOUNT).outcome();
    with(&state, &site.path("repository"));
    let refused = backup();
    assert_ne!(refused.code, Some(0));
    assert!(!state.exists(), "root makes nothing where another account can exchange it");
    typed(&refused.stderr);
    backup().expect(0);
    with(&site.state_dir(), &repository);
    let refused = backup();
    assert_ne!(refused.code, Some(0));
    assert!(!repository.exists());
    typed(&refused.stderr);
    backup().expect(0);
}
