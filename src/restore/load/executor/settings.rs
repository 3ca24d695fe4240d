//! Settings that the text of a dump makes, and statements that a server of another version does not know.

use std::sync::Arc;

use super::{Executor, words};
use crate::database::application_settings::is_seen;
use crate::database::{ident, literal};
use crate::dump::scan::declared_encoding;
use crate::error::Result;
use crate::restore::load::authorization::AUTHORIZATION;
use crate::restore::load::stream::Statement;

impl Executor<'_> {
    pub(super) async fn set(&mut self, key: String, statement: Statement) -> Result<()> {
        if !self.is_known(&key).await? {
            return Ok(());
        }
        let Some(statement) = self.as_the_application_has_it(&key, statement) else { return Ok(()) };
        if key != AUTHORIZATION && self.settings.has(&key, &statement) {
            return Ok(());
        }
        self.flush().await?;
        // What waits is executed under the settings that stood before it.
        self.drain_statements().await?;
        if key == AUTHORIZATION {
            if !self.is_object_open {
                self.commit().await?;
            }
            return self.authorize(key, statement).await;
        }
        let settings = Arc::make_mut(&mut self.settings);
        if key == "CLIENT_ENCODING" {
            settings.declare(&declared_encoding(&statement.words, &statement.text).unwrap_or_default());
            return Ok(());
        }
        settings.add(key, statement);
        self.main.adopt(&self.settings).await.map_err(|failed| self.explain(failed))
    }

    /// Whether the server knows a setting that a newer or older one has, and that nothing depends on: sessions that load
    /// have no limits, and no text is loaded that it would judge.
    async fn is_known(&self, key: &str) -> Result<bool> {
        let may_be_missing = key.ends_with("_TIMEOUT") || ["ESCAPE_STRING_WARNING", "DEFAULT_WITH_OIDS"].contains(&key);
        Ok(!may_be_missing || self.main.knows_setting(&key.to_lowercase()).await?)
    }

    /// The statement, or one that sets the application's value where the text resets a setting that expressions see.
    fn as_the_application_has_it(&self, key: &str, statement: Statement) -> Option<Statement> {
        if !is_seen(key) || !statement.words.iter().any(|word| word == "DEFAULT") {
            return Some(statement);
        }
        if !self.settings.is_made(key) {
            return None;
        }
        let of_application = self.target.application.iter().rfind(|(name, _)| name.eq_ignore_ascii_case(key));
        let Some((name, value)) = of_application else { return Some(statement) };
        let text = format!("SET {} TO {};", ident(name), literal(value)).into_bytes();
        Some(Statement { text, ..statement })
    }

    /// Whether the server has the function for the planner's statistics that a statement calls, if it does. An older one has
    /// not, and the statistics are gathered anew after every load.
    pub(super) async fn has_statistics_for(&mut self, statement: &Statement) -> Result<bool> {
        let ["SELECT", "FROM", "PG_CATALOG", function, ..] = words(statement)[..] else { return Ok(true) };
        if let Some(has) = self.statistics.get(function) {
            return Ok(*has);
        }
        self.end_transaction().await?;
        let has = self.main.knows_function(&function.to_lowercase()).await?;
        self.statistics.insert(function.to_owned(), has);
        Ok(has)
    }
}
