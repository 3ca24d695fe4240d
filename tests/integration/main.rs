//! The binaries against a real PostgreSQL server. One file per subject; `support` starts servers and runs binaries.

// A test that cannot go on fails: that is what these are for. Its helpers explain themselves by their names.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::must_use_candidate,
    clippy::missing_panics_doc
)]
#![allow(missing_docs, unreachable_pub, clippy::print_stderr, clippy::print_stdout)]

mod connections;
mod restore_kill;
mod restore_load;
mod restore_sources;
mod restore_swap;
mod secrets_systemd;
mod settings;
mod support;
