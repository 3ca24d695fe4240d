//! Started as root: the work has the database account's rights, the files those of root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use nix::sys::signal::Signal;

use super::{Case, load};
use crate::support::Server;
use crate::support::binary::path_of;
use crate::support::probe::{self, descendant, descendants, eventually, partials, runs, signal};
use crate::support::server::{SERVER_ACCOUNT, is_root};

/// An installation whose state directory belongs to the server's account, which is all that says who does the work;
/// the directory of the dumps is root's alone.
fn case(server: &Server, database: &str, more: &str) -> Option<Case> {
    if !is_root() {
        eprintln!("SKIPPED: giving up root's rights (needs root)");
        return None;
    }
    let case = Case::new(server, database);
    fs::set_permissions(&case.out, fs::Permissions::from_mode(0o700)).unwrap();
    let user = nix::unistd::User::from_name(SERVER_ACCOUNT).unwrap().unwrap();
    chown(case.site.state_dir(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    case.site.write_config(&format!(
        "state_dir = {:?}\n[database]\nname = {database:?}\nuser = \"teslamate\"\nsocket_dir = {:?}\nport = {}\n{more}\n",
        case.site.state_dir(),
        server.dir(),
        server.port()
    ));
    Some(case)
}

/// The values of a line of `/proc/PID/status`.
fn status(pid: u32, name: &str) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

#[test]
fn the_work_runs_as_the_state_directorys_owner_and_cannot_go_back() {
    let server = Server::shared();
    let database = server.teslamate("account");
    let Some(case) = case(server, &database, "") else { return };
    let user = nix::unistd::User::from_name(SERVER_ACCOUNT).unwrap().unwrap();
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    let name = std::ffi::CString::new(SERVER_ACCOUNT).unwrap();
    let mut groups: Vec<u32> = nix::unistd::getgrouplist(&name, user.gid).unwrap().into_iter().map(nix::unistd::Gid::as_raw).collect();
    groups.sort_unstable();
    for file in ["a.sql.gz", "a.dump"] {
        let lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
        let child = case.backup(file).spawn();
        let pg_dump = descendant(child.id(), "pg_dump");
        let below = descendants(child.id());
        assert_eq!(below.len(), 2, "the worker and pg_dump: {below:?}");
        assert_eq!(status(child.id(), "Uid"), [0; 4], "root waits");
        for (pid, name) in below {
            assert_eq!(status(pid, "Uid"), [uid; 4], "{name}");
            assert_eq!(status(pid, "Gid"), [gid; 4], "{name}");
            assert_eq!(status(pid, "Groups"), groups, "{name}");
            assert_eq!(status(pid, "NoNewPrivs"), [1], "{name}");
        }
        assert!(runs(pg_dump));
        drop(lock);
        assert!(child.wait_with_output().unwrap().status.success());
        let metadata = fs::metadata(case.path(file)).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, 0o600), "{file} is root's");
        assert_eq!(server.content(&load(server, &case.path(file))), server.content(&database));
    }
    assert!(partials(&case.out).is_empty());
}

#[test]
fn a_dump_that_only_root_can_read_is_restored_without_roots_rights() {
    let server = Server::shared();
    let database = server.teslamate("root_only");
    let Some(case) = case(server, &database, "") else { return };
    for file in ["a.sql", "a.sql.zst", "a.dump"] {
        case.backup(file).outcome().expect(0);
    }
    server.pg_dump(&database, &case.path("directory"), &["-Fd"]);
    fs::set_permissions(case.path("directory"), fs::Permissions::from_mode(0o700)).unwrap();
    for file in ["a.sql", "a.sql.zst", "a.dump", "directory"] {
        let run = case.site.command("teslamate-restore").arg("--drill").arg(case.path(file)).outcome().expect(0);
        assert!(run.text().contains("can be restored; nothing was changed"), "{}", run.text());
        assert_eq!(case.site.files("state"), Vec::<String>::new(), "{file}: copies go again");
    }
}

#[test]
fn a_file_that_the_caller_may_not_write_is_not_written_for_them() {
    let server = Server::shared();
    let database = server.teslamate("callers_rights");
    let Some(case) = case(server, &database, "") else { return };
    // As the account itself, root's directory is closed.
    let output = Command::new("runuser")
        .args(["-u", SERVER_ACCOUNT, "--"])
        .arg(path_of("teslamate-backup"))
        .arg("--config")
        .arg(case.site.config())
        .arg(case.path("a.sql"))
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    // Where the build directory itself is closed to that account, there is nothing to see here.
    if output.status.code() == Some(126) {
        eprintln!("SKIPPED: the account cannot reach the built binary");
        return;
    }
    assert_eq!(output.status.code(), Some(13), "{words}");
    assert!(words.contains("Permission denied"), "{words}");
}

#[test]
fn nothing_that_the_caller_left_open_reaches_pg_dump() {
    let server = Server::shared();
    let database = server.teslamate("descriptors");
    let Some(case) = case(server, &database, "") else { return };
    let note = case.site.state_dir().join("open");
    let tools = probe::tools(
        &case.site.path(""),
        &format!("ls -l /proc/$$/fd | sed 1d > '{}'; env > '{}.env'; exec $REAL \"$@\"", note.display(), note.display()),
    );
    let config = fs::read_to_string(case.site.config()).unwrap();
    case.site.write_config(&format!("{config}\ntools = {tools:?}\n"));
    for file in ["a.sql", "a.dump"] {
        let output = Command::new("/bin/sh")
            .args(["-c", "exec 5</etc/shadow 7>>/etc/hostname; exec \"$@\"", "sh"])
            .arg(path_of("teslamate-backup"))
            .arg("--config")
            .arg(case.site.config())
            .arg(case.path(file))
            .env("CALLERS_OWN", "value")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let listed = fs::read_to_string(&note).unwrap();
        let others: Vec<&str> = listed
            .lines()
            .filter_map(|line| line.split_once(":").map(|_| line)?.split_once(" -> ").map(|(left, _)| (left, line)))
            .filter(|(left, line)| {
                let number: u32 = left.rsplit(' ').next().unwrap().parse().unwrap();
                // The shell's own script.
                number > 2 && !line.ends_with("/tools/pg_dump")
            })
            .map(|(_, line)| line)
            .collect();
        assert_eq!(others, Vec::<&str>::new());
        let environment = fs::read_to_string(note.with_extension("env")).unwrap();
        assert!(environment.contains("PGUSER=teslamate") && !environment.contains("CALLERS_OWN"), "{environment}");
    }
}

#[test]
fn r83_r84_a_signal_or_a_kill_ends_the_worker_too() {
    let server = Server::shared();
    let database = server.teslamate("worker");
    let Some(case) = case(server, &database, "") else { return };
    for (kind, code) in [
        (Signal::SIGTERM, Some(143)),
        (Signal::SIGINT, Some(130)),
        (Signal::SIGHUP, Some(129)),
        (Signal::SIGKILL, None),
    ] {
        let lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
        let child = case.backup("a.dump").spawn();
        descendant(child.id(), "pg_dump");
        let below = descendants(child.id());
        signal(child.id(), kind);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), code, "{}", String::from_utf8_lossy(&output.stderr));
        for (pid, name) in below {
            eventually(5, &format!("{name} ends"), || !runs(pid));
        }
        drop(lock);
        assert!(!case.path("a.dump").exists());
        assert_eq!(partials(&case.out).len(), usize::from(kind == Signal::SIGKILL));
    }
    case.backup("b.dump").outcome().expect(0);
    assert!(partials(&case.out).is_empty());
}

#[test]
fn a_worker_that_is_killed_is_a_failure_like_any_other() {
    let server = Server::shared();
    let database = server.teslamate("worker_killed");
    let Some(case) = case(server, &database, "") else { return };
    let lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
    let child = case.backup("a.sql").spawn();
    descendant(child.id(), "pg_dump");
    let (worker, _) = descendants(child.id()).into_iter().find(|(_, name)| name.starts_with("teslamate")).unwrap();
    signal(worker, Signal::SIGKILL);
    let output = child.wait_with_output().unwrap();
    drop(lock);
    assert_eq!(output.status.code(), Some(137));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the unprivileged process was killed by signal 9"));
    assert_eq!(fs::read_dir(&case.out).unwrap().count(), 0);
}

#[test]
fn an_account_that_does_not_exist_is_a_mistake_in_the_settings() {
    let server = Server::shared();
    let database = server.teslamate("no_account");
    let Some(case) = case(server, &database, "os_user = \"nobody_of_that_name\"") else { return };
    case.fails(case.backup("a.sql"), 2, &["there is no account \"nobody_of_that_name\"", "database.os_user"]);
}
