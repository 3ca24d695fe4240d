//! Settings of a role or database, which are the application's, do not reach our sessions or the client programs.

use std::sync::OnceLock;

use super::support::probe::eventually;
use super::support::server::Options;
use super::support::tree_server::TreeServer;
use super::support::{Server, Site};

/// The server of this file: settings of roles are those of a whole cluster.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = Server::start(Options::default());
        server.create_teslamate("template_teslamate", 600);
        server
    })
}

/// An installation that works as a superuser of its own, with values whose text depends on settings.
fn installation(role: &str) -> Site {
    let server = server();
    let site = Site::with_repository(server, &server.teslamate(role));
    server.query(
        "postgres",
        &format!("CREATE ROLE {role} LOGIN SUPERUSER; CREATE ROLE {role}_without_rights; GRANT {role}_without_rights TO {role}"),
    );
    configure(&site, role);
    server.query(
        &site.database,
        "CREATE TABLE odd (id int PRIMARY KEY, x xml, b bytea, i interval, t timestamptz, d date, f float8, m money, a text[]);
         INSERT INTO odd VALUES (1, XMLPARSE (CONTENT 'two<a/>roots<b/>'), '\\x00ff5c27', '-1 day +02:03:04.5',
             '2024-03-31 02:30:00+02', '0044-03-15 BC', 0.1::float8 + 0.2::float8, 12.5, ARRAY[NULL, 'NULL', 'a\"b\\c']),
           (2, XMLPARSE (CONTENT ''), '', '1 year -1 month', 'infinity', '-infinity', 'NaN', -1, '{}');
         CREATE INDEX odd_words ON odd USING gin (a)",
    );
    site
}

fn configure(site: &Site, role: &str) {
    let section = super::support::repository::section(site);
    let text = format!(
        "state_dir = {:?}\n{section}[backup]\nchunk_blocks = 16\n[database]\nname = {:?}\nuser = \"{role}\"\nport = {}\n\
         socket_dir = {:?}\nos_user = {:?}\n",
        site.state_dir(),
        site.database,
        server().port(),
        server().dir(),
        if super::support::server::is_root() { "root".to_owned() } else { std::env::var("USER").unwrap() },
    );
    site.write_config(&text);
}

/// Every way in and out, and each time the same rows.
#[track_caller]
fn there_and_back(site: &Site) {
    let server = server();
    let before = server.content(&site.database);
    site.run("teslamate-backup", &[]).expect(0);
    for file in ["a.sql", "a.dump"] {
        site.run("teslamate-backup", &["--force", &format!("./{file}")]).expect(0);
        site.run("teslamate-restore", &["--drill", &format!("./{file}")]).expect(0);
    }
    site.run("teslamate-restore", &["--drill", "latest"]).expect(0);
    for source in ["latest", "./a.sql", "./a.dump"] {
        server.query(&site.database, "DELETE FROM odd; UPDATE cars SET name = 'gone'");
        let said = site.run("teslamate-restore", &[source, "--yes", "--no-safety-backup"]).expect(0).text();
        assert_eq!(server.content(&site.database), before, "{source}: {said}");
    }
    server.query(&site.database, "DELETE FROM odd");
    site.run("teslamate-restore", &["latest", "--data-only", "--table", "odd", "--yes", "--no-safety-backup"])
        .expect(0);
    assert_eq!(server.content(&site.database), before, "rows alone");
    if site.database.starts_with("another") {
        // What the application itself may not, it cannot be asked to do.
        return;
    }
    site.run("teslamate-delete-drive", &["2"]).expect(0);
    let saved = site.files("state/deleted").pop().unwrap();
    site.run("teslamate-delete-drive", &["--undo", &format!("state/deleted/{saved}")]).expect(0);
    assert_eq!(server.content(&site.database), before, "deleted and put back");
    std::fs::remove_file(site.path(&format!("state/deleted/{saved}"))).unwrap();
}

/// Gives the role an unusual value for every setting that a role may have.
const EVERY_SETTING: &str = r"DO $do$
    DECLARE s record; v text; n int := 0;
    BEGIN
        FOR s IN SELECT * FROM pg_settings WHERE context IN ('user', 'superuser')
            AND name !~ '^(log_|debug_|.*preload|max_stack_depth|transaction_|client_encoding|.*_path$|trace_|ignore_|jit|stats_temp|backtrace)'
        LOOP
            v := CASE s.vartype
                WHEN 'bool' THEN CASE s.boot_val WHEN 'on' THEN 'off' ELSE 'on' END
                WHEN 'enum' THEN (SELECT e FROM unnest(s.enumvals) e WHERE e <> s.boot_val ORDER BY e DESC LIMIT 1)
                WHEN 'string' THEN CASE s.name WHEN 'DateStyle' THEN 'German, DMY' WHEN 'TimeZone' THEN 'Asia/Kathmandu'
                    WHEN 'lc_messages' THEN 'C' WHEN 'lc_monetary' THEN 'C' WHEN 'default_table_access_method' THEN 'heap'
                    WHEN 'timezone_abbreviations' THEN 'India' WHEN 'default_text_search_config' THEN 'pg_catalog.german'
                    ELSE s.boot_val END
                ELSE greatest(s.min_val::numeric, CASE s.vartype WHEN 'integer' THEN 1 ELSE s.min_val::numeric END)::text END;
            BEGIN
                EXECUTE format('ALTER ROLE %I IN DATABASE %I SET %s TO %L', ROLE_NAME, DATABASE_NAME, s.name, v);
                n := n + 1;
            EXCEPTION WHEN OTHERS THEN NULL; END;
        END LOOP;
        IF n < 100 THEN RAISE EXCEPTION 'only % settings', n; END IF;
    END $do$";

#[test]
fn k4_every_setting_of_a_role_at_once_changes_nothing() {
    let site = installation("every_setting");
    let sql =
        EVERY_SETTING.replace("ROLE_NAME", "'every_setting'").replace("DATABASE_NAME", &format!("'{}'", site.database));
    server().query("postgres", &sql);
    there_and_back(&site);
    // The same for the role in all databases: now it is in the maintenance database too, and in the staging one.
    server()
        .query("postgres", &sql.replace("IN DATABASE %I SET", "SET").replace(&format!(", '{}'", site.database), ""));
    there_and_back(&site);
    assert_ne!(server().query("postgres", "SELECT count(*) FROM pg_db_role_setting"), "0");
}

#[test]
fn k4_time_limits_of_a_role_end_no_session() {
    let site = installation("limited");
    for limit in ["statement_timeout", "lock_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout"] {
        server().query("postgres", &format!("ALTER ROLE limited SET {limit} = '1ms'"));
    }
    there_and_back(&site);
}

#[test]
fn k4_a_role_that_is_set_for_a_role_is_given_up() {
    let site = installation("another");
    server().query("postgres", "ALTER ROLE another SET role = another_without_rights");
    there_and_back(&site);
}

#[test]
fn k4_settings_of_a_database_do_not_reach_a_restore() {
    let site = installation("of_database");
    for setting in [
        "xmloption = document",
        "bytea_output = escape",
        "\"DateStyle\" = 'SQL, DMY'",
        "search_path = pg_temp, nowhere",
        "default_tablespace = ''",
        "quote_all_identifiers = on",
        "default_transaction_read_only = on",
        "gin_fuzzy_search_limit = 1",
    ] {
        let database = &site.database;
        server().query(
            "postgres",
            &format!(
                "ALTER ROLE of_database IN DATABASE \"{database}\" SET {setting}; ALTER ROLE ALL SET app.x = 'a b\\c'"
            ),
        );
    }
    there_and_back(&site);
    let kept = "SELECT count(*) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(setconfig) \
                WHERE datname = ";
    assert_eq!(
        server().query("postgres", &format!("{kept}'{}'", site.database)),
        "8",
        "they are still the application's"
    );
}

#[test]
fn k4_login_triggers_and_transaction_limits_do_not_act() {
    for major in [17, 18, 19] {
        if let Some(server) = TreeServer::of(major, &[]) {
            logins_are_not_counted(&server);
        }
    }
}

fn logins_are_not_counted(server: &TreeServer) {
    server.make_teslamate();
    server.query(
        "teslamate",
        "CREATE TABLE logins (at timestamptz);
         CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.logins VALUES (now()); END';
         CREATE EVENT TRIGGER note_logins ON login EXECUTE FUNCTION note();
         ALTER EVENT TRIGGER note_logins ENABLE ALWAYS;
         ALTER ROLE teslamate SET transaction_timeout = '20ms'; ALTER ROLE teslamate SET statement_timeout = '1ms';
         ALTER ROLE teslamate SET xmloption = document; ALTER ROLE teslamate SET event_triggers = on",
    );
    let tools = server.tools();
    let site = server.site(Some(&tools));
    let config = std::fs::read_to_string(site.config()).unwrap().replace("user = \"postgres\"", "user = \"teslamate\"");
    let section = super::support::repository::section(&site);
    site.write_config(&config.replacen("[database]", &format!("{section}[database]"), 1));
    site.run("teslamate-backup", &[]).expect(0);
    for file in ["a.sql", "a.dump"] {
        site.run("teslamate-backup", &[file]).expect(0);
        site.run("teslamate-restore", &["--drill", file]).expect(0);
    }
    site.run("teslamate-restore", &["--drill", "latest"]).expect(0);
    site.run("teslamate-restore", &["latest", "--yes"]).expect(0);
    site.run("teslamate-delete-drive", &["2"]).expect(0);
}

/// Generated columns, checks, materialized views and indexes whose values depend on what is set for the application.
const DEPENDENT: &str = "
    CREATE FUNCTION day(timestamptz) RETURNS date IMMUTABLE LANGUAGE sql AS 'SELECT $1::date';
    CREATE FUNCTION shown(date) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1::text';
    CREATE TABLE trips (id integer PRIMARY KEY, at timestamptz, day date GENERATED ALWAYS AS (day(at)) STORED, checked date CHECK (checked = at::date),
                        shown text GENERATED ALWAYS AS (shown(DATE '2024-03-04')) STORED, tenant text CHECK (tenant = current_setting('app.tenant')));
    CREATE INDEX trips_day ON trips (day(at));
    CREATE MATERIALIZED VIEW per_day AS SELECT at::date AS day, count(*) FROM trips GROUP BY 1;";

#[test]
fn k4_what_a_restore_computes_is_what_the_application_computed() {
    let server = Server::start(Options::default());
    for (number, (where_set, set, reset)) in [
        ("server", "ALTER SYSTEM SET timezone = 'Asia/Tokyo'", "ALTER SYSTEM RESET timezone"),
        ("database", "ALTER DATABASE depends SET timezone = 'Asia/Tokyo'", "SELECT 1"),
        ("role", "ALTER ROLE postgres SET timezone = 'Asia/Tokyo'; ALTER ROLE teslamate SET timezone = 'Asia/Tokyo'",
            "ALTER ROLE postgres RESET timezone; ALTER ROLE teslamate RESET timezone"),
        ("role in the database",
            "ALTER ROLE postgres IN DATABASE depends SET timezone = 'Asia/Tokyo'; ALTER ROLE teslamate IN DATABASE depends SET timezone = 'Asia/Tokyo'",
            "SELECT 1",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let database = &format!("depends_{number}");
        let set = set.replace("DATABASE depends", &format!("DATABASE {database}"));
        server.create_teslamate(database, 500);
        server.query(
            database,
            &format!(
                "ALTER DATABASE {database} SET app.tenant = 'seven'; ALTER DATABASE {database} SET datestyle = 'German'"
            ),
        );
        server.query("postgres", &set);
        server.query("postgres", "SELECT pg_reload_conf()");
        eventually(10, "the setting holds", || server.query(database, "SHOW timezone") == "Asia/Tokyo");
        server.query(database, DEPENDENT);
        server.query(
            database,
            "INSERT INTO trips (id, at, checked, tenant) VALUES (1, '2024-01-01 20:00Z', '2024-01-02', 'seven'), (2, '2024-01-01 02:00Z', '2024-01-01', 'seven'); \
             REFRESH MATERIALIZED VIEW per_day",
        );
        let question = "SET timezone = 'UTC'; SET datestyle = 'ISO'; SET enable_seqscan = off; \
             SELECT (SELECT string_agg(t::text, ' ' ORDER BY id) FROM trips t), (SELECT string_agg(p::text, ' ' ORDER BY day) FROM per_day p)";
        let before = server.query(database, question);
        assert!(before.contains("2024-01-02,2024-01-02,04.03.2024"), "{where_set}: {before}");
        let found = "SELECT count(*) FROM trips WHERE day(at) = '2024-01-02'";
        let site = Site::with_repository(&server, database);
        site.run("teslamate-backup", &[]).expect(0);
        for name in ["a.sql", "a.dump"] {
            site.run("teslamate-backup", &[name]).expect(0);
        }
        site.run("teslamate-backup", &["export", "latest", "b.sql"]).expect(0);
        // All sources once, and what differs with the place of the setting.
        let sources = if number == 0 { &["latest", "a.sql", "a.dump", "b.sql"][..] } else { &["latest", "a.sql"] };
        for source in sources {
            site.run("teslamate-restore", &["--yes", "--no-safety-backup", source]).expect(0);
            assert_eq!(server.query(database, question), before, "{where_set}, {source}");
            assert_eq!(
                server.query(database, &format!("SET enable_seqscan = off; {found}")),
                "1",
                "{where_set}, {source}"
            );
        }
        server.query(database, "DELETE FROM trips WHERE id = 1");
        site.run("teslamate-restore", &["latest", "--data-only", "--table", "trips", "--yes"]).expect(0);
        assert_eq!(server.query(database, question), before, "{where_set}, rows alone");
        server.query("postgres", reset);
    }
}
