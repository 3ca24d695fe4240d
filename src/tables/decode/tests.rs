//! Bytes worked out by hand from the sending functions of PostgreSQL's types, beside the text that the server writes.

use super::*;

const V15: u32 = 150_018;
const V17: u32 = 170_005;

fn column(oid: u32, type_name: &str) -> Column {
    Column {
        number: 1,
        name: "c".into(),
        type_name: type_name.into(),
        type_oid: oid,
        modifier: -1,
        composites: None,
        bases: None,
        missing: None,
    }
}

/// COPY's output with one row for each list of values.
fn file(rows: &[Vec<Option<Vec<u8>>>]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([0; 8]);
    for row in rows {
        bytes.extend(i16::try_from(row.len()).unwrap().to_be_bytes());
        for value in row {
            let length = value.as_ref().map_or(-1, |value| i32::try_from(value.len()).unwrap());
            bytes.extend(length.to_be_bytes());
            bytes.extend(value.iter().flatten());
        }
    }
    bytes.extend([0xff, 0xff]);
    bytes
}

fn decoded(columns: &[Column], version: u32, bytes: &[u8]) -> Result<(String, u64)> {
    let mut text = Vec::new();
    let rows = decode(bytes, columns, version, "data/public.t/00000.bin", &mut |piece| {
        text.extend_from_slice(piece);
        Ok(())
    })?;
    Ok((String::from_utf8(text).unwrap(), rows))
}

fn one(oid: u32, type_name: &str, version: u32, value: &[u8]) -> Result<String> {
    let (text, rows) = decoded(&[column(oid, type_name)], version, &file(&[vec![Some(value.to_vec())]]))?;
    assert_eq!(rows, 1);
    Ok(text.strip_suffix('\n').unwrap().to_owned())
}

/// Bytes from hex digits; spaces are for people.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(|byte| *byte != b' ').collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The type's OID, the value in hex, the text.
#[track_caller]
fn all(cases: &[(u32, &str, &str)]) {
    for (oid, bytes, text) in cases {
        assert_eq!(one(*oid, "?", V15, &hex(bytes)).unwrap(), *text, "{oid}: {bytes}");
    }
}

/// The same for values that no server sends.
#[track_caller]
fn none(cases: &[(u32, &str, &str)]) {
    for (oid, bytes, words) in cases {
        let error = one(*oid, "?", V15, &hex(bytes)).unwrap_err();
        assert_eq!(error.kind(), Failure::Verify);
        let begin = "data/public.t/00000.bin cannot be decoded: row 1, column \"c\" ";
        assert!(error.message().starts_with(begin) && error.message().contains(words), "{oid}: {bytes}: {error}");
    }
}

#[test]
fn truth_and_whole_numbers() {
    all(&[
        (16, "00", "f"),
        (16, "01", "t"),
        (21, "8000", "-32768"),
        (21, "7fff", "32767"),
        (23, "ffffffff", "-1"),
        (23, "80000000", "-2147483648"),
        (20, "8000000000000000", "-9223372036854775808"),
        (20, "000000000000002a", "42"),
    ]);
    none(&[
        (16, "02", "neither true nor false"),
        (21, "00", "too short"),
        (23, "0000000000", "too long"),
        (20, "", "short"),
    ]);
}

#[test]
fn floating_point() {
    all(&[
        (701, "0000000000000000", "0"),
        (701, "8000000000000000", "-0"),
        (701, "3fb999999999999a", "0.1"),
        (701, "3fd3333333333334", "0.30000000000000004"),
        (701, "7ff8000000000000", "NaN"),
        (701, "fff8000000000000", "NaN"),
        (701, "7ff0000000000000", "Infinity"),
        (701, "fff0000000000000", "-Infinity"),
        (701, "0000000000000001", "5e-324"),
        (701, "7fefffffffffffff", "1.7976931348623157e+308"),
        (701, "42d6bcc41e900000", "100000000000000"),
        (701, "430c6bf526340000", "1e+15"),
        (701, "3f1a36e2eb1c432d", "0.0001"),
        (701, "3ee4f8b588e368f1", "1e-05"),
        (700, "3dcccccd", "0.1"),
        (700, "80000000", "-0"),
        (700, "7f7fffff", "3.4028235e+38"),
        (700, "00000001", "1e-45"),
        (700, "4b800001", "1.6777218e+07"),
        (700, "47c34f80", "99999"),
        (700, "49742400", "1e+06"),
        (700, "ff800000", "-Infinity"),
        (700, "7fc00000", "NaN"),
    ]);
    none(&[(700, "000000", "too short"), (701, "000000000000000000", "too long")]);
}

#[test]
fn numerics_of_any_scale() {
    all(&[
        (1700, "0000 0000 0000 0000", "0"),
        (1700, "0000 0000 0000 0003", "0.000"),
        (1700, "0001 0000 4000 0000 0001", "-1"),
        (1700, "0002 0000 0000 0002 0001 03e8", "1.10"),
        (1700, "0002 0001 0000 0000 0001 0000", "10000"),
        (1700, "0001 0001 0000 0000 0001", "10000"),
        (1700, "0003 0001 4000 0005 000c 0d80 1c52", "-123456.72500"),
        (1700, "0001 ffff 0000 0004 0001", "0.0001"),
        (1700, "0001 fffe 4000 0009 0019", "-0.000000250"),
        (1700, "0001 fffe 0000 0008 270f", "0.00009999"),
        (1700, "0000 0000 c000 0000", "NaN"),
        (1700, "0000 0000 d000 0020", "Infinity"),
        (1700, "0000 0000 f000 0020", "-Infinity"),
    ]);
    // 10^131068 and 10^-16383.
    let large = one(1700, "numeric", V15, &hex("0001 7fff 0000 0000 0001")).unwrap();
    assert_eq!((large.len(), large.trim_end_matches('0')), (131_069, "1"));
    let small = one(1700, "numeric", V15, &hex("0001 f000 0000 3fff 000a")).unwrap();
    assert_eq!((small.len(), small.trim_start_matches("0.").trim_start_matches('0')), (16_385, "1"));
    none(&[
        (1700, "0001 0000 0000 0000 2710", "the digits 10000"),
        (1700, "0001 0000 1234 0000 0001", "the sign 0x1234"),
        (1700, "0000 0000 1234 0000", "the sign 0x1234"),
        (1700, "0001 0000 c000 0000 0001", "digits and the sign"),
        (1700, "ffff 0000 0000 0000", "negative number of digits"),
        (1700, "0000 0000 0000 4000", "16384 digits after the point"),
        (1700, "0002 0000 0000 0001 0001 0001", "more than the 1 digits"),
        (1700, "0001 8000 0000 0000 0001", "more than the 0 digits"),
        (1700, "7fff 0000 0000 0000 0001", "too short"),
        (1700, "0001 0000 0000 0000 0001 00", "too long"),
    ]);
}

#[test]
fn characters_are_escaped_and_nothing_else_of_them_is_changed() {
    for oid in [25, 1042, 1043, 114] {
        assert_eq!(one(oid, "text", V15, b"").unwrap(), "");
        assert_eq!(one(oid, "text", V15, b"\x08\t\n\x0b\x0c\r\\").unwrap(), "\\b\\t\\n\\v\\f\\r\\\\");
        assert_eq!(one(oid, "text", V15, b"\\.").unwrap(), "\\\\.");
        assert_eq!(one(oid, "text", V15, b"\\N  ").unwrap(), "\\\\N  ");
        assert_eq!(one(oid, "text", V15, "\u{1}ä\u{7f}🚗".as_bytes()).unwrap(), "\u{1}ä\u{7f}🚗");
    }
    all(&[(3802, "01 7b7d", "{}"), (3802, "01 22 5c6e 22", "\"\\\\n\"")]);
    assert_eq!(one(16_500, "public.mood", V15, b"it's").unwrap(), "it's");
    none(&[
        (25, "61ff", "not UTF-8"),
        (25, "6100", "a NUL"),
        (114, "c3", "not UTF-8"),
        (3802, "", "too short"),
        (3802, "02 7b7d", "version 2 of jsonb"),
        (3802, "01 00", "a NUL"),
        (16_500, "ff", "not UTF-8"),
    ]);
}

#[test]
fn single_bytes_have_the_text_that_their_version_reads() {
    all(&[(18, "00", ""), (18, "41", "A"), (18, "5c", "\\\\"), (18, "c3", "\\\\303"), (18, "09", "\\t")]);
    none(&[(18, "", "too short"), (18, "4142", "too long")]);
    let error = one(18, "\"char\"", 140_020, b"\xc3").unwrap_err();
    assert!(error.message().contains("the byte 0xc3, for which PostgreSQL 14 has no text"), "{error}");
    assert_eq!(one(18, "\"char\"", 140_020, b"A").unwrap(), "A");
}

#[test]
fn bytes_and_uuids_are_hex() {
    all(&[
        (17, "", "\\\\x"),
        (17, "00 0a 5c ff", "\\\\x000a5cff"),
        (2950, "a0eebc999c0b4ef8bb6d6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ]);
    none(&[
        (2950, "a0eebc999c0b4ef8bb6d6bb9bd380a", "too short"),
        (2950, "a0eebc999c0b4ef8bb6d6bb9bd380a1100", "too long"),
    ]);
}

#[test]
fn dates_from_the_first_day_to_the_last() {
    all(&[
        (1082, "00000000", "2000-01-01"),
        (1082, "0000003b", "2000-02-29"),
        (1082, "ffffffff", "1999-12-31"),
        (1082, "7fffffff", "infinity"),
        (1082, "80000000", "-infinity"),
        (1082, "fff4dbf9", "0001-01-01"),
        (1082, "fff4dbf8", "0001-12-31 BC"),
        (1082, "ffda97a7", "4714-11-24 BC"),
        (1082, "7fda970c", "5874897-12-31"),
        (1082, "002c95d4", "10000-01-01"),
    ]);
    none(&[(1082, "ffda97a6", "outside of the calendar"), (1082, "7fda970d", "outside"), (1082, "0000", "too short")]);
}

#[test]
fn times_of_the_day_and_their_zones() {
    all(&[
        (1083, "0000000000000000", "00:00:00"),
        (1083, "000000141dd76000", "24:00:00"),
        (1083, "0000000000000001", "00:00:00.000001"),
        (1083, "000000141dd75fff", "23:59:59.999999"),
        (1083, "000000000007a120", "00:00:00.5"),
        (1266, "0000000000000000 00000000", "00:00:00+00"),
        (1266, "0000000000000000 fffff1f0", "00:00:00+01"),
        (1266, "0000000000000000 00003138", "00:00:00-03:30"),
        (1266, "000000141dd76000 0000e0c4", "24:00:00-15:59"),
        (1266, "0000000000000000 ffffffff", "00:00:00+00:00:01"),
        (1266, "0000000000000000 0000e0ff", "00:00:00-15:59:59"),
    ]);
    none(&[
        (1083, "ffffffffffffffff", "no time of a day"),
        (1083, "000000141dd76001", "no time of a day"),
        (1266, "0000000000000000 0000e100", "in no zone"),
        (1266, "0000000000000000 ffff1f00", "in no zone"),
        (1266, "0000000000000000", "too short"),
    ]);
}

#[test]
fn moments_from_the_first_to_the_last() {
    all(&[
        (1114, "0000000000000000", "2000-01-01 00:00:00"),
        (1184, "0000000000000000", "2000-01-01 00:00:00+00"),
        (1114, "ffffffffffffffff", "1999-12-31 23:59:59.999999"),
        (1114, "7fffffffffffffff", "infinity"),
        (1184, "8000000000000000", "-infinity"),
        (1114, "fd0f7cc1411fa000", "4714-11-24 00:00:00 BC"),
        (1184, "fd0f7cc1411fa000", "4714-11-24 00:00:00+00 BC"),
        (1114, "7fffff5bb3b29fff", "294276-12-31 23:59:59.999999"),
    ]);
    none(&[
        (1114, "fd0f7cc1411f9fff", "outside of the calendar"),
        (1184, "7fffff5bb3b2a000", "outside of the calendar"),
        (1114, "00000000", "too short"),
    ]);
}

#[test]
fn intervals_have_three_parts_with_signs_of_their_own() {
    all(&[
        (1186, "0000000000000000 00000000 00000000", "00:00:00"),
        (1186, "00000000000f4240 00000001 0000000d", "1 year 1 mon 1 day 00:00:01"),
        (1186, "0000000000000000 00000002 00000019", "2 years 1 mon 2 days"),
        (1186, "0000000000000001 ffffffff 00000000", "-1 days +00:00:00.000001"),
        (1186, "ffffffffffffffff 00000000 00000000", "-00:00:00.000001"),
        (1186, "ffffffffffffffff 00000001 fffffff3", "-1 years -1 mons +1 day -00:00:00.000001"),
        (1186, "000000a7d8c00000 00000000 00000000", "200:14:56"),
        (1186, "8000000000000000 00000001 00000000", "1 day -9223372036854775808 us"),
        (1186, "7fffffffffffffff 7fffffff 7fffffff", "178956970 years 7 mons 2147483647 days 2562047788:00:54.775807"),
    ]);
    let infinite = |bytes: &str, version| one(1186, "interval", version, &hex(bytes)).unwrap();
    assert_eq!(infinite("7fffffffffffffff 7fffffff 7fffffff", V17), "infinity");
    assert_eq!(infinite("8000000000000000 80000000 80000000", V17), "-infinity");
    assert_eq!(
        infinite("7fffffffffffffff 7fffffff 7ffffffe", V17),
        infinite("7fffffffffffffff 7fffffff 7ffffffe", V15)
    );
    none(&[(1186, "0000000000000000 00000000", "too short")]);
}

#[test]
fn addresses_with_and_without_a_mask() {
    all(&[
        (869, "02 20 00 04 0a010203", "10.1.2.3"),
        (869, "02 18 00 04 0a010203", "10.1.2.3/24"),
        (650, "02 20 01 04 0a010203", "10.1.2.3/32"),
        (650, "02 08 01 04 0a000000", "10.0.0.0/8"),
        (650, "02 00 01 04 00000000", "0.0.0.0/0"),
        (869, "03 80 00 10 20010db8000000000000000000000001", "2001:db8::1"),
        (869, "03 40 00 10 20010db8000000000000000000000001", "2001:db8::1/64"),
        (869, "03 80 00 10 00000000000000000000ffff01020304", "::ffff:1.2.3.4"),
        (650, "03 20 01 10 20010db8000000000000000000000000", "2001:db8::/32"),
        (650, "03 00 01 10 00000000000000000000000000000000", "::/0"),
    ]);
    none(&[
        (869, "04 20 00 04 0a010203", "family 4"),
        (869, "02 21 00 04 0a010203", "a mask of 33 bits"),
        (869, "03 81 00 10 20010db8000000000000000000000001", "a mask of 129 bits"),
        (869, "02 20 01 04 0a010203", "the other type"),
        (650, "02 18 01 04 0a010203", "bits beyond its mask"),
        (869, "02 20 00 10 20010db8000000000000000000000001", "family 2 with 16 bytes"),
        (869, "03 20 00 04 0a010203", "family 3 with 4 bytes"),
        (869, "02 20 00 04 0a0102", "too short"),
        (869, "02 20 00 04 0a01020304", "too long"),
    ]);
}

/// An array's bytes: its elements' OID, dimensions as size and lower bound, elements.
fn array(oid: u32, nulls: bool, dimensions: &[(i32, i32)], elements: &[Option<&[u8]>]) -> Vec<u8> {
    let mut bytes = i32::try_from(dimensions.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(i32::from(nulls).to_be_bytes());
    bytes.extend(oid.to_be_bytes());
    for (size, lower) in dimensions {
        bytes.extend(size.to_be_bytes());
        bytes.extend(lower.to_be_bytes());
    }
    for element in elements {
        bytes.extend(element.map_or(-1, |element| i32::try_from(element.len()).unwrap()).to_be_bytes());
        bytes.extend(element.unwrap_or_default());
    }
    bytes
}

#[test]
fn arrays_of_any_shape() {
    let four = [1, 2, 3, 4].map(i32::to_be_bytes);
    let four: Vec<Option<&[u8]>> = four.iter().map(|number| Some(&number[..])).collect();
    let ints = |dimensions: &[(i32, i32)]| one(1007, "integer[]", V15, &array(23, false, dimensions, &four)).unwrap();
    assert_eq!(ints(&[(4, 1)]), "{1,2,3,4}");
    assert_eq!(ints(&[(4, -1)]), "[-1:2]={1,2,3,4}");
    assert_eq!(ints(&[(4, i32::MAX - 3)]), "[2147483644:2147483647]={1,2,3,4}");
    assert_eq!(ints(&[(2, 1), (2, 1)]), "{{1,2},{3,4}}");
    assert_eq!(ints(&[(2, 0), (2, 5)]), "[0:1][5:6]={{1,2},{3,4}}");
    assert_eq!(ints(&[(1, 1), (4, 1), (1, 1)]), "{{{1},{2},{3},{4}}}");
    assert_eq!(ints(&[(4, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)]).matches("{{{{{").count(), 4);
    for dimensions in [&[][..], &[(0, 1)], &[(0, 0)], &[(2, 5), (0, 1)]] {
        assert_eq!(one(1007, "integer[]", V15, &array(23, false, dimensions, &[])).unwrap(), "{}");
    }
}

#[test]
fn elements_are_quoted_where_they_have_to_be() {
    let texts: [Option<&[u8]>; 10] = [
        Some(b"plain"),
        Some(b""),
        None,
        Some(b"NULL"),
        Some(b"nUll"),
        Some(b"a,b"),
        Some(b"{x}"),
        Some(b"q\"\\"),
        Some(b" a\tb\n\x0b\x0c\r"),
        Some("nulls|ü|;'\u{8}".as_bytes()),
    ];
    let text = one(1009, "text[]", V15, &array(25, true, &[(10, 1)], &texts)).unwrap();
    let expected = r#"{plain,"",NULL,"NULL","nUll","a,b","{x}","q\\"\\\\"," a\tb\n\v\f\r",nulls|ü|;'\b}"#;
    assert_eq!(text, expected);
    let bytes = array(17, false, &[(1, 1)], &[Some(b"\x00\xff")]);
    assert_eq!(one(1001, "bytea[]", V15, &bytes).unwrap(), r#"{"\\\\x00ff"}"#);
    let labels = array(16_500, false, &[(2, 1)], &[Some(b"it's \"fine\""), Some(b"")]);
    assert_eq!(one(16_499, "public.mood[]", V15, &labels).unwrap(), r#"{"it's \\"fine\\"",""}"#);
}

#[test]
fn an_array_that_is_none_is_named() {
    let fails = |bytes: &[u8], words: &str| {
        let error = one(1007, "integer[]", V15, bytes).unwrap_err();
        assert!(error.kind() == Failure::Verify && error.message().contains(words), "{error}");
    };
    let one_int: [Option<&[u8]>; 1] = [Some(&[0, 0, 0, 1])];
    fails(&array(25, false, &[(1, 1)], &one_int), "elements of another type (OID 25)");
    fails(&array(23, false, &[(1, 1); 7], &one_int), "7 dimensions");
    fails(&array(23, false, &[(0, 1)], &one_int), "an empty array with elements");
    fails(&array(23, false, &[(-1, 1)], &[]), "a dimension of -1 elements");
    fails(&array(23, false, &[(2, i32::MAX)], &one_int), "a dimension of 2 elements from 2147483647 on");
    fails(&array(23, false, &[(2, 1)], &one_int), "too short");
    fails(&array(23, false, &[(i32::MAX, 1); 6], &one_int), "fewer elements than its dimensions say");
    fails(&array(23, false, &[(1, 1)], &[None]), "a NULL, and says that it has none");
    fails(&array(23, false, &[], &one_int), "an empty array with elements");
    fails(&array(23, false, &[(1, 1)], &[one_int[0], one_int[0]]), "too long");
    fails(&array(23, false, &[(1, 1)], &[Some(b"\0\0\0\0\x01")]), "too long");
    fails(&hex("00000001 00000002 00000017 00000001 00000001 00000004 00000001"), "flags that are not known");
    fails(&hex("ffffffff 00000000 00000017"), "-1 dimensions");
    fails(&hex("00000001 00000000 00000017 00000001 00000001 fffffffe"), "an element of negative length");
    // An enum's OID is one of users'.
    let built_in = array(25, false, &[(1, 1)], &[Some(b"x")]);
    assert!(one(16_499, "mood[]", V15, &built_in).unwrap_err().message().contains("another type"));
}

#[test]
fn a_type_that_is_not_copied_in_binary_is_named() {
    for (oid, name) in [(600, "point"), (790, "money"), (22, "int2vector"), (1006, "int2vector[]"), (19, "name")] {
        let error = decoded(&[column(oid, name)], V15, &file(&[])).unwrap_err();
        let words = format!("column \"c\" has the type {name} (OID {oid}), whose binary form is not known");
        assert!(error.kind() == Failure::Verify && error.message().ends_with(&words), "{error}");
    }
}

/// A row of every type, with NULLs, and one without anything but NULLs.
fn sample() -> (Vec<Column>, Vec<u8>) {
    let texts = array(25, true, &[(2, 1), (1, 0)], &[Some(b"a b"), None]);
    let values: Vec<(u32, Vec<u8>)> = vec![
        (16, hex("01")),
        (20, hex("000000000000002a")),
        (1700, hex("0002 0000 0000 0002 0001 03e8")),
        (25, b"a\nb".to_vec()),
        (3802, hex("01 7b7d")),
        (17, hex("00ff")),
        (1184, hex("0000000000000001")),
        (1186, hex("00000000000f4240 00000001 0000000d")),
        (869, hex("02 18 00 04 0a010203")),
        (1009, texts),
    ];
    let columns: Vec<Column> = values.iter().map(|(oid, _)| column(*oid, "?")).collect();
    let nulls = vec![None; values.len()];
    let row = values.into_iter().map(|(_, value)| Some(value)).collect();
    let bytes = file(&[row, nulls]);
    (columns, bytes)
}

#[test]
fn a_file_that_is_cut_or_longer_anywhere_is_noticed() {
    let (columns, whole) = sample();
    let (text, rows) = decoded(&columns, V15, &whole).unwrap();
    let first = "t\t42\t1.10\ta\\nb\t{}\t\\\\x00ff\t2000-01-01 00:00:00.000001+00\t1 year 1 mon 1 day 00:00:01\t10.1.2.3/24\t\
                 [1:2][0:0]={{\"a b\"},{NULL}}\n";
    assert_eq!((text, rows), (format!("{first}{}\n", ["\\N"; 10].join("\t")), 2));
    for end in 0..whole.len() {
        let error = decoded(&columns, V15, &whole[..end]).unwrap_err();
        assert!(error.kind() == Failure::Verify && error.message().contains("is cut"), "cut at {end}: {error}");
    }
    let mut longer = whole;
    longer.push(0);
    let error = decoded(&columns, V15, &longer).unwrap_err();
    assert!(error.message().ends_with("row 3 comes after the end of the rows"), "{error}");
}

#[test]
fn no_byte_that_is_changed_makes_it_panic() {
    let (columns, whole) = sample();
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= flip;
            if let Err(error) = decoded(&columns, V15, &changed) {
                assert_eq!(error.kind(), Failure::Verify);
            }
        }
    }
}

#[test]
fn what_copy_did_not_write_is_named() {
    let fails = |bytes: &[u8], words: &str| {
        let error = decoded(&[column(23, "integer")], V15, bytes).unwrap_err();
        assert!(error.kind() == Failure::Verify && error.message().contains(words), "{error}");
    };
    fails(b"pg_dump: error: no such server", "does not begin with COPY's signature");
    fails(&file(&[vec![None, None]]), "row 1 has 2 values for 1 columns");
    fails(&file(&[vec![None], vec![]]), "row 2 has 0 values for 1 columns");
    let mut with_oids = file(&[]);
    with_oids[12] = 1;
    fails(&with_oids, "flags or extensions");
    let begin = &file(&[])[..19];
    fails(&[begin, &hex("fffe")].concat(), "a negative number of values");
    fails(&[begin, &hex("0001 fffffffe")].concat(), "a negative length");
    // The length is no reason to take so much memory.
    fails(&[begin, &hex("0001 7fffffff 00")].concat(), "the file ends within it");
}

#[test]
fn rows_without_columns_are_empty_lines() {
    assert_eq!(decoded(&[], V15, &file(&[vec![], vec![], vec![]])).unwrap(), ("\n\n\n".to_owned(), 3));
    assert_eq!(decoded(&[], V15, &file(&[])).unwrap(), (String::new(), 0));
}

#[test]
fn a_large_value_is_handed_over_in_pieces() {
    let large = vec![b'\\'; 3 << 20];
    let bytes = file(&[vec![Some(large.clone()), Some(large)]]);
    let (mut most, mut all) = (0, 0);
    let rows = decode(&*bytes, &[column(25, "text"), column(17, "bytea")], V15, "x", &mut |piece| {
        most = most.max(piece.len());
        all += piece.len();
        Ok(())
    });
    assert_eq!((rows.unwrap(), all), (1, (6 << 20) + 1 + (6 << 20) + 4));
    assert!(most < 4 * PIECE, "{most}");
}

#[test]
fn who_takes_the_text_can_end_it() {
    let full = |_: &[u8]| Err(Error::new(Failure::Store, "full"));
    let error = decode(&*file(&[vec![]]), &[], V15, "x", &mut { full }).unwrap_err();
    assert_eq!((error.kind(), error.message()), (Failure::Store, "full"));
}
