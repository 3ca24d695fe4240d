//! Judges a dump before anything is done with it: one pass over all of its bytes.
//!
//! A list of contents is not enough: `pg_restore -l` accepts an archive that was cut, and psql ends with 0 on a dump
//! that was cut within COPY. So archives are unpacked to text as a whole, compressed files to their checksums, and the
//! text is scanned to its end marker.

use std::fs::File;
use std::io::{self, Read};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sha2::{Digest, Sha256};

use super::ahead::{Ended, read_ahead};
use super::contents::Reader;
use super::format::{Compression, decompress};
use super::source::{Body, Source};
use super::text::Flaw;
use super::{Contents, PIECE, hex};
use crate::bounded;
use crate::database::tools::Tools;
use crate::error::{Context, Error, Kind, Result};
use crate::process::on_thread;
use crate::progress::Meter;

const ANOTHER_COPY: &str = "Take another copy of this dump, or an older one: what is missing cannot be made up.";

/// A dump that can be used.
#[derive(Debug)]
pub struct Judgement {
    /// What is in it.
    pub contents: Contents,
    /// SHA-256 of a plain dump's file, to see that the same bytes are loaded later.
    pub sha256: Option<String>,
}

/// Reads all of a dump.
///
/// # Errors
/// [`Kind::Refused`] if it is none that can be used, [`Kind::Verify`] if it was one and is cut or changed.
pub async fn judge(source: &Source, tools: &Tools, meter: &Arc<Meter>) -> Result<Judgement> {
    let state = "the live database was not touched";
    let judged = match &source.body {
        Body::Plain { file, compression } => {
            let file = file.try_clone().context(Kind::Refused, "cannot share a descriptor")?;
            let (compression, counted) = (*compression, meter.clone());
            on_thread(move || plain(file, compression, &counted))
                .await?
                .map(|(contents, sha256)| Judgement { contents, sha256: Some(sha256) })
        }
        Body::Archive(_) => {
            let (stdin, path) = source.for_pg_restore()?;
            let judged = match archive(tools, stdin, path, true, meter).await {
                // psql's \connect, which --create writes, cannot name every database.
                Err(error) if error.detail("cause").is_some_and(|cause| cause.contains("newline")) => {
                    let (stdin, path) = source.for_pg_restore()?;
                    archive(tools, stdin, path, false, meter).await
                }
                judged => judged,
            };
            judged.map(|contents| Judgement { contents, sha256: None })
        }
    };
    judged.map_err(|error| error.with("file", &source.name).with("state", state))
}

fn plain(file: File, compression: Compression, meter: &Meter) -> Result<(Contents, String)> {
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    meter.total.store(size, Ordering::Relaxed);
    let hashing = HashingReader::new(file, Some(meter));
    let mut hash = None;
    let contents = read_text(compression, hashing, &mut hash, |rows| meter.rows.store(rows, Ordering::Relaxed))?;
    Ok((contents, hash.unwrap_or_default()))
}

/// Words of zstd about a frame whose window is larger than its own limit, 2^27 bytes. Source: `zstd_errors.h`,
/// `ZSTD_error_frameParameter_windowTooLarge`.
const WINDOW: &str = "Frame requires too much memory";

fn read_text(
    compression: Compression,
    mut hashing: HashingReader<'_>,
    hash: &mut Option<String>,
    told: impl Fn(u64),
) -> Result<Contents> {
    let broken = |cause: &io::Error| {
        if cause.to_string().contains(WINDOW) {
            return Error::new(Kind::Refused, "the file needs more memory to unpack than is used here: 128 MiB")
                .with("cause", cause)
                .hint("It was made with `zstd --long`: zstd -dc --long=31 FILE | teslamate-restore --yes -");
        }
        Error::new(Kind::Verify, "the file is cut or changed: it cannot be unpacked to its end")
            .with("cause", cause)
            .hint(ANOTHER_COPY)
    };
    let mut reader = Reader::default();
    {
        let text = decompress(compression, &mut hashing).map_err(|cause| broken(&cause))?;
        read_ahead(text, |piece| {
            reader.feed(piece).map_err(|flaw| unusable(&flaw, "the dump"))?;
            told(reader.rows());
            Ok(())
        })
        .map_err(|ended| match ended {
            Ended::Unreadable(cause) => broken(&cause),
            Ended::Failed(error) => error,
        })?;
    }
    *hash = Some(hashing.finish().map_err(|cause| broken(&cause))?);
    reader.finish().map_err(|flaw| unusable(&flaw, "the dump"))
}

/// Reads from a file's begin, whatever its offset, and hashes all of it.
pub(crate) struct HashingReader<'a> {
    file: File,
    at: u64,
    hash: Sha256,
    meter: Option<&'a Meter>,
}

impl<'a> HashingReader<'a> {
    pub(crate) fn new(file: File, meter: Option<&'a Meter>) -> Self {
        Self { file, at: 0, hash: Sha256::new(), meter }
    }

    /// Reads what the decompressor left, so that the hash is that of the whole file.
    pub(crate) fn finish(mut self) -> io::Result<String> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(hex(self.hash))
    }
}

impl Read for HashingReader<'_> {
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let length = std::os::unix::fs::FileExt::read_at(&self.file, piece, self.at)?;
        self.hash.update(&piece[..length]);
        self.at += length as u64;
        if let Some(meter) = self.meter {
            meter.add(length as u64);
        }
        Ok(length)
    }
}

/// Unpacks an archive to text with `pg_restore` and reads that. `path` is `-` for standard input. With `create`, what the
/// archive says of the database itself is in the text too.
pub(crate) async fn archive(
    tools: &Tools,
    stdin: Stdio,
    path: &str,
    create: bool,
    meter: &Arc<Meter>,
) -> Result<Contents> {
    let mut command = crate::process::command(&tools.path("pg_restore"));
    command.args(["--file=-"]);
    if create {
        command.arg("--create");
    }
    if path != "-" {
        command.arg(path);
    }
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(Kind::Refused, "cannot run pg_restore")?;
    let stdout = child.stdout.take().map(tokio::process::ChildStdout::into_owned_fd).transpose();
    let pipe = File::from(stdout.ok().flatten().ok_or_else(|| Error::new(Kind::Refused, "cannot run pg_restore"))?);
    let counted = meter.clone();
    let read = on_thread(move || read_pipe(pipe, &counted));
    let (read, output) = tokio::join!(read, bounded::shown(child));
    let output = output.context(Kind::Refused, "cannot wait for pg_restore")?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(explain_pg_restore(&words, tools));
    }
    read?
}

fn read_pipe(mut pipe: File, meter: &Meter) -> Result<Contents> {
    let mut reader = Reader::default();
    let mut piece = vec![0; PIECE];
    loop {
        match pipe.read(&mut piece) {
            Ok(0) => return reader.finish().map_err(|flaw| unusable(&flaw, "the archive")),
            Ok(length) => {
                reader.feed(&piece[..length]).map_err(|flaw| unusable(&flaw, "the archive"))?;
                meter.add(length as u64);
                meter.rows.store(reader.rows(), Ordering::Relaxed);
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause).context(Kind::Verify, "cannot read from pg_restore"),
        }
    }
}

/// Why `pg_restore` failed, by its words.
pub(crate) fn explain_pg_restore(words: &str, tools: &Tools) -> Error {
    if words.contains("unsupported version") {
        let version = crate::database::version_text(tools.version);
        return Error::new(Kind::Refused, "the archive was written by a newer pg_dump")
            .with("cause", words)
            .with("tool", format!("pg_restore {version}"))
            .hint("Set `database.tools` to the directory of a newer pg_restore.");
    }
    if words.contains("not built with") || words.contains("does not support compression") {
        return Error::new(Kind::Refused, "this pg_restore cannot unpack the archive")
            .with("cause", words)
            .hint("Set `database.tools` to a pg_restore with that compression.");
    }
    if words.contains("does not appear to be a valid archive") {
        return Error::new(Kind::Refused, "the directory or file is no archive of pg_dump").with("cause", words);
    }
    Error::new(Kind::Verify, "the archive is cut or changed: pg_restore cannot unpack it to its end")
        .with("cause", words)
}

/// A flaw in a text as a failure.
pub(crate) fn unusable(flaw: &Flaw, what: &str) -> Error {
    let kind = if flaw.damaged { Kind::Verify } else { Kind::Refused };
    let error = Error::new(kind, format!("{what} cannot be used: line {} {}", flaw.line, flaw.what));
    if flaw.damaged {
        return error.hint(ANOTHER_COPY);
    }
    if flaw.what.contains("pg_dumpall") {
        return error
            .hint(
                "Take the one database out of it: awk '/^-- Database \"/{p=/\"teslamate\" dump/} p' FILE > teslamate.sql; before \
                 it, zcat FILE | if it is compressed.",
            )
            .hint("Next time, dump it alone with pg_dump.");
    }
    if flaw.what.contains("UTF-16") || flaw.what.contains("not UTF-8") {
        return error.hint("Make the dump again on a Unix shell, or with pg_dump's own --file.");
    }
    error
}
