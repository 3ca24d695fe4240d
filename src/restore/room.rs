//! Room on the disk: for a second copy of the database, and for the write-ahead log that loading it writes.
//!
//! A server that cannot write its log stops with a PANIC, and the live database with it. So room is counted before anything
//! begins, on the file systems of the data directory, the tablespace and `pg_wal`, and watched while rows are loaded: a
//! load ends before the last of it is gone. Where room is scarce, checkpoints in between keep the log short.
//!
//! Source: PostgreSQL documentation, "WAL Configuration".

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Client;

use super::check::Live;
use super::previous;
use super::stored::Stored;
use super::{Destination, Policy};
use crate::database::connect::QueryContext;
use crate::database::{Connector, ident};
use crate::dump::Contents;
use crate::error::{Error, Kind, Result};

const MIB: u64 = 1 << 20;

/// Bytes that must stay free: enough for the live database to go on while a load is being stopped.
const RESERVE: (u64, u64) = (16 * MIB, 64 * MIB);

/// A file system that the server writes into.
#[derive(Clone, Debug)]
struct Place {
    path: PathBuf,
    /// Tells it from others.
    system: u64,
    free: u64,
}

impl Place {
    /// The file system of a directory of the server. One that this account may not look into is judged by the directory
    /// above it, if there is no mount point in between.
    fn of(path: &Path) -> Option<Self> {
        let look = |path: &Path| {
            let system = rustix::fs::statvfs(path).ok()?;
            let device = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(path).ok()?);
            Some(Self { path: path.to_owned(), system: device, free: system.f_bavail * system.f_frsize })
        };
        if let Some(place) = look(path) {
            return Some(place);
        }
        let mounted = mount_point(path)?;
        path.ancestors().skip(1).take_while(|above| above.starts_with(&mounted)).find_map(look)
    }

    fn free_now(&self) -> Option<u64> {
        rustix::fs::statvfs(&self.path).ok().map(|system| system.f_bavail * system.f_frsize)
    }
}

/// The mount point that holds a path, by the longest one that it begins with.
fn mount_point(path: &Path) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| {
        PathBuf::from(point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"))
    });
    points.filter(|point| path.starts_with(point)).max_by_key(|point| point.components().count())
}

/// Facts about the server's write-ahead log.
#[derive(Clone, Copy, Debug, Default)]
struct Log {
    segment: u64,
    /// Its present size.
    present: u64,
    /// How much the server keeps of it at most, as long as nothing holds it back.
    limit: u64,
    /// A slot or an archiver that does not get on keeps all of it.
    held: bool,
    /// Whether this role may begin a checkpoint.
    may_checkpoint: bool,
}

/// The room for a restore.
#[derive(Clone, Debug, Default)]
pub struct Room {
    data: Option<Place>,
    wal: Option<Place>,
    log: Log,
    /// Bytes that the copy takes.
    copy: u64,
    /// Why nothing can be known of it.
    pub unknown: Option<String>,
}

/// The bytes that a copy takes, with its indexes and the largest of them once more, which is sorted on disk while it is
/// built: as many as the database that was backed up. A dump does not tell; its text is about half as large again as its
/// rows in the server.
#[must_use]
pub fn needed(live: Option<&Live>, contents: &Contents, stored: Option<&Stored>, policy: &Policy) -> u64 {
    let whole = match stored.and_then(|stored| stored.manifest.facts.size) {
        Some(size) => size.database + size.largest_index,
        None => contents.bytes / 3 * 2 + contents.total_rows() * 16 + 8 * MIB,
    };
    // What is there now, if it is of that kind, may be less: tables that were full of holes.
    let present = live.map_or(0, |live| u64::try_from(live.bytes + live.largest_index).unwrap_or(0));
    let whole = if present >= whole / 4 && present > 0 { whole.min(present) } else { whole };
    let Some(manifest) = stored.map(|stored| &stored.manifest).filter(|_| policy.partial) else { return whole };
    if policy.schema_only {
        return whole.min(16 * MIB);
    }
    let wanted: u64 = manifest
        .tables
        .iter()
        .filter(|entry| policy.wants(&entry.table))
        .flat_map(|entry| entry.chunks.iter().map(|chunk| chunk.bytes))
        .sum();
    whole.min(wanted * 2 + 16 * MIB)
}

impl Room {
    /// Looks at the file systems, where they are on this machine.
    pub async fn look(client: &Client, connector: &Connector, tablespace: &str, copy: u64) -> Result<Self> {
        let unknown = |why: &str| {
            let remark = format!("free space was not checked and is not watched: {why}");
            Ok(Self { unknown: Some(remark), ..Self::default() })
        };
        if !connector.is_local() {
            return unknown("the server is on another machine");
        }
        let sql = "SELECT current_setting('data_directory'), \
                          (SELECT nullif(pg_tablespace_location(oid), '') FROM pg_tablespace WHERE spcname = $1)";
        let Ok(Some(row)) = client.query_opt(sql, &[&tablespace]).await else {
            return unknown("the role may not ask for the data directory");
        };
        let (data, tablespace): (String, Option<String>) = (row.get(0), row.get(1));
        let place = tablespace.unwrap_or_else(|| data.clone());
        let Some(found) = Place::of(Path::new(&place)) else {
            return unknown(&format!("{place} cannot be seen from here"));
        };
        let wal = Place::of(&Path::new(&data).join("pg_wal")).or_else(|| Place::of(Path::new(&data)));
        Ok(Self { data: Some(found), wal, log: Log::look(client).await?, copy, unknown: None })
    }

    /// Looks at the file system of a private server, whose directory is known without asking.
    pub async fn look_at(client: &Client, directory: &Path, copy: u64) -> Result<Self> {
        let place = Place::of(directory);
        Ok(Self { data: place.clone(), wal: place, log: Log::look(client).await?, copy, unknown: None })
    }

    /// Bytes of the log that come together at most.
    fn log_growth(&self) -> u64 {
        if self.log.held {
            return self.copy;
        }
        self.copy.min(self.log.limit.saturating_sub(self.log.present))
    }

    /// Bytes of the log that come together at most, where checkpoints keep it short.
    fn short_log(&self) -> u64 {
        if self.log.may_checkpoint && !self.log.held {
            self.log_growth().min(8 * self.log.segment)
        } else {
            self.log_growth()
        }
    }

    fn reserve(&self, place: &Place) -> u64 {
        let (least, most) = (RESERVE.0.max(2 * self.log.segment), RESERVE.1.max(4 * self.log.segment));
        (place.free / 4).clamp(least, most)
    }

    /// Bytes that are needed on a file system, and what for: the copy and the log if they go there, and what must stay free.
    fn parts(&self, place: &Place, log: u64) -> Vec<(u64, &'static str)> {
        let is = |other: &Option<Place>| other.as_ref().is_some_and(|other| other.system == place.system);
        let mut parts = vec![(self.reserve(place), "that must stay free")];
        if is(&self.wal) {
            parts.insert(0, (log, "for the write-ahead log"));
        }
        if is(&self.data) {
            parts.insert(0, (self.copy, "for the copy"));
        }
        parts
    }

    fn need(&self, place: &Place, log: u64) -> u64 {
        self.parts(place, log).into_iter().map(|(bytes, _)| bytes).sum()
    }

    fn places(&self) -> Vec<&Place> {
        let mut places: Vec<&Place> = self.data.iter().chain(&self.wal).collect();
        places.dedup_by_key(|place| place.system);
        places
    }

    /// Whether checkpoints are needed for the log to have room.
    fn is_scarce(&self) -> bool {
        self.places().into_iter().any(|place| place.free < self.need(place, self.log_growth()))
    }

    /// Whether there is enough of it.
    ///
    /// # Errors
    /// [`Kind::Refused`], with what could be removed.
    pub async fn check(&self, client: &Client, live: &str, destination: &Destination) -> Result<()> {
        let log = self.short_log();
        let Some(place) = self.places().into_iter().find(|place| place.free < self.need(place, log)) else {
            return Ok(());
        };
        let shown = |bytes: u64| format!("{} MiB", bytes.div_ceil(MIB));
        let what = if self.data.as_ref().is_some_and(|data| data.system == place.system) {
            format!("there is no room for a second copy of the database in {}", place.path.display())
        } else {
            format!("there is no room for the write-ahead log of a restore in {}", place.path.display())
        };
        let parts: Vec<String> =
            self.parts(place, log).into_iter().map(|(bytes, what)| format!("{} {what}", shown(bytes))).collect();
        let needed = format!("{}: {}", shown(self.need(place, log)), parts.join(", "));
        let mut error = Error::new(Kind::Refused, what).with("needed", needed).with("free", shown(place.free));
        if self.log.held {
            error = error
                .with("held", "a replication slot without a client, or an archive_command that fails, keeps all of the log")
                .hint("`SELECT * FROM pg_replication_slots` and `SELECT * FROM pg_stat_archiver` show which; end it first.");
        }
        let previous = sized_previous(client, live).await?;
        if !previous.is_empty() {
            let list: Vec<String> =
                previous.iter().map(|(name, bytes)| format!("\"{name}\", {}", shown(*bytes))).collect();
            error = error.with("previous", list.join("\n"));
            if *destination == Destination::Live {
                error =
                    error.hint("teslamate-restore --undo makes the newest of these live again; that needs no room.");
            }
            let drop: Vec<String> =
                previous.iter().map(|(name, _)| format!("DROP DATABASE {};", ident(name))).collect();
            error = error.hint(format!("Dropping databases of earlier restores frees their room: {}", drop.join(" ")));
        }
        Err(error
            .with("state", "the live database and its service were not touched")
            .hint("Free some space, or grow the file system.")
            .hint("If the estimate is wrong: --ignore-free-space. The load is still stopped before the disk is full."))
    }

    /// Does some work of loading, and gives it up when room runs out.
    ///
    /// # Errors
    /// [`Kind::Store`] then. What the work says otherwise.
    pub async fn watch<T>(&self, connector: &Connector, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            done = work => done,
            error = self.run_out() => Err(error),
            never = self.keep_log_short(connector) => match never {},
        }
    }

    /// Ends when the room of a file system is down to what must stay free.
    async fn run_out(&self) -> Error {
        // One that had no more from the beginning is not used up by this work.
        let least = |place: &Place| self.reserve(place).min(place.free / 2).max(2 * self.log.segment);
        let watched: Vec<(&Place, u64)> = self.places().into_iter().map(|place| (place, least(place))).collect();
        loop {
            let mut nearest = u64::MAX;
            for (place, least) in &watched {
                let Some(free) = place.free_now() else { continue };
                if free < *least {
                    return Error::new(Kind::Store, format!("room runs out in {}", place.path.display()))
                        .with("free", format!("{} MiB, which the live database needs", free / MIB))
                        .with("while", "loading: it was stopped before the server could not write any more")
                        .hint("Free some space, or grow the file system; then repeat the command.");
                }
                nearest = nearest.min(free - least);
            }
            let pause = match nearest / MIB {
                0..256 => 10,
                256..2048 => 50,
                _ => 500,
            };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Begins a checkpoint after every few segments, where room is scarce: then the server uses the old ones again.
    async fn keep_log_short(&self, connector: &Connector) -> std::convert::Infallible {
        let work = async {
            let client = connector.connect_maintenance().await.ok()?;
            let position = async || {
                let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
                client.query_one(sql, &[]).await.ok().map(|row| row.get::<_, i64>(0))
            };
            let step = i64::try_from(2 * self.log.segment).ok()?;
            let mut last = position().await?;
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if position().await? - last > step {
                    client.batch_execute("CHECKPOINT").await.ok()?;
                    last = position().await?;
                }
            }
            #[allow(unreachable_code, reason = "the type of a block that only ends early")]
            Some(())
        };
        if self.is_scarce() && self.log.may_checkpoint {
            let _: Option<()> = work.await;
        }
        std::future::pending().await
    }
}

impl Log {
    async fn look(client: &Client) -> Result<Self> {
        let sql = "SELECT s.segment, (s.max + s.keep) * 1048576, \
                          EXISTS (SELECT FROM pg_replication_slots r WHERE NOT r.active AND r.restart_lsn IS NOT NULL) \
                            OR current_setting('archive_mode') <> 'off' AND NOT EXISTS (SELECT FROM pg_settings c \
                                 WHERE c.name IN ('archive_command', 'archive_library') \
                                   AND c.setting NOT IN ('', '(disabled)')) \
                            OR current_setting('archive_mode') <> 'off' AND (SELECT a.last_failed_time > \
                                 coalesce(a.last_archived_time, '-infinity') FROM pg_stat_archiver a) IS TRUE, \
                          has_function_privilege('pg_ls_waldir()', 'EXECUTE'), \
                          (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) \
                            OR coalesce((SELECT pg_has_role(r.oid, 'USAGE') FROM pg_roles r \
                                          WHERE r.rolname = 'pg_checkpoint'), false) \
                   FROM (SELECT max(setting::bigint) FILTER (WHERE name = 'wal_segment_size') AS segment, \
                                max(setting::bigint) FILTER (WHERE name = 'max_wal_size') AS max, \
                                max(setting::bigint) FILTER (WHERE name = 'wal_keep_size') AS keep \
                         FROM pg_settings) s";
        let failed = "cannot ask for the write-ahead log";
        let row = client.query_one(sql, &[]).await.query_context(failed)?;
        let bytes = |number: i64| u64::try_from(number).unwrap_or(0);
        let present = if row.get::<_, bool>(3) {
            let sql = "SELECT coalesce(sum(size), 0)::bigint FROM pg_ls_waldir()";
            client.query_one(sql, &[]).await.map_or(0, |row| bytes(row.get(0)))
        } else {
            0
        };
        Ok(Self {
            segment: bytes(row.get(0)),
            limit: bytes(row.get(1)),
            held: row.get(2),
            may_checkpoint: row.get(4),
            present,
        })
    }
}

/// The databases that earlier restores replaced, the newest one first, with their sizes.
async fn sized_previous(client: &Client, live: &str) -> Result<Vec<(String, u64)>> {
    let found = previous::all(client, live).await?;
    let mut sized = Vec::new();
    for name in found.into_iter().rev().filter(|found| found.mark.is_some()).map(|found| found.name) {
        let row = client.query_one("SELECT pg_database_size($1::name)", &[&name]).await;
        sized.push((name, row.map_or(0, |row| u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))));
    }
    Ok(sized)
}
