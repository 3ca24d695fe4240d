//! Lines that the application writes while it changes the database, and what they tell.
//!
//! Source: Ecto SQL documentation, "Ecto.Migrator", for what it logs; Elixir documentation, "Logger", for the levels, and
//! "Exception" for how an exception is printed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How many of the application's last lines a failure shows.
const LAST: usize = 30;

/// How many of its first errors a failure shows.
const FIRST: usize = 5;

/// How many of its warnings are passed on.
const WARNINGS: usize = 20;

/// How many migrations are remembered with how long they took. TeslaMate has a hundred.
const MOST_MIGRATIONS: usize = 10_000;

/// Everything that was heard so far, as far as it is kept.
#[derive(Debug, Default)]
pub struct Heard {
    /// How long each version took, where it said so.
    pub durations: BTreeMap<i64, Duration>,
    /// A migration had begun.
    pub began: bool,
    first: Vec<String>,
    last: VecDeque<String>,
    warnings: usize,
}

/// A line that others want to know of at once.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// This migration is being run.
    Running(i64),
    /// The application warns of something.
    Warning,
    /// Anything else.
    Nothing,
}

impl Heard {
    /// Takes a line in.
    pub fn line(&mut self, line: &str) -> News {
        let mut news = News::Nothing;
        if let Some((version, _)) = after(line, "== Running ") {
            news = News::Running(version);
            self.began = true;
        }
        // Where nothing of level `info` is logged, the stack of a migration that failed shows that it ran.
        self.began |= line.contains("Ecto.Migration.Runner.");
        if let Some((version, rest)) = after(line, "== Migrated ") {
            self.began = true;
            if let Some(took) = seconds(rest)
                && self.durations.len() < MOST_MIGRATIONS
            {
                self.durations.insert(version, took);
            }
        }
        // Elixir before 1.15 writes the shorter word.
        if (line.contains("[warning]") || line.contains("[warn]")) && self.warnings < WARNINGS {
            self.warnings += 1;
            news = News::Warning;
        }
        if (line.contains("[error]") || line.contains("** (")) && self.first.len() < FIRST {
            self.first.push(line.to_owned());
        }
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
        news
    }

    /// The first errors, which are nearest to the cause; advice follows them, often longer than what is kept of the end.
    #[must_use]
    pub fn first_errors(&self) -> String {
        self.first.join("\n")
    }

    /// The last lines.
    #[must_use]
    pub fn last_words(&self) -> String {
        self.last.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// The version after these words, and the rest of the line. A logger may have put a time and a level before them.
fn after<'a>(line: &'a str, words: &str) -> Option<(i64, &'a str)> {
    let (_, rest) = line.split_once(words)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((rest[..end].parse().ok()?, &rest[end..]))
}

/// ` in 1.2s`
fn seconds(rest: &str) -> Option<Duration> {
    let number = rest.strip_prefix(" in ")?.split('s').next()?;
    Duration::try_from_secs_f64(number.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ecto_logs_is_understood_with_and_without_a_loggers_prefix() {
        let line = "12:00:01.123 [info] == Migrated 20190330150000 in 1.5s";
        let (version, rest) = after(line, "== Migrated ").unwrap();
        assert_eq!((version, seconds(rest)), (20_190_330_150_000, Some(Duration::from_millis(1500))));
        assert_eq!(after("== Running 7 TeslaMate.Repo.Migrations.A.change/0 forward", "== Running ").unwrap().0, 7);
        assert_eq!(after("== Migrated x in 1.5s", "== Migrated "), None);
        assert_eq!(seconds(" in soon"), None);
    }

    #[test]
    fn k13_the_first_errors_are_kept_and_warnings_passed_on() {
        let mut heard = Heard::default();
        assert_eq!(heard.line("12:00:00.000 [warn] no key"), News::Warning);
        assert_eq!(heard.line("12:00:00.000 [warning] no key"), News::Warning);
        heard.line("12:00:00.000 [error] Postgrex.Protocol failed to connect");
        heard.line("** (DBConnection.ConnectionError) tcp connect: refused");
        for number in 0..100 {
            assert_eq!(heard.line(&format!("advice {number}")), News::Nothing);
        }
        assert!(heard.first_errors().starts_with("12:00:00.000 [error] Postgrex.Protocol"), "{}", heard.first_errors());
        assert!(heard.first_errors().ends_with("refused") && !heard.last_words().contains("refused"));
        assert!(heard.last_words().ends_with("advice 99"));
    }

    #[test]
    fn k13_a_migration_that_began_is_noticed_without_its_log() {
        for (line, began) in [
            ("12:00:00.000 [info] == Running 7 TeslaMate.Repo.Migrations.A.change/0 forward", true),
            ("    (ecto_sql 3.12.1) lib/ecto/migration/runner.ex:348: Ecto.Migration.Runner.perform_operation/3", true),
            ("    (ecto_sql 3.12.1) lib/ecto/migrator.ex:775: Ecto.Migrator.verbose_schema_migration/3", false),
            ("** (DBConnection.ConnectionError) tcp connect: refused", false),
        ] {
            let mut heard = Heard::default();
            heard.line(line);
            assert_eq!(heard.began, began, "{line}");
        }
    }
}
