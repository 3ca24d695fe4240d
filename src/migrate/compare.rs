//! What the database has applied, beside what the release has.
//!
//! Source: Ecto SQL documentation, "Ecto.Migrator": `schema_migrations` holds a row for each version that was applied.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::Client;

use super::release::Release;
use crate::database::connect::QueryContext;
use crate::error::{Error, Kind, Result};

/// A migration, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Migration {
    /// Its version, a time as 14 digits as a rule.
    pub version: i64,
    /// Its name, where the release has it.
    pub name: Option<String>,
    /// When it was applied, in UTC, to the second.
    pub applied: Option<DateTime<Utc>>,
}

/// The comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// In both, by version.
    pub applied: Vec<Migration>,
    /// In the release alone: the next start applies them.
    pub pending: Vec<Migration>,
    /// In the database alone.
    pub unknown: Vec<Migration>,
    /// The newest that the release has.
    pub newest: i64,
    /// There is nothing in the database yet.
    pub is_empty: bool,
}

/// The versions in the database, with their times; nothing if there is no table of them.
async fn recorded(client: &Client) -> Result<Option<BTreeMap<i64, Option<DateTime<Utc>>>>> {
    let failed = "cannot read schema_migrations";
    let exists = "SELECT pg_catalog.to_regclass('public.schema_migrations') IS NOT NULL";
    if !client.query_one(exists, &[]).await.query_context(failed)?.get::<_, bool>(0) {
        return Ok(None);
    }
    let sql = "SELECT version::bigint, extract(epoch FROM inserted_at)::bigint FROM public.schema_migrations";
    let rows = client.query(sql, &[]).await.query_context(failed)?;
    let time = |seconds: Option<i64>| seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    Ok(Some(rows.iter().map(|row| (row.get(0), time(row.get(1)))).collect()))
}

impl Comparison {
    /// Compares the release with the database that the session is in.
    ///
    /// # Errors
    /// [`Kind::Source`] if the database cannot be read.
    pub async fn read(client: &Client, release: &Release) -> Result<Self> {
        let recorded = recorded(client).await?;
        let is_empty = recorded.is_none() && !holds_tables(client).await?;
        Ok(Self { is_empty, ..Self::of(&recorded.unwrap_or_default(), release) })
    }

    fn of(recorded: &BTreeMap<i64, Option<DateTime<Utc>>>, release: &Release) -> Self {
        let mut comparison = Self { newest: release.newest(), ..Self::default() };
        for (version, name) in &release.migrations {
            let applied = recorded.get(version);
            let migration =
                Migration { version: *version, name: Some(name.clone()), applied: applied.copied().flatten() };
            let list = if applied.is_some() { &mut comparison.applied } else { &mut comparison.pending };
            list.push(migration);
        }
        let unknown = recorded.iter().filter(|(version, _)| !release.migrations.contains_key(version));
        comparison.unknown =
            unknown.map(|(version, applied)| Migration { version: *version, name: None, applied: *applied }).collect();
        comparison
    }

    /// Refuses a database that a newer release has been at: this one does not know what its tables mean.
    ///
    /// A version that is older than the release's newest was dropped from it, and means nothing.
    ///
    /// # Errors
    /// [`Kind::Refused`] then.
    pub fn refuse_newer(&self, release: &Release) -> Result<()> {
        let newer: Vec<String> = self
            .unknown
            .iter()
            .filter(|migration| migration.version > self.newest)
            .map(|migration| migration.version.to_string())
            .collect();
        if newer.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, format!("the database is newer than the application ({})", release.called()))
            .with("unknown to it", newer.join(", "))
            .with("its newest", self.newest)
            .with("state", "nothing was changed; the application is not started, since it would write what it does not understand")
            .hint("Start the newer release again.")
            .hint("Or go back to a backup from before it: `teslamate-backup list` shows their schema versions, `teslamate-restore ID`."))
    }
}

async fn holds_tables(client: &Client) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')";
    Ok(client.query_one(sql, &[]).await.query_context("cannot look for tables")?.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(recorded: &[i64], files: &[i64]) -> (Comparison, Release) {
        let migrations = files.iter().map(|version| (*version, format!("m{version}"))).collect();
        let release = Release { executable: "/x".into(), version: None, migrations };
        (Comparison::of(&recorded.iter().map(|version| (*version, None)).collect(), &release), release)
    }

    fn versions(list: &[Migration]) -> Vec<i64> {
        list.iter().map(|migration| migration.version).collect()
    }

    #[test]
    fn each_version_is_in_one_list() {
        let (comparison, release) = compared(&[1, 2, 4], &[1, 3, 4, 5]);
        assert_eq!(versions(&comparison.applied), [1, 4]);
        assert_eq!(versions(&comparison.pending), [3, 5]);
        assert_eq!(versions(&comparison.unknown), [2]);
        // It was taken out of the release since.
        assert!(comparison.refuse_newer(&release).is_ok());
    }

    #[test]
    fn a_database_that_is_newer_is_refused_with_what_is_unknown() {
        let (comparison, release) = compared(&[1, 2, 8, 9], &[1, 2, 3]);
        let error = comparison.refuse_newer(&release).unwrap_err();
        assert!(error.kind() == Kind::Refused && error.to_string().contains("8, 9"), "{error}");
    }
}
