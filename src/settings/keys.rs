//! The one table of settings: every key with its environment variable, its type and its meaning.
//!
//! Files, environment and command line are all read through this table, so a key that is not in it is unknown
//! everywhere, and the nearest known name is a search in it.

use super::Layer;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A string.
    Text,
    /// A string that must never be printed; refused in the TOML file, which anyone may read.
    Secret,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Flag,
    /// `true`, `false` or `noverify`.
    Ssl,
    /// An array of strings; a JSON array in the environment.
    List,
    /// A table of strings; a JSON object in the environment.
    Map,
    /// An array of tables with the keys of `[repository]`; a JSON array in the environment.
    Tables,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its place in the TOML file, for example `database.name`.
    pub path: &'static str,
    /// Its environment variable, which the secrets file may set too.
    pub env: &'static str,
    /// How it is written.
    pub form: Form,
}

const fn key(path: &'static str, env: &'static str, form: Form) -> Key {
    Key { path, env, form }
}

/// Every setting there is. `TeslaMate`'s own names are used where it has one.
pub const KEYS: &[Key] = &[
    key("database.name", "DATABASE_NAME", Form::Text),
    key("database.user", "DATABASE_USER", Form::Text),
    key("database.password", "DATABASE_PASS", Form::Secret),
    key("database.host", "DATABASE_HOST", Form::Text),
    key("database.port", "DATABASE_PORT", Form::Number),
    key("database.socket_dir", "DATABASE_SOCKET_DIR", Form::Text),
    key("database.ssl", "DATABASE_SSL", Form::Ssl),
    key("database.ssl_ca_cert_file", "DATABASE_SSL_CA_CERT_FILE", Form::Text),
    key("database.allow_cleartext_password", "GLOVEBOX_DATABASE_ALLOW_CLEARTEXT_PASSWORD", Form::Flag),
    key("database.os_user", "GLOVEBOX_DATABASE_OS_USER", Form::Text),
    key("database.tools", "GLOVEBOX_DATABASE_TOOLS", Form::Text),
    key("secrets_file", "GLOVEBOX_SECRETS_FILE", Form::Text),
    key("encryption_key", "ENCRYPTION_KEY", Form::Secret),
    key("release_cookie", "RELEASE_COOKIE", Form::Secret),
    key("service.unit", "GLOVEBOX_SERVICE_UNIT", Form::Text),
    key("service.executable", "GLOVEBOX_SERVICE_EXECUTABLE", Form::Text),
    key("service.stop", "GLOVEBOX_SERVICE_STOP", Form::List),
    key("service.start", "GLOVEBOX_SERVICE_START", Form::List),
    key("repository.location", "GLOVEBOX_REPOSITORY_LOCATION", Form::Text),
    key("repository.password_file", "GLOVEBOX_REPOSITORY_PASSWORD_FILE", Form::Text),
    key("repository.environment_file", "GLOVEBOX_REPOSITORY_ENVIRONMENT_FILE", Form::Text),
    key("repository.options", "GLOVEBOX_REPOSITORY_OPTIONS", Form::Map),
    key("copies", "GLOVEBOX_COPIES", Form::Tables),
    key("retention.keep_last", "GLOVEBOX_RETENTION_KEEP_LAST", Form::Number),
    key("retention.keep_hourly", "GLOVEBOX_RETENTION_KEEP_HOURLY", Form::Number),
    key("retention.keep_daily", "GLOVEBOX_RETENTION_KEEP_DAILY", Form::Number),
    key("retention.keep_weekly", "GLOVEBOX_RETENTION_KEEP_WEEKLY", Form::Number),
    key("retention.keep_monthly", "GLOVEBOX_RETENTION_KEEP_MONTHLY", Form::Number),
    key("retention.keep_yearly", "GLOVEBOX_RETENTION_KEEP_YEARLY", Form::Number),
    key("retention.keep_safety_days", "GLOVEBOX_RETENTION_KEEP_SAFETY_DAYS", Form::Number),
    key("backup.jobs", "GLOVEBOX_BACKUP_JOBS", Form::Number),
    key("backup.chunk_blocks", "GLOVEBOX_BACKUP_CHUNK_BLOCKS", Form::Number),
    key("backup.compression", "GLOVEBOX_BACKUP_COMPRESSION", Form::Number),
    key("backup.extra_files", "GLOVEBOX_BACKUP_EXTRA_FILES", Form::List),
    key("migrations.on_failure", "GLOVEBOX_MIGRATIONS_ON_FAILURE", Form::Text),
    key("migrations.require_backup", "GLOVEBOX_MIGRATIONS_REQUIRE_BACKUP", Form::Flag),
    key("migrations.wait", "GLOVEBOX_MIGRATIONS_WAIT", Form::Number),
    key("restore.keep_previous", "GLOVEBOX_RESTORE_KEEP_PREVIOUS", Form::Number),
    key("restore.skip_extensions", "GLOVEBOX_RESTORE_SKIP_EXTENSIONS", Form::List),
    key("state_dir", "GLOVEBOX_STATE_DIR", Form::Text),
];

/// The keys of a `[[copies]]` table, the same as those of `[repository]`.
pub const COPY_KEYS: &[&str] = &["location", "password_file", "environment_file", "options"];

/// What the variables begin with that hold credentials of a storage. The names are those that restic and the
/// storage's own tools have.
pub const STORAGE_VARIABLES: &[&str] = &["AWS_", "RESTIC_REST_", "RCLONE_"];

/// The setting of this path.
#[must_use]
pub fn by_path(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// How a value of this layer is named in a message: by key in the file, by variable in an environment.
#[must_use]
pub fn name_in(key: &Key, layer: Layer) -> &'static str {
    match layer {
        Layer::File | Layer::CommandLine => key.path,
        Layer::Environment | Layer::SecretsFile => key.env,
    }
}

/// The known name that is nearest to a mistyped one, if any is near enough to be meant.
///
/// A name without its section (`keep_daily`, `GLOVEBOX_UNIT`) is led to the section; what all variables begin with
/// makes no two of them alike.
#[must_use]
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let own = |name: &str| name.strip_prefix("GLOVEBOX_").unwrap_or(name).to_owned();
    let typed = own(typed);
    let distance = |name: &str| {
        let is_tail = own(name).strip_suffix(&typed).is_some_and(|section| section.ends_with(['.', '_']));
        if is_tail && !typed.is_empty() { 0 } else { strsim::damerau_levenshtein(&typed, &own(name)) }
    };
    known
        .into_iter()
        .map(|name| (distance(name), name))
        .min()
        .filter(|(distance, name)| *distance <= (own(name).len() / 3).max(2))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_a_slip_of_the_finger_and_nothing_else() {
        let known = || KEYS.iter().map(|key| key.path);
        assert_eq!(nearest("database.nmae", known()), Some("database.name"));
        assert_eq!(nearest("databse.socket_dir", known()), Some("database.socket_dir"));
        assert_eq!(nearest("weather", known()), None);
        assert_eq!(nearest("keep_daily", known()), Some("retention.keep_daily"));
        let variables = || KEYS.iter().map(|key| key.env);
        assert_eq!(nearest("GLOVEBOX_UNIT", variables()), Some("GLOVEBOX_SERVICE_UNIT"));
        assert_eq!(nearest("GLOVEBOX_STATEDIR", variables()), Some("GLOVEBOX_STATE_DIR"));
        assert_eq!(nearest("GLOVEBOX_WEATHER", variables()), None);
    }

    #[test]
    fn no_two_settings_share_a_path_or_a_variable() {
        for (position, key) in KEYS.iter().enumerate() {
            for other in &KEYS[position + 1..] {
                assert_ne!(key.path, other.path);
                assert_ne!(key.env, other.env);
            }
        }
    }
}
