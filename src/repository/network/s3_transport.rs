//! The transport of the library that speaks S3, with a limit: the library reads every answer to its end.

use futures_util::{StreamExt, stream};
use http::{Method, Request, Response};
use opendal_core::{Buffer, Error, ErrorKind, HttpBody, HttpTransport, HttpTransporter, Result};
use opendal_http_transport_reqwest::ReqwestTransport;

use super::http::EXCERPT_BYTES;
use crate::bounded;

/// Answers of at most this many bytes.
pub(super) struct Measured {
    pub(super) transport: ReqwestTransport,
    pub(super) limit: u64,
}

impl From<Measured> for HttpTransporter {
    fn from(measured: Measured) -> Self {
        Self::new(measured)
    }
}

impl HttpTransport for Measured {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>> {
        let has_body = request.method() != Method::HEAD;
        let (parts, body) = self.transport.fetch(request).await?.into_parts();
        if !parts.status.is_success() {
            let body = beginning(body).await;
            return Ok(Response::from_parts(parts, body));
        }
        let limit = self.limit;
        let length = parts.headers.get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if has_body && length.is_some_and(|length| length > limit) {
            return Err(too_long(limit));
        }
        let mut seen = 0;
        let body = body.map_inner(|pieces| {
            Box::new(pieces.map(move |piece| {
                let piece = piece?;
                seen += piece.len() as u64;
                if seen > limit { Err(too_long(limit)) } else { Ok(piece) }
            }))
        });
        Ok(Response::from_parts(parts, body))
    }
}

/// The beginning of an answer that is an error: its status tells what to do, and its text is only shown.
async fn beginning(body: HttpBody) -> HttpBody {
    let mut pieces = None;
    // The pieces are to be had in exchange for others only.
    drop(body.map_inner(|inner| {
        pieces = Some(inner);
        Box::new(stream::empty())
    }));
    let mut bytes = Vec::new();
    if let Some(mut pieces) = pieces {
        while bytes.len() < EXCERPT_BYTES
            && let Some(Ok(piece)) = pieces.next().await
        {
            let piece = piece.to_bytes();
            bytes.extend_from_slice(piece.get(..EXCERPT_BYTES - bytes.len()).unwrap_or(&piece));
        }
    }
    HttpBody::new(stream::iter([Ok(Buffer::from(bytes))]), None)
}

fn too_long(limit: u64) -> Error {
    let cause = bounded::too_long("the answer", limit);
    Error::new(ErrorKind::Unexpected, "read an answer").set_source(cause)
}

/// Whether this failure is that of an answer without measure.
pub(super) fn is_too_long(error: &Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::InvalidData) {
            return true;
        }
        next = cause.source();
    }
    false
}
