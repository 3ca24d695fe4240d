# What the parts of the module derive from the options. A function of a module's arguments, not a module.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  cfg = config.services.glovebox;

  # TeslaMate's own module, where it is imported and switched on.
  teslamate =
    if (options.services or { }) ? teslamate && config.services.teslamate.enable then
      config.services.teslamate
    else
      null;

  # The two ways in which TeslaMate's module connects: over the socket where it sets the server up itself and the role
  # is named like its account, else over TCP.
  overSocket =
    teslamate != null
    && (teslamate.postgres.enable_server or false)
    && teslamate.postgres.user == "teslamate";

  isLoopback =
    host:
    host == null
    || lib.hasPrefix "/" host
    || lib.elem host [
      "localhost"
      "127.0.0.1"
      "::1"
    ];

  databaseIsHere = isLoopback cfg.database.host;

  configPath = "/etc/glovebox/config.toml";

  unitName = lib.removeSuffix ".service" cfg.service.unit;
  application = config.systemd.services.${unitName} or { };
  starts = lib.toList (application.serviceConfig.ExecStart or [ ]);

  # What systemd and systemd-tmpfiles read in place of such a path: `%` begins a specifier there, and a space ends the
  # path. Only what needs quotes has them.
  literal = lib.replaceStrings [ "%" ] [ "%%" ];
  quoted =
    path:
    let
      escaped = lib.replaceStrings [ "\\" "\"" ] [ "\\\\" "\\\"" ] (literal path);
    in
    if builtins.match "[A-Za-z0-9%/._:@+=,-]*" path != null then escaped else "\"${escaped}\"";

  schemeOf =
    location:
    lib.findFirst (scheme: lib.hasPrefix "${scheme}:" location) null [
      "sftp"
      "s3"
      "rest"
      "rclone"
    ];
in
{
  inherit
    cfg
    teslamate
    overSocket
    schemeOf
    literal
    quoted
    ;

  # Without ".service", as NixOS names units.
  inherit unitName;

  stateDir = "/var/lib/glovebox";

  # Whether the database is reached without leaving this machine, and without TCP at all.
  inherit databaseIsHere;
  databaseBySocket =
    (cfg.database.host == null || lib.hasPrefix "/" cfg.database.host)
    || cfg.database.socketDir != null;

  # To come after, where there may be such a server. Names of units that are not there do no harm.
  serverUnits = lib.optionals databaseIsHere [
    "postgresql.service"
    "postgresql.target"
  ];

  # Whether this configuration also sets the server up.
  serverIsOurs = databaseIsHere && config.services.postgresql.enable;

  # The unit of the application belongs to this configuration if its module is here, or if its start is ours to guard.
  guardsApplication = teslamate != null || cfg.migrations.enable;

  # What the application is started with: its program, and the variables of its unit.
  applicationStart = if starts == [ ] then null else lib.head starts;
  applicationEnvironment = if teslamate != null then application.environment or { } else { };

  # What the unit of the application begins with, in place of its own migration.
  guard = "${cfg.package}/bin/teslamate-migrate --config ${configPath}";
  # What keeps it from starting: `teslamate-restore` makes the file while it puts a database in place of the live one.
  holdCondition = "!/run/glovebox/${unitName}.service.hold";

  # A repository is needed by everything but dumps into files.
  hasRepository = cfg.repository.passwordFile != null;

  directoryOf =
    location: if schemeOf location == null then lib.removePrefix "local:" location else null;

  # The programs that reach such places.
  programsFor =
    locations:
    let
      schemes = map schemeOf locations;
    in
    lib.optional (lib.elem "sftp" schemes) config.programs.ssh.package
    ++ lib.optional (lib.elem "rclone" schemes) pkgs.rclone;

  inherit configPath;
}
