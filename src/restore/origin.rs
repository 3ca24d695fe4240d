//! Origin of the new database's properties: owner, encoding, locale, privileges, settings, comment.
//!
//! They are those of the live database, if there is one; else those in the backup's manifest, or in the dump's own
//! `CREATE DATABASE`. Properties that cannot be taken over are named, each with the statement that sets it.

use tokio_postgres::Client;

use super::stored::Stored;
use super::{Destination, Policy, staging};
use crate::database::connect::QueryContext;
use crate::database::{Connector, Properties};
use crate::database::{ident, literal};
use crate::dump::Contents;
use crate::dump::rules::RoleUse;
use crate::env::Env;
use crate::error::{Error, Kind, Result};

/// Who says what the new database is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// The live database, which is there.
    Live,
    /// The backup's manifest.
    Backup,
    /// The dump's own `CREATE DATABASE`.
    Dump,
    /// Nobody.
    Nobody,
}

/// The properties of the database to be made, and who says so.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The properties.
    pub properties: Properties,
    /// Who says so.
    pub witness: Witness,
}

impl Origin {
    /// Finds out what the new database is to be, and says what will be otherwise than it was.
    pub async fn find(
        client: &Client,
        env: &Env,
        live: Option<&str>,
        contents: &Contents,
        stored: Option<&Stored>,
        destination: &Destination,
        policy: &Policy,
    ) -> Result<Self> {
        let user = &env.settings.database.user;
        let said = match stored {
            Some(stored) => Some((stored.manifest.facts.properties(), Witness::Backup)),
            None => contents.database.clone().map(|properties| (properties, Witness::Dump)),
        };
        let present = match live {
            Some(name) => Properties::read(client, name).await?,
            None => None,
        };
        let mut origin = match (present, said) {
            (Some(properties), said) => {
                if let Some((said, _)) = said.filter(|(said, _)| !said.same_locale(&properties)) {
                    tell_other_locale(env, &properties, &said);
                }
                Self { properties, witness: Witness::Live }
            }
            (None, Some((properties, witness))) if *destination == Destination::Live => {
                let mut origin = Self { properties, witness };
                origin.adapt(client, env, policy).await?;
                origin
            }
            (None, Some((properties, witness))) => {
                let mut origin = Self { properties: properties.for_copy(user), witness };
                origin.keep_known_tablespace(client, env).await?;
                origin
            }
            (None, None) => Self { properties: Properties::new(user), witness: Witness::Nobody },
        };
        if let Some(locale) = &policy.locale {
            origin.properties.set_locale(locale).map_err(|error| error.with("state", "nothing was touched"))?;
        }
        if origin.witness == Witness::Nobody && *destination == Destination::Live {
            tell_unknown(env);
        }
        Ok(origin)
    }

    /// The roles that it needs, where those of a live database are not there to be taken for granted.
    #[must_use]
    pub fn roles(&self) -> Vec<(RoleUse, String)> {
        let used = |role: &str| {
            let by = if role == self.properties.owner { RoleUse::Owner } else { RoleUse::Privilege };
            (by, role.to_owned())
        };
        match self.witness {
            Witness::Backup | Witness::Dump => self.properties.roles().into_iter().map(used).collect(),
            Witness::Live | Witness::Nobody => Vec::new(),
        }
    }

    /// Makes of what was said what is possible here, and what the command line allows.
    async fn adapt(&mut self, client: &Client, env: &Env, policy: &Policy) -> Result<()> {
        let user = &env.settings.database.user;
        if policy.no_owner || self.properties.owner.is_empty() {
            self.properties.give_to(user);
        }
        if policy.no_privileges {
            self.properties.without_privileges();
            let known = known_roles(client, &self.properties).await?;
            self.leave_out_settings(env, "the role is not there", |role, _| {
                role.is_empty() || known.iter().any(|known| known == role)
            });
        }
        self.keep_possible_owner(client, env).await?;
        self.keep_known_tablespace(client, env).await?;
        if self.witness == Witness::Dump && !policy.trust_dump {
            let powerful = superuser_settings(client, &self.properties).await?;
            self.leave_out_settings(
                env,
                "only a superuser may set it, and a dump is not trusted that far",
                |_, name| !powerful.iter().any(|known| known == name),
            );
        }
        Ok(())
    }

    /// Drops the settings that `keep` does not want, and says so.
    fn leave_out_settings(&mut self, env: &Env, why: &str, keep: impl Fn(&str, &str) -> bool) {
        let database = ident(&env.settings.database.name);
        let (kept, left) = std::mem::take(&mut self.properties.settings)
            .into_iter()
            .partition(|(role, name, _): &(String, String, String)| keep(role, name));
        self.properties.settings = kept;
        let left: Vec<String> = left
            .into_iter()
            .map(|(role, name, value)| {
                let subject = if role.is_empty() {
                    format!("DATABASE {database}")
                } else {
                    format!("ROLE {} IN DATABASE {database}", ident(&role))
                };
                format!("ALTER {subject} SET {} TO {}", ident(&name), literal(&value))
            })
            .collect();
        if !left.is_empty() {
            env.reporter.warn(&format!("settings that are not taken over ({why}):\n{}", left.join("\n")));
        }
    }

    /// The database goes to a role that this one may set, and whose rights it has all the same: else nobody could give
    /// it its properties, or drop it.
    async fn keep_possible_owner(&mut self, client: &Client, env: &Env) -> Result<()> {
        let sql = "SELECT NOT (pg_has_role(current_user, r.oid, 'USAGE') AND pg_has_role(current_user, r.oid, CASE WHEN \
                     current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)) \
                   FROM pg_roles r WHERE r.rolname = $1";
        let row = client.query_opt(sql, &[&self.properties.owner]).await.query_context("cannot ask for the role")?;
        if row.is_some_and(|row| row.get(0)) {
            let (name, user) = (ident(&env.settings.database.name), &env.settings.database.user);
            let owner = ident(&self.properties.owner);
            env.reporter.warn(&format!(
                "role \"{user}\" may not give the database to {owner}, its owner until now, and keeps it; as a superuser: \
                 ALTER DATABASE {name} OWNER TO {owner}"
            ));
            self.properties.give_to(user);
        }
        Ok(())
    }

    async fn keep_known_tablespace(&mut self, client: &Client, env: &Env) -> Result<()> {
        let space = &self.properties.tablespace;
        let sql = "SELECT EXISTS (SELECT FROM pg_tablespace WHERE spcname = $1)";
        let row = client.query_one(sql, &[space]).await.query_context("cannot ask for the tablespaces")?;
        if !space.is_empty() && !row.get::<_, bool>(0) {
            env.reporter.warn(&format!(
                "the database was in the tablespace {}, which is not here, and goes into the default one; after CREATE \
                 TABLESPACE, ALTER DATABASE {} SET TABLESPACE moves it",
                ident(space),
                ident(&env.settings.database.name)
            ));
            self.properties.tablespace = String::new();
        }
        Ok(())
    }

    /// Whether the server can make such a database: makes an empty one and drops it. Only where no live database proves it.
    pub async fn probe(&self, client: &Client, connector: &Connector, name: &str, server: u32) -> Result<()> {
        let mut empty = self.properties.clone();
        empty.give_to(connector.user());
        match staging::create(client, connector, connector.database_name(), name, &empty, server).await {
            Ok(()) => staging::drop_database(client, connector, name).await,
            Err(error) => {
                let cause = error.detail("cause").unwrap_or_default().to_owned();
                let near = nearest(client, &self.properties).await;
                let message = format!("this server cannot make a database with {}", self.properties.shown_locale());
                Err(Error::new(Kind::Refused, message)
                    .with("cause", cause)
                    .with("near it", near.join(", "))
                    .with("state", "nothing was touched")
                    .hint(format!(
                        "Give the server what is missing (Debian: `dpkg-reconfigure locales`, then restart it), or choose \
                         another one: --locale {}. Texts are then ordered in its way.",
                        near.first().map_or("C.UTF-8", String::as_str)
                    )))
            }
        }
    }

    /// Gives the new database what can be given after it was made.
    pub async fn apply(&self, client: &Client, env: &Env, name: &str) -> Result<()> {
        if self.witness == Witness::Live {
            self.properties.apply(client, name).await?;
            let copied = Properties::read(client, name).await?.unwrap_or_default();
            return self.properties.compare(&copied);
        }
        let database = &env.settings.database.name;
        let failed = self.properties.apply_leniently(client, name).await;
        let lines: Vec<String> = failed
            .into_iter()
            .map(|(statement, why)| format!("{} ({why})", statement.replace(&ident(name), &ident(database))))
            .collect();
        if !lines.is_empty() {
            env.reporter.warn(&format!("not taken over from the backup:\n{}", lines.join("\n")));
        }
        let made = Properties::read(client, name).await?.unwrap_or_default();
        if let (Some(before), Some(now)) = (&self.properties.collation_version, &made.collation_version)
            && before != now
        {
            env.reporter.info(&format!(
                "the locale's version was {before} and is {now} here: texts may be in another order; all indexes were built anew"
            ));
        }
        Ok(())
    }
}

fn tell_other_locale(env: &Env, present: &Properties, said: &Properties) {
    env.reporter.warn(&format!(
        "the live database has {}, the backup's had {}: the live one's stays; texts may be in another order, and a \
         character that the encoding does not have ends the load (--locale chooses another locale)",
        present.shown_locale(),
        said.shown_locale()
    ));
}

fn tell_unknown(env: &Env) {
    let (name, user) = (ident(&env.settings.database.name), &env.settings.database.user);
    env.reporter.warn(&format!(
        "there is no live database, and the dump does not say what it was (pg_dump --create writes that): owner, encoding and \
         locale, privileges, settings, connection limit and comment are not taken over. It gets owner \"{user}\", UTF8 and the \
         server's own locale (--locale chooses another one), and everybody may connect. If it was otherwise:\n\
         ALTER DATABASE {name} OWNER TO …\n\
         REVOKE CONNECT ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO …\n\
         ALTER DATABASE {name} SET … TO …; ALTER ROLE … IN DATABASE {name} SET … TO …\n\
         ALTER DATABASE {name} CONNECTION LIMIT …; COMMENT ON DATABASE {name} IS …"
    ));
}

async fn known_roles(client: &Client, properties: &Properties) -> Result<Vec<String>> {
    let wanted: Vec<&str> = properties.roles().into_iter().collect();
    let sql = "SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1)";
    let rows = client.query(sql, &[&wanted]).await.query_context("cannot ask for the roles")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Those of its settings that only a superuser may set.
async fn superuser_settings(client: &Client, properties: &Properties) -> Result<Vec<String>> {
    let names: Vec<&str> = properties.settings.iter().map(|(_, name, _)| name.as_str()).collect();
    let sql = "SELECT w FROM unnest($1::text[]) w JOIN pg_settings s ON lower(s.name) = lower(w) \
               WHERE s.context NOT IN ('user', 'backend')";
    let rows = client.query(sql, &[&names]).await.query_context("cannot ask for the settings")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Locales of this server that are of the same language, and the one that is always there, as `--locale` takes them.
async fn nearest(client: &Client, properties: &Properties) -> Vec<String> {
    let locale = properties.get("datlocale").or(properties.get("datcollate")).unwrap_or_default();
    let language: String = locale.chars().take_while(char::is_ascii_alphabetic).collect();
    let sql = "SELECT DISTINCT CASE collprovider WHEN 'i' THEN 'icu:' ELSE '' END || \
                      coalesce(to_jsonb(c) ->> 'collcollate', to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale') \
               FROM pg_collation c WHERE collprovider IN ('c', 'i') AND collname ~* ('^' || $1 || '([_-]|$)') \
                 AND (collprovider = 'i' OR collencoding IN (-1, pg_char_to_encoding($2))) ORDER BY 1 DESC LIMIT 4";
    let encoding = properties.get("encoding").unwrap_or("UTF8");
    let mut found = Vec::new();
    if language.len() > 1 {
        let rows = client.query(sql, &[&language, &encoding]).await.unwrap_or_default();
        found.extend(rows.iter().filter_map(|row| row.get::<_, Option<String>>(0)));
    }
    found.push(if encoding == "UTF8" { "C.UTF-8" } else { "C" }.to_owned());
    found
}
