//! Stopping and starting the service that uses the database.
//!
//! Through `systemctl`, or through the two commands that `[service]` may name where there is no systemd. Stopped
//! means inactive *and* an empty control group: a process that was left behind would write into the database that is
//! about to be replaced.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::group;
use super::shown::{Shown, State};
use crate::error::{Context, Error, Kind, Result};
use crate::{bounded, process, settings};

/// How long a service may take to stop; systemd's own default limit is 90 s.
const STOP_LIMIT: Duration = Duration::from_secs(150);

/// How long a service may take to become active. Its migrations may be a part of that.
const START_LIMIT: Duration = Duration::from_mins(30);

/// How long processes that a unit left behind are waited for, before they are told to end, and again before they are made to.
const LEFT_OVER_LIMIT: Duration = Duration::from_secs(5);

/// How long systemd may take to answer a question.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// The longest answer of systemctl in bytes: properties of one unit, or all jobs that are queued.
const LONGEST_ANSWER: u64 = 4 << 20;

/// Between two looks at a unit.
const PAUSE: Duration = Duration::from_millis(50);

/// How often a unit is looked at whose job is gone each time.
const ATTEMPTS: u32 = 100;

/// How often it is stopped when somebody else starts it again and again.
const STOPS: u32 = 5;

/// The service, and the way to control it.
#[derive(Clone, Debug)]
pub struct Unit {
    name: String,
    control: Control,
}

/// Result of stopping a unit.
#[derive(Debug, Default)]
pub struct Stopped {
    /// It ran, or was about to.
    pub was_up: bool,
    /// Processes that it left behind, and that were ended.
    pub warning: Option<String>,
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

    /// Whether its state can be asked for.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        matches!(self.control, Control::Systemctl(_))
    }

    /// Whether it runs. Configured commands cannot be asked, so their service is taken to run.
    pub async fn state(&self) -> Result<State> {
        match &self.control {
            Control::Nobody => Ok(State::Missing),
            Control::Commands { .. } => Ok(State::Active),
            Control::Systemctl(program) => Ok(self.show(program).await?.map_or(State::Missing, |shown| shown.state())),
        }
    }

    /// Whether this process is a part of it.
    pub async fn is_our_own(&self) -> Result<bool> {
        if group::holds_us("", &[&self.name]) {
            return Ok(true);
        }
        let Control::Systemctl(program) = &self.control else { return Ok(false) };
        let shown = self.show(program).await?;
        Ok(shown.is_some_and(|shown| group::holds_us(&shown.control_group, &[&shown.id])))
    }

    /// Refuses to stop what runs and could not be started again, and to count on a stop that systemd would refuse.
    ///
    /// # Errors
    /// [`Kind::Refused`] then.
    pub async fn can_come_back(&self) -> Result<()> {
        let Control::Systemctl(program) = &self.control else { return Ok(()) };
        let Some(shown) = self.show(program).await? else { return Ok(()) };
        if let Some(why) = shown.no_way_down() {
            return Err(Error::new(Kind::Refused, format!("{} could not be stopped: {why}", self.name))
                .hint(format!("See to it with `systemctl status {}`, and repeat the command.", self.name)));
        }
        if !shown.state().comes_up() {
            return Ok(());
        }
        let refused =
            |why: &str| Error::new(Kind::Refused, format!("{} runs and is not to be stopped: {why}", self.name));
        if group::holds_us(&shown.control_group, &[&shown.id, &self.name]) {
            return Err(refused("this run is a part of it").hint("Run this outside of the service."));
        }
        match shown.no_way_back() {
            None => Ok(()),
            Some(why) => Err(refused(&format!("{why}, so it could not be started again"))
                .hint(format!("Put that right, or stop it yourself with `systemctl stop {}`; then again.", self.name))),
        }
    }

    /// Stops it and waits until nothing of it is left, whatever it was about to do.
    ///
    /// # Errors
    /// [`Kind::Busy`] if it does not end in time, or is started again and again. The caller starts it again.
    pub async fn stop(&self) -> Result<Stopped> {
        match &self.control {
            Control::Nobody => Ok(Stopped::default()),
            Control::Commands { stop, .. } => {
                self.run_configured(stop, STOP_LIMIT).await?;
                Ok(Stopped { was_up: true, warning: None })
            }
            Control::Systemctl(program) => self.bring_down(program).await,
        }
    }

    async fn bring_down(&self, program: &Path) -> Result<Stopped> {
        let give_up = Instant::now() + STOP_LIMIT;
        let (mut stops, mut left_since, mut group) = (0, None, String::new());
        let mut done = Stopped::default();
        loop {
            let Some(shown) = self.show(program).await? else { return Ok(done) };
            if !shown.control_group.is_empty() {
                group.clone_from(&shown.control_group);
            }
            match shown.state() {
                State::Active | State::Waiting if stops < STOPS => {
                    stops += 1;
                    done.was_up = true;
                    match self.run(program, &["stop", "--", &self.name], STOP_LIMIT).await {
                        // Somebody's start took the place of our stop.
                        Err(error) if error.detail("cause").is_some_and(|cause| cause.contains("cancel")) => {}
                        stopped => stopped?,
                    }
                    continue;
                }
                State::Missing | State::Inactive => {
                    let left = group::processes(&group);
                    if left.is_empty() {
                        return Ok(done);
                    }
                    // `KillMode=process` and `none` leave them, and nobody else ends them.
                    let since = *left_since.get_or_insert_with(Instant::now);
                    if let Some(signal) = Self::signal_for(since.elapsed(), done.warning.is_some()) {
                        done.warning.get_or_insert(format!(
                            "{} left processes behind, which were ended: {}",
                            self.name,
                            group::shown(&left)
                        ));
                        // Where that is not allowed, they are still there in the end.
                        let _ = self.run(program, &["kill", signal, "--", &self.name], ANSWER_LIMIT).await;
                    }
                }
                _ => {}
            }
            let has_remains = left_since.is_some_and(|since: Instant| since.elapsed() > LEFT_OVER_LIMIT * 4);
            if Instant::now() > give_up || stops >= STOPS || has_remains {
                return Err(self.does_not_stop(&shown, &group));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn does_not_stop(&self, shown: &Shown, group: &str) -> Error {
        let what = if shown.state().comes_up() { "is started again whenever it is stopped" } else { "did not stop" };
        let state = format!("{} ({}), control group {group}", shown.active, shown.sub);
        Error::new(Kind::Busy, format!("{} {what} (waited up to {} s)", self.name, STOP_LIMIT.as_secs()))
            .with("unit", state)
            .with("processes", group::shown(&group::processes(group)))
            .hint(format!("See what is left with `systemctl status {}`.", self.name))
    }

    /// Starts it and waits until it is active; if it is to begin `anew`, what somebody else started meanwhile, too.
    pub async fn start(&self, anew: bool) -> Result<()> {
        match &self.control {
            Control::Nobody => Ok(()),
            Control::Commands { start, .. } => self.run_configured(start, START_LIMIT).await,
            Control::Systemctl(program) => {
                let runs = anew && self.state().await? == State::Active;
                let verb = if runs { "restart" } else { "start" };
                if let Err(error) = self.run(program, &[verb, "--", &self.name], START_LIMIT).await {
                    // Our start is one too many of what failed before: that is no reason.
                    let shown = self.show(program).await?.unwrap_or_default();
                    if shown.result != "start-limit-hit" {
                        return Err(error);
                    }
                    self.run(program, &["reset-failed", "--", &self.name], ANSWER_LIMIT).await?;
                    self.run(program, &["start", "--", &self.name], START_LIMIT).await?;
                }
                self.has_started(program).await
            }
        }
    }

    async fn has_started(&self, program: &Path) -> Result<()> {
        let give_up = Instant::now() + START_LIMIT;
        loop {
            let shown = self.show(program).await?.unwrap_or_default();
            let active = shown.active.as_str();
            if matches!(active, "active" | "reloading" | "refreshing") || shown.has_done_its_work() {
                return Ok(());
            }
            if active != "activating" || shown.state() == State::Waiting || Instant::now() > give_up {
                let mut error = Error::new(Kind::Attention, format!("{} was started but is {active}", self.name));
                if shown.condition_failed {
                    error = error.with("cause", "a condition of the unit is not met: `systemctl status` names it");
                }
                return Err(error.hint(format!("See why with `journalctl -u {} -n 50`.", self.name)));
            }
            tokio::time::sleep(PAUSE).await;
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
        let Ok(output) = tokio::time::timeout(limit, bounded::shown(child)).await else {
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
        for attempt in 1.. {
            let Some(text) = self.ask(program, &["show", Shown::PROPERTIES, "--", &self.name]).await? else {
                return Ok(None);
            };
            let mut shown = Shown::parse(&text);
            if !shown.has_job() || attempt > ATTEMPTS {
                return Ok(Some(shown));
            }
            // What the job is to do stands in no property.
            let jobs = self.ask(program, &["list-jobs", "--no-legend", "--plain", "--full"]).await?.unwrap_or_default();
            let mut lines = jobs.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            if let Some(job) = lines.find(|words| words.first() == Some(&shown.job.as_str())) {
                shown.job_type = job.get(2).map(ToString::to_string).unwrap_or_default();
                return Ok(Some(shown));
            }
            // It has ended between the two questions, and the unit is in another state by now.
            tokio::time::sleep(PAUSE).await;
        }
        Ok(None)
    }

    /// Asks systemd; `None` where it does not run.
    async fn ask(&self, program: &Path, arguments: &[&str]) -> Result<Option<String>> {
        let command = process::shown(program, arguments);
        let mut asking = process::host_command(program);
        let asking = asking.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let asking = asking.context(Kind::Refused, format!("cannot run `{command}`"))?;
        let Ok(output) = tokio::time::timeout(ANSWER_LIMIT, bounded::output(asking, LONGEST_ANSWER)).await else {
            let message = format!("`{command}` did not answer within {} s", ANSWER_LIMIT.as_secs());
            return Err(Error::new(Kind::Busy, message)
                .with("state", "nothing was changed")
                .hint("See whether `systemctl status` answers, then run this again."));
        };
        let output = output.context(Kind::Refused, format!("cannot run `{command}`"))?;
        if output.status.success() {
            return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
        }
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        // systemctl is installed in many containers where systemd is not running. Where it runs and cannot be reached,
        // the service may run, too. Source: sd_booted(3).
        let is_booted = Path::new("/run/systemd/system").is_dir();
        if words.contains("not been booted with systemd") || (!is_booted && words.contains("Failed to connect to")) {
            return Ok(None);
        }
        Err(Error::new(Kind::Refused, format!("cannot ask for the state of {}", self.name))
            .with("cause", words)
            .with("state", "nothing was changed"))
    }

    /// Signal for processes that were left behind for so long.
    fn signal_for(left: Duration, was_told: bool) -> Option<&'static str> {
        if left > LEFT_OVER_LIMIT * 2 {
            Some("--signal=KILL")
        } else if left > LEFT_OVER_LIMIT && !was_told {
            Some("--signal=TERM")
        } else {
            None
        }
    }
}
