//! A backup out of the repository as one plain SQL dump, without a server.
//!
//! The dump is what `pg_dump` would have written at the moment of the backup, and is loaded as such: by psql, or by
//! `teslamate-restore`. `pg_restore` turns the backup's archive into text, section by section, and needs no server for
//! that (`section.rs`); between what comes before the rows and what comes after them stands one COPY for each table
//! (`rows.rs`). All of it passes one scanner on its way out (`sink.rs`), and in the end the rows that it saw are compared
//! with the manifest.
//!
//! COPY has no FREEZE: that needs the table to be made in the same transaction, and whoever loads the dump chooses whether
//! it is. Tables without rows have a COPY too: an empty table can be told from one that was left out. Values of sequences,
//! large objects and the rows of extensions' configuration tables come with `pg_restore`, and materialized views are
//! filled again by what it writes after the rows. The extra files of a backup are no part of a dump; they are named.

mod rows;
mod section;
mod sink;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Seek;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::bounded;
use crate::database::tools::Tools;
use crate::dump::contents::TableName;
use crate::dump::format::Compression;
use crate::dump::judge::explain_pg_restore;
use crate::dump::write::{Target, Written};
use crate::dump::{Contents, Format};
use crate::error::{Context, Error, Kind, Result};
use crate::process::{self, on_thread};
use crate::progress::Meter;
use crate::repository::{Handle, Id, read};
use crate::tables::definitions;
use crate::tables::manifest::{self, Manifest};
use section::Place;
use sink::Sink;

/// What is true after a failure.
pub const NOTHING_LEFT: &str = "no file was left, the repository was only read";

/// What an export works with.
pub struct Exporter<'a> {
    /// Where the backup is.
    pub repository: &'a Handle,
    /// `database.tools`.
    pub tools: Option<&'a Path>,
    /// zstd level.
    pub level: u32,
    /// Where the archive of definitions waits for `pg_restore`, with the large objects that are in it: a directory.
    pub temporary: &'a Path,
}

/// A backup that was written out.
#[derive(Debug)]
pub struct Exported {
    /// The dump.
    pub written: Written,
    /// What the backup says of itself.
    pub manifest: Manifest,
    /// Files of the backup that are no part of the dump, by path.
    pub left_out: Vec<String>,
}

/// How a dump in this format is compressed, if a backup can be written in it.
///
/// # Errors
/// [`Kind::Usage`] if it is an archive: only `pg_dump` makes one, from a server.
pub fn compression(format: Format) -> Result<Compression> {
    match format {
        Format::Plain(compression) => Ok(compression),
        Format::Custom | Format::Directory | Format::Tar => {
            let what = format!("a backup cannot be written in the {} format without a server", format.word());
            Err(Error::new(Kind::Usage, what)
                .with("state", "nothing was read, nothing was written")
                .hint("Name a file that ends in .sql, .sql.gz or .sql.zst."))
        }
    }
}

impl Exporter<'_> {
    /// Writes the backup `id`, which must be a published one. The target's content is only worth something if this
    /// returns `Ok`: its text was scanned to its end marker then, and has the rows of every table that the manifest says.
    ///
    /// `meter` counts the bytes of the chunks, and the rows of the text.
    ///
    /// # Errors
    /// [`Kind::Usage`] as [`compression`]; [`Kind::Refused`] if there is no such backup, no `pg_restore` for it, or no
    /// known encoding; [`Kind::Verify`] if something in it is not as its manifest says; [`Kind::Store`] if the repository
    /// cannot be read or the target not written.
    pub async fn write(&self, id: Id, format: Format, target: Target, meter: &Arc<Meter>) -> Result<Exported> {
        let written = Box::pin(self.exported(id, format, target, meter)).await;
        written.map_err(|error| error.with("backup", id.short()).with("state", NOTHING_LEFT))
    }

    async fn exported(&self, id: Id, format: Format, target: Target, meter: &Arc<Meter>) -> Result<Exported> {
        let started = Instant::now();
        let compression = compression(format)?;
        let (handle, temporary) = (self.repository.clone(), self.temporary.to_owned());
        let backup = on_thread(move || Backup::open(&handle, id, &temporary)).await??;
        let tools = Tools::find_reader(self.tools, backup.manifest.facts.server_version).await?;
        meter.total.store(backup.manifest.bytes(), Ordering::Relaxed);

        let sink = Sink::new(target, compression, self.level, meter.clone())?;
        meter.now("definitions");
        let sink = backup.section(&tools, Place::BeforeRows, sink).await?;
        let (sink, backup) = on_thread(move || rows::write(&backup, sink).map(|sink| (sink, backup))).await??;
        meter.now("indexes and constraints");
        let sink = backup.section(&tools, Place::AfterRows, sink).await?;
        let (bytes, sha256, contents) = on_thread(move || sink.finish()).await??;
        as_described(&contents, &backup.manifest)?;
        let written = Written { bytes, sha256, contents, duration: started.elapsed() };
        Ok(Exported { written, manifest: backup.manifest, left_out: backup.left_out })
    }
}

/// A backup, open.
struct Backup {
    contents: read::Contents,
    manifest: Manifest,
    definitions: File,
    left_out: Vec<String>,
}

impl Backup {
    fn open(handle: &Handle, id: Id, temporary: &Path) -> Result<Self> {
        let contents = read::open(handle, id)?;
        contents.blobs_present()?;
        let manifest = Manifest::parse(&contents.read(manifest::PATH, manifest::LIMIT)?)?;
        if manifest.facts.database["encoding"] == "SQL_ASCII" {
            return Err(Error::new(
                Kind::Refused,
                "the encoding of the database in the backup is not known (SQL_ASCII)",
            )
            .hint("RESTORE.md in the backup says how to restore it with restic, pg_restore and psql."));
        }
        let left_out = compare(&contents, &manifest)?;
        let definitions = contents.extract(definitions::PATH, temporary)?;
        Ok(Self { contents, manifest, definitions, left_out })
    }

    /// One part of what `pg_restore` makes of the definitions.
    async fn section(&self, tools: &Tools, place: Place, sink: Sink) -> Result<Sink> {
        let failed = "cannot read a temporary file back";
        let mut archive = self.definitions.try_clone().context(Kind::Store, failed)?;
        archive.rewind().context(Kind::Store, failed)?;
        let mut child = process::command(&tools.path("pg_restore"))
            .arg("--file=-")
            .args(place.sections())
            .stdin(Stdio::from(archive))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context(Kind::Refused, "cannot run pg_restore")?;
        let stdout = child.stdout.take().map(tokio::process::ChildStdout::into_owned_fd).transpose().ok().flatten();
        let pipe = File::from(stdout.ok_or_else(|| Error::new(Kind::Refused, "cannot run pg_restore"))?);
        let copying = on_thread(move || section::copy(place, pipe, sink));
        let (copied, output) = tokio::join!(copying, bounded::shown(child));
        let output = output.context(Kind::Refused, "cannot wait for pg_restore")?;
        match copied? {
            // Where the target took no more, pg_restore only complains about its broken pipe.
            Err(error) if error.kind() == Kind::Store => Err(error),
            _ if !output.status.success() => {
                let words = String::from_utf8_lossy(&output.stderr);
                Err(explain_pg_restore(&words, tools).with("archive", format!("{} in the backup", definitions::PATH)))
            }
            copied => copied,
        }
    }
}

/// Whether the files with rows are exactly those of the manifest. Gives those that are no part of a dump.
fn compare(contents: &read::Contents, manifest: &Manifest) -> Result<Vec<String>> {
    let wrong = |what: String| Err(Error::new(Kind::Verify, what));
    let mut files: std::collections::BTreeMap<String, u64> =
        contents.files().map(|file| (file.path, file.size)).collect();
    for table in &manifest.tables {
        for chunk in &table.chunks {
            match files.remove(&chunk.path) {
                Some(size) if size == chunk.bytes => {}
                Some(size) => {
                    return wrong(format!("{} has {size} bytes instead of {}", chunk.path, chunk.bytes));
                }
                None => return wrong(format!("{} is missing in the backup, or named twice", chunk.path)),
            }
        }
        let rows: u64 = table.chunks.iter().map(|chunk| chunk.rows).sum();
        if rows != table.rows {
            let name = table.table.qualified();
            return wrong(format!("the files of table {name} have {rows} rows instead of {}", table.rows));
        }
    }
    if let Some(path) = files.keys().find(|path| path.starts_with("data/")) {
        return wrong(format!("the backup has a file {path}, which its manifest does not name"));
    }
    Ok(files.into_keys().filter(|path| path.starts_with("files/")).collect())
}

/// Whether the text has the rows that it should have, table by table.
fn as_described(contents: &Contents, manifest: &Manifest) -> Result<()> {
    let mut expected = BTreeMap::<TableName, u64>::new();
    for entry in &manifest.tables {
        let (schema, name) = entry.table.loaded_through();
        *expected.entry(TableName { schema: schema.to_owned(), name: name.to_owned() }).or_default() += entry.rows;
    }
    for (name, rows) in expected {
        let there = contents.rows.get(&name).copied();
        if there != Some(rows) {
            let there = there.map_or("no COPY".to_owned(), |rows| format!("{rows} rows"));
            let what = format!("the dump has {there} of table {name} instead of {rows} rows");
            return Err(Error::new(Kind::Verify, what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
