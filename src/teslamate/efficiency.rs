//! A car's efficiency, derived from its completed charges: `docs/closing.md`, "Efficiency".

use tokio_postgres::Transaction;

use super::session::{Explain, Work};
use crate::error::{Error, Kind, Result};

/// How many decimals the factor is rounded to, and how many charges must then agree on it; the strictest first.
const STEPS: [(i32, i64); 4] = [(5, 8), (4, 5), (3, 3), (2, 2)];

/// Reads `settings.preferred_range`, of which there must be exactly one.
///
/// # Errors
/// [`Kind::Refused`] if there are no settings, or several: `TeslaMate` itself could not go on then.
pub async fn preferred_range(transaction: &Transaction<'_>) -> Result<String> {
    let rows = transaction
        .query("SELECT preferred_range::text FROM public.settings LIMIT 2", &[])
        .await
        .explain("cannot read TeslaMate's settings")?;
    match rows.as_slice() {
        [row] => Ok(row.get(0)),
        rows => {
            let found = if rows.is_empty() { "no row" } else { "more than one row" };
            Err(Error::new(Kind::Refused, format!("public.settings has {found} instead of exactly one"))
                .with("state", "nothing was changed")
                .hint("TeslaMate makes this row when it starts: start it once, or restore a backup."))
        }
    }
}

/// Derives the car's efficiency from all its charges and writes it where it differs.
///
/// A step counts only its largest group, even if that is the one of charges without a factor; where two groups are
/// equally large, the smaller factor goes first (the meaning leaves that open).
pub async fn derive(work: &Work<'_>, car_id: i32) -> Result<()> {
    let range = match preferred_range(work).await?.as_str() {
        "ideal" => ("start_ideal_range_km", "end_ideal_range_km"),
        _ => ("start_rated_range_km", "end_rated_range_km"),
    };
    let what = || format!("cannot derive the efficiency of car {car_id}");
    let query = format!(
        "SELECT factor > 0, count(*), factor::float8 FROM ( \
           SELECT round(charge_energy_added / nullif({end} - {start}, 0), $2) AS factor \
           FROM public.charging_processes \
           WHERE car_id = $1::integer AND duration_min > 10 AND end_battery_level <= 95 AND charge_energy_added > 0 \
             AND {start} IS NOT NULL AND {end} IS NOT NULL \
         ) factors GROUP BY factor ORDER BY count(*) DESC, factor LIMIT 1",
        start = range.0,
        end = range.1,
    );
    for (decimals, needed) in STEPS {
        let row = work.query_opt(&query, &[&car_id, &decimals]).await.explain(what())?;
        // No charge counts at any precision then.
        let Some(row) = row else { return Ok(()) };
        if row.get::<_, Option<bool>>(0) == Some(true) && row.get::<_, i64>(1) >= needed {
            let factor: f64 = row.get(2);
            let computed = "SELECT $2::float8 AS efficiency, date_trunc('second', now() AT TIME ZONE 'UTC') AS updated_at \
                            FROM public.cars WHERE id = $1::integer AND efficiency IS DISTINCT FROM $2";
            return work.update("cars", car_id, computed, &[&car_id, &factor]).await.explain(what());
        }
    }
    Ok(())
}
