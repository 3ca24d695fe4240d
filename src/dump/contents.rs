//! Contents of a dump: its tables, rows, extensions, roles and other facts that a restore has to know beforehand.
//!
//! [`Reader`] collects them in one pass over the text, and fails on a dump that is incomplete.

mod messages;
mod names;
mod needs;
mod reader;
mod reserved;
mod spelling;

use std::collections::{BTreeMap, BTreeSet};

use super::rules::RoleUse;
use super::text::Flaw;
use crate::database::Properties;

pub use names::{TableName, qualified, used_object};
pub use needs::Need;
pub use reader::Reader;
pub use reserved::Right;
pub use spelling::Spelling;

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

/// Contents of a dump.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The version of the server that was dumped, as `server_version_num` counts.
    pub server_version: Option<u32>,
    /// The version of the `pg_dump` that wrote it.
    pub dump_version: Option<u32>,
    /// `client_encoding`.
    pub encoding: Option<String>,
    /// The first line that is not UTF-8, where the encoding is not known (`SQL_ASCII`).
    pub not_utf8: Option<u64>,
    /// The tables whose definition it holds.
    pub created: BTreeSet<TableName>,
    /// The views that it makes, materialized ones too.
    pub views: BTreeSet<TableName>,
    /// Those of them that are materialized.
    pub materialized: BTreeSet<TableName>,
    /// The values of its sequences.
    pub sequences: BTreeMap<TableName, SequenceValue>,
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
    /// The types, languages and the like that its definitions name.
    pub needs: BTreeSet<Need>,
    /// The languages and foreign-data wrappers that it makes.
    pub made: BTreeSet<Need>,
    /// The statements that take a right which the owner of a database does not have, by their begin.
    pub reserved: BTreeSet<(Right, String)>,
    /// The newest version in `schema_migrations`.
    pub newest_migration: Option<i64>,
    /// Properties of the database itself: in SQL text with `--create`, in archives always.
    pub database: Option<Properties>,
    /// Statistics of tables and columns.
    pub statistics: u64,
    /// Large objects.
    pub large_objects: u64,
    /// Bytes of text.
    pub bytes: u64,
    /// SHA-256 of its definitions alone, 64 hex digits: the same for two dumps of one schema, whatever its rows, the
    /// values of its sequences and its large objects.
    pub definitions: String,
    /// Characters of its names that the server converted.
    pub spelling: Spelling,
    /// Statements that `pg_dump` never writes: let pass with `--trust-dump`.
    pub untrusted: Vec<Flaw>,
    /// Statements that give the dump the rights of the server's account: let pass with `--trust-dump`, and in a backup
    /// of our own.
    pub as_server: Vec<Flaw>,
}

/// The value that a dump gives a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceValue {
    /// `last_value`
    pub last: i64,
    /// Somebody has got it already.
    pub is_called: bool,
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

    /// Objects that it fills, sets or grants rights on but does not create: they belong to an extension.
    pub fn of_extensions(&self) -> impl Iterator<Item = &TableName> {
        let public = TableName { schema: "public".into(), name: String::new() };
        self.used.iter().chain(self.rows.keys()).filter(move |name| !self.objects.contains(name) && **name != public)
    }

    /// Objects that its definitions and rows need and that it does not make.
    pub fn unmade(&self) -> impl Iterator<Item = Need> {
        let is_made = |need: &Need| match need {
            Need::Type(name) | Need::Table(name) | Need::Function(name) => self.objects.contains(name),
            Need::Language(_) | Need::Wrapper(_) => self.made.contains(need),
        };
        let rows = self.rows.keys().filter(|table| !self.created.contains(table)).cloned().map(Need::Table);
        self.needs.iter().cloned().chain(rows).filter(move |need| !is_made(need))
    }

    /// Whether it holds statistics of tables and nothing else, as `pg_dump --statistics-only` writes.
    #[must_use]
    pub fn is_statistics_only(&self) -> bool {
        self.statistics > 0 && self.objects.is_empty() && self.created.is_empty() && self.rows.is_empty()
    }

    /// The view that somebody means who says `words`, as `public.v is a view`.
    #[must_use]
    pub fn view_called(&self, words: &str) -> Option<String> {
        let view = self.views.iter().find(|view| view.is_called(words))?;
        let kind = if self.materialized.contains(view) { "a materialized view" } else { "a view" };
        Some(format!("{view} is {kind}"))
    }

    /// Whether it holds a definition or rows of a table of this name, in any schema.
    #[must_use]
    pub fn has_table(&self, name: &str) -> bool {
        self.tables().any(|table| table.name == name)
    }
}
