//! The password of a repository, from its file.
//!
//! restic takes the whole file without white space around it, others its first line. What `init` accepts here, all
//! of them read alike.

use std::path::Path;

use zeroize::Zeroizing;

use crate::error::{Context, Error, Kind, Result};
use crate::settings::Secret;

/// The shortest password that a new repository gets, in characters.
const SHORTEST: usize = 20;

/// Reads the first line of the file, for a repository that exists.
///
/// # Errors
/// [`Kind::Refused`] if the file cannot be read or its first line is empty.
pub(super) fn read(path: &Path) -> Result<Secret> {
    Ok(first_line(path)?.0)
}

/// The same for a new repository, whose password has to last.
///
/// # Errors
/// [`Kind::Refused`] also for one of fewer than 20 characters, or one that restic would read differently.
pub(super) fn read_for_new(path: &Path) -> Result<Secret> {
    let (password, more) = first_line(path)?;
    let length = password.expose().chars().count();
    let reason = if length < SHORTEST {
        format!("has {length} characters, fewer than {SHORTEST}")
    } else if more {
        "is followed by more text, which restic would take for a part of it".to_owned()
    } else if password.expose().trim() != password.expose() {
        "begins or ends with white space, which restic would leave out".to_owned()
    } else {
        return Ok(password);
    };
    Err(refused(path, &format!("the password in {} {reason}", path.display()))
        .hint("Make one with `openssl rand -base64 32`, and keep a copy away from this machine."))
}

fn first_line(path: &Path) -> Result<(Secret, bool)> {
    let bytes = std::fs::read(path)
        .context(Kind::Refused, format!("cannot read the password file {}", path.display()))
        .map(Zeroizing::new)
        .map_err(|error| error.with("state", "nothing was touched"))?;
    let text = std::str::from_utf8(&bytes)
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

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_first_line_is_the_password() {
        for text in ["one-two-three-four-five", "one-two-three-four-five\n", "one-two-three-four-five\r\n"] {
            assert_eq!(read_for_new(file(text).path()).unwrap().expose(), "one-two-three-four-five");
        }
        assert_eq!(read(file("short\nmore").path()).unwrap().expose(), "short");
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
            let error = read_for_new(file(text).path()).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused);
            assert!(error.to_string().contains(reason) && !error.to_string().contains("c4nary"), "{error}");
        }
        let missing = read(Path::new("/nowhere/password")).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/password") && missing.contains("No such file"), "{missing}");
    }
}
