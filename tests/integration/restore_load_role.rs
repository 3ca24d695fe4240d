//! A role without rights loads dumps from elsewhere where the configured role is a superuser.

use std::fs;
use std::path::PathBuf;

use crate::support::server::Options;
use crate::support::{Server, Site};

/// Tries to become the superuser, and to run a program as the server's account. A function that is said to be immutable
/// may call it.
const REACH: &str = "\
    CREATE FUNCTION public.act(x integer) RETURNS integer LANGUAGE plpgsql AS $f$
    DECLARE how text;
    BEGIN
      FOREACH how IN ARRAY ARRAY['RESET ROLE', 'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION teslamate', 'SET ROLE teslamate',
                                 'ALTER ROLE ' || pg_catalog.quote_ident(current_user) || ' SUPERUSER',
                                 'COPY (SELECT 1) TO PROGRAM ''touch REACHED'''] LOOP
        BEGIN
          EXECUTE how;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
      END LOOP;
      RETURN x;
    END $f$;
    CREATE FUNCTION public.reach(x integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $f$ BEGIN RETURN public.act(x); END $f$;";

/// Objects that call it while a dump is loaded: a computed column, a CHECK, and an index.
const USES: &str = "\
    CREATE TABLE public.bait (id integer, computed integer GENERATED ALWAYS AS (public.reach(id)) STORED, CHECK (public.reach(id) = id));
    INSERT INTO public.bait VALUES (1), (2);
    CREATE INDEX bait_reach ON public.bait (public.reach(id));
    CREATE TABLE public.theirs (); ALTER TABLE public.theirs OWNER TO some_owner;
    GRANT SELECT ON public.bait TO some_owner; REVOKE INSERT ON public.theirs FROM some_owner;
    CREATE SCHEMA apart AUTHORIZATION some_owner; CREATE EXTENSION hstore SCHEMA apart;
    COMMENT ON SCHEMA public IS 'ours';";

struct Trap {
    server: &'static Server,
    site: Site,
    owner: String,
}

impl Trap {
    /// The live database with functions that reach for more, and dumps of it.
    fn new(hint: &str) -> Self {
        let server = Server::shared();
        let database = server.teslamate(hint);
        let (site, owner) = (Site::new(server, &database), format!("owner_{database}"));
        server.query("postgres", &format!("CREATE ROLE {owner}"));
        let trap = Self { server, site, owner };
        let reached = trap.reached();
        let sql = format!("{REACH}{USES}").replace("REACHED", reached.to_str().unwrap());
        let sql = sql.replace("some_owner", &trap.owner);
        server.query(&database, &sql);
        fs::remove_file(&reached).expect("the live server's role is a superuser");
        server.pg_dump(&database, &trap.site.path("a.sql"), &[]);
        server.pg_dump(&database, &trap.site.path("a.dump"), &["-Fc"]);
        trap
    }

    /// The file that the server's account makes if the function gets a superuser's rights.
    fn reached(&self) -> PathBuf {
        self.server.dir().join(format!("reached_{}", self.site.database))
    }

    fn roles(&self) -> String {
        let sql = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'glovebox_load_%' AND shobj_description(oid, 'pg_authid') LIKE";
        self.server.query("postgres", &format!("{sql} '%{} as this role'", self.site.database))
    }
}

#[test]
fn k18_functions_of_a_dump_do_not_get_the_rights_of_a_superuser() {
    let trap = Trap::new("loadrole");
    let database = &trap.site.database;
    for file in ["a.sql", "a.dump"] {
        let copy = trap.server.fresh_name("loadrole_copy");
        let outcome = trap.site.run("teslamate-restore", &["--into", &copy, file]).expect(0);
        assert!(!trap.reached().exists(), "{file}");
        assert!(!outcome.stderr.contains("superuser"), "{}", outcome.stderr);
        assert_eq!(trap.roles(), "0");
        // Owners, privileges and everything else are as they were.
        trap.server.pg_dump(database, &trap.site.path("live.sql"), &[]);
        trap.server.pg_dump(&copy, &trap.site.path("copy.sql"), &[]);
        let text = |name: &str| {
            let text = fs::read_to_string(trap.site.path(name)).unwrap();
            text.lines().filter(|line| !line.starts_with('\\')).collect::<Vec<_>>().join("\n")
        };
        assert!(text("live.sql") == text("copy.sql"), "{file}");
        let acl =
            "SELECT nspname, pg_get_userbyid(nspowner), nspacl FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1";
        assert_eq!(trap.server.query(&copy, acl), trap.server.query(database, acl), "{file}");
        trap.server.query("postgres", &format!("DROP DATABASE {copy}"));
    }
    let outcome = trap.site.run("teslamate-restore", &["--drill", "a.sql"]).expect(0);
    assert!(!trap.reached().exists(), "{}", outcome.stderr);
    // Whoever trusts the dump says so, and it has the rights.
    trap.site
        .run("teslamate-restore", &["--drill", "--trust-dump", "a.sql"])
        .expect(0)
        .says("with the rights of \"teslamate\", a superuser");
    assert!(trap.reached().exists());
}

#[test]
fn k18_what_only_a_superuser_may_load_is_loaded_by_one_and_said() {
    let trap = Trap::new("loadrights");
    let database = &trap.site.database;
    let cases = [
        (
            "CREATE MATERIALIZED VIEW public.m AS SELECT current_user AS who",
            "DROP MATERIALIZED VIEW public.m",
            "the materialized view public.m",
        ),
        (
            "CREATE PUBLICATION everything FOR ALL TABLES",
            "DROP PUBLICATION everything",
            "only a superuser may CREATE PUBLICATION everything",
        ),
        // Found out by trying.
        (
            "CREATE TABLE public.mine (who text CHECK (who = current_user)); SET ROLE teslamate; INSERT INTO public.mine VALUES (current_user)",
            "DROP TABLE public.mine",
            "loading again, with the rights of \"teslamate\"",
        ),
    ];
    for (make, drop, words) in cases {
        trap.server.query(database, make);
        trap.server.pg_dump(database, &trap.site.path("b.sql"), &[]);
        trap.site.run("teslamate-restore", &["--drill", "b.sql"]).expect(0).says(words);
        assert_eq!(trap.roles(), "0");
        assert_eq!(trap.server.databases(&format!("{database}_")), Vec::<String>::new());
        trap.server.query(database, drop);
    }
    // Rows that are wrong are wrong for everybody.
    let text = fs::read_to_string(trap.site.path("a.sql")).unwrap();
    let at = text.find("COPY public.cars ").unwrap();
    let row = at + text[at..].find('\n').unwrap() + 1;
    fs::write(trap.site.path("c.sql"), format!("{}x{}", &text[..row], &text[row..])).unwrap();
    let outcome = trap.site.run("teslamate-restore", &["--drill", "c.sql"]).expect(14);
    assert!(!outcome.stderr.contains("with the rights of"), "{}", outcome.stderr);
    assert_eq!(trap.roles(), "0");
}

#[test]
fn k18_where_no_other_role_may_log_in_it_is_said() {
    let server =
        Server::start(Options { hba: Some("local all postgres,teslamate trust\n".into()), ..Options::default() });
    server.create_teslamate("teslamate", 500);
    let site = Site::new(&server, "teslamate");
    server.pg_dump("teslamate", &site.path("a.sql"), &[]);
    site.run("teslamate-restore", &["--drill", "a.sql"])
        .expect(0)
        .says("with the rights of \"teslamate\", a superuser");
    assert_eq!(server.query("postgres", "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'glovebox_load_%'"), "0");
}
