# config.toml: which settings there are, and what the options make of them. A function of a module's arguments.
{
  lib,
  ...
}@args:
let
  context = import ./context.nix args;
  inherit (context) cfg;

  # TOML has no form for nothing. What is built by Nix is a file, and not looked into.
  present =
    value:
    if builtins.isAttrs value && !(value ? outPath) then
      lib.mapAttrs (_: present) (lib.filterAttrs (_: part: part != null) value)
    else
      value;

  repository =
    entry:
    {
      inherit (entry) location;
      password_file = toString entry.passwordFile;
    }
    // lib.optionalAttrs (entry.environmentFile != null) {
      environment_file = toString entry.environmentFile;
    }
    // lib.optionalAttrs (entry.options != { }) { inherit (entry) options; };

  fromOptions = {
    database = {
      inherit (cfg.database)
        name
        user
        host
        port
        ;
      socket_dir = cfg.database.socketDir;
      os_user = cfg.database.osUser;
      tools = "${cfg.database.package}/bin";
      # TeslaMate's module has no options for these: whoever sets them does it in the unit.
      ssl = context.applicationEnvironment.DATABASE_SSL or null;
      ssl_ca_cert_file =
        let
          file = context.applicationEnvironment.DATABASE_SSL_CA_CERT_FILE or null;
        in
        # A unit has `%%` for a `%`.
        if lib.isString file then lib.replaceStrings [ "%%" ] [ "%" ] file else file;
    };
    secrets_file = if cfg.secretsFile == null then null else toString cfg.secretsFile;
    service = {
      inherit (cfg.service) unit executable;
    };
    retention = {
      keep_last = cfg.retention.keepLast;
      keep_hourly = cfg.retention.keepHourly;
      keep_daily = cfg.retention.keepDaily;
      keep_weekly = cfg.retention.keepWeekly;
      keep_monthly = cfg.retention.keepMonthly;
      keep_yearly = cfg.retention.keepYearly;
      keep_safety_days = cfg.retention.keepSafetyDays;
    };
    # Named, because `$STATE_DIRECTORY` of the application's unit is the application's own.
    state_dir = context.stateDir;
  }
  // lib.optionalAttrs context.hasRepository { repository = repository cfg.repository; }
  // lib.optionalAttrs (cfg.copies != [ ]) { copies = map repository cfg.copies; }
  // lib.optionalAttrs (cfg.extraFiles != [ ]) { backup.extra_files = map toString cfg.extraFiles; }
  # Only what differs from the programs' own defaults.
  // lib.optionalAttrs (cfg.migrations.enable && migrations != { }) { inherit migrations; };

  migrations =
    lib.optionalAttrs (cfg.migrations.onFailure != "stop") { on_failure = cfg.migrations.onFailure; }
    // lib.optionalAttrs (!cfg.migrations.requireBackup) { require_backup = false; };

  all = lib.recursiveUpdate fromOptions cfg.settings;
in
{
  inherit repository;

  # The settings that `services.glovebox.settings` may hold.
  free = [
    "backup.chunk_blocks"
    "backup.compression"
    "backup.jobs"
    "database.allow_cleartext_password"
    "database.ssl"
    "database.ssl_ca_cert_file"
    "migrations.wait"
    "restore.keep_previous"
    "restore.skip_extensions"
    "service.start"
    "service.stop"
  ];

  # The ones that have an option of their own, below `services.glovebox`.
  options = {
    "backup.extra_files" = "extraFiles";
    "copies" = "copies";
    "database.host" = "database.host";
    "database.name" = "database.name";
    "database.os_user" = "database.osUser";
    "database.port" = "database.port";
    "database.socket_dir" = "database.socketDir";
    "database.tools" = "database.package";
    "database.user" = "database.user";
    "migrations.on_failure" = "migrations.onFailure";
    "migrations.require_backup" = "migrations.requireBackup";
    "repository.environment_file" = "repository.environmentFile";
    "repository.location" = "repository.location";
    "repository.options" = "repository.options";
    "repository.password_file" = "repository.passwordFile";
    "retention.keep_daily" = "retention.keepDaily";
    "retention.keep_hourly" = "retention.keepHourly";
    "retention.keep_last" = "retention.keepLast";
    "retention.keep_monthly" = "retention.keepMonthly";
    "retention.keep_safety_days" = "retention.keepSafetyDays";
    "retention.keep_weekly" = "retention.keepWeekly";
    "retention.keep_yearly" = "retention.keepYearly";
    "secrets_file" = "secretsFile";
    "service.executable" = "service.executable";
    "service.unit" = "service.unit";
  };

  # Never in a file that everybody can read.
  secrets = [
    "database.password"
    "encryption_key"
    "release_cookie"
  ];

  # The module's own: the units are given exactly this directory.
  fixed = [ "state_dir" ];

  # Files of the settings that are no secrets and have to be seen.
  certificates = lib.filter (file: file != null) [ (all.database.ssl_ca_cert_file or null) ];

  # Everything that config.toml has.
  all = present all;
}
