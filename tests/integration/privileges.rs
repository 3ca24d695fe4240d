//! Root keeps root's rights for the file and the service; everything else is done without them.
//!
//! These tests need root, which CI has; elsewhere they say that they were left out.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::repository::section;
use crate::support::server::{SERVER_ACCOUNT, is_root};
use crate::support::{Server, Site, probe};

/// An installation whose state directory belongs to the server's account, and a directory that only root may see.
pub fn site(hint: &str) -> Option<(&'static Server, Site, String)> {
    if !is_root() {
        println!("SKIPPED: giving up root's rights needs root");
        return None;
    }
    let server = Server::shared();
    let database = server.teslamate(hint);
    let site = Site::new(server, &database);
    let user = nix::unistd::User::from_name(SERVER_ACCOUNT).unwrap().unwrap();
    chown(site.state_dir(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    let text = fs::read_to_string(site.config()).unwrap();
    // The state directory's owner is the account; there is none named like the role.
    let text: String = text.lines().filter(|line| !line.starts_with("os_user")).flat_map(|line| [line, "\n"]).collect();
    site.write_config(&text);
    fs::create_dir(site.path("private")).unwrap();
    fs::set_permissions(site.path("private"), fs::Permissions::from_mode(0o700)).unwrap();
    Some((server, site, database))
}

pub fn status(pid: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.trim().to_owned())
}

/// The processes that descend from one.
pub fn descendants(pid: u32) -> Vec<String> {
    let mut found = vec![pid.to_string()];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at].clone();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.parse::<u32>().is_ok()
                && status(&name, "PPid").as_deref() == Some(&parent)
                && !found.contains(&name)
            {
                found.push(name);
            }
        }
        at += 1;
    }
    found.split_off(1)
}

#[test]
fn started_as_root_the_work_is_done_by_the_account_for_good() {
    let Some((server, site, database)) = site("drop") else { return };
    let user = nix::unistd::User::from_name(SERVER_ACCOUNT).unwrap().unwrap();
    // pg_dump waits for this lock, so there is time to look.
    let mut holder = server
        .tool("psql")
        .args(["-X", "-d", &database, "-c", "BEGIN; LOCK TABLE cars; SELECT pg_sleep(4)"])
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let child = site.command("teslamate-backup").arg("private/a.sql").spawn();
    let give_up = Instant::now() + Duration::from_secs(10);
    let seen = loop {
        let pids = descendants(child.id());
        let dump =
            pids.iter().find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default() == "pg_dump\n");
        if let Some(dump) = dump {
            break (pids[0].clone(), dump.clone());
        }
        assert!(Instant::now() < give_up, "pg_dump was never seen");
        std::thread::sleep(Duration::from_millis(20));
    };
    let (worker, dump) = seen;
    let ids = vec![user.uid.to_string(); 4].join("\t");
    for pid in [&worker, &dump] {
        assert_eq!(status(pid, "Uid").unwrap(), ids);
        assert_eq!(status(pid, "NoNewPrivs").unwrap(), "1");
        assert_eq!(status(pid, "CapPrm").unwrap(), "0000000000000000");
        assert_eq!(status(pid, "CapEff").unwrap(), "0000000000000000");
        assert!(!status(pid, "Groups").unwrap().split_whitespace().any(|group| group == "0"), "root's group is left");
    }
    assert_eq!(status(&child.id().to_string(), "Uid").unwrap(), ["0"; 4].join("\t"));
    // pg_dump has its three streams and what it opened itself, the connection; nothing of ours.
    let open: Vec<String> = fs::read_dir(format!("/proc/{dump}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
        .collect();
    assert!(!open.iter().any(|path| path.contains(".partial.") || path.contains("config")), "{open:?}");
    // The file is not readable by others while it is written, and the worker could not have opened it.
    let partial = fs::read_dir(site.path("private")).unwrap().flatten().next().expect("a file is being written");
    let metadata = partial.metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (0, 0o600));
    assert!(child.wait_with_output().unwrap().status.success());
    holder.wait().unwrap();
    assert_eq!(site.files("private"), ["a.sql"]);
    assert_eq!(fs::metadata(site.path("private/a.sql")).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn files_that_only_root_may_read_can_be_restored_in_every_format() {
    let Some((server, site, database)) = site("rootonly") else { return };
    let before = server.content(&database);
    for name in ["a.sql", "a.sql.zst", "a.dump"] {
        site.run("teslamate-backup", &[&format!("private/{name}")]).expect(0);
    }
    server.pg_dump(&database, &site.path("private/dir"), &["-Fd"]);
    for name in ["a.sql", "a.sql.zst", "a.dump", "dir"] {
        server.query(&database, "UPDATE positions SET drive_id = NULL; DELETE FROM drives");
        let outcome = site.run("teslamate-restore", &["--yes", &format!("private/{name}")]).expect(0);
        assert!(!outcome.stderr.contains("working as root"), "{}", outcome.stderr);
        assert_eq!(server.content(&database), before, "{name}");
        assert_eq!(site.systemctl.state(), "active");
        assert_eq!(site.files("state"), Vec::<String>::new(), "{name}");
    }
    site.run("teslamate-restore", &["--yes", "--undo"]).expect(0);
}

#[test]
fn the_worker_killed_alone_leaves_the_service_running_and_no_file() {
    let Some((server, site, database)) = site("worker") else { return };
    site.run("teslamate-backup", &["private/a.dump"]).expect(0);
    let before = server.content(&database);
    fs::write(site.systemctl.dir().join("slow-stop"), "1").unwrap();
    let child = site.command("teslamate-restore").args(&["--yes", "private/a.dump"]).spawn();
    let give_up = Instant::now() + Duration::from_secs(20);
    while site.systemctl.calls().is_empty() {
        assert!(Instant::now() < give_up, "the service was never stopped");
        std::thread::sleep(Duration::from_millis(10));
    }
    let worker: i32 = descendants(child.id())[0].parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(137), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(site.systemctl.state(), "active", "the first process starts the service again");
    assert_eq!(server.content(&database), before);
    site.run("teslamate-restore", &["--drill", "private/a.dump"]).expect(0).says("had left behind");
    assert_eq!(server.databases(&format!("{database}_restore_")), Vec::<String>::new());
}

#[test]
fn an_account_that_does_not_exist_is_a_clear_error() {
    let Some((_, site, _)) = site("noaccount") else { return };
    let run =
        site.command("teslamate-backup").env("GLOVEBOX_DATABASE_OS_USER", "nobody-like-this").arg("private/a.sql");
    run.outcome().expect(2).says("no account \"nobody-like-this\"").says("database.os_user");
    assert_eq!(site.files("private"), Vec::<String>::new());
}

#[test]
fn an_ordinary_user_gains_no_file_that_he_could_not_open() {
    let Some((_, site, _)) = site("ordinary") else { return };
    fs::write(site.path("private/secret.sql"), "x").unwrap();
    // A copy: the build's own directory may be one that only root can enter.
    let binary = site.path("teslamate-restore");
    fs::copy(crate::support::binary::path_of("teslamate-restore"), &binary).unwrap();
    let mut runuser = std::process::Command::new("runuser");
    runuser.args(["-u", SERVER_ACCOUNT, "--"]);
    let run = site.under(runuser, binary.to_str().unwrap()).args(&["--drill", "private/secret.sql"]);
    run.outcome().expect(10).says("cannot open private/secret.sql").says("Permission denied");
}

#[test]
fn nothing_that_the_caller_left_open_or_set_reaches_pg_dump() {
    let Some((server, site, database)) = site("leak") else { return };
    let note = site.path("state/note");
    let script = format!("ls -l /proc/$$/fd > '{0}'; env >> '{0}'; exec $REAL \"$@\"", note.display());
    let tools = probe::tools(&site.path(""), &script);
    for name in ["private/a.sql", "private/a.dump"] {
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", "exec 5</etc/shadow 7>>/etc/hostname; exec \"$@\"", "sh"]);
        let run = site.under(shell, "teslamate-backup").arg(site.path(name));
        let run = run.env("GLOVEBOX_DATABASE_TOOLS", &tools).env("CALLERS_OWN", "value");
        run.outcome().expect(0);
        let seen = fs::read_to_string(&note).unwrap();
        assert!(seen.contains("PGUSER=teslamate") && !seen.contains("CALLERS_OWN"), "{seen}");
        let open = seen.lines().filter_map(|line| line.split_once(" -> "));
        let open = open.map(|(left, path)| (left.rsplit(' ').next().unwrap().parse::<u32>().unwrap(), path));
        // From 10 on they are the shell's own: its script, and copies of what it redirects.
        let more: Vec<_> = open.filter(|(number, _)| (3..10).contains(number)).collect();
        assert_eq!(more, [], "{seen}");
        assert!(!seen.contains("/etc/shadow") && !seen.contains("/etc/hostname"), "{seen}");
        fs::remove_file(&note).unwrap();
    }
    assert_eq!(server.databases(&format!("{database}_")), Vec::<String>::new());
}

#[test]
fn r83_r84_a_signal_or_a_kill_ends_the_worker_and_its_pg_dump() {
    let Some((server, site, database)) = site("ends") else { return };
    for (signal, code, left) in [
        (Signal::SIGTERM, Some(143), 0),
        (Signal::SIGINT, Some(130), 0),
        (Signal::SIGHUP, Some(129), 0),
        (Signal::SIGKILL, None, 1),
    ] {
        let lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
        let child = site.command("teslamate-backup").arg("private/a.dump").spawn();
        probe::pg_dump_of(child.id());
        let below = probe::descendants(child.id());
        assert_eq!(below.len(), 2, "the worker and pg_dump: {below:?}");
        probe::signal(child.id(), signal);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), code, "{}", String::from_utf8_lossy(&output.stderr));
        for (pid, name) in below {
            probe::eventually(5, &format!("{name} ends after {signal}"), || !probe::runs(pid));
        }
        drop(lock);
        assert_eq!(site.files("private").len(), left, "{signal}: {:?}", site.files("private"));
    }
    site.run("teslamate-backup", &["private/{time}.dump"]).expect(0);
    assert_eq!(probe::partials(&site.path("private")), Vec::<String>::new());
}

#[test]
fn a_repository_whose_password_only_root_may_read_belongs_to_the_account() {
    let Some((server, site, database)) = site("vault") else { return };
    fs::write(site.path("private/password"), "a password of some length\n").unwrap();
    fs::write(site.path("private/extra.ini"), "only root").unwrap();
    let config = fs::read_to_string(site.config()).unwrap();
    site.write_config(&format!(
        "{config}\n[repository]\nlocation = {:?}\npassword_file = {:?}\n[backup]\nextra_files = [{:?}]\n",
        site.repository(),
        site.path("private/password"),
        site.path("private/extra.ini")
    ));
    // Only root may make a directory here; the repository in it is the account's.
    let before = server.content(&database);
    let taken = site.run("teslamate-backup", &[]).expect(0);
    assert!(!taken.stderr.contains("working as root"), "{}", taken.stderr);
    let user = nix::unistd::User::from_name(SERVER_ACCOUNT).unwrap().unwrap();
    for path in [site.repository(), site.repository().join("config"), site.state_dir().join("ledger.sqlite")] {
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.uid(), user.uid.as_raw(), "{}", path.display());
        assert_eq!(metadata.mode() & 0o077, 0, "{}", path.display());
    }
    let shown = site.run("teslamate-backup", &["show", "latest"]).expect(0).text();
    assert!(shown.contains("private/extra.ini"), "{shown}");
    server.query(&database, "DELETE FROM charges");
    site.run("teslamate-restore", &["latest", "--yes"]).expect(0);
    assert_eq!(server.content(&database), before);
    // A second repository is not made where the first one is missing.
    fs::remove_dir_all(site.repository()).unwrap();
    site.run("teslamate-backup", &[]).expect(10).says("expected repository");
    assert!(!site.repository().exists());
}

/// Tells the site where its repository is; only root may make a directory there.
fn with_repository(site: &Site) {
    fs::write(site.path("private/password"), "a password of some length\n").unwrap();
    let config = fs::read_to_string(site.config()).unwrap();
    let (location, password) = (site.repository(), site.path("private/password"));
    site.write_config(&format!("{config}\n[repository]\nlocation = {location:?}\npassword_file = {password:?}\n"));
}

#[test]
fn repository_is_made_after_any_command_that_made_the_ledger() {
    let firsts: [&[&str]; 3] =
        [&["teslamate-restore", "--drill", "private/a.dump"], &["teslamate-backup", "list"], &[]];
    for first in firsts {
        let Some((server, site, database)) = site("ledger_first") else { return };
        server.pg_dump(&database, &site.path("private/a.dump"), &["-Fc"]);
        with_repository(&site);
        if let Some((program, arguments)) = first.split_first() {
            site.run(program, arguments);
            assert!(!site.repository().exists(), "{first:?}: nothing else makes one");
        }
        site.run("teslamate-backup", &[]).expect(0);
        // Where it was lost, one is made again by somebody who says so.
        fs::remove_dir_all(site.repository()).unwrap();
        site.run("teslamate-backup", &["init"]).expect(10).says("expected repository");
        assert!(!site.repository().exists(), "{first:?}");
        site.run("teslamate-backup", &["init", "--new-ledger"]).expect(0);
    }
}

#[test]
fn r24_a_copys_directory_is_made_by_hand_and_never_on_the_wrong_disk() {
    let Some((_, site, _)) = site("unplugged") else { return };
    let config = fs::read_to_string(site.config()).unwrap();
    let disk = site.path("disk");
    site.write_config(&format!(
        "{config}\n{}[[copies]]\nlocation = {:?}\npassword_file = {:?}\n",
        section(&site),
        disk.join("teslamate"),
        site.path("password")
    ));
    site.run("teslamate-backup", &[]).expect(0);
    let missing = site.run("teslamate-backup", &["copy"]).expect(10).says("its disk may not be mounted");
    assert!(!disk.exists(), "nothing is made where there is no disk");
    fs::create_dir(&disk).unwrap();
    site.run("teslamate-backup", &["copy"]).expect(10).says("there is no directory");
    site.run("teslamate-backup", &["init"]).expect(0);
    assert!(!disk.join("teslamate").exists(), "nor where there is one");

    // What the hint says is all that is wanted.
    let typed = missing.stderr.split('`').find(|words| words.starts_with("mkdir ")).expect("a command").to_owned();
    assert!(typed.contains(SERVER_ACCOUNT), "{typed}");
    assert!(std::process::Command::new("sh").args(["-c", &typed]).status().unwrap().success(), "{typed}");
    site.run("teslamate-backup", &["copy"]).expect(0);
    let account = nix::unistd::User::from_name(SERVER_ACCOUNT).unwrap().unwrap();
    let made = fs::metadata(disk.join("teslamate/config")).unwrap();
    assert_eq!(made.uid(), account.uid.as_raw());
    // It was there, and is not any more: the same disk, unplugged.
    fs::remove_dir_all(disk.join("teslamate")).unwrap();
    site.run("teslamate-backup", &["copy"]).expect(10).says("mount it");
    assert!(!disk.join("teslamate").exists());
}

#[test]
fn k18_root_makes_directories_only_where_nobody_else_can_exchange_them() {
    let Some((_, site, _)) = site("places") else { return };
    let user = nix::unistd::User::from_name(SERVER_ACCOUNT).unwrap().unwrap();
    let config = fs::read_to_string(site.config()).unwrap();
    let owner = |path: &str| fs::metadata(site.path(path)).map(|found| found.uid()).ok();
    let backup = |state: &str| {
        let state_dir = site.path(state);
        let text: String =
            config.lines().filter(|line| !line.starts_with("state_dir")).flat_map(|line| [line, "\n"]).collect();
        site.write_config(&format!("state_dir = {state_dir:?}\n{text}"));
        let run = site.command("teslamate-backup").env("GLOVEBOX_DATABASE_OS_USER", SERVER_ACCOUNT);
        run.arg(format!("private/{}.dump", state.replace('/', "-"))).outcome()
    };
    // Root's own place: root makes it, with what is missing above it, and the account can work there.
    backup("new/state").expect(0);
    assert_eq!((owner("new"), owner("new/state")), (Some(0), Some(user.uid.as_raw())));
    // The account's own place: it does so itself.
    backup("state/inner/deep").expect(0);
    assert_eq!((owner("state/inner"), owner("state/inner/deep")), (Some(user.uid.as_raw()), Some(user.uid.as_raw())));
    // A link that the account put there leads nowhere that it could not go itself.
    std::os::unix::fs::symlink(site.path("private"), site.path("state/link")).unwrap();
    backup("state/link/trap");
    assert_eq!(owner("private/trap"), None);
}
