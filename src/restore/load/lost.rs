//! Privileges that a role may not give or take away: the load goes on without them, and names the statements.
//!
//! Objects of the server itself and of trusted extensions belong to a superuser. A plain role that repeats a GRANT or
//! REVOKE on one gets an error or, where it has the privilege itself, a mere warning.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::failure::shown;
use super::stream::Statement;
use crate::database::connect::chain;
use crate::progress::Reporter;

/// Statements that are named; the others are counted.
const NAMED: usize = 50;

/// Statements without effect, shared by the sessions of a load.
#[derive(Clone, Debug, Default)]
pub(super) struct LostPrivileges(Arc<Mutex<Lost>>);

#[derive(Debug, Default)]
struct Lost {
    /// The first statements, each with the server's words.
    named: Vec<String>,
    more: u64,
}

impl LostPrivileges {
    /// Takes a GRANT or REVOKE that had no effect, and lets the load go on.
    pub(super) fn judge(
        &self,
        statement: &Statement,
        warnings: &[String],
        done: std::result::Result<(), Error>,
    ) -> std::result::Result<(), Error> {
        let is_lost = |cause: &Error| {
            let is_about_privileges = statement.begins(&["GRANT"]) || statement.begins(&["REVOKE"]);
            is_about_privileges && cause.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
        };
        match done {
            Err(cause) if is_lost(&cause) => self.add(statement, &chain(&cause)),
            done => {
                if !warnings.is_empty() {
                    self.add(statement, &warnings.join("; "));
                }
                return done;
            }
        }
        Ok(())
    }

    pub(super) fn add(&self, statement: &Statement, why: &str) {
        let mut lost = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lost.named.len() >= NAMED {
            lost.more += 1;
            return;
        }
        let why = why.lines().next().unwrap_or_default();
        lost.named.push(format!("{} -- {why}", shown(statement)));
    }

    /// Names the statements.
    pub(super) fn tell(&self, reporter: &Reporter, user: &str) {
        let lost = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lost.named.is_empty() {
            return;
        }
        let more = if lost.more > 0 { format!("\nand {} more", lost.more) } else { String::new() };
        reporter.warn(&format!(
            "role \"{user}\" may not give or take away privileges as these statements do; the new database goes without \
             them. Restore as a superuser, or run them in it as a superuser afterwards:\n{}{more}",
            lost.named.join("\n")
        ));
    }
}
