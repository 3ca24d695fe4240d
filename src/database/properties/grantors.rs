//! Privileges on the database that a role other than the owner gave, with a grant option of its own.
//!
//! The server takes the owner for the grantor wherever the session has the owner's rights, so such a privilege is given
//! after `SET ROLE`, as `pg_dump` does with `SET SESSION AUTHORIZATION`. `GRANTED BY` accepts the session's own role
//! alone. Where that does not work, the owner gives it, and that is said: nobody loses a privilege.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use super::statements::grant_statement;
use super::{Privilege, Properties, allowed};
use crate::database::connect::QueryContext;
use crate::database::{ident, literal};
use crate::error::Result;

/// In an order in which each grantor has its grant option before it gives.
pub(super) fn in_order(privileges: &BTreeSet<Privilege>) -> Vec<Privilege> {
    let (mut ordered, mut waiting): (Vec<_>, Vec<_>) =
        privileges.iter().cloned().partition(|item| item.grantor.is_none());
    loop {
        let may_give = |item: &Privilege| {
            let gives = |other: &Privilege| other.grantable && Some(&other.grantee) == item.grantor.as_ref();
            ordered.iter().any(|other| other.kind == item.kind && gives(other))
        };
        let (next, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(may_give);
        waiting = rest;
        if next.is_empty() {
            ordered.extend(waiting);
            return ordered;
        }
        ordered.extend(next);
    }
}

impl Properties {
    /// Tries which privileges can be given by the roles that gave them, and makes the owner the grantor of the others.
    ///
    /// Returns the statements for those others, each with the server's words.
    pub(super) async fn settle_grantors(&mut self, client: &Client, name: &str) -> Result<Vec<(String, String)>> {
        let failed = "cannot try who may grant the privileges of the database";
        let mut forbidden = Vec::new();
        let Some(privileges) = &mut self.privileges else { return Ok(forbidden) };
        if privileges.iter().all(|item| item.grantor.is_none()) {
            return Ok(forbidden);
        }
        let database = ident(name);
        client.batch_execute("BEGIN").await.query_context(failed)?;
        let mut settled = BTreeSet::new();
        for item in in_order(privileges) {
            let (statement, mut words) = (grant_statement(&database, &item), Vec::new());
            let mut is_given = allowed(client, statement.clone(), &mut words).await.query_context(failed)?;
            if item.grantor.is_some() && is_given {
                is_given = client.query_one(&is_there(name, &item), &[]).await.query_context(failed)?.get(0);
            }
            if is_given || item.grantor.is_none() {
                settled.insert(item);
                continue;
            }
            let why = words.pop().map_or_else(
                || "the server takes the owner for the grantor, or the role has no grant option".to_owned(),
                |(_, why)| why,
            );
            let owners = Privilege { grantor: None, ..item };
            let mut correction = statement;
            if !settled.contains(&owners) {
                let grant = grant_statement(&database, &owners);
                allowed(client, grant, &mut words).await.query_context(failed)?;
                let grantee = if owners.grantee.is_empty() { "PUBLIC".to_owned() } else { ident(&owners.grantee) };
                correction = format!("REVOKE {} ON DATABASE {database} FROM {grantee}; {correction}", owners.kind);
            }
            forbidden.push((correction, format!("{why}; the owner grants it instead")));
            settled.insert(owners);
        }
        *privileges = settled;
        client.batch_execute("ROLLBACK").await.query_context(failed)?;
        Ok(forbidden)
    }
}

/// Whether the database has exactly this privilege.
fn is_there(name: &str, item: &Privilege) -> String {
    format!(
        "SELECT EXISTS (SELECT FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = {} \
         AND CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee)::text END = {} \
         AND a.privilege_type = {} AND a.is_grantable = {} AND pg_get_userbyid(a.grantor) = {})",
        literal(name),
        literal(&item.grantee),
        literal(&item.kind),
        item.grantable,
        literal(item.grantor.as_deref().unwrap_or_default())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k6_a_grantor_gets_its_option_before_it_gives() {
        let by = |grantor: &str, grantee: &str, grantable| Privilege {
            grantor: Some(grantor.to_owned()),
            ..Privilege::new(grantee, "CONNECT", grantable)
        };
        let all = [by("b", "a", true), by("a", "c", false), Privilege::new("b", "CONNECT", true), by("x", "y", false)];
        let ordered = in_order(&all.iter().cloned().collect());
        assert_eq!(ordered, [all[2].clone(), all[0].clone(), all[1].clone(), all[3].clone()]);
    }
}
