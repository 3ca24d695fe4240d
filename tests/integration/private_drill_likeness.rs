//! Drills in a private server of databases that are not as by default: tablespaces, roles, locales; and of a full disk.

use std::fs;

use crate::bad_machine::Mounted;
use crate::private_drill::{IN_PRIVATE, give, left, shared, site};
use crate::support::Server;
use crate::support::server::{Options, fixture, is_root};
use crate::support::tree_server::TreeServer;

#[test]
fn private_drill_leaves_tablespaces_out() {
    let server = Server::start(Options::default());
    server.create_teslamate("teslamate", 600);
    let site = site(&server, "teslamate");
    for name in ["fast", "slow"] {
        let place = server.dir().join(name);
        fs::create_dir(&place).unwrap();
        give(&place);
        server.query("postgres", &format!("CREATE TABLESPACE {name} LOCATION '{}'", place.display()));
    }
    server.query("postgres", "ALTER DATABASE teslamate SET TABLESPACE fast");
    server.query("teslamate", "ALTER TABLE cars SET TABLESPACE pg_default");
    server.query("teslamate", "CREATE INDEX ON cars (vin) TABLESPACE slow");
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    site.run("teslamate-backup", &["a.sql"]).expect(0);
    site.run("teslamate-backup", &[]).expect(0);
    for source in ["a.dump", "a.sql", "latest"] {
        let outcome = site.run("teslamate-restore", &["--drill", "--private", source]).expect(0);
        let told = outcome.stderr.matches("tablespaces are left out: a private server has none").count();
        assert_eq!(told, 1, "{source}: {}", outcome.stderr);
    }
}

#[test]
fn private_drill_of_plain_role_has_no_more_rights() {
    let (server, site) = shared("plain");
    let database = &site.database;
    let (plain, other) = (format!("{database}_plain"), format!("{database}_other"));
    server.query(
        "postgres",
        &format!("CREATE ROLE {plain} LOGIN CREATEDB; CREATE ROLE {other}; ALTER DATABASE {database} OWNER TO {plain}"),
    );
    let table =
        format!("CREATE SCHEMA s AUTHORIZATION {other}; CREATE TABLE s.t (a int); ALTER TABLE s.t OWNER TO {other}");
    server.query(database, &table);
    let path = site.path("a.dump");
    server.pg_dump(database, &path, &["-Fc", "--schema=s"]);
    let as_plain = |how: &str| {
        let command = site.command("teslamate-restore").env("DATABASE_USER", &plain);
        command.args(&["--drill", how, "--allow-other"]).arg(&path).outcome()
    };
    let words = ["--private", "--beside"].map(|how| as_plain(how).expect(10).says("GRANT").stderr);
    assert_eq!(words[0].lines().last(), words[1].lines().last());
    let right = if server.major() >= 16 { " WITH INHERIT TRUE, SET TRUE" } else { "" };
    server.query("postgres", &format!("GRANT {other} TO {plain}{right}"));
    let outcome = as_plain("--private").expect(0);
    assert!(outcome.text().contains(IN_PRIVATE), "{}", outcome.text());
    // Room is known there, whatever the role may ask for.
    assert!(!outcome.stderr.contains("free space was not checked"), "{}", outcome.stderr);
}

#[test]
fn private_drill_has_the_locale_of_the_live_database() {
    let server = Server::shared();
    let icu = "LOCALE_PROVIDER icu ICU_LOCALE 'de-u-co-phonebk' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'";
    for (hint, locale, holds) in [
        ("icu", icu, "'\u{e4}' < 'b'"),
        ("libc", "LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'", "upper('\u{e4}') = '\u{c4}'"),
    ] {
        let database = server.fresh_name(hint);
        let create = format!("CREATE DATABASE {database} OWNER teslamate TEMPLATE template0 ENCODING 'UTF8' {locale}");
        server.query("postgres", &create);
        server.run_file(&database, &fixture("schema.sql"), &[]);
        // Of the collation, which no text of a dump names.
        let table = format!("CREATE TABLE sorted (id int, CHECK ({holds})); INSERT INTO sorted VALUES (1)");
        server.query(&database, &table);
        let site = site(server, &database);
        site.run("teslamate-backup", &[]).expect(0);
        site.run("teslamate-backup", &["a.sql"]).expect(0);
        for source in ["latest", "a.sql"] {
            let outcome = site.run("teslamate-restore", &["--drill", "--private", "--allow-other", source]).expect(0);
            assert!(outcome.text().contains("public.sorted"), "{}", outcome.text());
        }
    }
}

#[test]
fn private_drill_works_with_every_version() {
    for major in [17, 18, 19] {
        let Some(server) = TreeServer::of(major, &[]) else { continue };
        server.make_teslamate();
        for (format, name) in [("c", "a.dump"), ("p", "a.sql")] {
            let path = server.dir().join(name);
            let output =
                server.tool("pg_dump").args(["-d", "teslamate", "-F", format, "-f"]).arg(&path).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        let config = "state_dir = '/mnt/socket/state'\n[database]\nname = 'teslamate'\nuser = 'teslamate'\nsocket_dir = '/mnt/socket'\n";
        fs::write(server.dir().join("config.toml"), config).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_teslamate-restore"), server.dir().join("teslamate-restore")).unwrap();
        for name in ["a.dump", "a.sql"] {
            let dump = format!("/mnt/{name}");
            // The account of the tree's server, whose directory of sockets holds the state, too.
            let output =
                server.run(&["/mnt/teslamate-restore", "--config", "/mnt/config.toml", "--drill", "--private", &dump]);
            let words =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success() && words.contains(IN_PRIVATE), "{major}, {name}: {words}");
        }
    }
}

#[test]
fn drill_without_room_in_the_state_directory_is_beside() {
    if !is_root() {
        println!("SKIPPED: mounting a small file system needs root");
        return;
    }
    let (_, site) = shared("room");
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    let _mounted = Mounted::tmpfs(&site.state_dir(), "size=80m,mode=0777");
    give(&site.state_dir());
    let words = "there is no room for a second copy of the database in";
    site.run("teslamate-restore", &["--drill", "--private", "a.dump"]).expect(10).says(words).says("drill-");
    let outcome = site.run("teslamate-restore", &["--drill", "a.dump"]).expect(0);
    assert!(!outcome.text().contains("private server"), "{}", outcome.text());
    outcome.says(&format!("drilling beside the live database, not in a private server: {words}"));
    assert_eq!(left(&site), Vec::<String>::new());
}
