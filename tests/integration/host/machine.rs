//! A host with PostgreSQL 17, a database of TeslaMate's, a stand-in for its executable, and the units that the module
//! evaluates to.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::binary::{PROGRAMS, path_of};
use crate::support::host::Host;
use crate::support::repository::PASSWORD;
use crate::support::server::fixture;

/// The first of the migrations that come after the fixture's.
pub const FIRST: i64 = 20_300_101_000_000;

/// What must not be found anywhere but in its files.
pub const SECRET: &str = "S3cr3t-of-the-key-7d1e";

pub struct Machine {
    pub host: Host,
    /// What is bound into it: the programs, the units, the release.
    _shared: tempfile::TempDir,
}

impl Machine {
    /// With the programs and units of `machine.nix` installed.
    #[track_caller]
    pub fn new() -> Self {
        let machine = Self::without_glovebox();
        machine.install();
        machine
    }

    /// With PostgreSQL, TeslaMate's database and its stand-in, and nothing of ours but a checkout in `/shared/checkout`.
    #[track_caller]
    pub fn without_glovebox() -> Self {
        let shared = tempfile::tempdir().unwrap();
        let at = |name: &str| shared.path().join(name);
        for directory in ["package/bin", "checkout/target/release", "checkout/docs"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        for program in PROGRAMS {
            let built = path_of(program);
            fs::copy(&built, at("package/bin").join(program)).unwrap();
            fs::hard_link(at("package/bin").join(program), at("checkout/target/release").join(program)).unwrap();
        }
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/systemd");
        let copied = Command::new("cp").arg("-r").args([&docs, &at("checkout/docs")]).status().unwrap();
        assert!(copied.success());
        for directory in ["release/bin", "release/releases", "release/lib/teslamate-2.2.0/priv/repo/migrations"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        fs::copy(fixture("release"), at("release/bin/teslamate")).unwrap();
        fs::write(at("release/releases/start_erl.data"), "14.2 2.2.0").unwrap();
        for file in ["schema.sql", "data.sql"] {
            fs::copy(fixture(file), at(file)).unwrap();
        }
        units(&at("units"));
        readable(shared.path());
        let host = Host::start(&[format!("--bind-ro={}:/shared", shared.path().display())]);
        let machine = Self { host, _shared: shared };
        machine.fill();
        machine
    }

    fn fill(&self) {
        let run_migrations = "/opt/teslamate/lib/teslamate-2.2.0/priv/repo/migrations";
        self.host.sh(&format!(
            "set -e
            cp -r /shared/release /opt/teslamate
            useradd --system --home-dir /var/lib/teslamate --create-home teslamate
            chown -R teslamate /opt/teslamate
            # A database that is in use, on a server that survives a power cut.
            echo 'summarize_wal = on' >>/etc/postgresql/17/main/postgresql.conf
            systemctl restart postgresql@17-main
            su postgres -c \"psql -q -c 'CREATE ROLE teslamate SUPERUSER LOGIN' -c 'CREATE DATABASE teslamate OWNER teslamate'\"
            for file in schema data; do su teslamate -s /bin/bash -c \"psql -X -q -v ON_ERROR_STOP=1 -v positions=5000 -f /shared/$file.sql teslamate\" >/dev/null; done
            for version in $(su teslamate -s /bin/bash -c 'psql -XAt -c \"SELECT version FROM schema_migrations\" teslamate'); do
                touch {run_migrations}/${{version}}_known.exs
            done"
        ));
    }

    fn install(&self) {
        self.host.sh(&format!(
            "set -e
            cp -r /shared/package /opt/glovebox
            ln -s /opt/glovebox/bin/* /usr/local/bin/
            mkdir -m 700 /etc/secrets
            echo 'ENCRYPTION_KEY={SECRET}' >/etc/secrets/teslamate.env
            echo '{PASSWORD}' >/etc/secrets/glovebox
            chmod 600 /etc/secrets/*
            # What must not be found: a file, since a script's own text is in its command line.
            printf '%s\\n' '{SECRET}' '{PASSWORD}' >/root/patterns
            mkdir -p /etc/glovebox
            cp /shared/units/config.toml /etc/glovebox/
            cp /shared/units/*.service /shared/units/*.timer /etc/systemd/system/
            cp /shared/units/tmpfiles.conf /etc/tmpfiles.d/glovebox.conf
            systemd-tmpfiles --create /etc/tmpfiles.d/glovebox.conf
            systemctl daemon-reload"
        ));
    }

    /// A statement in the live database.
    #[track_caller]
    pub fn query(&self, sql: &str) -> String {
        self.query_in("teslamate", sql)
    }

    #[track_caller]
    pub fn query_in(&self, database: &str, sql: &str) -> String {
        let quoted = sql.replace('\'', r"'\''");
        self.host.sh(&format!(
            "su teslamate -s /bin/bash <<'SHELL'\npsql -XqAt -v ON_ERROR_STOP=1 -c '{quoted}' {database}\nSHELL"
        ))
    }

    /// A migration of the release that is not applied yet, as SQL.
    pub fn release_gains(&self, number: i64, name: &str, sql: &str) {
        let version = FIRST + number;
        self.host.sh(&format!(
            "cat >/opt/teslamate/lib/teslamate-2.2.0/priv/repo/migrations/{version}_{name}.exs <<'SQL'\n{sql}\nSQL"
        ));
    }

    pub fn release_loses(&self, number: i64) {
        let version = FIRST + number;
        self.host.sh(&format!("rm /opt/teslamate/lib/teslamate-2.2.0/priv/repo/migrations/{version}_*.exs"));
    }

    /// A property of a unit.
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.host.sh(&format!("systemctl show --value --property={property} {unit}"))
    }

    /// The lines that a unit has written, with their priorities.
    pub fn journal(&self, unit: &str) -> Vec<(u64, String)> {
        // What was written may be on its way.
        let text =
            self.host.sh(&format!("journalctl --sync; journalctl -q -o json -u {unit} _SYSTEMD_UNIT={unit} || true"));
        let line = |line: &str| {
            let document: Value = serde_json::from_str(line).ok()?;
            let priority = document["PRIORITY"].as_str()?.parse().ok()?;
            Some((priority, document["MESSAGE"].as_str().unwrap_or_default().to_owned()))
        };
        text.lines().filter_map(line).collect()
    }

    /// Starts a unit, and fails unless it ends well.
    #[track_caller]
    pub fn start(&self, unit: &str) {
        let output = self.host.run(&format!("systemctl start {unit}"));
        let journal = self.journal(unit);
        assert!(output.status.success(), "{unit}: {} {journal:#?}", String::from_utf8_lossy(&output.stderr));
    }

    /// The backups that root sees, without an argument of any kind.
    #[track_caller]
    pub fn backups(&self) -> Vec<String> {
        let text = self.host.sh("teslamate-backup list --json 2>/dev/null");
        let listed: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        listed["backups"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    }
}

/// Waits until it is so.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_mins(1);
    while !is_so() {
        assert!(Instant::now() < give_up, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What the module makes of `machine.nix`.
fn units(into: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(root.join("nix/tests/units"))
        .arg(root.join("tests/integration/host/machine.nix"))
        .arg(into)
        .args(["--package", "/opt/glovebox", "--postgresql", "/usr/lib/postgresql/17", "--teslamate", "/opt/teslamate"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A temporary directory is its owner's alone.
fn readable(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let done = Command::new("chmod").args(["-R", "a+rX"]).arg(dir).status().unwrap();
    assert!(done.success());
}
