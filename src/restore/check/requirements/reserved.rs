//! Objects that only a superuser may make: all of them at once, before anything is loaded.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use super::Lacks;
use crate::database::connect::QueryContext;
use crate::database::ident;
use crate::dump::Contents;
use crate::dump::contents::Right;
use crate::error::Result;
use crate::restore::Policy;

/// So many are named.
const SHOWN: usize = 30;

/// For a role that is no superuser. Which of the objects a part has is not known.
pub(super) async fn look(
    client: &Client,
    contents: &Contents,
    policy: &Policy,
    user: &str,
    lacks: &mut Lacks,
) -> Result<()> {
    if !policy.tables.is_empty() || contents.reserved.is_empty() {
        return Ok(());
    }
    let settings = forbidden_settings(client, contents).await?;
    let (mut found, mut parameters) = (Vec::new(), BTreeSet::new());
    let mut is_superusers = false;
    for (right, statement) in &contents.reserved {
        match right {
            Right::Superuser => {
                is_superusers = true;
                found.push(statement.clone());
            }
            Right::Setting(name) if settings.contains(&name.to_lowercase()) => {
                parameters.insert(name.to_lowercase());
                found.push(format!("{statement} (SET {name})"));
            }
            Right::Setting(_) => {}
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    let more = found.len().saturating_sub(SHOWN);
    found.truncate(SHOWN);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    let mut hints = Vec::new();
    if is_superusers {
        hints.push(format!(
            "Restore as a superuser, or as one: ALTER ROLE {0} SUPERUSER; and afterwards: ALTER ROLE {0} NOSUPERUSER;",
            ident(user)
        ));
        hints.push("Options such as --no-owner do not help: only a superuser may make these objects.".to_owned());
    }
    if !parameters.is_empty() {
        let names: Vec<String> = parameters.iter().map(|name| ident(name)).collect();
        hints.push(format!(
            "For the settings, as a superuser: GRANT SET ON PARAMETER {} TO {};",
            names.join(", "),
            ident(user)
        ));
    }
    lacks.add(format!("role \"{user}\" may not make all objects of the dump"), hints);
    lacks.objects = found;
    Ok(())
}

/// The settings of functions that this role may not set, in lower case.
async fn forbidden_settings(client: &Client, contents: &Contents) -> Result<BTreeSet<String>> {
    let names: BTreeSet<String> = contents
        .reserved
        .iter()
        .filter_map(|(right, _)| match right {
            Right::Setting(name) => Some(name.to_lowercase()),
            Right::Superuser => None,
        })
        .collect();
    let names: Vec<String> = names.into_iter().collect();
    let sql = "SELECT lower(name) FROM pg_settings WHERE lower(name) = ANY ($1) AND context = 'superuser' \
               AND NOT has_parameter_privilege(name, 'SET')";
    let rows = client.query(sql, &[&names]).await.query_context("cannot ask for the right to settings")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
