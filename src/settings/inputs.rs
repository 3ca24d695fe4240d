//! Collects what the settings are made of: the files' texts, the environment, the command line.
//!
//! This is the only part that touches files, and it runs with the caller's own rights. The result can be handed to
//! an unprivileged process, which then needs no right to read them again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::Settings;
use super::keys::{self, KEYS};
use crate::error::{Error, Kind, Result};
use crate::path::{self, NotOfRootAlone};

/// Where the settings are unless `--config` says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/glovebox/config.toml";

/// A file that was read, and whether strangers can read it too.
#[derive(Clone, Serialize, Deserialize)]
pub struct Text {
    /// Its path, for messages.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether its mode lets every account on the machine read it.
    pub public: bool,
}

/// Everything that settings are resolved from. Holds secrets: no `Debug`.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Inputs {
    /// The TOML file, if there is one.
    pub config: Option<Text>,
    /// The secrets file, if one is named.
    pub secrets: Option<Text>,
    /// The variables of the environment that the table of settings knows, and those that look as if they were meant.
    pub environment: BTreeMap<String, String>,
    /// Settings from the command line, by path.
    pub command_line: BTreeMap<String, String>,
    /// The variables of the environment that hold credentials of a storage.
    #[serde(default)]
    pub storage: BTreeMap<String, String>,
    /// The files with the repositories' passwords, by path, for a command that opens a repository.
    pub passwords: BTreeMap<PathBuf, String>,
    /// The files with the credentials of their storage, likewise.
    #[serde(default)]
    pub environment_files: BTreeMap<PathBuf, Text>,
    /// The copies of identity files that the account which does the work may read, by the configured paths.
    #[serde(default)]
    pub identities: BTreeMap<String, String>,
    /// `$STATE_DIRECTORY`, which systemd sets for `StateDirectory=`.
    pub state_directory: Option<String>,
}

impl Drop for Text {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl Inputs {
    /// Wipes everything that may be a secret, once the settings are made of it or it is handed over.
    pub fn wipe(&mut self) {
        (self.config, self.secrets) = (None, None);
        self.environment_files.clear();
        let maps = [&mut self.environment, &mut self.command_line, &mut self.storage];
        for value in maps.into_iter().flat_map(BTreeMap::values_mut).chain(self.passwords.values_mut()) {
            value.zeroize();
        }
    }

    /// Reads the files and picks the variables.
    ///
    /// `config` is the path given by `--config`; without it the default path is tried, and its absence is no error.
    pub fn gather(
        config: Option<&Path>,
        command_line: BTreeMap<String, String>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self> {
        let mut inputs = Self { command_line, ..Self::default() };
        for (name, value) in environment {
            if name == "STATE_DIRECTORY" {
                inputs.state_directory = Some(value);
            } else if name.starts_with("GLOVEBOX_") || KEYS.iter().any(|key| key.env == name) {
                inputs.environment.insert(name, value);
            } else if keys::STORAGE_VARIABLES.iter().any(|prefix| name.starts_with(prefix)) {
                inputs.storage.insert(name, value);
            }
        }
        inputs.config = match config {
            Some(path) => Some(read_config(path)?),
            None if Path::new(DEFAULT_CONFIG).exists() => Some(read_config(Path::new(DEFAULT_CONFIG))?),
            None => None,
        };
        if let Some(path) = inputs.secrets_file() {
            inputs.secrets = Some(read(&path, "secrets file")?);
        }
        Ok(inputs)
    }

    /// The configuration file alone, for a look at it where nothing else is to be had, as while a system is built.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it cannot be read.
    pub fn of_file(config: Option<&Path>) -> Result<Self> {
        let path = config.unwrap_or(Path::new(DEFAULT_CONFIG));
        Ok(Self { config: Some(read_config(path)?), ..Self::default() })
    }

    /// Reads the credentials of every repository's storage: the account that does the work may have no right to.
    ///
    /// # Errors
    /// [`Kind::Usage`] if a file cannot be read. What is in it is judged when the settings are resolved.
    pub fn read_environment_files(&mut self, settings: &Settings) -> Result<()> {
        for repository in settings.repository.iter().chain(&settings.copies) {
            if let Some(path) = &repository.environment_file {
                self.environment_files.insert(path.clone(), read(path, "environment file")?);
            }
        }
        Ok(())
    }

    /// Reads the password of every configured repository: the account that does the work may have no right to.
    ///
    /// # Errors
    /// [`Kind::Usage`] if one cannot be read, or is no text.
    pub fn read_passwords(&mut self, settings: &Settings) -> Result<()> {
        for repository in settings.repository.iter().chain(&settings.copies) {
            let path = &repository.password_file;
            let mut read = read(path, "password file")?;
            let text = String::from_utf8(std::mem::take(&mut read.bytes)).map_err(|_| {
                Error::new(Kind::Usage, format!("the password file {} is not UTF-8 text", path.display()))
                    .with("state", "nothing was read, nothing was written")
            })?;
            self.passwords.insert(path.clone(), text);
        }
        Ok(())
    }

    /// The secrets file has to be known before it can take part in the precedence, so it is looked up on its own.
    fn secrets_file(&self) -> Option<PathBuf> {
        let key = keys::by_path("secrets_file")?;
        if let Some(path) = self.command_line.get(key.path).or_else(|| self.environment.get(key.env)) {
            return Some(path.into());
        }
        // A file that is not TOML is reported, with everything else, when the settings are resolved.
        let table: toml::Table = toml::from_str(std::str::from_utf8(&self.config.as_ref()?.bytes).ok()?).ok()?;
        Some(table.get(key.path)?.as_str()?.into())
    }
}

/// The longest file of settings or credentials, in bytes: all of them together must go to the worker in one message.
const LONGEST: u64 = 160 * 1024;

/// Reads the file that names the account that does the work, and the commands by which root stops and starts the service.
fn read_config(path: &Path) -> Result<Text> {
    read_opened(path, "configuration file", path::open_file_of_root)
}

fn read(path: &Path, what: &str) -> Result<Text> {
    read_opened(path, what, path::open_file)
}

fn read_opened(path: &Path, what: &str, open: fn(&Path) -> std::io::Result<File>) -> Result<Text> {
    let attempt = || -> std::io::Result<Text> {
        let file = open(path)?;
        let public = file.metadata()?.mode() & 0o004 != 0;
        Ok(Text { path: path.to_owned(), bytes: path::read_small(&file, LONGEST)?, public })
    };
    attempt().map_err(|cause| {
        let error = Error::new(Kind::Usage, format!("cannot read the {what} {}", path.display()))
            .with("cause", &cause)
            .with("state", "nothing was read, nothing was written");
        match cause.kind() {
            ErrorKind::NotFound => error.hint("Name an existing file, or leave the setting out."),
            ErrorKind::PermissionDenied => error.hint("Run it as root, or give your account the right to read it."),
            _ if cause.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<NotOfRootAlone>) => error.hint(
                "Keep it where only root can write, as in /etc/glovebox: install -D -m 0644 FILE /etc/glovebox/config.toml",
            ),
            _ => error,
        }
    })
}
