//! Objects that are called like keywords: the server knows a name by its place in a statement, and so must a restore.

use std::path::PathBuf;
use std::process::Command;

use crate::support::server::fixture;
use crate::support::tree_server::TreeServer;
use crate::support::{Server, Site};

/// A server's programs, connected to it as its superuser.
type Tool<'a> = &'a dyn Fn(&str) -> Command;

/// Runs SQL, or a file of it.
#[track_caller]
fn psql(tool: Tool<'_>, database: &str, arguments: &[&str]) {
    let mut psql = tool("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-d", database]).args(arguments);
    let output = psql.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Writes a dump into a file.
#[track_caller]
fn dump(tool: Tool<'_>, database: &str, path: &PathBuf, options: &[&str]) {
    let output = tool("pg_dump").args(options).args(["-d", database, "-f"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// All that stock `pg_dump` says of a database; the word of `\restrict` is another one each time.
#[track_caller]
fn dumped(tool: Tool<'_>, database: &str) -> String {
    let output = tool("pg_dump").args(["--encoding=UTF8", "-d", database]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.starts_with('\\')).collect::<Vec<_>>().join("\n")
}

/// Restores dumps of a database in every form, and compares the results with it.
#[track_caller]
fn assert_restored(site: &Site, tool: Tool<'_>, database: &str, forms: &[(&str, &[&str])]) {
    let expected = dumped(tool, database);
    for (number, (name, options)) in forms.iter().enumerate() {
        dump(tool, database, &site.path(name), options);
        let copy = format!("{database}_copy_{number}");
        site.run("teslamate-restore", &["--into", &copy, "--allow-other", name]).expect(0);
        let found = dumped(tool, &copy);
        let different = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
        assert!(expected == found, "{name} {options:?}: {different:?}");
        psql(tool, "postgres", &["-c", &format!("DROP DATABASE {copy}")]);
    }
}

const FORMS: [(&str, &[&str]); 4] = [
    ("a.sql", &[]),
    ("a.dump", &["-Fc"]),
    ("quoted.sql", &["--quote-all-identifiers"]),
    ("clean.sql", &["--clean", "--if-exists", "--create"]),
];

#[test]
fn objects_called_like_keywords_come_back() {
    let server = Server::shared();
    let database = server.fresh_name("keywords");
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER teslamate"));
    let tool = |program: &str| server.tool(program);
    let file = fixture("keyword-names.sql").display().to_string();
    psql(&tool, &database, &["-f", &file]);
    assert_restored(&Site::new(server, &database), &tool, &database, &FORMS);
}

#[test]
fn objects_called_like_keywords_come_back_on_18() {
    let Some(server) = TreeServer::of(18, &["autovacuum=off"]) else { return };
    server.query("postgres", "CREATE ROLE teslamate SUPERUSER LOGIN");
    server.query("postgres", "CREATE DATABASE teslamate OWNER teslamate");
    let tool = |program: &str| server.tool(program);
    let file = fixture("keyword-names.sql").display().to_string();
    psql(&tool, "teslamate", &["-f", &file]);
    assert_restored(&server.site(Some(&server.tools())), &tool, "teslamate", &FORMS[1..3]);
}

#[test]
fn clean_dumps_with_views_without_columns_come_back() {
    let server = Server::shared();
    let database = server.fresh_name("emptyviews");
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER teslamate"));
    // Each needs the primary key, so pg_dump makes an empty view of it first, and of each one that needs it.
    let views = "CREATE TABLE t (id integer PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'x'); \
                 CREATE VIEW v1 AS SELECT FROM t GROUP BY id HAVING a <> ''; \
                 CREATE VIEW v2 AS SELECT a FROM t GROUP BY id; \
                 CREATE VIEW v3 AS SELECT FROM t GROUP BY id HAVING a <> ''; \
                 CREATE VIEW v4 AS SELECT FROM v1, v3; CREATE VIEW v5 AS SELECT v2.a FROM v2, v4";
    server.query(&database, views);
    let tool = |program: &str| server.tool(program);
    let clean: &[&str] = &["--clean", "--if-exists"];
    let site = Site::new(server, &database);
    assert_restored(&site, &tool, &database, &[("a.sql", clean), ("a.dump", &["-Fc"])]);
    let text = std::fs::read_to_string(site.path("a.sql")).unwrap();
    assert!(text.contains(" AS\nSELECT;\n"), "{text}");
}

#[test]
fn a_schema_public_in_quotes_is_the_one_that_is_there() {
    let server = Server::shared();
    let database = server.fresh_name("quotedpublic");
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER teslamate"));
    let tables = "CREATE SCHEMA \"PUBLIC\"; CREATE TABLE \"PUBLIC\".t (a integer); CREATE TABLE public.t (b integer); \
                  COMMENT ON SCHEMA \"PUBLIC\" IS 'standard public schema'; ALTER SCHEMA public OWNER TO teslamate";
    server.query(&database, tables);
    let tool = |program: &str| server.tool(program);
    let options: &[&str] = &["-n", "public", "-n", "\"PUBLIC\"", "--quote-all-identifiers"];
    let all: &[&str] = &["--quote-all-identifiers", "--clean", "--if-exists"];
    assert_restored(&Site::new(server, &database), &tool, &database, &[("a.sql", options), ("all.sql", all)]);
}

/// A database with this content, whose names and strings are written in UTF-8 here.
fn database_of(name: &str, options: &str, sql: &str) -> String {
    let server = Server::shared();
    let database = server.fresh_name(name);
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER teslamate TEMPLATE template0 {options}"));
    psql(&|program| server.tool(program), &database, &["-c", "SET client_encoding = 'UTF8'", "-c", sql]);
    database
}

#[test]
fn k7_names_in_the_encoding_of_the_dump_come_back() {
    let server = Server::shared();
    let tool = |program: &str| server.tool(program);
    let role = format!("Role {}", server.fresh_name("latin"));
    psql(&tool, "postgres", &["-c", &format!("CREATE ROLE \"{role}\" SUPERUSER")]);
    let sql = format!(
        r#"CREATE SCHEMA "Größe"; CREATE TYPE "Größe"."Fårbe" AS ENUM ('rød', 'grün');
           CREATE TABLE "Größe"."Maß" (id integer GENERATED ALWAYS AS IDENTITY, "é'" "Größe"."Fårbe" DEFAULT 'rød');
           INSERT INTO "Größe"."Maß" ("é'") VALUES ('rød'), ('grün'), (NULL); COMMENT ON TABLE "Größe"."Maß" IS 'ß';
           CREATE TABLE "Größe"."Kind" (a integer) INHERITS ("Größe"."Maß"); INSERT INTO "Größe"."Kind" VALUES (7);
           CREATE TABLE "Größe"."Téil" (a integer) PARTITION BY LIST (a);
           CREATE TABLE "Größe"."Téil é" PARTITION OF "Größe"."Téil" FOR VALUES IN (1); INSERT INTO "Größe"."Téil" VALUES (1);
           CREATE SEQUENCE "Größe"."o'é"; SELECT setval('"Größe"."o''é"', 7);
           CREATE VIEW "Größe"."Sicht" AS SELECT * FROM "Größe"."Maß" WHERE "é'" <> 'grün';
           GRANT SELECT ON "Größe"."Maß" TO "{role}"; ALTER SEQUENCE "Größe"."o'é" OWNER TO "{role}";
           ALTER TABLE "Größe"."Maß" ENABLE ROW LEVEL SECURITY; CREATE POLICY "é" ON "Größe"."Maß" TO "{role}""#
    );
    let forms: [(&str, &[&str]); 6] = [
        ("a.sql", &[]),
        ("inserts.sql", &["--inserts"]),
        ("create.sql", &["--create", "--clean", "--if-exists"]),
        ("session.sql", &["--use-set-session-authorization"]),
        ("a.dump", &["-Fc"]),
        ("a.tar", &["-Ft"]),
    ];
    for encoding in ["LATIN1", "WIN1252"] {
        let database = database_of("latinnames", &format!("ENCODING '{encoding}' LOCALE 'C'"), &sql);
        let site = Site::new(server, &database);
        assert_restored(&site, &tool, &database, &forms);
        let text = std::fs::read(site.path("a.sql")).unwrap();
        assert!(String::from_utf8(text).is_err(), "{encoding}: the dump is in UTF-8");
        let copy = server.fresh_name("latinnames_part");
        let part = ["--into", &copy, "--table", "Größe.Maß", "--table", "\"Größe\".\"Téil é\"", "a.dump"];
        site.run("teslamate-restore", &part).expect(0);
        let counts = r#"SELECT count(*), (SELECT count(*) FROM "Größe"."Téil é") FROM "Größe"."Maß""#;
        let mut count = tool("psql");
        let output = count.env("PGCLIENTENCODING", "UTF8").args(["-XAt", "-d", &copy, "-c", counts]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "3|1\n", "{}", String::from_utf8_lossy(&output.stderr));
        psql(&tool, "postgres", &["-c", &format!("DROP DATABASE {copy}"), "-c", &format!("DROP DATABASE {database}")]);
    }
    psql(&tool, "postgres", &["-c", &format!("DROP ROLE \"{role}\"")]);
}

#[test]
fn k7_names_in_encodings_of_clients_alone_come_back() {
    let server = Server::shared();
    let tool = |program: &str| server.tool(program);
    for (encodings, name) in [
        // Second bytes of characters are backslashes and letters.
        (&["EUC_JP", "SJIS", "SHIFT_JIS_2004", "EUC_JIS_2004"][..], "表ソ能"),
        (&["BIG5", "GBK", "GB18030"], "表能誠"),
        (&["UHC"], "한글"),
    ] {
        let sql = format!(
            r#"CREATE SCHEMA "{name}"; CREATE TYPE "{name}"."t{name}" AS ENUM ('{name}');
               CREATE TABLE "{name}"."{name}'" ("{name}" integer PRIMARY KEY, b "{name}"."t{name}");
               INSERT INTO "{name}"."{name}'" VALUES (1, '{name}'), (2, NULL); CREATE SEQUENCE "{name}"."q{name}";
               CREATE INDEX "i{name}" ON "{name}"."{name}'" (b) WHERE b <> '{name}'"#
        );
        let database = database_of("clientnames", "", &sql);
        let site = Site::new(server, &database);
        for encoding in encodings {
            let encoding = format!("--encoding={encoding}");
            let forms: [(&str, &[&str]); 3] =
                [("a.sql", &[&encoding]), ("inserts.sql", &[&encoding, "--inserts"]), ("a.dump", &[&encoding, "-Fc"])];
            assert_restored(&site, &tool, &database, &forms);
            let copy = server.fresh_name("clientnames_part");
            site.run("teslamate-restore", &["--into", &copy, "--table", &format!("{name}.{name}'"), "a.dump"])
                .expect(0);
            psql(&tool, "postgres", &["-c", &format!("DROP DATABASE {copy}")]);
        }
    }
}

#[test]
fn k5_roles_with_quotes_and_backslashes_are_found() {
    let server = Server::shared();
    let tool = |program: &str| server.tool(program);
    let role = format!("o'b\\r''\"\"{}", server.fresh_name("quotes"));
    psql(&tool, "postgres", &["-c", &format!("CREATE ROLE \"{role}\" SUPERUSER")]);
    let sql = format!(
        "CREATE TABLE t (a integer); ALTER TABLE t OWNER TO \"{role}\"; CREATE SEQUENCE \"s'\\\"; SELECT setval('\"s''\\\"', 5)"
    );
    let database = database_of("quotes", "", &sql);
    let site = Site::new(server, &database);
    let forms: [(&str, &[&str]); 2] =
        [("a.sql", &["--use-set-session-authorization"]), ("b.sql", &["--use-set-session-authorization", "--inserts"])];
    assert_restored(&site, &tool, &database, &forms);
    psql(&tool, "postgres", &["-c", &format!("ALTER DATABASE {database} SET standard_conforming_strings = off")]);
    assert_restored(&site, &tool, &database, &forms);
    psql(&tool, "postgres", &["-c", &format!("DROP DATABASE {database}"), "-c", &format!("DROP ROLE \"{role}\"")]);
}

#[test]
fn k10_a_superuser_is_not_told_to_restore_as_a_superuser() {
    let server = Server::shared();
    let role = server.fresh_name("powerless");
    server.query("postgres", &format!("CREATE ROLE {role}"));
    // Nobody but the owner of the database may make tables in its schema `public`.
    let database = database_of("powerless", "", &format!("CREATE TABLE t (a integer); ALTER TABLE t OWNER TO {role}"));
    let site = Site::new(server, &database);
    let tool = |program: &str| server.tool(program);
    dump(&tool, &database, &site.path("a.sql"), &["--use-set-session-authorization"]);
    let copy = server.fresh_name("powerless_copy");
    let outcome = site.run("teslamate-restore", &["--into", &copy, "--allow-other", "a.sql"]).expect(14);
    let outcome = outcome.says("This role is a superuser");
    assert!(!outcome.stderr.contains("Restore as a superuser"), "{}", outcome.stderr);
    site.run("teslamate-restore", &["--into", &copy, "--allow-other", "--no-owner", "a.sql"]).expect(0);
}
