//! Dump files: writing one, and judging one.
//!
//! [`mod@write`] makes a file with [`pg_dump`]; [`source`] takes a file, a directory or standard input, whatever its name;
//! [`judge`] makes one pass over all of it and says what is in it ([`contents`]), or why it cannot be used. The text
//! of a plain dump goes through [`text`] (line ends, encoding), [`scan`] (statements, rows) and [`rules`] (what is fed
//! to the server, left out, or refused). Not here: loading, which is `restore/load.rs`.

pub(crate) mod ahead;
pub mod contents;
pub mod database;
pub mod format;
pub mod judge;
pub mod moment;
pub mod pg_dump;
pub mod rules;
pub mod scan;
pub mod source;
pub mod text;
pub mod write;

pub use contents::Contents;
pub use format::Format;
pub use source::Source;

use sha2::{Digest, Sha256};

/// Bytes that are read or written at once.
pub(crate) const PIECE: usize = 256 * 1024;

/// A SHA-256 as people write it: 64 hex digits.
pub(crate) fn hex(hash: Sha256) -> String {
    use std::fmt::Write as _;
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
