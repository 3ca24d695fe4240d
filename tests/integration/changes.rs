//! Change detection against everything that PostgreSQL does to a table: what is taken for unchanged is the same, byte
//! for byte.
//!
//! Every backup here reads all chunks all the same, and compares those that it would have reused with the last one's.
//! `TEST_ROUNDS` sets how many backups are made (60), `TEST_SEED` repeats a run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::Utc;
use glovebox::database::Connector;
use glovebox::database::tools::Tools;
use glovebox::dump::pg_dump::PgDump;
use glovebox::progress::Meter;
use glovebox::tables::buffer::Whole;
use glovebox::tables::catalog::Catalog;
use glovebox::tables::facts::Facts;
use glovebox::tables::manifest::{ChunkEntry, Manifest, Origin};
use glovebox::tables::readers;
use glovebox::tables::{Snapshot, changes, definitions, reuse};
use tokio_postgres::Client;

use crate::support::probe::Random;
use crate::support::tree_server::Server17;
use crate::support::{connector, wait};

const WAIT: Duration = Duration::from_secs(20);

/// A backup that is held in memory.
struct Taken {
    manifest: Manifest,
    chunks: BTreeMap<String, Vec<u8>>,
    reused: usize,
    reason: Option<String>,
}

/// Takes one, and fails the test if a chunk that would be reused is another one now.
async fn take(connector: &Connector, tools: &Tools, parent: Option<&Taken>, note: &str) -> Taken {
    let session = connector.connect().await.unwrap();
    let settled = changes::settle(&session, Duration::from_millis(100)).await.unwrap();
    let started = Utc::now();
    let snapshot = Snapshot::export(connector, WAIT).await.unwrap();
    let facts = Facts::read(&snapshot).await.unwrap();
    let (plan, others) = Catalog::read(&snapshot).await.unwrap().plan(16);
    let directory = tempfile::tempdir().unwrap();
    let pg_dump = PgDump { connector, tools, lock_wait: WAIT };
    let (_, hash) =
        definitions::write(&pg_dump, &snapshot, &plan.tables, directory.path(), &Meter::new("")).await.unwrap();
    let mut reason = None;
    let mut reusable = std::collections::HashMap::new();
    let (mut horizon, mut mark) = (settled, None);
    if let Some(parent) = parent {
        let listed = match reuse::known(&parent.manifest, &facts, &hash) {
            Ok(known) => changes::since(&session, snapshot.server, facts.timeline, known, 16, WAIT).await.unwrap(),
            Err(why) => Err(why.to_owned()),
        };
        match listed {
            Ok(since) => {
                reusable = reuse::reusable(&parent.manifest, &facts, &plan, &since.changes);
                horizon = horizon.or_else(|| parent.manifest.horizon.clone());
                mark = Some(since.mark);
            }
            Err(why) => reason = Some(why),
        }
    }
    if mark.is_none() {
        mark = changes::mark(&session, snapshot.server, facts.timeline).await.unwrap();
    }
    let plan = Arc::new(plan);
    let sessions = readers::join(connector, &snapshot, &plan, 2, WAIT).await.unwrap();
    let all = (0..plan.chunks.len()).collect();
    let mut ordered = readers::start(sessions, &plan, all, directory.path());
    let copied = tokio::task::spawn_blocking(move || {
        std::iter::from_fn(|| ordered.next_blocking()).map(Result::unwrap).collect::<Vec<_>>()
    });
    let mut chunks = BTreeMap::new();
    let mut entries = Vec::new();
    for copied in copied.await.unwrap() {
        let chunk = &plan.chunks[copied.chunk];
        let Whole::Memory(bytes) = copied.body else { panic!("a small chunk is in memory") };
        let known = reusable.get(&copied.chunk);
        if let Some(known) = known {
            let before = &parent.unwrap().chunks[&known.path];
            assert!(*before == bytes, "{} is not what it was, after: {note}", known.path);
            assert_eq!((known.rows, known.bytes), (copied.rows, copied.bytes));
        }
        let origin = if known.is_some() { Origin::Reused } else { Origin::Read };
        let (path, blocks) = (chunk.path.clone(), chunk.blocks.clone());
        entries.push(ChunkEntry {
            path: path.clone(),
            blocks,
            rows: copied.rows,
            bytes: copied.bytes,
            origin,
            read_at: started,
        });
        chunks.insert(path, bytes);
    }
    let mut manifest = Manifest::new(facts, &plan, others, &entries, started, Utc::now()).unwrap();
    (manifest.horizon, manifest.mark, manifest.schema_hash) = (horizon, mark, Some(hash));
    Taken { manifest, chunks, reused: reusable.len(), reason }
}

const SCHEMA: &str = "\
    CREATE TYPE mood AS ENUM ('m0', 'calm', 'angry');
    CREATE TABLE big (id int PRIMARY KEY, n int NOT NULL, feeling mood DEFAULT 'calm', note text) WITH (fillfactor = 80);
    CREATE TABLE wide (id int PRIMARY KEY, document jsonb, blob text);
    ALTER TABLE wide ALTER blob SET STORAGE EXTERNAL;
    CREATE UNLOGGED TABLE volatile (id int, note text);
    CREATE TABLE parts (id int, note text) PARTITION BY HASH (id);
    CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE still (id int, note text);
    CREATE TABLE labels (id int, feeling mood, kind regclass);
    INSERT INTO big SELECT i, i, 'calm', repeat('x', i % 90) FROM generate_series(1, 20000) i;
    INSERT INTO wide SELECT i, jsonb_build_object('a', i), repeat(md5(i::text), 100) FROM generate_series(1, 400) i;
    INSERT INTO volatile SELECT i, 'x' FROM generate_series(1, 9000) i;
    INSERT INTO parts SELECT i, repeat('p', 60) FROM generate_series(1, 9000) i;
    INSERT INTO still SELECT i, repeat('s', 60) FROM generate_series(1, 20000) i;
    INSERT INTO labels SELECT i, 'angry', 'still' FROM generate_series(1, 9000) i";

/// What may happen between two backups; `$n` and `$m` are numbers.
const DEEDS: [&str; 29] = [
    "UPDATE big SET n = n + 1 WHERE id BETWEEN $n AND $n + 20",
    "UPDATE big SET note = repeat('y', $m % 200) WHERE id = $n",
    "DELETE FROM big WHERE id BETWEEN $n AND $n + $m % 300",
    "INSERT INTO big SELECT i, i FROM generate_series($n, $n + 300) i ON CONFLICT (id) DO UPDATE SET n = -1",
    "INSERT INTO big SELECT 100000 + $n + i, i FROM generate_series(1, 500) i ON CONFLICT DO NOTHING",
    "BEGIN; UPDATE big SET n = 7 WHERE id < $n; ROLLBACK",
    "BEGIN; SAVEPOINT a; DELETE FROM big WHERE id < $n; ROLLBACK TO a; UPDATE big SET n = 9 WHERE id = $n; COMMIT",
    "BEGIN; SAVEPOINT a; UPDATE wide SET blob = 'gone' WHERE id < $m % 400; RELEASE a; COMMIT",
    "UPDATE wide SET blob = repeat(md5('$m'), 150) WHERE id = $m % 400",
    "UPDATE wide SET document = document || '{\"b\": $m}' WHERE id % 50 = $m % 50",
    "UPDATE volatile SET note = 'y$m' WHERE id % 100 = $m % 100",
    "UPDATE parts SET id = id + 1 WHERE id = $n % 9000",
    "DELETE FROM parts WHERE id BETWEEN $n % 9000 AND $n % 9000 + 50",
    "VACUUM big",
    "VACUUM (FREEZE) wide",
    "VACUUM FULL big",
    "TRUNCATE volatile; INSERT INTO volatile SELECT i, 'z' FROM generate_series(1, $m % 9000) i",
    "BEGIN; TRUNCATE parts; INSERT INTO parts SELECT i, 't' FROM generate_series(1, 3000 + $m % 3000) i; COMMIT",
    "CLUSTER big USING big_pkey",
    "ALTER TABLE wide ADD COLUMN c$n_$m int DEFAULT $m",
    "ALTER TABLE big ALTER n TYPE bigint; ALTER TABLE big ALTER n TYPE int",
    "ALTER TABLE parts_0 ADD x$n_$m int; ALTER TABLE parts_0 DROP x$n_$m",
    "CREATE INDEX ON big (n, id)",
    "BEGIN; UPDATE big SET n = 3 WHERE id BETWEEN $n AND $n + 40; PREPARE TRANSACTION 'p$n_$m'",
    "DELETE FROM big WHERE id > 90000; VACUUM big",
    "CHECKPOINT",
    "ALTER TYPE mood RENAME VALUE 'angry' TO 'cross'",
    "ALTER TYPE mood RENAME VALUE 'cross' TO 'angry'",
    "ALTER TABLE still RENAME TO moved; ALTER TABLE moved RENAME TO still",
];

/// Does something; a statement that PostgreSQL refuses (a lock that a prepared transaction holds) is as if not done.
async fn deed(client: &Client, random: &mut Random) -> String {
    let (n, m) = (random.below(20_000), random.below(100_000));
    let number = usize::try_from(random.below(DEEDS.len() as u64)).unwrap();
    let text = DEEDS[number].replace("$n", &n.to_string()).replace("$m", &m.to_string());
    let mut refused = None;
    // One by one: VACUUM and its like want no transaction around them.
    for statement in text.split("; ") {
        if let Err(cause) = client.batch_execute(statement).await {
            refused = Some(cause);
            let _ = client.batch_execute("ROLLBACK").await;
            break;
        }
    }
    refused
        .map_or_else(|| text.clone(), |cause| format!("{text} ({})", cause.as_db_error().map_or("", |e| e.message())))
}

/// Ends some of the transactions that were prepared, one way or the other.
async fn end_prepared(client: &Client, random: &mut Random) {
    for row in client.query("SELECT gid FROM pg_prepared_xacts", &[]).await.unwrap() {
        if random.below(2) == 0 {
            let verb = ["COMMIT", "ROLLBACK"][usize::try_from(random.below(2)).unwrap()];
            client.batch_execute(&format!("{verb} PREPARED '{}'", row.get::<_, &str>(0))).await.unwrap();
        }
    }
}

/// Writes while a backup is taken, in transactions that are under way at every moment of it.
async fn write_meanwhile(client: Client, mut random: Random, stop: Arc<AtomicBool>) {
    client.batch_execute("SET search_path = public; SET lock_timeout = '50ms'").await.unwrap();
    while !stop.load(Ordering::Relaxed) {
        let n = random.below(20_000);
        let sql = format!("BEGIN; UPDATE big SET n = {n}, note = note || 'w' WHERE id BETWEEN {n} AND {n} + 3");
        let _ = client.batch_execute(&sql).await;
        tokio::time::sleep(Duration::from_millis(random.below(30))).await;
        let end = if random.below(3) == 0 { "ROLLBACK" } else { "COMMIT" };
        let _ = client.batch_execute(end).await;
    }
}

#[test]
fn what_is_reused_is_the_same_whatever_was_done_in_between() {
    let settings = ["max_prepared_transactions=20", "autovacuum=off"];
    let Some(server) = Server17::start(&settings) else { return };
    server.query("postgres", "CREATE DATABASE changes");
    server.query("changes", SCHEMA);
    let rounds: u64 = std::env::var("TEST_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(60);
    let mut random = Random::new("changes");
    let connector = connector(&server.socket(), 5432, "changes", "postgres");
    let (mut reused, mut partly, mut crashes) = (0, 0, 0);
    wait(async {
        let tools = Tools::find(&connector, Some(&server.tools()), 170_000).await.unwrap();
        let mut parent: Option<Taken> = None;
        for round in 0..rounds {
            let client = connector.connect().await.unwrap();
            client.batch_execute("SET search_path = public; SET lock_timeout = '200ms'").await.unwrap();
            let mut note = format!("round {round}");
            for _ in 0..=random.below(4) {
                note = format!("{note}; {}", deed(&client, &mut random).await);
            }
            end_prepared(&client, &mut random).await;
            if random.below(15) == 0 {
                note.push_str("; crash");
                server.crash(&settings);
                crashes += 1;
            }
            // It writes into a table that nothing else touches, sleeps through this backup, and ends before the next.
            let sleeper = connector.connect().await.unwrap();
            let sleeps = random.below(3) == 0;
            if sleeps {
                let n = random.below(20_000);
                // A summary covers what lies between two checkpoints: the next one must not reach back to this write.
                let sql = format!("BEGIN; UPDATE public.still SET note = 'late' WHERE id BETWEEN {n} AND {n} + 3");
                sleeper.batch_execute(&sql).await.unwrap();
                connector.connect().await.unwrap().batch_execute("CHECKPOINT").await.unwrap();
                note.push_str("; a sleeper");
            }
            let stop = Arc::new(AtomicBool::new(false));
            let writer = connector.connect().await.unwrap();
            let seed = Random::of(random.next());
            let writing = tokio::spawn(write_meanwhile(writer, seed, stop.clone()));
            let taken = take(&connector, &tools, parent.as_ref(), &note).await;
            stop.store(true, Ordering::Relaxed);
            writing.await.unwrap();
            if sleeps {
                sleeper.batch_execute("COMMIT").await.unwrap();
            }
            eprintln!(
                "{note}: {} of {} reused {}",
                taken.reused,
                taken.chunks.len(),
                taken.reason.as_deref().unwrap_or("")
            );
            reused += taken.reused;
            partly += usize::from(taken.reused > 0 && taken.reused < taken.chunks.len());
            parent = Some(taken);
        }
    });
    eprintln!("{reused} chunks reused in {rounds} backups, {partly} of them in part; {crashes} crashes");
    assert!(partly as u64 > rounds / 3, "hardly anything was reused in part: the test proved little");
}

/// A virtual machine or a file system that is set back: the same cluster, the same timeline, another history.
#[test]
fn a_server_that_was_set_back_is_read_whole() {
    let settings = ["summarize_wal=on", "autovacuum=off"];
    let Some(server) = Server17::start(&settings) else { return };
    server.query("postgres", "CREATE DATABASE teslamate");
    server.query("teslamate", "CREATE TABLE t AS SELECT i AS id, 'old' AS note FROM generate_series(1, 20000) i");
    server.query("teslamate", "CHECKPOINT");
    let (tools, connector) = (server.tools(), connector(&server.socket(), 5432, "teslamate", "postgres"));
    wait(async {
        let tools = Tools::find(&connector, Some(&tools), 170_000).await.unwrap();
        let first = Box::pin(take(&connector, &tools, None, "")).await;
        server.save(&settings);
        server.query("teslamate", "UPDATE t SET note = 'one' WHERE id < 3");
        let second = Box::pin(take(&connector, &tools, Some(&first), "an update")).await;
        assert!(second.reused > 0 && second.reason.is_none(), "{:?}", second.reason);
        server.set_back(&settings);
        // At once the log ends before the second backup's; after some work it goes on beyond it.
        for work in ["SELECT 1", "UPDATE t SET note = 'two'; UPDATE t SET note = 'three'; CHECKPOINT"] {
            server.query("teslamate", work);
            let third = Box::pin(take(&connector, &tools, Some(&second), "it was set back")).await;
            assert_eq!(third.reason.as_deref(), Some("the server was set back to a state before the last backup"));
        }
        // The backup from before the copy was made is of the same history.
        let fourth = Box::pin(take(&connector, &tools, Some(&first), "it was set back")).await;
        assert_eq!(fourth.reason, None);
    });
}

/// What COPY writes can change without a block of the table: each of these would be reused wrongly by the blocks alone.
#[test]
fn what_no_block_of_the_table_shows_is_read() {
    let settings = ["summarize_wal=on", "autovacuum=off"];
    let Some(server) = Server17::start(&settings) else { return };
    server.query("postgres", "CREATE DATABASE teslamate");
    let run = |sql: &str| server.query("teslamate", sql);
    run(
        "CREATE ROLE bob; CREATE TYPE comp AS (x int, y int); CREATE DOMAIN kind AS regclass; CREATE TABLE keep (f int); \
         CREATE TABLE ra (f int); CREATE TABLE rb (f int)",
    );
    run("CREATE TABLE again AS SELECT i AS id, 'x' AS a, i AS b FROM generate_series(1, 5000) i; \
         CREATE TABLE shifted AS SELECT -i AS a, i AS b, i AS c FROM generate_series(1, 5000) i; \
         CREATE TABLE composite AS SELECT ROW(i, i)::comp AS c FROM generate_series(1, 5000) i; \
         CREATE TABLE roles AS SELECT 'bob'::regrole AS r FROM generate_series(1, 5000) i; \
         CREATE TABLE relations AS SELECT 'ra'::regclass AS r, ARRAY['keep'::regclass] AS s, 'keep'::kind AS k \
         FROM generate_series(1, 5000) i; \
         CREATE TABLE quiet AS SELECT i FROM generate_series(1, 5000) i");
    let (tools, connector) = (server.tools(), connector(&server.socket(), 5432, "teslamate", "postgres"));
    wait(async {
        let tools = Tools::find(&connector, Some(&tools), 170_000).await.unwrap();
        run("VACUUM");
        run("CHECKPOINT");
        let mut parent = Box::pin(take(&connector, &tools, None, "")).await;
        for deed in [
            "ALTER TABLE again DROP b; ALTER TABLE again ADD b int",
            "ALTER TABLE shifted DROP a; ALTER TABLE shifted RENAME b TO a; ALTER TABLE shifted RENAME c TO b; \
             ALTER TABLE shifted ADD c int",
            "ALTER TYPE comp DROP ATTRIBUTE y; ALTER TYPE comp ADD ATTRIBUTE y int",
            "ALTER ROLE bob RENAME TO alice",
            "ALTER TABLE ra RENAME TO rc; ALTER TABLE rb RENAME TO ra; ALTER TABLE rc RENAME TO rb",
            "DROP TABLE keep; CREATE TABLE keep (f int)",
        ] {
            // In this runtime, where the sessions of the last backup can end meanwhile.
            let session = connector.connect().await.unwrap();
            session.batch_execute(&format!("SET search_path = public; {deed}")).await.unwrap();
            // It compares every chunk that would be reused with what is there now.
            parent = Box::pin(take(&connector, &tools, Some(&parent), deed)).await;
        }
        let last = Box::pin(take(&connector, &tools, Some(&parent), "nothing")).await;
        assert!(last.reused > 0, "{:?}", last.reason);
    });
}

/// A history that is repeated to the byte writes its log to the same positions.
#[test]
fn a_history_that_is_repeated_is_another_one() {
    let settings = ["summarize_wal=on", "autovacuum=off", "bgwriter_lru_maxpages=0", "checkpoint_timeout=1h"];
    let Some(server) = Server17::start(&settings) else { return };
    server.query("postgres", "CREATE DATABASE teslamate");
    server.query("teslamate", "CREATE TABLE t AS SELECT i AS id, 1 AS v FROM generate_series(1, 20000) i");
    server.query("teslamate", "VACUUM FREEZE t");
    let (tools, connector) = (server.tools(), connector(&server.socket(), 5432, "teslamate", "postgres"));
    wait(async {
        let tools = Tools::find(&connector, Some(&tools), 170_000).await.unwrap();
        server.query("teslamate", "CHECKPOINT");
        let first = Box::pin(take(&connector, &tools, None, "")).await;
        server.save(&settings);
        server.query("teslamate", "UPDATE t SET v = 11 WHERE id <= 100");
        server.query("teslamate", "CHECKPOINT");
        let second = Box::pin(take(&connector, &tools, Some(&first), "11")).await;
        server.set_back(&settings);
        server.query("teslamate", "UPDATE t SET v = 22 WHERE id <= 100");
        server.query("teslamate", "CHECKPOINT");
        let third = Box::pin(take(&connector, &tools, Some(&second), "22")).await;
        assert_eq!(third.reason.as_deref(), Some("the server was set back to a state before the last backup"));
    });
}

/// A database that is made anew as a copy of files, under the number that the old one had.
#[test]
fn a_database_that_is_copied_over_the_old_one_is_read() {
    let Some(server) = Server17::start(&["summarize_wal=on", "autovacuum=off"]) else { return };
    server.query("postgres", "CREATE DATABASE teslamate");
    server.query("teslamate", "CREATE TABLE t AS SELECT i AS id FROM generate_series(1, 20000) i");
    server.query("postgres", "CREATE DATABASE gold TEMPLATE teslamate");
    let oid = server.query("postgres", "SELECT oid FROM pg_database WHERE datname = 'teslamate'");
    server.query("teslamate", "DELETE FROM t WHERE id <= 5000");
    server.query("teslamate", "VACUUM t");
    let (tools, connector) = (server.tools(), connector(&server.socket(), 5432, "teslamate", "postgres"));
    wait(async {
        let tools = Tools::find(&connector, Some(&tools), 170_000).await.unwrap();
        server.query("teslamate", "CHECKPOINT");
        let first = Box::pin(take(&connector, &tools, None, "")).await;
        let second = Box::pin(take(&connector, &tools, Some(&first), "nothing")).await;
        server.query("postgres", "DROP DATABASE teslamate WITH (FORCE)");
        let made = format!("CREATE DATABASE teslamate OID {oid} TEMPLATE gold STRATEGY file_copy");
        server.query("postgres", &made);
        Box::pin(take(&connector, &tools, Some(&second), &made)).await;
    });
}
