//! The ways to a server, and what is said about each way that is closed.
//!
//! One server knows every kind of authentication, a role for each; its certificate is made here with `openssl`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::binary::Outcome;
use crate::support::server::{Options, as_server_account, bin_dir, is_root};
use crate::support::{Server, Site};

/// The first line that fits decides, by role and kind of connection.
const HBA: &str = "\
local   all trusted,postgres,teslamate               trust
local   all all                                      peer
host    all trusted,ghost              127.0.0.1/32  trust
host    all by_md5                     127.0.0.1/32  md5
host    all by_scram,canary            127.0.0.1/32  scram-sha-256
host    all by_password                127.0.0.1/32  password
hostssl all only_tls                   127.0.0.1/32  scram-sha-256
";

/// The password of every role that has one.
pub const PASSWORD: &str = "p' \"ä$\\x";

/// The server of this file, with a TeslaMate database `template_teslamate`.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = Server::start(Options { hba: Some(HBA.into()), tcp: true, ..Options::default() });
        server.create_teslamate("template_teslamate", 1000);
        let password = PASSWORD.replace('\'', "''");
        server.query(
            "postgres",
            &format!(
                "CREATE ROLE \"{}\" LOGIN SUPERUSER; CREATE ROLE trusted LOGIN SUPERUSER;
                 SET password_encryption = 'md5'; CREATE ROLE by_md5 LOGIN SUPERUSER PASSWORD '{password}';
                 SET password_encryption = 'scram-sha-256';
                 CREATE ROLE by_password LOGIN SUPERUSER PASSWORD '{password}';
                 CREATE ROLE by_scram LOGIN SUPERUSER PASSWORD '{password}';
                 CREATE ROLE only_tls LOGIN SUPERUSER PASSWORD '{password}'",
                account()
            ),
        );
        certify(
            &server,
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
                 -keyout ca.key -out ca.crt
             openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=stranger \
                 -keyout stranger.key -out stranger.crt
             openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost \
                 -keyout server.key -out server.csr
             echo subjectAltName=DNS:localhost > extensions
             openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions \
                 -out server.crt",
        );
        server
    })
}

/// The account whose peer authentication works: as root, one that root's rights are given up for.
fn account() -> String {
    if is_root() { "nobody".into() } else { current_account() }
}

fn current_account() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
}

/// Makes `server.crt` and `server.key` in the server's own directory and switches TLS on.
fn certify(server: &Server, script: &str) {
    let script = format!("set -e; mkdir -p tls; cd tls; {script}\nchmod 600 *.key");
    let done =
        as_server_account(Path::new("/bin/sh")).args(["-c", &script]).current_dir(server.dir()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for (setting, file) in [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")] {
        let path = tls_file(server, file);
        server.query("postgres", &format!("ALTER SYSTEM SET {setting} = '{}'", path.display()));
    }
    server.query("postgres", "ALTER SYSTEM SET ssl = on");
    server.query("postgres", "SELECT pg_reload_conf()");
    let give_up = Instant::now() + Duration::from_secs(10);
    while server.query("postgres", "SHOW ssl") != "on" {
        assert!(Instant::now() < give_up, "{}", fs::read_to_string(server.dir().join("log")).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    // The reload reaches the process that accepts connections before or after ours.
    std::thread::sleep(Duration::from_millis(200));
}

pub fn tls_file(server: &Server, name: &str) -> PathBuf {
    server.dir().join("tls").join(name)
}

/// An installation with these lines in `[database]`, which runs as the caller.
pub fn site(server: &Server, lines: &str) -> Site {
    let site = Site::new(server, &server.teslamate("connect"));
    let lines = format!("os_user = {:?}\n{lines}", current_account());
    configure(&site, &lines);
    site
}

fn configure(site: &Site, lines: &str) {
    let state = quoted(&site.state_dir());
    site.write_config(&format!("state_dir = {state}\n[database]\nname = {:?}\n{lines}\n", site.database));
}

/// A path as TOML writes it.
fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_str().unwrap())
}

/// Over TCP as this role; `more` are further lines.
pub fn tcp(server: &Server, role: &str, more: &str) -> Site {
    let host = if more.contains("host =") { "" } else { "host = \"localhost\"" };
    site(server, &format!("user = {role:?}\nport = {}\n{host}\n{more}", server.port()))
}

/// Over the socket as this role.
fn socket(server: &Server, role: &str, more: &str) -> Site {
    site(server, &format!("user = {role:?}\nport = {}\nsocket_dir = {}\n{more}", server.port(), quoted(server.dir())))
}

/// The quickest run that connects with our own driver and with a client program.
pub fn backup(site: &Site, password: Option<&str>) -> Outcome {
    let run = site.command("teslamate-backup").args(&["--force", "--schema-only", "a.sql"]);
    match password {
        Some(password) => run.env("DATABASE_PASS", password).outcome(),
        None => run.outcome(),
    }
}

/// A whole backup, and a drill of it: with every client program.
#[track_caller]
pub fn there_and_back(site: &Site, variables: &[(&str, &str)]) {
    for (binary, arguments) in [
        ("teslamate-backup", &["a.dump"][..]),
        ("teslamate-backup", &["a.sql"]),
        ("teslamate-restore", &["--drill", "a.dump"]),
        ("teslamate-restore", &["--drill", "a.sql"]),
    ] {
        let run = site.command(binary).args(arguments);
        variables.iter().fold(run, |run, (name, value)| run.env(name, value)).outcome().expect(0);
    }
}

#[test]
fn r86_peer_authentication_works_as_the_account_named_like_the_role() {
    let server = server();
    let site = Site::new(server, &server.teslamate("connect"));
    // No `os_user`: the account is found by the role's name.
    configure(&site, &format!("user = {:?}\nport = {}\nsocket_dir = {:?}", account(), server.port(), server.dir()));
    backup(&site, None).expect(0);
}

#[test]
fn r86_refused_peer_authentication_names_the_os_user_in_use() {
    let server = server();
    let refused = backup(&socket(server, "by_scram", ""), Some(PASSWORD)).expect(10);
    let words = format!("OS user \"{}\" is not role \"by_scram\"", current_account());
    let refused = refused.says(&words).says("Run it as OS user \"by_scram\", set `database.os_user`");
    assert!(!refused.stderr.contains(PASSWORD));
    if is_root() {
        let site = Site::new(server, &server.teslamate("connect"));
        let lines = format!("port = {}\nsocket_dir = {:?}", server.port(), server.dir());
        configure(&site, &format!("user = \"by_md5\"\nos_user = \"nobody\"\n{lines}"));
        backup(&site, None).expect(10).says("OS user \"nobody\" is not role \"by_md5\"");
    }
}

#[test]
fn r86_passwords_work_by_md5_and_by_scram() {
    for role in ["by_md5", "by_scram"] {
        backup(&tcp(server(), role, ""), Some(PASSWORD)).expect(0);
    }
}

#[test]
fn r86_a_whole_backup_and_a_drill_work_over_scram_without_tls() {
    there_and_back(&tcp(server(), "by_scram", ""), &[("DATABASE_PASS", PASSWORD)]);
}

#[test]
fn r86_a_wrong_password_is_called_so() {
    for role in ["by_md5", "by_scram"] {
        let refused = backup(&tcp(server(), role, ""), Some("wr0ng-one")).expect(12);
        let refused = refused.says(&format!("the password for role \"{role}\" was refused")).says("DATABASE_PASS");
        assert!(!refused.stderr.contains("wr0ng-one"));
    }
}

#[test]
fn r86_a_missing_password_is_called_so() {
    for role in ["by_md5", "by_scram"] {
        let words = format!("the server asks for a password for role \"{role}\", and none is set");
        backup(&tcp(server(), role, ""), None).expect(12).says(&words).says("Set DATABASE_PASS");
    }
}

#[test]
fn a_missing_database_is_called_so() {
    let site = socket(server(), "trusted", "");
    let run = site.command("teslamate-backup").args(&["--dbname", "nowhere", "a.sql"]);
    run.outcome().expect(12).says("there is no database \"nowhere\"").says("psql -l");
    assert!(!site.path("a.sql").exists());
}

#[test]
fn a_missing_role_is_called_so() {
    backup(&tcp(server(), "ghost", ""), None).expect(12).says("there is no role \"ghost\"").says("DATABASE_USER");
}

#[test]
fn a_role_that_pg_hba_does_not_know_is_told_so() {
    let refused = backup(&tcp(server(), "stranger", "ssl = \"noverify\""), None).expect(12);
    refused
        .says("pg_hba.conf does not let role \"stranger\" into database")
        .says("stranger 127.0.0.1/32 scram-sha-256`");
}

#[test]
fn a_wrong_port_names_the_one_that_a_server_listens_on() {
    let server = server();
    let lines = format!("user = \"trusted\"\nport = 1\nsocket_dir = {:?}", server.dir());
    let words = format!("a server listens on port {}: check DATABASE_PORT", server.port());
    backup(&site(server, &lines), None).expect(12).says(".s.PGSQL.1").says(&words);
}

#[test]
fn where_no_server_is_it_is_said_what_was_looked_for() {
    let server = server();
    // The kernel gives no port below 1024 away by itself.
    let tcp = site(server, "user = \"trusted\"\nhost = \"127.0.0.1\"\nport = 1");
    backup(&tcp, None).expect(12).says("no server listens at 127.0.0.1:1").says("systemctl status postgresql");

    let nothing = site(server, "user = \"trusted\"");
    for (dir, words) in [("state", "holds no socket"), ("missing", "does not exist: check DATABASE_SOCKET_DIR")] {
        let run = nothing.command("teslamate-backup").arg("a.sql").env("DATABASE_SOCKET_DIR", nothing.path(dir));
        run.outcome().expect(12).says("no server listens at").says(words);
    }
    // A server that was killed leaves its socket behind.
    drop(std::os::unix::net::UnixListener::bind(nothing.path("state/.s.PGSQL.5432")).unwrap());
    let run = nothing.command("teslamate-backup").arg("a.sql").env("DATABASE_SOCKET_DIR", nothing.path("state"));
    run.outcome().expect(12).says("no server listens at");
}

#[test]
fn a_whole_backup_and_a_drill_work_over_verified_tls() {
    let server = server();
    let ca = format!("ssl = true\nssl_ca_cert_file = {:?}", tls_file(server, "ca.crt"));
    there_and_back(&tcp(server, "only_tls", &ca), &[("DATABASE_PASS", PASSWORD)]);
}

#[test]
fn without_a_ca_file_the_systems_authorities_are_trusted_by_client_programs_too() {
    let server = server();
    let site = tcp(server, "only_tls", "ssl = true");
    let run =
        || site.command("teslamate-backup").args(&["--force", "--schema-only", "a.sql"]).env("DATABASE_PASS", PASSWORD);
    run().env("SSL_CERT_FILE", tls_file(server, "ca.crt")).outcome().expect(0);
    run().env("SSL_CERT_FILE", tls_file(server, "stranger.crt")).outcome().expect(12).says("not to be trusted");
}

#[test]
fn a_certificate_of_an_unknown_authority_is_not_trusted() {
    let server = server();
    let ca = format!("ssl = true\nssl_ca_cert_file = {:?}", tls_file(server, "stranger.crt"));
    let refused = backup(&tcp(server, "only_tls", &ca), Some(PASSWORD)).expect(12);
    refused.says("the server's certificate is not to be trusted").says("DATABASE_SSL_CA_CERT_FILE");
}

#[test]
fn a_certificate_for_another_host_is_not_trusted() {
    let server = server();
    let more = format!("host = \"127.0.0.1\"\nssl = true\nssl_ca_cert_file = {:?}", tls_file(server, "ca.crt"));
    let refused = backup(&tcp(server, "only_tls", &more), Some(PASSWORD)).expect(12);
    refused.says("the server's certificate is not to be trusted").says("check DATABASE_HOST");
}

#[test]
fn a_ca_file_that_holds_no_certificate_is_a_wrong_setting() {
    let server = server();
    for (file, words) in [("server.csr", "it holds no PEM certificate"), ("missing", "cannot use the CA file")] {
        let ca = format!("ssl = true\nssl_ca_cert_file = {:?}", tls_file(server, file));
        backup(&tcp(server, "only_tls", &ca), Some(PASSWORD)).expect(2).says(words);
    }
}

#[test]
fn noverify_encrypts_whoever_answers() {
    let site = tcp(server(), "only_tls", "host = \"127.0.0.1\"\nssl = \"noverify\"");
    there_and_back(&site, &[("DATABASE_PASS", PASSWORD)]);
}

#[test]
fn a_server_that_wants_encryption_is_told_from_one_that_refuses() {
    let refused = backup(&tcp(server(), "only_tls", "ssl = false"), Some(PASSWORD)).expect(12);
    refused.says("does not let role \"only_tls\" in without encryption").says("Set DATABASE_SSL to true or noverify");
}

#[test]
fn a_server_without_tls_is_called_so_and_then_any_certificate_does_for_noverify() {
    let server = Server::start(Options { tcp: true, ..Options::default() });
    server.create_teslamate("template_teslamate", 500);
    for ssl in ["true", "\"noverify\""] {
        let ca = tls_file(self::server(), "ca.crt");
        let site = tcp(&server, "teslamate", &format!("ssl = {ssl}\nssl_ca_cert_file = {ca:?}"));
        backup(&site, None).expect(12).says("the server does not speak TLS, but DATABASE_SSL asks for it");
    }
    // What the server's manual makes: signed by itself, without a name that today's rules accept. And of version 1.
    let manual =
        "openssl req -new -x509 -newkey rsa:2048 -days 2 -nodes -subj /CN=db -keyout server.key -out server.crt";
    let version_1 = "openssl req -new -key server.key -subj /CN=db -out server.csr
                     openssl x509 -req -in server.csr -signkey server.key -days 2 -out server.crt";
    for script in [manual, version_1] {
        certify(&server, script);
        backup(&tcp(&server, "teslamate", "ssl = \"noverify\""), None).expect(0);
    }
}

/// A server started anew by `pg_ctl`; it ends with this value.
struct Restarted<'a>(&'a Server);

impl Restarted<'_> {
    fn pg_ctl(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = as_server_account(&bin_dir().join("pg_ctl"));
        command.args(arguments).arg("-D").arg(self.0.data()).output().unwrap()
    }
}

impl Drop for Restarted<'_> {
    fn drop(&mut self) {
        self.pg_ctl(&["stop", "-m", "immediate"]);
    }
}

#[test]
fn a_server_that_is_starting_up_is_waited_for_with_an_ear_for_signals() {
    let server = Server::start(Options::default());
    server.create_teslamate("template_teslamate", 500);
    let site = socket(&server, "teslamate", "");
    backup(&site, None).expect(0);

    // A standby that lets nobody in: it says that it is starting up until it is promoted.
    server.stop("fast");
    let standby = "echo 'hot_standby = off' >> postgresql.auto.conf && touch standby.signal";
    let made =
        as_server_account(Path::new("/bin/sh")).args(["-c", &format!("cd {:?} && {standby}", server.data())]).status();
    assert!(made.unwrap().success());
    let restarted = Restarted(&server);
    let log = server.dir().join("standby.log");
    let started = restarted.pg_ctl(&["start", "-W", "-l", log.to_str().unwrap()]);
    assert!(started.status.success());
    let refused =
        |output: std::process::Output| String::from_utf8_lossy(&output.stderr).contains("the database system is");
    let give_up = Instant::now() + Duration::from_secs(20);
    while !refused(server.tool("psql").args(["-d", "postgres", "-c", ""]).output().unwrap()) {
        assert!(Instant::now() < give_up, "{}", fs::read_to_string(&log).unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }

    for (binary, arguments) in [
        ("teslamate-backup", &["b.sql"][..]),
        ("teslamate-restore", &["--drill", "a.sql"]),
        ("teslamate-restore", &["--undo", "--yes"]),
    ] {
        let child = site.command(binary).args(arguments).spawn();
        std::thread::sleep(Duration::from_millis(700));
        let asked = Instant::now();
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(143), "{binary}: {stderr}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{binary}: the signal was heard after {:?}", asked.elapsed());
    }
    assert!(!site.path("b.sql").exists());

    let mut waiting = site.command("teslamate-backup").args(&["c.sql"]).spawn();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(waiting.try_wait().unwrap().is_none(), "it did not wait");
    assert!(restarted.pg_ctl(&["promote"]).status.success());
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(site.path("c.sql").exists());
}

#[test]
fn openssl_is_there() {
    let found = Command::new("openssl").arg("version").output();
    assert!(found.is_ok_and(|output| output.status.success()), "openssl is missing: apt-get install openssl");
}
