//! The binaries against a real PostgreSQL server. One file per subject; `support` starts servers and runs binaries.

// A test that cannot go on fails: that is what these are for. Its helpers explain themselves by their names.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::must_use_candidate,
    clippy::missing_panics_doc
)]
// File names of our own making, TOML written with Rust's quoting, short texts: clarity over speed.
#![allow(
    clippy::case_sensitive_file_extension_comparisons,
    clippy::unnecessary_debug_formatting,
    clippy::format_collect,
    clippy::similar_names
)]
#![allow(missing_docs, unreachable_pub, clippy::print_stderr, clippy::print_stdout)]

mod backup;
mod backup_failures;
mod backup_files;
mod backup_locks;
mod backup_signals;
mod backup_sources;
mod bad_machine;
mod changes;
mod close_charge;
mod close_drive;
mod connections;
mod connections_clear_text;
mod database_gone;
mod delete;
mod docs;
mod export;
mod first_week;
#[cfg(feature = "network")]
mod forgetting;
mod host;
mod hostile;
mod hostile_mutations;
#[cfg(feature = "network")]
mod identities;
mod maintenance_cli;
mod maintenance_rpc;
mod maintenance_triggers;
#[cfg(feature = "man")]
mod manuals;
mod migrate;
mod migrate_releases;
mod moment;
mod other_databases;
mod private_drill;
mod private_drill_attacks;
mod private_drill_likeness;
mod privileges;
mod reading;
mod regression_objects;
mod repository_backup;
mod repository_cli;
mod repository_copies;
mod repository_damage;
mod repository_failures;
mod repository_history;
mod repository_keeping;
#[cfg(feature = "network")]
mod repository_network;
mod restore_backup;
mod restore_cluster;
mod restore_computed;
mod restore_extensions;
mod restore_grants;
mod restore_kill;
mod restore_load;
mod restore_load_role;
mod restore_names;
mod restore_order;
mod restore_part;
mod restore_policies;
mod restore_privileges;
mod restore_record;
mod restore_rights;
mod restore_rows;
mod restore_rows_definitions;
mod restore_rows_meanwhile;
mod restore_rows_types;
mod restore_rows_words;
mod restore_sources;
mod restore_swap;
mod restore_undo;
mod root_rights;
mod secrets_systemd;
mod service_states;
mod session_settings;
mod settings;
mod support;
mod tables;
mod terminal;
mod version_matrix;
mod versions;
