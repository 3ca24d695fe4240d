//! Rights, extensions, roles and tablespaces that a dump needs: one error names all that are lacking.

mod reserved;

use std::collections::BTreeSet;

use tokio_postgres::Client;

use super::UNTOUCHED;
use crate::database::connect::QueryContext;
use crate::database::{bytes_of, ident, text_of};
use crate::dump::Contents;
use crate::dump::rules::RoleUse;
use crate::error::{Error, Kind, Result};
use crate::restore::Policy;

/// Requirements of a dump that the server does not meet, collected so that one error names all of them.
#[derive(Default)]
struct Lacks {
    problems: Vec<String>,
    hints: Vec<String>,
    /// The objects that only a superuser may make.
    objects: Vec<String>,
}

impl Lacks {
    fn add(&mut self, problem: String, hints: impl IntoIterator<Item = String>) {
        self.problems.push(problem);
        self.hints.extend(hints);
    }

    fn into_result(self) -> Result<()> {
        let error = match self.problems.as_slice() {
            [] => return Ok(()),
            [problem] => Error::new(Kind::Refused, problem),
            problems => Error::new(Kind::Refused, "the dump needs more than this server or this role has")
                .with("lacking", problems.join("\n")),
        };
        let error = error.with("objects", self.objects.join("\n")).with("state", UNTOUCHED);
        Err(self.hints.into_iter().fold(error, Error::hint))
    }
}

/// Whether the role may do all that is needed, and the server has all that the dump names. Everything that is lacking is
/// in one message.
pub async fn rights(client: &Client, live: Option<&str>, contents: &Contents, policy: &Policy) -> Result<()> {
    let row = client
        .query_one(
            "SELECT r.rolsuper, r.rolcreatedb, \
                    coalesce((SELECT pg_has_role(d.datdba, 'USAGE') FROM pg_database d WHERE d.datname = $1), true), \
                    current_user::text \
             FROM pg_roles r WHERE r.rolname = current_user",
            &[&live],
        )
        .await
        .query_context("cannot ask for the role's rights")?;
    let (superuser, createdb, owner, user): (bool, bool, bool, String) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    let mut lacks = Lacks::default();
    if !(superuser || createdb && owner) {
        let what = if createdb { "does not own the live database" } else { "may not create databases" };
        let hint = format!("As a superuser: ALTER ROLE {} CREATEDB; and make it the owner.", ident(&user));
        lacks.add(format!("role \"{user}\" {what}"), [hint]);
    }
    extensions(client, contents, policy, superuser, &user, &mut lacks).await?;
    if !superuser {
        reserved::look(client, contents, policy, &user, &mut lacks).await?;
    }
    roles(client, contents, policy, &user, &mut lacks).await?;
    tablespaces(client, contents, policy, &user, &mut lacks).await?;
    lacks.into_result()
}

/// `extension "a"`, `extensions "a", "b"`
fn listed(noun: &str, names: &[String]) -> String {
    let plural = if names.len() == 1 { "" } else { "s" };
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("{noun}{plural} {}", quoted.join(", "))
}

async fn extensions(
    client: &Client,
    contents: &Contents,
    policy: &Policy,
    superuser: bool,
    user: &str,
    lacks: &mut Lacks,
) -> Result<()> {
    let wanted: Vec<&str> = contents
        .extensions
        .iter()
        .map(|extension| extension.name.as_str())
        .filter(|name| *name != "plpgsql" && !policy.skip_extensions.iter().any(|skipped| skipped == name))
        .collect();
    let rows = client
        .query(
            "SELECT w, e.name IS NOT NULL, coalesce(bool_or(v.trusted), false) \
             FROM unnest($1::text[]) WITH ORDINALITY AS u (w, place) LEFT JOIN pg_available_extensions e ON e.name = w \
             LEFT JOIN pg_available_extension_versions v ON v.name = e.name AND v.version = e.default_version \
             GROUP BY w, e.name, place ORDER BY place",
            &[&wanted],
        )
        .await
        .query_context("cannot ask for the extensions")?;
    let (mut missing, mut forbidden) = (Vec::new(), Vec::new());
    for row in rows {
        let (name, available, trusted): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
        if !available {
            missing.push(name);
        } else if !superuser && !trusted {
            forbidden.push(name);
        }
    }
    if !missing.is_empty() {
        let install =
            "Install it beside the server (Debian: postgresql-contrib; NixOS: services.postgresql.extensions).";
        let hints = [install.to_owned(), crate::restore::extensions::skip_hint(&missing)];
        lacks.add(format!("the server does not have the {}", listed("extension", &missing)), hints);
    }
    if !forbidden.is_empty() {
        let hint = format!("As a superuser: ALTER ROLE {} SUPERUSER; TeslaMate's own module does so.", ident(user));
        let names = listed("extension", &forbidden);
        lacks.add(format!("role \"{user}\" may not create the {names}: only a superuser may"), [hint]);
    }
    Ok(())
}

/// How a role gets the rights of others.
struct Membership {
    /// Says what a grant gives: since PostgreSQL 16 the role's own default decides otherwise.
    options: &'static str,
    /// Roles that nobody should become a member of.
    superusers: BTreeSet<String>,
}

/// Names the roles that this one may not give objects to, or set default privileges of.
fn not_for_others(owners: &[&(RoleUse, String)], user: &str, membership: &Membership, lacks: &mut Lacks) {
    for (reason, what, option) in [
        (RoleUse::Owner, "may not give objects to their", "--no-owner"),
        (RoleUse::Defaults, "may not set the default privileges of the", "--no-privileges"),
    ] {
        let names: Vec<String> = owners.iter().filter(|owner| owner.0 == reason).map(|owner| owner.1.clone()).collect();
        if names.is_empty() {
            continue;
        }
        let noun = if reason == RoleUse::Owner { "owner" } else { "role" };
        let may_be_given = names.iter().all(|name| !membership.superusers.contains(name));
        let grants: Vec<String> = names
            .iter()
            .map(|name| format!("GRANT {} TO {}{};", ident(name), ident(user), membership.options))
            .collect();
        // Of a superuser's objects, only a superuser can give some.
        let way = if may_be_given {
            format!("Restore as a superuser; or type as one: {}", grants.join(" "))
        } else {
            "Restore as a superuser (DATABASE_USER).".to_owned()
        };
        let otherwise = if reason == RoleUse::Owner {
            "everything then belongs to the role that restores"
        } else {
            "no privilege is then given"
        };
        let hints = [way, format!("Or repeat it with {option}: {otherwise}.")];
        lacks.add(format!("role \"{user}\" {what} {}", listed(noun, &names)), hints);
    }
}

async fn roles(client: &Client, contents: &Contents, policy: &Policy, user: &str, lacks: &mut Lacks) -> Result<()> {
    let is_wanted = |reason: RoleUse| match reason {
        RoleUse::Owner => !policy.no_owner,
        RoleUse::Privilege | RoleUse::Defaults => !policy.no_privileges,
        RoleUse::Object => true,
    };
    let rows = client
        .query(
            &format!(
                "SELECT {}, pg_has_role(current_user, oid, CASE WHEN is_new THEN 'SET' ELSE 'MEMBER' END), \
                    pg_has_role(current_user, oid, CASE WHEN is_new THEN 'USAGE' ELSE 'MEMBER' END), rolsuper, is_new \
             FROM pg_roles, (SELECT current_setting('server_version_num')::int >= 160000 AS is_new) v",
                bytes_of("rolname")
            ),
            &[],
        )
        .await
        .query_context("cannot ask for the roles")?;
    let known: BTreeSet<String> = rows.iter().map(|row| text_of(row.get(0))).collect();
    // Which owners and defaults a part has is not known.
    if policy.tables.is_empty() {
        let is_forbidden = |reason: RoleUse, role: &str| {
            let column = if reason == RoleUse::Defaults { 2 } else { 1 };
            // Whoever owns the new database is a member of that one.
            matches!(reason, RoleUse::Owner | RoleUse::Defaults)
                && role != "pg_database_owner"
                && rows.iter().any(|row| row.get::<_, &[u8]>(0) == role.as_bytes() && !row.get::<_, bool>(column))
        };
        let owners: Vec<&(RoleUse, String)> =
            contents.roles.iter().filter(|(reason, role)| is_wanted(*reason) && is_forbidden(*reason, role)).collect();
        let superusers = rows.iter().filter(|row| row.get(3)).map(|row| text_of(row.get(0))).collect();
        let options = if rows.iter().any(|row| row.get(4)) { " WITH INHERIT TRUE, SET TRUE" } else { "" };
        not_for_others(&owners, user, &Membership { options, superusers }, lacks);
    }
    let missing: BTreeSet<&String> = contents
        .roles
        .iter()
        .filter(|(reason, role)| is_wanted(*reason) && !known.contains(role))
        .map(|(_, role)| role)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let create: Vec<String> = missing.iter().map(|role| format!("CREATE ROLE {};", ident(role))).collect();
    let names: Vec<&str> = missing.iter().map(|role| role.as_str()).collect();
    let mut hints = vec![format!("As a superuser: {}", create.join(" "))];
    let by_option = |role: &&String| !contents.roles.contains(&(RoleUse::Object, (*role).clone()));
    if missing.iter().all(by_option) {
        hints.push(
            "Or repeat it with --no-owner --no-privileges: everything then belongs to the role that restores.".into(),
        );
    }
    lacks.add(format!("the dump needs roles that this server does not have: {}", names.join(", ")), hints);
    Ok(())
}

async fn tablespaces(
    client: &Client,
    contents: &Contents,
    policy: &Policy,
    user: &str,
    lacks: &mut Lacks,
) -> Result<()> {
    if policy.no_tablespaces || contents.tablespaces.is_empty() {
        return Ok(());
    }
    let wanted: Vec<&String> = contents.tablespaces.iter().collect();
    let rows = client
        .query(
            "SELECT w, t.oid IS NOT NULL, coalesce(has_tablespace_privilege(t.oid, 'CREATE'), false) \
             FROM unnest($1::text[]) AS w LEFT JOIN pg_tablespace t ON t.spcname = w ORDER BY w",
            &[&wanted],
        )
        .await
        .query_context("cannot ask for the tablespaces")?;
    let (mut missing, mut forbidden) = (Vec::new(), Vec::new());
    for row in rows {
        let (name, exists, usable): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
        if !exists {
            missing.push(name);
        } else if !usable {
            forbidden.push(name);
        }
    }
    let otherwise = "Or repeat it with --no-tablespaces: everything then lies in the database's own tablespace.";
    if !missing.is_empty() {
        let create: Vec<String> =
            missing.iter().map(|name| format!("CREATE TABLESPACE {} LOCATION '/…';", ident(name))).collect();
        let hints = [format!("As a superuser: {}", create.join(" ")), otherwise.to_owned()];
        lacks.add(format!("the server does not have the {}", listed("tablespace", &missing)), hints);
    }
    if !forbidden.is_empty() {
        let grant: Vec<String> = forbidden
            .iter()
            .map(|name| format!("GRANT CREATE ON TABLESPACE {} TO {};", ident(name), ident(user)))
            .collect();
        let hints = [format!("As a superuser: {}", grant.join(" ")), otherwise.to_owned()];
        lacks.add(format!("role \"{user}\" may not use the {}", listed("tablespace", &forbidden)), hints);
    }
    Ok(())
}
