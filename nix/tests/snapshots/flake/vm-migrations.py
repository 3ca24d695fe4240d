def columns():
    statement = "select string_agg(attname, ' ' order by attnum) from pg_attribute where attrelid = 'positions'::regclass and attnum > 0"
    return machine.succeed(f"runuser -u teslamate -- psql -d teslamate -Atc \"{statement}\"").strip()

machine.wait_for_unit("teslamate.service")
machine.wait_until_succeeds("runuser -u teslamate -- psql -d teslamate -Atc 'select 1 from positions'")

with subtest("a pending migration runs, after a backup"):
    machine.succeed("/run/current-system/specialisation/upgraded/bin/switch-to-configuration test")
    machine.wait_for_unit("teslamate.service")
    assert columns() == "id at speed"
    machine.succeed("teslamate-backup --json list | grep before-migration")

with subtest("with none pending the application starts without another backup"):
    backups = machine.succeed("teslamate-backup --json list | grep -o before-migration | wc -l")
    machine.succeed("systemctl restart teslamate.service")
    assert machine.succeed("teslamate-backup --json list | grep -o before-migration | wc -l") == backups

with subtest("a failing migration keeps the application from starting, and says how to go back"):
    machine.execute("/run/current-system/specialisation/failing/bin/switch-to-configuration test")
    machine.wait_until_succeeds("journalctl --unit teslamate.service | grep teslamate-restore", timeout=180)
    machine.fail("systemctl is-active teslamate.service")
    assert columns() == "id at speed"

with subtest("the release of before runs again"):
    machine.succeed("/run/current-system/specialisation/upgraded/bin/switch-to-configuration test")
    machine.wait_for_unit("teslamate.service")
