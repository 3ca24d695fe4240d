//! Closing a drive by SQL: `docs/closing.md`, "A drive".
//!
//! In: a transaction in which the drive's row is locked. Out: the row as `TeslaMate` itself would have written it, but
//! for the addresses, which come from the network and stay. Not here: the geofence's geometry (`geofence.rs`), the
//! deletion itself (`delete.rs`).

use tokio_postgres::Transaction;

use super::geofence;
use super::session::{Explain, Work};
use crate::error::{Error, Kind, Result};

/// Says what is left alone, in every report of this route.
pub const ADDRESSES_STAY: &str = "start_address_id and end_address_id stay as they are: addresses come from the network, which this route does not ask";

/// What decides whether a drive is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// How many positions it has.
    pub positions: i64,
    /// How many of them have an odometer and an ideal range.
    pub complete: i64,
    /// How far it went, in km, if both odometers are known.
    pub distance: Option<f64>,
    /// How long it took.
    pub minutes: Option<i64>,
}

impl Facts {
    /// Reads them.
    pub async fn read(transaction: &Transaction<'_>, id: i32) -> Result<Self> {
        let row = transaction
            .query_one(
                "WITH p AS MATERIALIZED ( \
                   SELECT id, date, odometer, ideal_battery_range_km IS NOT NULL AND odometer IS NOT NULL AS complete \
                   FROM public.positions WHERE drive_id = $1 \
                 ), head AS (SELECT * FROM p ORDER BY date, id LIMIT 1), \
                 tail AS (SELECT * FROM p ORDER BY date DESC, id DESC LIMIT 1) \
                 SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM p WHERE complete), \
                        (SELECT tail.odometer - head.odometer FROM head, tail), \
                        (SELECT round(extract(epoch FROM tail.date - head.date) / 60) FROM head, tail)::bigint",
                &[&id],
            )
            .await
            .explain(format!("cannot read the positions of drive {id}"))?;
        Ok(Self { positions: row.get(0), complete: row.get(1), distance: row.get(2), minutes: row.get(3) })
    }

    /// Why closing deletes the drive instead, if it does.
    #[must_use]
    pub fn reason_to_delete(&self) -> Option<String> {
        if self.positions < 2 {
            let count = if self.positions == 1 { "only one position".into() } else { "no positions".to_owned() };
            return Some(format!("it has {count}, and a drive needs two"));
        }
        if self.complete == 0 {
            return Some("none of its positions has both an odometer and an ideal range".into());
        }
        self.distance
            .filter(|distance| *distance < 0.01)
            .map(|distance| format!("it went {distance} km, less than the 0.01 km that make a drive"))
    }
}

/// The new values of a drive ($1) whose geofences are $2 and $3.
const COMPUTED: &str = "WITH p AS MATERIALIZED ( \
       SELECT *, ideal_battery_range_km IS NOT NULL AND odometer IS NOT NULL AS complete \
       FROM public.positions WHERE drive_id = $1::integer \
     ), \
     head AS (SELECT * FROM p ORDER BY date, id LIMIT 1), \
     tail AS (SELECT * FROM p ORDER BY date DESC, id DESC LIMIT 1), \
     whole_head AS (SELECT * FROM p WHERE complete ORDER BY date, id LIMIT 1), \
     whole_tail AS (SELECT * FROM p WHERE complete ORDER BY date DESC, id DESC LIMIT 1), \
     extremes AS ( \
       SELECT avg(outside_temp) AS outside, avg(inside_temp) AS inside, max(speed) AS speed, \
              max(power) AS strongest, min(power) AS weakest FROM p \
     ), \
     steps AS ( \
       SELECT elevation::integer - lag(elevation) OVER (ORDER BY date, id) AS step \
       FROM p WHERE elevation IS NOT NULL \
     ), \
     climb AS ( \
       SELECT coalesce(sum(step) FILTER (WHERE step > 0), 0) AS up, \
              coalesce(-sum(step) FILTER (WHERE step < 0), 0) AS down FROM steps \
     ) \
     SELECT head.date AS start_date, tail.date AS end_date, \
            head.id AS start_position_id, tail.id AS end_position_id, \
            head.odometer AS start_km, tail.odometer AS end_km, tail.odometer - head.odometer AS distance, \
            round(extract(epoch FROM tail.date - head.date) / 60) AS duration_min, \
            extremes.outside AS outside_temp_avg, extremes.inside AS inside_temp_avg, \
            extremes.speed AS speed_max, extremes.strongest AS power_max, extremes.weakest AS power_min, \
            whole_head.ideal_battery_range_km AS start_ideal_range_km, \
            whole_tail.ideal_battery_range_km AS end_ideal_range_km, \
            whole_head.rated_battery_range_km AS start_rated_range_km, \
            whole_tail.rated_battery_range_km AS end_rated_range_km, \
            CASE WHEN climb.up > 32767 THEN 0 ELSE climb.up END AS ascent, \
            CASE WHEN climb.down > 32767 THEN 0 ELSE climb.down END AS descent, \
            coalesce($2::integer, d.start_geofence_id) AS start_geofence_id, \
            coalesce($3::integer, d.end_geofence_id) AS end_geofence_id \
     FROM head, tail, whole_head, whole_tail, extremes, climb, public.drives d \
     WHERE d.id = $1::integer";

/// Closes the drive: writes every column that its positions decide.
///
/// The caller has seen to it that there is no [reason to delete](Facts::reason_to_delete) it.
pub async fn close(work: &Work<'_>, id: i32, facts: &Facts) -> Result<()> {
    if let Some(minutes) = facts.minutes.filter(|minutes| *minutes > i64::from(i16::MAX)) {
        return Err(too_long("drive", id, minutes));
    }
    let fences = geofence::of_drive(work, id).await?;
    work.update("drives", id, COMPUTED, &[&id, &fences.0, &fences.1]).await.explain(format!("cannot close drive {id}"))
}

/// A duration that `duration_min`, a `smallint`, cannot hold.
pub(super) fn too_long(noun: &str, id: i32, minutes: i64) -> Error {
    Error::new(Kind::Refused, format!("{noun} {id} would last {minutes} minutes, more than its column can hold"))
        .with("column", format!("duration_min, at most {}", i16::MAX))
        .with("state", "nothing was changed")
        .hint("A position or reading with a wrong date belongs to it: look at its first and last dates.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(positions: i64, complete: i64, distance: Option<f64>) -> Option<String> {
        Facts { positions, complete, distance, minutes: None }.reason_to_delete()
    }

    #[test]
    fn a_drive_is_kept_from_two_positions_and_a_hundredth_of_a_kilometre_on() {
        assert_eq!(facts(2, 1, Some(0.01)), None);
        assert_eq!(facts(2, 1, None), None, "an unknown distance is no reason");
        assert!(facts(0, 0, None).unwrap().contains("no positions"));
        assert!(facts(1, 1, Some(0.0)).unwrap().contains("only one position"));
        assert!(facts(2, 0, Some(5.0)).unwrap().contains("none of its positions"));
        assert!(facts(2, 2, Some(0.009)).unwrap().contains("0.009 km"));
        assert!(facts(2, 2, Some(-3.0)).unwrap().contains("-3 km"));
    }
}
