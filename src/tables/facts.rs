//! Where the rows come from: the cluster, the database with its properties, and the application's schema.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Client;

use super::snapshot::Snapshot;
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

/// What the application's migrations left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migrations {
    /// How many there are.
    pub count: u64,
    /// The newest version, a time as 14 digits.
    pub newest: i64,
}

/// `datfrozenxid` and `datminmxid` grow by themselves; the owner is named, since an OID means nothing elsewhere.
const DATABASE: &str = "\
    SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()), \
           CASE WHEN pg_catalog.pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint())::bigint \
                ELSE ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::bigint END, \
           pg_catalog.to_jsonb(d) - 'datfrozenxid' - 'datminmxid' - 'datdba' - 'datlastsysoid' \
               || pg_catalog.jsonb_build_object('owner', pg_catalog.pg_get_userbyid(d.datdba), \
                   'encoding', pg_catalog.pg_encoding_to_char(d.encoding), 'tablespace', t.spcname, \
                   'comment', pg_catalog.shobj_description(d.oid, 'pg_database')) \
    FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace \
    WHERE d.datname = current_database()";

const SETTINGS: &str = "\
    SELECT r.rolname::text, s.setconfig \
    FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase \
         LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole \
    WHERE d.datname = current_database() ORDER BY r.rolname COLLATE \"C\" NULLS FIRST";

/// TeslaMate once had a version of 15 digits, which would be newer than all others for ever.
const MIGRATIONS: &str =
    "SELECT count(*), coalesce(max(version) FILTER (WHERE version < 100000000000000), 0) FROM public.schema_migrations";

impl Facts {
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
            database: row.get(2),
            settings: settings.iter().map(|row| Setting { role: row.get(0), values: row.get(1) }).collect(),
            migrations: migrations(client).await?,
        })
    }
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
