//! The extra files of a backup, opened with the caller's own rights: what an administrator configured may be readable
//! by root alone.
//!
//! A configured path may be a link of root, as everything in `/etc` is on NixOS. In a configured directory links are not
//! followed: whoever may write there must not make root read another file for them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::path::{self, Closed};

/// Directories in directories; deeper ones are more likely a mistake.
const DEEPEST: usize = 16;

/// More files than any configuration has, and fewer than the descriptors that a process may hold.
const MOST: usize = 500;

/// Names that are looked at in directories: somebody may have made a tree of them without an end.
const MOST_NAMES: usize = 10_000;

/// A file to be backed up: open, or why it is not.
#[derive(Debug)]
pub struct ExtraFile {
    /// Its absolute path.
    pub path: PathBuf,
    /// Open for reading.
    pub file: Result<OwnedFd, String>,
}

/// Opens every file that is meant, in the order of their paths.
#[must_use]
pub fn open_all(paths: &[PathBuf]) -> Vec<ExtraFile> {
    let mut found = Found::default();
    for path in paths {
        // A FIFO must not make anybody wait.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = path::open(path, flags).map_err(|closed| match closed {
            Closed::Link(..) => Errno::LOOP,
            Closed::System(cause) => cause,
        });
        found.add(path, opened, 0);
    }
    let mut files = found.files;
    files.sort_by(|left, right| left.path.cmp(&right.path));
    files.dedup_by(|left, right| left.path == right.path);
    files
}

/// The files that were found.
#[derive(Default)]
struct Found {
    files: Vec<ExtraFile>,
    /// Names that were looked at in directories.
    names: usize,
    /// There are too many: nothing more is opened.
    is_full: bool,
}

impl Found {
    fn add(&mut self, path: &Path, opened: Result<OwnedFd, Errno>, depth: usize) {
        if self.is_full {
            return;
        }
        if self.files.len() == MOST || self.names > MOST_NAMES {
            self.is_full = true;
            let why = format!("there are more than {MOST} extra files, or {MOST_NAMES} names in their directories");
            return self.files.push(ExtraFile { path: path.to_owned(), file: Err(why) });
        }
        let kind = opened.and_then(|file| Ok((FileType::from_raw_mode(fs::fstat(&file)?.st_mode), file)));
        let file = match kind {
            Ok((FileType::RegularFile, file)) => Ok(file),
            Ok((FileType::Directory, directory)) if depth < DEEPEST => match self.list(path, &directory, depth) {
                Ok(()) => return,
                Err(cause) => Err(cause.to_string()),
            },
            Ok(_) => Err("it is neither a file nor a directory".to_owned()),
            Err(Errno::LOOP) => Err("it is a link: name what it points to in `backup.extra_files`".to_owned()),
            Err(cause) => Err(std::io::Error::from(cause).to_string()),
        };
        self.files.push(ExtraFile { path: path.to_owned(), file });
    }

    fn list(&mut self, path: &Path, directory: &OwnedFd, depth: usize) -> Result<(), std::io::Error> {
        let mut names = Vec::new();
        for entry in Dir::read_from(directory)? {
            let name = entry?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
                self.names += 1;
            }
            if self.names > MOST_NAMES {
                break;
            }
        }
        names.sort();
        for name in names {
            if self.is_full {
                break;
            }
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
            let below = path.join(std::ffi::OsStr::new(&*name.to_string_lossy()));
            self.add(&below, fs::openat(directory.as_fd(), &name, flags, Mode::empty()), depth + 1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_its_files_and_a_link_in_it_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("conf/deep")).unwrap();
        for name in ["conf/b", "conf/deep/a", "single"] {
            std::fs::write(at(name), name).unwrap();
        }
        std::os::unix::fs::symlink(at("single"), at("conf/link")).unwrap();
        std::os::unix::fs::symlink(at("single"), at("named")).unwrap();
        let found = open_all(&[at("conf"), at("named"), at("absent"), at("conf/b")]);
        let told: Vec<(String, bool)> = found
            .iter()
            .map(|file| (file.path.strip_prefix(dir.path()).unwrap().display().to_string(), file.file.is_ok()))
            .collect();
        let expected =
            [("absent", false), ("conf/b", true), ("conf/deep/a", true), ("conf/link", false), ("named", true)];
        assert_eq!(told, expected.map(|(name, is_open)| (name.to_owned(), is_open)));
        assert!(found[3].file.as_ref().unwrap_err().contains("it is a link"));
    }

    #[test]
    fn k18_a_tree_without_an_end_is_given_up_with_a_word() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..MOST + 20 {
            std::fs::write(dir.path().join(format!("{number:04}")), "").unwrap();
        }
        let refused = |found: &[ExtraFile]| {
            let whys = found.iter().filter_map(|file| file.file.as_ref().err());
            whys.filter(|why| why.contains("there are more than")).count()
        };
        let found = open_all(&[dir.path().to_owned()]);
        assert_eq!((found.len(), refused(&found)), (MOST + 1, 1));
        // Directories alone: each has many, down to where nobody looks.
        let dir = tempfile::tempdir().unwrap();
        for number in 0..MOST_NAMES / 100 {
            for below in 0..100 {
                std::fs::create_dir_all(dir.path().join(format!("{number}/{below}"))).unwrap();
            }
        }
        let found = open_all(&[dir.path().to_owned()]);
        assert_eq!((found.len(), refused(&found)), (1, 1));
    }
}
