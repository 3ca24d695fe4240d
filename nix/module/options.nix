# Every option of `services.glovebox`.
{
  config,
  lib,
  options,
  pkgs,
  ...
}@args:
let
  inherit (lib) literalExpression mkOption types;
  context = import ./context.nix args;
  inherit (context) cfg teslamate overSocket;

  # What `types.externalPath` takes. A path inside the Nix store is refused by an assertion instead, which says why and
  # what to do: a mistake of type does not. The value is never interpolated, so nothing is copied to the store.
  secretPath = types.path // {
    inherit (types.externalPath) name description descriptionClass;
  };

  # `[repository]` and every one of `[[copies]]`.
  repositoryOptions = what: {
    passwordFile = mkOption {
      type = types.nullOr secretPath;
      default = null;
      example = "/run/secrets/glovebox";
      description = ''
        File with the password of ${what}: one line of 20 characters or more, from `openssl rand -base64 32` for
        example.

        systemd reads it as root and hands it to the units with `LoadCredential=`, so it may belong to root with mode
        0400. A path in the Nix store is refused. Without this password nobody can read a backup: keep a copy away
        from this machine.
      '';
    };
    environmentFile = mkOption {
      type = types.nullOr secretPath;
      default = null;
      example = "/run/secrets/s3.env";
      description = ''
        File with the credentials of the storage behind ${what}, in the syntax of `EnvironmentFile=`:
        `AWS_ACCESS_KEY_ID`, `RESTIC_REST_PASSWORD`, `RCLONE_CONFIG_…` and others. It is read as data and handed on with
        `LoadCredential=`. A path in the Nix store is refused.
      '';
    };
    options = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = {
        region = "eu-central-1";
        timeout = "5m";
      };
      description = ''
        Options of the storage behind ${what}; docs/network.md lists them. The `identity_file` of `sftp:` is a secret like
        the password, and handed on as one. Keys and tokens themselves belong into `environmentFile`.
      '';
    };
  };

  steps =
    when:
    mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "/run/current-system/sw/bin/mountpoint --quiet /srv" ];
      description = ''
        Commands that the application's unit runs ${when}, one `ExecStartPre=` each. One that fails keeps the
        application from starting, unless it begins with `-`.
      '';
    };

  keep =
    default: what:
    mkOption {
      type = types.ints.unsigned;
      inherit default;
      example = 2 * default;
      description = what;
    };
in
{
  options.services.glovebox = {
    enable = lib.mkEnableOption "Glovebox, backup, restore and guarded migrations for TeslaMate's database";

    package = lib.mkPackageOption { glovebox = pkgs.callPackage ../package.nix { }; } "glovebox" {
      pkgsText = "inputs.glovebox.packages.\${pkgs.stdenv.hostPlatform.system}";
      extraDescription = "It has the `teslamate-*` programs. Without flakes it is built from where the module is.";
    };

    database = {
      name = mkOption {
        type = types.str;
        default = if teslamate != null then teslamate.postgres.database else "teslamate";
        defaultText = literalExpression "config.services.teslamate.postgres.database, else \"teslamate\"";
        example = "cars";
        description = "The database that is backed up.";
      };
      user = mkOption {
        type = types.str;
        default = if teslamate != null then teslamate.postgres.user else "teslamate";
        defaultText = literalExpression "config.services.teslamate.postgres.user, else \"teslamate\"";
        example = "cars_app";
        description = "The database role that connects.";
      };
      host = mkOption {
        type = types.nullOr types.str;
        default = if teslamate != null && !overSocket then teslamate.postgres.host else null;
        defaultText = literalExpression "config.services.teslamate.postgres.host where TeslaMate connects over TCP, else null";
        example = "db.example.org";
        description = "Host name or address of the server, for TCP. `null` is the socket.";
      };
      port = mkOption {
        type = types.port;
        default = if teslamate != null then teslamate.postgres.port else 5432;
        defaultText = literalExpression "config.services.teslamate.postgres.port, else 5432";
        example = 5433;
        description = "TCP port, or the number in the socket's name.";
      };
      socketDir = mkOption {
        type = types.nullOr types.path;
        default = if overSocket then "/run/postgresql" else null;
        defaultText = literalExpression "\"/run/postgresql\" where TeslaMate connects over the socket, else null";
        example = "/run/postgresql";
        description = "Directory of the server's socket. Without it and without a host, `/run/postgresql`.";
      };
      osUser = mkOption {
        type = types.str;
        default = if teslamate != null then "teslamate" else cfg.database.user;
        defaultText = literalExpression "\"teslamate\" with TeslaMate's module, else config.services.glovebox.database.user";
        example = "postgres";
        description = ''
          The account that does the work: units run as it, and the commands become it when root starts them. Over the
          socket it has to be the one that PostgreSQL lets in as the role, which is the one of the same name unless
          `pg_ident.conf` says otherwise.
        '';
      };
      createOsUser = mkOption {
        type = types.bool;
        default = teslamate == null;
        defaultText = literalExpression "true without TeslaMate's module, which makes its account itself";
        example = false;
        description = "Whether to declare that account, as a system user with a group of its name.";
      };
      package = mkOption {
        type = types.package;
        default = if context.serverIsOurs then config.services.postgresql.package else pkgs.postgresql;
        defaultText = literalExpression "config.services.postgresql.package where the server is on this machine, else pkgs.postgresql";
        example = literalExpression "pkgs.postgresql_17";
        description = ''
          PostgreSQL's client programs. They have to be of the server's major version, or newer: an older `pg_dump`
          refuses to read. For a server on another machine, name its version.
        '';
      };
    };

    secretsFile = mkOption {
      type = types.nullOr secretPath;
      default = if teslamate != null then teslamate.secretsFile else null;
      defaultText = literalExpression "config.services.teslamate.secretsFile, else null";
      example = "/run/secrets/teslamate.env";
      description = ''
        TeslaMate's secrets file, in the syntax of `EnvironmentFile=`. Glovebox takes `DATABASE_PASS`, and whatever other
        `DATABASE_…` it sets, from it. Units are handed it with `LoadCredential=`. A path in the Nix store is refused.

        Where the server is belongs into {option}`services.glovebox.database`, not into this file: what a unit may reach is
        decided before anybody reads it.
      '';
    };

    service = {
      unit = mkOption {
        type = types.str;
        default = "teslamate.service";
        example = "podman-teslamate.service";
        description = "The unit that is stopped while a restored database takes the live one's place.";
      };
      hold = mkOption {
        type = types.bool;
        default = context.guardsApplication;
        defaultText = literalExpression "true with TeslaMate's module, or with migrations.enable";
        example = true;
        description = ''
          Whether that unit does not start while a database is being exchanged (`ConditionPathExists=`), whoever starts it. For
          a unit that another module of this configuration sets up, a container for example: a unit that nothing else
          defines would be made by this, without a program.
        '';
      };
      executable = mkOption {
        type = types.nullOr types.path;
        default =
          if teslamate != null && context.applicationStart != null then
            lib.head (lib.splitString " " context.applicationStart)
          else
            null;
        defaultText = literalExpression "the program of the unit's ExecStart with TeslaMate's module, else null";
        example = "/opt/teslamate/bin/teslamate";
        description = "TeslaMate's own program: migrations are run by it, and open records finished through it.";
      };
    };

    repository = {
      location = mkOption {
        type = types.str;
        default = "/var/backup/glovebox";
        example = "s3:https://s3.example.org/papers/teslamate";
        description = ''
          Where backups go: a directory, or `sftp:`, `s3:`, `rest:`, `rclone:` (docs/network.md). A directory is made; a
          repository behind a network by `teslamate-backup init`.

          The default is not below the state directory: what notices that a repository is gone must not go with it. It
          is on this machine, which is not enough for the day its disk fails: add one of
          {option}`services.glovebox.copies`.
        '';
      };
    }
    // repositoryOptions "the repository";

    copies = mkOption {
      type = types.listOf (
        types.submodule {
          options = {
            location = mkOption {
              type = types.str;
              example = "sftp:backup@nas.example.org:/teslamate";
              description = "Where this copy lies. A directory has to be there, and to belong to the account.";
            };
          }
          // repositoryOptions "this copy";
        }
      );
      default = [ ];
      example = [
        {
          location = "sftp:backup@nas.example.org:/teslamate";
          passwordFile = "/run/secrets/glovebox-nas";
        }
      ];
      description = ''
        Further repositories, each with `location`, `passwordFile`, `environmentFile` and `options` like
        {option}`services.glovebox.repository`. They are brought up to date after every backup, by a unit of its own, so
        that a slow line delays no backup.

        A directory is not made by itself, because the disk that it belongs to may not be mounted: make it once, for the
        account of {option}`services.glovebox.database.osUser`. A copy behind a network is made by
        `teslamate-backup init`.
      '';
    };

    retention = {
      keepLast = keep 3 "How many of the newest backups are kept.";
      keepHourly = keep 24 "For how many hours the last backup of each is kept.";
      keepDaily = keep 14 "For how many days the last backup of each is kept.";
      keepWeekly = keep 8 "For how many weeks the last backup of each is kept.";
      keepMonthly = keep 24 "For how many months the last backup of each is kept.";
      keepYearly = keep 20 "For how many years the last backup of each is kept.";
      keepSafetyDays = keep 14 "For how many days every backup is kept that was taken before a restore or another change.";
    };

    extraFiles = mkOption {
      type = types.listOf types.path;
      default = [ ];
      example = [ "/etc/teslamate/settings.env" ];
      description = ''
        Further files that belong to the installation and go into every backup. The account of
        {option}`services.glovebox.database.osUser` has to be able to read them.
      '';
    };

    migrations = {
      enable = mkOption {
        type = types.bool;
        default = teslamate != null;
        defaultText = literalExpression "true with TeslaMate's module";
        example = false;
        description = ''
          Whether the application's unit starts with `teslamate-migrate` in place of its own migration: a backup first, and
          the way back if it fails. It takes the place of every `ExecStartPre=` of the unit. Further steps belong into
          {option}`services.glovebox.migrations.stepsBefore` or `stepsAfter`; one that is defined in the unit itself, or in its
          `preStart`, is refused, because it would not run.
        '';
      };
      stepsBefore = steps "before the guard";
      stepsAfter = steps "after the guard, with the migrations done";
      onFailure = mkOption {
        type = types.enum [
          "stop"
          "restore"
        ];
        default = "stop";
        example = "restore";
        description = ''
          What happens when a migration fails. `"stop"`: the application does not start, and the journal has the command that
          goes back. `"restore"`: it goes back to the backup by itself.
        '';
      };
      requireBackup = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = ''
          Whether a migration that cannot be preceded by a backup is refused. Without it, a failed migration may leave no
          way back.
        '';
      };
    };

    onFailure = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "notify-by-mail@%n.service" ];
      description = "Units that are started when one of Glovebox's units fails (`OnFailure=`).";
    };

    settings = mkOption {
      inherit (pkgs.formats.toml { }) type;
      default = { };
      example = {
        backup.jobs = 2;
        restore.keep_previous = 2;
      };
      description = ''
        Further settings of `/etc/glovebox/config.toml`, by the names of docs/settings.md. What has an option of its own is
        set there; a name that does not exist is refused.
      '';
    };
  };
}
