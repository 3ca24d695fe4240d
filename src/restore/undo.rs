//! Undo: the database that the last restore replaced goes live again, in the same way.
//!
//! The replaced live database becomes a previous database in its turn, so an undo can be undone. It undoes the last change that was
//! made to the live database, or says that it cannot: rows that `--data-only` replaced since would be lost with the rest.

use std::time::Duration;

use super::names::{self, Role};
use super::previous::{self, Identity, Mark, Previous, RowsReplaced};
use super::swap::Swap;
use super::{Session, check, staging};
use crate::backup;
use crate::error::{Error, Kind, Result};
use crate::text::shell_word;

const UNTOUCHED: &str = "the live database and its service were not touched";

/// What an undo did.
#[derive(Clone, Debug)]
pub struct Undone {
    /// The database that is live again, by the name it had.
    pub from: String,
    /// What was live until now.
    pub retired: Option<String>,
    /// How long the service was stopped, or would have been.
    pub downtime: Duration,
}

impl Session<'_> {
    /// The previous database that an undo brings back: the one of this name, or the newest that a restore is known to
    /// have replaced.
    ///
    /// # Errors
    /// [`Kind::Refused`] if there is none, or if rows were replaced since it was replaced.
    pub async fn previous_to_undo(&self, wanted: Option<&str>) -> Result<Previous> {
        let live = self.live_name();
        let mut found = previous::all(self.client(), live).await?;
        if let Some(name) = wanted {
            let at = found.iter().position(|previous| previous.name == name);
            return at.map(|at| found.swap_remove(at)).ok_or_else(|| {
                Error::new(Kind::Refused, format!("there is no previous database \"{name}\" of \"{live}\""))
                    .with("previous", found.iter().map(|found| found.name.clone()).collect::<Vec<_>>().join("\n"))
                    .with("state", UNTOUCHED)
                    .hint("`psql -l` lists the databases.")
            });
        }
        let unmarked: Vec<String> =
            found.iter().filter(|previous| previous.mark.is_none()).map(|previous| previous.name.clone()).collect();
        let Some(newest) = found.into_iter().rfind(|previous| previous.mark.is_some()) else {
            return Err(nothing_to_undo(live, &unmarked));
        };
        let is_there = staging::databases(self.client()).await?.iter().any(|name| name == live);
        match newest.mark.as_ref().and_then(|mark| mark.rows.as_ref()).filter(|_| is_there) {
            Some(rows) => Err(rows_came_last(rows, &newest.name, self.was_deleted(rows.safety_backup.as_deref()))),
            None => Ok(newest),
        }
    }

    /// Whether the live database is the one that replaced this one.
    pub async fn was_replaced_by_live(&self, previous: &Previous) -> Result<bool> {
        let live = previous::identity(self.client(), self.live_name()).await?;
        Ok(live.is_none_or(|live| previous.mark.as_ref().is_none_or(|mark| mark.by == live.oid)))
    }

    /// Swaps a previous database back.
    pub async fn undo(&self, previous: &Previous) -> Result<Undone> {
        let live = self.live_name();
        let databases = staging::databases(self.client()).await?;
        let is_live = databases.iter().any(|name| name == live);
        if is_live {
            check::nothing_in_the_way(self.client(), live).await?;
        }
        check::nothing_in_the_way(self.client(), &previous.name).await?;
        let retired = is_live.then(|| names::fresh(live, Role::Previous, chrono::Utc::now(), &databases));
        let swap = Swap {
            live: live.to_owned(),
            mark: self.mark_of_live(&previous.name).await?,
            retired: retired.clone(),
            replacement: previous.name.clone(),
            comment: Some(previous.comment.clone()),
        };
        let downtime = self.swap_with_service(&swap).await?;
        self.tell_disabled_subscriptions().await;
        Ok(Undone { from: previous.name.clone(), retired, downtime })
    }

    /// Whether the ledger, as far as it can be read, knows this backup as deleted.
    fn was_deleted(&self, id: Option<&str>) -> bool {
        let Ok(session) = backup::session::Session::begin(self.env, None) else { return false };
        let known = session.ledger.list_all().unwrap_or_default();
        known.iter().any(|noted| Some(noted.facts.id.as_str()) == id && noted.deleted_at.is_some())
    }

    /// The comment that marks what is live now as previous, once `replacement` takes its place.
    pub(super) async fn mark_of_live(&self, replacement: &str) -> Result<Option<String>> {
        let live = self.live_name();
        let Some(Identity { oid, comment }) = previous::identity(self.client(), live).await? else { return Ok(None) };
        let by = previous::identity(self.client(), replacement).await?.map_or(0, |identity| identity.oid);
        let mark = Mark { of: live.to_owned(), oid, replaced: chrono::Utc::now(), by, rows: None };
        Ok(Some(previous::marked(&mark, comment.as_deref())))
    }
}

fn nothing_to_undo(live: &str, unmarked: &[String]) -> Error {
    let error = Error::new(Kind::Refused, format!("there is no earlier database of \"{live}\" to go back to"))
        .with("state", UNTOUCHED);
    let Some(newest) = unmarked.last() else {
        return error
            .hint("Each restore keeps the database that it replaces, for as many restores as `keep_previous` says.")
            .hint("Rows that --data-only replaced are in the backup taken before: `teslamate-backup list` shows its purpose as safety.");
    };
    error
        .with("databases with such a name, which no restore marked", unmarked.join("\n"))
        .hint(format!("If it is one, name it: teslamate-restore --undo --previous {newest}"))
}

/// Refuses an undo after rows were replaced: only the backup that was taken before can undo that.
fn rows_came_last(rows: &RowsReplaced, previous: &str, is_deleted: bool) -> Error {
    let error = Error::new(Kind::Refused, "--data-only came last: an older database would undo more than that")
        .with("replaced", format!("{}, at {}", rows.tables.join(", "), rows.at.format("%F %T UTC")))
        .with("by those of", format!("backup {}", short(&rows.backup)))
        .with("state", UNTOUCHED);
    let error = match &rows.safety_backup {
        Some(id) if is_deleted => error.hint(format!(
            "The backup taken before it, {}, was deleted: `teslamate-backup list` shows those there are.",
            short(id)
        )),
        Some(id) => {
            let tables: Vec<String> =
                rows.tables.iter().map(|table| format!(" --table {}", shell_word(table))).collect();
            error.hint(format!(
                "To put back the rows from before: teslamate-restore {} --data-only{}",
                short(id),
                tables.concat()
            ))
        }
        None => error
            .hint("No backup was taken before it (--no-safety-backup): `teslamate-backup list` shows those there are."),
    };
    error.hint(format!("To bring back the complete older database: teslamate-restore --undo --previous {previous}"))
}

/// The begin of an id, by which people name a backup.
fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}
