//! Refusal of triggers and rules that fire although the session has them off (`ENABLE ALWAYS` or `REPLICA`).

use tokio_postgres::Client;

use super::UNTOUCHED;
use crate::database::connect::QueryContext;
use crate::error::{Error, Kind, Result};

/// They are named with the command that lets each fire as usual, and the one that sets it back. Triggers of foreign keys
/// are among them: they delete and change rows of other tables. Those that check deferrable uniqueness are not: they write
/// nothing, and it is checked anyway.
const FIRING: &str = "\
    SELECT format('%s%I on %I.%I%s (ENABLE %s)', CASE f.kind WHEN 'RULE' THEN 'rule ' ELSE '' END, f.name, n.nspname, c.relname, \
                  (SELECT format(', of the foreign key %I of %s', k.conname, k.conrelid::regclass) \
                   FROM pg_constraint k WHERE k.oid = f.key AND k.contype = 'f'), f.word), \
           format('ALTER TABLE ONLY %I.%I ENABLE %s %I;', n.nspname, c.relname, f.kind, f.name), \
           format('ALTER TABLE ONLY %I.%I ENABLE %s %s %I;', n.nspname, c.relname, f.word, f.kind, f.name) \
    FROM (SELECT tgrelid, 'TRIGGER', tgname, tgconstraint, CASE tgenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END FROM pg_trigger \
          WHERE tgenabled IN ('A', 'R') AND NOT (tgisinternal AND EXISTS (SELECT FROM pg_constraint u \
                WHERE u.oid = tgconstraint AND u.contype IN ('p', 'u', 'x'))) \
          UNION ALL SELECT ev_class, 'RULE', rulename, 0, CASE ev_enabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END FROM pg_rewrite \
          WHERE ev_enabled IN ('A', 'R') AND ev_type IN ('3', '4')) AS f (relation, kind, name, key, word) \
         JOIN pg_class c ON c.oid = f.relation JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE f.relation = ANY ($1) ORDER BY n.nspname, c.relname, f.kind, f.name";

/// Refuses them: they would write other rows than those of the backup.
pub(super) async fn refuse(client: &Client, oids: &[u32]) -> Result<()> {
    let rows = client.query(FIRING, &[&oids]).await.query_context("cannot look for triggers")?;
    if rows.is_empty() {
        return Ok(());
    }
    let all = |at: usize, between: &str| rows.iter().map(|row| row.get(at)).collect::<Vec<&str>>().join(between);
    Err(Error::new(Kind::Refused, "a trigger would change the rows on their way in (ENABLE ALWAYS or REPLICA)")
        .with("triggers", all(0, "\n"))
        .with("state", UNTOUCHED)
        .hint(format!("In the live database, as a superuser: {} Afterwards: {}", all(1, " "), all(2, " ")))
        .hint("Or load the backup beside the live database with --into NAME, and take the rows from there."))
}
