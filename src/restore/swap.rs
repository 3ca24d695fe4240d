//! The swap: two renames in one transaction.
//!
//! The first rename locks the database object, which holds new connections back, and waits up to five seconds for the
//! old ones to leave; meanwhile a second connection ends them, again and again, since a pool reconnects at once. There
//! is no state in between: the transaction is committed or it is not, whatever is killed.
//!
//! Source: PostgreSQL's `RenameDatabase` and `CountOtherDBBackends`.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::database::connect::{QueryContext, chain};
use crate::database::{ident, literal};
use crate::error::{Error, Kind, Result};

/// Attempts before the sessions are given up on; each waits five seconds in the server.
const ATTEMPTS: u32 = 4;

/// One swap.
#[derive(Clone, Debug)]
pub struct Swap {
    /// The live database's name.
    pub live: String,
    /// What the live database is called afterwards; `None` if there is none.
    pub retired: Option<String>,
    /// The comment that marks it as a previous database.
    pub mark: Option<String>,
    /// What takes its place.
    pub replacement: String,
    /// The comment that the new live database gets; `None` leaves the one it has.
    pub comment: Option<Option<String>>,
}

/// Begins the transaction that puts a loaded database in its place.
///
/// The sessions that loaded it did not wait for the disk (`synchronous_commit = off`). This commit does, whatever the
/// role's own settings are, and with it goes all of the write-ahead log before it, so that what is live after a power
/// cut is whole. Source: PostgreSQL documentation, "Asynchronous Commit".
pub const BEGIN_DURABLY: &str = "BEGIN; SET LOCAL synchronous_commit = on;";

impl Swap {
    fn statements(&self) -> String {
        let mut sql = format!("{BEGIN_DURABLY} SET LOCAL lock_timeout = '20s';");
        let mut rename = |from: &str, to: &str| {
            let _ = write!(sql, "ALTER DATABASE {} RENAME TO {};", ident(from), ident(to));
        };
        if let Some(retired) = &self.retired {
            rename(&self.live, retired);
        }
        rename(&self.replacement, &self.live);
        if let (Some(retired), Some(mark)) = (&self.retired, &self.mark) {
            let _ = write!(sql, "COMMENT ON DATABASE {} IS {};", ident(retired), literal(mark));
        }
        if let Some(comment) = &self.comment {
            let comment = comment.as_deref().map_or("NULL".to_owned(), literal);
            let _ = write!(sql, "COMMENT ON DATABASE {} IS {comment};", ident(&self.live));
        }
        sql.push_str("COMMIT");
        sql
    }

    /// Does it. Both sessions are on the maintenance database.
    ///
    /// # Errors
    /// Whatever the error, nothing was changed, but for [`Kind::Attention`]: the connection broke at the commit, and
    /// whether it took place could not be found out.
    pub async fn run(&self, client: &Client, ender: &Client) -> Result<()> {
        let statements = self.statements();
        for attempt in 1.. {
            let result = tokio::select! {
                biased;
                result = client.batch_execute(&statements) => result,
                never = self.end_sessions(ender) => match never {},
            };
            let Err(cause) = result else { return Ok(()) };
            if client.is_closed() {
                return self.find_out(ender, &chain(&cause)).await;
            }
            client.batch_execute("ROLLBACK").await.query_context("cannot end the transaction")?;
            let in_use = cause.code() == Some(&SqlState::OBJECT_IN_USE);
            if !in_use || attempt >= ATTEMPTS {
                let kind = if in_use { Kind::Busy } else { Kind::Source };
                return Err(Error::new(kind, format!("cannot rename database \"{}\"", self.live))
                    .with("cause", chain(&cause))
                    .with("sessions", self.sessions(ender).await)
                    .with("state", "the live database is as it was"));
            }
        }
        Ok(())
    }

    /// Ends the sessions of both databases for as long as it is waited for.
    async fn end_sessions(&self, ender: &Client) -> Infallible {
        loop {
            // A session that may not be ended is found by the rename, which then names it.
            let _ = ender
                .query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE datname IN ($1, $2) AND pid <> pg_backend_pid()",
                    &[&self.live, &self.replacement],
                )
                .await;
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// The connection broke: the server knows whether the commit took place.
    async fn find_out(&self, ender: &Client, cause: &str) -> Result<()> {
        let left = ender.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&self.replacement]).await;
        match left {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(Error::new(Kind::Source, "the server ended the connection during the swap")
                .with("cause", cause)
                .with("state", "the live database is as it was")),
            Err(_) => Err(Error::new(Kind::Attention, "the server went away during the swap")
                .with("cause", cause)
                .with("state", "either the old or the new database is live, whole; the server knows which")
                .hint("Start PostgreSQL, then run any teslamate-restore command: it cleans up.")),
        }
    }

    async fn sessions(&self, ender: &Client) -> String {
        let rows = ender
            .query(
                "SELECT format('pid %s, role %s, %s', pid, usename, coalesce(nullif(application_name, ''), 'unnamed')) \
                 FROM pg_stat_activity WHERE datname IN ($1, $2)",
                &[&self.live, &self.replacement],
            )
            .await
            .unwrap_or_default();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_renames_and_the_comments_are_one_transaction() {
        let swap = Swap {
            live: "te\"st".into(),
            retired: Some("old".into()),
            mark: Some("old".into()),
            replacement: "new".into(),
            comment: Some(Some("it's".into())),
        };
        assert_eq!(
            swap.statements(),
            "BEGIN; SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = '20s';ALTER DATABASE \"te\"\"st\" RENAME TO \"old\";\
             ALTER DATABASE \"new\" RENAME TO \"te\"\"st\";\
             COMMENT ON DATABASE \"old\" IS 'old';COMMENT ON DATABASE \"te\"\"st\" IS 'it''s';COMMIT"
        );
    }
}
