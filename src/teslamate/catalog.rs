//! Whether this is `TeslaMate`'s database, and which columns its tables have.

use std::collections::BTreeMap;

use tokio_postgres::Client;

use super::session::Explain;
use crate::error::{Error, Kind, Result};

/// Every table that is touched, with the columns that the statements name.
const NEEDED: &[(&str, &[&str])] = &[
    ("car_settings", &["id", "free_supercharging"]),
    ("cars", &["id", "name", "efficiency", "updated_at", "settings_id"]),
    (
        "charges",
        &[
            "id",
            "date",
            "battery_level",
            "charge_energy_added",
            "charger_actual_current",
            "charger_phases",
            "charger_power",
            "charger_voltage",
            "fast_charger_type",
            "ideal_battery_range_km",
            "outside_temp",
            "charging_process_id",
            "rated_battery_range_km",
        ],
    ),
    (
        "charging_processes",
        &[
            "id",
            "start_date",
            "end_date",
            "charge_energy_added",
            "start_ideal_range_km",
            "end_ideal_range_km",
            "start_battery_level",
            "end_battery_level",
            "duration_min",
            "outside_temp_avg",
            "car_id",
            "position_id",
            "start_rated_range_km",
            "end_rated_range_km",
            "geofence_id",
            "charge_energy_used",
            "cost",
        ],
    ),
    (
        "drives",
        &[
            "id",
            "start_date",
            "end_date",
            "outside_temp_avg",
            "speed_max",
            "power_max",
            "power_min",
            "start_ideal_range_km",
            "end_ideal_range_km",
            "start_km",
            "end_km",
            "distance",
            "duration_min",
            "car_id",
            "inside_temp_avg",
            "start_rated_range_km",
            "end_rated_range_km",
            "start_position_id",
            "end_position_id",
            "start_geofence_id",
            "end_geofence_id",
            "ascent",
            "descent",
        ],
    ),
    ("geofences", &["id", "latitude", "longitude", "radius", "cost_per_unit", "session_fee", "billing_type"]),
    (
        "positions",
        &[
            "id",
            "date",
            "latitude",
            "longitude",
            "speed",
            "power",
            "odometer",
            "ideal_battery_range_km",
            "rated_battery_range_km",
            "outside_temp",
            "inside_temp",
            "elevation",
            "drive_id",
        ],
    ),
    ("settings", &["preferred_range"]),
];

/// The columns that came with TeslaMate 2.1.
const SINCE_2_1: [(&str, &str); 2] = [("drives", "ascent"), ("drives", "descent")];

/// A column, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Whether its values are numbers.
    pub numeric: bool,
    /// Whether the server computes it, so that it cannot be written.
    pub generated: bool,
}

/// The columns of `TeslaMate`'s tables, by table.
#[derive(Clone, Debug, Default)]
pub struct Catalog(BTreeMap<String, Vec<Column>>);

impl Catalog {
    /// Reads it.
    ///
    /// # Errors
    /// [`Kind::Refused`] if a table or column that the work needs is missing: not a database of `TeslaMate`, or one of
    /// a version that this program does not know.
    pub async fn read(client: &Client, database: &str) -> Result<Self> {
        let names: Vec<&str> = NEEDED.iter().map(|(table, _)| *table).collect();
        let rows = client
            .query(
                "SELECT c.relname::text, a.attname::text, t.typcategory = 'N', a.attgenerated <> '' \
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid \
                 WHERE n.nspname = 'public' AND c.relname = ANY($1) AND c.relkind IN ('r', 'p') \
                   AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.relname, a.attnum",
                &[&names],
            )
            .await
            .explain("cannot read the catalogue")?;
        let mut tables: BTreeMap<String, Vec<Column>> = BTreeMap::new();
        for row in &rows {
            let column = Column { name: row.get(1), numeric: row.get(2), generated: row.get(3) };
            tables.entry(row.get(0)).or_default().push(column);
        }
        let catalog = Self(tables);
        catalog.check(database)?;
        Ok(catalog)
    }

    fn check(&self, database: &str) -> Result<()> {
        let foreign = |missing: String| {
            Error::new(Kind::Refused, format!("database \"{database}\" is not one of TeslaMate's: {missing}"))
                .with("state", "nothing was changed")
                .hint("Name the right one with `--dbname` or DATABASE_NAME; `psql -l` lists the databases that exist.")
        };
        if let Some((table, _)) = NEEDED.iter().find(|(table, _)| self.columns(table).is_empty()) {
            return Err(foreign(format!("table public.{table} is missing")));
        }
        let mut absent = NEEDED.iter().flat_map(|(table, columns)| {
            let known = self.columns(table);
            let absent = columns.iter().filter(|name| !known.iter().any(|column| column.name == **name));
            absent.map(|name| (*table, *name))
        });
        let Some((table, column)) = absent.next() else { return Ok(()) };
        let missing = format!("column public.{table}.{column} is missing");
        let is_older = SINCE_2_1.contains(&(table, column)) && absent.all(|other| SINCE_2_1.contains(&other));
        if !is_older {
            return Err(foreign(missing));
        }
        Err(Error::new(Kind::Refused, format!("database \"{database}\" is of a TeslaMate before 2.1: {missing}"))
            .with("state", "nothing was changed")
            .hint("Start TeslaMate 2.1 or newer, whose migrations add it; then repeat the command."))
    }

    /// Whether policies decide which rows of these tables the role sees.
    ///
    /// # Errors
    /// [`Kind::Source`] if the server does not say.
    pub async fn has_policies(&self, client: &Client) -> Result<bool> {
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        let query = "SELECT coalesce(bool_or(row_security_active(c.oid)), false) FROM pg_class c \
                     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public' AND c.relname = ANY($1)";
        Ok(client.query_one(query, &[&names]).await.explain("cannot read the catalogue")?.get(0))
    }

    /// The columns of a table in schema `public`, in order; empty if there is no such table.
    #[must_use]
    pub fn columns(&self, table: &str) -> &[Column] {
        self.0.get(table).map_or(&[], Vec::as_slice)
    }

    /// Whether a column holds numbers.
    #[must_use]
    pub fn is_numeric(&self, table: &str, column: &str) -> bool {
        self.columns(table).iter().any(|known| known.name == column && known.numeric)
    }
}
