//! What a database has beside its content, and what no dump of it carries: owner, privileges, settings, comment.
//!
//! All of it is read from the live database, given to its replacement, and compared before the swap. Source:
//! PostgreSQL documentation, `pg_database`, `pg_db_role_setting`, and what `pg_dump --create` writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;
use tokio_postgres::Client;

use crate::database::connect::{QueryContext, chain};
use crate::database::{ident, literal};
use crate::error::{Error, Kind, Result};

/// Settings whose value is a list of names, each to be quoted by itself. Source: `GUC_LIST_QUOTE` in PostgreSQL's
/// `guc_tables.c`, as `pg_dump` uses it.
const NAME_LISTS: &[&str] = &[
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// The columns of `pg_database` that say what the database is; the rest is bookkeeping of the server.
const COLUMNS: &[&str] = &[
    "encoding",
    "datlocprovider",
    "datistemplate",
    "datconnlimit",
    "datcollate",
    "datctype",
    "daticulocale",
    "datlocale",
    "daticurules",
];

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
    /// `(grantee, privilege, grantable)`; an empty grantee is PUBLIC. `None` stands for the defaults.
    privileges: Option<BTreeSet<(String, String, bool)>>,
    /// `(role, setting, value)` in their order; an empty role stands for every role.
    settings: Vec<(String, String, String)>,
}

impl Properties {
    /// Reads them; `None` if there is no such database.
    pub async fn read(client: &Client, name: &str) -> Result<Option<Self>> {
        let failed = || format!("cannot read the properties of database \"{name}\"");
        // As JSON, since the columns differ between versions.
        let row = client
            .query_opt(
                "SELECT to_jsonb(d), pg_get_userbyid(d.datdba), t.spcname, shobj_description(d.oid, 'pg_database'), \
                        d.datacl IS NULL OR ARRAY(SELECT a::text FROM unnest(d.datacl) a ORDER BY 1) \
                            = ARRAY(SELECT a::text FROM unnest(acldefault('d', d.datdba)) a ORDER BY 1), \
                        pg_encoding_to_char(d.encoding) \
                 FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = $1",
                &[&name],
            )
            .await
            .query_context(failed())?;
        let Some(row) = row else { return Ok(None) };
        let json: Value = row.get(0);
        let mut columns = BTreeMap::new();
        for column in COLUMNS {
            match &json[column] {
                Value::Null => {}
                Value::String(text) => drop(columns.insert(*column, text.clone())),
                other => drop(columns.insert(*column, other.to_string())),
            }
        }
        columns.insert("encoding", row.get(5));
        let has_default_privileges: bool = row.get(4);
        let privileges = if has_default_privileges { None } else { Some(privileges(client, name).await?) };
        Ok(Some(Self {
            owner: row.get(1),
            tablespace: row.get(2),
            comment: row.get(3),
            columns,
            privileges,
            settings: settings(client, name).await?,
        }))
    }

    /// What a database gets that has no predecessor.
    #[must_use]
    pub fn new(owner: &str) -> Self {
        Self { owner: owner.to_owned(), ..Self::default() }
    }

    /// `CREATE DATABASE` from template0, with what cannot be changed later.
    #[must_use]
    pub fn create_statement(&self, name: &str) -> String {
        let mut sql = format!("CREATE DATABASE {} TEMPLATE template0 OWNER {}", ident(name), ident(&self.owner));
        let get = |column: &str| self.columns.get(column).map(String::as_str);
        let _ = write!(sql, " ENCODING {}", literal(get("encoding").unwrap_or("UTF8")));
        for (column, word) in [("datcollate", "LC_COLLATE"), ("datctype", "LC_CTYPE")] {
            if let Some(value) = get(column) {
                let _ = write!(sql, " {word} {}", literal(value));
            }
        }
        let (provider, locale) = match get("datlocprovider") {
            Some("i") => ("icu", "ICU_LOCALE"),
            Some("b") => ("builtin", "BUILTIN_LOCALE"),
            _ => ("", ""),
        };
        if let (false, Some(value)) = (provider.is_empty(), get("datlocale").or(get("daticulocale"))) {
            let _ = write!(sql, " LOCALE_PROVIDER {provider} {locale} {}", literal(value));
            if let Some(rules) = get("daticurules") {
                let _ = write!(sql, " ICU_RULES {}", literal(rules));
            }
        }
        // Named, the default one would need a right of its own, which an owner who may create databases lacks.
        if !matches!(self.tablespace.as_str(), "" | "pg_default") {
            let _ = write!(sql, " TABLESPACE {}", ident(&self.tablespace));
        }
        sql
    }

    /// Gives a database what can be given after it was made, but for the comment, which is part of the swap.
    pub async fn apply(&self, client: &Client, name: &str) -> Result<()> {
        for statement in self.statements(name) {
            client
                .batch_execute(&statement)
                .await
                .query_context("cannot carry a property of the live database over")
                .map_err(|error| error.with("statement", statement))?;
        }
        Ok(())
    }

    /// Tries, before anything is loaded, what [`Properties::apply`] will do to a new database, and undoes it. What this
    /// role may not do is taken out of the settings and privileges.
    ///
    /// Returns the statements that somebody else has to run, each with the server's words.
    pub async fn take_out_forbidden(&mut self, client: &Client, name: &str) -> Result<Vec<(String, String)>> {
        let failed = "cannot try the properties of the live database on the new one";
        client.batch_execute("BEGIN").await.query_context(failed)?;
        let mut forbidden = Vec::new();
        let mut settings = Vec::new();
        for item in std::mem::take(&mut self.settings) {
            if allowed(client, setting_statement(name, &item), &mut forbidden).await.query_context(failed)? {
                settings.push(item);
            }
        }
        self.settings = settings;
        if let Some(privileges) = &mut self.privileges {
            for item in std::mem::take(privileges) {
                if allowed(client, grant_statement(name, &item), &mut forbidden).await.query_context(failed)? {
                    privileges.insert(item);
                }
            }
        }
        client.batch_execute("ROLLBACK").await.query_context(failed)?;
        Ok(forbidden)
    }

    fn statements(&self, name: &str) -> Vec<String> {
        let database = ident(name);
        let mut statements = Vec::new();
        match &self.privileges {
            // The staging database was closed to others.
            None => statements.push(format!("GRANT CONNECT, TEMPORARY ON DATABASE {database} TO PUBLIC")),
            Some(privileges) => {
                statements.push(format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC"));
                statements.push(format!("REVOKE ALL ON DATABASE {database} FROM {}", ident(&self.owner)));
                statements.extend(privileges.iter().map(|item| grant_statement(name, item)));
            }
        }
        statements.extend(self.settings.iter().map(|item| setting_statement(name, item)));
        let is = |column: &str, value: &str| self.columns.get(column).is_some_and(|found| found == value);
        if let Some(limit) = self.columns.get("datconnlimit") {
            statements.push(format!("ALTER DATABASE {database} CONNECTION LIMIT {limit}"));
        }
        if is("datistemplate", "true") {
            statements.push(format!("ALTER DATABASE {database} IS_TEMPLATE true"));
        }
        statements
    }

    /// Fails if the replacement differs from the live database in anything but its comment ([`Kind::Verify`]).
    pub fn compare(&self, replacement: &Self) -> Result<()> {
        let (live, new) = (self.lines(), replacement.lines());
        if live == new {
            return Ok(());
        }
        let missing: Vec<String> = live.difference(&new).map(|line| format!("live only: {line}")).collect();
        let extra: Vec<String> = new.difference(&live).map(|line| format!("new only:  {line}")).collect();
        Err(Error::new(Kind::Verify, "the new database differs from the live one in its properties")
            .with("difference", [missing, extra].concat().join("\n")))
    }

    fn lines(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::from([format!("owner {}", self.owner), format!("tablespace {}", self.tablespace)]);
        lines.extend(self.columns.iter().map(|(column, value)| format!("{column} {value}")));
        match &self.privileges {
            None => drop(lines.insert("privileges: the defaults".into())),
            Some(privileges) => lines.extend(privileges.iter().map(|item| format!("privilege {item:?}"))),
        }
        lines.extend(self.settings.iter().map(|item| format!("setting {item:?}")));
        lines
    }
}

fn grant_statement(database: &str, (grantee, privilege, grantable): &(String, String, bool)) -> String {
    let grantee = if grantee.is_empty() { "PUBLIC".to_owned() } else { ident(grantee) };
    let option = if *grantable { " WITH GRANT OPTION" } else { "" };
    format!("GRANT {privilege} ON DATABASE {} TO {grantee}{option}", ident(database))
}

fn setting_statement(database: &str, (role, setting, value): &(String, String, String)) -> String {
    let database = ident(database);
    let subject = if role.is_empty() {
        format!("DATABASE {database}")
    } else {
        format!("ROLE {} IN DATABASE {database}", ident(role))
    };
    format!("ALTER {subject} SET {} TO {}", setting_name(setting), setting_value(setting, value))
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
            forbidden.push((statement, chain(&cause)));
            Ok(false)
        }
    }
}

async fn privileges(client: &Client, name: &str) -> Result<BTreeSet<(String, String, bool)>> {
    let rows = client
        .query(
            "SELECT CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END, a.privilege_type, \
                    a.is_grantable \
             FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = $1",
            &[&name],
        )
        .await
        .query_context("cannot read the privileges of the database")?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

async fn settings(client: &Client, name: &str) -> Result<Vec<(String, String, String)>> {
    let rows = client
        .query(
            "SELECT CASE WHEN s.setrole = 0 THEN '' ELSE pg_get_userbyid(s.setrole)::text END, c \
             FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, \
                  unnest(s.setconfig) WITH ORDINALITY AS u(c, number) \
             WHERE d.datname = $1 ORDER BY s.setrole, number",
            &[&name],
        )
        .await
        .query_context("cannot read the settings of the database")?;
    let split = |config: String| {
        config.split_once('=').map_or((config.clone(), String::new()), |(name, value)| (name.into(), value.into()))
    };
    Ok(rows
        .iter()
        .map(|row| {
            let (name, value) = split(row.get(1));
            (row.get(0), name, value)
        })
        .collect())
}

/// A setting's name, which may be of two parts (`auto_explain.log_min_duration`).
fn setting_name(name: &str) -> String {
    name.split('.').map(ident).collect::<Vec<_>>().join(".")
}

fn setting_value(name: &str, value: &str) -> String {
    if !NAME_LISTS.contains(&name) {
        return literal(value);
    }
    let items = split_names(value);
    if items.is_empty() {
        "''".to_owned()
    } else {
        items.iter().map(|item| literal(item)).collect::<Vec<_>>().join(", ")
    }
}

/// Splits `"$user", public` into its names.
fn split_names(value: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut name = String::new();
    let (mut quoted, mut was_quoted) = (false, false);
    let mut characters = value.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                name.push('"');
            }
            '"' => {
                quoted = !quoted;
                was_quoted = true;
            }
            ',' if !quoted => {
                names.push((std::mem::take(&mut name), std::mem::take(&mut was_quoted)));
            }
            character if character.is_whitespace() && !quoted => {}
            character => name.push(character),
        }
    }
    names.push((name, was_quoted));
    names.into_iter().filter(|(name, quoted)| *quoted || !name.is_empty()).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_names_are_quoted_one_by_one() {
        assert_eq!(setting_value("search_path", "\"$user\", public, \"a,\"\"b\""), "'$user', 'public', 'a,\"b'");
        assert_eq!(setting_value("search_path", ""), "''");
        assert_eq!(setting_value("search_path", "\"\""), "''");
        assert_eq!(setting_value("TimeZone", "Europe/Berlin, x"), "'Europe/Berlin, x'");
        assert_eq!(setting_name("auto_explain.log"), "\"auto_explain\".\"log\"");
    }
}
