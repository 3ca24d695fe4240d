# The options of NixOS that the module sets or reads, so that it evaluates without NixOS. Written for either `lib`.
{ lib, ... }:
let
  inherit (lib) mkOption types;

  list = mkOption {
    type = types.listOf types.str;
    default = [ ];
  };
  attrs =
    type:
    mkOption {
      type = types.attrsOf type;
      default = { };
    };
  free = mkOption {
    type = types.attrsOf types.anything;
    default = { };
  };
  off = mkOption {
    type = types.bool;
    default = false;
  };

  # A setting of a unit may be given several times: then all of them count.
  unitSetting = lib.mkOptionType {
    name = "systemd option";
    description = "systemd option";
    merge =
      loc: definitions:
      if lib.any (definition: builtins.isList definition.value) definitions then
        lib.concatMap (definition: lib.toList definition.value) definitions
      else
        lib.mergeEqualOption loc definitions;
  };

  common = {
    description = mkOption {
      type = types.str;
      default = "";
    };
    after = list;
    wants = list;
    wantedBy = list;
    onFailure = list;
    unitConfig = attrs unitSetting;
  };
in
{
  options = {
    assertions = mkOption {
      type = types.listOf types.unspecified;
      default = [ ];
    };
    environment.etc = free;
    environment.systemPackages = mkOption {
      type = types.listOf types.anything;
      default = [ ];
    };
    services.postgresql = {
      enable = off;
      package = mkOption { type = types.package; };
      settings = free;
    };
    system.checks = mkOption {
      type = types.listOf types.anything;
      default = [ ];
    };
    systemd.services = attrs (
      types.submodule {
        options = common // {
          environment = attrs types.str;
          path = mkOption {
            type = types.listOf types.anything;
            default = [ ];
          };
          restartIfChanged = mkOption {
            type = types.bool;
            default = true;
          };
          serviceConfig = attrs unitSetting;
        };
      }
    );
    systemd.timers = attrs (
      types.submodule {
        options = common // {
          timerConfig = attrs unitSetting;
        };
      }
    );
    systemd.tmpfiles.rules = list;
    users.users = attrs (
      types.submodule {
        options = {
          isSystemUser = off;
          isNormalUser = off;
          group = mkOption {
            type = types.str;
            default = "";
          };
        };
      }
    );
    users.groups = free;
  };
}
