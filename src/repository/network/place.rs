//! A network location with its options and credentials, in restic's words.
//!
//! Source: restic's manual, "Preparing a new repository", and its "Environment Variables".

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use crate::error::{Error, Kind as ErrorKind, Result};
use crate::repository::Location;
use crate::repository::mistake::Mistake;
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
    /// [`ErrorKind::Usage`] for an option that there is not, or one with a value that makes no sense.
    pub(super) fn parse(settings: &settings::Repository) -> Result<Self> {
        let (place, mistakes) = Self::read(settings);
        mistakes.into_iter().next().map_or(Ok(place), |first| Err(first.into()))
    }

    /// The place, and everything that is wrong with its options.
    pub(super) fn read(settings: &settings::Repository) -> (Self, Vec<Mistake>) {
        let location = Location::Network(settings.location.clone());
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
        let (rest, shown) = (rest.to_owned(), location.to_string());
        let mut place = Self { kind, rest, timeout: TIMEOUT, options, environment, shown };
        let mut mistakes = Vec::new();
        for name in place.options.keys() {
            if let Err(error) = place.judge(scheme, name) {
                mistakes.push(Mistake::in_options(error));
            }
        }
        place.timeout = place.option("timeout").and_then(duration).unwrap_or(TIMEOUT);
        (place, mistakes)
    }

    /// Whether there is this option, and its value makes sense as far as that shows here.
    fn judge(&self, scheme: &str, name: &str) -> Result<()> {
        let known = || self.kind.options().iter().copied().chain(["timeout"]);
        if !known().any(|known| known == name) {
            let error = self.mistake(&format!("`{name}` is no option of {scheme}: repositories"));
            return Err(match settings::keys::nearest(name, known()) {
                Some(near) => error.hint(format!("Did you mean `{near}`?")),
                None => error.hint(format!("Their options are: {}.", known().collect::<Vec<_>>().join(", "))),
            });
        }
        let Some(value) = self.option(name) else { return Ok(()) };
        let wanted = match name {
            "timeout" if duration(value).is_none() => "a time from 1 second on, such as `90s` or `10m`",
            "port" if value.parse::<NonZeroU16>().is_err() => "a number from 1 to 65535",
            "program" if !value.starts_with('/') => "an absolute path",
            _ => return Ok(()),
        };
        Err(self.mistake(&format!("the option `{name}` must be {wanted}")))
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
