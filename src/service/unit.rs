//! Stopping and starting the service that uses the database.
//!
//! Through `systemctl`, or through the two commands that `[service]` may name where there is no systemd. Stopped
//! means inactive *and* an empty control group: a process that was left behind would write into the database that is
//! about to be replaced.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::{process, settings};

/// How long a service may take to stop; systemd's own default limit is 90 s.
const STOP_LIMIT: Duration = Duration::from_secs(150);

/// How long a service may take to become active. Its migrations may be a part of that.
const START_LIMIT: Duration = Duration::from_mins(30);

/// Whether the service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It runs, or is about to.
    Active,
    /// It does not run.
    Inactive,
    /// There is no such service here.
    Missing,
}

/// The service, and the way to control it.
#[derive(Clone, Debug)]
pub struct Unit {
    name: String,
    control: Control,
}

#[derive(Clone, Debug)]
enum Control {
    Systemctl(PathBuf),
    Commands { stop: Vec<String>, start: Vec<String> },
    Nobody,
}

impl Unit {
    /// The service of these settings.
    #[must_use]
    pub fn new(service: &settings::Service) -> Self {
        let control = match (&service.stop, &service.start) {
            (Some(stop), Some(start)) => Control::Commands { stop: stop.clone(), start: start.clone() },
            _ => process::find_program("systemctl").map_or(Control::Nobody, Control::Systemctl),
        };
        Self { name: service.unit.clone(), control }
    }

    /// Its name, as in `systemctl status NAME`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it runs. Configured commands cannot be asked, so their service is taken to run.
    pub async fn state(&self) -> Result<State> {
        let Control::Systemctl(program) = &self.control else {
            return Ok(if matches!(self.control, Control::Nobody) { State::Missing } else { State::Active });
        };
        let Some(shown) = self.show(program).await? else { return Ok(State::Missing) };
        Ok(match (shown.load.as_str(), shown.active.as_str()) {
            ("not-found", _) => State::Missing,
            (_, "active" | "activating" | "reloading" | "refreshing") => State::Active,
            _ => State::Inactive,
        })
    }

    /// Stops it and waits until nothing of it is left.
    ///
    /// # Errors
    /// [`Kind::Busy`] if it does not end in time. The caller starts it again.
    pub async fn stop(&self) -> Result<()> {
        match &self.control {
            Control::Nobody => Ok(()),
            Control::Commands { stop, .. } => self.run_configured(stop, STOP_LIMIT).await,
            Control::Systemctl(program) => {
                let give_up = Instant::now() + STOP_LIMIT;
                self.run(program, &["stop", "--", &self.name], STOP_LIMIT).await?;
                loop {
                    let Some(shown) = self.show(program).await? else { return Ok(()) };
                    let ended = matches!(shown.active.as_str(), "inactive" | "failed");
                    if ended && is_empty(&shown.control_group) {
                        return Ok(());
                    }
                    if Instant::now() > give_up {
                        let message = format!("{} did not stop within {} s", self.name, STOP_LIMIT.as_secs());
                        return Err(Error::new(Kind::Busy, message)
                            .with("unit", format!("{}, control group {}", shown.active, shown.control_group))
                            .hint(format!("See what is left with `systemctl status {}`.", self.name)));
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Starts it and waits until it is active.
    pub async fn start(&self) -> Result<()> {
        match &self.control {
            Control::Nobody => Ok(()),
            Control::Commands { start, .. } => self.run_configured(start, START_LIMIT).await,
            Control::Systemctl(program) => {
                let give_up = Instant::now() + START_LIMIT;
                self.run(program, &["start", "--", &self.name], START_LIMIT).await?;
                loop {
                    let active = self.show(program).await?.map_or_else(String::new, |shown| shown.active);
                    if active == "active" {
                        return Ok(());
                    }
                    // A oneshot service that has done its work is inactive again.
                    if active != "activating" || Instant::now() > give_up {
                        return Err(Error::new(Kind::Attention, format!("{} was started but is {active}", self.name))
                            .hint(format!("See why with `journalctl -u {} -n 50`.", self.name)));
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn run_configured(&self, command: &[String], limit: Duration) -> Result<()> {
        let Some((program, arguments)) = command.split_first() else { return Ok(()) };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.run(Path::new(program), &arguments, limit).await
    }

    async fn run(&self, program: &Path, arguments: &[&str], limit: Duration) -> Result<()> {
        let shown = process::shown(program, arguments);
        let child = process::host_command(program)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context(Kind::Refused, format!("cannot run `{shown}`"))?;
        let Ok(output) = tokio::time::timeout(limit, child.wait_with_output()).await else {
            return Err(Error::new(Kind::Busy, format!("`{shown}` did not end within {} s", limit.as_secs())));
        };
        let output = output.context(Kind::Refused, format!("cannot run `{shown}`"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, format!("`{shown}` failed"))
            .with("cause", format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr))))
    }

    async fn show(&self, program: &Path) -> Result<Option<Shown>> {
        let arguments = ["show", "--property=LoadState,ActiveState,ControlGroup", "--", &self.name];
        let output = process::host_command(program)
            .args(arguments)
            .stderr(Stdio::piped())
            .output()
            .await
            .context(Kind::Refused, format!("cannot run `{}`", process::shown(program, &arguments)))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            // systemctl is installed in many containers where systemd is not running.
            if words.contains("not been booted with systemd") || words.contains("Failed to connect to bus") {
                return Ok(None);
            }
            return Err(Error::new(Kind::Refused, format!("cannot ask for the state of {}", self.name))
                .with("cause", words)
                .with("state", "nothing was changed"));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let property = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().to_owned()
        };
        Ok(Some(Shown {
            load: property("LoadState"),
            active: property("ActiveState"),
            control_group: property("ControlGroup"),
        }))
    }
}

struct Shown {
    load: String,
    active: String,
    control_group: String,
}

/// Whether no process is left in the control group, in the unified hierarchy or in systemd's own of the old layout.
fn is_empty(control_group: &str) -> bool {
    if control_group.is_empty() {
        return true;
    }
    ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"].iter().all(|root| {
        let processes = format!("{root}{control_group}/cgroup.procs");
        std::fs::read_to_string(processes).map_or(true, |text| text.trim().is_empty())
    })
}
