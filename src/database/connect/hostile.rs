//! Tests with servers that are not what they should be.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::tests::connector;
use super::*;

const PASSWORD: &str = "c4nary";

trait Line: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

async fn hear(line: &mut impl Line) -> Vec<u8> {
    let mut first = vec![0; line.read_u32().await.unwrap() as usize - 4];
    line.read_exact(&mut first).await.unwrap();
    first
}

/// Says this after the first message, and returns everything that it is told then.
async fn told(mut line: impl Line, says: Vec<u8>) -> Vec<u8> {
    hear(&mut line).await;
    line.write_all(&says).await.unwrap();
    let mut heard = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(2), line.read_to_end(&mut heard)).await;
    heard
}

fn with_password(address: Address, port: u16, allowed: bool) -> Connector {
    let mut connector = connector(address, port, STARTUP_WAIT);
    connector.database.password = Some(PASSWORD.to_owned().into());
    connector.database.allow_cleartext_password = allowed;
    connector
}

async fn over_tcp(says: Vec<u8>, allowed: bool) -> (Connector, Result<Client>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move { told(listener.accept().await.unwrap().0, says).await });
    let connector = with_password(Address::Tcp("127.0.0.1".into()), port, allowed);
    let opened = connector.connect().await;
    (connector, opened, server.await.unwrap())
}

#[tokio::test]
async fn k18_no_password_is_sent_in_clear_text_over_tcp() {
    // As a whole, and in pieces with something before it.
    let notice = message(b'N', b"SNOTICE\0C00000\0Mhello\0\0");
    for says in [message(b'R', &[0, 0, 0, 3]), [notice, message(b'R', &[0, 0, 0, 3, 9, 9])].concat()] {
        let (_, opened, heard) = over_tcp(says, false).await;
        assert_eq!(heard, b"", "the server is told nothing more");
        drop(opened.unwrap_err());
    }
    let (_, opened, _) = over_tcp(message(b'R', &[0, 0, 0, 3]), false).await;
    let error = opened.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.message().contains("in clear text; it was not sent"), "{error}");
    assert!(error.to_string().contains("database.allow_cleartext_password"), "{error}");
}

#[tokio::test]
async fn k18_no_password_is_sent_in_clear_text_over_a_socket() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
    let says = message(b'R', &[0, 0, 0, 3]);
    let server = tokio::spawn(async move { told(listener.accept().await.unwrap().0, says).await });
    let opened = with_password(Address::Socket(dir.path().to_owned()), 5432, false).connect().await;
    assert_eq!(server.await.unwrap(), b"");
    assert!(opened.unwrap_err().message().contains("in clear text; it was not sent"));
}

#[tokio::test]
async fn k18_a_setting_lets_the_password_be_sent() {
    let (_, opened, heard) = over_tcp(message(b'R', &[0, 0, 0, 3]), true).await;
    assert_eq!(heard, message(b'p', b"c4nary\0"));
    drop(opened.unwrap_err());
}

#[tokio::test]
async fn k18_md5_is_answered_and_remembered() {
    let (connector, opened, heard) = over_tcp(message(b'R', &[0, 0, 0, 5, 1, 2, 3, 4]), false).await;
    assert!(heard.starts_with(b"p\0\0\0\x28md5") && !heard.windows(6).any(|bytes| bytes == PASSWORD.as_bytes()));
    assert!(connector.has_met_md5());
    drop(opened.unwrap_err());
    let (connector, _, _) = over_tcp(message(b'R', &[0, 0, 0, 10, 0]), false).await;
    assert!(!connector.has_met_md5());
}

/// The messages after a login without a password.
fn let_in(more: &[u8]) -> Vec<u8> {
    [&message(b'R', &[0, 0, 0, 0])[..], more].concat()
}

#[tokio::test]
async fn k18_a_message_without_measure_is_not_read() {
    for (header, words) in [
        (b"S\x7f\xff\xff\xff".as_slice(), "a message of 2147483647 bytes (type 'S')"),
        (b"N\x00\x20\x00\x00", "a message of 2097152 bytes (type 'N')"),
        (b"T\xff\xff\xff\xff", "a message of 4294967295 bytes (type 'T')"),
        (b"d\x7f\xff\xff\xff", "a message of 2147483647 bytes (type 'd')"),
        (b"R\0\0\0\x04", "not PostgreSQL's protocol"),
        (b"S\0\0\0\x01", "not PostgreSQL's protocol"),
        (b"HTTP/1.1 400 Bad Request", "a message of"),
    ] {
        let (_, opened, _) = over_tcp(let_in(header), false).await;
        let error = opened.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.message().contains("cannot be the server"), "{error}");
    }
}

#[tokio::test]
async fn k18_notices_without_end_are_not_kept() {
    let notice = message(b'N', format!("SNOTICE\0C00000\0M{}\0\0", "x".repeat(60_000)).as_bytes());
    let (_, opened, _) = over_tcp(let_in(&notice.repeat(40)), false).await;
    let error = opened.unwrap_err();
    assert!(error.to_string().contains("bytes before the session begins"), "{error}");
}

#[tokio::test]
async fn k18_a_server_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut connector = with_password(Address::Tcp("127.0.0.1".into()), port, false);
    connector.login_wait = Duration::from_millis(300);
    for (ssl, says) in
        [(Ssl::Disable, b"".as_slice()), (Ssl::Disable, b"R\0\0"), (Ssl::Disable, &let_in(b"")), (Ssl::NoVerify, b"S")]
    {
        connector.database.ssl = ssl;
        let accepted = async {
            let (mut line, _) = listener.accept().await.unwrap();
            hear(&mut line).await;
            line.write_all(says).await.unwrap();
            line
        };
        let (opened, _line) = tokio::join!(connector.connect(), accepted);
        let error = opened.unwrap_err();
        assert!(error.message().contains("no session begins"), "{error}");
    }
}

/// A server that lets everybody in, and answers the first message after that with this, again and again.
async fn answering(answer: Vec<u8>, times: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut line, _) = listener.accept().await.unwrap();
        hear(&mut line).await;
        line.write_all(&let_in(&message(b'Z', b"I"))).await.unwrap();
        let _ = line.read(&mut [0; 4096]).await;
        for _ in 0..times {
            if line.write_all(&answer).await.is_err() {
                return;
            }
        }
        // The line stays open.
        std::future::pending::<()>().await;
    });
    port
}

/// The outcome of a query to such a server.
async fn asked(answer: Vec<u8>, times: usize, set: impl FnOnce(&mut Connector)) -> String {
    let port = answering(answer, times).await;
    let mut connector = with_password(Address::Tcp("127.0.0.1".into()), port, false);
    connector.database.ssl = Ssl::Disable;
    set(&mut connector);
    let opened = connector.open_once(&connector.config("x", Mode::Least)).await.unwrap().ok().unwrap();
    let failed = opened.client.simple_query("SELECT").await.unwrap_err();
    chain(&failed)
}

#[tokio::test]
async fn k18_rows_without_an_end_are_not_kept() {
    let column = message(b'T', b"\0\x01x\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
    let row = message(b'D', &[&[0, 1, 0, 0, 0x10, 0][..], &[b'x'; 4096]].concat());
    let answer = [column, row.repeat(100)].concat();
    let words = asked(answer, 100, |connector| connector.answer_limit = 1_000_000).await;
    assert!(words.ends_with("it answers a query with more than 1000000 bytes of rows"), "{words}");
    // Without anything in them, they still have to be kept.
    let rows = message(b'D', &[0, 0]).repeat(10_000);
    let answer = [message(b'T', &[0, 0]), rows].concat();
    let words = asked(answer, 100, |connector| connector.answer_limit = 1_000_000).await;
    assert!(words.ends_with("it answers a query with more than 1000000 bytes of rows"), "{words}");
}

#[tokio::test]
async fn k18_reports_of_settings_without_an_end_are_not_kept() {
    let report = message(b'S', b"application_name\0x\0");
    let words = asked(report.repeat(10_000), 100, |_| ()).await;
    assert!(words.ends_with("it reports settings without an end"), "{words}");
}

#[tokio::test]
async fn k18_a_server_that_does_not_answer_a_question_is_given_up() {
    let words = asked(Vec::new(), 0, |connector| connector.silence = Duration::from_millis(300)).await;
    assert!(words.contains("the server says nothing"), "{words}");
}

#[test]
fn k18_rows_of_the_next_query_are_counted_anew() {
    let mut reader = guarded::Reader::new(1000);
    let row = message(b'D', &[0; 100]);
    let end = message(b'Z', b"I");
    for _ in 0..100 {
        reader.read(&[row.repeat(3), end.clone()].concat(), false, &Asked::default()).unwrap();
    }
    let refusal = reader.read(&row.repeat(4), false, &Asked::default()).unwrap_err();
    assert_eq!(refusal, guarded::Refusal::Endless(1000));
    // Rows of COPY are read one after the other.
    let mut reader = guarded::Reader::new(1000);
    reader.read(&message(b'd', &[0; 5000]).repeat(100), false, &Asked::default()).unwrap();
}
