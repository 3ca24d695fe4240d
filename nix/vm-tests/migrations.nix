# An upgrade of TeslaMate: a backup comes before its migrations, and one that fails leaves the database as it was.
{ self }:
let
  second = {
    "20210101000000_second" = "alter table positions add column speed integer;";
  };
  failing = second // {
    "20220101000000_failing" = "alter table positions add column broken no_such_type;";
  };
in
{
  name = "glovebox-migrations";

  nodes.machine =
    { lib, pkgs, ... }:
    let
      upgrade =
        migrations:
        lib.mkForce "${
          import ./teslamate.nix {
            inherit lib migrations pkgs;
          }
        }/bin/teslamate";
    in
    {
      imports = [ (import ./machine.nix { inherit self; }) ];
      specialisation = {
        upgraded.configuration.services.teslamate.program = upgrade second;
        failing.configuration.services.teslamate.program = upgrade failing;
      };
    };

  testScript =
    { nodes, ... }:
    let
      switch =
        name:
        "${nodes.machine.system.build.toplevel}/specialisation/${name}/bin/switch-to-configuration test";
    in
    ''
      def columns():
          statement = "select string_agg(attname, ' ' order by attnum) from pg_attribute where attrelid = 'positions'::regclass and attnum > 0"
          return machine.succeed(f"runuser -u teslamate -- psql -d teslamate -Atc \"{statement}\"").strip()

      machine.wait_for_unit("teslamate.service")
      machine.wait_until_succeeds("runuser -u teslamate -- psql -d teslamate -Atc 'select 1 from positions'")

      with subtest("a pending migration runs, after a backup"):
          machine.succeed("${switch "upgraded"}")
          machine.wait_for_unit("teslamate.service")
          assert columns() == "id at speed"
          machine.succeed("teslamate-backup --json list | grep before-migration")

      with subtest("with none pending the application starts without another backup"):
          backups = machine.succeed("teslamate-backup --json list | grep -o before-migration | wc -l")
          machine.succeed("systemctl restart teslamate.service")
          assert machine.succeed("teslamate-backup --json list | grep -o before-migration | wc -l") == backups

      with subtest("a failing migration keeps the application from starting, and says how to go back"):
          machine.execute("${switch "failing"}")
          machine.wait_until_succeeds("journalctl --unit teslamate.service | grep teslamate-restore", timeout=180)
          machine.fail("systemctl is-active teslamate.service")
          assert columns() == "id at speed"

      with subtest("the release of before runs again"):
          machine.succeed("${switch "upgraded"}")
          machine.wait_for_unit("teslamate.service")
    '';
}
