//! What a database was used by when it was backed up: so that a restore can say what it wants around it.

use serde::{Deserialize, Serialize};

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
