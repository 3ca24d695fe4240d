//! From root to the database's user, for good.
//!
//! Started as root, a binary starts itself a second time: the first process keeps root's rights for the few requests
//! of [`host`](crate::host), the second gives them up before it reads anything and does the work. Which account that
//! is: `database.os_user`; else the account named like the database role, so that peer authentication works; else the
//! owner of the state directory. `root` means that nothing is given up, and is said.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{self, Gid, Pid, Uid, User};
use serde::{Deserialize, Serialize};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::{Context, Error, Kind, Result};
use crate::host::link::Link;
use crate::host::terminal::Relays;
use crate::host::{Answer, ExtraFile, HostState, Opened, Request};
use crate::interrupt::Interrupt;
use crate::process;
use crate::settings::{Inputs, Settings};

/// Tells a process that it is the second one, and whom to become.
const WORKER: &str = "GLOVEBOX_WORKER";

/// How long a worker may take to end once a signal has come: less than the 90 seconds after which systemd kills both.
const LIMIT: Duration = Duration::from_secs(75);

/// What the work runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// As the caller.
    Caller,
    /// As root, since `os_user` or the state directory says so.
    Root,
    /// As this account, after root's rights are given up.
    Other(String),
}

/// Decides what the work runs as.
pub fn account(settings: &Settings) -> Result<Account> {
    if !unistd::geteuid().is_root() {
        return Ok(Account::Caller);
    }
    let name = match &settings.database.os_user {
        Some(name) => {
            lookup(name)?;
            name.clone()
        }
        None => match User::from_name(&settings.database.user) {
            Ok(Some(user)) => user.name,
            _ => state_dir_owner(settings)?,
        },
    };
    Ok(if name == "root" { Account::Root } else { Account::Other(name) })
}

fn state_dir_owner(settings: &Settings) -> Result<String> {
    let Ok(metadata) = std::fs::metadata(&settings.state_dir) else { return Ok("root".into()) };
    match User::from_uid(Uid::from_raw(metadata.uid())) {
        Ok(Some(user)) => Ok(user.name),
        _ => Err(Error::new(Kind::Usage, "no account can be found to do the work")
            .with("state directory", format!("{} belongs to uid {}", settings.state_dir.display(), metadata.uid()))
            .hint("Set `database.os_user`.")),
    }
}

fn lookup(name: &str) -> Result<User> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user),
        _ => Err(Error::new(Kind::Usage, format!("there is no account \"{name}\" on this machine"))
            .with("state", "nothing was read, nothing was written")
            .hint("Set `database.os_user` to an existing account.")),
    }
}

/// Gives up root's rights in this process for good and proves it.
///
/// The order matters: groups first, since only root may change them; the user last. Source: setresuid(2),
/// credentials(7).
fn become_account(name: &str) -> Result<()> {
    let parent = unistd::getppid();
    let user = lookup(name)?;
    let failed = || format!("cannot become the account \"{name}\"");
    let c_name = std::ffi::CString::new(name).context(Kind::Usage, failed())?;
    let groups = unistd::getgrouplist(&c_name, user.gid).context(Kind::Refused, failed())?;
    unistd::setgroups(&groups).context(Kind::Refused, failed())?;
    unistd::setresgid(user.gid, user.gid, user.gid).context(Kind::Refused, failed())?;
    unistd::setresuid(user.uid, user.uid, user.uid).context(Kind::Refused, failed())?;
    prctl::set_no_new_privs().context(Kind::Refused, failed())?;

    let uids = unistd::getresuid().context(Kind::Refused, failed())?;
    let gids = unistd::getresgid().context(Kind::Refused, failed())?;
    let is_user = [uids.real, uids.effective, uids.saved].iter().all(|uid| *uid == user.uid);
    let is_group = [gids.real, gids.effective, gids.saved].iter().all(|gid| *gid == user.gid);
    let no_way_back = unistd::setuid(Uid::from_raw(0)).is_err() && unistd::setgid(Gid::from_raw(0)).is_err();
    if !(is_user && is_group && (no_way_back || user.uid.is_root())) {
        return Err(Error::new(Kind::Refused, failed()).with("cause", "root's rights could be had again"));
    }
    // A change of credentials clears the signal that the parent's death sends. The memory of this process holds
    // secrets: no core dump, no debugger.
    prctl::set_pdeathsig(Signal::SIGTERM).context(Kind::Refused, failed())?;
    // If the parent died before the line above, the signal will never come.
    if unistd::getppid() != parent {
        return Err(Error::new(Kind::Refused, failed()).with("cause", "the process that started this one has ended"));
    }
    prctl::set_dumpable(false).context(Kind::Refused, failed())?;
    std::env::set_current_dir("/").context(Kind::Refused, failed())
}

/// The first message to the worker.
#[derive(Serialize, Deserialize)]
struct Setup {
    inputs: Inputs,
    output_path: Option<PathBuf>,
    has_output: bool,
    has_input: bool,
    members: Vec<String>,
    /// Of a file that could not be opened, why.
    extra: Vec<(PathBuf, Option<String>)>,
}

/// Whether this process is the second one.
#[must_use]
pub fn is_worker() -> bool {
    std::env::var_os(WORKER).is_some()
}

/// The second process: takes over what the first one opened, and becomes the account.
pub fn enter_worker() -> Result<(Link, Inputs, Opened)> {
    let name = std::env::var(WORKER).context(Kind::Usage, format!("{WORKER} is not meant to be set by hand"))?;
    let link = Link::from_stdin()?;
    let (setup, mut descriptors): (Setup, _) = link.receive()?;
    let count = usize::from(setup.has_output)
        + usize::from(setup.has_input)
        + setup.members.len()
        + setup.extra.iter().filter(|(_, why)| why.is_none()).count();
    link.receive_descriptors(&mut descriptors, count)?;
    become_account(&name)?;
    let mut descriptors = descriptors.into_iter();
    let mut opened = Opened { output_path: setup.output_path, ..Opened::default() };
    if setup.has_output {
        opened.output = descriptors.next().map(Into::into);
    }
    if setup.has_input {
        opened.input = descriptors.next();
    }
    opened.members = setup.members.into_iter().zip(descriptors.by_ref()).collect();
    for (path, why) in setup.extra {
        let file = match why {
            Some(why) => Err(why),
            None => descriptors.next().ok_or_else(|| "it was not handed over".to_owned()),
        };
        opened.extra.push(ExtraFile { path, file });
    }
    Ok((link, setup.inputs, opened))
}

/// The first process: starts the second, answers its requests, passes signals on, puts the service back when it has ended,
/// and returns its exit code.
pub async fn supervise(
    name: &str,
    inputs: Inputs,
    opened: Opened,
    host: &mut HostState,
    interrupt: &Interrupt,
) -> Result<u8> {
    let (ours, theirs) = Link::pair()?;
    let program = std::env::current_exe().context(Kind::Refused, "cannot find this program's own file")?;
    let mut command = process::command(&program);
    for variable in ["TERM", "NO_COLOR", "JOURNAL_STREAM", "PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "LOCALE_ARCHIVE"] {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
    process::without_terminal(&mut command);
    let relays = Relays::begin(&mut command)?;
    let mut child = command
        .args(std::env::args_os().skip(1))
        .env(WORKER, name)
        .stdin(Stdio::from(theirs.into_descriptor()))
        // A request that is under way when this future is dropped would lose its answer; the worker ends by itself.
        .kill_on_drop(false)
        .spawn()
        .context(Kind::Refused, "cannot start the unprivileged process")?;
    // The command holds the other ends of the socket and the pipes; only the worker may, so that its end is noticed.
    drop(command);
    send_setup(&ours, inputs, &opened)?;
    drop(opened);

    let ended = attend(&mut child, ours, host, &relays, interrupt).await;
    // The service does not wait for a terminal that shows nothing more.
    let finished = host.finish().await;
    relays.end(interrupt).await;
    finished.and(ended.and_then(exit_code))
}

/// Answers the second process's requests until it ends.
async fn attend(
    child: &mut Child,
    link: Link,
    host: &mut HostState,
    relays: &Relays,
    interrupt: &Interrupt,
) -> Result<ExitStatus> {
    let link = Arc::new(link);
    let (sender, mut requests) = mpsc::channel(1);
    let receiving = link.clone();
    // Receiving blocks; the thread ends with the worker, whose end of the socket closes.
    std::thread::spawn(move || {
        while let Ok((request, _)) = receiving.receive::<Request>() {
            if sender.blocking_send(request).is_err() {
                break;
            }
        }
    });
    let mut forwarded = false;
    // Until a signal has come, and while this process is at work for the worker, it may take its time.
    let mut deadline = None;
    loop {
        tokio::select! {
            status = child.wait() => return status.context(Kind::Attention, "cannot wait for the worker"),
            () = at(deadline) => {
                deadline = None;
                forward(child.id(), Signal::SIGKILL);
            }
            Some(request) = requests.recv() => {
                if matches!(request, Request::Ask(_)) {
                    relays.settle().await;
                }
                // Nobody may ever answer a question.
                let may_last = matches!(request, Request::Ask(_));
                let mut handling = Box::pin(host.handle(request));
                // A worker that ends meanwhile needs no answer, and a signal does not wait for one.
                let ended = loop {
                    tokio::select! {
                        answer = &mut handling => {
                            let answer: Result<Answer> = answer;
                            let _ = link.answer(&answer);
                            break None;
                        }
                        status = child.wait() => break Some(status),
                        () = at(deadline), if may_last => {
                            deadline = None;
                            forward(child.id(), Signal::SIGKILL);
                        }
                        number = interrupt.raised(), if !forwarded => {
                            forwarded = true;
                            deadline = Some(Instant::now() + LIMIT);
                            stop(child.id(), number);
                        }
                    }
                };
                deadline = forwarded.then(|| Instant::now() + LIMIT);
                if let Some(status) = ended {
                    return status.context(Kind::Attention, "cannot wait for the worker");
                }
            }
            number = interrupt.raised(), if !forwarded => {
                forwarded = true;
                deadline = Some(Instant::now() + LIMIT);
                stop(child.id(), number);
            }
        }
    }
}

fn send_setup(link: &Link, inputs: Inputs, opened: &Opened) -> Result<()> {
    let mut setup = Setup {
        inputs,
        output_path: opened.output_path.clone(),
        has_output: opened.output.is_some(),
        has_input: opened.input.is_some(),
        members: opened.members.iter().map(|(name, _)| name.clone()).collect(),
        extra: opened.extra.iter().map(|extra| (extra.path.clone(), extra.file.as_ref().err().cloned())).collect(),
    };
    let output = opened.output.as_ref().map(AsFd::as_fd);
    let input = opened.input.as_ref().map(OwnedFd::as_fd);
    let members = opened.members.iter().map(|(_, file)| file.as_fd());
    let extra = opened.extra.iter().filter_map(|extra| extra.file.as_ref().ok()).map(AsFd::as_fd);
    let descriptors: Vec<BorrowedFd<'_>> = output.into_iter().chain(input).chain(members).chain(extra).collect();
    let sent = link.send(&setup, &descriptors);
    // From here on, the worker alone needs them.
    setup.inputs.wipe();
    sent
}

/// Passes a signal on. A worker that somebody has stopped goes on, and hears it.
fn stop(id: Option<u32>, number: i32) {
    if let Ok(signal) = Signal::try_from(number) {
        forward(id, signal);
        forward(id, Signal::SIGCONT);
    }
}

fn forward(id: Option<u32>, signal: Signal) {
    if let Some(pid) = id.and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw) {
        // It may have ended in this very moment.
        let _ = kill(pid, signal);
    }
}

/// Ends at that time, or never.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn exit_code(status: ExitStatus) -> Result<u8> {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        (None, signal) => {
            let number = signal.unwrap_or(0);
            Err(Error::new(Kind::Signal(number), format!("the unprivileged process was killed by signal {number}"))
                .with("state", "what it left behind is removed by the next run")
                .hint("`journalctl -k` shows whether memory ran out."))
        }
    }
}
