//! Asking the running `TeslaMate` to close a record: `<executable> rpc "<expression>"`.
//!
//! The expression is the one of `TeslaMate`'s own maintenance scripts, with a match in front: a release prints nothing
//! of what a call returns, so only a match that fails turns `{:error, …}` into an exit status. The executable is a
//! release's start script, which starts an Erlang node of its own; that node refuses to start without `HOME`, and
//! would write the cookie into a crash dump.
//!
//! `RELEASE_COOKIE` is in the environment of this one child. What the release script does with it is its own affair:
//! it hands it to `erl` in the arguments, for as long as the call takes (`docs/maintenance.md`).
//!
//! Source: documentation of `mix release`, its commands and its variables; erl(1).

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User, geteuid};

use super::Record;
use crate::bounded;
use crate::error::{Context, Error, Kind, Result};
use crate::process;
use crate::settings::Secret;

/// How long a call may take: closing a drive looks two addresses up over the network.
const LIMIT: Duration = Duration::from_mins(2);

/// How much of the child's output is shown.
const SHOWN: usize = 4000;

/// The way to the running application.
#[derive(Clone, Debug)]
pub struct Rpc {
    /// The release's script.
    pub executable: PathBuf,
    /// The cookie; without it the script takes the one of its own installation.
    pub cookie: Option<Secret>,
}

/// What is asked of the application. An id is a number, so nothing needs to be quoted.
#[must_use]
pub fn expression(record: Record, id: i32) -> String {
    match record {
        Record::Drive => {
            format!("{{:ok, _}} = TeslaMate.Repo.get!(TeslaMate.Log.Drive, {id}) |> TeslaMate.Log.close_drive()")
        }
        Record::Charge => format!(
            "{{:ok, _}} = TeslaMate.Repo.get!(TeslaMate.Log.ChargingProcess, {id}) \
             |> TeslaMate.Log.complete_charging_process()"
        ),
    }
}

impl Rpc {
    /// Has the record closed, and gives the application's own words about it, which are none as a rule. What became of it
    /// is to be read from the database.
    ///
    /// # Errors
    /// With the child's own words, if it says that something went wrong. The state is the caller's to tell.
    pub async fn close(&self, record: Record, id: i32) -> Result<String> {
        let expression = expression(record, id);
        let shown = process::shown(&self.executable, &["rpc", &expression]);
        let output = self.call(&expression).await.map_err(|error| error.with("command", &shown))?;
        let words = self.words(&output);
        // Elixir prints an exception as `** (Name) message`.
        if output.status.success() && !words.contains("** (") {
            return Ok(words);
        }
        let how = match (output.status.code(), output.status.signal()) {
            (Some(0), _) => "reported an error".to_owned(),
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, signal) => format!("was killed by signal {}", signal.unwrap_or(0)),
        };
        // An exception is an answer: the cookie was right.
        let answered = words.contains("** (");
        let what = format!("TeslaMate did not close {} {id}: its rpc {how}", record.noun());
        let error = Error::new(Kind::Refused, what).with("command", shown).with("cause", words);
        if answered {
            return Err(error);
        }
        Err(error.hint("Is RELEASE_COOKIE in the secrets file the one that the service runs with?"))
    }

    async fn call(&self, expression: &str) -> Result<Output> {
        let mut command = process::command(&self.executable);
        command
            .args(["rpc", expression])
            .env("HOME", home())
            .env("ERL_CRASH_DUMP", "/dev/null")
            .current_dir("/")
            // A group of its own, so that all of it can be ended: the script, and the node that it starts.
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(cookie) = &self.cookie {
            command.env("RELEASE_COOKIE", cookie.expose());
        }
        let child = command.spawn().context(Kind::Refused, "TeslaMate's executable cannot be started")?;
        let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
        let Ok(output) = tokio::time::timeout(LIMIT, bounded::shown(child)).await else {
            let message = format!("TeslaMate did not answer within {} s", LIMIT.as_secs());
            return Err(Error::new(Kind::Busy, message));
        };
        group.0 = None;
        output.context(Kind::Refused, "TeslaMate's executable cannot be waited for")
    }

    /// What the child said, without the cookie, and not without end.
    fn words(&self, output: &Output) -> String {
        let text = [&output.stderr, &output.stdout].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).join("");
        let text = match &self.cookie {
            Some(cookie) if !cookie.expose().is_empty() => text.replace(cookie.expose(), "***"),
            _ => text,
        };
        match text.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{} …", &text[..end]),
            None => text.trim().to_owned(),
        }
    }
}

/// The child's process group, ended when this is dropped: at a time limit, or at a signal.
struct Group(Option<i32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            // It may have ended in this very moment.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

/// The home directory of the account that does the work; Erlang reads `.erlang` in it.
fn home() -> PathBuf {
    match User::from_uid(geteuid()) {
        Ok(Some(user)) if user.dir.is_absolute() => user.dir,
        _ => Path::new("/").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expression_matches_on_success() {
        assert_eq!(
            expression(Record::Drive, 7),
            "{:ok, _} = TeslaMate.Repo.get!(TeslaMate.Log.Drive, 7) |> TeslaMate.Log.close_drive()"
        );
        assert_eq!(
            expression(Record::Charge, 8),
            "{:ok, _} = TeslaMate.Repo.get!(TeslaMate.Log.ChargingProcess, 8) \
             |> TeslaMate.Log.complete_charging_process()"
        );
    }
}
