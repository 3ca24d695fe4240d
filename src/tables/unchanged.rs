//! Compares the definitions that a snapshot sees with those of now.
//!
//! A snapshot covers rows and catalogs. It does not cover how the server reads a name, how it writes the label of an enum, and what
//! functions such as `pg_get_viewdef` show: these use the definitions of the moment. So the definitions are compared when all locks are
//! held, when `pg_dump` has read them, and after the last row. Only objects that the snapshot sees matter: what others create meanwhile does
//! not, and neither do privileges, owners, statistics, and new labels of an enum.

use std::collections::{HashMap, HashSet};

use tokio_postgres::Client;

use super::snapshot::Snapshot;
use crate::database::Connector;
use crate::database::connect::QueryContext;
use crate::error::{Error, Kind, Result};

/// The line of an error that names the objects that were altered.
const CHANGED: &str = "changed";

/// So many objects are named in an error.
const NAMED: usize = 8;

/// Set of objects that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything that `pg_dump` reads.
    Definitions,
    /// Objects that decide which rows are read, and how they are written.
    Rows,
}

/// An object that is other than the snapshot sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The relation that it is, or belongs to: schema and name.
    pub relation: Option<(String, String)>,
    /// It exists no longer.
    pub is_gone: bool,
    /// It is harmless almost always, and may happen all the time.
    pub is_minor: bool,
    /// The object as a person calls it, and what happened to it.
    pub what: String,
}

/// The definitions that a snapshot sees.
#[derive(Debug)]
pub struct Seen {
    objects: HashMap<Key, Object>,
    /// A column of a table shows names, as `regclass` does.
    shows_names: bool,
}

type Key = (String, u32);

#[derive(Debug)]
struct Object {
    schema: Option<String>,
    relation: Option<String>,
    name: String,
    state: String,
    /// The transaction that wrote the name.
    mark: Option<String>,
    /// Other statements that it may have written.
    otherwise: Option<String>,
    /// It may have written what was there.
    is_minor: bool,
}

/// `$1`: everything that `pg_dump` reads. `$2`: names that `reg…` columns show, too.
///
/// System objects have OIDs below 16384, all but the schema `public` (2200). Of an extension's relations only those count whose rows are dumped. An array type or a row type changes with its element or its table.
/// The last columns tell when the name was written, what else that writing may have been, and whether it may have been something that shows nowhere, as
/// a GRANT of what is granted already does. A view's name is written in its row type, too, which REFRESH and CREATE OR REPLACE leave alone; a
/// function that is made again gets new dependencies. Indexes come and go with CONCURRENTLY: only some are mentioned by other definitions.
/// A rule is compared without the places in the text that it was typed as. The label of an enum carries `xmin`, since it can be renamed and renamed back while rows are read.
const OBJECTS: &str = "\
    WITH n AS MATERIALIZED ( \
        SELECT oid, nspname::text AS nspname, xmin::text AS mark, nspacl, nspowner FROM pg_catalog.pg_namespace \
        WHERE (oid >= 16384 AND nspname !~ '^pg_(toast_)?temp_') OR oid IN (11, 2200)), \
    c AS MATERIALIZED ( \
        SELECT r.*, r.xmin::text AS mark, n.nspname FROM pg_catalog.pg_class r JOIN n ON n.oid = r.relnamespace \
        WHERE r.oid >= 16384 AND r.relpersistence <> 't' \
              AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass \
                              AND d.objid = r.oid AND d.deptype = 'e' \
                              AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE d.objid = ANY (e.extconfig)))), \
    named AS MATERIALIZED ( \
        SELECT c.*, CASE WHEN c.relkind IN ('S', 'i', 'I') THEN c.mark ELSE t.xmin::text END AS renamed, \
               CASE WHEN c.relkind IN ('S', 'i', 'I') THEN ROW(c.relacl, c.relowner, c.relfilenode, c.reltablespace, c.reloptions, \
                                                                        c.relispartition)::text \
                    ELSE ROW(t.typacl, t.typowner)::text END AS otherwise, \
               c.relkind = 'S' AND c.relacl IS NOT NULL AS granted \
        FROM c LEFT JOIN pg_catalog.pg_type t ON t.oid = c.reltype AND c.relkind IN ('v', 'm', 'f', 'c')) \
    SELECT 'schema', oid, nspname, NULL::text, nspname, nspname, mark, ROW(nspacl, nspowner)::text, nspacl IS NOT NULL FROM n \
    UNION ALL \
    SELECT CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' \
                          WHEN 'f' THEN 'foreign table' ELSE 'view' END, \
           c.oid, c.nspname, c.relname::text, c.relname::text, \
           md5(ROW(c.relname, c.relnamespace, c.relkind, c.relpersistence, c.relam, c.reltype, c.reloftype, c.relispartition, \
                   c.relpartbound, CASE WHEN c.relkind = 'r' THEN c.relfilenode END, a.columns, i.parents)::text), \
           c.renamed, c.otherwise, c.granted \
    FROM named c LEFT JOIN ( \
             SELECT attrelid, md5(string_agg(ROW(attnum, attname, atttypid, atttypmod, attnotnull, attisdropped, attgenerated, \
                                                 attcollation)::text, ',' ORDER BY attnum)) AS columns \
             FROM pg_catalog.pg_attribute WHERE attrelid >= 16384 AND attnum > 0 GROUP BY attrelid) a ON a.attrelid = c.oid \
         LEFT JOIN ( \
             SELECT inhrelid, string_agg(inhparent::text, ',' ORDER BY inhseqno) AS parents \
             FROM pg_catalog.pg_inherits GROUP BY inhrelid) i ON i.inhrelid = c.oid \
    WHERE c.relkind IN ('r', 'p', 'S', 'c') OR $1 AND c.relkind IN ('v', 'm', 'f') \
    UNION ALL \
    SELECT 'value of sequence', c.oid, c.nspname, c.relname::text, c.relname::text, c.relfilenode::text, NULL, NULL, false FROM c \
    WHERE $1 AND c.relkind = 'S' \
    UNION ALL \
    SELECT 'name of a relation', c.oid, c.nspname, c.relname::text, c.relname::text, c.relname::text, c.renamed, c.otherwise, c.granted \
    FROM named c WHERE $2 AND c.relkind NOT IN ('r', 'p', 'S', 'c') \
    UNION ALL \
    SELECT 'index', c.oid, c.nspname, t.relname::text, c.relname::text, ROW(c.relname, c.relnamespace, c.reloptions)::text, c.renamed, c.otherwise, \
           NOT (c.relkind = 'I' OR i.indisreplident OR i.indisclustered \
                OR EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid) \
                OR EXISTS (SELECT FROM pg_catalog.pg_description d WHERE d.objoid = c.oid \
                           AND d.classoid = 'pg_catalog.pg_class'::regclass)) \
    FROM named c JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid JOIN c t ON t.oid = i.indrelid \
    WHERE $1 AND c.relkind IN ('i', 'I') AND (i.indisvalid OR c.relkind = 'I') \
    UNION ALL \
    SELECT 'type', t.oid, n.nspname, NULL, t.typname::text, \
           md5((pg_catalog.to_jsonb(t) - 'typacl' - 'typowner' - 'typarray')::text || coalesce(r.line, '')), \
           t.xmin::text, ROW(t.typacl, t.typowner, t.typarray)::text, t.typacl IS NOT NULL \
    FROM pg_catalog.pg_type t JOIN n ON n.oid = t.typnamespace \
         LEFT JOIN (SELECT rngtypid, ROW(g.*)::text AS line FROM pg_catalog.pg_range g) r ON r.rngtypid = t.oid \
    WHERE t.oid >= 16384 AND t.typrelid = 0 AND t.typcategory <> 'A' \
    UNION ALL \
    SELECT 'label of an enum', e.oid, n.nspname, NULL, t.typname || '.' || e.enumlabel, e.enumlabel || e.xmin::text, NULL, NULL, false \
    FROM pg_catalog.pg_enum e JOIN pg_catalog.pg_type t ON t.oid = e.enumtypid JOIN n ON n.oid = t.typnamespace \
    UNION ALL \
    SELECT 'name of a function', p.oid, n.nspname, NULL, p.proname::text, md5(ROW(p.proname, p.pronamespace, p.proargtypes)::text), \
           CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::regclass \
                                 AND d.objid = p.oid AND d.xmin = p.xmin) THEN p.xmin::text END, \
           ROW(p.proacl, p.proowner, p.proconfig)::text, p.proacl IS NOT NULL \
    FROM pg_catalog.pg_proc p JOIN n ON n.oid = p.pronamespace WHERE ($1 OR $2) AND p.oid >= 16384 \
    UNION ALL \
    SELECT 'operator', o.oid, n.nspname, NULL, o.oprname::text, ROW(o.oprname, n.oid)::text, \
           o.xmin::text, ROW(o.oprowner, o.oprcom, o.oprnegate, o.oprrest, o.oprjoin)::text, false \
    FROM pg_catalog.pg_operator o JOIN n ON n.oid = o.oprnamespace WHERE ($1 OR $2) AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'collation', o.oid, n.nspname, NULL, o.collname::text, ROW(o.collname, n.oid)::text, \
           o.xmin::text, ROW(o.collowner, o.collversion)::text, false \
    FROM pg_catalog.pg_collation o JOIN n ON n.oid = o.collnamespace WHERE ($1 OR $2) AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'text search configuration', o.oid, n.nspname, NULL, o.cfgname::text, ROW(o.cfgname, n.oid)::text, \
           o.xmin::text, o.cfgowner::text, false \
    FROM pg_catalog.pg_ts_config o JOIN n ON n.oid = o.cfgnamespace WHERE ($1 OR $2) AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'text search dictionary', o.oid, n.nspname, NULL, o.dictname::text, ROW(o.dictname, n.oid)::text, \
           o.xmin::text, ROW(o.dictowner, o.dictinitoption)::text, false \
    FROM pg_catalog.pg_ts_dict o JOIN n ON n.oid = o.dictnamespace WHERE ($1 OR $2) AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'role', r.oid, NULL, NULL, r.rolname::text, r.rolname::text, ROLE_MARK FROM ROLE_TABLE r WHERE $1 OR $2 \
    UNION ALL \
    SELECT 'function', p.oid, n.nspname, NULL, p.proname::text, md5((pg_catalog.to_jsonb(p) - 'proacl' - 'proowner')::text), NULL, NULL, false \
    FROM pg_catalog.pg_proc p JOIN n ON n.oid = p.pronamespace WHERE $1 AND p.oid >= 16384 \
    UNION ALL \
    SELECT 'rule', r.oid, c.nspname, c.relname::text, r.rulename::text, md5(regexp_replace((pg_catalog.to_jsonb(r) - 'ev_enabled')::text, ':(stmt_)?(location|len) -?[0-9]+', '', 'g')), NULL, NULL, false \
    FROM pg_catalog.pg_rewrite r JOIN c ON c.oid = r.ev_class WHERE $1 \
    UNION ALL \
    SELECT 'constraint', o.oid, n.nspname, c.relname::text, o.conname::text, \
           md5((pg_catalog.to_jsonb(o) - 'conparentid' - 'coninhcount' - 'conislocal' - 'convalidated')::text), NULL, NULL, false \
    FROM pg_catalog.pg_constraint o JOIN n ON n.oid = o.connamespace LEFT JOIN c ON c.oid = o.conrelid \
    WHERE $1 AND (o.conrelid = 0 OR c.oid IS NOT NULL) \
    UNION ALL \
    SELECT 'trigger', t.oid, c.nspname, c.relname::text, t.tgname::text, \
           md5((pg_catalog.to_jsonb(t) - 'tgparentid' - 'tgenabled')::text), NULL, NULL, false \
    FROM pg_catalog.pg_trigger t JOIN c ON c.oid = t.tgrelid WHERE $1 AND NOT t.tgisinternal \
    UNION ALL \
    SELECT 'statistics', s.oid, n.nspname, c.relname::text, s.stxname::text, ROW(s.stxname, n.oid)::text, \
           s.xmin::text, ROW(s.stxowner, pg_catalog.to_jsonb(s) -> 'stxstattarget')::text, false \
    FROM pg_catalog.pg_statistic_ext s JOIN n ON n.oid = s.stxnamespace JOIN c ON c.oid = s.stxrelid WHERE $1 \
    UNION ALL \
    SELECT 'operator class', o.oid, n.nspname, NULL, o.opcname::text, ROW(o.opcname, n.oid)::text, o.xmin::text, o.opcowner::text, false \
    FROM pg_catalog.pg_opclass o JOIN n ON n.oid = o.opcnamespace WHERE $1 AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'operator family', o.oid, n.nspname, NULL, o.opfname::text, ROW(o.opfname, n.oid)::text, o.xmin::text, o.opfowner::text, false \
    FROM pg_catalog.pg_opfamily o JOIN n ON n.oid = o.opfnamespace WHERE $1 AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'conversion', o.oid, n.nspname, NULL, o.conname::text, ROW(o.conname, n.oid)::text, o.xmin::text, o.conowner::text, false \
    FROM pg_catalog.pg_conversion o JOIN n ON n.oid = o.connamespace WHERE $1 AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'text search parser', o.oid, n.nspname, NULL, o.prsname::text, ROW(o.prsname, n.oid)::text, o.xmin::text, NULL, false \
    FROM pg_catalog.pg_ts_parser o JOIN n ON n.oid = o.prsnamespace WHERE $1 AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'text search template', o.oid, n.nspname, NULL, o.tmplname::text, ROW(o.tmplname, n.oid)::text, o.xmin::text, NULL, false \
    FROM pg_catalog.pg_ts_template o JOIN n ON n.oid = o.tmplnamespace WHERE $1 AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'language', o.oid, NULL, NULL, o.lanname::text, o.lanname::text, NULL, NULL, false \
    FROM pg_catalog.pg_language o WHERE $1 AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'access method', o.oid, NULL, NULL, o.amname::text, o.amname::text, NULL, NULL, false \
    FROM pg_catalog.pg_am o WHERE $1 AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'foreign-data wrapper', o.oid, NULL, NULL, o.fdwname::text, o.fdwname::text, NULL, NULL, false \
    FROM pg_catalog.pg_foreign_data_wrapper o WHERE $1 \
    UNION ALL \
    SELECT 'server', o.oid, NULL, NULL, o.srvname::text, o.srvname::text, NULL, NULL, false FROM pg_catalog.pg_foreign_server o WHERE $1 \
    UNION ALL \
    SELECT 'event trigger', o.oid, NULL, NULL, o.evtname::text, ROW(o.evtname, o.evtfoid)::text, NULL, NULL, false \
    FROM pg_catalog.pg_event_trigger o WHERE $1 \
    UNION ALL \
    SELECT 'publication', o.oid, NULL, NULL, o.pubname::text, o.pubname::text, NULL, NULL, false FROM pg_catalog.pg_publication o WHERE $1 \
    UNION ALL \
    SELECT 'extension', e.oid, NULL, NULL, e.extname::text, ROW(e.extnamespace, e.extversion)::text, NULL, NULL, false \
    FROM pg_catalog.pg_extension e WHERE $1";

/// Names of unknown encoding need not be UTF-8: what is not ASCII in them is shown as numbers.
const READABLE: &str = "\
    SELECT class, oid, CASE WHEN u THEN encode(convert_to(schema, 'SQL_ASCII'), 'escape') ELSE schema END, \
           CASE WHEN u THEN encode(convert_to(relation, 'SQL_ASCII'), 'escape') ELSE relation END, \
           CASE WHEN u THEN encode(convert_to(name, 'SQL_ASCII'), 'escape') ELSE name END, \
           CASE WHEN u THEN encode(convert_to(state, 'SQL_ASCII'), 'escape') ELSE state END, mark, \
           CASE WHEN u THEN encode(convert_to(otherwise, 'SQL_ASCII'), 'escape') ELSE otherwise END, minor \
    FROM (OBJECTS) AS o (class, oid, schema, relation, name, state, mark, otherwise, minor) \
         CROSS JOIN (SELECT current_setting('server_encoding') = 'SQL_ASCII') AS e (u)";

/// Roles, and who may read when they were written.
const ROLES: [(&str, &str); 2] = [
    ("pg_catalog.pg_roles", "NULL, NULL, false"),
    ("pg_catalog.pg_authid", "r.xmin::text, md5((pg_catalog.to_jsonb(r) - 'rolname')::text), false"),
];

/// Whether a table has a column of a type that shows names, by itself or within another type of the database.
const SHOWS_NAMES: &str = "\
    WITH RECURSIVE showing (oid) AS ( \
        SELECT oid FROM pg_catalog.pg_type \
        WHERE typnamespace = 'pg_catalog'::regnamespace AND (typname LIKE 'reg%' OR typname = 'aclitem') \
        UNION \
        SELECT next.oid FROM showing s CROSS JOIN LATERAL ( \
            SELECT t.oid FROM pg_catalog.pg_type t WHERE t.typelem = s.oid OR t.typbasetype = s.oid \
            UNION ALL SELECT c.reltype FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
                      WHERE a.atttypid = s.oid AND c.oid >= 16384 AND a.attnum > 0 AND c.reltype <> 0 \
            UNION ALL SELECT unnest(ARRAY[r.rngtypid, r.rngmultitypid]) FROM pg_catalog.pg_range r WHERE r.rngsubtype = s.oid \
        ) AS next (oid)) \
    SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN showing s ON s.oid = a.atttypid \
                   JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
                   WHERE c.oid >= 16384 AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped)";

impl Seen {
    /// Reads the definitions that a snapshot sees.
    pub async fn read(snapshot: &Snapshot) -> Result<Self> {
        let client = snapshot.client();
        let row = client.query_one(SHOWS_NAMES, &[]).await.query_context("cannot read the catalogue")?;
        let shows_names = row.get(0);
        Ok(Self { objects: objects(client, Scope::Definitions, shows_names).await?, shows_names })
    }

    /// Compares them with those of now, in a session of its own. The last attempt puts up with what is minor: it does not end.
    ///
    /// # Errors
    /// [`Kind::Source`] naming what was altered: see [`is_change`].
    pub async fn compare(&self, connector: &Connector, scope: Scope, is_last: bool) -> Result<()> {
        altered(&self.changes(connector, scope, is_last).await?)
    }

    /// The objects that are not as the snapshot sees them.
    pub async fn changes(&self, connector: &Connector, scope: Scope, is_last: bool) -> Result<Vec<Change>> {
        let client = connector.connect().await?;
        let now = objects(&client, scope, self.shows_names).await?;
        let mut changes = self.differences(&now, scope);
        changes.retain(|change| !(is_last && change.is_minor));
        Ok(changes)
    }

    fn differences(&self, now: &HashMap<Key, Object>, scope: Scope) -> Vec<Change> {
        let names: HashSet<_> = now.iter().map(|((class, _), object)| (class, &object.schema, &object.name)).collect();
        // Of what is compared for the rows, some may be gone without harm, unless its name is somebody else's now.
        let gone_matters = |class: &String, object: &Object| {
            scope == Scope::Definitions
                || self.shows_names
                || class == "table"
                || names.contains(&(class, &object.schema, &object.name))
        };
        let mut changes = Vec::new();
        let mut explained = 0;
        for (key, object) in &self.objects {
            match now.get(key) {
                Some(found) if found.state == object.state => {
                    let is_one = found.was_written_since(object) && names_matter(&key.0, scope, self.shows_names);
                    // A GRANT explains it, and hides a name that was written before the GRANT.
                    let is_explained = found.otherwise != object.otherwise;
                    explained += usize::from(is_one && is_explained && key.0 == "schema");
                    changes.extend(is_one.then(|| {
                        let change = object.change(&key.0, "may have had another name");
                        Change { is_minor: object.is_minor || is_explained, ..change }
                    }));
                }
                Some(found) if found.name == object.name && found.schema == object.schema => {
                    changes.push(object.change(&key.0, "was altered"));
                }
                Some(found) => changes.push(object.change(&key.0, &format!("is {} now", found.called()))),
                None if is_compared(&key.0, scope, self.shows_names) && gone_matters(&key.0, object) => {
                    changes.push(Change { is_gone: true, ..object.change(&key.0, "was dropped") });
                }
                None => {}
            }
        }
        // While rows are read, a name leads elsewhere only if another schema had it: that one was written, too, or came or went.
        let schemas = |objects: &HashMap<Key, Object>| -> HashSet<u32> {
            objects.keys().filter(|(class, _)| class == "schema").map(|(_, oid)| *oid).collect()
        };
        let written = changes.iter().filter(|change| change.what.starts_with("schema ")).count();
        if written > explained + 1 || schemas(&self.objects) != schemas(now) {
            changes
                .iter_mut()
                .filter(|change| change.what.starts_with("schema "))
                .for_each(|change| change.is_minor = false);
        } else if scope == Scope::Rows && !self.shows_names {
            changes.retain(|change| !(change.is_minor && change.what.starts_with("schema ")));
        }
        changes.sort_by(|left, right| left.what.cmp(&right.what));
        changes
    }
}

impl Object {
    /// Whether its name, or something that is stored beside it, was written since.
    fn was_written_since(&self, before: &Self) -> bool {
        self.mark.is_some() && self.mark != before.mark
    }

    fn called(&self) -> String {
        let names = [self.schema.as_ref(), self.relation.as_ref(), Some(&self.name)];
        let mut names: Vec<&String> = names.into_iter().flatten().collect();
        // A relation, or a schema, is not named twice.
        names.dedup();
        names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(".")
    }

    fn change(&self, class: &str, what: &str) -> Change {
        let relation = self.schema.clone().zip(self.relation.clone());
        Change {
            relation,
            is_gone: false,
            is_minor: class == "index" && self.is_minor,
            what: format!("{class} {} {what}", self.called()),
        }
    }
}

/// Whether the name of such an object is read again and again: tables are found by their schema, definitions show all names.
fn names_matter(class: &str, scope: Scope, shows_names: bool) -> bool {
    scope == Scope::Definitions || shows_names || class == "schema"
}

/// Whether objects of this class are among those that a scope reads. Roles come and go in the whole cluster.
fn is_compared(class: &str, scope: Scope, shows_names: bool) -> bool {
    match class {
        "schema" | "table" | "sequence" | "type" | "label of an enum" => true,
        "role" | "name of a relation" => shows_names,
        "name of a function" | "operator" | "collation" | "text search configuration" | "text search dictionary" => {
            scope == Scope::Definitions || shows_names
        }
        _ => scope == Scope::Definitions,
    }
}

async fn objects(client: &Client, scope: Scope, shows_names: bool) -> Result<HashMap<Key, Object>> {
    let all = scope == Scope::Definitions;
    let failed = "cannot compare the definitions";
    let sql = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')";
    let (table, mark) = ROLES[usize::from(client.query_one(sql, &[]).await.query_context(failed)?.get::<_, bool>(0))];
    let sql = OBJECTS.replace("ROLE_TABLE", table).replace("ROLE_MARK", mark);
    let sql = READABLE.replace("OBJECTS", &sql);
    let rows = client.query(&sql, &[&all, &shows_names]).await.query_context(failed)?;
    let object = |row: &tokio_postgres::Row| {
        let object = Object {
            schema: row.get(2),
            relation: row.get(3),
            name: row.get(4),
            state: row.get(5),
            mark: row.get(6),
            otherwise: row.get(7),
            is_minor: row.get(8),
        };
        ((row.get(0), row.get(1)), object)
    };
    Ok(rows.iter().map(object).collect())
}

/// An error that names these changes, if there are any.
pub fn altered(changes: &[Change]) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = changes.iter().take(NAMED).map(|change| change.what.clone()).collect();
    if changes.len() > NAMED {
        lines.push(format!("and {} more", changes.len() - NAMED));
    }
    Err(error("definitions were altered while the database was read", lines.join("\n")))
}

/// The error of a backup that has to begin again, since this was altered.
#[must_use]
pub fn error(message: impl Into<String>, changed: impl std::fmt::Display) -> Error {
    Error::new(Kind::Source, message)
        .with(CHANGED, changed)
        .hint("Repeat the command when nothing alters the schema: no migration, no upgrade of an extension.")
}

/// Whether this is such an error: the same may go well with a new snapshot.
#[must_use]
pub fn is_change(error: &Error) -> bool {
    error.kind() == Kind::Source && error.detail(CHANGED).is_some()
}
