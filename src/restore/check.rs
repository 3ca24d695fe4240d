//! Everything that can be known before a staging database exists: a restore that cannot work does not begin.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::database::connect::QueryContext;
use crate::database::{Connector, ident, version_text};
use crate::dump::Contents;
use crate::dump::rules::RoleUse;
use crate::dump::text::Flaw;
use crate::error::{Error, Kind, Result};
use crate::restore::Policy;

/// The tables without which a dump is none of TeslaMate.
const ESSENTIAL: &[&str] = &["cars", "positions", "schema_migrations"];

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

/// Whether the dump is one that this database can be replaced by. `is_ours`: it comes out of the repository.
pub fn contents(contents: &Contents, live: Option<&Live>, server: u32, is_ours: bool, policy: &Policy) -> Result<()> {
    trust(contents, is_ours, policy)?;
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
        let unknown = policy.tables.iter().find(|words| !contents.tables().any(|table| table.is_called(words)));
        return unknown.map_or(Ok(()), |words| {
            Err(Error::new(Kind::Refused, format!("there is no table \"{words}\" in it"))
                .with("state", UNTOUCHED)
                .hint("Name it as the database does, without quotes: `cars` or `public.cars`."))
        });
    }
    let missing = |has: &dyn Fn(&str) -> bool| ESSENTIAL.iter().find(|table| !has(table)).copied();
    let without = missing(&|table| contents.created.iter().any(|created| created.name == table));
    let empty = missing(&|table| contents.rows.keys().any(|copied| copied.name == table));
    if let (true, Some(table)) = (Live::expects_teslamate(live, policy), without.or(empty)) {
        let what = match without {
            Some(_) if !contents.has_table(table) => "is no dump of TeslaMate: it has no table",
            Some(_) => "holds rows only: it does not define the table",
            None => "holds definitions only: it has no rows of the table",
        };
        return Err(Error::new(Kind::Refused, format!("the dump {what} \"{table}\""))
            .with("state", UNTOUCHED)
            .hint("Look at what is in it with --into NAME, which loads it beside the live database.")
            .hint("If it is meant to replace the live database nevertheless, repeat it with --allow-other."));
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
    Ok(())
}

/// Requirements of a dump that the server does not meet, collected so that one error names all of them.
#[derive(Default)]
struct Lacks {
    problems: Vec<String>,
    hints: Vec<String>,
}

impl Lacks {
    fn add(&mut self, problem: String, hints: impl IntoIterator<Item = String>) {
        self.problems.push(problem);
        self.hints.extend(hints);
    }

    fn into_result(self) -> Result<()> {
        let error = match self.problems.as_slice() {
            [] => return Ok(()),
            [problem] => Error::new(Kind::Refused, problem),
            problems => Error::new(Kind::Refused, "the dump needs more than this server or this role has")
                .with("lacking", problems.join("\n")),
        };
        Err(self.hints.into_iter().fold(error.with("state", UNTOUCHED), Error::hint))
    }
}

/// Whether the role may do all that is needed, and the server has all that the dump names. Everything that is lacking is
/// in one message.
pub async fn rights(client: &Client, live: Option<&str>, contents: &Contents, policy: &Policy) -> Result<()> {
    let row = client
        .query_one(
            "SELECT r.rolsuper, r.rolcreatedb, \
                    coalesce((SELECT pg_has_role(d.datdba, 'USAGE') FROM pg_database d WHERE d.datname = $1), true), \
                    current_user::text \
             FROM pg_roles r WHERE r.rolname = current_user",
            &[&live],
        )
        .await
        .query_context("cannot ask for the role's rights")?;
    let (superuser, createdb, owner, user): (bool, bool, bool, String) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    let mut lacks = Lacks::default();
    if !(superuser || createdb && owner) {
        let what = if createdb { "does not own the live database" } else { "may not create databases" };
        let hint = format!("As a superuser: ALTER ROLE {} CREATEDB; and make it the owner.", ident(&user));
        lacks.add(format!("role \"{user}\" {what}"), [hint]);
    }
    extensions(client, contents, policy, superuser, &user, &mut lacks).await?;
    roles(client, contents, policy, &mut lacks).await?;
    tablespaces(client, contents, policy, &user, &mut lacks).await?;
    lacks.into_result()
}

/// `extension "a"`, `extensions "a", "b"`
fn listed(noun: &str, names: &[String]) -> String {
    let plural = if names.len() == 1 { "" } else { "s" };
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("{noun}{plural} {}", quoted.join(", "))
}

async fn extensions(
    client: &Client,
    contents: &Contents,
    policy: &Policy,
    superuser: bool,
    user: &str,
    lacks: &mut Lacks,
) -> Result<()> {
    let wanted: Vec<&str> = contents
        .extensions
        .iter()
        .map(|extension| extension.name.as_str())
        .filter(|name| *name != "plpgsql" && !policy.skip_extensions.iter().any(|skipped| skipped == name))
        .collect();
    let rows = client
        .query(
            "SELECT w, e.name IS NOT NULL, coalesce(bool_or(v.trusted), false) \
             FROM unnest($1::text[]) WITH ORDINALITY AS u (w, place) LEFT JOIN pg_available_extensions e ON e.name = w \
             LEFT JOIN pg_available_extension_versions v ON v.name = e.name AND v.version = e.default_version \
             GROUP BY w, e.name, place ORDER BY place",
            &[&wanted],
        )
        .await
        .query_context("cannot ask for the extensions")?;
    let (mut missing, mut forbidden) = (Vec::new(), Vec::new());
    for row in rows {
        let (name, available, trusted): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
        if !available {
            missing.push(name);
        } else if !superuser && !trusted {
            forbidden.push(name);
        }
    }
    if !missing.is_empty() {
        let install =
            "Install it beside the server (Debian: postgresql-contrib; NixOS: services.postgresql.extensions).";
        let hints = [install.to_owned(), super::extensions::skip_hint(&missing)];
        lacks.add(format!("the server does not have the {}", listed("extension", &missing)), hints);
    }
    if !forbidden.is_empty() {
        let hint = format!("As a superuser: ALTER ROLE {} SUPERUSER; TeslaMate's own module does so.", ident(user));
        let names = listed("extension", &forbidden);
        lacks.add(format!("role \"{user}\" may not create the {names}: only a superuser may"), [hint]);
    }
    Ok(())
}

async fn roles(client: &Client, contents: &Contents, policy: &Policy, lacks: &mut Lacks) -> Result<()> {
    let is_wanted = |reason: RoleUse| match reason {
        RoleUse::Owner => !policy.no_owner,
        RoleUse::Privilege => !policy.no_privileges,
        RoleUse::Object => true,
    };
    let rows =
        client.query("SELECT rolname::text FROM pg_roles", &[]).await.query_context("cannot ask for the roles")?;
    let known: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let missing: BTreeSet<&String> = contents
        .roles
        .iter()
        .filter(|(reason, role)| is_wanted(*reason) && !known.contains(role))
        .map(|(_, role)| role)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let create: Vec<String> = missing.iter().map(|role| format!("CREATE ROLE {};", ident(role))).collect();
    let names: Vec<&str> = missing.iter().map(|role| role.as_str()).collect();
    let mut hints = vec![format!("As a superuser: {}", create.join(" "))];
    let by_option = |role: &&String| !contents.roles.contains(&(RoleUse::Object, (*role).clone()));
    if missing.iter().all(by_option) {
        hints.push(
            "Or repeat it with --no-owner --no-privileges: everything then belongs to the role that restores.".into(),
        );
    }
    lacks.add(format!("the dump needs roles that this server does not have: {}", names.join(", ")), hints);
    Ok(())
}

async fn tablespaces(
    client: &Client,
    contents: &Contents,
    policy: &Policy,
    user: &str,
    lacks: &mut Lacks,
) -> Result<()> {
    if policy.no_tablespaces || contents.tablespaces.is_empty() {
        return Ok(());
    }
    let wanted: Vec<&String> = contents.tablespaces.iter().collect();
    let rows = client
        .query(
            "SELECT w, t.oid IS NOT NULL, coalesce(has_tablespace_privilege(t.oid, 'CREATE'), false) \
             FROM unnest($1::text[]) AS w LEFT JOIN pg_tablespace t ON t.spcname = w ORDER BY w",
            &[&wanted],
        )
        .await
        .query_context("cannot ask for the tablespaces")?;
    let (mut missing, mut forbidden) = (Vec::new(), Vec::new());
    for row in rows {
        let (name, exists, usable): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
        if !exists {
            missing.push(name);
        } else if !usable {
            forbidden.push(name);
        }
    }
    let otherwise = "Or repeat it with --no-tablespaces: everything then lies in the database's own tablespace.";
    if !missing.is_empty() {
        let create: Vec<String> =
            missing.iter().map(|name| format!("CREATE TABLESPACE {} LOCATION '/…';", ident(name))).collect();
        let hints = [format!("As a superuser: {}", create.join(" ")), otherwise.to_owned()];
        lacks.add(format!("the server does not have the {}", listed("tablespace", &missing)), hints);
    }
    if !forbidden.is_empty() {
        let grant: Vec<String> = forbidden
            .iter()
            .map(|name| format!("GRANT CREATE ON TABLESPACE {} TO {};", ident(name), ident(user)))
            .collect();
        let hints = [format!("As a superuser: {}", grant.join(" ")), otherwise.to_owned()];
        lacks.add(format!("role \"{user}\" may not use the {}", listed("tablespace", &forbidden)), hints);
    }
    Ok(())
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
        .hint("Name the encoding that its text has, say LATIN1, in its line SET client_encoding = 'SQL_ASCII';")
        .hint(
            "Or with stock tools: createdb -T template0 -E SQL_ASCII --locale=C NAME; then psql or pg_restore into it.",
        ))
}

/// What would stop the rename is found before the service is stopped. A subscription does not, if this role may end its
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

/// More large objects than this in one transaction, and the server's lock table may not hold them.
pub async fn large_objects(client: &Client, contents: &Contents) -> Result<()> {
    if contents.large_objects == 0 {
        return Ok(());
    }
    let row = client
        .query_one(
            "SELECT current_setting('max_locks_per_transaction')::bigint * \
             (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)",
            &[],
        )
        .await
        .query_context("cannot ask for the size of the lock table")?;
    let room = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
    if contents.large_objects < room {
        return Ok(());
    }
    Err(Error::new(
        Kind::Refused,
        format!("the dump holds {} large objects, too many for one transaction", contents.large_objects),
    )
    .with("room", format!("{room} locks (max_locks_per_transaction × connections)"))
    .with("state", UNTOUCHED)
    .hint("Raise max_locks_per_transaction, or restore from a .dump file, which is loaded in parts."))
}
