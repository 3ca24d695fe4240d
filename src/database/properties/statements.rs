//! SQL statements that create a database with its properties, or apply them to one.

use std::fmt::Write as _;

use super::grantors::in_order;
use super::{Privilege, Properties};
use crate::database::{ident, literal};

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

impl Properties {
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

    /// The statements for a staging database, which was closed to others.
    pub(super) fn opening_statements(&self, name: &str) -> Vec<String> {
        let database = ident(name);
        // Scripts of extensions may have set something.
        let mut statements = vec![format!("ALTER DATABASE {database} RESET ALL")];
        if self.privileges.is_none() {
            statements.push(format!("GRANT CONNECT, TEMPORARY ON DATABASE {database} TO PUBLIC"));
        }
        statements.extend(self.statements_for(&database));
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
            statements.extend(in_order(privileges).iter().map(|item| grant_statement(database, item)));
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
}

/// `GRANT … GRANTED BY` would name nobody but the role that runs it.
pub(super) fn grant_statement(database: &str, item: &Privilege) -> String {
    let grantee = if item.grantee.is_empty() { "PUBLIC".to_owned() } else { ident(&item.grantee) };
    let option = if item.grantable { " WITH GRANT OPTION" } else { "" };
    let grant = format!("GRANT {} ON DATABASE {database} TO {grantee}{option}", item.kind);
    match &item.grantor {
        None => grant,
        Some(grantor) => format!("SET ROLE {}; {grant}; RESET ROLE", ident(grantor)),
    }
}

pub(super) fn setting_statement(database: &str, (role, setting, value): &(String, String, String)) -> String {
    let subject = if role.is_empty() {
        format!("DATABASE {database}")
    } else {
        format!("ROLE {} IN DATABASE {database}", ident(role))
    };
    format!("ALTER {subject} SET {} TO {}", setting_name(setting), setting_value(setting, value))
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
    fn lists_of_names_are_quoted_one_by_one() {
        assert_eq!(setting_value("search_path", "\"$user\", public, \"a,\"\"b\""), "'$user', 'public', 'a,\"b'");
        assert_eq!(setting_value("search_path", ""), "''");
        assert_eq!(setting_value("search_path", "\"\""), "''");
        assert_eq!(setting_value("TimeZone", "Europe/Berlin, x"), "'Europe/Berlin, x'");
        assert_eq!(setting_name("auto_explain.log"), "\"auto_explain\".\"log\"");
    }
}
