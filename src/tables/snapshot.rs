//! The moment that everything is read at: one exported snapshot, which several sessions join.
//!
//! Source: PostgreSQL documentation, "Snapshot Synchronization Functions".

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;

use crate::database::Connector;
use crate::database::connect::{QueryContext, server_version};
use crate::error::{Error, Kind, Result};

/// What the text of a value depends on, pinned; and nothing that could end a long session.
///
/// `row_security = off` makes the server refuse what it would otherwise filter: a part of a table is no backup of it.
const SETTINGS: &str = "SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; SET timezone = 'UTC'; \
     SET extra_float_digits = 3; SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET client_encoding = 'UTF8'; \
     SET row_security = off; SET search_path = ''; SET synchronize_seqscans = off; SET statement_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0;";

/// A session that holds a snapshot open; as long as it lives, others can join.
pub struct Snapshot {
    client: Arc<Client>,
    id: String,
    /// The server's version, as `server_version_num` counts.
    pub server: u32,
}

impl Snapshot {
    /// Exports a snapshot of the database. Locks are waited for so long.
    pub async fn export(connector: &Connector, lock_wait: Duration) -> Result<Self> {
        let client = connector.connect().await?;
        let server = server_version(&client).await?;
        begin(&client, lock_wait).await?;
        let row =
            client.query_one("SELECT pg_export_snapshot()", &[]).await.query_context("cannot export a snapshot")?;
        Ok(Self { id: row.get(0), client: Arc::new(client), server })
    }

    /// Its name, for `pg_dump --snapshot`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The session that holds it.
    #[must_use]
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// `pg_dump`'s option for a database of unknown encoding: its bytes are written as they are.
    ///
    /// # Errors
    /// [`Kind::Source`] if the server does not answer.
    pub async fn encoding_argument(&self) -> Result<Option<String>> {
        let sql = "SELECT current_setting('server_encoding') = 'SQL_ASCII'";
        let row = self.client.query_one(sql, &[]).await.query_context("cannot ask for the database's encoding")?;
        Ok(row.get::<_, bool>(0).then(|| "--encoding=SQL_ASCII".to_owned()))
    }

    /// Another session that sees exactly the same.
    pub async fn join(&self, connector: &Connector, lock_wait: Duration) -> Result<Client> {
        let client = connector.connect().await?;
        begin(&client, lock_wait).await?;
        let sql = format!("SET TRANSACTION SNAPSHOT {}", crate::database::literal(&self.id));
        client.batch_execute(&sql).await.map_err(|cause| {
            Error::new(Kind::Source, "cannot join the snapshot that everything is read at")
                .with("cause", crate::database::connect::chain(&cause))
        })?;
        Ok(client)
    }
}

/// The transactions that have ended in the cluster, as the session's snapshot sees them. While they are the same, nothing that
/// is written has changed: each that writes has a number.
///
/// # Errors
/// [`Kind::Source`] if the server does not answer.
pub async fn moment(client: &Client) -> Result<String> {
    let sql = "SELECT pg_catalog.pg_current_snapshot()::text";
    Ok(client.query_one(sql, &[]).await.query_context("cannot ask for the transactions that have ended")?.get(0))
}

async fn begin(client: &Client, lock_wait: Duration) -> Result<()> {
    let sql = format!(
        "{SETTINGS} SET lock_timeout = {}; BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;",
        lock_wait.as_millis()
    );
    client.batch_execute(&sql).await.query_context("cannot begin a transaction to read in")
}
