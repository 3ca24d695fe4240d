# A stand-in for TeslaMate's own module: the options that ours reads, and a unit like the one that it makes.
#
# With TESLAMATE_SOURCE, nix/tests/run evaluates the cases with the real module as well, and wants the same files.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.teslamate;
  text =
    default:
    mkOption {
      type = types.str;
      inherit default;
    };
  port =
    default:
    mkOption {
      type = types.port;
      inherit default;
    };
in
{
  options.services.teslamate = {
    enable = lib.mkEnableOption "the stand-in for TeslaMate";
    secretsFile = mkOption { type = types.str; };
    # Not in the real module, where it is the package of its flake.
    program = mkOption {
      type = types.str;
      default = "${pkgs.teslamate}/bin/teslamate";
    };
    autoStart = mkOption {
      type = types.bool;
      default = true;
    };
    port = port 4000;
    virtualHost = text "localhost";
    urlPath = text "/";
    postgres = {
      enable_server = mkOption {
        type = types.bool;
        default = false;
      };
      package = mkOption {
        type = types.package;
        default = pkgs.postgresql_17;
      };
      user = text "teslamate";
      database = text "teslamate";
      host = text "127.0.0.1";
      port = port 5432;
    };
  };

  config = lib.mkIf cfg.enable {
    users.users.teslamate = {
      isSystemUser = true;
      group = "teslamate";
      home = "/var/lib/teslamate";
      createHome = true;
    };
    users.groups.teslamate = { };
    services.postgresql = lib.mkIf cfg.postgres.enable_server {
      enable = true;
      inherit (cfg.postgres) package;
      settings.port = cfg.postgres.port;
      ensureDatabases = [ cfg.postgres.database ];
      ensureUsers = [
        {
          name = cfg.postgres.user;
          ensureDBOwnership = cfg.postgres.user == cfg.postgres.database;
          # For the extensions that its migrations make.
          ensureClauses.superuser = true;
        }
      ];
    };
    systemd.services.teslamate = {
      description = "TeslaMate";
      after = [
        "network.target"
        "postgresql.service"
        "postgresql-setup.service"
        "mosquitto.service"
      ];
      wantedBy = lib.mkIf cfg.autoStart [ "multi-user.target" ];
      environment = {
        DATABASE_HOST = cfg.postgres.host;
        DATABASE_NAME = cfg.postgres.database;
        DATABASE_PORT = toString cfg.postgres.port;
        DATABASE_USER = cfg.postgres.user;
        DISABLE_MQTT = "true";
        PORT = toString cfg.port;
        URL_PATH = cfg.urlPath;
        VIRTUAL_HOST = cfg.virtualHost;
      }
      // lib.optionalAttrs (cfg.postgres.enable_server && cfg.postgres.user == "teslamate") {
        DATABASE_SOCKET_DIR = "/run/postgresql";
      };
      serviceConfig = {
        User = "teslamate";
        WorkingDirectory = "/var/lib/teslamate";
        Restart = "on-failure";
        RestartSec = 5;
        ExecStartPre = ''${cfg.program} eval "TeslaMate.Release.migrate"'';
        ExecStart = "${cfg.program} start";
        ExecStop = "${cfg.program} stop";
        EnvironmentFile = cfg.secretsFile;
      };
    };
  };
}
