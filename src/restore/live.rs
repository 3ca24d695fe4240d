//! The last steps of a restore: what was loaded and verified gets its name, beside the live database or in its place.

use std::time::{Duration, Instant};

use super::names::{self, Role};
use super::previous;
use super::swap::{BEGIN_DURABLY, Swap};
use super::{Restored, Session, check, staging};
use crate::database::connect::QueryContext;
use crate::database::{Properties, ident};
use crate::error::{Kind, Result};
use crate::service::State;

impl Session<'_> {
    pub(super) async fn rename_beside(&self, name: &str, target: &str) -> Result<()> {
        let statements = format!(
            "{BEGIN_DURABLY} COMMENT ON DATABASE {0} IS NULL; ALTER DATABASE {0} RENAME TO {1}; COMMIT",
            ident(name),
            ident(target)
        );
        let renamed = self.client().batch_execute(&statements).await.query_context("cannot name the new database");
        match renamed {
            Ok(()) => Ok(()),
            Err(error) => {
                // The transaction has to end before the database can be dropped.
                let _ = self.client().batch_execute("ROLLBACK").await;
                Err(staging::abandon(self.client(), &self.env.connector, name, error).await)
            }
        }
    }

    /// Swaps the staging database in, and drops previous ones that are too many.
    pub(super) async fn go_live(
        &self,
        name: &str,
        replaces: bool,
        properties: &Properties,
        done: &mut Restored,
    ) -> Result<()> {
        let live = self.live_name();
        let databases = staging::databases(self.client()).await?;
        let retired = replaces.then(|| names::fresh(live, Role::Previous, chrono::Utc::now(), &databases));
        let swap = Swap {
            live: live.to_owned(),
            retired: retired.clone(),
            mark: self.mark_of_live(name).await?,
            replacement: name.to_owned(),
            comment: Some(previous::without_mark(properties.comment.as_deref())),
        };
        if replaces {
            // Between the first look and now, somebody may have prepared a transaction.
            if let Err(error) = check::nothing_in_the_way(self.client(), live).await {
                return Err(staging::abandon(self.client(), &self.env.connector, name, error).await);
            }
        }
        let swapped = self.swap_with_service(&swap).await;
        match swapped {
            Ok(downtime) => done.downtime = Some(downtime),
            Err(error) => {
                let left = staging::databases(self.client()).await.unwrap_or_default();
                // Where the swap did not take place, the staging database is still there by its name.
                if left.iter().any(|found| found == name) {
                    return Err(staging::abandon(self.client(), &self.env.connector, name, error).await);
                }
                return Err(error
                    .escalate(Kind::Attention)
                    .with(
                        "state",
                        format!("the restored database is live; the one before is {}", shown(retired.as_ref())),
                    )
                    .hint("teslamate-restore --undo brings the one before back."));
            }
        }
        done.previous = retired;
        if let Err(error) = self.drop_old_previous(done).await {
            // The restore is done; an old database that stays costs nothing but space.
            self.env.reporter.warn(error.message());
        }
        Ok(())
    }

    /// Stops the service, swaps, and starts the service again, whatever the swap did. Returns the time in between.
    pub(super) async fn swap_with_service(&self, swap: &Swap) -> Result<Duration> {
        let env = self.env;
        // Opened before the service is stopped: a connection takes time, and can fail.
        let ender = env.connector.connect_maintenance().await?;
        if !self.with_service {
            let started = Instant::now();
            swap.run(self.client(), &ender).await?;
            let downtime = started.elapsed();
            self.disable_subscriptions_of(swap).await;
            return Ok(downtime);
        }
        let unit = &env.settings.service.unit;
        match env.host.service_state().await? {
            State::Active | State::Waiting => env.reporter.step(&format!("stopping {unit}")).await,
            State::Ending => env.reporter.step(&format!("waiting until {unit} has ended; it stays so")).await,
            State::Inactive => env.reporter.debug(&format!("{unit} is not running and stays so")),
            State::Missing => env.reporter.debug(&format!("there is no {unit} here")),
        }
        let started = Instant::now();
        for warning in env.host.stop_service().await? {
            env.reporter.warn(&warning);
        }
        env.reporter.debug("swapping");
        let swapped = swap.run(self.client(), &ender).await;
        env.reporter.debug("swapped");
        // Before anything that takes time: until then it takes changes away from the one that is live.
        if swapped.is_ok() {
            self.disable_subscriptions_of(swap).await;
        }
        // The application may have migrations to run before it starts, which wait for this lock otherwise.
        if let Err(error) = self.lock.share_swap(&env.connector).await {
            env.reporter.warn(error.message());
        }
        let back = env.host.start_service().await;
        let downtime = started.elapsed();
        match (swapped, back) {
            (Ok(()), Ok(())) => {
                env.reporter.debug("the service is as it was");
                Ok(downtime)
            }
            (Ok(()), Err(error)) | (Err(error), Ok(())) => Err(error),
            (Err(error), Err(start)) => Err(error
                .escalate(Kind::Attention)
                .with("service", start.message())
                .with("state", format!("the live database is as it was, {unit} is stopped"))
                .hint(format!("systemctl start {unit}"))),
        }
    }

    async fn disable_subscriptions_of(&self, swap: &Swap) {
        if let Some(retired) = &swap.retired {
            self.disable_subscriptions(retired).await;
        }
    }

    /// Whether what a previous database holds is in a backup; without a repository, whether the settings give it up.
    async fn may_drop(&self, name: &str) -> bool {
        let reporter = &self.env.reporter;
        if self.env.settings.repository.is_none() {
            reporter.info(&format!(
                "\"{name}\" is dropped: restore.keep_previous keeps no more; what it held is in no backup"
            ));
            return true;
        }
        if !self.with_service {
            // The application waits for this to end.
            reporter.info(&format!("\"{name}\" stays until the next restore"));
            return false;
        }
        match Box::pin(self.secure(name)).await {
            Ok(()) => true,
            Err(error) => {
                reporter.warn(&format!(
                    "\"{name}\" is kept, since its last state is in no backup: {}; the next restore tries again, and \
                     DROP DATABASE {} gives it up",
                    error.message(),
                    ident(name)
                ));
                false
            }
        }
    }

    /// Keeps as many previous databases as the settings say, the newest ones. One that only has such a name is somebody's.
    async fn drop_old_previous(&self, done: &mut Restored) -> Result<()> {
        let found = previous::all(self.client(), self.live_name()).await?;
        for left in found.iter().filter(|found| found.mark.is_none()) {
            self.env
                .reporter
                .info(&format!("\"{}\" stays: it has the name of a previous database, not its mark", left.name));
        }
        let mut previous: Vec<String> =
            found.into_iter().filter(|found| found.mark.is_some()).map(|found| found.name).collect();
        let keep = usize::try_from(self.env.settings.keep_previous).unwrap_or(usize::MAX);
        let surplus = previous.len().saturating_sub(keep);
        for name in previous.drain(..surplus) {
            if !self.may_drop(&name).await {
                continue;
            }
            match staging::drop_database(self.client(), &self.env.connector, &name).await {
                Ok(()) => done.dropped.push(name),
                Err(error) => self.env.reporter.warn(error.message()),
            }
        }
        Ok(())
    }
}

fn shown(name: Option<&String>) -> String {
    name.map_or_else(|| "none".to_owned(), |name| format!("\"{name}\""))
}
