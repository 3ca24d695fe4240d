//! What a database has beside its content: owner, encoding and locale, privileges, settings, comment.
//!
//! A restore reads all of it from the live database, from a backup's manifest or from a dump's own `CREATE DATABASE`, gives
//! it to the new database, and compares. Source: PostgreSQL documentation, `pg_database`, `pg_db_role_setting`, and what
//! `pg_dump --create` writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;
use tokio_postgres::Client;

use super::connect::QueryContext;
use super::{ident, literal};
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
    "datlocale",
    "daticurules",
];

/// What everybody, and what the owner, may do with a database as long as nobody says otherwise.
const DEFAULTS: &[(bool, &str)] =
    &[(false, "CONNECT"), (false, "TEMPORARY"), (true, "CONNECT"), (true, "CREATE"), (true, "TEMPORARY")];

/// The letters of these privileges in an `aclitem`.
const LETTERS: &[(char, &str)] = &[('C', "CREATE"), ('T', "TEMPORARY"), ('c', "CONNECT")];

/// `(grantee, privilege, grantable)`; an empty grantee is PUBLIC.
type Privilege = (String, String, bool);

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
        let mut columns = columns(&json);
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
            labels: labels(client, name).await?,
            collation_version: json["datcollversion"].as_str().map(str::to_owned),
        }))
    }

    /// From a row of `pg_database` as JSON, in which owner, encoding, tablespace and comment are named, and the
    /// privileges are a list of `aclitem`s.
    #[must_use]
    pub fn from_json(database: &Value, settings: Vec<(String, String, String)>) -> Self {
        let text = |key: &str| database[key].as_str().map(str::to_owned);
        let items = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        let labels = database["security_labels"].as_array().into_iter().flatten().map(items);
        Self {
            owner: text("owner").unwrap_or_default(),
            tablespace: text("tablespace").unwrap_or_default(),
            comment: text("comment"),
            columns: columns(database),
            privileges: database["datacl"]
                .is_array()
                .then(|| items(&database["datacl"]).iter().filter_map(|item| acl_item(item)).flatten().collect()),
            settings,
            labels: labels.filter_map(|pair| Some((pair.first()?.clone(), pair.get(1)?.clone()))).collect(),
            collation_version: text("datcollversion"),
        }
    }

    /// What a database gets that has no predecessor.
    #[must_use]
    pub fn new(owner: &str) -> Self {
        Self { owner: owner.to_owned(), ..Self::default() }
    }

    /// `CREATE DATABASE` from template0, with what cannot be changed later, for a server of this version.
    #[must_use]
    pub fn create_statement(&self, name: &str, server: u32) -> String {
        let mut sql = format!("CREATE DATABASE {} TEMPLATE template0 OWNER {}", ident(name), ident(&self.owner));
        let get = |column: &str| self.columns.get(column).map(String::as_str);
        let _ = write!(sql, " ENCODING {}", literal(get("encoding").unwrap_or("UTF8")));
        for (column, word) in [("datcollate", "LC_COLLATE"), ("datctype", "LC_CTYPE")] {
            if let Some(value) = get(column) {
                let _ = write!(sql, " {word} {}", literal(value));
            }
        }
        match (get("datlocprovider"), get("datlocale")) {
            (Some("i"), Some(locale)) => {
                let _ = write!(sql, " LOCALE_PROVIDER icu ICU_LOCALE {}", literal(locale));
                if let Some(rules) = get("daticurules") {
                    let _ = write!(sql, " ICU_RULES {}", literal(rules));
                }
            }
            (Some("b"), Some(locale)) => {
                let _ = write!(sql, " LOCALE_PROVIDER builtin BUILTIN_LOCALE {}", literal(locale));
            }
            // Without it, template0's provider would be taken, which may be another one.
            (Some("c"), _) if server >= 150_000 && get("datcollate").is_some() => sql.push_str(" LOCALE_PROVIDER libc"),
            _ => {}
        }
        // Named, the default one would need a right of its own, which an owner who may create databases lacks.
        if !matches!(self.tablespace.as_str(), "" | "pg_default") {
            let _ = write!(sql, " TABLESPACE {}", ident(&self.tablespace));
        }
        sql
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
        let mut failed = Vec::new();
        for statement in self.opening_statements(name) {
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
    pub async fn take_out_forbidden(&mut self, client: &Client, name: &str) -> Result<Vec<(String, String)>> {
        let failed = "cannot try the properties of the live database on the new one";
        let database = ident(name);
        client.batch_execute("BEGIN").await.query_context(failed)?;
        let mut forbidden = Vec::new();
        let mut settings = Vec::new();
        for item in std::mem::take(&mut self.settings) {
            let statement = setting_statement(&database, &item);
            if allowed(client, statement, &mut forbidden).await.query_context(failed)? {
                settings.push(item);
            }
        }
        self.settings = settings;
        if let Some(privileges) = &mut self.privileges {
            for item in std::mem::take(privileges) {
                let statement = grant_statement(&database, &item);
                if allowed(client, statement, &mut forbidden).await.query_context(failed)? {
                    privileges.insert(item);
                }
            }
        }
        client.batch_execute("ROLLBACK").await.query_context(failed)?;
        Ok(forbidden)
    }

    /// The statements for a staging database, which was closed to others.
    fn opening_statements(&self, name: &str) -> Vec<String> {
        let database = ident(name);
        let mut statements = self.statements_for(&database);
        if self.privileges.is_none() {
            statements.insert(0, format!("GRANT CONNECT, TEMPORARY ON DATABASE {database} TO PUBLIC"));
        }
        statements
    }

    /// The statements that give a database what can be given after it was made, but for the comment. Its name is quoted
    /// already.
    #[must_use]
    pub fn statements_for(&self, database: &str) -> Vec<String> {
        let mut statements = Vec::new();
        if let Some(privileges) = &self.privileges {
            statements.push(format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC"));
            if !self.owner.is_empty() {
                statements.push(format!("REVOKE ALL ON DATABASE {database} FROM {}", ident(&self.owner)));
            }
            statements.extend(privileges.iter().map(|item| grant_statement(database, item)));
        }
        statements.extend(self.settings.iter().map(|item| setting_statement(database, item)));
        let is = |column: &str, value: &str| self.columns.get(column).is_some_and(|found| found == value);
        if let Some(limit) = self.columns.get("datconnlimit").filter(|_| !is("datconnlimit", "-2")) {
            statements.push(format!("ALTER DATABASE {database} CONNECTION LIMIT {limit}"));
        }
        if is("datistemplate", "true") {
            statements.push(format!("ALTER DATABASE {database} IS_TEMPLATE true"));
        }
        for (provider, label) in &self.labels {
            let (provider, label) = (ident(provider), literal(label));
            statements.push(format!("SECURITY LABEL FOR {provider} ON DATABASE {database} IS {label}"));
        }
        statements
    }

    /// The roles that own it or that its privileges and settings name.
    #[must_use]
    pub fn roles(&self) -> BTreeSet<&str> {
        let grantees = self.privileges.iter().flatten().map(|(grantee, ..)| grantee.as_str());
        let settings = self.settings.iter().map(|(role, ..)| role.as_str());
        std::iter::once(self.owner.as_str()).chain(grantees).chain(settings).filter(|role| !role.is_empty()).collect()
    }

    /// Makes another role the owner, who gets what the owner had.
    pub fn give_to(&mut self, owner: &str) {
        let before = std::mem::replace(&mut self.owner, owner.to_owned());
        self.privileges = self.privileges.take().map(|privileges| {
            let renamed = |grantee: String| if grantee == before { owner.to_owned() } else { grantee };
            privileges.into_iter().map(|(grantee, privilege, option)| (renamed(grantee), privilege, option)).collect()
        });
    }

    /// Leaves out the privileges: the new database has the defaults.
    pub fn without_privileges(&mut self) {
        self.privileges = None;
    }

    /// What a copy beside the live database needs of it: encoding, locale, the settings of all roles, and a door that is
    /// as closed to everybody. Nothing in it names a role but the owner.
    #[must_use]
    pub fn for_copy(&self, owner: &str) -> Self {
        let mut copy = Self { comment: None, labels: BTreeSet::new(), ..self.clone() };
        copy.give_to(owner);
        copy.columns.retain(|column, _| !matches!(*column, "datistemplate" | "datconnlimit"));
        copy.settings.retain(|(role, ..)| role.is_empty());
        if let Some(privileges) = &mut copy.privileges {
            privileges.retain(|(grantee, ..)| grantee.is_empty() || grantee == owner);
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
        let grantee = grantee.unwrap_or_default().to_owned();
        let privileges = self.explicit_privileges();
        privileges.remove(&(grantee.clone(), privilege.to_owned(), !option));
        privileges.insert((grantee, privilege.to_owned(), option));
    }

    /// Takes a privilege away again.
    pub fn revoke(&mut self, grantee: Option<&str>, privilege: &str) {
        let grantee = grantee.unwrap_or_default();
        self.explicit_privileges().retain(|(known, kind, _)| (known.as_str(), kind.as_str()) != (grantee, privilege));
    }

    fn explicit_privileges(&mut self) -> &mut BTreeSet<Privilege> {
        let owner = &self.owner;
        self.privileges.get_or_insert_with(|| {
            let grantee = |owns: bool| if owns { owner.clone() } else { String::new() };
            DEFAULTS.iter().map(|(owns, privilege)| (grantee(*owns), (*privilege).to_owned(), false)).collect()
        })
    }

    /// Adds a security label.
    pub fn label(&mut self, provider: String, label: String) {
        self.labels.insert((provider, label));
    }

    /// Chooses another locale: `libc:NAME`, `icu:NAME`, `builtin:NAME`; without a provider it is libc's.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it is none of these.
    pub fn set_locale(&mut self, spec: &str) -> Result<()> {
        let (provider, locale) = spec.split_once(':').unwrap_or(("libc", spec));
        let letter = match provider {
            "libc" => "c",
            "icu" => "i",
            "builtin" => "b",
            _ => "",
        };
        if letter.is_empty() || locale.is_empty() {
            let message = format!("--locale does not name a locale: `{spec}`");
            return Err(Error::new(Kind::Usage, message).hint(
                "Write `libc:de_DE.UTF-8`, `icu:de-DE`, `builtin:C.UTF-8`, or a name of libc alone, as `C.UTF-8`.",
            ));
        }
        for column in ["datlocale", "daticurules"] {
            self.columns.remove(column);
        }
        self.set("datlocprovider", letter);
        if letter == "c" {
            self.set("datcollate", locale);
            self.set("datctype", locale);
        } else {
            // What libc is still asked for has to exist everywhere.
            self.set("datcollate", "C");
            self.set("datctype", "C");
            self.set("datlocale", locale);
        }
        self.collation_version = None;
        Ok(())
    }

    /// Encoding and locale for people: `UTF8, ICU "de-DE"`.
    #[must_use]
    pub fn shown_locale(&self) -> String {
        let encoding = self.get("encoding").unwrap_or("UTF8");
        let (collate, ctype) = (self.get("datcollate").unwrap_or_default(), self.get("datctype").unwrap_or_default());
        let rules = if self.get("daticurules").is_some() { " with rules" } else { "" };
        let locale = self.get("datlocale").unwrap_or_default();
        match self.get("datlocprovider") {
            Some("i") => format!("{encoding}, ICU \"{locale}\"{rules}"),
            Some("b") => format!("{encoding}, builtin \"{locale}\""),
            _ if collate.is_empty() => encoding.to_owned(),
            _ if collate == ctype => format!("{encoding}, libc \"{collate}\""),
            _ => format!("{encoding}, libc \"{collate}\" with character type \"{ctype}\""),
        }
    }

    /// Whether texts are stored and ordered in the same way.
    #[must_use]
    pub fn same_locale(&self, other: &Self) -> bool {
        ["encoding", "datlocprovider", "datlocale", "daticurules"]
            .iter()
            .all(|column| self.get(column) == other.get(column))
            && ["datcollate", "datctype"].iter().all(|column| {
                let plain = |value: Option<&str>| value.map(|value| value.to_lowercase().replace('-', ""));
                plain(self.get(column)) == plain(other.get(column))
            })
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
            Some(privileges) => lines.extend(privileges.iter().map(|item| format!("privilege {item:?}"))),
        }
        lines.extend(self.settings.iter().map(|item| format!("setting {item:?}")));
        lines.extend(self.labels.iter().map(|item| format!("security label {item:?}")));
        lines
    }
}

fn grant_statement(database: &str, (grantee, privilege, grantable): &Privilege) -> String {
    let grantee = if grantee.is_empty() { "PUBLIC".to_owned() } else { ident(grantee) };
    let option = if *grantable { " WITH GRANT OPTION" } else { "" };
    format!("GRANT {privilege} ON DATABASE {database} TO {grantee}{option}")
}

fn setting_statement(database: &str, (role, setting, value): &(String, String, String)) -> String {
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
            forbidden.push((statement, super::connect::chain(&cause)));
            Ok(false)
        }
    }
}

/// The columns that are known, of a row of `pg_database` as JSON: PostgreSQL 15 and 16 call the locale otherwise.
fn columns(json: &Value) -> BTreeMap<&'static str, String> {
    let mut columns = BTreeMap::new();
    for column in COLUMNS {
        let value = match &json[column] {
            Value::Null if *column == "datlocale" => &json["daticulocale"],
            value => value,
        };
        match value {
            Value::Null => {}
            Value::String(text) => drop(columns.insert(*column, text.clone())),
            other => drop(columns.insert(*column, other.to_string())),
        }
    }
    // Before PostgreSQL 15 there was no other.
    columns.entry("datlocprovider").or_insert_with(|| "c".to_owned());
    columns
}

/// An `aclitem` as a text: `grantee=privileges/grantor`, the names in double quotes where they need them.
fn acl_item(item: &str) -> Option<Vec<Privilege>> {
    let (grantee, rest) = match item.strip_prefix('"') {
        None => item.split_once('=').map(|(grantee, rest)| (grantee.to_owned(), rest))?,
        Some(quoted) => {
            let mut grantee = String::new();
            let mut characters = quoted.char_indices().peekable();
            loop {
                match characters.next()? {
                    (_, '"') if characters.next_if(|(_, next)| *next == '"').is_some() => grantee.push('"'),
                    (at, '"') => break (grantee, quoted[at + 1..].strip_prefix('=')?),
                    (_, character) => grantee.push(character),
                }
            }
        }
    };
    let mut privileges = Vec::new();
    let mut letters = rest.chars().take_while(|letter| *letter != '/').peekable();
    while let Some(letter) = letters.next() {
        let option = letters.next_if(|next| *next == '*').is_some();
        let known = LETTERS.iter().find(|(known, _)| *known == letter);
        privileges.extend(known.map(|(_, name)| (grantee.clone(), (*name).to_owned(), option)));
    }
    Some(privileges)
}

async fn labels(client: &Client, name: &str) -> Result<BTreeSet<(String, String)>> {
    let rows = client
        .query(
            "SELECT l.provider, l.label FROM pg_shseclabel l JOIN pg_database d ON d.oid = l.objoid \
             WHERE l.classoid = 'pg_database'::regclass AND d.datname = $1",
            &[&name],
        )
        .await
        .query_context("cannot read the security labels of the database")?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn privileges(client: &Client, name: &str) -> Result<BTreeSet<Privilege>> {
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

/// Whether a setting's value is a list of names, each of which is quoted by itself.
#[must_use]
pub fn is_name_list(setting: &str) -> bool {
    NAME_LISTS.contains(&setting)
}

fn setting_value(name: &str, value: &str) -> String {
    if !is_name_list(name) {
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
    fn acl_items_are_read_with_names_in_quotes_and_options() {
        let item = |text: &str| acl_item(text).unwrap();
        let has = |grantee: &str, privilege: &str, option| (grantee.to_owned(), privilege.to_owned(), option);
        assert_eq!(item("=Tc/postgres"), [has("", "TEMPORARY", false), has("", "CONNECT", false)]);
        assert_eq!(item("\"a \"\"=/\"=C*/x"), [has("a \"=/", "CREATE", true)]);
        assert_eq!(item("x=/y"), []);
        assert_eq!(acl_item("\"cut"), None);
    }

    #[test]
    fn lists_of_names_are_quoted_one_by_one() {
        assert_eq!(setting_value("search_path", "\"$user\", public, \"a,\"\"b\""), "'$user', 'public', 'a,\"b'");
        assert_eq!(setting_value("search_path", ""), "''");
        assert_eq!(setting_value("search_path", "\"\""), "''");
        assert_eq!(setting_value("TimeZone", "Europe/Berlin, x"), "'Europe/Berlin, x'");
        assert_eq!(setting_name("auto_explain.log"), "\"auto_explain\".\"log\"");
    }
}
