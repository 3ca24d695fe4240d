//! Speaking to the service manager: READY, STATUS, `EXTEND_TIMEOUT_USEC`, WATCHDOG, STOPPING.
//!
//! Source: `sd_notify(3)`. Without `$NOTIFY_SOCKET` every call does nothing. A failing message never fails the work.

use sd_notify::NotifyState;

/// How long the service manager is asked to wait for the next sign of life.
const EXTENSION: std::time::Duration = std::time::Duration::from_mins(2);

/// The work has begun.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// What is being done right now. Also a sign of life for the watchdog, and more time for a slow start.
pub fn status(text: &str) {
    let micros = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::Status(text), NotifyState::ExtendTimeoutUsec(micros), NotifyState::Watchdog]);
}

/// The end has begun.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

fn send(states: &[NotifyState<'_>]) {
    // Nobody may be listening any more; the work goes on.
    let _ = sd_notify::notify(states);
}
