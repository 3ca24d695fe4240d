//! Which backups stay, and why.
//!
//! A pure decision over the ledger's list: nothing is read or removed here. Each rule of the settings keeps the
//! newest backup of each of the last N periods that have one, as restic's `forget` does. Periods are those of UTC,
//! weeks those of ISO 8601: a day is the same day wherever the machine stands, and no hour comes twice in autumn.
//!
//! What is newer is decided by the ledger's sequence, never by a clock: a clock that was wrong for one backup must not
//! make the real ones look old. `now` chooses nothing; it only tells whether a clock can be trusted at all.
//!
//! Source: restic's manual, "Removing snapshots according to a policy".

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Datelike, TimeDelta, Utc};

use crate::error::{Error, Kind, Result};
use crate::ledger::{Purpose, Snapshot};
use crate::settings::Retention;

#[cfg(test)]
mod tests;

/// How far a backup may lie in the future before a clock is taken to be wrong: two machines' clocks differ by
/// seconds, and time is set in small steps while all is well.
pub const TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// A stretch of time of which the newest backup is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week of ISO 8601, which begins with Monday.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Period {
    /// The one that holds this time, by its name: `2026-11-21 13:00`, `2026-11-21`, `2026-W47`, `2026-11`, `2026`.
    #[must_use]
    pub fn name(self, time: DateTime<Utc>) -> String {
        match self {
            Self::Hour => time.format("%F %H:00").to_string(),
            Self::Day => time.format("%F").to_string(),
            // The week's own year: the last days of December may belong to the first week of the next.
            Self::Week => format!("{:04}-W{:02}", time.iso_week().year(), time.iso_week().week()),
            Self::Month => time.format("%Y-%m").to_string(),
            Self::Year => time.year().to_string(),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }
}

/// Why a backup stays. Shown in words: `hourly 2026-11-21 13:00`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is the newest of all.
    Newest,
    /// It is the newest of those that were read back as a whole.
    NewestVerified,
    /// A person wants it kept.
    Pinned,
    /// It was taken right before a migration.
    BeforeMigration,
    /// It can undo a change of the live database: the last one, or one of the last days.
    WayBack,
    /// It is one of the last ones; the newest is number 1.
    Last(u32),
    /// It is the newest of the period of this name.
    NewestOf {
        /// The kind of period.
        period: Period,
        /// Which one, as [`Period::name`] says it.
        name: String,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => formatter.write_str("the newest one"),
            Self::NewestVerified => formatter.write_str("the newest verified one"),
            Self::Pinned => formatter.write_str("pinned"),
            Self::BeforeMigration => formatter.write_str("before a migration"),
            Self::WayBack => formatter.write_str("before a change"),
            Self::Last(number) => write!(formatter, "last {number}"),
            Self::NewestOf { period, name } => write!(formatter, "{} {name}", period.word()),
        }
    }
}

/// What becomes of one backup.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<'a> {
    /// The backup.
    pub snapshot: &'a Snapshot,
    /// Every reason to keep it; with none it goes.
    pub reasons: Vec<Reason>,
}

impl Decision<'_> {
    /// Whether it stays.
    #[must_use]
    pub fn keeps(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// Decides for every backup that was not given up, in the order of their sequence, the oldest first.
///
/// Each cluster's backups are a history of their own: those of one never push out another's. Whatever the policy, these
/// stay of each: the newest, the newest verified, pinned ones, those before a migration, and the last one that was taken
/// before another change. A backup that was taken before a change stands for no hour, day or year: it shows a state that
/// somebody wanted to be rid of.
///
/// # Errors
/// [`Kind::Refused`] if the policy keeps nothing, or if a backup lies more than [`TOLERANCE`] after `now`: a clock is
/// or was wrong then, and what is wrong is not guessed.
pub fn decide<'a>(snapshots: &'a [Snapshot], policy: &Retention, now: DateTime<Utc>) -> Result<Vec<Decision<'a>>> {
    let mut decisions: Vec<_> = snapshots
        .iter()
        .filter(|snapshot| snapshot.deleted_at.is_none())
        .map(|snapshot| Decision { snapshot, reasons: Vec::new() })
        .collect();
    decisions.sort_by_key(|decision| decision.snapshot.sequence);
    refuse_wrong_clock(&decisions, now)?;
    refuse_empty(policy)?;
    let mut histories: BTreeMap<Option<&str>, Vec<Decision<'a>>> = BTreeMap::new();
    for decision in decisions {
        histories.entry(decision.snapshot.facts.cluster.as_deref()).or_default().push(decision);
    }
    for history in histories.values_mut() {
        decide_history(history, policy);
    }
    let mut decisions: Vec<_> = histories.into_values().flatten().collect();
    decisions.sort_by_key(|decision| decision.snapshot.sequence);
    Ok(decisions)
}

fn decide_history(decisions: &mut [Decision<'_>], policy: &Retention) {
    keep_always(decisions);
    keep_ways_back(decisions, policy.keep_safety_days);
    for (decision, number) in decisions.iter_mut().rev().filter(is_ordinary).zip(1..=policy.keep_last) {
        decision.reasons.push(Reason::Last(number));
    }
    for (period, count) in [
        (Period::Hour, policy.keep_hourly),
        (Period::Day, policy.keep_daily),
        (Period::Week, policy.keep_weekly),
        (Period::Month, policy.keep_monthly),
        (Period::Year, policy.keep_yearly),
    ] {
        keep_one_each(decisions, period, count);
    }
}

fn is_ordinary(decision: &&mut Decision<'_>) -> bool {
    decision.snapshot.facts.purpose != Purpose::Safety
}

fn keep_always(decisions: &mut [Decision<'_>]) {
    if let Some(newest) = decisions.last_mut() {
        newest.reasons.push(Reason::Newest);
    }
    if let Some(newest) = decisions.iter_mut().rfind(is_ordinary).filter(|newest| newest.reasons.is_empty()) {
        newest.reasons.push(Reason::Newest);
    }
    if let Some(verified) = decisions.iter_mut().rfind(|decision| decision.snapshot.verified_at.is_some()) {
        verified.reasons.push(Reason::NewestVerified);
    }
    for decision in decisions {
        if decision.snapshot.pinned {
            decision.reasons.push(Reason::Pinned);
        }
        if decision.snapshot.facts.purpose == Purpose::BeforeMigration {
            decision.reasons.push(Reason::BeforeMigration);
        }
    }
}

/// A backup that was taken before a change is kept to undo it, at least until the next one: for some days, since a change
/// that was a mistake is not always noticed at once. The days are counted back from the newest backup, not from now.
fn keep_ways_back(decisions: &mut [Decision<'_>], days: u32) {
    let Some(newest) = decisions.last().map(|decision| decision.snapshot.facts.time) else { return };
    let safety = |decision: &&mut Decision<'_>| decision.snapshot.facts.purpose == Purpose::Safety;
    for (number, decision) in decisions.iter_mut().rev().filter(safety).enumerate() {
        let age = newest.signed_duration_since(decision.snapshot.facts.time);
        if number == 0 || age < TimeDelta::days(i64::from(days)) {
            decision.reasons.push(Reason::WayBack);
        }
    }
}

/// A period counts once, where its newest backup stands, even if a clock that was wrong for a while put others
/// between: comparing with the neighbour only would count it again and drop an older period for it.
fn keep_one_each(decisions: &mut [Decision<'_>], period: Period, count: u32) {
    let mut seen = BTreeSet::new();
    for decision in decisions.iter_mut().rev().filter(is_ordinary) {
        if seen.len() as u64 >= u64::from(count) {
            return;
        }
        let name = period.name(decision.snapshot.facts.time);
        if seen.insert(name.clone()) {
            decision.reasons.push(Reason::NewestOf { period, name });
        }
    }
}

fn refuse_empty(policy: &Retention) -> Result<()> {
    let Retention { keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly, .. } = *policy;
    if [keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly].iter().any(|count| *count > 0) {
        return Ok(());
    }
    Err(Error::new(Kind::Refused, "the retention policy keeps nothing: every count is 0")
        .with("state", "no backup was given up")
        .hint("Set at least one of the keys in [retention], for example `keep_daily = 7`."))
}

/// Whether a backup's clock was ahead of `now`.
#[must_use]
pub fn is_from_future(taken: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    taken.signed_duration_since(now) > TOLERANCE
}

fn refuse_wrong_clock(decisions: &[Decision<'_>], now: DateTime<Utc>) -> Result<()> {
    let shown = |time: DateTime<Utc>| time.format("%F %T UTC").to_string();
    let ahead = |decision: &Decision<'_>| is_from_future(decision.snapshot.facts.time, now);
    let Some(newest) = decisions.last() else { return Ok(()) };
    // The newest first: if it lies in the future, it is now that is in doubt, whatever older ones say.
    let (message, hint, snapshot) = if ahead(newest) {
        let message = format!("the clock is behind the newest backup {}", newest.snapshot.facts.id);
        let hint = "Set the clock (`timedatectl`). If it is right now, take a backup, then delete the one with the \
                    wrong time";
        (message, hint, newest.snapshot)
    } else if let Some(decision) = decisions.iter().rfind(|decision| ahead(decision)) {
        let message = format!("the backup {} lies in the future", decision.snapshot.facts.id);
        (message, "Set the clock (`timedatectl`). If it is right now, delete that backup", decision.snapshot)
    } else {
        return Ok(());
    };
    let line = |one: &Decision<'_>| format!("{} of {}", one.snapshot.facts.id.short(), shown(one.snapshot.facts.time));
    let all: Vec<String> = decisions.iter().filter(|decision| ahead(decision)).map(line).collect();
    Err(Error::new(Kind::Refused, message)
        .with("taken", shown(snapshot.facts.time))
        .with("now", shown(now))
        .with("state", "no backup was given up")
        .with("in the future", all.join("\n"))
        .hint(format!("{hint}: `teslamate-backup delete {}`.", snapshot.facts.id)))
}
