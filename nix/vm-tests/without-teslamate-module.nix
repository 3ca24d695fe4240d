# TeslaMate runs some other way: the module makes the account and backs up a database over TCP, with a password.
{ self }:
{
  name = "glovebox-without-teslamate-module";

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ self.nixosModules.default ];

      services.postgresql = {
        enable = true;
        package = pkgs.postgresql_17;
        enableTCPIP = true;
        ensureDatabases = [ "teslamate" ];
        ensureUsers = [
          {
            name = "teslamate";
            ensureDBOwnership = true;
            ensureClauses.superuser = true;
          }
        ];
      };

      environment.etc = {
        "secrets/teslamate.env" = {
          text = "DATABASE_PASS='eight $thousand stars'\n";
          mode = "0400";
        };
        "secrets/glovebox" = {
          text = "eight thousand stars above the road\n";
          mode = "0400";
        };
      };

      services.glovebox = {
        enable = true;
        database.host = "127.0.0.1";
        secretsFile = "/etc/secrets/teslamate.env";
        repository = {
          location = "/srv/backup";
          passwordFile = "/etc/secrets/glovebox";
        };
      };
    };

  testScript = ''
    machine.wait_for_unit("postgresql.target")
    machine.succeed("runuser -u postgres -- psql -c \"alter role teslamate password 'eight \\$thousand stars'\"")
    machine.succeed("runuser -u postgres -- psql -d teslamate -c 'create table drives (id serial primary key)'")

    with subtest("a backup with the password of the secrets file"):
        machine.succeed("systemctl start --wait glovebox-backup.service")

    with subtest("it can be restored"):
        machine.succeed("systemctl start --wait glovebox-drill.service")
  '';
}
