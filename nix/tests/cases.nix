# The configurations that are evaluated. `config` is what a user writes; a case with `fails` must be refused, and its
# snapshot holds the messages.
let
  minimal = {
    services.glovebox = {
      enable = true;
      secretsFile = "/run/secrets/teslamate.env";
      repository.passwordFile = "/run/secrets/glovebox";
    };
  };
  # With TeslaMate's module, secretsFile is known.
  beside = teslamate: glovebox: {
    teslamate = true;
    config.services = {
      teslamate = {
        enable = true;
        secretsFile = "/run/secrets/teslamate.env";
      }
      // teslamate;
      glovebox = {
        enable = true;
        repository.passwordFile = "/run/secrets/glovebox";
      }
      // glovebox;
    };
  };
  # A case, and what another module of that machine says.
  with' =
    base: module:
    base
    // {
      config.imports = [
        base.config
        module
      ];
    };
  socket = beside { postgres.enable_server = true; } { };
  unitOf = definition: { systemd.services.teslamate = definition; };
in
{
  # The three options, on a machine where TeslaMate's module sets up everything.
  minimal = beside { postgres.enable_server = true; } { };

  # TeslaMate runs some other way, in a container for example.
  without-teslamate-module = {
    config = minimal;
  };

  # The program is there, and off.
  disabled = {
    teslamate = true;
    config = { };
  };

  # TCP on this machine, as TeslaMate's module does it by default.
  loopback = beside { } { };

  remote-database = beside {
    postgres = {
      host = "db.example.org";
      port = 5433;
    };
  } { settings.database.ssl = true; };

  # As TeslaMate's module has it: no options for TLS, so the unit has the variables.
  database-over-tls =
    let
      base = beside { postgres.host = "db.example.org"; } { };
    in
    base
    // {
      config = base.config // {
        systemd.services.teslamate.environment = {
          DATABASE_SSL = "true";
          DATABASE_SSL_CA_CERT_FILE = "/home/db/ca-100%%.pem";
        };
      };
    };

  # A container that another module sets up: it is held while a database is exchanged, and migrates by itself.
  container = {
    config =
      { pkgs, ... }:
      {
        systemd.services.podman-teslamate.serviceConfig.ExecStart = "/nix/store/podman start";
        services.glovebox = minimal.services.glovebox // {
          database = {
            host = "127.0.0.1";
            package = pkgs.postgresql_18;
          };
          service = {
            unit = "podman-teslamate.service";
            hold = true;
          };
        };
      };
  };

  other-names = {
    config.services = {
      postgresql.enable = true;
      glovebox = minimal.services.glovebox // {
        database = {
          name = "cars";
          user = "cars_app";
          osUser = "postgres";
          createOsUser = false;
          port = 5434;
          socketDir = "/run/postgresql-cars";
        };
        service.unit = "cars.service";
      };
    };
  };

  s3 = beside { postgres.enable_server = true; } {
    repository = {
      location = "s3:https://s3.example.org/papers/teslamate";
      passwordFile = "/run/secrets/glovebox";
      environmentFile = "/run/secrets/s3.env";
      options = {
        region = "eu-central-1";
        timeout = "5m";
      };
    };
  };

  # With the ssh that the machine has for everybody.
  sftp =
    with'
      (beside { postgres.enable_server = true; } {
        repository = {
          location = "sftp:backup@nas.example.org:/100%/teslamate";
          passwordFile = "/run/secrets/glovebox";
          options = {
            identity_file = "/run/secrets/nas-key";
            known_hosts_file = "/etc/ssh/ssh_known_hosts";
          };
        };
      })
      {
        programs.ssh.package = {
          type = "derivation";
          name = "openssh-gssapi";
          outPath = "/nix/store/openssh-gssapi";
        };
      };

  # Spaces and `%` mean something to systemd and systemd-tmpfiles.
  odd-directories = beside { postgres.enable_server = true; } {
    secretsFile = "/run/secrets/tesla mate 5%.env";
    repository = {
      location = "/mnt/my backups/100%";
      passwordFile = "/run/secrets/glove box 5%";
    };
    copies = [
      {
        location = "local:/mnt/a \"quoted\" disk";
        passwordFile = "/run/secrets/glove box 5%";
      }
    ];
  };

  two-copies = beside { postgres.enable_server = true; } {
    onFailure = [ "notify@%n.service" ];
    copies = [
      {
        location = "/mnt/usb/teslamate";
        passwordFile = "/run/secrets/glovebox";
      }
      {
        location = "rclone:drive:me@work/teslamate";
        passwordFile = "/run/secrets/glovebox-drive";
        environmentFile = "/run/secrets/rclone.env";
        options.timeout = "1h";
      }
    ];
  };

  everything-off = beside { postgres.enable_server = true; } {
    repository = { };
    migrations.enable = false;
    timers = {
      backup.enable = false;
      forget.enable = false;
      check.enable = false;
      drill.enable = false;
    };
  };

  everything-set = beside { postgres.enable_server = true; } {
    repository = {
      location = "/home/backup/teslamate";
      passwordFile = "/run/secrets/glovebox";
    };
    extraFiles = [ "/etc/teslamate/settings.env" ];
    migrations = {
      onFailure = "restore";
      requireBackup = false;
    };
    retention = {
      keepLast = 1;
      keepHourly = 2;
      keepDaily = 3;
      keepWeekly = 4;
      keepMonthly = 5;
      keepYearly = 6;
    };
    timers = {
      backup.timerConfig.OnCalendar = "*:0/15";
      check.timerConfig = {
        OnCalendar = [
          "Mon 05:00"
          "Thu 05:00"
        ];
        RandomizedDelaySec = 0;
      };
      drill.enable = false;
    };
    settings = {
      backup = {
        jobs = 2;
        compression = 9;
      };
      restore = {
        keep_previous = 2;
        skip_extensions = [ "pg_cron" ];
      };
      migrations.wait = 60;
      service = {
        stop = [
          "/usr/bin/env"
          "true"
        ];
        start = [
          "/usr/bin/env"
          "true"
        ];
      };
    };
  };

  # Units that other modules set up stay as they are where ours has no say.
  application-with-other-settings =
    let
      base = beside { postgres.enable_server = true; } { };
    in
    base
    // {
      config = base.config // {
        systemd.services.teslamate = {
          unitConfig.ConditionPathExists = [ "/etc/teslamate" ];
          serviceConfig = {
            LoadCredential = [ "own:/run/secrets/own" ];
            TimeoutStartSec = "10min";
          };
        };
      };
    };

  # Another module adds to Glovebox's own units, through the options that NixOS has.
  units-with-other-settings =
    with'
      (beside { postgres.enable_server = true; } {
        copies = [
          {
            location = "/mnt/usb/teslamate";
            passwordFile = "/run/secrets/glovebox";
          }
        ];
      })
      {
        systemd.services.glovebox-backup = {
          description = "Backup";
          onSuccess = [ "ping.service" ];
          startLimitBurst = 30;
          startAt = [ "03:00" ];
          serviceConfig = {
            Nice = 19;
            ReadWritePaths = [ "/srv" ];
          };
        };
        systemd.timers.glovebox-drill.timerConfig.OnCalendar = "yearly";
      };

  own-timers = with' socket (
    { lib, ... }:
    {
      services.glovebox.timers = {
        backup.timerConfig = lib.mkForce { OnCalendar = "daily"; };
        check.timerConfig.RandomizedDelaySec = null;
        drill.timerConfig = {
          OnCalendar = null;
          OnBootSec = "1h";
        };
      };
    }
  );

  # What else the application begins with, in the order in which it runs.
  further-steps = beside { postgres.enable_server = true; } {
    migrations = {
      stepsBefore = [ "/nix/store/wait-for-disk" ];
      stepsAfter = [ "-/nix/store/tell" ];
    };
  };

  # A step of another module is left out on purpose; the guard stays.
  step-left-out = with' socket (
    { lib, ... }:
    unitOf {
      serviceConfig = lib.mkMerge [
        { ExecStartPre = [ "/nix/store/own-step" ]; }
        { ExecStartPre = lib.mkForce [ ]; }
      ];
    }
  );

  # A drill beside the live database and a restore would fail.
  small-role = {
    config.services = {
      postgresql = {
        enable = true;
        ensureUsers = [
          {
            name = "teslamate";
            ensureDBOwnership = true;
            ensureClauses.createdb = true;
          }
        ];
      };
      glovebox = minimal.services.glovebox;
    };
  };
}
// import ./refused.nix {
  inherit
    beside
    minimal
    socket
    unitOf
    with'
    ;
}
