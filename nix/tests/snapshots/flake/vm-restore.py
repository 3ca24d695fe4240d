def sql(statement):
    return machine.succeed(f"runuser -u teslamate -- psql -d teslamate -Atc \"{statement}\"").strip()

machine.wait_for_unit("teslamate.service")
machine.wait_until_succeeds("runuser -u teslamate -- psql -d teslamate -Atc 'select id from positions limit 1' | grep 1")
machine.succeed("systemctl start --wait glovebox-backup.service")

with subtest("a restore brings lost rows back and starts the service again"):
    before = sql("select at from positions where id = 1")
    sql("delete from positions where id = 1")
    machine.succeed("teslamate-restore latest --yes")
    machine.wait_for_unit("teslamate.service")
    assert sql("select at from positions where id = 1") == before

with subtest("the way back"):
    machine.succeed("teslamate-restore --undo --yes")
    machine.wait_for_unit("teslamate.service")
    assert sql("select count(*) from positions where id = 1") == "0"

with subtest("the application does not start while a restore holds it"):
    machine.succeed("systemctl stop teslamate.service")
    machine.succeed("touch /run/glovebox/teslamate.service.hold")
    machine.succeed("systemctl start teslamate.service")
    machine.fail("systemctl is-active teslamate.service")
    machine.succeed("rm /run/glovebox/teslamate.service.hold")
    machine.succeed("systemctl start teslamate.service")
    machine.wait_for_unit("teslamate.service")
