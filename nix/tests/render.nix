# A configuration as the files that NixOS makes of it: units as systemd reads them, config.toml, and the rest in a list. What
# TeslaMate's module makes beside its unit is left out: its scripts, and what it adds to PostgreSQL's setup.
{ lib }:
let
  text =
    value:
    if value == true then
      "true"
    else if value == false then
      "false"
    else
      toString value;

  setting = name: value: lib.concatStrings (map (one: "${name}=${text one}\n") (lib.toList value));
  settings = attrs: lib.concatStrings (lib.mapAttrsToList setting attrs);

  unitSection = unit: "[Unit]\n" + settings unit.unitConfig;
  installSection =
    unit:
    lib.optionalString (
      unit.wantedBy != [ ]
    ) "\n[Install]\n${setting "WantedBy" (lib.concatStringsSep " " unit.wantedBy)}";

  service =
    unit:
    unitSection unit
    + "\n[Service]\n"
    + lib.concatStrings (
      # As NixOS quotes them; systemd unquotes the same way.
      lib.mapAttrsToList (
        name: value: "Environment=${builtins.toJSON "${name}=${value}"}\n"
      ) unit.environment
    )
    + lib.optionalString (unit.path != [ ]) (
      "Environment="
      + builtins.toJSON "PATH=${lib.concatStringsSep ":" (map (package: "${package}/bin") unit.path)}"
      + "\n"
    )
    + lib.optionalString (!unit.restartIfChanged) "X-RestartIfChanged=false\n"
    + settings unit.serviceConfig
    + installSection unit;

  timer = unit: unitSection unit + "\n[Timer]\n" + settings unit.timerConfig + installSection unit;

  # What is not a file of its own.
  rest =
    config:
    let
      lines =
        map (
          package:
          "package: ${package} (priority ${toString (package.priority or package.meta.priority or "normal")})"
        ) (lib.filter (package: package.name != "teslamate-scripts") config.environment.systemPackages)
        ++ map (check: "check: ${check.name}\n${lib.removeSuffix "\n" check.script}") config.system.checks
        ++ lib.mapAttrsToList (name: user: "account: ${name} ${builtins.toJSON user}") config.users.users
        ++ lib.mapAttrsToList (name: _: "group: ${name}") config.users.groups
        ++ lib.mapAttrsToList (
          name: value: "postgresql.conf: ${name} = ${text value}"
        ) config.services.postgresql.settings;
    in
    lib.concatStrings (map (line: "${line}\n") lines);

  named =
    suffix: render: units:
    lib.mapAttrs' (name: unit: lib.nameValuePair "${name}.${suffix}" (render unit)) units;
in
{
  files =
    config:
    named "service" service (removeAttrs config.systemd.services [ "postgresql-setup" ])
    // named "timer" timer config.systemd.timers
    // lib.mapAttrs' (
      name: file: lib.nameValuePair (baseNameOf name) file.source.text
    ) config.environment.etc
    // lib.optionalAttrs (config.systemd.tmpfiles.rules != [ ]) {
      "tmpfiles.conf" = lib.concatStrings (map (line: "${line}\n") config.systemd.tmpfiles.rules);
    }
    // lib.optionalAttrs (rest config != "") { "system.txt" = rest config; }
    // lib.optionalAttrs (config.warnings != [ ]) {
      "warnings.txt" = lib.concatStringsSep "\n\n" config.warnings + "\n";
    };
  inherit service settings timer;
}
