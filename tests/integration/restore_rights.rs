//! Rights and contents that are looked at before anything is backed up or loaded.

use crate::support::server::Options;
use crate::support::tree_server::TreeServer;
use crate::support::{Server, Site};

#[test]
fn k5_owners_that_a_plain_role_may_not_give_to_are_named() {
    let server = Server::shared();
    let database = server.fresh_name("owners");
    let (plain, first, second) = (format!("plain_{database}"), format!("one_{database}"), format!("two_{database}"));
    server.query("postgres", &format!("CREATE ROLE {plain} LOGIN CREATEDB; CREATE ROLE {first}; CREATE ROLE {second}"));
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER {plain}"));
    server.query(
        &database,
        &format!(
            "CREATE SCHEMA s AUTHORIZATION {first}; CREATE TABLE s.t (a int); ALTER TABLE s.t OWNER TO {first}; \
             INSERT INTO s.t VALUES (1); CREATE TABLE u (a int); ALTER TABLE u OWNER TO {plain}; \
             CREATE SCHEMA z AUTHORIZATION {second}; ALTER DEFAULT PRIVILEGES FOR ROLE {second} GRANT SELECT ON TABLES TO PUBLIC"
        ),
    );
    let site = Site::new(server, &database);
    let run =
        |arguments: &[&str]| site.command("teslamate-restore").args(arguments).env("DATABASE_USER", &plain).outcome();
    for (name, format) in [("a.sql", "-Fp"), ("a.dump", "-Fc")] {
        server.pg_dump(&database, &site.path(name), &[format]);
        for how in [&["--drill"][..], &["--yes", "--allow-other"]] {
            let refused = run(&[how, &[name]].concat()).expect(10);
            let says = format!("may not give objects to their owners \"{first}\", \"{second}\"");
            let refused = refused.says(&says).says("default privileges").says("--no-owner").says("not touched");
            assert!(!refused.stderr.contains("loading into"), "{}", refused.stderr);
        }
        run(&["--drill", "--no-owner", "--no-privileges", name]).expect(0);
    }
    server.query("postgres", &format!("GRANT {first}, {second} TO {plain}"));
    for name in ["a.sql", "a.dump"] {
        run(&["--drill", name]).expect(0);
    }
}

#[test]
fn k17_a_dump_without_teslamate_can_be_looked_at() {
    let server = Server::shared();
    let (database, other) = (server.teslamate("expects"), server.fresh_name("foreign"));
    server.query("postgres", &format!("CREATE DATABASE {other}"));
    server.query(&other, "CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    let site = Site::new(server, &database);
    server.pg_dump(&other, &site.path("a.sql"), &[]);
    server.pg_dump(&other, &site.path("a.dump"), &["-Fc"]);
    server.pg_dump(&database, &site.path("schema.dump"), &["-Fc", "--schema-only"]);
    for source in ["a.sql", "a.dump", "schema.dump"] {
        site.run("teslamate-restore", &[source, "--yes"]).expect(10).says("--into NAME");
        let copy = server.fresh_name("foreign_copy");
        site.run("teslamate-restore", &[source, "--into", &copy]).expect(0).says("without --allow-other");
        site.run("teslamate-restore", &[source, "--drill"]).expect(0).says("without --allow-other");
    }
}

#[test]
fn k10_a_closed_staging_database_is_found_before_the_safety_backup() {
    let hba = "local all postgres trust\nlocal own,postgres half trust\n";
    let server = Server::start(Options { hba: Some(hba.into()), ..Options::default() });
    server.query("postgres", "CREATE ROLE half LOGIN SUPERUSER; CREATE ROLE teslamate");
    server.query("postgres", "CREATE DATABASE own OWNER half");
    server.query("own", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    let site = Site::with_repository(&server, "own");
    let config = std::fs::read_to_string(site.config()).unwrap();
    site.write_config(&config.replace("user = \"teslamate\"", "user = \"half\""));
    site.run("teslamate-backup", &["./a.sql"]).expect(0);
    let refused = site.run("teslamate-restore", &["--yes", "--allow-other", "./a.sql"]).expect(12);
    let refused = refused.says("`local all half peer`").says("the live database was not touched");
    assert!(!refused.stderr.contains("nothing was read"), "{}", refused.stderr);
    let listed = site.run("teslamate-backup", &["list", "--json"]).expect(0);
    assert!(!listed.text().contains("before a restore"), "{}", listed.text());
}

#[test]
fn k5_a_grant_that_helps_is_offered_and_never_that_of_a_superuser() {
    for major in [15, 17] {
        let tree = if major > 15 { TreeServer::of(major, &[]) } else { None };
        if major > 15 && tree.is_none() {
            continue;
        }
        let shared = Server::shared();
        let query = |database: &str, sql: &str| match &tree {
            Some(tree) => tree.query(database, sql),
            None => shared.query(database, sql),
        };
        let database = shared.fresh_name("offered");
        let (plain, other) = (format!("plain_{database}"), format!("other_{database}"));
        query("postgres", &format!("CREATE ROLE {plain} LOGIN CREATEDB"));
        query("postgres", &format!("CREATE ROLE {other}"));
        query("postgres", &format!("CREATE DATABASE {database} OWNER {plain} TEMPLATE template0"));
        query(
            &database,
            &format!(
                "CREATE SCHEMA s AUTHORIZATION {other}; CREATE TABLE s.t (a int); ALTER TABLE s.t OWNER TO {other}"
            ),
        );
        let site = match &tree {
            Some(tree) => tree.site(Some(&tree.tools())),
            None => Site::new(shared, &database),
        };
        let run = |program: &str, arguments: &[&str]| {
            site.command(program).args(arguments).env("DATABASE_NAME", &database).outcome()
        };
        let as_plain = |arguments: &[&str]| {
            let command = site.command("teslamate-restore").args(arguments).env("DATABASE_NAME", &database);
            command.env("DATABASE_USER", &plain).outcome()
        };
        run("teslamate-backup", &["a.dump"]).expect(0);
        let refused = as_plain(&["--drill", "a.dump"]).expect(10);
        let options = if major >= 16 { " WITH INHERIT TRUE, SET TRUE" } else { "" };
        let grant = format!("GRANT \"{other}\" TO \"{plain}\"{options};");
        refused.says(&grant);
        query("postgres", &grant);
        as_plain(&["--drill", "a.dump"]).expect(0);
        query(&database, "CREATE TABLE of_superuser (a int); ALTER TABLE of_superuser OWNER TO CURRENT_USER");
        run("teslamate-backup", &["b.dump"]).expect(0);
        let refused = as_plain(&["--drill", "b.dump"]).expect(10).says("Restore as a superuser").says("--no-owner");
        assert!(!refused.stderr.contains("GRANT "), "{}", refused.stderr);
    }
}
