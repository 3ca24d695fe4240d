//! Reads the text of a dump in one pass, and collects what a restore has to know of it.

use sha2::{Digest, Sha256};

use super::messages::Messages;
use super::names::{made_object, names, sequence_value, used_object};
use super::needs::{made, needed};
use super::reserved;
use super::{Contents, Extension, Partition, TableName};
use crate::database::tools::parse_version;
use crate::dump::database;
use crate::dump::rules::{self, Disposition, Rules, Skipped};
use crate::dump::scan::{Scanner, Statement, Visitor};
use crate::dump::text::Flaw;

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

    /// Ends the text, which must be complete.
    pub fn finish(mut self) -> Result<Contents, Flaw> {
        let scanned = self.scanner.finish(&mut self.judge);
        let not_utf8 = self.scanner.not_utf8();
        let mut judge = self.judge;
        judge.contents.not_utf8 = not_utf8;
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
    rules: Rules,
    is_dump: bool,
    is_complete: bool,
    restricted: Option<String>,
    /// `CREATE DATABASE` was the last statement but settings: a `\connect` may follow.
    may_connect: bool,
    search_path: Option<String>,
    copying: Option<TableName>,
    rows_at_hand: u64,
    columns: usize,
    messages: Messages,
    captured: Option<(usize, Vec<u8>)>,
    definitions: Sha256,
    last_line: u64,
}

/// Versions are times of 14 digits. TeslaMate once had one of 15, which would be newer than all others for ever.
const MIGRATION_LIMIT: i64 = 100_000_000_000_000;

/// Flaws that are remembered of each kind.
const FLAWS: usize = 100;

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
        match self.rules.disposition(statement) {
            Disposition::Keep => {
                if rules::defines(statement) {
                    self.definitions.update(statement.text);
                }
                self.learn(statement);
                // Who gives the privileges on the database that come next.
                if statement.words.get(1..3).is_some_and(|words| words == ["SESSION", "AUTHORIZATION"]) {
                    database::learn(&mut self.contents.database, statement);
                }
                Ok(())
            }
            Disposition::Skip(Skipped::Database) => {
                self.may_connect = true;
                database::learn(&mut self.contents.database, statement);
                Ok(())
            }
            Disposition::Skip(Skipped::PublicSchema) => {
                self.contents.makes_public = true;
                Ok(())
            }
            Disposition::Skip(_) => Ok(()),
            Disposition::Distrust(what) => {
                note(&mut self.contents.as_server, statement.line, what);
                self.definitions.update(statement.text);
                self.learn(statement);
                Ok(())
            }
            Disposition::Refuse(what) => {
                note(&mut self.contents.untrusted, statement.line, what);
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
                note(&mut self.contents.untrusted, line, what);
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
        if self.columns > 1
            && let Some(line) = self.messages.find(bytes, line)
        {
            return Err(Flaw::foreign(line, "is not a row: it is a message of pg_dump"));
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

/// Notes what has no place in a dump. More than a few tell nobody more.
fn note(flaws: &mut Vec<Flaw>, line: u64, what: String) {
    if flaws.len() < FLAWS {
        flaws.push(Flaw::foreign(line, what));
    }
}

impl Judge {
    /// Takes from a statement what a restore has to know beforehand.
    fn learn(&mut self, statement: &Statement<'_>) {
        self.contents.roles.extend(rules::roles(statement));
        self.contents.tablespaces.extend(rules::tablespace(statement));
        let text = statement.head(4096);
        self.learn_objects(statement, &text);
        if let Some(encoding) = statement.encoding() {
            self.contents.encoding = Some(encoding);
        } else if statement.begins(&["SET", "SEARCH_PATH"]) {
            self.search_path = text.split_once('=').map(|(_, path)| names(path)).and_then(|mut path| path.pop());
        } else if statement.begins(&["CREATE", "EXTENSION"]) {
            self.contents.extensions.extend(extension(statement));
        } else if statement.begins(&["CREATE"]) && statement.words.iter().take(3).any(|word| word == "TABLE") {
            if let Some((_, name)) = text.split_once("TABLE ") {
                let name = name.strip_prefix("IF NOT EXISTS ").unwrap_or(name);
                let name = self.table_name(name);
                let whole = statement.decoded();
                if let Some((_, parents)) = whole.rsplit_once("\nINHERITS (") {
                    self.contents.children.push((name.clone(), self.table_name(parents)));
                }
                self.contents.created.insert(name);
            }
        } else if statement.begins(&["ALTER", "TABLE"]) && statement.has(&["ATTACH", "PARTITION"]) {
            self.contents.partitions.extend(self.partition(&statement.decoded()));
        } else if statement.begins(&["COPY"]) {
            let table = self.table_name(&text["COPY ".len()..]);
            self.captured = captured_column(&table, &text).map(|column| (column, Vec::new()));
            self.columns = text.split_once('(').map_or(0, |(_, columns)| columns.split(',').count());
            self.messages = Messages::default();
            // A table without rows is in the dump too.
            self.contents.rows.entry(table.clone()).or_default();
            self.copying = Some(table);
        } else if statement.begins(&["INSERT", "INTO"]) {
            let table = self.table_name(&text["INSERT INTO ".len()..]);
            *self.contents.rows.entry(table).or_default() += statement.groups.max(1);
        } else if statement.begins(&["SELECT", "FROM", "PG_CATALOG"]) {
            self.contents.statistics += 1;
        } else if statement.begins(&["SELECT", "PG_CATALOG", "LO_CREATE"]) {
            self.contents.large_objects += 1;
        }
    }

    /// Which objects it makes, and which it only uses.
    fn learn_objects(&mut self, statement: &Statement<'_>, text: &str) {
        self.contents.needs.extend(needed(statement));
        self.contents.made.extend(made(statement));
        let rights = reserved::reserved(statement).into_iter();
        self.contents.reserved.extend(rights.map(|right| (right, reserved::shown(statement))));
        let word = |at: usize| statement.words.get(at).map(|word| rules::name_of(word)).unwrap_or_default();
        if statement.begins(&["CREATE", "SCHEMA"]) {
            self.contents.schemas.insert(word(2));
            self.contents.objects.insert(TableName { schema: word(2), name: String::new() });
        } else if statement.begins(&["CREATE", "SUBSCRIPTION"]) {
            self.contents.subscriptions.push(word(2));
        } else if statement.begins(&["ALTER", "SCHEMA"]) && word(2) == "public" {
            if let ["ALTER", "SCHEMA", _, "OWNER", "TO", owner] = statement.outline().as_slice() {
                self.contents.public_owner = Some(rules::name_of(owner));
            }
        } else if statement.begins(&["CREATE"]) {
            self.contents.objects.extend(made_object(text).map(|name| self.table_name(name)));
            let view = ["CREATE VIEW ", "CREATE MATERIALIZED VIEW "].iter().find_map(|begin| text.strip_prefix(begin));
            self.contents.views.extend(view.map(|name| self.table_name(name)));
            let materialized = text.strip_prefix("CREATE MATERIALIZED VIEW ");
            self.contents.materialized.extend(materialized.map(|name| self.table_name(name)));
            // A range makes a second type.
            let second = text.split_once("multirange_type_name = ").map(|(_, name)| self.table_name(name));
            self.contents.objects.extend(second);
        } else if statement.begins(&["ALTER", "TABLE"]) {
            // The sequence of an identity column.
            let sequence = text.split_once(" SEQUENCE NAME ").or_else(|| text.split_once("\n    SEQUENCE NAME "));
            self.contents.objects.extend(sequence.map(|(_, name)| self.table_name(name)));
        } else {
            self.contents.used.extend(used_object(statement, text));
            if statement.begins(&["SELECT", "PG_CATALOG", "SETVAL"]) {
                self.contents.sequences.extend(sequence_value(text));
            }
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

/// `CREATE EXTENSION IF NOT EXISTS cube WITH SCHEMA public;`
fn extension(statement: &Statement<'_>) -> Option<Extension> {
    let (name, rest) = match statement.outline.get(2..)? {
        [first, not, exists, name, rest @ ..] if first == "IF" && not == "NOT" && exists == "EXISTS" => (name, rest),
        [name, rest @ ..] => (name, rest),
        [] => return None,
    };
    let schema = rest.windows(2).find(|pair| pair[0] == "SCHEMA").map(|pair| rules::name_of(&pair[1]));
    Some(Extension { name: rules::name_of(name), schema })
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

#[cfg(test)]
mod tests;
