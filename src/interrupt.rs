//! SIGINT, SIGTERM and SIGHUP as an ordinary failure, so that cleaning up is ordinary too.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::error::{Context, Error, Kind, Result};
use crate::process::on_thread;
use crate::progress::Meter;

/// How long a failure waits for the signal that may have caused it.
const LATE_SIGNAL: Duration = Duration::from_millis(100);

/// How long work on a thread may take to end when it is asked to; whoever sent the signal may lose patience after 10 s.
const PATIENCE: Duration = Duration::from_secs(8);

/// Tells whether a signal has come.
#[derive(Clone, Debug)]
pub struct Interrupt(watch::Receiver<Option<i32>>);

impl Interrupt {
    /// Starts to listen. Must be called within the runtime.
    pub fn listen() -> Result<Self> {
        let (sender, receiver) = watch::channel(None);
        let ignored = ignored();
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            // What the caller chose to ignore (`nohup`, a shell's background job) stays ignored.
            if ignored >> (kind.as_raw_value() - 1) & 1 == 1 {
                continue;
            }
            let mut stream = signal(kind).context(Kind::Refused, "cannot listen for signals")?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    // The first one counts; further ones find the cleaning up under way.
                    sender.send_if_modified(|raised| {
                        let first = raised.is_none();
                        raised.get_or_insert(kind.as_raw_value());
                        first
                    });
                }
            });
        }
        // A limit on the size of files is an error of the write, as a full disk is, and not the end of the process.
        let mut exceeded =
            signal(SignalKind::from_raw(nix::libc::SIGXFSZ)).context(Kind::Refused, "cannot listen for signals")?;
        tokio::spawn(async move { while exceeded.recv().await.is_some() {} });
        Ok(Self(receiver))
    }

    /// Waits until a signal has come, and returns its number.
    pub async fn raised(&self) -> i32 {
        let mut receiver = self.0.clone();
        let number = receiver.wait_for(Option::is_some).await.ok().and_then(|raised| *raised);
        match number {
            Some(number) => number,
            // The listeners live as long as the runtime.
            None => std::future::pending().await,
        }
    }

    /// Does some work, or stops waiting for it when a signal comes ([`Kind::Signal`]).
    pub async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            number = self.raised() => Err(Error::stopped_by(number)),
            result = work => match result {
                Ok(done) => Ok(done),
                // A terminal and a service manager signal the children too: one that fails of it may be heard first.
                Err(error) => tokio::select! {
                    number = self.raised() => Err(Error::stopped_by(number)),
                    () = tokio::time::sleep(LATE_SIGNAL) => Err(error),
                },
            },
        }
    }

    /// Does some work that blocks, on a thread of its own; a signal asks it through the meter to end.
    ///
    /// It is given a while to do so and to clean up after itself. What was finished nevertheless is finished.
    pub async fn on_thread<T: Send + 'static>(
        &self,
        meter: &Arc<Meter>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut work = std::pin::pin!(on_thread(work));
        tokio::select! {
            result = &mut work => result?,
            number = self.raised() => {
                meter.stop(number);
                match tokio::time::timeout(PATIENCE, work).await {
                    Ok(result) => result?,
                    Err(_) => Err(Error::stopped_by(number)),
                }
            }
        }
    }
}

/// The signals that this process ignores, as bits; the lowest is signal 1. Source: proc(5), `SigIgn`.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
