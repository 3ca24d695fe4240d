machine.wait_for_unit("postgresql.target")
machine.succeed("runuser -u postgres -- psql -c \"alter role teslamate password 'eight \\$thousand stars'\"")
machine.succeed("runuser -u postgres -- psql -d teslamate -c 'create table drives (id serial primary key)'")

with subtest("a backup with the password of the secrets file"):
    machine.succeed("systemctl start --wait glovebox-backup.service")

with subtest("it can be restored"):
    machine.succeed("systemctl start --wait glovebox-drill.service")
