//! What closing and deleting a drive or a charge means, and how it is done.
//!
//! | module | does |
//! |---|---|
//! | [`ids`], [`age`] | what a person types: ids, and durations such as `1d` |
//! | [`session`] | a connection that holds the lock; transactions; what a failed query means |
//! | [`catalog`] | whether this is `TeslaMate`'s database, and its columns |
//! | [`rows`] | a row as text, and what changed in it |
//! | [`drive`], [`charge`], [`geofence`], [`efficiency`] | the effect of closing, computed by SQL |
//! | [`rpc`] | closing by `TeslaMate` itself |
//! | [`close`] | the recipe of closing: which way, which records, one transaction each |
//! | [`open`] | the records that are open |
//! | [`delete`], [`saved`], [`undo`] | deleting; the file that the rows go to first; putting them back |
//! | [`back`] | a record of a backup, put back into the live database |
//! | [`document`] | the files by which a change can be undone |
//!
//! The meaning is written down in `docs/closing.md`, sentence by sentence; the code cites it by section.

pub mod age;
pub mod back;
pub mod catalog;
pub mod charge;
pub mod close;
pub mod delete;
pub mod document;
pub mod drive;
pub mod efficiency;
pub mod geofence;
pub mod ids;
pub mod open;
pub mod outcome;
pub mod rows;
pub mod rpc;
pub mod saved;
pub mod session;
pub mod undo;

use serde::{Deserialize, Serialize};

/// The two kinds of record that can be closed and deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Record {
    /// A drive, with its positions.
    Drive,
    /// A charging process, with its readings.
    Charge,
}

impl Record {
    /// What people call it; also the word in file names and JSON.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Drive => "drive",
            Self::Charge => "charge",
        }
    }

    /// Its table, in schema `public`.
    #[must_use]
    pub fn table(self) -> &'static str {
        match self {
            Self::Drive => "drives",
            Self::Charge => "charging_processes",
        }
    }
}
