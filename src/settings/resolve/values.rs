//! The strongest value of a key, as what it has to be; what it is not is a mistake, noted with where it was made.

use std::path::PathBuf;

use toml::Value;

use super::Resolver;
use crate::settings::Secret;
use crate::settings::keys;

impl Resolver {
    pub(super) fn mistake(&mut self, path: &'static str, wanted: &str) {
        let Some((layer, _)) = self.values.get(path) else { return };
        let name = keys::by_path(path).map_or(path, |key| keys::name_in(key, *layer));
        let line = format!("{}: `{name}` must be {wanted}", self.source(*layer));
        self.mistakes.push(line);
    }

    pub(super) fn text(&mut self, path: &'static str) -> Option<String> {
        let value = self.values.get(path)?.1.as_str().map(str::to_owned);
        match value {
            Some(text) if text.contains('\0') => {
                self.mistake(path, "free of NUL characters");
                None
            }
            Some(text) => Some(text),
            None => {
                self.mistake(path, "a string");
                None
            }
        }
    }

    pub(super) fn secret(&mut self, path: &'static str) -> Option<Secret> {
        self.text(path).map(Secret::from)
    }

    /// An identifier of PostgreSQL, which may hold anything but NUL, at most 63 bytes of it.
    pub(super) fn identifier(&mut self, path: &'static str, default: &str) -> String {
        let name = self.text(path).unwrap_or_else(|| default.to_owned());
        if name.is_empty() || name.len() > 63 || name.contains(['\n', '\r']) {
            self.mistake(path, "a name of 1 to 63 bytes without line breaks");
        }
        name
    }

    pub(super) fn path(&mut self, path: &'static str) -> Option<PathBuf> {
        let value = PathBuf::from(self.text(path)?);
        if value.is_absolute() {
            return Some(value);
        }
        self.mistake(path, "an absolute path");
        None
    }

    pub(super) fn number(&mut self, path: &'static str, default: u32, range: std::ops::RangeInclusive<u32>) -> u32 {
        let value = match self.values.get(path) {
            None => return default,
            Some((_, Value::Integer(number))) => u32::try_from(*number).ok(),
            Some((_, Value::String(text))) => text.parse().ok(),
            Some(_) => None,
        };
        if let Some(number) = value.filter(|number| range.contains(number)) {
            number
        } else {
            self.mistake(path, &format!("a whole number from {} to {}", range.start(), range.end()));
            default
        }
    }

    pub(super) fn flag(&mut self, path: &'static str, default: bool) -> bool {
        let value = match self.values.get(path).map(|(_, value)| value) {
            None => return default,
            Some(Value::Boolean(value)) => Some(*value),
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        value.unwrap_or_else(|| {
            self.mistake(path, "true or false");
            default
        })
    }

    pub(super) fn list(&mut self, path: &'static str) -> Option<Vec<String>> {
        let items = self.values.get(path)?.1.as_array().cloned().unwrap_or_default();
        let texts: Vec<String> = items.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if texts.is_empty() || texts.len() != items.len() {
            self.mistake(path, "an array of strings that is not empty");
            return None;
        }
        Some(texts)
    }
}
