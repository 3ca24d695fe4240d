//! The types within a type: what the value of a column is written with.
//!
//! The attributes of composite types, in their order: a value is written by it, and means something else when an attribute
//! is dropped and added again. The types beneath domains and ranges: they decide which values there are.

use std::collections::HashMap;

use tokio_postgres::Client;

use crate::database::connect::QueryContext;
use crate::error::Result;

/// The types in a type: itself, or within an array, a domain, a range or an attribute. The row types of tables are among
/// them.
macro_rules! within {
    ($rest:literal) => {
        concat!(
            "WITH RECURSIVE parts (root, oid) AS ( \
                SELECT DISTINCT o, o FROM unnest($1::oid[]) AS o \
                UNION \
                SELECT p.root, part.oid FROM parts p JOIN pg_catalog.pg_type t ON t.oid = p.oid CROSS JOIN LATERAL ( \
                    SELECT t.typelem UNION ALL SELECT t.typbasetype \
                    UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a \
                              WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped \
                    UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid \
                    UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngmultitypid = t.oid \
                ) AS part (oid) WHERE part.oid <> 0), ",
            $rest
        )
    };
}

/// The composite types, each with its attributes.
const COMPOSITES: &str = within!(
    "\
    shown (oid, text) AS ( \
        SELECT t.oid, pg_catalog.format_type(t.oid, -1) || ': ' || coalesce(( \
               SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname) || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod), \
                                            ', ' ORDER BY a.attnum) \
               FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), '') \
        FROM pg_catalog.pg_type t WHERE t.typtype = 'c' AND t.oid IN (SELECT oid FROM parts)) \
    SELECT p.root, pg_catalog.string_agg(s.text, '; ' ORDER BY s.text COLLATE \"C\") \
    FROM parts p JOIN shown s ON s.oid = p.oid GROUP BY p.root"
);

/// The domains and ranges that somebody made, each with the type beneath it.
const BASES: &str = within!(
    "\
    shown (oid, text) AS ( \
        SELECT t.oid, pg_catalog.format_type(t.oid, -1) || ': ' || \
               CASE t.typtype WHEN 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) \
                    ELSE 'range of ' || pg_catalog.format_type(r.rngsubtype, -1) END \
        FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid \
        WHERE t.typtype IN ('d', 'r') AND t.oid >= 16384 AND t.oid IN (SELECT oid FROM parts)) \
    SELECT p.root, pg_catalog.string_agg(s.text, '; ' ORDER BY s.text COLLATE \"C\") \
    FROM parts p JOIN shown s ON s.oid = p.oid GROUP BY p.root"
);

/// The labels of the enums, each with its own number.
const LABELS: &str = within!(
    "\
    shown (oid, label, text, enum) AS ( \
        SELECT l.enumtypid, l.oid, l.enumlabel::text, pg_catalog.format_type(l.enumtypid, -1) FROM pg_catalog.pg_enum l) \
    SELECT p.root, s.label, s.enum, s.text FROM parts p JOIN shown s ON s.oid = p.oid"
);

/// Texts for types, by the number of the type; nothing for one of which there is nothing to say.
pub type Texts = HashMap<u32, String>;

/// The labels of enums, each with the name of its enum, by the number that a label keeps when it is renamed.
pub type Labels = HashMap<u32, (String, String)>;

/// The attributes of all composite types in these types.
///
/// # Errors
/// [`Kind::Source`](crate::error::Kind::Source).
pub async fn read(client: &Client, types: &[u32]) -> Result<Texts> {
    texts(client, COMPOSITES, types).await
}

/// The types beneath all domains and ranges in these types.
///
/// # Errors
/// [`Kind::Source`](crate::error::Kind::Source).
pub async fn bases(client: &Client, types: &[u32]) -> Result<Texts> {
    texts(client, BASES, types).await
}

/// The labels of all enums in these types, by the number of the type.
///
/// # Errors
/// [`Kind::Source`](crate::error::Kind::Source).
pub async fn labels(client: &Client, types: &[u32]) -> Result<HashMap<u32, Labels>> {
    let rows = client.query(LABELS, &[&types]).await.query_context("cannot read the labels of the enums")?;
    let mut labels: HashMap<u32, Labels> = HashMap::new();
    for row in &rows {
        labels.entry(row.get(0)).or_default().insert(row.get(1), (row.get(2), row.get(3)));
    }
    Ok(labels)
}

async fn texts(client: &Client, sql: &str, types: &[u32]) -> Result<Texts> {
    let rows = client.query(sql, &[&types]).await.query_context("cannot read the types of the columns")?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
