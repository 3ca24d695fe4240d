//! Backups and restores on every installed version of PostgreSQL, with the client programs of that version, and moves of
//! a database from the oldest version to the newest. TeslaMate's tables and every kind of object are in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::repository::section;
use crate::support::server::{bin_dir, fixture};
use crate::support::tree_server::TreeServer;
use crate::support::{Server, Site};

/// The versions, each a hop from the one before.
const MAJORS: [u32; 4] = [15, 17, 18, 19];

/// A server with a database on it.
struct Place {
    socket: PathBuf,
    tools: PathBuf,
    database: String,
    summaries: bool,
    _server: Option<TreeServer>,
}

impl Place {
    /// With an empty database; 15 stands for the machine's own server. `None`, said aloud, where there is no such server.
    fn start(major: u32, database: &str) -> Option<Self> {
        let place = if major == 15 {
            let server = Server::shared();
            let (socket, tools) = (server.dir().to_owned(), bin_dir());
            Self { socket, tools, database: database.to_owned(), summaries: server.major() >= 17, _server: None }
        } else {
            let server = TreeServer::of(major, &["autovacuum=off"])?;
            server.query("postgres", "CREATE ROLE teslamate SUPERUSER LOGIN");
            let (socket, tools) = (server.socket(), server.tools());
            Self { socket, tools, database: database.to_owned(), summaries: true, _server: Some(server) }
        };
        println!("{major}: {}", place.query("postgres", "SELECT version()"));
        place.query("postgres", &format!("CREATE DATABASE {database} OWNER teslamate TEMPLATE template0"));
        Some(place)
    }

    fn tool(&self, program: &str, database: &str) -> Command {
        let mut command = Command::new(self.tools.join(program));
        command.env("PGHOST", &self.socket).env("PGUSER", "postgres").env("LC_ALL", "C.UTF-8").args(["-d", database]);
        command
    }

    #[track_caller]
    fn psql(&self, user: &str, database: &str, arguments: &[&str]) -> String {
        let mut psql = self.tool("psql", database);
        psql.env("PGUSER", user).env("PGOPTIONS", "-c client_min_messages=warning");
        let output = psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    #[track_caller]
    fn query(&self, database: &str, sql: &str) -> String {
        self.psql("postgres", database, &["-c", sql])
    }

    /// TeslaMate's tables and data, and every kind of object beside them.
    fn fill(&self) {
        let path = |name: &str| fixture(name).display().to_string();
        for (user, file) in [("teslamate", "schema.sql"), ("teslamate", "data.sql"), ("postgres", "torture.sql")] {
            self.psql(user, &self.database, &["-v", "positions=1000", "-f", &path(file)]);
        }
    }

    /// Rows and hash of every table, the large objects, and where the sequences are.
    #[track_caller]
    fn content(&self, database: &str) -> BTreeMap<String, String> {
        let text = self.psql("postgres", database, &["-f", &fixture("content-hash.sql").display().to_string()]);
        let mut content: BTreeMap<String, String> =
            text.lines().filter_map(|line| line.split_once('|')).map(|(t, h)| (t.to_owned(), h.to_owned())).collect();
        assert!(content.len() > 60, "{content:?}");
        let objects =
            "SELECT md5(string_agg(encode(lo_get(oid), 'hex'), ',' ORDER BY oid)) FROM pg_largeobject_metadata";
        let sequences = "SELECT string_agg(concat_ws(' ', schemaname, sequencename, last_value), ',' \
                         ORDER BY schemaname, sequencename) FROM pg_sequences";
        for (name, sql) in [("large objects", objects), ("sequences", sequences)] {
            content.insert(name.to_owned(), self.query(database, sql));
        }
        content
    }

    /// Definitions as stock `pg_dump` writes them; the word of `\restrict` is another one each time.
    fn definitions(&self, database: &str) -> String {
        let output = self.tool("pg_dump", database).arg("--schema-only").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| !line.starts_with('\\')).collect::<Vec<_>>().join("\n")
    }

    /// An installation on it, with a repository that is not made yet.
    fn site(&self) -> Site {
        let site = Site::at(&self.socket, 5432, &self.database);
        self.configure(&site, &section(&site));
        site
    }

    fn configure(&self, site: &Site, repository: &str) {
        let tools = self.tools.display().to_string();
        let lines = format!("user = \"postgres\"\ntools = {tools:?}\n[backup]\nchunk_blocks = 16\n{repository}");
        site.configure(&lines, "");
        // The user that a site has by itself is TeslaMate's.
        let text = fs::read_to_string(site.config()).unwrap().replacen("user = \"teslamate\"\n", "", 1);
        site.write_config(&text);
    }
}

fn everything_works_on(major: u32) {
    let database = format!("matrix_{major}");
    let Some(place) = Place::start(major, &database) else { return };
    place.fill();
    let (content, definitions) = (place.content(&database), place.definitions(&database));
    let site = place.site();
    let is_as_before = |what: &str| {
        assert_eq!(place.content(&database), content, "{major}: {what}");
        assert_eq!(place.definitions(&database), definitions, "{major}: {what}");
    };

    // The repository: a backup, an incremental one, a drill, a restore of each, and back.
    site.run("teslamate-backup", &[]).expect(0);
    place.query(&database, "UPDATE cars SET name = 'Zoë'");
    let second = site.run("teslamate-backup", &["--json"]).expect(0).json();
    assert_eq!(second["read_all"].is_null(), place.summaries, "{second}");
    assert_eq!(second["chunks_reused"].as_u64() > Some(0), place.summaries, "{second}");
    let changed = place.content(&database);
    let backups = site.backups();
    site.run("teslamate-restore", &["latest", "--drill"]).expect(0);
    site.run("teslamate-restore", &[&backups[0], "--yes"]).expect(0);
    is_as_before("restore of a backup");
    site.run("teslamate-restore", &["--undo", "--yes"]).expect(0);
    assert_eq!(place.content(&database), changed);
    site.run("teslamate-restore", &[&backups[1], "--yes"]).expect(0);
    assert_eq!(place.content(&database), changed, "{major}: restore of an incremental backup");
    site.run("teslamate-restore", &[&backups[0], "--yes", "--data-only", "--table", "cars"]).expect(0);
    is_as_before("rows put back");

    // Dump files: exported, written from the live database, and by the version's own pg_dump.
    site.run("teslamate-backup", &["export", &backups[0], "export.sql.zst"]).expect(0);
    site.run("teslamate-backup", &["a.sql.zst"]).expect(0);
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    for (format, name) in [("plain", "stock.sql"), ("custom", "stock.dump"), ("directory", "stock.dir")] {
        let mut dump = place.tool("pg_dump", &database);
        let output = dump.arg("-F").arg(format).arg("-f").arg(site.path(name)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    site.run("teslamate-restore", &["--drill", "stock.sql"]).expect(0);
    for name in ["export.sql.zst", "a.sql.zst", "a.dump", "stock.dump", "stock.dir"] {
        place.query(&database, "UPDATE cars SET name = 'Zoë'");
        site.run("teslamate-restore", &["--yes", "--no-safety-backup", name]).expect(0);
        is_as_before(name);
    }
    site.run("teslamate-backup", &["check"]).expect(0);
}

#[test]
fn everything_works_on_15() {
    everything_works_on(15);
}

#[test]
fn everything_works_on_17() {
    everything_works_on(17);
}

#[test]
fn everything_works_on_18() {
    everything_works_on(18);
}

#[test]
fn everything_works_on_19() {
    everything_works_on(19);
}

/// From each version to the next that there is a server of; `carry` moves the database.
fn hops(database: &str, carry: impl Fn(&Place, &Place)) {
    let mut places = MAJORS.iter().filter_map(|major| Place::start(*major, database));
    let mut from = places.next().unwrap();
    from.fill();
    let content = from.content(database);
    for to in places {
        carry(&from, &to);
        assert_eq!(to.content(database), content, "{}", to.query(database, "SELECT version()"));
        from = to;
    }
}

#[test]
fn a_repository_carries_a_database_from_15_to_19() {
    hops("hop_backup", |from, to| {
        let (old, new) = (from.site(), to.site());
        old.run("teslamate-backup", &[]).expect(0);
        // A new machine: the repository is there, the ledger is not.
        to.configure(&new, &section(&old));
        new.run("teslamate-backup", &["rebuild"]).expect(0);
        new.run("teslamate-restore", &["latest", "--yes", "--no-safety-backup"]).expect(0);
    });
}

#[test]
fn dump_files_carry_a_database_from_15_to_19() {
    hops("hop_dump", |from, to| {
        let (old, new) = (from.site(), to.site());
        for name in ["a.sql.zst", "a.dump"] {
            old.run("teslamate-backup", &[name]).expect(0);
        }
        let path = |name: &str| old.path(name).display().to_string();
        new.run("teslamate-restore", &["--yes", "--no-safety-backup", &path("a.dump")]).expect(0);
        let content = to.content(&to.database);
        new.run("teslamate-restore", &["--yes", &path("a.sql.zst")]).expect(0);
        assert_eq!(to.content(&to.database), content);
    });
}

/// `database.tools` may be newer than the server: what they write that it does not know changes nothing.
#[test]
fn k10_newer_client_programs_restore_into_the_server_that_they_dumped() {
    let server = Server::shared();
    for major in [17, 18, 19].into_iter().filter(|major| *major > server.major()) {
        let Some(newer) = TreeServer::of(major, &[]) else { continue };
        let database = server.teslamate("newer_tools");
        let site = Site::with_repository(server, &database);
        let text =
            format!("port = {}\ntools = {:?}\n{}", server.port(), newer.tools().display().to_string(), section(&site));
        site.configure(&text, "");
        site.run("teslamate-backup", &[]).expect(0);
        let mut sources = vec!["latest", "a.sql", "a.dump"];
        site.run("teslamate-backup", &["a.sql"]).expect(0);
        site.run("teslamate-backup", &["a.dump"]).expect(0);
        if major >= 18 {
            let mut dump = newer.tool("pg_dump");
            dump.env("PGHOST", server.dir()).args(["--statistics", "-d", &database, "-f"]).arg(site.path("b.sql"));
            assert!(dump.status().unwrap().success());
            let text = fs::read_to_string(site.path("b.sql")).unwrap();
            assert!(text.contains("pg_restore_relation_stats") && text.contains("transaction_timeout"));
            sources.push("b.sql");
        }
        for source in sources {
            let copy = server.fresh_name("newer_copy");
            site.run("teslamate-restore", &[source, "--into", &copy]).expect(0);
            assert_eq!(server.content(&copy), server.content(&database), "{major} {source}");
        }
    }
}
