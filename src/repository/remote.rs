//! A repository that is no directory of this machine: files by path, behind a network.
//!
//! The storage library's own backends for such places are not used. They leave out what a listing could not read, take
//! any refusal of `config` for "there is no repository", and wait without a limit. Here there is one interface, with
//! the operating system's words for what went wrong: only [`ErrorKind::NotFound`] means that something is not there.
//! Who implements it is in `network`, which a build may leave out.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use rustic_core::{BytesList, FileType, ReadBackend, RusticError, RusticResult, WriteBackend};

use super::id::{Id, path_of};
use super::location::Location;
use super::mistake::Mistake;
use crate::error::{Error, Kind, Result};
use crate::settings;

/// How often a listing is asked for until two in a row agree.
const LISTINGS: usize = 4;

/// A place with files. Paths are those of restic's layout: `config`, `keys/…`, `data/ab/ab…`.
///
/// Every call blocks until it is done, or has failed for good: trying again is its own business.
pub(super) trait Remote: Send + Sync {
    /// Names and sizes in bytes of the files in a directory; those of `data` lie one directory deeper.
    fn list(&self, directory: &str) -> io::Result<Vec<(String, u64)>>;

    /// A file, or as many bytes of it (offset, length): never fewer.
    fn read(&self, path: &str, part: Option<(u32, u32)>) -> io::Result<Bytes>;

    /// Puts a file there: as a whole, or not at all under this name.
    fn write(&self, path: &str, content: Bytes) -> io::Result<()>;

    fn remove(&self, path: &str) -> io::Result<()>;

    fn modified(&self, path: &str) -> io::Result<SystemTime>;

    /// Makes the directories of a new repository, where the place has such.
    fn create(&self) -> io::Result<()>;

    /// Removes what writes left that did not end before this time, and names it.
    fn sweep(&self, before: SystemTime) -> io::Result<Vec<String>>;
}

/// Reaches the place of a repository.
///
/// # Errors
/// [`Kind::Usage`] for a location, an option or credentials that make no sense; [`Kind::Refused`] if this build has no
/// network backends. Nothing is asked of the other side yet.
#[cfg(feature = "network")]
pub(super) fn reach(settings: &settings::Repository) -> Result<Arc<dyn Remote>> {
    super::network::reach(settings)
}

#[cfg(not(feature = "network"))]
pub(super) fn reach(settings: &settings::Repository) -> Result<Arc<dyn Remote>> {
    Err(Error::new(Kind::Refused, "this build has no network backends")
        .with("location", Location::parse(&settings.location)?)
        .with("state", "nothing was touched")
        .hint("Set `repository.location` to a directory, or take a build with the feature `network`."))
}

/// What is wrong with location and options, as far as that can be told without a look at anything else.
#[cfg(feature = "network")]
pub(super) fn mistakes(settings: &settings::Repository) -> Vec<Mistake> {
    super::network::mistakes(settings)
}

#[cfg(not(feature = "network"))]
pub(super) fn mistakes(settings: &settings::Repository) -> Vec<Mistake> {
    reach(settings).err().map(Mistake::in_location).into_iter().collect()
}

/// What failed at a place: what it refuses is not the same as what cannot be reached now.
pub(super) fn failed(location: &Location, cause: &io::Error) -> Error {
    let error = match cause.kind() {
        ErrorKind::PermissionDenied => {
            Error::new(Kind::Refused, format!("cannot read the repository at {location}: access is denied"))
                .hint("Look at its credentials: `repository.environment_file`, `repository.options`.")
        }
        ErrorKind::InvalidInput => Error::new(Kind::Refused, format!("cannot use the repository at {location}")),
        _ => Error::new(Kind::Store, format!("cannot reach the repository at {location}"))
            .hint("Look at the network and the server; when they are well again, the same command goes on."),
    };
    error.with("cause", cause).with("state", "nothing was touched")
}

/// Says why there is no repository to open: `config` is read, never guessed from an answer.
pub(super) fn probe(remote: &dyn Remote, location: &Location) -> Result<()> {
    match remote.read("config", None) {
        Ok(_) => Ok(()),
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            Err(Error::new(Kind::Refused, format!("no repository at {location}"))
                .with("cause", "it has no file `config`")
                .with("state", "nothing was touched")
                .hint("If it was there before, look at the location; if not, make it with `teslamate-backup init`."))
        }
        Err(cause) => Err(failed(location, &cause)),
    }
}

/// The first file that lies there, if any does.
///
/// # Errors
/// As [`failed`]: anything but a clear "not found".
pub(super) fn anything(remote: &dyn Remote, location: &Location) -> Result<Option<String>> {
    match remote.read("config", None) {
        Ok(_) => return Ok(Some("config".to_owned())),
        Err(cause) if cause.kind() == ErrorKind::NotFound => {}
        Err(cause) => return Err(failed(location, &cause)),
    }
    for kind in [FileType::Key, FileType::Snapshot, FileType::Index, FileType::Pack] {
        match remote.list(kind.dirname()) {
            Ok(found) => {
                if let Some((name, _)) = found.first() {
                    return Ok(Some(format!("{}/{name}", kind.dirname())));
                }
            }
            Err(cause) if cause.kind() == ErrorKind::NotFound => {}
            Err(cause) => return Err(failed(location, &cause)),
        }
    }
    Ok(None)
}

/// All files of a kind. The place is asked until two answers in a row agree: one that was cut short would make packs
/// look unused. Names that are no ids are passed over.
pub(super) fn list(remote: &dyn Remote, kind: FileType) -> io::Result<Vec<(rustic_core::Id, u32)>> {
    let ask = || {
        let named = remote.list(kind.dirname())?.into_iter();
        // A file that no repository can hold is damaged: it must be seen, not left out.
        let sized = |(name, size): (String, u64)| Some((name.parse().ok()?, u32::try_from(size).unwrap_or(u32::MAX)));
        io::Result::Ok(named.filter_map(sized).collect::<BTreeSet<(Id, u32)>>())
    };
    let mut before = ask()?;
    for _ in 1..LISTINGS {
        let again = ask()?;
        if again == before {
            return Ok(again.into_iter().map(|(id, size)| (id.rustic(), size)).collect());
        }
        before = again;
    }
    Err(io::Error::other(format!("the list of {} is another one each time", kind.dirname())))
}

/// The place as the storage library wants it.
pub(super) struct Files {
    remote: Arc<dyn Remote>,
    location: Location,
}

impl Files {
    pub(super) fn new(remote: Arc<dyn Remote>, location: &Location) -> Self {
        Self { remote, location: location.clone() }
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Files").field("location", &self.location).finish_non_exhaustive()
    }
}

fn backend_error(what: &'static str, path: &str, cause: io::Error) -> Box<RusticError> {
    RusticError::with_source(rustic_core::ErrorKind::Backend, what, cause).attach_context("path", path.to_owned())
}

impl ReadBackend for Files {
    fn location(&self) -> String {
        self.location.to_string()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(rustic_core::Id, u32)>> {
        if kind != FileType::Config {
            return list(&*self.remote, kind)
                .map_err(|cause| backend_error("cannot list {path}", kind.dirname(), cause));
        }
        match self.read_full(kind, &rustic_core::Id::default()) {
            Ok(bytes) => Ok(vec![(rustic_core::Id::default(), u32::try_from(bytes.len()).unwrap_or(u32::MAX))]),
            Err(error) if super::guard::io_kind(&error) == Some(ErrorKind::NotFound) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn read_full(&self, kind: FileType, id: &rustic_core::Id) -> RusticResult<Bytes> {
        let path = path_of(kind, Id::from(id));
        self.remote.read(&path, None).map_err(|cause| backend_error("cannot read {path}", &path, cause))
    }

    fn read_partial(
        &self,
        kind: FileType,
        id: &rustic_core::Id,
        _cacheable: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        let path = path_of(kind, Id::from(id));
        let part = Some((offset, length));
        self.remote.read(&path, part).map_err(|cause| backend_error("cannot read {path}", &path, cause))
    }

    fn warmup_path(&self, kind: FileType, id: &rustic_core::Id) -> String {
        path_of(kind, Id::from(id))
    }
}

impl WriteBackend for Files {
    fn create(&self) -> RusticResult<()> {
        self.remote.create().map_err(|cause| backend_error("cannot make the directories of {path}", "data", cause))
    }

    fn write_bytes(
        &self,
        kind: FileType,
        id: &rustic_core::Id,
        _cacheable: bool,
        content: BytesList,
    ) -> RusticResult<()> {
        let path = path_of(kind, Id::from(id));
        let bytes = match <[Bytes; 1]>::try_from(content.into_vec()) {
            Ok([whole]) => whole,
            Err(parts) => parts.concat().into(),
        };
        self.remote.write(&path, bytes).map_err(|cause| backend_error("cannot write {path}", &path, cause))
    }

    fn remove(&self, kind: FileType, id: &rustic_core::Id, _cacheable: bool) -> RusticResult<()> {
        let path = path_of(kind, Id::from(id));
        self.remote.remove(&path).map_err(|cause| backend_error("cannot remove {path}", &path, cause))
    }
}
