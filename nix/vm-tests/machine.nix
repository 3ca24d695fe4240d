# The machine of the VM tests: PostgreSQL, the stand-in for TeslaMate's module, Glovebox with the two options that are
# left beside it.
{ self }:
{ lib, pkgs, ... }:
let
  teslamate = import ./teslamate.nix { inherit lib pkgs; };
in
{
  imports = [
    self.nixosModules.default
    ../tests/teslamate.nix
  ];

  services.teslamate = {
    enable = true;
    program = lib.mkDefault "${teslamate}/bin/teslamate";
    postgres.enable_server = true;
    secretsFile = "/etc/secrets/teslamate.env";
  };

  # TeslaMate's module installs scripts of the same names.
  environment.systemPackages = [
    (pkgs.writeShellScriptBin "teslamate-backup" "exit 9")
    (pkgs.writeShellScriptBin "teslamate-restore" "exit 9")
  ];

  # A test's secrets are in the store; what the module is told are paths outside it. They belong to the account, so that it
  # may run the commands as well as root.
  environment.etc = {
    "secrets/teslamate.env" = {
      text = "DATABASE_PASS=unused\n";
      mode = "0400";
      user = "teslamate";
    };
    "secrets/glovebox" = {
      text = "eight thousand stars above the road\n";
      mode = "0400";
      user = "teslamate";
    };
  };

  services.glovebox = {
    enable = true;
    repository.passwordFile = "/etc/secrets/glovebox";
  };
}
