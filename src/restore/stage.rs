//! Creates the staging database, loads it, verifies it and applies the properties of the database.
//!
//! The live database is only read here. A failed stage leaves the staging database behind: the caller drops it.

use super::check::Live;
use super::left_out::LeftOut;
use super::load;
use super::loading::Load;
use super::origin::{Origin, Witness};
use super::part::Part;
use super::stored::Stored;
use super::verify::Verified;
use super::{Destination, Policy, Session, extensions, staging};
use crate::database::tools::Tools;
use crate::database::{Setting, application_settings, ident};
use crate::dump::contents::Extension;
use crate::dump::judge::Judgement;
use crate::dump::source::Source;
use crate::error::{Error, Kind, Result};

/// Source of a load, and the programs that load it.
#[derive(Clone, Copy)]
pub(super) struct Material<'a> {
    pub(super) source: &'a Source,
    pub(super) stored: Option<&'a Stored>,
    pub(super) judgement: &'a Judgement,
    pub(super) tools: &'a Tools,
}

/// The entries to load, and the extensions that are made before them.
pub(super) struct Wanted<'a> {
    pub(super) left_out: &'a LeftOut,
    pub(super) part: Option<&'a Part>,
    pub(super) added: &'a [Extension],
}

impl Session<'_> {
    /// Makes the staging database, loads it, verifies it, and gives it what no dump carries.
    pub(super) async fn stage(
        &self,
        material: &Material<'_>,
        destination: &Destination,
        policy: &Policy,
        origin: &Origin,
        name: &str,
        live: Option<&Live>,
    ) -> Result<Verified> {
        let env = self.env;
        let contents = &material.judgement.contents;
        env.reporter.step(&format!("loading into {name}")).await;
        staging::create(self.client(), &env.connector, self.live_name(), name, &origin.properties, self.server).await?;
        let mut origin = origin.clone();
        if origin.witness == Witness::Live {
            let settled = origin.properties.take_out_forbidden(self.client(), name).await?;
            self.tell_forbidden(&settled.forbidden, name, destination, policy)?;
            for (statement, why) in &settled.owners {
                let statement = statement.replace(&ident(name), &ident(self.target(destination)));
                env.reporter.warn(&format!("a privilege gets another grantor ({why}): {statement}"));
            }
        }
        let part = self.part(material, policy).await?;
        let tried = part.as_ref().map(|part| part.of(contents, policy));
        let made = extensions::try_out(&env.connector, name, tried.as_ref().unwrap_or(contents), policy).await?;
        let left_out = LeftOut::new(policy, destination, contents, made.absent);
        for remark in left_out.remarks(contents) {
            env.reporter.warn(&remark);
        }
        for extension in &made.added {
            env.reporter.warn(&format!(
                "the dump uses the extension \"{}\" of the live database and does not make it: it is made first",
                extension.name
            ));
        }
        extensions::add(&env.connector, name, &made.added).await?;
        let wanted = Wanted { left_out: &left_out, part: part.as_ref(), added: &made.added };
        let application = self.application_settings(material, &origin, live).await?;
        let load = Load {
            material,
            part: tried.as_ref().unwrap_or(contents),
            policy,
            wanted: &wanted,
            properties: &origin.properties,
            application: &application,
            name,
            made: &made.rows,
            expects_teslamate: *destination == Destination::Live && Live::expects_teslamate(live, policy),
        };
        let verified = self.load(&load).await?;
        for remark in &verified.remarks {
            env.reporter.warn(remark);
        }
        origin.apply(self.client(), env, name).await?;
        Ok(verified)
    }

    /// The entries of an archive that the wanted tables need; `None` if everything is wanted.
    async fn part(&self, material: &Material<'_>, policy: &Policy) -> Result<Option<Part>> {
        if policy.tables.is_empty() {
            return Ok(None);
        }
        let Material { source, judgement, tools, .. } = *material;
        let contents = &judgement.contents;
        let list = load::list::read(source, tools, &contents.spelling, true).await?;
        let part = Part::choose(&list, contents, policy);
        if !part.unknown.is_empty() {
            let names: Vec<String> = part.unknown.iter().map(ToString::to_string).collect();
            return Err(Error::new(Kind::Refused, "the archive's list of contents does not tell these tables from others")
                .with("tables", names.join(", "))
                .with("state", "the live database was not touched")
                .hint("Restore all of it beside the live database, with --into and without --table, and take the rows from there."));
        }
        let reporter = &self.env.reporter;
        for (function, table) in &part.readers {
            reporter.warn(&format!(
                "{function} may read {table}, whose rows are not in the part: computed columns, defaults and checks \
                 that call it see none; --table {table} brings them"
            ));
        }
        reporter.info("a part has no indexes, no primary or foreign keys, no triggers and no privileges");
        if !part.needed.is_empty() {
            let names: Vec<String> = part.needed.iter().map(ToString::to_string).collect();
            reporter.info(&format!("definitions without rows, which the part needs: {}", names.join(", ")));
        }
        Ok(Some(part))
    }

    /// Settings under which the application wrote the rows: of the backup, as far as it says so, else those of the live
    /// database and those that the dump says of its own.
    async fn application_settings(
        &self,
        material: &Material<'_>,
        origin: &Origin,
        live: Option<&Live>,
    ) -> Result<Vec<Setting>> {
        let user = &self.env.settings.database.user;
        let facts = material.stored.map(|stored| &stored.manifest.facts);
        if let Some(facts) = facts.filter(|facts| !facts.application.is_empty()) {
            return Ok(facts.application.clone());
        }
        // It may be closed to this role; then what is set for it is all that is known.
        let present = match self.private {
            Some(private) => private.application(),
            None if live.is_some() => self.env.connector.application_settings().await.ok(),
            None => None,
        };
        let said = match facts {
            Some(facts) => Some(facts.properties().settings),
            None => material.judgement.contents.database.as_ref().map(|database| database.settings.clone()),
        };
        let said = said.unwrap_or_else(|| origin.properties.settings.clone());
        let mut settings = present.unwrap_or_default();
        settings.extend(application_settings::of_database(self.client(), &said, user).await?);
        Ok(settings)
    }

    /// The name that the new database gets, or would get.
    fn target<'a>(&'a self, destination: &'a Destination) -> &'a str {
        match destination {
            Destination::Beside(target) => target,
            Destination::Live | Destination::Drill => self.live_name(),
        }
    }

    /// Settings and privileges of the live database that this role may not give to another one: a drill and a copy go
    /// without them, and say so; for the live database a person has to choose.
    fn tell_forbidden(
        &self,
        forbidden: &[(String, String)],
        name: &str,
        destination: &Destination,
        policy: &Policy,
    ) -> Result<()> {
        if forbidden.is_empty() {
            return Ok(());
        }
        let target = self.target(destination);
        let lines = |with_cause: bool| {
            let line = |(statement, cause): &(String, String)| {
                let statement = statement.replace(&ident(name), &ident(target));
                let cause = cause.lines().next().unwrap_or_default();
                if with_cause { format!("{statement}; -- {cause}") } else { format!("{statement};") }
            };
            forbidden.iter().map(line).collect::<Vec<_>>().join("\n")
        };
        let user = &self.env.settings.database.user;
        let what = format!("role \"{user}\" may not give the new database everything that the live one has");
        match destination {
            Destination::Live if !policy.no_properties => Err(Error::new(Kind::Refused, what)
                .with("statements", lines(true))
                .with("state", "nothing was loaded; the live database and its service are as they were")
                .hint("Restore as a superuser (DATABASE_USER), or go without them with --no-properties and run these as a superuser afterwards.")),
            Destination::Live | Destination::Beside(_) => {
                self.env.reporter.warn(&format!("{what}; as a superuser, run afterwards:\n{}", lines(false)));
                Ok(())
            }
            Destination::Drill => {
                self.env.reporter.warn(&format!("{what}; a restore would need --no-properties:\n{}", lines(true)));
                Ok(())
            }
        }
    }
}
