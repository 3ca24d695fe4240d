//! What a test looks at and does beside a running binary: processes, directories, programs that misbehave.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use sha2::{Digest, Sha256};

use super::server::bin_dir;

/// Numbers from a seed, which is printed; `TEST_SEED` repeats a run.
pub struct Random(u64);

impl Random {
    pub fn new(test: &str) -> Self {
        let now =
            || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() & 0xffff_ffff).unwrap();
        let seed = std::env::var("TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(now);
        eprintln!("{test}: TEST_SEED={seed}");
        Self(seed)
    }

    /// From a number of another one.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// `SplitMix64`.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// The files of a directory, hidden ones too, with size and hash; what is no regular file counts by its name.
pub fn listing(directory: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry"));
    let describe = |path: &Path| match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => format!("{} bytes, {}", metadata.len(), sha256(path)),
        Ok(metadata) => format!("{:?}", metadata.file_type()),
        Err(cause) => cause.to_string(),
    };
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), describe(&entry.path()))).collect()
}

/// The names of the files that are not whole yet.
pub fn partials(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains(".partial.")).collect()
}

/// 64 hex digits.
pub fn sha256(path: &Path) -> String {
    hex(&fs::read(path).expect("a file"))
}

/// The SHA-256 of bytes.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Waits until something holds, at most this long.
#[track_caller]
pub fn eventually(seconds: u64, what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(seconds);
    while !holds() {
        assert!(Instant::now() < give_up, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn sleep_ms(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// Whether a process runs; one that waits to be collected does not.
pub fn runs(pid: u32) -> bool {
    state(pid).is_some_and(|(state, _, _)| !"ZX".contains(state))
}

/// State, parent and name of a process.
fn state(pid: u32) -> Option<(char, u32, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = text.rsplit_once(") ")?;
    let (_, name) = head.split_once('(')?;
    let mut words = tail.split(' ');
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?, name.to_owned()))
}

/// Every process there is.
pub fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The running descendants of a process, with their names.
pub fn descendants(of: u32) -> Vec<(u32, String)> {
    let all: Vec<(u32, u32, String)> = processes()
        .into_iter()
        .filter_map(|pid| {
            state(pid).filter(|(state, _, _)| !"ZX".contains(*state)).map(|(_, parent, name)| (pid, parent, name))
        })
        .collect();
    let mut found = Vec::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for (pid, _, name) in all.iter().filter(|(_, of, _)| *of == parent) {
            found.push((*pid, name.clone()));
            parents.push(*pid);
        }
    }
    found
}

/// Waits for the `pg_dump` under a process that dumps; an earlier one is only asked for its version.
#[track_caller]
pub fn pg_dump_of(process: u32) -> u32 {
    let dumps =
        |pid: u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("--format="));
    let mut found = None;
    eventually(20, &format!("a pg_dump under {process}"), || {
        let mut below = descendants(process).into_iter();
        found = below.find(|(pid, name)| name == "pg_dump" && dumps(*pid)).map(|(pid, _)| pid);
        found.is_some()
    });
    found.unwrap()
}

/// Sends a signal; the process may be gone already.
pub fn signal(pid: u32, signal: Signal) {
    let _ = nix::sys::signal::kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

/// Makes a directory for `database.tools` whose `pg_dump` is this script; the others are the real ones.
///
/// In the script `$REAL` is the real `pg_dump`. It is not asked for its version.
pub fn tools(parent: &Path, script: &str) -> PathBuf {
    let dir = parent.join("tools");
    fs::create_dir_all(&dir).expect("a directory");
    let bin = bin_dir();
    let bin = bin.display();
    let pg_dump = format!("#!/bin/sh\nREAL={bin}/pg_dump\n[ \"$1\" = --version ] && exec $REAL --version\n{script}\n");
    let plain = |name: &str| format!("#!/bin/sh\nexec {bin}/{name} \"$@\"\n");
    for (name, text) in [("pg_dump", pg_dump), ("pg_restore", plain("pg_restore"))] {
        // Renamed when whole: a script that is being written cannot be executed.
        let new = dir.join(format!(".{name}"));
        fs::write(&new, text).expect("a script");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::rename(new, dir.join(name)).expect("a script");
    }
    dir
}

/// The path of a program that a test needs; without it the test fails with what provides it.
#[track_caller]
pub fn need(program: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no {program}: install it with `apt-get install {package}`"))
}
