//! A client for HTTP, and what its answers mean.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use chrono::DateTime;
use reqwest::header::LAST_MODIFIED;
use reqwest::{Client, Response, StatusCode};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::place::Place;
use super::words;
use crate::bounded::too_long;
use crate::error::{Context, Error, Kind, Result};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(20);

/// How long the other side may not acknowledge what was sent: the connection is dead then, however much was to be sent.
const UNACKNOWLEDGED: Duration = Duration::from_mins(1);

/// As much of an answer that is no good as is read, in bytes.
pub(super) const EXCERPT_BYTES: usize = 16 * 1024;

/// A client that trusts the system's authorities, and those of the option `cacert`.
///
/// # Errors
/// [`Kind::Usage`] if that file cannot be used.
pub(super) fn client(place: &Place) -> Result<Client> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = place.option("cacert") {
        let unusable = || format!("cannot use the certificates in {path} (option `cacert`)");
        for certificate in CertificateDer::pem_file_iter(Path::new(path)).context(Kind::Usage, unusable())? {
            roots.add(certificate.context(Kind::Usage, unusable())?).context(Kind::Usage, unusable())?;
        }
    }
    // Named here as for the database: another crate's default would decide otherwise.
    let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context(Kind::Usage, "TLS cannot be set up")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("glovebox/", env!("CARGO_PKG_VERSION")))
        // An answer from elsewhere is not that of the repository, and must not be sent its credentials.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .tcp_keepalive(CONNECT)
        .tcp_user_timeout(UNACKNOWLEDGED);
    if place.kind == super::Scheme::Rclone {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|cause| Error::new(Kind::Usage, "cannot set up HTTP").with("cause", words(&cause)))
}

/// What could not be sent or received. Without the address, which may hold a password.
pub(super) fn failed(error: reqwest::Error) -> io::Error {
    let error = error.without_url();
    io::Error::other(words(&error))
}

/// The answer, if it is a good one.
pub(super) async fn answered(response: Response) -> io::Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = super::excerpt(&beginning(response).await);
    let more = if text.is_empty() { String::new() } else { format!(": {text}") };
    Err(io::Error::new(kind_of(status), format!("the server answers {status}{more}")))
}

/// The beginning of an answer that is no good.
async fn beginning(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < EXCERPT_BYTES
        && let Ok(Some(piece)) = response.chunk().await
    {
        bytes.extend_from_slice(piece.get(..EXCERPT_BYTES - bytes.len()).unwrap_or(&piece));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The content of an answer, if it is not longer than `limit` bytes.
pub(super) async fn body(mut response: Response, limit: u64) -> io::Result<Bytes> {
    let too_long = || too_long("the answer", limit);
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_long());
    }
    let mut whole = BytesMut::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        if (whole.len() + piece.len()) as u64 > limit {
            return Err(too_long());
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

fn kind_of(status: StatusCode) -> ErrorKind {
    match status {
        StatusCode::NOT_FOUND => ErrorKind::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            ErrorKind::PermissionDenied
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS => ErrorKind::Other,
        status if status.is_server_error() => ErrorKind::Other,
        // A redirection, or a request that this server does not take: it will not the next time.
        _ => ErrorKind::InvalidInput,
    }
}

/// When the file was put there, as the server says.
pub(super) fn modified(response: &Response) -> io::Result<SystemTime> {
    let text = response.headers().get(LAST_MODIFIED).and_then(|value| value.to_str().ok());
    let time = text.and_then(|text| DateTime::parse_from_rfc2822(text).ok());
    time.map(SystemTime::from).ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the server does not say when"))
}
