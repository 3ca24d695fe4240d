//! Applies the precedence and checks every value; collects all mistakes before it reports.

mod layers;
mod values;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use toml::Value;
use zeroize::Zeroize;

use super::inputs::Text;
use super::keys::{self, COPY_KEYS, Form};
use super::{
    Address, Backup, Database, Inputs, Layer, Migrations, OnFailure, Repository, Retention, Secret, Service, Settings,
    Ssl,
};
use crate::error::{Error, Kind, Result};

impl Settings {
    /// Resolves the settings, or reports every mistake at once, each with where it was made.
    pub fn resolve(inputs: &Inputs) -> Result<Self> {
        Self::check(inputs, |_| Vec::new())
    }

    /// The same, with what somebody who knows repositories finds wrong with one of them: in which of its settings, and
    /// what. It is asked about every location that is there, whatever else is wrong.
    pub fn check(inputs: &Inputs, judge: impl Fn(&Repository) -> Vec<(&'static str, String)>) -> Result<Self> {
        let mut resolver = Resolver::new(inputs);
        resolver.read_layers(inputs);
        let mut settings = resolver.settings(inputs);
        for (section, place) in std::mem::take(&mut resolver.places) {
            for (setting, sentence) in judge(&place) {
                let path = format!("{section}.{setting}");
                // Of an array there is the whole only.
                let whole = if section == "repository" { "repository.location" } else { "copies" };
                let layer = [path.as_str(), whole].iter().find_map(|key| resolver.values.get(key));
                let source = layer.map_or_else(String::new, |(layer, _)| resolver.source(*layer));
                resolver.mistakes.push(format!("{source}: `{path}`: {sentence}"));
            }
        }
        let lock_dir = settings.state_dir.join("locks");
        for repository in settings.repository.iter_mut().chain(&mut settings.copies) {
            let text = inputs.passwords.get(&repository.password_file);
            repository.password = text.cloned().map(Secret::from);
            repository.environment = resolver.storage(inputs, repository.environment_file.as_deref());
            repository.lock_dir.clone_from(&lock_dir);
            if let Some(path) = repository.options.get_mut("identity_file")
                && let Some(copy) = inputs.identities.get(path)
            {
                path.clone_from(copy);
            }
        }
        resolver.finish(settings)
    }
}

struct Resolver {
    /// The strongest value of each key.
    values: BTreeMap<&'static str, (Layer, Value)>,
    /// Every location with its options, by the section that it is in.
    places: Vec<(String, Repository)>,
    mistakes: Vec<String>,
    warnings: Vec<String>,
    config: String,
    secrets: String,
}

impl Resolver {
    fn new(inputs: &Inputs) -> Self {
        let path = |text: &Option<Text>| text.as_ref().map_or_else(String::new, |text| text.path.display().to_string());
        Self {
            values: BTreeMap::new(),
            places: Vec::new(),
            mistakes: Vec::new(),
            warnings: Vec::new(),
            config: path(&inputs.config),
            secrets: path(&inputs.secrets),
        }
    }

    fn unknown<'a>(&mut self, what: &str, typed: &str, source: &str, known: impl IntoIterator<Item = &'a str>) {
        let mut line = format!("{source}: unknown {what} `{typed}`");
        if let Some(name) = keys::nearest(typed, known) {
            let _ = write!(line, "; did you mean `{name}`?");
        }
        self.mistakes.push(line);
    }

    fn source(&self, layer: Layer) -> String {
        match layer {
            Layer::File => self.config.clone(),
            Layer::SecretsFile => self.secrets.clone(),
            Layer::Environment => "environment".to_owned(),
            Layer::CommandLine => "command line".to_owned(),
        }
    }

    fn settings(&mut self, inputs: &Inputs) -> Settings {
        Settings {
            database: self.database(),
            service: self.service(),
            repository: self.repository(),
            copies: self.copies(),
            retention: Retention {
                keep_last: self.number("retention.keep_last", 3, 0..=100_000),
                keep_hourly: self.number("retention.keep_hourly", 24, 0..=100_000),
                keep_daily: self.number("retention.keep_daily", 14, 0..=100_000),
                keep_weekly: self.number("retention.keep_weekly", 8, 0..=100_000),
                keep_monthly: self.number("retention.keep_monthly", 24, 0..=100_000),
                keep_yearly: self.number("retention.keep_yearly", 20, 0..=100_000),
                keep_safety_days: self.number("retention.keep_safety_days", 14, 0..=36_500),
            },
            backup: Backup {
                jobs: self.number("backup.jobs", 0, 0..=64),
                chunk_blocks: self.number("backup.chunk_blocks", 128, 16..=131_072),
                compression: self.number("backup.compression", 3, 1..=22),
                extra_files: self.extra_files(),
            },
            migrations: Migrations {
                on_failure: self.on_failure(),
                require_backup: self.flag("migrations.require_backup", true),
                wait: self.number("migrations.wait", 300, 0..=86_400),
            },
            keep_previous: self.number("restore.keep_previous", 1, 1..=100),
            skip_extensions: self.list("restore.skip_extensions").unwrap_or_default(),
            state_dir: self.state_dir(inputs),
            encryption_key: self.secret("encryption_key"),
            release_cookie: self.secret("release_cookie"),
            warnings: Vec::new(),
        }
    }

    fn database(&mut self) -> Database {
        let name = self.identifier("database.name", "teslamate");
        let user = self.identifier("database.user", "teslamate");
        let port = self.number("database.port", 5432, 1..=65_535);
        let mut socket_dir = self.path("database.socket_dir");
        let host = self.text("database.host").filter(|host| !host.is_empty());
        // The address of the stronger source goes. Within one, a socket's directory does, as in TeslaMate.
        let layer = |path| self.values.get(path).map(|(layer, _)| *layer);
        if host.is_some() && layer("database.socket_dir") < layer("database.host") {
            socket_dir = None;
        }
        // As libpq has it, a host that is a path is a directory too.
        let address = match (socket_dir, host) {
            (Some(dir), _) => Address::Socket(dir),
            (None, Some(host)) if host.starts_with('/') => Address::Socket(host.into()),
            (None, Some(host)) => Address::Tcp(host),
            (None, None) => Address::Socket("/run/postgresql".into()),
        };
        let ca = self.path("database.ssl_ca_cert_file");
        let ssl = match self.values.get("database.ssl").map(|(_, value)| value) {
            None | Some(Value::Boolean(false)) => Ssl::Disable,
            Some(Value::Boolean(true)) => Ssl::Verify { ca },
            Some(Value::String(text)) if text == "false" => Ssl::Disable,
            Some(Value::String(text)) if text == "true" => Ssl::Verify { ca },
            Some(Value::String(text)) if text == "noverify" => Ssl::NoVerify,
            Some(_) => {
                self.mistake("database.ssl", "true, false or \"noverify\"");
                Ssl::Disable
            }
        };
        Database {
            name,
            user,
            password: self.secret("database.password"),
            address,
            port: u16::try_from(port).unwrap_or(5432),
            ssl,
            allow_cleartext_password: self.flag("database.allow_cleartext_password", false),
            os_user: self.text("database.os_user"),
            tools: self.path("database.tools"),
        }
    }

    fn on_failure(&mut self) -> OnFailure {
        match self.text("migrations.on_failure").as_deref() {
            None | Some("stop") => OnFailure::Stop,
            Some("restore") => OnFailure::Restore,
            Some(_) => {
                self.mistake("migrations.on_failure", "\"stop\" or \"restore\"");
                OnFailure::Stop
            }
        }
    }

    fn service(&mut self) -> Service {
        let unit = self.text("service.unit").unwrap_or_else(|| "teslamate.service".to_owned());
        let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        if unit.is_empty() || unit.starts_with('-') || !unit.chars().all(plain) {
            self.mistake("service.unit", "the name of a systemd unit");
        }
        // systemctl takes a name without a suffix for a service; so does this.
        let unit = if unit.contains('.') { unit } else { format!("{unit}.service") };
        let stop = self.list("service.stop");
        let start = self.list("service.start");
        if stop.is_some() != start.is_some() {
            let present = if stop.is_some() { "service.stop" } else { "service.start" };
            self.mistake(present, "given together with its counterpart: `service.stop` and `service.start` are a pair");
        }
        Service { unit, executable: self.path("service.executable"), stop, start }
    }

    fn repository(&mut self) -> Option<Repository> {
        let location = self.text("repository.location");
        let password_file = self.path("repository.password_file");
        let environment_file = self.path("repository.environment_file");
        let options = match self.values.get("repository.options").map(|(_, value)| value.clone()) {
            None => BTreeMap::new(),
            Some(value) => string_map(&value).unwrap_or_else(|| {
                self.mistake("repository.options", "a table of strings");
                BTreeMap::new()
            }),
        };
        self.place("repository", location.as_deref(), &options);
        match (location, password_file) {
            (Some(location), Some(password_file)) => {
                Some(Repository { location, password_file, options, environment_file, ..Repository::default() })
            }
            (Some(_), None) if !self.values.contains_key("repository.password_file") => {
                self.mistake("repository.location", "given together with `repository.password_file`");
                None
            }
            (None, Some(_)) => {
                self.mistake("repository.password_file", "given together with `repository.location`");
                None
            }
            _ => None,
        }
    }

    fn place(&mut self, section: &str, location: Option<&str>, options: &BTreeMap<String, String>) {
        if let Some(location) = location {
            let (location, options) = (location.to_owned(), options.clone());
            self.places.push((section.to_owned(), Repository { location, options, ..Repository::default() }));
        }
    }

    fn copies(&mut self) -> Vec<Repository> {
        let Some((layer, value)) = self.values.get("copies").cloned() else { return Vec::new() };
        let tables: Vec<&toml::Table> = value.as_array().into_iter().flatten().filter_map(Value::as_table).collect();
        if value.as_array().is_none_or(|array| array.len() != tables.len()) {
            self.mistake("copies", "an array of tables with `location` and `password_file`");
            return Vec::new();
        }
        let source = self.source(layer);
        let mut copies = Vec::new();
        for (number, table) in tables.into_iter().enumerate() {
            for name in table.keys().filter(|name| !COPY_KEYS.contains(&name.as_str())) {
                self.unknown("key", &format!("copies[{number}].{name}"), &source, None::<&str>);
                if let (Some(near), Some(line)) =
                    (keys::nearest(name, COPY_KEYS.iter().copied()), self.mistakes.last_mut())
                {
                    let _ = write!(line, "; did you mean `{near}`?");
                }
            }
            let text = |name: &str| table.get(name).and_then(Value::as_str);
            let options = table.get("options").map_or_else(|| Some(BTreeMap::new()), string_map);
            let path = |name: &str| text(name).filter(|path| path.starts_with('/')).map(PathBuf::from);
            self.place(&format!("copies[{number}]"), text("location"), options.as_ref().unwrap_or(&BTreeMap::new()));
            let named = path("environment_file").is_some() || !table.contains_key("environment_file");
            match (text("location"), path("password_file"), options) {
                (Some(location), Some(password_file), Some(options)) if named => copies.push(Repository {
                    location: location.to_owned(),
                    password_file,
                    environment_file: path("environment_file"),
                    options,
                    ..Repository::default()
                }),
                _ => self.mistakes.push(format!(
                    "{source}: `copies[{number}]` must have `location` and `password_file` (an absolute path), one in \
                     `environment_file` if it is there, and strings in `options`"
                )),
            }
        }
        copies
    }

    fn extra_files(&mut self) -> Vec<PathBuf> {
        let files: Vec<PathBuf> =
            self.list("backup.extra_files").unwrap_or_default().into_iter().map(PathBuf::from).collect();
        if files.iter().any(|file| !file.is_absolute()) {
            self.mistake("backup.extra_files", "an array of absolute paths");
        }
        files
    }

    fn state_dir(&mut self, inputs: &Inputs) -> PathBuf {
        if let Some(dir) = self.path("state_dir") {
            return dir;
        }
        // systemd joins several directories with colons; the first is the unit's own.
        let from_systemd = inputs.state_directory.as_deref().and_then(|dirs| dirs.split(':').next());
        PathBuf::from(from_systemd.filter(|dir| dir.starts_with('/')).unwrap_or("/var/lib/glovebox"))
    }

    fn finish(mut self, settings: Settings) -> Result<Settings> {
        for (path, (_, value)) in &mut self.values {
            if let (Some(Form::Secret), Value::String(text)) = (keys::by_path(path).map(|key| key.form), value) {
                text.zeroize();
            }
        }
        if self.mistakes.is_empty() {
            return Ok(Settings { warnings: self.warnings, ..settings });
        }
        let count = self.mistakes.len();
        let plural = if count == 1 { "one mistake" } else { &format!("{count} mistakes") };
        Err(Error::new(Kind::Usage, format!("the settings have {plural}"))
            .with("where", self.mistakes.join("\n"))
            .with("state", "nothing was read, nothing was written"))
    }
}

fn string_map(value: &Value) -> Option<BTreeMap<String, String>> {
    let table = value.as_table()?;
    table.iter().map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests;
