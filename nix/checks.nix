# What `nix flake check` runs: the package's build, formatting, the module's evaluation with nixpkgs' own `lib`, and whole
# machines.
{ pkgs, self }:
let
  inherit (pkgs) lib;
  inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) glovebox;
in
{
  inherit glovebox;

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
}
// lib.mapAttrs' (name: lib.nameValuePair "vm-${name}") glovebox.tests
