//! The queries that read the definitions of a database.

/// `$1`: everything that `pg_dump` reads. `$2`: names that `reg…` columns show, too.
///
/// System objects have OIDs below 16384, all but the schema `public` (2200). Of an extension's relations only those count whose rows are dumped. An array type or a row type changes with its element or its table.
/// The last columns are the transaction that wrote the row with the name, and whether a change of it is harmless almost always. A view's name is written in its row type, too, which REFRESH and CREATE OR REPLACE leave alone; a
/// function that is made again gets new dependencies. Indexes come and go with CONCURRENTLY: only some are mentioned by other definitions.
/// Of the roles of a cluster, which others may alter at any time, those count that own something in this database, have privileges or settings in it, or come with the server: definitions mention no others.
/// A rule is compared without the places in the text that it was typed as. The label of an enum carries `xmin`, since it can be renamed and renamed back while rows are read.
pub(super) const OBJECTS: &str = "\
    WITH n AS MATERIALIZED ( \
        SELECT oid, nspname::text AS nspname, xmin::text AS mark FROM pg_catalog.pg_namespace \
        WHERE (oid >= 16384 AND nspname !~ '^pg_(toast_)?temp_') OR oid IN (11, 2200)), \
    c AS MATERIALIZED ( \
        SELECT r.*, r.xmin::text AS mark, n.nspname FROM pg_catalog.pg_class r JOIN n ON n.oid = r.relnamespace \
        WHERE r.oid >= 16384 AND r.relpersistence <> 't' \
              AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass \
                              AND d.objid = r.oid AND d.deptype = 'e' \
                              AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE d.objid = ANY (e.extconfig)))), \
    named AS MATERIALIZED ( \
        SELECT c.*, CASE WHEN c.relkind IN ('S', 'i', 'I') THEN c.mark ELSE t.xmin::text END AS renamed \
        FROM c LEFT JOIN pg_catalog.pg_type t ON t.oid = c.reltype AND c.relkind IN ('v', 'm', 'f', 'c')), \
    mentioned AS MATERIALIZED ( \
        SELECT d.refobjid AS oid FROM pg_catalog.pg_database b CROSS JOIN pg_catalog.pg_shdepend d \
        WHERE b.datname = current_database() AND d.refclassid = 'pg_catalog.pg_authid'::regclass \
              AND (d.dbid = b.oid \
                   OR d.classid = 'pg_catalog.pg_database'::regclass AND d.objid = b.oid \
                   OR d.classid = 'pg_catalog.pg_subscription'::regclass \
                      AND d.objid IN (SELECT oid FROM pg_catalog.pg_subscription WHERE subdbid = b.oid)) \
        UNION \
        SELECT s.setrole FROM pg_catalog.pg_database b JOIN pg_catalog.pg_db_role_setting s ON s.setdatabase = b.oid \
        WHERE b.datname = current_database()) \
    SELECT 'schema', oid, nspname, NULL::text, nspname, nspname, mark, false FROM n \
    UNION ALL \
    SELECT CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' \
                          WHEN 'f' THEN 'foreign table' ELSE 'view' END, \
           c.oid, c.nspname, c.relname::text, c.relname::text, \
           md5(ROW(c.relname, c.relnamespace, c.relkind, c.relpersistence, c.relam, c.reltype, c.reloftype, c.relispartition, \
                   c.relpartbound, CASE WHEN c.relkind = 'r' THEN c.relfilenode END, a.columns, i.parents)::text), \
           c.renamed, false \
    FROM named c LEFT JOIN ( \
             SELECT attrelid, md5(string_agg(ROW(attnum, attname, atttypid, atttypmod, attnotnull, attisdropped, attgenerated, \
                                                 attcollation)::text, ',' ORDER BY attnum)) AS columns \
             FROM pg_catalog.pg_attribute WHERE attrelid >= 16384 AND attnum > 0 GROUP BY attrelid) a ON a.attrelid = c.oid \
         LEFT JOIN ( \
             SELECT inhrelid, string_agg(inhparent::text, ',' ORDER BY inhseqno) AS parents \
             FROM pg_catalog.pg_inherits GROUP BY inhrelid) i ON i.inhrelid = c.oid \
    WHERE c.relkind IN ('r', 'p', 'S', 'c') OR $1 AND c.relkind IN ('v', 'm', 'f') \
    UNION ALL \
    SELECT 'value of sequence', c.oid, c.nspname, c.relname::text, c.relname::text, c.relfilenode::text, NULL, false FROM c \
    WHERE $1 AND c.relkind = 'S' \
    UNION ALL \
    SELECT 'name of a relation', c.oid, c.nspname, c.relname::text, c.relname::text, c.relname::text, c.renamed, false \
    FROM named c WHERE $2 AND c.relkind NOT IN ('r', 'p', 'S', 'c') \
    UNION ALL \
    SELECT 'index', c.oid, c.nspname, t.relname::text, c.relname::text, ROW(c.relname, c.relnamespace, c.reloptions)::text, c.renamed, \
           NOT (c.relkind = 'I' OR i.indisreplident OR i.indisclustered \
                OR EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = c.oid) \
                OR EXISTS (SELECT FROM pg_catalog.pg_description d WHERE d.objoid = c.oid \
                           AND d.classoid = 'pg_catalog.pg_class'::regclass)) \
    FROM named c JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid JOIN c t ON t.oid = i.indrelid \
    WHERE $1 AND c.relkind IN ('i', 'I') AND (i.indisvalid OR c.relkind = 'I') \
    UNION ALL \
    SELECT 'type', t.oid, n.nspname, NULL, t.typname::text, \
           md5((pg_catalog.to_jsonb(t) - 'typacl' - 'typowner' - 'typarray')::text || coalesce(r.line, '')), \
           t.xmin::text, false \
    FROM pg_catalog.pg_type t JOIN n ON n.oid = t.typnamespace \
         LEFT JOIN (SELECT rngtypid, ROW(g.*)::text AS line FROM pg_catalog.pg_range g) r ON r.rngtypid = t.oid \
    WHERE t.oid >= 16384 AND t.typrelid = 0 AND t.typcategory <> 'A' \
    UNION ALL \
    SELECT 'label of an enum', e.oid, n.nspname, NULL, t.typname || '.' || e.enumlabel, e.enumlabel || e.xmin::text, NULL, false \
    FROM pg_catalog.pg_enum e JOIN pg_catalog.pg_type t ON t.oid = e.enumtypid JOIN n ON n.oid = t.typnamespace \
    UNION ALL \
    SELECT 'name of a function', p.oid, n.nspname, NULL, p.proname::text, md5(ROW(p.proname, p.pronamespace, p.proargtypes)::text), \
           FUNCTION_MARK, false \
    FROM pg_catalog.pg_proc p JOIN n ON n.oid = p.pronamespace WHERE ($1 OR $2) AND p.oid >= 16384 \
    UNION ALL \
    SELECT 'operator', o.oid, n.nspname, NULL, o.oprname::text, ROW(o.oprname, n.oid)::text, \
           o.xmin::text, false \
    FROM pg_catalog.pg_operator o JOIN n ON n.oid = o.oprnamespace WHERE ($1 OR $2) AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'collation', o.oid, n.nspname, NULL, o.collname::text, ROW(o.collname, n.oid)::text, \
           o.xmin::text, false \
    FROM pg_catalog.pg_collation o JOIN n ON n.oid = o.collnamespace WHERE ($1 OR $2) AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'text search configuration', o.oid, n.nspname, NULL, o.cfgname::text, ROW(o.cfgname, n.oid)::text, \
           o.xmin::text, false \
    FROM pg_catalog.pg_ts_config o JOIN n ON n.oid = o.cfgnamespace WHERE ($1 OR $2) AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'text search dictionary', o.oid, n.nspname, NULL, o.dictname::text, ROW(o.dictname, n.oid)::text, \
           o.xmin::text, false \
    FROM pg_catalog.pg_ts_dict o JOIN n ON n.oid = o.dictnamespace WHERE ($1 OR $2) AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'role', r.oid, NULL, NULL, r.rolname::text, r.rolname::text, ROLE_MARK, false FROM ROLE_TABLE r \
    WHERE $2 OR $1 AND (r.oid < 16384 OR r.oid IN (SELECT oid FROM mentioned)) \
    UNION ALL \
    SELECT 'function', p.oid, n.nspname, NULL, p.proname::text, md5((pg_catalog.to_jsonb(p) - 'proacl' - 'proowner')::text), NULL, false \
    FROM pg_catalog.pg_proc p JOIN n ON n.oid = p.pronamespace WHERE $1 AND p.oid >= 16384 \
    UNION ALL \
    SELECT 'rule', r.oid, c.nspname, c.relname::text, r.rulename::text, md5(regexp_replace((pg_catalog.to_jsonb(r) - 'ev_enabled')::text, ':(stmt_)?(location|len) -?[0-9]+', '', 'g')), NULL, false \
    FROM pg_catalog.pg_rewrite r JOIN c ON c.oid = r.ev_class WHERE $1 \
    UNION ALL \
    SELECT 'constraint', o.oid, n.nspname, c.relname::text, o.conname::text, \
           md5((pg_catalog.to_jsonb(o) - 'conparentid' - 'coninhcount' - 'conislocal' - 'convalidated')::text), NULL, false \
    FROM pg_catalog.pg_constraint o JOIN n ON n.oid = o.connamespace LEFT JOIN c ON c.oid = o.conrelid \
    WHERE $1 AND (o.conrelid = 0 OR c.oid IS NOT NULL) \
    UNION ALL \
    SELECT 'trigger', t.oid, c.nspname, c.relname::text, t.tgname::text, \
           md5((pg_catalog.to_jsonb(t) - 'tgparentid' - 'tgenabled')::text), NULL, false \
    FROM pg_catalog.pg_trigger t JOIN c ON c.oid = t.tgrelid WHERE $1 AND NOT t.tgisinternal \
    UNION ALL \
    SELECT 'statistics', s.oid, n.nspname, c.relname::text, s.stxname::text, ROW(s.stxname, n.oid)::text, \
           s.xmin::text, false \
    FROM pg_catalog.pg_statistic_ext s JOIN n ON n.oid = s.stxnamespace JOIN c ON c.oid = s.stxrelid WHERE $1 \
    UNION ALL \
    SELECT 'operator class', o.oid, n.nspname, NULL, o.opcname::text, ROW(o.opcname, n.oid)::text, o.xmin::text, false \
    FROM pg_catalog.pg_opclass o JOIN n ON n.oid = o.opcnamespace WHERE $1 AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'operator family', o.oid, n.nspname, NULL, o.opfname::text, ROW(o.opfname, n.oid)::text, o.xmin::text, false \
    FROM pg_catalog.pg_opfamily o JOIN n ON n.oid = o.opfnamespace WHERE $1 AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'conversion', o.oid, n.nspname, NULL, o.conname::text, ROW(o.conname, n.oid)::text, o.xmin::text, false \
    FROM pg_catalog.pg_conversion o JOIN n ON n.oid = o.connamespace WHERE $1 AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'text search parser', o.oid, n.nspname, NULL, o.prsname::text, ROW(o.prsname, n.oid)::text, o.xmin::text, false \
    FROM pg_catalog.pg_ts_parser o JOIN n ON n.oid = o.prsnamespace WHERE $1 AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'text search template', o.oid, n.nspname, NULL, o.tmplname::text, ROW(o.tmplname, n.oid)::text, o.xmin::text, false \
    FROM pg_catalog.pg_ts_template o JOIN n ON n.oid = o.tmplnamespace WHERE $1 AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'language', o.oid, NULL, NULL, o.lanname::text, o.lanname::text, NULL, false \
    FROM pg_catalog.pg_language o WHERE $1 AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'access method', o.oid, NULL, NULL, o.amname::text, o.amname::text, NULL, false \
    FROM pg_catalog.pg_am o WHERE $1 AND o.oid >= 16384 \
    UNION ALL \
    SELECT 'foreign-data wrapper', o.oid, NULL, NULL, o.fdwname::text, o.fdwname::text, NULL, false \
    FROM pg_catalog.pg_foreign_data_wrapper o WHERE $1 \
    UNION ALL \
    SELECT 'server', o.oid, NULL, NULL, o.srvname::text, o.srvname::text, NULL, false FROM pg_catalog.pg_foreign_server o WHERE $1 \
    UNION ALL \
    SELECT 'event trigger', o.oid, NULL, NULL, o.evtname::text, ROW(o.evtname, o.evtfoid)::text, NULL, false \
    FROM pg_catalog.pg_event_trigger o WHERE $1 \
    UNION ALL \
    SELECT 'publication', o.oid, NULL, NULL, o.pubname::text, o.pubname::text, NULL, false FROM pg_catalog.pg_publication o WHERE $1 \
    UNION ALL \
    SELECT 'extension', e.oid, NULL, NULL, e.extname::text, ROW(e.extnamespace, e.extversion)::text, NULL, false \
    FROM pg_catalog.pg_extension e WHERE $1";

/// Names of unknown encoding need not be UTF-8: what is not ASCII in them is shown as numbers.
pub(super) const READABLE: &str = "\
    SELECT class, oid, CASE WHEN u THEN encode(convert_to(schema, 'SQL_ASCII'), 'escape') ELSE schema END, \
           CASE WHEN u THEN encode(convert_to(relation, 'SQL_ASCII'), 'escape') ELSE relation END, \
           CASE WHEN u THEN encode(convert_to(name, 'SQL_ASCII'), 'escape') ELSE name END, \
           CASE WHEN u THEN encode(convert_to(state, 'SQL_ASCII'), 'escape') ELSE state END, mark, minor \
    FROM (OBJECTS) AS o (class, oid, schema, relation, name, state, mark, minor) \
         CROSS JOIN (SELECT current_setting('server_encoding') = 'SQL_ASCII') AS e (u)";

/// The transaction that wrote a function's name. It is not compared where it made the function again.
pub(super) const FUNCTION_MARK: &str = "\
    CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::regclass \
                          AND d.objid = p.oid AND d.xmin = p.xmin) THEN p.xmin::text END";

/// Roles, and who may read when they were written.
pub(super) const ROLES: [(&str, &str); 2] = [("pg_catalog.pg_roles", "NULL"), ("pg_catalog.pg_authid", "r.xmin::text")];

/// Whether a table has a column of a type that shows names, by itself or within another type of the database.
pub(super) const SHOWS_NAMES: &str = "\
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
