# The configurations that are refused: every assertion once. A function of what cases.nix makes them of.
{
  beside,
  minimal,
  socket,
  unitOf,
  with',
}:
let
  refused = config: {
    fails = true;
    config.services = {
      glovebox = minimal.services.glovebox // config;
    };
  };
in
{
  refused-no-password = {
    fails = true;
    config.services.glovebox.enable = true;
  };

  refused-password-in-store = refused {
    repository.passwordFile = "/nix/store/00000000000000000000000000000000-password";
  };

  refused-secrets-as-path = refused { secretsFile = ./cases.nix; };

  refused-copy = refused {
    copies = [
      {
        location = "/var/backup/glovebox";
        passwordFile = "/nix/store/00000000000000000000000000000000-password";
      }
      { location = "relative/place"; }
    ];
  };

  refused-secrets-in-config = refused {
    repository = {
      location = "s3:https://s3.example.org/papers/teslamate";
      passwordFile = "/run/secrets/glovebox";
      options.secret_access_key = "secret";
    };
    copies = [
      {
        location = "rest:https://me:secret@backup.example.org/teslamate";
        passwordFile = "/run/secrets/glovebox";
      }
      {
        location = "sftp:me@nas.example.org:/teslamate";
        passwordFile = "/run/secrets/glovebox";
        options.identity_file = "/nix/store/00000000000000000000000000000000-key";
      }
    ];
  };

  refused-retention = refused {
    retention = {
      keepLast = 0;
      keepHourly = 0;
      keepDaily = 0;
      keepWeekly = 0;
      keepMonthly = 0;
      keepYearly = 0;
    };
  };

  refused-settings = refused {
    settings = {
      backup.jbos = 2;
      database = {
        password = "secret";
        name = "cars";
      };
      retention.keep_daily = 3;
      state_dir = "/srv";
      weather = "fine";
    };
  };

  refused-old-postgresql = beside { postgres.enable_server = true; } { } // {
    fails = true;
    postgresql = "16.6";
  };

  refused-young-but-unfinished-postgresql = beside { postgres.enable_server = true; } { } // {
    fails = true;
    postgresql = "17.2";
  };

  # Told to write as little as possible, PostgreSQL would not start with summaries.
  refused-minimal-wal =
    let
      base = beside { postgres.enable_server = true; } { };
    in
    base
    // {
      fails = true;
      config = base.config // {
        services = base.config.services // {
          postgresql.settings.wal_level = "minimal";
        };
      };
    };

  # Stronger than ours: it would take the guard out.
  refused-start-without-guard =
    with' socket (
      { lib, ... }: unitOf { serviceConfig.ExecStartPre = lib.mkOverride 40 [ "/nix/store/own-step" ]; }
    )
    // {
      fails = true;
    };

  # As strong as ours: both would run.
  refused-migration-beside-guard =
    with' socket (
      { lib, ... }:
      unitOf {
        serviceConfig.ExecStartPre = lib.mkForce [
          "/nix/store/teslamate/bin/teslamate eval TeslaMate.Release.migrate"
        ];
      }
    )
    // {
      fails = true;
    };

  # Weaker than ours: they would not run.
  refused-lost-steps =
    with' socket (
      { lib, ... }:
      unitOf {
        preStart = "mountpoint /srv";
        serviceConfig = lib.mkIf true { ExecStartPre = lib.mkBefore [ "/nix/store/own-step" ]; };
      }
    )
    // {
      fails = true;
    };

  refused-start-without-hold =
    with' socket (
      { lib, ... }: unitOf { unitConfig.ConditionPathExists = lib.mkForce [ "/etc/teslamate" ]; }
    )
    // {
      fails = true;
    };

  refused-line-break = refused {
    repository = {
      location = "/srv/backup\nExecStart=/bin/sh";
      passwordFile = "/run/secrets/glovebox";
    };
  };

  refused-timer-without-trigger = refused { timers.forget.timerConfig.OnCalendar = null; };

  refused-other-account = beside { } { database.osUser = "postgres"; } // {
    fails = true;
  };

  refused-no-application = refused {
    migrations.enable = true;
  };
}
