# Combinations that cannot work, each with the way out.
{
  config,
  lib,
  # Reaches only a module that names it, and the parts below take it from here.
  pkgs,
  ...
}@args:
let
  context = import ./context.nix args;
  settings = import ./settings.nix args;
  inherit (context) cfg;

  option = name: "services.glovebox.${name}";

  # Files with secrets, by option.
  secretFiles = [
    {
      name = "secretsFile";
      value = cfg.secretsFile;
    }
  ]
  ++ repositorySecrets "repository" cfg.repository
  ++ lib.concatLists (
    lib.imap1 (number: repositorySecrets "copies, number ${toString number}: ") cfg.copies
  );
  repositorySecrets =
    prefix: entry:
    let
      path = name: if prefix == "repository" then "repository.${name}" else "${prefix}${name}";
    in
    [
      {
        name = path "passwordFile";
        value = entry.passwordFile;
      }
      {
        name = path "environmentFile";
        value = entry.environmentFile;
      }
      {
        name = path "options.identity_file";
        value = entry.options.identity_file or null;
      }
    ];

  # What is written into config.toml, which everybody can read, and must not be.
  places = [
    {
      name = "repository";
      value = cfg.repository;
    }
  ]
  ++ lib.imap1 (number: value: {
    name = "copies, number ${toString number}";
    inherit value;
  }) cfg.copies;
  secretOptions = [
    "access_key_id"
    "secret_access_key"
    "session_token"
  ];
  # Of the others, rclone and SSH have no place for one, and may well have an `@` further on.
  hasPassword = location: builtins.match "(rest|s3):(https?://)?[^/@]*:[^/@]*@.*" location != null;

  # A path of the language would be copied to the store as soon as something used it.
  inStore = value: builtins.isPath value || lib.hasPrefix "${builtins.storeDir}/" (toString value);

  # The parts of `settings` by the names of docs/settings.md.
  given = lib.concatLists (
    lib.mapAttrsToList (
      name: value:
      if builtins.isAttrs value then map (key: "${name}.${key}") (lib.attrNames value) else [ name ]
    ) cfg.settings
  );
  isSettable = key: lib.elem key settings.free;
  judge =
    key:
    if settings.options ? ${key} then
      "${option "settings.${key}"}: this has an option of its own. Set ${option settings.options.${key}} instead."
    else if lib.elem key settings.secrets then
      "${option "settings.${key}"}: a secret must not be in config.toml, which everybody can read. Put it into the file of ${option "secretsFile"}."
    else if lib.elem key settings.fixed then
      "${option "settings.${key}"}: the units may write to ${context.stateDir} only, so this cannot be changed."
    else
      "${option "settings.${key}"}: there is no such setting. These there are: ${lib.concatStringsSep ", " settings.free}.";

  # The timer of the copies has a unit only where there are copies, which need the repository themselves.
  timersOn = lib.filterAttrs (_: timer: timer.enable) (removeAttrs cfg.timers [ "check-copies" ]);
  # What can start a timer, as systemd.timer(5) has it.
  triggers = [
    "OnActiveSec"
    "OnBootSec"
    "OnCalendar"
    "OnClockChange"
    "OnStartupSec"
    "OnTimezoneChange"
    "OnUnitActiveSec"
    "OnUnitInactiveSec"
  ];
  needsRepository =
    timersOn != { } || cfg.copies != [ ] || (cfg.migrations.enable && cfg.migrations.requireBackup);

  locations =
    lib.optional context.hasRepository {
      name = "repository.location";
      value = cfg.repository.location;
    }
    ++ lib.imap1 (number: copy: {
      name = "copies, number ${toString number}: location";
      value = copy.location;
    }) cfg.copies;

  postgresql = config.services.postgresql.settings;
  server = config.services.postgresql.package.version;
  # TeslaMate refuses the others: https://docs.teslamate.org/docs/installation/docker
  serverIsNewEnough =
    lib.versionAtLeast server "18"
    || (lib.versionAtLeast server "17.3" && lib.versionOlder server "18")
    || (lib.versionAtLeast server "16.7" && lib.versionOlder server "17");
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = needsRepository -> context.hasRepository;
        message = ''
          ${option "repository.passwordFile"} is not set, and without a password there is no repository.

          Make one with `openssl rand -base64 32`, keep a copy away from this machine, and name the file. To use Glovebox for
          dumps into files alone, switch its timers and migrations off.'';
      }
      {
        assertion =
          cfg.retention.keepLast
          + cfg.retention.keepHourly
          + cfg.retention.keepDaily
          + cfg.retention.keepWeekly
          + cfg.retention.keepMonthly
          + cfg.retention.keepYearly > 0;
        message = ''
          ${option "retention"} keeps nothing: every number is 0.

          Set at least one, or switch `forget` off with ${option "timers.forget.enable"} = false, which keeps every backup.'';
      }
      {
        assertion = context.serverIsOurs && context.teslamate != null -> serverIsNewEnough;
        message = ''
          PostgreSQL ${server} is too old for TeslaMate, which needs 16.7, 17.3, 18 or newer.

          Back up first (`teslamate-backup FILE`, with this module switched off), then set services.postgresql.package to
          pkgs.postgresql_17 or newer; the new server begins empty: `teslamate-restore FILE` fills it.'';
      }
      {
        assertion =
          context.serverIsOurs && (postgresql.wal_level or null) == "minimal"
          -> !(postgresql.summarize_wal or false);
        message = ''
          PostgreSQL does not start with wal_level = "minimal" and summarize_wal, with which backups read only what changed.

          Leave services.postgresql.settings.wal_level as it is; or set services.postgresql.settings.summarize_wal to false, and
          every backup reads everything.'';
      }
    ]
    ++ map (
      { name, value }:
      {
        assertion = value == null || !inStore value;
        message = ''
          ${option name} is a file in the Nix store, where everybody on this machine can read it, or would be copied there.

          Put the secret outside the store, below /run/secrets or /etc for example with mode 0400, and give its path as a
          string in quotes. sops-nix and agenix make such files.'';
      }
    ) secretFiles
    ++ map (
      { name, value }:
      {
        # systemd and systemd-tmpfiles read a line each.
        assertion = value == null || builtins.match "[^\n\r]*" (toString value) != null;
        message = "${option name} has a line break in it. Take it out.";
      }
    ) (secretFiles ++ locations)
    ++ lib.concatMap (
      { name, value }:
      map (key: {
        assertion = !(value.options ? ${key});
        message = ''
          ${option "${name}"}: options.${key} would be in /etc/glovebox/config.toml, which everybody can read.

          Put AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN into a file and name it in environmentFile.'';
      }) secretOptions
      ++ [
        {
          assertion = !hasPassword value.location;
          message = ''
            ${option "${name}"}: the password in its location would be in /etc/glovebox/config.toml, which everybody can read.

            Put RESTIC_REST_USERNAME and RESTIC_REST_PASSWORD into a file and name it in environmentFile.'';
        }
      ]
    ) places
    ++ lib.imap1 (number: copy: {
      assertion = copy.passwordFile != null;
      message = "${option "copies"}, number ${toString number} (${copy.location}): passwordFile is not set. It may be the repository's own.";
    }) cfg.copies
    ++ map (
      { name, value }:
      {
        assertion = context.schemeOf value != null || lib.hasPrefix "/" (lib.removePrefix "local:" value);
        message = ''${option name} is "${value}", which is neither an absolute path nor begins with sftp:, s3:, rest: or rclone:.'';
      }
    ) locations
    ++ lib.mapAttrsToList (name: timer: {
      assertion = lib.any (trigger: (timer.timerConfig.${trigger} or null) != null) triggers;
      message = ''
        ${option "timers.${name}.timerConfig"} says nowhere when: systemd refuses such a timer.

        Set OnCalendar, or switch it off with ${option "timers.${name}.enable"} = false.'';
    }) (lib.filterAttrs (_: timer: timer.enable) cfg.timers)
    ++ lib.optional (context.hasRepository && cfg.copies != [ ]) {
      assertion = !lib.elem cfg.repository.location (map (copy: copy.location) cfg.copies);
      message = "${option "copies"} has the repository itself, ${cfg.repository.location}: a copy has to lie elsewhere.";
    }
    ++ map (key: {
      assertion = isSettable key;
      message = judge key;
    }) (lib.filter (key: !isSettable key) given);
  };
}
