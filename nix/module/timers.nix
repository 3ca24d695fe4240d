# The options of the timers: when each unit runs by itself.
{ lib, ... }:
let
  inherit (lib) mkOption types;

  timer = what: default: {
    enable = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Whether ${what} by itself. Its unit is there in any case, for `systemctl start`.";
    };
    timerConfig = mkOption {
      type = types.attrsOf (
        types.nullOr (
          types.oneOf [
            types.bool
            types.int
            types.str
            (types.listOf types.str)
          ]
        )
      );
      # Defined further down, value by value: a `default` would be gone as soon as one of them is set.
      defaultText = default;
      example = {
        OnCalendar = "*-*-* 03:15:00";
        RandomizedDelaySec = "1h";
      };
      description = ''
        When, as systemd.timer(5) has it. What is not set here stays as in the default, so a new `OnCalendar` alone
        keeps `Persistent` and the delay; `null` takes one of them away, `lib.mkForce { … }` all of them. A unit is
        started 15 times in 50 minutes at most.
      '';
    };
  };

  timerDefaults = {
    backup = {
      OnCalendar = "hourly";
      RandomizedDelaySec = "5m";
    };
    forget = {
      OnCalendar = "*-*-* 04:15:00";
      RandomizedDelaySec = "30m";
    };
    check = {
      OnCalendar = "Sun *-*-* 04:45:00";
      RandomizedDelaySec = "1h";
    };
    check-copies = {
      OnCalendar = "Sun *-*-* 06:45:00";
      RandomizedDelaySec = "1h";
    };
    drill = {
      OnCalendar = "*-*-01 05:45:00";
      RandomizedDelaySec = "1h";
    };
  };
  # A machine that slept or was off makes up for what it missed. A minute is exact enough, and lets it sleep together
  # with other timers.
  timerDefault =
    name:
    timerDefaults.${name}
    // {
      AccuracySec = "1min";
      Persistent = true;
    };
in
{
  # As weak as a default of the option would be.
  config.services.glovebox.timers = lib.mapAttrs (name: _: {
    timerConfig = lib.mapAttrs (_: lib.mkOptionDefault) (timerDefault name);
  }) timerDefaults;

  options.services.glovebox.timers = {
    backup = timer "a backup is taken" (timerDefault "backup");
    forget = timer "what the retention gives up is removed" (timerDefault "forget");
    check = timer "everything is read anew and the repository checked" (timerDefault "check");
    check-copies = timer "the copies are checked" (timerDefault "check-copies");
    drill = timer "the newest backup is restored for trial, verified and dropped" (
      timerDefault "drill"
    );
  };
}
