//! Undo: the database that the last restore replaced goes live again, in the same way.
//!
//! What was live becomes a previous database in its turn, so an undo can be undone.

use std::time::Duration;

use super::names::{self, Role};
use super::swap::Swap;
use super::{Session, check, staging};
use crate::error::{Error, Kind, Result};

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
    /// The previous database that an undo would bring back.
    pub async fn newest_previous(&self) -> Result<String> {
        let databases = staging::databases(self.client()).await?;
        let live = self.live_name();
        names::of_role(&databases, live, Role::Previous).pop().ok_or_else(|| {
            Error::new(Kind::Refused, format!("there is no earlier database of \"{live}\" to go back to"))
                .with("state", "the live database and its service were not touched")
                .hint("Each restore keeps the database that it replaces, for as many restores as `keep_previous` says.")
        })
    }

    /// Swaps the newest previous database back.
    pub async fn undo(&self, previous: &str) -> Result<Undone> {
        let live = self.live_name();
        let databases = staging::databases(self.client()).await?;
        let is_live = databases.iter().any(|name| name == live);
        if is_live {
            check::nothing_in_the_way(self.client(), live).await?;
        }
        check::nothing_in_the_way(self.client(), previous).await?;
        let retired = is_live.then(|| names::fresh(live, Role::Previous, chrono::Utc::now(), &databases));
        let swap =
            Swap { live: live.to_owned(), retired: retired.clone(), replacement: previous.to_owned(), comment: None };
        let downtime = self.swap_with_service(&swap).await?;
        Ok(Undone { from: previous.to_owned(), retired, downtime })
    }
}
