//! Snapshots: which is the latest, which is meant, what stays.

use chrono::TimeDelta;
use tempfile::TempDir;

use super::*;
use crate::ledger::tests::{fresh, id, message};

fn noon() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

fn facts(id: HexId) -> Facts {
    Facts {
        id,
        time: noon(),
        size: 1_000,
        added: 10,
        rows: 5,
        duration_ms: 1_500,
        manifest_sha256: HexId::parse(&"0f".repeat(32)).unwrap(),
        purpose: Purpose::Regular,
        schema_version: Some(20_250_407_155_134),
        comment: None,
        database: Some("teslamate".to_owned()),
        host: None,
        cluster: None,
    }
}

/// A ledger whose repository is known, with a snapshot for each of these ids' first digits.
fn with(starts: &[&str]) -> (TempDir, Ledger, Vec<HexId>) {
    let (dir, mut ledger) = fresh();
    ledger.bind_repository(&id('e')).unwrap();
    let ids: Vec<HexId> = starts.iter().map(|start| HexId::parse(&format!("{start:0<64}")).unwrap()).collect();
    for id in &ids {
        ledger.publish(&facts(id.clone())).unwrap();
    }
    (dir, ledger, ids)
}

fn latest(ledger: &Ledger) -> Option<HexId> {
    ledger.latest().unwrap().map(|snapshot| snapshot.facts.id)
}

#[test]
fn what_was_published_is_listed() {
    let (dir, ledger, _) = with(&["aa"]);
    let listed = serde_json::to_value(Ledger::open(dir.path()).unwrap().list().unwrap()).unwrap();
    let expected = serde_json::json!([{
        "sequence": 1, "id": format!("{:0<64}", "aa"), "time": "2023-11-14T22:13:20.000Z", "size": 1_000, "added": 10,
        "rows": 5, "duration_ms": 1_500, "manifest_sha256": "0f".repeat(32), "purpose": "regular",
        "schema_version": 20_250_407_155_134_i64, "comment": null, "database": "teslamate", "host": null, "cluster": null, "pinned": false, "verified_at": null,
        "deleted_at": null,
    }]);
    assert_eq!(listed, expected);
    assert_eq!(ledger.latest().unwrap().unwrap(), ledger.list().unwrap()[0]);
}

#[test]
fn nothing_is_published_without_a_repository_and_nothing_twice() {
    let (_dir, mut ledger) = fresh();
    message(ledger.publish(&facts(id('a'))), Kind::Refused);
    ledger.bind_repository(&id('e')).unwrap();
    ledger.publish(&facts(id('a'))).unwrap();
    assert!(message(ledger.publish(&facts(id('a'))), Kind::Refused).contains("already"));
    assert_eq!(ledger.list_all().unwrap().len(), 1);
}

#[test]
fn the_latest_is_the_one_published_last_even_if_the_clock_was_set_back() {
    let (_dir, mut ledger, _) = with(&[]);
    assert_eq!(latest(&ledger), None);
    let future = Facts { time: noon() + TimeDelta::days(9_000), ..facts(id('a')) };
    ledger.publish(&future).unwrap();
    let now = ledger.publish(&facts(id('b'))).unwrap();
    assert_eq!(now.sequence, 2);
    assert_eq!(latest(&ledger), Some(id('b')));
    let order: Vec<HexId> = ledger.list().unwrap().into_iter().map(|snapshot| snapshot.facts.id).collect();
    assert_eq!(order, [id('a'), id('b')]);
}

#[test]
fn the_latest_is_never_one_that_was_given_up_and_no_number_is_given_twice() {
    let (_dir, mut ledger, ids) = with(&["a", "b", "c"]);
    ledger.mark_deleted(&ids[2..], noon()).unwrap();
    assert_eq!(latest(&ledger).as_ref(), Some(&ids[1]));
    assert_eq!((ledger.list().unwrap().len(), ledger.list_all().unwrap().len()), (2, 3));
    // Not even if a row itself is gone.
    ledger.connection.execute("DELETE FROM snapshots WHERE sequence = 3", []).unwrap();
    assert_eq!(ledger.publish(&facts(id('d'))).unwrap().sequence, 4);
}

#[test]
fn a_prefix_names_the_one_snapshot_that_begins_with_it() {
    let (_dir, ledger, ids) = with(&["abcd1", "abcd2", "abcef"]);
    for (prefix, expected) in [("abcd1", 0), ("ABCD2", 1), ("abce", 2), (ids[0].as_str(), 0)] {
        assert_eq!(ledger.by_prefix(prefix).unwrap().facts.id, ids[expected], "{prefix}");
    }
}

#[test]
fn a_prefix_that_means_none_or_several_is_refused_and_says_which() {
    let (_dir, mut ledger, ids) = with(&["abcd1", "abcd2", "ffff"]);
    let text = message(ledger.by_prefix("abcd"), Kind::Refused);
    assert!(text.contains("2 snapshots") && ids[..2].iter().all(|id| text.contains(id.as_str())), "{text}");
    assert!(!text.contains(ids[2].as_str()), "{text}");
    assert!(message(ledger.by_prefix("abcf"), Kind::Refused).contains("there is no backup abcf"));
    ledger.mark_deleted(&ids[..1], noon()).unwrap();
    assert_eq!(ledger.by_prefix("abcd").unwrap().facts.id, ids[1], "the other one was given up");
    let text = message(ledger.by_prefix("abcd1"), Kind::Refused);
    assert!(text.contains("was deleted on 2023-11-14 at 22:13:20 UTC"), "{text}");
}

#[test]
fn what_cannot_begin_an_id_is_wrong_usage() {
    let (_dir, ledger, _) = with(&["abcd"]);
    for wrong in ["", "abc", "abcg", "ab%d", "abc'", "äbcd", &"a".repeat(65)] {
        message(ledger.by_prefix(wrong), Kind::Usage);
    }
}

#[test]
fn a_pinned_snapshot_is_not_given_up_nor_any_other_with_it() {
    let (_dir, mut ledger, ids) = with(&["a", "b"]);
    ledger.pin(&ids[1]).unwrap();
    assert!(ledger.list().unwrap()[1].pinned);
    assert!(message(ledger.mark_deleted(&ids, noon()), Kind::Refused).contains("is pinned"));
    assert_eq!(ledger.list().unwrap().len(), 2, "all or none");
    ledger.unpin(&ids[1]).unwrap();
    ledger.mark_deleted(&ids, noon()).unwrap();
    assert_eq!(ledger.list().unwrap().len(), 0);
}

#[test]
fn giving_up_again_keeps_the_first_time() {
    let (_dir, mut ledger, ids) = with(&["a"]);
    ledger.mark_deleted(&ids, noon()).unwrap();
    ledger.mark_deleted(&ids, noon() + TimeDelta::days(1)).unwrap();
    assert_eq!(ledger.list_all().unwrap()[0].deleted_at, Some(noon()));
}

#[test]
fn a_snapshot_that_is_not_there_cannot_be_marked() {
    let (_dir, mut ledger, ids) = with(&["a"]);
    let none = id('b');
    ledger.mark_verified(&ids[0], noon()).unwrap();
    assert_eq!(ledger.list().unwrap()[0].verified_at, Some(noon()));
    message(ledger.mark_deleted(&[ids[0].clone(), none.clone()], noon()), Kind::Refused);
    assert_eq!(ledger.list().unwrap().len(), 1, "all or none");
    ledger.mark_deleted(&ids, noon()).unwrap();
    for id in [&ids[0], &none] {
        message(ledger.pin(id), Kind::Refused);
        message(ledger.unpin(id), Kind::Refused);
        message(ledger.mark_verified(id, noon()), Kind::Refused);
    }
}

#[test]
fn a_lost_ledger_is_filled_in_the_order_given_and_only_while_it_is_empty() {
    let (_dir, mut ledger) = fresh();
    let found = [id('c'), id('a'), id('c')].map(facts);
    message(ledger.adopt(&id('e'), &found), Kind::Refused);
    assert_eq!(ledger.repository_id().unwrap(), None, "all or none");
    ledger.adopt(&id('e'), &found[..2]).unwrap();
    assert_eq!(latest(&ledger), Some(id('a')));
    assert_eq!(ledger.repository_id().unwrap(), Some(id('e')));
    assert!(message(ledger.adopt(&id('e'), &found[2..]), Kind::Refused).contains("knows 2 snapshots"));
}
