//! Privileges in a dump that a plain role cannot give or take away: the restore names each statement.

use crate::support::{Server, Site};

/// A database of a role that is no superuser.
struct Plain {
    server: &'static Server,
    site: Site,
    role: String,
    other: String,
}

impl Plain {
    fn new(hint: &str) -> Self {
        let server = Server::shared();
        let database = server.fresh_name(hint);
        let (plain, other) = (format!("plain_{database}"), format!("other_{database}"));
        server.query("postgres", &format!("CREATE ROLE {plain} LOGIN CREATEDB; CREATE ROLE {other}"));
        server.query("postgres", &format!("CREATE DATABASE {database} OWNER {plain} TEMPLATE template0"));
        server.query(&database, &format!("SET ROLE {plain}; CREATE TABLE public.t (a int); INSERT INTO t VALUES (1)"));
        Self { server, site: Site::new(server, &database), role: plain, other }
    }

    fn query(&self, sql: &str) -> String {
        self.server.query(&self.site.database, sql)
    }

    fn restore(&self, arguments: &[&str]) -> crate::support::binary::Outcome {
        self.site.command("teslamate-restore").args(arguments).env("DATABASE_USER", &self.role).outcome()
    }
}

#[test]
fn k6_grants_with_a_mere_warning_are_named() {
    let plain = Plain::new("warned");
    let (server, site, other) = (plain.server, &plain.site, &plain.other);
    plain.query(&format!("SET ROLE {}; CREATE EXTENSION pgcrypto", plain.role));
    plain.query("REVOKE EXECUTE ON FUNCTION pg_catalog.pg_sleep(float8) FROM PUBLIC");
    plain.query(&format!("REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC; GRANT USAGE ON LANGUAGE plpgsql TO {other}"));
    plain.query("REVOKE EXECUTE ON FUNCTION crypt(text, text) FROM PUBLIC");
    for (name, format) in [("a.sql", "-Fp"), ("a.dump", "-Fc")] {
        server.pg_dump(&site.database, &site.path(name), &[format]);
        let copy = server.fresh_name("warned_copy");
        let told = plain.restore(&[name, "--into", &copy]).expect(0);
        let told = told.says(&format!("role \"{}\" may not give or take away privileges", plain.role));
        let told = told.says("REVOKE ALL ON FUNCTION pg_catalog.pg_sleep(double precision) FROM PUBLIC;");
        let told = told.says("-- no privileges could be revoked for \"pg_sleep\"");
        let told = told.says("REVOKE ALL ON FUNCTION public.crypt(text, text) FROM PUBLIC;");
        let told = told.says("REVOKE ALL ON LANGUAGE plpgsql FROM PUBLIC;");
        told.says(&format!("GRANT ALL ON LANGUAGE plpgsql TO {other};"));
        let json = plain.restore(&["--json", name, "--drill"]).expect(0);
        let has = |line: &str| line.contains("\"level\":\"warning\"") && line.contains("pg_sleep(double precision)");
        assert!(json.stderr.lines().any(has), "{}", json.stderr);
    }
    // A superuser loses none, and is told of none.
    let copy = server.fresh_name("warned_whole");
    let done = site.run("teslamate-restore", &["a.dump", "--into", &copy]).expect(0);
    assert!(!done.stderr.contains("privileges as these statements do"), "{}", done.stderr);
    let may = format!("SELECT has_function_privilege('{other}', 'pg_sleep(float8)', 'EXECUTE')");
    assert_eq!(server.query(&copy, &may), "f");
}

#[test]
fn k6_grants_that_the_server_refuses_do_not_end_a_load() {
    let plain = Plain::new("refused_grants");
    let (server, site, other) = (plain.server, &plain.site, &plain.other);
    plain.query(&format!("GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text) TO {other}"));
    plain.query(&format!("GRANT SELECT ON pg_catalog.pg_authid TO {other}; GRANT SELECT ON t TO {other}"));
    for (name, format) in [("a.sql", "-Fp"), ("a.dump", "-Fc")] {
        server.pg_dump(&site.database, &site.path(name), &[format]);
        let copy = server.fresh_name("refused_copy");
        let told = plain.restore(&[name, "--into", &copy]).expect(0);
        let told = told.says(&format!("GRANT ALL ON FUNCTION pg_catalog.pg_ls_dir(text) TO {other};"));
        told.says(&format!("GRANT SELECT ON TABLE pg_catalog.pg_authid TO {other};"));
        assert_eq!(server.query(&copy, &format!("SELECT has_table_privilege('{other}', 't', 'SELECT')")), "t");
    }
}

#[test]
fn k6_a_grant_in_another_roles_name_is_kept_by_a_plain_role() {
    let plain = Plain::new("in_name");
    let (server, site, other) = (plain.server, &plain.site, &plain.other);
    let third = format!("third_{}", site.database);
    server.query("postgres", &format!("CREATE ROLE {third}"));
    plain.query(&format!("SET ROLE {}; GRANT SELECT ON t TO {other} WITH GRANT OPTION", plain.role));
    plain.query(&format!("SET ROLE {other}; GRANT SELECT ON t TO {third}"));
    let privileges = "SELECT relacl FROM pg_class WHERE relname = 't'";
    let before = plain.query(privileges);
    assert!(before.contains(&format!("=r/{other}")), "{before}");
    for (name, format) in [("a.sql", "-Fp"), ("a.dump", "-Fc")] {
        server.query("postgres", &format!("REVOKE {other} FROM {}", plain.role));
        server.pg_dump(&site.database, &site.path(name), &[format]);
        let copy = server.fresh_name("in_name_copy");
        let told = plain.restore(&[name, "--into", &copy]).expect(0);
        told.says(&format!("GRANT SELECT ON TABLE public.t TO {third};")).says("cannot give it");
        assert_eq!(server.query(&copy, &format!("SELECT has_table_privilege('{third}', 't', 'SELECT')")), "t");
        // Who may act as the grantor does so.
        server.query("postgres", &format!("GRANT {other} TO {}", plain.role));
        let copy = server.fresh_name("in_name_whole");
        let done = plain.restore(&[name, "--into", &copy]).expect(0);
        assert!(!done.stderr.contains("cannot give it"), "{}", done.stderr);
        assert_eq!(server.query(&copy, privileges), before);
    }
    // An object must not get another owner than the dump says.
    server.query("postgres", &format!("REVOKE {other} FROM {}", plain.role));
    plain.query(&format!("CREATE TABLE u (a int); ALTER TABLE u OWNER TO {other}"));
    server.pg_dump(&site.database, &site.path("b.sql"), &["-Fp", "--use-set-session-authorization"]);
    let copy = server.fresh_name("in_name_refused");
    let refused = plain.restore(&["b.sql", "--into", &copy]);
    assert!(matches!(refused.code, Some(10 | 14)) && server.databases(&copy).is_empty(), "{}", refused.stderr);
}

#[test]
fn k5_an_owner_whose_rights_are_not_inherited_leaves_nothing_behind() {
    let server = Server::shared();
    let database = server.fresh_name("noinherit");
    let (plain, owner) = (format!("plain_{database}"), format!("owner_{database}"));
    server.query("postgres", &format!("CREATE ROLE {plain} LOGIN CREATEDB NOINHERIT; CREATE ROLE {owner}"));
    server.query("postgres", &format!("GRANT {owner} TO {plain}"));
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER {owner} TEMPLATE template0"));
    server.query(
        &database,
        &format!(
            "CREATE SCHEMA s AUTHORIZATION {plain}; CREATE TABLE s.t AS SELECT 1 AS a; ALTER TABLE s.t OWNER TO {plain}"
        ),
    );
    let site = Site::new(server, &database);
    server.pg_dump(&database, &site.path("a.dump"), &["-Fc", "--create"]);
    server.query("postgres", &format!("DROP DATABASE {database}"));
    let restore = |name: &str| {
        let arguments = [name, "--yes", "--allow-other", "--no-privileges"];
        site.command("teslamate-restore").args(&arguments).env("DATABASE_USER", &plain).outcome()
    };
    restore("a.dump").expect(0).says(&format!("ALTER DATABASE \"{database}\" OWNER TO \"{owner}\""));
    assert_eq!(server.databases(&format!("{database}_restore")), Vec::<String>::new());
    assert_eq!(server.query(&database, "SELECT a FROM s.t"), "1");
}

#[test]
fn k5_a_left_over_of_another_role_blocks_no_restore() {
    let plain = Plain::new("left_other");
    let (server, site) = (plain.server, &plain.site);
    server.pg_dump(&site.database, &site.path("a.dump"), &["-Fc"]);
    let left = format!("{}_restore_20260101_000000", site.database);
    server.query("postgres", &format!("CREATE DATABASE {left}"));
    let mark = format!("glovebox is loading a replacement for database {} here", site.database);
    server.query("postgres", &format!("COMMENT ON DATABASE {left} IS '{mark}'"));
    for how in [&["--drill"][..], &["--yes", "--allow-other"]] {
        let told = plain.restore(&[&["a.dump"], how].concat()).expect(0);
        told.says(&format!("\"{left}\"")).says(&format!("DROP DATABASE IF EXISTS \"{left}\" WITH (FORCE)"));
    }
    assert_eq!(server.databases(&left), [left]);
}

/// On a table that is only read by now, say.
#[test]
fn k6_what_an_owner_took_from_itself_does_not_keep_its_rows_out() {
    let plain = Plain::new("took");
    let (server, site) = (plain.server, &plain.site);
    plain.query(&format!(
        "SET ROLE {role}; CREATE TABLE keys (id serial PRIMARY KEY); INSERT INTO keys DEFAULT VALUES; \
         CREATE TABLE rows (id int REFERENCES keys, n int CHECK (n > 0), g int GENERATED ALWAYS AS (n + 1) STORED); \
         INSERT INTO rows VALUES (1, 2); CREATE INDEX ON rows (n); CREATE MATERIALIZED VIEW m AS SELECT n FROM rows; \
         REVOKE ALL ON rows, keys FROM {role}; GRANT SELECT ON rows TO {role}; REVOKE ALL ON SEQUENCE keys_id_seq FROM {role}",
        role = plain.role
    ));
    let privileges = "SELECT string_agg(format('%s %s', relname, relacl), ', ' ORDER BY relname) FROM pg_class WHERE relacl IS NOT NULL AND oid >= 16384";
    let before = plain.query(privileges);
    assert!(before.contains("rows {plain_") && before.contains("=r/") && before.contains("keys {}"), "{before}");
    for (name, format) in [("a.sql", "-Fp"), ("a.dump", "-Fc"), ("a.tar", "-Ft"), ("b.sql", "--inserts")] {
        server.pg_dump(&site.database, &site.path(name), &[format]);
        let copy = server.fresh_name("took_copy");
        plain.restore(&[name, "--into", &copy]).expect(0);
        assert_eq!(server.query(&copy, privileges), before, "{name}");
        let content = "SELECT (SELECT rows FROM rows), (SELECT n FROM m), (SELECT last_value FROM keys_id_seq)";
        assert_eq!(server.query(&copy, content), "(1,2,3)|2|1", "{name}");
    }
}

/// `pg_dump --use-set-session-authorization` makes each object as its owner.
#[test]
fn k6_event_triggers_are_their_owners() {
    let server = Server::shared();
    let database = server.fresh_name("triggers");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.query(&database, "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'");
    for number in 1..=3 {
        let role = format!("{database}_{number}");
        server.query("postgres", &format!("CREATE ROLE {role} SUPERUSER"));
        server.query(
            &database,
            &format!("CREATE EVENT TRIGGER e{number} ON ddl_command_end EXECUTE FUNCTION f(); ALTER EVENT TRIGGER e{number} OWNER TO {role}"),
        );
    }
    server.query(&database, "CREATE EVENT TRIGGER e4 ON ddl_command_end EXECUTE FUNCTION f()");
    let site = Site::new(server, &database);
    let owners =
        "SELECT string_agg(format('%s %s', evtname, evtowner::regrole), ',' ORDER BY evtname) FROM pg_event_trigger";
    let before = server.query(&database, owners);
    for (name, options) in [("a.sql", &["--use-set-session-authorization"][..]), ("b.sql", &[]), ("a.dump", &["-Fc"])] {
        server.pg_dump(&database, &site.path(name), options);
        for jobs in ["1", "4"] {
            let copy = server.fresh_name("triggers_copy");
            site.run("teslamate-restore", &[name, "--into", &copy, "--allow-other", "--jobs", jobs]).expect(0);
            assert_eq!(server.query(&copy, owners), before, "{name}");
        }
    }
}
