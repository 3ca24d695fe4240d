//! The way to a server, with TLS or without, behind the guard of `guarded.rs`.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_postgres::tls::TlsConnect;

use super::guarded::{Asked, Guarded};
use super::{CONNECT_TIMEOUT, socket_path};
use crate::settings::Address;

/// How long a connection may be idle before the other side is asked whether it is still there; how often, and how many
/// times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_mins(1), Duration::from_secs(15), 4);

/// A connection that came about, or why it did not: the driver takes a stream, and reports what it meets there.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Failed(Option<io::Error>),
}

impl Socket {
    /// Connects to this address.
    pub(super) async fn connect(address: &Address, port: u16) -> Self {
        let connected = match address {
            Address::Socket(directory) => unix(directory, port).await,
            Address::Tcp(host) => tcp(host, port).await,
        };
        connected.unwrap_or_else(|cause| Self::Failed(Some(cause)))
    }
}

async fn within<T>(connecting: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "connection timed out");
    timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(late()))
}

async fn unix(directory: &Path, port: u16) -> io::Result<Socket> {
    within(UnixStream::connect(socket_path(directory, port))).await.map(Socket::Unix)
}

async fn tcp(host: &str, port: u16) -> io::Result<Socket> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "could not resolve any addresses");
    for address in within(lookup_host((host, port))).await? {
        match within(TcpStream::connect(address)).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                let (idle, between, count) = KEEPALIVE;
                sockopt::set_socket_keepalive(&stream, true)?;
                sockopt::set_tcp_keepidle(&stream, idle)?;
                sockopt::set_tcp_keepintvl(&stream, between)?;
                sockopt::set_tcp_keepcnt(&stream, count)?;
                return Ok(Socket::Tcp(stream));
            }
            Err(cause) => last = cause,
        }
    }
    Err(last)
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Failed(cause) => Poll::Ready(Err(failed(cause))),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Failed(cause) => Poll::Ready(Err(failed(cause))),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Failed(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Failed(_) => Poll::Ready(Ok(())),
        }
    }
}

fn failed(cause: &mut Option<io::Error>) -> io::Error {
    cause.take().unwrap_or_else(|| io::ErrorKind::NotConnected.into())
}

/// How the guard of a connection is set.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    pub(super) clear_text: bool,
    pub(super) asked: Arc<Asked>,
    pub(super) login: Duration,
    /// How long the server may say nothing once the session is ready, in milliseconds.
    pub(super) silence: Arc<AtomicU64>,
    /// Most bytes that the rows of one query may take.
    pub(super) answer: u64,
}

impl Guard {
    pub(super) fn over<S>(&self, stream: S) -> Guarded<S> {
        Guarded::new(stream, self)
    }
}

/// TLS with the guard above it.
pub(super) struct GuardedTls<T>(pub(super) T, pub(super) Guard);

impl<S, T> TlsConnect<S> for GuardedTls<T>
where
    T: TlsConnect<S>,
    T::Future: Send + 'static,
    T::Stream: 'static,
{
    type Stream = Guarded<T::Stream>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let (handshake, guard) = (self.0.connect(stream), self.1);
        Box::pin(async move {
            let shaken = timeout(guard.login, handshake).await;
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the server says nothing");
            Ok(guard.over(shaken.map_err(late)?.map_err(Into::into)?))
        })
    }
}
