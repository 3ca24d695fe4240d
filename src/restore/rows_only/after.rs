//! Facts after rows were replaced: materialized views, tables that were left alone.

use tokio_postgres::Client;

use crate::database::connect::QueryContext;
use crate::error::Result;

/// The materialized views that show rows of these tables, in an order in which they can be refreshed.
pub(super) async fn materialized_views(client: &Client, oids: &[u32]) -> Result<Vec<String>> {
    let sql = "WITH RECURSIVE shown (oid, depth) AS ( \
                   SELECT o, 0 FROM unnest($1::oid[]) AS o \
                   UNION SELECT next.oid, s.depth + next.step FROM shown s CROSS JOIN LATERAL ( \
                       SELECT i.inhparent, 0 FROM pg_inherits i WHERE i.inhrelid = s.oid \
                       UNION ALL SELECT r.ev_class, 1 FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid \
                       WHERE d.refobjid = s.oid AND d.refclassid = 'pg_class'::regclass \
                         AND d.classid = 'pg_rewrite'::regclass AND r.ev_class <> s.oid) AS next (oid, step) \
                   WHERE s.depth < 100) \
               SELECT format('%I.%I', n.nspname, c.relname) FROM shown s JOIN pg_class c ON c.oid = s.oid \
                      JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND c.relispopulated \
               GROUP BY n.nspname, c.relname ORDER BY max(s.depth), 1";
    let rows = client.query(sql, &[&oids]).await.query_context("cannot look for materialized views")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Tables that inherit from one of these and are not among them.
pub(super) async fn children_left_alone(client: &Client, oids: &[u32]) -> Result<Vec<String>> {
    let sql = "WITH RECURSIVE below (oid) AS (SELECT inhrelid FROM pg_inherits WHERE inhparent = ANY ($1) \
                   UNION SELECT i.inhrelid FROM pg_inherits i JOIN below b ON b.oid = i.inhparent) \
               SELECT format('%I.%I', n.nspname, c.relname) FROM below b JOIN pg_class c ON c.oid = b.oid \
                      JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind IN ('r', 'f') AND c.oid <> ALL ($1) ORDER BY 1";
    let rows = client.query(sql, &[&oids]).await.query_context("cannot look for tables that inherit")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The tables of the live database that are not among these; of those of extensions, those that people put rows into.
pub(super) async fn others(client: &Client, oids: &[u32]) -> Result<Vec<String>> {
    let sql = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND c.oid <> ALL ($1) \
                 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
                 AND (NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid \
                                  AND d.deptype = 'e') \
                      OR EXISTS (SELECT FROM pg_extension e WHERE c.oid = ANY (e.extconfig))) ORDER BY 1";
    let rows = client.query(sql, &[&oids]).await.query_context("cannot list the tables")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
