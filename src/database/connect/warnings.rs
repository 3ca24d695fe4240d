//! Warnings of the server about privileges. A session that asks for them gets them; every other notice is dropped.
//!
//! A GRANT or REVOKE of somebody who has no grant option succeeds, and does nothing: the warning is the only sign of it.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Connection};

use super::cause;

/// Warnings that are kept until they are taken. One statement has few.
const KEPT: usize = 100;

/// Privileges that a statement did not grant or revoke, in the server's words.
#[derive(Clone, Debug, Default)]
pub struct PrivilegeWarnings(Arc<Mutex<Vec<String>>>);

impl PrivilegeWarnings {
    /// Those since the last call. The server sends them before the result of the statement that they are about.
    #[must_use]
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn hear(&self, message: &AsyncMessage) {
        let AsyncMessage::Notice(notice) = message else { return };
        let codes = [SqlState::WARNING_PRIVILEGE_NOT_GRANTED, SqlState::WARNING_PRIVILEGE_NOT_REVOKED];
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if codes.contains(notice.code()) && kept.len() < KEPT {
            kept.push(notice.message().to_owned());
        }
    }
}

/// Runs a connection until its client is gone; a failure reaches the client's next call.
pub(super) fn run<S, T>(mut connection: Connection<S, T>, warnings: Option<PrivilegeWarnings>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        loop {
            match poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(message)) => {
                    if let Some(warnings) = &warnings {
                        warnings.hear(&message);
                    }
                }
                Some(Err(cause)) => return cause::note_end(&cause),
                None => return,
            }
        }
    });
}
