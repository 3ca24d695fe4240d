//! A power cut, again and again, in the middle of a backup, a restore and a migration; and what the next boot finds.

use std::time::Duration;

use super::machine::{Machine, until};
use crate::support::host::is_left_out;
use crate::support::probe::Random;

/// Cuts of each kind.
const CUTS: u64 = 10;

#[test]
fn r67_a_power_cut_loses_nothing_that_was_promised() {
    if is_left_out("power cuts") {
        return;
    }
    let mut random = Random::new("power cuts");
    let machine = Machine::new();
    machine.host.sh("systemctl enable -q teslamate.service");
    machine.start("glovebox-backup.service");
    let rows = "SELECT count(*) FROM drives";
    let drives = machine.query(rows);
    for round in 0..CUTS {
        let listed = machine.backups();
        cut(&machine, "systemctl start --no-block glovebox-backup.service", random.next() % 900);
        let now = machine.backups();
        assert!(now.starts_with(&listed), "{listed:?} {now:?}");
        machine.start("glovebox-backup.service");

        cut(&machine, "systemd-run -q --unit=restoring teslamate-restore latest --yes", random.next() % 4000);
        assert_eq!(machine.query(rows), drives, "round {round}");

        machine.host.sh("systemctl stop teslamate");
        let number = i64::try_from(round).unwrap();
        machine.release_gains(number, "add", &format!("CREATE TABLE later_{round} (id int); SELECT pg_sleep(0.5);"));
        cut(&machine, "systemctl start --no-block teslamate.service", random.next() % 2500);
        until("the application runs", || machine.show("teslamate.service", "ActiveState") == "active");
        assert_eq!(machine.query(&format!("SELECT to_regclass('later_{round}') IS NOT NULL")), "t");
        assert_eq!(machine.query(rows), drives, "round {round}");
    }
    machine.start("glovebox-backup.service");
    let checked = machine.host.sh("teslamate-backup check --read-data 2>/dev/null");
    assert!(checked.contains("are whole"), "{checked}");
    machine.start("glovebox-drill.service");
    let staging =
        machine.query_in("postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE 'teslamate_restore%'");
    assert_eq!(staging, "0");
}

/// Begins something, cuts the power after so many milliseconds, and boots again until the application runs.
#[track_caller]
fn cut(machine: &Machine, begin: &str, milliseconds: u64) {
    machine.host.sh(begin);
    std::thread::sleep(Duration::from_millis(milliseconds));
    machine.host.cut_power();
    machine.host.boot();
    // Whoever finds it stopped by a run that is gone starts it, if nothing did at boot.
    until("the application runs", || machine.show("teslamate.service", "ActiveState") == "active");
}
