//! Backups into a repository: what comes out of it, with stock tools alone, is what was in the database.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use glovebox::backup::{Backup, Taken};
use glovebox::database::Connector;
use glovebox::database::tools::Tools;
use glovebox::interrupt::Interrupt;
use glovebox::ledger::{HexId, Ledger, Purpose};
use glovebox::progress::Meter;
use glovebox::repository::{self, Handle, check, snapshots};
use glovebox::settings;
use glovebox::tables::surroundings::Surroundings;

use crate::support::probe::need;
use crate::support::server::fixture;
use crate::support::tree_server::Server17;
use crate::support::{self, Server, connector, wait};

const PASSWORD: &str = "a password of some length\n";

/// Calls into the storage library hear each other's failures.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A repository and a ledger of its own.
pub struct Kept {
    pub directory: tempfile::TempDir,
    pub handle: Handle,
    pub ledger: Ledger,
    _alone: MutexGuard<'static, ()>,
}

impl Kept {
    pub fn new() -> Self {
        let alone = alone();
        let directory = tempfile::tempdir().unwrap();
        let password_file = directory.path().join("password");
        fs::write(&password_file, PASSWORD).unwrap();
        let location = directory.path().join("repository").display().to_string();
        let settings = settings::Repository { location, password_file, ..settings::Repository::default() };
        let handle = repository::init(&settings, 3).unwrap();
        let mut ledger = Ledger::open(directory.path()).unwrap();
        ledger.bind_repository(&HexId::parse(&handle.id().to_string()).unwrap()).unwrap();
        Self { directory, handle, ledger, _alone: alone }
    }

    pub fn take(&mut self, connector: &Connector, tools: Option<&Path>, full_read: bool) -> Taken {
        wait(async {
            let client = connector.connect().await.unwrap();
            let server = glovebox::database::connect::server_version(&client).await.unwrap();
            let tools = Tools::find(connector, tools, server).await.unwrap();
            let backup = Backup {
                connector,
                interrupt: &Interrupt::listen().unwrap(),
                jobs: 2,
                chunk_blocks: 16,
                lock_wait: Duration::from_mins(1),
                full_read,
                temporary: self.directory.path().to_owned(),
                host: "here".to_owned(),
                purpose: Purpose::Regular,
                comment: None,
                extra: Vec::new(),
                surroundings: Surroundings::default(),
            };
            let prepared = backup.prepare(&tools, &Meter::new("")).await.unwrap();
            Box::pin(backup.take(&mut self.ledger, &self.handle, prepared, Vec::new(), &Meter::new(""))).await.unwrap()
        })
    }

    /// What restic makes of a backup, in a directory.
    fn restic_restore(&self, id: &str, hint: &str) -> std::path::PathBuf {
        let target = self.directory.path().join(hint);
        let repository = self.directory.path().join("repository");
        let mut restic = Command::new(need("restic", "restic"));
        restic.arg("-r").arg(repository).arg("--password-file").arg(self.directory.path().join("password"));
        let output = restic.args(["--no-cache", "restore", id, "--target"]).arg(&target).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target
    }
}

/// Follows RESTORE.md to the letter: what stands in backquotes is typed, with the name of the new database in its place.
fn follow_the_page(directory: &Path, database: &str, environment: &[(String, String)], tools: &Path) {
    let page = fs::read_to_string(directory.join("RESTORE.md")).unwrap();
    let lines: Vec<&str> = page.split('`').skip(1).step_by(2).filter(|line| line.contains(' ')).collect();
    let typed = |begin: &str| {
        let line = lines.iter().find(|line| line.starts_with(begin) && !line.starts_with("restic"));
        line.unwrap_or_else(|| panic!("no line begins with {begin}: {lines:?}")).replace("restored", database)
    };
    let post_data = lines.iter().rfind(|line| line.starts_with("pg_restore")).unwrap().replace("restored", database);
    let mut steps = vec![typed("createdb"), typed("pg_restore"), typed("sed"), typed("psql")];
    // There only if a table has a name that psql cannot read from a script.
    if let Some(line) = lines.iter().find(|line| line.contains("RESTORE.md.sh")) {
        steps.push((*line).to_owned());
        let page = page.replace("-d restored -c", &format!("-d {database} -c"));
        fs::write(directory.join("RESTORE.md"), page).unwrap();
    }
    let last = lines.iter().find(|line| line.contains("RESTORE.md.last.sql"));
    let last = last.map(|line| line.replace("-d restored", &format!("-d {database}")));
    for line in steps.into_iter().chain([post_data]).chain(last) {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &line]).current_dir(directory).env_clear();
        shell.env("PATH", format!("{}:/usr/bin:/bin", tools.display())).envs(environment.iter().cloned());
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn environment(socket: &Path, port: u16) -> Vec<(String, String)> {
    let pairs = [("PGHOST", socket.display().to_string()), ("PGPORT", port.to_string()), ("PGUSER", "postgres".into())];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[test]
fn stock_tools_and_the_page_in_the_backup_bring_everything_back() {
    let server = Server::shared();
    let database = server.fresh_name("stored");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.run_file(&database, &fixture("torture.sql"), &[]);
    let mut kept = Kept::new();
    let taken = kept.take(&connector(server.dir(), server.port(), &database, "postgres"), None, false);
    assert_eq!(taken.manifest.read_all.as_deref(), Some("it is the first backup"));
    assert!(check::check(&kept.handle, true, &Meter::new("")).unwrap().is_whole());
    let directory = kept.restic_restore(taken.noted.facts.id.as_str(), "restored-files");
    let copy = server.fresh_name("stored_copy");
    follow_the_page(&directory, &copy, &environment(server.dir(), server.port()), &support::server::bin_dir());
    assert_eq!(server.content(&copy), server.content(&database));
    let objects = "SELECT md5(string_agg(encode(lo_get(oid), 'hex'), ',' ORDER BY oid)) FROM pg_largeobject_metadata";
    assert_eq!(server.query(&copy, objects), server.query(&database, objects));
}

#[test]
fn k6_the_page_in_the_backup_makes_the_database_as_it_was() {
    let server = Server::shared();
    let database = server.fresh_name("paged");
    for sql in [
        "CREATE ROLE \"own'er\nof it\"".to_owned(),
        "CREATE ROLE \"read\"\"er\" LOGIN".to_owned(),
        format!(
            "CREATE DATABASE {database} OWNER \"own'er\nof it\" TEMPLATE template0 LOCALE_PROVIDER icu \
             ICU_LOCALE 'de-u-co-phonebk' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8' CONNECTION LIMIT 9"
        ),
        format!("COMMENT ON DATABASE {database} IS E'two\\nlines, \\\\ and ''quotes'''"),
        format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC"),
        format!("GRANT CONNECT ON DATABASE {database} TO \"read\"\"er\""),
        format!("ALTER DATABASE {database} SET custom.x TO E'a\\nb :y'"),
        format!("ALTER ROLE \"read\"\"er\" IN DATABASE {database} SET search_path TO \"$user\", \"o'dd\""),
    ] {
        server.query("postgres", &sql);
    }
    server.query(&database, "CREATE TABLE t AS SELECT 1 AS a; CREATE INDEX ON t (a)");
    // In the way of every step, if it came before the last one.
    server.query("postgres", &format!("ALTER DATABASE {database} SET default_transaction_read_only TO on"));
    let mut kept = Kept::new();
    let taken = kept.take(&connector(server.dir(), server.port(), &database, "postgres"), None, false);
    let directory = kept.restic_restore(taken.noted.facts.id.as_str(), "paged-files");
    let copy = server.fresh_name("paged_copy");
    follow_the_page(&directory, &copy, &environment(server.dir(), server.port()), &support::server::bin_dir());
    let properties = |name: &str| {
        server.query(
            "postgres",
            &format!(
                "SELECT to_jsonb(d) - 'oid' - 'datname' - 'datfrozenxid' - 'datminmxid' - 'datacl', d.datdba::regrole, \
                        shobj_description(d.oid, 'pg_database'), \
                        (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM aclexplode(d.datacl) a), \
                        (SELECT string_agg(setrole || ' ' || setconfig::text, ',' ORDER BY setrole) \
                           FROM pg_db_role_setting WHERE setdatabase = d.oid) \
                 FROM pg_database d WHERE datname = '{name}'"
            ),
        )
    };
    assert_eq!(properties(&copy), properties(&database));
    assert_eq!(server.query(&copy, "SELECT a FROM t"), "1");
}

#[test]
fn a_second_backup_reads_what_changed_and_holds_everything() {
    let Some(server) = Server17::start(&["autovacuum=off"]) else { return };
    server.make_teslamate();
    server.query(
        "teslamate",
        "CREATE TABLE big AS SELECT i AS id, md5(i::text) || md5((-i)::text) || sha256(i::text::bytea)::text AS note FROM generate_series(1, 50000) i",
    );
    let odd = "\"odd\nta\\b'le \"\"x\"";
    server
        .query("teslamate", &format!("CREATE TABLE {odd} (\"a\rb\" int, c text); INSERT INTO {odd} VALUES (1, 'one')"));
    let connector = connector(&server.socket(), 5432, "teslamate", "postgres");
    // The summary that the first backup's horizon lies in begins here, and not before the table was made.
    server.query("teslamate", "CHECKPOINT");
    let tools = server.tools();
    let mut kept = Kept::new();
    let first = kept.take(&connector, Some(&tools), false);
    server.query("teslamate", "UPDATE big SET note = 'y' WHERE id = 7; DELETE FROM positions WHERE id IN (SELECT max(id) FROM positions WHERE drive_id IS NULL)");
    let second = kept.take(&connector, Some(&tools), false);
    assert_eq!(second.manifest.read_all, None);
    assert!(
        second.chunks_reused > 40 && second.chunks_read < 8,
        "{} read, {} reused",
        second.chunks_read,
        second.chunks_reused
    );
    assert!(second.bytes_stored * 5 < first.bytes_stored, "{} of {}", second.bytes_stored, first.bytes_stored);
    let audit = kept.take(&connector, Some(&tools), true);
    assert_eq!((audit.manifest.read_all.as_deref(), audit.chunks_reused), (Some("--full-read"), 0));
    assert_eq!(audit.manifest.rows(), second.manifest.rows());

    let rows = "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY id)) FROM big t";
    let more = "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY id)) FROM positions t";
    let directory = kept.restic_restore(second.noted.facts.id.as_str(), "second");
    follow_the_page(&directory, "second", &environment(&server.socket(), 5432), &tools);
    for sql in [rows, more, &format!("SELECT * FROM {odd}")] {
        assert_eq!(server.query("second", sql), server.query("teslamate", sql));
    }
    assert!(check::check(&kept.handle, true, &Meter::new("")).unwrap().is_whole());
    assert_eq!(snapshots::list(&kept.handle).unwrap().snapshots.len(), 3);
    assert_eq!(kept.ledger.latest().unwrap().unwrap().facts.id, audit.noted.facts.id);
}
