//! Having the application change the database: `<executable> eval "<expression>"`, which starts the release's code
//! without the application.
//!
//! Source: Elixir documentation, "mix release", `eval`.

mod environment;
mod heard;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, BufReader};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::env::Env;
use crate::error::{Context, Error, Kind, Result};
use crate::process;
use crate::progress::Meter;
use crate::settings::Address;
pub use heard::Heard;
use heard::News;

/// How long the application has to end by itself when a signal stops the run.
const GRACE: Duration = Duration::from_secs(10);

/// How long the output is read after the application has ended: a daemon that it started may keep it open for good.
const LEFT_OVER: Duration = Duration::from_secs(5);

/// The expression that runs what is pending.
pub const MIGRATE: &str = "TeslaMate.Release.migrate";

/// Name of the line with the application's first errors.
pub const FIRST_ERRORS: &str = "its first errors";

/// The expression that goes back to a version.
#[must_use]
pub fn roll_back(version: i64) -> String {
    format!("TeslaMate.Release.rollback(TeslaMate.Repo, {version})")
}

/// A call that failed.
#[derive(Debug)]
pub struct Failed {
    /// The failure.
    pub error: Error,
    /// A migration had begun, or that is not known.
    pub began: bool,
}

/// Runs the expression on the database of this name, with the environment of this process, which systemd made, and the
/// database's settings, which ours are too.
///
/// # Errors
/// [`Kind::Attention`] with the application's first errors and last lines if it failed; a signal's own kind if one came,
/// after the application had been ended.
pub async fn eval(
    env: &Env,
    executable: &Path,
    expression: &str,
    database: &str,
    meter: &Arc<Meter>,
) -> std::result::Result<Heard, Failed> {
    let mut command = process::command(executable);
    command
        .args(["eval", expression])
        .envs(environment::inherited())
        .envs(environment::settings(env, database))
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
        let error = Error::new(Kind::Refused, "the application's executable cannot be started")
            .with("executable", executable.display())
            .with("cause", cause)
            .with("state", "nothing was changed");
        Failed { error, began: false }
    })?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
    let (heard, status) = match env.interrupt.guard(listen(&mut child, env, meter)).await {
        Ok(ended) => ended,
        Err(error) => {
            group.signal(Signal::SIGTERM);
            if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                group.signal(Signal::SIGKILL);
                let _ = child.wait().await;
            }
            let error = error.with("while", "the application was changing the database; it was ended");
            return Err(Failed { error, began: true });
        }
    };
    // Its number may be another's by now.
    group.0 = None;
    let how = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(heard),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, signal) => format!("was killed by signal {}", signal.unwrap_or(0)),
    };
    let error = Error::new(Kind::Attention, format!("the application {how}"))
        .with("command", process::shown(executable, &["eval", expression]))
        .with(FIRST_ERRORS, heard.first_errors())
        .with("its last words", heard.last_words());
    // One that was killed had no time for a word about what it did.
    Err(Failed { error, began: heard.began || status.code().is_none() })
}

/// Everything the application says, to its end.
async fn listen(child: &mut Child, env: &Env, meter: &Arc<Meter>) -> Result<(Heard, ExitStatus)> {
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
    let mut heard = Heard::default();
    let secrets = environment::secrets(env);
    let (mut ended, mut limit) = (None, Instant::now());
    loop {
        let line = tokio::select! {
            biased;
            () = tokio::time::sleep_until(limit), if ended.is_some() => {
                // A migration may have begun in a line that was not read.
                heard.began = true;
                None
            }
            line = lines.recv() => line,
            status = child.wait(), if ended.is_none() => {
                ended = Some(status);
                limit = Instant::now() + LEFT_OVER;
                continue;
            }
        };
        let Some(line) = line else { break };
        let line = secrets.iter().fold(line, |line, secret| line.replace(secret, "***"));
        match heard.line(&line) {
            News::Running(version) => meter.now(&format!("running migration {version}")),
            News::Warning => env.reporter.warn(&format!("the application warns: {line}")),
            News::Nothing => {}
        }
        // An application that says something is at work.
        meter.rows.fetch_add(1, Ordering::Relaxed);
        env.reporter.debug(&line);
    }
    let status = match ended {
        Some(status) => status,
        None => child.wait().await,
    };
    Ok((heard, status.context(Kind::Attention, "the application cannot be waited for")?))
}

type Stream = Box<dyn AsyncRead + Send + Unpin>;

fn boxed(stream: impl AsyncRead + Send + Unpin + 'static) -> Stream {
    Box::new(stream)
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
