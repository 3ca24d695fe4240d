//! Dumps that mean harm, and honest ones that look like them.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::support::server::fixture;
use crate::support::{Server, Site};

/// The place in a dump in which these statements are put.
const MARKER: &str = "SET default_tablespace = '';";

struct Case {
    server: &'static Server,
    site: Site,
    text: String,
}

impl Case {
    fn new(hint: &str) -> Self {
        let server = Server::shared();
        let database = server.teslamate(hint);
        let site = Site::new(server, &database);
        server.pg_dump(&database, &site.path("a.sql"), &[]);
        let text = fs::read_to_string(site.path("a.sql")).unwrap();
        assert!(text.contains(MARKER));
        Self { server, site, text }
    }

    fn live(&self) -> &str {
        &self.site.database
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.site.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A dump of the live database with other statements in it.
    fn with(&self, statements: &str) -> PathBuf {
        self.file("with.sql", self.text.replacen(MARKER, &format!("{statements}\n{MARKER}"), 1))
    }

    /// Whether the live database is there with all that it had, and nothing beside it.
    #[track_caller]
    fn is_unharmed(&self, what: &str) {
        assert_eq!(self.server.databases(&format!("{}_", self.live())), Vec::<String>::new(), "{what}");
        let sql = format!(
            "SELECT datname, datallowconn, datconnlimit, (SELECT count(*) FROM pg_db_role_setting s WHERE s.setdatabase = d.oid) \
             FROM pg_database d WHERE datname = '{}'",
            self.live()
        );
        assert_eq!(self.server.query("postgres", &sql), format!("{}|t|-1|0", self.live()), "{what}");
        assert!(!self.server.query(self.live(), "SELECT count(*) FROM drives").is_empty());
    }
}

#[test]
fn k18_no_text_makes_the_server_do_what_the_scanner_did_not_name() {
    let case = Case::new("hostile");
    let drop = format!("DROP DATABASE {} WITH (FORCE);", case.live());
    let rename = format!("ALTER DATABASE {} RENAME TO stolen;", case.live());
    let limit = format!("ALTER DATABASE {} CONNECTION LIMIT 0;", case.live());
    let hidden = [
        // A name that looks like the begin of a body.
        format!(
            "CREATE FUNCTION public.f(begin integer) RETURNS integer LANGUAGE sql AS 'SELECT 1';\nCOMMIT;\n{drop}\n\
             START TRANSACTION;\nCREATE TABLE public.pwn(x int);\nEND;"
        ),
        format!("CREATE FUNCTION public.f() RETURNS int BEGIN ATOMIC SELECT 1; END; END; {limit}"),
        // Strings that end elsewhere under other settings.
        format!("SET standard_conforming_strings = off;\nSET standard_conforming_strings TO on;\nCOMMENT ON SCHEMA public IS 'a\\'; {limit} --';"),
        format!("SELECT pg_catalog.set_config('standard_conforming_strings', 'off', false);\nCOMMENT ON SCHEMA public IS 'a\\'; {limit} --';"),
        format!("SET standard_conforming_strings = off;\nRESET standard_conforming_strings;\nCOMMENT ON SCHEMA public IS 'a\\'; {limit} --';"),
        format!("SET backslash_quote = on;\nCOMMENT ON SCHEMA public IS E'a\\'; {limit} --';"),
        // Comments and continued strings.
        format!("COMMENT ON SCHEMA public IS 'a' -- '\n; {limit} --';"),
        format!("COMMENT ON SCHEMA public IS /* '*/ 'a'; {limit} /*'*/;"),
        format!("COMMENT ON SCHEMA public IS 'a';-- x\r{limit}"),
        format!("COMMENT ON SCHEMA public IS U&'a\\0027; {limit} --';"),
        format!("COMMENT ON SCHEMA public IS $a$ $a $b$; {limit} $b$ $a$;"),
        // Rows that are statements.
        format!("COPY (SELECT id FROM stdin) TO stdout;\n{drop}\n\\.\n"),
        format!("COPY public.cars (id) FROM stdin WITH (FORMAT csv);\n1\n\\.\n{limit}"),
        format!("COPY public.cars TO stdout; -- FROM stdin;\n{limit}\n\\.\n"),
        // Meta-commands and variables of psql.
        format!("\\connect postgres\n{drop}"),
        format!("SELECT $${limit}$$ \\gexec\n"),
        format!("\\;{limit}"),
        format!("\\set x `{limit}`\n:x"),
        // Statements that act on more than the database.
        rename.clone(),
        format!("DO $$BEGIN EXECUTE '{}'; END$$;", limit.trim_end_matches(';')),
        "ALTER ROLE CURRENT_USER SET work_mem = '1MB';".to_owned(),
        "COMMENT ON ROLE postgres IS 'taken';".to_owned(),
        "SECURITY LABEL FOR x ON ROLE postgres IS 'taken';".to_owned(),
        "GRANT CREATE ON TABLESPACE pg_default TO PUBLIC;".to_owned(),
        "GRANT SET ON PARAMETER work_mem TO PUBLIC;".to_owned(),
        "INSERT INTO public.cars (id) VALUES ((SELECT count(*) FROM pg_stat_activity WHERE pg_terminate_backend(pid)));".to_owned(),
        "INSERT INTO public.cars SELECT pg_terminate_backend(1);".to_owned(),
        "SELECT pg_catalog.setval('public.cars_id_seq', (SELECT 1), true);".to_owned(),
        "CREATE TEMPORARY TABLE pg_class (x int);".to_owned(),
    ];
    for statements in &hidden {
        let path = case.with(statements);
        let outcome = case.site.command("teslamate-restore").args(&["--drill"]).arg(path).outcome();
        case.is_unharmed(&format!("{statements}\n{}", outcome.stderr));
    }
    // What is executed at last is what the scanner named, also where everything is let pass.
    for statements in &hidden[..12] {
        let path = case.with(statements);
        let run = case.site.command("teslamate-restore").args(&["--drill", "--trust-dump"]).arg(path);
        let outcome = run.outcome();
        case.is_unharmed(&format!("{statements}\n{}", outcome.stderr));
    }
}

#[test]
fn k18_what_pg_dump_never_writes_is_refused_with_its_line() {
    let case = Case::new("neverwritten");
    let line = case.text.lines().position(|line| line == MARKER).unwrap() + 1;
    for (statement, words) in [
        ("ALTER GROUP a ADD USER b;", "changes a role"),
        ("COMMENT ON ROLE postgres IS 'x';", "concerns the whole cluster"),
        ("SET session_preload_libraries = 'x';", "sets session_preload_libraries"),
        ("INSERT INTO public.cars (id) VALUES (pg_backend_pid());", "inserts something else than literals"),
        ("COPY public.cars (id) TO stdout;", "copies from or to"),
        ("COPY public.cars (id) FROM stdin WITH (FREEZE);\n\\.\n", "copies with options"),
        ("CREATE TEMPORARY TABLE a (b integer);", "holds a CREATE TEMPORARY statement"),
        ("DO $$BEGIN END$$;", "holds a DO statement"),
        ("SELECT pg_catalog.set_config('role', 'postgres', false);", "holds a SELECT statement"),
        ("CREATE FUNCTION public.f() RETURNS int LANGUAGE 'c' AS 'x';", "which runs as the server's account"),
    ] {
        let outcome = case.site.command("teslamate-restore").args(&["--drill"]).arg(case.with(statement)).outcome();
        outcome.expect(10).says(&format!("line {line} ")).says(words).says("not touched");
    }
}

/// An archive holds its statements uncompressed, with their lengths.
fn forge(archive: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert!(to.len() <= from.len());
    let at = memchr::memmem::find(archive, from.as_bytes()).expect("the statement is in the archive");
    let mut forged = archive.to_vec();
    forged[at..at + from.len()].copy_from_slice(format!("{to:width$}", width = from.len()).as_bytes());
    forged
}

#[test]
fn k18_an_archive_does_not_reach_the_live_database() {
    let case = Case::new("forged");
    let comment = format!("COMMENT ON TABLE public.cars IS '{}';", "x".repeat(300));
    case.server.query(case.live(), &comment);
    case.server.pg_dump(case.live(), &case.site.path("a.dump"), &["-Fc"]);
    let archive = fs::read(case.site.path("a.dump")).unwrap();
    let live = case.live();
    for statement in [
        format!("DROP DATABASE {live} WITH (FORCE);"),
        format!("COMMIT; DROP DATABASE {live} WITH (FORCE);"),
        format!("ALTER DATABASE {live} CONNECTION LIMIT 0;"),
        format!("COMMENT ON TABLE public.cars IS 'x'; ALTER DATABASE {live} CONNECTION LIMIT 0;"),
        format!("\\connect postgres\nDROP DATABASE {live} WITH (FORCE);"),
        format!(
            "CREATE FUNCTION public.f(begin int) RETURNS int LANGUAGE sql AS ''; ALTER DATABASE {live} CONNECTION LIMIT 0;"
        ),
    ] {
        let path = case.file("forged.dump", forge(&archive, &comment, &statement));
        for arguments in [&["--drill"][..], &["--drill", "--trust-dump"]] {
            let outcome = case.site.command("teslamate-restore").args(arguments).arg(&path).outcome();
            case.is_unharmed(&format!("{statement}\n{}", outcome.stderr));
        }
    }
}

/// Objects whose names and bodies a scanner may take for something else.
pub(super) const AWKWARD: &str = r#"
    CREATE TABLE awkward (begin integer, "end" integer, "case" integer, atomic integer, "a;b" text, "q""q" text, "x'x" text);
    INSERT INTO awkward VALUES (1, 2, 3, 4, 'a''b\c', E'\\.', 'x;y'), (NULL, NULL, NULL, NULL, E'\t\n\r', '', '\N');
    CREATE FUNCTION with_begin(begin integer, atomic integer) RETURNS integer LANGUAGE sql AS 'SELECT 1;';
    CREATE FUNCTION begin() RETURNS integer LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION gives_begin() RETURNS TABLE(begin integer) LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION body(atomic integer) RETURNS integer LANGUAGE sql BEGIN ATOMIC
        SELECT CASE WHEN (CASE atomic WHEN 1 THEN 2 ELSE 3 END) > 1 THEN begin ELSE "end" END FROM awkward;
        SELECT 'a;b'::text; SELECT atomic;
    END;
    CREATE PROCEDURE does() LANGUAGE sql BEGIN ATOMIC INSERT INTO awkward (begin) VALUES (5); DELETE FROM awkward WHERE begin = 5; END;
    CREATE RULE does AS ON DELETE TO awkward WHERE old.begin = 7 DO ALSO (INSERT INTO awkward (begin) VALUES (1); INSERT INTO awkward (begin) VALUES (2));
    CREATE VIEW "view;" AS SELECT 'it''s; $$' AS "col;umn" FROM awkward;
    COMMENT ON TABLE awkward IS E'a\\b; -- /* "''\n\\. \\connect x';
    CREATE TYPE "e;num" AS ENUM ('a;', 'b''');
    SELECT lo_from_bytea(424242, decode(repeat('5c2e0a', 20000), 'hex'));
    COMMENT ON LARGE OBJECT 424242 IS 'x';"#;

#[test]
fn k18_whatever_pg_dump_writes_comes_back_as_it_was() {
    let server = Server::shared();
    let database = server.fresh_name("awkward");
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER teslamate"));
    server.run_file(&database, &fixture("torture.sql"), &[]);
    server.query(&database, AWKWARD);
    let site = Site::new(server, &database);
    let text = |name: &str| {
        let output = server.tool("pg_dump").args(["-d", name]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| !line.contains("restrict")).map(|line| format!("{line}\n")).collect::<String>()
    };
    for arguments in [
        &[][..],
        &["--inserts"],
        &["--column-inserts"],
        &["--rows-per-insert=3"],
        &["--inserts", "--on-conflict-do-nothing"],
        &["--quote-all-identifiers"],
        &["--encoding=LATIN1"],
        &["--encoding=EUC_JP"],
        &["--encoding=SJIS"],
        &["--clean", "--if-exists"],
        &["--create"],
        &["--use-set-session-authorization"],
        &["--load-via-partition-root"],
        &["-Fc"],
        &["-Ft"],
    ] {
        let path = site.path("a.dump");
        let mut dump = server.tool("pg_dump");
        let done = dump.args(["-d", &database, "-f"]).arg(&path).args(arguments).output().unwrap();
        if !done.status.success() {
            // Something in it has no place in that encoding.
            assert!(String::from_utf8_lossy(&done.stderr).contains("has no equivalent in encoding"), "{arguments:?}");
            continue;
        }
        let copy = server.fresh_name("awkward_copy");
        let run = site.command("teslamate-restore").args(&["--into", &copy, "--allow-other", "--jobs", "2"]);
        run.arg(&path).outcome().expect(0);
        // The literal -0 is the integer 0 for the server: INSERT has no negative zero.
        let has_inserts = arguments.iter().any(|argument| argument.contains("insert"));
        let shown = |name: &str| if has_inserts { text(name).replace("\t-0", "\t0") } else { text(name) };
        let (found, expected) = (shown(&copy), shown(&database));
        let differs = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
        assert_eq!((differs, found.len()), (None, expected.len()), "{arguments:?}");
        server.query("postgres", &format!("DROP DATABASE {copy}"));
    }
}

/// A text in an encoding in which a character may end with a backslash or a letter.
#[test]
fn k18_text_in_an_encoding_of_clients_alone_comes_back() {
    let server = Server::shared();
    let database = server.fresh_name("kanji");
    server.query("postgres", &format!("CREATE DATABASE {database} OWNER teslamate"));
    server.query(
        &database,
        r"CREATE TABLE t (表 text DEFAULT '能表'); INSERT INTO t VALUES ('表\能'), ('ソ'), ('ﾃｽﾗ'); COMMENT ON TABLE t IS '表'';ソ'",
    );
    let question = "SELECT string_agg(表, ',' ORDER BY 表), obj_description('t'::regclass), \
                    (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 't'::regclass) FROM t";
    let expected = server.query(&database, question);
    let site = Site::new(server, &database);
    for arguments in [
        &["--encoding=SJIS"][..],
        &["--encoding=SJIS", "--inserts"],
        &["--encoding=EUC_JP"],
        &["--encoding=EUC_JP", "--inserts"],
    ] {
        server.pg_dump(&database, &site.path("a.sql"), arguments);
        let copy = server.fresh_name("kanji_copy");
        site.run("teslamate-restore", &["--into", &copy, "--allow-other", "a.sql"]).expect(0);
        assert_eq!(server.query(&copy, question), expected, "{arguments:?}");
    }
}

#[test]
fn k18_a_text_without_an_end_is_refused_in_little_memory() {
    /// Of memory, and nearly all that a run takes, in MiB.
    const LIMIT: usize = 96;
    let case = Case::new("endless");
    for (begin, filler) in [("\\", "x"), ("-- ", "x"), ("/* ", "x"), ("", "DO;\n"), ("SET a = $", "x")] {
        let mut compressor = zstd::Encoder::new(Vec::new(), 1).unwrap();
        compressor.write_all(format!("{}\n{begin}", &case.text[..200]).as_bytes()).unwrap();
        let filler = filler.repeat((1 << 20) / filler.len());
        // More than the limit.
        for _ in 0..LIMIT + 20 {
            compressor.write_all(filler.as_bytes()).unwrap();
        }
        let path = case.file("endless.sql.zst", compressor.finish().unwrap());
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--data={}", LIMIT << 20));
        let outcome = case.site.under(limited, "teslamate-restore").args(&["--drill"]).arg(path).outcome();
        assert!([Some(10), Some(14)].contains(&outcome.code), "{begin:?}: {:?} {}", outcome.code, outcome.stderr);
    }
}
