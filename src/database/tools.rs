//! PostgreSQL's client programs: which ones are used, and whether they fit the server.
//!
//! With `database.tools` set, that directory and no other. Otherwise `PATH` and the directories in which
//! distributions keep several versions side by side; the server's own major version wins, then the next newer one. A
//! newer `pg_dump` writes settings that the server's own version does not know, and an older one refuses to read.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::{Connector, version_text};
use crate::bounded;
use crate::error::{Context, Error, Kind, Result};
use crate::process;

/// The programs of one directory, of one version.
#[derive(Clone, Debug)]
pub struct Tools {
    dir: PathBuf,
    /// Their version, as `server_version_num` counts (150018 for 15.18).
    pub version: u32,
}

impl Tools {
    /// Finds the programs for a server of this version (`server_version_num`).
    ///
    /// # Errors
    /// [`Kind::Refused`] if there are none, or only ones that are older than the server.
    pub async fn find(connector: &Connector, configured: Option<&Path>, server: u32) -> Result<Self> {
        let found = Self::found("pg_dump", configured).await?;
        let state = "nothing was read, nothing was written";
        let Some(newest) = found.iter().max_by_key(|tools| tools.version) else {
            let place = configured.map_or("PATH".to_owned(), |dir| dir.display().to_string());
            return Err(Error::new(Kind::Refused, format!("there is no pg_dump in {place}"))
                .with("state", state)
                .hint("Set `database.tools` to the directory of PostgreSQL's client programs."));
        };
        let major = server / 10_000;
        let tools = Self::fitting(&found, server).ok_or_else(|| {
            Error::new(
                Kind::Refused,
                format!(
                    "pg_dump {} cannot read a server of version {}",
                    version_text(newest.version),
                    version_text(server)
                ),
            )
            .with("tool", newest.dir.join("pg_dump").display())
            .with("server", connector.server())
            .with("state", state)
            .hint(format!(
                "Set `database.tools` to the bin directory of PostgreSQL {major} (on NixOS: \
                     \"${{config.services.postgresql.package}}/bin\")."
            ))
        })?;
        if !process::is_executable(&tools.dir.join("pg_restore")) {
            return Err(Error::new(Kind::Refused, "there is no pg_restore beside pg_dump")
                .with("directory", tools.dir.display())
                .with("state", state)
                .hint("Set `database.tools` to a directory that holds pg_dump and pg_restore."));
        }
        Ok(tools.clone())
    }

    /// Finds a `pg_restore` that reads what was dumped from a server of this version (`server_version_num`), where there
    /// need not be any server. No other program has to be beside it.
    ///
    /// # Errors
    /// [`Kind::Refused`] if there is none, or only older ones.
    pub async fn find_reader(configured: Option<&Path>, server: u32) -> Result<Self> {
        let found = Self::found("pg_restore", configured).await?;
        let Some(newest) = found.iter().max_by_key(|tools| tools.version) else {
            let place = configured.map_or("PATH".to_owned(), |dir| dir.display().to_string());
            return Err(Error::new(Kind::Refused, format!("there is no pg_restore in {place}"))
                .hint("Set `database.tools` to the directory of PostgreSQL's client programs."));
        };
        let tools = Self::fitting(&found, server).ok_or_else(|| {
            let (tool, wanted) = (version_text(newest.version), version_text(server));
            Error::new(Kind::Refused, format!("pg_restore {tool} is older than the backup's server {wanted}"))
                .with("tool", newest.path("pg_restore").display())
                .hint(format!("Set `database.tools` to the bin directory of PostgreSQL {}.", server / 10_000))
        })?;
        Ok(tools.clone())
    }

    /// Finds the server's own programs, of this major version exactly; `None` if they are not on this machine.
    ///
    /// # Errors
    /// Those of running them.
    pub async fn find_server(configured: Option<&Path>, major: u32) -> Result<Option<Self>> {
        let found = Self::found("postgres", configured).await?;
        let fits = found.into_iter().filter(|tools| tools.version / 10_000 == major);
        Ok(fits.filter(|tools| process::is_executable(&tools.path("initdb"))).max_by_key(|tools| tools.version))
    }

    /// Every directory with this program, of which all are taken to have one version.
    async fn found(program: &str, configured: Option<&Path>) -> Result<Vec<Self>> {
        let dirs = match configured {
            Some(dir) => vec![dir.to_owned()],
            None => candidates(program),
        };
        let mut found = Vec::new();
        for dir in dirs {
            if let Some(version) = version_of(&dir.join(program)).await? {
                found.push(Self { dir, version });
            }
        }
        Ok(found)
    }

    /// The server's own major version, or the next newer one.
    fn fitting(found: &[Self], server: u32) -> Option<&Self> {
        let fits = found.iter().filter(|tools| tools.version / 10_000 >= server / 10_000);
        fits.min_by_key(|tools| (tools.version / 10_000, std::cmp::Reverse(tools.version)))
    }

    /// The path of one of the programs.
    #[must_use]
    pub fn path(&self, program: &str) -> PathBuf {
        self.dir.join(program)
    }

    /// A command for one of the programs that connects to `database` as the settings say.
    #[must_use]
    pub fn command(&self, program: &str, connector: &Connector, database: &str) -> tokio::process::Command {
        let mut command = process::command(&self.path(program));
        command.envs(connector.tool_environment(database));
        command
    }
}

fn candidates(program: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
    dirs.push("/run/current-system/sw/bin".into());
    // Debian's pg_dump in PATH is a script that picks a version by rules of its own; the real ones are here.
    for version in std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        dirs.push(version.path().join("bin"));
    }
    dirs.retain(|dir| {
        let program = dir.join(program);
        process::is_executable(&program)
            && !std::fs::read_link(&program).is_ok_and(|target| target.ends_with("pg_wrapper"))
    });
    dirs
}

/// How long a program may take to tell its version.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);

/// `pg_dump --version` of this program, or `None` where there is no such program.
async fn version_of(program: &Path) -> Result<Option<u32>> {
    if !process::is_executable(program) {
        return Ok(None);
    }
    let failed = || format!("cannot run {}", program.display());
    let mut asking = process::command(program);
    let asking = asking.arg("--version").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let answer = tokio::time::timeout(ANSWER_LIMIT, bounded::shown(asking.context(Kind::Refused, failed())?)).await;
    let late =
        |_| Error::new(Kind::Busy, failed()).with("cause", format!("no answer within {} s", ANSWER_LIMIT.as_secs()));
    let output = answer.map_err(late)?.context(Kind::Refused, failed())?;
    let text = String::from_utf8_lossy(&output.stdout);
    match parse_version(&text) {
        Some(version) if output.status.success() => Ok(Some(version)),
        _ => Err(Error::new(Kind::Refused, format!("{} does not tell its version", program.display()))
            .with("output", format!("{text}{}", String::from_utf8_lossy(&output.stderr)))
            .hint("Set `database.tools` to the directory of PostgreSQL's client programs.")),
    }
}

/// Reads `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` or `17beta1` as `server_version_num` counts.
#[must_use]
pub fn parse_version(text: &str) -> Option<u32> {
    let version = text.split_once(") ").map_or(text, |(_, version)| version);
    let version = version.split(|c: char| c.is_whitespace()).next()?;
    let mut parts = version.split('.');
    let digits = |part: &str| part.split(|c: char| !c.is_ascii_digit()).next().and_then(|d| d.parse::<u32>().ok());
    let major = digits(parts.next()?)?;
    let minor = parts.next().and_then(digits).unwrap_or(0);
    Some(major * 10_000 + minor)
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn versions_are_read_from_every_vendors_line() {
        assert_eq!(parse_version("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(150_018));
        assert_eq!(parse_version("pg_dump (PostgreSQL) 17.11"), Some(170_011));
        assert_eq!(parse_version("pg_dump (PostgreSQL) 19beta1"), Some(190_000));
        assert_eq!(parse_version("15.14 (Ubuntu)"), Some(150_014));
        assert_eq!(parse_version("pg_dump"), None);
    }
}
