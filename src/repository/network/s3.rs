//! `s3:`: a bucket of Amazon S3 or of anything that speaks the same.
//!
//! Credentials are those of the repository's own environment file and options. Amazon's further places (profiles,
//! instance metadata) are asked only if the option `disable_config_load` is `false`.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::TryStreamExt;
use opendal_core::{OperationContext, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;
use reqwest::Url;

use super::place::Place;
use super::s3_transport::{Measured, is_too_long};
use super::{Answer, Service, excerpt, http, words};
use crate::error::{Error, Kind, Result};
use crate::repository::limits::{List, PAGE, longest};
use crate::repository::mistake::Mistake;

/// The region where none is named. Most other servers take any.
const REGION: &str = "us-east-1";

/// A bucket, or a part of it.
pub(super) struct S3 {
    operator: Operator,
    transport: ReqwestTransport,
}

impl S3 {
    /// # Errors
    /// [`Kind::Usage`] if the location names no bucket, or an option makes no sense; [`Kind::Refused`] without credentials.
    pub(super) fn new(place: &Place) -> Result<Self> {
        let config = config(place)?;
        let given = |name: &str| config.iter().any(|(known, value)| known == name && !value.is_empty());
        let has_keys = given("access_key_id") && given("secret_access_key");
        if !looks_elsewhere(&config) && !has_keys {
            return Err(Error::new(Kind::Refused, "there are no credentials for the bucket")
                .with("state", "nothing was touched")
                .hint("Put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into `repository.environment_file`."));
        }
        let transport = ReqwestTransport::new(http::client(place)?);
        Ok(Self { operator: operator(place, config)?, transport })
    }

    /// The bucket, with a limit to each answer's length.
    fn operator(&self, limit: u64) -> Operator {
        let measured = Measured { transport: self.transport.clone(), limit };
        self.operator.clone().with_context(OperationContext::new().with_http_transport(measured.into()))
    }
}

/// What opendal is to be told, names and values.
type Config = Vec<(String, String)>;

/// The location, the credentials and the options in opendal's words.
pub(super) fn config(place: &Place) -> std::result::Result<Config, Mistake> {
    let (endpoint, bucket, root) = split(&place.rest).ok_or_else(|| {
        let error = place.mistake("`s3:` must be followed by a host and a bucket");
        Mistake::in_location(error.hint("Write it like this: s3:https://s3.example.org/bucket/path"))
    })?;
    let mut config: Config = vec![
        ("endpoint".to_owned(), endpoint),
        ("bucket".to_owned(), bucket),
        ("root".to_owned(), root),
        ("region".to_owned(), REGION.to_owned()),
        ("disable_config_load".to_owned(), "true".to_owned()),
    ];
    for (variable, option) in [
        ("AWS_ACCESS_KEY_ID", "access_key_id"),
        ("AWS_SECRET_ACCESS_KEY", "secret_access_key"),
        ("AWS_SESSION_TOKEN", "session_token"),
        ("AWS_REGION", "region"),
        ("AWS_DEFAULT_REGION", "region"),
    ] {
        if let Some(value) = place.variable(variable) {
            set(&mut config, option, value);
        }
    }
    for (option, value) in place.options().filter(|(name, _)| !["timeout", "cacert"].contains(name)) {
        set(&mut config, option, value);
    }
    // Without it, instance metadata would be waited for on every machine that is none of Amazon's.
    let disabled = if looks_elsewhere(&config) { "false" } else { "true" };
    set(&mut config, "disable_ec2_metadata", disabled);
    Ok(config)
}

fn looks_elsewhere(config: &Config) -> bool {
    config.iter().any(|(name, value)| name == "disable_config_load" && value == "false")
}

/// The bucket, not asked for anything yet.
pub(super) fn operator(place: &Place, config: Config) -> std::result::Result<Operator, Mistake> {
    Operator::from_iter::<opendal_service_s3::S3>(config).map_err(|error| {
        let causes = std::error::Error::source(&error).map(|cause| format!(": {}", words(cause))).unwrap_or_default();
        let cause = format!("{}{causes}", error.message());
        Mistake::in_options(place.mistake("the bucket cannot be set up").with("cause", cause))
    })
}

fn set(config: &mut Vec<(String, String)>, option: &str, value: &str) {
    config.retain(|(name, _)| name != option);
    config.push((option.to_owned(), value.to_owned()));
}

/// Endpoint, bucket and path of `https://host/bucket/path` or `host/bucket/path`.
fn split(text: &str) -> Option<(String, String, String)> {
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{}", text.trim_start_matches('/')) };
    let url = Url::parse(&text).ok().filter(|url| url.has_host() && url.scheme().starts_with("http"))?;
    let (bucket, root) = url.path().trim_matches('/').split_once('/').unwrap_or((url.path().trim_matches('/'), ""));
    if bucket.is_empty() || !url.username().is_empty() {
        return None;
    }
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some((format!("{}://{}{port}", url.scheme(), url.host_str()?), bucket.to_owned(), format!("/{root}")))
}

fn failed(error: &opendal_core::Error) -> io::Error {
    use opendal_core::ErrorKind as Its;
    let kind = match error.kind() {
        // Another attempt would get the same.
        _ if is_too_long(error) => ErrorKind::InvalidData,
        Its::NotFound => ErrorKind::NotFound,
        Its::PermissionDenied => ErrorKind::PermissionDenied,
        // The bucket does not exist: nobody makes one by the way.
        Its::ConfigInvalid | Its::Unsupported => ErrorKind::InvalidInput,
        Its::RangeNotSatisfied => ErrorKind::UnexpectedEof,
        _ => ErrorKind::Other,
    };
    let causes = std::error::Error::source(error).map(|cause| format!(": {}", words(cause))).unwrap_or_default();
    // The answer of the server may be a part of it.
    io::Error::new(kind, excerpt(&format!("{}{causes}", error.message())))
}

impl Service for S3 {
    fn list(self: Arc<Self>, directory: String) -> Answer<Vec<(String, u64)>> {
        Box::pin(async move {
            let directory = format!("{directory}/");
            let pages = self.operator(PAGE).lister_with(&directory).recursive(true).await;
            let mut entries = pages.map_err(|error| failed(&error))?;
            let mut list = List::default();
            while let Some(entry) = entries.try_next().await.map_err(|error| failed(&error))? {
                if entry.metadata().is_file() {
                    list.push(entry.name().to_owned(), entry.metadata().content_length())?;
                }
            }
            Ok(list.into_files())
        })
    }

    fn read(self: Arc<Self>, path: String, part: Option<(u32, u32)>) -> Answer<Bytes> {
        Box::pin(async move {
            let read = match part {
                None => self.operator(longest(&path)).read(&path).await,
                Some((offset, length)) => {
                    let (offset, length) = (u64::from(offset), u64::from(length));
                    self.operator(length).read_with(&path).range(offset..offset + length).await
                }
            };
            let bytes = read.map_err(|error| failed(&error))?.to_bytes();
            match part {
                Some((_, length)) if u64::from(length) != bytes.len() as u64 => Err(ErrorKind::UnexpectedEof.into()),
                _ => Ok(bytes),
            }
        })
    }

    fn write(self: Arc<Self>, path: String, content: Bytes) -> Answer<()> {
        Box::pin(
            async move { self.operator(PAGE).write(&path, content).await.map(drop).map_err(|error| failed(&error)) },
        )
    }

    fn remove(self: Arc<Self>, path: String) -> Answer<()> {
        Box::pin(async move { self.operator(PAGE).delete(&path).await.map_err(|error| failed(&error)) })
    }

    fn modified(self: Arc<Self>, path: String) -> Answer<SystemTime> {
        Box::pin(async move {
            let metadata = self.operator(PAGE).stat(&path).await.map_err(|error| failed(&error))?;
            let time = metadata.last_modified().map(SystemTime::from);
            time.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the server does not say when"))
        })
    }

    fn create(self: Arc<Self>) -> Answer<()> {
        // A bucket has no directories.
        Box::pin(async { Ok(()) })
    }

    fn sweep(self: Arc<Self>, _before: SystemTime) -> Answer<Vec<String>> {
        // An object is there as a whole or not at all.
        Box::pin(async { Ok(Vec::new()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    #[test]
    fn a_location_is_host_bucket_and_path() {
        let parts = |text| split(text).map(|(a, b, c)| [a, b, c].join(" "));
        assert_eq!(parts("https://host:9000/bucket/a/b").unwrap(), "https://host:9000 bucket /a/b");
        assert_eq!(parts("http://host/bucket/").unwrap(), "http://host bucket /");
        assert_eq!(parts("s3.amazonaws.com/bucket").unwrap(), "https://s3.amazonaws.com bucket /");
        for text in ["https://host/", "host", "", "ftp://host/bucket", "https://user:c4nary@host/bucket"] {
            assert_eq!(parts(text), None, "{text}");
        }
    }

    #[test]
    fn without_credentials_nothing_is_asked() {
        let mut settings = settings::Repository { location: "s3:https://host/bucket".into(), ..Default::default() };
        settings.environment.insert("AWS_ACCESS_KEY_ID".into(), "id".to_owned().into());
        let new = |settings: &settings::Repository| S3::new(&Place::parse(settings).ok().unwrap());
        assert_eq!(new(&settings).err().unwrap().kind(), Kind::Refused);
        settings.environment.insert("AWS_SECRET_ACCESS_KEY".into(), "c4nary".to_owned().into());
        assert!(new(&settings).is_ok());
    }
}
