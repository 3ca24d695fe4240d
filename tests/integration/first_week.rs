//! K12 and K17: small lies, and what a person types and sees in the first week.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::support::binary::path_of;
use super::support::repository::section;
use super::support::tree_server::Server17;
use super::support::{Server, Site};

fn site(hint: &str) -> (&'static Server, Site) {
    let server = Server::shared();
    let database = server.teslamate(hint);
    (server, Site::new(server, &database))
}

/// Runs a command line of a message in the site's directory, with our programs in the path.
fn typed(site: &Site, command: &str) -> std::process::Output {
    let programs = path_of("teslamate-restore").parent().unwrap().display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let with_config =
        command.replace("teslamate-restore ", &format!("teslamate-restore --config {} ", site.config().display()));
    Command::new("bash").args(["-c", &with_config]).env("PATH", path).current_dir(site.path("")).output().unwrap()
}

#[test]
fn k17_a_word_that_is_no_command_writes_no_dump() {
    let (_, site) = site("k17_words");
    let before = site.files("");
    for word in ["status", "diff", "restore", "verify", "prune", "snapshots"] {
        let refused = site.run("teslamate-backup", &[word]).expect(2);
        refused.says(&format!("`{word}` is no command")).says("nothing was written").says("list, show");
    }
    assert_eq!(site.files(""), before);
    site.run("teslamate-backup", &["./status"]).expect(0);
}

#[test]
fn k17_a_report_that_is_not_read_to_its_end_is_no_failure() {
    let server = Server::shared();
    let database = server.teslamate("k17_head");
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &["init"]).expect(0);
    let mut list = site.command("teslamate-backup").args(&["show", "--json", "latest"]).spawn();
    drop(list.stdout.take());
    let output = list.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(10), "there is no backup yet");
    site.run("teslamate-backup", &[]).expect(0);
    let mut list = site.command("teslamate-backup").args(&["list", "--runs"]).spawn();
    drop(list.stdout.take());
    let output = list.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn k17_a_forgotten_password_and_a_missing_role_come_with_what_to_do() {
    let (server, _) = site("k17_hints");
    let database = server.teslamate("k17_password");
    let site = Site::with_repository(server, &database);
    site.run("teslamate-backup", &["init"]).expect(0);
    fs::write(site.path("password"), "another\n").unwrap();
    let refused = site.run("teslamate-backup", &[]).expect(10).says("wrong password");
    refused.says("repository.password_file").says("Without any password nobody can read it");
    let config = fs::read_to_string(site.config()).unwrap();
    site.write_config(&config.replace("user = \"teslamate\"", "user = \"nobody's\""));
    site.run("teslamate-backup", &["a.sql"])
        .expect(12)
        .says("there is no role")
        .says(r"createuser --superuser --pwprompt 'nobody'\''s'");
}

#[test]
fn k12_files_that_another_program_packed_come_with_the_command_to_unpack_them() {
    let (server, site) = site("k12_packed");
    site.run("teslamate-backup", &["a.sql"]).expect(0);
    let before = server.content(&site.database);
    for (pack, file) in [
        ("xz -0 -k a.sql", "a.sql.xz"),
        ("bzip2 -k a.sql", "a.sql.bz2"),
        ("zstd -q --long=31 -1 a.sql -o a.sql.long.zst", "a.sql.long.zst"),
    ] {
        let packed = typed(&site, pack);
        if packed.status.code() == Some(127) {
            println!("SKIPPED: {pack}: the program is missing");
            continue;
        }
        let refused = site.run("teslamate-restore", &["--yes", file]);
        if file.ends_with(".zst") && refused.code == Some(0) {
            // A short text needs no large window.
            continue;
        }
        let hint = refused.expect(10).stderr;
        let command = hint
            .lines()
            .find_map(|line| line.split("on the way: ").nth(1).or(line.split("--long`: ").nth(1)))
            .expect(&hint);
        let done = typed(&site, &command.replace("FILE", file));
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(server.content(&site.database), before);
    }
}

#[test]
fn k12_the_one_database_comes_out_of_a_dump_of_all_as_the_message_says() {
    let server = Server::start(super::support::server::Options::default());
    server.create_teslamate("teslamate", 1000);
    server.query("postgres", "CREATE DATABASE teslamate_other");
    server.query("teslamate_other", "CREATE TABLE other (a int)");
    let site = Site::new(&server, "teslamate");
    let before = server.content("teslamate");
    let dumped = server.tool("pg_dumpall").arg("-f").arg(site.path("all.sql")).output().unwrap();
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    let refused = site.run("teslamate-restore", &["--yes", "all.sql"]).expect(10).says("pg_dumpall");
    let hint = refused.stderr.lines().find(|line| line.contains("awk '")).expect(&refused.stderr).to_owned();
    let command =
        hint.split("out of it: ").nth(1).unwrap().split("; before").next().unwrap().replace("FILE", "all.sql");
    let done = typed(&site, &command);
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    server.query("teslamate", "DELETE FROM positions WHERE id % 2 = 0 AND NOT EXISTS (SELECT FROM charging_processes c WHERE c.position_id = positions.id)");
    site.run("teslamate-restore", &["--yes", "teslamate.sql"]).expect(0);
    assert_eq!(server.content("teslamate"), before);
}

#[test]
fn k12_a_line_before_the_dump_is_named_by_its_own_number() {
    let (_, site) = site("k12_line");
    site.run("teslamate-backup", &["a.sql"]).expect(0);
    let text = fs::read_to_string(site.path("a.sql")).unwrap();
    let restricted =
        if text.contains("\\restrict ") { text } else { text.replacen("\nSET ", "\n\\restrict abc\n\nSET ", 1) };
    fs::write(site.path("b.sql"), format!("Warning: Permanently added the host\n{restricted}")).unwrap();
    site.run("teslamate-restore", &["--yes", "b.sql"])
        .expect(10)
        .says("line 1 begins a statement in which line")
        .says("is a meta-command of psql: one of the two is not of pg_dump");
}

#[test]
fn k12_help_of_the_manual_maker_makes_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let run = |argument: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_glovebox-man"));
        command.current_dir(dir.path()).arg(argument).output().unwrap()
    };
    let help = run("--help");
    assert!(help.status.success());
    assert!(BufReader::new(&help.stdout[..]).lines().map_while(Result::ok).any(|line| line.contains("manual pages")));
    assert_eq!(run("--no-such-flag").status.code(), Some(2));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn k12_summaries_are_found_where_positions_of_the_log_get_a_digit_more() {
    let Some(server) = Server17::start(&["autovacuum=off", "summarize_wal=on"]) else { return };
    server.make_teslamate();
    let site = server.site(Some(&server.tools()));
    let config = fs::read_to_string(site.config()).unwrap();
    site.write_config(&format!("{config}\n[backup]\nchunk_blocks = 16\n{}", section(&site)));
    site.run("teslamate-backup", &["init"]).expect(0);
    // Sixteen megabytes at a time, up to a little below the first position of eight digits.
    let position = || server.query("postgres", "SELECT pg_current_wal_lsn() - '0/0'");
    while position().parse::<u64>().unwrap() < 0xE00_0000 {
        server.query("postgres", "SELECT pg_logical_emit_message(true, 'x', 'x'); SELECT pg_switch_wal()");
    }
    site.run("teslamate-backup", &[]).expect(0);
    // Several summaries, on both sides of it.
    while position().parse::<u64>().unwrap() < 0x1200_0000 {
        server.query("postgres", "SELECT pg_logical_emit_message(true, 'x', 'x'); SELECT pg_switch_wal()");
        server.query("postgres", "CHECKPOINT");
    }
    let taken = site.run("teslamate-backup", &["--json"]).expect(0).json();
    assert_eq!(taken["read_all"], serde_json::Value::Null, "{taken}");
    assert!(taken["chunks_reused"].as_u64() > Some(0), "{taken}");
}
