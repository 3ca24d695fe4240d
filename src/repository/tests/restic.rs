//! restic itself reads what was written.

use std::process::Command;

use crate::repository::testing::{Fixture, bytes, noise, reused};

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
