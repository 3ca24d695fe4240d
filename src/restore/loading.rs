//! The attempts of a load: as a role of our own, in parallel, in the order of the dump; and the proof of what came of it.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::error::SqlState;

use super::load::role::{self, LoadRole};
use super::load::{self, Loader};
use super::stage::{Material, Wanted};
use super::verify::{self, Verified};
use super::{Policy, Session, extensions, staging};
use crate::database::connect::{QueryContext, chain};
use crate::database::{Properties, Setting};
use crate::dump::Contents;
use crate::dump::contents::TableName;
use crate::error::{Error, Kind, Result};

/// One load: its material, and how it is done.
pub(super) struct Load<'a> {
    pub(super) material: &'a Material<'a>,
    /// The contents of the part that is loaded, or of all of it.
    pub(super) part: &'a Contents,
    pub(super) policy: &'a Policy,
    pub(super) wanted: &'a Wanted<'a>,
    /// Those of the staging database.
    pub(super) properties: &'a Properties,
    pub(super) application: &'a [Setting],
    /// The name of the staging database.
    pub(super) name: &'a str,
    /// Rows that extensions made in tables of their own.
    pub(super) made: &'a BTreeMap<TableName, u64>,
    pub(super) expects_teslamate: bool,
}

impl Session<'_> {
    /// Loads into the staging database and verifies what came of it. A dump from elsewhere is loaded by a role that may
    /// nothing else, where ours is a superuser.
    pub(super) async fn load(&self, load: &Load<'_>) -> Result<Verified> {
        let Some(role) = self.load_role(load).await? else { return self.load_as(load, None).await };
        let verified = match self.load_as(load, Some(&role)).await {
            Err(error) if load::may_load_with_rights(&error) => {
                let words = error.detail("cause").unwrap_or(error.message());
                self.env.reporter.warn(&format!(
                    "the dump cannot be loaded by a role without rights; loading again, {}\n{words}",
                    self.with_all_rights()
                ));
                self.begin_again(load).await?;
                self.load_as(load, None).await
            }
            done => done,
        }?;
        role::sweep(self.client(), self.live_name()).await;
        Ok(verified)
    }

    /// A role of our own that may load, if ours is a superuser and the dump is from elsewhere. Says so if there can be none.
    async fn load_role(&self, load: &Load<'_>) -> Result<Option<LoadRole>> {
        let env = self.env;
        // A private server confines a superuser, too.
        if load.material.stored.is_some() || self.private.is_some() || !self.is_superuser().await {
            return Ok(None);
        }
        let obstacle = role::obstacle(&load.material.judgement.contents, load.policy);
        let why = match obstacle {
            _ if load.policy.trust_dump => "--trust-dump".to_owned(),
            Some(obstacle) => obstacle,
            None => match LoadRole::make(self.client(), &env.connector, self.live_name(), load.name).await {
                Ok(role) => {
                    env.reporter.debug(&format!("loading as the role \"{}\"", role.name()));
                    return Ok(Some(role));
                }
                Err(error) if matches!(error.kind(), Kind::Signal(_)) => return Err(error),
                Err(error) => {
                    let cause = error.detail("cause").unwrap_or(error.message());
                    format!("a role without rights cannot load it: {cause}")
                }
            },
        };
        env.reporter.info(&format!("loading {}\n{why}", self.with_all_rights()));
        Ok(None)
    }

    fn with_all_rights(&self) -> String {
        format!(
            "with the rights of \"{}\", a superuser: functions, defaults and indexes of the dump run with them, so load only one \
             whose origin you know",
            self.env.settings.database.user
        )
    }

    async fn is_superuser(&self) -> bool {
        let sql = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
        self.client().query_one(sql, &[]).await.is_ok_and(|row| row.get(0))
    }

    /// Loads with parallel jobs, and once more in the order of the dump if that fails: a CHECK or an index may call a
    /// function that reads another table.
    async fn load_as(&self, load: &Load<'_>, role: Option<&LoadRole>) -> Result<Verified> {
        let env = self.env;
        let Load { policy, wanted, application, name, .. } = *load;
        let Material { source, stored, judgement, tools } = *load.material;
        let contents = &judgement.contents;
        let loader = |jobs| Loader {
            connector: &env.connector,
            role,
            client: self.client(),
            tools,
            reporter: &env.reporter,
            policy,
            left_out: wanted.left_out,
            part: wanted.part,
            application,
            jobs,
        };
        self.let_in(load, role).await?;
        let outcome = match loader(policy.jobs).load(source, stored, judgement, name).await {
            Err(error) if load::may_load_in_order(&error, policy.jobs) => {
                let jobs = policy.jobs;
                let what =
                    format!("the load with {jobs} jobs failed; loading again with one, in the order of the dump");
                env.reporter.warn(&what);
                self.begin_again(load).await?;
                self.let_in(load, role).await?;
                loader(1).load(source, stored, judgement, name).await
            }
            outcome => outcome,
        };
        if let Err(error) = outcome {
            return Err(self.with_way_to_rights(with_missing_table(error, contents, policy)).await);
        }
        env.reporter.step("verifying").await;
        let verified = self.verify(load, role).await?;
        if let Some(role) = role {
            loader(1).hand_over(role, source, contents, name).await.map_err(of_rights)?;
        }
        Ok(verified)
    }

    /// Lets a role of our own work in the new database, with the extensions that only a superuser may make.
    async fn let_in(&self, load: &Load<'_>, role: Option<&LoadRole>) -> Result<()> {
        let Some(role) = role else { return Ok(()) };
        let wanted: Vec<_> = extensions::wanted(load.part, load.policy).cloned().collect();
        extensions::add(&self.env.connector, load.name, &wanted).await.map_err(of_rights)?;
        role.enter(self.client(), &self.env.connector, load.name).await.map_err(of_rights)
    }

    async fn begin_again(&self, load: &Load<'_>) -> Result<()> {
        let (env, name) = (self.env, load.name);
        staging::drop_database(self.client(), &env.connector, name).await?;
        staging::create(self.client(), &env.connector, self.live_name(), name, load.properties, self.server).await?;
        extensions::add(&env.connector, name, load.wanted.added).await
    }

    /// Compares what is there with what the dump holds, and gathers statistics, as whoever has loaded: they evaluate
    /// expressions.
    async fn verify(&self, load: &Load<'_>, role: Option<&LoadRole>) -> Result<Verified> {
        let connector = &self.env.connector;
        let loading = role.map_or(connector, LoadRole::connector);
        let (client, other) = tokio::try_join!(connector.connect_to(load.name), loading.connect_to(load.name))?;
        // Each keeps one CPU busy.
        // It evaluates expressions of indexes, which may fail where the load did not; autovacuum gathers what is missing.
        let analyzing = async {
            match other.batch_execute("ANALYZE").await {
                Err(cause) if cause.as_db_error().is_some() => {
                    let cause = chain(&cause);
                    let what = format!("not all statistics could be gathered, ANALYZE ended with: {cause}");
                    self.env.reporter.warn(&what);
                    Ok(())
                }
                done => done.query_context("cannot gather statistics"),
            }
        };
        let verifying = async {
            let contents = &load.material.judgement.contents;
            let expected = verify::Expected { contents, left_out: load.wanted.left_out, made: load.made };
            if load.policy.partial {
                return verify::part(&client, &expected, load.policy).await;
            }
            verify::verify(&client, &expected, load.expects_teslamate).await
        };
        let ((), verified) = tokio::try_join!(analyzing, verifying)?;
        Ok(verified)
    }

    /// A statement that the server permits to nobody with so few rights: says how to get them. A superuser has them all,
    /// unless the statement runs as another role.
    async fn with_way_to_rights(&self, error: Error) -> Error {
        if error.detail("code") != Some(SqlState::INSUFFICIENT_PRIVILEGE.code()) {
            return error;
        }
        if !self.is_superuser().await {
            return error.hint("Restore as a superuser; or repeat it with --no-owner --no-privileges.");
        }
        error.hint(
            "This role is a superuser, so the statement ran as another role, after a SET SESSION AUTHORIZATION of the dump or \
             in a function: give that role the right, or repeat it with --no-owner, which leaves SET SESSION AUTHORIZATION out.",
        )
    }
}

/// A failure of what is done around a load by a role without rights, which a superuser needs none of.
fn of_rights(error: Error) -> Error {
    if error.kind() == Kind::Source { error.escalate(Kind::Verify) } else { error }
}

/// A function whose body is a string may read a table of the dump that nobody knew the part to need: names it.
fn with_missing_table(error: Error, contents: &Contents, policy: &Policy) -> Error {
    if policy.tables.is_empty() {
        return error;
    }
    let words = ["pg_restore", "cause"].iter().filter_map(|name| error.detail(name)).collect::<Vec<_>>().join("\n");
    let missing = |table: &&TableName| {
        let is_named = |name: &str| words.contains(&format!("relation \"{name}\" does not exist"));
        !policy.tables.iter().any(|wanted| table.is_called(wanted))
            && (is_named(&table.to_string()) || is_named(&table.name))
    };
    let tables: BTreeSet<&TableName> = contents.tables().filter(missing).collect();
    tables.into_iter().fold(error, |error, table| {
        error.hint(format!("A function that the part calls reads {table}, which is not in it: add --table {table}"))
    })
}
