//! Completing a charging process by SQL: `docs/closing.md`, "A charge".
//!
//! In: a transaction in which the process's row is locked. Out: the row, and the car's efficiency, as `TeslaMate`
//! itself would have written them. One statement computes everything (`COMPLETION`); it is run once to look at what
//! would not fit or has no meaning, and once to write.

use tokio_postgres::Transaction;

use super::session::{Explain, Work};
use super::{drive, efficiency};
use crate::error::{Error, Kind, Result};

/// The new values of a charging process that has readings, as the relation `completion` of one row.
///
/// The arithmetic keeps to the types that the meaning names: ratios are averaged as `numeric`, phases are `float8`,
/// energy is summed as `float8` and rounded once, at the end. Rounding a `float8` half up is spelt out, since
/// `round(float8)` goes to the even neighbour.
const COMPLETION: &str = "WITH r AS MATERIALIZED ( \
       SELECT * FROM public.charges WHERE charging_process_id = $1 \
     ), \
     head AS (SELECT * FROM r ORDER BY date, id LIMIT 1), \
     tail AS (SELECT * FROM r ORDER BY date DESC, id DESC LIMIT 1), \
     means AS ( \
       SELECT avg(outside_temp) AS outside, max(charge_energy_added) AS top, count(*) AS n, \
              round(avg(charger_phases))::integer AS r, \
              avg(charger_power * 1000.0 / nullif(charger_actual_current::integer * charger_voltage, 0))::float8 AS p \
       FROM r \
     ), \
     rounded AS ( \
       SELECT n, r, p, CASE WHEN p - floor(p) >= 0.5 THEN floor(p) + 1 ELSE floor(p) END AS q FROM means \
     ), \
     phase AS ( \
       SELECT CASE WHEN p > 0 AND n > 15 THEN CASE \
                WHEN r = q THEN r::float8 \
                WHEN r = 3 AND abs(p / sqrt(3::float8) - 1) <= 0.1 THEN sqrt(3::float8) \
                WHEN q > 0 AND abs(q - p) <= 0.3 THEN q \
              END END AS phases FROM rounded \
     ), \
     spans AS ( \
       SELECT CASE WHEN r.charger_phases IS NULL THEN r.charger_power::float8 \
                   ELSE coalesce(phase.phases * r.charger_actual_current * r.charger_voltage / 1000.0, r.charger_power) \
              END * extract(epoch FROM r.date - lag(r.date) OVER (ORDER BY r.date, r.id))::float8 / 3600 AS kwh \
       FROM r CROSS JOIN phase \
     ), \
     energy AS ( \
       SELECT (SELECT sum(kwh)::numeric FROM spans WHERE kwh >= 0) AS used, \
              coalesce(nullif(tail.charge_energy_added, 0), means.top) - head.charge_energy_added AS difference, \
              round(extract(epoch FROM tail.date - head.date) / 60) AS minutes \
       FROM head, tail, means \
     ), \
     charger AS ( \
       SELECT mode() WITHIN GROUP (ORDER BY fast_charger_type) AS type FROM r WHERE charger_power > 0 \
     ), \
     tariff AS ( \
       SELECT s.free_supercharging AND starts_with((SELECT type FROM charger)::text, 'Tesla') IS TRUE AS free, \
              g.billing_type::text AS billing, g.cost_per_unit AS price, g.session_fee AS fee \
       FROM public.charging_processes c \
       JOIN public.cars ON cars.id = c.car_id JOIN public.car_settings s ON s.id = cars.settings_id \
       LEFT JOIN public.geofences g ON g.id = c.geofence_id WHERE c.id = $1 \
     ), \
     totals AS ( \
       SELECT used, minutes, CASE WHEN difference >= 0 THEN difference END AS added FROM energy \
     ), \
     completion AS ( \
       SELECT totals.*, NOT free AND billing = 'per_minute' AND price IS NULL AS priceless, \
              CASE WHEN free THEN 0 \
                   WHEN billing = 'per_kwh' AND greatest(added, used) IS NOT NULL \
                        AND (price IS NOT NULL OR fee IS NOT NULL) \
                     THEN coalesce(fee, 0) + coalesce(greatest(added, used) * price, 0) \
                   WHEN billing = 'per_minute' THEN minutes * price + coalesce(fee, 0) \
              END AS cost \
       FROM totals, tariff \
     )";

/// What became of the car's efficiency, and whether there was anything to complete from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// How many readings the process has.
    pub readings: i64,
}

/// Values of a charging process without readings: it ends now.
const ENDED: &str = "SELECT now() AT TIME ZONE 'UTC' AS end_date, NULL AS charge_energy_added, \
     NULL AS charge_energy_used, NULL AS cost";

/// Completes the process and derives the car's efficiency anew.
pub async fn close(work: &Work<'_>, id: i32, car_id: i32) -> Result<Completed> {
    let what = || format!("cannot complete charge {id}");
    let readings: i64 = work
        .query_one("SELECT count(*) FROM public.charges WHERE charging_process_id = $1", &[&id])
        .await
        .explain(what())?
        .get(0);
    if readings == 0 {
        work.update("charging_processes", id, ENDED, &[]).await.explain(what())?;
    } else {
        refuse_what_has_no_value(work, id).await?;
        let computed = format!(
            "{COMPLETION} SELECT head.date AS start_date, tail.date AS end_date, \
               head.ideal_battery_range_km AS start_ideal_range_km, tail.ideal_battery_range_km AS end_ideal_range_km, \
               head.rated_battery_range_km AS start_rated_range_km, tail.rated_battery_range_km AS end_rated_range_km, \
               head.battery_level AS start_battery_level, tail.battery_level AS end_battery_level, \
               means.outside AS outside_temp_avg, completion.minutes AS duration_min, \
               completion.added AS charge_energy_added, completion.used AS charge_energy_used, completion.cost AS cost \
             FROM head, tail, means, completion"
        );
        work.update("charging_processes", id, &computed, &[&id]).await.explain(what())?;
    }
    efficiency::derive(work, car_id).await?;
    Ok(Completed { readings })
}

/// Refuses, by name of the column, what could not be written.
async fn refuse_what_has_no_value(transaction: &Transaction<'_>, id: i32) -> Result<()> {
    let row = transaction
        .query_one(
            &format!(
                "{COMPLETION} SELECT minutes::bigint, coalesce(priceless, false), \
                   abs(used) >= 999999.995, used::text, abs(cost) >= 999999999999.995, cost::text FROM completion"
            ),
            &[&id],
        )
        .await
        .explain(format!("cannot compute charge {id}"))?;
    let minutes: i64 = row.get(0);
    if minutes > i64::from(i16::MAX) {
        return Err(drive::too_long("charge", id, minutes));
    }
    if row.get(1) {
        return Err(Error::new(
            Kind::Refused,
            format!("charge {id} is billed per minute, but its geofence has no price"),
        )
        .with("state", "nothing was changed")
        .hint("Give the geofence a price (0 will do) or another way of billing in TeslaMate, then close the charge."));
    }
    for (flag, column, value) in [(2, "charge_energy_used", 3), (4, "cost", 5)] {
        if row.get::<_, Option<bool>>(flag) == Some(true) {
            let shown: Option<String> = row.get(value);
            let value = shown.unwrap_or_default();
            return Err(Error::new(Kind::Refused, format!("charge {id} would have a {column} of {value}"))
                .with("cause", "the column cannot hold it")
                .with("state", "nothing was changed")
                .hint("One of its readings has an impossible value or date: look at its charges."));
        }
    }
    Ok(())
}
