//! Entries that a restore leaves out of a dump, because of its options or its destination.
//!
//! One decision in two forms: about a statement of SQL text, which is executed, and about an entry of an
//! archive's list of contents, which `pg_restore` reads.

use std::collections::BTreeSet;

use super::{Destination, Policy};
use crate::dump::Contents;
use crate::dump::contents::{Spelling, TableName, qualified, used_object};
use crate::dump::rules;
use crate::dump::scan::Statement;

/// Kinds of statements and entries that are left out.
#[derive(Clone, Debug, Default)]
pub struct LeftOut {
    owner: bool,
    privileges: bool,
    tablespaces: bool,
    /// A copy of the database must not read from the same slot as the database.
    subscriptions: bool,
    extensions: BTreeSet<String>,
    /// Extensions that were to be left out and are not in it.
    unknown: BTreeSet<String>,
    /// Objects of the skipped extensions.
    absent: BTreeSet<TableName>,
    /// Tables that stay: an archive's list tells the end of a name from its owner by a space alone.
    kept: BTreeSet<TableName>,
    /// The archive makes the schema that is there already.
    public: bool,
    /// Names in the statements of a dump are not converted, those here are.
    spelling: Spelling,
}

impl LeftOut {
    /// Derives the omissions from the options and the destination. `absent` are objects that neither the dump nor its extensions create.
    #[must_use]
    pub fn new(policy: &Policy, destination: &Destination, contents: &Contents, absent: BTreeSet<TableName>) -> Self {
        let is_made = |name: &&String| contents.extensions.iter().any(|extension| extension.name == **name);
        let (extensions, unknown): (BTreeSet<&String>, BTreeSet<&String>) =
            policy.skip_extensions.iter().partition(is_made);
        let extensions: BTreeSet<String> = extensions.into_iter().cloned().collect();
        let kept = contents.tables().filter(|table| !absent.contains(table)).cloned();
        Self {
            kept: if extensions.is_empty() { BTreeSet::new() } else { kept.collect() },
            owner: policy.no_owner,
            privileges: policy.no_privileges,
            tablespaces: policy.no_tablespaces,
            subscriptions: *destination != Destination::Live,
            // What is absent without a reason is an error of the dump, and stays one.
            absent: if extensions.is_empty() { BTreeSet::new() } else { absent },
            extensions,
            unknown: unknown.into_iter().cloned().collect(),
            public: contents.makes_public,
            spelling: contents.spelling.clone(),
        }
    }

    /// Whether the rows of a table are left out, or the rights on an object.
    #[must_use]
    pub fn has(&self, name: &TableName) -> bool {
        self.absent.contains(name)
    }

    /// The subscriptions of a dump that are left out.
    #[must_use]
    pub fn subscriptions<'a>(&self, contents: &'a Contents) -> &'a [String] {
        if self.subscriptions { &contents.subscriptions } else { &[] }
    }

    /// Warnings about omissions that no option asks for by name.
    #[must_use]
    pub fn remarks(&self, contents: &Contents) -> Vec<String> {
        let subscriptions = self.subscriptions(contents).iter().map(|name| {
            format!("subscription \"{name}\" is left out: two databases must not read from one replication slot")
        });
        let disabled = contents.subscriptions.iter().filter(|_| !self.subscriptions).map(|name| {
            let quoted = crate::database::ident(name);
            format!(
                "subscription \"{name}\" is disabled, as pg_dump writes it: ALTER SUBSCRIPTION {quoted} ENABLE; \
                 ALTER SUBSCRIPTION {quoted} REFRESH PUBLICATION WITH (copy_data = false);"
            )
        });
        let unknown = self.unknown.iter();
        let unknown = unknown.map(|name| format!("there is no extension \"{name}\" in it to be left out"));
        let rows = self.absent.iter().filter_map(|name| Some((name, contents.rows.get(name)?)));
        let rows = rows.map(|(name, rows)| format!("{rows} rows of {name} are left out with the extension"));
        subscriptions.chain(disabled).chain(unknown).chain(rows).collect()
    }

    /// Whether a statement is left out.
    #[must_use]
    pub fn statement(&self, statement: &Statement<'_>) -> bool {
        (self.owner && rules::sets_owner(statement))
            || (self.privileges && rules::sets_privileges(statement))
            || (self.tablespaces && rules::tablespace(statement).is_some())
            || (self.subscriptions && is_about(statement, "SUBSCRIPTION").is_some())
            || (!self.extensions.is_empty() && self.belongs_to_extension(statement))
    }

    fn belongs_to_extension(&self, statement: &Statement<'_>) -> bool {
        if let Some(name) = is_about(statement, "EXTENSION") {
            return self.extensions.contains(&self.spelling.text(&name));
        }
        let text = statement.head(4096);
        let rows = ["COPY ", "INSERT INTO "].iter().find_map(|verb| text.strip_prefix(verb));
        let name = rows.map(qualified).or_else(|| used_object(statement, &text));
        name.is_some_and(|name| self.has(&self.spelling.table(name)))
    }

    /// Options of `pg_restore` that say the same.
    #[must_use]
    pub fn options(&self) -> Vec<&'static str> {
        let options = [
            (self.owner, "--no-owner"),
            (self.privileges, "--no-privileges"),
            (self.tablespaces, "--no-tablespaces"),
            (self.subscriptions, "--no-subscriptions"),
        ];
        options.into_iter().filter_map(|(wanted, option)| wanted.then_some(option)).collect()
    }

    /// The list of contents without what no option leaves out; `None` if all of it stays.
    #[must_use]
    pub fn shortened(&self, list: &str) -> Option<String> {
        let mut shortened = String::with_capacity(list.len());
        let mut is_shorter = false;
        for line in list.lines() {
            if entry(line).is_some_and(|entry| self.leaves_entry(entry)) {
                is_shorter = true;
            } else {
                shortened.push_str(line);
                shortened.push('\n');
            }
        }
        is_shorter.then_some(shortened)
    }

    fn leaves_entry(&self, entry: &str) -> bool {
        let ends = |rest: &str| rest.starts_with([' ', '(', '.']);
        let is_extension = |name: &str| {
            let quoted = crate::database::ident(name);
            ["EXTENSION - ", "COMMENT - EXTENSION ", "SECURITY LABEL - EXTENSION "].iter().any(|kind| {
                let rest = entry.strip_prefix(kind).map(str::trim_end);
                rest == Some(name) || rest == Some(&quoted)
            })
        };
        // The longest known name is meant.
        let is_kept = |TableName { schema, name }: &TableName, rest: &str| {
            let longer = self.kept.iter().filter(|kept| kept.schema == *schema && kept.name.len() > name.len());
            longer.map(|kept| &kept.name).any(|kept| rest.strip_prefix(kept.as_str()).is_some_and(ends))
        };
        let is_of = |object: &TableName| {
            let TableName { schema, name } = object;
            if name.is_empty() {
                return entry.starts_with(&format!("ACL - SCHEMA {schema} "));
            }
            let mut data = ["TABLE DATA", "SEQUENCE SET"].iter();
            let data = data.find_map(|kind| entry.strip_prefix(&format!("{kind} {schema} ")));
            let rights = || Some(entry.strip_prefix(&format!("ACL {schema} "))?.split_once(' ')?.1);
            let rest = data.or_else(rights);
            rest.is_some_and(|rest| rest.strip_prefix(name.as_str()).is_some_and(ends) && !is_kept(object, rest))
        };
        entry.starts_with("COMMENT - EXTENSION plpgsql ")
            || (self.public && entry.starts_with("SCHEMA - public "))
            || self.extensions.iter().any(|name| is_extension(name))
            || self.absent.iter().any(is_of)
    }
}

/// The name of the extension, subscription, … that a statement makes, changes, or describes.
fn is_about(statement: &Statement<'_>, kind: &str) -> Option<String> {
    let words: Vec<&str> = statement.words.iter().map(String::as_str).collect();
    let name = match words.as_slice() {
        ["CREATE", found, "IF", "NOT", "EXISTS", name, ..]
        | ["CREATE" | "ALTER", found, name, ..]
        | ["COMMENT", "ON", found, name, ..]
        | ["SECURITY", "LABEL", "FOR", _, "ON", found, name, ..]
            if *found == kind =>
        {
            name
        }
        _ => return None,
    };
    Some(rules::name_of(name))
}

/// The entry after the numbers in a line of `pg_restore --list`: `12; 3079 16385 EXTENSION - cube `.
fn entry(line: &str) -> Option<&str> {
    let (id, rest) = line.split_once("; ")?;
    id.parse::<u32>().ok()?;
    rest.splitn(3, ' ').nth(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_skipped_extension_are_found() {
        let name = |schema: &str, name: &str| TableName { schema: schema.into(), name: name.into() };
        let left_out = LeftOut {
            extensions: ["pg_cron".to_owned()].into(),
            absent: [name("cron", "job"), name("cron", "jobid_seq"), name("cron", "")].into(),
            kept: [name("cron", "job run"), name("other", "job b")].into(),
            public: true,
            ..LeftOut::default()
        };
        let list = "; Archive created\n5; 2615 2200 SCHEMA - public pg_database_owner\n2; 3079 16385 EXTENSION - pg_cron \n\
                    3370; 0 0 COMMENT - EXTENSION pg_cron \n3; 3079 16385 EXTENSION - pg_cron2 \n\
                    20; 0 17 TABLE DATA cron job run postgres\n21; 0 0 ACL cron TABLE job run postgres\n22; 0 0 ACL cron TABLE job b\n\
                    9; 0 17 TABLE DATA cron job postgres\n10; 0 17 TABLE DATA cron job_details postgres\n\
                    11; 0 0 SEQUENCE SET cron jobid_seq postgres\n12; 0 0 ACL cron TABLE job postgres\n\
                    13; 0 0 ACL - SCHEMA cron postgres\n14; 0 0 ACL cron FUNCTION job(text) postgres\n";
        let expected = "; Archive created\n3; 3079 16385 EXTENSION - pg_cron2 \n20; 0 17 TABLE DATA cron job run postgres\n\
                        21; 0 0 ACL cron TABLE job run postgres\n10; 0 17 TABLE DATA cron job_details postgres\n";
        assert_eq!(left_out.shortened(list).as_deref(), Some(expected));
        assert_eq!(left_out.shortened("3; 3079 16385 EXTENSION - cube \n"), None);
    }
}
