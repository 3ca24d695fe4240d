//! Speaking to the service manager: READY, STATUS, `EXTEND_TIMEOUT_USEC`, WATCHDOG, STOPPING.
//!
//! Source: `sd_notify(3)`. Without `$NOTIFY_SOCKET` every call does nothing. A failing message never fails the work.

use std::sync::atomic::{AtomicBool, Ordering};

use sd_notify::NotifyState;

use crate::text;

/// How long the service manager is asked to wait for the next sign of life.
const EXTENSION: std::time::Duration = std::time::Duration::from_mins(2);

/// The longest status in bytes. systemd ignores a message of more than 4096 bytes, all of it: the sign of life, too.
const LONGEST: usize = 1024;

/// Whether the unit is another program's.
static IS_STEP: AtomicBool = AtomicBool::new(false);

/// This process is a step of another program's start (`ExecStartPre`): READY and STOPPING would be taken for that
/// program's. A unit that says that it is stopping before it has begun is stopped as soon as it runs.
pub fn is_step() {
    IS_STEP.store(true, Ordering::Relaxed);
}

/// The work has begun.
pub fn ready() {
    send_own(NotifyState::Ready);
}

/// What is being done right now. If it `moves`, also a sign of life for the watchdog, and more time for a slow start.
pub fn status(text: &str, moves: bool) {
    let text = &fit(text);
    if !moves {
        return send(&[NotifyState::Status(text)]);
    }
    let micros = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::Status(text), NotifyState::ExtendTimeoutUsec(micros), NotifyState::Watchdog]);
}

/// A status that has one line and is not too long, which it may be only when its characters have been escaped.
fn fit(text: &str) -> String {
    let text = text::one_line(text);
    text[..text.floor_char_boundary(LONGEST)].to_owned()
}

/// The end has begun.
pub fn stopping() {
    send_own(NotifyState::Stopping);
}

fn send_own(state: NotifyState<'_>) {
    if !IS_STEP.load(Ordering::Relaxed) {
        send(&[state]);
    }
}

#[expect(clippy::disallowed_methods, reason = "a status is `text::one_line`, all else is ours")]
fn send(states: &[NotifyState<'_>]) {
    // Nobody may be listening any more; the work goes on.
    let _ = sd_notify::notify(states);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_any_length_is_one_that_systemd_takes() {
        assert_eq!(fit("loading"), "loading");
        let long = "ü".repeat(5000);
        assert!(fit(&long).len() <= LONGEST && long.starts_with(&fit(&long)));
    }

    #[test]
    fn k18_a_status_that_is_escaped_is_still_one_that_systemd_takes() {
        let status = fit(&"\u{1}\nMAINPID=1\u{202e}".repeat(300));
        assert!(status.len() <= LONGEST && !status.contains(['\n', '\u{1}', '\u{202e}']), "{status}");
    }
}
