//! The application's release: which migrations it has, found without starting it.
//!
//! Source: Elixir documentation, "mix release", the structure of a release; Ecto SQL documentation, "Ecto.Migrator": a
//! migration is a file `VERSION_NAME.exs` in `priv/repo/migrations`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::backup::surroundings;
use crate::error::{Context, Error, Kind, Result};

/// A release, as it lies on the disk.
#[derive(Clone, Debug)]
pub struct Release {
    /// Its start script.
    pub executable: PathBuf,
    /// Such as `2.2.0`, where it says so.
    pub version: Option<String>,
    /// The names of its migrations, by version.
    pub migrations: BTreeMap<i64, String>,
}

impl Release {
    /// The release that this start script belongs to.
    ///
    /// # Errors
    /// [`Kind::Refused`] if there are no migrations where a release has them.
    pub fn of(executable: &Path) -> Result<Self> {
        let refused = |what: String| {
            Error::new(Kind::Refused, what)
                .with("executable", executable.display())
                .with("state", "nothing was changed")
                .hint("Set `service.executable` to the start script of the application's release, `bin/teslamate` in its package.")
        };
        let real = executable
            .canonicalize()
            .map_err(|cause| refused("there is no release of the application".to_owned()).with("cause", cause))?;
        let root = real.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        let version = surroundings::release(&real);
        let directories = migration_directories(root, version.as_deref());
        let [directory] = directories.as_slice() else {
            let what = match directories.len() {
                0 => "the release has no migrations (lib/teslamate-*/priv/repo/migrations)".to_owned(),
                count => format!("there are {count} releases in one place, and nothing says which one starts"),
            };
            return Err(refused(what).with("looked in", root.display()));
        };
        let migrations = read(directory)?;
        if migrations.is_empty() {
            return Err(refused(format!("{} holds no migration", directory.display())));
        }
        Ok(Self { executable: executable.to_owned(), version, migrations })
    }

    /// The newest migration.
    #[must_use]
    pub fn newest(&self) -> i64 {
        self.migrations.keys().next_back().copied().unwrap_or(0)
    }

    /// As people call it: `release 2.2.0`.
    #[must_use]
    pub fn called(&self) -> String {
        self.version.as_ref().map_or_else(|| "this release".to_owned(), |version| format!("release {version}"))
    }
}

/// Those of the application that starts, if it says which that is; else all of them.
fn migration_directories(root: &Path, version: Option<&str>) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("teslamate-"))
        .map(|entry| entry.path().join("priv/repo/migrations"))
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    let own = version.map(|version| root.join(format!("lib/teslamate-{version}/priv/repo/migrations")));
    match own.filter(|own| found.contains(own)) {
        Some(own) => vec![own],
        None => found,
    }
}

fn read(directory: &Path) -> Result<BTreeMap<i64, String>> {
    let failed = || format!("cannot read {}", directory.display());
    let mut migrations = BTreeMap::new();
    for entry in std::fs::read_dir(directory).context(Kind::Refused, failed())? {
        let entry = entry.context(Kind::Refused, failed())?;
        let name = entry.file_name();
        let Some((version, name)) = name.to_str().and_then(parse) else { continue };
        if let Some(other) = migrations.insert(version, name.to_owned()) {
            return Err(Error::new(Kind::Refused, format!("two migrations of the release have the version {version}"))
                .with("names", format!("{other}, {name}"))
                .with("state", "nothing was changed"));
        }
    }
    Ok(migrations)
}

/// `20190330150000_create_cars.exs`: its version and its name. Other files, such as `.formatter.exs`, are none.
fn parse(file: &str) -> Option<(i64, &str)> {
    let (version, name) = file.strip_suffix(".exs")?.split_once('_')?;
    let is_number = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
    Some((version.parse().ok().filter(|_| is_number)?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A release with migrations of these names, in `lib/teslamate-VERSION`.
    fn release(versions: &[&str], names: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: String| directory.path().join(path);
        std::fs::create_dir_all(at("bin".into())).unwrap();
        for version in versions {
            let migrations = at(format!("lib/teslamate-{version}/priv/repo/migrations"));
            std::fs::create_dir_all(&migrations).unwrap();
            for name in names {
                std::fs::write(migrations.join(name), "").unwrap();
            }
        }
        let executable = at("bin/teslamate".into());
        std::fs::write(&executable, "").unwrap();
        (directory, executable)
    }

    #[test]
    fn migrations_are_the_files_that_begin_with_a_version() {
        let names =
            ["20190330150000_create_cars.exs", "2_b_c.exs", ".formatter.exs", "README.md", "x_1.exs", "+3_d.exs"];
        let (_directory, executable) = release(&["2.2.0"], &names);
        let found = Release::of(&executable).unwrap();
        let expected = [(2, "b_c".to_owned()), (20_190_330_150_000, "create_cars".to_owned())];
        assert_eq!(found.migrations, BTreeMap::from(expected));
        assert_eq!(found.newest(), 20_190_330_150_000);
    }

    #[test]
    fn of_two_releases_the_one_that_starts_counts() {
        let (directory, executable) = release(&["2.1.0", "2.2.0"], &["1_a.exs"]);
        assert!(Release::of(&executable).unwrap_err().message().contains("2 releases"));
        std::fs::create_dir(directory.path().join("releases")).unwrap();
        std::fs::write(directory.path().join("releases/start_erl.data"), "14.2.5 2.2.0").unwrap();
        assert_eq!(Release::of(&executable).unwrap().version.as_deref(), Some("2.2.0"));
    }

    #[test]
    fn what_is_no_release_is_refused_by_name() {
        let (_directory, executable) = release(&[], &[]);
        assert!(Release::of(&executable).unwrap_err().message().contains("has no migrations"));
        assert!(Release::of(Path::new("/nonexistent/bin/teslamate")).unwrap_err().to_string().contains("/nonexistent"));
        let (_directory, executable) = release(&["1"], &["README.md"]);
        assert!(Release::of(&executable).unwrap_err().message().contains("holds no migration"));
        let (_directory, executable) = release(&["1"], &["1_a.exs", "01_b.exs"]);
        assert!(Release::of(&executable).unwrap_err().message().contains("two migrations"));
    }
}
