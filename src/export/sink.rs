//! The way out of a dump's text: scanned, compressed, hashed, written.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::dump::Contents;
use crate::dump::contents::Reader;
use crate::dump::format::{Compression, Compressor};
use crate::dump::judge::unusable;
use crate::dump::pg_dump::write_failed;
use crate::dump::text::Flaw;
use crate::dump::write::{Hashing, Target};
use crate::error::{Error, Kind, Result};
use crate::progress::Meter;

/// Takes the text of a dump in pieces, and judges it on the way as a restore will.
pub(super) struct Sink {
    reader: Reader,
    out: Compressor<Hashing<Box<dyn Write + Send>>>,
    /// Counts the rows of the text.
    pub(super) meter: Arc<Meter>,
    /// The word that `\restrict` was given, which `\unrestrict` takes back at the end.
    pub(super) token: Option<String>,
}

impl Sink {
    pub(super) fn new(target: Target, compression: Compression, level: u32, meter: Arc<Meter>) -> Result<Self> {
        let out = Compressor::new(compression, level, Hashing::new(target.writer()));
        let out = out.map_err(|cause| write_failed(&cause))?;
        Ok(Self { reader: Reader::default(), out, meter, token: None })
    }

    /// Writes a piece, cut anywhere.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.reader.feed(bytes).map_err(|flaw| flawed(&flaw))?;
        self.out.write_all(bytes).map_err(|cause| write_failed(&cause))?;
        self.meter.rows.store(self.reader.rows(), Ordering::Relaxed);
        Ok(())
    }

    /// Writes the end of a dump, and looks whether it is a whole one. Gives the bytes that were written, their SHA-256
    /// and what is in the dump.
    pub(super) fn finish(mut self) -> Result<(u64, String, Contents)> {
        let marker = b"--\n-- PostgreSQL database dump complete\n--\n\n";
        self.write(marker)?;
        if let Some(token) = self.token.take() {
            self.write(format!("\\unrestrict {token}\n\n").as_bytes())?;
        }
        let contents = self.reader.finish().map_err(|flaw| flawed(&flaw))?;
        let (bytes, sha256) = self.out.finish().map_err(|cause| write_failed(&cause))?.finish();
        Ok((bytes, sha256, contents))
    }
}

fn flawed(flaw: &Flaw) -> Error {
    unusable(flaw, "what is in the backup makes a dump that").escalate(Kind::Verify)
}
