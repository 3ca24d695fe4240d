//! Privileges of an archive, which are given when all of it is there, but for what is filled with the rights of an owner.
//!
//! An owner may have taken a privilege from itself, on a table that is only read by now: the rows would not get in, and a
//! foreign key could not be checked. Plain text has this order by itself.
//!
//! Source: `restorePass` in PostgreSQL's `pg_backup_archiver.c`: ACLs come after everything else, materialized views and
//! event triggers after them.

use std::sync::{Mutex, PoisonError};

use super::authorization::AUTHORIZATION;
use super::session::Settings;
use super::stream::Statement;

/// Statements of one archive that are held back, in their order.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Vec<Statement>>);

impl Held {
    /// Keeps a statement that gives or takes a privilege, or says in whose name, if it is of a section before the last one;
    /// gives back any other.
    pub(super) fn keep(&self, section: Option<&str>, statement: Statement) -> Option<Statement> {
        let is_early = matches!(section, Some("pre-data" | "data"));
        let is_privilege = [&["GRANT"][..], &["REVOKE"], &["ALTER", "DEFAULT", "PRIVILEGES"]]
            .iter()
            .any(|words| statement.begins(words))
            || Settings::key(&statement).is_some_and(|key| key == AUTHORIZATION);
        if !is_early || !is_privilege {
            return Some(statement);
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(statement);
        None
    }

    /// All that were kept.
    pub(super) fn take(&self) -> Vec<Statement> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
