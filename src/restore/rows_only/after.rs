//! Steps after rows were replaced: sequences, materialized views, tables that were left alone.

use tokio_postgres::Client;

use crate::database::connect::QueryContext;
use crate::database::ident;
use crate::error::Result;

/// Sequences that number a column of these tables: its own, that of the partitioned table above, or one in its default or
/// that of its domain. A domain may be one over a domain.
const SEQUENCES: &str = "\
    WITH RECURSIVE above (oid, ancestor) AS ( \
        SELECT o, o FROM unnest($1::oid[]) AS o UNION SELECT o, p.relid FROM unnest($1::oid[]) AS o, pg_partition_ancestors(o) AS p), \
    beneath (tab, num, type) AS ( \
        SELECT attrelid, attnum, atttypid FROM pg_attribute WHERE attrelid = ANY ($1) AND attnum > 0 AND NOT attisdropped \
        UNION SELECT b.tab, b.num, y.typbasetype FROM beneath b JOIN pg_type y ON y.oid = b.type WHERE y.typtype = 'd'), \
    numbered (sequence, tab, col) AS ( \
        SELECT d.objid, above.oid, a.attname FROM above JOIN pg_depend d ON d.refobjid = above.ancestor \
               AND d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') \
               JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
        UNION SELECT d.refobjid, e.adrelid, a.attname FROM pg_attrdef e \
               JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid \
                    AND d.refclassid = 'pg_class'::regclass \
               JOIN pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum WHERE e.adrelid = ANY ($1) \
        UNION SELECT d.refobjid, b.tab, a.attname FROM beneath b \
               JOIN pg_type y ON y.oid = b.type AND y.typtype = 'd' AND y.typdefaultbin IS NOT NULL \
               JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = y.oid AND d.refclassid = 'pg_class'::regclass \
               JOIN pg_attribute a ON a.attrelid = b.tab AND a.attnum = b.num) \
    SELECT format('%I.%I', sn.nspname, s.relname), format('%I.%I', tn.nspname, t.relname), x.col::text, \
           q.seqincrement > 0 \
    FROM numbered x JOIN pg_class s ON s.oid = x.sequence AND s.relkind = 'S' JOIN pg_namespace sn ON sn.oid = s.relnamespace \
         JOIN pg_sequence q ON q.seqrelid = s.oid \
         JOIN pg_class t ON t.oid = x.tab JOIN pg_namespace tn ON tn.oid = t.relnamespace \
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = x.col \
    WHERE EXISTS (SELECT FROM beneath b WHERE b.tab = t.oid AND b.num = a.attnum \
                  AND b.type IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype)) ORDER BY 1, 2, 3";

/// Advances the sequences, so that the next row does not get a number that a row has already. None is set back.
pub(super) async fn advance_sequences(client: &Client, oids: &[u32]) -> Result<()> {
    for row in client.query(SEQUENCES, &[&oids]).await.query_context("cannot look for the sequences")? {
        let (sequence, table, column, ascends): (String, String, String, bool) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let (last, beyond) = if ascends { ("ceil(max", ">") } else { ("floor(min", "<") };
        let set = format!(
            "SELECT setval($1::text::regclass, h.last::bigint) \
             FROM (SELECT {last}({0})::numeric) AS last FROM ONLY {table}) h, {sequence} s, pg_sequence q \
             WHERE q.seqrelid = $1::text::regclass AND h.last BETWEEN q.seqmin AND q.seqmax \
               AND h.last {beyond} CASE WHEN s.is_called THEN s.last_value::numeric \
                                   ELSE s.last_value::numeric - q.seqincrement END",
            ident(&column)
        );
        client.execute(&set, &[&sequence]).await.query_context(format!("cannot advance sequence {sequence}"))?;
    }
    Ok(())
}

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

/// The tables of the live database that are not among these.
pub(super) async fn others(client: &Client, oids: &[u32]) -> Result<Vec<String>> {
    let sql = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND c.oid <> ALL ($1) \
                 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
                 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid \
                                 AND d.deptype = 'e') ORDER BY 1";
    let rows = client.query(sql, &[&oids]).await.query_context("cannot list the tables")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
