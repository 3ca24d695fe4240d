//! Drills in a private server: where they take place, what it is like, and that it goes with them.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;

use crate::support::repository::section;
use crate::support::server::{Options, SERVER_ACCOUNT, is_root};
use crate::support::{Outcome, Server, Site, probe};

/// The end of a drill's report that tells where it was.
pub const IN_PRIVATE: &str = "can be restored: drilled in a private server; nothing was changed";

/// The place in a dump in which these statements are put.
const MARKER: &str = "SET default_tablespace = '';";

/// An installation whose work is done by the server's account, with a repository: no server runs as root.
pub fn site(server: &Server, database: &str) -> Site {
    let site = Site::new(server, database);
    let section = section(&site);
    let account = if is_root() { format!("os_user = {SERVER_ACCOUNT:?}\n") } else { String::new() };
    site.write_config(&format!(
        "state_dir = {:?}\n[database]\nname = {database:?}\nuser = \"teslamate\"\nsocket_dir = {:?}\nport = {}\n{account}{section}",
        site.state_dir(),
        server.dir(),
        server.port()
    ));
    give(&site.state_dir());
    site
}

pub fn shared(hint: &str) -> (&'static Server, Site) {
    let server = Server::shared();
    let database = server.teslamate(hint);
    (server, site(server, &database))
}

/// Gives a path to the account that works.
pub fn give(path: &Path) {
    if is_root() {
        let user = nix::unistd::User::from_name(SERVER_ACCOUNT).unwrap().unwrap();
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}

/// A dump of the live database with other statements in it.
pub fn dump_with(server: &Server, site: &Site, statements: &str) -> PathBuf {
    let path = site.path("with.sql");
    server.pg_dump(&site.database, &path, &[]);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(MARKER));
    fs::write(&path, text.replacen(MARKER, &format!("{statements}\n{MARKER}"), 1)).unwrap();
    path
}

pub fn drill(site: &Site, path: &Path, options: &[&str]) -> Outcome {
    site.command("teslamate-restore").args(&["--drill"]).args(options).arg(path).outcome()
}

/// The directories of private servers that are there.
pub fn left(site: &Site) -> Vec<String> {
    site.files("state").into_iter().filter(|name| name.starts_with("drill-")).collect()
}

/// Functions that run while a dump is loaded: `body` is run once.
pub fn running(body: &str) -> String {
    format!(
        "CREATE FUNCTION public.runs() RETURNS text LANGUAGE plpgsql AS $_$\n{body}\n$_$;\n\
         CREATE TABLE public.run (id integer, said text DEFAULT public.runs());\n\
         COPY public.run (id) FROM stdin;\n1\n\\.\n"
    )
}

#[test]
fn private_drill_leaves_live_server_alone() {
    let server = Server::start(Options { config: vec!["log_statement = ddl".into()], ..Options::default() });
    server.create_teslamate("teslamate", 600);
    let site = site(&server, "teslamate");
    site.run("teslamate-backup", &[]).expect(0);
    for format in ["a.sql", "a.dump"] {
        site.run("teslamate-backup", &[format]).expect(0);
    }
    let made = || fs::read_to_string(server.dir().join("log")).unwrap().matches("CREATE DATABASE").count();
    let before = made();
    for source in ["a.sql", "a.dump", "latest"] {
        let outcome = site.run("teslamate-restore", &["--drill", source]).expect(0);
        assert!(outcome.text().contains(IN_PRIVATE), "{source}: {}\n{}", outcome.text(), outcome.stderr);
        assert_eq!(left(&site), Vec::<String>::new(), "{source}");
    }
    let json = site.run("teslamate-restore", &["--drill", "latest", "--json"]).expect(0).json();
    assert_eq!(json["private_server"], true);
    assert_eq!(made(), before, "the live server made no database");
    let beside = site.run("teslamate-restore", &["--drill", "--beside", "a.sql"]).expect(0);
    assert!(!beside.text().contains("private server") && made() > before, "{}", beside.text());
}

#[test]
fn private_drill_has_roles_grants_and_extensions_of_the_live_server() {
    let (server, site) = shared("likeness");
    let database = &site.database;
    let (owner, member) = (format!("{database}_owner"), format!("{database}_member"));
    server.query(
        "postgres",
        &format!(
            "CREATE ROLE {owner} NOLOGIN; CREATE ROLE {member}; GRANT {owner} TO {member} WITH ADMIN OPTION; \
             GRANT CONNECT ON DATABASE {database} TO {member}; ALTER DATABASE {database} SET app.tenant TO 'x'"
        ),
    );
    server.query(
        database,
        &format!(
            "CREATE EXTENSION citext; CREATE TABLE owned (id int, word citext); ALTER TABLE owned OWNER TO {owner}; \
             SET ROLE {owner}; GRANT SELECT ON owned TO {member} WITH GRANT OPTION; SET ROLE {member}; \
             GRANT SELECT ON owned TO PUBLIC"
        ),
    );
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    site.run("teslamate-backup", &[]).expect(0);
    for source in ["a.dump", "latest"] {
        let outcome = site.run("teslamate-restore", &["--drill", "--private", source]).expect(0);
        assert!(outcome.text().contains("public.owned"), "{}", outcome.text());
        assert!(!outcome.stderr.contains("warning"), "{}", outcome.stderr);
    }
    server.query("postgres", &format!("DROP DATABASE {database}"));
    server.query("postgres", &format!("DROP ROLE {owner}, {member}"));
}

#[test]
fn private_drill_fails_as_one_beside_does() {
    let (server, site) = shared("failing");
    let path = dump_with(server, &site, &running("BEGIN RETURN 1 / 0; END"));
    let words = |outcome: Outcome| {
        let lines = outcome.expect(14).says("division by zero").stderr;
        let lines = lines.lines().filter(|line| line.trim_start().starts_with("cause") || line.contains("line "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(words(drill(&site, &path, &["--private"])), words(drill(&site, &path, &["--beside"])));
    assert_eq!(left(&site), Vec::<String>::new());
}

#[test]
fn drill_without_server_programs_is_beside_and_says_so() {
    let (_, site) = shared("programs");
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    let tools = probe::tools(&site.path(""), "exec $REAL \"$@\"");
    let run = |options: &[&str]| {
        let run = site.command("teslamate-restore").env("GLOVEBOX_DATABASE_TOOLS", &tools);
        run.args(&["--drill", "a.dump"]).args(options).outcome()
    };
    let outcome =
        run(&[]).expect(0).says("drilling beside the live database, not in a private server: initdb and postgres");
    assert!(!outcome.text().contains("private server"), "{}", outcome.text());
    run(&["--private"]).expect(10).says("initdb and postgres of PostgreSQL").says("Without --private");
}

#[test]
fn drill_with_extension_of_no_private_server_is_beside() {
    let (server, site) = shared("preload");
    site.run("teslamate-backup", &["a.sql"]).expect(0);
    let path = dump_with(server, &site, "CREATE EXTENSION IF NOT EXISTS not_here WITH SCHEMA public;");
    let says = "it does not make the extension \"not_here\"";
    drill(&site, &path, &[]).expect(10).says(says).says("the server does not have the extension \"not_here\"");
    drill(&site, &path, &["--private"]).expect(10).says("the server does not make the extension \"not_here\"");
    assert_eq!(left(&site), Vec::<String>::new());
}

/// A drill that waits in the middle of its load, the process that does its work, and its private server.
pub fn waiting(server: &Server, site: &Site) -> (Child, u32, u32) {
    let path = dump_with(server, site, &running("BEGIN PERFORM pg_sleep(600); RETURN 'x'; END"));
    let run = site.command("teslamate-restore").args(&["--drill", "--private"]).arg(&path);
    let child = run.with(|command| _ = command.stderr(Stdio::null()).stdout(Stdio::null())).spawn();
    let mut postmaster = 0;
    probe::eventually(60, "a private server that loads", || {
        let below = probe::descendants(child.id());
        postmaster = below.iter().find(|(_, name)| name == "postgres").map_or(0, |(pid, _)| *pid);
        let loads = |pid: u32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(4).any(|word| word == b"COPY"))
        };
        below.iter().any(|(pid, _)| loads(*pid))
    });
    let worker = probe::descendants(child.id()).first().filter(|_| is_root()).map_or(child.id(), |(pid, _)| *pid);
    (child, worker, postmaster)
}

#[test]
fn stopped_private_drill_leaves_no_server_and_no_directory() {
    let (server, site) = shared("stopped");
    let (mut child, _, postmaster) = waiting(server, &site);
    assert_eq!(left(&site).len(), 1);
    // Where memory runs out, it is this one that the kernel ends.
    assert_eq!(fs::read_to_string(format!("/proc/{postmaster}/oom_score_adj")).unwrap().trim(), "1000");
    probe::signal(child.id(), Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(!probe::runs(postmaster));
    assert_eq!(left(&site), Vec::<String>::new());
}

#[test]
fn directory_of_killed_private_drill_goes_with_the_next() {
    let (server, site) = shared("killed");
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    site.run("teslamate-backup", &[]).expect(0);
    let target = site.path("target");
    fs::create_dir(&target).unwrap();
    give(&target);
    std::os::unix::fs::symlink(&target, site.path("state/drill-link")).unwrap();
    let (mut child, worker, postmaster) = waiting(server, &site);
    // Neither a backup nor another drill has to wait for it, and both let it be.
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-restore", &["--drill", "--private", "a.dump"]).expect(0);
    assert!(probe::runs(postmaster));
    probe::signal(worker, Signal::SIGKILL);
    child.wait().unwrap();
    probe::eventually(20, "the private server ends", || !probe::runs(postmaster));
    assert_eq!(left(&site).len(), 2, "the killed one's, and the link");
    site.run("teslamate-restore", &["--drill", "--private", "a.dump"]).expect(0).says("had left behind");
    assert_eq!(left(&site), ["drill-link"]);
    assert!(target.is_dir(), "no link was followed");
}
