//! The sequences that number rows of the replaced tables: the next row must not get a number that a row has already.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Row};

use crate::database::connect::QueryContext;
use crate::database::ident;
use crate::dump::contents::{SequenceValue, TableName};
use crate::error::Result;

/// Sequences that number a column of these tables: its own, that of the partitioned table above, or one in its default or
/// that of its domain, or in a function there whose body the server knows. A domain may be one over a domain.
///
/// The word says how a column shows the numbers: `exact` or `float`; NULL if the column does not show them as they are.
const NUMBERING: &str = "\
    WITH RECURSIVE above (oid, ancestor) AS ( \
        SELECT o, o FROM unnest($1::oid[]) AS o UNION SELECT o, p.relid FROM unnest($1::oid[]) AS o, pg_partition_ancestors(o) AS p), \
    beneath (tab, num, type) AS ( \
        SELECT attrelid, attnum, atttypid FROM pg_attribute WHERE attrelid = ANY ($1) AND attnum > 0 AND NOT attisdropped \
        UNION SELECT b.tab, b.num, y.typbasetype FROM beneath b JOIN pg_type y ON y.oid = b.type WHERE y.typtype = 'd'), \
    used (class, oid, tab, num, is_direct) AS ( \
        SELECT d.refclassid, d.refobjid, e.adrelid, e.adnum, true FROM pg_attrdef e \
               JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid WHERE e.adrelid = ANY ($1) \
        UNION SELECT d.refclassid, d.refobjid, b.tab, b.num, true FROM beneath b \
               JOIN pg_type y ON y.oid = b.type AND y.typtype = 'd' AND y.typdefaultbin IS NOT NULL \
               JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = y.oid \
        UNION SELECT d.refclassid, d.refobjid, u.tab, u.num, false FROM used u \
               JOIN pg_depend d ON u.class = 'pg_proc'::regclass AND d.classid = u.class AND d.objid = u.oid), \
    numbered (sequence, tab, num, is_direct) AS ( \
        SELECT d.objid, above.oid, a.attnum, true FROM above JOIN pg_depend d ON d.refobjid = above.ancestor \
               AND d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') \
               JOIN pg_attribute r ON r.attrelid = d.refobjid AND r.attnum = d.refobjsubid \
               JOIN pg_attribute a ON a.attrelid = above.oid AND a.attname = r.attname \
        UNION SELECT u.oid, u.tab, u.num, u.is_direct FROM used u WHERE u.class = 'pg_class'::regclass) \
    SELECT DISTINCT sn.nspname::text, s.relname::text, format('%I.%I', tn.nspname, t.relname), a.attname::text, \
           q.seqincrement > 0, \
           CASE WHEN NOT x.is_direct THEN NULL \
                WHEN EXISTS (SELECT FROM beneath b WHERE b.tab = t.oid AND b.num = a.attnum AND b.type IN \
                     ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'oid'::regtype)) THEN 'exact' \
                WHEN EXISTS (SELECT FROM beneath b WHERE b.tab = t.oid AND b.num = a.attnum AND b.type IN \
                     ('numeric'::regtype, 'float4'::regtype, 'float8'::regtype)) THEN 'float' END \
    FROM numbered x JOIN pg_class s ON s.oid = x.sequence AND s.relkind = 'S' JOIN pg_namespace sn ON sn.oid = s.relnamespace \
         JOIN pg_sequence q ON q.seqrelid = s.oid \
         JOIN pg_class t ON t.oid = x.tab JOIN pg_namespace tn ON tn.oid = t.relnamespace \
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = x.num ORDER BY 1, 2, 3, 4";

/// A sequence, and a column that it numbers.
struct Numbering {
    sequence: TableName,
    /// Quoted, with the schema.
    table: String,
    column: String,
    ascends: bool,
    /// How the column shows the numbers, if it does.
    shown: Option<String>,
}

impl Numbering {
    fn of(row: &Row) -> Self {
        Self {
            sequence: TableName { schema: row.get(0), name: row.get(1) },
            table: row.get(2),
            column: row.get(3),
            ascends: row.get(4),
            shown: row.get(5),
        }
    }

    /// The condition that a number, as the last one that was given, is beyond that of the sequence `s`.
    fn is_beyond(&self, last: &str) -> String {
        let beyond = if self.ascends { ">" } else { "<" };
        format!(
            "{last} {beyond} CASE WHEN s.is_called THEN s.last_value::numeric ELSE s.last_value::numeric - q.seqincrement END"
        )
    }

    /// Advances the sequence to the last number in the column.
    async fn to_column(&self, client: &Client, shown: &str) -> Result<()> {
        let (round, last) = if self.ascends { ("ceil", "max") } else { ("floor", "min") };
        let (quoted, column) = (self.sequence.quoted(), ident(&self.column));
        let last = if shown == "exact" {
            // An index answers it. There is no way from `oid` to `numeric`.
            format!("{last}({column})::bigint::numeric")
        } else {
            // The text has all digits. What is no number, or no number of a sequence, is none of its own.
            format!(
                "{round}(({last}({column}) FILTER (WHERE {column} BETWEEN -9223372036854775808 AND 9223372036854775807))::text::numeric)"
            )
        };
        let set = format!(
            "SELECT setval($1::text::regclass, h.last::bigint) FROM (SELECT {last} AS last FROM ONLY {}) h, {quoted} s, pg_sequence q \
             WHERE q.seqrelid = $1::text::regclass AND h.last BETWEEN q.seqmin AND q.seqmax AND {}",
            self.table,
            self.is_beyond("h.last")
        );
        client.execute(&set, &[&quoted]).await.query_context(format!("cannot advance sequence {quoted}")).map(drop)
    }

    /// Advances the sequence to where the backup has it.
    async fn to_backup(&self, client: &Client, value: SequenceValue) -> Result<()> {
        let quoted = self.sequence.quoted();
        let set = format!(
            "SELECT setval($1::text::regclass, $2, $3) FROM {quoted} s, pg_sequence q \
             WHERE q.seqrelid = $1::text::regclass AND $2 BETWEEN q.seqmin AND q.seqmax AND {}",
            self.is_beyond("CASE WHEN $3 THEN $2::bigint::numeric ELSE $2::bigint::numeric - q.seqincrement END")
        );
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&quoted, &value.last, &value.is_called];
        client.execute(&set, &values).await.query_context(format!("cannot advance sequence {quoted}")).map(drop)
    }
}

/// Advances the sequences to the numbers that rows have. Where the rows do not show them (in a text, or by a function),
/// to the value that `kept`, the backup, has for it. No sequence is set back. Returns a sentence for each sequence whose value is not known.
pub(super) async fn advance(
    client: &Client,
    oids: &[u32],
    kept: Option<&BTreeMap<TableName, SequenceValue>>,
) -> Result<Vec<String>> {
    let mut unknown = Vec::new();
    for row in client.query(NUMBERING, &[&oids]).await.query_context("cannot look for the sequences")? {
        let numbering = Numbering::of(&row);
        if let Some(shown) = &numbering.shown {
            numbering.to_column(client, shown).await?;
        } else if let Some(value) = kept.and_then(|kept| kept.get(&numbering.sequence)) {
            numbering.to_backup(client, *value).await?;
        } else {
            let Numbering { sequence, table, column, .. } = &numbering;
            let quoted = sequence.quoted();
            unknown.push(format!(
                "sequence {quoted} stays where it is: the backup does not tell its value, and column {column} of {table} does not \
                 show it. SELECT setval('{quoted}', …) advances it beyond the numbers that rows have"
            ));
        }
    }
    Ok(unknown)
}
