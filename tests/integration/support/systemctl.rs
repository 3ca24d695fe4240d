//! A stand-in for `systemctl`: keeps a unit's state in a file and writes down what it was asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The directory to put first in `PATH`.
pub struct Systemctl {
    dir: PathBuf,
}

impl Systemctl {
    /// With the unit in this state: `active`, `inactive`, or `missing`.
    pub fn new(dir: &Path, state: &str) -> Self {
        let dir = dir.join("systemctl");
        fs::create_dir_all(&dir).expect("a directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("chmod");
        fs::write(dir.join("state"), state).expect("state");
        let script = format!(
            r#"#!/bin/sh
cd '{}' || exit 1
echo "$(date +%s.%N) $*" >> calls
# Whole or not at all: the run may be killed at any moment, and this with it.
become() {{ echo "$1" > state.$$; mv state.$$ state; }}
[ "$1" != show ] && [ -e "fail-$1" ] && {{ echo "Job for $3 failed." >&2; exit 1; }}
case "$1" in
show)
  state=$(cat state)
  if [ "$state" = missing ]; then echo LoadState=not-found; echo ActiveState=inactive; echo ControlGroup=
  else
    if [ -e ends ]; then
      left=$(($(cat ends) - 1)); echo $left > ends
      if [ $left -le 0 ]; then state=inactive; become inactive; rm ends properties; fi
    fi
    echo "Id=teslamate.service"; [ -e properties ] && cat properties
    echo LoadState=loaded; echo "ActiveState=$state"; echo ControlGroup=
  fi ;;
list-jobs) cat jobs 2>/dev/null || true ;;
stop) [ -e slow-stop ] && sleep "$(cat slow-stop)"; rm -f ends properties; become inactive ;;
start | restart) [ -e run-on-start ] && sh ./run-on-start; become active ;;
*) exit 1 ;;
esac
"#,
            dir.display()
        );
        fs::write(dir.join("systemctl"), script).expect("script");
        fs::set_permissions(dir.join("systemctl"), fs::Permissions::from_mode(0o755)).expect("chmod");
        Self { dir }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts the unit into a state, with further properties (`NAME=VALUE` lines) that end when it is stopped, and with a
    /// job of this type.
    pub fn set(&self, state: &str, properties: &str, job: &str) {
        let number = if job.is_empty() { String::new() } else { "Job=4711\n".to_owned() };
        fs::write(self.dir.join("state"), state).expect("state");
        fs::write(self.dir.join("properties"), format!("{number}{properties}\n")).expect("properties");
        fs::write(self.dir.join("jobs"), format!("4711 teslamate.service {job} running\n")).expect("jobs");
    }

    /// It is inactive by itself after it was asked about so many times.
    pub fn ends_after(&self, questions: u32) {
        fs::write(self.dir.join("ends"), questions.to_string()).expect("ends");
    }

    /// The unit's state now.
    pub fn state(&self) -> String {
        fs::read_to_string(self.dir.join("state")).expect("state").trim().to_owned()
    }

    /// Makes `stop` or `start` fail from now on.
    pub fn fail(&self, verb: &str) {
        fs::write(self.dir.join(format!("fail-{verb}")), "").expect("marker");
    }

    /// The calls so far that change something: `(seconds, verb)`.
    pub fn calls(&self) -> Vec<(f64, String)> {
        let text = fs::read_to_string(self.dir.join("calls")).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let mut words = line.split(' ');
                Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
            })
            .filter(|(_, verb)| verb != "show" && verb != "list-jobs")
            .collect()
    }
}
