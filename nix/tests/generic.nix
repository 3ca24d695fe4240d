# The units for other distributions (docs/systemd), from the same module: programs in /usr/local/bin, PostgreSQL and
# TeslaMate on this machine, secrets in /etc/glovebox.
{
  evaluate,
  lib,
  render,
}:
let
  inherit
    (evaluate {
      teslamate = true;
      config = {
        services = {
          teslamate = {
            enable = true;
            program = "/opt/teslamate/bin/teslamate";
            postgres.enable_server = true;
            secretsFile = "/etc/glovebox/secrets.env";
          };
          glovebox = {
            enable = true;
            repository.passwordFile = "/etc/glovebox/password";
          };
        };
      };
    })
    config
    files
    ;

  header = ''
    # Generated from the NixOS module by nix/tests/generate; docs/nixos.md says how to install it elsewhere.
  '';
  elsewhere =
    text:
    header
    +
      lib.replaceStrings [ "X-RestartIfChanged=false\n" "/nix/store/glovebox" ] [ "" "/usr/local" ]
        text;

  # Of the application's unit, what this module adds to it.
  application = config.systemd.services.teslamate;
  ours = lib.filterAttrs (
    name: _:
    lib.elem name [
      "LoadCredential"
      "NotifyAccess"
      "ReadWritePaths"
      "SetCredential"
      "TimeoutStartSec"
    ]
  ) application.serviceConfig;
  dropIn =
    "[Unit]\n"
    + render.settings { inherit (application.unitConfig) ConditionPathExists; }
    + "\n[Service]\n"
    + lib.concatStrings (
      lib.mapAttrsToList (name: value: "Environment=${builtins.toJSON "${name}=${value}"}\n") (
        lib.filterAttrs (name: _: lib.hasPrefix "GLOVEBOX_" name) application.environment
      )
    )
    # In place of what the unit itself has.
    + "ExecStartPre=\n"
    + render.settings { inherit (application.serviceConfig) ExecStartPre; }
    + render.settings ours;

  # The client programs are found by themselves where distributions keep several versions.
  withoutTools =
    text:
    lib.concatStringsSep "\n" (
      lib.filter (line: !lib.hasPrefix "tools = " line) (lib.splitString "\n" text)
    );
in
lib.mapAttrs (_: elsewhere) (
  lib.filterAttrs (name: _: lib.hasPrefix "glovebox-" name) files
  // {
    "teslamate.service.d/glovebox.conf" = dropIn;
    "config.toml" = withoutTools files."config.toml";
    "tmpfiles.conf" = files."tmpfiles.conf";
  }
)
