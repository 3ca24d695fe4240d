//! A dump to restore: a file, a directory or standard input, told apart by content.
//!
//! What was opened is what is judged and what is loaded: nothing is opened again by its path. `pg_restore` gets it as
//! its standard input, under the name `/dev/stdin`, which each of its parallel jobs can open for itself. Where that is
//! not allowed (a file that only root can read), or not possible (a pipe), the bytes are first copied into the state
//! directory.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{self, FileType, Mode, OFlags};

use super::Format;
use super::format::{self, Compression};
use crate::error::{Context, Error, Kind, Result};
use crate::host::Opened;
use crate::process::{self, on_thread};

/// A dump, open.
#[derive(Debug)]
pub struct Source {
    /// As the user named it, for messages.
    pub name: String,
    /// What it is.
    pub format: Format,
    /// Its bytes.
    pub body: Body,
    /// Remarks for the user.
    pub warnings: Vec<String>,
}

/// The bytes of a dump.
#[derive(Debug)]
pub enum Body {
    /// Text, compressed or not.
    Plain {
        /// The file.
        file: File,
        /// How it is compressed.
        compression: Compression,
    },
    /// For `pg_restore`: a file or a directory that it can open through its standard input.
    Archive(Archive),
}

/// An archive, and the copy of it if there had to be one.
#[derive(Debug)]
pub struct Archive {
    descriptor: OwnedFd,
    _copy: Option<CopiedDirectory>,
}

/// A copy of a directory that goes with this value.
#[derive(Debug)]
struct CopiedDirectory(PathBuf);

impl Drop for CopiedDirectory {
    fn drop(&mut self) {
        // What cannot be removed now is found by `sweep`.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Begins the names of copied directories in the state directory.
const COPY_PREFIX: &str = "archive-copy-";

impl Source {
    /// Takes what was opened for the command line's SOURCE.
    pub async fn take(name: &str, opened: Opened, state_dir: &Path) -> Result<Self> {
        let state_dir = state_dir.to_owned();
        let shown = if name == "-" { "standard input".to_owned() } else { name.to_owned() };
        on_thread(move || take(&shown, opened, &state_dir)).await?
    }

    /// An archive of our own making: this open file.
    #[must_use]
    pub fn of_archive(name: &str, file: File) -> Self {
        let archive = Archive { descriptor: file.into(), _copy: None };
        let (format, body) = (Format::Custom, Body::Archive(archive));
        Self { name: name.to_owned(), format, body, warnings: Vec::new() }
    }

    /// The standard input and the path that make `pg_restore` read an archive.
    pub fn for_pg_restore(&self) -> Result<(Stdio, &'static str)> {
        let Body::Archive(archive) = &self.body else {
            return Err(Error::new(Kind::Usage, format!("{} is SQL text, no archive", self.name)));
        };
        let descriptor = archive.descriptor.try_clone().context(Kind::Refused, "cannot share a descriptor")?;
        Ok((Stdio::from(descriptor), "/dev/stdin"))
    }
}

fn take(name: &str, opened: Opened, state_dir: &Path) -> Result<Source> {
    sweep(state_dir);
    let refused = |what: &str| {
        Error::new(Kind::Refused, format!("{name} {what}"))
            .with("state", "the live database was not touched")
            .hint("Name a dump file (.sql, .sql.gz, .sql.zst, .dump), or the directory that pg_dump -Fd made.")
    };
    let input = opened.input.ok_or_else(|| refused("was not opened"))?;
    let kind = FileType::from_raw_mode(fs::fstat(&input).context(Kind::Refused, "cannot look at the input")?.st_mode);
    if kind == FileType::Directory {
        if !opened.members.iter().any(|(name, _)| name == "toc.dat") {
            return Err(refused("is a directory, and not one that pg_dump -Fd made: it has no toc.dat"));
        }
        let archive = directory(input, opened.members, state_dir)?;
        return Ok(Source {
            name: name.to_owned(),
            format: Format::Directory,
            body: Body::Archive(archive),
            warnings: Vec::new(),
        });
    }
    let file =
        if kind == FileType::RegularFile { File::from(input) } else { spool(&mut File::from(input), state_dir)? };
    let head = format::head(&file).context(Kind::Refused, format!("cannot read {name}"))?;
    if head.is_empty() {
        return Err(refused("is empty: 0 bytes"));
    }
    if let Some(program) = format::unpacked_by(&head) {
        return Err(Error::new(Kind::Refused, format!("{name} is compressed in a way that is not read here"))
            .with("state", "the live database was not touched")
            .hint(format!("Unpack it on the way: {program} FILE | teslamate-restore --yes -")));
    }
    let format = Format::of_content(&head);
    let mut warnings = Vec::new();
    let body = match format {
        Format::Plain(compression) => {
            if compression == Compression::Zstd && !format::has_checksum(&head) {
                warnings.push(format!("{name} carries no checksum: a changed bit in a value could not be seen"));
            }
            Body::Plain { file, compression }
        }
        Format::Custom | Format::Tar | Format::Directory => {
            let file = if can_open_again(&file, "") {
                file
            } else {
                spool(&mut file.try_clone().context(Kind::Refused, "cannot share a descriptor")?, state_dir)?
            };
            Body::Archive(Archive { descriptor: file.into(), _copy: None })
        }
    };
    Ok(Source { name: name.to_owned(), format, body, warnings })
}

/// Whether a child of this process could open it through its standard input.
fn can_open_again(descriptor: &impl AsRawFd, member: &str) -> bool {
    File::open(format!("/proc/self/fd/{}{member}", descriptor.as_raw_fd())).is_ok()
}

fn directory(input: OwnedFd, members: Vec<(String, OwnedFd)>, state_dir: &Path) -> Result<Archive> {
    if members.iter().all(|(name, _)| can_open_again(&input, &format!("/{name}"))) {
        return Ok(Archive { descriptor: input, _copy: None });
    }
    let failed = || format!("cannot copy the archive into {}", state_dir.display());
    let path = state_dir.join(format!("{COPY_PREFIX}{}", std::process::id()));
    std::fs::create_dir(&path).context(Kind::Store, failed())?;
    let copy = CopiedDirectory(path);
    for (name, member) in members {
        let mut target = File::create_new(copy.0.join(name)).context(Kind::Store, failed())?;
        io::copy(&mut File::from(member), &mut target).context(Kind::Store, failed())?;
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let descriptor = fs::open(&copy.0, flags, Mode::empty()).context(Kind::Store, failed())?;
    Ok(Archive { descriptor, _copy: Some(copy) })
}

/// Copies a stream into a file without a name: the kernel removes it with the last descriptor, however we end.
fn spool(source: &mut File, state_dir: &Path) -> Result<File> {
    let failed = || format!("cannot copy the input into {}", state_dir.display());
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let made = fs::open(state_dir, flags, Mode::RUSR | Mode::WUSR);
    let mut file = File::from(made.context(Kind::Store, failed()).map_err(|error| {
        error.hint("A pipe is copied there first, to be judged before it is loaded; set `state_dir`.")
    })?);
    io::copy(source, &mut file)
        .context(Kind::Store, failed())
        .map_err(|error| error.with("state", "the live database was not touched"))?;
    file.flush().and_then(|()| file.rewind()).context(Kind::Store, failed())?;
    Ok(file)
}

/// Removes copies whose process is gone.
fn sweep(state_dir: &Path) {
    for entry in std::fs::read_dir(state_dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(COPY_PREFIX)) else { continue };
        if pid.parse::<u32>().is_ok_and(|pid| pid != std::process::id() && process::is_gone(pid)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
