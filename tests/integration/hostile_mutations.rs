//! Random changes to real dumps: what the server executes is what the scanner named, statement by statement.
//!
//! `FUZZ_SECONDS` (40) says how long it goes on, `TEST_SEED` repeats a run. `make fuzz` runs it for ten minutes.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use glovebox::dump::rules::{Disposition, Rules};
use glovebox::dump::scan::{Scanner, Statement, Visitor};
use glovebox::dump::text::Flaw;

use crate::support::Server;
use crate::support::server::{Options, fixture};

/// Collects the statements that a load would execute.
#[derive(Default)]
struct Named {
    rules: Rules,
    statements: Vec<String>,
}

impl Visitor for Named {
    fn statement(&mut self, statement: &Statement<'_>) -> Result<(), Flaw> {
        if !matches!(self.rules.disposition(statement), Disposition::Skip(_)) && !statement.is_copy() {
            self.statements.push(String::from_utf8_lossy(statement.text).into_owned());
        }
        Ok(())
    }
}

/// Pieces that a scanner may take for something else than the server does.
const PIECES: [&str; 34] = [
    "'",
    "\"",
    "$$",
    "$a$",
    "--",
    "/*",
    "*/",
    ";",
    "\\",
    "E'",
    "U&'",
    "\n",
    "\r",
    "(",
    ")",
    "begin",
    " BEGIN ATOMIC ",
    " END ",
    " case ",
    "''",
    "\\'",
    "\u{a0}",
    "é",
    "$1",
    "::",
    "\\.\n",
    ";;",
    "/*/",
    "e'",
    "B'",
    "N'",
    " CREATE FUNCTION f() ",
    "$é$",
    "\u{2028}",
];

/// A sequence of numbers that is the same for the same seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

/// Changes some places of a text.
fn mutated(text: &[char], random: &mut Random) -> String {
    let mut text = text.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(text.len());
        match random.below(4) {
            0 => drop(text.remove(at)),
            1 => {
                let end = (at + random.below(40)).min(text.len());
                let piece: Vec<char> = text[at..end].to_vec();
                let target = random.below(text.len());
                text.splice(target..target, piece);
            }
            _ => drop(text.splice(at..at, PIECES[random.below(PIECES.len())].chars())),
        }
    }
    text.into_iter().collect()
}

#[test]
fn k18_the_server_executes_what_the_scanner_named() {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let seed = std::env::var("TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 2_654_435_761 + 1);
    println!("TEST_SEED={seed}");
    let server = Server::start(Options {
        config: [
            "log_statement = all",
            "log_min_error_statement = panic",
            "log_min_messages = log",
            "log_line_prefix = '@@%a@@'",
            "shared_preload_libraries = 'pg_stat_statements'",
            "pg_stat_statements.track_utility = on",
        ]
        .map(str::to_owned)
        .into(),
        ..Options::default()
    });
    server.query("postgres", "CREATE DATABASE scratch");
    server.query("postgres", "CREATE DATABASE source");
    server.query("postgres", "CREATE EXTENSION pg_stat_statements");
    let counted = "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = 'scratch'";
    server.run_file("source", &fixture("torture.sql"), &[]);
    server.query("source", super::hostile::AWKWARD);
    let dump = server.tool("pg_dump").args(["-d", "source", "--inserts", "--schema=public"]).output().unwrap();
    let text: Vec<char> = String::from_utf8(dump.stdout).unwrap().chars().collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut random = Random(seed | 1);
    let log = server.dir().join("log");
    let (mut executed, mut texts) = (0, 0);
    let end = Instant::now() + Duration::from_secs(seconds);
    runtime.block_on(async {
        let mut config = tokio_postgres::Config::new();
        config.host_path(server.dir()).port(server.port()).user("postgres").dbname("scratch").application_name("fuzz");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        while Instant::now() < end {
            let mut named = Named::default();
            let changed = mutated(&text, &mut random);
            // A flaw ends the text for a load, too: what came before it would be executed.
            let _ = Scanner::default().feed(changed.as_bytes(), &mut named);
            texts += 1;
            let before = fs::metadata(&log).unwrap().len();
            server.query("postgres", "SELECT pg_stat_statements_reset()");
            let mut done = Vec::new();
            for statement in &named.statements {
                client.batch_execute("BEGIN").await.unwrap();
                if client.execute_typed(statement, &[]).await.is_ok() {
                    done.push(statement.clone());
                }
                client.batch_execute("ROLLBACK").await.unwrap();
            }
            executed += done.len();
            // The server's own count: a message with two statements would be two.
            let messages = (done.len() + 2 * named.statements.len()).to_string();
            assert_eq!(server.query("postgres", counted), messages, "TEST_SEED={seed}: of {:?}", named.statements);
            let mut written = Vec::new();
            let mut file = fs::File::open(&log).unwrap();
            file.seek(SeekFrom::Start(before)).unwrap();
            file.read_to_end(&mut written).unwrap();
            let logged: Vec<String> = String::from_utf8_lossy(&written)
                .split("@@fuzz@@")
                .filter_map(|entry| {
                    Some(entry.split_once("LOG:  execute <unnamed>: ")?.1.trim_end_matches('\n').replace("\n\t", "\n"))
                })
                .collect();
            for statement in &logged {
                let is_named = named.statements.iter().any(|named| named.trim_end() == statement.trim_end());
                assert!(is_named, "TEST_SEED={seed}: the server executed what the scanner did not name: {statement}");
            }
            for statement in &done {
                let is_logged = logged.iter().any(|logged| logged.trim_end() == statement.trim_end());
                assert!(is_logged, "TEST_SEED={seed}: not logged as it was named: {statement}");
            }
            assert_eq!(server.databases("source"), ["source"], "TEST_SEED={seed}");
        }
    });
    println!("{texts} texts, {executed} statements");
    assert!(executed > 100, "hardly anything was executed: the test proved nothing");
}
