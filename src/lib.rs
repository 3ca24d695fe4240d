//! Glovebox keeps the papers of a TeslaMate installation safe: backup, restore and maintenance.
//!
//! A map, from the outside in; nothing knows what stands above it:
//!
//! | module | does |
//! |---|---|
//! | [`cli`] | flags, output and exit code of every binary; each calls one recipe below |
//! | [`backup`] | the recipe: read, store, read back, publish, note |
//! | [`mod@export`] | writes a backup out of the repository as one SQL dump, without a server |
//! | [`dump`] | writes one dump file, and judges one: whole or not, what is in it |
//! | [`restore`] | the recipe: check, stage, load, verify, swap, keep the previous |
//! | [`migrate`] | the recipe: wait, compare, back up, have the application migrate, compare again |
//! | [`repository`] | the encrypted store of backups: open, archive, read, check; knows no database |
//! | [`tables`] | reads a database's rows in chunks, all from one moment |
//! | [`teslamate`] | what closing and deleting a drive or a charge means |
//! | [`retention`] | which backups stay, and why: a pure decision over the ledger's list |
//! | [`ledger`] | the catalogue of runs and snapshots, in SQLite |
//! | [`database`] | PostgreSQL: connecting, locks, client programs, a private server |
//! | [`host`] | what is done with the caller's own rights: files, terminal, service |
//! | [`privilege`] | from root to the database's user, for good |
//! | [`service`] | the systemd unit that uses the database; READY and STATUS to systemd |
//! | [`settings`] | files, environment and command line to one validated value |
//! | [`mod@env`] | what every piece of work is given |
//! | [`progress`], [`interrupt`], [`process`] | what is being done; signals; child processes |
//! | [`bounded`] | files and output of children, read with a limit |
//! | [`path`] | paths on which others may have put links |
//! | [`text`] | foreign text, made fit for people, the journal and JSON |
//! | [`error`] | what can go wrong, and the exit code that says so |
//!
//! `docs/architecture.md` follows a byte from COPY to the disk and back.

pub mod backup;
pub mod bounded;
pub mod cli;
pub mod database;
pub mod dump;
pub mod env;
pub mod error;
pub mod export;
pub mod host;
pub mod interrupt;
pub mod ledger;
pub mod migrate;
pub mod path;
pub mod privilege;
pub mod process;
pub mod progress;
pub mod repository;
pub mod restore;
pub mod retention;
pub mod scratch;
pub mod service;
pub mod settings;
pub mod tables;
pub mod teslamate;
pub mod text;
