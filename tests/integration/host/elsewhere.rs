//! A systemd distribution that is not NixOS, set up by the commands of the README, as they stand there.

use super::machine::{Machine, until};
use crate::support::host::is_left_out;

const README: &str = include_str!("../../../README.md");

/// What is typed, without the prompts.
fn commands() -> Vec<&'static str> {
    let (_, rest) = README.split_once("**Other systemd distributions.**").expect("the section");
    let (_, rest) = rest.split_once("```console\n").expect("its commands");
    let (block, _) = rest.split_once("```").unwrap();
    block.lines().map(|line| line.strip_prefix("# ").expect("a prompt")).collect()
}

#[test]
fn the_readmes_commands_set_up_another_distribution() {
    if is_left_out("the installation on other distributions") {
        return;
    }
    let machine = Machine::without_glovebox();
    machine.host.sh("cat >/etc/systemd/system/teslamate.service <<'UNIT'
[Service]
User=teslamate
Environment=DATABASE_NAME=teslamate DATABASE_USER=teslamate DATABASE_SOCKET_DIR=/run/postgresql
ExecStartPre=/bin/false
ExecStart=/opt/teslamate/bin/teslamate start
UNIT");
    let commands = commands();
    assert_eq!(commands[0], "cargo build --release");
    for command in &commands[1..] {
        machine.host.sh(&format!("cd /shared/checkout && {command}"));
    }
    let timers = machine.host.sh("systemctl list-timers --no-legend 'glovebox-*'");
    assert_eq!(timers.lines().count(), 4, "{timers}");
    for unit in ["backup", "forget", "check", "drill"] {
        machine.start(&format!("glovebox-{unit}.service"));
    }
    assert_eq!(machine.backups().len(), 2, "one of the backup, one of the check");
    // The unit's own step would fail: it is replaced.
    machine.start("teslamate.service");
    machine.host.sh("teslamate-restore latest --yes");
    until("the application runs again", || machine.show("teslamate.service", "ActiveState") == "active");
    machine.host.sh("teslamate-close-drive --list");
    assert!(!machine.host.run("systemctl is-failed 'glovebox-*'").status.success());
}
