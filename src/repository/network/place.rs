//! A network location with its options and credentials, in restic's words.
//!
//! Source: restic's manual, "Preparing a new repository", and its "Environment Variables".

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{Error, Kind as ErrorKind, Result};
use crate::repository::Location;
use crate::settings::{self, Secret};

/// How long nothing may get done, unless the option `timeout` says otherwise.
const TIMEOUT: Duration = Duration::from_mins(10);

/// How a place is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Rest,
    Rclone,
    S3,
    Sftp,
}

impl Kind {
    /// Its options beside `timeout`. One that is not there is a mistake, not a wish that nobody hears.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Rest => &["cacert"],
            Self::Rclone => &["program"],
            Self::S3 => &[
                "access_key_id",
                "secret_access_key",
                "session_token",
                "region",
                "endpoint",
                "bucket",
                "root",
                "cacert",
                "default_storage_class",
                "server_side_encryption",
                "server_side_encryption_aws_kms_key_id",
                "enable_virtual_host_style",
                "disable_config_load",
                "role_arn",
                "external_id",
                "checksum_algorithm",
            ],
            Self::Sftp => &["identity_file", "known_hosts_file", "ssh_config", "port"],
        }
    }
}

/// A place, not asked yet. No `Debug`: nearly all of it may be secret.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) kind: Kind,
    /// What follows the scheme.
    pub(super) rest: String,
    pub(super) timeout: Duration,
    options: BTreeMap<String, Secret>,
    environment: BTreeMap<String, Secret>,
    /// For messages.
    shown: String,
}

impl Place {
    /// # Errors
    /// [`ErrorKind::Usage`] for an option that there is not.
    pub(super) fn parse(settings: &settings::Repository) -> Result<Self> {
        let shown = Location::parse(&settings.location)?.to_string();
        let (scheme, rest) = settings.location.split_once(':').unwrap_or_default();
        let kind = match scheme {
            "rest" => Kind::Rest,
            "rclone" => Kind::Rclone,
            "s3" => Kind::S3,
            _ => Kind::Sftp,
        };
        let options =
            settings.options.iter().map(|(name, value)| (name.clone(), Secret::from(value.clone()))).collect();
        let environment = settings.environment.clone();
        let mut place = Self { kind, rest: rest.to_owned(), timeout: TIMEOUT, options, environment, shown };
        let known = || kind.options().iter().copied().chain(["timeout"]);
        if let Some(name) = place.options.keys().find(|name| !known().any(|known| known == *name)) {
            let error = place.mistake(&format!("`{name}` is no option of a repository behind {scheme}:"));
            return Err(match settings::keys::nearest(name, known()) {
                Some(near) => error.hint(format!("Did you mean `{near}`?")),
                None => error.hint(format!("Its options are: {}.", known().collect::<Vec<_>>().join(", "))),
            });
        }
        if let Some(text) = place.option("timeout") {
            place.timeout = duration(text).ok_or_else(|| {
                place.mistake("the option `timeout` must be a time from 1 second on, such as `90s` or `10m`")
            })?;
        }
        Ok(place)
    }

    /// An option that has a value.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(Secret::expose).filter(|value| !value.is_empty())
    }

    /// A variable that has a value.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(Secret::expose).filter(|value| !value.is_empty())
    }

    /// The variables whose name begins so.
    pub(super) fn variables(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        let all = self.environment.iter().map(|(name, value)| (name.as_str(), value.expose()));
        all.filter(move |(name, _)| name.starts_with(prefix))
    }

    pub(super) fn options(&self) -> impl Iterator<Item = (&str, &str)> {
        self.options.iter().map(|(name, value)| (name.as_str(), value.expose()))
    }

    /// For what was set wrongly.
    pub(super) fn mistake(&self, message: &str) -> Error {
        Error::new(ErrorKind::Usage, message).with("location", &self.shown).with("state", "nothing was touched")
    }
}

/// `90s`, `10m`, `2h`; a number alone is seconds.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let number: u64 = digits.trim().parse().ok()?;
    let seconds = match text.get(digits.len()..)? {
        "" | "s" => number,
        "m" | "min" => number.checked_mul(60)?,
        "h" => number.checked_mul(3600)?,
        _ => return None,
    };
    (1..=7 * 86_400).contains(&seconds).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(location: &str, options: &[(&str, &str)]) -> settings::Repository {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        settings::Repository { location: location.to_owned(), options, ..Default::default() }
    }

    #[test]
    fn times_are_read_with_their_unit() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200)] {
            assert_eq!(duration(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "0", "m", "-1s", "1.5m", "10 days", "99999999999999999999s", "9999h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn r87_an_option_that_there_is_not_is_named_without_its_value() {
        let refused = |options| Place::parse(&at("s3:https://host/bucket", options)).err().unwrap().to_string();
        let text = refused(&[("acess_key_id", "c4nary")]);
        assert!(text.contains("`acess_key_id` is no option") && text.contains("`access_key_id`?"), "{text}");
        assert!(!text.contains("c4nary"), "{text}");
        assert!(refused(&[("timeout", "c4nary")]).contains("such as `90s`"));
        let place = Place::parse(&at("rest:https://host/", &[("timeout", "5s")])).ok().unwrap();
        assert_eq!((place.kind, place.timeout), (Kind::Rest, Duration::from_secs(5)));
    }
}
