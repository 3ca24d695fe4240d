//! Keys for SSH that only root may read, and commands that root types: ssh is another account's, and has a copy meanwhile.
//!
//! These tests need root, which CI has; elsewhere they say that they were left out.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::sys::signal::Signal;

use crate::privileges::site;
use crate::support::network::Sshd;
use crate::support::probe::{self, eventually, need};
use crate::support::repository::section;
use crate::support::server::SERVER_ACCOUNT;
use crate::support::{Server, Site};

/// Where the copies are.
const RUN_DIR: &str = "/run/glovebox";

/// An installation with its repository and a copy of it behind SSH. The keys are root's alone, in a directory that is; the
/// copy's counts only with the certificate beside it.
fn installation(hint: &str) -> Option<(&'static Server, Site, String, Sshd)> {
    let (server, site, database) = site(hint)?;
    let sshd = Sshd::start();
    // What is no secret is within everybody's reach.
    fs::set_permissions(sshd.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(sshd.path("known_hosts"), fs::Permissions::from_mode(0o644)).unwrap();
    let keygen = |arguments: &[&str]| {
        let mut keygen = Command::new(need("ssh-keygen", "openssh-client"));
        assert!(keygen.arg("-q").args(arguments).current_dir(sshd.path("")).status().unwrap().success());
    };
    keygen(&["-t", "ed25519", "-N", "", "-f", "authority"]);
    keygen(&["-s", "authority", "-I", "glovebox", "-n", "root", "stranger.pub"]);
    let read = |name: &str| fs::read_to_string(sshd.path(name)).unwrap();
    let authorized = format!("{}cert-authority {}", read("user.pub"), read("authority.pub"));
    fs::write(sshd.path("authorized_keys"), authorized).unwrap();
    for name in ["user", "stranger", "stranger-cert.pub"] {
        fs::rename(sshd.path(name), site.path("private").join(name)).unwrap();
        fs::set_permissions(site.path("private").join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let location = sshd.location().replace("sftp://", "sftp://root@");
    let entry = |header: &str, location: &str, key: &str| {
        let section = section(&site).replace("[repository]", header);
        let section = section.replace(&format!("{:?}", site.repository()), &format!("{location:?}"));
        let (key, known_hosts) = (site.path("private").join(key), sshd.path("known_hosts"));
        format!(
            "{section}options = {{ identity_file = {key:?}, known_hosts_file = {known_hosts:?}, timeout = \"20s\" }}\n"
        )
    };
    let config = fs::read_to_string(site.config()).unwrap();
    let repository = entry("[repository]", &location, "user");
    let copy = entry("[[copies]]", &format!("{location}-copy"), "stranger");
    site.write_config(&format!("{config}\n{repository}{copy}"));
    Some((server, site, database, sshd))
}

/// The files that hold what this one does. Other tests have copies of other keys there.
fn copies_of(file: &Path) -> Vec<PathBuf> {
    let secret = fs::read(file).unwrap();
    let entries = fs::read_dir(RUN_DIR).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| fs::read(path).is_ok_and(|content| content == secret)).collect()
}

fn left(site: &Site) -> Vec<PathBuf> {
    ["user", "stranger", "stranger-cert.pub"]
        .iter()
        .flat_map(|name| copies_of(&site.path("private").join(name)))
        .collect()
}

#[test]
fn keys_that_only_root_may_read_open_a_repository_and_a_copy_behind_ssh() {
    let Some((server, site, database, sshd)) = installation("identity") else { return };
    let typed = |binary: &str, arguments: &[&str]| {
        let outcome = site.run(binary, arguments).expect(0);
        assert!(!outcome.stderr.contains("working as root"), "{}", outcome.stderr);
        assert_eq!(left(&site), Vec::<PathBuf>::new(), "{arguments:?}");
        outcome
    };
    let made = typed("teslamate-backup", &["init"]).text();
    assert!(made.contains("copy at sftp:"), "{made}");
    typed("teslamate-backup", &[]);
    typed("teslamate-backup", &["check"]);
    typed("teslamate-backup", &["copy"]);
    typed("teslamate-backup", &["list"]);
    assert!(sshd.path("a place/teslamate-copy/config").exists());
    let before = server.content(&database);
    server.query(&database, "DELETE FROM charges");
    typed("teslamate-restore", &["latest", "--yes"]);
    assert_eq!(server.content(&database), before);
    let mode = fs::metadata(RUN_DIR).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o755, "{mode:o}");

    // One that fails leaves nothing either, and one that is not there is told before anything begins.
    site.command("teslamate-backup").env("DATABASE_PORT", "1").outcome().expect(12);
    assert_eq!(left(&site), Vec::<PathBuf>::new());
    let key = site.path("private/user");
    fs::rename(&key, site.path("private/elsewhere")).unwrap();
    let refused = site.run("teslamate-backup", &["check"]).expect(2).says("cannot read the identity file");
    assert!(refused.stderr.contains(key.to_str().unwrap()), "{}", refused.stderr);
    // A key that is no good is recognised by its name, though ssh reads the copy.
    fs::write(&key, "no key\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    site.run("teslamate-backup", &["check"]).expect(10).says(".user").says("Permission denied");
    assert_eq!(left(&site), Vec::<PathBuf>::new());
}

/// A backup that has opened the repository, and waits for a table.
fn waiting(site: &Site, sshd: &Sshd) -> Child {
    let child = site.command("teslamate-backup").spawn();
    let locks = || fs::read_dir(sshd.files().join("locks")).map_or(0, Iterator::count);
    eventually(20, "the repository is open", || locks() > 0);
    child
}

#[test]
fn r83_a_copy_of_a_key_goes_with_a_signal_and_after_a_kill_with_the_next_run() {
    let Some((server, site, database, sshd)) = installation("identity_ends") else { return };
    site.run("teslamate-backup", &["init"]).expect(0);
    let account = nix::unistd::User::from_name(SERVER_ACCOUNT).unwrap().unwrap();
    for (signal, code) in [(Signal::SIGTERM, Some(143)), (Signal::SIGINT, Some(130)), (Signal::SIGKILL, None)] {
        let lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
        let child = waiting(&site, &sshd);
        let (worker, held) = (probe::descendants(child.id()), left(&site));
        assert_eq!(held.len(), 3, "two keys and a certificate: {held:?}");
        for copy in held {
            let found = fs::symlink_metadata(&copy).unwrap();
            let facts = (found.uid(), found.gid(), found.mode() & 0o7777, found.is_file());
            assert_eq!(facts, (account.uid.as_raw(), account.gid.as_raw(), 0o600, true), "{}", copy.display());
        }
        // Another run beside it takes nothing away that is in use.
        site.run("teslamate-backup", &["list"]).expect(0);
        assert_eq!(left(&site).len(), 3);
        probe::signal(child.id(), signal);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), code, "{}", String::from_utf8_lossy(&output.stderr));
        for (pid, name) in worker {
            eventually(10, &format!("{name} ends after {signal}"), || !probe::runs(pid));
        }
        if signal == Signal::SIGKILL {
            site.run("teslamate-backup", &["list"]).expect(0);
        }
        assert_eq!(left(&site), Vec::<PathBuf>::new(), "{signal}");
        drop(lock);
    }
    site.run("teslamate-backup", &[]).expect(0);
}

/// A link that the account put in the place of a key would have root hand it another key.
#[test]
fn k18_links_of_the_account_give_it_no_key_of_root() {
    let Some((_, site, _)) = site("keylink") else { return };
    let (key, secret) = (site.state_dir().join("key"), site.path("private/secret"));
    fs::write(&secret, "a key of root's").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let account = nix::unistd::User::from_name(SERVER_ACCOUNT).unwrap().unwrap();
    let location = section(&site).replace(&format!("{:?}", site.repository()), "\"sftp:nobody@localhost:/none\"");
    let config = fs::read_to_string(site.config()).unwrap();
    site.write_config(&format!("{config}\n{location}options = {{ identity_file = {key:?}, timeout = \"1s\" }}\n"));
    for certificate in [false, true] {
        let link = if certificate { site.state_dir().join("key-cert.pub") } else { key.clone() };
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(account.uid.as_raw()), None).unwrap();
        let refused = site.run("teslamate-backup", &["list"]);
        assert!(refused.stderr.contains("is a link that another account made"), "{}", refused.stderr);
        assert_eq!(copies_of(&secret), Vec::<PathBuf>::new());
        fs::remove_file(&link).unwrap();
        // A key beside which there is a certificate: root's, so that it is copied.
        fs::write(&key, "a key").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    }
}
