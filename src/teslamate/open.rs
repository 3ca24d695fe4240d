//! The records that are open: started, and never ended.

use std::time::Duration;

use super::Record;
use super::session::{Explain, Session};
use crate::env::Env;
use crate::error::Result;

/// A place and time that a car was last seen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastPosition {
    /// UTC.
    pub date: String,
    /// Degrees.
    pub latitude: String,
    /// Degrees.
    pub longitude: String,
    /// In km, where it is known.
    pub odometer: Option<String>,
}

/// An open record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Its id.
    pub id: i32,
    /// The car's id.
    pub car_id: i16,
    /// The car's name.
    pub car_name: Option<String>,
    /// When it began, UTC.
    pub start_date: String,
    /// How long ago that was.
    pub age_seconds: i64,
    /// The last position of a drive; the position at which a charge stands.
    pub last_position: Option<LastPosition>,
    /// The date of the last reading of a charge, UTC.
    pub last_reading: Option<String>,
}

/// Lists the open records, the oldest first.
pub async fn list(env: &Env, record: Record) -> Result<Vec<Open>> {
    let session = Session::open(env).await?;
    read(&session, record).await
}

/// The ids of the open records that began at least this long ago.
pub(super) async fn ids(session: &Session, record: Record, older_than: Option<Duration>) -> Result<Vec<i32>> {
    let least = older_than.map_or(i64::MIN, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    let open = read(session, record).await?;
    Ok(open.iter().filter(|open| open.age_seconds >= least).map(|open| open.id).collect())
}

async fn read(session: &Session, record: Record) -> Result<Vec<Open>> {
    let (position, reading) = match record {
        Record::Drive => (
            "SELECT date, latitude, longitude, odometer FROM public.positions p \
             WHERE p.drive_id = r.id ORDER BY p.date DESC, p.id DESC LIMIT 1",
            "NULL::timestamp",
        ),
        Record::Charge => (
            "SELECT date, latitude, longitude, odometer FROM public.positions p WHERE p.id = r.position_id",
            "(SELECT max(date) FROM public.charges c WHERE c.charging_process_id = r.id)",
        ),
    };
    let query = format!(
        "SELECT r.id, r.car_id, cars.name, r.start_date::text, \
                extract(epoch FROM now() AT TIME ZONE 'UTC' - r.start_date)::bigint, \
                p.date::text, p.latitude::text, p.longitude::text, p.odometer::text, {reading}::text \
         FROM public.{} r JOIN public.cars ON cars.id = r.car_id LEFT JOIN LATERAL ({position}) p ON true \
         WHERE r.end_date IS NULL ORDER BY r.start_date, r.id",
        record.table()
    );
    let what = format!("cannot read the open {}s", record.noun());
    let rows = session.client.query(&query, &[]).await.explain(what)?;
    Ok(rows
        .iter()
        .map(|row| Open {
            id: row.get(0),
            car_id: row.get(1),
            car_name: row.get(2),
            start_date: row.get(3),
            age_seconds: row.get(4),
            last_position: row.get::<_, Option<String>>(5).map(|date| LastPosition {
                date,
                latitude: row.get(6),
                longitude: row.get(7),
                odometer: row.get(8),
            }),
            last_reading: row.get(9),
        })
        .collect())
}
