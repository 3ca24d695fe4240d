use super::*;

/// Writes down what it is shown, a line each.
#[derive(Default)]
struct Log {
    lines: Vec<String>,
    data: Vec<u8>,
}

impl Visitor for Log {
    fn statement(&mut self, statement: &Statement<'_>) -> Result<(), Flaw> {
        let text = String::from_utf8_lossy(statement.text);
        self.lines.push(format!("{}: {text}", statement.line));
        Ok(())
    }
    fn comment(&mut self, text: &str, line: u64) -> Result<(), Flaw> {
        self.lines.push(format!("{line}: --{text}"));
        Ok(())
    }
    fn meta(&mut self, text: &str, line: u64) -> Result<(), Flaw> {
        self.lines.push(format!("{line}: {text}"));
        Ok(())
    }
    fn data(&mut self, bytes: &[u8], _line: u64) -> Result<(), Flaw> {
        self.data.extend_from_slice(bytes);
        Ok(())
    }
    fn data_end(&mut self, rows: u64) -> Result<(), Flaw> {
        let data = String::from_utf8(std::mem::take(&mut self.data)).unwrap();
        self.lines.push(format!("{rows} rows {data:?}"));
        Ok(())
    }
}

/// Scans a text in pieces of every size; the result must not depend on where it is cut.
#[track_caller]
fn scan(text: impl AsRef<[u8]>) -> Result<Vec<String>, Flaw> {
    let text = text.as_ref();
    let mut results = (1..=text.len()).map(|piece| {
        let (mut scanner, mut log) = (Scanner::default(), Log::default());
        for piece in text.chunks(piece) {
            scanner.feed(piece, &mut log)?;
        }
        scanner.finish(&mut log)?;
        Ok(log.lines)
    });
    let first = results.next().expect("a text");
    for (number, other) in results.enumerate() {
        assert_eq!(other, first, "in pieces of {} bytes", number + 2);
    }
    first
}

#[track_caller]
fn assert_scan(text: &str, expected: &[&str]) {
    assert_eq!(scan(text).unwrap(), expected);
}

#[test]
fn statements_end_at_a_semicolon_outside_of_everything() {
    assert_scan(
        "SELECT ';', \"a;b\", $x$;$x$, (1;2), $1; -- c;\nSET a = E'\\';'; SET b = 'x'';';\n",
        &["1: SELECT ';', \"a;b\", $x$;$x$, (1;2), $1;", "1: --c;", "2: SET a = E'\\';';", "2: SET b = 'x'';';"],
    );
}

#[test]
fn the_body_of_a_function_is_one_statement_whatever_is_in_it() {
    let body =
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$\nBEGIN\nCOPY x FROM stdin;\n\\.\n\\! ls\nEND $$;";
    assert_scan(&format!("{body}\nSELECT 1;\n"), &[&format!("1: {body}"), "7: SELECT 1;"]);
    let atomic =
        "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC\nSELECT CASE WHEN a THEN 1 END; SELECT 2; END;";
    assert_scan(&format!("{atomic}\nSELECT 1;\n"), &[&format!("1: {atomic}"), "3: SELECT 1;"]);
}

#[test]
fn k18_words_that_begin_and_end_bodies_may_be_names() {
    for head in [
        "CREATE FUNCTION public.f(begin integer) RETURNS integer LANGUAGE sql AS 'SELECT 1';",
        "CREATE FUNCTION public.begin() RETURNS integer LANGUAGE sql AS 'SELECT 1';",
        "CREATE FUNCTION public.f() RETURNS TABLE(begin integer, atomic integer) LANGUAGE sql AS 'SELECT 1, 2';",
        "CREATE FUNCTION f(atomic integer) RETURNS int BEGIN ATOMIC SELECT begin, CASE a WHEN 1 THEN 2 END FROM t; END;",
        "CREATE TABLE t (begin integer, \"end\" integer, \"case\" integer, atomic integer);",
        "CREATE FUNCTION begin.atomic() RETURNS integer LANGUAGE sql AS 'SELECT 1';",
        "CREATE FUNCTION begin . \"atomic\"() RETURNS begin.atomic LANGUAGE sql SET x TO begin, atomic AS 'SELECT 1';",
        "CREATE FUNCTION \"f\".\"f\"() RETURNS begin BEGIN ATOMIC SELECT begin.atomic() AS end, t.case AS case; END;",
    ] {
        assert_scan(&format!("{head}\nDROP TABLE x;\nEND;\n"), &[&format!("1: {head}"), "2: DROP TABLE x;", "3: END;"]);
    }
}

#[test]
fn k18_characters_that_end_with_a_byte_of_ascii_hide_nothing() {
    for (encoding, character) in
        [("SJIS", &b"\x95\\"[..]), ("BIG5", b"\xa5\\"), ("GBK", b"\x81\\"), ("GB18030", b"\x81\x30\x81\x30")]
    {
        let begin = format!("SET client_encoding = '{encoding}';\nSET a = E'");
        let text =
            [begin.as_bytes(), character, b"';\nSET b = \"", character, b"\";\n-- ", character, b"\nSET c = 1;\n"]
                .concat();
        let statements = scan(text).unwrap();
        assert_eq!(statements.len(), 5, "{encoding}: {statements:?}");
    }
    // A kana of one byte is followed by what it seems.
    assert_eq!(scan(b"SET client_encoding = 'SJIS';\nSET a = E'\xb1\\'';\n").unwrap().len(), 2);
}

#[test]
fn k18_a_comment_parts_words() {
    assert_scan("SET/* x */a = 1;\nSET a--b\n= 1;\n", &["1: SET a = 1;", "2: SET a\n= 1;"]);
}

#[test]
fn k18_what_has_no_end_has_a_limit() {
    let long = "x".repeat(1 << 20);
    assert!(scan_once(&format!("\\{long}\n")).unwrap_err().what.contains("meta-command"));
    assert!(scan_once(&format!("SET a = ${long}$;\n")).unwrap_err().what.contains("endless tag"));
    assert_eq!(scan_once(&format!("-- {long}\nSET a = 1;\n")).unwrap().len(), 2);
}

fn scan_once(text: &str) -> Result<Vec<String>, Flaw> {
    let (mut scanner, mut log) = (Scanner::default(), Log::default());
    scanner.feed(text.as_bytes(), &mut log)?;
    scanner.finish(&mut log)?;
    Ok(log.lines)
}

#[test]
fn a_nested_comment_is_no_statement() {
    assert_scan("/* a /* b; */ c; */ SELECT 1;\n", &["1: SELECT 1;"]);
}

#[test]
fn rows_stream_through_and_end_at_the_marker_only() {
    assert_scan(
        "COPY public.t (a, b) FROM stdin;\n1\tx\n\\\\.\t\\.\n\\.x\n\n\\.\nSELECT 1;\n",
        &["1: COPY public.t (a, b) FROM stdin;", r#"4 rows "1\tx\n\\\\.\t\\.\n\\.x\n\n""#, "7: SELECT 1;"],
    );
    assert_scan("COPY t FROM stdin;\n\\.\n", &["1: COPY t FROM stdin;", "0 rows \"\""]);
}

#[test]
fn meta_commands_are_told_apart_and_never_hidden_in_a_statement() {
    assert_scan(
        "\\restrict abc\nSELECT 1;\n\\unrestrict abc\n",
        &["1: \\restrict abc", "2: SELECT 1;", "3: \\unrestrict abc"],
    );
    let flaw = scan("SELECT 1\n\\! ls\n;").unwrap_err();
    assert!(flaw.line == 1 && flaw.what.contains("line 2 is a meta-command"), "{flaw:?}");
}

#[test]
fn a_cut_is_seen_wherever_it_is() {
    for (text, within) in [
        ("COPY t FROM stdin;\n1\n2", "rows"),
        ("COPY t FROM stdin;\n1\n", "rows"),
        ("SELECT 'a", "string"),
        ("CREATE TABLE t (", "statement"),
        ("SELECT $$a", "string"),
        ("/* a", "comment"),
    ] {
        let flaw = scan(text).unwrap_err();
        assert!(flaw.what.contains(within), "{text}: {flaw:?}");
    }
}

#[test]
fn messages_of_programs_are_recognised() {
    let flaw = scan("--\nSELECT 1;\npg_dump: error: connection to server failed\n").unwrap_err();
    assert_eq!((flaw.line, flaw.what.as_str()), (3, "is not SQL: it is a message of pg_dump"));
}

#[test]
fn strings_have_escapes_where_the_dump_says_so() {
    assert_scan(
        "SET standard_conforming_strings = off;\nSELECT 'a\\';b';\n",
        &["1: SET standard_conforming_strings = off;", "2: SELECT 'a\\';b';"],
    );
}

#[test]
fn r13_the_declared_encoding_holds_from_the_next_line_on_however_the_text_is_cut() {
    let text = |encoding: &str| {
        let before = format!("-- a\nSET client_encoding = '{encoding}';\n");
        [before.as_bytes(), b"SELECT 'Gr\xf6\xdfe';\n"].concat()
    };
    assert_eq!(
        scan(text("LATIN1")).unwrap(),
        ["1: --a", "2: SET client_encoding = 'LATIN1';", "3: SELECT 'Gr\u{fffd}\u{fffd}e';"]
    );
    let flaw = scan(text("UTF8")).unwrap_err();
    assert_eq!((flaw.line, flaw.what.as_str()), (3, "holds bytes that are not UTF-8"));
}

#[test]
fn rows_of_an_insert_are_counted() {
    struct Groups(Vec<u64>);
    impl Visitor for Groups {
        fn statement(&mut self, statement: &Statement<'_>) -> Result<(), Flaw> {
            self.0.push(statement.groups);
            Ok(())
        }
    }
    let (mut scanner, mut groups) = (Scanner::default(), Groups(Vec::new()));
    let text = b"INSERT INTO t (a) VALUES (1);\nINSERT INTO t VALUES\n\t('(', f((2))),\n\t(3, 4);\n";
    scanner.feed(text, &mut groups).unwrap();
    assert_eq!(groups.0, [1, 2]);
}

#[test]
fn an_outline_tells_keywords_from_names_and_parameters() {
    struct Outlines(Vec<String>);
    impl Visitor for Outlines {
        fn statement(&mut self, statement: &Statement<'_>) -> Result<(), Flaw> {
            self.0.push(statement.outline.join(" "));
            Ok(())
        }
    }
    for (text, outline) in [
        ("GRANT a ON role.t, \"R\" . \"t\", x TO y;", "GRANT A ON ROLE.T , \"R\".\"t\" , X TO Y"),
        ("CREATE FUNCTION f(language (text)) SET x = 'y' AS $$ z $$;", "CREATE FUNCTION F ( SET X = ' AS '"),
        ("SELECT t.* FROM a/* . */b;", "SELECT T FROM A B"),
    ] {
        let (mut scanner, mut outlines) = (Scanner::default(), Outlines(Vec::new()));
        scanner.feed(format!("{text}\n").as_bytes(), &mut outlines).unwrap();
        assert_eq!(outlines.0, [outline]);
    }
}
