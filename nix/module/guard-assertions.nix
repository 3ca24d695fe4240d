# What must hold of the application's unit, however many modules define it: the guard is in it, and nothing that somebody
# wrote is lost without a word.
{
  config,
  lib,
  options,
  # Reaches only a module that names it, and the parts below take it from here.
  pkgs,
  ...
}@args:
let
  context = import ./context.nix args;
  inherit (context) cfg guard unitName;

  option = name: "services.glovebox.${name}";
  unit = "systemd.services.${unitName}";

  application = config.systemd.services.${unitName} or { serviceConfig = { }; };
  applicationUser = application.serviceConfig.User or "root";
  steps = lib.toList (application.serviceConfig.ExecStartPre or [ ]);

  # Definitions of an option before they are merged, without the conditions that do not hold, each with its priority.
  decided =
    value:
    let
      kind = if builtins.isAttrs value then value._type or null else null;
    in
    if kind == "if" then
      lib.optionals value.condition (decided value.content)
    else if kind == "merge" then
      lib.concatMap decided value.contents
    else if kind == "override" then
      map (definition: definition // { inherit (value) priority; }) (decided value.content)
    else if kind == "order" then
      decided value.content
    else
      [
        {
          inherit value;
          priority = 100;
        }
      ];
  below =
    name:
    lib.concatMap (
      { value, ... }: if builtins.isAttrs value && value ? ${name} then decided value.${name} else [ ]
    );
  # The steps that anybody else defined, whatever became of them.
  others = lib.filter ({ value, ... }: value != ours) (
    below "ExecStartPre" (
      below "serviceConfig" (below unitName (lib.concatMap decided options.systemd.services.definitions))
    )
  );
  # With `lib.mkForce`, somebody says which of them there are.
  isChosen = lib.any ({ priority, ... }: priority <= 50) others;

  # The application's own call, which the guard replaces.
  ownMigration = step: builtins.match ".*Release[.]migrate.*" (toString step) != null;
  ours = cfg.migrations.stepsBefore ++ [ guard ] ++ cfg.migrations.stepsAfter;
  lost = lib.optionals (!isChosen) (
    lib.filter (step: !lib.elem step steps && !ownMigration step) (
      lib.concatMap ({ value, ... }: lib.toList value) others
    )
  );
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion =
          cfg.migrations.enable -> applicationUser == "root" || applicationUser == cfg.database.osUser;
        message = ''
          ${cfg.service.unit} runs as ${applicationUser}, Glovebox as ${cfg.database.osUser}, and a migration needs the
          repository and the state directory, which belong to the latter.

          Set ${option "database.osUser"} to "${applicationUser}", or ${option "migrations.enable"} to false.'';
      }
      {
        assertion = cfg.migrations.enable || cfg.service.hold -> application.serviceConfig ? ExecStart;
        message = ''
          ${option "migrations.enable"} or ${option "service.hold"} is set, but this configuration has no unit ${cfg.service.unit} to guard.

          Name the application's unit in ${option "service.unit"}, or switch both off.'';
      }
      {
        assertion = cfg.migrations.enable -> cfg.service.executable != null;
        message = ''
          ${option "service.executable"} is not set, and migrations are run by the application's own program.

          Name it, or switch ${option "migrations.enable"} off.'';
      }
      {
        assertion = cfg.migrations.enable -> lib.elem guard steps;
        message = ''
          ${unit}.serviceConfig.ExecStartPre is set elsewhere, and the guard is not in it: migrations would run without a backup.

          Take that definition out, and put its steps into ${option "migrations.stepsBefore"} or stepsAfter; or set
          ${option "migrations.enable"} to false.'';
      }
      {
        assertion = cfg.migrations.enable -> !lib.any ownMigration steps;
        message = ''
          ${unit}.serviceConfig.ExecStartPre migrates by itself beside the guard, so migrations would run without a backup.

          Take the call of Release.migrate out.'';
      }
      {
        assertion = cfg.migrations.enable -> lost == [ ];
        message = ''
          ${unit}.serviceConfig.ExecStartPre has steps that the guard replaces, so they would not run:
          ${lib.concatStringsSep ", " (map toString lost)}

          Put them into ${option "migrations.stepsBefore"} or stepsAfter; to do without them, set ExecStartPre to lib.mkForce [ ].'';
      }
      {
        assertion = cfg.migrations.enable -> application.preStart or "" == "";
        message = ''
          ${unit}.preStart is set, and the guard takes its place, so it would not run.

          Put it into ${option "migrations.stepsBefore"} or stepsAfter, as "''${pkgs.writeShellScript "before-start" "…"}", and set
          preStart to lib.mkForce "" if another module defines it.'';
      }
      {
        assertion =
          cfg.service.hold
          -> lib.elem context.holdCondition (lib.toList (application.unitConfig.ConditionPathExists or [ ]));
        message = ''
          ${unit}.unitConfig.ConditionPathExists is set elsewhere in place of ours, so the application could start in the middle of a restore.

          Add to it instead of forcing it; or set ${option "service.hold"} to false.'';
      }
    ];
  };
}
