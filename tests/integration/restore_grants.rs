//! Privileges that others than the owner gave, and objects that only a superuser may make.

use crate::support::{Server, Site};

/// A database of `owner`, whose privilege to connect went from role to role.
struct Granted {
    server: &'static Server,
    site: Site,
    roles: [String; 4],
}

impl Granted {
    fn new(hint: &str) -> Self {
        let server = Server::shared();
        let database = server.fresh_name(hint);
        // In this order of names, the last is the first to give.
        let roles = ["own", "c", "b", "Gi\"ver"].map(|role| format!("{role}_{database}"));
        let [own, c, b, giver] = roles.clone().map(|role| format!("\"{}\"", role.replace('"', "\"\"")));
        let script = [
            format!("CREATE ROLE {own} LOGIN CREATEDB"),
            format!("CREATE ROLE {giver}"),
            format!("CREATE ROLE {b}"),
            format!("CREATE ROLE {c}"),
            format!("CREATE DATABASE {database} OWNER {own} TEMPLATE template0"),
            format!("GRANT CONNECT ON DATABASE {database} TO {giver} WITH GRANT OPTION"),
            format!("SET ROLE {giver}; GRANT CONNECT ON DATABASE {database} TO {b} WITH GRANT OPTION"),
            format!("SET ROLE {b}; GRANT CONNECT ON DATABASE {database} TO {c}"),
            format!("GRANT CREATE ON DATABASE {database} TO {c}"),
        ];
        for sql in script {
            server.query("postgres", &sql);
        }
        server.query(
            &database,
            &format!("CREATE TABLE t (a int); INSERT INTO t VALUES (1); ALTER TABLE t OWNER TO {own}"),
        );
        Self { server, site: Site::with_repository(server, &database), roles }
    }

    /// Its privileges: who, what, from whom.
    fn privileges(&self) -> String {
        self.privileges_of(&self.site.database)
    }

    fn privileges_of(&self, database: &str) -> String {
        self.server.query(
            "postgres",
            &format!(
                "SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM pg_database d, unnest(d.datacl) a \
                 WHERE d.datname = '{database}'"
            ),
        )
    }
}

#[test]
fn k6_who_gave_a_privilege_on_the_database_is_kept() {
    let granted = Granted::new("grantors");
    let (server, site) = (granted.server, &granted.site);
    let before = granted.privileges();
    assert!(before.contains(&format!("=c/b_{}", site.database)), "{before}");
    for arguments in [&[] as &[&str], &["a.dump"], &["a.sql"]] {
        site.run("teslamate-backup", arguments).expect(0);
    }
    for source in ["latest", "a.dump", "a.sql"] {
        let restore = || site.run("teslamate-restore", &[source, "--yes", "--allow-other", "--no-safety-backup"]);
        restore().expect(0);
        assert_eq!(granted.privileges(), before, "{source}");
        for name in server.databases(&format!("{}_", site.database)) {
            server.query("postgres", &format!("DROP DATABASE \"{name}\""));
        }
        server.query("postgres", &format!("DROP DATABASE {}", site.database));
        let done = restore().expect(0);
        if source != "a.sql" {
            assert_eq!(granted.privileges(), before, "{source}, and the database was gone: {}", done.stderr);
        }
    }
}

#[test]
fn k6_a_privilege_that_another_role_gave_is_not_lost_on_a_plain_role() {
    let granted = Granted::new("plain_grantor");
    let (server, site) = (granted.server, &granted.site);
    let [own, c, b, _] = &granted.roles;
    server.pg_dump(&site.database, &site.path("a.dump"), &["-Fc"]);
    let restore = |arguments: &[&str]| {
        let all = [&["a.dump", "--allow-other", "--no-safety-backup"], arguments].concat();
        site.command("teslamate-restore").args(&all).env("DATABASE_USER", own).outcome()
    };
    let copy = server.fresh_name("plain_copy");
    let told = restore(&["--into", &copy]).expect(0).says("may not give the new database everything");
    let told = told.says(&format!("SET ROLE \"{b}\"; GRANT CONNECT ON DATABASE \"{copy}\" TO \"{c}\"; RESET ROLE"));
    restore(&["--yes"]).expect(10).says("may not give the new database everything");
    let may = format!("SELECT has_database_privilege('{c}', '{copy}', 'CONNECT')");
    assert_eq!(server.query("postgres", &may), "t");
    // As a superuser, the statements make it what it was.
    for sql in told.stderr.lines().filter(|line| line.starts_with("REVOKE")) {
        assert!(sql.contains(&copy) && !sql.contains("_restore_"), "{sql}");
        server.query("postgres", sql);
    }
    assert_eq!(granted.privileges_of(&copy), granted.privileges());
}

#[test]
fn k6_a_chain_of_grants_is_corrected_in_its_order() {
    let granted = Granted::new("chain");
    let (server, site) = (granted.server, &granted.site);
    let [own, c, b, _] = &granted.roles;
    // It may act as the last grantor of the chain and not as the first one.
    server.query("postgres", &format!("GRANT {b} TO {own}"));
    server.pg_dump(&site.database, &site.path("a.dump"), &["-Fc"]);
    let copy = server.fresh_name("chain_copy");
    let restore = site.command("teslamate-restore").args(&["a.dump", "--allow-other", "--into", &copy]);
    let told = restore.env("DATABASE_USER", own).outcome().expect(0).says("CASCADE");
    let may = format!("SELECT has_database_privilege('{c}', '{copy}', 'CONNECT')");
    assert_eq!(server.query("postgres", &may), "t");
    for sql in told.stderr.lines().filter(|line| line.starts_with("REVOKE") || line.starts_with("SET ROLE")) {
        server.query("postgres", sql);
    }
    assert_eq!(granted.privileges_of(&copy), granted.privileges());
}

#[test]
fn k6_a_grantor_with_the_owners_rights_stops_no_restore() {
    for by in ["ALTER ROLE {giver} SUPERUSER", "GRANT {own} TO {giver}"] {
        let granted = Granted::new("powerful");
        let (server, site) = (granted.server, &granted.site);
        let [own, _, b, giver] = &granted.roles;
        let giver = format!("\"{}\"", giver.replace('"', "\"\""));
        server.query("postgres", &by.replace("{giver}", &giver).replace("{own}", own));
        site.run("teslamate-backup", &[]).expect(0);
        let restore = || site.run("teslamate-restore", &["latest", "--yes", "--allow-other"]);
        let told = restore().expect(0).says("a privilege gets another grantor");
        let told = told.says(&format!("GRANT CONNECT ON DATABASE \"{}\" TO \"{b}\"", site.database));
        assert!(!told.stderr.contains("_restore_2\""), "{}", told.stderr);
        let given = granted.privileges();
        assert!(given.contains(&format!("{b}=c*/{own}")) && given.contains(&format!("=c/{b}")), "{given}");
        // Then it is as it was made.
        let again = restore().expect(0);
        assert!(!again.stderr.contains("another grantor"), "{}", again.stderr);
        assert_eq!(granted.privileges(), given);
    }
}

#[test]
fn k5_objects_that_only_a_superuser_may_make_are_named_at_once() {
    let server = Server::shared();
    let database = server.fresh_name("reserved");
    let plain = format!("plain_{database}");
    server.query("postgres", &format!("CREATE ROLE {plain} LOGIN CREATEDB"));
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER {plain} TEMPLATE template0"));
    let site = Site::new(server, &database);
    let drill = |name: &str| {
        let arguments = [name, "--drill", "--no-owner", "--no-privileges"];
        site.command("teslamate-restore").args(&arguments).env("DATABASE_USER", &plain).outcome()
    };
    server.query(
        &database,
        "CREATE TABLE t (a int); CREATE FUNCTION s() RETURNS int LANGUAGE sql SET log_statement = 'all' AS 'SELECT 1'; \
         CREATE FUNCTION free() RETURNS int LANGUAGE sql SET work_mem = '4MB' AS 'SELECT 1'",
    );
    server.pg_dump(&database, &site.path("set.dump"), &["-Fc"]);
    let refused = drill("set.dump").expect(10).says("(SET log_statement)");
    assert!(!refused.stderr.contains("NOSUPERUSER") && !refused.stderr.contains("free"), "{}", refused.stderr);
    server.query("postgres", &format!("GRANT SET ON PARAMETER log_statement TO {plain}"));
    drill("set.dump").expect(0);
    server.query(
        &database,
        "CREATE PUBLICATION every FOR ALL TABLES; CREATE PUBLICATION several FOR TABLES IN SCHEMA public; \
         CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; \
         CREATE EVENT TRIGGER noter ON ddl_command_end EXECUTE FUNCTION e(); CREATE FOREIGN DATA WRAPPER fw; \
         CREATE FUNCTION leak() RETURNS int LANGUAGE sql LEAKPROOF AS 'SELECT 1'; \
         CREATE OPERATOR FAMILY fam USING btree; \
         CREATE OPERATOR CLASS cls FOR TYPE int USING btree AS OPERATOR 3 =, FUNCTION 1 btint4cmp(int, int); \
         CREATE ACCESS METHOD am TYPE TABLE HANDLER heap_tableam_handler; \
         CREATE TEXT SEARCH TEMPLATE tt (LEXIZE = dsimple_lexize); \
         CREATE CAST (bigint AS timestamp) WITHOUT FUNCTION; CREATE FUNCTION handler() RETURNS language_handler LANGUAGE c \
         AS '$libdir/plpgsql', 'plpgsql_call_handler'; CREATE TRUSTED LANGUAGE lang HANDLER handler; \
         CREATE TYPE base; CREATE FUNCTION base_in(cstring) RETURNS base LANGUAGE internal STRICT AS 'textin'; \
         CREATE FUNCTION base_out(base) RETURNS cstring LANGUAGE internal STRICT AS 'textout'; \
         CREATE TYPE base (INPUT = base_in, OUTPUT = base_out, LIKE = text)",
    );
    for (name, format) in [("a.sql", "-Fp"), ("a.dump", "-Fc")] {
        server.pg_dump(&database, &site.path(name), &[format]);
        let arguments = [name, "--drill", "--no-owner", "--trust-dump"];
        let refused = site.command("teslamate-restore").args(&arguments).env("DATABASE_USER", &plain).outcome();
        let refused = refused.expect(10).says("only a superuser").says("do not help");
        for words in [
            "PUBLICATION every FOR ALL TABLES",
            "PUBLICATION several",
            "EVENT TRIGGER noter",
            "FOREIGN DATA WRAPPER fw",
            "FUNCTION public.leak()",
            "OPERATOR FAMILY public.fam",
            "OPERATOR CLASS public.cls",
            "ACCESS METHOD am",
            "TEXT SEARCH TEMPLATE public.tt",
            "CAST (bigint AS timestamp",
            "LANGUAGE lang",
            "CREATE TYPE public.base",
            "FUNCTION public.base_in(cstring)",
        ] {
            assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
        }
        assert!(
            !refused.stderr.contains("loading into") && !refused.stderr.contains("public.e()"),
            "{}",
            refused.stderr
        );
    }
    server.query("postgres", &format!("ALTER ROLE {plain} SUPERUSER"));
    let arguments = ["a.dump", "--drill", "--trust-dump"];
    site.command("teslamate-restore").args(&arguments).env("DATABASE_USER", &plain).outcome().expect(0);
}
