//! What a dump holds, and whether it is whole: one pass over its text, before anything is done with it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::database;
use super::rules::{self, Disposition, RoleUse, Skipped};
use super::scan::{Scanner, Statement, Visitor};
use super::text::Flaw;
use crate::database::Properties;
use crate::database::tools::parse_version;

/// A table's name with its schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The name in it.
    pub name: String,
}

impl TableName {
    /// Whether somebody who says `name`, or `schema.name`, means this one.
    #[must_use]
    pub fn is_called(&self, words: &str) -> bool {
        words == self.name || words == self.to_string()
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.schema, self.name)
    }
}

impl Serialize for TableName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A partition that is attached to its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The partitioned table.
    pub parent: TableName,
    /// The partition, which may be partitioned itself.
    pub child: TableName,
    /// `FOR VALUES …` or `DEFAULT`.
    pub bounds: String,
}

/// What a dump holds.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The version of the server that was dumped, as `server_version_num` counts.
    pub server_version: Option<u32>,
    /// The version of the `pg_dump` that wrote it.
    pub dump_version: Option<u32>,
    /// `client_encoding`.
    pub encoding: Option<String>,
    /// The tables whose definition it holds.
    pub created: BTreeSet<TableName>,
    /// The partitions that it attaches, in its order.
    pub partitions: Vec<Partition>,
    /// Tables that inherit, each with the first table that it inherits from.
    pub children: Vec<(TableName, TableName)>,
    /// The rows of each table whose rows it holds.
    pub rows: BTreeMap<TableName, u64>,
    /// The extensions that it makes, in its order.
    pub extensions: Vec<Extension>,
    /// The roles that must exist, and why.
    pub roles: BTreeSet<(RoleUse, String)>,
    /// The tablespaces that it names.
    pub tablespaces: BTreeSet<String>,
    /// The subscriptions that it makes.
    pub subscriptions: Vec<String>,
    /// The schemas that it makes.
    pub schemas: BTreeSet<String>,
    /// It makes the schema `public`, as `pg_dump --schema=public` does.
    pub makes_public: bool,
    /// The owner that it gives the schema `public`.
    pub public_owner: Option<String>,
    /// The objects that it makes, by their names alone.
    pub objects: BTreeSet<TableName>,
    /// The objects that it fills, sets or grants rights on.
    pub used: BTreeSet<TableName>,
    /// The newest version in `schema_migrations`.
    pub newest_migration: Option<i64>,
    /// What it says of the database itself: in SQL text with `--create`, in archives always.
    pub database: Option<Properties>,
    /// Large objects.
    pub large_objects: u64,
    /// Bytes of text.
    pub bytes: u64,
    /// SHA-256 of its definitions alone, 64 hex digits: the same for two dumps of one schema, whatever its rows, the
    /// values of its sequences and its large objects.
    pub definitions: String,
    /// Statements that `pg_dump` never writes: let pass with `--trust-dump`.
    pub untrusted: Vec<Flaw>,
    /// Statements that give the dump the rights of the server's account: let pass with `--trust-dump`, and in a backup
    /// of our own.
    pub as_server: Vec<Flaw>,
}

/// An extension that a dump makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// The schema that its objects go into.
    pub schema: Option<String>,
}

impl Contents {
    /// All rows of all tables.
    #[must_use]
    pub fn total_rows(&self) -> u64 {
        self.rows.values().sum()
    }

    /// The tables whose definition or rows it holds.
    pub fn tables(&self) -> impl Iterator<Item = &TableName> {
        self.created.iter().chain(self.rows.keys())
    }

    /// What it fills, sets or grants rights on and does not make: that belongs to an extension.
    pub fn of_extensions(&self) -> impl Iterator<Item = &TableName> {
        let public = TableName { schema: "public".into(), name: String::new() };
        self.used.iter().chain(self.rows.keys()).filter(move |name| !self.objects.contains(name) && **name != public)
    }

    /// Whether it holds a definition or rows of a table of this name, in any schema.
    #[must_use]
    pub fn has_table(&self, name: &str) -> bool {
        self.tables().any(|table| table.name == name)
    }
}

/// Reads a dump's text in pieces.
#[derive(Debug, Default)]
pub struct Reader {
    scanner: Scanner,
    judge: Judge,
}

impl Reader {
    /// Reads the next piece.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), Flaw> {
        self.judge.contents.bytes += piece.len() as u64;
        self.scanner.feed(piece, &mut self.judge)
    }

    /// The rows so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.judge.contents.total_rows() + self.judge.rows_at_hand
    }

    /// The table whose rows are being read.
    #[must_use]
    pub fn table(&self) -> Option<&TableName> {
        self.judge.copying.as_ref()
    }

    /// The end of the text: it must be whole.
    pub fn finish(mut self) -> Result<Contents, Flaw> {
        let scanned = self.scanner.finish(&mut self.judge);
        let mut judge = self.judge;
        judge.contents.definitions = crate::dump::hex(std::mem::take(&mut judge.definitions));
        let last = judge.last_line;
        if !judge.is_dump {
            return Err(Flaw::foreign(1, "is not the begin of a dump: pg_dump's header is missing"));
        }
        scanned?;
        if !judge.is_complete {
            return Err(Flaw::damaged(last, "is the last one: the end marker of pg_dump is missing, the file was cut"));
        }
        if judge.restricted.is_some() {
            return Err(Flaw::damaged(last, "is the last one: `\\unrestrict` is missing, the file was cut"));
        }
        Ok(judge.contents)
    }
}

#[derive(Debug, Default)]
struct Judge {
    contents: Contents,
    is_dump: bool,
    is_complete: bool,
    restricted: Option<String>,
    /// `CREATE DATABASE` was the last statement but settings: a `\connect` may follow.
    may_connect: bool,
    search_path: Option<String>,
    copying: Option<TableName>,
    rows_at_hand: u64,
    columns: usize,
    captured: Option<(usize, Vec<u8>)>,
    definitions: Sha256,
    last_line: u64,
}

/// Versions are times of 14 digits. TeslaMate once had one of 15, which would be newer than all others for ever.
const MIGRATION_LIMIT: i64 = 100_000_000_000_000;

/// More migrations than any application has.
const CAPTURE_LIMIT: usize = 4 << 20;

impl Visitor for Judge {
    fn statement(&mut self, statement: &Statement<'_>) -> Result<(), Flaw> {
        self.last_line = statement.line;
        if !self.is_dump {
            return Err(Flaw::foreign(statement.line, "is not the begin of a dump: pg_dump's header is missing"));
        }
        if self.is_complete {
            return Err(Flaw::foreign(statement.line, "comes after the end of the dump"));
        }
        match rules::disposition(statement) {
            Disposition::Keep => {
                if rules::defines(statement) {
                    self.definitions.update(statement.text);
                }
                self.learn(statement)
            }
            Disposition::Skip(Skipped::Database) => {
                self.may_connect = true;
                let text = self.decode(statement.text);
                database::learn(&mut self.contents.database, &text);
                Ok(())
            }
            Disposition::Skip(Skipped::PublicSchema) => {
                self.contents.makes_public = true;
                Ok(())
            }
            Disposition::Skip(_) => Ok(()),
            Disposition::Distrust(what) => {
                self.contents.as_server.push(Flaw::foreign(statement.line, what));
                self.definitions.update(statement.text);
                self.learn(statement)
            }
            Disposition::Refuse(what) => {
                self.contents.untrusted.push(Flaw::foreign(statement.line, what));
                Ok(())
            }
        }
    }

    fn comment(&mut self, text: &str, line: u64) -> Result<(), Flaw> {
        self.last_line = line;
        match text {
            "PostgreSQL database dump" => self.is_dump = true,
            "PostgreSQL database dump complete" => self.is_complete = true,
            "PostgreSQL database cluster dump" => {
                return Err(Flaw::foreign(line, "begins a dump of all databases, made by pg_dumpall"));
            }
            _ => {
                if let Some(version) = text.strip_prefix("Dumped from database version ") {
                    self.contents.server_version = parse_version(version);
                } else if let Some(version) = text.strip_prefix("Dumped by pg_dump version ") {
                    self.contents.dump_version = parse_version(version);
                }
            }
        }
        Ok(())
    }

    fn meta(&mut self, text: &str, line: u64) -> Result<(), Flaw> {
        self.last_line = line;
        let (command, argument) = text.split_once(' ').unwrap_or((text, ""));
        match command {
            "\\restrict" => self.restricted = Some(argument.to_owned()),
            "\\unrestrict" if self.restricted.as_deref() == Some(argument) => self.restricted = None,
            // A dump made with --create connects to what it has just made; anything else would be another database.
            "\\connect" if self.may_connect => self.may_connect = false,
            // Comes before it where the name has characters that pg_dump quotes; the text itself stays what it was.
            "\\encoding" if self.may_connect && argument == "SQL_ASCII" => {}
            _ => {
                let what = format!("holds the meta-command {command}, which a dump of one database does not have");
                self.contents.untrusted.push(Flaw::foreign(line, what));
            }
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8], line: u64) -> Result<(), Flaw> {
        if let Some((_, captured)) = &mut self.captured
            && captured.len() + bytes.len() <= CAPTURE_LIMIT
        {
            captured.extend_from_slice(bytes);
        }
        // A program's message in the wrong stream: found here by name, since the server would only count columns.
        if self.columns > 1 {
            for at in memchr::memmem::find_iter(bytes, b"pg_dump: ") {
                let starts_line = at == 0 || bytes[at - 1] == b'\n';
                let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |end| at + end);
                if starts_line && !bytes[at..end].contains(&b'\t') {
                    let line = line + memchr::memchr_iter(b'\n', &bytes[..at]).count() as u64;
                    return Err(Flaw::foreign(line, "is not a row: it is a message of pg_dump"));
                }
            }
        }
        self.rows_at_hand += memchr::memchr_iter(b'\n', bytes).count() as u64;
        Ok(())
    }

    fn data_end(&mut self, rows: u64) -> Result<(), Flaw> {
        self.rows_at_hand = 0;
        if let Some(table) = self.copying.take() {
            *self.contents.rows.entry(table).or_default() += rows;
        }
        if let Some((column, captured)) = self.captured.take() {
            let newest = captured
                .split(|byte| *byte == b'\n')
                .filter_map(|row| std::str::from_utf8(row.split(|byte| *byte == b'\t').nth(column)?).ok()?.parse().ok())
                .filter(|version| *version < MIGRATION_LIMIT)
                .max();
            self.contents.newest_migration = self.contents.newest_migration.max(newest);
        }
        Ok(())
    }
}

impl Judge {
    /// A statement as text. Of other encodings than UTF-8 one is known in which every byte is a character of that number.
    fn decode<'a>(&self, text: &'a [u8]) -> Cow<'a, str> {
        match self.contents.encoding.as_deref() {
            Some("LATIN1") => text.iter().map(|byte| char::from(*byte)).collect::<String>().into(),
            _ => String::from_utf8_lossy(text),
        }
    }

    /// Takes from a statement what a restore has to know beforehand.
    fn learn(&mut self, statement: &Statement<'_>) -> Result<(), Flaw> {
        self.contents.roles.extend(rules::roles(statement));
        self.contents.tablespaces.extend(rules::tablespace(statement));
        let text = String::from_utf8_lossy(&statement.text[..statement.text.len().min(4096)]);
        self.learn_objects(statement, &text);
        if let Some(encoding) = statement.encoding() {
            if encoding == "SQL_ASCII" {
                let what = "says that its encoding is not known (SQL_ASCII): characters would be changed in silence";
                return Err(Flaw::foreign(statement.line, what));
            }
            self.contents.encoding = Some(encoding.into_owned());
        } else if statement.begins(&["SET", "SEARCH_PATH"]) {
            self.search_path = text.split_once('=').map(|(_, path)| names(path)).and_then(|mut path| path.pop());
        } else if statement.begins(&["CREATE", "EXTENSION"]) {
            let after = text.split_once("EXISTS").map_or_else(|| text.splitn(3, ' ').nth(2), |(_, name)| Some(name));
            let schema = text.split_once(" SCHEMA ").and_then(|(_, name)| names(name).pop());
            let made = after.and_then(|name| names(name).pop()).map(|name| Extension { name, schema });
            self.contents.extensions.extend(made);
        } else if statement.begins(&["CREATE"]) && statement.words.iter().take(3).any(|word| word == "TABLE") {
            if let Some((_, name)) = text.split_once("TABLE ") {
                let name = name.strip_prefix("IF NOT EXISTS ").unwrap_or(name);
                let name = self.table_name(name);
                let whole = String::from_utf8_lossy(statement.text);
                if let Some((_, parents)) = whole.rsplit_once("\nINHERITS (") {
                    self.contents.children.push((name.clone(), self.table_name(parents)));
                }
                self.contents.created.insert(name);
            }
        } else if statement.begins(&["ALTER", "TABLE"]) {
            self.contents.partitions.extend(self.partition(&String::from_utf8_lossy(statement.text)));
        } else if statement.begins(&["COPY"]) {
            let table = self.table_name(&text["COPY ".len()..]);
            self.captured = captured_column(&table, &text).map(|column| (column, Vec::new()));
            self.columns = text.split_once('(').map_or(0, |(_, columns)| columns.split(',').count());
            // A table without rows is in the dump too.
            self.contents.rows.entry(table.clone()).or_default();
            self.copying = Some(table);
        } else if statement.begins(&["INSERT", "INTO"]) {
            let table = self.table_name(&text["INSERT INTO ".len()..]);
            *self.contents.rows.entry(table).or_default() += statement.groups.max(1);
        } else if statement.begins(&["SELECT", "PG_CATALOG", "LO_CREATE"]) {
            self.contents.large_objects += 1;
        }
        Ok(())
    }

    /// Which objects it makes, and which it only uses.
    fn learn_objects(&mut self, statement: &Statement<'_>, text: &str) {
        let word = |at: usize| statement.words.get(at).map(|word| rules::name_of(word)).unwrap_or_default();
        if statement.begins(&["CREATE", "SCHEMA"]) {
            self.contents.schemas.insert(word(2));
            self.contents.objects.insert(TableName { schema: word(2), name: String::new() });
        } else if statement.begins(&["CREATE", "SUBSCRIPTION"]) {
            self.contents.subscriptions.push(word(2));
        } else if statement.begins(&["ALTER", "SCHEMA", "PUBLIC", "OWNER", "TO"]) {
            self.contents.public_owner = Some(word(5));
        } else if statement.begins(&["CREATE"]) {
            self.contents.objects.extend(made_object(text).map(|name| self.table_name(name)));
        } else {
            self.contents.used.extend(used_object(statement, text));
        }
    }

    /// `ALTER TABLE ONLY public.m ATTACH PARTITION public.m1 FOR VALUES FROM (1) TO (2);`
    fn partition(&self, text: &str) -> Option<Partition> {
        let (parent, child) = text.split_once(" ATTACH PARTITION ")?;
        let parent = parent.strip_prefix("ALTER TABLE ")?;
        let at = child.find(" FOR VALUES ").or_else(|| child.rfind(" DEFAULT"))?;
        Some(Partition {
            parent: self.table_name(parent.strip_prefix("ONLY ").unwrap_or(parent)),
            child: self.table_name(child),
            bounds: child[at..].trim().trim_end_matches(';').to_owned(),
        })
    }

    fn table_name(&self, text: &str) -> TableName {
        let mut parts = names(text);
        let first = parts.pop().unwrap_or_default();
        match parts.pop() {
            Some(name) => TableName { schema: first, name },
            None => TableName { schema: self.search_path.clone().unwrap_or_else(|| "public".into()), name: first },
        }
    }
}

/// The name in a CREATE of something that rights can be given on, and what follows it.
fn made_object(text: &str) -> Option<&str> {
    const KINDS: [&str; 9] =
        ["TABLE ", "VIEW ", "SEQUENCE ", "FUNCTION ", "PROCEDURE ", "AGGREGATE ", "TYPE ", "DOMAIN ", "RULE "];
    let begin = &text[..text.floor_char_boundary(60)];
    let (at, kind) = KINDS.iter().filter_map(|kind| Some((begin.find(kind)?, kind))).min()?;
    let name = &text[at + kind.len()..];
    Some(name.strip_prefix("IF NOT EXISTS ").unwrap_or(name))
}

/// The table, function or other object that a GRANT, a REVOKE or `setval` concerns; a schema has an empty name in itself.
#[must_use]
pub fn used_object(statement: &Statement<'_>, text: &str) -> Option<TableName> {
    if statement.begins(&["GRANT"]) || statement.begins(&["REVOKE"]) {
        let (_, object) = text.split_once(" ON ")?;
        let (kind, name) = object.split_once(' ')?;
        return match kind {
            "SCHEMA" => Some(TableName { schema: names(name).pop()?, name: String::new() }),
            "TABLE" | "SEQUENCE" | "FUNCTION" | "PROCEDURE" | "TYPE" => Some(qualified(name)),
            _ => None,
        };
    }
    if statement.begins(&["SELECT", "PG_CATALOG", "SETVAL"]) {
        return text.split('\'').nth(1).map(qualified);
    }
    None
}

/// The name at the begin of a text, with its schema where there is one.
#[must_use]
pub fn qualified(text: &str) -> TableName {
    let mut parts = names(text);
    let first = parts.pop().unwrap_or_default();
    match parts.pop() {
        Some(name) => TableName { schema: first, name },
        None => TableName { schema: "public".into(), name: first },
    }
}

/// The column of `version` in the rows of the application's migrations. Another table of this name, in another schema or
/// with other columns, is not the one that is meant.
fn captured_column(table: &TableName, copy: &str) -> Option<usize> {
    if table.schema != "public" || table.name != "schema_migrations" {
        return None;
    }
    let (columns, _) = copy.split_once('(')?.1.split_once(')')?;
    columns.split(',').position(|column| column.trim() == "version")
}

/// The names at the begin of a text that are joined by dots, the last one first.
fn names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = text.trim_start();
    loop {
        let (name, after) = if let Some(quoted) = rest.strip_prefix('"') {
            let mut name = String::new();
            let mut characters = quoted.char_indices().peekable();
            let mut end = quoted.len();
            while let Some((at, character)) = characters.next() {
                if character != '"' {
                    name.push(character);
                } else if characters.next_if(|(_, next)| *next == '"').is_some() {
                    name.push('"');
                } else {
                    end = at + 1;
                    break;
                }
            }
            (name, &quoted[end..])
        } else {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        };
        names.insert(0, name);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None => return names,
        }
    }
}

#[cfg(test)]
mod tests {
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
        assert!(refused(&format!("{HEADER}SET client_encoding = 'SQL_ASCII';\n{END}")).contains("SQL_ASCII"));
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
}
