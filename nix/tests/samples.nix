# What the samples of the docs name that is none of this project's: options of sops-nix and of NixOS, and the three options
# that stand before every sample.
{ lib, ... }:
let
  inherit (lib) mkDefault mkOption types;
in
{
  options = {
    sops.secrets = mkOption {
      type = types.attrsOf (
        types.submodule (
          { name, ... }:
          {
            options.path = mkOption {
              type = types.str;
              default = "/run/secrets/${name}";
            };
          }
        )
      );
      default = { };
    };
    programs.ssh.knownHosts = mkOption {
      type = types.attrsOf types.anything;
      default = { };
    };
  };
  config = {
    services.glovebox = {
      enable = mkDefault true;
      secretsFile = mkDefault "/run/secrets/teslamate.env";
      repository.passwordFile = mkDefault "/run/secrets/glovebox";
    };
    systemd.services.podman-teslamate.serviceConfig.ExecStart = "/nix/store/podman start";
  };
}
