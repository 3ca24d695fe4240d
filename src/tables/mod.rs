//! Reads the rows of a database in chunks, all from one moment.
//!
//! One session exports a snapshot ([`snapshot`]), looks at every relation ([`catalog`]) and cuts the tables into ranges
//! of blocks ([`plan`]). Several sessions join the snapshot and copy the ranges, ahead of whoever takes them
//! ([`readers`]), into memory or a temporary file ([`buffer`]); every byte passes a count of its rows ([`rows`]).
//! `pg_dump` joins the snapshot too and writes everything that is not a row ([`definitions`]).
//! Where rows are to be read without a server, [`mod@decode`] turns binary ones into text.
//! What was read, and from where ([`facts`]), is written down in a [`manifest`].
//!
//! Names and definitions that are read outside the snapshot are compared with those that it sees ([`unchanged`], [`locks`]).
//!
//! Where the server keeps summaries of its write-ahead log, chunks that did not change since an earlier backup need not be
//! read again: [`changes`] says which blocks may be other ones, [`reuse`] decides.
//!
//! Nothing here knows where the rows go.

pub mod buffer;
pub mod catalog;
pub mod changes;
pub mod composites;
pub mod decode;
pub mod definitions;
pub mod empty;
pub mod facts;
pub mod locks;
pub mod manifest;
pub mod plan;
pub mod readers;
pub mod reuse;
pub mod rows;
pub mod snapshot;
pub mod surroundings;
pub mod types;
pub mod unchanged;

pub use catalog::{Column, Table};
pub use manifest::Manifest;
pub use plan::{Chunk, Plan};
pub use snapshot::Snapshot;
pub use types::CopyFormat;
