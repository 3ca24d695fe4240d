//! What `teslamate-restore` takes for a dump, and what it refuses before a staging database exists.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Outcome, Server, Site};

/// A TeslaMate database, its installation, and what is in it.
struct Case {
    server: &'static Server,
    site: Site,
    before: std::collections::BTreeMap<String, String>,
}

impl Case {
    fn new(hint: &str) -> Self {
        let server = Server::shared();
        let database = server.teslamate(hint);
        let before = server.content(&database);
        Self { server, site: Site::new(server, &database), before }
    }

    /// A dump by stock `pg_dump`.
    fn dump(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let path = self.site.path(name);
        self.server.pg_dump(&self.site.database, &path, arguments);
        path
    }

    fn text(&self) -> String {
        fs::read_to_string(self.dump("text.sql", &[])).unwrap()
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.site.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn restore(&self, source: &Path, arguments: &[&str]) -> Outcome {
        self.site.command("teslamate-restore").args(arguments).arg(source).outcome()
    }

    /// Restores over a database that lost something, and finds everything back.
    #[track_caller]
    fn comes_back(&self, source: &Path, arguments: &[&str]) -> Outcome {
        self.server.query(
            &self.site.database,
            "DELETE FROM charging_processes; DELETE FROM positions; DELETE FROM drives; DROP TABLE updates",
        );
        let outcome = self.restore(source, &[arguments, &["--yes"]].concat()).expect(0);
        assert_eq!(self.server.content(&self.site.database), self.before, "{}", source.display());
        assert_eq!(self.site.systemctl.state(), "active");
        outcome
    }

    /// Fails the test unless the source is refused with this code and these words, and nothing was touched: the live
    /// database as it was, none beside it, the service never stopped.
    #[track_caller]
    fn refused(&self, source: &Path, code: i32, words: &str) {
        let outcome = self.restore(source, &["--yes"]).expect(code).says(words).says("not touched");
        self.untouched(&outcome);
    }

    #[track_caller]
    fn untouched(&self, outcome: &Outcome) {
        let name = &self.site.database;
        assert_eq!(&self.server.content(name), &self.before, "{outcome:?}");
        assert_eq!(self.server.databases(&format!("{name}_")), Vec::<String>::new(), "{outcome:?}");
        assert_eq!(self.site.systemctl.calls(), [], "{outcome:?}");
    }
}

#[test]
fn every_format_comes_back_told_apart_by_content() {
    let case = Case::new("formats");
    let sql = case.dump("a.wrong", &[]);
    let zip = |program: &str| {
        let output = Command::new(program).arg("-c").arg(&sql).output().unwrap();
        assert!(output.status.success());
        output.stdout
    };
    let gz = case.file("b.dump", zip("gzip"));
    let zst = case.file("c.sql", zip("zstd"));
    let custom = case.dump("d.sql", &["-Fc"]);
    let tar = case.dump("e.sql.gz", &["-Ft"]);
    let directory = case.dump("f", &["-Fd"]);
    let inserts = case.dump("g.sql", &["--inserts", "--rows-per-insert=7"]);
    for source in [sql, gz, zst, custom, tar, directory, inserts] {
        case.comes_back(&source, &[]);
    }
}

#[test]
fn standard_input_is_a_source_in_every_format() {
    let case = Case::new("stdin");
    for (name, arguments) in [("a", &["-Fp"][..]), ("b", &["-Fc"])] {
        let bytes = fs::read(case.dump(name, arguments)).unwrap();
        case.server.query(&case.site.database, "DELETE FROM drives");
        let run = case.site.command("teslamate-restore").args(&["--yes", "-"]).input(bytes);
        run.outcome().expect(0);
        assert_eq!(case.server.content(&case.site.database), case.before);
    }
    assert_eq!(case.site.files("state"), Vec::<String>::new(), "a copy of standard input was left");
}

#[test]
fn what_glovebox_wrote_comes_back() {
    let case = Case::new("own");
    for name in ["a.sql", "a.sql.gz", "a.sql.zst", "a.dump"] {
        case.site.run("teslamate-backup", &[name]).expect(0);
        case.comes_back(&case.site.path(name), &[]);
    }
}

#[test]
fn dumps_made_with_clean_or_create_come_back_and_never_reach_another_database() {
    let case = Case::new("clean");
    for (name, arguments) in [
        ("clean.sql", &["--clean"][..]),
        ("clean-if.sql", &["--clean", "--if-exists"]),
        ("create.sql", &["--create"]),
        ("both.sql", &["--clean", "--if-exists", "--create"]),
        ("both.dump", &["--clean", "--create", "-Fc"]),
    ] {
        case.comes_back(&case.dump(name, arguments), &[]);
    }
}

#[test]
fn a_clean_dump_of_an_old_server_makes_the_schema_public_itself() {
    let case = Case::new("oldclean");
    let marker = "SET default_tablespace = '';";
    let old = "DROP SCHEMA public;\nCREATE SCHEMA public;\nALTER SCHEMA public OWNER TO teslamate;\n";
    let text = case.text();
    assert!(text.contains(marker));
    case.comes_back(&case.file("old.sql", text.replacen(marker, &format!("{old}{marker}"), 1)), &[]);
}

#[test]
fn r56_a_dump_of_an_old_release_comes_back() {
    let server = Server::shared();
    let old = server.fresh_name("release2019");
    server.query("postgres", &format!("CREATE DATABASE {old} OWNER teslamate"));
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/teslamate");
    for file in ["schema-2019.sql", "data-2019.sql"] {
        server.run_file(&old, &fixtures.join(file), &[]);
    }
    let case = Case::new("to2019");
    let path = case.site.path("2019.sql");
    server.pg_dump(&old, &path, &[]);
    case.restore(&path, &["--yes"]).expect(0);
    assert_eq!(server.content(&case.site.database), server.content(&old));
    assert_eq!(server.query(&case.site.database, "SELECT count(*) > 0 FROM public.tokens"), "t");
}

#[test]
fn crlf_and_a_byte_order_mark_are_undone() {
    let case = Case::new("crlf");
    let text = case.text();
    case.comes_back(&case.file("bom.sql", format!("\u{feff}{text}")), &[]);
    case.comes_back(&case.file("crlf.sql", text.replace('\n', "\r\n")), &[]);
    case.comes_back(&case.file("both.sql", format!("\u{feff}{}", text.replace('\n', "\r\n"))), &[]);
}

#[test]
fn r52_a_file_that_another_system_re_encoded_is_refused() {
    let case = Case::new("utf16");
    let text = case.text();
    let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    case.refused(&case.file("utf16.sql", utf16), 10, "is UTF-16");
    let half = text.len() / 2;
    let mixed = format!("{}{}", &text[..half].replace('\n', "\r\n"), &text[half..]);
    case.refused(&case.file("mixed.sql", mixed), 10, "part of the text was converted");
    let mut latin1 = text.into_bytes();
    let at = latin1.windows(2).position(|pair| pair == "ü".as_bytes()).expect("a letter outside of ASCII");
    latin1.splice(at..at + 2, [0xfc]);
    case.refused(&case.file("latin1.sql", latin1), 10, "not UTF-8");
}

#[test]
fn r46_dump_cut_inside_copy_is_refused_before_staging() {
    let case = Case::new("cut");
    let text = case.text();
    let rows = text.find("COPY public.positions").unwrap();
    for offset in [rows + 200, rows + 5_000, rows + 5_001] {
        case.refused(&case.file("cut.sql", &text[..offset]), 14, "the text ends within");
    }
}

#[test]
fn r46_no_cut_of_a_dump_is_ever_loaded() {
    // The live database is not looked at after each one: a staging database would be one more in the list.
    let case = Case::new("cuts");
    let text = case.text();
    let end = text.find("-- PostgreSQL database dump complete").unwrap();
    for number in 1..=60 {
        let cut = end * number / 60;
        let path = case.file("cut.sql", text.as_bytes().get(..cut).unwrap());
        let outcome = case.restore(&path, &["--yes"]);
        assert!(matches!(outcome.code, Some(10 | 14)), "cut at {cut} of {end}: {outcome:?}");
        assert_eq!(case.server.databases(&format!("{}_", case.site.database)), Vec::<String>::new(), "cut at {cut}");
    }
    assert_eq!(case.server.content(&case.site.database), case.before);
}

#[test]
fn r47_dump_cut_between_statements_is_refused() {
    let case = Case::new("between");
    let text = case.text();
    let at = text.find("ALTER TABLE ONLY public.addresses\n    ADD CONSTRAINT").unwrap();
    case.refused(&case.file("cut.sql", &text[..at]), 14, "the end marker of pg_dump is missing");
    let restrict = text.find("\\unrestrict").expect("this pg_dump writes \\restrict");
    case.refused(&case.file("cut.sql", &text[..restrict]), 14, "`\\unrestrict` is missing");
}

#[test]
fn r48_an_empty_file_is_refused() {
    let case = Case::new("empty");
    case.refused(&case.file("empty.sql", ""), 10, "is empty: 0 bytes");
    let run = case.site.command("teslamate-restore").args(&["--yes", "-"]).input("");
    case.untouched(&run.outcome().expect(10).says("0 bytes"));
}

#[test]
fn r49_a_cut_archive_is_refused() {
    let case = Case::new("cutdump");
    let bytes = fs::read(case.dump("a.dump", &["-Fc"])).unwrap();
    for part in [10, 50, 90, 99] {
        let path = case.file("cut.dump", &bytes[..bytes.len() * part / 100]);
        let outcome = case.restore(&path, &["--yes"]);
        assert!(matches!(outcome.code, Some(10 | 14)), "{part} %: {outcome:?}");
        case.untouched(&outcome);
    }
    let directory = case.dump("dir", &["-Fd"]);
    let largest =
        fs::read_dir(&directory).unwrap().flatten().max_by_key(|file| file.metadata().unwrap().len()).unwrap();
    let bytes = fs::read(largest.path()).unwrap();
    fs::write(largest.path(), &bytes[..bytes.len() / 2]).unwrap();
    case.refused(&directory, 14, "cut or changed");
    fs::remove_file(largest.path()).unwrap();
    case.refused(&directory, 14, "cut or changed");
}

#[test]
fn flipped_bits_are_found_where_there_is_a_checksum() {
    let case = Case::new("flips");
    for name in ["a.sql.gz", "a.sql.zst"] {
        case.site.run("teslamate-backup", &[name]).expect(0);
        let bytes = fs::read(case.site.path(name)).unwrap();
        for number in 0..12_usize {
            let mut flipped = bytes.clone();
            let at = 12 + (bytes.len() - 24) * number / 12;
            flipped[at] ^= 1 << (number % 8);
            let outcome = case.restore(&case.file("flipped", flipped), &["--drill"]);
            assert!(matches!(outcome.code, Some(10 | 14)), "{name}, byte {at}: {outcome:?}");
        }
    }
    case.untouched(&case.restore(&case.site.path("a.sql.zst"), &["--drill"]).expect(0));
}

#[test]
fn a_zst_without_a_checksum_says_so() {
    let case = Case::new("nocheck");
    let sql = case.dump("a.sql", &[]);
    let output = Command::new("zstd").args(["--no-check", "-c"]).arg(sql).output().unwrap();
    let path = case.file("a.sql.zst", output.stdout);
    case.restore(&path, &["--drill"]).expect(0).says("carries no checksum");
}

#[test]
fn r53_what_is_no_dump_of_one_database_is_refused_by_name() {
    let case = Case::new("nodump");
    let cluster = case.site.path("all.sql");
    let output = case.server.tool("pg_dumpall").arg("--roles-only").output().unwrap();
    assert!(output.status.success());
    fs::write(&cluster, output.stdout).unwrap();
    case.refused(&cluster, 10, "made by pg_dumpall");
    case.refused(&case.file("shopping.txt", "milk\nbread\n"), 10, "cannot be used");
    case.refused(&case.file("page.html", "<!doctype html>\n<html></html>\n"), 10, "cannot be used");
    case.refused(&case.file("binary", (0..=255).cycle().take(9000).collect::<Vec<u8>>()), 10, "NUL");
    let directory = case.site.path("photos");
    fs::create_dir(&directory).unwrap();
    case.refused(&directory, 10, "is a directory, and not one that pg_dump -Fd made");
    case.refused(Path::new("/nonexistent/a.sql"), 10, "cannot open");
    let other = case.server.fresh_name("shop");
    case.server.query("postgres", &format!("CREATE DATABASE {other}"));
    case.server.query(&other, "CREATE TABLE goods (id int); INSERT INTO goods VALUES (1)");
    let path = case.site.path("shop.sql");
    case.server.pg_dump(&other, &path, &[]);
    case.refused(&path, 10, "is no dump of TeslaMate: it has no table \"cars\"");
    case.restore(&path, &["--yes", "--allow-other"]).expect(0);
    assert_eq!(case.server.query(&case.site.database, "SELECT id FROM goods"), "1");
}

#[test]
fn a_dump_of_definitions_or_rows_alone_cannot_replace_the_live_database() {
    let case = Case::new("parts");
    case.refused(&case.dump("schema.sql", &["--schema-only"]), 10, "holds definitions only");
    case.refused(&case.dump("data.dump", &["--data-only", "-Fc"]), 10, "holds rows only");
    case.refused(&case.dump("table.sql", &["--table=cars"]), 10, "has no table \"positions\"");
}

#[test]
fn r04_error_text_in_the_place_of_a_dump_is_recognised() {
    let case = Case::new("errtext");
    let message = "pg_dump: error: connection to server at \"localhost\" failed: Connection refused\n";
    case.refused(&case.file("a.sql", message), 10, "line 1 is not SQL: it is a message of pg_dump");
    let text = case.text();
    let at = text.find("CREATE TABLE public.cars").unwrap();
    let mixed = format!("{}pg_dump: warning: there are circular foreign-key constraints\n{}", &text[..at], &text[at..]);
    case.refused(&case.file("b.sql", mixed), 10, "is not SQL: it is a message of pg_dump");
    let rows = text.find("COPY public.positions").unwrap();
    let line = rows + text[rows..].find('\n').unwrap() + 1;
    let inside = format!("{}pg_dump: processing item 3\n{}", &text[..line], &text[line..]);
    case.refused(&case.file("c.sql", inside), 10, "is not a row: it is a message of pg_dump");
}

#[test]
fn r50_restrict_lines_are_understood_and_other_meta_commands_are_not() {
    let case = Case::new("restrict");
    let text = case.text();
    assert!(text.contains("\n\\restrict "), "this pg_dump writes no \\restrict: the test proves nothing");
    case.comes_back(&case.site.path("text.sql"), &[]);
    let without: String =
        text.lines().filter(|line| !line.starts_with('\\') || *line == "\\.").map(|line| format!("{line}\n")).collect();
    case.comes_back(&case.file("without.sql", without), &[]);
}

#[test]
fn r51_code_in_a_dump_does_not_run() {
    let case = Case::new("code");
    let proof = case.site.path("state/proof");
    let text = case.text();
    let insert = |code: &str| {
        let marker = "SET default_tablespace = '';";
        text.replacen(marker, &format!("{code}\n{marker}"), 1)
    };
    let touch = format!("touch {}", proof.display());
    for (code, words) in [
        (format!("\\! {touch}"), "meta-command \\!"),
        (format!("\\o |{touch}"), "meta-command \\o"),
        ("\\connect postgres".to_owned(), "meta-command \\connect"),
        (format!("COPY public.cars FROM PROGRAM '{touch}';"), "copies from or to a file or a program"),
        ("ALTER SYSTEM SET archive_command = 'true';".to_owned(), "changes the server's settings"),
        ("CREATE FUNCTION f(cstring) RETURNS int LANGUAGE c AS 'libc', 'system';".to_owned(), "in the language c"),
        ("DO $$BEGIN RAISE NOTICE 'x'; END$$;".to_owned(), "a DO statement"),
    ] {
        case.refused(&case.file("code.sql", insert(&code)), 10, words);
        assert!(!proof.exists());
    }
    // Trusted statements run, meta-commands still do not.
    let trusted = case.file("trusted.sql", insert(&format!("\\! {touch}\nDO $$BEGIN NULL; END$$;")));
    case.restore(&trusted, &["--yes", "--trust-dump"]).expect(0);
    assert!(!proof.exists(), "a meta-command of the dump was obeyed");
}

#[test]
fn r55_a_dump_of_a_newer_server_is_refused() {
    let case = Case::new("newer");
    let version = case.server.query("postgres", "SHOW server_version");
    let version = version.split(' ').next().unwrap().to_owned();
    let text = case.text();
    let header = format!("-- Dumped from database version {version}");
    assert!(text.contains(&header));
    let newer = text.replacen(&header, "-- Dumped from database version 99.1", 1);
    let path = case.file("newer.sql", newer);
    case.refused(&path, 10, "the dump is of PostgreSQL 99.1, newer than this server's");
    case.restore(&path, &["--yes", "--allow-newer"]).expect(0);
}

#[test]
fn r57_a_dump_of_a_newer_release_is_refused() {
    let case = Case::new("release");
    let path = case.dump("newer.sql", &[]);
    case.server.query(&case.site.database, "DELETE FROM schema_migrations WHERE version > 20240101000000");
    let before = case.server.content(&case.site.database);
    case.restore(&path, &["--yes"]).expect(10).says("made by a newer release of the application");
    assert_eq!(case.server.content(&case.site.database), before);
    case.restore(&path, &["--yes", "--allow-newer"]).expect(0);
}

#[test]
fn r13_a_dump_of_unknown_encoding_is_loaded_if_it_is_utf8() {
    let case = Case::new("ascii");
    let text = case.text().replacen("SET client_encoding = 'UTF8';", "SET client_encoding = 'SQL_ASCII';", 1);
    case.restore(&case.file("ascii.sql", &text), &["--drill"]).expect(0);
    let mut bytes = text.into_bytes();
    let end = b"-- PostgreSQL database dump complete";
    let at = bytes.windows(end.len()).position(|found| found == end).unwrap() - 3;
    bytes.splice(at..at, *b"\nCOMMENT ON TABLE public.cars IS '\xfc';\n\n");
    case.refused(&case.file("latin1.sql", bytes), 10, "SQL_ASCII");
}

#[test]
fn r13_a_dump_in_another_encoding_comes_back() {
    let case = Case::new("encoding");
    for (name, format) in [("chinese.sql", "-Fp"), ("chinese.dump", "-Fc")] {
        let path = case.dump(name, &[format, "--encoding=GB18030"]);
        assert!(String::from_utf8(fs::read(&path).unwrap()).is_err(), "{name} has no character beyond ASCII");
        case.comes_back(&path, &[]);
    }
}
