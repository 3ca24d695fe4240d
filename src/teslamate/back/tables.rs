//! Tables that a drive or a charge consists of and refers to. Source: `TeslaMate`'s schema, as in `docs/closing.md`.

/// A table whose rows may be put back.
#[derive(Debug)]
pub(super) struct Table {
    /// Its name, in schema `public`.
    pub(super) name: &'static str,
    /// Columns that never change: if they differ, the id belongs to another row. Without any, every row of an id is the same one.
    pub(super) identity: &'static [&'static str],
    /// Columns that refer to rows which come later, and are filled then.
    pub(super) later: &'static [&'static str],
}

impl Table {
    const fn new(name: &'static str, identity: &'static [&'static str]) -> Self {
        Self { name, identity, later: &[] }
    }
}

/// In the order in which they are filled: whatever a row refers to is there before it, but for a drive's own positions.
pub(super) const TABLES: &[Table] = &[
    Table::new("car_settings", &[]),
    Table::new("cars", &["vin"]),
    Table::new("addresses", &["osm_id", "osm_type"]),
    // A person may change all of a geofence.
    Table::new("geofences", &[]),
    Table { later: &["start_position_id", "end_position_id"], ..Table::new("drives", &["car_id", "start_date"]) },
    Table::new("positions", &["car_id", "date"]),
    Table::new("charging_processes", &["car_id", "start_date"]),
    Table::new("charges", &["charging_process_id", "date"]),
];
