//! Settings of the session that puts rows back: those of the application, where its expressions are computed.

use tokio_postgres::Client;

use crate::database::Setting;
use crate::database::connect::QueryContext;
use crate::env::Env;
use crate::error::Result;

/// The `search_path` of a session of the application.
pub(super) async fn application_path(env: &Env) -> Result<String> {
    let failed = "cannot ask for the search path of the application";
    let (client, both) = env.connector.connect_as_application().await?;
    client.batch_execute(&format!("BEGIN; {}", both.application())).await.query_context(failed)?;
    Ok(client.query_one("SHOW search_path", &[]).await.query_context(failed)?.get(0))
}

pub(super) async fn set_path(client: &Client, path: &str) -> Result<()> {
    let sql = "SELECT pg_catalog.set_config('search_path', $1, true)";
    client.query(sql, &[&path]).await.query_context("cannot set the search path").map(drop)
}

/// Sets them for the transaction.
pub(super) async fn set(client: &Client, settings: &[Setting]) -> Result<()> {
    for (name, value) in settings {
        let sql = "SELECT pg_catalog.set_config($1, $2, true)";
        client.query(sql, &[name, value]).await.query_context(format!("cannot set {name} as the application does"))?;
    }
    Ok(())
}

/// Sets those that have other values for the transaction, and returns the values that these had.
pub(super) async fn adopt(client: &Client, application: &[Setting]) -> Result<Vec<Setting>> {
    let mut before = Vec::new();
    for (name, value) in application {
        let sql = "SELECT coalesce(pg_catalog.current_setting($1, true), '')";
        let row = client.query_one(sql, &[name]).await.query_context(format!("cannot read the setting {name}"))?;
        let own: String = row.get(0);
        if own != *value {
            set(client, &[(name.clone(), value.clone())]).await?;
            before.push((name.clone(), own));
        }
    }
    Ok(before)
}
