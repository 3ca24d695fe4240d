//! What an `init` that was killed leaves: directories without a backup, a key without a `config`, or a `config` without a
//! key. Nothing can ever have been stored there, and a second key beside the first would open nothing: so it is cleared
//! away, and made anew.

use std::io;
use std::path::{Path, PathBuf};

use rustic_core::FileType;

/// Everything that a repository consists of.
const PARTS: [&str; 7] = ["config", "keys", "data", "index", "snapshots", "locks", "lost+found"];

/// Whether this directory holds that and nothing else. A repository that is whole, or has ever held anything, never does.
pub(super) fn is_left(root: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(root)? {
        if !PARTS.iter().any(|part| entry.as_ref().is_ok_and(|entry| entry.file_name() == *part)) {
            return Ok(false);
        }
    }
    for kind in [FileType::Pack, FileType::Index, FileType::Snapshot] {
        if !files(&root.join(kind.dirname()))?.is_empty() {
            return Ok(false);
        }
    }
    let has_config = root.join("config").try_exists()?;
    Ok(!has_config || files(&root.join(FileType::Key.dirname()))?.is_empty())
}

/// Clears it away. Only after [`is_left`] has said so.
pub(super) fn clear(root: &Path) -> io::Result<()> {
    let keys = files(&root.join(FileType::Key.dirname()))?;
    for path in keys.into_iter().chain([root.join("config")]) {
        match std::fs::remove_file(path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
    }
    Ok(())
}

/// All files below, however deep.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Fixture, PASSWORD, bytes, settings};
    use super::super::{init, is_absent};
    use super::*;

    #[test]
    fn what_a_killed_init_left_is_made_anew_and_a_repository_never_is() {
        let fixture = Fixture::new();
        assert!(!is_absent(&fixture.settings).unwrap(), "a repository without a backup");
        fixture.backup(vec![bytes("a", "content")], None);
        for lost in ["config", "keys"] {
            let (path, aside) = (fixture.root().join(lost), fixture.root().parent().unwrap().join("aside"));
            std::fs::rename(&path, &aside).unwrap();
            assert!(!is_absent(&fixture.settings).unwrap(), "{lost} was lost, and backups are there");
            std::fs::rename(&aside, &path).unwrap();
        }
        drop(fixture);

        let _alone = super::super::testing::alone();
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path(), PASSWORD);
        let root = directory.path().join("repository");
        for left in ["data/00", "keys", "index", "snapshots"] {
            std::fs::create_dir_all(root.join(left)).unwrap();
        }
        std::fs::write(root.join("keys").join("ab".repeat(32)), "{}").unwrap();
        assert!(is_absent(&settings).unwrap());
        init(&settings, 3).unwrap();
        assert_eq!(files(&root.join("keys")).unwrap().len(), 1, "the key that opens nothing is gone");
        assert!(!is_absent(&settings).unwrap());
        std::fs::write(root.join("photo.jpg"), "x").unwrap();
        std::fs::remove_file(root.join("config")).unwrap();
        assert!(!is_absent(&settings).unwrap(), "somebody's directory");
    }
}
