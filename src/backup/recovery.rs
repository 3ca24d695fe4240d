//! `RESTORE.md`: how to restore a backup without Glovebox, with restic, `pg_restore` and psql.

use std::fmt::Write as _;

use crate::database::version_text;
use crate::tables::Plan;
use crate::tables::catalog::Table;
use crate::tables::facts::Facts;

/// The page for this backup. Its commands can be typed as they stand, in the directory that `restic restore` filled.
#[must_use]
pub fn text(facts: &Facts, plan: &Plan) -> String {
    let name = facts.database["datname"].as_str().unwrap_or("teslamate");
    let is_unknown = facts.database["encoding"] == "SQL_ASCII";
    let encoding = if is_unknown { " -E SQL_ASCII --locale=C" } else { "" };
    let mut text = format!(
        "# Restoring this backup without Glovebox\n\n\
         It holds the database \"{name}\" of a PostgreSQL {} server; the new one must be as new, or newer.\n\n\
         1. Get the files: `restic -r REPOSITORY restore SNAPSHOT --target DIRECTORY`, then go to DIRECTORY.\n\
         2. Make a new, empty database, here called `restored`: `createdb -T template0{encoding} restored`.\n\
         3. Definitions: `pg_restore --exit-on-error --section=pre-data --section=data -d restored schema.dump`.\n\
         4. Rows: `psql -X -v ON_ERROR_STOP=1 -d restored -f RESTORE.md.sql`, where RESTORE.md.sql holds the lines below.\n\
         5. Indexes and constraints: `pg_restore --exit-on-error --section=post-data -d restored schema.dump`.\n\
         6. Compare the number of rows with `manifest.json`, then `psql -d restored -c ANALYZE`.\n\n\
         Below `files/`, if there is such a directory, are the extra files that were configured, by their paths.\n\n\
         The lines for step 4 (`sed -n 's/^    //p' RESTORE.md > RESTORE.md.sql`):\n\n",
        version_text(facts.server_version)
    );
    if is_unknown {
        text.push_str("    SET client_encoding = 'SQL_ASCII';\n");
    }
    let mut typed = Vec::new();
    for chunk in &plan.chunks {
        let table = &plan.tables[chunk.table];
        let (target, format) = (table.copy_target(), table.format.word());
        if target.contains(LINE_BREAKS) {
            typed.push(shell_line(table, &chunk.path));
        } else {
            let path = chunk.path.replace('\'', "''");
            let _ = writeln!(text, "    \\copy {target} FROM '{path}' WITH (FORMAT {format})");
        }
    }
    if !typed.is_empty() {
        let _ = write!(
            text,
            "\n`\\copy` cannot name what has a line break in its name. These lines belong to step 4 too, and are for a shell \
             (`sed -n 's/^[$] //p' RESTORE.md > RESTORE.md.sh && sh -e RESTORE.md.sh`):\n\n{}",
            typed.concat()
        );
    }
    text
}

const LINE_BREAKS: [char; 2] = ['\n', '\r'];

/// The same for a shell, with the names of the table and its columns in one line.
fn shell_line(table: &Table, path: &str) -> String {
    let name = |name: &str| {
        let escaped = name.replace('\\', r"\\").replace('"', "\"\"").replace('\n', r"\000A").replace('\r', r"\000D");
        format!("U&\"{escaped}\"")
    };
    let columns: Vec<String> = table.columns.iter().map(|column| name(&column.name)).collect();
    let columns = if columns.is_empty() { String::new() } else { format!(" ({})", columns.join(", ")) };
    let target = format!("{}.{}{columns}", name(&table.schema), name(&table.name));
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let statement = format!("COPY {target} FROM STDIN WITH (FORMAT {})", table.format.word());
    format!("$ psql -X -v ON_ERROR_STOP=1 -d restored -c {} < {}\n", quoted(&statement), quoted(path))
}
