//! The processes in a unit's control group, and in the groups below it: a unit may divide its own.

use std::path::{Path, PathBuf};

/// The unified hierarchy, systemd's own of the old layout, and both beside each other.
const ROOTS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"];

/// The ids of the processes in this group, as systemd names it.
#[must_use]
pub fn processes(control_group: &str) -> Vec<u32> {
    if !control_group.starts_with('/') || control_group == "/" {
        return Vec::new();
    }
    let mut found = Vec::new();
    for root in ROOTS {
        collect(&PathBuf::from(format!("{root}{control_group}")), &mut found);
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn collect(group: &Path, found: &mut Vec<u32>) {
    let text = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process of another namespace.
    found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
}

/// `1234 (beam.smp)`, for messages.
#[must_use]
pub fn shown(processes: &[u32]) -> String {
    let name = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("{pid} ({})", name.trim())
    };
    processes.iter().take(10).map(name).collect::<Vec<_>>().join(", ")
}

/// Whether this process is in the group, or in the unit of one of these names.
#[must_use]
pub fn holds_us(control_group: &str, names: &[&str]) -> bool {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    own.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| {
        let is_below = control_group.len() > 1
            && path.strip_prefix(control_group).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        is_below || path.split('/').any(|part| !part.is_empty() && names.contains(&part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k11_a_unit_without_a_name_or_group_does_not_hold_this_run() {
        assert!(!holds_us("", &["", "glovebox-test-of-nothing.service"]));
        assert!(!holds_us("/", &[]));
    }
}
