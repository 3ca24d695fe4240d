//! Settings of the application's sessions that expressions see: a time of day depends on the time zone, a word on the text
//! search configuration, a policy on a setting of the application's own.
//!
//! A restore computes again what a dump does not hold: generated columns, materialized views, indexes of expressions, checks.
//! They come out as they were only under the settings that the application had, so a load works with these.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::Connector;
use super::connect::QueryContext;
use super::session_settings::{Setting, apply};
use crate::error::Result;

/// Settings of PostgreSQL itself, in lower case. `lc_monetary` is not among them: rows are written and read under `C`.
const SEEN: [&str; 11] = [
    "bytea_output",
    "datestyle",
    "default_text_search_config",
    "extra_float_digits",
    "intervalstyle",
    "lc_numeric",
    "lc_time",
    "quote_all_identifiers",
    "timezone",
    "timezone_abbreviations",
    "xmlbinary",
];

/// Whether expressions see this setting. One with a dot in its name belongs to an extension or to the application.
#[must_use]
pub fn is_seen(name: &str) -> bool {
    name.contains('.') || SEEN.contains(&&*name.to_lowercase())
}

/// Those of a database that is not there, by what is set for it and for the role: `settings` are `(role, name, value)`, an
/// empty role stands for every role.
///
/// Source: `process_settings` in `postinit.c`: what is set for the role in the database goes before what is set for the
/// role, for the database, and for everybody.
pub async fn of_database(client: &Client, settings: &[(String, String, String)], user: &str) -> Result<Vec<Setting>> {
    let sql = "SELECT s.setrole <> 0, pg_catalog.unnest(s.setconfig) FROM pg_catalog.pg_db_role_setting s \
               WHERE s.setdatabase = 0 AND (s.setrole = 0 OR s.setrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1))";
    let rows = client.query(sql, &[&user]).await.query_context("cannot read the settings of the role")?;
    let of_cluster = |of_role: bool| {
        let rows = rows.iter().filter(move |row| row.get::<_, bool>(0) == of_role);
        rows.filter_map(|row| row.get::<_, &str>(1).split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let of_this = |role: &str| {
        let role = role.to_owned();
        settings.iter().filter(move |(of, ..)| *of == role).map(|(_, name, value)| (name.clone(), value.clone()))
    };
    // The later ones hold.
    let all = of_cluster(false).chain(of_this("")).chain(of_cluster(true)).chain(of_this(user));
    Ok(all.filter(|(name, _)| is_seen(name)).collect())
}

/// Sets those of the application, and returns those that this server does not know. What the role may not set is not among them.
pub async fn refused(client: &Client, settings: &[Setting]) -> Result<Vec<Setting>> {
    let done = apply(client, settings).await.query_context("cannot set what the application works with")?;
    Ok(settings.iter().filter(|setting| !done.contains(setting) && !setting.0.contains('.')).cloned().collect())
}

impl Connector {
    /// Those of a session of the application in the configured database.
    pub async fn application_settings(&self) -> Result<Vec<Setting>> {
        let failed = "cannot read the settings of the application";
        let client = self.connect_for_application().await?;
        // What does not fit into work_mem goes into a temporary file, which may have a limit, too.
        client.batch_execute("SET search_path = pg_catalog; SET work_mem = '4MB'").await.query_context(failed)?;
        let names: Vec<String> = SEEN.iter().map(|name| super::literal(name)).collect();
        let sql = format!(
            "SELECT name, current_setting(name) FROM unnest(ARRAY[{}]) AS name \
             UNION ALL SELECT name, current_setting(name, true) FROM \
               (SELECT DISTINCT split_part(c, '=', 1) AS name FROM pg_db_role_setting s, unnest(s.setconfig) c, \
                  (SELECT oid FROM pg_roles WHERE rolname = session_user) r, \
                  (SELECT oid FROM pg_database WHERE datname = current_database()) d \
                WHERE s.setrole IN (0, r.oid) AND s.setdatabase IN (0, d.oid)) AS custom \
             WHERE name LIKE '%.%' AND current_setting(name, true) IS NOT NULL ORDER BY 1",
            names.join(", ")
        );
        let messages = client.simple_query(&sql).await.query_context(failed)?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((row.get(0)?.to_owned(), row.get(1)?.to_owned())),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// A session that loads rows: expressions see these settings of the application. What this server does not know, or the
    /// role may not set, stays as it is.
    pub async fn connect_to_load(&self, database: &str, settings: &[Setting]) -> Result<Client> {
        let client = self.connect_with_default_path(database).await?;
        apply(&client, settings).await.query_context("cannot prepare a session to load into")?;
        Ok(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k4_expressions_see_times_and_settings_of_the_application() {
        for name in ["TimeZone", "DateStyle", "app.tenant", "default_text_search_config"] {
            assert!(is_seen(name), "{name}");
        }
        for name in ["search_path", "session_replication_role", "lc_monetary", "statement_timeout"] {
            assert!(!is_seen(name), "{name}");
        }
    }
}
