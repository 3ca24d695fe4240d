//! Reading the sources of settings, the weakest first: the configuration file, the secrets file, the environment, the
//! command line.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Value;

use super::Resolver;
use crate::settings::inputs::Text;
use crate::settings::keys::{self, Form, KEYS, Key};
use crate::settings::{Inputs, Layer, Secret, secrets};

impl Resolver {
    pub(super) fn read_layers(&mut self, inputs: &Inputs) {
        if let Some(text) = &inputs.config {
            self.read_file(&text.bytes);
        }
        if let Some(text) = &inputs.secrets {
            let parsed = self.parse(text);
            let values = parsed.assignments.iter().map(|(name, value)| (name.as_str(), value.expose()));
            self.read_variables(Layer::SecretsFile, values);
        }
        let variables = inputs.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        self.read_variables(Layer::Environment, variables);
        for (path, value) in &inputs.command_line {
            if let Some(key) = keys::by_path(path) {
                self.values.insert(key.path, (Layer::CommandLine, Value::String(value.clone())));
            }
        }
    }

    /// Reads a file of secrets; what is wrong with it is noted.
    fn parse(&mut self, text: &Text) -> secrets::Parsed {
        if text.public && !is_credential(&text.path) {
            self.warnings.push(format!(
                "the secrets file {} can be read by every account on this machine: chmod 0600 it",
                text.path.display()
            ));
        }
        let parsed = secrets::parse(&text.bytes);
        for problem in &parsed.problems {
            let line = format!("{}:{}: {}", text.path.display(), problem.line, problem.message);
            // systemd would not start a unit with such a file; a line that it only ignores is worth a warning.
            if parsed.refused {
                self.mistakes.push(line);
            } else {
                self.warnings.push(line);
            }
        }
        parsed
    }

    /// The credentials of a repository's storage: its own file's go before those of the environment.
    pub(super) fn storage(&mut self, inputs: &Inputs, file: Option<&Path>) -> BTreeMap<String, Secret> {
        let environment = inputs.storage.iter().map(|(name, value)| (name.clone(), Secret::from(value.clone())));
        let mut variables: BTreeMap<String, Secret> = environment.collect();
        if let Some(text) = file.and_then(|path| inputs.environment_files.get(path)) {
            variables.extend(self.parse(text).assignments);
        }
        variables
    }

    fn read_file(&mut self, bytes: &[u8]) {
        let Ok(text) = std::str::from_utf8(bytes) else {
            self.mistakes.push(format!("{}: is not UTF-8 text", self.config));
            return;
        };
        match toml::from_str::<toml::Table>(text) {
            Ok(table) => self.read_table("", &table),
            Err(cause) => {
                // The message alone: the full rendering quotes the line, which may hold a misplaced secret.
                let line = cause.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
                self.mistakes.push(format!("{}:{line}: {}", self.config, cause.message()));
            }
        }
    }

    fn read_table(&mut self, prefix: &str, table: &toml::Table) {
        for (name, value) in table {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            if let Some(key) = keys::by_path(&path) {
                if key.form == Form::Secret {
                    self.mistakes.push(format!(
                        "{}: `{path}` is a secret and does not belong in this file: set {} in the secrets file",
                        self.config, key.env
                    ));
                } else {
                    self.values.insert(key.path, (Layer::File, value.clone()));
                }
            } else if let (Value::Table(inner), true) = (value, is_section(&path)) {
                self.read_table(&path, inner);
            } else if is_section(&path) {
                self.mistakes.push(format!("{}: `{path}` must be a section of settings: [{path}]", self.config));
            } else {
                let known = KEYS.iter().filter(|key| key.form != Form::Secret).map(|key| key.path);
                let sections = KEYS.iter().filter_map(|key| key.path.split_once('.')).map(|(section, _)| section);
                let source = self.config.clone();
                self.unknown("key", &path, &source, known.chain(sections));
            }
        }
    }

    fn read_variables<'a>(&mut self, layer: Layer, variables: impl Iterator<Item = (&'a str, &'a str)>) {
        for (name, text) in variables {
            let Some(key) = KEYS.iter().find(|key| key.env == name) else {
                // TeslaMate's file holds much that is not ours; only our own prefix can be a slip.
                if name.starts_with("GLOVEBOX_") {
                    let source = self.source(layer);
                    self.unknown("variable", name, &source, KEYS.iter().map(|key| key.env));
                }
                continue;
            };
            // An empty variable is what a shell or a unit file has for "not set".
            if text.is_empty() {
                continue;
            }
            match from_variable(key, text) {
                Ok(value) => {
                    self.values.insert(key.path, (layer, value));
                }
                Err(wanted) => self.mistakes.push(format!("{}: `{name}` must be {wanted}", self.source(layer))),
            }
        }
    }
}

/// `$CREDENTIALS_DIRECTORY` is private to the unit whatever the mode of the files in it.
fn is_credential(path: &Path) -> bool {
    path.starts_with("/run/credentials")
}

fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// Reads a variable: structured values are JSON, since the environment has no arrays.
fn from_variable(key: &Key, text: &str) -> std::result::Result<Value, &'static str> {
    let json = |wanted| serde_json::from_str::<Value>(text).map_err(|_| wanted);
    match key.form {
        Form::Text | Form::Secret | Form::Number | Form::Flag | Form::Ssl => Ok(Value::String(text.to_owned())),
        Form::List => json("a JSON array of strings"),
        Form::Map => json("a JSON object of strings"),
        Form::Tables => json("a JSON array of objects"),
    }
}
