//! Reads the properties of a database, from the server or from a backup's manifest.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokio_postgres::Client;

use super::{Privilege, Properties};
use crate::database::connect::QueryContext;
use crate::database::{bytes_of, text_of};
use crate::error::Result;

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

/// The letters of these privileges in an `aclitem`.
const LETTERS: &[(char, &str)] = &[('C', "CREATE"), ('T', "TEMPORARY"), ('c', "CONNECT")];

/// A comment in UTF-8, or in the encoding of the database that it is about.
async fn comment(client: &Client, bytes: &[u8], encoding: &str) -> std::result::Result<String, tokio_postgres::Error> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Ok(text.to_owned());
    }
    let sql = "SELECT pg_catalog.convert($1, $2::text::name, 'UTF8')";
    match client.query_one(sql, &[&bytes, &encoding]).await {
        Err(cause) if cause.as_db_error().is_none() => Err(cause),
        converted => Ok(text_of(converted.as_ref().map_or(bytes, |row| row.get(0)))),
    }
}

impl Properties {
    /// Reads them; `None` if there is no such database.
    pub async fn read(client: &Client, name: &str) -> Result<Option<Self>> {
        let failed = || format!("cannot read the properties of database \"{name}\"");
        // As JSON, since the columns differ between versions.
        let sql = format!(
            "SELECT to_jsonb(d), pg_get_userbyid(d.datdba), t.spcname, {}, \
                        d.datacl IS NULL OR ARRAY(SELECT a::text FROM unnest(d.datacl) a ORDER BY 1) \
                            = ARRAY(SELECT a::text FROM unnest(acldefault('d', d.datdba)) a ORDER BY 1), \
                        pg_encoding_to_char(d.encoding) \
                 FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = $1",
            bytes_of("shobj_description(d.oid, 'pg_database')")
        );
        let row = client.query_opt(&sql, &[&name]).await.query_context(failed())?;
        let Some(row) = row else { return Ok(None) };
        let json: Value = row.get(0);
        let mut columns = columns(&json);
        columns.insert("encoding", row.get(5));
        let comment = match row.get::<_, Option<&[u8]>>(3) {
            Some(bytes) => Some(comment(client, bytes, row.get(5)).await.query_context(failed())?),
            None => None,
        };
        let has_default_privileges: bool = row.get(4);
        let privileges = if has_default_privileges { None } else { Some(privileges(client, name).await?) };
        Ok(Some(Self {
            owner: row.get(1),
            tablespace: row.get(2),
            comment,
            columns,
            privileges,
            settings: settings(client, name).await?,
            labels: labels(client, name).await?,
            collation_version: json["datcollversion"].as_str().map(str::to_owned),
            gives: None,
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
        let owner = text("owner").unwrap_or_default();
        let is_owners =
            |item: Privilege| Privilege { grantor: item.grantor.filter(|grantor| *grantor != owner), ..item };
        let items_of =
            |list: &Value| items(list).iter().filter_map(|item| acl_item(item)).flatten().map(is_owners).collect();
        let privileges = database["datacl"].is_array().then(|| items_of(&database["datacl"]));
        let labels = database["security_labels"].as_array().into_iter().flatten().map(items);
        Self {
            owner,
            tablespace: text("tablespace").unwrap_or_default(),
            comment: text("comment"),
            columns: columns(database),
            privileges,
            settings,
            labels: labels.filter_map(|pair| Some((pair.first()?.clone(), pair.get(1)?.clone()))).collect(),
            collation_version: text("datcollversion"),
            gives: None,
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
    let (grantee, rest) = name_before(item, '=')?;
    let (letters, grantor) = rest.split_once('/').unwrap_or((rest, ""));
    let grantor = name_before(&format!("{grantor}="), '=').map(|(name, _)| name).filter(|name| !name.is_empty());
    let mut privileges = Vec::new();
    let mut letters = letters.chars().peekable();
    while let Some(letter) = letters.next() {
        let grantable = letters.next_if(|next| *next == '*').is_some();
        let known = LETTERS.iter().find(|(known, _)| *known == letter);
        privileges.extend(known.map(|(_, kind)| Privilege {
            grantor: grantor.clone(),
            ..Privilege::new(grantee.clone(), *kind, grantable)
        }));
    }
    Some(privileges)
}

/// A name, in double quotes if need be, and the text after the sign that follows it.
fn name_before(text: &str, sign: char) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return text.split_once(sign).map(|(name, rest)| (name.to_owned(), rest));
    };
    let mut name = String::new();
    let mut characters = quoted.char_indices().peekable();
    loop {
        match characters.next()? {
            (_, '"') if characters.next_if(|(_, next)| *next == '"').is_some() => name.push('"'),
            (at, '"') => return Some((name, quoted[at + 1..].strip_prefix(sign)?)),
            (_, character) => name.push(character),
        }
    }
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
                    a.is_grantable, CASE WHEN a.grantor <> d.datdba THEN pg_get_userbyid(a.grantor)::text END \
             FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = $1",
            &[&name],
        )
        .await
        .query_context("cannot read the privileges of the database")?;
    let item = |row: &tokio_postgres::Row| Privilege {
        grantee: row.get(0),
        kind: row.get(1),
        grantable: row.get(2),
        grantor: row.get(3),
    };
    Ok(rows.iter().map(item).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acl_items_are_read_with_names_in_quotes_and_options() {
        let item = |text: &str| acl_item(text).unwrap();
        let has = |grantee: &str, kind: &str, grantable, grantor: &str| Privilege {
            grantor: Some(grantor.to_owned()),
            ..Privilege::new(grantee, kind, grantable)
        };
        assert_eq!(
            item("=Tc/postgres"),
            [has("", "TEMPORARY", false, "postgres"), has("", "CONNECT", false, "postgres")]
        );
        assert_eq!(item("\"a \"\"=/\"=C*/\"x \"\"/=\""), [has("a \"=/", "CREATE", true, "x \"/=")]);
        assert_eq!(item("x=/y"), []);
        assert_eq!(acl_item("\"cut"), None);
    }
}
