use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::*;
use crate::settings::{Inputs, Settings};

#[test]
fn a_server_before_14_is_refused_by_its_version() {
    let error = refuse_old(130_014, "/run/postgresql/.s.PGSQL.5432").unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("PostgreSQL 13.14, older than 14"), "{error}");
    assert!(refuse_old(140_000, "x").is_ok());
}

pub(super) fn connector(address: Address, port: u16, wait: Duration) -> Connector {
    let database = Settings::resolve(&Inputs::default()).unwrap().database;
    let database = Database { address, port, ..database };
    Connector { startup_wait: wait, ..Connector::new(&database, "test") }
}

/// Reads the first message of a client and answers with a refusal.
async fn refuse(mut client: impl AsyncReadExt + AsyncWriteExt + Unpin, code: &str, routine: &str, message: &str) {
    let mut first = vec![0; client.read_u32().await.unwrap() as usize - 4];
    client.read_exact(&mut first).await.unwrap();
    let body = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0R{routine}\0\0");
    let mut answer = vec![b'E'];
    answer.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    answer.extend(body.bytes());
    client.write_all(&answer).await.unwrap();
}

#[tokio::test]
async fn a_server_that_never_gets_ready_is_given_up_as_busy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = attempts.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            refuse(client, "57P03", "ProcessStartupPacket", "the database system is starting up").await;
        }
    });
    let connector = connector(Address::Tcp("127.0.0.1".into()), port, Duration::from_secs(1));
    let started = Instant::now();
    let error = connector.connect().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.to_string().contains("still starting up or shutting down after 1 s"), "{error}");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert!(attempts.load(Ordering::Relaxed) > 1, "it was tried only once: {attempts:?}");
}

#[tokio::test]
async fn refusals_are_told_apart_whatever_language_the_server_speaks() {
    let peer = ("auth_failed", "Peer-Authentifizierung für Benutzer »teslamate« fehlgeschlagen");
    let role = ("InitializeSessionUserId", "Rolle »teslamate« existiert nicht");
    let hba = ("ClientAuthentication", "kein pg_hba.conf-Eintrag für Host »192.0.2.1«");
    let english = ("", "role \"teslamate\" does not exist");
    for ((routine, message), kind, words) in [
        (peer, Kind::Refused, "the server refused peer authentication: OS user"),
        (role, Kind::Source, "there is no role \"teslamate\""),
        (english, Kind::Source, "there is no role \"teslamate\""),
        (hba, Kind::Source, "pg_hba.conf does not let role \"teslamate\" into database \"teslamate\""),
        (("other", "?"), Kind::Source, "the server refused the connection to \"teslamate\""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        tokio::spawn(async move { refuse(listener.accept().await.unwrap().0, "28000", routine, message).await });
        let connector = connector(Address::Socket(dir.path().to_owned()), 5432, STARTUP_WAIT);
        let error = connector.connect().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{message}");
        assert!(error.message().contains(words), "{error}");
        assert!(error.to_string().contains(message), "the server's own words are quoted: {error}");
    }
}

#[test]
fn client_programs_are_told_the_same_about_tls() {
    let told = |ssl: Ssl| {
        let mut connector = connector(Address::Tcp("db".into()), 1, STARTUP_WAIT);
        connector.database.ssl = ssl;
        let variables = connector.tool_environment("x");
        ["PGSSLMODE", "PGSSLROOTCERT"].map(|name| {
            let found = variables.iter().find(|variable| variable.0 == name);
            found.map(|(_, value)| value.to_string_lossy().into_owned()).unwrap_or_default()
        })
    };
    assert_eq!(told(Ssl::Disable), ["disable", ""]);
    assert_eq!(told(Ssl::NoVerify), ["require", "/nonexistent"]);
    assert_eq!(told(Ssl::Verify { ca: Some("/ca".into()) }), ["verify-full", "/ca"]);
}
