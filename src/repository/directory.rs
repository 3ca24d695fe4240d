//! The storage library's backend for directories, with a limit to the files that it reads as a whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustic_core::{BytesList, ErrorKind, FileType, ReadBackend, RusticError, RusticResult, WriteBackend};

use super::id::{Id, path_of};
use super::limits::longest;
use crate::bounded;

/// A repository in a directory.
#[derive(Debug)]
pub(super) struct Directory {
    inner: Arc<dyn WriteBackend>,
    root: PathBuf,
}

impl Directory {
    pub(super) fn new(inner: Arc<dyn WriteBackend>, root: &Path) -> Arc<Self> {
        Arc::new(Self { inner, root: root.to_path_buf() })
    }
}

impl ReadBackend for Directory {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(rustic_core::Id, u32)>> {
        self.inner.list_with_size(kind)
    }

    fn read_full(&self, kind: FileType, id: &rustic_core::Id) -> RusticResult<Bytes> {
        let path = path_of(kind, Id::from(id));
        bounded::file(&self.root.join(&path), longest(&path)).map(Into::into).map_err(|cause| {
            RusticError::with_source(ErrorKind::Backend, "cannot read {path}", cause).attach_context("path", path)
        })
    }

    fn read_partial(
        &self,
        kind: FileType,
        id: &rustic_core::Id,
        cacheable: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        self.inner.read_partial(kind, id, cacheable, offset, length)
    }

    fn warmup_path(&self, kind: FileType, id: &rustic_core::Id) -> String {
        self.inner.warmup_path(kind, id)
    }
}

impl WriteBackend for Directory {
    fn create(&self) -> RusticResult<()> {
        self.inner.create()
    }

    fn write_bytes(
        &self,
        kind: FileType,
        id: &rustic_core::Id,
        cacheable: bool,
        content: BytesList,
    ) -> RusticResult<()> {
        self.inner.write_bytes(kind, id, cacheable, content)
    }

    fn remove(&self, kind: FileType, id: &rustic_core::Id, cacheable: bool) -> RusticResult<()> {
        self.inner.remove(kind, id, cacheable)
    }
}

#[cfg(test)]
mod tests {
    use crate::repository::testing::Fixture;
    use crate::repository::{FileType, Id, Kind};

    #[test]
    fn k18_a_file_that_is_longer_than_any_is_damaged() {
        let fixture = Fixture::new();
        let handle = fixture.open();
        let id = Id::of(b"x");
        let path = std::path::Path::new(&fixture.settings.location).join("snapshots").join(id.to_string());
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = handle.vault.raw(FileType::Snapshot, id).unwrap_err();
        assert_eq!(error.kind(), Kind::Verify, "{error}");
        assert!(error.to_string().contains("longer than 16777216 bytes"), "{error}");
    }
}
