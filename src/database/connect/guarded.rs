//! A server's bytes on their way to the driver: no message without a limit, no wait without an end, and no request for a
//! password in clear text where none may be sent.
//!
//! The driver knows no limits of its own, and sends the password in whatever form it is asked for. So the headers of the
//! messages are read here, above TLS, before the driver sees them; what is in a message is not looked at, but for the kind
//! of authentication.
//!
//! Source: PostgreSQL documentation, "Message Formats".

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

use super::transport::Guard;

/// The longest message with a piece of COPY's output: PostgreSQL makes no row that is longer.
const COPY_LIMIT: u32 = (1 << 30) + (1 << 20);

/// The longest row of a query: ours ask for definitions, not for whole tables.
const ROW_LIMIT: u32 = 1 << 28;

/// All rows of one query, which the driver keeps until the last one has come: a quarter of the machine's memory, within
/// these bounds. The questions to the catalogue of a database with 100,000 tables and a million columns have 200 MB. COPY is
/// not counted: its rows are written away one after the other.
const ANSWER_LIMIT: (u64, u64) = (1 << 28, 1 << 30);

/// The memory that the driver takes for a row beside what is in it, in bytes.
const ROW_OVERHEAD: u64 = 150;

/// All settings that a server reports during one query, and in a session: the driver keeps the name of each.
const REPORT_LIMIT: (u64, u64) = (1 << 20, 1 << 26);

/// The longest message of any other kind.
const LIMIT: u32 = 1 << 24;

/// The longest notice, error, notification or parameter: the driver keeps them, and people are to read them.
const WORDS_LIMIT: u32 = 1 << 20;

/// As much as a server may say before the session is ready.
const LOGIN_LIMIT: u64 = 1 << 21;

/// How long a server may say nothing while it does work: longer than any index or copy takes.
pub(super) const WORK_SILENCE: Duration = Duration::from_hours(24);

/// How long a server may say nothing while it is asked a question, or a session is prepared: the catalogue of 100,000 tables is
/// read in seconds. What may wait for a lock on a table of the user is work.
pub(super) const QUESTION_SILENCE: Duration = Duration::from_mins(10);

/// Why a server is no longer listened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It asks for the password in clear text.
    ClearText,
    /// A message of this kind and length.
    TooLong(char, u32),
    /// More than it may say before the session is ready.
    Talkative,
    /// More rows to one query than this number of bytes.
    Endless(u64),
    /// More reports of settings than there are settings.
    Reports,
    /// Bytes that are no message.
    NoMessage,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClearText => f.write_str("it asks for the password in clear text, which is not sent"),
            Self::TooLong(kind, length) => write!(f, "it sends a message of {length} bytes (type {kind:?})"),
            Self::Talkative => write!(f, "it sends more than {LOGIN_LIMIT} bytes before the session begins"),
            Self::Endless(limit) => write!(f, "it answers a query with more than {limit} bytes of rows"),
            Self::Reports => f.write_str("it reports settings without an end"),
            Self::NoMessage => f.write_str("what it sends is not PostgreSQL's protocol"),
        }
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// The refusal that this failure came from.
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                return inner.downcast_ref::<Self>().cloned();
            }
            next = error.source();
        }
        None
    }
}

/// A server's request instead of one for the password itself.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) md5: AtomicBool,
    /// A proof that is bound to the TLS connection, so that nobody in between can use it.
    pub(super) binding: AtomicBool,
}

/// Where the next byte is, in a server's messages.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Type and length, and the kind of authentication that follows both.
    head: [u8; 9],
    known: usize,
    /// The rest of the message.
    left: u64,
    said: u64,
    /// Bytes that the rows of the query under way take, and the most that they may take.
    rows: u64,
    most: u64,
    /// Reports of settings during the query under way, and in the session, in bytes.
    reports: (u64, u64),
    is_ready: bool,
    has_answered: bool,
}

impl Reader {
    /// For rows of one query of at most this many bytes.
    pub(super) fn new(most: u64) -> Self {
        Self { most, ..Self::default() }
    }

    /// Reads on, and notes what the server asks for.
    pub(super) fn read(&mut self, mut bytes: &[u8], clear_text: bool, asked: &Asked) -> Result<(), Refusal> {
        if !self.is_ready {
            self.said += bytes.len() as u64;
            if self.said > LOGIN_LIMIT {
                return Err(Refusal::Talkative);
            }
        }
        while !bytes.is_empty() {
            if self.left > 0 {
                let length = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= length as u64;
                bytes = &bytes[length..];
                continue;
            }
            self.head[self.known] = bytes[0];
            self.known += 1;
            bytes = &bytes[1..];
            let (kind, length) = (self.head[0], u32_at(&self.head, 1));
            let is_whole = match self.known {
                5 => self.begin(kind, length)?,
                9 => {
                    match u32_at(&self.head, 5) {
                        3 if !clear_text => return Err(Refusal::ClearText),
                        5 => asked.md5.store(true, Ordering::Relaxed),
                        // The list of mechanisms is short, and comes in one piece.
                        10 if memchr::memmem::find(bytes, b"SCRAM-SHA-256-PLUS\0").is_some() => {
                            asked.binding.store(true, Ordering::Relaxed);
                        }
                        _ => {}
                    }
                    self.left = u64::from(length - 8);
                    true
                }
                _ => false,
            };
            if is_whole {
                self.known = 0;
            }
        }
        Ok(())
    }

    /// Judges a header. False if more of the message has to be seen.
    fn begin(&mut self, kind: u8, length: u32) -> Result<bool, Refusal> {
        let limit = match kind {
            b'd' => COPY_LIMIT,
            b'D' => ROW_LIMIT,
            b'N' | b'E' | b'A' | b'S' | b'R' | b'Z' => WORDS_LIMIT,
            _ => LIMIT,
        };
        if length < 4 || !kind.is_ascii_alphanumeric() || (kind == b'R' && length < 8) {
            return Err(Refusal::NoMessage);
        }
        if length > limit {
            return Err(Refusal::TooLong(char::from(kind), length));
        }
        if kind == b'R' {
            return Ok(false);
        }
        match kind {
            b'Z' => {
                (self.is_ready, self.has_answered) = (true, true);
                (self.rows, self.reports.0) = (0, 0);
            }
            b'D' => {
                self.rows += u64::from(length) + ROW_OVERHEAD;
                if self.rows > self.most {
                    return Err(Refusal::Endless(self.most));
                }
            }
            b'S' => {
                self.reports = (self.reports.0 + u64::from(length), self.reports.1 + u64::from(length));
                if self.reports.0 > REPORT_LIMIT.0 || self.reports.1 > REPORT_LIMIT.1 {
                    return Err(Refusal::Reports);
                }
            }
            _ => {}
        }
        self.left = u64::from(length - 4);
        Ok(true)
    }
}

/// How much memory the rows of one query may take on this machine.
pub(super) fn answer_limit() -> u64 {
    let info = rustix::system::sysinfo();
    let memory = info.totalram.saturating_mul(info.mem_unit.into());
    (memory / 4).clamp(ANSWER_LIMIT.0, ANSWER_LIMIT.1)
}

fn u32_at(bytes: &[u8; 9], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// A connection to a server that is not trusted with more than it needs.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    inner: S,
    reader: Reader,
    clear_text: bool,
    asked: Arc<Asked>,
    /// In milliseconds.
    silence: Arc<AtomicU64>,
    /// The end of the wait, while there is one.
    deadline: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl<S> Guarded<S> {
    /// A new connection.
    pub(super) fn new(inner: S, guard: &Guard) -> Self {
        let deadline = Box::pin(sleep(guard.login));
        let reader = Reader::new(guard.answer);
        let (asked, silence) = (Arc::clone(&guard.asked), Arc::clone(&guard.silence));
        Self { inner, reader, clear_text: guard.clear_text, asked, silence, deadline, is_waiting: true }
    }

    fn wait_anew(&mut self) {
        if self.reader.is_ready {
            let silence = Duration::from_millis(self.silence.load(Ordering::Relaxed));
            self.deadline.as_mut().reset(Instant::now() + silence);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let had = buf.filled().len();
        if Pin::new(&mut this.inner).poll_read(cx, buf)?.is_pending() {
            if this.is_waiting && this.deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the server says nothing")));
            }
            return Poll::Pending;
        }
        let read = this.reader.read(buf.filled().get(had..).unwrap_or_default(), this.clear_text, &this.asked);
        if let Err(refusal) = read {
            buf.set_filled(had);
            return Poll::Ready(Err(io::Error::other(refusal)));
        }
        if std::mem::take(&mut this.reader.has_answered) {
            this.is_waiting = false;
        }
        this.wait_anew();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if written.is_ready() {
            self.is_waiting = true;
            self.wait_anew();
            // So that the end of the wait wakes this task, which may have read all that there is.
            let _ = self.deadline.as_mut().poll(cx);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Guarded<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}
