use std::collections::{BTreeMap, BTreeSet};

use super::*;

const HEADER: &str = "--\n-- PostgreSQL database dump\n--\n-- Dumped from database version 15.18 (Debian 1)\n\
                          -- Dumped by pg_dump version 16.1\nSET client_encoding = 'UTF8';\n";
const END: &str = "--\n-- PostgreSQL database dump complete\n--\n";

fn read(text: &str) -> Result<Contents, Flaw> {
    let mut reader = Reader::default();
    reader.feed(text.as_bytes())?;
    reader.finish()
}

#[test]
fn tables_rows_and_versions_are_known_after_one_pass() {
    let body = "CREATE EXTENSION IF NOT EXISTS cube WITH SCHEMA public;\nCREATE TABLE public.\"a.b\" (id int);\n\
                COPY public.\"a.b\" (id) FROM stdin;\n1\n2\n\\.\nCOPY public.schema_migrations (version, inserted_at) \
                FROM stdin;\n20200101000000\tx\n20260808090000\ty\n\\.\n";
    let contents = read(&format!("{HEADER}{body}{END}")).unwrap();
    let name = |name: &str| TableName { schema: "public".into(), name: name.into() };
    assert_eq!(contents.rows, BTreeMap::from([(name("a.b"), 2), (name("schema_migrations"), 2)]));
    assert_eq!(contents.created, BTreeSet::from([name("a.b")]));
    let cube = Extension { name: "cube".into(), schema: Some("public".into()) };
    assert_eq!(contents.extensions, [cube]);
    assert_eq!(contents.newest_migration, Some(20_260_808_090_000));
    assert_eq!((contents.server_version, contents.dump_version), (Some(150_018), Some(160_001)));
}

#[test]
fn the_hash_of_the_definitions_is_that_of_the_definitions_alone() {
    let dump = |table: &str, rows: &str, value: u32| {
        let body = format!(
            "CREATE TABLE public.t ({table});\nCOPY public.t (id) FROM stdin;\n{rows}\\.\n\
             SELECT pg_catalog.setval('public.s', {value}, true);\nSELECT pg_catalog.lo_create('{value}');\n"
        );
        read(&format!("{HEADER}{body}{END}")).unwrap().definitions
    };
    assert_eq!(dump("id int", "1\n", 1), dump("id int", "2\n3\n", 4));
    assert_ne!(dump("id int", "1\n", 1), dump("id bigint", "1\n", 1));
    assert_eq!(dump("id int", "", 1).len(), 64);
}

#[test]
fn old_dumps_name_the_schema_once() {
    let body = "SET search_path = private, pg_catalog;\nCOPY tokens (id) FROM stdin;\n\\.\n";
    let contents = read(&format!("{HEADER}{body}{END}")).unwrap();
    assert_eq!(contents.rows.keys().next().unwrap().to_string(), "private.tokens");
}

#[test]
fn a_dump_without_its_end_was_cut() {
    let flaw = read(HEADER).unwrap_err();
    assert!(flaw.damaged && flaw.what.contains("end marker"), "{flaw:?}");
    let flaw = read(&format!("\\restrict a\n{HEADER}{END}\\unrestrict b\n")).unwrap_err();
    assert!(flaw.what.contains("unrestrict"), "{flaw:?}");
    assert!(read(&format!("\\restrict a\n{HEADER}{END}\\unrestrict a\n")).is_ok());
}

#[test]
fn what_is_no_dump_of_one_database_is_named() {
    let refused = |text: &str| read(text).unwrap_err().what;
    assert!(refused("--\n-- PostgreSQL database cluster dump\n--\n").contains("pg_dumpall"));
    assert!(refused("hello world;\n").contains("header is missing"));
    assert!(
        refused(&format!("{HEADER}COPY t (a, b) FROM stdin;\n1\t2\npg_dump: last built-in OID\n\\.\n{END}"))
            .starts_with("is not a row")
    );
}

#[test]
fn r51_a_second_connect_is_not_trusted() {
    let body = "CREATE DATABASE teslamate;\n\\connect teslamate\n";
    assert!(read(&format!("{HEADER}{body}{END}")).unwrap().untrusted.is_empty());
    let contents = read(&format!("{HEADER}{body}\\connect postgres\n{END}")).unwrap();
    assert_eq!(contents.untrusted.len(), 1);
    assert_eq!(read(&format!("{HEADER}\\! id\n{END}")).unwrap().untrusted.len(), 1);
}
