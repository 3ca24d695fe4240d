//! The wanted rows of a backup in temporary tables, and how they compare with the live ones.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tokio_postgres::Client;

use super::Wanted;
use super::tables::TABLES;
use crate::database::ident;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::progress::Meter;
use crate::restore::stored::{Stored, Target, called};
use crate::tables::catalog::{Column, Table as Stood};
use crate::teslamate::session::Explain;

/// The way that is left where this one is closed.
pub(super) const BESIDE: &str = "Look at the backup beside the live database: teslamate-restore ID --into NAME";

/// Columns that can be written, with their types.
const COLUMNS: &str = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a \
    WHERE a.attrelid = to_regclass('public.' || quote_ident($1)) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''";

/// A value for COPY's condition that no row meets.
const NOTHING: &str = "false";

/// Rows of a backup in temporary tables, one for each table that is put back.
#[derive(Debug)]
pub struct Staged {
    /// The columns of the backup, by table.
    columns: BTreeMap<&'static str, Vec<String>>,
}

impl Staged {
    /// Copies the wanted records and all that they refer to.
    ///
    /// # Errors
    /// [`Kind::Refused`] if the backup has no such record, or if a table has not the columns any more that it had.
    pub async fn load(env: &Env, client: &Client, stored: &Stored, wanted: &Wanted) -> Result<Self> {
        client.batch_execute("BEGIN").await.explain("cannot begin a transaction")?;
        let mut staged = Self { columns: BTreeMap::new() };
        for table in TABLES {
            let columns = staged.make(client, stored, table.name).await?;
            staged.columns.insert(table.name, columns);
        }
        let meter = Meter::new("reading the backup");
        let drives = any("id", &wanted.drives);
        let charges = any("id", &wanted.charges);
        let first = [("drives", drives), ("charging_processes", charges)];
        env.reporter.show(&meter, Box::pin(staged.copy(client, stored, &meter, &first))).await?;
        staged.refuse_absent(client, stored, wanted).await?;
        let address = "SELECT start_address_id FROM {drives} UNION SELECT end_address_id FROM {drives} \
                       UNION SELECT address_id FROM {charging_processes}";
        let geofence = "SELECT start_geofence_id FROM {drives} UNION SELECT end_geofence_id FROM {drives} \
                        UNION SELECT geofence_id FROM {charging_processes}";
        let position = "SELECT start_position_id FROM {drives} UNION SELECT end_position_id FROM {drives} \
                        UNION SELECT position_id FROM {charging_processes}";
        let positions = any("id", &staged.ids(client, position).await?);
        let second = [
            ("addresses", any("id", &staged.ids(client, address).await?)),
            ("geofences", any("id", &staged.ids(client, geofence).await?)),
            ("positions", format!("{} OR {positions}", any("drive_id", &wanted.drives))),
            ("charges", any("charging_process_id", &wanted.charges)),
        ];
        env.reporter.show(&meter, Box::pin(staged.copy(client, stored, &meter, &second))).await?;
        let car = "SELECT car_id::int FROM {drives} UNION SELECT car_id::int FROM {positions} \
                   UNION SELECT car_id::int FROM {charging_processes}";
        let third = [("cars", any("id", &staged.ids(client, car).await?))];
        staged.copy(client, stored, &meter, &third).await?;
        let settings = "SELECT settings_id::int FROM {cars}";
        let last = [("car_settings", any("id", &staged.ids(client, settings).await?))];
        staged.copy(client, stored, &meter, &last).await?;
        client.batch_execute("COMMIT").await.explain("cannot keep the rows of the backup beside the live ones")?;
        Ok(staged)
    }

    /// The columns of the backup, quoted.
    pub(super) fn columns(&self, table: &str) -> Vec<String> {
        self.columns.get(table).into_iter().flatten().map(|name| ident(name)).collect()
    }

    /// Makes the temporary table of one, with the columns of the backup, all of which the live table must have.
    async fn make(&self, client: &Client, stored: &Stored, name: &str) -> Result<Vec<String>> {
        let refused = |what: String| Error::new(Kind::Refused, what).with("state", "nothing was changed").hint(BESIDE);
        let Some(stood) = stood(stored, name) else {
            return Err(refused(format!("{} has no table public.{name} of its own", called(&stored.noted))));
        };
        let live = client.query(COLUMNS, &[&name]).await.explain("cannot look at the live tables")?;
        let live: BTreeMap<String, String> = live.iter().map(|row| (row.get(0), row.get(1))).collect();
        let is_gone = |column: &&Column| live.get(&column.name) != Some(&column.type_name);
        if let Some(Column { name: column, type_name, .. }) = stood.columns.iter().find(is_gone) {
            let now = live.get(column).map_or_else(|| "is not there".to_owned(), |now| format!("is {now}"));
            return Err(refused(format!("column {column} of public.{name} is another one now"))
                .with("live", now)
                .with("backup", format!("is {type_name}")));
        }
        let mut definition = String::new();
        for column in &stood.columns {
            let _ = write!(definition, "{} {}, ", ident(&column.name), column.type_name);
        }
        let sql = format!("CREATE TEMPORARY TABLE {} ({definition}PRIMARY KEY (id))", temporary(name));
        client.batch_execute(&sql).await.explain(format!("cannot make a temporary table for public.{name}"))?;
        Ok(stood.columns.iter().map(|column| column.name.clone()).collect())
    }

    /// Copies the rows that a condition names, table by table.
    async fn copy(
        &self,
        client: &Client,
        stored: &Stored,
        meter: &std::sync::Arc<Meter>,
        conditions: &[(&str, String)],
    ) -> Result<()> {
        let into = |table: &Stood| {
            let (name, condition) =
                conditions.iter().find(|(name, condition)| is_own(table, name) && condition != NOTHING)?;
            let columns = self.columns(name).join(", ");
            Some(Target { table: format!("{} ({columns})", temporary(name)), condition: Some(condition.clone()) })
        };
        stored.load_into(client, meter, &into).await
    }

    /// The numbers that a query gives; `{table}` in it is the temporary one.
    async fn ids(&self, client: &Client, query: &str) -> Result<Vec<i32>> {
        let mut sql = query.to_owned();
        for table in TABLES {
            sql = sql.replace(&format!("{{{}}}", table.name), &temporary(table.name));
        }
        let sql = format!("SELECT id::int FROM ({sql}) ids (id) WHERE id IS NOT NULL ORDER BY 1");
        let rows = client.query(&sql, &[]).await.explain("cannot read what the records refer to")?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn refuse_absent(&self, client: &Client, stored: &Stored, wanted: &Wanted) -> Result<()> {
        for (record, ids) in wanted.each() {
            let there = self.ids(client, &format!("SELECT id FROM {{{}}}", record.table())).await?;
            if let Some(id) = ids.iter().find(|id| !there.contains(id)) {
                let noun = record.noun();
                return Err(Error::new(Kind::Refused, format!("{} has no {noun} {id}", called(&stored.noted)))
                    .with("state", "nothing was changed")
                    .hint("Take one from when it was there: `teslamate-backup list` shows them."));
            }
        }
        Ok(())
    }
}

/// The name of the temporary table for a live one.
pub(super) fn temporary(table: &str) -> String {
    format!("pg_temp.{}", ident(&format!("glovebox_{table}")))
}

/// A condition that a column is one of these, in any session: it names no operator that another schema may have, too.
pub(super) fn any(column: &str, ids: &[i32]) -> String {
    if ids.is_empty() {
        return NOTHING.to_owned();
    }
    let ids: Vec<String> = ids.iter().map(i32::to_string).collect();
    format!("{column} OPERATOR(pg_catalog.=) ANY ('{{{}}}'::pg_catalog.int4[])", ids.join(","))
}

fn stood<'a>(stored: &'a Stored, name: &str) -> Option<&'a Stood> {
    stored.manifest.tables.iter().map(|entry| &entry.table).find(|table| is_own(table, name))
}

/// Whether it is `TeslaMate`'s table of this name, and no partition.
fn is_own(table: &Stood, name: &str) -> bool {
    table.schema == "public" && table.name == name && table.root.is_none()
}
