//! Policies for rows that the owner of a table is subject to.

use crate::support::{Server, Site};

#[test]
fn k17_rows_that_a_policy_hides_from_the_owner_are_counted() {
    let server = Server::shared();
    let database = server.fresh_name("forced");
    let plain = format!("plain_{database}");
    server.query("postgres", &format!("CREATE ROLE {plain} LOGIN CREATEDB"));
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER {plain} TEMPLATE template0"));
    let script = "CREATE TABLE t (id serial PRIMARY KEY, b text); INSERT INTO t VALUES (1, 'x'), (2, 'y'); \
         CREATE POLICY p ON t USING (id = 1); ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY; \
         CREATE TABLE parts (id int, b text) PARTITION BY RANGE (id); CREATE TABLE one PARTITION OF parts FOR VALUES FROM (0) TO (9); \
         INSERT INTO parts VALUES (1), (2), (3); CREATE POLICY q ON parts USING (false); \
         ALTER TABLE parts ENABLE ROW LEVEL SECURITY; ALTER TABLE parts FORCE ROW LEVEL SECURITY";
    for sql in script.split("; ") {
        server.query(&database, &format!("SET ROLE {plain}; {sql}"));
    }
    let site = Site::new(server, &database);
    for (name, format) in [("a.sql", "-Fp"), ("a.dump", "-Fc")] {
        server.pg_dump(&database, &site.path(name), &[format]);
        let copy = server.fresh_name("forced_copy");
        let restore = site.command("teslamate-restore").args(&[name, "--into", &copy]).env("DATABASE_USER", &plain);
        // The sequence is behind a row that the policy hides.
        restore.outcome().expect(0).says("behind public.t.id at 2");
        assert_eq!(server.query(&copy, "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM parts)"), "2|3");
        let forced = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relforcerowsecurity";
        assert_eq!(server.query(&copy, forced), "parts t", "the policies hold afterwards");
    }
}
