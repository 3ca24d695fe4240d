//! Confines a private server: files and signals by Landlock, system calls by seccomp.
//!
//! Functions of a dump may run in that server as a superuser, who may read files and start programs. They keep the
//! account, so the account's rights are taken away: nothing but the server's own directory can be written, nothing but
//! programs and libraries read, no socket of another process reached, no process outside signalled.
//!
//! The programs are started by a thread that is in the Landlock domain itself and does nothing else. A signal that it
//! sends to everybody reaches all that are in the domain: the server, and whatever its programs started, however they
//! are related by then. A search for process ids would miss a program that forks faster than it is searched for.
//! Sources: landlock(7), kill(2).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use seccompiler::BpfProgram;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::calls;
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

/// A thread in a Landlock domain, by which programs are started in it. They end with it.
#[derive(Debug)]
pub(super) struct Sandbox {
    /// Closed when it is to end.
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    calls: Vec<BpfProgram>,
}

/// A program to start, and where its process is to be sent.
type Order = (Command, oneshot::Sender<std::io::Result<Child>>);

impl Sandbox {
    /// Lets the programs of this directory write into those, and nowhere else.
    ///
    /// # Errors
    /// [`Kind::Refused`] where the kernel cannot confine a process to that.
    pub(super) async fn enter(programs: &Path, own: &[&Path]) -> Result<Self> {
        // The cause is a list of rights, and does not tell an old kernel from a filter that refuses the calls.
        let refused = || {
            Error::new(
                Kind::Refused,
                "this kernel has no Landlock that confines signals (Linux 6.12), or a filter of system calls keeps it away",
            )
        };
        let files = files(programs, own).map_err(|_| refused())?;
        let calls =
            calls::filters().context(Kind::Refused, "no filter of system calls can be made for this machine")?;
        let probe = outside(programs).context(Kind::Refused, "the server's programs cannot be run")?;
        let (orders, received) = mpsc::channel();
        let (entered, answer) = oneshot::channel();
        let runtime = Handle::current();
        let thread = std::thread::Builder::new()
            .name("sandbox".to_owned())
            .spawn(move || {
                let is_confined = confine_this_thread(files) && reaches_nobody_else(probe);
                let _ = entered.send(is_confined);
                if is_confined {
                    start_all(&received, &runtime);
                    end_all();
                }
            })
            .context(Kind::Refused, "cannot start a thread")?;
        let sandbox = Self { orders: Some(orders), thread: Some(thread), calls };
        if answer.await.unwrap_or(false) { Ok(sandbox) } else { Err(refused()) }
    }

    /// Starts a program.
    ///
    /// # Errors
    /// Those of starting it.
    #[allow(unsafe_code, reason = "a process confines itself between fork and exec")]
    pub(super) async fn start(&self, mut command: Command) -> std::io::Result<Child> {
        let calls = self.calls.clone();
        // SAFETY: between fork and exec, only setrlimit(2), prctl(2) and seccomp(2) are called: plain system calls, which
        // are async-signal-safe. The filters were made before; nothing is locked.
        unsafe {
            command.pre_exec(move || {
                setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
                let refused = |_| std::io::Error::from(std::io::ErrorKind::PermissionDenied);
                calls.iter().try_for_each(|filter| seccompiler::apply_filter(filter).map_err(refused))
            });
        }
        let ended = || std::io::Error::other("the thread of the sandbox has ended");
        let (started, answer) = oneshot::channel();
        self.orders.as_ref().ok_or_else(ended)?.send((command, started)).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

impl Drop for Sandbox {
    /// Ends whatever is in it.
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic: there is nothing to be done about it.
            let _ = thread.join();
        }
    }
}

/// Whether this thread is in the domain from now on, for good.
fn confine_this_thread(files: RulesetCreated) -> bool {
    files.restrict_self().is_ok_and(|status| status.ruleset == RulesetStatus::FullyEnforced && status.no_new_privs)
}

/// A process of this account that is not in the domain. It ends at once, and can be signalled until it is waited for.
fn outside(programs: &Path) -> std::io::Result<std::process::Child> {
    let mut command = std::process::Command::new(programs.join("postgres"));
    command.arg("--version").env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// Whether the kernel does confine signals of this thread: at the end, it sends one to everybody.
fn reaches_nobody_else(mut outside: std::process::Child) -> bool {
    let id = i32::try_from(outside.id());
    let answer = id.map(|id| kill(Pid::from_raw(id), None));
    let _ = outside.wait();
    answer == Ok(Err(Errno::EPERM))
}

/// Starts programs until no more can come.
fn start_all(orders: &mpsc::Receiver<Order>, runtime: &Handle) {
    let _context = runtime.enter();
    while let Ok((mut command, answer)) = orders.recv() {
        // Nobody waits for the answer of one that was given up: it is ended with the rest.
        let _ = answer.send(command.spawn());
    }
}

/// Ends every process of the domain. The kernel looks at all processes of the machine at one moment, in which none of
/// them forks, and lets this thread reach none that is not in the domain.
fn end_all() {
    // The first one is enough for all that can be signalled; the others wait a little for the kernel to take them down.
    for _ in 0..5 {
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn files(programs: &Path, own: &[&Path]) -> std::result::Result<RulesetCreated, landlock::RulesetError> {
    let prefix = programs.parent().unwrap_or(programs);
    let installed = [programs.to_owned(), prefix.join("lib"), prefix.join("share")];
    let readable = READABLE.iter().map(PathBuf::from).chain(installed);
    // A link in the place of the server's socket would lead our own sessions, which nothing confines, to another server.
    let special = AccessFs::MakeSym | AccessFs::MakeFifo | AccessFs::MakeChar | AccessFs::MakeBlock;
    let write = AccessFs::from_all(ABI) & !AccessFs::Execute & !special;
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
