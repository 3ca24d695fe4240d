# What flake.nix offers, as a list: it is called with stand-ins for nixpkgs, because neither a network nor a builder is
# there to make anything of it; and the scripts of the VM tests, so that a mistake in one shows without a VM.
{ lib }:
let
  # The package's own definition, with what it asks of nixpkgs as it is asked for.
  package = import ../package.nix {
    lib = lib // {
      cleanSourceWith = source: source;
      importTOML = file: builtins.fromTOML (builtins.readFile file);
      licenses.mit = "MIT";
      platforms.linux = [ "linux" ];
    };
    stdenv = {
      buildPlatform.canExecute = _: true;
      hostPlatform = { };
    };
    rustPlatform.buildRustPackage = definition: definition;
    installShellFiles = "installShellFiles";
  };
  isIn = name: package.src.filter (toString ../.. + "/${name}") "regular";
  sources = lib.filter isIn [
    "Cargo.lock"
    "Cargo.toml"
    "README.md"
    "benches/backup.rs"
    "docs/nixos.md"
    "nix/package.nix"
    "src"
    "src/lib.rs"
    "target"
    "tests"
    "tests/fixtures/data.sql"
    "tests/fuzz"
    "tests/integration/main.rs"
  ];

  # Whatever a function of ours asks of nixpkgs is a name.
  callPackage =
    file: _: "from ${lib.concatStringsSep ", " (lib.attrNames (builtins.functionArgs (import file)))}";
  system = name: {
    inherit callPackage lib;
    bubblewrap = "";
    diffutils = "";
    nix = "";
    nixfmt = "";
    nixfmt-tree = "nixfmt-tree";
    path = "/nixpkgs";
    python3 = "";
    runCommand =
      name: _: _:
      name;
    systemd = "";
    testers.runNixOSTest = test: test.name;
  };
  self = {
    outPath = "/glovebox";
    nixosModules.default = { };
  };
  outputs = (import ../../flake.nix).outputs {
    inherit self;
    nixpkgs = {
      inherit lib;
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] system;
    };
  };
  overlay = outputs.overlays.default { inherit callPackage; } { };

  leaves =
    path: value:
    if builtins.isAttrs value then
      lib.concatLists (lib.mapAttrsToList (name: leaves "${path}.${name}") value)
    else
      [ "${path}: ${if builtins.isPath value then baseNameOf value else value}\n" ];

  script =
    test:
    let
      body = test.testScript;
    in
    if builtins.isFunction body then
      body { nodes.machine.system.build.toplevel = "/run/current-system"; }
    else
      body;
  vmTests = [
    "backup-by-timer"
    "migrations"
    "restore"
    "without-teslamate-module"
  ];
in
{
  files = {
    "outputs.txt" = lib.concatStrings (
      lib.concatLists (
        lib.mapAttrsToList leaves (
          {
            inherit (outputs)
              checks
              devShells
              formatter
              nixosModules
              packages
              ;
          }
          // {
            overlays.default = overlay;
          }
        )
      )
    );
  }
  // {
    "package.txt" =
      lib.concatStringsSep "\n" [
        "${package.pname} ${package.version}: ${package.meta.description} (${package.meta.license})"
        "main program: ${package.meta.mainProgram}"
        "tests: ${lib.concatStringsSep " " package.cargoTestFlags}"
        "of these, in its source: ${lib.concatStringsSep ", " sources}"
        package.postInstall
      ]
      + "\n";
  };

  scripts = lib.listToAttrs (
    map (
      name:
      lib.nameValuePair "vm-${name}.py" (script (import (../vm-tests + "/${name}.nix") { inherit self; }))
    ) vmTests
  );
}
