//! Compares the definitions that a snapshot sees with those of now.
//!
//! A snapshot covers rows and catalogs. It does not cover how the server reads a name, how it writes the label of an enum, and what
//! functions such as `pg_get_viewdef` show: these use the definitions of the moment. So the definitions are compared when all locks are
//! held, when `pg_dump` has read them, and after the last row. Only objects that the snapshot sees matter: what others create meanwhile does
//! not, and neither do privileges, owners, statistics, and new labels of an enum.
//!
//! A name that was changed and changed back shows in the versions of the catalogue's row alone. If the transaction that ended the version that the snapshot
//! sees is the one that wrote the version of now, no version between them was ever seen by anybody. Otherwise the name may have been another one.

mod queries;

use std::collections::{HashMap, HashSet};

use tokio_postgres::Client;

use self::queries::{FUNCTION_MARK, OBJECTS, READABLE, ROLES, SHOWS_NAMES};
use super::snapshot::Snapshot;
use crate::database::Connector;
use crate::database::connect::QueryContext;
use crate::error::{Error, Kind, Result};

/// The line of an error that names the objects that were altered.
const CHANGED: &str = "changed";

/// So many objects are named in an error.
const NAMED: usize = 8;

/// Set of objects that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything that `pg_dump` reads.
    Definitions,
    /// Objects that decide which rows are read, and how they are written.
    Rows,
}

/// An object that is other than the snapshot sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The relation that it is, or belongs to: schema and name.
    pub relation: Option<(String, String)>,
    /// It exists no longer.
    pub is_gone: bool,
    /// It is harmless almost always, and may happen all the time.
    pub is_minor: bool,
    /// The object as a person calls it, and what happened to it.
    pub what: String,
}

/// The definitions that a snapshot sees.
#[derive(Debug)]
pub struct Seen {
    objects: HashMap<Key, Object>,
    /// A column of a table shows names, as `regclass` does.
    shows_names: bool,
}

type Key = (String, u32);

#[derive(Debug)]
struct Object {
    schema: Option<String>,
    relation: Option<String>,
    name: String,
    state: String,
    /// The transaction that wrote the name.
    mark: Option<String>,
    /// A change of the name is harmless almost always.
    is_minor: bool,
}

impl Seen {
    /// Reads the definitions that a snapshot sees.
    pub async fn read(snapshot: &Snapshot) -> Result<Self> {
        let client = snapshot.client();
        let row = client.query_one(SHOWS_NAMES, &[]).await.query_context("cannot read the catalogue")?;
        let shows_names = row.get(0);
        let objects = objects(client, Scope::Definitions, shows_names, Writer::First).await?;
        Ok(Self { objects, shows_names })
    }

    /// Compares them with those of now, in a session of its own. The last attempt puts up with what is minor: it does not end.
    /// The session of the snapshot must be idle.
    ///
    /// # Errors
    /// [`Kind::Source`] naming what was altered: see [`is_change`].
    pub async fn compare(&self, snapshot: &Snapshot, connector: &Connector, scope: Scope, is_last: bool) -> Result<()> {
        altered(&self.changes(snapshot, connector, scope, is_last).await?)
    }

    /// The objects that are not as the snapshot sees them.
    pub async fn changes(
        &self,
        snapshot: &Snapshot,
        connector: &Connector,
        scope: Scope,
        is_last: bool,
    ) -> Result<Vec<Change>> {
        let client = connector.connect().await?;
        let now = objects(&client, scope, self.shows_names, Writer::First).await?;
        let mut changes = self.differences(&now, scope);
        let mut written = self.written(&now, scope);
        if !written.is_empty() {
            // After `now` was read: whoever ended a row by then is known.
            let ended = objects(snapshot.client(), scope, self.shows_names, Writer::Next).await?;
            written.retain(|(key, _)| !was_written_once(&now[key], ended.get(key)));
        }
        changes.extend(written.into_iter().map(|(_, change)| change));
        changes.retain(|change| !(is_last && change.is_minor));
        changes.sort_by(|left, right| left.what.cmp(&right.what));
        Ok(changes)
    }

    fn differences(&self, now: &HashMap<Key, Object>, scope: Scope) -> Vec<Change> {
        let names: HashSet<_> = now.iter().map(|((class, _), object)| (class, &object.schema, &object.name)).collect();
        // Of what is compared for the rows, some may be gone without harm, unless its name is somebody else's now.
        let gone_matters = |class: &String, object: &Object| {
            scope == Scope::Definitions
                || self.shows_names
                || class == "table"
                || names.contains(&(class, &object.schema, &object.name))
        };
        let mut changes = Vec::new();
        for (key, object) in &self.objects {
            match now.get(key) {
                Some(found) if found.state == object.state => {}
                Some(found) if found.name == object.name && found.schema == object.schema => {
                    changes.push(object.change(&key.0, "was altered"));
                }
                Some(found) => changes.push(object.change(&key.0, &format!("is {} now", found.called()))),
                None if is_compared(&key.0, scope, self.shows_names) && gone_matters(&key.0, object) => {
                    changes.push(Change { is_gone: true, ..object.change(&key.0, "was dropped") });
                }
                None => {}
            }
        }
        changes
    }

    /// The objects that are what they were, with a name that was written since: it may have been another one for a moment.
    fn written<'a>(&'a self, now: &HashMap<Key, Object>, scope: Scope) -> Vec<(&'a Key, Change)> {
        let known = self.objects.iter().filter(|(key, _)| names_matter(&key.0, scope, self.shows_names));
        let is_written = |(key, object): &(&Key, &Object)| {
            now.get(*key).is_some_and(|found| found.state == object.state && found.was_written_since(object))
        };
        let change = |object: &Object, class: &str| object.change(class, "may have had another name");
        known.filter(is_written).map(|(key, object)| (key, change(object, &key.0))).collect()
    }
}

/// Whether one transaction alone wrote an object since, say that of a GRANT: nobody ever saw the name that it may have had within that
/// transaction. The version of the row that the snapshot sees knows who ended it.
fn was_written_once(now: &Object, ended: Option<&Object>) -> bool {
    now.mark.is_some() && ended.is_some_and(|ended| ended.mark == now.mark)
}

impl Object {
    /// Whether its name, or something that is stored beside it, was written since.
    fn was_written_since(&self, before: &Self) -> bool {
        self.mark.is_some() && self.mark != before.mark
    }

    fn called(&self) -> String {
        let names = [self.schema.as_ref(), self.relation.as_ref(), Some(&self.name)];
        let mut names: Vec<&String> = names.into_iter().flatten().collect();
        // A relation, or a schema, is not named twice.
        names.dedup();
        names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(".")
    }

    fn change(&self, class: &str, what: &str) -> Change {
        let relation = self.schema.clone().zip(self.relation.clone());
        Change {
            relation,
            is_gone: false,
            is_minor: class == "index" && self.is_minor,
            what: format!("{class} {} {what}", self.called()),
        }
    }
}

/// Whether the name of such an object is read again and again: tables are found by their schema, definitions show all names.
fn names_matter(class: &str, scope: Scope, shows_names: bool) -> bool {
    scope == Scope::Definitions || shows_names || class == "schema"
}

/// Whether objects of this class are among those that a scope reads. Roles come and go in the whole cluster.
fn is_compared(class: &str, scope: Scope, shows_names: bool) -> bool {
    match class {
        "schema" | "table" | "sequence" | "type" | "label of an enum" => true,
        "role" | "name of a relation" => shows_names,
        "name of a function" | "operator" | "collation" | "text search configuration" | "text search dictionary" => {
            scope == Scope::Definitions || shows_names
        }
        _ => scope == Scope::Definitions,
    }
}

/// A transaction that wrote a row of a catalogue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// The one that wrote the version that is seen.
    First,
    /// The one that wrote the version after it.
    Next,
}

async fn objects(client: &Client, scope: Scope, shows_names: bool, writer: Writer) -> Result<HashMap<Key, Object>> {
    let all = scope == Scope::Definitions;
    let failed = "cannot compare the definitions";
    let sql = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')";
    let (table, mark) = ROLES[usize::from(client.query_one(sql, &[]).await.query_context(failed)?.get::<_, bool>(0))];
    let sql = OBJECTS.replace("ROLE_TABLE", table).replace("ROLE_MARK", mark);
    let sql = match writer {
        Writer::First => sql.replace("FUNCTION_MARK", FUNCTION_MARK),
        Writer::Next => sql.replace("FUNCTION_MARK", "p.xmin::text").replace("xmin::text", "xmax::text"),
    };
    let sql = READABLE.replace("OBJECTS", &sql);
    let rows = client.query(&sql, &[&all, &shows_names]).await.query_context(failed)?;
    let object = |row: &tokio_postgres::Row| {
        let object = Object {
            schema: row.get(2),
            relation: row.get(3),
            name: row.get(4),
            state: row.get(5),
            mark: row.get(6),
            is_minor: row.get(7),
        };
        ((row.get(0), row.get(1)), object)
    };
    Ok(rows.iter().map(object).collect())
}

/// An error that names these changes, if there are any.
pub fn altered(changes: &[Change]) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = changes.iter().take(NAMED).map(|change| change.what.clone()).collect();
    if changes.len() > NAMED {
        lines.push(format!("and {} more", changes.len() - NAMED));
    }
    Err(error("definitions were altered while the database was read", lines.join("\n")))
}

/// The error of a backup that has to begin again, since this was altered.
#[must_use]
pub fn error(message: impl Into<String>, changed: impl std::fmt::Display) -> Error {
    Error::new(Kind::Source, message)
        .with(CHANGED, changed)
        .hint("Repeat the command when nothing alters the schema: no migration, no upgrade of an extension.")
}

/// Whether this is such an error: the same may go well with a new snapshot.
#[must_use]
pub fn is_change(error: &Error) -> bool {
    error.kind() == Kind::Source && error.detail(CHANGED).is_some()
}
