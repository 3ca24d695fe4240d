//! Packets of an SFTP server, on their way to the library that reads them: none without a limit.
//!
//! The library makes room for as much as a packet's header says, and takes its length for what it should be.
//!
//! Source: draft-ietf-secsh-filexfer-02, section 3, "General Packet Format".

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::bounded::too_long;
use crate::repository::limits::PACKET;

/// A packet's type, and a number that is its version or its request's.
const SHORTEST: u32 = 5;

/// A stream of packets, each of a length that a packet can have.
#[derive(Debug)]
pub(super) struct Packets<R> {
    inner: R,
    /// The length of the next packet, as far as it is known.
    head: [u8; 4],
    known: usize,
    /// The rest of a packet.
    left: u32,
    refusal: Refusal,
}

/// Why a server is no longer listened to. The library that reads it only says that reading failed.
pub(super) type Refusal = Arc<OnceLock<String>>;

impl<R> Packets<R> {
    pub(super) fn new(inner: R, refusal: &Refusal) -> Self {
        Self { inner, head: [0; 4], known: 0, left: 0, refusal: Arc::clone(refusal) }
    }

    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let length = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= u32::try_from(length).unwrap_or(self.left);
                bytes = bytes.get(length..).unwrap_or_default();
                continue;
            }
            if let Some(byte) = self.head.get_mut(self.known) {
                *byte = *first;
            }
            self.known += 1;
            bytes = rest;
            if self.known == self.head.len() {
                self.known = 0;
                self.left = u32::from_be_bytes(self.head);
                if self.left > PACKET {
                    return Err(too_long("a packet of the server", PACKET.into()));
                }
                if self.left < SHORTEST {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is not SFTP"));
                }
            }
        }
        Ok(())
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Packets<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let had = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let followed = self.follow(buf.filled().get(had..).unwrap_or_default());
        if let Err(cause) = &followed {
            buf.set_filled(had);
            // The first one counts.
            let _ = self.refusal.set(cause.to_string());
        }
        Poll::Ready(followed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pieces: &[&[u8]]) -> io::Result<()> {
        let mut packets = Packets::new((), &Refusal::default());
        pieces.iter().try_for_each(|piece| packets.follow(piece))
    }

    #[test]
    fn k18_packets_of_a_server_have_a_limit() {
        let one = [0, 0, 0, 6, 1, 2, 3, 4, 5, 6];
        all(&[&one, &one[..2], &one[2..5], &one[5..]]).unwrap();
        assert_eq!(all(&[&one, &[0xff; 4]]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        // Bytes of a packet are not taken for a length.
        all(&[&[0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff], &[0xff, 0, 0, 0, 5]]).unwrap();
        assert_eq!(all(&[&[0, 0, 0], &[4, 1, 1, 1, 1]]).unwrap_err().to_string(), "the answer is not SFTP");
    }
}
