//! Where temporary files go: into the state directory, or somewhere else where that is read-only or full, since going
//! back must be possible on a machine in a bad state.

use std::path::{Path, PathBuf};

/// Less than this, and a temporary file may not fit.
const ENOUGH: u64 = 32 << 20;

/// The state directory, unless nothing can be written into it and another directory is better.
#[must_use]
pub fn directory(state_dir: &Path) -> PathBuf {
    if room(state_dir) >= ENOUGH {
        return state_dir.to_owned();
    }
    let others = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from("/dev/shm")];
    let best = others.into_iter().max_by_key(|path| room(path)).filter(|path| room(path) > room(state_dir));
    best.unwrap_or_else(|| state_dir.to_owned())
}

/// Bytes that a new file in a directory may have; none if there can be no file.
fn room(path: &Path) -> u64 {
    if tempfile::tempfile_in(path).is_err() {
        return 0;
    }
    rustix::fs::statvfs(path).map_or(0, |system| system.f_bavail.saturating_mul(system.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k14_temporary_files_go_elsewhere_where_the_state_directory_takes_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(directory(dir.path()), dir.path());
        assert_ne!(directory(&dir.path().join("missing")), dir.path().join("missing"));
    }
}
