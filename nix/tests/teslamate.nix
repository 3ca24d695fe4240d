# What TeslaMate's own module has that ours reads or replaces: its options, its account, its unit. Used by the evaluation
# tests and by a VM test, where the program is a stand-in as well.
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
in
{
  options.services.teslamate = {
    enable = lib.mkEnableOption "the stand-in for TeslaMate";
    secretsFile = mkOption { type = types.str; };
    program = mkOption {
      type = types.str;
      default = "${pkgs.teslamate}/bin/teslamate";
    };
    postgres = {
      enable_server = mkOption {
        type = types.bool;
        default = false;
      };
      user = text "teslamate";
      database = text "teslamate";
      host = text "127.0.0.1";
      port = mkOption {
        type = types.port;
        default = 5432;
      };
    };
  };

  config = lib.mkIf cfg.enable {
    users.users.teslamate = {
      isSystemUser = true;
      group = "teslamate";
    };
    users.groups.teslamate = { };
    services.postgresql.enable = lib.mkIf cfg.postgres.enable_server true;
    systemd.services.teslamate = {
      description = "TeslaMate";
      after = [
        "network.target"
        "postgresql.service"
      ];
      wantedBy = [ "multi-user.target" ];
      environment = {
        DATABASE_HOST = cfg.postgres.host;
        DATABASE_NAME = cfg.postgres.database;
        DATABASE_USER = cfg.postgres.user;
      }
      // lib.optionalAttrs (cfg.postgres.enable_server && cfg.postgres.user == "teslamate") {
        DATABASE_SOCKET_DIR = "/run/postgresql";
      };
      serviceConfig = {
        User = "teslamate";
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
