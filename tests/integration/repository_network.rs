//! Repositories and copies behind a network: real servers on the loopback interface, through the command line.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::support::network::{
    Bucket, Fault, KEY_ID, Mute, REST_PASSWORD, REST_USER, RestServer, SECRET, Sshd, private,
};
use crate::support::probe::{descendants, eventually, need};
use crate::support::repository::{PASSWORD, section};
use crate::support::server::Options;
use crate::support::{Outcome, Server, Site};

/// Configures the repository to lie there, with credentials in a file of their own.
fn place(site: &Site, port: u16, location: &str, variables: &str, options: &str) {
    fs::write(site.path("password"), format!("{PASSWORD}\n")).unwrap();
    private(&site.path("storage.env"), variables);
    let more = format!(
        "port = {port}\n[backup]\nchunk_blocks = 16\n[repository]\nlocation = {location:?}\npassword_file = {:?}\n\
         environment_file = {:?}\n[repository.options]\n{options}",
        site.path("password"),
        site.path("storage.env"),
    );
    site.configure(&more, "");
}

fn site(hint: &str, location: &str, variables: &str, options: &str) -> Site {
    let server = Server::shared();
    let site = Site::new(server, &server.teslamate(hint));
    place(&site, server.port(), location, variables, options);
    site
}

/// Nothing secret in anything that was said.
#[track_caller]
fn keeps_secrets(outcome: Outcome) -> Outcome {
    for text in [&outcome.stderr, &String::from_utf8_lossy(&outcome.stdout).into_owned()] {
        for secret in [SECRET, REST_PASSWORD, "c4nary", PASSWORD] {
            assert!(!text.contains(secret), "r87: {secret} in {text}");
        }
    }
    outcome
}

/// What a repository anywhere has to do: be made only on demand, take two backups, be whole, give them back.
fn tells_the_whole_story(site: &Site, files: &Path) {
    let server = Server::shared();
    let outcome = keeps_secrets(site.run("teslamate-backup", &[])).expect(10);
    outcome.says("no repository at").says("teslamate-backup init");
    assert!(!files.join("config").exists() && !files.join("keys").exists(), "nothing is made by the way");

    keeps_secrets(site.run("teslamate-backup", &["init"])).expect(0);
    assert!(site.run("teslamate-backup", &["init"]).expect(0).text().contains("there already"));
    let first = keeps_secrets(site.run("teslamate-backup", &["--json", "-v"])).expect(0).json();
    server.query(&site.database, "UPDATE positions SET odometer = odometer + 1 WHERE id % 9 = 0");
    let expected = server.content(&site.database);
    let second = site.run("teslamate-backup", &["--json"]).expect(0).json();
    assert!(first["snapshot"] != second["snapshot"], "{first} {second}");
    let backups = site.backups();
    assert_eq!(backups.len(), 2);
    keeps_secrets(site.run("teslamate-backup", &["check", "--read-data"])).expect(0);

    let copy = server.fresh_name("network_copy");
    keeps_secrets(site.run("teslamate-restore", &["latest", "--into", &copy])).expect(0);
    assert_eq!(server.content(&copy), expected);

    assert_eq!(names(files, "snapshots"), backups.iter().cloned().collect(), "no pending snapshot is left");
    assert!(names(files, "locks").is_empty(), "no lock is left");
    site.run("teslamate-backup", &["forget"]).expect(0);
    site.run("teslamate-backup", &["delete", "--yes", &backups[0]]).expect(0);
    assert_eq!(names(files, "snapshots"), BTreeSet::from([backups[1].clone()]));
    site.run("teslamate-backup", &["check"]).expect(0);

    // A snapshot that went is missed by name, and no new repository hides that all went.
    fs::remove_file(files.join("snapshots").join(&backups[1])).unwrap();
    site.run("teslamate-backup", &["check"]).expect(14).says(&backups[1][..8]);
    fs::remove_dir_all(files).unwrap();
    site.run("teslamate-backup", &[]).expect(10).says("found none");
    site.run("teslamate-backup", &["init"]).expect(10).says("found none");
    assert!(!files.join("config").exists());
}

fn names(files: &Path, directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(files.join(directory)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn finish(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code(),
        signal: std::os::unix::process::ExitStatusExt::signal(&output.status),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// restic on the same repository, with these arguments before its own.
fn restic(site: &Site, location: &str, variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let mut restic = Command::new(need("restic", "restic"));
    restic.args(["--no-cache", "-r", location, "--password-file"]).arg(site.path("password")).args(arguments);
    let output = restic.envs(variables.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned() + &said
}

#[test]
fn s3_tells_the_whole_story() {
    let bucket = Bucket::start();
    let site = site("s3", &bucket.location(), &Bucket::variables(), "timeout = \"20s\"\n");
    tells_the_whole_story(&site, &bucket.files());
}

#[test]
fn sftp_tells_the_whole_story() {
    let sshd = Sshd::start();
    let site = site("sftp", &sshd.location(), "", &format!("timeout = \"20s\"\n{}", sshd.options("user")));
    tells_the_whole_story(&site, &sshd.files());
}

#[test]
fn rest_tells_the_whole_story() {
    let rest = RestServer::start();
    let variables = format!("RESTIC_REST_PASSWORD=\"{REST_PASSWORD}\"\n");
    let site = site("rest", &rest.location(), &variables, "timeout = \"20s\"\n");
    tells_the_whole_story(&site, &rest.files());
}

#[test]
fn rclone_tells_the_whole_story() {
    let dir = tempfile::tempdir().unwrap();
    // The remote is known from the file of variables alone.
    let variables = format!("RCLONE_CONFIG_BOX_TYPE=alias\nRCLONE_CONFIG_BOX_REMOTE='{}'\n", dir.path().display());
    let site = site("rclone", "rclone:box:teslamate", &variables, "timeout = \"20s\"\n");
    tells_the_whole_story(&site, &dir.path().join("teslamate"));
    eventually(10, "rclone ends with us", || !processes_with("box:teslamate"));
}

/// Two runs that make a repository in one empty place at the same time: no directory can be held there.
#[test]
fn k2_two_inits_behind_a_network_leave_one_good_repository() {
    let (rest, sshd) = (RestServer::start(), Sshd::start());
    let variables = format!("RESTIC_REST_PASSWORD=\"{REST_PASSWORD}\"\n");
    let timeout = "timeout = \"20s\"\n";
    for (location, variables, options, files) in [
        (rest.location(), variables.as_str(), timeout.to_owned(), rest.files()),
        (sshd.location(), "", format!("{timeout}{}", sshd.options("user")), sshd.files()),
    ] {
        let sites = ["one", "two"].map(|hint| site(hint, &location, variables, &options));
        fs::write(sites[1].path("password"), format!("another {PASSWORD}\n")).unwrap();
        let children = [&sites[0], &sites[1]].map(|site| site.command("teslamate-backup").arg("init").spawn());
        let outcomes = children.map(finish);
        let codes: Vec<_> = outcomes.iter().map(|outcome| outcome.code.unwrap()).collect();
        let told = || outcomes.iter().map(|outcome| outcome.stderr.clone()).collect::<Vec<_>>().join("\n");
        assert!(codes.contains(&0) && codes.iter().any(|code| [10, 11].contains(code)), "{codes:?} {}", told());
        let (won, lost) = if codes[0] == 0 { (&sites[0], &sites[1]) } else { (&sites[1], &sites[0]) };
        assert_eq!(names(&files, "keys").len(), 1, "{}", told());
        won.run("teslamate-backup", &[]).expect(0);
        won.run("teslamate-backup", &["check", "--read-data"]).expect(0);
        lost.run("teslamate-backup", &[]).expect(10);
        won.run("teslamate-restore", &["latest", "--drill"]).expect(0);
    }
}

/// Whether a process has this in its arguments.
fn processes_with(argument: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).split('\0').any(|part| part == argument)
    })
}

#[test]
fn restic_reads_what_lies_behind_a_network() {
    let bucket = Bucket::start();
    let site = site("restic_s3", &bucket.location(), &Bucket::variables(), "");
    site.run("teslamate-backup", &["init"]).expect(0);
    site.run("teslamate-backup", &[]).expect(0);
    let variables = [("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let listed = restic(&site, &bucket.location(), &variables, &["snapshots", "--json"]);
    assert!(listed.contains(&site.backups()[0]), "{listed}");
    // Not its `check`: it lists packs with an empty delimiter, which this server takes for one.
    let manifest = restic(&site, &bucket.location(), &variables, &["dump", "latest", "/manifest.json"]);
    assert!(manifest.contains("\"positions\""), "{manifest}");

    let sshd = Sshd::start();
    let section = section(&site).replace("[repository]", "[[copies]]");
    let section = section.replace(&format!("{:?}", site.path("repository")), &format!("{:?}", sshd.location()));
    let config = fs::read_to_string(site.config()).unwrap();
    site.write_config(&format!("{config}\n{section}[copies.options]\n{}", sshd.options("user")));
    // A copy is made behind a network by `init` alone, too.
    site.run("teslamate-backup", &["copy"]).expect(10).says("no repository at");
    let made = site.run("teslamate-backup", &["init"]).expect(0).text();
    assert!(made.contains("copy at sftp:"), "{made}");
    site.run("teslamate-backup", &["copy"]).expect(0);
    let ssh = format!(
        "sftp.command=ssh -p {} -o IdentitiesOnly=yes -i {} -o UserKnownHostsFile={} 127.0.0.1 -s sftp",
        sshd.port,
        sshd.path("user").display(),
        sshd.path("known_hosts").display()
    );
    let location = format!("sftp:127.0.0.1:{}", sshd.files().display());
    restic(&site, &location, &[], &["-o", &ssh, "check", "--read-data"]);
}

#[test]
fn r33_locks_lie_where_restic_looks_for_them() {
    let bucket = Bucket::start();
    let site = site("locks", &bucket.location(), &Bucket::variables(), "");
    site.run("teslamate-backup", &["init"]).expect(0);
    bucket.delay.store(300, Ordering::Relaxed);
    let child = site.command("teslamate-backup").spawn();
    eventually(20, "a lock is there", || !names(&bucket.files(), "locks").is_empty());
    let variables = [("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let locks = restic(&site, &bucket.location(), &variables, &["list", "locks", "--no-lock"]);
    assert!(!locks.trim().is_empty());
    site.run("teslamate-backup", &[]).expect(11);
    // Another state directory is another machine: it sees the lock in the repository.
    let other = site.command("teslamate-backup").arg("rebuild").env("GLOVEBOX_STATE_DIR", site.path("elsewhere"));
    other.outcome().expect(0);
    finish(child).expect(0);
    bucket.delay.store(0, Ordering::Relaxed);

    // Killed, it leaves a lock that the next one takes away.
    bucket.delay.store(300, Ordering::Relaxed);
    let mut child = site.command("teslamate-backup").spawn();
    eventually(20, "a lock is there", || !names(&bucket.files(), "locks").is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    bucket.delay.store(0, Ordering::Relaxed);
    assert!(!names(&bucket.files(), "locks").is_empty());
    site.run("teslamate-backup", &[]).expect(0);
    assert!(names(&bucket.files(), "locks").is_empty());
}

/// A server with a table that takes a while to read, and an installation on it.
fn slow(location: &str, variables: &str, options: &str) -> (Server, Site) {
    let server = Server::start(Options::default());
    server.create_teslamate("teslamate", 3000);
    let site = Site::new(&server, "teslamate");
    place(&site, server.port(), location, variables, options);
    (server, site)
}

/// The storage goes away while a backup writes: it fails cleanly and in time, and once it is back all is well.
fn survives_an_outage(server: &Server, site: &Site, files: &Path, stop: impl FnOnce(), boot: impl FnOnce()) {
    site.run("teslamate-backup", &["init"]).expect(0);
    site.run("teslamate-backup", &[]).expect(0);
    let before: BTreeSet<String> = site.backups().into_iter().collect();
    server.query(
        "teslamate",
        "CREATE TABLE zlong AS SELECT i, (SELECT string_agg(md5((i * 31 + j)::text), '') FROM generate_series(1, 20) j) AS t \
         FROM generate_series(1, 60000) i",
    );
    let count = || {
        let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        below(&files.join("data")).map(|path| if path.is_dir() { below(&path).count() } else { 1 }).sum::<usize>()
    };
    let packs = count();
    let child = site.command("teslamate-backup").spawn();
    eventually(60, "the first pack is there", || count() > packs);
    stop();
    let begun = Instant::now();
    let outcome = keeps_secrets(finish(child)).expect(13);
    assert!(begun.elapsed() < Duration::from_mins(1), "it waited {} s", begun.elapsed().as_secs());
    assert!(outcome.stderr.contains("given up after"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("no backup was saved"), "{}", outcome.stderr);
    assert_eq!(names(files, "snapshots"), before, "nothing is published");
    // The list is the ledger's; that nobody could be asked is said.
    let listed = site.run("teslamate-backup", &["list"]).expect(0);
    listed.says("the ledger alone was looked at");
    assert_eq!(site.backups().len(), 1);
    keeps_secrets(site.run("teslamate-backup", &[])).expect(13).says("cannot reach the repository");

    boot();
    site.run("teslamate-backup", &[]).expect(0);
    assert_eq!(names(files, "snapshots").len(), 2);
    site.run("teslamate-backup", &["check", "--read-data"]).expect(0);
    site.run("teslamate-restore", &["latest", "--drill"]).expect(0);
}

#[test]
fn r39_a_bucket_that_goes_away_ends_the_backup_in_time_and_the_next_one_succeeds() {
    let bucket = std::cell::RefCell::new(Bucket::start());
    let (location, variables, files) = {
        let bucket = bucket.borrow();
        bucket.delay.store(50, Ordering::Relaxed);
        (bucket.location(), Bucket::variables(), bucket.files())
    };
    let (server, site) = slow(&location, &variables, "timeout = \"4s\"\n");
    survives_an_outage(&server, &site, &files, || bucket.borrow_mut().stop(), || bucket.borrow_mut().boot());
}

#[test]
fn r39_an_sshd_that_goes_away_ends_the_backup_in_time_and_the_next_one_succeeds() {
    let sshd = std::cell::RefCell::new(Sshd::start());
    let (location, options, files) = {
        let sshd = sshd.borrow();
        (sshd.location(), sshd.options("user"), sshd.files())
    };
    let (server, site) = slow(&location, "", &format!("timeout = \"4s\"\n{options}"));
    survives_an_outage(&server, &site, &files, || sshd.borrow_mut().stop(), || sshd.borrow_mut().boot());
    assert!(names(&files, "tmp").len() <= 12, "what was half written lies apart");
}

#[test]
fn r39_a_short_outage_is_waited_out() {
    let mut bucket = Bucket::start();
    bucket.delay.store(200, Ordering::Relaxed);
    let site = site("short_outage", &bucket.location(), &Bucket::variables(), "timeout = \"60s\"\n");
    site.run("teslamate-backup", &["init"]).expect(0);
    let child = site.command("teslamate-backup").spawn();
    eventually(20, "a pack is there", || !names(&bucket.files(), "data").is_empty());
    bucket.stop();
    std::thread::sleep(Duration::from_secs(2));
    bucket.delay.store(0, Ordering::Relaxed);
    bucket.boot();
    finish(child).expect(0);
    site.run("teslamate-backup", &["check", "--read-data"]).expect(0);
    assert!(names(&bucket.files(), "locks").is_empty());
}

#[test]
fn r39_a_server_that_says_nothing_is_given_up_in_time() {
    let mute = Mute::saying("");
    for (location, options) in [
        (format!("s3:http://127.0.0.1:{}/papers", mute.port), ""),
        (format!("rest:http://127.0.0.1:{}/", mute.port), ""),
        (format!("sftp://user@127.0.0.1:{}//x", mute.port), ""),
    ] {
        let variables = "AWS_ACCESS_KEY_ID=x\nAWS_SECRET_ACCESS_KEY=c4nary\n";
        let site = site("mute", &location, variables, &format!("timeout = \"3s\"\n{options}"));
        let begun = Instant::now();
        for arguments in [&["init"][..], &[][..]] {
            let outcome = keeps_secrets(site.run("teslamate-backup", arguments)).expect(13);
            outcome.says("cannot reach the repository").says("given up after").says("nothing was touched");
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{location}: {} s", begun.elapsed().as_secs());
    }
}

#[test]
fn r40_only_a_clear_not_found_counts_as_no_repository() {
    for (status, code, words) in [
        ("401 Unauthorized", 10, "access is denied"),
        ("403 Forbidden", 10, "access is denied"),
        ("500 Internal Server Error", 13, "cannot reach the repository"),
        ("302 Found", 10, "cannot use the repository"),
    ] {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let mute = Mute::saying(answer.leak());
        let location = format!("rest:http://{REST_USER}@127.0.0.1:{}/", mute.port);
        let site = site("status", &location, "RESTIC_REST_PASSWORD=c4nary\n", "timeout = \"2s\"\n");
        for arguments in [&["init"][..], &[][..], &["check"][..]] {
            let outcome = keeps_secrets(site.run("teslamate-backup", arguments)).expect(code);
            let outcome = outcome.says(words).says(status.split(' ').next().unwrap());
            assert!(outcome.stderr.contains("nothing was touched"), "{}", outcome.stderr);
        }
    }
    let bucket = Bucket::start();
    for (status, code) in [(403, 10), (503, 13)] {
        let site = site("status_s3", &bucket.location(), &Bucket::variables(), "timeout = \"2s\"\n");
        bucket.fail(Fault::Status(status));
        site.run("teslamate-backup", &["init"]).expect(code);
        bucket.fail(Fault::None);
        assert!(!bucket.files().exists());
    }
}

#[test]
fn wrong_credentials_and_places_are_told_apart_and_make_nothing() {
    let bucket = Bucket::start();
    let variables = format!("AWS_ACCESS_KEY_ID={KEY_ID}\nAWS_SECRET_ACCESS_KEY=c4nary-of-another\n");
    let wrong_key = site("wrong_key", &bucket.location(), &variables, "timeout = \"5s\"\n");
    keeps_secrets(wrong_key.run("teslamate-backup", &["init"])).expect(10).says("access is denied");
    let no_key = site("no_key", &bucket.location(), "", "");
    no_key.run("teslamate-backup", &["init"]).expect(10).says("AWS_SECRET_ACCESS_KEY");
    let elsewhere = bucket.location().replace("papers", "nowhere");
    let no_bucket = site("no_bucket", &elsewhere, &Bucket::variables(), "timeout = \"5s\"\n");
    no_bucket.run("teslamate-backup", &["init"]).expect(10).says("NoSuchBucket");
    assert!(!bucket.files().exists());

    let sshd = Sshd::start();
    let options = |key: &str| format!("timeout = \"5s\"\n{}", sshd.options(key));
    let stranger = site("stranger", &sshd.location(), "", &options("stranger"));
    keeps_secrets(stranger.run("teslamate-backup", &["init"])).expect(10).says("Permission denied");
    let unknown = options("user").replace("known_hosts\"", "authorized_keys\"");
    let unknown = site("unknown_host", &sshd.location(), "", &unknown);
    unknown.run("teslamate-backup", &["init"]).expect(10).says("Host key verification failed");
    assert!(!sshd.files().exists());

    let rest = RestServer::start();
    let site_rest = site("wrong_rest", &rest.location(), "RESTIC_REST_PASSWORD=c4nary\n", "timeout = \"5s\"\n");
    keeps_secrets(site_rest.run("teslamate-backup", &["init"])).expect(10).says("401 Unauthorized");
    assert!(!rest.files().exists());

    for location in ["rest:http://127.0.0.1:1/", "s3:http://127.0.0.1:1/papers", "sftp://127.0.0.1:1//x"] {
        let site = site("nobody", location, &Bucket::variables(), "timeout = \"2s\"\n");
        site.run("teslamate-backup", &["init"]).expect(13).says("onnection refused");
        site.run("teslamate-backup", &[]).expect(13).says("nothing was touched");
    }
    let slip = site("slip", &bucket.location(), &Bucket::variables(), "regoin = \"c4nary\"\n");
    keeps_secrets(slip.run("teslamate-backup", &["init"])).expect(2).says("Did you mean `region`?");
}

#[test]
fn r31_a_list_that_is_cut_short_stops_everything_that_removes() {
    let bucket = Bucket::start();
    let site = site("short", &bucket.location(), &Bucket::variables(), "timeout = \"5s\"\n");
    site.run("teslamate-backup", &["init"]).expect(0);
    for _ in 0..2 {
        site.run("teslamate-backup", &[]).expect(0);
    }
    let before = names(&bucket.files(), "snapshots");
    for directory in ["snapshots", "data", "index"] {
        bucket.fail(Fault::ShortLists(directory));
        let outcome = site.run("teslamate-backup", &["forget"]).expect(13);
        outcome.says("is another one each time");
    }
    bucket.fail(Fault::None);
    assert_eq!(names(&bucket.files(), "snapshots"), before);
    site.run("teslamate-backup", &["check", "--read-data"]).expect(0);
}

#[test]
fn r41_a_pack_that_was_acknowledged_and_lost_is_missed_before_the_backup_is_published() {
    let bucket = Bucket::start();
    let site = site("lost", &bucket.location(), &Bucket::variables(), "timeout = \"5s\"\n");
    site.run("teslamate-backup", &["init"]).expect(0);
    bucket.fail(Fault::LostPacks);
    site.run("teslamate-backup", &[]).expect(14).says("is missing");
    assert!(names(&bucket.files(), "snapshots").is_empty() && site.backups().is_empty());
}

#[test]
fn secrets_are_in_no_arguments_and_no_other_process_has_them() {
    let bucket = Bucket::start();
    let site = site("argv", &bucket.location(), &Bucket::variables(), "");
    site.run("teslamate-backup", &["init"]).expect(0);
    bucket.delay.store(300, Ordering::Relaxed);
    let child = site.command("teslamate-backup").spawn();
    eventually(20, "it writes", || !names(&bucket.files(), "locks").is_empty());
    // Not those of other tests: restic has its secrets in its environment.
    for (pid, name) in descendants(child.id()).into_iter().chain([(child.id(), "teslamate-backup".to_owned())]) {
        for file in ["cmdline", "environ"] {
            let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&text).contains(SECRET), "{file} of {name}");
        }
    }
    bucket.delay.store(0, Ordering::Relaxed);
    finish(child).expect(0);
}
