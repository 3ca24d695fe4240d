//! Destination and options of a restore.

use super::wanted::name_of;
use crate::dump::Contents;
use crate::tables::catalog::Table;

/// Where the loaded database goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// In the place of the live one.
    Live,
    /// Beside it, under this name.
    Beside(String),
    /// Nowhere: it is loaded, verified and dropped.
    Drill,
}

/// Options of a restore, as the command line gives them.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Parallel jobs.
    pub jobs: u32,
    /// Statements that `pg_dump` never writes are let pass.
    pub trust_dump: bool,
    /// A dump of a newer server or application is let pass.
    pub allow_newer: bool,
    /// A dump without TeslaMate's tables is let pass.
    pub allow_other: bool,
    /// Owners are not restored.
    pub no_owner: bool,
    /// Privileges are not restored.
    pub no_privileges: bool,
    /// Everything lies in the database's own tablespace.
    pub no_tablespaces: bool,
    /// Extensions that are left out, with what belongs to them.
    pub skip_extensions: Vec<String>,
    /// Settings and privileges of the database that the role may not give are left out.
    pub no_properties: bool,
    /// Only definitions.
    pub schema_only: bool,
    /// Only these tables.
    pub tables: Vec<String>,
    /// The live database is not backed up first, even where there is a repository.
    pub no_safety_backup: bool,
    /// The result is not meant to be complete.
    pub partial: bool,
    /// Free space is not checked beforehand.
    pub ignore_free_space: bool,
    /// The locale of the new database, where it is not to be the one that it had: `libc:NAME`, `icu:NAME`, `builtin:NAME`.
    pub locale: Option<String>,
    /// Migrations of the application that came since are not run.
    pub as_it_was: bool,
    /// The service's unit.
    pub unit: String,
}

impl Policy {
    /// Parallel jobs where nobody says how many: one per CPU, at most 8.
    #[must_use]
    pub fn default_jobs() -> u32 {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        u32::try_from(cpus).unwrap_or(1).min(8)
    }

    /// These options with the partitions of each wanted table added.
    #[must_use]
    pub fn with_partitions(&self, contents: &Contents) -> Self {
        let mut policy = self.clone();
        let mut number = 0;
        // Partitions may be partitioned: what was added is looked at in its turn.
        while let Some(words) = policy.tables.get(number).cloned() {
            number += 1;
            for partition in contents.partitions.iter().filter(|partition| partition.parent.is_called(&words)) {
                let name = partition.child.quoted();
                if !policy.tables.contains(&name) {
                    policy.tables.push(name);
                }
            }
        }
        policy
    }

    /// These options with those of the configured extensions that the dump makes. The others are not named: they are no
    /// mistake of this run.
    #[must_use]
    pub fn with_skipped(&self, configured: &[String], contents: &Contents) -> Self {
        let mut policy = self.clone();
        for name in configured {
            let is_made = contents.extensions.iter().any(|extension| extension.name == *name);
            if is_made && !policy.skip_extensions.contains(name) {
                policy.skip_extensions.push(name.clone());
            }
        }
        policy
    }

    /// Whether the rows of this table are wanted. A table is named with or without its schema.
    #[must_use]
    pub fn wants(&self, table: &Table) -> bool {
        self.tables.is_empty() || self.tables.iter().any(|words| name_of(table).is_called(words))
    }
}
