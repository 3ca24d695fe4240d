//! `rclone:`: whatever rclone reaches, through its own REST server on the loopback interface.
//!
//! The server is a child process, asks for a password that nobody else knows, and ends with us.
//!
//! Source: rclone's manual, "rclone serve restic".

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex as Plain, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use reqwest::{Client, Url};
use tokio::io::BufReader;
use tokio::process::Child;
use tokio::sync::Mutex;

use super::place::Place;
use super::rest::Rest;
use super::{Answer, Service, excerpt, http};
use crate::error::{Error, Kind, Result};
use crate::process;
use crate::repository::Id;
use crate::repository::mistake::Mistake;
use crate::settings::Secret;

/// What the line says that names the address.
const SERVING: &str = "Serving restic REST API on";

/// rclone, running or not.
pub(super) struct Rclone {
    program: PathBuf,
    /// Such as `remote:path`.
    target: String,
    client: Client,
    /// For rclone alone.
    variables: Vec<(String, Secret)>,
    running: Mutex<Option<Running>>,
}

struct Running {
    child: Child,
    rest: Arc<Rest>,
    said: Arc<Plain<String>>,
}

impl Rclone {
    /// # Errors
    /// [`Kind::Usage`] without a path, [`Kind::Refused`] if there is no such program.
    pub(super) fn new(place: &Place) -> Result<Self> {
        let target = target(place)?;
        let program = match place.option("program") {
            Some(path) => Some(PathBuf::from(path)).filter(|path| path.is_absolute() && process::is_executable(path)),
            None => process::find_program("rclone"),
        };
        let program = program.ok_or_else(|| {
            Error::new(Kind::Refused, "there is no program rclone")
                .with("state", "nothing was touched")
                .hint("Install it, or name it with an absolute path: `repository.options.program`.")
        })?;
        let variables = place.variables("RCLONE_").map(|(name, value)| (name.to_owned(), value.to_owned().into()));
        Ok(Self {
            program,
            target,
            client: http::client(place)?,
            variables: variables.collect(),
            running: Mutex::default(),
        })
    }

    /// Its server, started if it is not running.
    async fn server(&self) -> io::Result<Arc<Rest>> {
        let mut running = self.running.lock().await;
        if let Some(known) = running.as_mut()
            && known.child.try_wait()?.is_none()
        {
            return Ok(Arc::clone(&known.rest));
        }
        *running = None;
        let started = self.start().await?;
        let rest = Arc::clone(&started.rest);
        *running = Some(started);
        Ok(rest)
    }

    async fn start(&self) -> io::Result<Running> {
        let (user, password) = ("glovebox".to_owned(), random()?);
        let mut command = process::command(&self.program);
        // Its own configuration is where the account has it.
        for name in ["XDG_CONFIG_HOME", "PATH"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(super::home().map(|home| ("HOME", home)));
        command.envs(self.variables.iter().map(|(name, value)| (name, value.expose())));
        command.env("RCLONE_USER", &user).env("RCLONE_PASS", password.expose());
        // A file that was there before is the same file: what is deleted is to be gone, as restic has it.
        command.args(["serve", "restic", "--addr", "127.0.0.1:0", "--b2-hard-delete", "--"]).arg(&self.target);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("rclone has no standard error"))?;
        let mut stderr = BufReader::new(stderr);
        let said = Arc::new(Plain::new(String::new()));
        let base = loop {
            let Some(line) = process::next_line(&mut stderr).await? else {
                let said = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Err(io::Error::new(ErrorKind::InvalidInput, format!("rclone ended: {}", excerpt(&said))));
            };
            let line = String::from_utf8_lossy(&line);
            if let Some(base) = address(&line) {
                break base;
            }
            say(&said, &line);
        };
        // What it says is read for as long as it runs: it must not stop because nobody listens.
        let heard = Arc::clone(&said);
        tokio::spawn(async move {
            while let Ok(Some(line)) = process::next_line(&mut stderr).await {
                say(&heard, &String::from_utf8_lossy(&line));
            }
        });
        let rest = Arc::new(Rest::at(self.client.clone(), base, Some((user, password))));
        Ok(Running { child, rest, said })
    }

    /// Asks the server; what rclone says is more than the server's answer.
    async fn ask<T>(&self, ask: impl FnOnce(Arc<Rest>) -> Answer<T>) -> io::Result<T> {
        let server = self.server().await?;
        let answer = ask(server).await;
        match answer {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => {
                let said = self.running.lock().await.as_ref().map(|running| Arc::clone(&running.said));
                let said = said.map(|said| said.lock().unwrap_or_else(PoisonError::into_inner).clone());
                let said = said
                    .filter(|said| !said.is_empty())
                    .map(|said| format!(": {}", excerpt(&said)))
                    .unwrap_or_default();
                Err(io::Error::new(error.kind(), format!("{error}{said}")))
            }
            answer => answer,
        }
    }
}

/// What rclone is told to reach.
pub(super) fn target(place: &Place) -> std::result::Result<String, Mistake> {
    if place.rest.is_empty() || place.rest.starts_with('-') {
        let error = place.mistake("`rclone:` must be followed by a path as rclone has it");
        return Err(Mistake::in_location(error.hint("Write it like this: rclone:remote:path")));
    }
    Ok(place.rest.clone())
}

/// Keeps the last line.
fn say(said: &Plain<String>, line: &str) {
    line.trim().clone_into(&mut said.lock().unwrap_or_else(PoisonError::into_inner));
}

/// The address in a line, which newer versions put into brackets.
fn address(line: &str) -> Option<Url> {
    let (_, rest) = line.split_once(SERVING)?;
    Url::parse(rest.trim().trim_matches(['[', ']'])).ok().filter(|url| url.scheme() == "http")
}

/// 256 bits in hexadecimal.
fn random() -> io::Result<Secret> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Secret::from(Id::from(bytes).to_string()))
}

impl Service for Rclone {
    fn list(self: Arc<Self>, directory: String) -> Answer<Vec<(String, u64)>> {
        Box::pin(async move { self.ask(|rest| rest.list(directory)).await })
    }

    fn read(self: Arc<Self>, path: String, part: Option<(u32, u32)>) -> Answer<Bytes> {
        Box::pin(async move { self.ask(|rest| rest.read(path, part)).await })
    }

    fn write(self: Arc<Self>, path: String, content: Bytes) -> Answer<()> {
        Box::pin(async move { self.ask(|rest| rest.write(path, content)).await })
    }

    fn remove(self: Arc<Self>, path: String) -> Answer<()> {
        Box::pin(async move { self.ask(|rest| rest.remove(path)).await })
    }

    fn modified(self: Arc<Self>, path: String) -> Answer<SystemTime> {
        Box::pin(async move { self.ask(|rest| rest.modified(path)).await })
    }

    fn create(self: Arc<Self>) -> Answer<()> {
        Box::pin(async move { self.ask(Service::create).await })
    }

    fn sweep(self: Arc<Self>, before: SystemTime) -> Answer<Vec<String>> {
        Box::pin(async move { self.ask(|rest| rest.sweep(before)).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_what_old_and_new_versions_say() {
        for line in [
            "2023/01/02 03:04:05 NOTICE: Serving restic REST API on http://127.0.0.1:38087/",
            "2023/01/02 03:04:05 NOTICE: S3 bucket x: Serving restic REST API on [http://127.0.0.1:38087/]",
        ] {
            assert_eq!(address(line).unwrap().as_str(), "http://127.0.0.1:38087/", "{line}");
        }
        assert!(address("2023/01/02 03:04:05 ERROR : no such remote").is_none());
    }
}
