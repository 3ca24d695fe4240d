//! Which servers the application works with.
//!
//! Source: TeslaMate's release notes and documentation, "Requirements": since 2.0 PostgreSQL 16.7, 17.3, or 18.

use super::release::Release;
use crate::database::version_text;
use crate::error::{Error, Kind, Result};

/// The oldest minor release of each major one, as `server_version_num` counts; a newer major release needs none.
const OLDEST: [u32; 2] = [160_007, 170_003];

/// The first release of the application that asks for these.
const SINCE: (u32, u32) = (2, 0);

/// Whether the server is new enough for the release. One that does not say its version is taken for a present one.
///
/// # Errors
/// [`Kind::Refused`] if it is not.
pub fn check(release: &Release, server: u32) -> Result<()> {
    let is_older = release.version.as_deref().and_then(numbers).is_some_and(|version| version < SINCE);
    if is_older || suffices(server) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Refused,
        format!("PostgreSQL {} is too old for the application ({})", version_text(server), release.called()),
    )
    .with("needed", "16.7, 17.3 or 18, or a newer one")
    .with("state", "nothing was changed, the application is not started")
    .hint("Back up with `teslamate-backup`, then upgrade the server; docs/migrations.md shows how."))
}

fn suffices(server: u32) -> bool {
    let newest = OLDEST.iter().map(|version| version / 10_000).max().unwrap_or(0);
    server / 10_000 > newest || OLDEST.iter().any(|oldest| oldest / 10_000 == server / 10_000 && server >= *oldest)
}

/// The first two numbers of a version.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_major_release_has_its_own_oldest_minor_one() {
        for (server, is_enough) in [
            (150_013, false),
            (160_006, false),
            (160_007, true),
            (170_002, false),
            (170_003, true),
            (180_000, true),
            (190_001, true),
        ] {
            assert_eq!(suffices(server), is_enough, "{server}");
        }
    }

    #[test]
    fn an_older_application_asks_for_less() {
        let release = |version: &str| Release {
            executable: "/x".into(),
            version: Some(version.to_owned()),
            migrations: std::collections::BTreeMap::new(),
        };
        assert!(check(&release("1.33.0"), 150_013).is_ok());
        let error = check(&release("2.1.0-dev"), 150_013).unwrap_err();
        assert!(error.to_string().contains("16.7") && error.to_string().contains("15.13"), "{error}");
        assert!(check(&release("what"), 150_013).is_err());
    }
}
