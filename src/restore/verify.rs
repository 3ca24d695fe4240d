//! Verifies the staging database before it may go live.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio_postgres::Client;

use crate::database::connect::QueryContext;
use crate::database::ident;
use crate::dump::Contents;
use crate::dump::contents::TableName;
use crate::error::{Error, Kind, Result};
use crate::restore::Policy;

/// What was found to be right.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verified {
    /// Rows per table, as they are in the database.
    pub rows: BTreeMap<TableName, u64>,
    /// The checks, in words.
    pub checks: Vec<String>,
    /// What is as it was in the source, and worth a look.
    pub remarks: Vec<String>,
}

/// Compares the database with what the load was to bring.
///
/// # Errors
/// [`Kind::Verify`] if it is not what it should be.
pub async fn verify(client: &Client, contents: &Contents, teslamate: bool) -> Result<Verified> {
    let mut verified = Verified::default();
    rows(client, contents, &mut verified).await?;
    indexes(client, &mut verified).await?;
    constraints(client, &mut verified).await?;
    sequences(client, &mut verified).await?;
    if teslamate {
        let migrations = verified.rows.iter().find(|(table, _)| table.name == "schema_migrations");
        match migrations {
            Some((_, rows)) if *rows > 0 => verified.checks.push(format!("schema_migrations has {rows} versions")),
            _ => return Err(Error::new(Kind::Verify, "the new database has no schema_migrations")),
        }
    }
    Ok(verified)
}

/// Compares the rows of the tables that a part consists of.
///
/// # Errors
/// [`Kind::Verify`] if they are not those of the dump.
pub async fn part(client: &Client, contents: &Contents, policy: &Policy) -> Result<Verified> {
    let mut verified = Verified::default();
    if policy.schema_only {
        return Ok(verified);
    }
    let wanted =
        |table: &TableName| policy.tables.is_empty() || policy.tables.iter().any(|words| table.is_called(words));
    let rows = contents.rows.iter().filter(|(table, _)| wanted(table)).map(|(table, rows)| (table.clone(), *rows));
    self::rows(client, &Contents { rows: rows.collect(), ..Contents::default() }, &mut verified).await?;
    Ok(verified)
}

async fn rows(client: &Client, contents: &Contents, verified: &mut Verified) -> Result<()> {
    let mut wrong = Vec::new();
    for (table, expected) in &contents.rows {
        let name = format!("{}.{}", ident(&table.schema), ident(&table.name));
        // The rows of a partitioned table are those of its partitions; of any other table, its own.
        let kind = client
            .query_opt("SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)", &[&name])
            .await
            .query_context("cannot look for a table")?;
        let Some(kind) = kind else {
            wrong.push(format!("{table}: is missing"));
            continue;
        };
        let only = if kind.get::<_, &str>(0) == "p" { "" } else { "ONLY " };
        let counted: i64 = client
            .query_one(&format!("SELECT count(*) FROM {only}{name}"), &[])
            .await
            .query_context(format!("cannot count the rows of {table}"))?
            .get(0);
        let counted = u64::try_from(counted).unwrap_or(0);
        if counted != *expected {
            wrong.push(format!("{table}: {counted} rows, the dump has {expected}"));
        }
        verified.rows.insert(table.clone(), counted);
    }
    if !wrong.is_empty() {
        return Err(Error::new(Kind::Verify, "the new database does not hold what the dump holds")
            .with("tables", wrong.join("\n")));
    }
    verified.checks.push(format!("rows of {} tables are those of the dump", contents.rows.len()));
    Ok(())
}

async fn names(client: &Client, sql: &str) -> Result<Vec<String>> {
    let rows = client.query(sql, &[]).await.query_context("cannot verify the new database")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn indexes(client: &Client, verified: &mut Verified) -> Result<()> {
    let invalid = names(
        client,
        "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT (indisvalid AND indisready AND indislive) \
         AND indrelid::regclass::text !~ '^pg_toast'",
    )
    .await?;
    if invalid.is_empty() {
        verified.checks.push("every index is valid".into());
        return Ok(());
    }
    Err(Error::new(Kind::Verify, "the new database has indexes that are not valid").with("indexes", invalid.join("\n")))
}

/// A constraint that is not valid was `NOT VALID` in the source: the dump says so, and a load keeps it so.
async fn constraints(client: &Client, verified: &mut Verified) -> Result<()> {
    let invalid = names(
        client,
        "SELECT format('%s on %s', conname, conrelid::regclass) FROM pg_constraint WHERE NOT convalidated",
    )
    .await?;
    if invalid.is_empty() {
        verified.checks.push("every constraint is valid".into());
    }
    verified.remarks.extend(invalid.into_iter().map(|name| format!("constraint {name} was never validated")));
    Ok(())
}

/// A sequence behind its column would refuse the next row. The dump is faithful to the source, so the source has it
/// too: it is said, with the way to mend it, and does not keep anyone from getting the data back.
async fn sequences(client: &Client, verified: &mut Verified) -> Result<()> {
    let owned = client
        .query(
            "SELECT format('%I.%I', sn.nspname, s.relname), format('%I.%I', tn.nspname, t.relname), quote_ident(a.attname) \
             FROM pg_class s JOIN pg_namespace sn ON sn.oid = s.relnamespace \
             JOIN pg_depend d ON d.objid = s.oid AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') \
             JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace tn ON tn.oid = t.relnamespace \
             JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid \
             JOIN pg_sequence q ON q.seqrelid = s.oid \
             WHERE s.relkind = 'S' AND q.seqincrement > 0 AND t.relkind IN ('r', 'p') \
               AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)",
            &[],
        )
        .await
        .query_context("cannot look for the sequences")?;
    let before = verified.remarks.len();
    for row in owned {
        let (sequence, table, column): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let sql = format!(
            "SELECT max({column})::bigint, (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END \
             FROM {sequence}) FROM {table}"
        );
        let row = client.query_one(&sql, &[]).await.query_context(format!("cannot look at sequence {sequence}"))?;
        let (highest, last): (Option<i64>, i64) = (row.get(0), row.get(1));
        if let Some(highest) = highest.filter(|highest| *highest > last) {
            verified.remarks.push(format!(
                "sequence {sequence} is at {last}, behind {table}.{column} at {highest}, as in the source: \
                 SELECT setval('{sequence}', {highest});"
            ));
        }
    }
    if verified.remarks.len() == before {
        verified.checks.push("every sequence is at or above its column".into());
    }
    Ok(())
}
