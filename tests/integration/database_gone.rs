//! The live database is gone: what a restore makes of a backup is the database, not only its contents. And the other way
//! round: what a restore replaces is in a backup before anything drops it.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::server::fixture;
use crate::support::tree_server::Server17;
use crate::support::{Server, Site};

/// Properties of a database as one text, to compare two of them.
fn properties(server: &Server, database: &str) -> String {
    let literal = database.replace('\'', "''");
    server.query(
        "postgres",
        &format!(
            "SELECT to_jsonb(d) - 'oid' - 'datfrozenxid' - 'datminmxid' - 'datacl' - 'datlastsysoid', d.datdba::regrole, \
                    shobj_description(d.oid, 'pg_database'), \
                    (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM aclexplode(d.datacl) a), \
                    (SELECT string_agg(setrole || ' ' || setconfig::text, ',' ORDER BY setrole) \
                       FROM pg_db_role_setting WHERE setdatabase = d.oid) \
             FROM pg_database d WHERE datname = '{literal}'"
        ),
    )
}

/// A database with TeslaMate's tables and nothing that is as by default. Roles are named after it.
fn particular(server: &Server, hint: &str, locale: &str) -> (String, String) {
    let database = server.fresh_name(hint);
    let quoted = format!("\"{}\"", database.replace('"', "\"\""));
    let role = |name: &str| format!("\"{}_{name}\"", database.replace('"', "\"\""));
    server.teslamate("unused");
    for sql in [
        format!("CREATE ROLE {}", role("owner")),
        format!("CREATE ROLE {} LOGIN", role("reader")),
        format!(
            "CREATE DATABASE {quoted} OWNER {} TEMPLATE template0 ENCODING 'UTF8' {locale} CONNECTION LIMIT 33",
            role("owner")
        ),
        format!("COMMENT ON DATABASE {quoted} IS 'it''s \\mine'"),
        format!("REVOKE ALL ON DATABASE {quoted} FROM PUBLIC"),
        format!("GRANT CONNECT, TEMPORARY ON DATABASE {quoted} TO {} WITH GRANT OPTION", role("reader")),
        format!("ALTER DATABASE {quoted} SET TimeZone TO 'Europe/Berlin'"),
        format!("ALTER DATABASE {quoted} SET search_path TO \"$user\", public, \"odd, name\""),
        format!("ALTER ROLE {} IN DATABASE {quoted} SET statement_timeout TO '30s'", role("reader")),
        format!("ALTER DATABASE {quoted} SET custom.setting TO 'a=b ''c'''"),
    ] {
        server.query("postgres", &sql);
    }
    server.run_file(&database, &fixture("schema.sql"), &[]);
    server.query(&database, "CREATE TABLE public.mark AS SELECT 'x' AS name");
    (database, quoted)
}

const ICU: &str = "LOCALE_PROVIDER icu ICU_LOCALE 'de-u-co-phonebk' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'";

#[test]
fn k6_a_dropped_database_comes_back_as_it_was() {
    let server = Server::shared();
    for (hint, locale) in
        [("gone icu", ICU), ("gone \"li'bc", "LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'")]
    {
        let (database, quoted) = particular(server, hint, locale);
        let site = Site::with_repository(server, &database);
        site.run("teslamate-backup", &[]).expect(0);
        server.pg_dump(&database, &site.path("create.sql"), &["--create"]);
        server.pg_dump(&database, &site.path("clean.sql"), &["--create", "--clean", "--if-exists"]);
        server.pg_dump(&database, &site.path("custom.dump"), &["-Fc"]);
        server.pg_dump(&database, &site.path("tar.dump"), &["-Ft", "--create"]);
        server.pg_dump(&database, &site.path("directory"), &["-Fd"]);
        let before = properties(server, &database);
        for source in ["latest", "./create.sql", "./clean.sql", "./custom.dump", "./tar.dump", "./directory"] {
            server.query("postgres", &format!("DROP DATABASE {quoted}"));
            let outcome = site.run("teslamate-restore", &[source, "--yes"]).expect(0);
            assert_eq!(properties(server, &database), before, "{source}: {}", outcome.stderr);
            assert!(!outcome.stderr.contains("not taken over"), "{source}: {}", outcome.stderr);
            assert_eq!(server.query(&database, "SELECT name FROM public.mark"), "x", "{source}");
        }
    }
}

#[test]
fn k6_the_builtin_provider_and_icu_rules_come_back_on_17() {
    let Some(server) = Server17::start(&[]) else { return };
    let tools = server.tools();
    let what = "SELECT datlocprovider, datlocale, daticurules, datcollate FROM pg_database WHERE datname = 'other'";
    for (number, locale) in [
        "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'",
        "LOCALE_PROVIDER icu ICU_LOCALE 'de' ICU_RULES '& V << w <<< W'",
    ]
    .into_iter()
    .enumerate()
    {
        server.query("postgres", &format!("CREATE DATABASE other TEMPLATE template0 {locale}"));
        server.query("other", "CREATE TABLE t (a text); INSERT INTO t VALUES ('V'), ('w')");
        let site = Site::at(&server.socket(), 5432, "other");
        let section = crate::support::repository::section(&site);
        site.configure(&format!("port = 5432\ntools = {tools:?}\n{section}"), "");
        server.query("postgres", "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'teslamate') THEN CREATE ROLE teslamate LOGIN SUPERUSER; END IF; END $$");
        let before = server.query("other", what);
        site.run("teslamate-backup", &[]).expect(0);
        site.run("teslamate-backup", &["a.dump"]).expect(0);
        for source in ["latest", "./a.dump"] {
            server.query("postgres", "DROP DATABASE other");
            site.run("teslamate-restore", &[source, "--yes", "--allow-other"]).expect(0);
            assert_eq!(server.query("other", what), before, "{number} {source}");
        }
        server.query("postgres", "DROP DATABASE other");
    }
}

#[test]
fn k6_a_dump_that_does_not_say_what_it_was_is_told_with_the_commands() {
    let server = Server::shared();
    let database = server.teslamate("untold");
    let site = Site::new(server, &database);
    site.run("teslamate-backup", &["a.sql"]).expect(0);
    let live = site.run("teslamate-restore", &["a.sql", "--yes"]).expect(0);
    assert!(!live.stderr.contains("not taken over"), "{}", live.stderr);
    server.query("postgres", &format!("DROP DATABASE {database}"));
    let gone = site.run("teslamate-restore", &["a.sql", "--yes"]).expect(0).says("are not taken over");
    assert!(gone.stderr.contains(&format!("ALTER DATABASE \"{database}\" OWNER TO")), "{}", gone.stderr);
    assert!(gone.stderr.contains("REVOKE CONNECT"), "{}", gone.stderr);
}

#[test]
fn k6_missing_roles_and_a_missing_locale_are_named_at_once() {
    let server = Server::shared();
    let (database, quoted) = particular(server, "absent", "LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'");
    let site = Site::new(server, &database);
    server.pg_dump(&database, &site.path("a.sql"), &["--create", "--no-owner"]);
    server.pg_dump(&database, &site.path("b.sql"), &["--create"]);
    let text = fs::read_to_string(site.path("b.sql")).unwrap();
    fs::write(site.path("b.sql"), text.replace("'C.UTF-8'", "'xx_YY.UTF-8'")).unwrap();
    server.query("postgres", &format!("DROP DATABASE {quoted}"));
    server.query("postgres", &format!("DROP ROLE \"{database}_owner\", \"{database}_reader\""));
    let outcome = site.run("teslamate-restore", &["b.sql", "--yes"]).expect(10);
    for words in [
        format!("CREATE ROLE \"{database}_owner\""),
        format!("CREATE ROLE \"{database}_reader\""),
        "xx_YY.UTF-8".to_owned(),
        "--locale C.UTF-8".to_owned(),
    ] {
        assert!(outcome.stderr.contains(&words), "{words}: {}", outcome.stderr);
    }
    assert_eq!(server.databases(&database), Vec::<String>::new(), "something was made");
    let without = ["b.sql", "--yes", "--no-owner", "--no-privileges", "--locale", "C.UTF-8", "--allow-other"];
    site.run("teslamate-restore", &without).expect(0).says("statement_timeout");
    let owner = "SELECT datdba::regrole, datconnlimit, datctype FROM pg_database WHERE datname = current_database()";
    assert_eq!(server.query(&database, owner), "teslamate|33|C.UTF-8");
    // A look at it needs no role.
    site.run("teslamate-restore", &["./a.sql", "--drill", "--no-owner", "--no-privileges"]).expect(0);
}

#[test]
fn k6_another_locale_than_the_live_ones_is_said_and_can_be_chosen() {
    let server = Server::shared();
    let (database, quoted) = particular(server, "changed", ICU);
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    server.query("postgres", &format!("DROP DATABASE {quoted}"));
    server.query(
        "postgres",
        &format!("CREATE DATABASE {quoted} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"),
    );
    let said = site.run("teslamate-restore", &["latest", "--yes", "--allow-other", "--no-safety-backup"]).expect(0);
    assert!(said.stderr.contains("de-u-co-phonebk") && said.stderr.contains("libc \"C\""), "{}", said.stderr);
    let provider = "SELECT datlocprovider FROM pg_database WHERE datname = current_database()";
    assert_eq!(server.query(&database, provider), "c", "the live one's stays");
    let arguments = ["latest", "--yes", "--allow-other", "--no-safety-backup", "--locale", "icu:de-u-co-phonebk"];
    site.run("teslamate-restore", &arguments).expect(0);
    assert_eq!(server.query(&database, provider), "i");
}

#[test]
fn k6_other_encodings_come_back_too() {
    let server = Server::shared();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let database = server.fresh_name("encoded");
        server.teslamate("unused");
        server.query(
            "postgres",
            &format!("CREATE DATABASE {database} TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"),
        );
        server.query(
            &database,
            "CREATE TABLE t (a text); INSERT INTO t VALUES (chr(65)), (convert_from('\\x41', 'SQL_ASCII'))",
        );
        let site = Site::with_repository(server, &database);
        site.run("teslamate-backup", &[]).expect(0);
        server.query("postgres", &format!("DROP DATABASE {database}"));
        site.run("teslamate-restore", &["latest", "--yes", "--allow-other"]).expect(0);
        assert_eq!(server.query(&database, "SHOW server_encoding"), encoding);
        assert_eq!(server.query(&database, "SELECT count(*) FROM t"), "2");
    }
}

#[test]
fn k6_settings_of_a_dump_that_only_a_superuser_may_set_are_named() {
    let server = Server::shared();
    let database = server.teslamate("powerful");
    server.query("postgres", &format!("ALTER DATABASE {database} SET log_statement TO 'ddl'"));
    let site = Site::new(server, &database);
    server.pg_dump(&database, &site.path("a.sql"), &["--create"]);
    server.query("postgres", &format!("DROP DATABASE {database}"));
    site.run("teslamate-restore", &["a.sql", "--yes"]).expect(0).says("SET \"log_statement\" TO 'ddl'");
    assert_ne!(server.query(&database, "SHOW log_statement"), "ddl");
    server.query("postgres", &format!("DROP DATABASE {database}"));
    site.run("teslamate-restore", &["a.sql", "--yes", "--trust-dump"]).expect(0);
    assert_eq!(server.query(&database, "SHOW log_statement"), "ddl");
}

/// The car's names in all backups of a site, each loaded beside the live database.
fn names_in_backups(server: &Server, site: &Site) -> Vec<String> {
    let mut found = Vec::new();
    for (number, id) in site.backups().iter().enumerate() {
        let copy = format!("{}_look_{number}", site.database);
        site.run("teslamate-restore", &[id, "--into", &copy]).expect(0);
        found.extend(server.query(&copy, "SELECT name FROM cars").lines().map(str::to_owned));
        server.query("postgres", &format!("DROP DATABASE {copy}"));
    }
    found
}

#[test]
fn k6_rows_written_until_the_swap_are_in_a_backup_before_they_go() {
    let server = Server::shared();
    let site = Site::with_repository(server, &server.teslamate("late"));
    let database = &site.database;
    site.run("teslamate-backup", &[]).expect(0);
    // The safety backup is taken by now, and the swap has not begun.
    fs::write(site.systemctl.dir().join("slow-stop"), "2").unwrap();
    let child = site.command("teslamate-restore").args(&["latest", "--yes"]).spawn();
    let give_up = Instant::now() + Duration::from_mins(1);
    while !site.systemctl.calls().iter().any(|(_, verb)| verb == "stop") {
        assert!(Instant::now() < give_up, "the service was never stopped");
        std::thread::sleep(Duration::from_millis(10));
    }
    server.query(database, "UPDATE cars SET name = 'written late' WHERE id = 1");
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}");
    fs::remove_file(site.systemctl.dir().join("slow-stop")).unwrap();
    let known = names_in_backups(server, &site);
    assert!(
        !known.contains(&"written late".to_owned()),
        "the test proves nothing: {words} {known:?} {:?}",
        site.systemctl.calls()
    );
    let next = site.run("teslamate-restore", &["latest", "--yes", "--json"]).expect(0);
    assert_eq!(next.json()["dropped"].as_array().unwrap().len(), 1, "{}", next.stderr);
    assert!(names_in_backups(server, &site).contains(&"written late".to_owned()), "{}", next.stderr);

    // Nothing was written into what this one drops: its safety backup is enough.
    let backups = site.backups().len();
    let last = site.run("teslamate-restore", &["latest", "--yes", "--json"]).expect(0);
    assert_eq!(last.json()["dropped"].as_array().unwrap().len(), 1, "{}", last.stderr);
    assert_eq!(site.backups().len(), backups + 1, "{}", last.stderr);
}

#[test]
fn k6_a_last_state_that_cannot_be_read_is_no_failed_backup() {
    let server = Server::shared();
    let site = Site::with_repository(server, &server.teslamate("unreadable"));
    site.run("teslamate-backup", &[]).expect(0);
    let first = site.run("teslamate-restore", &["latest", "--yes", "--json"]).expect(0).json();
    let previous = first["previous"].as_str().unwrap();
    server.query(previous, "CREATE TABLE broken AS SELECT 1 AS i");
    server.query(previous, "UPDATE pg_class SET relnamespace = 987654321 WHERE relname = 'broken'");
    let kept = site.run("teslamate-restore", &["latest", "--yes", "--json"]).expect(0);
    assert_eq!(kept.json()["dropped"].as_array().unwrap().len(), 0, "{}", kept.stderr);
    assert!(kept.stderr.contains("is kept, since its last state is in no backup"), "{}", kept.stderr);
    // It was not the live database that could not be backed up.
    site.run("teslamate-backup", &["forget"]).expect(0);
    server.query("postgres", &format!("DROP DATABASE \"{previous}\""));
}

#[test]
fn k6_what_an_undo_replaced_is_in_a_backup_before_it_goes() {
    let server = Server::shared();
    let site = Site::with_repository(server, &server.teslamate("undone"));
    let database = &site.database;
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-restore", &["latest", "--yes"]).expect(0);
    server.query(database, "UPDATE cars SET name = 'after the restore' WHERE id = 1");
    site.run("teslamate-restore", &["--undo", "--yes"]).expect(0);
    // A disk that is gone takes no backup: then nothing is dropped.
    let aside = site.path("aside");
    fs::rename(site.repository(), &aside).unwrap();
    site.run("teslamate-backup", &["a.sql"]).expect(0);
    let kept = site.run("teslamate-restore", &["a.sql", "--yes", "--no-safety-backup", "--json"]).expect(0);
    assert_eq!(kept.json()["dropped"].as_array().unwrap().len(), 0, "{}", kept.stderr);
    assert!(kept.stderr.contains("is kept, since its last state is in no backup"), "{}", kept.stderr);
    fs::rename(&aside, site.repository()).unwrap();
    let next = site.run("teslamate-restore", &["latest", "--yes", "--json"]).expect(0);
    assert_eq!(next.json()["dropped"].as_array().unwrap().len(), 2, "{}", next.stderr);
    assert!(names_in_backups(server, &site).contains(&"after the restore".to_owned()), "{}", next.stderr);
    let latest = site.run("teslamate-restore", &["latest", "--drill", "--json"]).expect(0).json();
    assert_eq!(latest["backup"], site.backups()[0].as_str(), "`latest` is still the regular one");
}
