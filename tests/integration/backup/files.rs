//! The file: its formats, its name, its mode, and what is there already.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use super::{Case, FORMATS, load};
use crate::support::binary::path_of;
use crate::support::probe::{self, Random, descendant, eventually, hex, listing, partials, sha256, signal};
use crate::support::server::is_root;
use crate::support::{Outcome, Server};

#[test]
fn every_format_loads_with_stock_tools_alone() {
    let server = Server::shared();
    let database = server.teslamate("formats");
    let before = server.content(&database);
    let case = Case::new(server, &database);
    let mut rows = None;
    for name in FORMATS.into_iter().chain(["teslamate.bck"]) {
        let outcome = case.backup(name).outcome().expect(0);
        let path = case.path(name);
        let first = outcome.text().lines().next().unwrap().to_owned();
        assert!(first.starts_with(&format!("out/{name}: ")), "{first}");
        assert!(outcome.text().contains(&format!("sha256 {}", sha256(&path))), "{}", outcome.text());
        let told = first.split(", ").find(|part| part.contains(" rows in ")).unwrap().to_owned();
        assert_eq!(*rows.get_or_insert(told.clone()), told, "every format counts the same rows");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(server.content(&load(server, &path)), before, "{name}");
    }
    let bck = fs::read(case.path("teslamate.bck")).unwrap();
    assert!(bck.starts_with(b"--\n-- PostgreSQL database dump\n"), "a .bck file is plain SQL");
    assert!(partials(&case.out).is_empty());
}

#[test]
fn the_json_document_says_what_is_in_the_file() {
    let server = Server::shared();
    let database = server.teslamate("json");
    let case = Case::new(server, &database);
    let outcome = case.backup("a.sql.zst").arg("--json").outcome().expect(0);
    let document = outcome.json();
    let path = case.path("a.sql.zst");
    let fields: Vec<&String> = document.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["bytes", "database", "file", "format", "rows", "seconds", "sha256", "tables"]);
    assert_eq!(document["file"], "out/a.sql.zst");
    assert_eq!(document["database"], database);
    assert_eq!(document["format"], "plain, zstd");
    assert_eq!(document["bytes"], fs::metadata(&path).unwrap().len());
    assert_eq!(document["sha256"], sha256(&path));
    assert!(document["seconds"].as_f64().unwrap() > 0.0);
    let tables = document["tables"].as_object().unwrap();
    let content = server.content(&database);
    assert_eq!(tables.len(), content.len());
    for (table, rest) in &content {
        assert_eq!(tables[table].to_string(), rest.split('|').next().unwrap(), "{table}");
    }
    assert_eq!(document["rows"], tables.values().map(|rows| rows.as_u64().unwrap()).sum::<u64>());
    for line in outcome.stderr.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|cause| panic!("{cause}: {line}"));
        assert!(event["event"].is_string(), "{line}");
    }
    let failure = case.backup("a.sql.zst").arg("--json").outcome().expect(10).json();
    assert_eq!(failure["error"]["kind"], "refused");
    assert_eq!(failure["error"]["exit_code"], 10);
    assert!(failure["error"]["details"]["state"].is_string() && failure["error"]["hints"][0].is_string());
}

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
fn standard_output_gets_the_dump_and_nothing_else() {
    let server = Server::shared();
    let database = server.teslamate("stdout");
    let case = Case::new(server, &database);
    let to_stdout = |flags: &[&str]| case.site.command("teslamate-backup").arg("-").args(flags).outcome().expect(0);
    let plain = to_stdout(&[]);
    assert!(plain.stdout.starts_with(b"--\n-- PostgreSQL database dump\n"));
    assert!(plain.stderr.contains(&format!("sha256 {}", hex(&plain.stdout))), "{}", plain.stderr);
    let json = to_stdout(&["--json"]);
    let document: serde_json::Value = serde_json::from_str(json.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(document["sha256"], hex(&json.stdout));
    assert_eq!(document["bytes"], json.stdout.len());
    fs::write(case.path("piped.sql"), &plain.stdout).unwrap();
    assert_eq!(server.content(&load(server, &case.path("piped.sql"))), server.content(&database));
    assert_eq!(to_stdout(&["-q"]).stderr, "");
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
fn parts_are_what_pg_dump_means_by_them() {
    let server = Server::shared();
    let database = server.teslamate("parts");
    let case = Case::new(server, &database);
    let take = |name: &str, flags: &[&str]| case.backup(name).args(flags).arg("--json").outcome().expect(0).json();
    let text = |name: &str| fs::read_to_string(case.path(name)).unwrap();

    let schema = take("schema.sql", &["--schema-only"]);
    assert_eq!((schema["rows"].as_u64(), schema["tables"].as_object().unwrap().len()), (Some(0), 0));
    assert!(text("schema.sql").contains("CREATE TABLE public.positions") && !text("schema.sql").contains("\nCOPY "));

    let data = take("data.sql", &["--data-only"]);
    assert!(data["rows"].as_u64().unwrap() > 3000);
    assert!(!text("data.sql").contains("CREATE TABLE") && text("data.sql").contains("\nCOPY public.positions"));

    for name in ["table.sql", "table.dump"] {
        let table = take(name, &["--table", "cars", "-t", "geo*"]);
        let tables: Vec<&String> = table["tables"].as_object().unwrap().keys().collect();
        assert_eq!(tables, ["public.cars", "public.geofences"]);
        assert_eq!(table["rows"], 5);
    }
    assert!(!text("table.sql").contains("positions ("));

    case.fails(case.backup("none.sql").args(&["-t", "no_such_table"]), 12, &["no matching tables were found"]);
    case.backup("both.sql").args(&["--schema-only", "--data-only"]).outcome().expect(2).says("cannot be used with");
    case.fails(case.backup("wait.sql").args(&["--lock-wait", "0"]), 2, &["--lock-wait must be at least 1 second"]);
}

#[test]
fn r82_the_time_in_the_name_is_utc_and_names_a_new_file_each_time() {
    let server = Server::shared();
    let database = server.teslamate("time");
    let case = Case::new(server, &database);
    let before = chrono::Utc::now().format("teslamate-%Y-%m-%dT%H%M%SZ.sql.gz").to_string();
    let outcome = case.backup("teslamate-{time}.sql.gz").outcome().expect(0);
    let after = chrono::Utc::now().format("teslamate-%Y-%m-%dT%H%M%SZ.sql.gz").to_string();
    let names: Vec<String> = listing(&case.out).into_keys().collect();
    assert_eq!(names.len(), 1);
    assert!(before <= names[0] && names[0] <= after, "{before} {names:?} {after}");
    assert!(outcome.text().starts_with(&format!("out/{}: ", names[0])));
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
        descendant(child.id(), "pg_dump");
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
    descendant(child.id(), "pg_dump");
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
        let pg_dump = descendant(child.id(), "pg_dump");
        child.kill().unwrap();
        child.wait().unwrap();
        eventually(5, "pg_dump ends with its parent", || !probe::runs(pg_dump));
        drop(lock);
        assert_eq!(fs::read(case.path(name)).unwrap(), b"a good backup");
    }
    assert_eq!(partials(&case.out).len(), 2, "the kill came too late: the test proved nothing");
    // Any later run in this directory removes what the killed ones left.
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
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "umask 0; exec \"$@\"", "sh"]).arg(path_of("teslamate-backup"));
        command.arg("--config").arg(case.site.config()).arg(case.path(name)).stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        descendant(child.id(), "pg_dump");
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
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "/bin/sh", "-c", script, "sh"]);
    command.arg(path_of("teslamate-backup")).arg("--config").arg(case.site.config()).arg(case.path(name)).args(flags);
    let output = command.env("OUT", &case.out).output().unwrap();
    let outcome = Outcome {
        code: output.status.code(),
        signal: None,
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
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
        case.failed(outcome, 13, &["No space left on device"], &listing(&case.out));
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
        command.pre_exec(|| Ok(nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_FSIZE, 3 << 20, 3 << 20)?));
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
    descendant(child.id(), "pg_dump");
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
        let output = Command::new(&strace)
            .args(["-f", "-y", "-e", "trace=fsync,fdatasync,renameat2,linkat,write,pwrite64,exit_group", "-o"])
            .arg(&log)
            .arg(path_of("teslamate-backup"))
            .arg("--config")
            .arg(case.site.config())
            .arg(case.path(name))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let trace = String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
        let lines: Vec<&str> = trace.lines().collect();
        let last = |what: &dyn Fn(&str) -> bool| lines.iter().rposition(|line| what(line));
        let writes = |line: &str| line.contains("write") && line.contains(".partial.");
        let synced = last(&|line| line.contains(" fsync(") && line.contains(".partial.")).expect("fsync of the file");
        let renamed = last(&|line| line.contains(" renameat2(")).expect("a rename");
        let directory = format!("{}>)", case.out.display());
        let settled = last(&|line| line.contains(" fsync(") && line.contains(&directory)).expect("fsync of the directory");
        assert!(last(&writes).expect("writes") < synced, "{name}: nothing is written after the file is synced");
        assert!(synced < renamed && renamed < settled, "{name}: {synced} {renamed} {settled}");
        assert!(lines[renamed].contains("RENAME_NOREPLACE"), "{}", lines[renamed]);
    }
}

#[test]
fn r23_a_flipped_bit_in_zst_is_found_before_anything_is_created() {
    let server = Server::start(crate::support::server::Options {
        config: vec!["log_statement = ddl".into()],
        ..Default::default()
    });
    server.create_teslamate("teslamate", 500);
    let case = Case::new(&server, "teslamate");
    case.backup("a.sql.zst").outcome().expect(0);
    let drill = |name: &str| case.site.command("teslamate-restore").arg("--drill").arg(case.path(name)).outcome();
    let created = || fs::read_to_string(server.dir().join("log")).unwrap().matches("CREATE DATABASE").count();
    drill("a.sql.zst").expect(0);
    let before = created();
    assert!(before > 0, "the log shows what a drill creates");
    let good = fs::read(case.path("a.sql.zst")).unwrap();
    let mut random = Random::new("r23");
    for number in 0..100 {
        let mut bad = good.clone();
        let at = usize::try_from(random.below(good.len() as u64)).unwrap();
        // The one bit that the format reserves and decoders ignore.
        let bit = if at == 4 { 2 } else { random.below(8) };
        bad[at] ^= 1 << bit;
        fs::write(case.path("bad.sql.zst"), &bad).unwrap();
        let outcome = drill("bad.sql.zst");
        let found = matches!(outcome.code, Some(10 | 14));
        assert!(found, "flip {number}, bit {bit} of byte {at}: {:?}\n{}", outcome.code, outcome.stderr);
        assert!(outcome.stderr.contains("state:"), "{}", outcome.stderr);
    }
    assert_eq!(created(), before, "no staging database was made");
}
