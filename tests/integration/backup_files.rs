//! The file of a backup: when it gets its name, who may read it, what is there already, and a full disk.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use crate::support::dumps::{Case, FORMATS, load};
use crate::support::probe::{self, Random, eventually, listing, partials, pg_dump_of, sha256, signal};
use crate::support::server::is_root;
use crate::support::{Outcome, Server};

#[test]
fn quiet_says_nothing_of_a_success() {
    let server = Server::shared();
    let database = server.teslamate("quiet");
    let case = Case::new(server, &database);
    let outcome = case.backup("a.sql").arg("-q").outcome().expect(0);
    assert_eq!((outcome.text(), outcome.stderr.as_str()), (String::new(), ""));
    case.fails(case.backup("a.sql").arg("-q"), 10, &["exists already"]);
}

#[test]
fn standard_output_that_cannot_be_written_is_13() {
    let server = Server::shared();
    let database = server.teslamate("stdout_full");
    let case = Case::new(server, &database);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let run = case.site.command("teslamate-backup").arg("-").with(|command| _ = command.stdout(full));
    case.fails(run, 13, &["cannot write the dump", "No space left on device"]);
    let mut child = case.site.command("teslamate-backup").arg("-").spawn();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(13), "a reader that went away");
    assert!(String::from_utf8_lossy(&output.stderr).contains("The program that read standard output ended"));
}

#[test]
fn r19_an_existing_file_is_refused_and_force_replaces_it_at_once() {
    let server = Server::shared();
    let database = server.teslamate("existing");
    for name in FORMATS {
        let case = Case::new(server, &database);
        fs::write(case.path(name), "a good backup").unwrap();
        let kept = fs::metadata(case.path(name)).unwrap().ino();
        case.fails(case.backup(name), 10, &["exists already", "the file is as it was", "--force"]);
        assert_eq!(fs::metadata(case.path(name)).unwrap().ino(), kept);
        // While the new one is written, the old one is there.
        let lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
        let child = case.backup(name).arg("--force").spawn();
        pg_dump_of(child.id());
        assert_eq!(fs::read(case.path(name)).unwrap(), b"a good backup");
        drop(lock);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains(&sha256(&case.path(name))));
        assert_eq!(listing(&case.out).len(), 1);
    }
}

#[test]
fn r19_a_file_that_appears_meanwhile_is_not_replaced() {
    let server = Server::shared();
    let database = server.teslamate("appears");
    let case = Case::new(server, &database);
    let lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
    let child = case.backup("a.sql").spawn();
    pg_dump_of(child.id());
    fs::write(case.path("a.sql"), "somebody else's").unwrap();
    drop(lock);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(10));
    assert!(String::from_utf8_lossy(&output.stderr).contains("exists already"));
    assert_eq!(fs::read(case.path("a.sql")).unwrap(), b"somebody else's");
    assert!(partials(&case.out).is_empty());
}

#[test]
fn r19_a_kill_while_replacing_keeps_the_old_file() {
    let server = Server::shared();
    let database = server.teslamate("kill_force");
    let case = Case::new(server, &database);
    for name in ["a.sql.zst", "a.dump"] {
        fs::write(case.path(name), "a good backup").unwrap();
        let lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
        let mut child = case.backup(name).arg("--force").spawn();
        let pg_dump = pg_dump_of(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        eventually(5, "pg_dump ends with its parent", || !probe::runs(pg_dump));
        drop(lock);
        assert_eq!(fs::read(case.path(name)).unwrap(), b"a good backup");
    }
    // The second run has removed what the first one left, although it was for another file.
    assert_eq!(partials(&case.out).len(), 1, "{:?}", listing(&case.out));
    case.backup("{time}.sql").outcome().expect(0);
    assert!(partials(&case.out).is_empty(), "{:?}", listing(&case.out));
    case.backup("a.dump").arg("--force").outcome().expect(0);
    assert!(fs::read(case.path("a.dump")).unwrap().starts_with(b"PGDMP"));
}

#[test]
fn r25_only_a_regular_file_is_ever_written() {
    let server = Server::shared();
    let database = server.teslamate("targets");
    let case = Case::new(server, &database);
    fs::write(case.site.path("victim"), "precious").unwrap();
    symlink(case.site.path("victim"), case.path("link.sql")).unwrap();
    symlink(case.site.path("nowhere"), case.path("dangling.sql")).unwrap();
    nix::unistd::mkfifo(&case.path("fifo.sql"), Mode::S_IRWXU).unwrap();
    fs::create_dir(case.path("directory.sql")).unwrap();
    let _socket = UnixListener::bind(case.path("socket.sql")).unwrap();
    for (name, what) in [
        ("link.sql", "is a symbolic link"),
        ("dangling.sql", "is a symbolic link"),
        ("fifo.sql", "is a named pipe"),
        ("directory.sql", "is a directory"),
        ("socket.sql", "is a device or socket"),
    ] {
        for flags in [&[][..], &["--force"]] {
            case.fails(case.backup(name).args(flags), 10, &[what, "not a regular file"]);
        }
    }
    for device in ["/dev/null", "/dev/stdout"] {
        let run = case.site.command("teslamate-backup").arg(device).arg("--force");
        case.fails(run, 10, &["not a regular file"]);
    }
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    assert_eq!(fs::read(case.site.path("victim")).unwrap(), b"precious");
    assert!(!case.site.path("nowhere").exists());
    case.fails(case.backup("directory.sql/"), 2, &["names no file"]);
    case.fails(case.backup("missing/a.sql"), 13, &["cannot write into the directory", "No such file or directory"]);
}

#[test]
fn r26_the_file_is_private_from_its_first_byte() {
    let server = Server::shared();
    let database = server.teslamate("modes");
    let case = Case::new(server, &database);
    for name in FORMATS {
        let lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "umask 0; exec \"$@\"", "sh"]);
        let child = case.site.under(shell, "teslamate-backup").arg(case.path(name)).spawn();
        pg_dump_of(child.id());
        let partial = partials(&case.out).pop().expect("a temporary file beside it");
        assert_eq!(fs::metadata(case.path(&partial)).unwrap().mode() & 0o7777, 0o600, "{partial}");
        assert!(!case.path(name).exists());
        drop(lock);
        assert!(child.wait_with_output().unwrap().status.success());
        assert_eq!(fs::metadata(case.path(name)).unwrap().mode() & 0o7777, 0o600, "{name}");
    }
}

/// Runs a backup on a file system of 8 MB that only it can see, and reports what it left there.
fn on_small_disk(case: &Case, name: &str, flags: &[&str]) -> (Outcome, String) {
    let script = r#"
        mount -t tmpfs -o size=8m tmpfs "$OUT" || exit 99
        echo "a good backup" > "$OUT/kept"
        "$@"; code=$?
        ls -A "$OUT" > "$OUT/../left"; cat "$OUT/kept" >> "$OUT/../left"
        exit $code
    "#;
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "/bin/sh", "-c", script, "sh"]);
    let run = case.site.under(unshare, "teslamate-backup").env("OUT", &case.out);
    let outcome = run.arg(case.path(name)).args(flags).outcome();
    (outcome, fs::read_to_string(case.site.path("left")).unwrap())
}

#[test]
fn r18_a_full_disk_leaves_no_file_and_is_13() {
    let server = Server::shared();
    let database = server.teslamate("full_disk");
    fill(server, &database, 500);
    if is_root() {
        let case = Case::new(server, &database);
        for name in FORMATS {
            let words: &[&str] = &["cannot write the dump", "No space left on device", name, "free:"];
            let (outcome, left) = on_small_disk(&case, name, &[]);
            case.failed(outcome, 13, words, &listing(&case.out));
            assert_eq!(left, "kept\na good backup\n", "{name}");
            fs::remove_file(case.site.path("left")).unwrap();
        }
        let (outcome, left) = on_small_disk(&case, "kept", &["--force"]);
        case.failed(
            outcome,
            13,
            &["No space left on device", "a file that had this name before is as it was"],
            &listing(&case.out),
        );
        assert_eq!(left, "kept\na good backup\n", "the file that was to be replaced");
        let (outcome, _) = on_small_disk(&case, "small.sql", &["--schema-only"]);
        outcome.expect(0);
    } else {
        eprintln!("SKIPPED: a full file system (mounting one needs root)");
    }
}

#[test]
fn r18_a_limit_on_file_size_leaves_no_file_and_is_13() {
    let server = Server::shared();
    let database = server.teslamate("limit");
    fill(server, &database, 200);
    let case = Case::new(server, &database);
    for name in FORMATS {
        let run = case.backup(name).with(limit_file_size);
        case.fails(run, 13, &["cannot write the dump", "File too large", name]);
    }
}

fn limit_file_size(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: setrlimit(2) is a plain system call, which is async-signal-safe.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| {
            Ok(nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_FSIZE, 3 << 20, 3 << 20)?)
        });
    }
}

/// Adds rows of 32 KiB that no compression makes smaller.
fn fill(server: &Server, database: &str, rows: u32) {
    server.query(
        database,
        &format!(
            "CREATE TABLE noise (id int, bytes bytea); ALTER TABLE noise ALTER bytes SET STORAGE EXTERNAL; \
             INSERT INTO noise SELECT i, (SELECT string_agg(sha256((i * 1000 + j)::text::bytea), '') \
             FROM generate_series(1, 1024) j) FROM generate_series(1, {rows}) i"
        ),
    );
}

#[test]
fn r21_what_killed_runs_left_goes_with_the_next_run() {
    let server = Server::shared();
    let database = server.teslamate("sweep");
    let case = Case::new(server, &database);
    let mut random = Random::new("r21");
    let mut left = 0;
    for number in 0..20 {
        let name = format!("{number}.{}", ["sql", "dump", "sql.gz", "sql.zst"][number % 4]);
        let mut child = case.backup(&name).spawn();
        probe::sleep_ms(20 + random.below(250));
        let children = probe::descendants(child.id());
        signal(child.id(), Signal::SIGKILL);
        child.wait().unwrap();
        for (pid, name) in children {
            eventually(5, &format!("{name} ends with its parent"), || !probe::runs(pid));
        }
        left += usize::from(!partials(&case.out).is_empty());
        for (name, _) in listing(&case.out).into_iter().filter(|(name, _)| !name.contains(".partial.")) {
            // What has its name is whole, however soon after the kill came.
            assert_eq!(server.content(&load(server, &case.path(&name))), server.content(&database), "{name}");
            fs::remove_file(case.path(&name)).unwrap();
            let _ = fs::remove_file(case.path(&name).with_extension("unpacked"));
        }
    }
    assert!(left >= 5, "only {left} kills left anything: the test proved nothing");
    // A run at work, and files that are not ours, are left alone.
    fs::write(case.path(".notes.partial.txt"), "mine").unwrap();
    let lock = server.hold(&database, "LOCK TABLE cars IN ACCESS EXCLUSIVE MODE");
    let child = case.backup("working.sql").spawn();
    pg_dump_of(child.id());
    let other = server.teslamate("sweep_other");
    let beside = Case::new(server, &other);
    beside.site.command("teslamate-backup").arg(case.path("last.sql")).outcome().expect(0);
    assert_eq!(partials(&case.out).len(), 2, "{:?}", listing(&case.out));
    drop(lock);
    assert!(child.wait_with_output().unwrap().status.success());
    let names: Vec<String> = listing(&case.out).into_keys().collect();
    assert_eq!(names, [".notes.partial.txt", "last.sql", "working.sql"]);
}

#[test]
fn r22_the_file_is_synced_before_its_name_and_the_directory_after() {
    let strace = probe::need("strace", "strace");
    let server = Server::shared();
    let database = server.teslamate("fsync");
    for name in FORMATS {
        let case = Case::new(server, &database);
        let log = case.site.path("trace");
        let mut traced = Command::new(&strace);
        let calls = "trace=fsync,fdatasync,renameat2,linkat,write,pwrite64,exit_group";
        traced.args(["-f", "-y", "-e", calls, "-o"]).arg(&log);
        case.site.under(traced, "teslamate-backup").arg(case.path(name)).outcome().expect(0);
        let trace = String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
        let lines: Vec<&str> = trace.lines().collect();
        let last = |what: &dyn Fn(&str) -> bool| lines.iter().rposition(|line| what(line));
        let writes = |line: &str| line.contains("write") && line.contains(".partial.");
        let synced = last(&|line| line.contains(" fsync(") && line.contains(".partial.")).expect("fsync of the file");
        let renamed = last(&|line| line.contains(" renameat2(")).expect("a rename");
        let directory = format!("{}>)", case.out.display());
        let settled =
            last(&|line| line.contains(" fsync(") && line.contains(&directory)).expect("fsync of the directory");
        assert!(last(&writes).expect("writes") < synced, "{name}: nothing is written after the file is synced");
        assert!(synced < renamed && renamed < settled, "{name}: {synced} {renamed} {settled}");
        assert!(lines[renamed].contains("RENAME_NOREPLACE"), "{}", lines[renamed]);
    }
}
