//! The extra files of a backup, opened with the caller's own rights: what an administrator configured may be readable
//! by root alone.
//!
//! A configured path may be a link of root, as everything in `/etc` is on NixOS. In a configured directory links are not
//! followed: whoever may write there must not make root read another file for them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::path::{self, Closed};

/// Directories in directories; deeper ones are more likely a mistake.
const DEEPEST: usize = 16;

/// More files than any configuration has, and fewer than the descriptors that a process may hold.
const MOST: usize = 500;

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
    let mut files = Vec::new();
    for path in paths {
        // A FIFO must not make anybody wait.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = path::open(path, flags).map_err(|closed| match closed {
            Closed::Link(..) => Errno::LOOP,
            Closed::System(cause) => cause,
        });
        add(&mut files, path, opened, 0);
    }
    files.sort_by(|left, right| left.path.cmp(&right.path));
    files.dedup_by(|left, right| left.path == right.path);
    files
}

fn add(files: &mut Vec<ExtraFile>, path: &Path, opened: Result<OwnedFd, Errno>, depth: usize) {
    if files.len() == MOST {
        let why = format!("there are more than {MOST} extra files");
        return files.push(ExtraFile { path: path.to_owned(), file: Err(why) });
    }
    let kind = opened.and_then(|file| Ok((FileType::from_raw_mode(fs::fstat(&file)?.st_mode), file)));
    let file = match kind {
        Ok((FileType::RegularFile, file)) => Ok(file),
        Ok((FileType::Directory, directory)) if depth < DEEPEST => match list(files, path, &directory, depth) {
            Ok(()) => return,
            Err(cause) => Err(cause.to_string()),
        },
        Ok(_) => Err("it is neither a file nor a directory".to_owned()),
        Err(Errno::LOOP) => Err("it is a link: name what it points to in `backup.extra_files`".to_owned()),
        Err(cause) => Err(std::io::Error::from(cause).to_string()),
    };
    files.push(ExtraFile { path: path.to_owned(), file });
}

fn list(files: &mut Vec<ExtraFile>, path: &Path, directory: &OwnedFd, depth: usize) -> Result<(), std::io::Error> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        names.push(entry?.file_name().to_owned());
    }
    names.sort();
    for name in names.into_iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let below = path.join(std::ffi::OsStr::new(&*name.to_string_lossy()));
        add(files, &below, fs::openat(directory.as_fd(), &name, flags, Mode::empty()), depth + 1);
    }
    Ok(())
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
}
