//! The extra files of a backup: `files/` and their path, with mode and owner.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use chrono::{DateTime, Utc};
use nix::unistd::{Gid, Group, Uid, User};

use crate::error::{Context, Error, Kind, Result};
use crate::host::extra::ExtraFile as Found;
use crate::repository::feed::Owner;
use crate::tables::surroundings::ExtraFile;

/// A larger file is not a configuration.
const LARGEST: u64 = 64 << 20;

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Extra {
    /// For the manifest.
    pub entry: ExtraFile,
    /// Where it is in the backup.
    pub stored_as: String,
    /// When it was changed.
    pub changed: DateTime<Utc>,
    /// What was in it.
    pub bytes: Vec<u8>,
}

impl Extra {
    /// Its owner, for the repository.
    #[must_use]
    pub fn owner(&self) -> Owner {
        let ExtraFile { uid, gid, user, group, .. } = self.entry.clone();
        Owner { uid, gid, user, group }
    }
}

/// Reads all of them, in the order in which they are stored.
///
/// # Errors
/// [`Kind::Refused`] naming every one that cannot be read: a backup without them would not be what was configured.
pub fn read_all(found: Vec<Found>) -> Result<Vec<Extra>> {
    let mut faults = Vec::new();
    let mut files = Vec::new();
    for Found { path, file } in found {
        let read = file
            .map_err(|why| Error::new(Kind::Refused, why))
            .and_then(|file| read(&path.display().to_string(), file.into()));
        match read {
            Ok(extra) => files.push(extra),
            Err(error) => {
                let cause = error.detail("cause").map(|cause| format!(": {cause}")).unwrap_or_default();
                faults.push(format!("{}: {}{cause}", path.display(), error.message()));
            }
        }
    }
    if !faults.is_empty() {
        return Err(Error::new(Kind::Refused, "not all of `backup.extra_files` can be read")
            .with("files", faults.join("\n"))
            .hint("Give this account the right to read them, or take them out of the setting."));
    }
    files.sort_by(|left, right| left.stored_as.split('/').cmp(right.stored_as.split('/')));
    Ok(files)
}

fn read(path: &str, mut file: File) -> Result<Extra> {
    let failed = "cannot read it";
    let metadata = file.metadata().context(Kind::Refused, failed)?;
    if metadata.len() > LARGEST {
        return Err(Error::new(Kind::Refused, format!("it has {} bytes, more than {LARGEST}", metadata.len())));
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    (&mut file).take(LARGEST).read_to_end(&mut bytes).context(Kind::Refused, failed)?;
    let stored_as = format!("files/{}", path.trim_start_matches('/'));
    if path.contains('\u{fffd}') || stored_as.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Error::new(Kind::Refused, "its path is not plain"));
    }
    let entry = ExtraFile {
        path: path.to_owned(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        user: User::from_uid(Uid::from_raw(metadata.uid())).ok().flatten().map(|user| user.name),
        group: Group::from_gid(Gid::from_raw(metadata.gid())).ok().flatten().map(|group| group.name),
        bytes: bytes.len() as u64,
    };
    let changed = DateTime::from_timestamp(metadata.mtime(), 0).unwrap_or(DateTime::UNIX_EPOCH);
    Ok(Extra { entry, stored_as, changed, bytes })
}
