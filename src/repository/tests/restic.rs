//! restic itself reads what was written.

use std::process::Command;

use crate::progress::Meter;
use crate::repository::copy::copy;
use crate::repository::mend::Looked;
use crate::repository::prune::prune;
use crate::repository::testing::{Fixture, bytes, noise, reused};
use crate::repository::{open, snapshots};

#[test]
#[expect(clippy::print_stderr, reason = "a test that did not run has to say so")]
fn restic_checks_and_dumps_our_repository() {
    let fixture = Fixture::new();
    if Command::new("restic").arg("version").output().is_err() {
        eprintln!("SKIPPED restic_checks_and_dumps_our_repository: no restic in PATH (apt-get install restic)");
        return;
    }
    let content = noise(1, 3_000_000);
    let first = fixture.backup(vec![bytes("data/public.a \"b\"/0", &*content), bytes("manifest.json", "{1}")], None);
    let reused = reused("data/public.a \"b\"/0", 3_000_000);
    let second = fixture.backup(vec![reused, bytes("manifest.json", "{2}")], Some(first)).to_string();
    let restic = |arguments: &[&str]| {
        let run = Command::new("restic")
            .args(["--no-cache", "--repo", &fixture.settings.location, "--password-file"])
            .arg(&fixture.settings.password_file)
            .args(arguments)
            .output()
            .unwrap();
        assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
        run.stdout
    };
    let checked = String::from_utf8(restic(&["check", "--read-data"])).unwrap();
    assert!(checked.contains("no errors were found"), "{checked}");
    assert_eq!(restic(&["dump", &second, "/manifest.json"]), b"{2}");
    assert!(restic(&["dump", &second, "/data/public.a \"b\"/0"]) == content, "other bytes");
    let list = String::from_utf8(restic(&["snapshots", "--json", "--tag", "glovebox"])).unwrap();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert!(!list.to_string().contains("pending"), "{list}");
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that did not run has to say so")]
fn restic_reads_what_was_pruned_and_what_was_copied() {
    let fixture = Fixture::new();
    if Command::new("restic").arg("version").output().is_err() {
        eprintln!(
            "SKIPPED restic_reads_what_was_pruned_and_what_was_copied: no restic in PATH (apt-get install restic)"
        );
        return;
    }
    let old = fixture.backup(vec![bytes("a", noise(1, 900_000)), bytes("b", noise(2, 900_000))], None);
    let kept = fixture.backup(vec![reused("b", 900_000), bytes("m", "1")], Some(old));
    let handle = fixture.open();
    snapshots::delete(&handle, old).unwrap();
    let pruned = prune(&handle, &[kept].into(), chrono::Utc::now(), &Meter::default()).unwrap();
    assert!(!pruned.repacked.ids.is_empty());
    let second = fixture.second();
    let copied = copy(&handle, &open(&second).unwrap(), &[kept], &Looked::default(), &Meter::default()).unwrap().copied
        [0]
    .target;
    for (settings, id) in [(&fixture.settings, kept), (&second, copied)] {
        let restic = |arguments: &[&str]| {
            let run = Command::new("restic")
                .args(["--no-cache", "--repo", &settings.location, "--password-file"])
                .arg(&settings.password_file)
                .args(arguments)
                .output()
                .unwrap();
            assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
            run.stdout
        };
        let checked = String::from_utf8(restic(&["check", "--read-data"])).unwrap();
        assert!(checked.contains("no errors were found"), "{checked}");
        assert!(restic(&["dump", &id.to_string(), "/b"]) == noise(2, 900_000), "other bytes");
    }
    let list: serde_json::Value = {
        let run = Command::new("restic")
            .args(["--no-cache", "--repo", &second.location, "snapshots", "--json", "--password-file"])
            .arg(&second.password_file)
            .output()
            .unwrap();
        serde_json::from_slice(&run.stdout).unwrap()
    };
    assert_eq!(list[0]["original"], kept.to_string(), "as restic's own `copy` says it");
}
