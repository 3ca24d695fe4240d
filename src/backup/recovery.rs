//! `RESTORE.md`: how to restore a backup without Glovebox, with restic, `pg_restore` and psql.

use std::fmt::Write as _;

use crate::database::{Properties, literal, version_text};
use crate::tables::Plan;
use crate::tables::catalog::Table;
use crate::tables::facts::Facts;
use crate::text::shell_word;

/// The page for this backup. Its commands can be typed as they stand, in the directory that `restic restore` filled.
#[must_use]
pub fn text(facts: &Facts, plan: &Plan) -> String {
    let properties = facts.properties();
    let name = facts.database["datname"].as_str().unwrap_or("teslamate");
    let is_unknown = facts.database["encoding"] == "SQL_ASCII";
    let mut text = format!(
        "# Restoring this backup without Glovebox\n\n\
         It holds the database \"{name}\" of a PostgreSQL {} server; the new one must be as new, or newer.\n\n\
         1. Get the files: `restic -r REPOSITORY restore SNAPSHOT --target DIRECTORY`, then go to DIRECTORY.\n\
         2. Make a new, empty database, here called `restored`: `{createdb} restored`.\n\
         3. Definitions: `pg_restore --exit-on-error --section=pre-data --section=data -d restored schema.dump`.\n\
         4. Rows: `psql -X -v ON_ERROR_STOP=1 -d restored -f RESTORE.md.sql`, where RESTORE.md.sql holds the lines below.\n\
         5. Indexes and constraints: `pg_restore --exit-on-error --section=post-data -d restored schema.dump`.\n\
         6. Compare the number of rows with `manifest.json`, then `psql -d restored -c ANALYZE`.\n\
         7. Privileges, settings and comment of the database: the last lines of this page, if there are any.\n\n\
         {roles}\
         Below `files/`, if there is such a directory, are the extra files that were configured, by their paths.\n\n\
         The lines for step 4 (`sed -n 's/^    //p' RESTORE.md > RESTORE.md.sql`):\n\n",
        version_text(facts.server_version),
        createdb = createdb(&properties, facts.server_version),
        roles = roles_needed(&properties),
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
    text.push_str(&last_lines(&properties));
    text
}

/// `createdb` with what cannot be changed later, and the owner.
fn createdb(properties: &Properties, server: u32) -> String {
    let mut command = "createdb -T template0".to_owned();
    let mut option = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let _ = write!(command, " {name}{}", shell_word(value));
        }
    };
    option("-E ", properties.get("encoding"));
    let (provider, locale) = match properties.get("datlocprovider") {
        Some("i") => ("icu", "--icu-locale="),
        Some("b") => ("builtin", "--builtin-locale="),
        _ => ("libc", ""),
    };
    // Before version 15 there was no other.
    option("--locale-provider=", Some(provider).filter(|_| server >= 150_000));
    option("--lc-collate=", properties.get("datcollate"));
    option("--lc-ctype=", properties.get("datctype"));
    option(locale, properties.get("datlocale").filter(|_| !locale.is_empty()));
    option("--icu-rules=", properties.get("daticurules"));
    option("-O ", Some(&properties.owner));
    command
}

/// Roles are the server's, not the database's: a sentence about those that must be there.
fn roles_needed(properties: &Properties) -> String {
    let roles = properties.roles();
    if roles.is_empty() {
        return String::new();
    }
    let list: Vec<String> = roles.into_iter().map(one_line_name).collect();
    let tablespace = match properties.tablespace.as_str() {
        "" | "pg_default" => String::new(),
        name => format!(" It was in the tablespace {} (`createdb -D` takes it).", one_line_name(name)),
    };
    format!(
        "Roles are not in a backup. The database needs {} (CREATE ROLE); without one of them, leave `-O` and the lines about it \
         out. A locale that this server does not have is replaced by another one in step 2; texts may then be in another \
         order.{tablespace}\n\n",
        list.join(", ")
    )
}

/// SQL for what a database has beside its contents, and the command that runs it.
fn last_lines(properties: &Properties) -> String {
    let mut statements = properties.statements_for(":\"DBNAME\"");
    statements.retain(|statement| !statement.ends_with("CONNECTION LIMIT -1"));
    if let Some(comment) = &properties.comment {
        statements.push(format!("COMMENT ON DATABASE :\"DBNAME\" IS {}", literal(comment)));
    }
    if statements.is_empty() {
        return String::new();
    }
    let mut text =
        "\nThe lines for step 7 (`sed -n 's/^> //p' RESTORE.md > RESTORE.md.last.sql && psql -X -v ON_ERROR_STOP=1 \
                    -d restored -f RESTORE.md.last.sql`):\n\n"
            .to_owned();
    for statement in &statements {
        let _ = writeln!(text, "> {};", one_line(statement));
    }
    text
}

/// A statement in one line: what is quoted in it gets its line breaks as escapes.
fn one_line(statement: &str) -> String {
    if !statement.contains(LINE_BREAKS) {
        return statement.to_owned();
    }
    let mut line = String::new();
    let mut characters = statement.chars().peekable();
    while let Some(character) = characters.next() {
        if !matches!(character, '"' | '\'') {
            line.push(character);
            continue;
        }
        let mut quoted = String::new();
        while let Some(next) = characters.next() {
            if next != character {
                quoted.push(next);
            } else if characters.next_if_eq(&character).is_some() {
                quoted.extend([next, next]);
            } else {
                break;
            }
        }
        if !quoted.contains(LINE_BREAKS) {
            let _ = write!(line, "{character}{quoted}{character}");
        } else if character == '"' {
            let name = quoted.replace('\\', r"\\").replace('\n', r"\000A").replace('\r', r"\000D");
            let _ = write!(line, "U&\"{name}\"");
        } else {
            let has_escapes = line.ends_with('E');
            let text = if has_escapes { quoted } else { quoted.replace('\\', r"\\") };
            let prefix = if has_escapes { "" } else { "E" };
            let _ = write!(line, "{prefix}'{}'", text.replace('\n', r"\n").replace('\r', r"\r"));
        }
    }
    line
}

/// A name for people, in one line.
fn one_line_name(name: &str) -> String {
    format!("\"{}\"", name.replace(LINE_BREAKS, " "))
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
    let statement = format!("COPY {target} FROM STDIN WITH (FORMAT {})", table.format.word());
    format!("$ psql -X -v ON_ERROR_STOP=1 -d restored -c {} < {}\n", shell_word(&statement), shell_word(path))
}
