//! `RESTORE.md`: how to restore a backup without Glovebox, with restic, `pg_restore` and psql.

use std::fmt::Write as _;

use crate::database::{ident, version_text};
use crate::tables::Plan;
use crate::tables::facts::Facts;

/// The page for this backup. Its commands can be typed as they stand, in the directory that `restic restore` filled.
#[must_use]
pub fn text(facts: &Facts, plan: &Plan) -> String {
    let name = facts.database["datname"].as_str().unwrap_or("teslamate");
    let mut text = format!(
        "# Restoring this backup without Glovebox\n\n\
         It holds the database \"{name}\" of a PostgreSQL {} server; the new one must be as new, or newer.\n\n\
         1. Get the files: `restic -r REPOSITORY restore SNAPSHOT --target DIRECTORY`, then go to DIRECTORY.\n\
         2. Make a new, empty database, here called `restored`: `createdb -T template0 restored`.\n\
         3. Definitions: `pg_restore --exit-on-error --section=pre-data --section=data -d restored schema.dump`.\n\
         4. Rows: `psql -X -v ON_ERROR_STOP=1 -d restored -f RESTORE.md.sql`, where RESTORE.md.sql holds the lines below.\n\
         5. Indexes and constraints: `pg_restore --exit-on-error --section=post-data -d restored schema.dump`.\n\
         6. Compare the number of rows with `manifest.json`, then `psql -d restored -c ANALYZE`.\n\n\
         Below `files/`, if there is such a directory, are the extra files that were configured, by their paths.\n\n\
         The lines for step 4 (`sed -n 's/^    //p' RESTORE.md > RESTORE.md.sql`):\n\n",
        version_text(facts.server_version)
    );
    for chunk in &plan.chunks {
        let table = &plan.tables[chunk.table];
        let columns: Vec<String> = table.columns.iter().map(|column| ident(&column.name)).collect();
        let columns = if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) };
        let path = chunk.path.replace('\'', "''");
        let format = table.format.word();
        let _ = writeln!(text, "    \\copy {}{columns} FROM '{path}' WITH (FORMAT {format})", table.qualified());
    }
    text
}
