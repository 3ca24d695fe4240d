//! Privileges on the database that a role other than the owner gave, with a grant option of its own.
//!
//! The server takes the owner for the grantor wherever the session has the owner's rights, so such a privilege is given
//! after `SET ROLE`, as `pg_dump` does with `SET SESSION AUTHORIZATION`. `GRANTED BY` accepts the session's own role
//! alone. Where that does not work, the owner gives it, and that is said: nobody loses a privilege.

use std::collections::{BTreeMap, BTreeSet};

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

/// Privileges that do not get the grantor that they had: each as the statements for it, with the reason.
#[derive(Debug, Default)]
pub struct Settled {
    /// Somebody else has to run these.
    pub forbidden: Vec<(String, String)>,
    /// Nobody can: the server takes the owner for the grantor.
    pub owners: Vec<(String, String)>,
}

/// Privileges of one kind that have another grantor for now.
#[derive(Default)]
struct Lost {
    /// Those to whom the owner grants it instead.
    grantees: BTreeSet<String>,
    why: String,
}

impl Properties {
    /// Tries which privileges can be given by the roles that gave them, and makes the owner the grantor of the others.
    pub(super) async fn settle_grantors(&mut self, client: &Client, name: &str) -> Result<Settled> {
        let failed = "cannot try who may grant the privileges of the database";
        let mut result = Settled::default();
        let Some(privileges) = &mut self.privileges else { return Ok(result) };
        if privileges.iter().all(|item| item.grantor.is_none()) {
            return Ok(result);
        }
        result.owners = give_to_owner(client, name, privileges).await?;
        let database = ident(name);
        client.batch_execute("BEGIN").await.query_context(failed)?;
        let wanted = in_order(privileges);
        let (mut settled, mut lost) = (BTreeSet::new(), BTreeMap::<String, Lost>::new());
        for item in wanted.iter().cloned() {
            let mut words = Vec::new();
            let statement = grant_statement(&database, &item);
            let mut is_given = allowed(client, statement, &mut words).await.query_context(failed)?;
            if item.grantor.is_some() && is_given {
                is_given = client.query_one(&is_there(name, &item), &[]).await.query_context(failed)?.get(0);
            }
            if is_given || item.grantor.is_none() {
                insert(&mut settled, item);
                continue;
            }
            let why = words.pop().map_or_else(|| "the role has no grant option".to_owned(), |(_, why)| why);
            let lost = lost.entry(item.kind.clone()).or_default();
            lost.why = format!("{why}; the owner grants it instead");
            let owners = Privilege { grantor: None, ..item };
            if !settled.contains(&owners) {
                let grant = grant_statement(&database, &owners);
                allowed(client, grant, &mut words).await.query_context(failed)?;
                lost.grantees.insert(owners.grantee.clone());
            }
            insert(&mut settled, owners);
        }
        *privileges = settled;
        client.batch_execute("ROLLBACK").await.query_context(failed)?;
        let correct = |(kind, lost): (String, Lost)| (correction(&database, &kind, &lost.grantees, &wanted), lost.why);
        result.forbidden = lost.into_iter().map(correct).collect();
        Ok(result)
    }
}

/// The server has one privilege of a kind for each pair of grantor and grantee, with a grant option or without.
fn insert(privileges: &mut BTreeSet<Privilege>, item: Privilege) {
    let other = Privilege { grantable: !item.grantable, ..item.clone() };
    if item.grantable {
        privileges.remove(&other);
    } else if privileges.contains(&other) {
        return;
    }
    privileges.insert(item);
}

/// Statements that take a kind of privilege away from those whom the owner gave it instead, with all that depends on it,
/// and give it again as it was, each grantor after its own option.
fn correction(database: &str, kind: &str, grantees: &BTreeSet<String>, wanted: &[Privilege]) -> String {
    let name = |grantee: &String| if grantee.is_empty() { "PUBLIC".to_owned() } else { ident(grantee) };
    let names: Vec<String> = grantees.iter().map(name).collect();
    let revoke = format!("REVOKE {kind} ON DATABASE {database} FROM {} CASCADE", names.join(", "));
    let grants = wanted.iter().filter(|item| item.kind == kind).map(|item| grant_statement(database, item));
    let all: Vec<String> = (!names.is_empty()).then_some(revoke).into_iter().chain(grants).collect();
    all.join("; ")
}

/// A role that has the owner's rights by now, such as a superuser, cannot be a grantor any more, whoever runs the
/// statement: the owner is.
async fn give_to_owner(
    client: &Client,
    name: &str,
    privileges: &mut BTreeSet<Privilege>,
) -> Result<Vec<(String, String)>> {
    let grantors: Vec<&str> = privileges.iter().filter_map(|item| item.grantor.as_deref()).collect();
    let sql = "SELECT r.rolname::text FROM pg_roles r JOIN pg_database d ON d.datname = $2 \
               WHERE r.rolname = ANY ($1) AND pg_has_role(r.oid, d.datdba, 'USAGE')";
    let rows = client.query(sql, &[&grantors, &name]).await.query_context("cannot ask for the grantors")?;
    let powerful: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let database = ident(name);
    let mut given = Vec::new();
    for item in std::mem::take(privileges) {
        match &item.grantor {
            Some(grantor) if powerful.contains(grantor) => {
                let why = format!("role {} has the owner's rights, so the owner grants it", ident(grantor));
                given.push((grant_statement(&database, &item), why));
                insert(privileges, Privilege { grantor: None, ..item });
            }
            _ => insert(privileges, item),
        }
    }
    Ok(given)
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
