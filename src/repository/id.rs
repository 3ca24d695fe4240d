//! The name of a file or a blob in the repository: the SHA-256 of its bytes.

use std::fmt;
use std::str::FromStr;

use rustic_core::FileType;
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Result};

/// A SHA-256, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; 32]);

impl Id {
    /// The id of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest itself.
    #[must_use]
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// The first 8 digits, as lists show it.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(8).collect()
    }

    /// Whether it begins with these digits.
    #[must_use]
    pub fn starts_with(&self, digits: &str) -> bool {
        self.to_string().starts_with(&digits.to_ascii_lowercase())
    }

    pub(super) fn rustic(self) -> rustic_core::Id {
        rustic_core::Id::new(self.0)
    }
}

impl From<[u8; 32]> for Id {
    fn from(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

impl From<&rustic_core::Id> for Id {
    fn from(id: &rustic_core::Id) -> Self {
        // The library shows its ids in hexadecimal only.
        parse(&id.to_hex()).unwrap_or(Self([0; 32]))
    }
}

impl FromStr for Id {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| {
            Error::new(Kind::Usage, format!("`{text}` is not the id of a backup"))
                .hint("An id has 64 hexadecimal digits.")
        })
    }
}

fn parse(text: &str) -> Option<Id> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Id(digest))
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Id({self})")
    }
}

/// The path of a file inside the repository, as restic lays it out.
pub(super) fn path_of(kind: FileType, id: Id) -> String {
    match kind {
        FileType::Config => "config".to_owned(),
        FileType::Pack => {
            let name = id.to_string();
            format!("data/{}/{name}", name.get(..2).unwrap_or_default())
        }
        FileType::Index | FileType::Key | FileType::Snapshot => format!("{}/{id}", kind.dirname()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_what_it_writes_and_nothing_else() {
        let id = Id::of(b"abc");
        assert_eq!(id.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(id.to_string().parse::<Id>().unwrap(), id);
        assert_eq!(Id::from(&id.rustic()), id);
        assert!("ba78".parse::<Id>().is_err() && "z".repeat(64).parse::<Id>().is_err());
        assert!(path_of(FileType::Pack, id).starts_with("data/ba/ba7816bf"));
    }
}
