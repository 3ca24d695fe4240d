//! `sftp:`: a directory of another machine, through the program ssh.
//!
//! ssh is a child process that speaks SFTP on its standard input and output, as restic has it. Keys and known hosts are
//! where ssh has them, and what is wrong with them is said in ssh's words. Its configuration files are not read: one of
//! the account can name programs to run (`ProxyCommand`, `Match exec`), and the account may not choose what runs when
//! somebody else types a command. The option `ssh_config` names one that may.
//!
//! A file is written under `tmp/`, synced where the server can, and renamed.

#[cfg(test)]
mod hostile;
mod packets;
mod session;
mod target;

use std::future::Future;
use std::io::{self, SeekFrom};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use openssh_sftp_client::Error as Its;
use openssh_sftp_client::error::SftpErrorKind;
use tokio::io::AsyncSeekExt;
use tokio::sync::Mutex;

use self::session::{Session, short};
use self::target::{Target, split};
use super::place::Place;
use super::{Answer, Service};
use crate::bounded::too_long;
use crate::error::{Error, Kind, Result};
use crate::process;
use crate::repository::limits::{List, longest};
use crate::repository::mistake::Mistake;

/// How many directories are listed at the same time.
const AT_ONCE: usize = 16;

/// A directory of another machine.
pub(super) struct Sftp {
    program: PathBuf,
    arguments: Vec<String>,
    /// The repository's directory; relative to where the login begins if it does not begin with `/`.
    root: PathBuf,
    /// Words to add where ssh cannot connect.
    hint: Option<String>,
    session: Mutex<Option<Arc<Session>>>,
}

impl Sftp {
    /// # Errors
    /// [`Kind::Usage`] if the location names no host and path, [`Kind::Refused`] if there is no program ssh.
    pub(super) fn new(place: &Place) -> Result<Self> {
        let target = target(place)?;
        let program = process::find_program("ssh").ok_or_else(|| {
            Error::new(Kind::Refused, "there is no program ssh")
                .with("state", "nothing was touched")
                .hint("Install OpenSSH.")
        })?;
        let config = place.option("ssh_config");
        let mut arguments = vec!["-F".to_owned(), config.unwrap_or("none").to_owned()];
        let hint = if config.is_none() { unread_configuration() } else { None };
        let mut option = |text: String| arguments.extend(["-o".to_owned(), text]);
        // Nobody is there to be asked, and a line that is dead has to be noticed.
        for text in ["BatchMode=yes", "ServerAliveInterval=15", "ServerAliveCountMax=4", "ConnectTimeout=20"] {
            option(text.to_owned());
        }
        option("ClearAllForwardings=yes".to_owned());
        if let Some(path) = place.option("known_hosts_file") {
            option(format!("UserKnownHostsFile={}", quoted(path)));
        }
        if let Some(path) = place.option("identity_file") {
            option("IdentitiesOnly=yes".to_owned());
            option(format!("IdentityFile={}", quoted(path)));
        }
        if let Some(port) = place.option("port").map(str::to_owned).or(target.port) {
            arguments.extend(["-p".to_owned(), port]);
        }
        if let Some(user) = target.user {
            arguments.extend(["-l".to_owned(), user]);
        }
        arguments.extend(["-s".to_owned(), "--".to_owned(), target.host, "sftp".to_owned()]);
        Ok(Self { program, arguments, root: target.path, hint, session: Mutex::default() })
    }

    /// The connection, made if there is none.
    async fn session(&self) -> io::Result<Arc<Session>> {
        let mut session = self.session.lock().await;
        if let Some(known) = session.as_ref() {
            return Ok(Arc::clone(known));
        }
        let connected = Session::connect(&self.program, &self.arguments).await;
        let connected = connected.map_err(|error| match &self.hint {
            Some(hint) => io::Error::new(error.kind(), format!("{error} ({hint})")),
            None => error,
        });
        let made = Arc::new(connected?);
        *session = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Does something in the repository's directory. A connection that failed is not used again.
    async fn with<T, F: Future<Output = std::result::Result<T, Its>>>(
        self: Arc<Self>,
        work: impl FnOnce(Arc<Session>, PathBuf) -> F,
    ) -> io::Result<T> {
        let session = self.session().await?;
        let done = work(Arc::clone(&session), self.root.clone()).await;
        done.map_err(|error| session.failed(&error)).inspect_err(|error| {
            if !super::is_final(error.kind())
                && let Ok(mut current) = self.session.try_lock()
                && current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &session))
            {
                *current = None;
            }
        })
    }
}

/// Advice where the host is known by the account's own configuration alone.
fn unread_configuration() -> Option<String> {
    let path = super::home()?.join(".ssh/config");
    path.exists().then(|| {
        let path = path.display();
        format!(
            "{path} is not read: write user, host and port into the location, and set the options `identity_file` and \
             `known_hosts_file`; where an alias or a jump host is needed, set `ssh_config` to that file"
        )
    })
}

/// Where it leads, as it was written.
pub(super) fn target(place: &Place) -> std::result::Result<Target, Mistake> {
    let target = split(&place.rest).ok_or_else(|| {
        let error = place.mistake("`sftp:` must be followed by a host and a path");
        Mistake::in_location(error.hint("Write it like this: sftp:user@nas.example.org:/srv/backup"))
    })?;
    match &target.port {
        Some(port) if port.parse::<NonZeroU16>().is_err() => {
            Err(Mistake::in_location(place.mistake("the port must be a number from 1 to 65535")))
        }
        _ => Ok(target),
    }
}

/// Adds names and sizes of the files in a directory; nothing of its directories. Those that were last written before a
/// time, if one is given.
async fn entries(
    session: &Session,
    path: &Path,
    before: Option<SystemTime>,
    found: &Mutex<List>,
) -> std::result::Result<(), Its> {
    let directory = session.client.fs().open_dir(path).await?;
    let mut reading = std::pin::pin!(directory.read_dir());
    while let Some(entry) = reading.next().await {
        let entry = entry?;
        let metadata = entry.metadata();
        if !metadata.file_type().is_some_and(|kind| kind.is_dir())
            && let Some(name) = entry.filename().to_str()
        {
            let time = metadata.modified().map(openssh_sftp_client::UnixTimeStamp::as_system_time);
            if before.is_none_or(|before| time.is_some_and(|time| time < before)) {
                let added = found.lock().await.push(name.to_owned(), metadata.len().unwrap_or(u64::MAX));
                added.map_err(Its::IOError)?;
            }
        }
    }
    Ok(())
}

/// The directories of `data` that are there.
async fn prefixes(session: &Session, path: &Path) -> std::result::Result<Vec<PathBuf>, Its> {
    let directory = session.client.fs().open_dir(path).await?;
    let mut reading = std::pin::pin!(directory.read_dir());
    let mut found = Vec::new();
    while let Some(entry) = reading.next().await {
        let entry = entry?;
        let is_directory = entry.metadata().file_type().is_some_and(|kind| kind.is_dir());
        if is_directory && entry.filename().to_str().is_some_and(is_prefix) {
            found.push(path.join(entry.filename()));
        }
        // There are 256 of them, each once.
        if found.len() > 256 {
            return Err(Its::IOError(too_long("the list of directories", 256)));
        }
    }
    Ok(found)
}

/// The first two digits of a pack's name.
fn is_prefix(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

async fn read(
    session: &Session,
    path: &Path,
    part: Option<(u32, u32)>,
    longest: u64,
) -> std::result::Result<Bytes, Its> {
    let mut file = session.client.open(path).await?;
    let (start, length) = match part {
        Some((offset, length)) => (u64::from(offset), u64::from(length)),
        None => (0, file.metadata().await?.len().unwrap_or(0)),
    };
    if part.is_none() && length > longest {
        return Err(Its::IOError(too_long("the file", longest)));
    }
    // Room is made for what comes, not for what the server says would.
    let mut whole = BytesMut::new();
    while (whole.len() as u64) < length {
        let had = whole.len() as u64;
        // A server may give less than it is asked for; what is left is asked for again from there.
        file.seek(SeekFrom::Start(start + had)).await?;
        let wanted = u32::try_from(length - had).unwrap_or(u32::MAX);
        let Some(more) = file.read(wanted, BytesMut::new()).await? else { return Err(short()) };
        whole.extend_from_slice(&more);
        if whole.len() as u64 > length {
            return Err(Its::IOError(too_long("the answer", length)));
        }
    }
    file.close().await?;
    Ok(whole.freeze())
}

async fn write(session: &Session, root: &Path, path: &str, content: &[u8]) -> std::result::Result<(), Its> {
    let (target, temporary) = (root.join(path), root.join("tmp").join(path.rsplit('/').next().unwrap_or(path)));
    let (mut fs, missing) =
        (session.client.fs(), |error: &Its| matches!(error, Its::SftpError(SftpErrorKind::NoSuchFile, _)));
    let mut file = match session.client.create(&temporary).await {
        Err(error) if missing(&error) => {
            make_directories(session, root).await?;
            fs.create_dir(root.join("tmp")).await?;
            session.client.create(&temporary).await?
        }
        file => file?,
    };
    file.write_all(content).await?;
    if session.client.support_fsync() {
        file.sync_all().await?;
    }
    file.close().await?;
    match fs.rename(&temporary, &target).await {
        Err(error) if missing(&error) => {
            make_directories(session, target.parent().unwrap_or(root)).await?;
            fs.rename(&temporary, &target).await
        }
        renamed => renamed,
    }
}

/// A directory with those above it, as far as they are missing.
async fn make_directories(session: &Session, path: &Path) -> std::result::Result<(), Its> {
    let mut missing = Vec::new();
    for directory in path.ancestors().take_while(|directory| !directory.as_os_str().is_empty()) {
        match session.client.fs().metadata(directory).await {
            Err(Its::SftpError(SftpErrorKind::NoSuchFile, _)) => missing.push(directory),
            found => {
                found?;
                break;
            }
        }
    }
    for directory in missing.into_iter().rev() {
        let made = session.client.fs().create_dir(directory).await;
        // Somebody else may have been faster.
        if made.is_err() && session.client.fs().metadata(directory).await.is_err() {
            return made;
        }
    }
    Ok(())
}

impl Service for Sftp {
    fn list(self: Arc<Self>, directory: String) -> Answer<Vec<(String, u64)>> {
        Box::pin(self.with(async move |session, root| {
            let path = root.join(&directory);
            let mut directories = vec![path.clone()];
            if directory == "data" {
                directories.extend(prefixes(&session, &path).await?);
            }
            let found = Mutex::new(List::default());
            let listing = futures_util::stream::iter(directories).map(|path| {
                let (session, found) = (&session, &found);
                async move { entries(session, &path, None, found).await }
            });
            let listed: Vec<_> = listing.buffer_unordered(AT_ONCE).collect().await;
            listed.into_iter().collect::<std::result::Result<(), _>>()?;
            Ok(found.into_inner().into_files())
        }))
    }

    fn read(self: Arc<Self>, path: String, part: Option<(u32, u32)>) -> Answer<Bytes> {
        Box::pin(self.with(async move |session, root| read(&session, &root.join(&path), part, longest(&path)).await))
    }

    fn write(self: Arc<Self>, path: String, content: Bytes) -> Answer<()> {
        Box::pin(self.with(async move |session, root| write(&session, &root, &path, &content).await))
    }

    fn remove(self: Arc<Self>, path: String) -> Answer<()> {
        Box::pin(self.with(async move |session, root| match session.client.fs().remove_file(root.join(path)).await {
            Err(Its::SftpError(SftpErrorKind::NoSuchFile, _)) => Ok(()),
            removed => removed,
        }))
    }

    fn modified(self: Arc<Self>, path: String) -> Answer<SystemTime> {
        Box::pin(self.with(async move |session, root| {
            let time = session.client.fs().metadata(root.join(path)).await?.modified();
            time.map(openssh_sftp_client::UnixTimeStamp::as_system_time).ok_or_else(short)
        }))
    }

    fn create(self: Arc<Self>) -> Answer<()> {
        Box::pin(self.with(async move |session, root| {
            for name in ["keys", "locks", "snapshots", "index", "tmp", "data"] {
                make_directories(&session, &root.join(name)).await?;
            }
            let all = futures_util::stream::iter(0..=255_u8).map(|number| {
                let (session, path) = (Arc::clone(&session), root.join(format!("data/{number:02x}")));
                async move { make_directories(&session, &path).await }
            });
            let made: Vec<_> = all.buffer_unordered(AT_ONCE).collect().await;
            made.into_iter().collect()
        }))
    }

    fn sweep(self: Arc<Self>, before: SystemTime) -> Answer<Vec<String>> {
        Box::pin(self.with(async move |session, root| {
            let directory = root.join("tmp");
            let found = Mutex::new(List::default());
            match entries(&session, &directory, Some(before), &found).await {
                Err(Its::SftpError(SftpErrorKind::NoSuchFile, _)) => return Ok(Vec::new()),
                listed => listed?,
            }
            let mut removed = Vec::new();
            for (name, _) in found.into_inner().into_files() {
                session.client.fs().remove_file(directory.join(&name)).await?;
                removed.push(format!("tmp/{name}"));
            }
            Ok(removed)
        }))
    }
}

/// A value of ssh's configuration that may have a space in it.
fn quoted(path: &str) -> String {
    format!("\"{}\"", path.replace('"', ""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    fn begins(options: &[(&str, &str)]) -> Vec<String> {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let settings = settings::Repository { location: "sftp:nas:/x".into(), options, ..Default::default() };
        let mut arguments = Sftp::new(&Place::parse(&settings).ok().unwrap()).ok().unwrap().arguments;
        arguments.truncate(2);
        arguments
    }

    #[test]
    fn k18_ssh_reads_no_configuration_but_the_one_that_an_option_names() {
        assert_eq!(begins(&[]), ["-F", "none"]);
        assert_eq!(begins(&[("identity_file", "/k"), ("port", "22")]), ["-F", "none"]);
        assert_eq!(begins(&[("ssh_config", "/etc/glovebox/ssh")]), ["-F", "/etc/glovebox/ssh"]);
    }
}
