//! The attributes of composite types, in their order: a value of such a type is written by it, and means something else
//! when an attribute is dropped and added again.

use std::collections::HashMap;

use tokio_postgres::Client;

use crate::database::connect::QueryContext;
use crate::error::Result;

/// The composite types in a type: itself, or within an array, a domain, a range or an attribute. The row types of tables
/// are among them.
const COMPOSITES: &str = "\
    WITH RECURSIVE parts (root, oid) AS ( \
        SELECT DISTINCT o, o FROM unnest($1::oid[]) AS o \
        UNION \
        SELECT p.root, part.oid FROM parts p JOIN pg_catalog.pg_type t ON t.oid = p.oid CROSS JOIN LATERAL ( \
            SELECT t.typelem UNION ALL SELECT t.typbasetype \
            UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a \
                      WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped \
            UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid \
            UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngmultitypid = t.oid \
        ) AS part (oid) WHERE part.oid <> 0), \
    shown (oid, text) AS ( \
        SELECT t.oid, pg_catalog.format_type(t.oid, -1) || ': ' || coalesce(( \
               SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname) || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod), \
                                            ', ' ORDER BY a.attnum) \
               FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), '') \
        FROM pg_catalog.pg_type t WHERE t.typtype = 'c' AND t.oid IN (SELECT oid FROM parts)) \
    SELECT p.root, pg_catalog.string_agg(s.text, '; ' ORDER BY s.text COLLATE \"C\") \
    FROM parts p JOIN shown s ON s.oid = p.oid GROUP BY p.root";

/// The attributes of all composite types in these types, as a text for each; nothing for one without any.
///
/// # Errors
/// [`Kind::Source`](crate::error::Kind::Source).
pub async fn read(client: &Client, types: &[u32]) -> Result<HashMap<u32, String>> {
    let rows = client.query(COMPOSITES, &[&types]).await.query_context("cannot read the composite types")?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
