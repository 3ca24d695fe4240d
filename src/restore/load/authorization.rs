//! `SET SESSION AUTHORIZATION` in a dump, which only a superuser may do: `pg_dump` writes it before a privilege that
//! another role than the owner gave.
//!
//! A plain role acts as that role with `SET ROLE` instead. Where it may not do that either, it gives the privilege itself:
//! nobody loses a privilege, only its grantor is another one.

use std::sync::Arc;

use tokio_postgres::error::SqlState;

use super::executor::Executor;
use super::failure::Failed;
use super::stream::Statement;
use crate::error::Result;

/// Under this name it is among the settings of a session.
pub(super) const AUTHORIZATION: &str = "SESSION AUTHORIZATION";

/// A role that the session could not act as.
#[derive(Debug)]
pub(super) struct Denied {
    role: String,
    /// The server's words, for a statement that must not be executed as another role.
    failed: Option<Failed>,
}

impl Executor<'_> {
    /// Acts as another role, or as the session's own again.
    pub(super) async fn authorize(&mut self, key: String, statement: Statement) -> Result<()> {
        self.denied = None;
        let back = Statement { text: b"RESET ROLE;".to_vec(), line: statement.line, words: Vec::new() };
        Arc::make_mut(&mut self.settings).add("ROLE".to_owned(), back);
        self.main.adopt(&self.settings).await.map_err(|failed| self.explain(failed))?;
        let (key, statement) = match self.main.execute(&statement, &self.settings).await {
            Ok(()) => (key, statement),
            Err(failed) if failed.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                let found = memchr::memmem::find(&statement.text, AUTHORIZATION.as_bytes());
                let Some(at) = found else { return Err(self.explain(failed)) };
                // In the encoding of the dump, as every statement.
                let role = statement.text[at + AUTHORIZATION.len()..].trim_ascii();
                let text = [b"SET ROLE ", role].concat();
                let role = String::from_utf8_lossy(role.strip_suffix(b";").unwrap_or(role)).into_owned();
                let instead = Statement { text, line: statement.line, words: Vec::new() };
                if self.main.execute(&instead, &self.settings).await.is_err() {
                    self.denied = Some(Denied { role, failed: Some(failed) });
                    return Ok(());
                }
                ("ROLE".to_owned(), instead)
            }
            Err(failed) => return Err(self.explain(failed)),
        };
        Arc::make_mut(&mut self.settings).add(key, statement);
        self.main.adopt(&self.settings).await.map_err(|failed| self.explain(failed))
    }

    /// Where the session could not act as another role, it goes on with privileges alone: an object would get another
    /// owner.
    pub(super) fn check_authorization(&mut self, statement: &Statement) -> Result<()> {
        let Some(denied) = &mut self.denied else { return Ok(()) };
        if statement.begins(&["GRANT"]) || statement.begins(&["REVOKE"]) {
            let why = format!("role {} cannot give it, the session's own role tries to", denied.role);
            self.target.lost.add(statement, &why);
            return Ok(());
        }
        match denied.failed.take() {
            Some(failed) => Err(self.explain(failed)),
            None => Ok(()),
        }
    }
}
