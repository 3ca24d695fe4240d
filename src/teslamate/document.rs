//! Files by which a change of records can be undone.
//!
//! JSON, so that a person can read it, in the state directory, mode 0600; whole, synced and named before the change is
//! committed. A SHA-256 over the content tells a damaged file.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Kind, Result};
use crate::host::OutputFile;

/// More than any charge or drive needs: ten million positions.
const SIZE_LIMIT: u64 = 128 * 1024 * 1024;

/// A kind of file.
pub(super) struct Form {
    /// Its name in the file.
    pub(super) format: &'static str,
    /// The version that is written and read.
    pub(super) version: u64,
    /// The directory in the state directory.
    pub(super) directory: &'static str,
    /// In messages, with an article.
    pub(super) called: &'static str,
    /// Where such files are.
    pub(super) hint: &'static str,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<C> {
    format: String,
    version: u64,
    sha256: String,
    content: C,
}

fn digest(content: &impl Serialize) -> Result<String> {
    let bytes = serde_json::to_vec(content).context(Kind::Store, "cannot write the saved rows as JSON")?;
    Ok(Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}")))
}

/// A file that is removed again unless it is kept.
#[derive(Debug)]
pub struct Saved {
    path: PathBuf,
    kept: bool,
}

/// Writes a file named after `name` and the time; when it returns, it is on the disk.
pub(super) fn write(form: &Form, state_dir: &Path, name: &str, content: &impl Serialize) -> Result<Saved> {
    let dir = state_dir.join(form.directory);
    let unsaved = |error: Error| {
        error.hint(format!("See to it that this account can write into {}, or set `state_dir`.", state_dir.display()))
    };
    make_dir(&dir, state_dir).map_err(unsaved)?;
    let time = chrono::Utc::now().format("%Y%m%dT%H%M%S%.3fZ");
    let path = dir.join(format!("{name}-{time}.json"));
    let document =
        Document { format: form.format.to_owned(), version: form.version, sha256: digest(content)?, content };
    let mut bytes = serde_json::to_vec_pretty(&document).context(Kind::Store, "cannot write the rows as JSON")?;
    bytes.push(b'\n');
    let mut output = OutputFile::create(&path, false).map_err(unsaved)?;
    let mut file: &File = output.file();
    file.write_all(&bytes).context(Kind::Store, format!("cannot write {}", path.display())).map_err(unsaved)?;
    // From the rename on, the file is to go again if the change fails, even if the directory cannot be synced.
    let saved = Saved { path, kept: false };
    output.publish().map_err(unsaved)?;
    Ok(saved)
}

impl Saved {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database is changed, or may be: the file stays.
    #[must_use]
    pub fn keep(mut self) -> PathBuf {
        self.kept = true;
        std::mem::take(&mut self.path)
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        if !self.kept {
            // If it cannot be removed, it is of no harm: undoing refuses what has not happened.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn make_dir(dir: &Path, state_dir: &Path) -> Result<()> {
    let failed = || format!("cannot make the directory {}", dir.display());
    match std::fs::create_dir(dir) {
        Ok(()) => File::open(state_dir).and_then(|parent| parent.sync_all()).context(Kind::Store, failed()),
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(cause) => Err(Error::new(Kind::Store, failed()).with("cause", cause)),
    }
}

/// Error about a file that is none of the wanted kind, or is damaged.
pub(super) fn wrong(shown: &Path, what: &str) -> Error {
    Error::new(Kind::Verify, format!("{} {what}", shown.display())).with("state", "nothing was changed")
}

/// Reads a file of this kind.
///
/// # Errors
/// [`Kind::Verify`] if it is anything but a whole one of this kind and version.
pub(super) fn read<C: Serialize + DeserializeOwned>(form: &Form, input: OwnedFd, shown: &Path) -> Result<C> {
    let wrong = |what: &str| wrong(shown, what);
    let mut bytes = Vec::new();
    File::from(input)
        .take(SIZE_LIMIT + 1)
        .read_to_end(&mut bytes)
        .context(Kind::Refused, format!("cannot read {}", shown.display()))
        .map_err(|error| error.with("state", "nothing was changed"))?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(wrong(&format!("is too large for {}", form.called)));
    }
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|cause| wrong("is damaged or no JSON").with("cause", cause))?;
    if value.get("format").and_then(|format| format.as_str()) != Some(form.format) {
        return Err(wrong(&format!("is not {}", form.called)).hint(form.hint));
    }
    let version = value.get("version").cloned().unwrap_or_default();
    if version.as_u64() != Some(form.version) {
        return Err(wrong(&format!("has format version {version}; this program reads version {}", form.version))
            .hint("Use the version of Glovebox that wrote it."));
    }
    let document: Document<C> =
        serde_json::from_value(value).map_err(|cause| wrong("is damaged").with("cause", cause))?;
    if digest(&document.content)? != document.sha256 {
        return Err(wrong("is damaged: its content does not have the checksum that it was written with"));
    }
    Ok(document.content)
}
