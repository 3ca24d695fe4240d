# Evaluates the cases: to the files of a machine's configuration, as text.
#
#   nix-instantiate --eval --strict --json nix/tests/eval.nix -A cases.minimal
{
  # nixpkgs' `lib`, or the stand-in.
  lib ? import ./lib.nix,
  # Where the programs of Glovebox, PostgreSQL and TeslaMate are, in what comes out.
  package ? "/nix/store/glovebox",
  postgresql ? "/nix/store/postgresql-server",
  teslamate ? "/nix/store/teslamate",
  # TeslaMate's own module in place of the stand-in: its path. It wants nixpkgs' `lib`.
  teslamateModule ? null,
  # Parts of configurations from the docs: their paths.
  samples ? [ ],
  # One more configuration, in the form of those in cases.nix.
  case ? null,
}:
let
  render = import ./render.nix { inherit lib; };

  fakePackage = version: path: {
    type = "derivation";
    name = baseNameOf path;
    outPath = path;
    inherit version;
    meta.mainProgram = baseNameOf path;
  };

  # What the modules take from nixpkgs, with a server of this version. Derivations are only named.
  pkgsWith = version: {
    callPackage =
      file: _:
      if baseNameOf file == "package.nix" then
        fakePackage "0" package
      else
        fakePackage "0" "/nix/store/teslamate-scripts";
    openssh = fakePackage "10" "/nix/store/openssh";
    postgresql = fakePackage "17.9" "/nix/store/postgresql";
    postgresql_17 = fakePackage version server;
    postgresql_18 = fakePackage "18.4" "/nix/store/postgresql-18";
    rclone = fakePackage "1" "/nix/store/rclone";
    teslamate = fakePackage "4" teslamate;
    stdenv = {
      buildPlatform.canExecute = _: true;
      hostPlatform.system = "x86_64-linux";
    };
    formats.toml = _: {
      type = lib.types.attrsOf lib.types.anything // {
        description = "TOML value";
      };
      generate = name: value: {
        inherit name;
        text = import ./toml.nix { inherit lib; } value;
        outPath = "/nix/store/${name}";
      };
    };
    util-linux = fakePackage "2" "/nix/store/util-linux";
    writeShellScript = name: _: "/nix/store/${name}";
    runCommand = name: _: script: {
      inherit name script;
    };
  };

  server = postgresql;
  evaluate =
    {
      config,
      teslamate ? false,
      postgresql ? "17.9",
      fails ? false,
    }:
    let
      pkgs = pkgsWith postgresql;
      result = lib.evalModules {
        # TeslaMate's module still marks its descriptions, as nixpkgs' lib does not any more.
        specialArgs = lib.optionalAttrs (teslamateModule != null) {
          lib = lib // {
            mdDoc = text: text;
          };
        };
        modules = [
          # The way NixOS does it.
          { _module.args = { inherit pkgs; }; }
          ./nixos.nix
          ../module.nix
          (
            { config, ... }:
            {
              # As with NixOS: without a server there is no value, and nothing may ask for it.
              services.postgresql.package = lib.mkIf config.services.postgresql.enable (
                lib.mkDefault pkgs.postgresql_17
              );
            }
          )
          config
        ]
        ++ lib.optionals teslamate (
          if teslamateModule == null then
            [ ./teslamate.nix ]
          else
            import ./teslamate-real.nix teslamateModule pkgs.teslamate
        );
      };
      # TeslaMate's module has a word of its own for some of them.
      messages = lib.filter (message: !lib.hasPrefix "services.teslamate." message) (
        map (entry: entry.message) (lib.filter (entry: !entry.assertion) result.config.assertions)
      );
      files = render.files result.config;
    in
    {
      inherit (result) config options;
      # A configuration that is refused has no files: NixOS makes none of it.
      files =
        if messages == [ ] then
          if fails then
            { "accepted.txt" = "This configuration should have been refused.\n"; }
          else if files == { } then
            { "nothing.txt" = "Nothing comes of this configuration.\n"; }
          else
            files
        else
          {
            "refused.txt" =
              lib.concatStringsSep "\n\n" (map (message: "- ${lib.removeSuffix "\n" message}") messages) + "\n";
          };
    };

  # Which settings of our units are a conflict when another module of the machine sets them too. Most can be set otherwise.
  conflicts =
    let
      base = (import ./cases.nix).two-copies;
      name = "glovebox-copy";
      unitOf = case: (evaluate case).config.systemd.services.${name};
      with' =
        definition:
        unitOf (
          base
          // {
            config.imports = [
              base.config
              { systemd.services.${name} = definition; }
            ];
          }
        );
      options = {
        description = "other";
        restartIfChanged = true;
        startLimitBurst = 1;
        startLimitIntervalSec = 1;
        onFailure = [ "other.service" ];
        onSuccess = [ "other.service" ];
      };
      withOptions = with' options;
      withSettings = with' {
        serviceConfig = lib.mapAttrs (
          _: value: if builtins.isList value then value else "other"
        ) (unitOf base).serviceConfig;
      };
      evaluates = value: (builtins.tryEval (builtins.deepSeq value true)).success;
      refused = set: lib.filter (setting: !evaluates set.${setting}) (lib.attrNames set);
    in
    {
      "conflicts.txt" = lib.concatStrings (
        map (setting: "${setting}\n") (
          refused withSettings.serviceConfig
          ++ refused (lib.intersectAttrs options withOptions)
          ++ refused withOptions.unitConfig
        )
      );
    };

  flake = import ./flake.nix { inherit lib; };

  # One text for all files: nix-instantiate prints it, and a shell takes it apart again (write_files of common.sh).
  stream = files: lib.concatStrings (lib.mapAttrsToList (name: text: "=> ${name}\n${text}") files);
  under = prefix: lib.mapAttrs' (name: text: lib.nameValuePair "${prefix}/${name}" text);
in
{
  # Every case, each in a directory of its name, and the flake.
  cases =
    lib.concatStrings (
      lib.mapAttrsToList (name: case: stream (under name (evaluate case).files)) (import ./cases.nix)
    )
    + stream (under "flake" (flake.files // conflicts));
  # The scripts of the VM tests.
  scripts = stream flake.scripts;
  # The one that was given as an argument.
  case = stream (evaluate case).files;

  # Those from the docs: what is wrong with them.
  samples = lib.concatStrings (
    map (
      sample:
      let
        inherit
          (evaluate {
            config.imports = [
              ./samples.nix
              sample
            ];
          })
          files
          ;
      in
      lib.optionalString (files ? "refused.txt") "=> ${baseNameOf sample}.txt\n${files."refused.txt"}"
    ) samples
  );

  # What is generated for people: the reference of options, the units for other distributions.
  docs = stream (
    {
      "nixos-options.md" = import ./docs.nix {
        inherit lib;
        options = (evaluate { config = { }; }).options.services.glovebox;
      };
    }
    // under "systemd" (import ./generic.nix { inherit evaluate lib render; })
  );

  # For the check that the module knows every setting of the programs, and no other.
  settings =
    let
      known = import ../module/settings.nix {
        inherit lib;
        config = { };
        options = { };
      };
    in
    lib.concatStringsSep " " (
      known.free ++ lib.attrNames known.options ++ known.secrets ++ known.fixed
    );
}
