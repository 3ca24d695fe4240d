# A fresh machine takes backups by itself, and its other units work in their sandboxes.
{ self }:
{
  name = "glovebox-backup-by-timer";

  nodes.machine = {
    imports = [ (import ./machine.nix { inherit self; }) ];
    # A disk that is there; whoever adds one makes its directory once.
    systemd.tmpfiles.rules = [ "d /srv/copy 0700 teslamate - -" ];
    services.glovebox.copies = [
      {
        location = "/srv/copy";
        passwordFile = "/etc/secrets/glovebox";
      }
    ];
    # Brought near; what is missing here stays as it is.
    services.glovebox.timers.backup.timerConfig = {
      OnCalendar = "*:*:0/20";
      RandomizedDelaySec = 0;
      AccuracySec = "1s";
    };
  };

  testScript = ''
    machine.wait_for_unit("teslamate.service")

    with subtest("the timer takes a backup"):
        machine.wait_until_succeeds("teslamate-backup --json list | grep '\"id\"'", timeout=180)

    with subtest("root and the database's user need no argument"):
        machine.succeed("teslamate-backup list")
        machine.succeed("runuser -u teslamate -- teslamate-backup list")

    machine.succeed("systemctl stop glovebox-backup.timer")
    for unit in ["backup", "forget", "check", "drill"]:
        with subtest(f"glovebox-{unit} works in its sandbox, which is rated at 2.0 or better"):
            machine.wait_until_succeeds("systemctl show --property=ActiveState --value glovebox-backup.service | grep -x inactive")
            machine.succeed(f"systemctl start --wait glovebox-{unit}.service")
            machine.succeed(f"systemd-analyze security --threshold=20 glovebox-{unit}.service")

    with subtest("the programs in PATH are ours, not the scripts of TeslaMate's module"):
        machine.succeed("teslamate-backup --version | grep '^teslamate-backup'")

    with subtest("a backup that succeeded brings the copy up to date"):
        machine.succeed("systemctl start --wait glovebox-backup.service")
        machine.wait_until_succeeds("ls /srv/copy/snapshots/* && systemctl show --property=Result --value glovebox-copy.service | grep -x success", timeout=60)

    with subtest("nobody else reads a secret or a backup"):
        machine.fail("runuser -u nobody -- ls /var/backup/glovebox /var/lib/glovebox")
  '';
}
