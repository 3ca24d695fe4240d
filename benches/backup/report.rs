//! The tables.

use crate::common::table::{self, code, markdown, megabytes, memory, ratio, seconds};
use crate::common::{Measured, Sample};
use crate::scene::Change;

pub const OURS: &str = "teslamate-backup";
pub const RESTIC: &str = "pg_dump | restic backup --stdin";
pub const OUR_RESTORE: &str = "teslamate-restore";
pub const PG_RESTORE: &str = "pg_restore -j2, directory";
pub const PSQL: &str = "psql < file";

/// What the numbers mean; a reader has to know it to compare them.
pub const NOTES: &str = "\
Repositories were made before (`teslamate-backup init`, `restic init`, `stanza-create`). \"read\" is what went into the tool, \
\"added\" what it wrote. `restic` and `teslamate-backup` encrypt, pgBackRest does not here; it copies the files of the whole \
cluster, indexes too, with `process-max=2` and `start-fast`: gzip 6 with its defaults, tuned zstd 3 with bundles and \
blocks; full first and incremental again. It waits for the WAL that its backup needs, which is archived into the same \
repository; WAL that was written before is not archived. Of `teslamate-backup`, what is checked before a backup is \
published is part of the time.";

/// A size that backups again were measured at.
pub struct Size {
    pub positions: u32,
    pub database: String,
    pub first: Vec<Measured>,
    pub again: Vec<Measured>,
}

fn words(header: &[&str]) -> Vec<String> {
    header.iter().map(|word| (*word).to_owned()).collect()
}

/// The chunks that were read, and that were not.
fn chunks(sample: &Sample) -> String {
    sample.chunks.map_or_else(String::new, |(read, reused)| format!("{read} / {reused}"))
}

fn aim(entry: &Measured, words: &str) -> String {
    if entry.name == OURS { words.to_owned() } else { String::new() }
}

pub fn first(measured: &[Measured]) -> String {
    let of_peer = format!("of {}", code(RESTIC));
    let header = words(&["first backup", "seconds", &of_peer, "read", "added", "peak memory", "aim"]);
    let rows: Vec<Vec<String>> = measured
        .iter()
        .map(|entry| {
            let best = entry.best();
            let mut cells = vec![code(&entry.name), seconds(best), ratio(entry, measured, RESTIC)];
            cells.extend([megabytes(best.read), megabytes(best.bytes), memory(entry)]);
            cells.push(aim(entry, "0.60, 200 MB"));
            cells
        })
        .collect();
    markdown(&header, &rows)
}

pub fn again(changes: &[(Change, &Vec<Measured>)]) -> String {
    let of_peer = format!("of {} again", code(RESTIC));
    let header = words(&[
        "backup again",
        "0.1 % changed",
        "seconds",
        &of_peer,
        "read",
        "added",
        "chunks read / reused",
        "peak memory",
        "aim",
    ]);
    let mut rows = Vec::new();
    for (change, measured) in changes {
        for entry in *measured {
            let best = entry.best();
            let mut cells = vec![code(&entry.name), change.words().to_owned(), seconds(best)];
            cells.extend([ratio(entry, measured, RESTIC), megabytes(best.read), megabytes(best.bytes), chunks(best)]);
            cells.push(memory(entry));
            // Where every chunk is touched, all are read: that is shown, not aimed at.
            cells.push(aim(entry, if *change == Change::Newest { "0.08, 200 MB" } else { "200 MB" }));
            rows.push(cells);
        }
    }
    markdown(&header, &rows)
}

pub fn restores(measured: &[Measured]) -> String {
    table::restores(measured, &[PG_RESTORE, PSQL], |name| (name == OUR_RESTORE).then_some("0.70, 0.50, 1 s, 200 MB"))
}

pub fn sizes(sizes: &[Size]) -> String {
    let of_peer = format!("of {} again", code(RESTIC));
    let header = words(&[
        "positions",
        "database",
        "first",
        "again, newest changed",
        &of_peer,
        "read",
        "added",
        "chunks read / reused",
        "peak memory, first / again",
        "aim",
    ]);
    let rows: Vec<Vec<String>> = sizes
        .iter()
        .map(|size| {
            let (ours, best) = (&size.again[0], size.again[0].best());
            let has_peer = size.again.len() > 1;
            let of_peer = if has_peer { ratio(ours, &size.again, RESTIC) } else { String::new() };
            vec![
                size.positions.to_string(),
                size.database.clone(),
                format!("{} s", seconds(size.first[0].best())),
                format!("{} s", seconds(best)),
                of_peer,
                megabytes(best.read),
                megabytes(best.bytes),
                chunks(best),
                format!("{} / {}", memory(&size.first[0]), memory(ours)),
                "flat, 200 MB".to_owned(),
            ]
        })
        .collect();
    markdown(&header, &rows)
}
