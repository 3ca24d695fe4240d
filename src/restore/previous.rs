//! Previous databases: the ones that a restore replaced, and the mark by which they are known.
//!
//! A name proves nothing: anybody may call a database like that. The database that a swap replaces gets a mark in the first line of
//! its comment, in the swap's own transaction. The mark holds the database's OID, so a copy of the comment marks nothing.
//! It is a part of the cluster, so it outlives the ledger. The comment that the database had follows in the next lines.
//!
//! When rows of the live database are replaced in place, that is noted in the marks too, in the same transaction: a
//! previous database cannot undo that.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::names::{self, Role};
use crate::database::connect::{QueryContext, chain};
use crate::database::{bytes_of, ident, literal, text_of};
use crate::error::Result;
use crate::progress::Reporter;

const WORDS: &str = "previous database, kept by glovebox: ";

/// Mark in the first line of a previous database's comment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// The live database's name.
    pub of: String,
    /// Its own `pg_database.oid`.
    pub oid: u32,
    /// When it was replaced.
    pub replaced: DateTime<Utc>,
    /// The `pg_database.oid` of what replaced it.
    pub by: u32,
    /// The last time that rows were replaced in the live database since.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rows: Option<RowsReplaced>,
}

/// That `--data-only` replaced rows in the live database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowsReplaced {
    /// When.
    pub at: DateTime<Utc>,
    /// In which tables, as the command line names them.
    pub tables: Vec<String>,
    /// By those of which backup.
    pub backup: String,
    /// The backup that has the rows from before.
    pub safety_backup: Option<String>,
}

/// A database that is called like a previous one.
#[derive(Clone, Debug, PartialEq)]
pub struct Previous {
    /// Its name.
    pub name: String,
    /// The proof that a restore replaced it; without one it is somebody's, or of an older Glovebox.
    pub mark: Option<Mark>,
    /// The comment that it had.
    pub comment: Option<String>,
}

/// A database's OID and comment.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// `pg_database.oid`
    pub oid: u32,
    /// Its comment, without a mark.
    pub comment: Option<String>,
}

/// The mark in a comment, and the rest of it.
fn parse(comment: Option<&str>) -> (Option<Mark>, Option<String>) {
    let Some(text) = comment else { return (None, None) };
    let (first, rest) = text.split_once('\n').map_or((text, None), |(first, rest)| (first, Some(rest.to_owned())));
    match first.strip_prefix(WORDS).and_then(|json| serde_json::from_str(json).ok()) {
        Some(mark) => (Some(mark), rest),
        None => (None, Some(text.to_owned())),
    }
}

/// A comment without the mark that it begins with, if it does.
#[must_use]
pub fn without_mark(comment: Option<&str>) -> Option<String> {
    parse(comment).1
}

/// A comment that begins with a mark.
#[must_use]
pub fn marked(mark: &Mark, comment: Option<&str>) -> String {
    let json = serde_json::to_string(mark).unwrap_or_default();
    comment.map_or_else(|| format!("{WORDS}{json}"), |comment| format!("{WORDS}{json}\n{comment}"))
}

/// OID and comment of a database; `None` if there is none of this name.
pub async fn identity(client: &Client, name: &str) -> Result<Option<Identity>> {
    let sql = "SELECT oid, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1";
    let row = client.query_opt(sql, &[&name]).await.query_context("cannot look for a database")?;
    Ok(row.map(|row| Identity { oid: row.get(0), comment: parse(row.get(1)).1 }))
}

/// The databases that are called like previous ones of `live`, the oldest first.
pub async fn all(client: &Client, live: &str) -> Result<Vec<Previous>> {
    let (name, comment) = (bytes_of("datname"), bytes_of("shobj_description(oid, 'pg_database')"));
    let sql = format!("SELECT {name}, oid, {comment} FROM pg_database");
    let rows = client.query(&sql, &[]).await.query_context("cannot list the databases")?;
    let mut found: Vec<Previous> = rows
        .iter()
        .map(|row| (text_of(row.get(0)), row))
        .filter(|(name, _)| names::time_of(name, live, Role::Previous).is_some())
        .map(|(name, row)| {
            let oid: u32 = row.get(1);
            let (mark, comment) = parse(row.get::<_, Option<&[u8]>>(2).map(text_of).as_deref());
            Previous { name, mark: mark.filter(|mark| mark.oid == oid && mark.of == live), comment }
        })
        .collect();
    found.sort_by_key(|previous| names::time_of(&previous.name, live, Role::Previous));
    Ok(found)
}

/// Notes in every mark that rows were replaced; in the transaction that replaces them.
pub async fn note_rows_replaced(client: &Client, live: &str, note: &RowsReplaced, reporter: &Reporter) -> Result<()> {
    for previous in all(client, live).await? {
        let Some(mark) = previous.mark else { continue };
        let comment = marked(&Mark { rows: Some(note.clone()), ..mark }, previous.comment.as_deref());
        let sql = format!("COMMENT ON DATABASE {} IS {}", ident(&previous.name), literal(&comment));
        client.batch_execute("SAVEPOINT note").await.query_context("cannot set a savepoint")?;
        if let Err(cause) = client.batch_execute(&sql).await {
            client.batch_execute("ROLLBACK TO SAVEPOINT note").await.query_context("cannot go on")?;
            let name = &previous.name;
            reporter
                .warn(&format!("in \"{name}\" it cannot be noted that it is older than these rows: {}", chain(&cause)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_again_and_the_comment_behind_it_kept() {
        let mark = Mark { of: "te\nst".into(), oid: 7, replaced: Utc::now(), by: 8, rows: None };
        for comment in [None, Some("mine"), Some("two\nlines")] {
            let text = marked(&mark, comment);
            assert_eq!(parse(Some(&text)), (Some(mark.clone()), comment.map(str::to_owned)), "{text}");
        }
        assert_eq!(parse(Some("mine")), (None, Some("mine".to_owned())));
        assert_eq!(parse(Some(&format!("{WORDS}no json"))).0, None);
    }
}
