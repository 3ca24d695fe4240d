//! Tests with SFTP servers that send more than they should.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A packet of this type that answers a request.
fn packet(kind: u8, id: &[u8], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(1 + id.len() + body.len()).unwrap();
    [&length.to_be_bytes(), &[kind][..], id, body].concat()
}

/// A session with a server that greets, opens whatever it is asked for, and answers everything else with this.
async fn session(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Session {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (mut hear, mut say) = tokio::io::split(theirs);
    tokio::spawn(async move {
        while let Ok(length) = hear.read_u32().await {
            let mut request = vec![0; length as usize];
            hear.read_exact(&mut request).await.unwrap();
            let says = match request[0] {
                1 => packet(2, &[0, 0, 0, 3], &[]),
                3 | 11 => packet(102, &request[1..5], &[0, 0, 0, 1, b'h']),
                4 => packet(101, &request[1..5], &[0; 12]),
                _ => answer(&request[1..5]),
            };
            if say.write_all(&says).await.is_err() {
                return;
            }
        }
    });
    let (output, input) = tokio::io::split(ours);
    Session::over(input, output, &Arc::default()).await.ok().unwrap()
}

#[tokio::test]
async fn k18_a_list_of_an_sftp_server_has_an_end() {
    let name = [&65_000_u32.to_be_bytes()[..], &vec![b'x'; 65_000], &[0; 8]].concat();
    let names = [&100_u32.to_be_bytes()[..], &name.repeat(100)].concat();
    let session = session(move |id| packet(104, id, &names)).await;
    let list = Mutex::new(List::default());
    let error = session.failed(&entries(&session, Path::new("/x"), None, &list).await.unwrap_err());
    assert_eq!(error.to_string(), "the list of files is longer than 67108864 bytes");
    assert!(super::super::is_final(error.kind()), "{error:?}");
}

#[tokio::test]
async fn k18_a_packet_of_an_sftp_server_has_a_limit() {
    let session = session(|_| [&u32::MAX.to_be_bytes()[..], &vec![0; 100_000]].concat()).await;
    let error = read(&session, Path::new("/x"), Some((0, 10)), 100).await.unwrap_err();
    assert_eq!(session.failed(&error).to_string(), "a packet of the server is longer than 16777216 bytes");
}

#[tokio::test]
async fn k18_an_sftp_server_does_not_give_more_than_it_is_asked_for() {
    let data = [&100_000_u32.to_be_bytes()[..], &vec![1; 100_000]].concat();
    let session = session(move |id| packet(103, id, &data)).await;
    let error = session.failed(&read(&session, Path::new("/x"), Some((0, 10)), 100).await.unwrap_err());
    assert_eq!(error.to_string(), "the answer is longer than 10 bytes");
}
