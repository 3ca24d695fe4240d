//! Reading a database in chunks from one moment: whatever is in it, put together again it is the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::SinkExt;
use glovebox::database::Connector;
use glovebox::database::tools::Tools;
use glovebox::dump::pg_dump::PgDump;
use glovebox::error::{Error, Kind};
use glovebox::progress::Meter;
use glovebox::tables::buffer::Whole;
use glovebox::tables::catalog::{Catalog, Elsewhere};
use glovebox::tables::facts::{Facts, Migrations};
use glovebox::tables::readers::{self, Copied};
use glovebox::tables::{CopyFormat, Plan, Snapshot, Table, definitions};

use crate::support::{self, Server, wait};

const WAIT: Duration = Duration::from_mins(1);

fn connector(server: &Server, database: &str, user: &str) -> Connector {
    support::connector(server.dir(), server.port(), database, user)
}

/// A database that was read.
struct Read {
    plan: Arc<Plan>,
    chunks: Vec<Copied>,
    others: BTreeMap<String, Elsewhere>,
    definitions: PathBuf,
    directory: tempfile::TempDir,
}

/// Reads all of a database, with two sessions. `meanwhile` runs between the snapshot and the reading.
async fn read(connector: &Connector, chunk_blocks: u32, meanwhile: impl FnOnce()) -> Result<Read, Error> {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = Snapshot::export(connector, WAIT).await?;
    let tools = Tools::find(connector, None, snapshot.server).await?;
    let catalog = Catalog::read(&snapshot).await?;
    let plan = Arc::new(Plan::new(catalog.tables, chunk_blocks));
    let sessions = readers::join(connector, &snapshot, &plan, 2, WAIT).await?;
    meanwhile();
    let all = (0..plan.chunks.len()).collect();
    let mut ordered = readers::start(sessions, &plan, all, directory.path());
    let chunks = tokio::task::spawn_blocking(move || {
        let mut chunks = Vec::new();
        while let Some(copied) = ordered.next_blocking() {
            chunks.push(copied?);
        }
        Ok::<_, Error>(chunks)
    });
    let chunks = chunks.await.unwrap()?;
    let pg_dump = PgDump { connector, tools: &tools, lock_wait: WAIT };
    let meter = Meter::new("");
    let (mut file, _) = definitions::write(&pg_dump, &snapshot, &plan.tables, directory.path(), &meter).await?;
    let path = directory.path().join("definitions.dump");
    std::io::copy(&mut file, &mut std::fs::File::create(&path).unwrap()).unwrap();
    let others = catalog.others.into_iter().map(|other| (other.name, other.rows)).collect();
    Ok(Read { plan, chunks, others, definitions: path, directory })
}

fn bytes(body: Whole) -> Vec<u8> {
    match body {
        Whole::Memory(bytes) => bytes,
        Whole::File(mut file) => {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
            bytes
        }
    }
}

fn pg_restore(server: &Server, database: &str, file: &Path, sections: &[&str]) {
    let mut command = server.tool("pg_restore");
    command.args(["--exit-on-error", "--dbname", &crate::support::server::conninfo(database)]);
    command.args(sections.iter().map(|section| format!("--section={section}"))).arg(file);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn load(client: &tokio_postgres::Client, table: &Table, rows: Vec<u8>) {
    let columns: Vec<String> = table.columns.iter().map(|column| glovebox::database::ident(&column.name)).collect();
    let list = if columns.is_empty() { String::new() } else { format!("({})", columns.join(", ")) };
    let sql = format!("COPY {} {list} FROM STDIN (FORMAT {})", table.qualified(), table.format.word());
    let sink = client.copy_in::<_, std::io::Cursor<Vec<u8>>>(&sql).await.unwrap();
    let mut sink = std::pin::pin!(sink);
    sink.send(std::io::Cursor::new(rows)).await.unwrap();
    sink.finish().await.unwrap();
}

/// Puts together what was read, in a new database.
fn put_together(server: &Server, read: Read, hint: &str) -> String {
    let database = server.fresh_name(hint);
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    pg_restore(server, &database, &read.definitions, &["pre-data", "data"]);
    wait(async {
        let client = connector(server, &database, "postgres").connect().await.unwrap();
        for copied in read.chunks {
            let table = &read.plan.tables[read.plan.chunks[copied.chunk].table];
            load(&client, table, bytes(copied.body)).await;
        }
    });
    pg_restore(server, &database, &read.definitions, &["post-data"]);
    drop(read.directory);
    database
}

fn sequences(server: &Server, database: &str) -> String {
    let sql = "SELECT string_agg(format('%s.%s=%s', schemaname, sequencename, last_value), ' ' ORDER BY schemaname, sequencename) FROM pg_sequences";
    server.query(database, sql)
}

#[test]
fn every_kind_of_relation_is_put_together_again() {
    let server = Server::shared();
    let database = server.fresh_name("kinds");
    server.query("postgres", &format!("CREATE DATABASE {database} TEMPLATE template0"));
    server.run_file(&database, &crate::support::server::fixture("torture.sql"), &[]);
    let read = wait(read(&connector(server, &database, "postgres"), 16, || ())).unwrap();
    let format = |name: &str| read.plan.tables.iter().find(|table| table.name == name).unwrap().format;
    assert_eq!((format("numbers"), format("compounds")), (CopyFormat::Binary, CopyFormat::Text));
    assert_eq!(read.others["events"], Elsewhere::Partitions);
    assert!(read.others.values().any(|rows| *rows == Elsewhere::MaterializedView));
    assert!(read.others.values().any(|rows| *rows == Elsewhere::Foreign));
    let copy = put_together(server, read, "kinds_copy");
    assert_eq!(server.content(&copy), server.content(&database));
    assert_eq!(sequences(server, &copy), sequences(server, &database));
}

#[test]
fn a_large_table_comes_in_many_chunks_and_none_twice() {
    let server = Server::shared();
    let database = server.fresh_name("chunks");
    server.create_teslamate(&database, 60_000);
    // Holes, and rows that moved.
    server.query(
        &database,
        "DELETE FROM positions WHERE id % 7 = 0 AND drive_id IS NULL AND id NOT IN (SELECT position_id FROM charging_processes); UPDATE positions SET speed = 1 WHERE id % 5 = 0",
    );
    let read = wait(read(&connector(server, &database, "teslamate"), 16, || ())).unwrap();
    let of_positions = read.plan.chunks.iter().filter(|chunk| chunk.path.starts_with("data/public.positions/")).count();
    assert!(of_positions > 20, "{of_positions}");
    let order: Vec<usize> = read.chunks.iter().map(|copied| copied.chunk).collect();
    assert_eq!(order, (0..read.plan.chunks.len()).collect::<Vec<_>>(), "they come in the plan's order");
    let rows: u64 = read.chunks.iter().map(|copied| copied.rows).sum();
    let expected: u64 =
        server.content(&database).values().map(|line| line.split('|').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(rows, expected);
    let copy = put_together(server, read, "chunks_copy");
    assert_eq!(server.content(&copy), server.content(&database));
}

#[test]
fn what_happens_after_the_snapshot_is_not_seen() {
    let server = Server::shared();
    let database = server.teslamate("moment");
    let before = server.content(&database);
    let read = wait(read(&connector(server, &database, "teslamate"), 16, || {
        server.query(
            &database,
            "DELETE FROM charges; UPDATE drives SET distance = 0; INSERT INTO updates (car_id, start_date, version) \
             SELECT 1, now(), 'x' FROM generate_series(1, 5000); CREATE TABLE later AS SELECT 1",
        );
    }));
    let copy = put_together(server, read.unwrap(), "moment_copy");
    assert_eq!(server.content(&copy), before);
}

#[test]
fn a_table_that_is_rewritten_between_the_snapshot_and_its_lock_is_noticed() {
    let server = Server::shared();
    for statement in ["TRUNCATE states", "VACUUM FULL states", "ALTER TABLE states ALTER id TYPE bigint"] {
        let database = server.teslamate("rewritten");
        let connector = connector(server, &database, "teslamate");
        let error = wait(async {
            let snapshot = Snapshot::export(&connector, WAIT).await.unwrap();
            server.query(&database, statement);
            Catalog::read(&snapshot).await.unwrap_err()
        });
        assert_eq!(error.kind(), Kind::Source, "{statement}: {error}");
        assert!(error.to_string().contains(r#"table "public"."states" was rewritten"#), "{statement}: {error}");
    }
}

#[test]
fn while_it_reads_no_table_can_be_altered() {
    let server = Server::shared();
    let database = server.teslamate("held");
    wait(async {
        let snapshot = Snapshot::export(&connector(server, &database, "teslamate"), WAIT).await.unwrap();
        let catalog = Catalog::read(&snapshot).await.unwrap();
        assert!(!catalog.tables.is_empty());
        for statement in ["TRUNCATE states", "ALTER TABLE positions ADD x int", "DROP TABLE updates"] {
            let sql = format!(
                "SET lock_timeout = '100ms'; DO $$ BEGIN EXECUTE '{statement}'; RAISE 'not held: {statement}'; \
                 EXCEPTION WHEN lock_not_available THEN NULL; END $$"
            );
            server.query(&database, &sql);
        }
    });
    assert_eq!(server.query(&database, "SELECT count(*) > 0 FROM states"), "t");
}

#[test]
fn r08_a_table_that_stays_locked_is_named() {
    let server = Server::shared();
    let database = server.teslamate("stays");
    let lock = server.hold(&database, "LOCK TABLE charges IN ACCESS EXCLUSIVE MODE");
    let error = wait(async {
        let snapshot = Snapshot::export(&connector(server, &database, "teslamate"), Duration::from_millis(200)).await?;
        Catalog::read(&snapshot).await
    });
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy, "{error}");
    assert!(error.to_string().contains(r#"cannot lock table "public"."charges""#), "{error}");
    drop(lock);
}

#[test]
fn r07_rows_that_the_role_may_not_see_fail_the_reading_by_name() {
    let server = Server::shared();
    let database = server.teslamate("rights");
    let role = format!("{database}_reader");
    server.query(
        &database,
        &format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA private TO {role}; \
             GRANT SELECT ON ALL TABLES IN SCHEMA public, private TO {role}; \
             ALTER TABLE states ENABLE ROW LEVEL SECURITY; CREATE POLICY half ON states USING (id % 2 = 0)"
        ),
    );
    let reader = connector(server, &database, &role);
    let error = wait(read(&reader, 16, || ())).err().expect("row security hides rows");
    assert!(error.kind() == Kind::Source && error.to_string().contains("states"), "{error}");
    server.query(
        &database,
        &format!("ALTER TABLE states DISABLE ROW LEVEL SECURITY; REVOKE SELECT ON charges FROM {role}"),
    );
    let error = wait(read(&reader, 16, || ())).err().expect("a right is missing");
    assert!(error.kind() == Kind::Source && error.to_string().contains("charges"), "{error}");
}

#[test]
fn where_the_rows_come_from_is_known_to_an_ordinary_role_too() {
    let server = Server::shared();
    let database = server.teslamate("facts");
    let role = format!("{database}_reader");
    server.query(
        "postgres",
        &format!(
            "CREATE ROLE {role} LOGIN; COMMENT ON DATABASE {database} IS 'ten years'; \
             ALTER DATABASE {database} SET work_mem = '8MB'; ALTER ROLE {role} IN DATABASE {database} SET jit = off"
        ),
    );
    server.query(&database, &format!("GRANT SELECT ON schema_migrations TO {role}"));
    let facts = wait(async {
        let snapshot = Snapshot::export(&connector(server, &database, &role), WAIT).await?;
        Facts::read(&snapshot).await
    });
    let facts = facts.unwrap();
    assert_eq!(facts.system_identifier, server.query("postgres", "SELECT system_identifier FROM pg_control_system()"));
    assert_eq!(facts.timeline, 1);
    assert_eq!(facts.server_version / 10_000, server.major());
    let of = |name: &str| facts.database[name].as_str().unwrap_or_default().to_owned();
    assert_eq!((of("datname"), of("owner"), of("encoding")), (database, "teslamate".into(), "UTF8".into()));
    assert_eq!((of("comment"), of("tablespace")), ("ten years".into(), "pg_default".into()));
    let settings: Vec<_> =
        facts.settings.iter().map(|setting| (setting.role.as_deref(), setting.values.join(" "))).collect();
    assert_eq!(settings, [(None, "work_mem=8MB".to_owned()), (Some(role.as_str()), "jit=off".to_owned())]);
    assert_eq!(facts.migrations, Some(Migrations { count: 105, newest: 20_260_808_090_000 }));
}
