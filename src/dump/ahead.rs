//! Text that one thread unpacks and hashes while another reads it.

use std::io::{self, Read};
use std::sync::mpsc;

use super::PIECE;

/// Pieces that are read ahead.
const AHEAD: usize = 4;

/// Why the reading ended before the end of the text.
#[derive(Debug)]
pub(crate) enum Ended<E> {
    /// The text cannot be read any further.
    Unreadable(io::Error),
    /// The work on a piece failed.
    Failed(E),
}

/// Reads a text on a thread of its own, and does some work on each piece of it, in order.
///
/// # Errors
/// [`Ended`] by a piece that cannot be read, after the work on those before it, or by work that fails.
pub(crate) fn read_ahead<E>(
    mut text: impl Read + Send,
    mut work: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), Ended<E>> {
    std::thread::scope(|scope| {
        let (full, pieces) = mpsc::sync_channel(AHEAD);
        let (used, empty) = mpsc::channel::<Vec<u8>>();
        scope.spawn(move || {
            loop {
                let mut piece = empty.try_recv().unwrap_or_else(|_| vec![0; PIECE]);
                let read = match text.read(&mut piece) {
                    Ok(0) => return,
                    Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                    read => read.map(|length| (piece, length)),
                };
                let is_over = read.is_err();
                if full.send(read).is_err() || is_over {
                    return;
                }
            }
        });
        // The sender is gone at the end of the text; without the receiver, which goes with this loop, the thread ends.
        for read in pieces {
            let (piece, length) = read.map_err(Ended::Unreadable)?;
            work(&piece[..length]).map_err(Ended::Failed)?;
            // Nobody takes it where the text has ended.
            let _ = used.send(piece);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives some bytes, then fails.
    struct Breaks(usize);

    impl Read for Breaks {
        fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
            let length = self.0.min(piece.len());
            self.0 -= length;
            if length == 0 { Err(io::Error::other("broken")) } else { Ok(length) }
        }
    }

    #[test]
    fn all_of_a_text_is_read_in_order() {
        let text: Vec<u8> = (0..20 * PIECE + 7).map(|at| u8::try_from(at / 1000 % 251).unwrap()).collect();
        let mut read = Vec::new();
        read_ahead(&text[..], |piece| {
            read.extend_from_slice(piece);
            Ok::<(), ()>(())
        })
        .unwrap();
        assert!(read == text);
    }

    #[test]
    fn what_comes_before_a_broken_place_is_read() {
        let mut read = 0;
        let ended = read_ahead(Breaks(3 * PIECE), |piece| {
            read += piece.len();
            Ok::<(), ()>(())
        });
        assert!(matches!(ended, Err(Ended::Unreadable(cause)) if cause.to_string() == "broken"));
        assert_eq!(read, 3 * PIECE);
    }

    #[test]
    fn work_that_fails_ends_the_reading_of_a_text_without_end() {
        let mut left = 10;
        let ended = read_ahead(io::repeat(1), |_| {
            left -= 1;
            if left == 0 { Err("enough") } else { Ok(()) }
        });
        assert!(matches!(ended, Err(Ended::Failed("enough"))));
    }
}
