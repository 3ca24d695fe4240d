//! Facts for the prompt before the live database changes: ages and numbers of rows.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use tokio_postgres::Client;

use crate::database::Connector;
use crate::database::connect::QueryContext;
use crate::error::Result;

/// How long counting may take: beyond, the server's estimate is shown.
const PATIENCE: &str = "SET statement_timeout = '5s'; SET lock_timeout = '1s'; SET default_transaction_read_only = on";

/// A database, as far as it can be looked into.
#[derive(Clone, Debug)]
pub struct Outlook {
    bytes: u64,
    rows: u64,
    is_exact: bool,
    /// The newest position of TeslaMate.
    newest: Option<String>,
}

impl Outlook {
    /// Looks into a database. `None` if there is none, or it does not let anybody in: it may be what is wrong.
    pub async fn of(connector: &Connector, name: &str) -> Option<Self> {
        let client = connector.for_questions().connect_if_present(name).await.ok()??;
        Self::read(&client).await.ok()
    }

    async fn read(client: &Client) -> Result<Self> {
        let failed = "cannot look into a database";
        client.batch_execute(PATIENCE).await.query_context(failed)?;
        let sql = "SELECT format('SELECT count(*) AS n FROM ONLY %I.%I', n.nspname, c.relname), \
                          greatest(c.reltuples, 0)::bigint, pg_database_size(current_database()) \
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";
        let tables = client.query(sql, &[]).await.query_context(failed)?;
        let counts: Vec<String> = tables.iter().map(|row| row.get(0)).collect();
        let estimate = tables.iter().map(|row| row.get::<_, i64>(1)).sum();
        let exact = if counts.is_empty() {
            Some(0)
        } else {
            let sql = format!("SELECT sum(n)::bigint FROM ({}) AS t", counts.join(" UNION ALL "));
            client.query_one(&sql, &[]).await.ok().map(|row| row.get::<_, i64>(0))
        };
        let sql = "SELECT to_char(max(date), 'YYYY-MM-DD HH24:MI:SS') FROM public.positions";
        let newest = client.query_one(sql, &[]).await.ok().and_then(|row| row.get(0));
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        Ok(Self {
            bytes: tables.first().map_or(0, |row| number(row.get(2))),
            rows: number(exact.unwrap_or(estimate)),
            is_exact: exact.is_some(),
            newest,
        })
    }
}

/// `202,345 rows, the newest position of 2026-11-27 19:58:02 UTC, 160.00 MiB`
#[must_use]
pub fn described(outlook: Option<&Outlook>) -> String {
    let Some(outlook) = outlook else { return "cannot be looked into".to_owned() };
    let about = if outlook.is_exact { "" } else { "about " };
    let mut text = format!("{about}{} rows", indicatif::HumanCount(outlook.rows));
    if let Some(newest) = &outlook.newest {
        let _ = write!(text, ", the newest position of {newest} UTC");
    }
    let _ = write!(text, ", {}", indicatif::BinaryBytes(outlook.bytes));
    text
}

/// `3 days old`: in the largest unit of which there are two, or in minutes.
#[must_use]
pub fn age(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let minutes = now.signed_duration_since(time).num_minutes();
    if minutes < -5 {
        return "from the future, by this machine's clock".to_owned();
    }
    let (number, unit) = match minutes {
        ..2 => return "just now".to_owned(),
        2..120 => (minutes, "minutes"),
        120..2880 => (minutes / 60, "hours"),
        _ => (minutes / 1440, "days"),
    };
    format!("{number} {unit} old")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_said_in_a_unit_that_fits() {
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let ago = |minutes: i64| age(now - chrono::Duration::minutes(minutes), now);
        assert_eq!(ago(1), "just now");
        assert_eq!(ago(119), "119 minutes old");
        assert_eq!(ago(120), "2 hours old");
        assert_eq!(ago(3 * 1440), "3 days old");
        assert!(ago(-60).contains("future"));
    }
}
