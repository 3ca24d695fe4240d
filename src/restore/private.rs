//! A drill in a private server, which looks like the live one to what is loaded.
//!
//! It has the roles of the live server, without passwords, and a database of the live one's name with its properties and
//! extensions, but without rows. So the drill beside it takes the same steps as one beside the live database, whose server
//! nothing of the dump reaches. In: the live server, which is only read. Out: an [`Env`] for [`Session`].

use std::path::Path;
use std::sync::OnceLock;

use tokio_postgres::Row;

use super::check::Live;
use super::{Policy, Session, extensions};
use crate::database::connect::{QueryContext, server_version};
use crate::database::lock::{Lock, Purpose};
use crate::database::private::{self, PrivateServer};
use crate::database::tools::Tools;
use crate::database::{Connector, Properties, Setting, ident};
use crate::dump::Contents;
use crate::dump::contents::Extension;
use crate::env::Env;
use crate::error::{Error, Kind, Result};

/// Facts of the live server.
struct Seen {
    version: u32,
    /// The role that `initdb` made.
    superuser: String,
    roles: Vec<Row>,
    memberships: Vec<Row>,
    properties: Option<Properties>,
    extensions: Vec<Extension>,
    live: Option<Live>,
    /// Settings that the application has; `None` if the live database could not be looked into.
    application: Option<Vec<Setting>>,
}

/// A private server, ready for a drill.
pub struct Private {
    server: PrivateServer,
    env: Env,
    seen: Seen,
    /// The database in which extensions are tried.
    place: String,
    unfit: OnceLock<String>,
}

impl Private {
    /// Starts one for the live server of these settings, and makes its roles and its database.
    ///
    /// # Errors
    /// [`Kind::Refused`] if there can be none here; those of asking the live server.
    pub async fn start(env: &Env) -> Result<Self> {
        PrivateServer::refuse_root()?;
        let state_dir = &env.settings.state_dir;
        for dir in PrivateServer::sweep(state_dir) {
            env.reporter.info(&format!("removed {}, which a run that was killed had left behind", dir.display()));
        }
        let seen = Seen::read(env).await?;
        let major = seen.version / 10_000;
        let tools = Tools::find_server(env.settings.database.tools.as_deref(), major).await?;
        let missing = || Error::new(Kind::Refused, format!("initdb and postgres of PostgreSQL {major} are not here"));
        let tools = tools.ok_or_else(missing)?;
        env.reporter.step("starting a private server").await;
        let server = PrivateServer::start(&tools, state_dir, &seen.superuser, &env.connector).await?;
        let mut private_env = env.without_files();
        private_env.settings.database =
            private::settings(&env.settings.database, &server.socket(), &env.settings.database.user);
        private_env.connector = env.connector.for_private(&server.socket(), env.connector.user());
        let mut private =
            Self { server, env: private_env, seen, place: "template1".to_owned(), unfit: OnceLock::new() };
        match private.furnish().await {
            Ok(()) => Ok(private),
            Err(error) => {
                private.stop().await;
                Err(error)
            }
        }
    }

    /// The context of a session in it.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Why it turned out to be no place for what is to be loaded, if it did.
    #[must_use]
    pub fn unfit(&self) -> Option<&str> {
        self.unfit.get().map(String::as_str)
    }

    /// Whether it has a database like the live one.
    pub(super) fn has_database(&self) -> bool {
        self.place == self.env.settings.database.name
    }

    /// The live database as it was found when the server was made.
    pub(super) fn live(&self) -> Option<Live> {
        self.seen.live.clone()
    }

    /// Settings of the application in the live database.
    pub(super) fn application(&self) -> Option<Vec<Setting>> {
        self.seen.application.clone()
    }

    /// Notes why it is no place for what is to be loaded.
    pub(super) fn is_unfit(&self, why: &str) {
        let _ = self.unfit.set(why.to_owned());
    }

    /// The directory that holds all its files.
    pub(super) fn directory(&self) -> &Path {
        self.server.directory()
    }

    /// Ends it and removes its directory.
    pub async fn stop(self) {
        if let Some(why) = self.server.stop().await {
            self.env.reporter.warn(&format!("{why}; the next drill tries again"));
        }
    }

    /// Whether the extensions of a dump can be made in it. One may have to be preloaded, which nothing is here.
    pub(super) async fn has_extensions(&self, contents: &Contents, policy: &Policy) -> Result<()> {
        let failed = extensions::not_available(&self.env.connector, &self.place, contents, policy).await?;
        if let Some((name, cause)) = failed.first() {
            let cause = cause.lines().next().unwrap_or_default();
            self.is_unfit(&format!("it does not make the extension \"{name}\": {cause}"));
            return Err(extensions::cannot_be_made(&failed));
        }
        Ok(())
    }

    /// Makes the roles and the database.
    async fn furnish(&mut self) -> Result<()> {
        let connector = self.env.connector.for_private(&self.server.socket(), &self.seen.superuser);
        let client = connector.connect_to("template1").await?;
        for statement in self.seen.role_statements() {
            client
                .batch_execute(&statement)
                .await
                .query_context("cannot make the roles of the live server in a private one")
                .map_err(|error| error.with("statement", statement))?;
        }
        let name = self.env.settings.database.name.clone();
        let Some(properties) = self.seen.properties.take() else { return Ok(()) };
        // It cannot be made anew while the client is connected to it, and is as good as it is.
        if name == "template1" {
            return Ok(());
        }
        let failed = "cannot make a database like the live one in a private server";
        let drop = format!("DROP DATABASE IF EXISTS {}", ident(&name));
        client.batch_execute(&drop).await.query_context(failed)?;
        let create = properties.create_statement(&name, self.seen.version);
        client.batch_execute(&create).await.query_context(failed)?;
        for (statement, why) in properties.apply_leniently(&client, &name).await {
            self.env.reporter.debug(&format!("a private server does not take {statement}: {why}"));
        }
        self.make_extensions(&connector, &name).await?;
        self.place = name;
        Ok(())
    }

    /// Those of the live database, which a dump of some schemas uses and does not make.
    async fn make_extensions(&self, connector: &Connector, name: &str) -> Result<()> {
        let client = connector.connect_with_default_path(name).await?;
        for extension in &self.seen.extensions {
            let name = ident(&extension.name);
            let schema = ident(extension.schema.as_deref().unwrap_or("public"));
            let there = format!(
                "CREATE SCHEMA IF NOT EXISTS {schema}; CREATE EXTENSION IF NOT EXISTS {name} WITH SCHEMA {schema} CASCADE"
            );
            // One that makes its own schema does not want it to be there.
            let alone = format!("CREATE EXTENSION IF NOT EXISTS {name} CASCADE");
            if client.batch_execute(&there).await.is_ok() || client.batch_execute(&alone).await.is_ok() {
                continue;
            }
            self.env.reporter.debug(&format!("a private server does not make the extension \"{}\"", extension.name));
        }
        Ok(())
    }
}

impl<'a> Session<'a> {
    /// A session in a private server, for a drill.
    pub async fn begin_in_private(private: &'a Private) -> Result<Self> {
        let env = private.env();
        let lock = env.interrupt.guard(Lock::take(&env.connector, Purpose::Restore)).await?;
        Ok(Self { private: Some(private), ..Self::with_lock(env, lock).await? })
    }

    /// Drops what killed runs left on the live server, and lets others go on there. A run that is at work needs no help.
    ///
    /// # Errors
    /// A signal; nothing else is in the way of a drill in a private server.
    pub async fn tidy(env: &'a Env) -> Result<()> {
        match Self::begin(env).await {
            Ok(session) => {
                // Its end would come too late for a drill beside the live database, which takes the lock again.
                let _ = session.lock.release().await;
            }
            Err(error) if matches!(error.kind(), Kind::Signal(_)) => return Err(error),
            Err(_) => {}
        }
        Ok(())
    }
}

impl Session<'_> {
    /// The live database, if there is one.
    pub(super) async fn look_at_live(&self) -> Result<Option<Live>> {
        let env = self.env;
        if let Some(private) = self.private {
            return Ok(private.live());
        }
        Ok(match Live::read(self.client(), &env.connector).await? {
            Some((live, remark)) => {
                if let Some(remark) = remark {
                    env.reporter.warn(&format!("the live database cannot be looked into:\n{remark}"));
                }
                Some(live)
            }
            None => None,
        })
    }

    /// The options in a private server, which has no tablespaces; elsewhere they are as they were.
    pub(super) async fn policy_in_private(&self, contents: &Contents, policy: &Policy) -> Result<Policy> {
        let Some(private) = self.private else { return Ok(policy.clone()) };
        private.has_extensions(contents, policy).await?;
        if !policy.no_tablespaces && !contents.tablespaces.is_empty() {
            self.env.reporter.info("tablespaces are left out: a private server has none");
        }
        Ok(Policy { no_tablespaces: true, ..policy.clone() })
    }
}

impl Seen {
    async fn read(env: &Env) -> Result<Self> {
        let connector = &env.connector;
        let client = connector.connect_maintenance_or_own().await?;
        let failed = "cannot read the roles of the live server";
        // Of one moment: a membership of a role that came in between could not be given.
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.query_context(failed)?;
        let roles = "SELECT rolname::text, rolsuper, rolcreatedb, rolcreaterole, rolinherit, rolcanlogin, rolbypassrls, \
                            oid = 10 FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY oid";
        let roles = client.query(roles, &[]).await.query_context(failed)?;
        let first = roles.iter().find(|row| row.get(7)).map(|row| row.get(0));
        let superuser = first.ok_or_else(|| Error::new(Kind::Source, "the live server has no first role"))?;
        let memberships = client.query(MEMBERSHIPS, &[]).await.query_context(failed)?;
        client.batch_execute("COMMIT").await.query_context(failed)?;
        let live = match Live::read(&client, connector).await? {
            Some((live, remark)) => {
                if let Some(remark) = remark {
                    env.reporter.warn(&format!("the live database cannot be looked into:\n{remark}"));
                }
                Some(live)
            }
            None => None,
        };
        let name = &env.settings.database.name;
        let mut properties = Properties::read(&client, name).await?;
        if let Some(properties) = &mut properties {
            properties.tablespace = String::new();
        }
        let application = if live.is_some() { connector.application_settings().await.ok() } else { None };
        let extensions = if live.is_some() { extensions_of(connector).await.unwrap_or_default() } else { Vec::new() };
        let version = server_version(&client).await?;
        Ok(Self { version, superuser, roles, memberships, properties, extensions, live, application })
    }

    /// The statements that make the roles, in one server that has the first of them only.
    fn role_statements(&self) -> Vec<String> {
        let words = ["SUPERUSER", "CREATEDB", "CREATEROLE", "INHERIT", "LOGIN", "BYPASSRLS"];
        let role = |row: &Row| {
            let options = words.iter().enumerate().map(|(number, word)| {
                if row.get::<_, bool>(number + 1) { (*word).to_owned() } else { format!("NO{word}") }
            });
            format!("CREATE ROLE {} {}", ident(row.get(0)), options.collect::<Vec<_>>().join(" "))
        };
        let membership = |row: &Row| {
            let (role, member): (&str, &str) = (row.get(0), row.get(1));
            let options: Option<&str> = row.get(2);
            format!("GRANT {} TO {}{}", ident(role), ident(member), options.unwrap_or_default())
        };
        let others = self.roles.iter().filter(|row| !row.get::<_, bool>(7));
        others.map(role).chain(self.memberships.iter().map(membership)).collect()
    }
}

/// Who is a member of what, with the options as GRANT takes them. A role may be given several times, by different ones.
const MEMBERSHIPS: &str = "SELECT r.rolname::text, m.rolname::text, \
            CASE WHEN current_setting('server_version_num')::int >= 160000 \
                 THEN format(' WITH ADMIN %s, INHERIT %s, SET %s', a.admin_option, \
                             to_jsonb(a) ->> 'inherit_option', to_jsonb(a) ->> 'set_option') \
                 WHEN a.admin_option THEN ' WITH ADMIN OPTION' END \
       FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member \
      WHERE m.rolname !~ '^pg_' ORDER BY a.admin_option";

async fn extensions_of(connector: &Connector) -> Result<Vec<Extension>> {
    let client = connector.connect().await?;
    let sql = "SELECT e.extname::text, n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace \
               WHERE e.extname <> 'plpgsql' ORDER BY e.oid";
    let rows = client.query(sql, &[]).await.query_context("cannot list the extensions")?;
    Ok(rows.iter().map(|row| Extension { name: row.get(0), schema: row.get(1) }).collect())
}
