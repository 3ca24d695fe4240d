//! The thread on which everything waits that is behind a network.
//!
//! One thread does for all: it shuffles bytes, others compress and encrypt. It lives as long as the process, so a child
//! process that it starts may be told to end with it (see `process.rs`).

use std::future::Future;
use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};

/// How much later than the work itself its waiter gives up, in case the thread is stuck.
const GRACE: Duration = Duration::from_secs(5);

fn handle() -> io::Result<&'static Handle> {
    static HANDLE: OnceLock<Result<Handle, String>> = OnceLock::new();
    let made = HANDLE.get_or_init(|| {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|cause| cause.to_string())?;
        let handle = runtime.handle().clone();
        let run = move || runtime.block_on(std::future::pending::<()>());
        std::thread::Builder::new().name("network".to_owned()).spawn(run).map_err(|cause| cause.to_string())?;
        Ok(handle)
    });
    made.as_ref().map_err(|cause| io::Error::other(cause.clone()))
}

/// Does some work there and waits for it, at most this long. May be called from everywhere, another runtime included.
///
/// # Errors
/// What the work gives; [`io::ErrorKind::TimedOut`] if it does not end. It is dropped then.
pub(super) fn wait<T: Send + 'static>(
    work: impl Future<Output = io::Result<T>> + Send + 'static,
    patience: Duration,
) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", patience.as_secs()));
    let (sender, receiver) = sync_channel(1);
    handle()?.spawn(async move {
        let done = tokio::time::timeout(patience, work).await;
        let _ = sender.send(done);
    });
    match receiver.recv_timeout(patience + GRACE) {
        Ok(Ok(done)) => done,
        Ok(Err(_)) | Err(RecvTimeoutError::Timeout) => Err(late()),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("a part of this program failed")),
    }
}
