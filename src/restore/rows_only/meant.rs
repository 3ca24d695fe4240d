//! The tables of the backup that somebody means who names some with `--table`; a partitioned one is its partitions.
//!
//! The partitions are those of the live database. One that only the backup has is none of them, and its rows would be left
//! out: it is refused by name.

use std::collections::BTreeSet;

use tokio_postgres::{Client, Row};

use super::{BOOKKEEPING, UNTOUCHED, of_extensions};
use crate::database::connect::QueryContext;
use crate::dump::Contents;
use crate::dump::contents::TableName;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::restore::Policy;
use crate::restore::stored::Stored;
use crate::restore::wanted::{called, name_of, views_beside};
use crate::tables::catalog::Elsewhere;
use crate::tables::manifest::TableEntry;

/// Partitioned tables, each with a partition that has rows of its own.
type Leaves = Vec<(TableName, TableName)>;

/// The tables that are meant. A name without a table is an error, and so is a partition of the backup that has rows and is
/// none in the live database.
pub(super) async fn meant<'a>(
    client: &Client,
    env: &Env,
    stored: &'a Stored,
    contents: Option<&Contents>,
    policy: &Policy,
) -> Result<Vec<&'a TableEntry>> {
    let tables = &stored.manifest.tables;
    if policy.tables.is_empty() {
        tell_moved(client, env, stored, contents).await?;
        return Ok(tables.iter().filter(|entry| entry.table.name != BOOKKEEPING).collect());
    }
    let of_live = partitions(client).await?;
    let of_backup = kept_partitions(stored, contents, policy);
    let names: BTreeSet<TableName> = tables.iter().map(|entry| name_of(&entry.table)).collect();
    let roots: BTreeSet<&TableName> = of_live.iter().chain(&of_backup).map(|(root, _)| root).collect();
    let (mut meant, mut expected) = (BTreeSet::new(), BTreeSet::new());
    let mut unknown = Vec::new();
    for words in &policy.tables {
        let tables_called = called(words, names.iter().chain(roots.iter().copied()))?;
        let mut found: BTreeSet<TableName> =
            tables_called.iter().filter(|name| names.contains(**name)).map(|name| (*name).clone()).collect();
        for (_, leaf) in of_live.iter().filter(|(root, _)| tables_called.contains(root)) {
            if names.contains(leaf) {
                found.insert(leaf.clone());
            } else {
                env.reporter
                    .warn(&format!("partition {leaf} of {words} is not in the backup: its rows stay as they are"));
            }
        }
        let kept: Vec<_> = of_backup.iter().filter(|(root, _)| tables_called.contains(root)).cloned().collect();
        if found.is_empty() && kept.is_empty() {
            unknown.push(words);
        }
        expected.extend(kept);
        meant.append(&mut found);
    }
    if !unknown.is_empty() {
        of_extensions::refuse(client, stored, policy).await?;
        return Err(no_table(contents, &unknown));
    }
    if let Some(contents) = contents {
        for warning in views_beside(contents, policy) {
            env.reporter.warn(&warning);
        }
    }
    expected.retain(|(_, leaf)| !meant.contains(leaf));
    refuse_lost(client, stored, policy, &expected).await?;
    Ok(tables.iter().filter(|entry| meant.contains(&name_of(&entry.table))).collect())
}

/// The refusal of names without a table.
fn no_table(contents: Option<&Contents>, unknown: &[&String]) -> Error {
    let views: Vec<String> =
        unknown.iter().filter_map(|words| contents.and_then(|contents| contents.view_called(words))).collect();
    if !views.is_empty() {
        return Error::new(Kind::Refused, format!("{}: no rows of its own", views.join(", ")))
            .with("state", UNTOUCHED)
            .hint("Name the tables that it reads.");
    }
    let names: Vec<String> = unknown.iter().map(|words| format!("\"{words}\"")).collect();
    Error::new(Kind::Refused, format!("the backup has no rows of a table {}", names.join(", ")))
        .with("state", UNTOUCHED)
        .hint("`teslamate-backup show ID` lists its tables.")
}

/// Says which tables get their rows and show them elsewhere than at the backup: as partitions of another table or of none,
/// or since they inherit no more. They are what the live database made of them; nobody may believe that rows are gone.
async fn tell_moved(client: &Client, env: &Env, stored: &Stored, contents: Option<&Contents>) -> Result<()> {
    let Some(contents) = contents else { return Ok(()) };
    let rows = |table: &TableName| {
        let entry = stored.manifest.tables.iter().find(|entry| name_of(&entry.table) == *table)?;
        (entry.rows > 0).then_some(entry.rows)
    };
    let (of_live, of_backup) = (partitions(client).await?, leaves(Some(contents), partitioned(stored)));
    let warn = |text: &str| env.reporter.warn(text);
    for (root, leaf) in of_backup.iter().filter(|pair| !of_live.contains(pair)) {
        if let Some(rows) = rows(leaf) {
            warn(&format!(
                "{leaf} was a partition of {root} and is none now: it gets its {rows} rows, which {root} does not show"
            ));
        }
    }
    for (root, leaf) in of_live.iter().filter(|pair| !of_backup.contains(pair)) {
        if let Some(rows) = rows(leaf) {
            warn(&format!("{leaf} is a partition of {root} now and was none: {root} shows its {rows} rows, too"));
        }
    }
    let inherited = heirs(client).await?;
    for (child, parent) in
        contents.children.iter().filter(|(child, parent)| !inherited.contains(&(parent.clone(), child.clone())))
    {
        if let Some(rows) = rows(child) {
            warn(&format!(
                "{child} inherited from {parent} and does not now: it gets its {rows} rows, which {parent} does not show"
            ));
        }
    }
    Ok(())
}

/// Tables of the live database, each with one that inherits from it, at any level.
async fn heirs(client: &Client) -> Result<Leaves> {
    let sql = "WITH RECURSIVE below (parent, child) AS (SELECT inhparent, inhrelid FROM pg_inherits \
                   UNION SELECT b.parent, i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.child) \
               SELECT pn.nspname::text, p.relname::text, n.nspname::text, c.relname::text FROM below b \
                      JOIN pg_class p ON p.oid = b.parent AND p.relkind = 'r' JOIN pg_namespace pn ON pn.oid = p.relnamespace \
                      JOIN pg_class c ON c.oid = b.child JOIN pg_namespace n ON n.oid = c.relnamespace";
    pairs(client, sql, "cannot look for tables that inherit").await
}

/// The partitioned tables of the live database, each with a partition that has rows of its own.
async fn partitions(client: &Client) -> Result<Leaves> {
    let sql = "SELECT pn.nspname::text, p.relname::text, n.nspname::text, c.relname::text \
               FROM pg_class p JOIN pg_namespace pn ON pn.oid = p.relnamespace \
               CROSS JOIN LATERAL pg_partition_tree(p.oid) AS t JOIN pg_class c ON c.oid = t.relid \
               JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.relkind = 'p' AND t.isleaf ORDER BY 1, 2, 3, 4";
    pairs(client, sql, "cannot look for partitions").await
}

async fn pairs(client: &Client, sql: &str, failed: &str) -> Result<Leaves> {
    let rows = client.query(sql, &[]).await.query_context(failed)?;
    let name = |row: &Row, at: usize| TableName { schema: row.get(at), name: row.get(at + 1) };
    Ok(rows.iter().map(|row| (name(row, 0), name(row, 2))).collect())
}

/// The named tables of the backup that are partitioned, in this form.
fn kept_partitions(stored: &Stored, contents: Option<&Contents>, policy: &Policy) -> Leaves {
    let roots = partitioned(stored).filter(|root| policy.tables.iter().any(|words| root.is_called(words)));
    leaves(contents, roots)
}

/// The partitioned tables of the backup.
fn partitioned(stored: &Stored) -> impl Iterator<Item = TableName> {
    let partitioned = stored.manifest.others.iter().filter(|other| other.rows == Elsewhere::Partitions);
    partitioned.map(|other| TableName { schema: other.schema.clone(), name: other.name.clone() })
}

fn leaves(contents: Option<&Contents>, roots: impl Iterator<Item = TableName>) -> Leaves {
    let Some(contents) = contents else { return Vec::new() };
    roots.flat_map(|root| below(contents, &root).into_iter().map(move |leaf| (root.clone(), leaf))).collect()
}

/// All partitions of a table at any level; those that are partitioned themselves have no rows, and do no harm.
fn below(contents: &Contents, root: &TableName) -> Vec<TableName> {
    let mut found = vec![root.clone()];
    let mut at = 0;
    while let Some(parent) = found.get(at).cloned() {
        at += 1;
        for partition in contents.partitions.iter().filter(|partition| partition.parent == parent) {
            if !found.contains(&partition.child) {
                found.push(partition.child.clone());
            }
        }
    }
    found.split_off(1)
}

/// Refuses partitions of the backup whose rows would be left out.
async fn refuse_lost(
    client: &Client,
    stored: &Stored,
    policy: &Policy,
    expected: &BTreeSet<(TableName, TableName)>,
) -> Result<()> {
    let (mut lost, mut elsewhere) = (Vec::new(), BTreeSet::new());
    for (root, leaf) in expected {
        let Some(entry) = stored.manifest.tables.iter().find(|entry| name_of(&entry.table) == *leaf) else { continue };
        if entry.rows == 0 {
            continue;
        }
        let sql = "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass($1) AND relkind = 'r')";
        let failed = "cannot look for the partitions";
        let is_there: bool = client.query_one(sql, &[&leaf.quoted()]).await.query_context(failed)?.get(0);
        let now = if is_there { "a table that is no partition of it" } else { "not there" };
        lost.push(format!("{leaf}, of {root}: {} rows; in the live database {now}", entry.rows));
        if is_there {
            elsewhere.insert(format!("--table '{}'", leaf.quoted()));
        }
    }
    if lost.is_empty() {
        return Ok(());
    }
    let tables: Vec<String> = policy.tables.iter().map(|words| format!("--table '{words}'")).collect();
    let error = Error::new(Kind::Refused, "partitions of the backup are no partitions in the live database")
        .with("partitions", lost.join("\n"))
        .with("state", UNTOUCHED)
        .hint(format!(
            "Load them beside the live database, and take the rows from there: teslamate-restore {} --into NAME {}",
            stored.noted.facts.id.short(),
            tables.join(" ")
        ));
    if elsewhere.is_empty() {
        return Err(error);
    }
    let elsewhere = elsewhere.into_iter().collect::<Vec<_>>().join(" ");
    Err(error.hint(format!("What is a table of its own now gets its rows back if it is named, too: {elsewhere}")))
}
