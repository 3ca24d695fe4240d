//! The password of a repository, from its file.
//!
//! restic takes the whole file without white space around it, others its first line. What `init` accepts here, all
//! of them read alike.

use std::path::Path;

use zeroize::Zeroizing;

use crate::bounded;
use crate::error::{Context, Error, Kind, Result};
use crate::settings::{self, Secret};

/// The shortest password that a new repository gets, in characters.
const SHORTEST: usize = 20;

/// The longest file with a password, in bytes.
const LONGEST: u64 = 64 * 1024;

/// The first line of the password's file, for a repository that exists.
///
/// # Errors
/// [`Kind::Refused`] if the file cannot be read or its first line is empty.
pub(super) fn read(settings: &settings::Repository) -> Result<Secret> {
    Ok(first_line(&settings.password_file, &text(settings)?)?.0)
}

/// The same for a new repository, whose password has to last.
///
/// # Errors
/// [`Kind::Refused`] also for one of fewer than 20 characters, or one that restic would read differently.
pub(super) fn read_for_new(settings: &settings::Repository) -> Result<Secret> {
    fit_for_new(&settings.password_file, &text(settings)?)
}

/// A new password, from the bytes of this file.
///
/// # Errors
/// As [`read_for_new`].
pub(super) fn fit_for_new(path: &Path, bytes: &[u8]) -> Result<Secret> {
    let (password, more) = first_line(path, bytes)?;
    let length = password.expose().chars().count();
    let reason = if length < SHORTEST {
        format!("has {length} characters, fewer than {SHORTEST}")
    } else if more {
        "is followed by more text, which restic would take for a part of it".to_owned()
    } else if password.expose().starts_with('\u{feff}') {
        "begins with a byte order mark, which restic would leave out".to_owned()
    } else if password.expose().trim() != password.expose() {
        "begins or ends with white space, which restic would leave out".to_owned()
    } else {
        return Ok(password);
    };
    Err(refused(path, &format!("the password in {} {reason}", path.display()))
        .hint("Make one with `openssl rand -base64 32`, and keep a copy away from this machine."))
}

/// What is in the file, as far as it was not read with the caller's rights.
fn text(settings: &settings::Repository) -> Result<Zeroizing<Vec<u8>>> {
    let path = &settings.password_file;
    let bytes = match &settings.password {
        Some(text) => Ok(text.expose().as_bytes().to_vec()),
        None => bounded::any(path, LONGEST),
    };
    bytes
        .context(Kind::Refused, format!("cannot read the password file {}", path.display()))
        .map(Zeroizing::new)
        .map_err(|error| error.with("state", "nothing was touched"))
}

fn first_line(path: &Path, bytes: &[u8]) -> Result<(Secret, bool)> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| refused(path, &format!("the password file {} is not UTF-8 text", path.display())))?;
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(refused(path, &format!("the first line of the password file {} is empty", path.display())));
    }
    Ok((Secret::from(line.to_owned()), !rest.trim().is_empty()))
}

fn refused(path: &Path, message: &str) -> Error {
    Error::new(Kind::Refused, message).with("file", path.display()).with("state", "nothing was touched")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &Path) -> settings::Repository {
        settings::Repository { location: "/x".into(), password_file: path.to_owned(), ..Default::default() }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_first_line_is_the_password() {
        for text in ["one-two-three-four-five", "one-two-three-four-five\n", "one-two-three-four-five\r\n"] {
            assert_eq!(read_for_new(&at(file(text).path())).unwrap().expose(), "one-two-three-four-five");
        }
        assert_eq!(read(&at(file("short\nmore").path())).unwrap().expose(), "short");
    }

    #[test]
    fn what_was_read_with_the_callers_rights_comes_first() {
        let settings = settings::Repository { password: Some("given\n".to_owned().into()), ..at("/nowhere".as_ref()) };
        assert_eq!(read(&settings).unwrap().expose(), "given");
    }

    #[test]
    fn r38_a_new_repository_gets_no_weak_or_ambiguous_password() {
        for (text, reason) in [
            ("", "is empty"),
            ("\none-two-three-four-five", "is empty"),
            ("c4nary", "has 6 characters, fewer than 20"),
            ("c4nary-c4nary-c4nary-c4nary\nmore", "more text"),
            (" c4nary-c4nary-c4nary-c4nary", "white space"),
        ] {
            let error = read_for_new(&at(file(text).path())).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused);
            assert!(error.to_string().contains(reason) && !error.to_string().contains("c4nary"), "{error}");
        }
        let missing = read(&at(Path::new("/nowhere/password"))).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/password") && missing.contains("No such file"), "{missing}");
    }
}
