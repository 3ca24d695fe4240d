//! Child processes: absolute paths, no shell, a cleared environment, and no child that outlives us. And threads.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};
use tokio::process::Command;

use crate::error::{Context, Kind, Result};

/// Whether there is no process of this number. Another account's may be hidden (`ProtectProc=invisible`): that is not
/// gone, and a signal that may not be sent shows it.
#[must_use]
pub fn is_gone(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return true };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH)
}

/// A command that is killed when this process ends, however it ends.
///
/// The environment is empty but for a plain `PATH` (Debian's client programs are scripts) and the C locale, so that
/// messages can be recognised. Standard input is closed. Call it from the main thread: the kernel delivers the
/// parent-death signal when the *thread* that forked ends.
#[must_use]
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/run/current-system/sw/bin")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    die_with_parent(&mut command);
    command
}

/// The same for a program that is to act as the caller would: it keeps the environment (`systemctl` looks in it).
#[must_use]
pub fn host_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    // Ctrl-C on the terminal is heard by this process alone, which puts the service back.
    command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
    die_with_parent(&mut command);
    command
}

/// Gives a command a session of its own, without a terminal: it neither reads nor types what belongs to ours.
#[allow(unsafe_code)]
pub fn without_terminal(command: &mut Command) {
    // SAFETY: setsid(2) is a plain system call, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
    }
}

#[allow(unsafe_code)]
fn die_with_parent(command: &mut Command) {
    let parent = nix::unistd::getpid();
    // SAFETY: between fork and exec only close_range(2), prctl(2) and getppid(2) are called: plain system calls, which
    // are async-signal-safe; nothing is allocated or locked.
    unsafe {
        command.pre_exec(move || {
            // What our own caller left open is no business of a child: everything but the three standard ones closes.
            nix::libc::close_range(3, nix::libc::c_uint::MAX, nix::libc::CLOSE_RANGE_CLOEXEC.cast_signed());
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // If the parent died before the line above, the signal will never come.
            if getppid() == parent { Ok(()) } else { Err(std::io::ErrorKind::BrokenPipe.into()) }
        });
    }
}

/// Looks a program up in `PATH` as a shell does, then where systems keep their administration programs.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/run/current-system/sw/bin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|program| program.is_absolute() && is_executable(program))
}

/// Whether this is a file that the caller may execute.
#[must_use]
pub fn is_executable(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

/// A command line as a person would type it, for messages; it never holds a secret.
#[must_use]
pub fn shown(program: &Path, arguments: &[impl AsRef<OsStr>]) -> String {
    let mut text = program.display().to_string();
    for argument in arguments {
        text.push(' ');
        text.push_str(&argument.as_ref().to_string_lossy());
    }
    text
}

/// The longest line of a child's words that is kept: the rest of it is read, and forgotten.
const LONGEST_LINE: usize = 64 * 1024;

/// The next line of what a child says, without its end; `None` at the end of it all.
///
/// # Errors
/// Those of reading.
pub async fn next_line(stream: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut has_read = false;
    loop {
        let piece = stream.fill_buf().await?;
        if piece.is_empty() {
            return Ok(has_read.then_some(line));
        }
        has_read = true;
        let end = memchr::memchr(b'\n', piece);
        let text = &piece[..end.unwrap_or(piece.len())];
        line.extend_from_slice(&text[..text.len().min(LONGEST_LINE.saturating_sub(line.len()))]);
        let used = end.map_or(piece.len(), |end| end + 1);
        stream.consume(used);
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

/// Runs work that blocks on a thread of its own.
///
/// Unlike the runtime's own, such a thread keeps nobody from ending the process: a reader that is stuck on a pipe
/// must not hold up the answer to SIGTERM.
pub async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(sender.send(work())));
    receiver.await.context(Kind::Attention, "a thread of this program failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn k18_a_line_without_end_is_not_kept_whole() {
        let long = "x".repeat(3 * LONGEST_LINE);
        for (text, lines) in [
            ("a\n\nb".to_owned(), vec![1, 0, 1]),
            (format!("{long}\nb\n"), vec![LONGEST_LINE, 1]),
            (long, vec![LONGEST_LINE]),
            (String::new(), vec![]),
        ] {
            let mut stream = tokio::io::BufReader::new(text.as_bytes());
            let mut lengths = Vec::new();
            while let Some(line) = next_line(&mut stream).await.unwrap() {
                lengths.push(line.len());
            }
            assert_eq!(lengths, lines);
        }
    }
}
