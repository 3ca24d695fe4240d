//! Undo: which change it undoes, which databases are previous ones, and what is shown before.

use std::fs;

use crate::support::repository::section;
use crate::support::{Server, Site};

fn kept(hint: &str) -> (&'static Server, Site, String) {
    let server = Server::shared();
    let database = server.teslamate(hint);
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    (server, site, database)
}

#[test]
fn k15_undo_after_data_only_names_the_way_back() {
    let (server, site, database) = kept("undo_rows");
    let restore = |arguments: &[&str]| site.run("teslamate-restore", arguments);
    restore(&["latest", "--yes", "--no-safety-backup"]).expect(0);
    server.query(
        &database,
        "INSERT INTO positions (date, latitude, longitude, car_id) SELECT now(), 1, 1, 1 FROM generate_series(1, 27)",
    );
    let before = server.content(&database);
    let done = restore(&["latest", "--data-only", "--table", "positions", "--yes", "--json"]).expect(0).json();
    assert_eq!(done["removed"]["\"public\".\"positions\""], 27, "{done}");
    let safety = &done["safety_backup"].as_str().unwrap()[..8];
    let after = server.content(&database);
    // The ledger is not needed to know it.
    let way = format!("teslamate-restore {safety} --data-only --table public.positions");
    let refused = restore(&["--undo", "--yes"]).expect(10).says(&way).says("were not touched");
    assert_eq!(server.content(&database), after);
    restore(&way.split(' ').skip(1).chain(["--yes"]).collect::<Vec<_>>()).expect(0);
    assert_eq!(server.content(&database), before);
    // The older database is still there for who names it; an undo of that brings this one back.
    let named =
        refused.stderr.split("--undo --previous ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    restore(&["--undo", "--previous", &named, "--yes"]).expect(0);
    assert_ne!(server.content(&database), before);
    restore(&["--undo", "--yes"]).expect(0);
    assert_eq!(server.content(&database), before);
}

#[test]
fn k15_undo_after_data_only_names_no_backup_that_was_deleted() {
    let (server, site, database) = kept("undo_deleted");
    let restore = |arguments: &[&str]| site.run("teslamate-restore", arguments);
    restore(&["latest", "--yes", "--no-safety-backup"]).expect(0);
    server.query(&database, "UPDATE cars SET name = 'since'");
    let done = restore(&["latest", "--data-only", "--table", "cars", "--yes", "--json"]).expect(0).json();
    let safety = done["safety_backup"].as_str().unwrap();
    site.run("teslamate-backup", &["delete", safety, "--yes"]).expect(0);
    let refused = restore(&["--undo", "--yes"]).expect(10).says(&format!("{}, was deleted", &safety[..8]));
    assert!(!refused.stderr.contains("--data-only --table"), "{}", refused.stderr);
}

#[test]
fn k15_a_restore_after_data_only_is_what_an_undo_undoes() {
    let (server, site, database) = kept("undo_last");
    let restore =
        |arguments: &[&str]| site.run("teslamate-restore", &[arguments, &["--yes", "--no-safety-backup"]].concat());
    restore(&["latest"]).expect(0);
    server.query(&database, "UPDATE cars SET name = 'later'");
    restore(&["latest", "--data-only", "--table", "drives"]).expect(0);
    let before = server.content(&database);
    restore(&["latest"]).expect(0);
    site.run("teslamate-restore", &["--undo", "--yes"]).expect(0);
    assert_eq!(server.content(&database), before);
    site.run("teslamate-restore", &["--undo", "--yes"]).expect(0);
    assert_ne!(server.content(&database), before, "undone twice is done again");
}

#[test]
fn k15_data_only_without_a_backup_before_it_is_said() {
    let (_, site, _) = kept("undo_none");
    site.run("teslamate-restore", &["latest", "--yes", "--no-safety-backup"]).expect(0);
    site.run("teslamate-restore", &["latest", "--data-only", "--yes", "--no-safety-backup"]).expect(0);
    site.run("teslamate-restore", &["--undo", "--yes"])
        .expect(10)
        .says("No backup was taken before it")
        .says("--previous");
}

#[test]
fn k15_a_database_that_a_person_made_is_no_previous_one() {
    let (server, site, database) = kept("person");
    let mine = format!("{database}_before_20200101_000000");
    server.query("postgres", &format!("CREATE DATABASE {mine} TEMPLATE {database}"));
    server.query("postgres", &format!("COMMENT ON DATABASE {mine} IS 'mine'"));
    server.query(&mine, "UPDATE cars SET name = 'mine'");
    site.run("teslamate-restore", &["--undo", "--yes"]).expect(10).says(&format!("--undo --previous {mine}"));
    for _ in 0..2 {
        site.run("teslamate-restore", &["latest", "--yes", "--no-safety-backup"]).expect(0);
    }
    let left = server.databases(&format!("{database}_before_"));
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(left[0], mine);
    // A copy of the comment is no mark: the OID in it is another one's.
    let comment = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname =";
    let copied = server.query("postgres", &format!("{comment} '{}'", left[1]));
    server.query("postgres", &format!("COMMENT ON DATABASE {mine} IS '{copied}'"));
    site.run("teslamate-restore", &["latest", "--yes", "--no-safety-backup"]).expect(0);
    assert_eq!(server.databases(&mine), [mine.as_str()]);
    // Named, it is swapped in.
    site.run("teslamate-restore", &["--undo", "--previous", &mine, "--yes"]).expect(0);
    assert_eq!(server.query(&database, "SELECT DISTINCT name FROM cars"), "mine");
}

#[test]
fn k15_the_comment_of_a_database_survives_an_undo() {
    let (server, site, database) = kept("comment");
    server.query("postgres", &format!("COMMENT ON DATABASE {database} IS 'ten years\nof data'"));
    let comment = || {
        server.query(
            "postgres",
            &format!("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{database}'"),
        )
    };
    for arguments in [&["latest", "--yes", "--no-safety-backup"][..], &["--undo", "--yes"], &["--undo", "--yes"]] {
        site.run("teslamate-restore", arguments).expect(0);
        assert_eq!(comment(), "ten years\nof data");
    }
}

#[test]
fn k2_into_refuses_the_names_that_a_restore_gives() {
    let (server, site, database) = kept("reserved");
    for name in [format!("{database}_before_20260101_000000"), "x_restore_20260101_000000".to_owned()] {
        site.run("teslamate-restore", &["latest", "--into", &name]).expect(10).says("a restore gives by itself");
        assert_eq!(server.databases(&name), Vec::<String>::new());
    }
}

#[test]
fn k15_a_persons_database_with_a_staging_name_stays() {
    let (server, site, database) = kept("sweep");
    let empty = format!("{database}_restore_20260101_000000");
    server.query("postgres", &format!("CREATE DATABASE {empty}"));
    // What a killed run left and somebody renamed, to keep it.
    server.query("postgres", &format!("CREATE DATABASE rescued_{database}"));
    server.query(
        "postgres",
        &format!(
            "COMMENT ON DATABASE rescued_{database} IS 'glovebox is loading a replacement for database {database} here'"
        ),
    );
    site.run("teslamate-restore", &["latest", "--drill"]).expect(0);
    assert_eq!(server.databases(&empty).len(), 1);
    assert_eq!(server.databases(&format!("rescued_{database}")).len(), 1);
}

#[test]
fn k15_safety_backups_outlive_a_forget() {
    let server = Server::shared();
    let database = server.teslamate("forget");
    let site = Site::new(server, &database);
    let zero = "keep_hourly = 0\nkeep_daily = 0\nkeep_weekly = 0\nkeep_monthly = 0\nkeep_yearly = 0\n";
    let more = format!("port = {}\n{}[retention]\nkeep_last = 1\n{zero}", server.port(), section(&site));
    site.configure(&more, "");
    site.run("teslamate-backup", &[]).expect(0);
    let restored = site.run("teslamate-restore", &["latest", "--yes", "--json"]).expect(0).json();
    let safety = restored["safety_backup"].as_str().unwrap();
    server.query(&database, "UPDATE cars SET name = 'later'");
    site.run("teslamate-backup", &[]).expect(0);
    server.query(&database, "UPDATE cars SET name = 'last'");
    site.run("teslamate-backup", &[]).expect(0);
    let said = site.run("teslamate-backup", &["forget"]).expect(0);
    assert!(said.text().contains("before a change"), "{}", said.text());
    assert!(site.backups().iter().any(|id| id == safety), "{:?}", site.backups());
}

#[test]
fn k15_prompts_show_ages_rows_and_what_is_lost() {
    let (server, site, database) = kept("prompts");
    let shown = |arguments: &str| {
        let (code, shown) = site.on_terminal("teslamate-restore", arguments).answer("no");
        assert_eq!(code, Some(10), "{shown}");
        shown
    };
    site.run("teslamate-restore", &["latest", "--yes", "--no-safety-backup"]).expect(0);
    server.query(
        &database,
        "INSERT INTO positions (date, latitude, longitude, car_id) VALUES ('2031-02-03 04:05:06', 1, 1, 1)",
    );
    let restore = shown("latest");
    for words in [
        "rows)",
        "The present one is kept",
        "the newest position of 2031-02-03 04:05:06 UTC",
        "is dropped afterwards. Its last state is in a backup by then",
        "just now",
    ] {
        assert!(restore.contains(words), "{words}: {restore}");
    }
    let rows = shown("latest --data-only --table positions --table drives");
    assert!(
        rows.contains("1 rows that the backup does not have are removed. The backup that is taken first has them."),
        "{rows}"
    );
    assert!(rows.contains("only live"), "{rows}");
    let undo = shown("--undo");
    for words in
        ["It was replaced at", "The present one is kept, with what was written into it. It has", "2031-02-03 04:05:06"]
    {
        assert!(undo.contains(words), "{words}: {undo}");
    }
    fs::write(site.path("a.dump"), "").unwrap();
    assert!(shown("a.dump").contains("written at"));
    // Without a repository nothing holds what the earlier previous database has.
    let bare = Site::new(server, &database);
    fs::write(bare.path("a.dump"), "").unwrap();
    let (code, shown) = bare.on_terminal("teslamate-restore", "a.dump").answer("no");
    assert_eq!(code, Some(10), "{shown}");
    assert!(shown.contains("is dropped afterwards. What it holds is in no backup"), "k6: {shown}");
}

#[test]
fn k3_a_partitioned_table_stands_for_its_partitions() {
    let server = Server::shared();
    let database = server.fresh_name("parts");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.query(
        &database,
        "CREATE TABLE m (a int, b text) PARTITION BY RANGE (a); CREATE TABLE m1 PARTITION OF m FOR VALUES FROM (0) TO (10); \
         CREATE TABLE m2 PARTITION OF m FOR VALUES FROM (10) TO (20) PARTITION BY LIST (b); CREATE TABLE m2x PARTITION OF m2 FOR VALUES IN ('x'); \
         CREATE TABLE m2d PARTITION OF m2 DEFAULT; CREATE TABLE other (a int); INSERT INTO other VALUES (1); \
         CREATE TABLE up (a int); CREATE TABLE down () INHERITS (up); INSERT INTO down VALUES (1); INSERT INTO up VALUES (2); \
         INSERT INTO m VALUES (1, 'a'), (11, 'x'), (12, 'y'), (13, 'y')",
    );
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &[]).expect(0);
    server.pg_dump(&database, &site.path("a.dump"), &["-Fc"]);
    for source in ["latest", "a.dump"] {
        let copy = server.fresh_name("parts_copy");
        let into = site
            .run("teslamate-restore", &[source, "--into", &copy, "--table", "m", "--allow-other", "--json"])
            .expect(0)
            .json();
        assert_eq!(server.query(&copy, "SELECT count(*), count(DISTINCT tableoid) FROM m"), "4|3", "{source}");
        assert_eq!(server.query(&copy, "SELECT to_regclass('other') IS NULL"), "t");
        assert_eq!(into["rows"], 4, "{into}");
        let drill =
            site.run("teslamate-restore", &[source, "--drill", "--table", "public.m", "--json"]).expect(0).json();
        assert_eq!(drill["rows"], 4, "{drill}");
        let up = site.run("teslamate-restore", &[source, "--drill", "--table", "up"]).expect(0);
        assert!(up.stderr.contains("public.down inherits from public.up and is not taken"), "{}", up.stderr);
    }
    server.query(&database, "DELETE FROM m; UPDATE up SET a = 9");
    let rows =
        site.run("teslamate-restore", &["latest", "--data-only", "--table", "m", "--table", "up", "--yes"]).expect(0);
    assert_eq!(server.query(&database, "SELECT count(*) FROM m"), "4");
    assert_eq!(server.query(&database, "SELECT array_agg(a ORDER BY a) FROM up"), "{2,9}");
    assert!(rows.stderr.contains("public.down inherits and is not meant"), "{}", rows.stderr);
}
