//! Everything of a database that is not a row of a table, as one archive of `pg_dump`: definitions, values of sequences,
//! large objects, settings of extensions. It joins the snapshot, so that it fits the rows.

use std::fs::File;
use std::io::Seek;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::catalog::Table;
use super::snapshot::Snapshot;
use crate::database::connect::QueryContext;
use crate::dump::judge;
use crate::dump::pg_dump::{PgDump, collect};
use crate::error::{Context, Kind, Result};
use crate::progress::Meter;

/// The path of the archive in a backup.
pub const PATH: &str = "schema.dump";

/// Writes the archive into a temporary file and reads it back. The text is the SHA-256 of the definitions in it, and of
/// what they do not show.
///
/// Only the tables whose rows are copied elsewhere are left out, each by its name: a pattern for all of them would also
/// leave out the values of sequences.
pub async fn write(
    pg_dump: &PgDump<'_>,
    snapshot: &Snapshot,
    tables: &[Table],
    temporary: &Path,
    meter: &Arc<Meter>,
) -> Result<(File, String)> {
    let mut file = tempfile::tempfile_in(temporary).context(Kind::Store, "cannot make a temporary file")?;
    let mut arguments =
        vec!["--format=custom".to_owned(), "--compress=1".to_owned(), format!("--snapshot={}", snapshot.id())];
    arguments.extend(snapshot.encoding_argument().await?);
    arguments.extend(tables.iter().map(|table| format!("--exclude-table-data={}", table.qualified())));
    let shared = file.try_clone().context(Kind::Store, "cannot share a descriptor")?;
    let mut child = pg_dump.start(&arguments, Stdio::from(shared))?;
    let words = collect(child.stderr.take(), meter, None).await;
    pg_dump.ended_well(&mut child, &words).await?;
    let rewound = |file: &mut File| file.rewind().context(Kind::Store, "cannot read a temporary file back");
    rewound(&mut file)?;
    let shared = file.try_clone().context(Kind::Store, "cannot share a descriptor")?;
    let contents = judge::archive(pg_dump.tools, Stdio::from(shared), "-", false, meter).await?;
    rewound(&mut file)?;
    let unseen = unseen(snapshot).await?;
    let hash = Sha256::new_with_prefix(contents.definitions).chain_update([0]).chain_update(unseen);
    Ok((file, crate::dump::hex(hash)))
}

/// What the text of the definitions does not tell, and the meaning of stored rows depends on: the numbers of columns and
/// of fields of composite types (one that was dropped and made again looks the same and is another one), and the
/// versions of extensions.
async fn unseen(snapshot: &Snapshot) -> Result<String> {
    let sql = "SELECT coalesce((SELECT string_agg(format('%s %s %s %s', a.attrelid, a.attnum, a.atttypid, a.atttypmod), ',' \
                                       ORDER BY a.attrelid, a.attnum) \
                                FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
                                WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'c', 'v', 'm', 'f') AND a.attnum > 0 \
                                      AND NOT a.attisdropped), '') \
               || ';' || coalesce((SELECT string_agg(format('%s %s', e.extname, e.extversion), ',' ORDER BY e.extname) \
                                   FROM pg_catalog.pg_extension e), '')";
    let row = snapshot.client().query_one(sql, &[]).await.query_context("cannot read the catalogue")?;
    Ok(row.get(0))
}
