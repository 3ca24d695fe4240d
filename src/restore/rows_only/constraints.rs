//! The constraints that the server does not look at while rows come in: foreign keys, and uniqueness that is deferrable.
//!
//! Each is looked at with the operators and collations that the constraint itself compares with, whatever schema they
//! are in. Columns of `pg_constraint` that only newer servers have are read by name from its row as JSON.

use std::collections::BTreeSet;

use tokio_postgres::{Client, Row};

use super::UNTOUCHED;
use crate::database::connect::QueryContext;
use crate::database::ident;
use crate::error::{Error, Kind, Result};

/// A foreign key that concerns one of the tables, on either side.
pub(super) struct ForeignKey {
    name: String,
    /// The table whose rows point, and whether it has partitions: a table that inherits has no part in the key.
    child: (String, bool),
    /// The table that they point at.
    parent: (String, bool),
    /// The columns, in their order.
    pairs: Vec<Pair>,
    /// MATCH FULL: all columns are NULL, or no column is.
    is_full: bool,
    /// The last column is a range that those of several rows may cover together (PERIOD).
    is_period: bool,
    /// Rows that are older than it may point nowhere (NOT VALID).
    is_valid: bool,
    /// The rows that point are replaced.
    replaces_child: bool,
    /// The rows that they point at are replaced.
    replaces_parent: bool,
    /// The keys that pointed nowhere before, where that is allowed.
    lost_before: BTreeSet<String>,
}

/// A column that points, the one that it points at, and how they are compared.
struct Pair {
    from: String,
    to: String,
    /// `p.… OPERATOR(…) c.…`
    equal: String,
}

/// Foreign keys of the tables; a key of a partition stands for the key of its partitioned table.
const KEYS: &str = "\
    WITH RECURSIVE touched (oid, child, parent) AS ( \
        SELECT oid, conrelid = ANY ($1), confrelid = ANY ($1) FROM pg_constraint \
        WHERE contype = 'f' AND (conrelid = ANY ($1) OR confrelid = ANY ($1)) \
        UNION SELECT c.conparentid, t.child, t.parent FROM pg_constraint c JOIN touched t ON t.oid = c.oid \
        WHERE c.conparentid <> 0) \
    SELECT c.oid, c.conname::text, cn.nspname::text, ct.relname::text, ct.relkind = 'p', \
           pn.nspname::text, pt.relname::text, pt.relkind = 'p', c.confmatchtype = 'f', \
           coalesce((to_jsonb(c) ->> 'conperiod')::boolean, false), c.convalidated, bool_or(t.child), bool_or(t.parent) \
    FROM pg_constraint c JOIN touched t ON t.oid = c.oid \
         JOIN pg_class ct ON ct.oid = c.conrelid JOIN pg_namespace cn ON cn.oid = ct.relnamespace \
         JOIN pg_class pt ON pt.oid = c.confrelid JOIN pg_namespace pn ON pn.oid = pt.relnamespace \
    WHERE c.conparentid = 0 AND coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true) \
    GROUP BY c.oid, c.conname, cn.nspname, ct.relname, ct.relkind, pn.nspname, pt.relname, pt.relkind, \
             c.confmatchtype, c.convalidated, to_jsonb(c) ORDER BY c.oid";

/// A cast to what the operator takes is left out where that is any array, range or enum. The type is named with the
/// modifier -1: without one, `character` and `bit` would be those of length 1.
const PAIRS: &str = "\
    SELECT f.attname::text, p.attname::text, format('OPERATOR(%I.%s)', n.nspname, o.oprname), \
           CASE WHEN l.typtype = 'p' THEN '' ELSE '::' || format_type(l.oid, -1) END, \
           CASE WHEN r.typtype = 'p' THEN '' ELSE '::' || format_type(r.oid, -1) END, \
           CASE WHEN p.attcollation = 0 THEN '' ELSE (SELECT format(' COLLATE %I.%I', cn.nspname, co.collname) \
                FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace WHERE co.oid = p.attcollation) END \
    FROM pg_constraint c CROSS JOIN generate_subscripts(c.conkey, 1) AS place \
         JOIN pg_attribute f ON f.attrelid = c.conrelid AND f.attnum = c.conkey[place] \
         JOIN pg_attribute p ON p.attrelid = c.confrelid AND p.attnum = c.confkey[place] \
         JOIN pg_operator o ON o.oid = c.conpfeqop[place] JOIN pg_namespace n ON n.oid = o.oprnamespace \
         JOIN pg_type l ON l.oid = o.oprleft JOIN pg_type r ON r.oid = o.oprright \
    WHERE c.oid = $1 ORDER BY place";

/// The foreign keys that concern these tables and are enforced.
pub(super) async fn foreign_keys(client: &Client, oids: &[u32]) -> Result<Vec<ForeignKey>> {
    let failed = "cannot read the foreign keys";
    let table = |schema: &str, name: &str| format!("{}.{}", ident(schema), ident(name));
    let mut keys = Vec::new();
    for row in client.query(KEYS, &[&oids]).await.query_context(failed)? {
        let oid: u32 = row.get(0);
        let pairs = client.query(PAIRS, &[&oid]).await.query_context(failed)?.iter().map(pair).collect();
        let mut key = ForeignKey {
            name: row.get(1),
            child: (table(row.get(2), row.get(3)), row.get(4)),
            parent: (table(row.get(5), row.get(6)), row.get(7)),
            pairs,
            is_full: row.get(8),
            is_period: row.get(9),
            is_valid: row.get(10),
            replaces_child: row.get(11),
            replaces_parent: row.get(12),
            lost_before: BTreeSet::new(),
        };
        if !key.is_valid {
            key.lost_before = key.lost(client).await?.into_iter().map(|(key, _)| key).collect();
        }
        keys.push(key);
    }
    Ok(keys)
}

fn pair(row: &Row) -> Pair {
    let (from, to): (String, String) = (ident(row.get(0)), ident(row.get(1)));
    let (operator, left, right, collation): (&str, &str, &str, &str) = (row.get(2), row.get(3), row.get(4), row.get(5));
    let equal = format!("p.{to}{left}{collation} {operator} c.{from}{right}");
    Pair { from: format!("c.{from}"), to: format!("p.{to}"), equal }
}

impl ForeignKey {
    /// The condition that a row of the child points at something.
    fn found(&self, parent: &str) -> String {
        let equal = |pairs: &[Pair]| pairs.iter().map(|pair| pair.equal.clone()).collect::<Vec<_>>().join(" AND ");
        match self.pairs.split_last() {
            Some((period, keys)) if self.is_period => {
                let keys = if keys.is_empty() { String::new() } else { format!("{} AND ", equal(keys)) };
                format!(
                    "coalesce((SELECT {0} OPERATOR(pg_catalog.<@) range_agg({1}) FROM {parent} p \
                     WHERE {keys}{1} OPERATOR(pg_catalog.&&) {0}), false)",
                    period.from, period.to
                )
            }
            _ => format!("EXISTS (SELECT FROM {parent} p WHERE {})", equal(&self.pairs)),
        }
    }

    /// The keys that point nowhere, each with the number of its rows. One of which a column is NULL points nowhere on
    /// purpose, unless MATCH FULL.
    async fn lost(&self, client: &Client) -> Result<Vec<(String, i64)>> {
        let only = |(name, has_partitions): &(String, bool)| {
            if *has_partitions { name.clone() } else { format!("ONLY {name}") }
        };
        let each = |suffix: &str, between: &str| {
            self.pairs.iter().map(|pair| format!("{} IS {suffix}", pair.from)).collect::<Vec<_>>().join(between)
        };
        let (set, found) = (each("NOT NULL", " AND "), self.found(&only(&self.parent)));
        let lost = if self.is_full {
            format!("({}) AND NOT ({set} AND {found})", each("NOT NULL", " OR "))
        } else {
            format!("{set} AND NOT {found}")
        };
        let key = self.pairs.iter().map(|pair| pair.from.as_str()).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT k, count(*) FROM (SELECT ROW({key})::text AS k FROM {} c WHERE {lost}) AS lost GROUP BY k",
            only(&self.child)
        );
        let failed = format!("cannot check the foreign key {}", self.name);
        let rows = client.query(&sql, &[]).await.query_context(failed)?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Refuses rows that would point nowhere. Where the key is NOT VALID, PostgreSQL let some be: those that pointed
    /// nowhere before stay, and so do those that the backup brings along with what they point at.
    pub(super) async fn check(&self, client: &Client) -> Result<()> {
        if !self.is_valid && self.replaces_child && self.replaces_parent {
            return Ok(());
        }
        let lost = self.lost(client).await?.into_iter().filter(|(key, _)| !self.lost_before.contains(key));
        let lost: i64 = lost.map(|(_, rows)| rows).sum();
        if lost == 0 {
            return Ok(());
        }
        let what =
            format!("{lost} rows of {} would point at rows of {} that are not there", self.child.0, self.parent.0);
        let error = Error::new(Kind::Refused, what).with("foreign key", &self.name).with("state", UNTOUCHED);
        Err(if self.replaces_child && self.replaces_parent {
            error.hint("The backup itself has these rows. Load it with --into NAME, and take the rows from there.")
        } else {
            error.hint(
                "Name both tables with --table, or load the backup with --into NAME, and take the rows from there.",
            )
        })
    }
}

/// Constraints whose index is not unique at every moment; with the predicate of the index.
const DEFERRABLE: &str = "\
    SELECT c.oid, c.conname::text, format('%I.%I', n.nspname, t.relname), pg_get_expr(i.indpred, i.indrelid), \
           coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) \
    FROM pg_constraint c JOIN pg_index i ON i.indexrelid = c.conindid \
         JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace \
    WHERE c.conrelid = ANY ($1) AND c.contype IN ('p', 'u', 'x') AND c.condeferrable ORDER BY 3, 2";

/// Expressions that an index compares, each with its operator: that of an exclusion, or equality of a B-tree.
const COMPARED: &str = "\
    SELECT pg_get_indexdef(i.indexrelid, place + 1, false), format('OPERATOR(%I.%s)', n.nspname, o.oprname), \
           CASE WHEN l.typtype = 'p' THEN '' ELSE '::' || format_type(l.oid, -1) END, \
           CASE WHEN i.indcollation[place] = 0 THEN '' ELSE (SELECT format(' COLLATE %I.%I', cn.nspname, co.collname) \
                FROM pg_collation co JOIN pg_namespace cn ON cn.oid = co.collnamespace \
                WHERE co.oid = i.indcollation[place]) END \
    FROM pg_constraint c JOIN pg_index i ON i.indexrelid = c.conindid \
         CROSS JOIN generate_series(0, i.indnkeyatts - 1) AS place JOIN pg_opclass oc ON oc.oid = i.indclass[place] \
         JOIN pg_operator o ON o.oid = coalesce(c.conexclop[place + 1], \
              (SELECT m.amopopr FROM pg_amop m WHERE m.amopfamily = oc.opcfamily AND m.amoplefttype = oc.opcintype \
                  AND m.amoprighttype = oc.opcintype AND m.amopstrategy = 3)) \
         JOIN pg_namespace n ON n.oid = o.oprnamespace JOIN pg_type l ON l.oid = o.oprleft \
    WHERE c.oid = $1 ORDER BY place";

/// Checks uniqueness and exclusion where they are deferrable: the trigger that does it does not fire here. Returns how many
/// constraints were looked at.
///
/// # Errors
/// [`Kind::Refused`] if two rows exclude each other.
pub(super) async fn check_deferrable(client: &Client, oids: &[u32]) -> Result<usize> {
    let failed = "cannot read the deferrable constraints";
    let constraints = client.query(DEFERRABLE, &[&oids]).await.query_context(failed)?;
    for row in &constraints {
        let (oid, name, table): (u32, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let compared = client.query(COMPARED, &[&oid]).await.query_context(failed)?;
        let sql = doubles(table, row.get(3), row.get(4), &compared);
        let context = format!("cannot check the constraint {name} of {table}");
        let found: bool = client.query_one(&sql, &[]).await.query_context(context)?.get(0);
        if found {
            return Err(Error::new(Kind::Refused, format!("rows of {table} would exclude each other"))
                .with("constraint", name)
                .with("state", UNTOUCHED)
                .hint("Load the backup beside the live database with --into NAME, and take the rows from there."));
        }
    }
    Ok(constraints.len())
}

fn doubles(table: &str, predicate: Option<&str>, nulls_are_equal: bool, compared: &[Row]) -> String {
    let (mut values, mut equal) = (Vec::new(), Vec::new());
    for (number, row) in compared.iter().enumerate() {
        let (expression, operator, cast, collation): (&str, &str, &str, &str) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        values.push(format!("({expression}){cast} AS v{number}"));
        let same = format!("a.v{number}{collation} {operator} b.v{number}");
        equal.push(if nulls_are_equal {
            format!("({same} OR a.v{number} IS NULL AND b.v{number} IS NULL)")
        } else {
            same
        });
    }
    let rows = format!(
        "(SELECT ctid AS id, {} FROM ONLY {table} WHERE {})",
        values.join(", "),
        predicate.map_or_else(|| "true".to_owned(), |predicate| format!("({predicate})"))
    );
    format!("SELECT EXISTS (SELECT FROM {rows} a JOIN {rows} b ON a.id <> b.id AND {})", equal.join(" AND "))
}
