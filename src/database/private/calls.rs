//! Filters of system calls for a private server: what Landlock leaves open. Source: seccomp(2).

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls that reach other processes, other sockets or other views of the file system, or that change what belongs to the
/// account without opening it.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_connect,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // It does what other calls do, unseen by the filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_syslog,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    // Names of files that others work on.
    libc::SYS_inotify_init1,
    libc::SYS_fanotify_init,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    // When and where other processes of the account run.
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // Owners, times and attributes of any file of the account.
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    SETXATTRAT,
    REMOVEXATTRAT,
    FILE_SETATTR,
];

/// Numbers that are the same on every machine, and that `libc` has not everywhere.
const FCHMODAT2: libc::c_long = 452;
const SETXATTRAT: libc::c_long = 463;
const REMOVEXATTRAT: libc::c_long = 466;
const FILE_SETATTR: libc::c_long = 469;

/// Calls of the same kind that newer machines do without.
#[cfg(target_arch = "x86_64")]
const REFUSED_OLD: &[libc::c_long] = &[
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
    libc::SYS_inotify_init,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_OLD: &[libc::c_long] = &[];

/// Calls that do nothing and say that they did. PostgreSQL wants to set modes of its own files, which are as they should
/// be from the beginning; but Landlock lets a process set those of all files of its account.
#[cfg(target_arch = "x86_64")]
const WITHOUT_EFFECT: &[libc::c_long] = &[libc::SYS_chmod, libc::SYS_fchmod, libc::SYS_fchmodat, FCHMODAT2];
#[cfg(not(target_arch = "x86_64"))]
const WITHOUT_EFFECT: &[libc::c_long] = &[libc::SYS_fchmod, libc::SYS_fchmodat, FCHMODAT2];

/// Kinds of namespaces. A process that made one would have all rights in it.
const NAMESPACES: &[libc::c_int] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// The filters, all of which are to be applied.
///
/// # Errors
/// If this machine is of no kind that filters can be made for.
pub(super) fn filters() -> Result<Vec<BpfProgram>, Error> {
    let whole = |calls: &[libc::c_long]| -> Rules { calls.iter().map(|call| (*call, Vec::new())).collect() };
    let mut refused: Rules = whole(REFUSED).into_iter().chain(whole(REFUSED_OLD)).collect();
    refused.extend(refused_by_arguments()?);
    if cfg!(target_arch = "x86_64") {
        refuse_x32(&mut refused);
    }
    // Its arguments cannot be seen; programs use `clone` instead when it is not there.
    let missing = whole(&[libc::SYS_clone3]);
    [(refused, libc::EPERM), (missing, libc::ENOSYS), (whole(WITHOUT_EFFECT), 0)]
        .into_iter()
        .map(|(rules, error)| {
            let answer = SeccompAction::Errno(error.unsigned_abs());
            let arch = std::env::consts::ARCH.try_into()?;
            Ok(SeccompFilter::new(rules, SeccompAction::Allow, answer, arch)?.try_into()?)
        })
        .collect()
}

fn refused_by_arguments() -> Result<Rules, Error> {
    let only = |argument: u8, operator: SeccompCmpOp, value: libc::c_int| {
        let value = u64::from(value.unsigned_abs());
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
    };
    let with_bits = |argument: u8, value: libc::c_int, mask: u64| {
        let value = u64::from(value.unsigned_abs());
        let operator = SeccompCmpOp::MaskedEq(mask);
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
    };
    let mut rules = Rules::new();
    // A socket of datagrams sends to any address without connecting.
    let kinds = [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET];
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        let mut refused = vec![only(0, SeccompCmpOp::Ne, libc::AF_UNIX)?];
        for kind in kinds {
            refused.push(with_bits(1, kind, 0xf)?);
        }
        rules.insert(call, refused);
    }
    // The limits of other processes.
    rules.insert(libc::SYS_prlimit64, vec![only(0, SeccompCmpOp::Ne, 0)?]);
    let namespaces = NAMESPACES.iter().map(|kind| with_bits(0, *kind, u64::from(kind.unsigned_abs())));
    rules.insert(libc::SYS_clone, namespaces.collect::<Result<_, _>>()?);
    Ok(rules)
}

/// These calls by the numbers that the kernel has for programs with short pointers.
fn refuse_x32(rules: &mut Rules) {
    const X32: i64 = 0x4000_0000;
    // ptrace, process_vm_readv and process_vm_writev have numbers of their own.
    let numbers = rules.keys().copied().chain(WITHOUT_EFFECT.iter().copied());
    let numbers: Vec<i64> = numbers.chain([libc::SYS_clone3, 521, 539, 540]).collect();
    for number in numbers {
        rules.insert(X32 | number, Vec::new());
    }
}
