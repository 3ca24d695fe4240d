//! Environment of the application while it changes the database: this process's own, which systemd made, with the database's
//! settings under each name that a release reads.
//!
//! Source: `TeslaMate`'s documentation, "Environment variables"; PostgreSQL documentation, "Environment Variables" (libpq's
//! names, which the driver Postgrex reads as well).

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use crate::env::Env;
use crate::settings::{Address, Ssl};

/// Where systems keep the certificates of the authorities that they trust: Debian and NixOS, Fedora, Alpine.
const AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Our own environment without what is meant for this process alone.
pub(super) fn inherited() -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| name.to_str().is_none_or(is_for_the_application)).collect()
}

/// Credentials of repositories are nothing for the application, and neither are our settings, which may name some.
fn is_for_the_application(name: &str) -> bool {
    let own =
        ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "MAINPID"];
    let prefixes = ["AWS_", "RESTIC_", "RCLONE_", "GLOVEBOX_"];
    !own.contains(&name) && !prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// The database and the key, under the application's own names.
pub(super) fn settings(env: &Env, database: &str) -> Vec<(&'static str, String)> {
    let of = &env.settings.database;
    let mut variables = vec![
        ("DATABASE_NAME", database.to_owned()),
        ("DATABASE_USER", of.user.clone()),
        ("DATABASE_PORT", of.port.to_string()),
        // Over a socket, releases before 4.1 read the names of libpq instead, for the port those before 2.1.
        ("PGUSER", of.user.clone()),
        ("PGPORT", of.port.to_string()),
        ("ERL_CRASH_DUMP", "/dev/null".to_owned()),
    ];
    match &of.address {
        Address::Socket(directory) => variables.push(("DATABASE_SOCKET_DIR", directory.display().to_string())),
        Address::Tcp(host) => variables.push(("DATABASE_HOST", host.clone())),
    }
    match &of.ssl {
        Ssl::Disable => variables.push(("DATABASE_SSL", "false".to_owned())),
        Ssl::NoVerify => variables.push(("DATABASE_SSL", "noverify".to_owned())),
        Ssl::Verify { ca } => {
            variables.push(("DATABASE_SSL", "true".to_owned()));
            // Without a file of its own we trust the system's authorities; the release wants to be told where they are.
            let ca = ca.clone().or_else(authorities);
            variables.extend(ca.map(|ca| ("DATABASE_SSL_CA_CERT_FILE", ca.display().to_string())));
        }
    }
    let secrets = [
        ("DATABASE_PASS", of.password.as_ref()),
        ("PGPASSWORD", of.password.as_ref()),
        ("ENCRYPTION_KEY", env.settings.encryption_key.as_ref()),
        ("RELEASE_COOKIE", env.settings.release_cookie.as_ref()),
    ];
    variables.extend(secrets.into_iter().filter_map(|(name, value)| Some((name, value?.expose().to_owned()))));
    // Its start script wants a cookie, or ends; `eval` talks to no other node, so that any will do.
    if env.settings.release_cookie.is_none() && std::env::var_os("RELEASE_COOKIE").is_none() {
        variables.push(("RELEASE_COOKIE", made_up()));
    }
    if std::env::var_os("HOME").is_none() {
        variables.push(("HOME", "/".to_owned()));
    }
    // Its configuration asks for a broker before it lets anything run; changing tables needs none.
    if std::env::var_os("MQTT_HOST").is_none() && std::env::var_os("DISABLE_MQTT").is_none() {
        variables.push(("DISABLE_MQTT", "true".to_owned()));
    }
    variables
}

/// Secrets, which no message may repeat.
pub(super) fn secrets(env: &Env) -> Vec<String> {
    let settings = &env.settings;
    let all = [&settings.database.password, &settings.encryption_key, &settings.release_cookie];
    all.into_iter().flatten().map(|secret| secret.expose().to_owned()).filter(|text| !text.is_empty()).collect()
}

fn authorities() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named.into_iter().chain(AUTHORITIES.map(PathBuf::from)).find(|path| path.is_file())
}

/// 32 hexadecimal digits that nobody else knows.
fn made_up() -> String {
    let mut bytes = [0; 16];
    // Without the kernel's random numbers it is one that others know, and nothing listens for it.
    let _ = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes));
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k18_the_application_is_not_given_the_credentials_of_repositories() {
        for name in [
            "AWS_SECRET_ACCESS_KEY",
            "RESTIC_REST_PASSWORD",
            "RESTIC_PASSWORD",
            "RCLONE_CONFIG_NAS_PASS",
            "GLOVEBOX_REPOSITORY_OPTIONS",
            "GLOVEBOX_WORKER",
            "NOTIFY_SOCKET",
        ] {
            assert!(!is_for_the_application(name), "{name}");
        }
        for name in ["DATABASE_PASS", "ENCRYPTION_KEY", "PATH", "MQTT_HOST", "RELEASE_NODE"] {
            assert!(is_for_the_application(name), "{name}");
        }
    }
}
