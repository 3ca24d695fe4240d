//! The service in the states that a real systemd knows, before and after a restore; and a restore that is killed.

use std::process::Output;

use super::machine::{Machine, until};
use crate::support::host::is_left_out;

const SERVICE: &str = "teslamate.service";
const HOLD: &str = "/run/glovebox/teslamate.service.hold";

/// Lines for the unit, in place of those of the test before; of `[Unit]` the first.
fn unit(machine: &Machine, unit: &str, service: &str) {
    machine.host.sh(&format!(
        "touch /tmp/go; mkdir -p /etc/systemd/system/{SERVICE}.d
        printf '[Unit]\\n%s\\n[Service]\\n%s\\n' '{unit}' '{service}' >/etc/systemd/system/{SERVICE}.d/test.conf
        systemctl daemon-reload; systemctl stop {SERVICE}; systemctl reset-failed {SERVICE} || true; rm /tmp/go"
    ));
}

/// Command that ends when the restore has come to the service.
const UNTIL_THEN: &str = "/bin/sh -c \"while test ! -e /tmp/go; do sleep 0.1; done\"";

fn is(machine: &Machine, state: &str) -> bool {
    let now = machine.show(SERVICE, "ActiveState") + "/" + &machine.show(SERVICE, "SubState");
    println!("{state}? {now}");
    now == state
}

fn restore(machine: &Machine) -> Output {
    machine.host.run(
        "teslamate-restore latest --yes --no-safety-backup 2>/tmp/said &
        until grep -qE 'waiting until|stopping' /tmp/said || ! kill -0 $!; do sleep 0.1; done
        sleep 1; touch /tmp/go; wait $!; code=$?
        cat /tmp/said >&2; rm -f /tmp/go; exit $code",
    )
}

#[track_caller]
fn restored(machine: &Machine) -> String {
    let output = restore(machine);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words} {:#?}", machine.journal(SERVICE));
    assert!(!machine.host.run(&format!("test -e {HOLD}")).status.success());
    words
}

#[test]
fn k11_a_restore_leaves_the_service_as_systemd_would_have_had_it() {
    if is_left_out("the states of the service") {
        return;
    }
    let machine = Machine::new();
    machine.start("glovebox-backup.service");
    going_down(&machine);
    between_two_starts(&machine);
    failed_and_masked(&machine);
    left_over_processes(&machine);
    started_in_spite_of_the_hold(&machine);
    oneshot_and_alias(&machine);
}

fn going_down(machine: &Machine) {
    unit(machine, "", &format!("ExecStop={UNTIL_THEN}\nRestart=always"));
    machine.start(SERVICE);
    machine.host.sh(&format!("systemctl stop --no-block {SERVICE}"));
    until("it goes down", || machine.show(SERVICE, "ActiveState") == "deactivating");
    let words = restored(machine);
    assert!(words.contains("waiting until teslamate.service has ended"), "{words}");
    // Its end may have been a failure.
    assert!(is(machine, "inactive/dead") || is(machine, "failed/failed"), "somebody stopped it");

    machine.start(SERVICE);
    let before = machine.show(SERVICE, "MainPID");
    machine.host.sh(&format!("systemctl restart --no-block {SERVICE}"));
    until("it goes down", || machine.show(SERVICE, "ActiveState") == "deactivating");
    restored(machine);
    assert!(is(machine, "active/running"), "somebody restarted it");
    assert_ne!(machine.show(SERVICE, "MainPID"), before);

    // It ended by itself, and its unit has it started again.
    unit(machine, "", &format!("ExecStopPost={UNTIL_THEN}\nRestart=always\nRestartSec=1h"));
    machine.start(SERVICE);
    machine.host.sh(&format!("systemctl kill --kill-whom=main --signal=KILL {SERVICE}"));
    until("it goes down", || machine.show(SERVICE, "ActiveState") == "deactivating");
    restored(machine);
    assert!(is(machine, "active/running"), "its unit restarts it");
}

fn between_two_starts(machine: &Machine) {
    unit(machine, "", "Restart=always\nRestartSec=1h");
    machine.start(SERVICE);
    machine.host.sh(&format!("systemctl kill --kill-whom=main --signal=KILL {SERVICE}"));
    until("it waits for its next start", || is(machine, "activating/auto-restart"));
    restored(machine);
    assert!(is(machine, "active/running"));

    // A start that waits for another unit.
    machine.host.sh(&format!(
        "systemctl stop {SERVICE}
        printf '[Service]\\nType=oneshot\\nExecStart=/bin/sleep 3600\\n' >/run/systemd/system/gate.service"
    ));
    unit(machine, "After=gate.service", "Restart=no");
    machine.host.sh(&format!("systemctl start --no-block gate.service; systemctl start --no-block {SERVICE}"));
    until("its start waits", || {
        machine.show(SERVICE, "ActiveState") == "inactive" && !machine.show(SERVICE, "Job").is_empty()
    });
    machine.host.sh("(sleep 3; systemctl stop gate.service) >/dev/null 2>&1 &");
    restored(machine);
    assert!(is(machine, "active/running"), "somebody wants it started");
}

fn failed_and_masked(machine: &Machine) {
    unit(machine, "", "Restart=no");
    machine.start(SERVICE);
    machine.host.sh(&format!("systemctl kill --kill-whom=main --signal=KILL {SERVICE}"));
    until("it has failed", || is(machine, "failed/failed"));
    restored(machine);
    assert!(is(machine, "failed/failed"));

    machine.host.sh(&format!("systemctl reset-failed; systemctl start {SERVICE}; mv /etc/systemd/system/{SERVICE} /root/kept; systemctl mask --runtime {SERVICE}; systemctl daemon-reload"));
    let refused = restore(machine);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(10), "{words}");
    assert!(words.contains("it is masked") && words.contains("nothing was touched"), "{words}");
    assert_eq!(machine.show(SERVICE, "ActiveState"), "active");
    machine.host.sh(&format!("systemctl stop {SERVICE}"));
    restored(machine);
    machine.host.sh(&format!(
        "systemctl unmask --runtime {SERVICE}; mv /root/kept /etc/systemd/system/{SERVICE}; systemctl daemon-reload"
    ));
}

/// Also in a group of its own below that of the unit.
fn left_over_processes(machine: &Machine) {
    let stays = "ExecStartPost=/bin/sh -c \"setsid sleep 7777 & for root in /sys/fs/cgroup /sys/fs/cgroup/systemd; do \
                 mkdir -p \\$root/system.slice/teslamate.service/below && echo \\$! >\\$root/system.slice/teslamate.service/below/cgroup.procs; done; true\"";
    for mode in ["process", "none"] {
        unit(machine, "", &format!("KillMode={mode}\nPermissionsStartOnly=true\nDelegate=yes\n{stays}"));
        machine.start(SERVICE);
        assert!(machine.host.run("pgrep -f 'sleep 7777'").status.success());
        let words = restored(machine);
        assert!(words.contains("left processes behind, which were ended:") && words.contains("(sleep)"), "{words}");
        assert!(is(machine, "active/running"));
        machine.host.sh(&format!("systemctl stop {SERVICE}; systemctl kill --signal=KILL {SERVICE} || true"));
    }
}

/// Its unit has no condition, and somebody starts it again and again.
fn started_in_spite_of_the_hold(machine: &Machine) {
    unit(machine, "ConditionPathExists=", "Restart=no");
    machine.start(SERVICE);
    machine
        .host
        .sh(&format!("systemd-run -q --unit=starter bash -c 'while sleep 0.2; do systemctl start {SERVICE}; done'"));
    let output = restore(machine);
    machine.host.sh("systemctl stop starter.service");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(0 | 11)), "{words}");
    assert!(is(machine, "active/running"), "{words}");
}

fn oneshot_and_alias(machine: &Machine) {
    unit(machine, "", "Type=oneshot\nRemainAfterExit=yes\nExecStart=\nExecStart=/bin/true");
    machine.start(SERVICE);
    let before = machine.show(SERVICE, "ActiveEnterTimestampMonotonic");
    restored(machine);
    assert!(is(machine, "active/exited"));
    assert_ne!(machine.show(SERVICE, "ActiveEnterTimestampMonotonic"), before);
    machine.host.sh(&format!(
        "systemctl stop {SERVICE}; rm -r /etc/systemd/system/{SERVICE}.d/test.conf; systemctl daemon-reload"
    ));
}

#[test]
fn k2_the_next_timer_starts_what_a_killed_restore_left_stopped() {
    if is_left_out("a restore that is killed") {
        return;
    }
    let machine = Machine::new();
    machine.start("glovebox-backup.service");
    for command in
        ["systemctl start glovebox-backup.service", "systemctl start glovebox-check.service", "teslamate-backup list"]
    {
        killed_in_the_middle(&machine);
        // A unit without the step as root says what to do.
        machine.host.sh("mkdir -p /etc/systemd/system/glovebox-forget.service.d
            printf '[Service]\\nExecStartPre=\\n' >/etc/systemd/system/glovebox-forget.service.d/bare.conf
            systemctl daemon-reload");
        machine.start("glovebox-forget.service");
        let journal = machine.journal("glovebox-forget.service");
        assert!(journal.iter().any(|(_, line)| line.contains("teslamate-restore --recover")), "{journal:#?}");
        assert_eq!(machine.show(SERVICE, "ActiveState"), "inactive");
        machine.host.sh(command);
        assert_eq!(
            machine.show(SERVICE, "ActiveState"),
            "active",
            "{command} {:#?}",
            machine.journal("glovebox-backup.service")
        );
        assert!(!machine.host.run(&format!("test -e {HOLD}")).status.success(), "{command}");
        assert_eq!(machine.host.sh("ls /var/lib/glovebox | grep -c service-stopped || true"), "0");
    }
    former_unit(&machine);
    others_can_write_where_root_notes(&machine);
    // A restore that is at work keeps its hold and its note.
    unit(&machine, "", &format!("ExecStop={UNTIL_THEN}"));
    machine.start(SERVICE);
    machine.host.sh("systemd-run -q --unit=working teslamate-restore latest --yes --no-safety-backup");
    until("the service is held", || machine.host.run(&format!("test -e {HOLD}")).status.success());
    machine.host.sh("teslamate-backup list; teslamate-restore --recover || true");
    assert!(machine.host.run(&format!("test -e {HOLD}")).status.success());
    machine.host.sh("touch /tmp/go");
    until("it is done", || machine.show("working.service", "ActiveState") != "active");
    assert_eq!(machine.show(SERVICE, "ActiveState"), "active");
}

/// The settings name another unit before the next command.
fn former_unit(machine: &Machine) {
    killed_in_the_middle(machine);
    machine.host.sh("printf '[Service]\\nExecStart=/bin/sleep 3600\\n' >/run/systemd/system/other.service
        cp /etc/glovebox/config.toml /root/config.toml
        sed -i 's/teslamate\\.service/other.service/' /etc/glovebox/config.toml
        grep -q other.service /etc/glovebox/config.toml");
    let said = || machine.host.sh("teslamate-backup list 2>&1 >/dev/null");
    let words = said();
    assert!(words.contains("service.unit is other.service now: `rm /run/glovebox/teslamate.service.hold` and `systemctl start teslamate.service` if"), "{words}");
    machine.host.sh("rm /run/glovebox/teslamate.service.hold && systemctl start teslamate.service");
    assert_eq!(machine.show(SERVICE, "ActiveState"), "active");
    assert_eq!(said(), "");
    // Of another installation, or of one that is gone: its note cannot be found.
    machine.host.sh("touch /run/glovebox/elsewhere.service.hold; printf '[Service]\\nExecStart=/bin/true\\n' >/run/systemd/system/elsewhere.service");
    let words = said();
    assert!(words.contains("held elsewhere.service") && words.contains("unless another installation"), "{words}");
    machine.host.sh("rm /run/glovebox/elsewhere.service.hold; mv /root/config.toml /etc/glovebox/config.toml");
}

/// Others could take away what root notes there, or write it themselves.
fn others_can_write_where_root_notes(machine: &Machine) {
    unit(machine, "", "");
    machine.start(SERVICE);
    let main = machine.show(SERVICE, "MainPID");
    machine.host.sh("chown teslamate /run/glovebox");
    let refused = restore(machine);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(10), "{words}");
    assert!(
        words.contains("teslamate.service is not to be stopped") && words.contains("nothing was touched"),
        "{words}"
    );
    assert!(!words.contains("loading into"), "{words}");
    assert_eq!(machine.show(SERVICE, "MainPID"), main);
    let recovered = machine.host.run("teslamate-restore --recover");
    let words = String::from_utf8_lossy(&recovered.stderr).into_owned();
    assert_eq!(recovered.status.code(), Some(10), "{words}");
    let told = machine.host.sh("teslamate-backup list 2>&1 >/dev/null");
    assert!(told.contains("cannot tell whether a run that was killed left teslamate.service stopped"), "{told}");
    let command = words.split('`').find(|words| words.starts_with("rm ")).expect("a command");
    machine.host.sh(command);
    assert_eq!(machine.host.sh("teslamate-backup list 2>&1 >/dev/null"), "");
}

/// While the service is stopped.
fn killed_in_the_middle(machine: &Machine) {
    unit(machine, "", &format!("ExecStop={UNTIL_THEN}"));
    machine.host.sh(&format!(
        "systemctl start {SERVICE}; systemd-run -q --unit=killed teslamate-restore latest --yes --no-safety-backup"
    ));
    until("the service is stopped", || machine.show(SERVICE, "ActiveState") == "deactivating");
    machine.host.sh("systemctl kill --signal=KILL killed.service; touch /tmp/go");
    until("the service has ended", || machine.show(SERVICE, "ActiveState") == "inactive");
    machine.host.sh("systemctl reset-failed");
    machine.host.sh(&format!("systemctl start {SERVICE}"));
    assert_eq!(machine.show(SERVICE, "ActiveState"), "inactive", "what it would find is half exchanged");
    // The note lies where its account can neither read nor remove it.
    let note = machine.host.sh("ls /run/glovebox/teslamate.service.*.stopped");
    assert_eq!(machine.host.sh(&format!("stat -c '%U %a' {note}")), "root 600");
    assert_eq!(machine.host.sh("find /var/lib/glovebox -user root"), "");
}
