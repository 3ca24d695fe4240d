//! Storage behind a network, on the loopback interface: an S3 server within the test, a real sshd, rclone's REST server.
//! Each ends with its value, and can be stopped and started again in between.

use std::convert::Infallible;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::sync::oneshot;

use super::probe::{descendants, eventually, need};
use super::server::is_root;

pub const KEY_ID: &str = "GLOVEBOXTESTKEY";
pub const SECRET: &str = "c4nary-of-the-bucket";
pub const BUCKET: &str = "papers";

/// What an S3 server does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Every other list of what lies in this directory of the repository is empty.
    ShortLists(&'static str),
    /// What is put into `data` is acknowledged, and gone.
    LostPacks,
    /// Everything is answered with this status.
    Status(u16),
}

/// s3s-fs, a server over a directory.
pub struct Bucket {
    dir: tempfile::TempDir,
    port: u16,
    fault: Arc<Mutex<Fault>>,
    /// Requests that came.
    pub asked: Arc<AtomicUsize>,
    /// Milliseconds that each object takes to be put there.
    pub delay: Arc<AtomicU64>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Bucket {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("glovebox-s3-").tempdir().unwrap();
        fs::create_dir(dir.path().join(BUCKET)).unwrap();
        let (fault, asked, delay) = (Arc::new(Mutex::new(Fault::None)), Arc::default(), Arc::default());
        let mut bucket = Self { dir, port: 0, fault, asked, delay, running: None };
        bucket.boot();
        bucket
    }

    /// What `repository.location` says.
    pub fn location(&self) -> String {
        format!("s3:http://127.0.0.1:{}/{BUCKET}/teslamate", self.port)
    }

    /// Where the files of the repository really are.
    pub fn files(&self) -> PathBuf {
        self.dir.path().join(BUCKET).join("teslamate")
    }

    pub fn variables() -> String {
        format!("AWS_ACCESS_KEY_ID={KEY_ID}\nAWS_SECRET_ACCESS_KEY='{SECRET}'\n")
    }

    pub fn fail(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Starts it, again on the port that it had.
    pub fn boot(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel();
        let root = self.dir.path().to_owned();
        let (fault, asked, delay) = (Arc::clone(&self.fault), Arc::clone(&self.asked), Arc::clone(&self.delay));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, &root, &fault, &asked, &delay) => {}
                    _ = stopped => {}
                }
            });
            // Every connection ends with the runtime, in the middle of whatever it does.
            runtime.shutdown_background();
        });
        self.running = Some((stop, thread));
    }

    pub fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            thread.join().unwrap();
        }
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(
    listener: TcpListener,
    root: &Path,
    fault: &Arc<Mutex<Fault>>,
    asked: &Arc<AtomicUsize>,
    delay: &Arc<AtomicU64>,
) {
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
    let s3 = builder.build();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let lists = Arc::new(AtomicUsize::new(0));
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (s3, fault, asked) = (s3.clone(), Arc::clone(fault), Arc::clone(asked));
        let (lists, delay) = (Arc::clone(&lists), Arc::clone(delay));
        let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
            asked.fetch_add(1, Ordering::Relaxed);
            let (s3, fault, lists) = (s3.clone(), *fault.lock().unwrap(), Arc::clone(&lists));
            let pause = Duration::from_millis(delay.load(Ordering::Relaxed));
            async move {
                let canned = canned(&request, fault, &lists);
                if request.method() == Method::PUT {
                    tokio::time::sleep(pause).await;
                }
                Ok::<_, Infallible>(match canned {
                    Some((status, text)) => {
                        let body = s3s::Body::from(text.to_owned());
                        Response::builder().status(status).body(body).unwrap()
                    }
                    None => s3.call(request.map(s3s::Body::from)).await.unwrap(),
                })
            }
        });
        tokio::spawn(async move {
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

/// The answer that the fault has in place of the right one.
fn canned(request: &Request<Incoming>, fault: Fault, lists: &AtomicUsize) -> Option<(u16, &'static str)> {
    let uri = request.uri().to_string();
    match fault {
        Fault::Status(status) => Some((status, "<Error><Code>Odd</Code><Message>by a test</Message></Error>")),
        Fault::ShortLists(directory) if uri.contains("list-type=2") && uri.contains(directory) => {
            let is_odd = lists.fetch_add(1, Ordering::Relaxed) % 2 == 1;
            let empty = "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>";
            is_odd.then_some((200, empty))
        }
        Fault::LostPacks if request.method() == Method::PUT && uri.contains("/data/") => Some((200, "")),
        _ => None,
    }
}

/// A child process that is killed with all that it started.
struct Daemon(Child);

impl Daemon {
    fn stop(&mut self) {
        let below: Vec<u32> = descendants(self.0.id()).into_iter().map(|(pid, _)| pid).collect();
        let _ = self.0.kill();
        let _ = self.0.wait();
        for pid in below {
            // It may have ended with its parent.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::SIGKILL);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A real sshd with keys of its own, run by whoever runs the test.
pub struct Sshd {
    dir: tempfile::TempDir,
    pub port: u16,
    running: Option<Daemon>,
}

impl Sshd {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("glovebox-sshd-").tempdir().unwrap();
        let keygen = need("ssh-keygen", "openssh-client");
        for name in ["host", "user", "stranger"] {
            let mut make = Command::new(&keygen);
            make.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.path().join(name));
            assert!(make.status().unwrap().success());
        }
        fs::copy(dir.path().join("user.pub"), dir.path().join("authorized_keys")).unwrap();
        // A port that is free now; sshd cannot be told to choose one.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host_key = fs::read_to_string(dir.path().join("host.pub")).unwrap();
        fs::write(dir.path().join("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nStrictModes no\n\
             Subsystem sftp internal-sftp\n",
            path("host"),
            path("authorized_keys"),
        );
        fs::write(dir.path().join("sshd_config"), config).unwrap();
        let mut sshd = Self { dir, port, running: None };
        sshd.boot();
        sshd
    }

    pub fn boot(&mut self) {
        if is_root() {
            // Started by root it insists on this directory, which its service would make.
            let made = fs::DirBuilder::new().recursive(true).mode(0o755).create("/run/sshd");
            made.unwrap();
        }
        // It is started by its whole path, which is not in every user's PATH.
        let usual = PathBuf::from("/usr/sbin/sshd");
        let mut sshd = Command::new(if usual.exists() { usual } else { need("sshd", "openssh-server") });
        sshd.args(["-D", "-e", "-f"]).arg(self.path("sshd_config")).stdin(Stdio::null());
        self.running = Some(Daemon(sshd.stderr(Stdio::null()).spawn().unwrap()));
        let port = self.port;
        eventually(20, "sshd listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    pub fn stop(&mut self) {
        self.running = None;
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the files of the repository really are.
    pub fn files(&self) -> PathBuf {
        self.path("a place/teslamate")
    }

    pub fn location(&self) -> String {
        format!("sftp://127.0.0.1:{}/{}", self.port, self.files().display())
    }

    /// What `repository.options` says, with the key of this name.
    pub fn options(&self, key: &str) -> String {
        format!("identity_file = {:?}\nknown_hosts_file = {:?}\n", self.path(key), self.path("known_hosts"))
    }
}

pub const REST_USER: &str = "teslamate";
pub const REST_PASSWORD: &str = "c4nary of the server";

/// rclone's REST server over a directory.
pub struct RestServer {
    dir: tempfile::TempDir,
    pub port: u16,
    running: Option<Daemon>,
}

impl RestServer {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("glovebox-rest-").tempdir().unwrap();
        let mut server = Self { dir, port: 0, running: None };
        server.boot();
        server
    }

    pub fn boot(&mut self) {
        let mut rclone = Command::new(need("rclone", "rclone"));
        rclone.args(["serve", "restic", "--addr", &format!("127.0.0.1:{}", self.port)]).arg(self.dir.path());
        rclone.env("RCLONE_USER", REST_USER).env("RCLONE_PASS", REST_PASSWORD);
        let mut child = rclone.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        self.running = Some(Daemon(child));
        let line = lines.by_ref().map(Result::unwrap).find(|line| line.contains("http://127.0.0.1:")).unwrap();
        let digits = line.rsplit_once("127.0.0.1:").unwrap().1;
        self.port = digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
        // It says more with each request, and must not wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
    }

    pub fn location(&self) -> String {
        format!("rest:http://{REST_USER}@127.0.0.1:{}/teslamate", self.port)
    }

    pub fn files(&self) -> PathBuf {
        self.dir.path().join("teslamate")
    }
}

/// A server that takes every connection, and says this or nothing.
pub struct Mute {
    pub port: u16,
    stop: Arc<Mutex<bool>>,
    thread: Option<JoinHandle<()>>,
}

impl Mute {
    pub fn saying(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, stop) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept() {
                if *stopped.lock().unwrap() {
                    return;
                }
                if answer.is_empty() {
                    held.push(stream);
                    continue;
                }
                let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { port, stop, thread: Some(thread) }
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        *self.stop.lock().unwrap() = true;
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes what is secret unreadable for others.
pub fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
