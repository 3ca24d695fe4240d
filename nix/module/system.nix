# What Glovebox puts on the machine beside its units: programs, config.toml, directories, the account, one setting of
# PostgreSQL.
{
  config,
  lib,
  pkgs,
  ...
}@args:
let
  context = import ./context.nix args;
  settings = import ./settings.nix args;
  inherit (context) cfg;
  user = cfg.database.osUser;

  configFile = (pkgs.formats.toml { }).generate "glovebox-config.toml" settings.all;
  directory = context.directoryOf cfg.repository.location;
  locations = map (place: place.location) ([ cfg.repository ] ++ cfg.copies);
in
{
  config = lib.mkIf cfg.enable {
    # TeslaMate's module installs scripts of the same names.
    #
    # And what reaches the repository and its copies, for a command that is typed.
    environment.systemPackages = [ (lib.hiPrio cfg.package) ] ++ context.programsFor locations;

    # For whoever types a command, and for the units. Everybody can read it; it holds no secrets.
    environment.etc."glovebox/config.toml".source = configFile;

    # A mistake fails the rebuild, not the night. The program runs on the machine that builds, so not where that is of
    # another architecture.
    system.checks = lib.optional (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) (
      pkgs.runCommand "glovebox-config-check" { } ''
        ${cfg.package}/bin/teslamate-backup --config ${configFile} check-config
        touch $out
      ''
    );

    # /run/glovebox is where restores tell units to wait. The state directory is needed by a migration before the first
    # backup; the repository's by an account that may not make it.
    #
    # A copy's directory is not made: its disk may not be mounted, and nobody would notice that the copies pile up on this
    # one. The repository itself is known by its id, and an empty directory in its place is an error.
    systemd.tmpfiles.rules = [
      "d /run/glovebox 0755 root root -"
      "d ${context.stateDir} 0700 ${user} - -"
    ]
    ++ lib.optional (
      context.hasRepository && directory != null
    ) "d ${context.quoted directory} 0700 ${user} - -";

    # Weaker than a default: an account that is declared elsewhere, as a person's for example, stays what it is.
    users = lib.mkIf cfg.database.createOsUser {
      users.${user} = {
        isSystemUser = lib.mkOverride 1250 (!(config.users.users.${user}.isNormalUser or false));
        group = lib.mkOverride 1250 user;
      };
      groups.${user} = { };
    };

    # What makes a backup cost what changed. The server's unit changes with it, so the switch that brings it restarts
    # PostgreSQL; the setting itself would need no restart.
    services.postgresql.settings = lib.mkIf (
      context.serverIsOurs && lib.versionAtLeast config.services.postgresql.package.version "17"
    ) { summarize_wal = lib.mkDefault true; };
  };
}
