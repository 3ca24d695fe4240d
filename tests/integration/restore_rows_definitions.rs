//! `teslamate-restore --data-only` where definitions of the live database are other ones than when it was backed up, or
//! do more than they seem to.

use crate::support::{Outcome, Server, Site};

/// An installation with this schema and one backup of it.
struct Kept {
    server: &'static Server,
    site: Site,
}

impl Kept {
    fn new(hint: &str, schema: &str) -> Self {
        let server = Server::shared();
        let database = server.fresh_name(hint);
        server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
        server.query(&database, schema);
        let site = Site::with_repository(server, &database);
        site.run("teslamate-backup", &[]).expect(0);
        Self { server, site }
    }

    fn query(&self, sql: &str) -> String {
        self.server.query(&self.site.database, sql)
    }

    fn rows(&self, arguments: &[&str]) -> Outcome {
        let all = [&["latest", "--data-only", "--yes", "--no-safety-backup"], arguments].concat();
        self.site.run("teslamate-restore", &all)
    }
}

/// They would delete rows of a table that nobody named.
#[test]
fn k3_foreign_keys_that_always_fire_are_refused_by_name() {
    let kept = Kept::new(
        "keys_fire",
        "CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a SELECT i, 'v' || i FROM generate_series(1, 5) i; \
         CREATE TABLE b (id int PRIMARY KEY, aid int REFERENCES a ON DELETE CASCADE, v text); \
         INSERT INTO b SELECT i, i, 'b' || i FROM generate_series(1, 5) i",
    );
    let set = |state: &str, tables: &str| {
        kept.query(&format!(
            "DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM pg_trigger WHERE tgrelid::regclass::text IN ({tables}) \
             LOOP EXECUTE format('ALTER TABLE %s ENABLE {state} TRIGGER %I', r.tgrelid::regclass, r.tgname); END LOOP; END $$"
        ));
    };
    kept.query("UPDATE a SET v = 'changed'");
    let content = || kept.query("SELECT (SELECT string_agg(v, ',' ORDER BY id) FROM a), (SELECT count(*) FROM b)");
    let changed = "changed,changed,changed,changed,changed|5";
    for (state, table) in [("ALWAYS", "a"), ("REPLICA", "a"), ("ALWAYS", "b")] {
        set("", "'a', 'b'");
        set(state, &format!("'{table}'"));
        let refused = kept.rows(&["--table", table]).expect(10).says("of the foreign key b_aid_fkey of public.b");
        let names = kept.query(&format!("SELECT tgname FROM pg_trigger WHERE tgrelid = '{table}'::regclass"));
        for name in names.lines() {
            assert!(refused.stderr.contains(&format!("ALTER TABLE ONLY public.{table} ENABLE TRIGGER \"{name}\";")));
            assert!(
                refused.stderr.contains(&format!("ALTER TABLE ONLY public.{table} ENABLE {state} TRIGGER \"{name}\";"))
            );
        }
        assert_eq!(content(), changed);
    }
    set("", "'a', 'b'");
    kept.rows(&["--table", "a"]).expect(0);
    assert_eq!(content(), "v1,v2,v3,v4,v5|5");
}
