//! Having the application change the database: `<executable> eval "<expression>"`, which starts the release's code
//! without the application.
//!
//! Source: Elixir documentation, "mix release", `eval`; Ecto SQL documentation, "Ecto.Migrator", for what it logs.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, BufReader};
use tokio::process::Child;
use tokio::sync::mpsc;

use crate::env::Env;
use crate::error::{Context, Error, Kind, Result};
use crate::process;
use crate::progress::Meter;
use crate::settings::{Address, Ssl};

/// How many of the application's last lines a failure shows.
const SHOWN: usize = 30;

/// How many migrations are remembered with how long they took. TeslaMate has a hundred.
const MOST_MIGRATIONS: usize = 10_000;

/// How long the application has to end by itself when a signal stops the run.
const GRACE: Duration = Duration::from_secs(10);

/// What the application is to do.
pub const MIGRATE: &str = "TeslaMate.Release.migrate";

/// The same for going back to a version.
#[must_use]
pub fn roll_back(version: i64) -> String {
    format!("TeslaMate.Release.rollback(TeslaMate.Repo, {version})")
}

/// What the application said it did.
#[derive(Debug, Default)]
pub struct Said {
    /// How long each version took, where it said so.
    pub durations: BTreeMap<i64, Duration>,
}

/// Runs the expression on the database of this name, with the environment of this process, which systemd made, and the
/// database's settings, which ours are too.
///
/// # Errors
/// [`Kind::Attention`] with the application's own last lines if it failed; a signal's own kind if one came, after the
/// application had been ended.
pub async fn eval(env: &Env, executable: &Path, expression: &str, database: &str, meter: &Arc<Meter>) -> Result<Said> {
    let mut command = process::command(executable);
    command
        .args(["eval", expression])
        .envs(inherited())
        .envs(settings(env, database))
        .env_remove(match env.settings.database.address {
            Address::Socket(_) => "DATABASE_HOST",
            Address::Tcp(_) => "DATABASE_SOCKET_DIR",
        })
        .current_dir("/")
        // A group of its own, so that all of it can be ended: the script, and the runtime that it starts.
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|cause| {
        Error::new(Kind::Refused, "the application's executable cannot be started")
            .with("executable", executable.display())
            .with("cause", cause)
            .with("state", "nothing was changed")
    })?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
    let (said, last, status) = match env.interrupt.guard(listen(&mut child, env, meter)).await {
        Ok(ended) => ended,
        Err(error) => {
            group.signal(Signal::SIGTERM);
            if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                group.signal(Signal::SIGKILL);
                let _ = child.wait().await;
            }
            return Err(error.with("while", "the application was changing the database; it was ended"));
        }
    };
    // Its number may be another's by now.
    group.0 = None;
    let how = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(said),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, signal) => format!("was killed by signal {}", signal.unwrap_or(0)),
    };
    let command = process::shown(executable, &["eval", expression]);
    Err(Error::new(Kind::Attention, format!("the application {how}"))
        .with("command", command)
        .with("its last words", last.into_iter().collect::<Vec<_>>().join("\n")))
}

type Ended = (Said, VecDeque<String>, std::process::ExitStatus);

/// Everything the application says, to its end.
async fn listen(child: &mut Child, env: &Env, meter: &Arc<Meter>) -> Result<Ended> {
    let (sender, mut lines) = mpsc::channel(64);
    for stream in [child.stdout.take().map(boxed), child.stderr.take().map(boxed)].into_iter().flatten() {
        let sender = sender.clone();
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            while let Ok(Some(line)) = process::next_line(&mut stream).await {
                if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).await.is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let (mut said, mut last) = (Said::default(), VecDeque::new());
    let secrets = secrets(env);
    while let Some(line) = lines.recv().await {
        let line = secrets.iter().fold(line, |line, secret| line.replace(secret, "***"));
        if let Some((version, _)) = after(&line, "== Running ") {
            meter.now(&format!("running migration {version}"));
        }
        if let Some((version, rest)) = after(&line, "== Migrated ")
            && said.durations.len() < MOST_MIGRATIONS
            && let Some(took) = seconds(rest)
        {
            said.durations.insert(version, took);
        }
        // Whoever has something to say is at work.
        meter.rows.fetch_add(1, Ordering::Relaxed);
        env.reporter.debug(&line);
        if last.len() == SHOWN {
            last.pop_front();
        }
        last.push_back(line);
    }
    let status = child.wait().await.context(Kind::Attention, "the application cannot be waited for")?;
    Ok((said, last, status))
}

type Stream = Box<dyn AsyncRead + Send + Unpin>;

fn boxed(stream: impl AsyncRead + Send + Unpin + 'static) -> Stream {
    Box::new(stream)
}

/// The version after these words, and the rest of the line. A logger may have put a time and a level before them.
fn after<'a>(line: &'a str, words: &str) -> Option<(i64, &'a str)> {
    let (_, rest) = line.split_once(words)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((rest[..end].parse().ok()?, &rest[end..]))
}

/// ` in 1.2s`
fn seconds(rest: &str) -> Option<Duration> {
    let number = rest.strip_prefix(" in ")?.split('s').next()?;
    Duration::try_from_secs_f64(number.parse().ok()?).ok()
}

/// Our own environment without what is meant for this process alone.
fn inherited() -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
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
fn settings(env: &Env, database: &str) -> Vec<(&'static str, String)> {
    let of = &env.settings.database;
    let mut variables = vec![
        ("DATABASE_NAME", database.to_owned()),
        ("DATABASE_USER", of.user.clone()),
        ("DATABASE_PORT", of.port.to_string()),
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
            variables.extend(ca.as_ref().map(|ca| ("DATABASE_SSL_CA_CERT_FILE", ca.display().to_string())));
        }
    }
    let secrets = [
        ("DATABASE_PASS", of.password.as_ref()),
        ("ENCRYPTION_KEY", env.settings.encryption_key.as_ref()),
        ("RELEASE_COOKIE", env.settings.release_cookie.as_ref()),
    ];
    variables.extend(secrets.into_iter().filter_map(|(name, value)| Some((name, value?.expose().to_owned()))));
    if std::env::var_os("HOME").is_none() {
        variables.push(("HOME", "/".to_owned()));
    }
    // Its configuration asks for a broker before it lets anything run; changing tables needs none.
    if std::env::var_os("MQTT_HOST").is_none() && std::env::var_os("DISABLE_MQTT").is_none() {
        variables.push(("DISABLE_MQTT", "true".to_owned()));
    }
    variables
}

/// What must not be repeated.
fn secrets(env: &Env) -> Vec<String> {
    let settings = &env.settings;
    let all = [&settings.database.password, &settings.encryption_key, &settings.release_cookie];
    all.into_iter().flatten().map(|secret| secret.expose().to_owned()).filter(|text| !text.is_empty()).collect()
}

/// The application's process group.
struct Group(Option<i32>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(id) = self.0 {
            // It may be gone.
            let _ = killpg(Pid::from_raw(id), signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
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

    #[test]
    fn what_ecto_logs_is_understood_with_and_without_a_loggers_prefix() {
        let line = "12:00:01.123 [info] == Migrated 20190330150000 in 1.5s";
        let (version, rest) = after(line, "== Migrated ").unwrap();
        assert_eq!((version, seconds(rest)), (20_190_330_150_000, Some(Duration::from_millis(1500))));
        assert_eq!(after("== Running 7 TeslaMate.Repo.Migrations.A.change/0 forward", "== Running ").unwrap().0, 7);
        assert_eq!(after("== Migrated x in 1.5s", "== Migrated "), None);
        assert_eq!(seconds(" in soon"), None);
    }
}
