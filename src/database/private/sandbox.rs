//! Confines a private server: files by Landlock, system calls by seccomp.
//!
//! Functions of a dump may run in that server as a superuser, who may read files and start programs. They keep the
//! account, so the account's rights are taken away: nothing but the server's own directory can be written, nothing but
//! programs and libraries read, no socket of another process reached, no process outside signalled.
//! Sources: landlock(7), seccomp(2).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, Scope, path_beneath_rules,
};
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use tokio::process::Command;

use crate::error::{Context, Error, Kind, Result};

/// The first version that confines signals: without that, the live server could be ended if it runs as the same account.
const ABI: ABI = ABI::V6;

/// Programs, libraries and what they need to know of the machine. No directory of the state of anything is among them:
/// not all of `/usr`, since a server that was built there may have its data below it.
const READABLE: &[&str] = &[
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/share",
    "/usr/local/bin",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/local/share",
    "/bin",
    "/lib",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    "/run/current-system/sw/lib/locale",
    "/run/current-system/sw/share/zoneinfo",
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/etc/localtime",
    "/etc/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/locale.alias",
    "/dev/urandom",
    "/dev/random",
];

/// Devices that hold nothing.
const WRITABLE: &[&str] = &["/dev/null", "/dev/zero"];

/// System calls that reach other processes, other sockets or other views of the file system.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_connect,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // It does what other calls do, unseen by the filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_mq_open,
    libc::SYS_msgget,
    libc::SYS_semget,
    // When and where other processes of the account run.
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
];

/// Rules for a command, made before it starts.
pub(super) struct Sandbox {
    files: RulesetCreated,
    calls: BpfProgram,
}

impl Sandbox {
    /// Lets the programs of this directory write into that one, and nowhere else.
    ///
    /// # Errors
    /// [`Kind::Refused`] where the kernel cannot confine a process to that.
    pub(super) fn new(programs: &Path, own: &[&Path]) -> Result<Self> {
        // The cause is a list of rights, and does not tell an old kernel from a filter that refuses the calls.
        let files = files(programs, own).map_err(|_| {
            Error::new(
                Kind::Refused,
                "this kernel has no Landlock that confines signals (Linux 6.12), or a filter of system calls keeps it away",
            )
        })?;
        let calls = calls().context(Kind::Refused, "no filter of system calls can be made for this machine")?;
        Ok(Self { files, calls })
    }

    /// Confines the program that the command starts.
    ///
    /// # Errors
    /// [`Kind::Refused`] if the rules cannot be handed over.
    #[allow(unsafe_code, reason = "a process confines itself between fork and exec")]
    pub(super) fn confine(&self, command: &mut Command) -> Result<()> {
        let mut files = Some(self.files.try_clone().context(Kind::Refused, "cannot share a descriptor")?);
        let calls = self.calls.clone();
        // SAFETY: between fork and exec, only setrlimit(2), prctl(2), landlock_restrict_self(2), close(2) and seccomp(2)
        // are called: plain system calls, which are async-signal-safe. The rules were made before; nothing
        // is locked.
        unsafe {
            command.pre_exec(move || {
                setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
                let refused = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
                files.take().ok_or_else(refused)?.restrict_self().map_err(|_| refused())?;
                seccompiler::apply_filter(&calls).map_err(|_| refused())
            });
        }
        Ok(())
    }
}

fn files(programs: &Path, own: &[&Path]) -> std::result::Result<RulesetCreated, landlock::RulesetError> {
    let prefix = programs.parent().unwrap_or(programs);
    let installed = [programs.to_owned(), prefix.join("lib"), prefix.join("share")];
    let readable = READABLE.iter().map(PathBuf::from).chain(installed);
    let write = AccessFs::from_all(ABI) & !AccessFs::Execute;
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI))?
        .handle_access(AccessNet::from_all(ABI))?
        .scope(Scope::from_all(ABI))?
        .create()?
        .add_rules(path_beneath_rules(readable, AccessFs::from_read(ABI)))?
        .add_rules(path_beneath_rules(WRITABLE, AccessFs::ReadFile | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules(own, write))
}

fn calls() -> std::result::Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let differs = |argument: u8, operator: SeccompCmpOp, value: u64| {
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
    };
    let unix = u64::from(libc::AF_UNIX.unsigned_abs());
    // A socket of datagrams sends to any address without connecting.
    let kinds = [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET].map(|kind| u64::from(kind.unsigned_abs()));
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        let mut refused = vec![differs(0, SeccompCmpOp::Ne, unix)?];
        for kind in kinds {
            refused.push(differs(1, SeccompCmpOp::MaskedEq(0xf), kind)?);
        }
        rules.insert(call, refused);
    }
    // The limits of other processes.
    rules.insert(libc::SYS_prlimit64, vec![differs(0, SeccompCmpOp::Ne, 0)?]);
    if cfg!(target_arch = "x86_64") {
        refuse_x32(&mut rules);
    }
    let arch = std::env::consts::ARCH.try_into()?;
    let refusal = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch)?.try_into()?)
}

/// The same calls by the numbers that the kernel has for programs with short pointers.
fn refuse_x32(rules: &mut BTreeMap<i64, Vec<SeccompRule>>) {
    const X32: i64 = 0x4000_0000;
    // ptrace, process_vm_readv and process_vm_writev have numbers of their own.
    let numbers: Vec<i64> = rules.keys().copied().chain([521, 539, 540]).collect();
    for number in numbers {
        rules.insert(X32 | number, Vec::new());
    }
}
