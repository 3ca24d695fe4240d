//! Where `sftp:` leads to.

use std::path::PathBuf;

/// Host and directory, and what ssh has to know beside.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::repository::network) struct Target {
    pub(super) user: Option<String>,
    pub(super) host: String,
    pub(super) port: Option<String>,
    pub(super) path: PathBuf,
}

/// `user@host:path` or `//user@host:port/path`, where a path that begins at the root has two slashes.
pub(super) fn split(text: &str) -> Option<Target> {
    let (login, port, path) = if let Some(url) = text.strip_prefix("//") {
        let (login, path) = url.split_once('/')?;
        let bare = login.rsplit_once('@').map_or(login, |(_, host)| host);
        let port = bare.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map(|(_, port)| port.to_owned());
        let login = port.as_ref().map_or(login, |port| login.strip_suffix(&format!(":{port}")).unwrap_or(login));
        (login, port, path)
    } else {
        let end = if text.rsplit_once('@').map_or(text, |(_, host)| host).starts_with('[') { "]:" } else { ":" };
        let (login, path) = text.split_once(end)?;
        (login, None, path)
    };
    let (user, host) = login.rsplit_once('@').map_or((None, login), |(user, host)| (Some(user.to_owned()), host));
    let host = host.trim_matches(['[', ']']).to_owned();
    let wrong = host.is_empty() || host.starts_with('-') || path.is_empty() || user.as_deref() == Some("");
    (!wrong).then(|| Target { user, host, port, path: path.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read_as_restic_reads_them() {
        let target = |text| {
            let Target { user, host, port, path } = split(text).unwrap();
            format!("{} {host} {} {}", user.unwrap_or_default(), port.unwrap_or_default(), path.display())
        };
        assert_eq!(target("user@host:/srv/x"), "user host  /srv/x");
        assert_eq!(target("host:x"), " host  x");
        assert_eq!(target("user@[::1]:/x"), "user ::1  /x");
        assert_eq!(target("//user@host:2222//srv/x"), "user host 2222 /srv/x");
        assert_eq!(target("//[::1]:2222/x"), " ::1 2222 x");
        assert_eq!(target("//host/x"), " host  x");
        for text in ["host", "host:", ":/x", "//host", "-oProxyCommand=x:/y", "@host:/x", ""] {
            assert_eq!(split(text), None, "{text}");
        }
    }
}
