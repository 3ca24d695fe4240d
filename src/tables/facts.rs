//! Where the rows come from: the cluster, the database with its properties, and the application's schema.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Client;

use super::snapshot::Snapshot;
use crate::database::Properties;
use crate::database::connect::QueryContext;
use crate::error::Result;

/// What a database is, beside its tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// `server_version_num`
    pub server_version: u32,
    /// The cluster's, from `pg_control_system()`. A text, since JSON's numbers end at 2^53.
    pub system_identifier: String,
    /// The timeline of its write-ahead log.
    pub timeline: u32,
    /// The row of `pg_database`, by column, without what changes by itself.
    pub database: Value,
    /// `ALTER DATABASE … SET` and `ALTER ROLE … IN DATABASE … SET`.
    pub settings: Vec<Setting>,
    /// Settings of the application's sessions that expressions see, as `(name, value)`; older backups do not say so.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub application: Vec<(String, String)>,
    /// How much room it took; backups of the first releases do not say so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<Size>,
    /// How much was ever written into it, as of the snapshot or before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub written: Option<Written>,
    /// The versions in `schema_migrations`, if there is such a table with numbers in it, as Ecto makes it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub migrations: Option<Migrations>,
}

/// Settings of the database, for one role or for all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The role; nobody in particular without it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub role: Option<String>,
    /// `name=value`
    pub values: Vec<String>,
}

/// The room that a database takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// All of it.
    pub database: u64,
    /// Its largest index, which is sorted on disk while it is built.
    pub largest_index: u64,
}

/// How much was ever written into a database, as its statistics count. Two equal values mean that nothing was written in
/// between; different ones mean nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The database, which keeps its OID under any name.
    pub oid: u32,
    /// The cluster's.
    pub system_identifier: String,
    /// Rows inserted, updated and deleted, those of the catalogue too.
    pub rows: i64,
    /// When counting began, and when the server was started: a crash sets the counts back.
    pub since: Option<String>,
}

impl Written {
    /// Reads it; `None` if the server does not count, or not for every session.
    pub async fn read(client: &Client) -> Result<Option<Self>> {
        let sql = "SELECT s.datid, (SELECT system_identifier::text FROM pg_catalog.pg_control_system()), \
                          s.tup_inserted + s.tup_updated + s.tup_deleted, \
                          concat_ws(' ', s.stats_reset, (SELECT b.stats_reset FROM pg_catalog.pg_stat_bgwriter b), \
                                    pg_catalog.pg_postmaster_start_time()) \
                   FROM pg_catalog.pg_stat_database s \
                   WHERE s.datname = pg_catalog.current_database() AND current_setting('track_counts')::boolean \
                     AND NOT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting r CROSS JOIN unnest(r.setconfig) AS item \
                                     WHERE item ILIKE 'track_counts=%')";
        let row = client.query_opt(sql, &[]).await.query_context("cannot read the statistics of the database")?;
        Ok(row.map(|row| Self { oid: row.get(0), system_identifier: row.get(1), rows: row.get(2), since: row.get(3) }))
    }
}

/// What the application's migrations left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migrations {
    /// How many there are.
    pub count: u64,
    /// The newest version, a time as 14 digits.
    pub newest: i64,
}

/// The one text in them that another database may have written, in its own encoding.
const COMMENT_HINT: &str = "If the database has a comment that is not in its encoding, give it anew with COMMENT ON DATABASE, in a session of this database.";

/// `datfrozenxid` and `datminmxid` grow by themselves; the owner is named, since an OID means nothing elsewhere.
const DATABASE: &str = "\
    SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()), \
           CASE WHEN pg_catalog.pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())::bigint \
                ELSE ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::bigint END, \
           pg_catalog.to_jsonb(d) - 'datfrozenxid' - 'datminmxid' - 'datdba' - 'datlastsysoid' \
               || pg_catalog.jsonb_build_object('owner', pg_catalog.pg_get_userbyid(d.datdba), \
                   'encoding', pg_catalog.pg_encoding_to_char(d.encoding), 'tablespace', t.spcname, \
                   'comment', pg_catalog.shobj_description(d.oid, 'pg_database'), \
                   'security_labels', (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(l.provider, l.label)) \
                                       FROM pg_catalog.pg_shseclabel l WHERE l.objoid = d.oid \
                                       AND l.classoid = 'pg_catalog.pg_database'::pg_catalog.regclass)) \
    FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace \
    WHERE d.datname = current_database()";

const SETTINGS: &str = "\
    SELECT r.rolname::text, s.setconfig \
    FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase \
         LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole \
    WHERE d.datname = current_database() ORDER BY r.rolname COLLATE \"C\" NULLS FIRST";

/// The index's size as of its last VACUUM: `pg_relation_size` would wait for locks.
const SIZE: &str = "\
    SELECT pg_catalog.pg_database_size(pg_catalog.current_database()), \
           (SELECT coalesce(max(relpages), 0)::bigint FROM pg_catalog.pg_class WHERE relkind = 'i') * \
           current_setting('block_size')::bigint";

/// TeslaMate once had a version of 15 digits, which would be newer than all others for ever.
const MIGRATIONS: &str =
    "SELECT count(*), coalesce(max(version) FILTER (WHERE version < 100000000000000), 0) FROM public.schema_migrations";

impl Facts {
    /// Properties of the database, for a new one that takes its place.
    #[must_use]
    pub fn properties(&self) -> Properties {
        let settings = self.settings.iter().flat_map(|setting| {
            let role = setting.role.clone().unwrap_or_default();
            setting.values.iter().filter_map(move |text| {
                let (name, value) = text.split_once('=')?;
                Some((role.clone(), name.to_owned(), value.to_owned()))
            })
        });
        Properties::from_json(&self.database, settings.collect())
    }

    /// Reads them in the snapshot's session.
    pub async fn read(snapshot: &Snapshot) -> Result<Self> {
        let client = snapshot.client();
        let failed = "cannot read the database's properties";
        let row = client.query_one(DATABASE, &[]).await.query_context(failed)?;
        let settings = client.query(SETTINGS, &[]).await.query_context(failed)?;
        Ok(Self {
            server_version: snapshot.server,
            system_identifier: row.get(0),
            timeline: u32::try_from(row.get::<_, i64>(1)).unwrap_or(0),
            database: row.try_get(2).query_context(failed).map_err(|error| error.hint(COMMENT_HINT))?,
            settings: settings.iter().map(|row| Setting { role: row.get(0), values: row.get(1) }).collect(),
            application: Vec::new(),
            size: size(client).await?,
            written: None,
            migrations: migrations(client).await?,
        })
    }
}

async fn size(client: &Client) -> Result<Option<Size>> {
    let row = client.query_one(SIZE, &[]).await.query_context("cannot ask for the size of the database")?;
    let bytes = |column| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
    Ok(Some(Size { database: bytes(0), largest_index: bytes(1) }))
}

async fn migrations(client: &Client) -> Result<Option<Migrations>> {
    let failed = "cannot read the application's migrations";
    // As the snapshot sees it: to_regclass would look at what is there now. Other applications have a table of that name
    // too, with versions as text, or other columns.
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
               JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
               WHERE n.nspname = 'public' AND c.relname = 'schema_migrations' AND c.relkind IN ('r', 'p') \
                 AND a.attname = 'version' AND a.attnum > 0 AND NOT a.attisdropped \
                 AND a.atttypid IN ('pg_catalog.int8'::pg_catalog.regtype, 'pg_catalog.int4'::pg_catalog.regtype))";
    if !client.query_one(sql, &[]).await.query_context(failed)?.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = client.query_one(MIGRATIONS, &[]).await.query_context(failed)?;
    let count = u64::try_from(row.get::<_, i64>(0)).unwrap_or(0);
    Ok(Some(Migrations { count, newest: row.get(1) }))
}
