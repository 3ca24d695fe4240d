# Glovebox's own units: one function makes all of them.
{
  lib,
  # Reaches only a module that names it, and the parts below take it from here.
  pkgs,
  ...
}@args:
let
  context = import ./context.nix args;
  credentials = import ./credentials.nix args;
  hardening = import ./hardening.nix { inherit lib; };
  settings = import ./settings.nix args;
  inherit (context)
    cfg
    directoryOf
    quoted
    schemeOf
    ;

  run =
    program: arguments: "${cfg.package}/bin/${program} --config ${context.configPath}${arguments}";

  # A time limit is for a run that hangs: every sign of progress moves it on.
  units = {
    backup = {
      description = "Back up the TeslaMate database";
      commands = [ (run "teslamate-backup" "") ];
      limit = "30min";
    };
    forget = {
      description = "Remove the backups that the retention gives up";
      commands = [ (run "teslamate-backup" " forget") ];
      limit = "30min";
      after = [ "backup" ];
    };
    check = {
      description = "Read the whole TeslaMate database anew, and check its backups";
      commands = [
        (run "teslamate-backup" " --full-read")
        (run "teslamate-backup" " check --read-part 4")
      ];
      limit = "2h";
      after = [
        "backup"
        "forget"
      ];
    };
    drill = {
      description = "Restore TeslaMate's newest backup for trial, verify and drop it";
      commands = [ (run "teslamate-restore" " latest --drill") ];
      limit = "2h";
      after = [
        "backup"
        "forget"
        "check"
      ];
    };
  }
  // lib.optionalAttrs (cfg.copies != [ ]) {
    # Started by every backup that succeeded. Apart from it, because a slow line must not delay the next backup.
    copy = {
      description = "Bring the copies of TeslaMate's backups up to date";
      commands = [ (run "teslamate-backup" " copy") ];
      limit = "30min";
      copies = true;
      after = [ "backup" ];
    };
    # Apart from `check`, which must not wait for a slow line either.
    check-copies = {
      description = "Check the copies of TeslaMate's backups";
      commands = [ (run "teslamate-backup" " check --copy all --read-part 4") ];
      limit = "2h";
      copies = true;
      after = [
        "backup"
        "copy"
        "check"
      ];
    };
  };

  # Exit code 11 is "busy": somebody else is at work on this database. Tried again every three minutes, so that neither
  # waits for ever nor fails for nothing; after 15 times, within the hour, it counts as a failure. Other failures are
  # for the next timer, or for a person: 10 and 15 do not get better by themselves, and every status but 11 is listed,
  # because a list of those that do restart is refused for oneshot units before systemd 254. 203 to 243 are systemd's
  # own, for a unit that could not be set up.
  retryBusy = {
    Restart = "on-failure";
    RestartSec = "3min";
    # Not through `failed`: OnFailure= is for the end, not for every try.
    RestartMode = "direct";
    RestartPreventExitStatus =
      "1 2 10 12 13 14 15 101 129 130 143 "
      + "203 216 217 226 228 233 238 243 "
      + "SIGABRT SIGBUS SIGHUP SIGILL SIGINT SIGKILL SIGSEGV SIGSYS SIGTERM";
  };

  # The application goes first. Not the idle class: a backup that never gets its turn holds a snapshot open.
  priorities = {
    Nice = 10;
    IOSchedulingClass = "best-effort";
    IOSchedulingPriority = 7;
    OOMScoreAdjust = 500;
  };

  inHome =
    path:
    lib.any (dir: lib.hasPrefix dir path) [
      "/home/"
      "/root/"
      "/run/user/"
    ];

  # What a machine's configuration may set otherwise, in `systemd.services.glovebox-….serviceConfig`. A list stays as it is,
  # because what is set beside it is added.
  changeable = lib.mapAttrs (_: value: if builtins.isList value then value else lib.mkDefault value);

  unit =
    name:
    {
      description,
      commands,
      limit,
      after ? [ ],
      copies ? false,
    }:
    let
      places = [ cfg.repository ] ++ lib.optionals copies cfg.copies;
      locations = map (place: place.location) places;
      directories = lib.filter (directory: directory != null) (map directoryOf locations);
      # Whatever is read or written by its name. Credentials are handed to the unit and need not be seen.
      named = lib.concatMap (
        place: lib.attrValues (removeAttrs place.options [ "identity_file" ])
      ) places;
      paths = directories ++ map toString (cfg.extraFiles ++ settings.certificates) ++ named;
      network = lib.any (location: schemeOf location != null) locations || !context.databaseIsHere;
      secrets = credentials.forUnit { inherit copies; };
    in
    {
      description = lib.mkDefault description;
      # A switch to a new configuration ends no backup; the next run is the new one.
      restartIfChanged = lib.mkDefault false;

      # After, and neither Wants nor Requires: a timer must not start a server that somebody stopped, to move its files
      # for instance, and a server's restart must not end a backup any other way than by its error. Names of units that
      # are not there, because the server is elsewhere, do no harm.
      #
      # Behind one another where their timers fire together, after a night without power for example.
      after =
        context.serverUnits
        ++ lib.optional network "network-online.target"
        ++ map (other: "glovebox-${other}.service") after;
      wants = lib.optional network "network-online.target";
      inherit (cfg) onFailure;
      onSuccess = lib.optional (name == "backup" && cfg.copies != [ ]) "glovebox-copy.service";

      # 50 minutes.
      startLimitIntervalSec = lib.mkDefault 3000;
      startLimitBurst = lib.mkDefault 15;
      unitConfig = lib.optionalAttrs (directories != [ ]) {
        RequiresMountsFor = map quoted directories;
      };

      path = context.programsFor locations;

      inherit (secrets) environment;

      serviceConfig =
        changeable (hardening {
          loopback = !context.databaseBySocket;
          inherit network;
          inHome = lib.any inHome paths;
        })
        // changeable retryBusy
        // changeable priorities
        // {
          Type = "oneshot";
          # STATUS with the progress, and more time while there is some.
          NotifyAccess = lib.mkDefault "main";
          # A restore that was killed may have left the application stopped, and only root may start it. In spite of `User=`
          # and of the sandbox, which are for what reads the database; where nothing was left, nothing is done.
          ExecStartPre = [ "-+${run "teslamate-restore" " --recover --quiet"}" ];
          ExecStart = commands;
          User = cfg.database.osUser;
          LoadCredential = secrets.load;
          StateDirectory = "glovebox";
          StateDirectoryMode = "0700";
          ReadWritePaths = map quoted directories;

          TimeoutStartSec = lib.mkDefault limit;
          # The main process is asked first: it ends its children, drops what it staged and removes its files.
          KillMode = lib.mkDefault "mixed";
          TimeoutStopSec = lib.mkDefault "2min";
        };
    };

  timers = lib.filterAttrs (name: timer: timer.enable && units ? ${name}) cfg.timers;
in
{
  config = lib.mkIf cfg.enable {
    systemd.services = lib.mapAttrs' (
      name: definition: lib.nameValuePair "glovebox-${name}" (unit name definition)
    ) units;

    systemd.timers = lib.mapAttrs' (
      name: timer:
      lib.nameValuePair "glovebox-${name}" {
        description = lib.mkDefault units.${name}.description;
        wantedBy = [ "timers.target" ];
        # `startAt` of the unit, or the timer's own options, may say something else.
        timerConfig = lib.mapAttrs (_: lib.mkDefault) (
          lib.filterAttrs (_: value: value != null) timer.timerConfig
        );
      }
    ) timers;
  };
}
