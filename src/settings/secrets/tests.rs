use proptest::prelude::*;

use super::*;

fn values(file: &str) -> Vec<(String, String)> {
    let assignments = parse(file.as_bytes()).assignments;
    assignments.into_iter().map(|(name, value)| (name, value.expose().to_owned())).collect()
}

/// The value of `A` in a file whose only assignment it is.
fn value(file: &str) -> String {
    let mut values = values(file);
    assert_eq!(values.len(), 1, "{file:?}");
    let (name, value) = values.remove(0);
    assert_eq!(name, "A", "{file:?}");
    value
}

fn problem_lines(file: &[u8]) -> Vec<usize> {
    parse(file).problems.iter().map(|problem| problem.line).collect()
}

#[test]
fn values_are_read_as_systemd_reads_them() {
    for (file, expected) in [
        ("A=", ""),
        ("A=b", "b"),
        (" \tA\t = \tb c \t\n", "b c"),
        ("A=b\r\n", "b"),
        ("A=$HOME `id` %n #c ;d", "$HOME `id` %n #c ;d"),
        ("A=b=c==", "b=c=="),
        ("# B=1\n; C=2 \\\nA=b", "b"),
        ("A='b c'", "b c"),
        ("A='b\\'", "b\\"),
        ("A=' b '\t", " b "),
        ("A='b\nc'", "b\nc"),
        ("A=\"b\r\nc\"", "b\r\nc"),
        ("A='b''c' \"d\" e 'f'", "bcde 'f'"),
        ("A=b\"c\"'d'", "b\"c\"'d'"),
        (r#"A="\"\\\`\$\n\x\'""#, "\"\\`$\\n\\x\\'"),
        ("A=\"b\\\nc\"", "bc"),
        ("A=\"b\\\r\nc\"", "b\\\r\nc"),
        (r"A=\b\\\'\ \$ ", "b\\' $"),
        ("A=b \\\n c ", "b  c"),
        ("A=b \\", "b "),
        ("A=\\\n \n", ""),
        ("A='b", "b"),
        ("A=\"b\\", "b"),
        ("A=b\nA=c\n", "c"),
    ] {
        assert_eq!(value(file), expected, "{file:?}");
    }
}

#[test]
fn a_carriage_return_ends_a_line_even_behind_a_continuation() {
    assert_eq!(values("A=1\rB=2"), [("A".into(), "1".into()), ("B".into(), "2".into())]);
    assert_eq!(values("A=1\\\r\nB=2"), [("A".into(), "1".into()), ("B".into(), "2".into())]);
}

#[test]
fn ignored_lines_are_reported_with_the_line_they_begin_on() {
    let file = b"A='1\n2'\r\nhello\n\n1B=1\rexport C=1\n=D\n E F=1\n\\\nG-H='\n'\nI=1\nJ";
    assert_eq!(problem_lines(file), [3, 5, 6, 7, 8, 9, 10, 13]);
    assert_eq!(parse(file).assignments.len(), 2);
    assert!(!parse(file).refused);
}

#[test]
fn a_byte_order_mark_costs_the_first_line_only() {
    let parsed = parse("\u{feff}A=1\nB=2".as_bytes());
    assert_eq!(parsed.assignments.keys().collect::<Vec<_>>(), ["B"]);
    assert!(parsed.problems[0].message.contains("byte order mark"));
}

#[test]
fn one_assignment_that_is_not_text_refuses_the_file() {
    let noncharacter = "A=1\nB='\u{fffe}'".as_bytes();
    for file in [noncharacter, b"A=1\nB=\xff", b"A=1\n\xffB=2", b"A=1\nB=\xed\xa0\x80", b"A=1\n\0\n=1"] {
        let parsed = parse(file);
        assert!(parsed.refused && parsed.assignments.is_empty(), "{file:?}");
        assert_eq!(problem_lines(file), [2], "{file:?}");
    }
    assert!(!parse(b"# \xff\n\xff\nA=1").refused, "only assignments are looked at");
}

#[test]
fn an_unclosed_quote_is_reported_where_it_opens() {
    assert_eq!(problem_lines(b"A=1\nB='x'\nC='y'\\\n \nD=\"e'\n\nF=1\n"), [5]);
    assert!(problem_lines(b"A=\"1'\"\nB='\"'").is_empty());
}

#[test]
fn a_value_too_long_for_a_program_is_left_out() {
    let longest = "x".repeat(LONGEST - 3);
    assert_eq!(value(&format!("A={longest}")), longest);
    let parsed = parse(format!("A=1\nA={longest}x").as_bytes());
    assert!(parsed.assignments.is_empty());
    assert_eq!(parsed.problems[0].line, 2);
}

#[test]
fn a_secret_prints_nothing_of_itself() {
    assert_eq!(format!("{:?}", Secret::from("hunter2".to_owned())), "Secret(\"***\")");
    assert_eq!(format!("{:?}", parse(b"hunter2=hunter2").assignments["hunter2"]), "Secret(\"***\")");
}

/// What a person has to type for a value, in the form that can hold any.
fn quote(value: &str) -> String {
    let escaped = |c: char| if "\"\\`$".contains(c) { vec!['\\', c] } else { vec![c] };
    format!("\"{}\"", value.chars().flat_map(escaped).collect::<String>())
}

/// Mostly the characters that mean something to the parser.
fn adversarial() -> impl Strategy<Value = Vec<u8>> {
    let special = proptest::sample::select(&b"A=A='\"\\\\\n\r #;$`\t_1"[..]);
    proptest::collection::vec(prop_oneof![9 => special, 1 => any::<u8>()], 0..200)
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop_oneof![adversarial(), any::<Vec<u8>>()]) {
        let parsed = parse(&bytes);
        let lines = bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() + 1;
        prop_assert!(parsed.problems.iter().all(|problem| (1..=lines).contains(&problem.line)));
        prop_assert!(parsed.assignments.keys().all(|name| is_name(name)));
        prop_assert!(!parsed.refused || (parsed.assignments.is_empty() && !parsed.problems.is_empty()));
    }

    #[test]
    fn a_quoted_value_comes_back(value in "[^\0]*", other in "[^\0]*") {
        prop_assume!(text(value.as_bytes()).is_some() && text(other.as_bytes()).is_some());
        let file = format!("A={}\n  B = {} \r\n", quote(&value), quote(&other));
        prop_assert_eq!(values(&file), [("A".to_owned(), value), ("B".to_owned(), other)]);
        prop_assert!(parse(file.as_bytes()).problems.is_empty());
    }

    #[test]
    fn nothing_of_a_value_is_ever_printed(
        canary in "S3cr3t_[a-z0-9]{12}",
        around in proptest::collection::vec(("[ A1=\"'\\\\\n#\u{feff}]{0,6}", "[ =\"'\\\\\n\u{ffff}]{0,4}"), 1..6),
    ) {
        let file: String = around.iter().flat_map(|(before, after)| [before, &canary, after].map(String::as_str)).collect();
        let printed = format!("{:?}", parse(file.as_bytes()));
        prop_assert!(!printed.contains("S3cr3t"), "{}", printed);
    }
}
