//! Settings of sessions: the same whatever is set for the role, for the database, or, where it matters, for the server.
//!
//! `ALTER ROLE … SET` and `ALTER DATABASE … SET` are meant for the application. What a backup reads and a restore writes
//! must not depend on them, so every session begins with `FIXED` in its startup options, which go before all of them,
//! and everything else that is set for its role or database is put back to PostgreSQL's own default. Which settings
//! these are is asked for in each session (`pg_db_role_setting`); the client programs get them in `PGOPTIONS`.
//!
//! Source: PostgreSQL documentation, "Setting Parameters"; `process_startup_options` and `process_settings` in
//! `postinit.c`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_postgres::{Client, SimpleQueryMessage};

use super::literal;

/// Time limits. They go first: a statement that is too slow for them would be the first one.
const NO_LIMITS: &[(&str, &str)] = &[
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
];

/// How values are written and read, and what a transaction may do: in every session and in the client programs.
const FIXED: &[(&str, &str)] = &[
    ("array_nulls", "on"),
    ("bytea_output", "hex"),
    ("default_transaction_deferrable", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("exit_on_error", "off"),
    ("gin_fuzzy_search_limit", "0"),
    ("quote_all_identifiers", "off"),
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    ("xmlbinary", "base64"),
    ("xmloption", "content"),
];

/// In our own sessions only: pg_dump sets these by itself, and a dump that does not may rely on the server's.
const OWN: &[(&str, &str)] = &[
    ("search_path", "pg_catalog"),
    ("datestyle", "ISO, YMD"),
    ("extra_float_digits", "3"),
    ("intervalstyle", "postgres"),
    ("lc_monetary", "C"),
    ("timezone", "UTC"),
];

/// Settings that stay as they are: they change nothing that is read or written, cannot be set in a session, are set by
/// ourselves, or have a default that is not the one that the server works with. Logging is the administrator's.
const LEFT_ALONE: &str = "^(log_|track_|debug_print_|debug_pretty_print$|transaction_|event_triggers$|.*_preload_libraries$|client_encoding$\
     |max_stack_depth$|dynamic_library_path$|extension_control_path$)";

/// A setting and its value.
pub type Setting = (String, String);

/// Facts about the server and its databases, shared by all clones of a connector.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(Arc<Mutex<Facts>>);

#[derive(Debug, Default)]
struct Facts {
    /// The server's version, as `server_version_num` counts.
    version: Option<u32>,
    is_superuser: bool,
    /// The server lets the role in with encryption, and not without.
    needs_encryption: bool,
    /// Settings of the role or the database, each with the value that it is reset to, by database.
    databases: BTreeMap<String, Vec<Setting>>,
}

impl Facts {
    /// A trigger that fires at each login may write a row into what is being counted.
    fn without_event_triggers(&self) -> Option<Setting> {
        let can = self.is_superuser && self.version.is_some_and(|version| version >= 170_000);
        can.then(|| ("event_triggers".into(), "off".into()))
    }
}

impl Known {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn learn_version(&self, version: u32) {
        self.facts().version = Some(version);
    }

    pub(super) fn learn_encryption(&self, needed: bool) {
        self.facts().needs_encryption = needed;
    }

    pub(super) fn needs_encryption(&self) -> bool {
        self.facts().needs_encryption
    }

    pub(super) fn is_known(&self, database: &str) -> bool {
        self.facts().databases.contains_key(database)
    }

    fn limits(&self) -> Vec<Setting> {
        let facts = self.facts();
        let mut settings = owned(NO_LIMITS);
        if facts.version.is_some_and(|version| version >= 170_000) {
            settings.push(("transaction_timeout".into(), "0".into()));
        }
        settings
    }

    fn common(&self, database: &str) -> Vec<Setting> {
        let mut settings = self.limits();
        settings.extend(owned(FIXED));
        let facts = self.facts();
        settings.extend(facts.without_event_triggers());
        // Of two values for one setting, the later one holds.
        let others = facts.databases.get(database).into_iter().flatten();
        settings.extend(others.filter(|(name, _)| !is_fixed(name, &[NO_LIMITS, FIXED])).cloned());
        if facts.is_superuser {
            // The client programs pass the server's words on, and some of them are recognised. Others may not set it.
            settings.push(("lc_messages".into(), "C".into()));
        }
        settings
    }

    /// Startup options of a session of our own.
    pub(super) fn options(&self, database: &str) -> String {
        let mut settings = self.common(database);
        settings.extend(owned(OWN));
        options(&settings)
    }

    /// Startup options of a session with the application's own settings, but for the time limits, and for triggers that
    /// fire at each login: it is no session of the application.
    pub(super) fn application_options(&self) -> String {
        let mut settings = self.limits();
        settings.extend(self.facts().without_event_triggers());
        options(&settings)
    }

    /// Startup options of a client program of PostgreSQL.
    pub(super) fn tool_options(&self, database: &str) -> String {
        options(&self.common(database))
    }

    /// Asks what is set for the session's role and database, puts it back, and remembers it.
    pub(super) async fn neutralise(&self, client: &Client, database: &str) -> Result<(), tokio_postgres::Error> {
        let set = self.ask(client, database).await?;
        let open: Vec<Setting> =
            set.into_iter().filter(|(name, _)| !is_fixed(name, &[NO_LIMITS, FIXED, OWN])).collect();
        apply(client, &open).await?;
        Ok(())
    }

    /// Reads the settings of the session's role and database, each with the value that it is reset to.
    async fn ask(&self, client: &Client, database: &str) -> Result<Vec<Setting>, tokio_postgres::Error> {
        let version = self.facts().version.unwrap_or(0);
        let messages = client.simple_query(&question(version)).await?;
        let mut settings = Vec::new();
        let mut is_superuser = false;
        for message in messages {
            let SimpleQueryMessage::Row(row) = message else { continue };
            match (row.get(0).unwrap_or_default(), row.get(1).unwrap_or_default()) {
                ("", value) => is_superuser = value == "true",
                (name, value) => settings.push((name.to_owned(), value.to_owned())),
            }
        }
        let mut facts = self.facts();
        facts.is_superuser = is_superuser;
        facts.databases.insert(database.to_owned(), settings.clone());
        Ok(settings)
    }

    /// Prepares a session that works with its own settings, and changes over to the application's for statements that
    /// fire its triggers.
    pub(super) async fn both(&self, client: &Client, database: &str) -> Result<Both, tokio_postgres::Error> {
        let path = client.simple_query("SELECT pg_catalog.current_setting('search_path')").await?;
        let path = path.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        client.batch_execute("SET search_path = pg_catalog").await?;
        let mut wanted = self.ask(client, database).await?;
        // Who the session acts as is the application's to say.
        wanted.retain(|(name, _)| name != "role" && !is_fixed(name, &[NO_LIMITS, FIXED, OWN]));
        wanted.extend(owned(FIXED));
        wanted.extend(owned(OWN));
        let set = apply(client, &wanted).await?;
        Ok(Both { set, application_path: path.unwrap_or_default() })
    }
}

/// The two ways in which a session works: with our settings, and with the application's.
#[derive(Clone, Debug)]
pub struct Both {
    set: Vec<Setting>,
    application_path: String,
}

impl Both {
    /// Statements that give the application's settings to the transaction. Foreign keys act all the same: what they do is a
    /// part of what is asked for.
    #[must_use]
    pub fn application(&self) -> String {
        let theirs = self.set.iter().filter(|(name, _)| name != "session_replication_role" && name != "exit_on_error");
        theirs.fold(String::new(), |sql, (name, _)| sql + "SET LOCAL " + name + " TO DEFAULT;")
    }

    /// Statements that give our settings to the transaction again.
    #[must_use]
    pub fn own(&self) -> String {
        self.set.iter().fold(String::new(), |sql, (name, value)| {
            sql + "SELECT pg_catalog.set_config(" + &literal(name) + "," + &literal(value) + ",true);"
        })
    }

    /// Lets our own statements find the application's functions, after those of the server, as policies for rows need it.
    pub fn see_functions(&mut self) {
        if let Some((_, path)) = self.set.iter_mut().find(|(name, _)| name == "search_path") {
            *path = format!("pg_catalog, {}", self.application_path);
        }
    }
}

fn owned(settings: &[(&str, &str)]) -> Vec<Setting> {
    settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn is_fixed(name: &str, lists: &[&[(&str, &str)]]) -> bool {
    lists.iter().any(|list| list.iter().any(|(fixed, _)| fixed.eq_ignore_ascii_case(name)))
}

/// Options in the form that the server splits at spaces, with backslashes that escape.
fn options(settings: &[Setting]) -> String {
    let mut text = String::new();
    for (name, value) in settings {
        let separator = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{separator}-c {name}=");
        for character in value.chars() {
            if character == '\\' || character.is_ascii_whitespace() || character == '\u{b}' {
                text.push('\\');
            }
            text.push(character);
        }
    }
    text
}

/// Sets them for the session, and returns those that it could set.
pub(super) async fn apply(client: &Client, settings: &[Setting]) -> Result<Vec<Setting>, tokio_postgres::Error> {
    if settings.is_empty() {
        return Ok(Vec::new());
    }
    let call = |(name, value): &Setting| format!("pg_catalog.set_config({}, {}, false)", literal(name), literal(value));
    let all: Vec<String> = settings.iter().map(call).collect();
    match client.batch_execute(&format!("SELECT {}", all.join(", "))).await {
        Ok(()) => return Ok(settings.to_vec()),
        Err(cause) if cause.as_db_error().is_none() || client.is_closed() => return Err(cause),
        Err(_) => {}
    }
    // One that this version or role may not set does not keep the others from it.
    let mut done = Vec::new();
    for setting in settings {
        match client.batch_execute(&format!("SELECT {}", call(setting))).await {
            Ok(()) => done.push(setting.clone()),
            Err(cause) if cause.as_db_error().is_none() || client.is_closed() => return Err(cause),
            Err(_) => {}
        }
    }
    Ok(done)
}

/// The question for the settings: whether the role is a superuser (without a name), and each that is to be put back.
///
/// A role that is set (`ALTER ROLE … SET role`) is dropped where the session may do everything without it that it may
/// do with it. Settings with a dot belong to extensions and to the application's functions. The server has defaults for two
/// settings that no session may give them.
fn question(version: u32) -> String {
    // The first statement of the first session: its options did not hold this one yet.
    let limit = if version >= 170_000 { "SET transaction_timeout = 0; " } else { "" };
    let granted = if version >= 150_000 {
        "OR p.context = 'superuser' AND pg_catalog.has_parameter_privilege(r.oid, p.name, 'SET')"
    } else {
        ""
    };
    // Rows of pg_settings that do not fit into work_mem go into a temporary file, which may have a limit, too.
    format!(
        "{limit}SET work_mem = '4MB'; \
         WITH r AS (SELECT oid, rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user), \
         d AS (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()), \
         s AS (SELECT DISTINCT pg_catalog.split_part(c, '=', 1) AS name \
               FROM r, d, pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c \
               WHERE s.setrole IN (0, r.oid) AND s.setdatabase IN (0, d.oid)) \
         SELECT '', rolsuper::text FROM r \
         UNION ALL SELECT 'role', 'none' FROM r, s WHERE s.name = 'role' \
               AND (r.rolsuper OR pg_catalog.pg_has_role(session_user, current_user, 'USAGE')) \
         UNION ALL SELECT p.name, CASE p.name WHEN 'lc_messages' THEN 'C' WHEN 'timezone_abbreviations' THEN 'Default' \
               ELSE coalesce(p.boot_val, '') END \
               FROM r, s, pg_catalog.pg_settings p \
               WHERE pg_catalog.lower(p.name) = pg_catalog.lower(s.name) AND p.name NOT LIKE '%.%' AND p.name !~ {} \
                 AND (p.context = 'user' OR r.rolsuper {granted}); RESET work_mem",
        literal(LEFT_ALONE)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_survive_spaces_and_backslashes() {
        let settings = owned(&[("a", "read committed"), ("b", "x\\y\tz"), ("c", "")]);
        assert_eq!(options(&settings), "-c a=read\\ committed -c b=x\\\\y\\\tz -c c=");
    }

    #[test]
    fn what_is_fixed_is_not_set_twice() {
        let known = Known::default();
        known.facts().databases.insert("d".into(), owned(&[("xmloption", "content"), ("TimeZone", "GMT")]));
        assert_eq!(known.tool_options("d").matches("xmloption").count(), 1);
        assert!(known.tool_options("d").ends_with("-c TimeZone=GMT"));
        assert!(!known.tool_options("other").contains("TimeZone"));
        assert!(known.options("d").ends_with("-c timezone=UTC"), "ours goes last: {}", known.options("d"));
    }

    #[test]
    fn options_that_a_version_does_not_know_are_not_sent() {
        let known = Known::default();
        known.facts().is_superuser = true;
        assert!(!known.options("d").contains("event_triggers"));
        assert!(known.tool_options("d").ends_with("-c lc_messages=C"));
        known.learn_version(150_000);
        assert!(!known.options("d").contains("transaction_timeout"));
        known.learn_version(170_001);
        assert!(
            known.options("d").contains("event_triggers=off") && known.options("d").contains("transaction_timeout=0")
        );
        assert!(known.application_options().contains("event_triggers=off"));
        assert!(!Known::default().application_options().contains("event_triggers"));
        assert!(!Known::default().tool_options("d").contains("lc_messages"));
    }
}
