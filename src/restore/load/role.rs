//! A role of our own that loads a dump from elsewhere where ours is a superuser.
//!
//! Defaults, checks, computed columns and indexes call functions of the dump while it is loaded. With the rights of a
//! superuser these could do whatever the server's account can. So a role that may do nothing but make objects in the new
//! database makes them; extensions are made before by the superuser, and owners and privileges are given afterwards.
//!
//! `SET SESSION AUTHORIZATION` would be no protection: a function may take it back. So the role has sessions of its own, with
//! a password that nobody else knows; where `pg_hba.conf` does not let it in, the superuser loads.

use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tokio_postgres::Client;
use zeroize::Zeroizing;

use super::Loader;
use super::later::Later;
use super::lost::LostPrivileges;
use super::session::Session;
use super::stream::Statement;
use crate::database::connect::{QueryContext, chain};
use crate::database::{Connector, ident, literal};
use crate::dump::Contents;
use crate::dump::contents::Right;
use crate::dump::source::Source;
use crate::error::{Context, Kind, Result};
use crate::restore::Policy;

const PREFIX: &str = "glovebox_load_";

/// Longer than any load takes. The role of a run that was killed lets nobody in afterwards.
const VALID_UNTIL: &str = "SELECT (pg_catalog.now() + interval '7 days')::text";

/// In kB: no index is made when objects are handed over.
const MEMORY: u64 = 65_536;

/// The role, and what it leaves to the superuser.
pub struct LoadRole {
    name: String,
    connector: Connector,
    pub(super) later: Later,
    found: Mutex<Found>,
}

/// Schemas of the new database before anything is loaded.
#[derive(Clone, Default)]
struct Found {
    /// The number of the schema public, and its owner.
    public: Option<(u32, String)>,
    /// Schemas that were made for extensions.
    schemas: Vec<String>,
}

/// Says of a role for which database it loads.
fn mark(live: &str) -> String {
    format!("glovebox loads a replacement for database {live} as this role")
}

/// Why the objects of a dump do not allow it, if they do not.
pub(in crate::restore) fn obstacle(contents: &Contents, policy: &Policy) -> Option<String> {
    if let Some(view) = contents.materialized.first() {
        // Its rows may depend on who owns it.
        return Some(format!("the materialized view {view} is filled with the rights of its owner"));
    }
    let is_reserved = |(right, _): &&(Right, String)| *right == Right::Superuser;
    // Which of them a part has is not known.
    let first = contents.reserved.iter().find(is_reserved).filter(|_| policy.tables.is_empty());
    first.map(|(_, statement)| format!("only a superuser may {statement}"))
}

impl LoadRole {
    /// Makes the role, which is let into this database.
    ///
    /// # Errors
    /// Those of the server, which may not let it in. There is no role then.
    pub(in crate::restore) async fn make(
        client: &Client,
        connector: &Connector,
        live: &str,
        database: &str,
    ) -> Result<Self> {
        let (name, password) = (format!("{PREFIX}{}", &random()?[..16]), random()?);
        // The server's log may hold the statement, so it gets what the server keeps and not the password.
        let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
        let failed = "cannot make a role to load with";
        let valid_until: String = client.query_one(VALID_UNTIL, &[]).await.query_context(failed)?.get(0);
        let (role, grant) = (ident(&name), format!("CONNECT, CREATE, TEMPORARY ON DATABASE {}", ident(database)));
        let sql = format!(
            "BEGIN; CREATE ROLE {role} LOGIN NOINHERIT BYPASSRLS PASSWORD {} VALID UNTIL {}; \
             COMMENT ON ROLE {role} IS {}; GRANT {grant} TO {role}; COMMIT",
            literal(&verifier),
            literal(&valid_until),
            literal(&mark(live)),
        );
        if let Err(cause) = client.batch_execute(&sql).await {
            let _ = client.batch_execute("ROLLBACK").await;
            return Err(cause).query_context(failed);
        }
        let connector = connector.for_role(&name, password);
        if let Err(error) = connector.connect_to(database).await {
            let sql = format!("REVOKE {grant} FROM {role}; DROP ROLE {role}");
            client.batch_execute(&sql).await.query_context("cannot drop the role that was to load")?;
            return Err(error);
        }
        Ok(Self { name, connector, later: Later::default(), found: Mutex::default() })
    }

    /// Its way to the server.
    pub(in crate::restore) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Its name.
    pub(in crate::restore) fn name(&self) -> &str {
        &self.name
    }

    /// Lets it work in a database, which is new and empty but for extensions. `connector` is the superuser's.
    ///
    /// # Errors
    /// Those of the server.
    pub(in crate::restore) async fn enter(&self, client: &Client, connector: &Connector, database: &str) -> Result<()> {
        let failed = "cannot let a role of our own into the new database";
        self.later.take();
        let role = ident(&self.name);
        let grant = format!("GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {} TO {role}", ident(database));
        client.batch_execute(&grant).await.query_context(failed)?;
        let inside = connector.connect_to(database).await?;
        let sql = "SELECT oid, pg_catalog.pg_get_userbyid(nspowner)::text FROM pg_catalog.pg_namespace WHERE nspname = 'public'";
        let public = inside.query_opt(sql, &[]).await.query_context(failed)?.map(|row| (row.get(0), row.get(1)));
        let sql = "SELECT nspname::text FROM pg_catalog.pg_namespace \
                   WHERE nspname NOT IN ('public', 'information_schema') AND nspname !~ '^pg_'";
        let rows = inside.query(sql, &[]).await.query_context(failed)?;
        let found = Found { public, schemas: rows.iter().map(|row| row.get(0)).collect() };
        // Public may be dropped and made anew, as --clean has it.
        for schema in found.public.iter().map(|_| "public").chain(found.schemas.iter().map(String::as_str)) {
            let own = format!("ALTER SCHEMA {} OWNER TO {role}", ident(schema));
            inside.batch_execute(&own).await.query_context(failed)?;
        }
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(())
    }

    /// Whether a statement makes a schema that is there since an extension wants it.
    pub(super) fn has_made(&self, statement: &Statement) -> bool {
        if !statement.begins(&["CREATE", "SCHEMA"]) {
            return false;
        }
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.schemas.iter().any(|name| {
            let forms = [format!("CREATE SCHEMA {name};"), format!("CREATE SCHEMA {};", ident(name))];
            forms.iter().any(|form| statement.text == form.as_bytes())
        })
    }
}

impl Loader<'_> {
    /// Gives what the role made to those who are to own it, with the privileges.
    ///
    /// # Errors
    /// Those of the server.
    pub(in crate::restore) async fn hand_over(
        &self,
        role: &LoadRole,
        source: &Source,
        contents: &Contents,
        database: &str,
    ) -> Result<()> {
        let failed = "cannot give the objects of the new database to their owners";
        let inside = self.connector.connect_to(database).await?;
        let found = role.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((oid, owner)) = found.public {
            let sql = "SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'public' AND oid = $1";
            let is_the_same = inside.query_opt(sql, &[&oid]).await.query_context(failed)?.is_some();
            if is_the_same {
                let owner = self.public_owner(source, contents).unwrap_or(&owner);
                let sql = format!("ALTER SCHEMA public OWNER TO {}", ident(owner));
                inside.batch_execute(&sql).await.query_context(failed)?;
            }
        }
        let name = ident(&role.name);
        let reassign = format!("REASSIGN OWNED BY {name} TO CURRENT_USER");
        inside.batch_execute(&reassign).await.query_context(failed)?;
        let lost = LostPrivileges::default();
        let mut session = Session::open(self.connector, database, &[], MEMORY, &lost).await?;
        for (statement, settings) in role.later.take() {
            let done = async {
                session.adopt(&settings).await?;
                session.execute(&statement, &settings).await
            };
            done.await.map_err(|failed| failed.into_error(source, "owners and privileges"))?;
        }
        lost.tell(self.reporter, self.connector.user());
        // Its privileges for the database are left.
        inside.batch_execute(&format!("DROP OWNED BY {name}")).await.query_context(failed)
    }
}

/// Drops the roles of runs that are over, of this one too. The caller holds the lock, so no other is at work. One that
/// cannot be dropped is in nobody's way: its password is not known to anybody.
pub(in crate::restore) async fn sweep(client: &Client, live: &str) -> Vec<(String, String)> {
    let sql = "SELECT rolname::text FROM pg_catalog.pg_roles \
               WHERE pg_catalog.starts_with(rolname::text, $1) AND pg_catalog.shobj_description(oid, 'pg_authid') = $2";
    let mut left = Vec::new();
    for row in client.query(sql, &[&PREFIX, &mark(live)]).await.unwrap_or_default() {
        let name: String = row.get(0);
        if let Err(cause) = client.batch_execute(&format!("DROP ROLE IF EXISTS {}", ident(&name))).await {
            left.push((name, chain(&cause)));
        }
    }
    left
}

/// 64 hexadecimal digits that nobody can guess.
fn random() -> Result<String> {
    let mut bytes = Zeroizing::new([0; 32]);
    rustix::rand::getrandom(bytes.as_mut_slice(), rustix::rand::GetRandomFlags::empty())
        .context(Kind::Attention, "the system gives no random numbers")?;
    Ok(crate::dump::hex(Sha256::new_with_prefix(bytes.as_slice())))
}
