//! The parts that a dump has by PostgreSQL's own division, and what is due between them.

use std::sync::Arc;

use super::{Executor, Target, words};
use crate::error::{Error, Kind, Result};
use crate::restore::load::access::Access;
use crate::restore::load::authorization::AUTHORIZATION;
use crate::restore::load::later::is_authorization;
use crate::restore::load::session::Settings;
use crate::restore::load::stream::Statement;

impl Executor<'_> {
    /// Plain text tells its sections by what is in them. Large objects are made before tables by one version of `pg_dump`,
    /// and after rows by another.
    pub(super) async fn enter_section(&mut self, statement: &Statement) -> Result<()> {
        if self.target.section.is_some() || concerns_large_object(statement) {
            return Ok(());
        }
        let first = statement.words.first().map_or("", String::as_str);
        let section = match (self.section, first) {
            ("pre-data", "SELECT" | "INSERT" | "COPY") => "data",
            ("data", "CREATE" | "REFRESH" | "COMMENT" | "GRANT" | "REVOKE") => "post-data",
            ("data", "ALTER") if Access::of(statement).is_some() => "post-data",
            (section, _) => section,
        };
        if section != self.section {
            // A row that is refused is one of its own section.
            self.end_transaction().await?;
        }
        self.section = section;
        Ok(())
    }

    /// Keeps what a role of our own leaves to the superuser.
    ///
    /// # Errors
    /// [`Kind::Verify`] if the dump makes objects in another role's name, which this one may not.
    pub(super) fn is_left_to_the_superuser(&mut self, statement: &Statement) -> Result<bool> {
        let Some(role) = self.target.role else { return Ok(false) };
        if is_authorization(statement) {
            self.is_other = !is_end_of_authorization(statement);
            Arc::make_mut(&mut self.settings).add(AUTHORIZATION.to_owned(), statement.clone());
            return Ok(true);
        }
        if role.later.keep(statement, &self.settings) || role.has_made(statement) {
            return Ok(true);
        }
        if self.is_other && Settings::key(statement).is_none() {
            let error = Error::new(Kind::Verify, "the dump makes objects in the name of another role");
            return Err(error.with("cause", "SET SESSION AUTHORIZATION, which only a superuser may do"));
        }
        Ok(false)
    }

    /// All rows of a plain text are there, and what depends on them is not made yet.
    pub(super) async fn end_of_rows(&mut self) -> Result<()> {
        if self.target.section.is_some() || self.is_computed {
            return Ok(());
        }
        self.is_computed = true;
        self.end_transaction().await?;
        self.drain().await?;
        let Target { application, reporter, partial, .. } = self.target;
        // Settings may name what the text has made, which sessions from before could not have.
        self.idle.clear();
        self.opened = 0;
        self.main.adopt_application(application, reporter).await?;
        // What the text says of its rows, as an export does, holds for what is computed from them, too.
        let settings = Arc::make_mut(&mut self.settings);
        let mut seen = Settings::default();
        for (key, statement) in self.of_rows.seen() {
            settings.add(key.clone(), statement.clone());
            seen.add(key.clone(), statement.clone());
        }
        self.main.adopt(&self.settings).await.map_err(|failed| self.explain(failed))?;
        if partial {
            return Ok(());
        }
        let mut session = self.open().await?;
        session.adopt(&seen).await.map_err(|failed| self.explain(failed))?;
        session.compute_again(reporter).await
    }

    /// Gives the privileges that were held back, if this is the last section of an archive.
    pub(super) async fn give_privileges(&mut self) -> Result<()> {
        if self.target.section != Some("post-data") {
            return Ok(());
        }
        for statement in self.target.held.take() {
            if let Some(key) = Settings::key(&statement) {
                self.set(key, statement).await?;
            } else {
                self.check_authorization(&statement)?;
                self.execute(statement).await?;
            }
        }
        Ok(())
    }
}

/// `RESET SESSION AUTHORIZATION`, or `SET SESSION AUTHORIZATION DEFAULT`.
fn is_end_of_authorization(statement: &Statement) -> bool {
    statement.begins(&["RESET"]) || statement.words.get(3).is_some_and(|word| word == "DEFAULT")
}

/// Whether a statement makes a large object, or says something of one.
fn concerns_large_object(statement: &Statement) -> bool {
    let words = words(statement);
    matches!(words[..], ["SELECT", "PG_CATALOG", "LO_CREATE", ..] | ["SELECT", "LO_CREATE", ..])
        || words.windows(2).any(|pair| pair == ["LARGE", "OBJECT"])
            && ["ALTER", "COMMENT", "GRANT", "REVOKE"].contains(&words[0])
}
