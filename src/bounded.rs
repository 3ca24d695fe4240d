//! Reading with a limit: files, and the output of child processes.
//!
//! A file, a device or a program may give more than fits into memory. Each limit stands beside the call that it is for; what
//! is longer is an error where all of it is needed, and is cut where it is only shown.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Output;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;

/// How much of a program's messages is kept, in bytes: half of it from the beginning, half from the end.
const MESSAGES: usize = 64 * 1024;

/// A piece that is read in one go, in bytes.
const PIECE: usize = 16 * 1024;

/// Something is longer than this number of bytes.
#[must_use]
pub fn too_long(what: &str, limit: u64) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("{what} is longer than {limit} bytes"))
}

/// The content of a regular file of at most `limit` bytes.
///
/// # Errors
/// Those of opening and reading; [`ErrorKind::InvalidData`] if the file is longer; [`ErrorKind::InvalidInput`] if it is a
/// pipe, a device or a socket, which may have no end.
pub fn file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // Opening a pipe waits for its other end, unless it is told not to.
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    if metadata.len() > limit {
        return Err(too_long("the file", limit));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // One that grows meanwhile, or whose length is not known before it is read, as in /proc.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(too_long("the file", limit)) } else { Ok(bytes) }
}

/// The content of whatever lies there, of at most `limit` bytes: for what a person named, which may be a pipe.
///
/// # Errors
/// Those of opening and reading; [`ErrorKind::InvalidData`] if it is longer.
pub fn any(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(too_long("the file", limit)) } else { Ok(bytes) }
}

/// A zstd stream's content of at most `limit` bytes.
///
/// # Errors
/// [`ErrorKind::InvalidData`] if it is longer; zstd's own.
pub fn decompressed(packed: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    zstd::stream::read::Decoder::with_buffer(packed)?.take(limit + 1).read_to_end(&mut plain)?;
    if plain.len() as u64 > limit { Err(too_long("the content", limit)) } else { Ok(plain) }
}

/// Waits for a program whose whole standard output is needed: at most `limit` bytes. Its standard error is kept as far as a
/// person reads it.
///
/// # Errors
/// Those of reading and waiting; [`ErrorKind::InvalidData`] if the output is longer. The program is killed then.
pub async fn output(mut child: Child, limit: u64) -> io::Result<Output> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let whole = async {
        let mut bytes = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(limit + 1).read_to_end(&mut bytes).await?;
        }
        if bytes.len() as u64 > limit { Err(too_long("its output", limit)) } else { Ok(bytes) }
    };
    let (stdout, stderr) = tokio::try_join!(whole, messages(stderr))?;
    Ok(Output { status: child.wait().await?, stdout, stderr })
}

/// Waits for a program whose output only is to be shown: all of it is read, the beginning and the end of each stream are
/// kept.
///
/// # Errors
/// Those of reading and waiting.
pub async fn shown(mut child: Child) -> io::Result<Output> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = tokio::try_join!(messages(stdout), messages(stderr))?;
    Ok(Output { status: child.wait().await?, stdout, stderr })
}

async fn messages(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let Some(mut stream) = stream else { return Ok(Vec::new()) };
    let (mut kept, mut piece) = (Vec::new(), vec![0; PIECE]);
    loop {
        let length = stream.read(&mut piece).await?;
        if length == 0 {
            return Ok(kept);
        }
        kept.extend_from_slice(piece.get(..length).unwrap_or_default());
        if kept.len() > MESSAGES {
            kept.drain(MESSAGES / 2..kept.len() - MESSAGES / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;
    use crate::process;

    fn shell(script: &str) -> Child {
        let mut command = process::command(Path::new("/bin/sh"));
        command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn k18_a_file_without_an_end_is_not_read() {
        assert_eq!(file(Path::new("/dev/zero"), 10).unwrap_err().kind(), ErrorKind::InvalidInput);
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(file(&pipe, 10).unwrap_err().kind(), ErrorKind::InvalidInput);
        let sparse = dir.path().join("sparse");
        File::create(&sparse).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(file(&sparse, 10).unwrap_err().kind(), ErrorKind::InvalidData);
        std::fs::write(&sparse, "0123456789").unwrap();
        assert_eq!(file(&sparse, 10).unwrap(), b"0123456789");
        assert_eq!(file(&sparse, 9).unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(file(Path::new("/proc/self/cmdline"), 0).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn k18_a_named_device_without_an_end_is_read_to_the_limit() {
        assert_eq!(any(Path::new("/dev/zero"), 10).unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(any(Path::new("/dev/null"), 0).unwrap(), b"");
    }

    #[test]
    fn k18_a_few_bytes_do_not_become_many() {
        let packed = zstd::encode_all(&vec![0; 1 << 20][..], 1).unwrap();
        assert_eq!(decompressed(&packed, 1 << 20).unwrap().len(), 1 << 20);
        assert_eq!(decompressed(&packed, (1 << 20) - 1).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn k18_a_programs_output_without_an_end_is_an_error() {
        let error = output(shell("exec cat /dev/zero"), 1 << 20).await.unwrap_err();
        assert_eq!(error.to_string(), "its output is longer than 1048576 bytes");
        let ended = output(shell("echo out; echo words >&2; exit 3"), 4).await.unwrap();
        assert_eq!((&*ended.stdout, &*ended.stderr, ended.status.code()), (&b"out\n"[..], &b"words\n"[..], Some(3)));
    }

    #[tokio::test]
    async fn k18_of_long_messages_beginning_and_end_are_kept() {
        let ended = shown(shell("echo begin; head -c 5000000 /dev/zero; echo; echo end")).await.unwrap();
        assert!(ended.stdout.starts_with(b"begin\n") && ended.stdout.ends_with(b"\nend\n"));
        assert!(ended.stdout.len() <= MESSAGES, "{}", ended.stdout.len());
        let ended = output(shell("echo out; head -c 5000000 /dev/zero >&2; echo; echo end >&2"), 100).await.unwrap();
        assert!(ended.stderr.ends_with(b"end\n") && ended.stderr.len() <= MESSAGES);
    }
}
