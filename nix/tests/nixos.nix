# The options of NixOS that the module sets or reads, so that it evaluates without NixOS. Written for either `lib`.
{
  config,
  lib,
  # Reaches only a module that names it.
  pkgs,
  ...
}:
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

  text = mkOption {
    type = types.str;
    default = "";
  };
  number = mkOption { type = types.int; };
  words = name: values: lib.optionalAttrs (values != [ ]) { ${name} = toString values; };

  # Every unit. As with NixOS, the options for settings of `[Unit]` end up among `unitConfig`, where one that is set there too
  # is a conflict.
  common =
    { config, options, ... }:
    {
      options = {
        description = text;
        after = list;
        wants = list;
        wantedBy = list;
        onFailure = list;
        onSuccess = list;
        startLimitBurst = number;
        startLimitIntervalSec = number;
        unitConfig = attrs unitSetting;
      };
      config.unitConfig =
        lib.optionalAttrs (config.description != "") { Description = config.description; }
        // words "After" config.after
        // words "Wants" config.wants
        // words "OnFailure" config.onFailure
        // words "OnSuccess" config.onSuccess
        // lib.optionalAttrs options.startLimitIntervalSec.isDefined {
          StartLimitIntervalSec = toString config.startLimitIntervalSec;
        }
        // lib.optionalAttrs options.startLimitBurst.isDefined {
          StartLimitBurst = toString config.startLimitBurst;
        };
    };
in
{
  # `startAt` of a service makes a timer.
  config.systemd.timers = lib.mapAttrs (_: service: {
    wantedBy = [ "timers.target" ];
    timerConfig.OnCalendar = service.startAt;
  }) (lib.filterAttrs (_: service: service.startAt != [ ]) config.systemd.services);

  options = {
    warnings = list;
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
      ensureDatabases = list;
      ensureUsers = mkOption {
        type = types.listOf types.anything;
        default = [ ];
      };
    };
    programs.ssh.package = mkOption {
      type = types.package;
      default = pkgs.openssh;
    };
    system.checks = mkOption {
      type = types.listOf types.anything;
      default = [ ];
    };
    systemd.services = attrs (
      types.submodule (
        { config, name, ... }:
        {
          imports = [ common ];
          options = {
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
            startAt = list;
            # A script of its own, which the unit begins with.
            preStart = text;
            # Likewise; nothing here looks at it.
            postStart = text;
          };
          config.serviceConfig = lib.mkIf (config.preStart != "") {
            ExecStartPre = [ "/nix/store/${name}-pre-start" ];
          };
        }
      )
    );
    systemd.timers = attrs (
      types.submodule {
        imports = [ common ];
        options.timerConfig = attrs unitSetting;
      }
    );
    systemd.tmpfiles.rules = list;
    users.users = attrs (
      types.submodule {
        options = {
          isSystemUser = off;
          isNormalUser = off;
          group = text;
          home = text;
          createHome = off;
        };
      }
    );
    users.groups = free;
  };
}
