//! Verifies the staging database before it may go live.

mod hidden;

use std::collections::BTreeMap;

use serde::Serialize;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::database::connect::{QueryContext, chain};
use crate::database::ident;
use crate::dump::Contents;
use crate::dump::contents::TableName;
use crate::error::{Error, Kind, Result};
use crate::restore::Policy;
use crate::restore::left_out::LeftOut;
use crate::tables::rows::count;

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

/// Expected result of a load.
pub struct Expected<'a> {
    /// The contents of the dump.
    pub contents: &'a Contents,
    /// The parts of it that are left out.
    pub left_out: &'a LeftOut,
    /// The rows that extensions made in tables of their own, to which the dump added some.
    pub made: &'a BTreeMap<TableName, u64>,
}

/// Compares the database with what the load was to bring.
///
/// # Errors
/// [`Kind::Verify`] if it is not what it should be.
pub async fn verify(client: &Client, expected: &Expected<'_>, teslamate: bool) -> Result<Verified> {
    let mut verified = Verified::default();
    rows(client, expected, &mut verified).await?;
    indexes(client, &mut verified).await?;
    constraints(client, &mut verified).await?;
    sequences(client, &mut verified).await?;
    if teslamate {
        let mut migrations = verified.rows.iter().filter(|(table, _)| table.name == "schema_migrations");
        match migrations.find(|(_, rows)| **rows > 0) {
            Some((_, rows)) => verified.checks.push(format!("schema_migrations has {rows} versions")),
            _ => {
                return Err(Error::new(Kind::Verify, "the new database has no schema_migrations")
                    .hint("If it is meant to replace the live database nevertheless, repeat it with --allow-other."));
            }
        }
    }
    Ok(verified)
}

/// Compares the rows of the tables that a part consists of.
///
/// # Errors
/// [`Kind::Verify`] if they are not those of the dump.
pub async fn part(client: &Client, expected: &Expected<'_>, policy: &Policy) -> Result<Verified> {
    let mut verified = Verified::default();
    if policy.schema_only {
        return Ok(verified);
    }
    let wanted =
        |table: &TableName| policy.tables.is_empty() || policy.tables.iter().any(|words| table.is_called(words));
    let rows = expected.contents.rows.iter().filter(|(table, _)| wanted(table));
    let rows = rows.map(|(table, rows)| (table.clone(), *rows)).collect();
    let contents = Contents { rows, ..Contents::default() };
    self::rows(client, &Expected { contents: &contents, ..*expected }, &mut verified).await?;
    Ok(verified)
}

async fn rows(client: &Client, expected: &Expected<'_>, verified: &mut Verified) -> Result<()> {
    let Expected { contents, left_out, made } = expected;
    let mut wrong = Vec::new();
    for (table, dumped) in contents.rows.iter().filter(|(table, _)| !left_out.has(table)) {
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
        let is_partitioned = kind.get::<_, &str>(0) == "p";
        // Rows of some partitions come through the root, those of others do not.
        let dumped = &if is_partitioned { dumped + below(client, &contents.rows, &name).await? } else { *dumped };
        let counted = count_all(client, &name, is_partitioned)
            .await
            .query_context(format!("cannot count the rows of {table}"))?;
        match made.get(table) {
            Some(made) if counted == made + dumped => {}
            // The extension's own triggers may have put other rows in the place of those that it had made.
            Some(made) if counted >= *dumped => verified
                .remarks
                .push(format!("{table} has {counted} rows; its extension makes {made}, and the dump adds {dumped}")),
            _ if counted != *dumped => wrong.push(format!("{table}: {counted} rows, the dump has {dumped}")),
            _ => {}
        }
        verified.rows.insert(table.clone(), counted);
    }
    if !wrong.is_empty() {
        return Err(Error::new(Kind::Verify, "the new database does not hold what the dump holds")
            .with("tables", wrong.join("\n")));
    }
    verified.checks.push(format!("rows of {} tables are those of the dump", verified.rows.len()));
    Ok(())
}

/// Counts the rows of a table, those that a policy hides from its owner among them.
async fn count_all(
    client: &Client,
    name: &str,
    is_partitioned: bool,
) -> std::result::Result<u64, tokio_postgres::Error> {
    if hidden::are_active(client, name).await? && hidden::lift(client, name).await? {
        let counted = count(client, name, is_partitioned).await;
        client.batch_execute("ROLLBACK").await?;
        if counted.is_ok() {
            return counted;
        }
    }
    let counted = count(client, name, is_partitioned).await;
    let is_denied = counted.as_ref().is_err_and(|cause| cause.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    if !is_denied || !hidden::allow(client, name).await? {
        return counted;
    }
    let counted = count(client, name, is_partitioned).await;
    client.batch_execute("ROLLBACK").await?;
    counted
}

/// The rows that were loaded into partitions of a partitioned table by themselves.
async fn below(client: &Client, loaded: &BTreeMap<TableName, u64>, root: &str) -> Result<u64> {
    let sql = "SELECT n.nspname::text, c.relname::text FROM pg_partition_tree(to_regclass($1)) t \
               JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.level > 0";
    let rows = client.query(sql, &[&root]).await.query_context("cannot look for the partitions")?;
    let name = |row: &tokio_postgres::Row| TableName { schema: row.get(0), name: row.get(1) };
    Ok(rows.iter().filter_map(|row| loaded.get(&name(row))).sum())
}

async fn names(client: &Client, sql: &str) -> Result<Vec<String>> {
    let rows = client.query(sql, &[]).await.query_context("cannot verify the new database")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// An index of a partitioned table is not valid as long as a partition has none that belongs to it. `pg_dump` writes such
/// an index (`ON ONLY`), and no other one that is not valid: it was so in the source.
async fn indexes(client: &Client, verified: &mut Verified) -> Result<()> {
    let invalid = names(
        client,
        "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class c ON c.oid = indexrelid \
         WHERE NOT (indisvalid AND indisready AND indislive) AND c.relkind <> 'I' \
         AND indrelid::regclass::text !~ '^pg_toast'",
    )
    .await?;
    if !invalid.is_empty() {
        return Err(Error::new(Kind::Verify, "the new database has indexes that are not valid")
            .with("indexes", invalid.join("\n")));
    }
    let rows = client
        .query(
            "SELECT format('%I.%I', n.nspname, i.relname), \
                    CASE WHEN k.oid IS NULL THEN format('DROP INDEX %I.%I; %s;', n.nspname, i.relname, \
                         regexp_replace(pg_get_indexdef(i.oid), ' ON ONLY ', ' ON ')) \
                    ELSE format('ALTER TABLE %1$s DROP CONSTRAINT %2$I; ALTER TABLE %1$s ADD CONSTRAINT %2$I %3$s;', \
                         x.indrelid::regclass, k.conname, pg_get_constraintdef(k.oid)) END \
             FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_namespace n ON n.oid = i.relnamespace \
                  LEFT JOIN pg_constraint k ON k.conindid = i.oid AND k.conrelid = x.indrelid AND k.contype IN ('p', 'u', 'x') \
             WHERE i.relkind = 'I' AND NOT x.indisvalid \
               AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.oid) ORDER BY 1",
            &[],
        )
        .await
        .query_context("cannot look at the indexes of partitioned tables")?;
    if rows.is_empty() {
        verified.checks.push("every index is valid".into());
    }
    for row in rows {
        let (index, command): (String, String) = (row.get(0), row.get(1));
        verified.remarks.push(format!(
            "index {index} is not valid, as in the source: a partition has no index that belongs to it. {command}"
        ));
    }
    Ok(())
}

/// A constraint that is not valid was `NOT VALID` in the source: the dump says so, and a load keeps it so.
async fn constraints(client: &Client, verified: &mut Verified) -> Result<()> {
    let invalid = names(
        client,
        "SELECT CASE contypid WHEN 0 THEN format('%s on %s', conname, conrelid::regclass) \
                ELSE format('%s on domain %s', conname, contypid::regtype) END \
         FROM pg_constraint WHERE NOT convalidated ORDER BY 1",
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
        let failed = || format!("cannot look at sequence {sequence}");
        let is_hidden = hidden::are_active(client, &table).await.query_context(failed())?;
        let is_lifted = is_hidden && hidden::lift(client, &table).await.query_context(failed())?;
        let row = client.query_one(&sql, &[]).await;
        if is_lifted {
            client.batch_execute("ROLLBACK").await.query_context(failed())?;
        }
        let row = match row {
            // No query can be planned on the table, as in `count`.
            Err(cause) if cause.as_db_error().is_some() => {
                let cause = chain(&cause);
                verified.remarks.push(format!("sequence {sequence} was not compared with {table}.{column}: {cause}"));
                continue;
            }
            row => row.query_context(failed())?,
        };
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
