//! The geofence in which a drive starts and ends: `docs/closing.md`, "Geofences".
//!
//! Distances are those of PostgreSQL's extension earthdistance, whose functions live in schema `public` and call each
//! other without naming it. So this one query, and nothing else, runs with `public` in the search path.

use super::session::{Explain, Work};
use crate::error::{Error, Kind, Result};

/// The fences of the first and the last position of a drive, where there are any.
pub async fn of_drive(transaction: &Work<'_>, id: i32) -> Result<(Option<i32>, Option<i32>)> {
    let extension: bool = transaction
        .query_one(
            "SELECT to_regprocedure('public.ll_to_earth(double precision, double precision)') IS NOT NULL \
                AND to_regprocedure('public.earth_distance(public.earth, public.earth)') IS NOT NULL",
            &[],
        )
        .await
        .explain("cannot look for the extension earthdistance")?
        .get(0);
    if !extension {
        return Err(Error::new(Kind::Refused, "function public.earth_distance is missing: no geofence can be found")
            .with("state", "nothing was changed")
            .hint("As a superuser, in this database: CREATE EXTENSION earthdistance SCHEMA public CASCADE"));
    }
    let what = || format!("cannot find the geofences of drive {id}");
    transaction.batch_execute("SET LOCAL search_path = pg_catalog, public").await.explain(what())?;
    let rows = transaction
        .query(
            "WITH p AS MATERIALIZED (SELECT id, date, latitude, longitude FROM public.positions WHERE drive_id = $1), \
             ends AS ( \
               (SELECT 1 AS place, latitude, longitude FROM p ORDER BY date, id LIMIT 1) UNION ALL \
               (SELECT 2 AS place, latitude, longitude FROM p ORDER BY date DESC, id DESC LIMIT 1) \
             ), \
             away AS ( \
               SELECT ends.place, g.id, g.radius, public.earth_distance( \
                 public.ll_to_earth(g.latitude::float8, g.longitude::float8), \
                 public.ll_to_earth(ends.latitude::float8, ends.longitude::float8)) AS metres \
               FROM ends CROSS JOIN public.geofences g \
             ) \
             SELECT DISTINCT ON (place) place, id FROM away WHERE metres < radius ORDER BY place, metres, id",
            &[&id],
        )
        .await
        .explain(what())?;
    transaction.own_settings().await.explain(what())?;
    let fence = |place: i32| rows.iter().find(|row| row.get::<_, i32>(0) == place).map(|row| row.get(1));
    Ok((fence(1), fence(2)))
}
