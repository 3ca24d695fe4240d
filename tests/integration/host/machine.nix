# The machine of the tests on a real systemd: everything as the module makes it, with what it cannot know about the host.
{
  teslamate = true;
  postgresql = "17.6";
  config.services = {
    teslamate = {
      enable = true;
      secretsFile = "/etc/secrets/teslamate.env";
      postgres.enable_server = true;
    };
    glovebox = {
      enable = true;
      repository.passwordFile = "/etc/secrets/glovebox";
      settings.backup.chunk_blocks = 16;
      onFailure = [ "told.service" ];
    };
  };
}
