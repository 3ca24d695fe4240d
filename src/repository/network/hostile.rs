//! Tests with storage that sends more than it should.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::place::Place;
use super::rest::Rest;
use super::s3::S3;
use super::*;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const PART: &str = "HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n\r\n";
const LONG: &str = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n";
const SORRY: &str = "HTTP/1.1 500 Sorry\r\nTransfer-Encoding: chunked\r\n\r\n";
const HEADERS: &str = "HTTP/1.1 200 OK\r\n";

/// Answers every request on a port with this beginning, and then with more of the second until nobody listens.
async fn endless(beginning: &'static str, more: String) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut line, _)) = listener.accept().await {
            let more = more.clone();
            tokio::spawn(async move {
                let _ = line.read(&mut [0; 4096]).await;
                let _ = line.write_all(beginning.as_bytes()).await;
                while line.write_all(more.as_bytes()).await.is_ok() {}
            });
        }
    });
    port
}

/// A piece of a body, which is white space where JSON or XML begins.
fn piece() -> String {
    format!("1000\r\n{}\r\n", " ".repeat(4096))
}

fn place(location: String) -> Place {
    let mut settings = settings::Repository { location, ..Default::default() };
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        settings.environment.insert(name.into(), "c4nary".to_owned().into());
    }
    Place::parse(&settings).ok().unwrap()
}

async fn rest(beginning: &'static str, more: String) -> Arc<Rest> {
    let port = endless(beginning, more).await;
    Arc::new(Rest::new(&place(format!("rest:http://127.0.0.1:{port}/"))).ok().unwrap())
}

async fn s3(beginning: &'static str) -> Arc<S3> {
    let port = endless(beginning, piece()).await;
    Arc::new(S3::new(&place(format!("s3:http://127.0.0.1:{port}/bucket"))).ok().unwrap())
}

#[track_caller]
fn refused<T>(result: io::Result<T>, words: &str) {
    let error = result.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    assert!(error.to_string().contains(words) && error.to_string().len() < 1000, "{error}");
}

#[tokio::test]
async fn k18_answers_without_end_are_not_kept() {
    for beginning in [CHUNKED, LONG] {
        let rest = rest(beginning, piece()).await;
        refused(rest.clone().read("config".to_owned(), None).await, "the answer is longer than 65536 bytes");
        refused(rest.clone().read("keys/ab".to_owned(), None).await, "the answer is longer than 65536 bytes");
        refused(rest.clone().read("snapshots/ab".to_owned(), None).await, "the answer is longer than 16777216 bytes");
    }
    for beginning in [PART, LONG] {
        let rest = rest(beginning, piece()).await;
        refused(rest.read("data/ab/abcd".to_owned(), Some((0, 5000))).await, "the answer is longer than");
    }
    refused(rest(LONG, piece()).await.list("snapshots".to_owned()).await, "the answer is longer than 67108864 bytes");
}

#[tokio::test]
async fn k18_an_error_without_an_end_is_shown_as_far_as_a_line() {
    let more = format!("1000\r\n{}\r\n", "x".repeat(4096));
    let error = rest(SORRY, more).await.read("config".to_owned(), None).await.unwrap_err();
    assert!(error.to_string().contains("the server answers 500") && error.to_string().len() < 1000, "{error}");
    let error = s3(SORRY).await.read("config".to_owned(), None).await.unwrap_err();
    assert!(error.to_string().len() < 1000 && error.kind() == ErrorKind::Other, "{error}");
}

#[tokio::test]
async fn k18_headers_without_an_end_are_not_kept() {
    for more in [format!("X: {}\r\n", "x".repeat(4000)), "x".repeat(4000)] {
        let error = rest(HEADERS, more).await.read("config".to_owned(), None).await.unwrap_err();
        assert!(error.to_string().len() < 1000, "{error}");
    }
}

#[tokio::test]
async fn k18_answers_of_a_bucket_without_end_are_not_kept() {
    for beginning in [CHUNKED, LONG] {
        let s3 = s3(beginning).await;
        refused(s3.clone().read("config".to_owned(), None).await, "the answer is longer than 65536 bytes");
        refused(s3.clone().list("snapshots".to_owned()).await, "the answer is longer than 16777216 bytes");
    }
    for beginning in [PART, LONG] {
        refused(s3(beginning).await.read("data/ab/abcd".to_owned(), Some((0, 5000))).await, "longer than 5000 bytes");
    }
}

#[tokio::test]
async fn k18_a_list_of_a_bucket_has_an_end() {
    let name = format!(
        "<Contents><Key>snapshots/{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>x</ETag><Size>1</Size></Contents>",
        "x".repeat(10_000)
    );
    let page = format!(
        "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>{}\
         </ListBucketResult>",
        name.repeat(1000)
    );
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut line, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                // Each page is asked for in one piece, and asks for the next.
                while line.read(&mut [0; 8192]).await.is_ok_and(|length| length > 0) {
                    let _ = line.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    let s3 = Arc::new(S3::new(&place(format!("s3:http://127.0.0.1:{port}/bucket"))).ok().unwrap());
    refused(s3.list("snapshots".to_owned()).await, "the list of files is longer than 67108864 bytes");
}
