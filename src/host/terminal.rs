//! The terminal, which the first process alone holds.
//!
//! Somebody who shares a terminal with root can type into it as root would (`TIOCSTI`, `ioctl_tty(2)`), and read what
//! root types. So a worker gets pipes in its place: the first process copies what comes out of them, and lets nothing
//! through that a terminal acts upon but the few sequences that a progress line needs.

use std::fs::File;
use std::io::{IsTerminal, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use indicatif::TermLike;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::process::Command;

use crate::error::{Context, Kind, Result};
use crate::interrupt::Interrupt;
use crate::text;

/// Tells a worker that a terminal shows its standard error, and how many columns it has.
const COLUMNS: &str = "GLOVEBOX_TERMINAL";

/// How long a question waits for what was written before it, and the end for a pipe that is silent.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a person reads standard error on a terminal, this process's own or that of the process above.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "nothing is written")]
pub fn is_read() -> bool {
    relayed_columns().is_some() || std::io::stderr().is_terminal()
}

/// The columns of the terminal that another process shows our standard error on, if one does.
#[must_use]
pub fn relayed_columns() -> Option<u16> {
    std::env::var(COLUMNS).ok()?.parse().ok()
}

/// Standard output and standard error of a worker, where they are a terminal here.
#[derive(Debug, Default)]
pub struct Relays(Vec<Relay>);

#[derive(Debug)]
struct Relay {
    reader: Arc<PipeReader>,
    /// Held while something is on its way from the pipe to the terminal.
    writing: Arc<Mutex<()>>,
    ended: mpsc::Receiver<()>,
}

impl Relays {
    /// Gives a command pipes in the place of the terminal, and begins to show what comes out of them.
    ///
    /// # Errors
    /// [`Kind::Refused`] if the system has no more descriptors.
    #[expect(clippy::disallowed_methods, reason = "what is written there goes through `Filter`")]
    pub fn begin(command: &mut Command) -> Result<Self> {
        let failed = "cannot make a pipe";
        let mut relays = Vec::new();
        let (output, error) = (std::io::stdout(), std::io::stderr());
        if error.is_terminal() {
            let columns = rustix::termios::tcgetwinsize(&error).map_or(0, |size| size.ws_col);
            command.env(COLUMNS, if columns == 0 { 80 } else { columns }.to_string());
            let (reader, writer) = std::io::pipe().context(Kind::Refused, failed)?;
            command.stderr(writer);
            relays
                .push(Relay::start(reader, error.as_fd().try_clone_to_owned().context(Kind::Refused, failed)?.into()));
        }
        if output.is_terminal() {
            let (reader, writer) = std::io::pipe().context(Kind::Refused, failed)?;
            command.stdout(writer);
            relays
                .push(Relay::start(reader, output.as_fd().try_clone_to_owned().context(Kind::Refused, failed)?.into()));
        }
        Ok(Self(relays))
    }

    /// Waits until all that was written so far is on the terminal.
    pub async fn settle(&self) {
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up && !self.0.iter().all(Relay::is_empty) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits for the end of the pipes, which comes with that of the worker and its children: as long as a slow terminal
    /// takes, but not for a child that keeps a pipe open and writes nothing, and not after a signal: the terminal may be
    /// stopped (Ctrl-S), or its network gone.
    pub async fn end(self, interrupt: &Interrupt) {
        let (mut since, mut is_told) = (Instant::now(), false);
        while !self.0.iter().all(Relay::has_ended) && since.elapsed() < PATIENCE {
            if !is_told && !self.0.iter().all(Relay::is_empty) {
                since = Instant::now();
            }
            tokio::select! {
                _ = interrupt.raised(), if !is_told => (since, is_told) = (Instant::now(), true),
                () = tokio::time::sleep(Duration::from_millis(2)) => {}
            }
        }
    }
}

impl Relay {
    fn start(reader: PipeReader, mut terminal: File) -> Self {
        let (reader, writing, (end, ended)) = (Arc::new(reader), Arc::new(Mutex::new(())), mpsc::channel());
        let (from, hold) = (reader.clone(), writing.clone());
        std::thread::spawn(move || {
            let mut filter = Filter::default();
            let mut bytes = [0; 4096];
            loop {
                let ready = rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&*from, PollFlags::IN)], None));
                let _hold = hold.lock().unwrap_or_else(PoisonError::into_inner);
                match ready.map_err(Into::into).and_then(|_| (&*from).read(&mut bytes)) {
                    Ok(0) | Err(_) => break,
                    // A terminal that is gone is no reason to keep the worker waiting.
                    Ok(length) => drop(terminal.write_all(filter.pass(&bytes[..length]).as_bytes())),
                }
            }
            let _ = end.send(());
        });
        Self { reader, writing, ended }
    }

    fn has_ended(&self) -> bool {
        !matches!(self.ended.try_recv(), Err(mpsc::TryRecvError::Empty))
    }

    fn is_empty(&self) -> bool {
        let Ok(_hold) = self.writing.try_lock() else { return false };
        rustix::io::ioctl_fionread(&*self.reader).is_ok_and(|length| length == 0)
    }
}

/// The longest sequence that moves the cursor: four digits are enough for any terminal.
const LONGEST: usize = 7;

/// Lets text through, and what moves the cursor within the lines of a progress bar.
#[derive(Debug, Default)]
struct Filter {
    /// A sequence or a character whose end has not come yet.
    begun: Vec<u8>,
}

impl Filter {
    fn pass(&mut self, bytes: &[u8]) -> String {
        self.begun.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.begun);
        let mut shown = String::new();
        let mut rest = all.as_slice();
        while let Some(escape) = rest.iter().position(|byte| *byte == 0x1b) {
            push_text(&rest[..escape], &mut shown);
            rest = &rest[escape..];
            match sequence(rest) {
                Sequence::Known(length) => {
                    shown.push_str(&String::from_utf8_lossy(&rest[..length]));
                    rest = &rest[length..];
                }
                Sequence::Other => {
                    shown.push_str("\\u{1b}");
                    rest = &rest[1..];
                }
                Sequence::Begun => {
                    self.begun = rest.to_vec();
                    return shown;
                }
            }
        }
        let whole = rest.len() - unfinished(rest);
        push_text(&rest[..whole], &mut shown);
        self.begun = rest[whole..].to_vec();
        shown
    }
}

/// A carriage return passes: a progress line begins with one.
fn push_text(bytes: &[u8], shown: &mut String) {
    for (number, piece) in String::from_utf8_lossy(bytes).split('\r').enumerate() {
        if number > 0 {
            shown.push('\r');
        }
        shown.push_str(&text::printable(piece));
    }
}

enum Sequence {
    /// One that may pass, and its length in bytes.
    Known(usize),
    Other,
    Begun,
}

/// Judges what begins with ESC: `CSI n A` to `D` move the cursor, `CSI n K` clears a line. Source: ECMA-48, section 8.3.
fn sequence(bytes: &[u8]) -> Sequence {
    for (number, byte) in bytes.iter().enumerate().take(LONGEST) {
        match (number, byte) {
            (0, _) | (1, b'[') | (2.., b'0'..=b'9') => {}
            (2.., b'A'..=b'D' | b'K') => return Sequence::Known(number + 1),
            _ => return Sequence::Other,
        }
    }
    if bytes.len() < LONGEST { Sequence::Begun } else { Sequence::Other }
}

/// Bytes at the end that are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let last = &bytes[bytes.len().saturating_sub(3)..];
    let Some(from) = last.iter().rposition(|byte| *byte >= 0xc0) else { return 0 };
    let tail = &last[from..];
    match std::str::from_utf8(tail) {
        Err(error) if error.error_len().is_none() => tail.len(),
        _ => 0,
    }
}

/// A progress line on a terminal that another process shows, by the sequences that it lets through.
#[derive(Debug)]
pub struct Relayed {
    /// Its width.
    pub columns: u16,
}

impl Relayed {
    fn moved(&self, by: usize, direction: char) -> std::io::Result<()> {
        if by == 0 { Ok(()) } else { self.write_str(&format!("\x1b[{by}{direction}")) }
    }
}

impl TermLike for Relayed {
    fn width(&self) -> u16 {
        self.columns
    }

    fn move_cursor_up(&self, n: usize) -> std::io::Result<()> {
        self.moved(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> std::io::Result<()> {
        self.moved(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> std::io::Result<()> {
        self.moved(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> std::io::Result<()> {
        self.moved(n, 'D')
    }

    fn write_line(&self, text: &str) -> std::io::Result<()> {
        self.write_str(&format!("{text}\n"))
    }

    #[expect(clippy::disallowed_methods, reason = "the message is `text::one_line`; the rest moves the cursor")]
    fn write_str(&self, text: &str) -> std::io::Result<()> {
        std::io::stderr().lock().write_all(text.as_bytes())
    }

    fn clear_line(&self) -> std::io::Result<()> {
        self.write_str("\r\x1b[2K")
    }

    #[expect(clippy::disallowed_methods, reason = "nothing new is written")]
    fn flush(&self) -> std::io::Result<()> {
        std::io::stderr().lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fed in every way to cut it in two, since a pipe cuts where it likes.
    fn passed(bytes: &[u8]) -> String {
        let whole = Filter::default().pass(bytes);
        for cut in 0..bytes.len() {
            let mut filter = Filter::default();
            assert_eq!(filter.pass(&bytes[..cut]) + &filter.pass(&bytes[cut..]), whole, "cut at {cut}");
        }
        whole
    }

    #[test]
    fn k18_a_progress_line_passes() {
        let line = "\r\x1b[2K⠹ reading: 5 µm, ü\x1b[1A\x1b[120C\n";
        assert_eq!(passed(line.as_bytes()), line);
    }

    #[test]
    fn k18_nothing_else_that_a_terminal_acts_upon_does() {
        // Title, clipboard, device status report, clearing the screen, C1's CSI, a sequence that is too long.
        let hostile = "\x1b]0;x\x07 \x1b]52;c;eA==\x1b\\ \x1b[5n \x1b[2J \u{9b}6n \x1b[00000000001A \x1bc \x05 ";
        let shown = passed(hostile.as_bytes());
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
        assert!(shown.starts_with("\\u{1b}]0;x\\u{7} "), "{shown:?}");
    }

    #[test]
    fn bytes_that_are_no_text_are_seen_as_such() {
        assert_eq!(passed(b"a\xffb\xc3"), "a\u{fffd}b");
        assert_eq!(passed(b"\xe2\x80\xae."), "\\u{202e}.");
    }
}
