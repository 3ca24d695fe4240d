//! Runs: begun, ended, died.

use std::process::Command;

use nix::unistd::Pid;

use super::*;
use crate::ledger::tests::{fresh, id};

fn succeeded() -> Outcome {
    Outcome::of(&Ok(()))
}

fn statuses(ledger: &Ledger) -> Vec<&'static str> {
    ledger.runs(9).unwrap().into_iter().map(|run| run.status.word()).collect()
}

#[test]
fn a_run_is_listed_with_all_that_was_noted() {
    let (_dir, mut ledger) = fresh();
    let run = ledger.begin(RunKind::Backup).unwrap();
    assert_eq!(statuses(&ledger), ["running"]);
    let outcome = Outcome { bytes_read: Some(7), bytes_added: Some(u64::MAX), snapshot: Some(id('a')), ..succeeded() };
    ledger.finish(run, &outcome).unwrap();
    let listed = serde_json::to_value(&ledger.runs(9).unwrap()[0]).unwrap();
    assert_eq!(listed["id"], 1);
    assert_eq!(listed["kind"], "backup");
    assert_eq!(listed["status"], "succeeded");
    assert_eq!((&listed["bytes_read"], &listed["bytes_added"]), (&7.into(), &i64::MAX.into()));
    assert_eq!(listed["snapshot"], "a".repeat(64));
    assert!(listed["error"].is_null());
    assert_eq!(listed["pid"], std::process::id());
    for time in ["started", "finished"] {
        let time = listed[time].as_str().unwrap();
        assert!(time.len() == "2026-11-21T07:15:00.000Z".len() && time.ends_with('Z'), "{time}");
    }
}

#[test]
fn errors_and_signals_are_told_apart() {
    let (_dir, mut ledger) = fresh();
    for (kind, status) in [(Kind::Source, "failed"), (Kind::Signal(15), "stopped")] {
        let run = ledger.begin(RunKind::Check).unwrap();
        ledger.finish(run, &Outcome::of(&Err::<(), _>(Error::new(kind, "it went wrong")))).unwrap();
        let listed = &ledger.runs(1).unwrap()[0];
        assert_eq!((listed.status.word(), listed.error.as_deref()), (status, Some("it went wrong")));
    }
}

#[test]
fn a_run_ends_once() {
    let (_dir, mut ledger) = fresh();
    let run = ledger.begin(RunKind::Forget).unwrap();
    ledger.finish(run, &succeeded()).unwrap();
    let failed = Outcome { ending: Ending::Failed("late".to_owned()), ..succeeded() };
    for run in [run, RunId(99)] {
        assert_eq!(ledger.finish(run, &failed).unwrap_err().kind(), Kind::Refused);
    }
    assert_eq!(statuses(&ledger), ["succeeded"]);
}

#[test]
fn a_run_whose_process_died_is_shown_as_died_and_marked_by_the_next() {
    let (_dir, mut ledger) = fresh();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let owner = Owner::of(Pid::from_raw(child.id().cast_signed())).unwrap();
    let dead = ledger.begin_as(RunKind::Backup, &owner, None).unwrap();
    assert_eq!(statuses(&ledger), ["running"]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(statuses(&ledger), ["died"], "shown");
    let stored = |ledger: &Ledger| -> String {
        ledger.connection.query_one("SELECT status FROM runs WHERE id = 1", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(stored(&ledger), "running", "reading changes nothing");
    ledger.begin(RunKind::Backup).unwrap();
    assert_eq!(stored(&ledger), "died", "marked");
    assert_eq!(statuses(&ledger), ["running", "died"]);
    assert!(ledger.runs(9).unwrap()[1].finished.is_none());
    // Whoever finishes it lives after all.
    ledger.finish(dead, &succeeded()).unwrap();
    assert_eq!(statuses(&ledger), ["running", "succeeded"]);
}

#[test]
fn no_run_can_finish_while_runs_are_read() {
    let (dir, mut ledger) = fresh();
    let run = ledger.begin(RunKind::Backup).unwrap();
    let reader = Ledger::open(dir.path()).unwrap();
    ledger.connection.busy_timeout(std::time::Duration::from_millis(20)).unwrap();
    reader
        .read(|transaction| {
            transaction.query_one("SELECT count(*) FROM runs", [], |_| Ok(()))?;
            assert_eq!(ledger.finish(run, &succeeded()).unwrap_err().kind(), Kind::Busy);
            Ok(())
        })
        .unwrap();
    ledger.finish(run, &succeeded()).unwrap();
}

#[test]
fn runs_are_listed_the_newest_first_and_no_more_than_asked_for() {
    let (_dir, mut ledger) = fresh();
    for kind in [RunKind::Init, RunKind::Backup, RunKind::Drill] {
        ledger.begin(kind).unwrap();
    }
    let kinds: Vec<_> = ledger.runs(2).unwrap().into_iter().map(|run| run.kind).collect();
    assert_eq!(kinds, [RunKind::Drill, RunKind::Backup]);
}

#[test]
fn the_service_managers_id_is_kept_and_nothing_else_in_its_place() {
    let (_dir, mut ledger) = fresh();
    let (good, owner) = ("0123456789abcdef0123456789abcdef", Owner::current().unwrap());
    ledger.begin_as(RunKind::Backup, &owner, Some(good)).unwrap();
    assert_eq!(ledger.runs(1).unwrap()[0].invocation_id.as_deref(), Some(good));
    assert!(is_invocation(good));
    assert!(!is_invocation("") && !is_invocation(&"g".repeat(32)));
}

#[test]
fn a_very_long_error_is_cut_between_characters() {
    let text = shortened(&format!("x{}", "ä".repeat(ERROR_LIMIT)));
    assert!(text.len() < ERROR_LIMIT + 8 && text.ends_with("ä …"), "{}", text.len());
    assert_eq!(shortened("short"), "short");
}
