//! `rest:`: restic's own protocol over HTTP.
//!
//! Source: restic's `doc/REST_backend.rst`, version 2.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use reqwest::header::{ACCEPT, RANGE};
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url};
use serde::Deserialize;

use super::place::Place;
use super::{Answer, Service, http};
use crate::error::Result;
use crate::repository::limits::{LIST, longest};
use crate::repository::mistake::Mistake;
use crate::settings::Secret;

/// What asks for sizes beside names.
const VERSION_2: &str = "application/vnd.x.restic.rest.v2";

/// A server.
pub(super) struct Rest {
    client: Client,
    /// With a slash at its end, without user and password.
    base: Url,
    login: Option<(String, Secret)>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    size: u64,
}

impl Rest {
    /// # Errors
    /// [`Kind::Usage`](crate::error::Kind::Usage) if the location is no URL, or a file of certificates cannot be used.
    pub(super) fn new(place: &Place) -> Result<Self> {
        let base = url(place)?;
        let user = percent_decoded(base.username());
        let user = if user.is_empty() { place.variable("RESTIC_REST_USERNAME").map(str::to_owned) } else { Some(user) };
        let own = base.password().map(percent_decoded);
        let password = own.or_else(|| place.variable("RESTIC_REST_PASSWORD").map(str::to_owned));
        let login = user.map(|user| (user, Secret::from(password.unwrap_or_default())));
        Ok(Self::at(http::client(place)?, base, login))
    }

    /// For a server whose address is known.
    pub(super) fn at(client: Client, mut base: Url, login: Option<(String, Secret)>) -> Self {
        // Only a URL without a host refuses; then there is nothing to take out either.
        let _ = base.set_password(None).and_then(|()| base.set_username(""));
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Self { client, base, login }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        // The server has no directories below `data`.
        let flat = match path.strip_prefix("data/").and_then(|rest| rest.split_once('/')) {
            Some((_, name)) => format!("data/{name}"),
            None => path.to_owned(),
        };
        let mut url = self.base.clone();
        url.set_path(&format!("{}{flat}", self.base.path()));
        self.authorised(self.client.request(method, url))
    }

    fn authorised(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.login {
            Some((user, password)) => request.basic_auth(user, Some(password.expose())),
            None => request,
        }
    }
}

/// Where the server is, as it was written.
pub(super) fn url(place: &Place) -> std::result::Result<Url, Mistake> {
    let url = Url::parse(&place.rest).ok().filter(|url| url.has_host() && url.scheme().starts_with("http"));
    url.ok_or_else(|| {
        let error = place.mistake("`rest:` must be followed by a URL");
        Mistake::in_location(error.hint("Write it like this: rest:https://user@backup.example.org:8000/path/"))
    })
}

async fn send(request: RequestBuilder) -> io::Result<reqwest::Response> {
    http::answered(request.send().await.map_err(http::failed)?).await
}

impl Service for Rest {
    fn list(self: Arc<Self>, directory: String) -> Answer<Vec<(String, u64)>> {
        let request = self.request(Method::GET, &format!("{directory}/")).header(ACCEPT, VERSION_2);
        Box::pin(async move {
            let body = http::body(send(request).await?, LIST).await?;
            let listed: Option<Vec<Listed>> = serde_json::from_slice(&body).map_err(|_| {
                io::Error::new(ErrorKind::InvalidData, "this is no answer of a restic REST server, version 2")
            })?;
            Ok(listed.unwrap_or_default().into_iter().map(|one| (one.name, one.size)).collect())
        })
    }

    fn read(self: Arc<Self>, path: String, part: Option<(u32, u32)>) -> Answer<Bytes> {
        let mut request = self.request(Method::GET, &path);
        if let Some((offset, length)) = part {
            let last = (u64::from(offset) + u64::from(length)).saturating_sub(1);
            request = request.header(RANGE, format!("bytes={offset}-{last}"));
        }
        Box::pin(async move {
            let response = send(request).await?;
            let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
            let limit = match part {
                Some((_, length)) if is_part => u64::from(length),
                _ => longest(&path),
            };
            let body = http::body(response, limit).await?;
            let Some((offset, length)) = part else { return Ok(body) };
            let start = if is_part { 0 } else { usize::try_from(offset).unwrap_or(usize::MAX) };
            let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
            if body.len() < end || (is_part && body.len() != end) {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            Ok(body.slice(start..end))
        })
    }

    fn write(self: Arc<Self>, path: String, content: Bytes) -> Answer<()> {
        let request = self.request(Method::POST, &path).body(content);
        Box::pin(async move { send(request).await.map(drop) })
    }

    fn remove(self: Arc<Self>, path: String) -> Answer<()> {
        let request = self.request(Method::DELETE, &path);
        Box::pin(async move {
            match send(request).await {
                Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(()),
                sent => sent.map(drop),
            }
        })
    }

    fn modified(self: Arc<Self>, path: String) -> Answer<SystemTime> {
        let request = self.request(Method::HEAD, &path);
        Box::pin(async move { http::modified(&send(request).await?) })
    }

    fn create(self: Arc<Self>) -> Answer<()> {
        let mut url = self.base.clone();
        url.set_query(Some("create=true"));
        let request = self.authorised(self.client.request(Method::POST, url));
        Box::pin(async move { send(request).await.map(drop) })
    }

    fn sweep(self: Arc<Self>, _before: SystemTime) -> Answer<Vec<String>> {
        // The server itself never shows what is half written.
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// `%40` is `@`: a URL has its user's name and password so.
fn percent_decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, more)) = rest.split_first() {
        let digits = more.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%');
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { more.get(2..).unwrap_or_default() } else { more };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    fn at(location: &str) -> Result<Rest> {
        let mut settings = settings::Repository { location: location.to_owned(), ..Default::default() };
        settings.environment.insert("RESTIC_REST_USERNAME".into(), "other".to_owned().into());
        settings.environment.insert("RESTIC_REST_PASSWORD".into(), "c4nary".to_owned().into());
        Rest::new(&Place::parse(&settings)?)
    }

    #[test]
    fn a_login_comes_from_the_url_or_from_restics_variables() {
        let login = |location| at(location).ok().unwrap().login.unwrap();
        assert_eq!(login("rest:https://user:p%40ss@host/x"), ("user".into(), "p@ss".to_owned().into()));
        assert_eq!(login("rest:https://user@host/x"), ("user".into(), "c4nary".to_owned().into()));
        assert_eq!(login("rest:https://host/x"), ("other".into(), "c4nary".to_owned().into()));
        assert!(at("rest:host/x").is_err() && at("rest:ftp://host/x").is_err());
    }

    #[test]
    fn a_url_is_built_without_the_login_and_data_is_flat() {
        let rest = at("rest:https://user:c4nary@host:8000/a").ok().unwrap();
        let url = |path| rest.request(Method::GET, path).build().unwrap().url().to_string();
        assert_eq!(url("config"), "https://host:8000/a/config");
        assert_eq!(url("data/ab/abcd"), "https://host:8000/a/data/abcd");
        assert_eq!(url("data/"), "https://host:8000/a/data/");
    }
}
