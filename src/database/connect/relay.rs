//! A way for client programs to a server that could ask for the password in clear text.
//!
//! libpq before 16 cannot be told to refuse that, and a server that asked our own session for something else may ask the
//! program for clear text a moment later. So, where nothing proves who the server is, such a program connects to a socket
//! of ours, and its bytes pass through the guard of `guarded.rs` like our own.
//!
//! The socket is an abstract one: it is gone with this process, and lies in nobody's directory. Only the process's own
//! account gets through it, since to a server it looks like us.

use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as Listener};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

use super::guarded::Refusal;
use super::tls;
use super::transport::{Guard, Socket};
use crate::settings::{Address, Database, Ssl};

/// A listener on a thread of its own. It ends with this value; connections that are open go on.
#[derive(Debug)]
pub(super) struct Relay {
    /// The value for `PGHOST`.
    pub(super) host: String,
    _end: oneshot::Sender<()>,
}

impl Relay {
    /// Begins to listen.
    pub(super) fn start(database: &Database, guard: Guard) -> io::Result<Self> {
        let mut random = [0_u8; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!("glovebox-{:032x}", u128::from_be_bytes(random));
        let address = SocketAddr::from_abstract_name(format!("{name}/.s.PGSQL.{}", database.port))?;
        let listener = Listener::bind_addr(&address)?;
        listener.set_nonblocking(true)?;
        let (end, ended) = oneshot::channel::<()>();
        let database = Database { password: None, ..database.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            runtime.block_on(async {
                let Ok(listener) = UnixListener::from_std(listener) else { return };
                tokio::select! {
                    () = listen(&listener, database, guard) => {}
                    _ = ended => {}
                }
            });
        })?;
        Ok(Self { host: format!("@{name}"), _end: end })
    }
}

async fn listen(listener: &UnixListener, database: Database, guard: Guard) {
    let own = rustix::process::geteuid().as_raw();
    loop {
        match listener.accept().await {
            Ok((client, _)) if client.peer_cred().is_ok_and(|peer| peer.uid() == own) => {
                let (database, guard) = (database.clone(), guard.clone());
                tokio::spawn(async move { serve(client, &database, guard).await });
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve(mut client: UnixStream, database: &Database, guard: Guard) {
    if let Err(cause) = pass(&mut client, database, &guard).await {
        let words = match Refusal::of(&cause) {
            Some(refusal) => format!("{}: {refusal}", "the server is not listened to any more"),
            None => cause.to_string(),
        };
        // The program may be gone, or in the midst of a message.
        let _ = client.write_all(&fatal(&words)).await;
    }
}

/// A message of the server's own kind, which the program repeats.
fn fatal(words: &str) -> Vec<u8> {
    let body = format!("SFATAL\0VFATAL\0C08006\0M{}\0\0", words.replace('\0', ""));
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [b"E".as_slice(), &length.to_be_bytes(), body.as_bytes()].concat()
}

async fn pass(client: &mut UnixStream, database: &Database, guard: &Guard) -> io::Result<()> {
    let mut socket = Socket::connect(&database.address, database.port).await;
    let Address::Tcp(host) = &database.address else { return both(client, guard.over(socket)).await };
    if database.ssl == Ssl::Disable {
        return both(client, guard.over(socket)).await;
    }
    let mut answer = [0];
    // SSLRequest.
    socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await?;
    tokio::time::timeout(guard.login, socket.read_exact(&mut answer)).await.map_err(|_| ErrorKind::TimedOut)??;
    if answer != *b"S" {
        return Err(io::Error::other("the server does not support TLS"));
    }
    let mut connector = tls::connector(&database.ssl).map_err(io::Error::other)?;
    let connect = MakeTlsConnect::<Socket>::make_tls_connect(&mut connector, host).map_err(io::Error::other)?;
    let stream =
        tokio::time::timeout(guard.login, connect.connect(socket)).await.map_err(|_| ErrorKind::TimedOut)??;
    both(client, guard.over(stream)).await
}

async fn both(client: &mut UnixStream, mut server: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    copy_bidirectional(client, &mut server).await.map(drop)
}
