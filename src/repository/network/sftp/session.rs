//! The program ssh, the connection through it, and what its failures mean.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex as Plain, PoisonError};
use std::time::Duration;

use openssh_sftp_client::error::SftpErrorKind;
use openssh_sftp_client::{Error as Its, Sftp as Client, SftpOptions};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::process::Child;

use super::super::{excerpt, words};
use super::packets::{Packets, Refusal};
use crate::process;

/// How long ssh may still have something to say after it closed the connection.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A connection, which ends with this value.
pub(super) struct Session {
    pub(super) client: Client,
    /// What ssh said on its standard error.
    pub(super) said: Arc<Plain<String>>,
    refusal: Refusal,
    /// ssh, which ends with this.
    _child: Option<Child>,
}

impl Session {
    /// Starts ssh and greets the server.
    pub(super) async fn connect(program: &Path, arguments: &[String]) -> io::Result<Self> {
        let mut command = process::command(program);
        for name in ["SSH_AUTH_SOCK", "PATH"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(super::super::home().map(|home| ("HOME", home)));
        let spawned = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawned.spawn()?;
        let (Some(input), Some(output), Some(mut errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("ssh has no standard input and output"));
        };
        let said = Arc::new(Plain::new(String::new()));
        let heard = Arc::clone(&said);
        let listening = tokio::spawn(async move {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = errors.read(&mut buffer).await {
                let text = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()).into_owned();
                let mut said = heard.lock().unwrap_or_else(PoisonError::into_inner);
                // The last words tell; a banner may be long.
                if said.len() > 4096 {
                    said.clear();
                }
                said.push_str(&text);
            }
        });
        match Self::over(input, output, &said).await {
            Ok(session) => Ok(Self { _child: Some(child), ..session }),
            Err(error) => {
                let _ = tokio::time::timeout(LAST_WORDS, listening).await;
                Err(refused(&last_words(&said)).unwrap_or_else(|| error.unwrap_or_else(|error| failed(&error, &said))))
            }
        }
    }

    /// Greets the server at the other end of these.
    pub(super) async fn over(
        input: impl AsyncWrite + Send + 'static,
        output: impl AsyncRead + Send + Unpin + 'static,
        said: &Arc<Plain<String>>,
    ) -> Result<Self, Result<io::Error, Its>> {
        let refusal = Refusal::default();
        match Client::new(input, Packets::new(output, &refusal), SftpOptions::default()).await {
            Ok(client) => Ok(Self { client, said: Arc::clone(said), refusal, _child: None }),
            Err(error) => Err(refusal.get().map(|cause| without_measure(cause)).ok_or(error)),
        }
    }

    /// An error of the server or of the connection, with what ssh said of it.
    pub(super) fn failed(&self, error: &Its) -> io::Error {
        match self.refusal.get() {
            Some(cause) => without_measure(cause),
            None => failed(error, &self.said),
        }
    }
}

/// A server that is no longer listened to. Another attempt would get the same.
fn without_measure(cause: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, cause)
}

/// What ssh refuses will be refused the next time too.
fn refused(said: &str) -> Option<io::Error> {
    let denied = ["Permission denied", "Host key verification failed", "Too many authentication failures"];
    let wrong = ["Bad configuration option", "Can't open user config file", "subsystem request failed"];
    let contains = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
    match () {
        () if contains(&denied) => Some(io::Error::new(ErrorKind::PermissionDenied, format!("ssh: {said}"))),
        () if contains(&wrong) => Some(io::Error::new(ErrorKind::InvalidInput, format!("ssh: {said}"))),
        () => None,
    }
}

fn last_words(said: &Plain<String>) -> String {
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// An error of the server or of the connection, with what ssh said of it.
fn failed(error: &Its, said: &Plain<String>) -> io::Error {
    if let Its::SftpError(kind, message) = error {
        let kind = match kind {
            SftpErrorKind::NoSuchFile => ErrorKind::NotFound,
            SftpErrorKind::PermDenied => ErrorKind::PermissionDenied,
            SftpErrorKind::OpUnsupported => ErrorKind::InvalidInput,
            // "Failure" may be a full disk: another attempt may find room.
            _ => ErrorKind::Other,
        };
        return io::Error::new(kind, format!("the server says: {}", excerpt(message.get().0)));
    }
    if let Its::IOError(cause) = error
        && cause.kind() == ErrorKind::UnexpectedEof
        && cause.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Short>)
    {
        return ErrorKind::UnexpectedEof.into();
    }
    // Another attempt would get the same.
    if let Its::IOError(cause) = error
        && cause.kind() == ErrorKind::InvalidData
    {
        return io::Error::new(ErrorKind::InvalidData, cause.to_string());
    }
    let said = last_words(said);
    let said = if said.is_empty() { String::new() } else { format!(" (ssh: {said})") };
    io::Error::other(format!("the connection failed: {}{said}", words(error)))
}

/// A file that ends before it should.
#[derive(Debug)]
struct Short;

impl std::fmt::Display for Short {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the file is shorter than it was")
    }
}

impl std::error::Error for Short {}

pub(super) fn short() -> Its {
    Its::IOError(io::Error::new(ErrorKind::UnexpectedEof, Short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_refuses_is_not_tried_again() {
        assert_eq!(refused("x@h: Permission denied (publickey).").unwrap().kind(), ErrorKind::PermissionDenied);
        assert_eq!(refused("Host key verification failed.").unwrap().kind(), ErrorKind::PermissionDenied);
        assert!(refused("connect to host h port 22: Connection refused").is_none());
    }
}
