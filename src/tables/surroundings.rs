//! What a database was used by when it was backed up: so that a restore can say what it wants around it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The application and the system around it, as far as they can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// The application's release, such as `2.2.0`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub release: Option<String>,
    /// The unit that runs it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unit: Option<Unit>,
    /// The generation of the NixOS system.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub nixos: Option<Nixos>,
    /// Of the key that the application's tokens are encrypted with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub encryption_key: Option<Fingerprint>,
}

/// A unit of systemd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// Its files, as `systemctl cat` shows them, without the values of its environment and its credentials.
    pub definition: String,
}

/// A NixOS system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nixos {
    /// The number of its generation.
    pub generation: u64,
    /// What `/run/current-system` was.
    pub system: String,
}

/// Tells whether two secrets are the same, and nothing else about them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Random, 32 hexadecimal digits.
    pub salt: String,
    /// The first 16 hexadecimal digits of the SHA-256 of salt and secret.
    pub digest: String,
}

impl Fingerprint {
    /// Of a secret, with this salt.
    #[must_use]
    pub fn new(secret: &str, salt: &str) -> Self {
        let hash = Sha256::new_with_prefix(salt).chain_update([0]).chain_update(secret);
        Self { salt: salt.to_owned(), digest: crate::dump::hex(hash).chars().take(16).collect() }
    }

    /// Whether it is of this secret.
    #[must_use]
    pub fn is_of(&self, secret: &str) -> bool {
        Self::new(secret, &self.salt) == *self
    }
}

/// A file beside the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraFile {
    /// Where it was, absolute. In the backup it is below `files/`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Its owner, by number.
    pub uid: u32,
    /// Its group, by number.
    pub gid: u32,
    /// Its owner, by name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<String>,
    /// Its group, by name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
    /// Bytes.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_knows_its_secret_and_does_not_show_it() {
        let fingerprint = Fingerprint::new("c4nary", "00ff");
        assert!(fingerprint.is_of("c4nary") && !fingerprint.is_of("c4narY") && !fingerprint.is_of(""));
        assert_ne!(fingerprint.digest, Fingerprint::new("c4nary", "00fe").digest);
        assert!(!format!("{fingerprint:?}").contains("c4nary"));
    }
}
