//! Attacks on a drill in a private server by functions of the dump, which run as its superuser.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;

use crate::private_drill::{drill, dump_with, give, running, shared, waiting};
use crate::support::probe;
use crate::support::server::as_server_account;

/// A process of the account that works, which a server of the same account could end.
struct Bystander {
    child: Child,
    pid: u32,
}

impl Bystander {
    fn new() -> Self {
        let mut command = as_server_account(Path::new("/bin/sh"));
        let command = command.args(["-c", "echo $$; exec sleep 600"]).stderr(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, pid: line.trim().parse().unwrap() }
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        probe::signal(self.pid, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

#[test]
fn private_drill_lets_nothing_of_a_dump_out() {
    let (server, site) = shared("escape");
    let outside = site.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o755)).unwrap();
    let secret = outside.join("secret");
    fs::write(&secret, "c4nary").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    give(&outside);
    give(&secret);
    let mode = || fs::metadata(&secret).unwrap().permissions().mode() & 0o777;
    let bystander = Bystander::new();
    let pid = bystander.pid;
    let psql = crate::support::server::bin_dir().join("psql");
    let database = &site.database;
    let attempts = [
        ("reading", format!("PERFORM pg_read_file('{}');", secret.display())),
        ("writing", format!("COPY (SELECT 1) TO '{}';", outside.join("copied").display())),
        ("program", format!("COPY (SELECT 1) TO PROGRAM 'cat > {}';", outside.join("echoed").display())),
        (
            "socket",
            format!(
                "COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; {} -h {} -p {} -U teslamate -c \"COMMENT ON DATABASE {database} IS ''reached''\" {database}';",
                psql.display(),
                server.dir().display(),
                server.port()
            ),
        ),
        ("signal", format!("COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; kill -0 {pid}';")),
        // In the place of the server's socket, it would lead the drill's own sessions to the live server.
        ("link", "COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; ln -sfn / link';".to_owned()),
        ("time", format!("COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; touch -c -d 2001-01-01 {}';", secret.display())),
        // PostgreSQL itself sets modes of its files: it is told that it did.
        ("mode", format!("COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; chmod 0604 {}';", secret.display())),
    ];
    let tries: String = attempts
        .iter()
        .map(|(name, statement)| {
            format!(
                "BEGIN {statement} said := said || ' {name} done'; \
                 EXCEPTION WHEN OTHERS THEN said := said || ' {name} refused'; END;\n"
            )
        })
        .collect();
    let body = format!("DECLARE said text := ''; BEGIN\n{tries} RAISE EXCEPTION 'tried:%', said; END");
    let path = dump_with(server, &site, &running(&body));

    drill(&site, &path, &["--private"])
        .expect(14)
        .says("tried: reading refused writing refused program refused socket refused signal refused")
        .says(" link refused time refused mode done");
    assert_eq!(mode(), 0o600);
    let reached = format!(
        "SELECT count(*) FROM pg_database WHERE datname = '{database}' AND shobj_description(oid, 'pg_database') = 'reached'"
    );
    assert_eq!(server.query("postgres", &reached), "0");
    assert_eq!(site.files("outside"), ["secret"]);
    // Nothing of that is refused elsewhere.
    drill(&site, &path, &["--beside", "--trust-dump"])
        .expect(14)
        .says("tried: reading done writing done program done socket done signal done link done time done mode done");
    assert_eq!(mode(), 0o604);
    assert_eq!(server.query("postgres", &reached), "1");
}

/// The processes whose command line holds this word.
fn called(word: &str) -> Vec<u32> {
    let holds = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        probe::runs(*pid) && line.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
    };
    probe::processes().into_iter().filter(holds).collect()
}

#[test]
fn private_drill_ends_programs_that_a_dump_left_running() {
    let (server, site) = shared("daemon");
    let goes_on = site.path("goes_on");
    // The second one is another process each moment: there is no process id by which it could be ended.
    let hops = format!("f() {{ [ -e {} ] || exit; f & sleep 0.01; exit; }}; f", goes_on.display());
    let programs = [("sleeps", "sleep 600; :"), ("hops", &hops)];
    for (hint, program) in programs {
        fs::write(&goes_on, "").unwrap();
        let word = format!("{hint}-{}", site.database);
        let body = format!(
            "BEGIN COPY (SELECT 1) TO PROGRAM '(setsid sh -c ''{program}'' {word} >/dev/null 2>&1 &) ; cat'; RETURN 'x'; END"
        );
        let path = dump_with(server, &site, &running(&body));
        let outcome = drill(&site, &path, &["--private"]).expect(0);
        for _ in 0..20 {
            assert_eq!(called(&word), Vec::<u32>::new(), "{hint}: {}", outcome.stderr);
        }
        drill(&site, &path, &["--beside", "--trust-dump"]).expect(0);
        probe::eventually(5, &format!("the dump leaves a program running that {hint}"), || !called(&word).is_empty());
        let _ = fs::remove_file(&goes_on);
        probe::eventually(5, "it ends", || {
            let found = called(&word);
            for pid in &found {
                probe::signal(*pid, Signal::SIGKILL);
            }
            found.is_empty()
        });
    }
}

#[test]
fn private_server_has_no_descriptor_of_the_drill() {
    let (server, site) = shared("descriptors");
    let (mut child, worker, postmaster) = waiting(server, &site);
    let open = |pid: u32| -> BTreeSet<String> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        entries.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string())).collect()
    };
    let ours = open(worker);
    assert!(!ours.is_empty());
    let servers = probe::descendants(child.id()).into_iter().filter(|(_, name)| name == "postgres");
    for (pid, _) in servers {
        let both: Vec<String> = open(pid).intersection(&ours).cloned().collect();
        let harmless = |name: &String| name == "/dev/null" || name.starts_with("anon_inode:");
        assert!(both.iter().all(harmless), "{both:?}");
    }
    assert!(probe::runs(postmaster));
    probe::signal(child.id(), Signal::SIGTERM);
    child.wait().unwrap();
}
