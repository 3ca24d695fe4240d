# What works for now, and will not on the day that it is needed.
{
  config,
  lib,
  # Reaches only a module that names it, and the parts below take it from here.
  pkgs,
  ...
}@args:
let
  context = import ./context.nix args;
  inherit (context) cfg;

  # Roles that this configuration makes on the server that the database is on.
  roles = lib.optionals context.serverIsOurs (
    lib.filter (role: role.name == cfg.database.user) config.services.postgresql.ensureUsers
  );
  isSuperuser = lib.any (role: (role.ensureClauses.superuser or null) == true) roles;
in
{
  config = lib.mkIf cfg.enable {
    # CREATEDB alone is not enough: cube may be made by who owns a database, earthdistance may not.
    warnings = lib.optional (cfg.timers.drill.enable && roles != [ ] && !isSuperuser) ''
      services.postgresql.ensureUsers makes the role "${cfg.database.user}" without ensureClauses.superuser. TeslaMate's extension
      earthdistance can be made by a superuser only, so a restore fails, and so does a drill beside the live database; a drill in
      a private server does not need it.

      Set ensureClauses.superuser = true, as TeslaMate's own module does. A role that is meant to stay small cannot restore: switch
      services.glovebox.timers.drill.enable off to be rid of this warning.'';
  };
}
