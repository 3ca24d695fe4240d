//! An installation with a release of `TeslaMate`, whose executable is a stand-in (`tests/fixtures/teslamate/release`).

use std::fs;
use std::path::PathBuf;

use super::repository::section;
use super::server::fixture;
use super::{Outcome, Server, Site};

/// The first of the migrations that come after the fixture's.
pub const FIRST: i64 = 20_300_101_000_000;

/// An installation with a release.
pub struct Installed {
    pub server: &'static Server,
    pub site: Site,
}

/// An installation with a release that has all migrations of the database, and these, as SQL.
pub fn installed(hint: &str, more: &[(&str, &str)], settings: &str) -> Installed {
    installed_at(Server::shared(), hint, more, settings)
}

/// Installs it for a database of this server.
pub fn installed_at(server: &'static Server, hint: &str, more: &[(&str, &str)], settings: &str) -> Installed {
    let site = Site::new(server, &server.teslamate(hint));
    let installed = Installed { server, site };
    let site = &installed.site;
    let migrations = installed.migrations();
    fs::create_dir_all(&migrations).unwrap();
    for directory in ["release/bin", "release/releases"] {
        fs::create_dir_all(site.path(directory)).unwrap();
    }
    // One that does not ask for a newer server than that of the tests.
    fs::write(site.path("release/releases/start_erl.data"), "14.2 1.33.0").unwrap();
    for version in server.query(&site.database, "SELECT version FROM schema_migrations").lines() {
        fs::write(migrations.join(format!("{version}_known.exs")), "").unwrap();
    }
    for (number, (name, sql)) in (0..).zip(more) {
        fs::write(migrations.join(format!("{}_{name}.exs", FIRST + number)), sql).unwrap();
    }
    let executable = site.path("release/bin/teslamate");
    fs::copy(fixture("release"), &executable).unwrap();
    // Migrations are for an application that does not run.
    fs::write(site.systemctl.dir().join("state"), "inactive").unwrap();
    let repository = if settings.contains("without repository") { String::new() } else { section(site) };
    let more = format!("service.executable = {:?}\n", executable.display().to_string());
    site.configure(&format!("port = {}\n{settings}\n{repository}", server.port()), &more);
    installed
}

impl Installed {
    pub fn migrations(&self) -> PathBuf {
        let mut lib = fs::read_dir(self.site.path("release/lib")).into_iter().flatten().flatten();
        let of = lib.next().map_or_else(|| self.site.path("release/lib/teslamate-1.33.0"), |entry| entry.path());
        of.join("priv/repo/migrations")
    }

    /// Replaces or adds a migration, counted from [`FIRST`].
    pub fn has(&self, number: i64, name: &str, sql: &str) {
        fs::write(self.migrations().join(format!("{}_{name}.exs", FIRST + number)), sql).unwrap();
    }

    /// Another release in the same place.
    pub fn is_release(&self, version: &str) {
        fs::write(self.site.path("release/releases/start_erl.data"), format!("14.2 {version}")).unwrap();
        let to = self.site.path(&format!("release/lib/teslamate-{version}"));
        if !to.exists() {
            fs::rename(self.migrations().ancestors().nth(3).unwrap(), to).unwrap();
        }
    }

    pub fn migrate(&self, arguments: &[&str]) -> Outcome {
        self.site.command("teslamate-migrate").env("ENCRYPTION_KEY", "c4nary").args(arguments).outcome()
    }

    /// How the application was called.
    pub fn called(&self) -> Vec<String> {
        let text = fs::read_to_string(self.site.path("release/called")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn newest(&self) -> i64 {
        self.server.query(&self.site.database, "SELECT max(version) FROM schema_migrations").parse().unwrap()
    }
}
