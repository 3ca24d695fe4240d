//! State of a unit, derived from the output of `systemctl show`.
//!
//! One question decides: will there be a process of it if nobody does anything? A unit that is between two starts has
//! none at the moment and is up again in a second; one that is going down may be on its way to a restart.
//!
//! Source: `org.freedesktop.systemd1(5)`, `systemd.service(5)`, and systemd's `service_shall_restart`.

use serde::{Deserialize, Serialize};

/// Whether the service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It runs, and goes on or is on its way to a restart.
    Active,
    /// Nothing of it runs, and it comes up by itself: it waits for its next start.
    Waiting,
    /// It runs still, and stays down when it has ended.
    Ending,
    /// It does not run.
    Inactive,
    /// There is no such service here.
    Missing,
}

impl State {
    /// Whether it is up later, if nobody does anything.
    #[must_use]
    pub fn comes_up(self) -> bool {
        matches!(self, Self::Active | Self::Waiting)
    }

    /// Whether processes of it run, or will.
    #[must_use]
    pub fn is_at_work(self) -> bool {
        self.comes_up() || self == Self::Ending
    }
}

/// The properties that decide.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    pub(super) id: String,
    pub(super) load: String,
    pub(super) active: String,
    pub(super) sub: String,
    /// The number of its job; empty or 0 without one.
    pub(super) job: String,
    /// The type of that job: `start`, `stop`, `restart`, …; empty if it is not known.
    pub(super) job_type: String,
    pub(super) kind: String,
    pub(super) restart: String,
    pub(super) result: String,
    pub(super) control_group: String,
    pub(super) transient: bool,
    pub(super) condition_failed: bool,
    /// `CanStart` or `CanStop` is `no`: `RefuseManualStart=`, `RefuseManualStop=`, or no such thing for the unit.
    pub(super) refuses_start: bool,
    pub(super) refuses_stop: bool,
}

impl Shown {
    /// The properties to ask for.
    pub(super) const PROPERTIES: &str = "--property=Id,LoadState,ActiveState,SubState,Job,Type,Restart,Result,\
                                         ControlGroup,Transient,ConditionResult,CanStart,CanStop";

    /// Reads `NAME=VALUE` lines; a property that an older systemd does not have is empty.
    pub(super) fn parse(text: &str) -> Self {
        let property = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().to_owned()
        };
        Self {
            id: property("Id"),
            load: property("LoadState"),
            active: property("ActiveState"),
            sub: property("SubState"),
            job: property("Job"),
            job_type: String::new(),
            kind: property("Type"),
            restart: property("Restart"),
            result: property("Result"),
            control_group: property("ControlGroup"),
            transient: property("Transient") == "yes",
            condition_failed: property("ConditionResult") == "no",
            refuses_start: property("CanStart") == "no",
            refuses_stop: property("CanStop") == "no",
        }
    }

    pub(super) fn has_job(&self) -> bool {
        !matches!(self.job.as_str(), "" | "0")
    }

    /// Derives the unit's state. A state that is not known counts as running.
    pub(super) fn state(&self) -> State {
        let is_to_stop = self.job_type == "stop";
        // Not `verify-active`, which only looks; `reload` is for what is active.
        let is_to_start = matches!(
            self.job_type.as_str(),
            "start" | "restart" | "try-restart" | "reload-or-start" | "restart-or-reload" | "try-reload"
        );
        match (self.active.as_str(), self.sub.as_str()) {
            ("inactive" | "failed", sub) if is_to_start || sub.ends_with("-before-auto-restart") => State::Waiting,
            ("inactive", _) if self.load == "not-found" => State::Missing,
            ("inactive" | "failed", _) => State::Inactive,
            ("activating", "auto-restart" | "auto-restart-queued") if !is_to_stop => State::Waiting,
            ("deactivating", _) if is_to_start || (!is_to_stop && self.restarts()) => State::Active,
            ("deactivating", _) => State::Ending,
            // `systemctl clean` is at its files.
            ("maintenance", _) => {
                if is_to_start {
                    State::Active
                } else {
                    State::Ending
                }
            }
            _ if is_to_stop => State::Ending,
            _ => State::Active,
        }
    }

    /// Whether systemd starts it again when it has ended by itself, as far as it has come. `RestartPreventExitStatus=`
    /// is not looked at: a service that is up where it might have stayed down is the lesser evil.
    fn restarts(&self) -> bool {
        let result = self.result.as_str();
        match self.restart.as_str() {
            "always" => true,
            "on-success" => result == "success",
            "on-failure" => result != "success",
            "on-abnormal" => !matches!(result, "success" | "exit-code"),
            "on-abort" => matches!(result, "signal" | "core-dump"),
            "on-watchdog" => result == "watchdog",
            _ => false,
        }
    }

    /// Why systemd could not start it again once it is stopped; `None` if nothing is in the way.
    pub(super) fn no_way_back(&self) -> Option<&'static str> {
        let suffix = self.id.rsplit('.').next().unwrap_or_default();
        match self.load.as_str() {
            "masked" => Some("it is masked"),
            "not-found" => Some("its unit file is gone"),
            "bad-setting" | "error" => Some("its unit file has a mistake"),
            _ if self.refuses_start => Some("it cannot be started by hand (CanStart=no, as RefuseManualStart= has it)"),
            _ if self.transient => Some("it is a transient unit, which is gone once it is stopped"),
            _ if matches!(suffix, "slice" | "scope") => Some("a slice or a scope does not start what was in it"),
            _ => None,
        }
    }

    /// Why `systemctl stop` would not stop it now; `None` if nothing is in the way.
    pub(super) fn no_way_down(&self) -> Option<&'static str> {
        if self.active == "maintenance" {
            return Some("`systemctl clean` is at its files (ActiveState=maintenance)");
        }
        let runs = self.state().comes_up() && self.refuses_stop;
        runs.then_some("it cannot be stopped by hand (CanStop=no, as RefuseManualStop= has it)")
    }

    /// A oneshot service that has done its work is inactive again.
    pub(super) fn has_done_its_work(&self) -> bool {
        self.kind == "oneshot" && self.active == "inactive" && self.result == "success" && !self.condition_failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Properties = [(&'static str, &'static str)];

    /// `active/sub job`, further properties.
    fn state(words: &str, more: &Properties) -> State {
        let (states, job) = words.split_once(' ').unwrap_or((words, ""));
        let (active, sub) = states.split_once('/').unwrap();
        let mut text = format!("LoadState=loaded\nActiveState={active}\nSubState={sub}\nResult=success\nRestart=no\n");
        for (name, value) in more {
            text = format!("{name}={value}\n{text}");
        }
        Shown { job_type: job.to_owned(), ..Shown::parse(&text) }.state()
    }

    #[test]
    fn k11_every_state_of_systemd_says_whether_the_service_comes_up() {
        use State::{Active, Ending, Inactive, Missing, Waiting};
        let failing: &Properties = &[("Restart", "on-failure"), ("Result", "exit-code")];
        let lasting: &Properties = &[("Restart", "always")];
        let cases: &[(&str, &Properties, State)] = &[
            ("active/running", &[], Active),
            ("active/exited", &[("Type", "oneshot")], Active),
            ("active/running reload", &[], Active),
            ("active/running restart", &[], Active),
            ("active/running verify-active", &[], Active),
            ("active/running stop", &[], Ending),
            ("reloading/reload", &[], Active),
            ("reloading/reload-notify", &[], Active),
            ("refreshing/refresh-extensions", &[], Active),
            ("activating/start-pre", &[], Active),
            ("activating/start-pre start", &[], Active),
            ("activating/start stop", &[], Ending),
            ("activating/start-post", &[], Active),
            ("activating/auto-restart", failing, Waiting),
            ("activating/auto-restart-queued start", failing, Waiting),
            ("activating/auto-restart stop", lasting, Ending),
            ("deactivating/stop-sigterm stop", lasting, Ending),
            ("deactivating/stop-sigterm stop", &[], Ending),
            ("deactivating/stop-sigterm restart", &[], Active),
            ("deactivating/stop start", &[], Active),
            ("deactivating/stop-post", failing, Active),
            ("deactivating/stop-post", lasting, Active),
            ("deactivating/final-sigterm", &[("Restart", "on-failure")], Ending),
            ("deactivating/stop-post", &[("Restart", "on-abnormal"), ("Result", "exit-code")], Ending),
            ("deactivating/stop-post", &[("Restart", "on-abnormal"), ("Result", "timeout")], Active),
            ("deactivating/stop-post", &[("Restart", "on-abort"), ("Result", "signal")], Active),
            ("deactivating/stop-watchdog", &[("Restart", "on-watchdog"), ("Result", "watchdog")], Active),
            ("deactivating/stop", &[], Ending),
            ("inactive/dead", &[], Inactive),
            ("inactive/dead", lasting, Inactive),
            ("inactive/dead start", &[], Waiting),
            ("inactive/dead restart", &[], Waiting),
            ("inactive/dead verify-active", &[], Inactive),
            ("inactive/dead stop", &[], Inactive),
            ("inactive/dead-before-auto-restart", lasting, Waiting),
            ("inactive/dead-resources-pinned", &[], Inactive),
            ("failed/failed", failing, Inactive),
            ("failed/failed", &[("Result", "start-limit-hit")], Inactive),
            ("failed/failed start", failing, Waiting),
            ("failed/failed-before-auto-restart", failing, Waiting),
            ("maintenance/cleaning", &[], Ending),
            ("maintenance/cleaning start", &[], Active),
            ("inactive/dead", &[("LoadState", "not-found")], Missing),
            ("inactive/dead", &[("LoadState", "masked")], Inactive),
            ("inactive/dead", &[("LoadState", "bad-setting")], Inactive),
            ("active/running", &[("LoadState", "masked")], Active),
            ("active/running", &[("LoadState", "not-found")], Active),
            ("a-word-of-later/unknown", &[], Active),
        ];
        for (words, more, expected) in cases {
            assert_eq!(state(words, more), *expected, "{words} {more:?}");
        }
    }

    #[test]
    fn k11_what_could_not_be_started_again_is_known_beforehand() {
        let why = |text: &str| Shown::parse(text).no_way_back();
        assert_eq!(why("Id=a.service\nLoadState=loaded\nTransient=no"), None);
        assert_eq!(why("Id=a.target\nLoadState=loaded"), None);
        for text in [
            "Id=a.service\nLoadState=masked",
            "Id=a.service\nLoadState=not-found",
            "Id=a.service\nLoadState=bad-setting",
            "Id=a.service\nLoadState=error",
            "Id=a.service\nLoadState=loaded\nTransient=yes",
            "Id=a.service\nLoadState=loaded\nCanStart=no",
            "Id=a.slice\nLoadState=loaded",
            "Id=a.scope\nLoadState=loaded",
        ] {
            assert!(why(text).is_some(), "{text}");
        }
    }

    #[test]
    fn k11_what_systemctl_would_not_stop_is_known_beforehand() {
        let is_stuck = |text: &str| Shown::parse(text).no_way_down().is_some();
        for (text, expected) in [
            ("ActiveState=active\nSubState=running\nCanStop=no", true),
            ("ActiveState=active\nSubState=running\nCanStop=yes", false),
            ("ActiveState=active\nSubState=running", false),
            ("ActiveState=inactive\nSubState=dead\nCanStop=no", false),
            ("ActiveState=maintenance\nSubState=cleaning\nCanStop=yes", true),
        ] {
            assert_eq!(is_stuck(text), expected, "{text}");
        }
    }
}
