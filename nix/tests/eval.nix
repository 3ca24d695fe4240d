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
  };

  # What the module takes from nixpkgs. Derivations are only named.
  pkgs = {
    callPackage = _: _: fakePackage "0" package;
    openssh = fakePackage "10" "/nix/store/openssh";
    postgresql = fakePackage "17.9" "/nix/store/postgresql";
    rclone = fakePackage "1" "/nix/store/rclone";
    teslamate = fakePackage "4" teslamate;
    stdenv = {
      buildPlatform.canExecute = _: true;
      hostPlatform = { };
    };
    writeText = name: text: {
      inherit name text;
      outPath = "/nix/store/${name}";
    };
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
      result = lib.evalModules {
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
                lib.mkDefault (fakePackage postgresql server)
              );
            }
          )
          config
        ]
        ++ lib.optional teslamate ./teslamate.nix;
      };
      messages = map (entry: entry.message) (
        lib.filter (entry: !entry.assertion) result.config.assertions
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
    + stream (under "flake" flake.files);
  # The scripts of the VM tests.
  scripts = stream flake.scripts;
  # The one that was given as an argument.
  case = stream (evaluate case).files;

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
