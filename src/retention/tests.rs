//! Hand-worked examples, and what must hold for every list.

use proptest::prelude::*;

use super::*;
use crate::ledger::{Facts, HexId};

const NOTHING: Retention = Retention {
    keep_last: 0,
    keep_hourly: 0,
    keep_daily: 0,
    keep_weekly: 0,
    keep_monthly: 0,
    keep_yearly: 0,
    keep_safety_days: 0,
};

/// Of `2026-11-21 13:00`.
fn at(text: &str) -> DateTime<Utc> {
    chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap().and_utc()
}

fn snapshot(sequence: i64, time: DateTime<Utc>) -> Snapshot {
    let id = HexId::parse(&format!("{sequence:064x}")).unwrap();
    let facts = Facts {
        id: id.clone(),
        time,
        size: 1,
        added: 1,
        rows: 1,
        duration_ms: 1,
        manifest_sha256: id,
        purpose: Purpose::Regular,
        schema_version: None,
        comment: None,
        database: None,
        host: None,
        cluster: None,
    };
    Snapshot { sequence, facts, pinned: false, verified_at: None, deleted_at: None, removing: false }
}

/// In this order, whatever the times are.
fn taken(times: &[&str]) -> Vec<Snapshot> {
    (1..).zip(times).map(|(sequence, time)| snapshot(sequence, at(time))).collect()
}

/// The sequences that stay.
fn kept(decisions: &[Decision<'_>]) -> Vec<i64> {
    decisions.iter().filter(|decision| decision.keeps()).map(|decision| decision.snapshot.sequence).collect()
}

fn reasons(decision: &Decision<'_>) -> Vec<String> {
    decision.reasons.iter().map(ToString::to_string).collect()
}

#[test]
fn each_rule_keeps_the_newest_of_the_last_periods_that_have_one() {
    let list = taken(&[
        "2024-12-30 10:00", // Monday of the first week of 2025.
        "2025-12-28 23:00", // Sunday of week 52.
        "2025-12-29 01:00", // Monday of the first week of 2026.
        "2026-10-31 09:00",
        "2026-11-19 08:00",
        "2026-11-21 11:10",
        "2026-11-21 13:05",
        "2026-11-21 13:45",
    ]);
    let now = at("2026-11-21 13:50");
    for (policy, expected) in [
        (Retention { keep_last: 3, ..NOTHING }, vec![6, 7, 8]),
        (Retention { keep_hourly: 3, ..NOTHING }, vec![5, 6, 8]),
        (Retention { keep_daily: 2, ..NOTHING }, vec![5, 8]),
        (Retention { keep_weekly: 4, ..NOTHING }, vec![2, 3, 4, 8]),
        (Retention { keep_monthly: 3, ..NOTHING }, vec![3, 4, 8]),
        (Retention { keep_yearly: 3, ..NOTHING }, vec![1, 3, 8]),
        (Retention { keep_daily: 1, keep_yearly: 2, ..NOTHING }, vec![3, 8]),
        (Retention { keep_last: u32::MAX, ..NOTHING }, vec![1, 2, 3, 4, 5, 6, 7, 8]),
    ] {
        assert_eq!(kept(&decide(&list, &policy, now).unwrap()), expected, "{policy:?}");
    }
}

#[test]
fn a_week_belongs_to_the_year_that_iso_8601_gives_it() {
    for (time, week) in [
        ("2025-12-28 23:59", "2025-W52"),
        ("2025-12-29 00:00", "2026-W01"),
        ("2027-01-03 23:59", "2026-W53"),
        ("2027-01-04 00:00", "2027-W01"),
    ] {
        assert_eq!(Period::Week.name(at(time)), week);
    }
}

#[test]
fn every_reason_is_given_in_words() {
    let mut list = taken(&["2026-11-14 12:00", "2026-11-20 12:00", "2026-11-21 12:59", "2026-11-21 13:10"]);
    list[0].pinned = true;
    list[0].facts.purpose = Purpose::BeforeMigration;
    list[2].verified_at = Some(at("2026-11-21 13:00"));
    let all = Retention {
        keep_last: 1,
        keep_hourly: 1,
        keep_daily: 2,
        keep_weekly: 1,
        keep_monthly: 1,
        keep_yearly: 1,
        ..NOTHING
    };
    let decisions = decide(&list, &all, at("2026-11-21 13:10")).unwrap();
    assert_eq!(reasons(&decisions[0]), ["pinned", "before a migration"]);
    assert_eq!(reasons(&decisions[1]), ["daily 2026-11-20"]);
    assert_eq!(reasons(&decisions[2]), ["the newest verified one"]);
    assert_eq!(
        reasons(&decisions[3]),
        [
            "the newest one",
            "last 1",
            "hourly 2026-11-21 13:00",
            "daily 2026-11-21",
            "weekly 2026-W47",
            "monthly 2026-11",
            "yearly 2026"
        ]
    );
}

#[test]
fn r20_the_newest_verified_one_stays_however_many_came_after_it() {
    let mut list = taken(&["2026-11-21 01:00"; 30]);
    list[3].verified_at = Some(at("2026-11-21 01:00"));
    // Verified later, but an older backup: it is not the one to fall back on.
    list[1].verified_at = Some(at("2026-11-21 02:00"));
    let decisions = decide(&list, &Retention { keep_last: 7, ..NOTHING }, at("2026-11-21 03:00")).unwrap();
    assert_eq!(kept(&decisions), [4, 24, 25, 26, 27, 28, 29, 30]);
}

#[test]
fn what_was_given_up_is_not_decided_again_and_takes_no_place() {
    let mut list = taken(&["2026-11-19 01:00", "2026-11-20 01:00", "2026-11-21 01:00"]);
    list[1].deleted_at = Some(at("2026-11-21 02:00"));
    let decisions = decide(&list, &Retention { keep_daily: 2, ..NOTHING }, at("2026-11-21 03:00")).unwrap();
    assert_eq!((decisions.len(), kept(&decisions)), (2, vec![1, 3]));
}

#[test]
fn a_policy_that_keeps_nothing_is_refused() {
    let list = taken(&["2026-11-21 01:00"]);
    let error = decide(&list, &NOTHING, at("2026-11-21 03:00")).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("every count is 0") && error.to_string().contains("[retention]"), "{error}");
}

#[test]
fn r44_a_clock_that_went_back_or_a_backup_of_the_future_stops_retention() {
    let policy = Retention { keep_daily: 7, ..NOTHING };
    let list = taken(&["2026-11-20 01:00", "2027-11-20 01:00", "2026-11-21 01:00"]);
    let error = decide(&list, &policy, at("2026-11-21 02:00")).unwrap_err();
    let id = &list[1].facts.id;
    assert_eq!((error.kind(), error.message()), (Kind::Refused, &*format!("the backup {id} lies in the future")));
    assert_eq!(error.detail("taken"), Some("2027-11-20 01:00:00 UTC"));
    assert_eq!(error.detail("now"), Some("2026-11-21 02:00:00 UTC"));
    assert!(error.to_string().contains(&format!("`teslamate-backup delete {id}`")), "{error}");

    let list = taken(&["2027-11-19 01:00", "2027-11-20 01:00", "2026-11-21 01:00"]);
    let error = decide(&list, &policy, at("2026-11-21 02:00")).unwrap_err();
    let ahead = error.detail("in the future").unwrap();
    assert!(list[..2].iter().all(|one| ahead.contains(one.facts.id.short())), "{error}");
    let list = taken(&["2026-11-20 01:00", "2027-11-20 01:00", "2026-11-21 01:00"]);

    let error = decide(&list[..2], &policy, at("2026-11-21 02:00")).unwrap_err();
    assert_eq!(error.message(), format!("the clock is behind the newest backup {id}"));
    // Five minutes are no matter, one second more is.
    let newest = snapshot(1, at("2026-11-21 02:05"));
    assert!(decide(std::slice::from_ref(&newest), &policy, at("2026-11-21 02:00")).is_ok());
    let late = snapshot(1, at("2026-11-21 02:05") + TimeDelta::seconds(1));
    assert!(decide(std::slice::from_ref(&late), &policy, at("2026-11-21 02:00")).is_err());
}

#[test]
fn r44_one_backup_with_a_wrong_time_does_not_push_real_ones_out() {
    // The clock was a year behind for number 4.
    let list = taken(&[
        "2026-11-18 01:00",
        "2026-11-19 01:00",
        "2026-11-20 01:00",
        "2025-11-20 02:00",
        "2026-11-20 03:00",
        "2026-11-21 01:00",
    ]);
    let policy = Retention { keep_daily: 4, ..NOTHING };
    let decisions = decide(&list, &policy, at("2026-11-21 02:00")).unwrap();
    assert_eq!(kept(&decisions), [2, 4, 5, 6], "the 20th counts once, though another day came between");
    let forward = decide(&list, &policy, at("2031-01-01 00:00")).unwrap();
    assert_eq!(forward, decisions, "a clock that is years ahead drops nothing");
}

#[test]
fn k15_safety_backups_stay_for_days_and_the_last_one_anyway() {
    let mut list =
        taken(&["2026-10-01 10:00", "2026-11-20 10:00", "2026-11-20 10:05", "2026-11-20 10:10", "2026-11-20 10:20"]);
    for number in [0, 1, 2] {
        list[number].facts.purpose = Purpose::Safety;
    }
    let now = at("2027-06-01 00:00");
    let policy = Retention { keep_last: 1, keep_safety_days: 14, ..NOTHING };
    let decisions = decide(&list, &policy, now).unwrap();
    assert_eq!(kept(&decisions), [2, 3, 5]);
    assert_eq!(reasons(&decisions[1]), ["before a change"]);
    // With no days, only the last one is kept to undo a change.
    assert_eq!(kept(&decide(&list, &Retention { keep_safety_days: 0, ..policy }, now).unwrap()), [3, 5]);
    assert_eq!(kept(&decide(&list, &Retention { keep_safety_days: 365, ..policy }, now).unwrap()), [1, 2, 3, 5]);
}

#[test]
fn k15_safety_backups_stand_for_no_period_and_push_nothing_out() {
    let mut list = taken(&["2026-11-20 10:00", "2026-11-20 10:10", "2026-11-20 10:20", "2026-11-20 10:30"]);
    for snapshot in &mut list[1..] {
        snapshot.facts.purpose = Purpose::Safety;
    }
    let policy = Retention { keep_last: 1, keep_yearly: 3, ..NOTHING };
    let decisions = decide(&list, &policy, at("2026-11-20 11:00")).unwrap();
    assert_eq!(kept(&decisions), [1, 4]);
    assert_eq!(reasons(&decisions[0]), ["the newest one", "last 1", "yearly 2026"]);
}

prop_compose! {
    fn policy()(counts in proptest::array::uniform6(0_u32..5), last in 1_u32..4) -> Retention {
        let [_, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly] = counts;
        Retention { keep_last: if counts[0] > 2 { 0 } else { last }, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly, ..NOTHING }
    }
}

/// Minutes after the start of 2020, not in order: clocks go wrong. Then: pinned, before a migration, verified.
fn list() -> impl Strategy<Value = Vec<Snapshot>> {
    let one = (0_i64..2_000_000, 0_u8..12, 0_u8..12, 0_u8..4);
    proptest::collection::vec(one, 1..40).prop_map(|many| {
        let start = at("2020-01-01 00:00");
        (1..)
            .zip(many)
            .map(|(sequence, (minutes, pinned, migration, verified))| {
                let mut one = snapshot(sequence, start + TimeDelta::minutes(minutes));
                one.pinned = pinned == 0;
                if migration == 0 {
                    one.facts.purpose = Purpose::BeforeMigration;
                }
                one.verified_at = (verified == 0).then_some(start);
                one
            })
            .collect()
    })
}

/// After every backup of [`list`].
fn later() -> DateTime<Utc> {
    at("2024-01-01 00:00")
}

fn bigger(policy: &Retention, which: usize) -> Retention {
    let mut more = *policy;
    let counts = [
        &mut more.keep_last,
        &mut more.keep_hourly,
        &mut more.keep_daily,
        &mut more.keep_weekly,
        &mut more.keep_monthly,
        &mut more.keep_yearly,
    ];
    if let Some(count) = counts.into_iter().nth(which) {
        *count += 1;
    }
    more
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_bigger_count_never_keeps_less(list in list(), policy in policy(), which in 0_usize..6) {
        prop_assume!(refuse_empty(&policy).is_ok());
        let less = kept(&decide(&list, &policy, later()).unwrap());
        let more = kept(&decide(&list, &bigger(&policy, which), later()).unwrap());
        prop_assert!(less.iter().all(|sequence| more.contains(sequence)), "{less:?} {more:?}");
    }

    #[test]
    fn what_stays_stays_when_it_is_decided_again(list in list(), policy in policy()) {
        prop_assume!(refuse_empty(&policy).is_ok());
        let first = decide(&list, &policy, later()).unwrap();
        let left: Vec<Snapshot> =
            first.iter().filter(|decision| decision.keeps()).map(|decision| decision.snapshot.clone()).collect();
        let second = decide(&left, &policy, later()).unwrap();
        prop_assert_eq!(kept(&first), kept(&second));
        let (first, second): (Vec<_>, Vec<_>) = (first.iter().filter(|d| d.keeps()).map(reasons).collect(), second.iter().map(reasons).collect());
        prop_assert_eq!(first, second, "with the same reasons");
    }

    #[test]
    fn what_must_stay_stays_under_every_policy(list in list(), policy in policy()) {
        prop_assume!(refuse_empty(&policy).is_ok());
        let decisions = decide(&list, &policy, later()).unwrap();
        prop_assert_eq!(decisions.len(), list.len());
        prop_assert!(decisions.last().unwrap().keeps(), "the newest");
        let verified = decisions.iter().rev().find(|decision| decision.snapshot.verified_at.is_some());
        prop_assert!(verified.is_none_or(Decision::keeps), "the newest verified");
        for decision in &decisions {
            let must = decision.snapshot.pinned || decision.snapshot.facts.purpose == Purpose::BeforeMigration;
            prop_assert!(!must || decision.keeps());
        }
    }

    #[test]
    fn no_rule_keeps_more_than_its_count_and_the_last_ones_are_the_newest(list in list(), policy in policy()) {
        prop_assume!(refuse_empty(&policy).is_ok());
        let decisions = decide(&list, &policy, later()).unwrap();
        let count = |wanted: &dyn Fn(&Reason) -> bool| {
            decisions.iter().flat_map(|decision| &decision.reasons).filter(|reason| wanted(reason)).count()
        };
        for (period, allowed) in [
            (Period::Hour, policy.keep_hourly), (Period::Day, policy.keep_daily), (Period::Week, policy.keep_weekly),
            (Period::Month, policy.keep_monthly), (Period::Year, policy.keep_yearly),
        ] {
            let names: BTreeSet<String> = list.iter().map(|one| period.name(one.facts.time)).collect();
            let kept = count(&|reason| matches!(reason, Reason::NewestOf { period: of, .. } if *of == period));
            prop_assert_eq!(kept, names.len().min(allowed as usize), "{:?}", period);
        }
        let last = count(&|reason| matches!(reason, Reason::Last(_)));
        prop_assert_eq!(last, list.len().min(policy.keep_last as usize));
    }
}
