# What `nix flake check` runs: formatting, the module's evaluation with nixpkgs' own `lib`, and whole machines.
{ pkgs, self }:
let
  vmTest = file: pkgs.testers.runNixOSTest (import file { inherit self; });
in
{
  formatting = pkgs.runCommand "glovebox-formatting" { nativeBuildInputs = [ pkgs.nixfmt ]; } ''
    cd ${self}
    find flake.nix nix -name '*.nix' -exec nixfmt --check {} +
    touch $out
  '';

  # The same script as without flakes, with the real `lib`.
  module-evaluation =
    pkgs.runCommand "glovebox-module-evaluation"
      {
        nativeBuildInputs = [
          pkgs.nix
          pkgs.systemd
          pkgs.diffutils
          pkgs.python3
          # For systemd-analyze, which wants a /run/systemd: a build has none.
          pkgs.bubblewrap
        ];
      }
      ''
        export HOME=$TMPDIR NIXPKGS_LIB=${pkgs.path + "/lib"} TEST_REQUIRE_ALL=1
        # Where nixpkgs keeps the units that every unit depends on.
        export SYSTEMD_UNIT_PATH=${pkgs.systemd}/example/systemd/system:
        bash ${self}/nix/tests/run
        touch $out
      '';

  vm-backup-by-timer = vmTest ./vm-tests/backup-by-timer.nix;
  vm-restore = vmTest ./vm-tests/restore.nix;
  vm-migrations = vmTest ./vm-tests/migrations.nix;
  vm-without-teslamate-module = vmTest ./vm-tests/without-teslamate-module.nix;
}
