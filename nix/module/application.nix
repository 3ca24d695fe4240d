# The application's own unit: guarded migrations, and no start while a restore is at work.
{
  lib,
  # Reaches only a module that names it, and the parts below take it from here.
  pkgs,
  ...
}@args:
let
  context = import ./context.nix args;
  credentials = import ./credentials.nix args;
  inherit (context) cfg unitName;

  secrets = credentials.forUnit { prefix = "glovebox-"; };
  directory = context.directoryOf cfg.repository.location;
  # The backup before a migration may have to go somewhere else.
  network = lib.optional (directory == null) "network-online.target";
in
{
  config = lib.mkIf (cfg.enable && (cfg.service.hold || cfg.migrations.enable)) {
    systemd.services.${unitName} = lib.mkMerge [
      (lib.mkIf cfg.service.hold {
        # Masking a unit at run time does nothing on NixOS, where units are links in /etc.
        unitConfig.ConditionPathExists = [ context.holdCondition ];
      })
      (lib.mkIf cfg.migrations.enable {
        # With roles and databases in place, which is the target; before NixOS 25.11 the service did that too.
        after = network ++ context.serverUnits;
        wants = network;
        path = context.programsFor [ cfg.repository.location ];
        inherit (secrets) environment;
        serviceConfig = {
          # In place of the application's own call, which is why it is forced. What else is defined is replaced too: an
          # assertion names it.
          ExecStartPre = lib.mkForce (
            cfg.migrations.stepsBefore ++ [ context.guard ] ++ cfg.migrations.stepsAfter
          );
          LoadCredential = secrets.load;
          # Without the password of the repository there is no backup, and no migration; with none pending, the
          # application starts all the same.
          SetCredential = secrets.empty;
          # Not StateDirectory=, which would give the directory to the account of this unit, and put a second name into
          # the application's own $STATE_DIRECTORY.
          ReadWritePaths = map (path: context.quoted "-${path}") (
            [ context.stateDir ] ++ lib.optional (directory != null) directory
          );
          # The status of a step before the start, too.
          NotifyAccess = lib.mkDefault "exec";
          # A migration that is killed half-way leaves more trouble than one that takes an hour; what cannot be
          # reached, `teslamate-migrate` stops waiting for by itself.
          TimeoutStartSec = lib.mkDefault "infinity";
        };
      })
    ];
  };
}
