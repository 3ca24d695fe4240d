//! What is wrong with a repository as it was set: told by the code that opens it, before anything is opened.

use super::location::Location;
use super::remote;
use crate::error::{Error, Kind};
use crate::settings;

/// Something in a setting of a repository that makes no sense.
#[derive(Clone, Debug)]
pub struct Mistake {
    /// `location` or `options`.
    pub setting: &'static str,
    error: Error,
}

impl Mistake {
    pub(super) fn in_location(error: Error) -> Self {
        Self { setting: "location", error }
    }

    pub(super) fn in_options(error: Error) -> Self {
        Self { setting: "options", error }
    }

    /// What is wrong, and what to write instead, on one line. Holds no value of an option, and no password of a location.
    #[must_use]
    pub fn sentence(&self) -> String {
        let cause = self.error.detail("cause").map(|cause| format!(": {cause}")).unwrap_or_default();
        let what = format!("{}{cause}", self.error.message());
        let sentences: Vec<&str> =
            std::iter::once(what.as_str()).chain(self.error.hints().iter().map(String::as_str)).collect();
        sentences.join(". ")
    }
}

impl From<Mistake> for Error {
    fn from(mistake: Mistake) -> Self {
        mistake.error
    }
}

/// Everything that is wrong with the location and the options of a repository. Opens no file, asks nobody, and needs no
/// credentials.
#[must_use]
pub fn mistakes(settings: &settings::Repository) -> Vec<Mistake> {
    match Location::parse(&settings.location) {
        // Which options there are depends on it.
        Err(error) => vec![Mistake::in_location(error)],
        Ok(location @ Location::Directory(_)) => of_directory(&location, settings),
        Ok(Location::Network(_)) => remote::mistakes(settings),
    }
}

/// What is wrong with the options of a repository in a directory: that there are any.
///
/// The storage library has some for itself, which would start programs with every file.
pub(super) fn of_directory(location: &Location, settings: &settings::Repository) -> Vec<Mistake> {
    let refused = |name: &String| {
        Error::new(Kind::Usage, format!("`{name}` is no option of a repository in a directory"))
            .with("location", location)
            .with("state", "nothing was touched")
            .hint("It has none: take it out.")
    };
    settings.options.keys().map(|name| Mistake::in_options(refused(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(location: &str, options: &[(&str, &str)]) -> Vec<(&'static str, String)> {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let settings = settings::Repository { location: location.to_owned(), options, ..Default::default() };
        mistakes(&settings).iter().map(|mistake| (mistake.setting, mistake.sentence())).collect()
    }

    #[test]
    fn a_directory_has_no_options_and_anything_else_is_no_location() {
        assert_eq!(told("/srv/x", &[]), []);
        let told_of = told("/srv/x", &[("post-create-command", "c4nary"), ("timeout", "5m")]);
        assert!(told_of.len() == 2 && told_of.iter().all(|(setting, _)| *setting == "options"), "{told_of:?}");
        assert!(!format!("{told_of:?}").contains("c4nary"), "{told_of:?}");
        let told_of = told("srv/x", &[("timeout", "5m")]);
        assert!(told_of.len() == 1 && told_of[0].0 == "location", "{told_of:?}");
    }

    #[cfg(feature = "network")]
    #[test]
    fn what_is_behind_a_network_is_judged_without_files_programs_and_credentials() {
        for (location, options) in [
            ("s3:https://host/bucket", &[("region", "x"), ("cacert", "/nowhere/ca.pem"), ("timeout", "5m")][..]),
            ("s3:host/bucket", &[("enable_virtual_host_style", "true"), ("disable_config_load", "false")]),
            ("sftp:user@host:/x", &[("identity_file", "/nowhere/key"), ("port", "2222"), ("timeout", "")]),
            ("sftp://host:2222//x", &[("ssh_config", "/nowhere/config"), ("known_hosts_file", "/nowhere/hosts")]),
            ("rest:https://user@host:8000/x/", &[("cacert", "/nowhere/ca.pem")]),
            ("rclone:remote:x", &[("program", "/nowhere/rclone")]),
        ] {
            assert_eq!(told(location, options), [], "{location}");
        }
    }

    #[cfg(feature = "network")]
    #[test]
    fn r87_every_mistake_is_told_with_its_setting_and_without_a_value() {
        for (location, options, expected) in [
            ("s3:nonsense", &[][..], &[("location", "like this: s3:https://")][..]),
            (
                "s3:nonsense",
                &[("regoin", "c4nary"), ("timeout", "c4nary")],
                &[("options", "did you mean `region`?"), ("options", "`timeout` must be"), ("location", "a bucket")],
            ),
            ("s3:host/bucket", &[("enable_virtual_host_style", "yes")], &[("options", "enable_virtual_host_style")]),
            ("s3:host/bucket", &[("checksum_algorithm", "x")], &[("options", "checksum_algorithm")]),
            ("sftp:c4nary@host", &[("port", "0")], &[("options", "`port` must be"), ("location", "a host and a path")]),
            ("sftp://host:99999//x", &[], &[("location", "the port")]),
            ("rest:c4nary", &[("region", "x")], &[("options", "cacert, timeout"), ("location", "a URL")]),
            ("rclone:", &[("program", "rclone")], &[("options", "an absolute path"), ("location", "as rclone has it")]),
        ] {
            let told = told(location, options);
            assert_eq!(told.len(), expected.len(), "{location}: {told:?}");
            for ((setting, words), (wanted, part)) in told.iter().zip(expected) {
                let is_said = words.to_lowercase().contains(&part.to_lowercase());
                assert!(setting == wanted && is_said && !words.contains("c4nary"), "{location}: {told:?}");
            }
        }
    }
}
