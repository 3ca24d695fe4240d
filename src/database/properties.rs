//! Properties of a database beside its content: owner, encoding and locale, privileges, settings, comment.
//!
//! A restore reads all of it from the live database, from a backup's manifest or from a dump's own `CREATE DATABASE`, gives
//! it to the new database, and compares. Source: PostgreSQL documentation, `pg_database`, `pg_db_role_setting`, and what
//! `pg_dump --create` writes.

mod grantors;
mod locale;
mod read;
mod statements;

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::connect::QueryContext;
use super::ident;
use crate::error::{Error, Kind, Result};
use statements::{grant_statement, setting_statement};

pub use statements::is_name_list;

/// Default privileges on a database: `(of the owner, privilege)`; those that are not the owner's are everybody's.
const DEFAULTS: &[(bool, &str)] =
    &[(false, "CONNECT"), (false, "TEMPORARY"), (true, "CONNECT"), (true, "CREATE"), (true, "TEMPORARY")];

/// A privilege on the database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Privilege {
    /// The role that has it; empty for PUBLIC.
    grantee: String,
    /// `CONNECT`, `CREATE` or `TEMPORARY`.
    kind: String,
    /// Whether the grantee may give it on.
    grantable: bool,
    /// The role that gave it; `None` for the owner.
    grantor: Option<String>,
}

impl Privilege {
    /// One that the owner gave.
    fn new(grantee: impl Into<String>, kind: impl Into<String>, grantable: bool) -> Self {
        Self { grantee: grantee.into(), kind: kind.into(), grantable, grantor: None }
    }
}

/// The properties of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// The role that owns it.
    pub owner: String,
    /// Its default tablespace.
    pub tablespace: String,
    /// Its comment.
    pub comment: Option<String>,
    /// From `pg_database`, by column: encoding, locale, limits.
    columns: BTreeMap<&'static str, String>,
    /// `None` stands for the defaults.
    privileges: Option<BTreeSet<Privilege>>,
    /// `(role, setting, value)` in their order; an empty role stands for every role.
    pub settings: Vec<(String, String, String)>,
    /// `(provider, label)`
    labels: BTreeSet<(String, String)>,
    /// The version of the collation that it was made with; a new database has the server's.
    pub collation_version: Option<String>,
    /// The role by which the next privilege of a dump is given, if that is not the owner.
    pub(crate) gives: Option<String>,
}

impl Properties {
    /// Properties of a database that has no predecessor.
    #[must_use]
    pub fn new(owner: &str) -> Self {
        Self { owner: owner.to_owned(), ..Self::default() }
    }

    /// Replaces every text that a dump may hold in an encoding of its own.
    #[must_use]
    pub(crate) fn with_texts(mut self, replaced: &mut dyn FnMut(&str) -> String) -> Self {
        self.owner = replaced(&self.owner);
        self.tablespace = replaced(&self.tablespace);
        self.comment = self.comment.map(|text| replaced(&text));
        self.gives = self.gives.map(|role| replaced(&role));
        self.columns.values_mut().for_each(|value| *value = replaced(value));
        let mut privilege = |given: Privilege| Privilege {
            grantee: replaced(&given.grantee),
            grantor: given.grantor.map(|role| replaced(&role)),
            ..given
        };
        self.privileges = self.privileges.map(|given| given.into_iter().map(&mut privilege).collect());
        for (role, name, value) in &mut self.settings {
            (*role, *name, *value) = (replaced(role), replaced(name), replaced(value));
        }
        self.labels = self.labels.iter().map(|(provider, label)| (replaced(provider), replaced(label))).collect();
        self
    }

    /// Gives a database what can be given after it was made, but for the comment, which is part of the swap. It is open to
    /// others from then on.
    pub async fn apply(&self, client: &Client, name: &str) -> Result<()> {
        for statement in self.opening_statements(name) {
            client
                .batch_execute(&statement)
                .await
                .query_context("cannot carry a property of the live database over")
                .map_err(|error| error.with("statement", statement))?;
        }
        Ok(())
    }

    /// The same, as far as it goes: returns the statements that failed, each with its reason.
    pub async fn apply_leniently(&self, client: &Client, name: &str) -> Vec<(String, String)> {
        let mut settled = self.clone();
        let grantors = settled.settle_grantors(client, name).await.unwrap_or_default();
        let mut failed: Vec<_> = grantors.forbidden.into_iter().chain(grantors.owners).collect();
        for statement in settled.opening_statements(name) {
            if let Err(cause) = client.batch_execute(&statement).await {
                failed.push((statement, super::connect::chain(&cause)));
            }
        }
        failed
    }

    /// Tries, before anything is loaded, what [`Properties::apply`] will do to a new database, and undoes it. What this
    /// role may not do is taken out of the settings and privileges.
    ///
    /// Returns the statements that somebody else has to run, each with the server's words.
    pub async fn take_out_forbidden(&mut self, client: &Client, name: &str) -> Result<grantors::Settled> {
        let failed = "cannot try the properties of the live database on the new one";
        let database = ident(name);
        let grantors::Settled { mut forbidden, owners } = self.settle_grantors(client, name).await?;
        client.batch_execute("BEGIN").await.query_context(failed)?;
        let mut settings = Vec::new();
        for item in std::mem::take(&mut self.settings) {
            let statement = setting_statement(&database, &item);
            if allowed(client, statement, &mut forbidden).await.query_context(failed)? {
                settings.push(item);
            }
        }
        self.settings = settings;
        if let Some(privileges) = &mut self.privileges {
            for item in grantors::in_order(&std::mem::take(privileges)) {
                let statement = grant_statement(&database, &item);
                if allowed(client, statement, &mut forbidden).await.query_context(failed)? {
                    privileges.insert(item);
                }
            }
        }
        client.batch_execute("ROLLBACK").await.query_context(failed)?;
        Ok(grantors::Settled { forbidden, owners })
    }

    /// The roles that own it or that its privileges and settings name.
    #[must_use]
    pub fn roles(&self) -> BTreeSet<&str> {
        let given = self.privileges.iter().flatten();
        let grantees = given.flat_map(|item| [Some(item.grantee.as_str()), item.grantor.as_deref()]).flatten();
        let settings = self.settings.iter().map(|(role, ..)| role.as_str());
        std::iter::once(self.owner.as_str()).chain(grantees).chain(settings).filter(|role| !role.is_empty()).collect()
    }

    /// Makes another role the owner, who gets what the owner had.
    pub fn give_to(&mut self, owner: &str) {
        let before = std::mem::replace(&mut self.owner, owner.to_owned());
        let privileges = self.privileges.take();
        self.privileges = privileges.map(|privileges| {
            let given = privileges.into_iter().map(|mut item| {
                if item.grantee == before {
                    owner.clone_into(&mut item.grantee);
                }
                item.grantor = item.grantor.filter(|grantor| grantor != owner);
                item
            });
            given.collect()
        });
    }

    /// Leaves out the privileges: the new database has the defaults.
    pub fn without_privileges(&mut self) {
        self.privileges = None;
    }

    /// Properties of a copy beside the live database: the same encoding, locale, settings for all roles, and privileges of
    /// PUBLIC and the owner. They name no role but the owner.
    #[must_use]
    pub fn for_copy(&self, owner: &str) -> Self {
        let mut copy = Self { comment: None, labels: BTreeSet::new(), ..self.clone() };
        copy.give_to(owner);
        copy.columns.retain(|column, _| !matches!(*column, "datistemplate" | "datconnlimit"));
        copy.settings.retain(|(role, ..)| role.is_empty());
        if let Some(privileges) = &mut copy.privileges {
            privileges.retain(|item| item.grantee.is_empty() || item.grantee == owner);
            *privileges =
                std::mem::take(privileges).into_iter().map(|item| Privilege { grantor: None, ..item }).collect();
        }
        copy
    }

    /// Sets one of the columns of `pg_database`, as its text.
    pub fn set(&mut self, column: &'static str, value: &str) {
        self.columns.insert(column, value.to_owned());
    }

    /// One of the columns of `pg_database`.
    #[must_use]
    pub fn get(&self, column: &str) -> Option<&str> {
        self.columns.get(column).map(String::as_str)
    }

    /// `GRANT` (or `REVOKE`) of one privilege; `None` as the grantee is PUBLIC.
    pub fn grant(&mut self, grantee: Option<&str>, privilege: &str, option: bool) {
        let grantee = grantee.unwrap_or_default();
        let grantor = self.gives.clone().filter(|grantor| *grantor != self.owner);
        let item = Privilege { grantor, ..Privilege::new(grantee, privilege, option) };
        let privileges = self.explicit_privileges();
        privileges.remove(&Privilege { grantable: !option, ..item.clone() });
        privileges.insert(item);
    }

    /// Takes a privilege away again.
    pub fn revoke(&mut self, grantee: Option<&str>, privilege: &str) {
        let grantee = grantee.unwrap_or_default();
        self.explicit_privileges().retain(|item| (item.grantee.as_str(), item.kind.as_str()) != (grantee, privilege));
    }

    fn explicit_privileges(&mut self) -> &mut BTreeSet<Privilege> {
        let owner = &self.owner;
        self.privileges.get_or_insert_with(|| {
            let grantee = |owns: bool| if owns { owner.clone() } else { String::new() };
            DEFAULTS.iter().map(|(owns, privilege)| Privilege::new(grantee(*owns), *privilege, false)).collect()
        })
    }

    /// Adds a security label.
    pub fn label(&mut self, provider: String, label: String) {
        self.labels.insert((provider, label));
    }

    /// Fails if the replacement differs from the live database in anything but its comment ([`Kind::Verify`]).
    pub fn compare(&self, replacement: &Self) -> Result<()> {
        let difference = self.difference(replacement);
        if difference.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::Verify, "the new database differs from the live one in its properties")
            .with("difference", difference.join("\n")))
    }

    fn difference(&self, replacement: &Self) -> Vec<String> {
        let (live, new) = (self.lines(), replacement.lines());
        let missing = live.difference(&new).map(|line| format!("live only: {line}"));
        let extra = new.difference(&live).map(|line| format!("new only:  {line}"));
        missing.chain(extra).collect()
    }

    fn lines(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::from([format!("owner {}", self.owner), format!("tablespace {}", self.tablespace)]);
        lines.extend(self.columns.iter().map(|(column, value)| format!("{column} {value}")));
        match &self.privileges {
            None => drop(lines.insert("privileges: the defaults".into())),
            Some(privileges) => lines.extend(privileges.iter().map(|item| {
                let Privilege { grantee, kind, grantable, grantor } = item;
                let (option, by) = (if *grantable { " with grant option" } else { "" }, grantor.as_deref());
                format!("privilege {kind} of \"{grantee}\"{option}, from {}", by.unwrap_or("the owner"))
            })),
        }
        lines.extend(self.settings.iter().map(|item| format!("setting {item:?}")));
        lines.extend(self.labels.iter().map(|item| format!("security label {item:?}")));
        lines
    }
}

/// Whether the role may run a statement, in a transaction that the caller undoes.
async fn allowed(
    client: &Client,
    statement: String,
    forbidden: &mut Vec<(String, String)>,
) -> std::result::Result<bool, tokio_postgres::Error> {
    client.batch_execute("SAVEPOINT trial").await?;
    match client.batch_execute(&statement).await {
        Ok(()) => Ok(true),
        Err(cause) if cause.as_db_error().is_none() => Err(cause),
        Err(cause) => {
            client.batch_execute("ROLLBACK TO trial").await?;
            forbidden.push((statement, super::connect::chain(&cause)));
            Ok(false)
        }
    }
}
