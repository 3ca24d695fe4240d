//! Selection of an archive's entries for a part of it: the wanted tables, and everything that these need.
//!
//! `pg_restore --table` selects tables alone, and a table whose column has a type of the database's own cannot be made
//! without that type. The archive says which entry depends on which; this follows it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Policy;
use crate::dump::Contents;
use crate::dump::contents::TableName;

/// Entries that a function may use without the archive knowing, since its body is a string.
const HELPERS: [&str; 16] = [
    "SCHEMA",
    "EXTENSION",
    "PROCEDURAL LANGUAGE",
    "COLLATION",
    "TYPE",
    "DOMAIN",
    "FUNCTION",
    "PROCEDURE",
    "AGGREGATE",
    "OPERATOR",
    "CAST",
    // One that belongs to no table; its value comes with it.
    "SEQUENCE",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
    "TEXT SEARCH DICTIONARY",
    "TEXT SEARCH CONFIGURATION",
];

/// The number of `pg_class`, in which tables are. Source: PostgreSQL's `pg_class.h`.
const PG_CLASS: u32 = 1259;

/// Entries of an archive that a part of it consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// These lines of the archive's list of contents.
    pub list: String,
    /// The extensions among them.
    pub extensions: BTreeSet<String>,
    /// Tables that are needed and not wanted: their definitions come, their rows do not.
    pub needed: BTreeSet<TableName>,
    /// Wanted tables that no entry is known to define: the list tells some names with spaces or line breaks not apart.
    pub unknown: BTreeSet<TableName>,
    /// Functions that may read the rows of needed tables, each with one of them.
    pub readers: BTreeMap<String, TableName>,
}

/// An entry of the list of contents.
struct Entry<'a> {
    /// Kind, schema, name and owner.
    text: &'a str,
    /// Number of the catalogue that the object is in; 0 for rows and other parts of objects.
    catalogue: u32,
    needs: Vec<u32>,
}

impl Entry<'_> {
    /// The text after the kind; a kind may begin with the word of another one (`TABLE DATA`).
    fn after(&self, kind: &str) -> Option<&str> {
        let rest = self.text.strip_prefix(kind)?.strip_prefix(' ')?;
        match kind {
            "TABLE" => return (self.catalogue == PG_CLASS).then_some(rest),
            "TABLE DATA" => return (self.catalogue != PG_CLASS).then_some(rest),
            _ => {}
        }
        let longer = ["DATA ", "ATTACH ", "SET ", "OWNED BY ", "ACL ", "CLASS ", "FAMILY ", "TRANSFORM "];
        (!longer.iter().any(|word| rest.starts_with(word))).then_some(rest)
    }

    /// The text after the name that it has in a list: line breaks are spaces there.
    fn table<'t>(&self, kind: &str, tables: &HashMap<String, &'t TableName>) -> Option<&'t TableName> {
        let rest = self.after(kind)?;
        // Names and owners may have spaces in them, so the longest known name is meant.
        rest.rmatch_indices(' ').find_map(|(at, _)| tables.get(&rest[..at]).copied())
    }
}

impl Part {
    /// Chooses from `list`, which `pg_restore --list --verbose` wrote.
    #[must_use]
    pub fn choose(list: &str, contents: &Contents, policy: &Policy) -> Self {
        let entries = entries(list);
        let plain = |table: &TableName| format!("{} {}", table.schema, table.name).replace(['\n', '\r'], " ");
        let tables: HashMap<String, &TableName> = contents.tables().map(|table| (plain(table), table)).collect();
        let is_wanted = |table: &TableName| policy.tables.iter().any(|words| table.is_called(words));
        let mut definitions: BTreeMap<u32, &TableName> = BTreeMap::new();
        let mut chosen = BTreeSet::new();
        let mut known = BTreeSet::new();
        for (id, entry) in &entries {
            let defined = ["TABLE", "FOREIGN TABLE"].iter().find_map(|kind| entry.table(kind, &tables));
            definitions.extend(defined.map(|table| (*id, table)));
            let found = defined.or_else(|| entry.table("TABLE DATA", &tables));
            // A table that an extension makes has rows alone.
            known.extend(found);
            if found.is_some_and(is_wanted) {
                chosen.insert(*id);
            }
        }
        let wanted = chosen.clone();
        for (id, entry) in &entries {
            let belongs = entry.needs.iter().any(|need| wanted.contains(need) && definitions.contains_key(need));
            if belongs && ["DEFAULT", "SEQUENCE"].iter().any(|kind| entry.after(kind).is_some()) {
                chosen.insert(*id);
            }
        }
        // The archive does not say which extension makes a table that it only has rows of.
        let is_foreign =
            |id: &u32| !definitions.keys().any(|defined| defined == id || entries[id].needs.contains(defined));
        if wanted.iter().any(is_foreign) {
            chosen.extend(entries.iter().filter(|(_, entry)| entry.after("EXTENSION").is_some()).map(|(id, _)| *id));
        }
        let attached = attached(&entries);
        close(&mut chosen, &entries, &attached);
        if chosen.iter().any(|id| entries[id].after("FUNCTION").is_some()) {
            add_helpers(&mut chosen, &entries, &attached);
        }
        for (id, entry) in &entries {
            let all_of =
                |set: &BTreeSet<u32>| !entry.needs.is_empty() && entry.needs.iter().all(|need| set.contains(need));
            let is_value = ["SEQUENCE SET ", "SEQUENCE OWNED BY "].iter().any(|kind| entry.text.starts_with(kind));
            if (is_value && all_of(&chosen)) || (entry.text.starts_with("TABLE ATTACH ") && all_of(&wanted)) {
                chosen.insert(*id);
            }
        }
        let mut part = Self::default();
        // In the order of the archive, which is not that of its numbers.
        for (id, line) in numbered(list) {
            if chosen.contains(&id) {
                part.list.push_str(line);
                part.list.push('\n');
            }
        }
        let made = |name: &str| {
            chosen
                .iter()
                .any(|id| entries[id].after("EXTENSION").is_some_and(|rest| rest.trim_end() == format!("- {name}")))
        };
        let extensions = contents.extensions.iter().map(|extension| extension.name.replace(['\n', '\r'], " "));
        part.extensions = extensions.filter(|name| made(name)).collect();
        let needed = definitions.iter().filter(|(id, table)| chosen.contains(id) && !is_wanted(table));
        part.needed = needed.map(|(_, table)| (*table).clone()).collect();
        let wanted_tables = contents.tables().filter(|table| is_wanted(table));
        part.unknown = wanted_tables.filter(|table| !known.contains(table)).cloned().collect();
        for entry in chosen.iter().map(|id| &entries[id]) {
            let read = entry.needs.iter().find_map(|need| definitions.get(need).filter(|table| !is_wanted(table)));
            if let (Some(function), Some(table)) = (entry.after("FUNCTION"), read) {
                part.readers.insert(function.to_owned(), (*table).clone());
            }
        }
        part
    }

    /// The facts about a dump that concern this part of it.
    #[must_use]
    pub fn of(&self, contents: &Contents, policy: &Policy) -> Contents {
        let is_wanted = |table: &TableName| policy.tables.iter().any(|words| table.is_called(words));
        let mut part = contents.clone();
        part.extensions.retain(|extension| self.extensions.contains(&extension.name));
        part.rows.retain(|table, _| is_wanted(table));
        part.used.clear();
        part
    }
}

/// The entries with what they need, by number.
fn entries(list: &str) -> BTreeMap<u32, Entry<'_>> {
    let mut entries: BTreeMap<u32, Entry<'_>> = BTreeMap::new();
    let mut at = None;
    for line in list.lines() {
        if let Some(needs) = line.strip_prefix(";\tdepends on:") {
            if let Some(entry) = at.and_then(|id| entries.get_mut(&id)) {
                entry.needs.extend(needs.split(' ').filter_map(|need| need.parse::<u32>().ok()));
            }
        } else if let Some((id, catalogue, text)) = parsed(line) {
            entries.insert(id, Entry { text, catalogue, needs: Vec::new() });
            at = Some(id);
        }
    }
    entries
}

fn numbered(list: &str) -> impl Iterator<Item = (u32, &str)> {
    list.lines().filter_map(|line| parsed(line).map(|(id, ..)| (id, line)))
}

/// The number, the catalogue and the text of `12; 3079 16385 EXTENSION - cube `.
fn parsed(line: &str) -> Option<(u32, u32, &str)> {
    let (id, rest) = line.split_once("; ")?;
    let (catalogue, rest) = rest.split_once(' ')?;
    Some((id.parse().ok()?, catalogue.parse().ok()?, rest.split_once(' ')?.1))
}

/// The partitions that are attached by an entry of their own, each with its parent: they can be made without it.
fn attached(entries: &BTreeMap<u32, Entry<'_>>) -> BTreeSet<(u32, u32)> {
    let pairs = entries.values().filter(|entry| entry.text.starts_with("TABLE ATTACH "));
    pairs.flat_map(|entry| entry.needs.iter().flat_map(|one| entry.needs.iter().map(|two| (*one, *two)))).collect()
}

/// Adds everything that the chosen entries need.
fn close(chosen: &mut BTreeSet<u32>, entries: &BTreeMap<u32, Entry<'_>>, attached: &BTreeSet<(u32, u32)>) {
    let mut open: Vec<u32> = chosen.iter().copied().collect();
    while let Some(id) = open.pop() {
        for need in entries.get(&id).into_iter().flat_map(|entry| &entry.needs) {
            if !attached.contains(&(id, *need)) && entries.contains_key(need) && chosen.insert(*need) {
                open.push(*need);
            }
        }
    }
}

/// Adds functions, types and the like that need no table beside the chosen ones: the body of a chosen function may call them.
fn add_helpers(chosen: &mut BTreeSet<u32>, entries: &BTreeMap<u32, Entry<'_>>, attached: &BTreeSet<(u32, u32)>) {
    let is_helper = |entry: &Entry<'_>| HELPERS.iter().any(|kind| entry.after(kind).is_some());
    for id in entries.iter().filter(|(_, entry)| is_helper(entry)).map(|(id, _)| *id).collect::<Vec<_>>() {
        let mut needed = BTreeSet::from([id]);
        close(&mut needed, entries, attached);
        if needed.iter().all(|need| chosen.contains(need) || is_helper(&entries[need])) {
            chosen.append(&mut needed);
        }
    }
}
