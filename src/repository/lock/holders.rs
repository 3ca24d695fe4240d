//! Who holds a flock, as far as the kernel tells.
//!
//! Processes of others may be hidden, and some file systems (btrfs, overlayfs) show the kernel another device than
//! they show us. A holder is for a person to read: in doubt it is named with less, never guessed.
//!
//! Source: `proc_locks(5)`.

use std::fs::File;
use std::os::linux::fs::MetadataExt;

/// Each holder, in words; one line if none can be seen.
pub(super) fn of(file: &File) -> Vec<String> {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let pids = file.metadata().map(|at| pids(&locks, &device(at.st_dev()), at.st_ino())).unwrap_or_default();
    if pids.is_empty() {
        return vec!["a process that is hidden from this account".to_owned()];
    }
    pids.into_iter().map(named).collect()
}

fn named(pid: i32) -> String {
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("{} (pid {pid})", name.trim()),
        Err(_) => format!("pid {pid}"),
    }
}

/// As the kernel writes it: `fe:00`, both in hexadecimal.
fn device(number: u64) -> String {
    format!("{:02x}:{:02x}", rustix::fs::major(number), rustix::fs::minor(number))
}

/// Those who hold a lock on this file; a line with `->` is one who waits.
fn pids(locks: &str, device: &str, inode: u64) -> Vec<i32> {
    let held: Vec<(i32, &str)> = locks
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            if words.next()? != "FLOCK" {
                return None;
            }
            // ADVISORY, READ or WRITE, then who and where.
            let (pid, place) = (words.nth(2)?.parse().ok()?, words.next()?);
            let (on, number) = place.rsplit_once(':')?;
            (number.parse::<u64>().ok()? == inode && pid > 0).then_some((pid, on))
        })
        .collect();
    let exactly: Vec<i32> = held.iter().filter(|(_, on)| *on == device).map(|(pid, _)| *pid).collect();
    let mut found = if exactly.is_empty() { held.into_iter().map(|(pid, _)| pid).collect() } else { exactly };
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_found_by_device_and_inode() {
        let locks = "1: FLOCK  ADVISORY  WRITE 29484 fe:00:77 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 5 fe:00:77 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 6 fe:00:77 0 EOF\n\
                     3: FLOCK  ADVISORY  READ 7 fe:01:77 0 EOF\n\
                     4: FLOCK  ADVISORY  READ 8 00:1f:99 0 EOF\n\
                     5: FLOCK  ADVISORY  READ 0 fe:00:77 0 EOF\n\
                     rubbish\n";
        assert_eq!(pids(locks, "fe:00", 77), [29484]);
        assert_eq!(pids(locks, "fe:01", 77), [7]);
        assert_eq!(pids(locks, "00:2a", 99), [8], "a file system that shows us another device");
        assert!(pids(locks, "fe:00", 1).is_empty() && pids("", "fe:00", 77).is_empty());
    }
}
