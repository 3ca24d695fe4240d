//! Everything that can be known before a staging database exists: a restore that cannot work does not begin.

mod requirements;

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::database::connect::QueryContext;
use crate::database::{Connector, version_text};
use crate::dump::Contents;
use crate::dump::contents::TableName;
use crate::dump::text::Flaw;
use crate::error::{Error, Kind, Result};
use crate::restore::{Destination, Policy, wanted};

pub use requirements::rights;

/// The tables without which a dump is none of TeslaMate.
const ESSENTIAL: &[&str] = &["cars", "positions", "schema_migrations"];

/// The application's record of its migrations.
const MIGRATIONS: &str = "schema_migrations";

const UNTOUCHED: &str = "the live database was not touched";

/// What is known of the live database.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Its size in bytes.
    pub bytes: i64,
    /// The size of its largest index in bytes.
    pub largest_index: i64,
    /// Whether it has TeslaMate's tables; `None` if it could not be looked into.
    pub is_teslamate: Option<bool>,
    /// The newest version in its `schema_migrations`.
    pub newest_migration: Option<i64>,
}

impl Live {
    /// Looks at the live database; `None` if there is none.
    ///
    /// A database that is so damaged that it takes no connection is a reason to restore, not an obstacle: then only
    /// its size is known, and the reason is returned beside it.
    pub async fn read(client: &Client, connector: &Connector) -> Result<Option<(Self, Option<Error>)>> {
        let name = connector.database_name();
        let size = "SELECT pg_database_size(oid) FROM pg_database WHERE datname = $1";
        let row = client.query_opt(size, &[&name]).await.query_context("cannot look for the live database")?;
        let Some(row) = row else { return Ok(None) };
        let mut live = Self { bytes: row.get(0), ..Self::default() };
        let remark = live.look_inside(connector).await.err();
        Ok(Some((live, remark)))
    }

    async fn look_inside(&mut self, connector: &Connector) -> Result<()> {
        let client = connector.connect().await?;
        let row = client
            .query_one(
                "SELECT (SELECT coalesce(max(pg_relation_size(oid)), 0) FROM pg_class WHERE relkind = 'i'), \
                        (SELECT count(DISTINCT relname) FROM pg_class \
                          WHERE relkind IN ('r', 'p') AND relnamespace = to_regnamespace('public') AND relname = ANY ($1)), \
                        EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('public.schema_migrations') \
                          AND attname = 'version' AND NOT attisdropped AND atttypid IN ('int8'::regtype, 'int4'::regtype))",
                &[&ESSENTIAL],
            )
            .await
            .query_context("cannot look into the live database")?;
        self.largest_index = row.get(0);
        // Versions of another type are those of another application, whatever its tables are called.
        let has_versions: bool = row.get(2);
        self.is_teslamate = Some(has_versions && usize::try_from(row.get::<_, i64>(1)) == Ok(ESSENTIAL.len()));
        if has_versions {
            let sql = "SELECT max(version)::bigint FROM public.schema_migrations WHERE version < 100000000000000";
            self.newest_migration = client.query_one(sql, &[]).await.ok().and_then(|row| row.get(0));
        }
        Ok(())
    }

    /// Whether the replacement has to be TeslaMate's: if the live database is, or as far as the unit's name tells.
    #[must_use]
    pub fn expects_teslamate(live: Option<&Self>, policy: &Policy) -> bool {
        live.and_then(|live| live.is_teslamate).unwrap_or_else(|| policy.unit.contains("teslamate"))
            && !policy.allow_other
    }
}

/// Whether every statement is one that the dump may hold. A backup of our own, which is authenticated, may hold whatever
/// `pg_dump` writes.
fn trust(contents: &Contents, is_ours: bool, policy: &Policy) -> Result<()> {
    let as_server: &[Flaw] = if is_ours { &[] } else { &contents.as_server };
    let mut flaws: Vec<&Flaw> = contents.untrusted.iter().chain(as_server).collect();
    flaws.sort_by_key(|flaw| flaw.line);
    let (Some(flaw), false) = (flaws.first(), policy.trust_dump) else { return Ok(()) };
    let others: Vec<String> =
        flaws[1..].iter().take(20).map(|flaw| format!("line {} {}", flaw.line, flaw.what)).collect();
    Err(Error::new(Kind::Refused, format!("the dump cannot be trusted: line {} {}", flaw.line, flaw.what))
        .with("also", others.join("\n"))
        .with("state", UNTOUCHED)
        .hint("Look at that line; if you know where the file comes from, repeat it with --trust-dump."))
}

/// Whether the wanted tables are in the dump, each with its own rows.
fn part(contents: &Contents, is_ours: bool, policy: &Policy) -> Result<()> {
    for words in &policy.tables {
        wanted::called(words, contents.tables()).map_err(|error| error.with("state", UNTOUCHED))?;
    }
    if let Some(words) = policy.tables.iter().find(|words| !contents.tables().any(|table| table.is_called(words))) {
        if let Some(view) = contents.view_called(words) {
            return Err(Error::new(Kind::Refused, format!("{view}: it has no rows of its own"))
                .with("state", UNTOUCHED)
                .hint("Name the tables that it reads; a restore of the whole database brings the view."));
        }
        return Err(Error::new(Kind::Refused, format!("there is no table \"{words}\" in it"))
            .with("state", UNTOUCHED)
            .hint(
                "Name it as the database does: `cars` or `public.cars`; '\"a.b\".\"c\"' where a name has dots in it.",
            ));
    }
    let is_wanted = |table: &TableName| policy.tables.iter().any(|words| table.is_called(words));
    let through = |child: &TableName| {
        let mut table = child;
        while let Some(found) = contents.partitions.iter().find(|partition| partition.child == *table) {
            table = &found.parent;
            if contents.rows.contains_key(table) {
                return (!is_wanted(table)).then(|| table.clone());
            }
        }
        None
    };
    let is_alone = |table: &&TableName| is_wanted(table) && !contents.rows.contains_key(table);
    let roots: BTreeSet<TableName> = contents.created.iter().filter(is_alone).filter_map(through).collect();
    if is_ours || policy.schema_only || roots.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = roots.iter().map(ToString::to_string).collect();
    let options: Vec<String> = names.iter().map(|name| format!("--table {name}")).collect();
    let what = format!("the dump does not tell the partitions of {} apart: their rows go through it", names.join(", "));
    Err(Error::new(Kind::Refused, what)
        .with("state", UNTOUCHED)
        .hint(format!("Take the whole table: {}", options.join(" "))))
}

/// Whether the dump is one that this database can be replaced by. `is_ours`: it comes out of the repository.
/// Returns warnings: what keeps a dump from becoming live does not keep it from being looked at.
///
/// # Errors
/// [`Kind::Refused`] with the reason.
pub fn contents(
    contents: &Contents,
    live: Option<&Live>,
    server: u32,
    is_ours: bool,
    destination: &Destination,
    policy: &Policy,
) -> Result<Vec<String>> {
    trust(contents, is_ours, policy)?;
    if contents.is_statistics_only() {
        return Err(Error::new(Kind::Refused, "the dump holds statistics only: it defines no tables")
            .with("state", UNTOUCHED)
            .hint("Take a dump with definitions and rows; statistics are gathered anew after a restore."));
    }
    if let Some(version) = contents.server_version.filter(|version| version / 10_000 > server / 10_000)
        && !policy.allow_newer
    {
        let message = format!(
            "the dump is of PostgreSQL {}, newer than this server's {}",
            version_text(version),
            version_text(server)
        );
        return Err(Error::new(Kind::Refused, message)
            .with("state", UNTOUCHED)
            .hint("Upgrade the server, or try it with --allow-newer: the live database stays as it is if it fails."));
    }
    if policy.partial {
        part(contents, is_ours, policy)?;
        return Ok(wanted::views_beside(contents, policy));
    }
    let missing = |has: &dyn Fn(&str) -> bool| ESSENTIAL.iter().find(|table| !has(table)).copied();
    let without = missing(&|table| contents.created.iter().any(|created| created.name == table));
    let unfilled = missing(&|table| contents.rows.keys().any(|copied| copied.name == table));
    let has_versions = contents.rows.iter().any(|(table, rows)| table.name == MIGRATIONS && *rows > 0);
    // Those of the application are never empty: what begins with such a table is no database that it can use.
    let empty = unfilled.or((!has_versions).then_some(MIGRATIONS));
    let mut warnings = Vec::new();
    if let (true, Some(table)) = (Live::expects_teslamate(live, policy), without.or(empty)) {
        let what = match without {
            Some(_) if !contents.has_table(table) => "is no dump of TeslaMate: it has no table",
            Some(_) => "holds rows only: it does not define the table",
            None if unfilled.is_some() => "holds definitions only: it has no rows of the table",
            None => "knows no migration of the application: it has no rows in the table",
        };
        if *destination == Destination::Live {
            return Err(Error::new(Kind::Refused, format!("the dump {what} \"{table}\""))
                .with("state", UNTOUCHED)
                .hint("Look at what is in it with --into NAME, which loads it beside the live database.")
                .hint("If it is meant to replace the live database nevertheless, repeat it with --allow-other."));
        }
        warnings
            .push(format!("the dump {what} \"{table}\": it does not replace the live database without --allow-other"));
    }
    if let (Some(dump), Some(live)) = (contents.newest_migration, live.and_then(|live| live.newest_migration))
        && dump > live
        && !policy.allow_newer
    {
        return Err(Error::new(Kind::Refused, "the dump was made by a newer release of the application")
            .with("dump", format!("schema version {dump}"))
            .with("live", format!("schema version {live}"))
            .with("state", UNTOUCHED)
            .hint("Upgrade the application first, then restore; or repeat it with --allow-newer."));
    }
    Ok(warnings)
}

/// Text of unknown encoding keeps its bytes in a database of unknown encoding. One in UTF-8 takes it if it is UTF-8.
///
/// # Errors
/// [`Kind::Refused`] if characters would be refused by the server, or others than they were.
pub fn encoding(contents: &Contents, target: &str, is_ours: bool) -> Result<()> {
    let is_unknown = contents.encoding.as_deref() == Some("SQL_ASCII");
    let fits = contents.not_utf8.is_none() && (target == "UTF8" || is_ours);
    if !is_unknown || target == "SQL_ASCII" || fits {
        return Ok(());
    }
    let what = format!("the encoding of the dump is not known (SQL_ASCII), and the database would be in {target}");
    let error = Error::new(Kind::Refused, what).with("state", UNTOUCHED);
    let error = match contents.not_utf8 {
        Some(line) => error.with("cause", format!("line {line} is not UTF-8")),
        None => error,
    };
    Err(error
        .hint("In plain SQL: name the encoding that its text has, say LATIN1, in the line SET client_encoding = 'SQL_ASCII';")
        .hint(
            "Or with stock tools: createdb -T template0 -E SQL_ASCII --locale=C NAME; then psql or pg_restore into it.",
        ))
}

/// Finds beforehand, while the service runs, reasons that would stop the rename. A subscription does not, if this role may end its
/// worker and disable it.
///
/// # Errors
/// [`Kind::Refused`] naming all that is bound to the database.
pub async fn nothing_in_the_way(client: &Client, live: &str) -> Result<()> {
    let rows = client
        .query(
            "SELECT format('prepared transaction %s of %s', quote_literal(gid), owner) FROM pg_prepared_xacts \
              WHERE database = $1 \
             UNION ALL SELECT format('replication slot %s', slot_name) FROM pg_replication_slots WHERE database = $1 \
             UNION ALL SELECT format('subscription %s', s.subname) FROM pg_subscription s \
              JOIN pg_database d ON d.oid = s.subdbid JOIN pg_roles o ON o.oid = s.subowner \
              WHERE d.datname = $1 AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) \
                AND (o.rolsuper OR NOT pg_has_role(o.oid, 'USAGE'))",
            &[&live],
        )
        .await;
    // A role that is no superuser may not look at subscriptions, and cannot have made one.
    let Ok(rows) = rows else { return Ok(()) };
    if rows.is_empty() {
        return Ok(());
    }
    let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Err(Error::new(Kind::Refused, format!("database \"{live}\" cannot be replaced while something is bound to it"))
        .with("found", found.join("\n"))
        .with("state", "the live database and its service were not touched")
        .hint("ROLLBACK PREPARED '…' or SELECT pg_drop_replication_slot('…') removes it.")
        .hint(
            "A subscription of another role, without its slot at the publisher: ALTER SUBSCRIPTION … DISABLE; \
             ALTER SUBSCRIPTION … SET (slot_name = NONE); DROP SUBSCRIPTION …; a superuser's restore keeps it.",
        ))
}
