//! The most that is taken from the storage of a repository: it may be anybody's, and may send what it likes.
//!
//! A file that is longer, and a list without an end, are errors before they fill the memory. What is behind a network is
//! counted while it comes; of a directory's file the length is asked first.

use std::io::{self, ErrorKind};

#[cfg(feature = "network")]
use crate::bounded::too_long;

/// Configuration, keys and locks have a few hundred bytes.
const SMALL: u64 = 64 * 1024;

/// A snapshot names the paths that were given to restic, of which there may be 100,000.
const SNAPSHOT: u64 = 16 << 20;

/// An index of restic describes 50,000 blobs with 200 bytes each; one that is made anew from packs describes all of them.
const INDEX: u64 = 128 << 20;

/// Bytes of that when it is decompressed: half of them are hashes.
const PLAIN_INDEX: u64 = 2 * INDEX;

/// Ours have 8 MiB; restic makes packs of at most 128 MiB, rustic's grow to this size in repositories of 100 TB.
const PACK: u64 = 512 << 20;

/// A blob of data: restic cuts files after 8 MiB, we after 4 MiB; rustic can be told another size.
pub(super) const BLOB: u32 = 128 << 20;

/// A list of files in a directory: 100,000 tables have 25 MiB.
pub(super) const TREE: u32 = 256 << 20;

/// Key files that a password is tried with: each takes as long as its owner thought right, up to some seconds.
pub(super) const KEYS: usize = 100;

/// The memory of all names in a list, and a list as a REST server sends it: 700,000 packs, which are 5 TB.
#[cfg(feature = "network")]
pub(super) const LIST: u64 = 64 << 20;

/// One page of a bucket's list, with 1,000 names of at most 1,024 characters; and every other answer of such a server.
#[cfg(feature = "network")]
pub(super) const PAGE: u64 = 16 << 20;

/// One packet of SFTP. OpenSSH makes them of 256 KiB; other servers send a whole directory in one.
#[cfg(feature = "network")]
pub(super) const PACKET: u32 = 16 << 20;

/// The longest file at this path of the repository.
pub(super) fn longest(path: &str) -> u64 {
    match path.split_once('/').map_or(path, |(directory, _)| directory) {
        "data" => PACK,
        "index" => INDEX,
        "snapshots" => SNAPSHOT,
        _ => SMALL,
    }
}

/// The longest content of the same file, which may be compressed.
pub(super) fn longest_content(path: &str) -> u64 {
    if path.starts_with("index/") { PLAIN_INDEX } else { longest(path) }
}

/// Names and sizes, until there are too many.
#[cfg(feature = "network")]
#[derive(Debug, Default)]
pub(super) struct List {
    files: Vec<(String, u64)>,
    bytes: u64,
}

#[cfg(feature = "network")]
impl List {
    /// Adds a file.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] if the list is longer than any of a repository.
    pub(super) fn push(&mut self, name: String, size: u64) -> io::Result<()> {
        self.bytes += (name.len() + size_of::<(String, u64)>()) as u64;
        if self.bytes > LIST {
            return Err(too_long("the list of files", LIST));
        }
        self.files.push((name, size));
        Ok(())
    }

    pub(super) fn into_files(self) -> Vec<(String, u64)> {
        self.files
    }
}

/// More key files than a password is tried with.
pub(super) fn too_many_keys(count: usize) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("there are {count} key files, more than {KEYS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k18_each_kind_of_file_has_a_limit() {
        assert_eq!(longest("config"), SMALL);
        assert_eq!(longest("keys/ab"), SMALL);
        assert_eq!(longest("locks/ab"), SMALL);
        assert_eq!(longest("snapshots/ab"), SNAPSHOT);
        assert_eq!(longest("index/ab"), INDEX);
        assert_eq!(longest("data/ab/abcd"), PACK);
        assert_eq!(longest_content("index/ab"), PLAIN_INDEX);
        assert_eq!(longest_content("config"), SMALL);
    }

    #[cfg(feature = "network")]
    #[test]
    fn k18_a_list_has_an_end() {
        let mut list = List::default();
        let added = (0..2_000_000).take_while(|_| list.push("x".repeat(64), 1).is_ok()).count();
        assert!((500_000..1_000_000).contains(&added), "{added}");
    }
}
