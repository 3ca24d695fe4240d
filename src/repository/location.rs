//! Where a repository lies: a directory, or a URL in restic's words.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// The schemes that name a place behind a network.
const NETWORK: [&str; 4] = ["sftp", "s3", "rest", "rclone"];

/// A parsed `location`. Neither `Display` nor `Debug` shows a password in it.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// An absolute directory.
    Directory(PathBuf),
    /// `sftp:`, `s3:`, `rest:` or `rclone:`, as it was written.
    Network(String),
}

impl Location {
    /// Reads `location` as the settings have it.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a relative directory or an unknown scheme.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some((scheme, _)) = text.split_once(':')
            && NETWORK.contains(&scheme)
        {
            return Ok(Self::Network(text.to_owned()));
        }
        let path = Path::new(text.strip_prefix("local:").unwrap_or(text));
        if path.is_absolute() {
            return Ok(Self::Directory(path.to_path_buf()));
        }
        // What was not understood may hold a password: only its scheme is repeated.
        let shown = text.split_once(':').map_or_else(|| redact(text), |(scheme, _)| format!("{scheme}:…"));
        Err(Error::new(Kind::Usage, format!("`{shown}` is no location of a repository"))
            .hint("Give an absolute directory, or a location that begins with sftp:, s3:, rest: or rclone:."))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(formatter, "{}", path.display()),
            Self::Network(text) => formatter.write_str(&redact(text)),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Location({self})")
    }
}

/// The same without what may be secret: everything before the last `@` but the scheme, and a query.
fn redact(text: &str) -> String {
    let (text, query) = text.split_once('?').map_or((text, ""), |(text, _)| (text, "?***"));
    let shown = match text.rsplit_once('@') {
        None => text.to_owned(),
        Some((before, host)) => {
            let scheme_end = before.find("//").map(|at| at + 2).or_else(|| before.find(':').map(|at| at + 1));
            format!("{}***@{host}", scheme_end.and_then(|end| before.get(..end)).unwrap_or_default())
        }
    };
    shown + query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_restics_schemes_are_recognised() {
        assert_eq!(Location::parse("/srv/x").unwrap(), Location::Directory("/srv/x".into()));
        assert_eq!(Location::parse("local:/srv/x").unwrap(), Location::Directory("/srv/x".into()));
        for text in ["sftp:host:/x", "s3:https://host/bucket", "rest:https://host/", "rclone:remote:x"] {
            assert_eq!(Location::parse(text).unwrap(), Location::Network(text.into()));
        }
        for text in ["srv/x", "", "ftp:c4nary@host"] {
            let error = Location::parse(text).unwrap_err();
            assert!(error.kind() == Kind::Usage && !error.to_string().contains("c4nary"), "{error}");
        }
    }

    #[test]
    fn r87_no_password_of_a_location_is_shown() {
        for (text, shown) in [
            ("rest:https://user:c4n@ry@host/path", "rest:https://***@host/path"),
            ("sftp:user:c4nary@host:/x", "sftp:***@host:/x"),
            ("s3:https://host/bucket?key=c4nary", "s3:https://host/bucket?***"),
        ] {
            let location = Location::parse(text).unwrap();
            assert_eq!(location.to_string(), shown);
            assert!(!format!("{location:?}").contains("c4n"));
        }
    }
}
