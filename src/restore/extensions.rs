//! Tries every extension of a dump in the new database, before anything is loaded.
//!
//! Whether `CREATE EXTENSION` works, only the server knows: an extension may want to be preloaded, to be in one database
//! only, or another extension. All that fail are named at once. The transaction is rolled back; what is kept of it is how
//! many rows the extensions' own tables have before the dump adds its rows to them.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::Policy;
use crate::database::connect::{QueryContext, chain};
use crate::database::{Connector, ident};
use crate::dump::Contents;
use crate::dump::contents::{Extension, Need, TableName};
use crate::error::{Error, Kind, Result};

/// Objects and rows that the extensions of a dump create.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// The rows of their tables that the dump adds rows to.
    pub rows: BTreeMap<TableName, u64>,
    /// Extensions of the live database that the dump uses and does not make.
    pub added: Vec<Extension>,
    /// Objects that the dump uses and neither it nor an extension makes.
    pub absent: BTreeSet<TableName>,
}

/// The way around extensions that this server cannot have.
#[must_use]
pub fn skip_hint(names: &[String]) -> String {
    let options: Vec<String> = names.iter().map(|name| format!("--skip-extension {name}")).collect();
    format!("Or leave out what the database can do without: {}", options.join(" "))
}

/// Makes the extensions of a dump in a database that is new and empty, looks at them, and takes them back.
///
/// # Errors
/// [`Kind::Refused`] if the server does not make one of them.
pub async fn try_out(connector: &Connector, database: &str, contents: &Contents, policy: &Policy) -> Result<Made> {
    // Some extensions want to be the first thing that a session does.
    let client = connector.connect_with_default_path(database).await?;
    let begin = "BEGIN; SET LOCAL client_min_messages = error; SET LOCAL search_path = public";
    client.batch_execute(begin).await.query_context("cannot begin a transaction")?;
    let failed = make_all(&client, contents, policy).await;
    if !failed.is_empty() {
        return Err(cannot_be_made(&failed));
    }
    client.batch_execute("SET LOCAL search_path = pg_catalog").await.query_context("cannot go on")?;
    let mut made = Made { added: add_missing(connector, &client, contents, policy).await?, ..Made::default() };
    for name in contents.of_extensions() {
        if !exists(&client, name).await? {
            made.absent.insert(name.clone());
        } else if contents.rows.contains_key(name) {
            made.rows.insert(name.clone(), count(&client, name).await?);
        }
    }
    client.batch_execute("ROLLBACK").await.query_context("cannot take the extensions back")?;
    Ok(made)
}

/// The extensions of a dump that a server does not make, each with its reason. Nothing of it stays.
///
/// # Errors
/// Those of connecting.
pub async fn not_available(
    connector: &Connector,
    database: &str,
    contents: &Contents,
    policy: &Policy,
) -> Result<Vec<(String, String)>> {
    let client = connector.connect_with_default_path(database).await?;
    let begin = "BEGIN; SET LOCAL client_min_messages = error; SET LOCAL search_path = public";
    client.batch_execute(begin).await.query_context("cannot begin a transaction")?;
    let failed = make_all(&client, contents, policy).await;
    client.batch_execute("ROLLBACK").await.query_context("cannot take the extensions back")?;
    Ok(failed)
}

async fn make_all(client: &Client, contents: &Contents, policy: &Policy) -> Vec<(String, String)> {
    let mut failed = Vec::new();
    for extension in wanted(contents, policy) {
        if let Err(cause) = make(client, extension).await {
            failed.push((extension.name.clone(), chain(&cause)));
        }
    }
    failed
}

/// Makes what the dump uses and does not make, as one of some schemas alone (`pg_dump --schema`) does: extensions of the
/// live database. Other objects that are missing are named.
async fn add_missing(
    connector: &Connector,
    client: &Client,
    contents: &Contents,
    policy: &Policy,
) -> Result<Vec<Extension>> {
    let mut added: Vec<Extension> = Vec::new();
    let mut missing = Vec::new();
    // They are left out with their extension, or with all rows.
    let skips = contents.extensions.iter().any(|extension| policy.skip_extensions.contains(&extension.name));
    let is_left = |need: &Need| matches!(need, Need::Table(_)) && (policy.schema_only || skips);
    // Of a part, not everything is made.
    let needs: Vec<Need> =
        if policy.tables.is_empty() { contents.unmade().filter(|need| !is_left(need)).collect() } else { Vec::new() };
    let mut live = None;
    for need in needs {
        if owner(client, &need).await?.is_some() {
            continue;
        }
        if live.is_none() {
            // There need not be one.
            live = connector.connect_if_present(connector.database_name()).await.ok().flatten();
        }
        let found = match &live {
            Some(live) => owner(live, &need).await?.flatten(),
            None => None,
        };
        match found {
            Some(extension)
                if !policy.skip_extensions.contains(&extension.name) && make(client, &extension).await.is_ok() =>
            {
                added.push(extension);
            }
            found => missing.push((need, found)),
        }
    }
    if missing.is_empty() { Ok(added) } else { Err(not_made(&missing)) }
}

/// Whether an object is there, and the extension that it belongs to.
async fn owner(client: &Client, need: &Need) -> Result<Option<Option<Extension>>> {
    let in_schema = |prefix: &str| {
        format!("{prefix}name = $2 AND {prefix}namespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)")
    };
    let by_name = |column: &str| format!("{column} = $2 AND $1::text IS NOT NULL");
    let (class, condition, schema, name) = match need {
        Need::Type(name) => ("pg_type", in_schema("typ"), &name.schema, &name.name),
        Need::Table(name) => ("pg_class", in_schema("rel"), &name.schema, &name.name),
        Need::Function(name) => ("pg_proc", in_schema("pro"), &name.schema, &name.name),
        Need::Language(name) => ("pg_language", by_name("lanname"), name, name),
        Need::Wrapper(name) => ("pg_foreign_data_wrapper", by_name("fdwname"), name, name),
    };
    let sql = format!(
        "SELECT e.extname::text, n.nspname::text FROM (SELECT oid FROM {class} WHERE {condition} LIMIT 1) o \
         LEFT JOIN pg_depend d ON d.classid = '{class}'::regclass AND d.objid = o.oid AND d.deptype = 'e' \
         LEFT JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid \
         LEFT JOIN pg_namespace n ON n.oid = e.extnamespace"
    );
    let row = client.query_opt(&sql, &[schema, name]).await.query_context(format!("cannot look for {need}"))?;
    let extension =
        |row: &tokio_postgres::Row| row.get::<_, Option<String>>(0).map(|name| Extension { name, schema: row.get(1) });
    Ok(row.as_ref().map(extension))
}

fn not_made(missing: &[(Need, Option<Extension>)]) -> Error {
    let lines: Vec<String> = missing
        .iter()
        .map(|(need, extension)| match extension {
            Some(extension) => format!("{need}, of the extension \"{}\"", extension.name),
            None => need.to_string(),
        })
        .collect();
    Error::new(Kind::Refused, "the dump uses objects that neither it nor its extensions make")
        .with("missing", lines.join("\n"))
        .hint("Dump the whole database: pg_dump with --schema or --table leaves extensions and other schemas out.")
        .hint("An extension that --skip-extension or restore.skip_extensions leaves out may be one that makes them.")
}

async fn make(client: &Client, extension: &Extension) -> std::result::Result<(), tokio_postgres::Error> {
    let mut sql = "SAVEPOINT extension;".to_owned();
    let mut create = format!("CREATE EXTENSION IF NOT EXISTS {}", ident(&extension.name));
    if let Some(schema) = &extension.schema {
        // Not IF NOT EXISTS, which pg_catalog is refused with all the same.
        if client.query_opt("SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1", &[schema]).await?.is_none() {
            sql = format!("{sql} CREATE SCHEMA {};", ident(schema));
        }
        create = format!("{create} WITH SCHEMA {}", ident(schema));
    }
    let made = client.batch_execute(&format!("{sql} {create}; RELEASE extension")).await;
    if made.is_err() {
        client.batch_execute("ROLLBACK TO extension").await?;
    }
    made
}

/// The failure for extensions that the server does not make, each with its reason.
#[must_use]
pub fn cannot_be_made(failed: &[(String, String)]) -> Error {
    let names: Vec<String> = failed.iter().map(|(name, _)| name.clone()).collect();
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let words: Vec<String> = failed.iter().map(|(name, cause)| format!("{name}: {cause}")).collect();
    let what = match quoted.as_slice() {
        [name] => format!("the server does not make the extension {name}"),
        names => format!("the server does not make the extensions {}", names.join(", ")),
    };
    Error::new(Kind::Refused, what)
        .with("cause", words.join("\n"))
        .hint(skip_hint(&names).replacen("Or leave", "Leave", 1))
}

/// The extensions of a dump that are wanted, in its order.
pub fn wanted<'a>(contents: &'a Contents, policy: &'a Policy) -> impl Iterator<Item = &'a Extension> {
    contents.extensions.iter().filter(|extension| {
        // In every new database, and no dump of today makes it.
        extension.name != "plpgsql" && !policy.skip_extensions.contains(&extension.name)
    })
}

/// Makes extensions: those that [`try_out`] found to be missing in the dump, or all.
///
/// # Errors
/// Those of the server.
pub async fn add(connector: &Connector, database: &str, added: &[Extension]) -> Result<()> {
    if added.is_empty() {
        return Ok(());
    }
    let client = connector.connect_with_default_path(database).await?;
    client.batch_execute("BEGIN; SET LOCAL search_path = public").await.query_context("cannot begin a transaction")?;
    for extension in added {
        make(&client, extension).await.query_context(format!("cannot make the extension \"{}\"", extension.name))?;
    }
    client.batch_execute("COMMIT").await.query_context("cannot make the extensions")
}

async fn exists(client: &Client, object: &TableName) -> Result<bool> {
    let sql = "SELECT CASE WHEN $2 = '' THEN EXISTS (SELECT FROM pg_namespace WHERE nspname = $1) \
               ELSE EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = $1 AND ( \
                   EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = $2) \
                   OR EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = n.oid AND p.proname = $2) \
                   OR EXISTS (SELECT FROM pg_type t WHERE t.typnamespace = n.oid AND t.typname = $2))) END";
    let row = client.query_one(sql, &[&object.schema, &object.name]).await;
    Ok(row.query_context(format!("cannot look for {object}"))?.get(0))
}

async fn count(client: &Client, table: &TableName) -> Result<u64> {
    let sql = format!("SELECT count(*) FROM ONLY {}.{}", ident(&table.schema), ident(&table.name));
    let row = client.query_one(&sql, &[]).await.query_context(format!("cannot count the rows of {table}"))?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}
