//! Holds a chunk until it is taken: in memory, or beyond a limit in a temporary file.
//!
//! A chunk has to be whole before it is stored, since its size is written down before its bytes are.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};

/// A chunk of more bytes goes into a file. The usual one of 128 blocks (1 MiB of heap) stays far below it.
pub const MEMORY_LIMIT: usize = 24 << 20;

/// Bytes that are being collected.
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<u8>,
    spilled: Option<File>,
    bytes: u64,
    limit: usize,
    directory: PathBuf,
}

/// Bytes that were collected.
#[derive(Debug)]
pub enum Whole {
    /// In memory.
    Memory(Vec<u8>),
    /// In a file without a name, at its begin.
    File(File),
}

impl Buffer {
    /// An empty one; `directory` is where a temporary file is made if it comes to that.
    #[must_use]
    pub fn new(directory: &Path, limit: usize) -> Self {
        Self { memory: Vec::new(), spilled: None, bytes: 0, limit, directory: directory.to_owned() }
    }

    /// Takes more bytes.
    pub fn push(&mut self, piece: &[u8]) -> Result<()> {
        let written = self.write(piece);
        written.map_err(|cause| {
            let what = format!("cannot write a temporary file in {}", self.directory.display());
            Error::new(Kind::Store, what).with("cause", cause)
        })
    }

    /// So many so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All of them.
    pub fn finish(self) -> Result<Whole> {
        match self.spilled {
            None => Ok(Whole::Memory(self.memory)),
            Some(mut file) => {
                file.rewind().context(Kind::Store, "cannot read a temporary file back")?;
                Ok(Whole::File(file))
            }
        }
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.bytes += piece.len() as u64;
        if let Some(file) = &mut self.spilled {
            return file.write_all(piece);
        }
        if self.memory.len() + piece.len() <= self.limit {
            self.memory.extend_from_slice(piece);
            return Ok(());
        }
        let mut file = tempfile::tempfile_in(&self.directory)?;
        file.write_all(&std::mem::take(&mut self.memory))?;
        file.write_all(piece)?;
        self.spilled = Some(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_too_large_for_memory_comes_back_from_a_file_without_a_name() {
        let directory = tempfile::tempdir().unwrap();
        let mut buffer = Buffer::new(directory.path(), 4);
        for piece in [&b"abc"[..], b"d", b"", b"efg", b"h"] {
            buffer.push(piece).unwrap();
        }
        assert_eq!(buffer.bytes(), 8);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let Whole::File(mut file) = buffer.finish().unwrap() else { panic!("it is in memory") };
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abcdefgh");
        let mut small = Buffer::new(directory.path(), 4);
        small.push(b"abcd").unwrap();
        assert!(matches!(small.finish().unwrap(), Whole::Memory(bytes) if bytes == b"abcd"));
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error_with_its_name() {
        let mut buffer = Buffer::new(Path::new("/nonexistent/spill"), 0);
        let error = buffer.push(b"a").unwrap_err();
        assert_eq!(error.kind(), Kind::Store);
        assert!(error.to_string().contains("/nonexistent/spill"), "{error}");
    }
}
