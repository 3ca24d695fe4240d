//! Repositories behind `sftp:`, `s3:`, `rest:` and `rclone:`.
//!
//! | module | does |
//! |---|---|
//! | `place` | a location, its options and its credentials, each read as restic reads it |
//! | `runtime` | the one thread on which all of it waits |
//! | `http` | a client with TLS, and what an answer means |
//! | `rest`, `rclone`, `s3`, `sftp` | one [`Service`] each |
//! | `s3_transport` | a limit to what the library behind `s3` reads |
//!
//! A service makes one attempt. [`Network`] makes of attempts what `Remote` promises: it tries again, for as long as
//! the option `timeout` says, and then it is over. Time counts from the last thing that anybody got done at this place,
//! so slow is not dead, and dead is not slow.

#[cfg(test)]
mod hostile;
mod http;
mod place;
mod rclone;
mod rest;
mod runtime;
mod s3;
mod s3_transport;
mod sftp;

use std::future::Future;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use nix::unistd::{User, geteuid};

use self::place::Kind as Scheme;
use super::mistake::Mistake;
use super::remote::Remote;
use crate::error::Result;
use crate::settings;

/// How long the first answer may take: whoever types a wrong name should not wait for long.
const FIRST_CONTACT: Duration = Duration::from_mins(1);

/// How long a place that was given up is asked again, for what has to be cleaned up.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// What an attempt is given at least: a connection may have to be made first.
const SHORTEST: Duration = Duration::from_secs(2);

/// What is transferred in one go on any line, in bytes: such an attempt is given up early, and made again.
const SMALL: usize = 64 * 1024;

/// The first pause between two attempts, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// What one attempt gives.
type Answer<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// One attempt each of what [`Remote`] does.
trait Service: Send + Sync + 'static {
    fn list(self: Arc<Self>, directory: String) -> Answer<Vec<(String, u64)>>;
    fn read(self: Arc<Self>, path: String, part: Option<(u32, u32)>) -> Answer<Bytes>;
    fn write(self: Arc<Self>, path: String, content: Bytes) -> Answer<()>;
    /// What is not there any more counts as removed.
    fn remove(self: Arc<Self>, path: String) -> Answer<()>;
    fn modified(self: Arc<Self>, path: String) -> Answer<SystemTime>;
    fn create(self: Arc<Self>) -> Answer<()>;
    fn sweep(self: Arc<Self>, before: SystemTime) -> Answer<Vec<String>>;
}

/// Reaches the place of a repository. A process asks for the same one often: it gets the same connection.
pub(super) fn reach(settings: &settings::Repository) -> Result<Arc<dyn Remote>> {
    static REACHED: Mutex<Vec<(place::Place, Arc<Network>)>> = Mutex::new(Vec::new());
    let place = place::Place::parse(settings)?;
    let mut reached = REACHED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, network)) = reached.iter().find(|(known, _)| *known == place) {
        return Ok(Arc::clone(network) as Arc<dyn Remote>);
    }
    let service: Arc<dyn Service> = match place.kind {
        Scheme::Rest => Arc::new(rest::Rest::new(&place)?),
        Scheme::Rclone => Arc::new(rclone::Rclone::new(&place)?),
        Scheme::S3 => Arc::new(s3::S3::new(&place)?),
        Scheme::Sftp => Arc::new(sftp::Sftp::new(&place)?),
    };
    let network = Arc::new(Network { service, patience: place.timeout, state: Mutex::default() });
    reached.push((place, Arc::clone(&network)));
    Ok(network)
}

/// What is wrong with location and options: what [`reach`] would refuse, without a look at any file or program.
pub(super) fn mistakes(settings: &settings::Repository) -> Vec<Mistake> {
    let (place, mut found) = place::Place::read(settings);
    let understood = match place.kind {
        Scheme::Rest => rest::url(&place).map(drop),
        Scheme::Rclone => rclone::target(&place).map(drop),
        Scheme::S3 => s3::config(&place).and_then(|config| s3::operator(&place, config)).map(drop),
        Scheme::Sftp => sftp::target(&place).map(drop),
    };
    found.extend(understood.err());
    found
}

/// How things stand with a place.
#[derive(Default)]
struct State {
    /// When something was last done, or clearly refused: somebody is there.
    alive: Option<Instant>,
    given_up: bool,
}

/// A place that is asked until it answers, within limits.
struct Network {
    service: Arc<dyn Service>,
    patience: Duration,
    state: Mutex<State>,
}

impl Network {
    fn limit(&self) -> (Duration, Option<Instant>) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = match *state {
            State { given_up: true, .. } => self.patience.min(AFTERWARDS),
            State { alive: None, .. } => self.patience.min(FIRST_CONTACT),
            State { .. } => self.patience,
        };
        (limit, state.alive)
    }

    /// Whether the file that this is about was through or clearly refused: then the place is alive.
    fn heard(&self, alive: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.given_up = !alive;
        if alive {
            state.alive = Some(Instant::now());
        }
    }

    /// Attempts it until it is done, refused, or the time is over.
    fn insist<T: Send + 'static>(&self, size: usize, attempt: impl Fn(Arc<dyn Service>) -> Answer<T>) -> io::Result<T> {
        let (begun, mut pause) = (Instant::now(), PAUSES.0);
        loop {
            let (limit, alive) = self.limit();
            // One file that never gets through must not wait for ever because others do.
            let since = alive.map_or(begun, |alive| alive.max(begun)).min(begun + limit);
            let left = limit.saturating_sub(since.elapsed());
            let patience = if size <= SMALL { left.min((limit / 4).max(SHORTEST)) } else { left };
            let error = match runtime::wait(attempt(Arc::clone(&self.service)), patience) {
                Ok(done) => {
                    self.heard(true);
                    return Ok(done);
                }
                Err(error) => error,
            };
            if is_final(error.kind()) {
                self.heard(true);
                return Err(error);
            }
            if since.elapsed() + pause >= limit {
                self.heard(false);
                let waited = begun.elapsed().as_secs();
                return Err(io::Error::new(ErrorKind::TimedOut, format!("given up after {waited} s: {error}")));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// Whether another attempt would get the same answer.
fn is_final(kind: ErrorKind) -> bool {
    use ErrorKind::{InvalidData, InvalidInput, NotFound, PermissionDenied, UnexpectedEof};
    matches!(kind, InvalidData | InvalidInput | NotFound | PermissionDenied | UnexpectedEof)
}

impl Remote for Network {
    fn list(&self, directory: &str) -> io::Result<Vec<(String, u64)>> {
        self.insist(usize::MAX, |service| service.list(directory.to_owned()))
    }

    fn read(&self, path: &str, part: Option<(u32, u32)>) -> io::Result<Bytes> {
        let size = part.and_then(|(_, length)| usize::try_from(length).ok()).unwrap_or(usize::MAX);
        let size = if path.starts_with("data/") { size } else { 0 };
        self.insist(size, |service| service.read(path.to_owned(), part))
    }

    fn write(&self, path: &str, content: Bytes) -> io::Result<()> {
        self.insist(content.len(), |service| service.write(path.to_owned(), content.clone()))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.insist(0, |service| service.remove(path.to_owned()))
    }

    fn modified(&self, path: &str) -> io::Result<SystemTime> {
        self.insist(0, |service| service.modified(path.to_owned()))
    }

    fn create(&self) -> io::Result<()> {
        self.insist(usize::MAX, |service| service.create())
    }

    fn sweep(&self, before: SystemTime) -> io::Result<Vec<String>> {
        self.insist(usize::MAX, |service| service.sweep(before))
    }
}

/// The home of the account that does the work. A child process may look for its own configuration there.
fn home() -> Option<PathBuf> {
    let of_account = || User::from_uid(geteuid()).ok().flatten().map(|user| user.dir);
    std::env::var_os("HOME").map(PathBuf::from).or_else(of_account)
}

/// As much of another side's text as a message has room for, in characters.
const EXCERPT: usize = 300;

/// The beginning of a text, with spaces in the place of line breaks and of other spaces.
fn excerpt(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(EXCERPT).collect()
}

/// An error with all its causes on one line, each once.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}
