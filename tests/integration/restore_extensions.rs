//! Extensions: rows of their own tables, those that cannot be made here, and what is left out with them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::server::bin_dir;
use crate::support::{Server, Site};

/// An extension of the test's own, among those of the machine's server; it goes with this value.
struct Extension {
    name: String,
    files: Vec<PathBuf>,
}

impl Extension {
    /// `None`, and a word about it, where this account may not write there.
    fn install(name: &str, control: &str, script: &str) -> Option<Self> {
        let output = Command::new(bin_dir().join("pg_config")).arg("--sharedir").output().unwrap();
        let dir = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()).join("extension");
        let name = format!("glovebox_test_{name}");
        let control = format!("default_version = '1.0'\n{control}\n");
        let files =
            [(dir.join(format!("{name}.control")), control), (dir.join(format!("{name}--1.0.sql")), script.to_owned())];
        for (path, text) in &files {
            if let Err(cause) = fs::write(path, text) {
                println!("SKIPPED: an extension cannot be installed in {}: {cause}", dir.display());
                return None;
            }
        }
        Some(Self { name, files: files.into_iter().map(|(path, _)| path).collect() })
    }
}

impl Drop for Extension {
    fn drop(&mut self) {
        for path in &self.files {
            let _ = fs::remove_file(path);
        }
    }
}

/// Tables that are filled when it is made, as those of `PostGIS` are.
const REFERENCE: &str = "
    CREATE TABLE ref_systems (id integer PRIMARY KEY, name text, own boolean DEFAULT true);
    INSERT INTO ref_systems SELECT i, 'system ' || i, false FROM generate_series(1, 500) i;
    SELECT pg_catalog.pg_extension_config_dump('ref_systems', 'WHERE own');
    CREATE SEQUENCE ref_numbers;
    SELECT pg_catalog.pg_extension_config_dump('ref_numbers', '');
    CREATE TABLE ref_options (name text, value text);
    SELECT pg_catalog.pg_extension_config_dump('ref_options', '');
    CREATE TABLE ref_fixed (id integer);
    INSERT INTO ref_fixed VALUES (1), (2);
    CREATE MATERIALIZED VIEW ref_view AS SELECT count(*) AS n FROM ref_fixed;
    CREATE FUNCTION ref_count() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM public.ref_fixed';";

const USED: &str = "INSERT INTO ref_systems VALUES (9001, 'mine'), (9002, 'mine too'); SELECT setval('ref_numbers', 7); \
                    INSERT INTO ref_options VALUES ('a', 'b')";

fn state_of(server: &Server, database: &str) -> String {
    server.query(
        database,
        "SELECT count(*), count(*) FILTER (WHERE own), (SELECT last_value FROM ref_numbers), \
         (SELECT string_agg(name || value, ',') FROM ref_options), (SELECT n FROM ref_view) FROM ref_systems",
    )
}

#[test]
fn k5_rows_that_an_extension_makes_are_not_compared() {
    let Some(extension) = Extension::install("reference", "relocatable = false\nschema = public", REFERENCE) else {
        return;
    };
    let server = Server::shared();
    let database = server.teslamate("reference");
    server.query(&database, &format!("CREATE EXTENSION {}; {USED}", extension.name));
    let (expected, before) = (state_of(server, &database), server.content(&database));
    assert_eq!(expected, "502|2|7|ab|2");
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    for name in ["a.sql", "a.sql.zst", "a.dump"] {
        site.run("teslamate-backup", &[name]).expect(0);
    }
    site.run("teslamate-backup", &["export", "latest", "b.sql"]).expect(0);
    for source in ["latest", "a.sql", "a.sql.zst", "a.dump", "b.sql"] {
        site.run("teslamate-restore", &["--drill", source]).expect(0);
        site.run("teslamate-restore", &["--yes", "--no-safety-backup", source]).expect(0);
        assert_eq!(state_of(server, &database), expected, "{source}");
        assert_eq!(server.content(&database), before, "{source}");
    }
    site.run("teslamate-restore", &["latest", "--yes", "--data-only"]).expect(0);
    assert_eq!(state_of(server, &database), expected);
}

#[test]
fn k5_config_rows_that_are_lost_on_the_way_are_noticed() {
    let script = format!(
        "{REFERENCE} CREATE FUNCTION ref_none() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
         CREATE TRIGGER ref_none BEFORE INSERT ON ref_options FOR EACH ROW EXECUTE FUNCTION ref_none();"
    );
    let Some(extension) = Extension::install("losing", "relocatable = false\nschema = public", &script) else { return };
    let server = Server::shared();
    let database = server.teslamate("losing");
    server.query(
        &database,
        &format!("CREATE EXTENSION {}; ALTER TABLE ref_options DISABLE TRIGGER ALL; {USED}", extension.name),
    );
    let site = Site::new(server, &database);
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    site.run("teslamate-restore", &["--drill", "a.dump"]).expect(14).says("public.ref_options: 0 rows, the dump has 1");
}

/// May be in one database only, has a schema of its own, and tables whose rows are in dumps.
const SINGLE: &str = r"
    DO $$ BEGIN IF current_database() LIKE '%\_restore\_%' THEN
        RAISE EXCEPTION 'can only create extension in one database'; END IF; END $$;
    CREATE SCHEMA gbcron;
    CREATE TABLE gbcron.job (id serial PRIMARY KEY, command text);
    SELECT pg_catalog.pg_extension_config_dump('gbcron.job', '');
    SELECT pg_catalog.pg_extension_config_dump('gbcron.job_id_seq', '');
    CREATE FUNCTION gbcron.run(job integer) RETURNS integer LANGUAGE sql AS 'SELECT 1';";

#[test]
fn k5_an_extension_for_one_database_is_left_out_by_name() {
    let Some(single) = Extension::install("single", "relocatable = false\nschema = pg_catalog", SINGLE) else { return };
    let Some(second) = Extension::install("second", "relocatable = true", SINGLE.split("CREATE").next().unwrap())
    else {
        return;
    };
    let server = Server::shared();
    let database = server.teslamate("single");
    let role = format!("runs_{database}");
    server.query(
        &database,
        &format!(
            "CREATE EXTENSION {}; CREATE EXTENSION {}; CREATE ROLE {role}; INSERT INTO gbcron.job (command) VALUES ('x'), ('y'); \
             GRANT USAGE ON SCHEMA gbcron TO {role}; GRANT SELECT ON gbcron.job TO {role}; \
             GRANT SELECT (command) ON gbcron.job TO {role}; REVOKE ALL ON FUNCTION gbcron.run FROM PUBLIC; \
             COMMENT ON EXTENSION {} IS 'mine'",
            single.name, second.name, single.name
        ),
    );
    let before = server.content(&database);
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    for name in ["a.sql", "a.dump"] {
        site.run("teslamate-backup", &[name]).expect(0);
    }
    server.pg_dump(&database, &site.path("b.sql"), &["--inserts"]);
    for source in ["latest", "a.sql", "a.dump", "b.sql"] {
        let refused = site.run("teslamate-restore", &["--drill", source]).expect(10);
        assert_eq!(
            refused.stderr.matches("can only create extension in one database").count(),
            2,
            "{}",
            refused.stderr
        );
        let options = format!("--skip-extension {} --skip-extension {}", single.name, second.name);
        assert!(refused.stderr.contains(&options), "{source}: {}", refused.stderr);
        assert_eq!(server.databases(&format!("{database}_restore_")), Vec::<String>::new());
        // The hint, typed.
        let options = ["--drill", source, "--skip-extension", &single.name, "--skip-extension", &second.name];
        site.run("teslamate-restore", &options).expect(0).says("2 rows of gbcron.job are left out with the extension");
    }
    let live = ["--yes", "latest", "--skip-extension", &single.name, "--skip-extension", &second.name];
    site.run("teslamate-restore", &live).expect(0);
    let after = server.content(&database);
    assert_eq!(after["public.positions"], before["public.positions"]);
    assert!(!after.contains_key("gbcron.job"));
}

#[test]
fn k5_all_that_is_missing_is_named_at_once() {
    let server = Server::shared();
    let database = server.teslamate("missing");
    let site = Site::new(server, &database);
    let role = |name: &str| format!("{name}_{database}");
    let roles = ["owner", "reader", "policy", "mapped", "default", "granter"].map(role);
    for role in &roles {
        server.query("postgres", &format!("CREATE ROLE {role}"));
    }
    let [owner, reader, policy, mapped, default, granter] = &roles;
    server.query(
        &database,
        &format!(
            "ALTER TABLE geofences OWNER TO {owner}; GRANT SELECT ON cars TO {reader}; \
             CREATE POLICY p ON cars FOR SELECT TO {policy} USING (true); \
             CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; \
             CREATE USER MAPPING FOR {mapped} SERVER s OPTIONS (\"user\" 'x', password 'very-secret'); \
             ALTER DEFAULT PRIVILEGES FOR ROLE {default} GRANT SELECT ON TABLES TO {reader}; \
             GRANT SELECT ON drives TO {granter} WITH GRANT OPTION; SET ROLE {granter}; GRANT SELECT ON drives TO {reader}"
        ),
    );
    site.run("teslamate-backup", &["a.sql"]).expect(0);
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    // Everything comes back while the roles are there.
    site.run("teslamate-restore", &["--drill", "a.sql"]).expect(0);
    site.run("teslamate-restore", &["--drill", "a.dump"]).expect(0);
    let text = fs::read_to_string(site.path("a.sql")).unwrap();
    let text = text.replace("EXISTS cube", "EXISTS hypercube").replace("EXISTS earthdistance", "EXISTS moondistance");
    let text = text.replace("SET default_tablespace = '';", "SET default_tablespace = fast;");
    fs::write(site.path("b.sql"), text).unwrap();
    server.query("postgres", &format!("DROP DATABASE {database}"));
    for role in &roles {
        server.query("postgres", &format!("DROP ROLE {role}"));
    }
    for name in ["a.sql", "a.dump", "b.sql"] {
        let refused = site.run("teslamate-restore", &["--drill", "--allow-other", name]).expect(10);
        for role in &roles {
            assert!(refused.stderr.contains(&format!("CREATE ROLE \"{role}\";")), "{name}: {}", refused.stderr);
        }
        assert!(!refused.stderr.contains("very-secret"), "{}", refused.stderr);
        if name == "b.sql" {
            for words in ["extensions \"hypercube\", \"moondistance\"", "tablespace \"fast\"", "--no-tablespaces"] {
                assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
            }
        }
    }
    // Policies and user mappings need their roles, whatever the options.
    let refused = site.run("teslamate-restore", &["--drill", "--no-owner", "--no-privileges", "a.sql"]).expect(10);
    assert!(refused.stderr.contains(policy.as_str()) && refused.stderr.contains(mapped.as_str()), "{}", refused.stderr);
    assert!(!refused.stderr.contains(owner.as_str()), "{}", refused.stderr);
}

#[test]
fn k5_an_extension_is_left_out_of_every_drill_by_a_setting() {
    let Some(single) = Extension::install("set", "relocatable = false\nschema = pg_catalog", SINGLE) else { return };
    let server = Server::shared();
    let database = server.teslamate("set");
    let site = Site::with_repository(server, &database);
    let config = fs::read_to_string(site.config()).unwrap();
    site.write_config(&format!("{config}\n[restore]\nskip_extensions = [{:?}, \"never_there\"]\n", single.name));
    site.run("teslamate-backup", &["plain.dump"]).expect(0);
    let without = site.run("teslamate-restore", &["--drill", "plain.dump"]).expect(0);
    assert!(!without.stderr.contains("extension"), "{}", without.stderr);
    server
        .query(&database, &format!("CREATE EXTENSION {}; INSERT INTO gbcron.job (command) VALUES ('x')", single.name));
    site.run("teslamate-backup", &[]).expect(0);
    for source in ["latest", "a.sql", "a.dump"] {
        if source != "latest" {
            site.run("teslamate-backup", &[source]).expect(0);
        }
        let says = format!("extension \"{}\" is left out, as restore.skip_extensions says", single.name);
        let done =
            site.run("teslamate-restore", &["--drill", source]).expect(0).says(&says).says("1 rows of gbcron.job");
        assert!(!done.stderr.contains("never_there"), "{}", done.stderr);
    }
}

#[test]
fn k5_a_dump_of_one_schema_gets_the_extensions_of_the_live_database() {
    let server = Server::shared();
    let database = server.fresh_name("onlyone");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.query(
        &database,
        "CREATE EXTENSION citext; CREATE EXTENSION \"uuid-ossp\"; CREATE EXTENSION postgres_fdw; CREATE TYPE own AS ENUM ('a'); \
         CREATE TABLE t (id integer GENERATED BY DEFAULT AS IDENTITY, \"a \"\"b\" citext[], c own DEFAULT 'a', d text DEFAULT 'x
    y public.nothing'); CREATE TYPE r AS RANGE (subtype = int4); CREATE TABLE m (a r_multirange, b t); \
         CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw; INSERT INTO t (\"a \"\"b\") VALUES ('{X}')",
    );
    let before = server.content(&database);
    let site = Site::new(server, &database);
    for (name, format) in [("a.sql", "-Fp"), ("a.dump", "-Fc")] {
        server.pg_dump(&database, &site.path(name), &[format, "-n", "public"]);
        let done = site.run("teslamate-restore", &["--drill", name, "--skip-extension", "cube"]).expect(0);
        let done = done.says("uses the extension \"citext\" of the live database").says("no extension \"cube\" in it");
        assert!(!done.stderr.contains("left out with the extension"), "{}", done.stderr);
        site.run("teslamate-restore", &["--yes", "--allow-other", name]).expect(0);
        assert_eq!(server.content(&database), before, "{name}");
        let refused = site.run("teslamate-restore", &["--drill", name, "--skip-extension", "citext"]).expect(10);
        refused.says("type public.citext, of the extension \"citext\"").says("Dump the whole database");
    }
    let text = fs::read_to_string(site.path("a.sql")).unwrap();
    let lacking = "CREATE SERVER s FOREIGN DATA WRAPPER never_made;\n\
                   CREATE FUNCTION public.f() RETURNS int LANGUAGE never_there AS 'x';\n\
                   CREATE FOREIGN DATA WRAPPER w HANDLER public.no_handler;\nCREATE TABLE public.t (";
    fs::write(site.path("b.sql"), text.replacen("CREATE TABLE public.t (", lacking, 1)).unwrap();
    let refused = site.run("teslamate-restore", &["--drill", "b.sql"]).expect(10);
    refused
        .says("wrapper never_made")
        .says("language never_there")
        .says("function public.no_handler")
        .says("live database and its service are as they were");
}

#[test]
fn k5_identities_keep_their_values_without_an_extension() {
    let Some(single) = Extension::install("identity", "relocatable = false\nschema = pg_catalog", SINGLE) else {
        return;
    };
    let server = Server::shared();
    let database = server.teslamate("identity");
    let make = format!(
        "CREATE EXTENSION {}; CREATE TABLE i (id integer GENERATED ALWAYS AS IDENTITY, n integer);",
        single.name
    );
    server.query(&database, &format!("{make} INSERT INTO i (n) SELECT generate_series(1, 7)"));
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    for name in ["a.sql", "a.dump"] {
        site.run("teslamate-backup", &[name]).expect(0);
    }
    for source in ["latest", "a.sql", "a.dump"] {
        let copy = server.fresh_name("identity_copy");
        site.run("teslamate-restore", &[source, "--into", &copy, "--skip-extension", &single.name]).expect(0);
        assert_eq!(
            server.query(&copy, "INSERT INTO i (n) VALUES (8) RETURNING id").lines().next(),
            Some("8"),
            "{source}"
        );
    }
}

#[test]
fn k5_rows_of_extensions_are_found_beside_the_others() {
    let Some(extension) = Extension::install("beside", "relocatable = false\nschema = public", REFERENCE) else {
        return;
    };
    let server = Server::shared();
    let database = server.teslamate("beside");
    server.query(&database, &format!("CREATE EXTENSION {}; {USED}", extension.name));
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    let rows = ["latest", "--yes", "--data-only", "--table", "ref_systems"];
    let refused = site.run("teslamate-restore", &rows).expect(10);
    refused.says(&extension.name).says("schema.dump").says("--into NAME --table public.ref_systems");
    let copy = server.fresh_name("beside_copy");
    site.run("teslamate-restore", &["latest", "--into", &copy, "--table", "public.ref_systems"]).expect(0);
    assert_eq!(server.query(&copy, "SELECT count(*) FILTER (WHERE own), count(*) FROM ref_systems"), "2|502");
}

#[test]
fn k5_comments_of_old_dumps_do_not_stop_a_plain_role() {
    let server = Server::shared();
    let database = server.fresh_name("comments");
    let role = format!("plain_{database}");
    server.query("postgres", &format!("CREATE ROLE {role} LOGIN CREATEDB"));
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER {role}"));
    server.query(&database, &format!("SET ROLE {role}; CREATE TABLE public.t (a int); INSERT INTO t VALUES (1)"));
    let site = Site::new(server, &database);
    let run = |arguments: &[&str]| {
        site.command("teslamate-restore").args(arguments).env("DATABASE_USER", &role).outcome().expect(0)
    };
    server.pg_dump(&database, &site.path("a.sql"), &[]);
    let text = fs::read_to_string(site.path("a.sql")).unwrap();
    let old = "CREATE EXTENSION IF NOT EXISTS plpgsql WITH SCHEMA pg_catalog;\n\
               COMMENT ON EXTENSION plpgsql IS 'PL/pgSQL procedural language';\n\
               COMMENT ON SCHEMA public IS 'standard public schema';\n";
    fs::write(site.path("b.sql"), text.replacen("CREATE TABLE", &format!("{old}CREATE TABLE"), 1)).unwrap();
    run(&["--yes", "--allow-other", "b.sql"]);
    assert_eq!(server.query(&database, "SELECT count(*) FROM t"), "1");
}

#[test]
fn k5_functions_of_the_server_need_no_trust_in_a_backup() {
    let server = Server::shared();
    let database = server.teslamate("internal");
    server.query(
        &database,
        "CREATE FUNCTION public.mine(integer, integer) RETURNS integer LANGUAGE internal IMMUTABLE STRICT AS 'int4pl'; \
         CREATE FUNCTION public.cubic(cube, cube) RETURNS integer LANGUAGE c AS '$libdir/cube', 'cube_cmp'",
    );
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    site.run("teslamate-backup", &["a.dump"]).expect(0);
    site.run("teslamate-restore", &["--drill", "latest"]).expect(0);
    site.run("teslamate-restore", &["--yes", "latest"]).expect(0);
    assert_eq!(server.query(&database, "SELECT mine(2, 3)"), "5");
    let refused = site.run("teslamate-restore", &["--drill", "a.dump"]).expect(10).says("runs as the server's account");
    assert!(!refused.stderr.contains("never writes"), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("language c") && refused.stderr.contains("language internal"),
        "{}",
        refused.stderr
    );
    site.run("teslamate-restore", &["--drill", "--trust-dump", "a.dump"]).expect(0);
}
