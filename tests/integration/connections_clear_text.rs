//! K18: the password reaches nobody who only asks for it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use glovebox::database::Connector;
use glovebox::database::tools::Tools;
use glovebox::settings::{Address, Database, Inputs, Settings, Ssl};

use crate::connections::{PASSWORD, backup, server, tcp, there_and_back, tls_file};
use crate::support::server::bin_dir;

#[test]
fn k18_a_server_that_wants_the_password_in_clear_text_is_refused() {
    for ssl in ["false", "\"noverify\""] {
        let site = tcp(server(), "by_password", &format!("ssl = {ssl}"));
        let refused = backup(&site, Some(PASSWORD)).expect(10);
        let refused = refused.says("asks for the password of role \"by_password\" in clear text; it was not sent");
        refused.says("database.allow_cleartext_password");
    }
}

#[test]
fn k18_verified_tls_or_the_setting_lets_it_through() {
    let ca = format!("ssl = true\nssl_ca_cert_file = {:?}", tls_file(server(), "ca.crt"));
    for more in [ca.as_str(), "allow_cleartext_password = true"] {
        there_and_back(&tcp(server(), "by_password", more), &[("DATABASE_PASS", PASSWORD)]);
    }
}

#[test]
fn k18_md5_is_remarked_in_a_verbose_run() {
    for (role, is_remarked) in [("by_md5", true), ("by_scram", false)] {
        let site = tcp(server(), role, "");
        let run = site.command("teslamate-backup").args(&["-v", "--force", "--schema-only", "a.sql"]);
        let done = run.env("DATABASE_PASS", PASSWORD).outcome().expect(0);
        assert_eq!(done.stderr.contains("asked for the password as MD5"), is_remarked, "{}", done.stderr);
    }
    let quiet = backup(&tcp(server(), "by_md5", ""), Some(PASSWORD)).expect(0);
    assert!(!quiet.stderr.contains("MD5"), "{}", quiet.stderr);
}

/// Lets one client begin, asks for the password in clear text, and returns what it was told.
fn ask_for_clear_text(listener: &TcpListener) -> Vec<u8> {
    let (mut line, _) = listener.accept().unwrap();
    line.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut length = [0; 4];
    line.read_exact(&mut length).unwrap();
    let mut startup = vec![0; u32::from_be_bytes(length) as usize - 4];
    line.read_exact(&mut startup).unwrap();
    line.write_all(b"R\0\0\0\x08\0\0\0\x03").unwrap();
    let mut heard = Vec::new();
    let _ = line.read_to_end(&mut heard);
    heard
}

/// A server that asked our own session for something else a moment ago.
#[test]
fn k18_client_programs_do_not_send_the_password_in_clear_text_either() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (program, arguments) in [("psql", &["-w", "-c", "SELECT 1"][..]), ("pg_dump", &["-w"]), ("pg_restore", &["-w"])]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let database = Database {
            address: Address::Tcp("127.0.0.1".to_owned()),
            port: listener.local_addr().unwrap().port(),
            password: Some("c4nary".to_owned().into()),
            ssl: Ssl::Disable,
            ..Settings::resolve(&Inputs::default()).unwrap().database
        };
        let connector = Connector::new(&database, "test");
        let heard = std::thread::spawn(move || ask_for_clear_text(&listener));
        let output = runtime.block_on(async {
            let tools = Tools::find(&connector, Some(&bin_dir()), 150_000).await.unwrap();
            let mut command = tools.command(program, &connector, "x");
            if program == "pg_restore" {
                command.args(["-d", "x", empty_archive()]);
            }
            command.args(arguments).output().await.unwrap()
        });
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("asks for the password in clear text, which is not sent"), "{program}: {said}");
        assert_eq!(heard.join().unwrap(), b"", "{program}");
    }
}

/// An archive that `pg_restore` connects for.
fn empty_archive() -> &'static str {
    use std::sync::OnceLock;
    static FILE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = FILE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        server().pg_dump("template_teslamate", &dir.path().join("a.dump"), &["-Fc", "--schema-only"]);
        dir
    });
    let path: &'static Path = dir.path();
    Box::leak(path.join("a.dump").display().to_string().into_boxed_str())
}
