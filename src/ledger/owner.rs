//! The process that a run belongs to, so that one that died is not taken for running for ever.
//!
//! A process id alone says nothing: it is given again. Id and start time name a process for as long as the machine is
//! up, and the boot id says whether it still is. In doubt a process lives: a run that is shown as running too long
//! is a blemish, one that is called dead while it works is a lie.
//!
//! Source: `proc_pid_stat(5)`, `pid_namespaces(7)`, `kill(2)`.

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::error::{Error, Kind, Result};

/// A process, for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// Its id, in its own namespace.
    pub(super) pid: i32,
    /// The namespace, as `/proc/self/ns/pid` shows it; empty if it cannot be read.
    pub(super) pid_namespace: String,
    /// The kernel's id of this boot; empty if it cannot be read (systemd's `ProcSubset=pid` hides it).
    pub(super) boot_id: String,
    /// When it started, in clock ticks since the boot.
    pub(super) start: i64,
}

impl Owner {
    /// This process.
    pub(super) fn current() -> Result<Self> {
        let pid = Pid::this();
        Self::of(pid).ok_or_else(|| Error::new(Kind::Store, format!("cannot read /proc/{pid}/stat")))
    }

    /// A process of our own namespace; `None` if there is none, or it cannot be seen.
    pub(super) fn of(pid: Pid) -> Option<Self> {
        let (_, start) = stat(pid)?;
        let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Some(Self {
            pid: pid.as_raw(),
            pid_namespace: namespace.to_string_lossy().into_owned(),
            boot_id: boot.trim().to_owned(),
            start,
        })
    }

    /// Whether this process has certainly ended, seen from `here`.
    pub(super) fn has_ended(&self, here: &Self) -> bool {
        let differ = |one: &str, other: &str| !one.is_empty() && !other.is_empty() && one != other;
        if differ(&self.boot_id, &here.boot_id) {
            return true;
        }
        // In another namespace the id is another process's.
        if differ(&self.pid_namespace, &here.pid_namespace) {
            return false;
        }
        let pid = Pid::from_raw(self.pid);
        match stat(pid) {
            // A zombie has ended; only its parent has not looked yet.
            Some((state, start)) => start != self.start || matches!(state, 'Z' | 'X'),
            // Other accounts' processes may be hidden (`ProtectProc=invisible`), which is not the same as gone.
            None => kill(pid, None) == Err(Errno::ESRCH),
        }
    }
}

/// State and start time of a process.
fn stat(pid: Pid) -> Option<(char, i64)> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 3 and 22. Field 2 is a name in parentheses that may itself hold spaces and parentheses.
fn parse(stat: &str) -> Option<(char, i64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> (Child, Owner) {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let owner = Owner::of(Pid::from_raw(child.id().cast_signed())).unwrap();
        (child, owner)
    }

    #[test]
    fn a_process_has_ended_once_it_is_killed_even_before_its_parent_looks() {
        let here = Owner::current().unwrap();
        let (mut child, owner) = sleeper();
        assert!(!owner.has_ended(&here));
        child.kill().unwrap();
        // Waits without reaping.
        let zombie = nix::sys::wait::Id::Pid(Pid::from_raw(owner.pid));
        nix::sys::wait::waitid(zombie, nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT)
            .unwrap();
        assert!(owner.has_ended(&here), "a zombie");
        child.wait().unwrap();
        assert!(owner.has_ended(&here), "gone");
    }

    #[test]
    fn an_id_that_was_given_again_is_another_process() {
        let here = Owner::current().unwrap();
        assert!(!here.has_ended(&here));
        assert!(Owner { start: here.start - 1, ..here.clone() }.has_ended(&here));
    }

    #[test]
    fn after_a_reboot_every_process_has_ended() {
        let here = Owner::current().unwrap();
        let before = Owner { boot_id: "00000000-0000-0000-0000-000000000000".to_owned(), ..here.clone() };
        assert!(before.has_ended(&here));
        assert!(!Owner { boot_id: String::new(), ..here.clone() }.has_ended(&here), "a boot that is not known");
    }

    #[test]
    fn of_a_process_in_another_namespace_nothing_is_said() {
        let here = Owner::current().unwrap();
        let (mut child, owner) = sleeper();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!Owner { pid_namespace: "pid:[1]".to_owned(), ..owner }.has_ended(&here));
    }

    #[test]
    fn the_name_of_a_program_may_look_like_fields() {
        let line = "12 (a) R 1 (b) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 9 9";
        assert_eq!(parse(line), Some(('S', 777)));
    }
}
