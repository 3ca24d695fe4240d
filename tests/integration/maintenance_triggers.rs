//! Triggers of an add-on: the rows they find when drives and charges are closed, deleted and put back.

use std::sync::OnceLock;

use super::support::server::Options;
use super::support::{Server, Site};

/// A server of its own: the role gets settings.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = Server::start(Options::default());
        server.create_teslamate("template_teslamate", 3000);
        server.query("postgres", "ALTER ROLE teslamate SET \"TimeZone\" = 'Asia/Kathmandu'");
        server
    })
}

/// A database with an add-on: it counts what happens, in a table that it names without a schema.
fn with_add_on(hint: &str, more: &str) -> Site {
    let database = server().teslamate(hint);
    server().query(
        &database,
        &format!(
            "SET search_path = public, addon; CREATE SCHEMA addon; CREATE TABLE addon.seen (what text, zone text);
             CREATE FUNCTION addon.note() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN INSERT INTO seen VALUES (TG_OP || ' ' || TG_TABLE_NAME, current_setting('TimeZone')); RETURN NULL; END $$;
             ALTER DATABASE \"{database}\" SET search_path = public, addon; {more}"
        ),
    );
    Site::new(server(), &database)
}

fn seen(site: &Site) -> String {
    server().query(
        &site.database,
        "SELECT string_agg(DISTINCT what || ' ' || zone, ', ' ORDER BY what || ' ' || zone) FROM addon.seen",
    )
}

fn saved(site: &Site) -> String {
    format!("state/deleted/{}", site.files("state/deleted").pop().unwrap())
}

#[test]
fn k8_triggers_find_the_add_ons_tables_and_settings() {
    let tables = ["charging_processes", "drives", "cars", "charges", "positions"];
    let triggers: String = tables
        .iter()
        .map(|table| {
            format!("CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION addon.note();")
        })
        .collect();
    let site = with_add_on("addon", &triggers);
    server().query(&site.database, "UPDATE cars SET efficiency = 0.5; DELETE FROM addon.seen");
    let zone = "Asia/Kathmandu";
    site.run("teslamate-close-charge", &["--via", "sql", "3"]).expect(0);
    assert_eq!(seen(&site), format!("UPDATE cars {zone}, UPDATE charging_processes {zone}"));
    site.run("teslamate-close-drive", &["--via", "sql", "2"]).expect(0);
    assert!(seen(&site).contains(&format!("UPDATE drives {zone}")), "{}", seen(&site));
    let before = server().content(&site.database);
    server().query(&site.database, "DELETE FROM addon.seen");
    site.run("teslamate-delete-drive", &["2"]).expect(0);
    // The foreign key's own statement fires a trigger, too.
    assert_eq!(seen(&site), format!("DELETE drives {zone}, UPDATE positions {zone}"));
    site.run("teslamate-delete-drive", &["--undo", &saved(&site)]).expect(0);
    assert!(seen(&site).contains(&format!("INSERT drives {zone}")), "{}", seen(&site));
    site.run("teslamate-delete-charge", &["3"]).expect(0);
    site.run("teslamate-delete-charge", &["--undo", &saved_of(&site, "charge")]).expect(0);
    assert!(seen(&site).contains(&format!("INSERT charges {zone}")), "{}", seen(&site));
    let mut after = server().content(&site.database);
    after.insert("addon.seen".into(), before["addon.seen"].clone());
    assert_eq!(after, before);
}

fn saved_of(site: &Site, noun: &str) -> String {
    let names = site.files("state/deleted");
    format!("state/deleted/{}", names.iter().find(|name| name.starts_with(noun)).unwrap())
}

#[test]
fn k8_a_trigger_that_swallows_errors_still_computes() {
    let site = with_add_on(
        "swallow",
        "CREATE FUNCTION addon.quiet() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN INSERT INTO seen VALUES ('quiet', ''); RETURN NEW; EXCEPTION WHEN OTHERS THEN RETURN NEW; END $$;
         CREATE TRIGGER quiet BEFORE UPDATE ON charging_processes FOR EACH ROW EXECUTE FUNCTION addon.quiet();",
    );
    site.run("teslamate-close-charge", &["--via", "sql", "3"]).expect(0);
    assert_eq!(seen(&site), "quiet");
}

#[test]
fn k8_deferred_triggers_defaults_and_checks_work_at_commit() {
    let site = with_add_on(
        "deferred",
        "CREATE FUNCTION addon.helper() RETURNS int LANGUAGE sql AS 'SELECT 7';
         CREATE FUNCTION addon.holds(int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN helper() = 7; END';
         ALTER TABLE charging_processes ADD CHECK (addon.holds(id)), ADD extra int DEFAULT addon.helper();
         CREATE FUNCTION addon.double(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN helper() * $1; END';
         CREATE INDEX ON drives (addon.double(id));
         CREATE CONSTRAINT TRIGGER note AFTER UPDATE OR DELETE OR INSERT ON charging_processes DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION addon.note();",
    );
    let before = server().content(&site.database);
    site.run("teslamate-close-charge", &["--via", "sql", "3"]).expect(0);
    site.run("teslamate-delete-charge", &["3"]).expect(0);
    site.run("teslamate-delete-charge", &["--undo", &saved(&site)]).expect(0);
    site.run("teslamate-close-drive", &["--via", "sql", "2"]).expect(0);
    assert!(seen(&site).contains("INSERT charging_processes Asia/Kathmandu"), "{}", seen(&site));
    assert_eq!(server().content(&site.database)["public.charges"], before["public.charges"]);
}

#[test]
fn k8_policies_find_the_functions_of_the_application() {
    let site = with_add_on(
        "policy",
        "CREATE FUNCTION addon.helper() RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION addon.may() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN helper(); END';
         ALTER TABLE drives ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON drives USING (addon.may()) WITH CHECK (addon.may());",
    );
    server().query(
        &site.database,
        "DO $$ BEGIN IF to_regrole('member') IS NULL THEN CREATE ROLE member LOGIN; END IF; END $$;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO member; GRANT USAGE ON SCHEMA addon TO member",
    );
    let config = std::fs::read_to_string(site.config()).unwrap().replace("user = \"teslamate\"", "user = \"member\"");
    site.write_config(&config);
    site.run("teslamate-delete-drive", &["2"]).expect(0);
    site.run("teslamate-delete-drive", &["--undo", &saved(&site)]).expect(0);
    site.run("teslamate-close-drive", &["--via", "sql", "2"]).expect(0);
}

#[test]
fn k8_operators_of_the_application_take_no_place_of_the_servers() {
    let site = with_add_on(
        "operator",
        "CREATE FUNCTION public.always(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
         CREATE OPERATOR public.= (LEFTARG = int, RIGHTARG = int, FUNCTION = public.always);",
    );
    server().query(
        "postgres",
        &format!("ALTER DATABASE \"{}\" SET search_path = public, addon, pg_catalog", site.database),
    );
    let count = "SELECT count(*) FROM public.drives";
    let before: u32 = server().query(&site.database, count).parse().unwrap();
    site.run("teslamate-delete-drive", &["2"]).expect(0);
    assert_eq!(server().query(&site.database, count), (before - 1).to_string());
    site.run("teslamate-delete-drive", &["--undo", &saved(&site)]).expect(0);
    site.run("teslamate-close-charge", &["--via", "sql", "3"]).expect(0);
    assert_eq!(server().query(&site.database, count), before.to_string());
}

#[test]
fn k8_a_foreign_key_that_does_not_act_ends_a_deletion() {
    let site = with_add_on("replica", "");
    let database = &site.database;
    server().query("postgres", &format!("ALTER DATABASE \"{database}\" SET session_replication_role = replica"));
    let (before, drive) = (server().content(database), ["2"]);
    let superuser = std::fs::read_to_string(site.config()).unwrap();
    // A role that may not take this setting back.
    server().query(database, "CREATE ROLE bound LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO bound");
    site.write_config(&superuser.replace("user = \"teslamate\"", "user = \"bound\""));
    site.run("teslamate-delete-drive", &drive).expect(14).says("the foreign key did not act");
    assert_eq!(server().content(database), before);
    site.write_config(&superuser);
    site.run("teslamate-delete-drive", &drive).expect(0);
    assert_eq!(server().query(database, "SELECT count(*) FROM positions WHERE drive_id = 2"), "0");
}
